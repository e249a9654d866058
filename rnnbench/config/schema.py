"""Defines the typed schema: every value of a trial, its type, its default. The yaml in conf/ only selects."""

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Optional

from omegaconf import MISSING

from rnnbench.config.optimisers import Optim
from rnnbench.config.refusals import at_least, finite, positive, refuse, share
from rnnbench.config.uris import check_uri


class Readout(Enum):
    last = "last"  # the hidden state after the last step (of each direction)
    mean = "mean"  # the mean of the hidden states over time


class RecurrentInit(Enum):
    orthogonal = "orthogonal"
    identity = "identity"
    orthogonal_identity = "orthogonal_identity"  # orthogonal, but for the candidate's block


class Nonlinearity(Enum):
    tanh = "tanh"
    relu = "relu"


class Schedule(Enum):
    constant = "constant"
    step = "step"
    cosine = "cosine"
    plateau = "plateau"


class Select(Enum):
    val = "val"  # validation chooses the epoch, test is read once at the end
    test = "test"  # the tutorial's protocol: watches the test set


class Kernel(Enum):
    auto = "auto"  # compiled where that has the cell; else torch
    compiled = "compiled"
    torch = "torch"
    cudnn = "cudnn"
    fastest = "fastest"  # on a card: of a trial alone cuDNN's layers where they are the faster; else as auto


class Precision(Enum):
    float32 = "float32"
    tf32x3 = "tf32x3"  # products on a card, each as three in TF32: nearly those of float32
    tf32 = "tf32"  # factors of products on a card are rounded to 10 bits


class Reuse(Enum):
    root = "root"  # finished records of all sweeps below the sweep root
    sweep = "sweep"  # of this sweep's own folder
    store = "store"  # of the root, and of the tracking store
    none = "none"


class Artifact(Enum):
    checkpoint = "checkpoint"
    confusion = "confusion"
    by_length = "by_length"
    curves = "curves"


# Keys of Model that only some cells read, and those of rnnbench that do: their `Cell.options`, without torch.
CELL_KEYS = {
    "positive": ("mingru", "minlstm"),  # candidates above 0, as in the paper's log-space form
    "normalised": ("minlstm",),  # the two gates sum to 1
    "dt": ("lem", "cornn"),  # the (largest) time step; null: the cell's own
    "gamma": ("cornn",),  # what pulls back; null: the cell's own
    "epsilon": ("cornn",),  # damping; null: the cell's own
    "order": ("lmu",),  # numbers of its memory; null: the hidden size
    "theta": ("lmu",),  # steps of its window; null: the longest training sequence
}


@dataclass
class Model:
    """A stack of recurrent layers under one linear head."""

    name: str = MISSING
    hidden_size: int = 32
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0  # share of a layer's outputs that the next layer does not get, while training
    readout: Readout = Readout.last
    budget: Optional[int] = None  # number of parameters in all: the hidden size that comes nearest is taken
    forget_bias: Optional[float] = (
        None  # the forget gate's bias before training; null: drawn as torch draws it
    )
    nonlinearity: Nonlinearity = Nonlinearity.tanh  # model=rnn alone has a choice
    recurrent_init: Optional[RecurrentInit] = None  # how weight_hh is drawn; null: as torch draws it
    layer_norm: bool = False
    recurrent_dropout: Optional[float] = None
    zoneout: Optional[float] = None
    learned_state: bool = False
    weight_noise: Optional[float] = None  # standard deviation of noise on all weights, while training
    positive: bool = False  # this key and those below: see CELL_KEYS
    normalised: bool = False
    dt: Optional[float] = None
    gamma: Optional[float] = None
    epsilon: Optional[float] = None
    order: Optional[int] = None
    theta: Optional[float] = None

    def check(self) -> None:
        """Refuse a network that cannot be made, as far as no cell is asked (`nn.cells.make_cell` asks it).

        Raises:
            ConfigError: names the key, the value and what would be accepted.
        """
        at_least(
            1,
            ("model.hidden_size", self.hidden_size),
            ("model.num_layers", self.num_layers),
            ("model.budget", self.budget),
            ("model.order", self.order),
        )
        share(
            ("model.dropout", self.dropout),
            ("model.recurrent_dropout", self.recurrent_dropout),
            ("model.zoneout", self.zoneout),
        )
        finite(("model.forget_bias", self.forget_bias))
        positive(
            ("model.weight_noise", self.weight_noise),
            ("model.dt", self.dt),
            ("model.gamma", self.gamma),
            ("model.epsilon", self.epsilon),
            ("model.theta", self.theta),
        )
        if self.dropout and self.num_layers == 1:
            refuse("model.dropout", self.dropout, "acts between layers: needs model.num_layers above 1")
        if self.nonlinearity is not Nonlinearity.tanh and self.name != "rnn":
            refuse("model.nonlinearity", self.nonlinearity, f"only model=rnn has a choice, not {self.name}")


