"""The variants of the LSTM that Greff et al. compared (2015, arXiv 1503.04069).

Vanilla, of which each other takes something away (np, no peepholes, is `lstm`):

    z = tanh(W_z x + R_z h- + b_z)               block input
    i = s(W_i x + R_i h- + p_i * c- + b_i)       input gate
    f = s(W_f x + R_f h- + p_f * c- + b_f)       forget gate
    c = z * i + c- * f
    o = s(W_o x + R_o h- + p_o * c + b_o)        output gate
    h = tanh(c) * o

x (input, B); h, c, the gates and the peepholes p (hidden, B or 1). weight_ih stacks the W by rows, in the
order z, i, f, o without what a variant lacks; weight_hh the R; peephole the p. Parameters of a layer with
g blocks and p peepholes: hidden (g (input + hidden + 1) + p).
"""

from typing import ClassVar

import torch
from torch import Tensor

from rnnbench.nn.cells.cell import Cell, Layer, State


class Vanilla(Cell):
    """lstm_peephole: all of it. Parameters of a layer: hidden (4 (input + hidden + 1) + 3)."""

    name = "lstm_peephole"
    blocks: ClassVar[str] = "zifo"
    peepholes: ClassVar[str] = "ifo"
    gates, states, candidate = 4, 2, 0
    forget_gate: ClassVar[int | None] = 2
    activations: ClassVar[tuple[str, ...]] = ("i", "f", "z", "tanh(c)", "o")

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        return super().shapes(input_size) | {"peephole": (len(self.peepholes) * self.hidden_size,)}

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        (h, c), H = state[:2], self.hidden_size
        early = [name for name in "if" if name in self.blocks]  # the gates that see c-; o sees c
        end = len(early) * H
        sizes = [H, end, H] if "o" in self.blocks else [H, end]
        z, gates, *o = self.recurrent_input(h, state, a, layer).split(sizes, 1)
        peephole = layer.part("peephole", 0, end)
        gates = torch.addcmul(gates, peephole, torch.cat([c] * len(early), 1)).sigmoid()
        i, f = self.input_and_forget(dict(zip(early, gates.split(H, 1), strict=True)))
        z = self.input_activation(z)
        c = (z if i is None else z * i) + (c if f is None else c * f)
        h = self.output_activation(c)
        if not o:
            return self.after(h, c, i, f)
        out = torch.addcmul(o[0], layer.part("peephole", end, end + H), c).sigmoid()
        return self.after(h * out, c, i, f, out)

    def recurrent_input(self, h: Tensor, state: State, a: Tensor, layer: Layer) -> Tensor:
        """Compute W x + R h- + b of all blocks."""
        return layer.recurrent(h, a)

    def input_and_forget(self, gates: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Compute the gates i and f; None for a gate that a variant lacks, which means 1."""
        return gates.get("i"), gates.get("f")

    def input_activation(self, z: Tensor) -> Tensor:
        """Apply tanh."""
        return z.tanh()

    def output_activation(self, c: Tensor) -> Tensor:
        """Apply tanh."""
        return c.tanh()

    def after(self, h: Tensor, c: Tensor, *gates: Tensor | None) -> State:
        """Return the state after the step."""
        return h, c


class NIG(Vanilla):
    """No input gate: i = 1. Parameters of a layer: hidden (3 (input + hidden + 1) + 2)."""

    name = "nig"
    blocks, peepholes, gates, forget_gate = "zfo", "fo", 3, 1
    activations = ("f", "z", "tanh(c)", "o")


class NFG(Vanilla):
    """No forget gate: f = 1. Parameters of a layer: hidden (3 (input + hidden + 1) + 2)."""

    name = "nfg"
    blocks, peepholes, gates, forget_gate = "zio", "io", 3, None
    activations = ("i", "z", "tanh(c)", "o")


class NOG(Vanilla):
    """No output gate: o = 1. Parameters of a layer: hidden (3 (input + hidden + 1) + 2)."""

    name = "nog"
    blocks, peepholes, gates = "zif", "if", 3
    activations = ("i", "f", "z")


class NIAF(Vanilla):
    """No input activation function: z = W_z x + R_z h- + b_z. As many parameters as vanilla."""

    name = "niaf"
    activations = ("i", "f", "tanh(c)", "o")

    def input_activation(self, z: Tensor) -> Tensor:
        """Apply no function."""
        return z


class NOAF(Vanilla):
    """No output activation function: h = c * o. As many parameters as vanilla."""

    name = "noaf"
    activations = ("i", "f", "z", "o")

    def output_activation(self, c: Tensor) -> Tensor:
        """Apply no function."""
        return c


class CIFG(Vanilla):
    """Coupled input and forget gate: f = 1 - i.

    Parameters of a layer: hidden (3 (input + hidden + 1) + 2).
    """

    name = "cifg"
    blocks, peepholes, gates, forget_gate = "zio", "io", 3, None
    activations = ("i", "z", "tanh(c)", "o")

    def input_and_forget(self, gates: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        return gates["i"], 1 - gates["i"]


class FGR(Vanilla):
    """Full gate recurrence: each gate also sees all gates of the step before, by nine products more.

        i = s(W_i x + R_i h- + p_i * c- + R_ii i- + R_fi f- + R_oi o- + b_i), f and o likewise

    weight_gates (3 hidden, 3 hidden) stacks the nine. Before the first step the gates are 0. Parameters
    of a layer: hidden (4 (input + hidden + 1) + 3 + 9 hidden).
    """

    name = "fgr"
    states = 5  # h, c, and the gates i, f, o of the step before

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        wide = 3 * self.hidden_size
        return super().shapes(input_size) | {"weight_gates": (wide, wide)}

    def recurrent_input(self, h: Tensor, state: State, a: Tensor, layer: Layer) -> Tensor:
        a = layer.recurrent(h, a)
        z, ifo = a.split([self.hidden_size, 3 * self.hidden_size], 1)
        return torch.cat([z, torch.baddbmm(ifo, layer["weight_gates"], torch.cat(state[2:], 1))], 1)

    def after(self, h: Tensor, c: Tensor, *gates: Tensor | None) -> State:
        return h, c, *(gate for gate in gates if gate is not None)
