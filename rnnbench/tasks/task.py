"""Defines what a task is: examples, their targets, their splits."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from functools import wraps
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from rnnbench.config import DATA, ConfigError, Data

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]


class Goal(Enum):
    """Names the kind of targets and so the loss; steps beyond an example's length never count."""

    label = "label"  # a class at the end: targets (N,) integers; cross entropy
    value = "value"  # numbers at the end: targets (N, outputs) float32; squared error, mean over outputs
    labels = "labels"  # a class at every step: targets (N, T) integers, -1 at steps that are asked for
    # nothing; cross entropy, mean over the others
    keys = "keys"  # binary keys at every step: targets (N, T, outputs) bytes; cross entropy, sum over
    # keys, mean over steps
    values = "values"  # numbers at every step: targets (N, T, outputs) float32; squared error, mean over
    # outputs, mean over steps

    @property
    def every_step(self) -> bool:
        """Whether there is a target at every step."""
        return self in (Goal.labels, Goal.keys, Goal.values)


@dataclass(frozen=True)
class Shape:
    """Keeps the sizes of a task."""

    steps: int  # T of the longest training example, those set aside for validation among them
    input_size: int
    outputs: int  # width of the head: classes, numbers or keys
    train: int  # training examples; 0 if they are endless
    val: int
    test: int
    goal: Goal = Goal.label
    next_step: bool = False  # whether the answer is the next step of the sequence itself
    test_steps: int | None = None  # T of the longest test example, if longer than `steps`


@dataclass(frozen=True)
class Examples:
    """Keeps sequences and their targets."""

    inputs: NDArray[Any]  # (N, T, input) bytes or float32; or (N, T) int16 or int32 tokens, one-hot
    targets: NDArray[Any]  # see Goal
    lengths: Labels | None = None  # (N,) number of steps that count; None: all T count


# Makes examples from uniforms (n, draws) in [0, 1).
Make = Callable[[NDArray[np.float64]], Examples]


@dataclass(frozen=True)
class Task:
    """Keeps examples and their splits. A byte b enters a network as (b * scale - mean) / std.

    If training examples are made on demand (`make`), inputs and targets are those of val and test, and
    splits["train"] has the numbers of the examples to make; it is empty if they are endless.
    """

    inputs: NDArray[Any]  # see Examples
    targets: NDArray[Any]
    splits: dict[str, Labels]  # train, val, test: indices into the N examples
    _: KW_ONLY
    scale: float = 1.0  # 1 / the largest byte
    mean: float = 0.0
    std: float = 1.0
    outputs: int  # width of the head: classes, numbers or keys
    checksum: str  # sha256 of the examples; order, split and place do not change it
    details: dict[str, str]  # source, digests of files and permutation, for the record
    goal: Goal = Goal.label
    metric: str = "accuracy"
    lengths: Labels | None = None  # (N,)
    tokens: int | None = None  # size of the vocabulary, if inputs are tokens
    make: Make | None = None
    draws: int = 0  # number of uniforms for an example
    # Replaces the loss of the goal: takes logits and y as rnnbench.kernels.losses.measure does, and returns
    # the loss of each answer, (K, B), or (K, T, B) with targets at every step.
    loss: Callable[[Any, Any], Any] | None = None
    # (outputs,) how much an answer of each class counts in the loss; None: all count the same.
    weights: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()  # names of the classes, where they have any but their numbers
    # Gives what the task's own metric is computed from: see `sums` of rnnbench.config.metrics.Metric.
    sums: Callable[[Any, Any, Any], tuple[Any, ...]] | None = None
    # As `sums`, of what compares the answers with the best that can be given.
    optimum: Callable[[Any, Any, Any], tuple[Any, ...]] | None = None
    carried: bool = (
        False  # whether examples are windows of one text, each starting from the last state of the one before
    )

    @property
    def input_size(self) -> int:
        """Number of input features of a step."""
        return self.tokens or int(self.inputs.shape[2])


