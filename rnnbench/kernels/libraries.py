"""Finds the kernels of a cell: in the library of the package, or in one that is compiled at first use.

The package's library has the stock cells as they are without options. The step of any other cell, and of a
stock cell with options, is traced and compiled for this machine alone when it is first used; the user's cache
folder keeps it.
"""

import ctypes
import hashlib
import os
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rnnbench import terminal
from rnnbench.config import Model, Nonlinearity
from rnnbench.kernels import user_cache
from rnnbench.nn import cells
from rnnbench.nn.cells import CELLS, class_of, make_cell

if TYPE_CHECKING:
    from rnnbench.kernels.generator.graph import Graph

LIBRARY = Path(__file__).parent / "stack.so"
STEPS = Path(__file__).parent / "generator" / "steps"
# The modules that make graphs, beside those of the generator.
TRACE = (
    "trace.py", "interpreter.py", "lowering.py", "lower_elementwise.py", "lower_tensors.py",
    "memory_sizes.py", "one_step.py",
)  # fmt: skip
RATES = ("recurrent_dropout", "zoneout")
SWITCHES = ("positive", "normalised", "layer_norm")


@dataclass(frozen=True)
class Kernels:
    """The kernels of one cell."""

    library: ctypes.CDLL
    cell: int  # its number in the library
    sets: tuple[str, ...]  # the instruction sets that the library has and this machine runs, the best first


@dataclass(frozen=True)
class Step:
    """A step that has a graph of its own."""

    kind: object  # the class of the cell
    name: str
    options: tuple[str, ...]  # those that are on, of all that change the graph
    own: str  # of a cell of one's own, whose step may read any of it: the model in words
    model: Model = field(compare=False)  # one that has this step

    @classmethod
    def of(cls, model: Model) -> "Step":
        """Return the step of a model."""
        kind = class_of(model.name)
        relu = ["relu"] if model.nonlinearity is Nonlinearity.relu else []
        given = (*relu, *(option for option in (*SWITCHES, *RATES) if getattr(model, option)))
        model = alike(replace(model, order=None if model.order == model.hidden_size else model.order))
        given = (*given, *(["order"] if model.order is not None else []))
        own = "" if CELLS.get(model.name) is kind else repr(model)  # a stock cell has one graph for all sizes
        return cls(kind, model.name, given, own, model)

    @property
    def stock(self) -> bool:
        """Whether it is a step of rnnbench's own."""
        return CELLS.get(self.name) is self.kind

    @property
    def file(self) -> str:
        """The name of its graph among the stock ones."""
        return "_".join([self.name, *self.options])

    @property
    def title(self) -> str:
        """Its name in a message."""
        return f"model={self.name}" + (f" with {', '.join(self.options)}" if self.options else "")


def alike(model: Model) -> Model:
    """Return the model that stands for all of which trials may train together: rates may differ.

    Whether there is recurrent dropout or weight noise at all makes another kernel.
    """
    return replace(
        model,
        budget=None,
        dropout=0.0,
        recurrent_dropout=model.recurrent_dropout and 0.5,
        weight_noise=model.weight_noise and 1.0,
    )


def find(model: Model) -> Kernels | str:
    """Return the kernels of a model's cell, compiled now if need be; or why there are none, in one line.

    Raises:
        ConfigError: the step of a cell of one's own is wrong.
    """
    return _find(Step.of(model))


def graph(model: Model) -> "Graph | str":
    """Return the graph that kernels for a card are made of; or why there are none, in one line.

    A constant of the cell that is one number stands in it as that number.

    Raises:
        ConfigError: the step of a cell of one's own is wrong.
    """
    found = _graph(Step.of(model))
    if isinstance(found, str):
        return found
    constants = make_cell(model).constants()
    if any(value.numel() > 1 for value in constants.values()):
        return f"its constants {', '.join(constants)} are read by the kernels for the CPU alone"
    return found.with_numbers({name: float(value) for name, value in constants.items()})


