"""Runs a layer whose step is linear in its state: all steps of a chunk side by side, by a scan over time."""

from functools import cache

import triton
from torch import Tensor

from rnnbench.kernels.generator.graph import Factor, Graph, Outer, parse
from rnnbench.kernels.gpu import products
from rnnbench.kernels.gpu.coefficients import linear
from rnnbench.kernels.gpu.layer import Layer
from rnnbench.kernels.gpu.linear_source import LinearWriter, Places, whole
from rnnbench.kernels.gpu.scan import COLUMNS, Kernel, compiled
from rnnbench.kernels.gpu.source import Form

TILE = 1024  # elements of a block that a program computes at once
EACH = 8  # elements of a block that a thread holds: more of them do not fit its registers
LONGEST = 32  # steps of a chunk
LARGEST = 128  # hidden size whose rows all fit the registers of a program


@triton.jit
def then(a, b, a_later, b_later):
    """Combine two steps h -> a h + b, one after the other."""
    return a * a_later, a_later * b + b_later


@triton.jit
def back(p, q, a, p_before, q_before, a_before):
    """Combine two steps of the gradient, the later step in time first.

    A step gets the gradient d at its state from behind, has p d + q in all, and hands on a times that.
    """
    return p_before * a * p, p_before * a * q + q_before, a_before


@triton.jit
def back_and_more(p, q, a, more, p_before, q_before, a_before, more_before):
    """Combine two steps of the gradient as `back` does, where a step hands on a times its own and `more`."""
    return p_before * a * p, p_before * (a * q + more) + q_before, a_before, more_before


class LinearScan:
    """A layer's kernels that are parallel over time.

    Args:
        graph: of the cell's step, for which there are `linear` coefficients.
        hidden_size: of the cell.
        precision: of products: ieee, tf32x3 or tf32.
    """

    def __init__(self, graph: Graph, hidden_size: int, precision: str = "ieee") -> None:
        self.graph, self.text = graph, graph.text()
        self.hidden_size, self.precision = hidden_size, precision
        self.places = Places(graph)
        self.kept, self.kept_rows = self.places.kept, 0
        self.arrays: dict[tuple[object, ...], Tensor] = {}  # for products with x in evaluation

    def forward(self, layer: Layer, training: bool) -> None:
        """Write outputs and summary, and where it is training what the backward pass reads."""
        kept, H = self._kept(layer, training), self.hidden_size
        for factor, block in self.places.products.items():
            products.of_inputs(
                layer.inputs, layer.lengths, layer.parameters, self._at(layer, factor), rows_of(kept),
                rows=H * (factor.rows[1] - factor.rows[0]), row=H * block, precision=self.precision,
            )  # fmt: skip
        self._run("forward", layer, kept, training)

    def backward(self, layer: Layer) -> None:
        """Write the layer's gradient into `parts`, and d_x."""
        self._run("backward", layer, layer.kept, True)
        lefts, inputs, H = rows_of(layer.kept), layer.inputs, self.hidden_size
        for outer in self.graph.outers:
            products.outer(
                lefts, inputs, layer.lengths, layer.parts, self._at(layer, outer),
                rows=H * len(outer.left), row=H * self.places.lefts[outer.left],
                columns=inputs.size, stride=inputs.size, precision=self.precision,
            )  # fmt: skip
        for number, factor in enumerate(self.graph.d_x if layer.d_x is not None else ()):
            assert layer.d_x is not None and factor.operand is not None
            products.down(
                lefts, layer.lengths, layer.parameters, self._at(layer, factor), layer.d_x,
                rows=H * len(factor.operand), row=H * self.places.lefts[factor.operand],
                add=layer.add or number > 0, dropout=inputs.dropout, precision=self.precision,
            )  # fmt: skip

    def _at(self, layer: Layer, part: Factor | Outer) -> int:
        """Return where in a row of parameters these rows of a weight begin."""
        return layer.offsets[part.weight] + part.rows[0] * self.hidden_size * layer.inputs.size

    def _kept(self, layer: Layer, training: bool) -> Tensor:
        """Return the array for products with x; in evaluation, when nothing is kept, one of this scan."""
        if training:
            return layer.kept
        (K, B), T = layer.lengths.shape, layer.outputs.shape[1]
        shape = K, T, self.places.count, self.hidden_size, B
        key = *shape, layer.outputs.device
        if key not in self.arrays:
            self.arrays[key] = layer.outputs.new_empty(shape)
        return self.arrays[key]

    def _run(self, name: str, layer: Layer, kept: Tensor, training: bool) -> None:
        form = Form(
            reverse=layer.reverse,
            reads=layer.reads,
            learned=layer.initial is not None,
            carried=layer.carried is not None,
            training=training,
        )
        (K, B), H = layer.lengths.shape, self.hidden_size
        _, T, width, _ = layer.outputs.shape
        arrays = {
            "LENGTHS": layer.lengths, "PARAMETERS": layer.parameters, "ZONE": layer.zone,
            "CARRIED": layer.carried, "FRESH": layer.fresh, "LEFT": layer.left, "OUTPUTS": layer.outputs,
            "OTHERS": layer.others, "KEPT": kept, "SUMMARY": layer.summary,
            "D_OUTPUTS": layer.d_outputs, "D_SUMMARY": layer.d_summary, "PARTS": layer.parts,
        }  # fmt: skip
        numbers = {
            "T": T, "B": B, "P": layer.parameters.shape[1], "WIDTH": width, "ROW": layer.row,
            "zone_rate": layer.zone_rate, "AT_initial": layer.initial or 0,
        }  # fmt: skip
        offsets = {f"AT_{weight}": layer.offsets[weight] for weight in self.graph.weights}
        steps, rows, warps = tile(T, H, whole(self.graph))
        sizes = {"H": H, "TT": steps, "HT": rows, "BB": COLUMNS}
        kernel = kernels(self.text, form)[name]
        grid = K, triton.cdiv(H, rows), triton.cdiv(B, COLUMNS)
        kernel[grid](**arrays, **numbers, **offsets, **sizes, num_warps=warps)


def fits(graph: Graph, hidden_size: int) -> bool:
    """Return whether `LinearScan` is for this step at this hidden size."""
    small = hidden_size <= LARGEST or not whole(graph)
    return small and bool(graph.d_x) and linear(graph) is not None


def tile(T: int, hidden_size: int, all_rows: bool) -> tuple[int, int, int]:
    """Return the steps and the hidden rows that a program computes at once, and its warps.

    The order in which a scan combines steps follows from these, so they depend on the trial alone.
    """
    steps, rows = min(LONGEST, int(triton.next_power_of_2(T))), int(triton.next_power_of_2(hidden_size))
    if all_rows:
        steps = max(1, min(steps, 2 * TILE // (rows * COLUMNS)))
    else:
        rows = min(rows, TILE // (steps * COLUMNS))
    return steps, rows, max(4, steps * rows * COLUMNS // (32 * EACH))


def rows_of(kept: Tensor) -> Tensor:
    """View what is kept as (K, T, rows, B)."""
    K, T, blocks, H, B = kept.shape
    return kept.view(K, T, blocks * H, B)


@cache
def kernels(text: str, form: Form) -> dict[str, Kernel]:
    """Make the kernels of the graph with this text."""
    coefficients = linear(parse(text))
    assert coefficients is not None
    source = LinearWriter(coefficients, form).source()
    functions = {"then": then, "back": back, "back_and_more": back_and_more}
    return compiled(source, ["forward", "backward"], **functions)