STEPS_PER_EPOCH = 100  # where data is endless, unless fit.steps_per_epoch says else


@dataclass
class Data:
    """What every task has: how its examples are split, and what it is judged by.

    A task with keys of its own has a subclass, in the file of the task, whose `check` extends this one; for a
    task of one's own, `settings` in its class names it. A task without has this, and may read `options`.
    """

    name: str = MISSING
    metric: str = "accuracy"  # accuracy, mse, nll or bpc (bits per character); follows from the task
    train_size: Optional[int] = None  # use this many training examples; null: all
    val_size: Optional[int] = None  # null: as many as the task says
    split_seed: int = 0  # chooses the validation examples
    folds: Optional[int] = None  # parts of which each validates once; null: one split, of val_size
    fold: int = 0  # the part that validates, from 0
    options: dict[str, Any] = field(default_factory=dict)  # of a task of one's own
    metrics: Optional[list[str]] = None  # measured besides, such as [balanced_accuracy,macro_f1]

    def check(self) -> None:
        """Refuse values that no task can have.

        Raises:
            ConfigError: names the key, the value and what would be accepted.
        """
        at_least(1, ("data.train_size", self.train_size))
        at_least(0, ("data.val_size", self.val_size))
        if not 0 <= self.split_seed < 2**32:
            refuse("data.split_seed", self.split_seed, "must be at least 0 and below 2**32")
        self._check_folds()
        names = ["loss", self.metric, *(self.metrics or [])]
        if twice := [name for n, name in enumerate(names) if name in names[:n] and n > 1]:
            refuse("data.metrics", twice[0], "is measured already; name it once, or leave it out")

    def _check_folds(self) -> None:
        at_least(2, ("data.folds", self.folds))
        if self.folds is None:
            if self.fold != 0:
                refuse("data.fold", self.fold, "needs data.folds, the number of folds")
        elif not 0 <= self.fold < self.folds:
            refuse(
                "data.fold", self.fold, f"must be from 0 to {self.folds - 1}, since data.folds={self.folds}"
            )
        elif self.val_size is not None:
            refuse(
                "data.val_size", self.val_size, f"data.folds={self.folds} sets it; use null for one of them"
            )


# The settings of each task that ships, by data.name: rnnbench.tasks enters them when it is imported.
DATA: dict[str, type[Data]] = {}
OWN_DATA: dict[str, type[Data]] = {}  # of tasks of one's own that may be chosen now, by `sweep.own_options`