def shape_of(task: Task) -> Shape:
    """Return the sizes of a task whose training examples are in memory."""
    train, val, test = (task.splits[part] for part in ("train", "val", "test"))
    steps = T = task.inputs.shape[1]
    if task.lengths is not None:
        steps = int(task.lengths[np.concatenate([train, val])].max())
    sizes, beyond = (len(train), len(val), len(test)), T if steps < T else None
    return Shape(steps, task.input_size, task.outputs, *sizes, task.goal, test_steps=beyond)


def check_examples(task: Task, examples: Examples) -> None:
    """Refuse examples that kernels would read wrongly, or read beyond.

    Raises:
        ConfigError: shape, classes or lengths are not as the task's goal and sizes ask for.
    """
    x, y, width = examples.inputs, examples.targets, task.input_size
    if task.tokens is None:
        if x.ndim != 3 or x.shape[2] != width or x.dtype.kind not in "fiub":
            raise ConfigError(f"inputs have shape {x.shape} of {x.dtype}; must be numbers (N, T, {width})")
    elif x.ndim != 2 or x.dtype.kind not in "iu" or x.min() < 0 or x.max() >= width:
        raise ConfigError(
            f"inputs have shape {x.shape} of {x.dtype}; must be tokens (N, T) of whole numbers from 0 to "
            f"{width - 1}, or numbers (N, T, {width})"
        )
    classes = task.goal in (Goal.label, Goal.labels)
    wanted = x.shape[: 2 if task.goal.every_step else 1] + (() if classes else (task.outputs,))
    shaped = y.shape == wanted or (task.loss is not None and y.ndim == len(wanted) and len(y) == len(x))
    least = -1 if task.goal is Goal.labels else 0
    known = not classes or (y.dtype.kind in "iu" and y.min() >= least and y.max() < task.outputs)
    if not shaped or not known:
        kind = f"whole numbers from {least} to {task.outputs - 1}" if classes else "numbers"
        raise ConfigError(
            f"targets have shape {y.shape} of {y.dtype}; must be {kind} of shape {wanted}, as goal = "
            f"Goal.{task.goal.value} asks for"
        )
    n = examples.lengths
    if n is not None and (
        n.shape != x.shape[:1] or n.dtype.kind not in "iu" or n.min() < 1 or n.max() > x.shape[1]
    ):
        raise ConfigError(f"lengths must be {len(x)} whole numbers from 1 to {x.shape[1]}")
    if task.goal is Goal.labels and y.shape == wanted and y.min() < 0:
        asked = y >= 0 if n is None else (y >= 0) & (np.arange(y.shape[1]) < n[:, None])
        if (without := ~asked.any(1)).any():
            raise ConfigError(
                f"targets of example {int(without.argmax())} are all -1; each example must ask for an answer"
            )


class Kind(Protocol):
    """Describes a task under its name; `data` has the class of settings that it was registered with.

    An optional attribute `folds` is True if `load` divides the examples by `divided`, so that data.folds has
    an effect; otherwise it says what the task does instead. Without it data.folds is refused. Another,
    `same_examples`, is True if inputs, targets and loss are the same whichever fold validates (they are not
    if they are standardised by the training examples): trials of several folds then train in one stack.
    """

    def shape(self, data: Any) -> Shape:
        """Return the sizes of the task that `load` would give, without reading large files.

        Raises:
            ConfigError: the task refuses the settings.
        """
        ...

    def load(self, data: Any) -> Task:
        """Return the task.

        Raises:
            ConfigError: the task cannot be read or downloaded.
        """
        ...


TASKS: dict[str, Kind] = {}  # the package's tasks, by data.name


def enter(name: str, kind: Kind, settings: type[Data]) -> None:
    """Register a task of this package under its data.name, with the class of its settings."""
    TASKS[name] = kind
    DATA[name] = settings


