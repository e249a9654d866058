"""The compiled CPU kernels: layers of a cell with head, loss and optimiser, many minibatches a call.

A trial's numbers are bit for bit the same whatever else is in its stack, however many threads there
are and however the minibatches are divided into calls (native/stack.c says how).
"""

import ctypes
import math
import os
import re
import time
from collections.abc import Callable
from ctypes import POINTER, byref, c_double, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from rnnbench.config import Config, Readout
from rnnbench.kernels import drawing, libraries
from rnnbench.kernels.drawing import Drawn
from rnnbench.kernels.feed import GOALS, ROOM, Examples, Feed, Maker
from rnnbench.kernels.libraries import Kernels
from rnnbench.nn import optimisers
from rnnbench.nn.cells import Noise
from rnnbench.nn.network import Network
from rnnbench.system import limits
from rnnbench.tasks import Goal, Task

CALL_SECONDS = 0.5  # a call returns about this often, so that Ctrl-C can end it
CHUNK = 64  # examples that a thread computes at once, of native/network.h
LONG = 1024  # steps from which fewer examples are evaluated at once
OPTIMISERS = {"sgd": 0, "adam": 2, "adamw": 3, "rmsprop": 4}  # as in native/update.h; Nesterov is 1


class Shape(ctypes.Structure):
    """`struct shape` of native/network.h."""

    _fields_ = [
        *((name, c_int64) for name in ("cell", "layers", "directions", "hidden", "memory")),
        *((name, c_int64) for name in ("input", "outputs", "goal")),
        *((name, c_int64) for name in ("mean", "learned")),
        ("zoneout", c_double),
        ("constants", c_void_p),
    ]


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
TRAIN = {"shape": POINTER(Shape), "examples": POINTER(Examples), "state": POINTER(State)}
TRAIN |= {"noise": POINTER(Drawn), "order": c_void_p}
TRAIN |= dict.fromkeys(("K", "P", "stride", "count", "batch"), c_int64)
TRAIN |= {"carried": c_void_p, "fresh": c_int, "totals": c_void_p, "threads": c_int}
EVALUATE = {"shape": POINTER(Shape), "examples": POINTER(Examples), "parameters": c_void_p, "order": c_void_p}
EVALUATE |= dict.fromkeys(("K", "P", "count", "batch"), c_int64)
EVALUATE |= {"carried": c_void_p, "fresh": c_int, "totals": c_void_p, "answers": c_void_p, "threads": c_int}


def function(library: ctypes.CDLL, name: str, arguments: dict[str, Any]) -> Callable[..., int]:
    """Return a function of a library that takes its arguments by keyword, and gives 0 or an errno."""
    prototype = ctypes.CFUNCTYPE(c_int, *arguments.values())  # releases the GIL during calls
    return prototype((name, library), tuple((1, argument) for argument in arguments))


