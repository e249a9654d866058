"""Says which sizes of a cell's weights are those of its memory, where it need not have the hidden size."""

from dataclasses import replace

from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.generator.units import with_rows
from rnnbench.nn.cells import Cell, make_cell


def with_memory(graph: Graph, cell: Cell) -> Graph:
    """Return the graph of a cell that was traced with a memory of the hidden size, for one of any size.

    The sizes that change with model.order are those of the memory.

    Raises:
        UnitsError: the step brings hidden units and numbers of the memory together element by element.
    """
    shapes, larger = _shapes(cell), _shapes(make_cell(replace(cell.model, order=cell.hidden_size + 1)))
    units = {}
    for name in graph.arrays:
        pairs = zip((*shapes[name], 1)[:2], (*larger[name], 1)[:2], strict=True)
        rows, columns = ["HM"[one != other] for one, other in pairs]
        if "M" in (rows, columns):
            units[name] = rows, columns
    return with_rows(replace(graph, name=f"{graph.name}_order", units=units, memory=True))


def _shapes(cell: Cell) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a cell's weights and constants."""
    return cell.all_shapes(1) | {name: tuple(value.shape) for name, value in cell.constants().items()}
