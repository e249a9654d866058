"""The recurrent cells: one class each, registered here under the name that `model=` selects.

A new cell is one class (`cells.cell.Cell`, of which one step is all it needs), one line in CELLS and one file
in conf/model/; one that is not part of this package registers itself (`register_cell`).
"""

from collections.abc import Callable
from typing import TypeVar

from rnnbench.cells.cell import Cell, Draw, Layer, Noise, State, Weights
from rnnbench.cells.gated import JANET, MGU, MUT1, MUT2, MUT3, GRUv1
from rnnbench.cells.greff import CIFG, FGR, NFG, NIAF, NIG, NOAF, NOG, Vanilla
from rnnbench.cells.gru import GRU
from rnnbench.cells.lstm import LSTM
from rnnbench.cells.minimal import MinGRU, MinLSTM
from rnnbench.cells.rnn import IRNN, RNN
from rnnbench.config import ConfigError, Model, plugins

__all__ = ["CELLS", "Cell", "Draw", "Layer", "Noise", "State", "Weights", "make_cell", "register_cell"]

CELLS: dict[str, type[Cell]] = {
    "lstm": LSTM,
    "gru": GRU,
    "rnn": RNN,
    "irnn": IRNN,
    "gru_v1": GRUv1,
    "lstm_peephole": Vanilla,
    "nig": NIG,
    "nfg": NFG,
    "nog": NOG,
    "niaf": NIAF,
    "noaf": NOAF,
    "cifg": CIFG,
    "fgr": FGR,
    "mut1": MUT1,
    "mut2": MUT2,
    "mut3": MUT3,
    "mgu": MGU,
    "janet": JANET,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
}
OURS = frozenset(CELLS)
C = TypeVar("C", bound=type[Cell])


def register_cell(name: str) -> Callable[[C], C]:
    """A decorator: the class below it is the cell that `model.name=NAME` means.

    Raises:
        ConfigError: a cell of rnnbench has this name.
    """
    if name in OURS:
        raise ConfigError(f"register_cell({name!r}): rnnbench has a cell of that name; choose another")

    def register(kind: C) -> C:
        CELLS[name] = kind
        return kind

    return register


def make_cell(model: Model) -> Cell:
    """The cell that `model.name` names.

    Raises:
        ConfigError: there is no cell of that name, or it has not what an option asks for.
    """
    if model.name not in CELLS:
        plugins()
    if model.name not in CELLS:
        raise ConfigError(f"model.name={model.name}: must be one of {', '.join(CELLS)}")
    kind = CELLS[model.name]

    def refuse(key: str, value: object, reason: str) -> ConfigError:
        shown = str(value).lower() if isinstance(value, bool) else getattr(value, "value", value)
        return ConfigError(f"model.{key}={shown}: {model.name} has {reason}; leave it out")

    if model.forget_bias is not None and kind.forget_gate is None:
        raise refuse("forget_bias", model.forget_bias, "no forget gate")
    if not kind.recurrent:
        for key in ("recurrent_init", "recurrent_dropout", "zoneout"):
            if getattr(model, key) is not None:
                raise refuse(
                    key, getattr(model, key), "no recurrent weights, and no steps one after the other"
                )
    if model.positive and not issubclass(kind, MinGRU):
        raise refuse("positive", model.positive, "no such form (mingru and minlstm have)")
    if model.normalised and not issubclass(kind, MinLSTM):
        raise refuse("normalised", model.normalised, "no such form (minlstm has)")
    return kind(model)
