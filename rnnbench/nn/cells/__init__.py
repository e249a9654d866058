"""Finds the recurrent cells in its modules, and makes the one that `model=` selects.

A cell is one class with a `name` in any module of this package (`cells.cell.Cell`, of which one step is all
it needs), and one file in conf/model/. One that is not part of it registers itself (`register_cell`).
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from rnnbench.config import ConfigError, Model
from rnnbench.config.advice import no_name
from rnnbench.config.loading import names, registered
from rnnbench.config.places import defined
from rnnbench.config.registry import register
from rnnbench.config.schema import CELL_KEYS
from rnnbench.config.user_code import asked
from rnnbench.nn.cells.cell import Cell, Draw, Layer, Noise, State, Weights

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

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
CELLS: dict[str, type[Cell]] = {
    kind.name: kind
    for module in _MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Cell) and "name" in vars(kind)
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
                raise refuse(key, getattr(model, key), "no recurrent weights between its units")
    for key, having in CELL_KEYS.items():
        if getattr(model, key) not in (None, False) and key not in kind.options:
            verb = "have" if len(having) > 1 else "has"
            raise refuse(key, getattr(model, key), f"no such key ({' and '.join(having)} {verb} it)")
    with asked("model.name", model.name):
        return kind(model)