def instruction_sets() -> list[str]:
    """List the instruction sets of the package's library that this machine runs, the best first."""
    return libraries.sets(libraries.library())


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
        model, kernels = config.model, libraries.find(config.model)
        assert isinstance(kernels, Kernels), kernels
        self.task = task
        self.network = Network(model, task.input_size, task.outputs, task.goal.every_step)
        self.batch_size = config.fit.batch_size
        self.threads = threads or cores()
        self.seconds = 0.0  # that a minibatch takes; 0 until it is measured
        self.chunk_seconds = 0.0  # that a trial's evaluation on a chunk takes; 0 until it is measured
        parts = self.network.layers[0][0][1].constants().values()
        self.constants = torch.cat([part.float().flatten() for part in parts]) if parts else torch.empty(0)
        self.shape = Shape(
            cell=kernels.cell,
            layers=model.num_layers,
            directions=self.network.directions,
            hidden=model.hidden_size,
            memory=self.network.layers[0][0][1].sizes[-1],
            input=task.input_size,
            outputs=task.outputs,
            goal=GOALS[task.goal],
            mean=model.readout is Readout.mean,
            learned=model.learned_state,
            zoneout=model.zoneout or 0.0,
            constants=self.constants.data_ptr(),
        )
        if threads_asked() is None:
            torch.set_num_threads(1)  # torch only draws random numbers: two threads would wait for each other
        self.stored = Feed(task, task.inputs, task.targets, task.lengths)
        self.maker = Maker(task, kernels.library) if task.make else None
        self.memory = config.optim.memory
        self.optimiser = OPTIMISERS[config.optim.name] + bool(getattr(config.optim, "nesterov", False))
        instructions = instructions or kernels.sets[0]
        self._train = function(kernels.library, f"rnnbench_train_{instructions}", TRAIN)
        self._evaluate = function(kernels.library, f"rnnbench_evaluate_{instructions}", EVALUATE)

    def train(self, state: optimisers.State, order: Tensor, noise: Noise, poll: Callable[[], None]) -> Tensor:
        """Update every trial on its minibatches of order (K, examples); see `Compute.train`.

        Raises:
            MemoryError: the threads' memory could not be had; nothing was changed.
        """
        (K, examples), B = order.shape, self.batch_size
        rows = self._rows(state)
        totals = torch.zeros(K, 4, dtype=torch.float64)
        carried = self._carried(K, B)
        at = 0
        while at < examples:
            poll()
            started = time.perf_counter()
            count = min(self._minibatches(noise, K) * B, examples - at)
            feed, index = self._fed(order[:, at : at + count], state["seed"][:, 0])
            steps = torch.stack([part.amax(1) for part in feed.steps(index).split(B, dim=1)], 1)
            sizes = [min(B, count - start) for start in range(0, count, B)]
            drawn = drawing.draw(noise, self.network, steps, sizes, B)
            feed.struct.steps = int(steps.max())
            error = self._train(
                shape=byref(self.shape),
                examples=byref(feed.struct),
                state=byref(rows),
                noise=byref(Drawn(**{name: part.data_ptr() for name, part in drawn.items()})),
                order=index.data_ptr(),
                K=K,
                P=self.network.count(),
                stride=index.stride(0),
                count=count,
                batch=B,
                carried=carried.data_ptr() if self.task.carried else None,
                fresh=at == 0,
                totals=totals.data_ptr(),
                threads=self.threads,
            )
            check(error)
            self.seconds = (time.perf_counter() - started) * B / count
            at += count
        loss, hits, norm, answers = totals.unbind(1)
        return torch.stack([loss / answers, hits / answers, norm / examples], 1)

    def _rows(self, state: optimisers.State) -> State:
        """Return where the stack's rows are."""
        rows = State(self.optimiser, state["parameters"].data_ptr())
        for n, name in enumerate(self.memory):
            rows.memory[n] = state[name].data_ptr()
        for name in COLUMNS:
            if name in state:
                setattr(rows, name, state[name].data_ptr())
        return rows

    def _carried(self, K: int, streams: int) -> Tensor:
        """Return room for the state that minibatches of so many streams hand on."""
        shape = self.shape
        states = sum(self.network.layers[0][0][1].sizes)
        levels = shape.layers * shape.directions if self.task.carried else 0
        return torch.zeros(K, levels, states, streams)

    def _minibatches(self, noise: Noise, K: int) -> int:
        """Return how many minibatches the next call computes: as many as its time and its room allow."""
        count = int(CALL_SECONDS / self.seconds) if self.seconds else 1
        names = drawing.named(noise)
        drawn = drawing.shapes(names, self.network, self.stored.longest, self.batch_size).values()
        if drawn:
            count = min(count, ROOM // (4 * K * sum(map(math.prod, drawn))))
        if self.maker:
            count = min(count, self.maker.fitting(K) // self.batch_size)
        return max(1, count)

    def _fed(self, order: Tensor, seeds: Tensor) -> tuple[Feed, Tensor]:
        """Return the training examples `order` (K, count), and where each of them is."""
        if self.maker:
            return self.maker.make(order, seeds)
        return self.stored, order if order.stride(1) == 1 else order.contiguous()

    def evaluate(
        self, parameters: Tensor, index: Tensor, poll: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, right answers and predictions of parameters (k, P); see `Compute.evaluate`.

        Raises:
            MemoryError: the threads' memory could not be had.
        """
        (k, P), feed = parameters.shape, self.stored
        parameters = parameters.contiguous()
        places, batch = self._places(index)
        order = index[places].where(places >= 0, -1)
        carried = self._carried(k, batch)
        totals = torch.zeros(k, 4, dtype=torch.float64)
        answers = []
        at = 0
        while at < len(
            order
        ):  # whole chunks a call: their sums are added up in the same order as in one call
            poll()
            enough = int(CALL_SECONDS / k / self.chunk_seconds) if self.chunk_seconds else 0
            part = order[at : at + max(1 if self.task.carried else self.threads, enough) * batch]
            feed.struct.steps = int(feed.steps(part.clamp(min=0)).max())
            answers.append(torch.zeros(k, len(part), dtype=torch.int64))
            started = time.perf_counter()
            error = self._evaluate(
                shape=byref(self.shape),
                examples=byref(feed.struct),
                parameters=parameters.data_ptr(),
                order=part.data_ptr(),
                K=k,
                P=P,
                count=len(part),
                batch=batch,
                carried=carried.data_ptr() if self.task.carried else None,
                fresh=at == 0,
                totals=totals.data_ptr(),
                answers=answers[-1].data_ptr(),
                threads=self.threads,
            )
            check(error)
            self.chunk_seconds = (time.perf_counter() - started) / k * batch / len(part)
            at += len(part)
        predictions = torch.zeros(k, len(index), dtype=torch.int64)
        if self.task.goal is Goal.label:
            predictions[:, places] = torch.cat(answers, 1)
        loss, hits, _, counted = totals.unbind(1)
        return loss / counted, hits / counted, predictions

    def _places(self, index: Tensor) -> tuple[Tensor, int]:
        """Return the places in index in the order in which they are evaluated, and how many are at once.

        Examples of like length stand together. Windows of a text come as rnnbench.kernels.torch_path.windows
        has them, (windows, streams), with -1 where a stream has none.
        """
        count = len(index)
        if self.task.carried:
            length = -(-count // self.batch_size)
            starts = torch.arange(0, count, length)
            places = torch.arange(length)[:, None] + starts
            return places.where(places < count, -1).flatten(), len(starts)
        steps = self.stored.steps(index)
        longest = int(steps.max())
        batch = CHUNK if longest <= LONG else max(16, CHUNK * LONG // longest // 16 * 16)
        return torch.arange(count) if self.task.lengths is None else steps.argsort(stable=True), batch


def check(error: int) -> None:
    """Raises MemoryError or OSError where a call did nothing for want of memory or threads."""
    if error:
        kind = MemoryError if error == 12 else OSError
        raise kind(error, os.strerror(error))
