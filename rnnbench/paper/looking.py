"""Draws figures of the trained networks in some folders, without a table."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rnnbench.config import ConfigError
from rnnbench.paper.aggregate import arrange, fill
from rnnbench.paper.definition import Table, table_of
from rnnbench.paper.derived import derive, name_of
from rnnbench.paper.drawing import caption, draw
from rnnbench.paper.figures import STOCK, load_kind
from rnnbench.paper.planning import MULTIRUN
from rnnbench.paper.weights import PLACES


def draw_of_folders(words: Sequence[str], config_folders: Sequence[Path]) -> tuple[list[Path], str]:
    """Draw figures of the first seed of each row in some folders.

    Args:
        words: folders of jobs or sweeps; kind=KIND and other settings of a figure; data.root=FOLDER or
            data.path=FILE, where the data is.
        config_folders: the user's, with kinds of figures of their own.

    Returns:
        the files, and the figure's caption.

    Raises:
        ConfigError: there is no such folder or kind, nothing has been trained there, or it does not fit.
    """
    folders = [Path(word) for word in words if "=" not in word or Path(word).is_dir()]
    settings = [word for word in words if "=" in word and not Path(word).is_dir()]
    kinds = [kind for kind in STOCK if (known := load_kind(kind)) is not None and known.of_weights]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: is no folder; look takes the folder of a job or of a sweep")
    if not folders or not any(word.startswith("kind=") for word in settings):
        raise ConfigError(f"look: give a folder and a kind: look FOLDER kind={'|'.join(kinds)}")
    places = [word for word in settings if word.partition("=")[0] in PLACES]
    tree: Any = OmegaConf.to_container(OmegaConf.from_dotlist([w for w in settings if w not in places]))
    table, planned, source = derive(folders)
    figure = {str(tree["kind"]): tree}
    table = replace(table, figures=table_of(_minimal(table) | {"figures": figure}, config_folders).figures)
    planned = [replace(trial, overrides=[*trial.overrides, *places]) for trial in planned]
    arrange(table, planned)
    out = MULTIRUN / "paper" / name_of(folders)
    out.mkdir(parents=True, exist_ok=True)
    files = draw(fill(table, planned, source), source, [], out)
    return files, caption(table, next(iter(table.figures.values())))


def _minimal(table: Table) -> dict[str, Any]:
    """Return the keys without which there is no table."""
    return {
        key: value for key, value in asdict(table).items() if key in ("title", "sweep", "rows", "metrics")
    }
