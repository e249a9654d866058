"""Hands a task's examples to the compiled kernels: stored ones, and those that are made on demand."""

import ctypes
from ctypes import c_double, c_int64, c_void_p
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnbench.tasks import Goal, Task
from rnnbench.tasks.generated import TRAIN, uniforms
from rnnbench.tasks.task import Labels, check_examples

Array = NDArray[Any]
ROOM = 2**22  # bytes of examples, or of random numbers, that are made for one call: a core's own cache
BYTES, FLOATS, SYMBOLS_16, SYMBOLS_32 = range(4)  # as in native/data.h
GOALS = {
    goal: number for number, goal in enumerate((Goal.label, Goal.value, Goal.labels, Goal.keys, Goal.values))
}


class Examples(ctypes.Structure):
    """`struct examples` of native/data.h."""

    _fields_ = [
        ("kind", c_int64),
        ("inputs", c_void_p),
        ("input_stride", c_int64),
        ("target_kind", c_int64),
        ("targets", c_void_p),
        ("target_stride", c_int64),
        ("lengths", c_void_p),
        ("steps", c_int64),
        ("scale", c_double),
        ("shift", c_double),
        ("weights", c_void_p),
    ]


class Feed:
    """Examples as the kernels read them; the arrays stay in memory as long as it does.

    Args:
        task: what the examples are of.
        inputs, targets, lengths: as those of a task.
    """

    def __init__(self, task: Task, inputs: Array, targets: Array, lengths: Labels | None) -> None:
        self.inputs, kind = _inputs(task, inputs)
        self.targets, target_kind = _targets(task.goal, targets)
        self.lengths = None if lengths is None else np.ascontiguousarray(lengths, np.int64)
        self.weights = None if task.weights is None else task.weights.astype(np.float32)
        self.longest = inputs.shape[1]
        self.struct = Examples(
            kind=kind,
            inputs=self.inputs.ctypes.data,
            input_stride=_stride(self.inputs),
            target_kind=target_kind,
            targets=self.targets.ctypes.data,
            target_stride=_stride(self.targets),
            lengths=None if self.lengths is None else self.lengths.ctypes.data,
            scale=task.scale / task.std,
            shift=-task.mean / task.std,
            weights=None if self.weights is None else self.weights.ctypes.data,
        )

    def steps(self, index: Tensor) -> Tensor:
        """Return how many steps of the examples `index` count."""
        if self.lengths is None:
            return torch.full_like(index, self.longest)
        return torch.from_numpy(self.lengths)[index]


def _inputs(task: Task, inputs: Array) -> tuple[Array, int]:
    """Return inputs as numbers that the kernels read, and which these are."""
    if task.tokens is not None:
        kind = SYMBOLS_16 if inputs.dtype == np.int16 else SYMBOLS_32
        return _rows(inputs.astype((np.int16, np.int32)[kind - SYMBOLS_16], copy=False)), kind
    if inputs.dtype == np.uint8:
        return _rows(inputs), BYTES
    if inputs.dtype.kind != "f":
        inputs = inputs * (task.scale / task.std) - task.mean / task.std
    return _rows(inputs.astype(np.float32, copy=False)), FLOATS


def _targets(goal: Goal, targets: Array) -> tuple[Array, int]:
    """Return targets as numbers that the kernels read, and which these are."""
    if goal in (Goal.label, Goal.labels):
        return _rows(targets.astype(np.int64, copy=False)), BYTES
    if targets.dtype == np.uint8:
        return _rows(targets), BYTES
    return _rows(targets.astype(np.float32, copy=False)), FLOATS


def _rows(array: Array) -> Array:
    """Return an array whose examples are each contiguous, and any whole number of its elements apart."""
    whole = array.strides[0] % array.itemsize == 0
    return array if whole and array[:1].flags.c_contiguous else np.ascontiguousarray(array)


def _stride(array: Array) -> int:
    return array.strides[0] // array.itemsize


class Maker:
    """Makes training examples for some minibatches at a time; trials with equal seeds share them.

    Args:
        task: which makes them.
        library: compiled kernels, which draw the random numbers in less time; None: there are none.
    """

    def __init__(self, task: Task, library: ctypes.CDLL | None) -> None:
        self.task = task
        self.library = library
        self.bytes = 0.0  # that an example takes while it is made; 0 until one was

    def fitting(self, rows: int) -> int:
        """Return how many examples for each of so many trials there is room for; 0 if not yet known."""
        return int(ROOM / self.bytes / rows) if self.bytes else 0

    def make(self, numbers: Tensor, seeds: Tensor) -> tuple[Feed, Tensor]:
        """Make examples `numbers` (K, n) of trials with seeds (K,); return them and their places (K, n)."""
        assert self.task.make is not None
        n = numbers.shape[1]
        wanted = np.concatenate([seeds.numpy()[:, None], numbers.numpy()], 1)  # (K, 1 + n)
        first: dict[bytes, int] = {}  # the trial that an equal one shares its examples with
        rows = [first.setdefault(row.tobytes(), len(first)) for row in wanted]
        distinct = wanted[[rows.index(row) for row in range(len(first))]]
        u = self.uniforms(np.repeat(distinct[:, 0], n), distinct[:, 1:].ravel())
        made = self.task.make(u)
        check_examples(self.task, made)
        self.bytes = (4 * u.nbytes + made.inputs.nbytes + made.targets.nbytes) / len(u)
        places = torch.tensor(rows)[:, None] * n + torch.arange(n)
        return Feed(self.task, made.inputs, made.targets, made.lengths), places

    def uniforms(self, seed: Labels, number: Labels) -> NDArray[np.float64]:
        """Return those that rnnbench.tasks.generated.uniforms gives training examples."""
        if self.library is None:
            return uniforms(seed, TRAIN, number, self.task.draws)
        u = np.empty((len(seed), self.task.draws))
        pointers = [c_void_p(part.ctypes.data) for part in (seed, number, u)]
        sizes = map(c_int64, (len(seed), TRAIN, self.task.draws))
        self.library.rnnbench_uniforms(*pointers[:2], *sizes, pointers[2])
        return u
