"""Finds how many rows each block of a graph has: as many as hidden units, H, or as the memory has numbers, M.

The step of a cell whose memory has another size than the hidden size (lmu) has the graph that it has where
both are equal; only the sizes differ. Blocks that come together element by element have one size, and the
weights and the state say which. A graph without such a memory has blocks of H alone.
"""

from dataclasses import replace

from .graph import SUM, Graph, Product

Group = int | str  # a block, "rows NAME" of a weight of one row, or a unit


class UnitsError(Exception):
    """Blocks of both sizes come together, or a product has several blocks."""


def blocks_of(graph: Graph) -> dict[int, str]:
    """Return the unit, H or M, of each block that has rows of its own: full blocks and columns.

    Raises:
        UnitsError: blocks of both sizes come together.
    """
    shapes = graph.shapes()
    sized = [number for number, shape in shapes.items() if shape in ("full", "column")]
    if not graph.memory:
        return dict.fromkeys(sized, "H")
    roots = _roots(graph)
    return {number: _unit(roots, number) for number in sized}


def with_rows(graph: Graph) -> Graph:
    """Return a graph that says, of a weight of one row, which block it stands for.

    Raises:
        UnitsError: blocks of both sizes come together.
    """
    roots = _roots(graph)
    found = {
        name: (_unit(roots, f"rows {name}"), "H")
        for name, (rows, columns) in graph.weights.items()
        if not rows and columns is not None
    }
    return replace(graph, units=graph.units | found)


def _unit(roots: dict[Group, Group], group: Group) -> str:
    return "M" if _root(roots, group) == _root(roots, "M") else "H"


def _root(roots: dict[Group, Group], group: Group) -> Group:
    while (above := roots.setdefault(group, group)) != group:
        group = above
    return group


def _roots(graph: Graph) -> dict[Group, Group]:
    """Return what each block is equal to in size, directly or by others.

    Raises:
        UnitsError: blocks of both sizes come together, or a product has several blocks.
    """
    roots: dict[Group, Group] = {}
    for together in _equal(graph):
        first, *others = together
        for other in others:
            roots[_root(roots, other)] = _root(roots, first)
    if _root(roots, "H") == _root(roots, "M"):
        raise UnitsError("brings hidden units and numbers of the memory together element by element")
    return roots


def _equal(graph: Graph) -> list[list[Group]]:
    """Return groups of blocks of one size, with the unit where it is known."""
    shapes = graph.shapes()

    def rows(name: str) -> Group:
        return graph.units_of(name)[0] if graph.arrays[name][0] or name in graph.units else f"rows {name}"

    found: list[list[Group]] = []
    for node in graph.nodes:
        if isinstance(node, Product):
            if len(node.ids) > 1:
                raise UnitsError("has a product of several blocks beside a memory of another size")
            found.append([*node.ids, *(i for i in node.start if shapes[i] in ("full", "column"))])
            for factor in node.factors:
                up, across = rows(factor.weight), graph.units_of(factor.weight)[1]
                found.append([node.ids[0], across if factor.transposed else up])
                found.append([*(factor.operand or ()), up if factor.transposed else across])
        elif node.op in ("state", "d_after", "zone"):
            found.append([node.id, graph.state_unit(int(node.index))])
        elif node.op == "mask":
            found.append([node.id, "H"])
        elif node.op == "vector":
            found.append([node.id, graph.units_of(node.name)[0]] if shapes[node.id] == "column" else [])
        else:
            sized: list[Group] = [arg for arg in node.args if shapes[arg] in ("full", "column")]
            found.append(sized if node.op == SUM or not sized else [node.id, *sized])
    for outer in graph.outers:
        found += [[*outer.left, rows(outer.weight)], [*(outer.right or ()), graph.units_of(outer.weight)[1]]]
    found += [[*(factor.operand or ()), rows(factor.weight)] for factor in graph.d_x]
    for ids in (graph.after, graph.before):
        found += [[number, graph.state_unit(k)] for k, number in enumerate(ids)]
    return [group for group in found if group]
