"""What a layer's kernels read and write: one direction of one layer, for a minibatch of a stack.

All arrays are float32, feature-major with the examples innermost. `step n` of an example counts in the order
in which the layer goes through it; its place in time is n, or length - 1 - n in the reverse direction. Arrays
over time are at places in time. Steps at or beyond an example's length are not computed: the state stays, and
their places in the arrays are neither read nor written.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

HIDDEN, BYTES, FLOATS, SYMBOLS = range(4)  # kinds of input: the layer below's output, stored examples
EVERY, LAST, MEAN = "every", "last", "mean"


@dataclass
class Inputs:
    """The input of a layer."""

    kind: int
    data: Tensor  # HIDDEN: (K, T, input, B); else of all examples (N, T, input), SYMBOLS: (N, T)
    size: int  # features
    index: Tensor  # (K, B) int64: which example; -1 where there is none
    scale: float = 1.0  # BYTES: x = scale * byte + shift
    shift: float = 0.0
    dropout: Tensor | None = None  # (K, T, input, B) factors of x


@dataclass
class Layer:
    """The arrays of one direction of one layer for a minibatch."""

    inputs: Inputs
    lengths: Tensor  # (K, B) int64: steps of each example, 0 where there is none
    parameters: Tensor  # (K, P)
    offsets: dict[str, int]  # where in a row of P each weight of the layer begins, by its name in the graph
    outputs: Tensor  # (K, T, width, B): h at rows `row`, row + 1, ...
    row: int
    others: Tensor  # (K, T, states - 1, hidden, B): the rest of the state after each step
    kept: Tensor  # (K, T, kept, hidden, B): values of the forward pass for the backward one
    kept_rows: Tensor  # (K, T, kept rows, B)
    summary: Tensor  # (K, width, B), at rows `row` ...: the last h of each example, or the mean of all
    parts: Tensor  # (K, parts, P): gradient, in sums over parts of the minibatch
    reverse: bool = False
    reads: str = LAST  # what is read of the layer: EVERY step's h, the LAST one, or the MEAN of all
    initial: int | None = None  # learned_state: where its weight begins in a row of P
    carried: Tensor | None = None  # (K, states, hidden, B): the state before the first step
    fresh: Tensor | None = None  # (1,) int32: not 0: `carried` is not read, the state begins anew
    left: Tensor | None = None  # (K, states, hidden, B): the state after the last step is written here
    mask: Tensor | None = None  # (K, hidden, B): recurrent dropout's factors
    zone: Tensor | None = None  # (K, T, states, hidden, B): 1 where a unit keeps its value, else 0
    zone_rate: float = 0.0  # in evaluation the factor of all units
    # Backward:
    d_outputs: Tensor | None = None  # (K, T, width, B); None: the gradient comes from the summary alone
    d_summary: Tensor | None = None  # (K, width, B)
    d_x: Tensor | None = None  # (K, T, input, B); None: not wanted
    add: bool = False  # whether d_x is added to what is there (the second direction)


class Scan(Protocol):
    """The kernels of one layer in one direction."""

    kept: int  # blocks that a step keeps
    kept_rows: int

    def forward(self, layer: Layer, training: bool) -> None:
        """Write outputs and summary, and where it is training what the backward pass reads."""
        ...

    def backward(self, layer: Layer) -> None:
        """Write the layer's gradient into `parts`, and d_x."""
        ...