@dataclass
class Fit:
    """How a network is trained, and what chooses its best epoch."""

    epochs: int = 20
    steps_per_epoch: Optional[int] = None  # minibatches of an epoch where data is endless; null: 100
    batch_size: int = 32
    patience: Optional[int] = None  # evaluations without a better one before stopping; null: never
    clip: Optional[float] = None  # largest norm that a gradient may have; null: any
    schedule: Schedule = Schedule.constant
    warmup: int = 0  # epochs over which the learning rate rises linearly, under any schedule
    decay: float = 0.1  # factor by which the schedules step and plateau lower the learning rate
    decay_every: int = 10  # epochs between two steps of the schedule step
    decay_patience: int = 5  # evaluations without a better one after which plateau lowers the rate
    evaluate_every: int = 1  # epochs between two evaluations
    checkpoint_every: Optional[int] = None  # epochs between two checkpoints on disk; null: one a minute
    select: Select = Select.val
    device: str = "cpu"
    kernel: Kernel = Kernel.auto
    precision: Precision = Precision.float32  # of products on a card

    def check(self) -> None:
        """Refuse what nothing can be trained with.

        Raises:
            ConfigError: names the key, the value and what would be accepted.
        """
        at_least(
            1,
            ("fit.epochs", self.epochs),
            ("fit.steps_per_epoch", self.steps_per_epoch),
            ("fit.batch_size", self.batch_size),
            ("fit.patience", self.patience),
            ("fit.decay_every", self.decay_every),
            ("fit.decay_patience", self.decay_patience),
            ("fit.evaluate_every", self.evaluate_every),
            ("fit.checkpoint_every", self.checkpoint_every),
        )
        at_least(0, ("fit.warmup", self.warmup))
        positive(("fit.clip", self.clip), ("fit.decay", self.decay))
        if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", self.device):
            refuse("fit.device", self.device, "must be cpu, cuda or cuda:N")
        if self.kernel in (Kernel.cudnn, Kernel.fastest) and self.device == "cpu":
            refuse("fit.kernel", self.kernel, "needs fit.device=cuda")
        if self.precision is not Precision.float32 and self.device == "cpu":
            refuse("fit.precision", self.precision, "needs fit.device=cuda; on the CPU take float32")
        if self.precision is Precision.tf32x3 and self.kernel in (Kernel.torch, Kernel.cudnn):
            why = f"fit.kernel={self.kernel.value} does not have it; take fit.kernel=auto, float32 or tf32"
            refuse("fit.precision", self.precision, why)


EXPERIMENT_CHARS = 256  # the longest name of an experiment that MLflow's tables hold


@dataclass
class Tracking:
    """Where MLflow's copy of the records goes; the job folders are written in any case."""

    uri: Optional[str] = "sqlite:///mlflow.db"  # null: job folders only
    experiment: str = "rnnbench"
    artifacts: list[Artifact] = field(default_factory=list)  # what to upload besides numbers

    def check(self) -> None:
        """Refuse a store or an experiment that MLflow cannot have.

        Raises:
            ConfigError: names the key, the value and what would be accepted.
        """
        if self.uri is not None:
            check_uri(self.uri)
        name = self.experiment
        if not name.strip() or len(name) > EXPERIMENT_CHARS:
            wanted = f"must have 1 to {EXPERIMENT_CHARS} characters"
            refuse("tracking.experiment", f"{name[:40]}..." if name.strip() else name, wanted)
        if not name.isprintable():  # NUL, which PostgreSQL does not take, lines, bytes that are no text
            refuse("tracking.experiment", ascii(name), "must be of characters that can be printed")


@dataclass
class Config:
    """One trial, and where its record goes."""

    model: Model = MISSING
    optim: Optim = MISSING
    data: Data = MISSING
    fit: Fit = MISSING
    tracking: Tracking = MISSING
    seed: int = 0
    objective: Optional[str] = (
        None  # a recorded metric; null: the task's own, at the best epoch, on validation
    )
    dry_run: bool = False
    reuse: Reuse = Reuse.root  # where a finished record of a trial is looked for before it trains
    rnnbench_import: Optional[str] = None  # Python files that register what is one's own, separated by :

    def on(self, device: str) -> "Config":
        """Return the configuration with one of the devices that fit.device names."""
        return replace(self, fit=replace(self.fit, device=device))
