"""Computes the graph of a step with torch, in any precision: what kernels are compared with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rnnbench.kernels.generator import graph as graphs
from rnnbench.kernels.generator.graph import Factor, Graph, Product, Value
from rnnbench.kernels.generator.units import blocks_of


@dataclass
class Step:
    """What `interpret` computes."""

    after: list[Tensor]  # (H, B) each
    before: list[Tensor]  # (H, B) each
    gradients: dict[str, Tensor]  # of each weight
    d_x: Tensor  # (input, B)


def interpret(graph: Graph, leaves: dict[str, list[Tensor]], weights: dict[str, Tensor], x: Tensor) -> Step:
    """Compute one step of one trial with torch, and its gradient.

    Args:
        leaves: (H, B) tensors by the words of `graph.LEAVES`: state, d_after, mask, zone; (M, B) of a memory.
        weights: (rows, columns) or (rows,) each, with the constants.
        x: (input, B).
    """
    values = _Values(graph, leaves, weights, x)
    for node in graph.nodes:
        values.compute(node)
    gradients = {name: torch.zeros_like(weights[name]) for name in graph.weights}
    for outer in graph.outers:
        product = values.joined(outer.left) @ values.joined(outer.right).T
        at = values.slices(outer.weight, outer.rows, outer.columns)
        gradients[outer.weight][at] += product if graph.weights[outer.weight][0] else product.sum(0)
    for each in graph.sums:
        if graph.weights[each.weight][0]:
            rows, _ = values.slices(each.weight, (each.block, each.block + 1), None)
            gradients[each.weight][rows] += values.whole(each.value).sum(1)
        else:
            gradients[each.weight] += values.blocks[each.value].expand(-1, x.shape[1]).sum()
    d_x = torch.zeros_like(x)
    for factor in graph.d_x:
        d_x += values.part(factor) @ values.joined(factor.operand)
    after, before = (
        [values.of_state(*each) for each in enumerate(ids)] for ids in (graph.after, graph.before)
    )
    return Step(after, before, gradients, d_x)


class _Values:
    """Keeps the blocks of a step that are computed by now, by id; the arguments are those of `interpret`."""

    def __init__(
        self, graph: Graph, leaves: dict[str, list[Tensor]], weights: dict[str, Tensor], x: Tensor
    ) -> None:
        self.graph, self.leaves, self.weights, self.x = graph, leaves, weights, x
        self.sizes = {"H": len(leaves["state"][0]), "M": len(leaves["state"][-1])}
        self.units = blocks_of(graph)
        self.blocks: dict[int, Tensor] = {}

    def compute(self, node: Value | Product) -> None:
        """Compute what a node makes."""
        if isinstance(node, Product):
            total = sum(self.part(factor) @ self.joined(factor.operand) for factor in node.factors)
            assert isinstance(total, Tensor)
            total = total + (self.joined(node.start) if node.start else 0)
            rows = self.sizes[self.units[node.ids[0]]]
            self.blocks |= dict(zip(node.ids, total.split(rows), strict=True))
        elif node.op in graphs.LEAVES:
            self.blocks[node.id] = self._leaf(node)
        elif node.op == graphs.SUM:
            self.blocks[node.id] = torch.stack([self.whole(i).sum(0) for i in node.args]).sum(0)[None]
        else:
            self.blocks[node.id] = computed(node.op, [self.blocks[i] for i in node.args])

    def whole(self, number: int) -> Tensor:
        """Return a block with all its rows and examples."""
        return self.blocks[number].expand(self.sizes[self.units.get(number, "H")], self.x.shape[1])

    def of_state(self, state: int, number: int) -> Tensor:
        """Return a block as that of a state."""
        return self.blocks[number].expand(self.sizes[self.graph.state_unit(state)], self.x.shape[1])

    def joined(self, ids: tuple[int, ...] | None) -> Tensor:
        """Return blocks one below the other, or x."""
        return self.x if ids is None else torch.cat([self.whole(i) for i in ids])

    def slices(
        self, weight: str, rows: tuple[int, int], columns: tuple[int, int] | None
    ) -> tuple[slice, slice]:
        """Return where the blocks of a weight are, those of its columns in a matrix."""
        up, across = (self.sizes[unit] for unit in self.graph.units_of(weight))
        wide = slice(None) if columns is None else slice(columns[0] * across, columns[1] * across)
        return slice(rows[0] * up, rows[1] * up), wide

    def part(self, factor: Factor) -> Tensor:
        """Return the part of a weight that a factor is, or its transpose; one row stands for a block."""
        weight = self.weights[factor.weight]
        if not self.graph.arrays[factor.weight][0]:
            weight = weight.expand(self.sizes[self.graph.units_of(factor.weight)[0]], -1)
        part = weight[self.slices(factor.weight, factor.rows, factor.columns)]
        return part.T if factor.transposed else part

    def _leaf(self, node: Value) -> Tensor:
        """Return what a leaf of a graph stands for, see `interpret`."""
        if node.op in ("number", "hidden"):
            return self.x.new_full((1, 1), node.index if node.op == "number" else self.sizes["H"])
        if node.op != "vector":
            return self.leaves[node.op][int(node.index)]
        vector, at = self.weights[node.name].unsqueeze(-1), int(node.index)
        if not self.graph.arrays[node.name][0]:
            return vector
        return vector[self.slices(node.name, (at, at + 1), None)]


def computed(op: str, args: list[Tensor]) -> Tensor:
    """Compute an elementwise operation of graphs with torch."""
    if op == "where":
        return torch.where(args[0] != 0, args[1], args[2])
    result: Tensor = getattr(torch, op)(*args)
    return result.to(args[0].dtype)
