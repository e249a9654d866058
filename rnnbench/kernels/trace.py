"""Traces one step of a cell, forward and backward, as a graph that kernels are made of.

`graph_of` gives the graph, or says why there is none; `interpret` computes a graph with torch, for tests.

    python -m rnnbench.kernels.trace            writes the graphs of all cells of rnnbench to generator/steps
    python -m rnnbench.kernels.trace lstm gru   prints those of these cells
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from rnnbench.config import ConfigError, Model, Nonlinearity
from rnnbench.config.places import blamed, defined
from rnnbench.kernels.generator.graph import Factor, Graph, Sum
from rnnbench.kernels.generator.simplify import Builder, joined
from rnnbench.kernels.generator.units import UnitsError
from rnnbench.kernels.interpreter import interpret
from rnnbench.kernels.lower_tensors import outers_of
from rnnbench.kernels.lowering import (
    EXAMPLES,
    INPUTS,
    ROWS,
    RULES,
    SAME,
    TRIALS,
    Gradient,
    InputGradient,
    Lowering,
    Matrix,
    NoKernelError,
    Sheet,
)
from rnnbench.kernels.memory_sizes import with_memory
from rnnbench.kernels.one_step import (
    INPUT,
    Arguments,
    B,
    K,
    check_step,
    check_weights,
    has_step,
    refuse_errors,
    with_gradient,
)
from rnnbench.nn.cells import CELLS, Cell, Weights, make_cell
from rnnbench.nn.cells.cell import State

STEPS = Path(__file__).parent / "generator" / "steps"
STOCK_HIDDEN = 7  # hidden size at which the cells of rnnbench are traced; their graphs hold for any


@dataclass(frozen=True)
class NoKernel:
    """Says why a cell has no kernels: its file, and what its step uses."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def graph_of(model: Model) -> Graph | NoKernel:
    """Trace the step of the cell that a model names, with what the model's options do to it.

    Raises:
        ConfigError: the step of a cell of one's own is wrong; the message says where and what it must give.
    """
    stock = model.name in CELLS
    cell = make_cell(model)
    memory = any(size != cell.hidden_size for size in cell.sizes)
    if memory and not stock:
        return NoKernel(f"{_where(cell)}: its state has tensors of other sizes than the hidden size")
    if stock:
        cell = make_cell(replace(model, hidden_size=STOCK_HIDDEN, budget=None, order=None))
    check_step(cell)
    if not has_step(cell):
        return NoKernel(f"{_where(cell)}: computes all steps in a function of its own, which has no kernel")
    try:
        aten = _traced(cell)
        check_weights(cell)
        graph = _lowered(cell, aten)
        if memory:
            graph = with_memory(graph, cell)
    except (NoKernelError, UnitsError) as error:
        return NoKernel(f"{_where(cell)}: step {error}")
    if not stock and not agrees(cell, graph):
        return NoKernel(
            f"{_where(cell)}: step depends on more than the values of its arguments (how many trials or "
            "examples there are, or a number that it takes out of a tensor), which has no kernel"
        )
    return graph


def _where(cell: Cell) -> str:
    """Return the file of a cell's class."""
    return defined(type(cell)).rpartition(":")[0]


def _aten(cell: Cell) -> GraphModule:
    """Trace a step and its gradient as one flat ATen graph; the placeholders are those of `_placeholders`."""
    given = Arguments.of(cell)

    def joint(
        x: Tensor,
        state: State,
        named: tuple[Weights, Weights],
        noise: tuple[list[Tensor], State],
        d_after: State,
    ) -> tuple[Any, Any]:
        mask, zone = noise
        return with_gradient(cell, Arguments(x, state, *named, mask[0] if mask else None, zone, d_after))

    mask = [] if given.mask is None else [given.mask]
    traced = make_fx(joint, decomposition_table=decompositions())
    named = given.weights, given.constants
    return traced(given.x, given.state, named, (mask, given.zone), given.d_after)


def _traced(cell: Cell) -> GraphModule:
    """Trace a step that runs.

    Raises:
        ConfigError: it goes on one way or another by the values of tensors.
        NoKernelError: torch cannot trace it for another reason.
    """
    try:
        return _aten(cell)
    except Exception as error:  # torch's tracing raises anything, by what the step calls
        said = str(error)
        if "tracing tensor" in said or "data-dependent" in said.lower():
            raise ConfigError(
                f"{blamed(error) or defined(type(cell).step)}: {type(cell).__name__}.step goes on by the "
                "values of its tensors (if, while, .item(), float()); it must compute the same for all "
                "values: torch.where chooses element by element"
            ) from error
        line = next(iter(said.splitlines()), "")
        raise NoKernelError(f"cannot be traced ({type(error).__name__}: {line})") from error


