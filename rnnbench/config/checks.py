"""Refuses a configuration that cannot be run, before anything slow is imported or anything is made.

Each part checks its own values (`Model.check`, `Optim.check`, ...); here is what needs more than one part.
"""

from dataclasses import is_dataclass
from typing import Any

from rnnbench.config.metrics import final_metrics, objective
from rnnbench.config.optimisers import OPTIMISERS
from rnnbench.config.refusals import refuse
from rnnbench.config.schema import DATA, Config, Data, Select
from rnnbench.config.secrets import check_tree


def _check_whole(tree: Any, prefix: str) -> None:
    """Refuse whole numbers that are too large for a tensor or for a store of records."""
    for key, value in vars(tree).items():
        name = f"{prefix}{key}"
        if is_dataclass(value):
            _check_whole(value, f"{name}.")
        elif isinstance(value, int) and abs(value) >= 2**63:
            refuse(name, value, "must be below 2**63")


def check(config: Config) -> None:
    """Refuse a configuration that cannot be run.

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
    own = data.name not in DATA and type(data) not in DATA.values()  # then `own_code` checks the class
    if not own and type(data) is not DATA.get(data.name):
        refuse("data.name", data.name, f"choose with data=NAME, one of {', '.join(DATA)}, or own")
    data.check()
