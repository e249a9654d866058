"""What cannot be run is refused here, before anything slow is imported or anything is made."""

import math
from dataclasses import is_dataclass
from typing import Any
from urllib.parse import urlsplit

from rnnbench.config.metrics import METRICS, final_metrics, objective
from rnnbench.config.refusals import at_least, finite, positive, refuse, share
from rnnbench.config.schema import (
    DATA,
    OPTIMISERS,
    Adam,
    Arrays,
    Config,
    Data,
    Generated,
    Images,
    Kernel,
    Language,
    Nonlinearity,
    RMSprop,
    Select,
    Sgd,
)
from rnnbench.config.secrets import check_secret, check_tree


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
    model, optim, data, fit = config.model, config.optim, config.data, config.fit
    if type(optim) is not OPTIMISERS.get(optim.name):
        refuse("optim.name", optim.name, f"choose with optim=NAME, one of {', '.join(OPTIMISERS)}")
    at_least(
        1,
        ("model.hidden_size", model.hidden_size),
        ("model.num_layers", model.num_layers),
        ("model.budget", model.budget),
        ("data.train_size", data.train_size),
        ("fit.epochs", fit.epochs),
        ("fit.steps_per_epoch", fit.steps_per_epoch),
        ("fit.batch_size", fit.batch_size),
        ("fit.patience", fit.patience),
        ("fit.decay_every", fit.decay_every),
        ("fit.decay_patience", fit.decay_patience),
        ("fit.evaluate_every", fit.evaluate_every),
        ("fit.checkpoint_every", fit.checkpoint_every),
    )
    at_least(
        0,
        ("data.val_size", data.val_size),
        ("fit.warmup", fit.warmup),
        ("seed", config.seed),
    )
    positive(
        ("optim.lr", optim.lr), ("fit.clip", fit.clip), ("fit.decay", fit.decay),
    )  # fmt: skip
    _check_data(data)
    share(("model.dropout", model.dropout))
    if not (optim.weight_decay >= 0 and math.isfinite(optim.weight_decay)):
        refuse("optim.weight_decay", optim.weight_decay, "must be a finite number of at least 0")
    if isinstance(optim, (Sgd, RMSprop)):
        share(("optim.momentum", optim.momentum))
    if isinstance(optim, Sgd) and optim.nesterov and optim.momentum == 0:
        refuse("optim.nesterov", "true", "needs optim.momentum above 0")
    if isinstance(optim, Adam):
        share(("optim.beta1", optim.beta1), ("optim.beta2", optim.beta2))
    if isinstance(optim, (Adam, RMSprop)):
        positive(("optim.eps", optim.eps))
    if isinstance(optim, RMSprop):
        share(("optim.alpha", optim.alpha))
    if model.dropout and model.num_layers == 1:
        refuse("model.dropout", model.dropout, "acts between layers: needs model.num_layers above 1")
    if model.nonlinearity is not Nonlinearity.tanh and model.name != "rnn":
        refuse("model.nonlinearity", model.nonlinearity, f"only model=rnn has a choice, not {model.name}")
    finite(("model.forget_bias", model.forget_bias))
    share(("model.recurrent_dropout", model.recurrent_dropout), ("model.zoneout", model.zoneout))
    positive(("model.weight_noise", model.weight_noise))
    if fit.select is Select.val and data.val_size == 0:
        refuse(
            "data.val_size", 0, "the best epoch is chosen on validation; use at least 1, or fit.select=test"
        )
    if fit.device != "cpu" and fit.device.split(":")[0] != "cuda":
        refuse("fit.device", fit.device, "must be cpu, cuda or cuda:N")
    if fit.kernel is Kernel.cudnn and fit.device == "cpu":
        refuse("fit.kernel", fit.kernel, "needs fit.device=cuda")
    if fit.kernel is Kernel.compiled and fit.device != "cpu":
        refuse("fit.kernel", fit.kernel, "needs fit.device=cpu")
    known = final_metrics(config)
    if objective(config) not in known:
        refuse("objective", config.objective, f"must be a metric that is recorded: {', '.join(known)}")
    if config.tracking.uri is not None:
        check_uri(config.tracking.uri)
    _check_experiment(config.tracking.experiment)


def _check_data(data: Data) -> None:
    kind = DATA.get(data.name, Data)
    if type(data) is not kind:
        refuse("data.name", data.name, f"choose with data=NAME, one of {', '.join(DATA)}, or own")
    if data.metric not in METRICS:
        refuse("data.metric", data.metric, f"must be one of {', '.join(METRICS)}")
    if not 0 <= data.split_seed < 2**32:
        refuse("data.split_seed", data.split_seed, "must be at least 0 and below 2**32")
    for key in ("steps", "test_size", "longest", "per_length", "window", "delay"):
        at_least(1, (f"data.{key}", getattr(data, key, None)))
    if isinstance(data, Images | Arrays):
        positive(("data.std", data.std))
        if not math.isfinite(data.mean):
            refuse("data.mean", data.mean, "must be a finite number")
    if isinstance(data, Images) and data.fill is not None and data.delay is None:
        refuse("data.fill", data.fill, "fills the steps of data.delay, and there are none")
    if isinstance(data, Language) and data.test_longest <= data.longest:
        refuse("data.test_longest", data.test_longest, f"must be above data.longest={data.longest}: "
               "the words of the test are longer than those of training")  # fmt: skip
    if isinstance(data, Generated) and not data.low < 1:
        refuse("data.low", data.low, "must be below 1")


SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")


def check_uri(uri: str, key: str = "tracking.uri") -> None:
    """Refuse what is not the URI of an MLflow store.

    Raises:
        ConfigError: names the key.
    """
    check_secret(key, uri)
    url = urlsplit(uri)
    scheme = url.scheme.split("+")[0]
    wanted = f"must be a URI that starts with one of {', '.join(s + '://' for s in SCHEMES)}"
    if scheme not in SCHEMES or not uri.startswith(f"{url.scheme}://"):
        refuse(key, uri, f"{wanted}, for example sqlite:///mlflow.db; null for none")
    if scheme in ("http", "https") and not url.hostname:
        refuse(key, uri, "names no host, for example http://localhost:5000")
    if scheme == "sqlite" and (url.netloc or not url.path.strip("/")):
        refuse(key, uri, "names no file, for example sqlite:///mlflow.db (three slashes)")


EXPERIMENT_CHARS = 256  # that MLflow's tables have for the name of an experiment


def _check_experiment(name: str) -> None:
    if not name.strip() or len(name) > EXPERIMENT_CHARS:
        wanted = f"must have 1 to {EXPERIMENT_CHARS} characters"
        refuse("tracking.experiment", f"{name[:40]}..." if name.strip() else name, wanted)
    if not name.isprintable():  # NUL, which PostgreSQL does not take, lines, bytes that are no text
        refuse("tracking.experiment", ascii(name), "must be of characters that can be printed")
