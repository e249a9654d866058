"""Defines what a task is: examples, what is asked of them, how they are split."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
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
    """What is asked of a sequence, and so the loss; steps beyond an example's length never count."""

    label = "label"  # a class at the end: targets (N,) integers; cross entropy
    value = "value"  # numbers at the end: targets (N, outputs) float32; squared error, mean over outputs
    labels = "labels"  # a class at every step: targets (N, T) integers; cross entropy, mean over steps
    keys = "keys"  # binary keys at every step: targets (N, T, outputs) bytes; cross entropy, summed over
    # the keys and averaged over steps

    @property
    def every_step(self) -> bool:
        """Whether an answer is asked for at every step."""
        return self in (Goal.labels, Goal.keys)


@dataclass(frozen=True)
class Shape:
    """The sizes of a task."""

    steps: int  # T of the longest training example
    input_size: int
    outputs: int  # width of the head: classes, numbers or keys
    train: int  # examples in each split; 0 where training data is endless
    val: int
    test: int
    goal: Goal = Goal.label
    next_step: bool = False  # whether the answer is the next step of the sequence itself
    test_steps: int | None = None  # T of the longest test example, where it is longer


@dataclass(frozen=True)
class Examples:
    """Sequences and what is asked of them."""

    inputs: NDArray[Any]  # (N, T, input) bytes or float32; or (N, T) int16 or int32 tokens, one-hot
    targets: NDArray[Any]  # see Goal
    lengths: Labels | None = None  # (N,) steps that count; None: all T do


# Makes examples of uniforms (n, draws) in [0, 1).
Make = Callable[[NDArray[np.float64]], Examples]


@dataclass(frozen=True)
class Task:
    """Examples and how they are split. A byte b enters a network as (b * scale - mean) / std.

    Where training examples are made on demand (`make`), inputs and targets are those of val and test, and
    splits["train"] has the numbers of the examples to be made; none where they are endless.
    """

    inputs: NDArray[Any]  # see Examples
    targets: NDArray[Any]
    splits: dict[str, Labels]  # train, val, test: indices into the N examples
    scale: float  # the largest byte times this is 1
    mean: float
    std: float
    outputs: int  # width of the head: classes, numbers or keys
    checksum: str  # sha256 of the examples; order, split and place do not change it
    details: dict[str, str]  # for the record: source, digests of the files, digest of the permutation
    goal: Goal = Goal.label
    metric: str = "accuracy"
    lengths: Labels | None = None  # (N,)
    tokens: int | None = None  # number of kinds, where inputs are tokens
    make: Make | None = None
    draws: int = 0  # uniforms that an example is made of
    # In place of the loss of the goal: of logits and y, as rnnbench.kernels.losses.measure has them, the loss
    # of each answer, (K, B), or (K, T, B) where one is asked for at every step.
    loss: Callable[[Any, Any], Any] | None = None
    carried: bool = False  # examples are windows of one text: the state is carried on from one to the next

    @property
    def input_size(self) -> int:
        """Features of a step."""
        return self.tokens or int(self.inputs.shape[2])


class Kind(Protocol):
    """A task as it is registered under its name. `data` is of the class that it was entered with."""

    def shape(self, data: Any) -> Shape:
        """Return the sizes of the task that `load` would give, without reading large files.

        Raises:
            ConfigError: the settings fit no such task.
        """
        ...

    def load(self, data: Any) -> Task:
        """Return the task.

        Raises:
            ConfigError: it cannot be read or downloaded.
        """
        ...


TASKS: dict[str, Kind] = {}  # the tasks that ship, by data.name


def enter(name: str, kind: Kind, settings: type[Data]) -> None:
    """Register a task of this package under its data.name, with the class of its settings."""
    TASKS[name] = kind
    DATA[name] = settings


L = TypeVar("L", bound=Callable[..., Task])
HELD: "OrderedDict[Hashable, Task]" = OrderedDict()  # tasks in memory, the one used last at the end
LOCK = Lock()  # of HELD: trials may be run from several threads
ROOM = 2**30  # bytes that they may take together; the one used last stays whatever its size


def held(files: Callable[[Any], Sequence[str]] = lambda data: ()) -> Callable[[L], L]:
    """Decorate `Kind.load` with a cache: an equal request gets the task that is in memory.

    Equal are tasks of one kind, with equal values of `data`, of files with the same size and time.

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
    """Import rnnbench.terminal, when there is something to say: it takes a tenth of a second."""
    from rnnbench import terminal as module

    return module


def split_sizes(data: Data, available: int, val: int) -> tuple[int, int]:
    """Return how many of the `available` examples are for training and validation (`val` by default).

    Raises:
        ConfigError: the examples are too few.
    """
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
            f"for training beside data.val_size={val}"
        )
    return train, val


def check_metric(data: Data, *known: str) -> None:
    """Refuse a data.metric that is not the task's.

    Raises:
        ConfigError: names those it has.
    """
    if data.metric not in known:
        raise ConfigError(
            f"data.metric={data.metric}: data={data.name} is judged by {' or '.join(known)}; "
            "data.metrics=[NAME,...] measures others beside it"
        )
