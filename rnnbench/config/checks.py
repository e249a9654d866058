"""Refuses a configuration that cannot be run, before anything slow is imported or anything is made.

Each part checks its own values (`Model.check`, `Optim.check`, ...); here is what needs more than one part.
"""

from dataclasses import is_dataclass
from typing import Any

from rnnbench.config.metrics import METRICS, final_metrics, objective
from rnnbench.config.optimisers import OPTIMISERS
from rnnbench.config.refusals import at_least, finite, positive, refuse
from rnnbench.config.schema import DATA, Arrays, Config, Data, Generated, Images, Language, Select
from rnnbench.config.secrets import check_tree


def _check_whole(tree: Any, prefix: str) -> None:
    """Refuse whole numbers that no tensor, and no store of records, has room for."""
    for key, value in vars(tree).items():
        name = f"{prefix}{key}"
        if is_dataclass(value):
            _check_whole(value, f"{name}.")
        elif isinstance(value, int) and abs(value) >= 2**63:
            refuse(name, value, "must be below 2**63")


def check(config: Config) -> None:
    """Refuse what cannot be run.

    Raises:
        ConfigError: names the key, the value and what would be accepted.
    """
    for part, content in vars(config).items():
        for key, value in vars(content).items() if is_dataclass(content) else [("", content)]:
            if isinstance(value, str | dict):
                check_tree(value, f"{part}.{key}".rstrip("."))
    _check_whole(config, "")
    optim = config.optim
    if optim.name != type(optim).name:
        refuse("optim.name", optim.name, f"choose with optim=NAME, one of {', '.join(OPTIMISERS)}")
    if config.seed < 0:
        refuse("seed", config.seed, "must be a whole number of at least 0")
    config.model.check()
    optim.check()
    _check_data(config.data)
    config.fit.check()
    if config.fit.select is Select.val and config.data.val_size == 0:
        refuse(
            "data.val_size", 0, "the best epoch is chosen on validation; use at least 1, or fit.select=test"
        )
    known = final_metrics(config)
    if objective(config) not in known:
        refuse("objective", config.objective, f"must be a metric that is recorded: {', '.join(known)}")
    config.tracking.check()


def _check_data(data: Data) -> None:
    kind = DATA.get(data.name, Data)
    if type(data) is not kind:
        refuse("data.name", data.name, f"choose with data=NAME, one of {', '.join(DATA)}, or own")
    if data.metric not in METRICS:
        refuse("data.metric", data.metric, f"must be one of {', '.join(METRICS)}")
    if not 0 <= data.split_seed < 2**32:
        refuse("data.split_seed", data.split_seed, "must be at least 0 and below 2**32")
    at_least(0, ("data.val_size", data.val_size))
    at_least(1, ("data.train_size", data.train_size))
    for key in ("steps", "test_size", "longest", "per_length", "window", "delay"):
        at_least(1, (f"data.{key}", getattr(data, key, None)))
    if isinstance(data, Images | Arrays):
        positive(("data.std", data.std))
        finite(("data.mean", data.mean))
    if isinstance(data, Images) and data.fill is not None and data.delay is None:
        refuse("data.fill", data.fill, "fills the steps of data.delay, and there are none")
    if isinstance(data, Language) and data.test_longest <= data.longest:
        refuse("data.test_longest", data.test_longest, f"must be above data.longest={data.longest}: "
               "the words of the test are longer than those of training")  # fmt: skip
    if isinstance(data, Generated) and not data.low < 1:
        refuse("data.low", data.low, "must be below 1")
