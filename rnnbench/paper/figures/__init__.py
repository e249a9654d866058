"""Finds the kinds of figures: each is a module of this package, or a user's file, named after the kind.

A module says how the figure is read, and draws it:

    CAPTION = "Highest and lowest {statistic} of each row."  # {statistic} and {parameter} are filled in
    OF_SEARCHES = False  # optional: whether it shows searches, which only a tuned table has
    WIDE = False  # optional: whether the page gives it a line of its own

    OF_WEIGHTS = False  # optional: whether it is drawn from weights.pt, of which a table keeps the digests

    def check(table, places): ...  # optional: refuses a table of these (row, column, over), before training

    def check_trial(params): ...  # optional: refuses a trial by its config, by dotted keys, before training

    def draw(figure, sheet): ...  # on a matplotlib Figure, from a rnnbench.paper.sheet.Sheet

A kind of one's own is the file figure/KIND.py in a folder that --config-dir names.
"""

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from rnnbench.config import ConfigError
from rnnbench.config.places import explained


@dataclass(frozen=True)
class FigureKind:
    """Keeps what the module of a kind of figure defines; see the module's docstring."""

    caption: str
    draw: Callable[[Any, Any], None]
    of_searches: bool
    wide: bool
    of_weights: bool = False
    check: Callable[[Any, Any], None] | None = None
    check_trial: Callable[[Any], None] | None = None


STOCK = sorted(module.name for module in pkgutil.iter_modules(__path__))
KINDS: dict[str, FigureKind] = {}  # loaded kinds, by name


def load_kind(name: str, folders: Iterable[Path] = ()) -> FigureKind | None:
    """Load a kind of figure by its name; return None if there is none.

    Args:
        folders: config folders of the user's own, which come first.

    Raises:
        ConfigError: the file of a kind of one's own raises, or lacks what a kind has.
    """
    for folder in folders if name.isidentifier() else ():
        file = folder / "figure" / f"{name}.py"
        if file.is_file():
            KINDS[name] = _kind(_own_module(file), file)
            return KINDS[name]
    if name not in STOCK:
        return None
    module = import_module(f"{__name__}.{name}")
    KINDS[name] = _kind(module, Path(str(module.__file__)))
    return KINDS[name]


def kind_names(folders: Iterable[Path] = ()) -> list[str]:
    """Return the names of all kinds of figures, those of one's own first."""
    own = sorted({file.stem for folder in folders for file in (folder / "figure").glob("*.py")})
    return [*own, *(name for name in STOCK if name not in own)]


def _own_module(file: Path) -> ModuleType:
    """Import a user's figure file anew, so that changes since the last import count."""
    spec = spec_from_file_location(f"rnnbench_figure_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise ConfigError(f"figures: {explained(error)}; correct the file") from error
    return module


def _kind(module: ModuleType, file: Path) -> FigureKind:
    """Return the kind that a module describes."""
    caption, draw = getattr(module, "CAPTION", None), getattr(module, "draw", None)
    if not isinstance(caption, str) or not callable(draw):
        raise ConfigError(f"{file}: a figure needs a text CAPTION and a function draw(figure, sheet)")
    of_searches, wide, of_weights = (
        getattr(module, name, False) for name in ("OF_SEARCHES", "WIDE", "OF_WEIGHTS")
    )
    checks = (getattr(module, name, None) for name in ("check", "check_trial"))
    return FigureKind(caption, draw, of_searches, wide, of_weights, *checks)
