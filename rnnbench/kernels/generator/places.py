"""Writes in C where things stand: blocks, weights, arrays, in the text of one cell.

In it `n` is the floats from one block to the next, `e` an element of a block, `t` the step that is computed.
"""

import re
from collections.abc import Iterable, Sequence

from .graph import Factor, Graph
from .schedule import Half, Place, Plan

Lines = list[str]

# Where the blocks of a place begin: the first, if it stands apart, and all others.
ARRAYS = {
    "state": ("h_before", "states_before"),
    "after": ("h", "states_after"),
    "kept": ("kept",),
    "made": ("made",),
    "turned": ("d",),
    "mask": ("call->mask",),
    "zone": ("zone",),
    "d_after": ("d_after",),
    "before": ("d_before",),
    "row": ("rows",),
    "kept_row": ("kept_rows",),
}


def identifier(name: str) -> str:
    """Return what stands for a cell in the names of its functions."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def indented(lines: Iterable[str]) -> Lines:
    return [f"    {line}" if line else line for line in lines]


def braced(head: str, lines: Iterable[str]) -> Lines:
    return [f"{head} {{", *indented(lines), "}"]


def times(count: int, what: str) -> str:
    return what if count == 1 else f"{count} * {what}"


def plus(array: str, count: int, what: str) -> str:
    return f"{array} + {times(count, what)}" if count else array


def pointer(place: Place, size: str = "n") -> str:
    """Return the pointer to a block."""
    array, number = place
    names = ARRAYS[array]
    if len(names) == 1:
        return plus(names[0], number, size)
    return plus(names[1], number - 1, size) if number else names[0]


def runs(places: Sequence[Place]) -> list[tuple[int, int]]:
    """Divide blocks into runs that stand side by side: the first of each, and how many."""
    before = [None, *places[:-1]]
    apart = [
        n for n, (array, number) in enumerate(places)
        if before[n] != (array, number - 1) or (len(ARRAYS[array]) == 2 and number == 1)
    ]  # fmt: skip
    return [(start, end - start) for start, end in zip(apart, [*apart[1:], len(places)], strict=True)]


def operand(half: Half, numbers: Sequence[int]) -> list[tuple[int, int, Place]]:
    """Divide the blocks of an operand into runs: the first, how many, and where the run stands."""
    places = [half.blocks[number] for number in numbers]
    return [(first, count, places[first]) for first, count in runs(places)]


def weight_size(graph: Graph, weight: str) -> str:
    """Return the floats of a weight."""
    rows, columns = graph.arrays[weight]
    if not rows:
        return "I" if columns else "1"
    size = times(rows, graph.units_of(weight)[0])
    return size + (f" * {_width(graph, weight)}" if columns is not None else "")


def weight_width(graph: Graph, weight: str) -> str:
    """Return the floats between the rows of a weight; 0 of one row that stands for a block of them."""
    return _width(graph, weight) if graph.arrays[weight][0] else "0"


def _width(graph: Graph, weight: str) -> str:
    """Return the floats of a row."""
    columns = graph.arrays[weight][1]
    if columns is None:
        return "1"
    return "I" if isinstance(columns, str) else times(columns, graph.units_of(weight)[1])


def extent(graph: Graph, factor: Factor) -> tuple[str, str]:
    """Return the rows and the columns of a part of a weight."""
    up, across = graph.units_of(factor.weight)
    rows = times(factor.rows[1] - factor.rows[0], up)
    return rows, "I" if factor.columns is None else times(factor.columns[1] - factor.columns[0], across)


def stride(graph: Graph) -> str:
    """Return the rows from one block to the next: of the larger size, where there are two."""
    return "S" if graph.memory else "H"


def weight_part(half: Half, factor: Factor, prefix: str = "w_") -> str:
    """Return the pointer to a part of a weight."""
    part = f"{prefix}{factor.weight}"
    up, across = half.graph.units_of(factor.weight)
    if factor.rows[0]:
        part += f" + {times(factor.rows[0], up)} * {weight_width(half.graph, factor.weight)}"
    return part if factor.columns is None else plus(part, factor.columns[0], across)


def exchanged_name(factor: Factor) -> str:
    numbers = factor.rows + (factor.columns or ())
    return "_".join(["down" if factor.columns is None else "back", factor.weight, *map(str, numbers)])


def exchange(half: Half, factor: Factor) -> str:
    rows, columns = extent(half.graph, factor)
    width = weight_width(half.graph, factor.weight)
    part, to = weight_part(half, factor), exchanged_name(factor)
    return f"transpose({rows}, {columns}, {part}, {width}, {to}, {rows});"


def some(*arrays: tuple[str, int, str]) -> dict[str, str]:
    """Return the floats of arrays that have any: their name, how many blocks they have, the size of one."""
    return {name: times(count, size) for name, count, size in arrays if count}


def taken(arrays: dict[str, str], base: str) -> Lines:
    """Write the arrays one after the other, beginning at `base`."""
    lines, before = [], base
    for array, size in arrays.items():
        lines.append(f"float *const {array} = {before};")
        before = f"{array} + up_16({size})"
    return lines


def extents(order: Plan, turned: bool = True) -> Lines:
    rows = "H = call->H, I = call->inputs"
    if order.graph.memory:
        rows += ", M = call->M, S = H > M ? H : M"
    lines = [f"const long T = call->T, N = call->N, {rows}, n = {stride(order.graph)} * N;"]
    if turned:
        size = times(len(order.turned), stride(order.graph))
        lines.append(f"const long all = up_16({size}) + 16;  // a row of `turned`")
    return lines


def weights_of(graph: Graph, weights: Iterable[str], base: str, prefix: str) -> Lines:
    """Write where each weight of a layer, or each constant, begins."""
    lines, before = [], base
    for weight in weights:
        lines.append(f"{'const ' if prefix == 'w_' else ''}float *const {prefix}{weight} = {before};")
        before = f"{prefix}{weight} + {weight_size(graph, weight)}"
    return lines