def card_models() -> dict[str, Model]:
    """Return a model of each stock cell that has kernels for cards, by the kernel's name."""
    from rnnbench.kernels.trace import stock_models

    return {name: model for name, model in stock_models().items() if not isinstance(graph(model), str)}


def check_step(model: Model) -> None:
    """Trace the step of a cell of one's own, if the model has one.

    Raises:
        ConfigError: the step is wrong.
    """
    step = Step.of(model)
    if not step.stock:
        _graph(step)


@cache
def _find(step: Step) -> Kernels | str:
    """Find the kernels of a step, see `find`."""
    package = library()
    if step.stock and isinstance(package, ctypes.CDLL):
        names: list[str] = package.rnnbench_cells().decode().split("\n")
        if step.file in names:
            return Kernels(package, names.index(step.file), tuple(sets(package)))
    own = None if step.stock else _graph(step)
    if isinstance(own, str):
        return own
    # Late, as below: most commands need none of them, and the modules of commands (build, trace) warn if they
    # were imported before they run.
    from rnnbench.kernels.build import BuildError, compile_library

    best = _best_set()

    def build(target: Path) -> None:
        from rnnbench.kernels.generator import c

        terminal.say(f"building kernels for {step.title} (first use, about 5 s)")
        made = _graph(step)
        if isinstance(made, str):
            raise BuildError(made)
        compile_library({made.name: c.source(made)}, [best], target)

    try:
        built = user_cache.load(_key(own.text() if own else step.file, best), build)
    except (BuildError, OSError) as error:
        return f"no compiled kernels ({_one_line(error)}); with a C compiler they are built at first use"
    return Kernels(built, 0, (best,))


@cache
def _graph(step: Step) -> "Graph | str":
    """Return the graph of a step, or why there is none."""
    text = STEPS / f"{step.file}.txt"
    if step.stock and text.exists():
        from rnnbench.kernels.generator.graph import parse

        return parse(text.read_text(encoding="utf-8"))
    from rnnbench.kernels.trace import NoKernel, graph_of

    traced = graph_of(step.model)
    return str(traced) if isinstance(traced, NoKernel) else traced


def _key(content: str, instructions: str) -> str:
    """Return what the library of a cell is built of, in 32 digits.

    Args:
        content: the graph of its step; or its name, if it is a stock cell, so that nothing has to be traced.
    """
    from rnnbench.kernels import build

    flags = [os.environ.get("CC", ""), *build.FLAGS, *build.SETS[instructions]]
    digest = hashlib.sha256("\n".join([content, build.digest(), *flags, torch.__version__]).encode())
    for source in sorted(
        [*Path(cells.__file__).parent.glob("*.py"), *(Path(__file__).with_name(name) for name in TRACE)]
    ):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:32]


def _best_set() -> str:
    """Return the best instruction set of this machine."""
    known = {"AVX512": "avx512", "AVX2": "avx2"}
    return known.get(torch.backends.cpu.get_cpu_capability(), "baseline")


def _one_line(error: Exception) -> str:
    """Return the line of an error that says why: a compiler writes many."""
    lines = str(error).splitlines()
    return next((line for line in lines if "error" in line), lines[0])


@cache
def library() -> ctypes.CDLL | str:
    """Load the library of the package, once; return why there is none that can be used, if so."""
    if not LIBRARY.exists():
        return "they were not built"
    try:
        loaded = ctypes.CDLL(str(LIBRARY))  # releases the GIL during calls
    except OSError as error:  # of another kind of machine, on a disk that they share
        return f"they cannot be loaded: {error}"
    from rnnbench.kernels.build import digest

    loaded.rnnbench_sources.restype = ctypes.c_char_p
    if loaded.rnnbench_sources().decode() != digest():
        return "they were built of other sources"
    # Not before: the library of an earlier version may lack a function.
    loaded.rnnbench_sets.restype = loaded.rnnbench_cells.restype = ctypes.c_char_p
    return loaded


def sets(loaded: ctypes.CDLL | str) -> list[str]:
    """List the instruction sets that this machine runs, the best first; none where there is no library."""
    return [] if isinstance(loaded, str) else loaded.rnnbench_sets().decode().split()
