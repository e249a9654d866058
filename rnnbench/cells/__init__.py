"""The recurrent cells: one class each, registered here under the name that `model=` selects.

A cell holds the equations of one layer for a stack of K trials. Tensors are feature-major, batch
innermost: x (K, T, input, B), h (K, T, hidden, B), weights (K, rows, columns). So each gate is a
block of whole rows and every elementwise loop runs over contiguous examples.

A new cell is one class with the four members of `Cell`, one line in CELLS and one file in
conf/model/.
"""

from typing import Protocol

from torch import Tensor

from rnnbench.cells.gru import GRU
from rnnbench.cells.lstm import LSTM
from rnnbench.cells.rnn import RNN
from rnnbench.config import ConfigError, Model

Weights = dict[str, Tensor]  # name: (K, *shape)


class Cell(Protocol):
    """What the network asks of a cell."""

    def __init__(self, model: Model) -> None: ...

    def shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of each weight of one trial, in the order in which they are drawn."""
        ...

    def start(self, weights: Weights) -> None:
        """Adjust freshly drawn weights in place; they come uniform in +-1/sqrt(hidden)."""
        ...

    def __call__(self, x: Tensor, weights: Weights, reverse: bool) -> Tensor:
        """x (K, T, input, B) to h (K, T, hidden, B), from a zero state; `reverse` runs T-1..0."""
        ...


CELLS: dict[str, type[Cell]] = {
    "lstm": LSTM,
    "gru": GRU,
    "rnn": RNN,
}


def make_cell(model: Model) -> Cell:
    """The cell that `model.name` names.

    Raises:
        ConfigError: there is no cell of that name.
    """
    if model.name not in CELLS:
        raise ConfigError(f"model.name={model.name}: must be one of {', '.join(CELLS)}")
    return CELLS[model.name](model)
