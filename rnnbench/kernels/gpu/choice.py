"""Chooses the kernels of a layer on a GPU."""

from rnnbench.kernels.generator.graph import Graph
from rnnbench.kernels.gpu.layer import Scan
from rnnbench.kernels.gpu.linear import LinearScan, fits
from rnnbench.kernels.gpu.scan import ResidentScan, padded
from rnnbench.kernels.gpu.tiled import TiledScan

ON_CHIP = 32  # hidden size, and inputs, up to which weights and their gradients fit the registers


def scan_for(graph: Graph, hidden_size: int, inputs: int, precision: str) -> Scan:
    """Choose the kernels of a layer of this hidden size and so many inputs.

    They depend on nothing else, so that a trial has the same bits in any stack.
    """
    if fits(graph, hidden_size):
        return LinearScan(graph, hidden_size, precision)
    if max(padded(hidden_size), padded(inputs)) <= ON_CHIP:
        return ResidentScan(graph, hidden_size, precision)
    return TiledScan(graph, hidden_size, precision)
