"""Runs a layer whose weights stay on the chip: one program is one trial times a part of the minibatch."""

import hashlib
import linecache
from collections.abc import Callable
from functools import cache
from typing import Any

import triton
import triton.language as tl

from rnnbench.kernels.generator.graph import Graph, parse
from rnnbench.kernels.gpu.inputs import load_x
from rnnbench.kernels.gpu.layer import Layer
from rnnbench.kernels.gpu.source import Form, Writer
from rnnbench.kernels.gpu.step import kept

COLUMNS = 16  # examples of a program; a trial's bits depend on it, so that it is the same for all stacks
SMALLEST = 16  # rows and columns of a product on the chip

Kernel = Any  # a function that triton.jit made


class ResidentScan:
    """A layer's kernels that hold its weights in registers.

    Args:
        graph: of the cell's step.
        hidden_size: of the cell.
        precision: of products: ieee, tf32x3 or tf32.
        again: whether the backward pass computes gates again, and the forward pass keeps none.
    """

    def __init__(self, graph: Graph, hidden_size: int, precision: str = "ieee", again: bool = False) -> None:
        self.text, self.again = graph.text(), again
        self.hidden_size, self.precision = hidden_size, precision
        full, rows = ([], []) if again else kept(graph)
        self.kept, self.kept_rows = len(full), len(rows)
        self.weights = list(graph.weights)

    def forward(self, layer: Layer, training: bool) -> None:
        """Write outputs and summary, and where it is training what the backward pass reads."""
        self._run("forward", layer, training)

    def backward(self, layer: Layer) -> None:
        """Write the layer's gradient into `parts`, and d_x."""
        self._run("backward", layer, True)

    def _run(self, name: str, layer: Layer, training: bool) -> None:
        inputs = layer.inputs
        form = Form(
            kind=inputs.kind,
            dropped=inputs.dropout is not None,
            reverse=layer.reverse,
            reads=layer.reads,
            learned=layer.initial is not None,
            carried=layer.carried is not None,
            training=training,
            wants_d_x=layer.d_x is not None,
            add=layer.add,
        )
        (K, B), H = layer.lengths.shape, self.hidden_size
        _, T, width, _ = layer.outputs.shape
        arrays = {
            "X": inputs.data, "INDEX": inputs.index, "LENGTHS": layer.lengths, "DROPOUT": inputs.dropout,
            "PARAMETERS": layer.parameters, "MASK": layer.mask, "ZONE": layer.zone,
            "CARRIED": layer.carried, "FRESH": layer.fresh, "LEFT": layer.left, "OUTPUTS": layer.outputs,
            "OTHERS": layer.others, "KEPT": layer.kept, "KEPT_ROWS": layer.kept_rows,
            "SUMMARY": layer.summary, "D_OUTPUTS": layer.d_outputs, "D_SUMMARY": layer.d_summary,
            "D_X": layer.d_x, "PARTS": layer.parts,
        }  # fmt: skip
        numbers = {
            "T": T, "B": B, "P": layer.parameters.shape[1], "WIDTH": width, "ROW": layer.row,
            "scale": inputs.scale, "shift": inputs.shift, "zone_rate": layer.zone_rate,
            "AT_initial": layer.initial or 0,
        }  # fmt: skip
        offsets = {f"AT_{name}": layer.offsets[name] for name in self.weights}
        sizes = {
            "H": H, "HP": padded(H), "BB": COLUMNS, "INPUT": inputs.size, "XP": padded(inputs.size),
            "PRECISION": self.precision,
        }  # fmt: skip
        kernel = kernels(self.text, form, self.again)[name]
        kernel[(K, triton.cdiv(B, COLUMNS))](**arrays, **numbers, **offsets, **sizes, num_warps=warps(H))


def padded(size: int) -> int:
    """Return the power of two that a size is padded to on the chip."""
    return max(SMALLEST, int(triton.next_power_of_2(size)))


def warps(hidden_size: int) -> int:
    """Return the warps of a program: so many that the weights fit into their registers, and no more."""
    return 4 if padded(hidden_size) == SMALLEST else 8


@cache
def kernels(text: str, form: Form, again: bool) -> dict[str, Kernel]:
    """Make the kernels of the graph with this text."""
    source = Writer(parse(text), form, again).source()
    return compiled(source, ["forward", "backward"])


def compiled(source: str, names: list[str], **functions: Kernel) -> dict[str, Kernel]:
    """Make the functions of Triton that a source defines; it may call load_x and these functions.

    Triton reads a function's text again when it compiles it, so that linecache has to have it.
    """
    file = f"<rnnbench kernels {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    space: dict[str, Callable[..., None]] = {"triton": triton, "tl": tl, "load_x": load_x} | functions
    exec(compile(source, file, "exec"), space)
    return {name: space[name] for name in names}
