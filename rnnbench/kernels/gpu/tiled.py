"""Runs a layer of any hidden size, step by step: a launch computes a stage of a step, in tiles of the rows.

One program for all steps of a part of the minibatch, as `rnnbench.kernels.gpu.scan` has it, would read all
weights at each step, and leave most of a card idle where there are few trials. Launches of tiles fill it, and
cost little inside of a CUDA graph. The products with x are made for all steps beforehand and the gradients of
the weights after all steps, by products that read each weight once.
"""

from collections.abc import Iterable
from functools import cache

import torch
import triton
from torch import Tensor

from rnnbench.kernels.generator.graph import Graph, Value, made, parse
from rnnbench.kernels.gpu import products
from rnnbench.kernels.gpu.layer import LAST, MEAN, Inputs, Layer
from rnnbench.kernels.gpu.products import Moved
from rnnbench.kernels.gpu.scan import Kernel, compiled
from rnnbench.kernels.gpu.source import Form
from rnnbench.kernels.gpu.tiled_source import TiledWriter

TILE = 32  # hidden rows, examples, and rows of a product that is added up, of a program


class TiledScan:
    """A layer's kernels that compute a step in tiles.

    Args:
        graph: of the cell's step.
        hidden_size: of the cell.
        precision: of products: ieee, tf32x3 or tf32.
    """

    def __init__(self, graph: Graph, hidden_size: int, precision: str = "ieee") -> None:
        self.graph, self.text = graph, graph.text()
        self.hidden_size, self.precision = hidden_size, precision
        self.writer = TiledWriter(graph, Form())
        self.kept, self.kept_rows = len(self.writer.full), len(self.writer.rows)
        self.blocks = self.writer.blocks
        self.nodes = {number: node for node in graph.nodes for number in made(node)}
        self.arrays: dict[tuple[object, ...], Tensor] = {}  # which all layers of these kernels use in turn

    def array(self, name: str, layer: Layer, *shape: int) -> Tensor:
        """Return an array that stays where it is from call to call."""
        key = (name, layer.outputs.device, *shape)
        if key not in self.arrays:
            self.arrays[key] = layer.outputs.new_zeros(shape)
        return self.arrays[key]

    def forward(self, layer: Layer, training: bool) -> None:
        """Write outputs and summary, and where it is training what the backward pass reads."""
        scratch, H = self._scratch(layer), self.hidden_size
        for weight in dict.fromkeys(weight for weight, _ in self.writer.inputs):
            pairs = [(r, block) for (name, r), block in self.writer.inputs.items() if name == weight]
            for r, block, count in runs(pairs):
                at = layer.offsets[weight] + r * H * layer.inputs.size
                products.of_inputs(
                    layer.inputs, layer.lengths, layer.parameters, at, scratch, rows=count * H, row=H * block,
                    precision=self.precision,
                )  # fmt: skip
        initial = self._initial(layer)
        for n in range(layer.outputs.shape[1]):
            self._run("forward", layer, n, training, initial)
        self._summarise(layer)

    def backward(self, layer: Layer) -> None:
        """Write the layer's gradient into `parts`, and d_x."""
        T = layer.outputs.shape[1]
        d_states = self._d_states(layer)
        d_states.zero_()
        if layer.reads == LAST:
            assert layer.d_summary is not None
            d_states[:, (T - 1) % 2, 0] = layer.d_summary[:, layer.row : layer.row + self.hidden_size]
        initial = self._initial(layer)
        for n in reversed(range(T)):
            self._run("backward", layer, n, True, initial)
        self._gradients(layer)
        if layer.initial is not None:
            self._gradient_of_initial(layer, d_states)

    def _run(self, name: str, layer: Layer, n: int, training: bool, initial: Tensor | None) -> None:
        """Launch the stages of a step."""
        form = Form(
            reverse=layer.reverse, reads=layer.reads, learned=layer.initial is not None,
            carried=layer.carried is not None, training=training,
        )  # fmt: skip
        (K, B), H = layer.lengths.shape, self.hidden_size
        _, T, width, _ = layer.outputs.shape
        kept, rows = self._kept(layer, training)
        tiles = triton.cdiv(H, TILE)
        arrays = {
            "LENGTHS": layer.lengths, "PARAMETERS": layer.parameters, "MASK": layer.mask, "ZONE": layer.zone,
            "INITIAL": initial, "OUTPUTS": layer.outputs, "OTHERS": layer.others,
            "KEPT": kept, "KEPT_ROWS": rows, "SCRATCH": self._scratch(layer),
            "SUMS": self.array("sums", layer, K, tiles, self.writer.sums, B), "D_OUTPUTS": layer.d_outputs,
            "D_SUMMARY": layer.d_summary, "D_STATES": self._d_states(layer),
        }  # fmt: skip
        numbers = {
            "n": n, "T": T, "B": B, "P": layer.parameters.shape[1], "WIDTH": width, "ROW": layer.row,
            "BLOCKS": self.blocks, "zone_rate": layer.zone_rate,
        }  # fmt: skip
        offsets = {f"AT_{weight}": layer.offsets[weight] for weight in self.graph.weights}
        sizes = {"H": H, "TR": TILE, "BB": TILE, "DEEP": TILE, "PRECISION": self.precision}
        for function, kernel in kernels(self.text, form).items():
            if function.startswith(name):
                kernel[(K, tiles, triton.cdiv(B, TILE))](**arrays, **numbers, **offsets, **sizes, num_warps=4)

    def _kept(self, layer: Layer, training: bool) -> tuple[Tensor, Tensor]:
        """Return the arrays for what later launches read of a step; in evaluation arrays of this scan."""
        if training:
            return layer.kept, layer.kept_rows
        (K, B), T = layer.lengths.shape, layer.outputs.shape[1]
        kept = self.array("kept", layer, K, T, self.kept, self.hidden_size, B)
        return kept, self.array("kept rows", layer, K, T, self.kept_rows, B)

    def _scratch(self, layer: Layer) -> Tensor:
        """Return the blocks of values that a step leaves for later launches, (K, T, blocks * hidden, B)."""
        (K, B), T = layer.lengths.shape, layer.outputs.shape[1]
        return self.array("scratch", layer, K, T, self.blocks * self.hidden_size, B)

    def _d_states(self, layer: Layer) -> Tensor:
        """Return the gradient at the state after step n and after the one before it, each at its n % 2."""
        K, B = layer.lengths.shape
        return self.array("d_states", layer, K, 2, self.graph.states, self.hidden_size, B)

    def _initial(self, layer: Layer) -> Tensor | None:
        """Return the state before the first step, (K, states, hidden, B); None: it is 0."""
        if layer.initial is None and layer.carried is None:
            return None
        (K, B), H, states = layer.lengths.shape, self.hidden_size, self.graph.states
        initial = self.array(f"initial {layer.reverse}", layer, K, states, H, B)
        if layer.initial is None:
            initial.zero_()
        else:
            own = layer.parameters[:, layer.initial : layer.initial + states * H]
            initial.copy_(own.view(K, states, H, 1).expand_as(initial))
        if layer.carried is not None and layer.fresh is not None:
            initial.copy_(torch.where(layer.fresh != 0, initial, layer.carried))
        return initial

    def _summarise(self, layer: Layer) -> None:
        """Write what is read of the layer at its end, and the state that it hands on."""
        steps = layer.lengths
        last = torch.zeros_like(steps) if layer.reverse else (steps - 1).clamp(min=0)  # (K, B)
        own = layer.outputs[:, :, layer.row : layer.row + self.hidden_size]
        summary = layer.summary[:, layer.row : layer.row + self.hidden_size]
        if layer.reads == MEAN:
            products.mean_of_steps(own, steps, summary)
        elif layer.reads == LAST:
            summary.copy_(torch.where((steps > 0)[:, None], at_step(own, last), 0.0))
        if layer.left is not None:
            layer.left[:, 0] = at_step(own, last)
            for s in range(1, self.graph.states):
                layer.left[:, s] = at_step(layer.others[:, :, s - 1], last)

    def _gradients(self, layer: Layer) -> None:
        """Write the gradients of the weights, and d_x."""
        lefts = self.writer.lefts
        written: set[tuple[str, int, int | None]] = set()
        for outer in self.graph.outers:
            pairs = list(zip(range(*outer.rows), (lefts[left] for left in outer.left), strict=True))
            for n, c in enumerate([None] if outer.columns is None else range(*outer.columns)):
                right = None if outer.right is None else outer.right[n]
                for add in (False, True):  # several outer products may be added to one block
                    some = [pair for pair in pairs if ((outer.weight, pair[0], c) in written) is add]
                    for r, block, count in runs(some):
                        self._outer(layer, outer.weight, (r, c), left=(block, count), right=right, add=add)
            columns = [None] if outer.columns is None else range(*outer.columns)
            written |= {(outer.weight, r, c) for r, _ in pairs for c in columns}
        self._totals(layer)
        if layer.d_x is not None:
            self._down(layer, layer.d_x)

    def _outer(
        self, layer: Layer, weight: str, at: tuple[int, int | None], *,
        left: tuple[int, int], right: int | None, add: bool,
    ) -> None:  # fmt: skip
        """Write the gradient of blocks of a weight that stand below each other.

        Args:
            layer: whose weight it is.
            weight: its name.
            at: row and column of the first block; column None: of all columns of x.
            left: the first block of scratch, and how many.
            right: of the outer product; None: x.
            add: whether there is a gradient already.
        """
        (r, c), (block, count), H = at, left, self.hidden_size
        columns = layer.inputs.size if c is None else H
        stride = columns if c is None else int(self.graph.weights[weight][1] or 0) * H
        operand, first = self._right(layer, right)
        products.outer(
            self._scratch(layer), operand, layer.lengths, layer.parts,
            layer.offsets[weight] + r * H * stride + (c or 0) * H,
            rows=count * H, row=H * block, columns=columns, column=first, stride=stride, add=add,
            precision=self.precision,
        )  # fmt: skip

    def _totals(self, layer: Layer) -> None:
        """Write the gradients of vectors and of numbers."""
        H, scratch, values = self.hidden_size, self._scratch(layer), list(self.writer.lefts)
        first: dict[tuple[str, int], int] = {}  # the first sum of each block; others are added to it
        again: list[tuple[str, int, int]] = []
        for each in self.graph.sums:
            left = self.writer.lefts[each.value]
            if (each.weight, each.block) in first:
                again.append((each.weight, each.block, left))
            first.setdefault((each.weight, each.block), left)
        for name, (rows, _) in self.graph.weights.items():
            pairs = [(block, left) for (weight, block), left in first.items() if weight == name]
            more = [(block, left) for weight, block, left in again if weight == name]
            for add, some in ((False, pairs), (True, more)):
                for block, left, count in runs(some):
                    once = rows == 0 and self.writer.shapes[values[left]] in (
                        "row",
                        "one",
                    )  # not for each row
                    products.total(
                        scratch, layer.lengths, layer.parts, layer.offsets[name] + H * block,
                        rows=1 if once else count * H, row=H * left, whole=rows == 0, add=add,
                    )  # fmt: skip

    def _down(self, layer: Layer, d_x: Tensor) -> None:
        """Write the gradient at x."""
        H, add = self.hidden_size, layer.add
        if not (self.graph.d_x or add):  # a step that does not read x
            d_x.zero_()
        for factor in self.graph.d_x:
            lefts = (self.writer.lefts[left] for left in factor.operand or ())
            for r, block, count in runs(list(zip(range(*factor.rows), lefts, strict=True))):
                products.down(
                    self._scratch(layer), layer.lengths, layer.parameters,
                    layer.offsets[factor.weight] + r * H * layer.inputs.size, d_x,
                    rows=count * H, row=H * block, add=add, dropout=layer.inputs.dropout,
                    precision=self.precision,
                )  # fmt: skip
                add = True

    def _right(self, layer: Layer, number: int | None) -> tuple[Inputs | Moved, int]:
        """Return the right side of an outer product, and the first of its rows that counts; None: x."""
        H = self.hidden_size
        if number is None:
            return layer.inputs, 0
        node = self.nodes[number]
        if isinstance(node, Value) and node.op == "state":
            s, initial = int(node.index), self._initial(layer)
            before = None if initial is None else initial[:, s]
            if s == 0:
                return Moved(layer.outputs, layer.reverse, before), layer.row
            K, T, others, _, B = layer.others.shape
            return Moved(layer.others.view(K, T, others * H, B), layer.reverse, before), (s - 1) * H
        scratch = self._scratch(layer)
        return Inputs(0, scratch, scratch.shape[2], layer.lengths), H * self.writer.lefts[number]

    def _gradient_of_initial(self, layer: Layer, d_states: Tensor) -> None:
        """Write the gradient of a learned state before the first step."""
        (K, B), size = layer.lengths.shape, self.graph.states * self.hidden_size
        if layer.fresh is not None and layer.carried is not None:
            d_states = d_states * (layer.fresh != 0)
        once = torch.ones_like(layer.lengths)
        assert layer.initial is not None
        products.total(
            d_states.view(K, 1, 2 * size, B), once, layer.parts, layer.initial, rows=size, row=size
        )


def runs(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return where pairs that count up together begin, and how many they are: (1, 5), (2, 6) is (1, 5, 2)."""
    found: list[tuple[int, int, int]] = []
    for a, b in pairs:
        if found and (a, b) == (found[-1][0] + found[-1][2], found[-1][1] + found[-1][2]):
            found[-1] = *found[-1][:2], found[-1][2] + 1
        else:
            found.append((a, b, 1))
    return found


def at_step(values: Tensor, step: Tensor) -> Tensor:
    """Return values (K, T, rows, B) at a step (K, B) of each example: (K, rows, B)."""
    K, _, rows, B = values.shape
    return values.gather(1, step.view(K, 1, 1, B).expand(K, 1, rows, B)).squeeze(1)


@cache
def kernels(text: str, form: Form) -> dict[str, Kernel]:
    """Make the kernels of the graph with this text, in the order of their stages."""
    writer = TiledWriter(parse(text), form)
    stages = (("forward", writer.forward), ("backward", writer.backward))
    names = [f"{name}_{at}" for name, half in stages for at in range(len(half.values))]
    return compiled(writer.source(), names)