def agrees(cell: Cell, graph: Graph) -> bool:
    """Return whether a graph computes a step and its gradient for other numbers and counts, too."""
    given = Arguments.of(cell, 1, B + 1)
    with refuse_errors(cell, f"a state for one trial of {B + 1} examples, too"):
        after, gradients = with_gradient(cell, given)
    full = {"state": given.state, "d_after": given.d_after, "zone": given.zone}
    leaves = {name: [part[0] for part in parts] for name, parts in full.items()}
    leaves["mask"] = [] if given.mask is None else [given.mask[0]]
    weights = {name: weight[0] for name, weight in (given.weights | given.constants).items()}
    step = interpret(graph, leaves, weights, given.x[0, 0])
    found = [*step.after, step.d_x, *step.before, *step.gradients.values()]
    expected = [*after, *gradients]
    expected[len(after)] = None if gradients[0] is None else gradients[0][0]
    return all(
        torch.allclose(torch.zeros_like(ours) if theirs is None else theirs[0], ours, 1e-3,
                       1e-4 * max(1, float(ours.abs().max())), equal_nan=True)
        for ours, theirs in zip(found, expected, strict=True)
    )  # fmt: skip


@lru_cache
def decompositions() -> dict[Any, Any]:
    """Return torch's decompositions of the operations that have no rule of their own."""
    known: dict[Any, Any] = core_aten_decompositions()
    return {op: function for op, function in known.items() if str(op.overloadpacket) not in RULES}


def _lowered(cell: Cell, aten: GraphModule) -> Graph:
    """Lower an ATen graph of a step and its gradient.

    Raises:
        NoKernelError: it has something that there are no kernels for.
    """
    graph = Graph(cell_name(cell), cell.states, weight_table(cell), constants=constant_table(cell))
    builder = Builder(graph)
    low = Lowering(builder, cell.hidden_size)
    leaves = _placeholders(cell, graph, builder)
    for node in aten.graph.nodes:
        if node.op == "placeholder":
            low.found[node] = next(leaves)
        elif node.op == "call_function":
            low.run(node)
        elif node.op == "get_attr":
            value = getattr(aten, str(node.target))
            if value.numel() != 1:
                raise NoKernelError("uses a tensor that is none of its arguments or weights")
            low.found[node] = low.constant(float(value), tuple(value.shape))
        elif node.op == "output":
            results = [None if each is None else low.found[each] for each in _flat(node.args[0])]
    _take(low, results)
    return builder.finished()


def _flat(values: Any) -> list[Any]:
    if isinstance(values, list | tuple):
        return [each for value in values for each in _flat(value)]
    return [values]


def cell_name(cell: Cell) -> str:
    """Return the name of a cell's kernel: that of the model; rnn has two, of which relu's is rnn_relu."""
    relu = cell.model.name == "rnn" and cell.model.nonlinearity is Nonlinearity.relu
    return f"{cell.model.name}_relu" if relu else cell.model.name


def weight_table(cell: Cell) -> dict[str, tuple[int, int | str | None]]:
    """Return rows and columns of each weight in blocks, as `Graph.weights` has them.

    Raises:
        NoKernelError: a weight has another shape than blocks of the hidden size.
    """
    H = cell.hidden_size
    shapes, wider = cell.all_shapes(INPUT), cell.all_shapes(INPUT + 1)
    return {
        name: _extent(f"weight {name}", shape, wider[name], H)
        for name, shape in shapes.items()
        if name != "initial"
    }


def constant_table(cell: Cell) -> dict[str, tuple[int, int | str | None]]:
    """Return rows and columns of each constant in blocks, as `Graph.constants` has them.

    Raises:
        NoKernelError: a constant has another shape than blocks of the hidden size.
    """
    shapes = {name: tuple(value.shape) for name, value in cell.constants().items()}
    return {
        name: _extent(f"constant {name}", shape, shape, cell.hidden_size) for name, shape in shapes.items()
    }


