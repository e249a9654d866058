"""Defines a cell: a subclass has one step of its equations; the loop over time and all options are here.

Tensors are feature-major, batch innermost: x (K, T, input, B), h (K, T, hidden, B), weights (K, rows,
columns). So each gate is a block of whole rows and every elementwise loop runs over contiguous examples.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from rnnbench.config import Model, RecurrentInit
from rnnbench.config.places import defined

Weights = dict[str, Tensor]  # name: (K, *shape)
State = tuple[Tensor, ...]  # (K, hidden, B) each, h first


class Draw(Protocol):
    """Draws random numbers, each trial's from its own stream."""

    def __call__(self, shape: tuple[int, ...], steps: Tensor | None = None) -> Tensor:
        """Return (K, *shape); with steps (K,), each trial draws for so many of its shape[0] steps alone."""
        ...


@dataclass(frozen=True)
class Noise:
    """Random numbers that training draws; None where an option is off."""

    dropout: Draw | None = None  # factors between layers
    recurrent: Draw | None = None  # factors of h- in recurrent products, one a sequence
    zoneout: Draw | None = None  # uniforms in [0, 1)
    weights: Draw | None = None  # what is added to the weights, for a minibatch

    def within(self, lengths: Tensor | None) -> "Noise":
        """Return noise that draws for each trial up to its longest example of lengths (K, B), not beyond.

        So a trial's numbers do not depend on how long those of its neighbours are.
        """
        if lengths is None:
            return self
        steps = lengths.amax(1)
        dropout, zoneout = (draw and partial(draw, steps=steps) for draw in (self.dropout, self.zoneout))
        return replace(self, dropout=dropout, zoneout=zoneout)


NONE = Noise()