L = TypeVar("L", bound=Callable[..., Task])
HELD: "OrderedDict[Hashable, Task]" = OrderedDict()  # tasks in memory, in order of last use
LOCK = Lock()  # guards HELD, since several threads may run trials
ROOM = 2**30  # bytes of all tasks in memory; the one used last stays whatever its size


def held(files: Callable[[Any], Sequence[str]] = lambda data: ()) -> Callable[[L], L]:
    """Decorate `Kind.load` with a cache: an equal request gets the task that is in memory.

    Requests are equal if they have one kind, equal values of `data`, and files of equal size and time.

    Args:
        files: paths of the files that the task is read from.
    """

    def decorate(load: L) -> L:
        @wraps(load)
        def remembering(kind: Kind, data: Any) -> Task:
            key = (kind, repr(data), *map(_stamp, files(data)))
            task = HELD.get(key) or load(kind, data)
            with LOCK:
                HELD[key] = task
                HELD.move_to_end(key)
                while len(HELD) > 1 and sum(map(_bytes, HELD.values())) > ROOM:
                    HELD.popitem(last=False)
            return task

        return cast(L, remembering)

    return decorate


def _stamp(file: str) -> tuple[str, int, int] | None:
    """Return a file's path, time of writing and size; None if it cannot be read."""
    path = Path(file).expanduser()
    try:
        facts = path.stat()
    except OSError:
        return None
    return str(path.absolute()), facts.st_mtime_ns, facts.st_size


def _bytes(task: Task) -> int:
    arrays = [task.inputs, task.targets, *task.splits.values()]
    return sum(array.nbytes for array in arrays)


def terminal() -> ModuleType:
    """Import rnnbench.terminal late, since it takes a tenth of a second and most runs need no message."""
    from rnnbench import terminal as module

    return module


def split_sizes(data: Data, available: int, val: int) -> tuple[int, int]:
    """Return how many of the `available` examples are for training and validation (`val` by default).

    Raises:
        ConfigError: there are too few examples.
    """
    beside = "data.val_size"
    if data.folds is not None:
        if data.folds > available:
            raise ConfigError(
                f"data.folds={data.folds}: must be at most {available:,}, the examples of "
                f"data={data.name} that are not for testing"
            )
        val = _start(data.fold + 1, data.folds, available) - _start(data.fold, data.folds, available)
        beside = f"data.folds={data.folds}, a fold"
    val = val if data.val_size is None else data.val_size
    left = available - val
    if val < 0 or left < 1:
        raise ConfigError(
            f"data.val_size={val}: must be at least 0 and below {available}, the examples of "
            f"data={data.name} that are not for testing"
        )
    train = left if data.train_size is None else data.train_size
    if not 1 <= train <= left:
        raise ConfigError(
            f"data.train_size={train}: must be at least 1 and at most {left}, what data={data.name} has "
            f"for training beside {beside}={val}"
        )
    return train, val


def _start(fold: int, folds: int, available: int) -> int:
    """Return where a fold begins among the examples; the sizes of two folds differ by at most 1."""
    return fold * available // folds


def divided(data: Data, available: int, val: int) -> dict[str, Labels]:
    """Return which of the `available` examples are for training and validation (`val` by default).

    They are permuted under data.split_seed. The first are for validation, or under data.folds those of the
    fold; the examples that follow, and then those from the start on, are for training.

    Raises:
        ConfigError: there are too few examples.
    """
    train, val = split_sizes(data, available, val)
    drawn = np.random.RandomState(data.split_seed).permutation(available).astype(np.int64)
    if data.folds is not None:
        drawn = np.roll(drawn, -_start(data.fold, data.folds, available))
    return {"train": drawn[val : val + train], "val": drawn[:val]}


def check_metric(data: Data, *known: str) -> None:
    """Refuse a data.metric that the task does not have.

    Raises:
        ConfigError: names the metrics that the task has.
    """
    if data.metric not in known:
        raise ConfigError(
            f"data.metric={data.metric}: data={data.name} is judged by {' or '.join(known)}; "
            "data.metrics=[NAME,...] measures others beside it"
        )