def _extent(
    name: str, shape: tuple[int, ...], wider: tuple[int, ...], H: int
) -> tuple[int, int | str | None]:
    """Return rows and columns of a weight in blocks, see `Graph.weights`.

    Args:
        wider: its shape where the input has one more feature.

    Raises:
        NoKernelError: it does not consist of blocks of the hidden size H.
    """
    columns: int | str | None = None
    if len(shape) == 2:
        columns = "input" if shape[1] != wider[1] else shape[1] // H
    one = shape == (1,) or (shape[:1] == (1,) and columns == "input" and H > 1)
    fits = len(shape) in (1, 2) and shape[0] == wider[0] and (
        one or (shape[0] % H == 0 and (columns in (None, "input") or shape[1] % H == 0))
    )  # fmt: skip
    if not fits:
        raise NoKernelError(f"has the {name} {shape}, whose sizes are no multiples of the hidden size {H}")
    return (0 if one else shape[0] // H), columns


def _placeholders(cell: Cell, graph: Graph, builder: Builder) -> Iterator[Sheet | Matrix]:
    """Generate the arguments of the ATen graph in its order, as sheets of leaves and as matrices."""
    H = cell.hidden_size

    def full(op: str, index: int = 0) -> Sheet:
        return Sheet((K, H, B), TRIALS + ROWS + EXAMPLES, (builder.leaf(op, index),))

    yield Sheet((K, 1, INPUT, B), TRIALS + SAME + INPUTS + EXAMPLES, x=True)
    for k in range(cell.states):
        yield full("state", k)
    for name, (rows, columns) in graph.arrays.items():
        if columns is None:
            blocks = tuple(builder.leaf("vector", block, name) for block in range(rows or 1))
            yield Sheet((K, rows * H or 1), TRIALS + (ROWS if rows else SAME), blocks)
        else:
            width = INPUT if columns == "input" else int(columns) * H
            yield Matrix(
                (K, rows * H or 1, width),
                name,
                (0, rows or 1),
                None if columns == "input" else (0, int(columns)),
            )
    if cell.model.recurrent_dropout:
        yield full("mask")
    for k in range(cell.states if cell.model.zoneout else 0):
        yield full("zone", k)
    for k in range(cell.states):
        yield full("d_after", k)


def _take(low: Lowering, results: list[Any]) -> None:
    """Enter the results of an ATen graph, in its order, in the graph that is built."""
    builder, graph = low.builder, low.builder.graph
    states = graph.states
    graph.after = tuple(_block(low, result) for result in results[:states])
    d_x, *rest = results[states:]
    if d_x is not None:
        graph.d_x = _rows_joined(d_x)
    graph.before = tuple(_block(low, result) for result in rest[:states])
    for (name, (_, columns)), gradient in zip(graph.weights.items(), rest[states:], strict=True):
        if gradient is None:
            continue
        if columns is not None:
            if not isinstance(gradient, Gradient):
                raise NoKernelError(f"uses the matrix {name} element by element")
            graph.outers += outers_of(gradient, name, low)
            continue
        if not gradient.summed:
            raise NoKernelError(f"uses {name} in a way whose gradient has no kernel")
        blocks = [(n, block) for n, block in enumerate(gradient.blocks) if builder.constant(block) != 0]
        graph.sums += [Sum(name, n, block) for n, block in blocks]
    graph.outers = joined(graph.outers)


def _block(low: Lowering, result: Any) -> int:
    """Return the one block of a state or of its gradient; 0 where nothing depends on it."""
    if result is None:
        return low.builder.number(0)
    sheet = low.sheet(result)
    if any(role not in (own, SAME) for role, own in zip(sheet.roles, TRIALS + ROWS + EXAMPLES, strict=True)):
        raise NoKernelError("gives a state that has rows in the place of examples")
    return sheet.blocks[0]


def _rows_joined(d_x: Any) -> tuple[Factor, ...]:
    """Return the factors of the gradient at x, those of consecutive rows of a weight as one."""
    if not isinstance(d_x, InputGradient):
        raise NoKernelError("uses the input other than in products with weights")
    found: list[Factor] = []
    for factor in sorted(d_x.factors, key=lambda each: (each.weight, each.rows)):
        last = found[-1] if found else None
        if last is not None and last.weight == factor.weight and last.rows[1] == factor.rows[0]:
            assert last.operand is not None and factor.operand is not None
            found[-1] = Factor(
                last.weight, (last.rows[0], factor.rows[1]), None, last.operand + factor.operand, True
            )
        else:
            found.append(factor)
    return tuple(found)


def stock_models() -> dict[str, Model]:
    """Return a model of each kernel of the cells of rnnbench, by the kernel's name."""
    models = {name: Model(name) for name in CELLS}
    models["rnn_relu"] = Model("rnn", nonlinearity=Nonlinearity.relu)
    models["lmu_order"] = Model("lmu", order=3)
    return models


def main(names: list[str]) -> None:
    """Write the graphs of all cells of rnnbench, or print those of some."""
    for name, model in stock_models().items():
        if names and name not in names:
            continue
        graph = graph_of(model)
        if isinstance(graph, NoKernel):
            sys.exit(str(graph))
        if names:
            print(graph.text())
        else:
            (STEPS / f"{name}.txt").write_text(graph.text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
