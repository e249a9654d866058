"""Runs one step of a cell by itself, and refuses a step of one's own that cannot be trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnnbench.config import ConfigError
from rnnbench.config.places import blamed, defined
from rnnbench.nn.cells import Cell, Weights
from rnnbench.nn.cells.cell import Layer, State

K, B = 2, 3  # trials and examples while tracing
INPUT = 5  # features of the input while tracing
OVER_TIME = (
    "unroll",
    "__call__",
    "first",
    "project",
    "carry",
    "initial",
    "zone_out",
)  # what a cell does beside its step


def has_step(cell: Cell) -> bool:
    """Return whether a cell's steps are those of `step`, one after the other, so that they can be traced."""
    kind = type(cell)
    own = not kind.__module__.startswith("rnnbench.")
    replaced = any(getattr(kind, name) is not getattr(Cell, name) for name in OVER_TIME)
    return kind.step is not Cell.step and not (own and replaced)


@dataclass
class Arguments:
    """What a step is traced with: random numbers of the sizes of the trace."""

    x: Tensor
    state: State
    weights: Weights
    constants: Weights
    mask: Tensor | None  # (K, hidden, B)
    zone: State  # empty without zoneout
    d_after: State

    @staticmethod
    def of(cell: Cell, K: int = K, B: int = B) -> "Arguments":
        """Draw the arguments of a cell, for K trials and B examples."""
        generator = torch.Generator().manual_seed(K)

        def drawn(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator) - 0.5

        H, states = cell.hidden_size, range(cell.states)
        shapes = {n: s for n, s in cell.all_shapes(INPUT).items() if n != "initial"}
        return Arguments(
            x=drawn(K, 1, INPUT, B),
            # Above 0, and weights as at a trial's start: a step that divides by its state divides by no
            # number that is nearly 0, where rounding would make a difference.
            state=tuple(drawn(K, H, B).abs() + 0.25 for _ in states),
            weights={name: drawn(K, *shape) * 2 / H**0.5 for name, shape in shapes.items()},
            constants={
                name: value.float().expand(K, *value.shape) for name, value in cell.constants().items()
            },
            mask=drawn(K, H, B) if cell.model.recurrent_dropout else None,
            zone=tuple(drawn(K, H, B) for _ in states) if cell.model.zoneout else (),
            d_after=tuple(drawn(K, H, B) for _ in states),
        )


def one_step(
    cell: Cell, x: Tensor, state: State, weights: Weights, *, mask: Tensor | None, zone: State
) -> State:
    """Compute the state after one step, x (K, 1, input, B), with the products of the input and options.

    Args:
        weights: with the constants of the cell.
    """
    layer = Layer(weights, mask, cell.model.layer_norm)
    after = cell.step(cell.project(x, layer).select(2, 0), state, layer)
    if zone:
        # In this form a unit keeps its value to the bit where z = 1, and takes the new one where z = 0.
        after = tuple(z * old + (1 - z) * new for new, old, z in zip(after, state, zone, strict=True))
    return after


def with_gradient(cell: Cell, given: Arguments) -> tuple[State, list[Tensor | None]]:
    """Return the state after a step, and the gradients at x, the state before it and each weight."""
    x = given.x.detach().requires_grad_()
    state = tuple(part.detach().requires_grad_() for part in given.state)
    weights = {name: weight.detach().requires_grad_() for name, weight in given.weights.items()}
    after = one_step(cell, x, state, weights | given.constants, mask=given.mask, zone=given.zone)
    pairs = [(part, d) for part, d in zip(after, given.d_after, strict=True) if part.requires_grad]
    leaves = [x, *state, *weights.values()]
    if not pairs:
        return after, [None] * len(leaves)
    outputs, d_outputs = zip(*pairs, strict=True)
    return after, list(torch.autograd.grad(outputs, leaves, d_outputs, allow_unused=True))


