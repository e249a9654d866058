"""The compiled CPU kernels: LSTM, GRU and RNN with head, loss and optimiser, many minibatches a call.

A trial's numbers are bit for bit the same whatever else is in its stack, however many threads there
are and however the minibatches are divided into calls (native/stack.c says how).
"""

import ctypes
import os
import re
import time
from collections.abc import Callable
from ctypes import POINTER, byref, c_double, c_int, c_int64, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnbench.config import Config, Model, Nonlinearity, Readout
from rnnbench.nn import optimisers
from rnnbench.nn.cells import Draw, Noise
from rnnbench.nn.network import Network
from rnnbench.system import limits
from rnnbench.tasks import Task
from rnnbench.tasks.sequences import Images

LIBRARY = Path(__file__).parent / "stack.so"
CALL_SECONDS = 0.5  # a call returns about this often, so that Ctrl-C can end it
CHUNK = 64  # examples that a thread computes at once, of native/network.h
CELLS = ("lstm", "gru", "rnn")
OPTIMISERS = {"sgd": 0, "adam": 2, "adamw": 3, "rmsprop": 4}  # as in native/update.h; Nesterov is 1


class Shape(ctypes.Structure):
    """`struct shape` of native/network.h."""

    _fields_ = [
        (name, c_int64)
        for name in ("cell", "layers", "directions", "hidden", "input", "steps", "classes", "mean")
    ]


class Examples(ctypes.Structure):
    """`struct examples` of native/stack.c."""

    _fields_ = [("inputs", c_void_p), ("targets", c_void_p), ("scale", c_double), ("shift", c_double)]


COLUMNS = ("step", "clip", "lr", "weight_decay", "momentum", "beta1", "beta2", "eps", "alpha")


class State(ctypes.Structure):
    """`struct state` of native/stack.c."""

    _fields_ = [
        ("optimiser", c_int64),
        ("parameters", c_void_p),
        ("memory", c_void_p * 2),
        *((name, c_void_p) for name in COLUMNS),
    ]


# The arguments of the two functions of native/stack.c, in its order.
TRAIN = {"shape": POINTER(Shape), "examples": POINTER(Examples), "state": POINTER(State), "order": c_void_p}
TRAIN |= dict.fromkeys(("K", "P", "stride", "count", "batch"), c_int64)
TRAIN |= {"mask": c_void_p, "totals": c_void_p, "threads": c_int}
EVALUATE = {"shape": POINTER(Shape), "examples": POINTER(Examples), "parameters": c_void_p, "order": c_void_p}
EVALUATE |= dict.fromkeys(("K", "P", "count"), c_int64)
EVALUATE |= {"totals": c_void_p, "answers": c_void_p, "threads": c_int}


@lru_cache
def library() -> ctypes.CDLL | str:
    """Load the library, once; return why there is none that can be used, if so."""
    if not LIBRARY.exists():
        return "they were not built"
    try:
        loaded = ctypes.CDLL(str(LIBRARY))  # releases the GIL during calls
    except OSError as error:  # of another kind of machine, on a disk that they share
        return f"they cannot be loaded: {error}"
    for function in (loaded.rnnbench_sets, loaded.rnnbench_sources, loaded.rnnbench_cells):
        function.restype = ctypes.c_char_p
    # Late: `python -m rnnbench.kernels.build` runs that module, and warns if it was imported before.
    from rnnbench.kernels.build import digest

    if loaded.rnnbench_sources().decode() != digest():
        return "they were built of other sources"
    return loaded


def function(name: str, arguments: dict[str, Any]) -> Callable[..., int]:
    """Return a function of the library that takes its arguments by keyword, and gives 0 or an errno."""
    loaded = library()
    assert isinstance(loaded, ctypes.CDLL), loaded
    prototype = ctypes.CFUNCTYPE(c_int, *arguments.values())  # releases the GIL during calls
    return prototype((name, loaded), tuple((1, argument) for argument in arguments))


def cell_number(model: Model) -> int:
    """Return the number that the library gives the cell of a model."""
    loaded = library()
    assert isinstance(loaded, ctypes.CDLL), loaded
    relu = model.name == "rnn" and model.nonlinearity is Nonlinearity.relu
    names: list[str] = loaded.rnnbench_cells().decode().split("\n")
    return names.index("rnn_relu" if relu else model.name)


def instruction_sets() -> list[str]:
    """List the instruction sets that this machine runs, the best first; none where there is no library."""
    loaded = library()
    return [] if isinstance(loaded, str) else loaded.rnnbench_sets().decode().split()


def supports(config: Config) -> bool:
    """True if these kernels have the cell, its options and the optimiser, and read the data: images."""
    known = config.model.name in CELLS and config.optim.name in OPTIMISERS
    return known and plain(config.model) and isinstance(config.data, Images)


def plain(model: Model) -> bool:
    """True if a model has none of the options that only the torch path computes."""
    options = ("layer_norm", "recurrent_dropout", "zoneout", "learned_state", "weight_noise")
    return not any(getattr(model, option) for option in options)


def cores() -> int:
    """Return how many threads to compute with: OMP_NUM_THREADS, else all cores that this process may use."""
    return threads_asked() or limits.cores()


