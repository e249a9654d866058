"""Computes the graph of a step with torch, in any precision: what kernels are compared with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rnnbench.kernels.generator import graph as graphs
from rnnbench.kernels.generator.graph import Factor, Graph, Product


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
        leaves: (H, B) tensors by the words of `graph.LEAVES`: state, d_after, mask, zone.
        weights: (rows, columns) or (rows,) each, with the constants.
        x: (input, B).
    """
    H, B = leaves["state"][0].shape
    blocks: dict[int, Tensor] = {}

    def part(factor: Factor) -> Tensor:
        return _part(factor, graph, weights, H)

    def joined_blocks(ids: tuple[int, ...] | None) -> Tensor:
        return x if ids is None else torch.cat([blocks[i].expand(H, B) for i in ids])

    for node in graph.nodes:
        if isinstance(node, Product):
            total = sum(part(factor) @ joined_blocks(factor.operand) for factor in node.factors)
            assert isinstance(total, Tensor)
            total = total + (joined_blocks(node.start) if node.start else 0)
            blocks |= dict(zip(node.ids, total.split(H), strict=True))
        elif node.op in graphs.LEAVES:
            blocks[node.id] = _leaf(node, graph, leaves, weights, x)
        elif node.op == graphs.SUM:
            blocks[node.id] = torch.stack([blocks[i].expand(H, B) for i in node.args]).sum((0, 1))[None]
        else:
            blocks[node.id] = computed(node.op, [blocks[i] for i in node.args])
    gradients = {name: torch.zeros_like(weights[name]) for name in graph.weights}
    for outer in graph.outers:
        rows = gradients[outer.weight][outer.rows[0] * H : outer.rows[1] * H]
        columns = slice(None) if outer.columns is None else slice(outer.columns[0] * H, outer.columns[1] * H)
        product = joined_blocks(outer.left) @ joined_blocks(outer.right).T
        rows[:, columns] += product if graph.weights[outer.weight][0] else product.sum(0)
    for each in graph.sums:
        one = graph.weights[each.weight][0] == 0
        total = blocks[each.value].expand(-1, B).sum() if one else blocks[each.value].expand(H, B).sum(1)
        gradients[each.weight][slice(None) if one else slice(each.block * H, (each.block + 1) * H)] += total
    d_x = torch.zeros_like(x)
    for factor in graph.d_x:
        d_x += part(factor) @ joined_blocks(factor.operand)
    after, before = ([blocks[i].expand(H, B) for i in ids] for ids in (graph.after, graph.before))
    return Step(after, before, gradients, d_x)


def _part(factor: Factor, graph: Graph, weights: dict[str, Tensor], H: int) -> Tensor:
    """Return the part of a weight that a factor is, or its transpose; one row stands for a block."""
    top, bottom = factor.rows
    weight = weights[factor.weight][top * H : bottom * H]
    if not graph.arrays[factor.weight][0]:
        weight = weight.expand(H, -1)
    if factor.columns is not None:
        weight = weight[:, factor.columns[0] * H : factor.columns[1] * H]
    return weight.T if factor.transposed else weight


def _leaf(
    node: graphs.Value, graph: Graph, leaves: dict[str, list[Tensor]], weights: dict[str, Tensor], x: Tensor
) -> Tensor:
    """Return what a leaf of a graph stands for, see `interpret`."""
    H = leaves["state"][0].shape[0]
    if node.op in ("number", "hidden"):
        return x.new_full((1, 1), node.index if node.op == "number" else H)
    if node.op != "vector":
        return leaves[node.op][int(node.index)]
    vector, at = weights[node.name].unsqueeze(-1), int(node.index) * H
    return vector[at : at + H] if graph.arrays[node.name][0] else vector


def computed(op: str, args: list[Tensor]) -> Tensor:
    """Compute an elementwise operation of graphs with torch."""
    if op == "where":
        return torch.where(args[0] != 0, args[1], args[2])
    result: Tensor = getattr(torch, op)(*args)
    return result.to(args[0].dtype)