def check_step(cell: Cell) -> None:
    """Run one step of a cell of one's own, and refuse what cannot be trained.

    Raises:
        ConfigError: `step` raises, returns something else than a state, changes its arguments, draws random
            numbers, or mixes trials.
    """
    kind = type(cell)
    if kind.__module__.startswith("rnnbench.") or not has_step(cell):
        return
    given = Arguments.of(cell)
    where = f"{defined(kind.step)}: {kind.__name__}.step"
    expected = (
        f"a tuple of states = {cell.states} tensors (K, hidden, B) = {(K, cell.hidden_size, B)}, h first"
    )
    layer = cell.layer(given.x, given.weights, given.mask)
    with refuse_errors(cell, expected):
        a = cell.project(given.x, layer).select(2, 0)
        tensors = [a, *given.state, *given.weights.values()]
        before = [(each._version, each.clone()) for each in tensors]
        after = cell.step(a, given.state, layer)
    _check_state(after, given, where, expected)
    pairs = zip(tensors, before, strict=True)
    if any(each._version != version or not torch.equal(each, copy) for each, (version, copy) in pairs):
        raise ConfigError(
            f"{where} changes its arguments in place (a function whose name ends in _, out=, x[...] =); it "
            "must compute new tensors and leave a, the state and the weights as they are"
        )
    with refuse_errors(cell, expected):
        again = cell.step(a, given.state, layer)
        with_gradient(cell, given)
    if any(not torch.allclose(*both, 0, 0, equal_nan=True) for both in zip(after, again, strict=True)):
        raise ConfigError(
            f"{where} draws random numbers, or keeps something from call to call; it must depend on its "
            "arguments alone, so that a trial can be repeated: model.recurrent_dropout and model.zoneout are "
            "drawn from the trial's seed"
        )
    _check_alone(cell, given, a, after)


def _check_alone(cell: Cell, given: Arguments, a: Tensor, after: State) -> None:
    """Refuse a step that gives a trial other numbers where it stands beside other trials.

    Raises:
        ConfigError: it does.
    """
    where = f"{defined(type(cell).step)}: {type(cell).__name__}.step"
    mask = None if given.mask is None else given.mask[:1]
    layer = cell.layer(given.x[:1], {name: each[:1] for name, each in given.weights.items()}, mask)
    expected = f"the same for one trial, K = 1, as for {K}"
    with refuse_errors(cell, expected):
        alone = cell.step(a[:1], tuple(part[:1] for part in given.state), layer)
    pairs = zip(alone, after, strict=True)
    if not all(torch.allclose(one, both[:1], 1e-3, 1e-4, equal_nan=True) for one, both in pairs):
        raise ConfigError(
            f"{where} gives a trial other numbers beside other trials; it must treat each of the K trials, "
            "the first dimension of its arguments, by itself"
        )


def check_weights(cell: Cell) -> None:
    """Refuse a cell that does not use one of its weights.

    Raises:
        ConfigError: names it.
    """
    given = Arguments.of(cell)
    gradients = with_gradient(cell, given)[1][1 + cell.states :]
    if unused := [name for name, part in zip(given.weights, gradients, strict=True) if part is None]:
        raise ConfigError(
            f"{defined(type(cell).step)}: {type(cell).__name__}.step: no answer depends on "
            f"{', '.join(unused)}; use them in step, or leave them out of shapes"
        )


def _check_state(after: Any, given: Arguments, where: str, expected: str) -> None:
    """Refuse what a step returns, if it is no state.

    Raises:
        ConfigError: it is not.
    """
    shapes = [getattr(part, "shape", None) for part in after] if isinstance(after, tuple) else []
    if shapes != [part.shape for part in given.state]:
        gave = (
            f"a tuple of {[shape and tuple(shape) for shape in shapes]}" if shapes else type(after).__name__
        )
        raise ConfigError(f"{where} gave {gave}; expected {expected}")
    if dtypes := {str(part.dtype) for part in after if part.dtype != given.x.dtype}:
        raise ConfigError(
            f"{where} gave {', '.join(sorted(dtypes))}; expected {given.x.dtype}, as its arguments"
        )


@contextmanager
def refuse_errors(cell: Cell, expected: str) -> Iterator[None]:
    """Turn what a step of one's own raises into one message; the error itself stays its cause.

    Raises:
        ConfigError: the step has raised.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # a step may raise anything
        where = blamed(error) or defined(type(cell).step)
        shape = (K, cell.gates * cell.hidden_size, B)
        raise ConfigError(
            f"{where}: {type(cell).__name__}.step raises {type(error).__name__}: {error}. It is given a "
            f"(K, gates * hidden, B) = {shape} with gates = {cell.gates}, and a state that is a tuple of "
            f"states = {cell.states} tensors (K, hidden, B); it must give {expected}"
        ) from error