def threads_asked() -> int | None:
    """Read the number of threads in OMP_NUM_THREADS; None where it is no such number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if re.fullmatch("0*[1-9][0-9]{0,3}", first) else None


def chunks(batch: int) -> int:
    """Count the parts of a minibatch that threads may share."""
    return -(-batch // CHUNK)


class CompiledCompute:
    """Trains and evaluates a stack with the compiled kernels.

    Args:
        config: of any of the trials.
        task: the data, and what is asked of it.
        instructions: the instruction set; None: the machine's best.
        threads: None: `cores()`.
    """

    def __init__(
        self, config: Config, task: Task, instructions: str | None = None, threads: int | None = None
    ) -> None:
        model = config.model
        _, T, input_size = task.inputs.shape
        self.network = Network(model, input_size, task.outputs)
        self.batch_size = config.fit.batch_size
        self.threads = threads or cores()
        self.seconds = 0.0  # that a minibatch takes; 0 until it is measured
        self.chunk_seconds = 0.0  # that a trial's evaluation on a chunk takes; 0 until it is measured
        self.shape = Shape(
            cell=cell_number(model),
            layers=model.num_layers,
            directions=self.network.directions,
            hidden=model.hidden_size,
            input=input_size,
            steps=T,
            classes=task.outputs,
            mean=model.readout is Readout.mean,
        )
        # Held here as long as the kernels read them.
        self.inputs = np.ascontiguousarray(task.inputs)
        self.targets = np.ascontiguousarray(task.targets, dtype=np.int64)
        self.examples = Examples(
            inputs=self.inputs.ctypes.data,
            targets=self.targets.ctypes.data,
            scale=task.scale / task.std,
            shift=-task.mean / task.std,
        )
        self.memory = config.optim.memory
        self.optimiser = OPTIMISERS[config.optim.name] + bool(getattr(config.optim, "nesterov", False))
        instructions = instructions or instruction_sets()[0]
        self._train = function(f"rnnbench_train_{instructions}", TRAIN)
        self._evaluate = function(f"rnnbench_evaluate_{instructions}", EVALUATE)

    def train(self, state: optimisers.State, order: Tensor, noise: Noise, poll: Callable[[], None]) -> Tensor:
        """Update every trial on its minibatches of order (K, examples); see `Compute.train`.

        Raises:
            MemoryError: the threads' memory could not be had; nothing was changed.
        """
        (K, examples), B = order.shape, self.batch_size
        drop = noise.dropout
        parameters = state["parameters"]
        rows = State(self.optimiser, parameters.data_ptr())
        for n, name in enumerate(self.memory):
            rows.memory[n] = state[name].data_ptr()
        for name in COLUMNS:
            if name in state:
                setattr(rows, name, state[name].data_ptr())
        totals = torch.zeros(K, 3, dtype=torch.float64)
        at = 0
        while at < examples:
            poll()
            steps = max(1, int(CALL_SECONDS / self.seconds)) if self.seconds and drop is None else 1
            count = min(steps * B, examples - at)
            mask = self._mask(drop, min(B, count)) if drop else None
            started = time.perf_counter()
            error = self._train(
                shape=byref(self.shape),
                examples=byref(self.examples),
                state=byref(rows),
                order=order.data_ptr() + 8 * at,
                K=K,
                P=parameters.shape[1],
                stride=examples,
                count=count,
                batch=B,
                mask=mask.data_ptr() if mask is not None else None,
                totals=totals.data_ptr(),
                threads=self.threads,
            )
            check(error)
            self.seconds = (time.perf_counter() - started) * B / count
            at += count
        return totals / examples

    def _mask(self, drop: Draw, B: int) -> Tensor:
        """Dropout factors of a minibatch, (K, layers - 1, T, width, B)."""
        shape = self.shape
        width = shape.directions * shape.hidden
        gaps = [drop((shape.steps, width, B)) for _ in range(shape.layers - 1)]
        return torch.stack(gaps, 1).contiguous()

    def evaluate(
        self, parameters: Tensor, index: Tensor, poll: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, right answers and predictions of parameters (k, P); see `Compute.evaluate`.

        Raises:
            MemoryError: the threads' memory could not be had.
        """
        (k, P), count = parameters.shape, len(index)
        parameters, index = parameters.contiguous(), index.contiguous()
        totals = torch.zeros(k, 3, dtype=torch.float64)
        answers = []
        at = 0
        while at < count:  # whole chunks a call: their sums are added up in the same order as in one call
            poll()
            enough = int(CALL_SECONDS / k / self.chunk_seconds) if self.chunk_seconds else 0
            part = min(max(self.threads, enough) * CHUNK, count - at)
            answers.append(torch.empty(k, part, dtype=torch.int64))
            started = time.perf_counter()
            error = self._evaluate(
                shape=byref(self.shape),
                examples=byref(self.examples),
                parameters=parameters.data_ptr(),
                order=index.data_ptr() + 8 * at,
                K=k,
                P=P,
                count=part,
                totals=totals.data_ptr(),
                answers=answers[-1].data_ptr(),
                threads=self.threads,
            )
            check(error)
            self.chunk_seconds = (time.perf_counter() - started) / k * CHUNK / part
            at += part
        loss, hits, _ = (totals / count).unbind(1)
        return loss, hits, torch.cat(answers, 1)


def check(error: int) -> None:
    """Raises MemoryError or OSError where a call did nothing for want of memory or threads."""
    if error:
        kind = MemoryError if error == 12 else OSError
        raise kind(error, os.strerror(error))