class Layer:
    """Holds the weights of a layer for one pass, and computes its recurrent product with all options."""

    def __init__(self, weights: Weights, mask: Tensor | None, normed: bool) -> None:
        self.weights = weights
        self.mask = mask  # factors of h- (K, hidden, B), the same at every step
        self.normed = normed
        self.parts: dict[tuple[str, int, int], Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Return a weight (K, rows, columns), a vector as a column (K, rows, 1)."""
        weight = self.weights[name]
        return weight.unsqueeze(-1) if weight.dim() == 2 else weight

    def part(self, name: str, start: int, end: int) -> Tensor:
        """Return rows of a weight; cached for the pass, since each slice adds a node to the backward pass."""
        key = (name, start, end)
        if key not in self.parts:
            self.parts[key] = self[name][:, start:end]
        return self.parts[key]

    def recurrent(self, h: Tensor, onto: Tensor, start: int = 0) -> Tensor:
        """Return onto + R h for as many rows of weight_hh as `onto` (K, rows, B) has, from `start` on."""
        end = start + onto.shape[1]
        h = h if self.mask is None else h * self.mask
        weight = self.part("weight_hh", start, end)
        if self.normed:
            return onto + normalised(torch.bmm(weight, h), self.part("gain_hh", start, end))
        return torch.baddbmm(onto, weight, h)


def normalised(a: Tensor, gain: Tensor) -> Tensor:
    """Normalise a (K, rows, B) to mean 0 and variance 1 over its rows, times gain (K, rows, 1)."""
    return layer_norm(a.transpose(1, 2), a.shape[1:2]).transpose(1, 2) * gain


class Cell:
    """One recurrent layer; a subclass defines `step`, and `gates` and `states` where they are not 1.

    Class attributes:
        gates: blocks of hidden rows that weight_ih (W), weight_hh (R) and the bias have, so that
            `step` gets `a` with gates * hidden rows; 1 if nothing else is said.
        states: tensors (K, hidden, B) that the state of `step` consists of, the output h first; 1 if
            nothing else is said, 2 for a cell that has a c beside its h.
        options: keys of `model` that not all cells have and this one reads, such as dt or order.
        activations: names for figures of the sigmoids, tanhs and exponentials of `step`, in the order in
            which it computes them, each block of hidden rows by itself; those that follow are not shown. If
            nothing is said all are shown, numbered.

    Parameters of a layer: gates hidden (input + hidden + 1), if nothing is changed in `shapes`.
    Options that every cell has:
        forget_bias: the bias of the forget gate at the start (cells that have one).
        recurrent_init: orthogonal or identity for each square block of weight_hh at the start;
            orthogonal_identity: orthogonal, but the candidate's block the identity.
        layer_norm: W x and R h are each normalised over their rows and scaled by a gain of their own
            before they are added (Ba et al. 2016, equations 20 to 22, without the norm of c).
        recurrent_dropout: h- in recurrent products has a mask that is the same at every step of a
            sequence (Gal and Ghahramani 2016), scaled by 1 / (1 - rate).
        zoneout: each unit of the state keeps its value with this probability (Krueger et al. 2017);
            in evaluation the mean of both takes its place.
        learned_state: the state before the first step is a parameter, at first 0.
    """

    name: ClassVar[str]  # of a cell of rnnbench: what `model=` selects it by
    gates: ClassVar[int] = 1  # blocks of rows of weight_ih, weight_hh and the bias
    states: ClassVar[int] = 1  # h, and perhaps c
    forget_gate: ClassVar[int | None] = None  # its block of the bias
    candidate: ClassVar[int] = 0  # its block of weight_hh
    activations: ClassVar[tuple[str, ...]] = ()  # names of the gates, see above
    options: ClassVar[frozenset[str]] = frozenset()  # keys that only some cells have, see above
    recurrent: ClassVar[bool] = True  # whether there is a weight_hh

    def __init__(self, model: Model) -> None:
        self.model = model
        self.hidden_size = model.hidden_size

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each weight of one trial, in the order in which they are drawn."""
        rows = self.gates * self.hidden_size
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, self.hidden_size), "bias": (rows,)}

    def constants(self) -> Weights:
        """Return numbers (1,), vectors, matrices that `step` finds in `layer` by name, and nothing trains."""
        return {}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the rows of each tensor of the state."""
        return (self.hidden_size,) * self.states

    def all_shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        """Return `shapes` and those of the weights that options add."""
        shapes = self.shapes(input_size)
        if self.model.layer_norm:
            shapes = shapes | {"gain_ih": shapes["weight_ih"][:1]}
            if self.recurrent:
                shapes = shapes | {"gain_hh": shapes["weight_hh"][:1]}
        if self.model.learned_state:
            shapes = shapes | {"initial": (sum(self.sizes),)}
        return shapes

    def start(self, weights: Weights, generator: torch.Generator) -> None:
        """Adjust freshly drawn weights in place; they come uniform in +-1/sqrt(hidden)."""
        model, H = self.model, self.hidden_size
        if model.forget_bias is not None and self.forget_gate is not None:
            self.open_forget_gate(weights, model.forget_bias)
        if model.recurrent_init is not None:
            for k, block in enumerate(weights["weight_hh"].split(H, 1)):
                init = model.recurrent_init
                identity = init is RecurrentInit.identity or (
                    init is RecurrentInit.orthogonal_identity and k == self.candidate
                )
                for trial in block:
                    if identity:
                        torch.nn.init.eye_(trial)
                    else:
                        torch.nn.init.orthogonal_(trial, generator=generator)
        for gain in ("gain_ih", "gain_hh"):
            if gain in weights:
                weights[gain].fill_(1.0)
        if "initial" in weights:
            weights["initial"].zero_()

    def open_forget_gate(self, weights: Weights, bias: float) -> None:
        """Set the forget gate's bias."""
        assert self.forget_gate is not None
        start = self.forget_gate * self.hidden_size
        weights["bias"][:, start : start + self.hidden_size] = bias

    def step(self, a: Tensor, state: State, layer: Layer) -> State:
        """Compute the state after one step: a tuple of `states` tensors (K, hidden, B), h first.

        Args:
            a: W x + b of this step, (K, gates * hidden, B), for K trials and B examples.
            state: that of the step before, a tuple of the same form.
            layer: its `recurrent(h, a)` is a + R h; `layer["weight_hh"]` is R itself.
        """
        raise NotImplementedError

    def bias(self, weights: Weights) -> Tensor:
        """Return the bias that is added to W x, (K, rows)."""
        return weights["bias"]

    def __call__(self, x: Tensor, weights: Weights, reverse: bool, noise: Noise = NONE) -> Tensor:
        """Map x (K, T, input, B) to h (K, T, hidden, B); `reverse` runs T-1..0."""
        return self.unroll(x, weights, None, noise, reverse)[0]

    def carry(
        self, x: Tensor, weights: Weights, state: State | None, noise: Noise = NONE
    ) -> tuple[Tensor, State]:
        """Return h (K, T, hidden, B) and the state after the last step, from a given state on."""
        return self.unroll(x, weights, state, noise, False)

    def unroll(
        self, x: Tensor, weights: Weights, state: State | None, noise: Noise, reverse: bool
    ) -> tuple[Tensor, State]:
        """Run all steps; the products with x need no state and are computed before them, all at once."""
        T, B, H = x.shape[1], x.shape[3], self.hidden_size
        layer = self.layer(x, weights, noise.recurrent((H, B)) if noise.recurrent else None)
        inputs = self.project(x, layer).unbind(2)
        state = self.initial(x, weights) if state is None else state
        kept = noise.zoneout((T, self.states, H, B)) if noise.zoneout else None
        outputs: list[Tensor] = [x] * T
        for n, t in enumerate(reversed(range(T)) if reverse else range(T)):
            after = self.step(inputs[t], state, layer) if n else self.first(inputs[t], state, layer)
            if self.model.zoneout is not None:
                after = self.zone_out(after, state, None if kept is None else kept[:, t])
            state = after
            outputs[t] = state[0]
        return torch.stack(outputs, 1), state

    def layer(self, like: Tensor, weights: Weights, mask: Tensor | None = None) -> Layer:
        """Return what a step finds its weights and constants in, for the K trials of `like` (K, ...)."""
        fixed = {
            name: value.to(like).expand(len(like), *value.shape) for name, value in self.constants().items()
        }
        return Layer(weights | fixed, mask, self.model.layer_norm)

    def first(self, a: Tensor, state: State, layer: Layer) -> State:
        """Run the first step of a pass, and check what `step` returns.

        Raises:
            TypeError: `step` returns something else than a state.
        """
        try:
            after = self.step(a, state, layer)
        except Exception as error:
            if not type(self).__module__.startswith("rnnbench."):
                error.add_note(
                    f"step was given a (K, gates * hidden, B) = {tuple(a.shape)} with gates = {self.gates}, "
                    f"and as state {self._expected(state)}"
                )
            raise
        shapes = [getattr(part, "shape", None) for part in after] if isinstance(after, tuple) else []
        if shapes != [part.shape for part in state]:
            given = f"a tuple of {[shape and tuple(shape) for shape in shapes]}"
            raise TypeError(
                f"{defined(type(self).step)}: {type(self).__name__}.step gave "
                f"{given if shapes else type(after).__name__}; expected {self._expected(state)}"
            )
        return after

    def _expected(self, state: State) -> str:
        return f"a tuple of states = {self.states} tensors (K, hidden, B) = {tuple(state[0].shape)}"

    def project(self, x: Tensor, layer: Layer) -> Tensor:
        """Compute W x + b of all steps, (K, rows, T, B)."""
        K, T, width, B = x.shape
        flat = x.transpose(1, 2).reshape(K, width, T * B)
        bias = self.bias(layer.weights).unsqueeze(-1)
        if self.model.layer_norm:
            a = normalised(torch.bmm(layer["weight_ih"], flat), layer["gain_ih"]) + bias
        else:
            a = torch.baddbmm(bias, layer["weight_ih"], flat)
        return a.view(K, -1, T, B)

    def initial(self, x: Tensor, weights: Weights) -> State:
        """Return the state before the first step: 0, or learned."""
        K, B = len(x), x.shape[-1]
        if "initial" in weights:
            whole = weights["initial"].unsqueeze(-1).expand(K, -1, B)
            return tuple(whole.split(self.sizes, 1))
        zeros = {size: x.new_zeros(K, size, B) for size in self.sizes}
        return tuple(zeros[size] for size in self.sizes)

    def zone_out(self, after: State, before: State, drawn: Tensor | None) -> State:
        """Return the state with some units as before the step; drawn (K, states, hidden, B) in training."""
        rate = self.model.zoneout
        assert rate is not None
        if drawn is None:
            return tuple(torch.lerp(new, old, rate) for new, old in zip(after, before, strict=True))
        kept = (drawn < rate).unbind(1)
        return tuple(torch.where(k, old, new) for k, new, old in zip(kept, after, before, strict=True))

    @cached_property
    def plain(self) -> bool:
        """True if the equations are those of rnnbench without options, so that a hand-written path serves."""
        model = self.model
        ours = type(self).__module__.startswith("rnnbench.")  # a class of one's own may have another step
        return ours and not (
            model.layer_norm or model.learned_state or model.recurrent_dropout or model.zoneout
        )


class TorchCell(Cell):
    """A cell with the weights that torch.nn gives a layer: two bias vectors."""

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        rows = self.gates * self.hidden_size
        return {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, self.hidden_size),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }

    def open_forget_gate(self, weights: Weights, bias: float) -> None:
        """Set the bias of the forget gate, which is the sum of both vectors."""
        assert self.forget_gate is not None
        forget = slice(self.forget_gate * self.hidden_size, (self.forget_gate + 1) * self.hidden_size)
        weights["bias_ih"][:, forget] = bias
        weights["bias_hh"][:, forget] = 0.0

    def bias(self, weights: Weights) -> Tensor:
        return weights["bias_ih"] + weights["bias_hh"]
