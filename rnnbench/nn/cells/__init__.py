"""Registers the recurrent cells, one class each, under the name that `model=` selects.

A new cell is one class (`cells.cell.Cell`, of which one step is all it needs), one line in CELLS and one file
in conf/model/; one that is not part of this package registers itself (`register_cell`).
"""

from collections.abc import Callable
from typing import TypeVar

from rnnbench.config import ConfigError, Model, asked, defined, names, register, registered
from rnnbench.config.keys import no_name
from rnnbench.nn.cells.cell import Cell, Draw, Layer, Noise, State, Weights
from rnnbench.nn.cells.gated import JANET, MGU, MUT1, MUT2, MUT3, GRUv1
from rnnbench.nn.cells.greff import CIFG, FGR, NFG, NIAF, NIG, NOAF, NOG, Vanilla
from rnnbench.nn.cells.gru import GRU
from rnnbench.nn.cells.lstm import LSTM
from rnnbench.nn.cells.minimal import MinGRU, MinLSTM
from rnnbench.nn.cells.rnn import IRNN, RNN

__all__ = [
    "CELLS",
    "Cell",
    "Draw",
    "Layer",
    "Noise",
    "State",
    "Weights",
    "class_of",
    "make_cell",
    "register_cell",
]

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
C = TypeVar("C", bound=type[Cell])


def register_cell(name: str) -> Callable[[C], C]:
    """Register the class below this decorator as the cell that `model.name=NAME` selects.

    The class derives from `rnnbench.Cell` and has `step`; see there for `gates` and `states`. A class in a
    notebook replaces the one that an earlier run of its cell has registered; trials tell them apart.

    Raises:
        ConfigError: a cell of rnnbench has this name, or a class in another file; it is no class of a cell.
    """
    if not isinstance(name, str):
        raise ConfigError('register_cell: needs the name that model.name will have: @register_cell("NAME")')
    if name in CELLS:
        raise ConfigError(f"register_cell({name!r}): rnnbench has a cell of that name; choose another")

    def enter(kind: C) -> C:
        check_cell(name, kind)
        register("cell", name, kind, kind)
        return kind

    return enter


def check_cell(name: str, kind: object) -> None:
    """Refuse a class that cannot be a cell.

    Raises:
        ConfigError: says what it lacks.
    """
    said = f"register_cell({name!r})"
    if not (isinstance(kind, type) and issubclass(kind, Cell)):
        raise ConfigError(f"{said}: must stand above a class that derives from rnnbench.Cell")
    if kind.step is Cell.step and kind.unroll is Cell.unroll and kind.__call__ is Cell.__call__:
        raise ConfigError(f"{said}: {defined(kind)} has no step(self, a, state, layer), the cell's equations")
    for what, counts in (("gates", "blocks of rows of W, R and b"), ("states", "tensors of its state")):
        value = getattr(kind, what)
        if type(value) is not int or value < 1:
            raise ConfigError(
                f"{said}: {what} = {value!r} in {defined(kind)}; must be a whole number, how many {counts} "
                "it has"
            )


def class_of(name: str) -> type[Cell]:
    """Return the class of the cell that `model.name` names.

    Raises:
        ConfigError: there is no cell of that name.
    """
    entry = registered("cell", name)
    if entry is not None:
        kind: type[Cell] = entry.made
        return kind
    if name not in CELLS:
        raise ConfigError(no_name("model.name", name, [*CELLS, *names("cell")]))
    return CELLS[name]


def make_cell(model: Model) -> Cell:
    """Make the cell that `model.name` names.

    Raises:
        ConfigError: there is no cell of that name, or it has not what an option asks for, or one of one's
            own raises.
    """
    kind = class_of(model.name)

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
    with asked("model.name", model.name):
        return kind(model)
