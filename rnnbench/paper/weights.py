"""Finds the runs whose weights a table's figures are drawn from: in each cell that of the first seed."""

from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from rnnbench.config import ConfigError
from rnnbench.paper.aggregate import Cell, FilledTable, Key
from rnnbench.paper.figures import KINDS
from rnnbench.paper.sheet import Sheet
from rnnbench.reader import Record
from rnnbench.record import read_result
from rnnbench.system.files import read_bytes

if TYPE_CHECKING:
    from rnnbench.look import Look

PLACES = ("data.root", "data.path")  # keys that say where data is


def first(cell: Cell) -> Record | None:
    """Return the run of a cell that is drawn: of its first seed, there of its first task and fold."""
    return min(cell.records.items(), key=lambda item: item[0][1], default=(None, None))[1]


def looks(sheet: Sheet) -> Iterator[tuple[Key, Key, "Look"]]:
    """Generate row, column and the network of each cell that has a finished run.

    Raises:
        ConfigError: the weights of a run or its data are not here.
    """
    from rnnbench.look import Look

    for (row, column), cell in sheet.filled.cells.items():
        record = first(cell)
        if record is None:
            continue
        if weights(record) is None:
            raise ConfigError(
                f"figures: {sheet.how.kind} needs weights.pt of run {record.job} ({record.folder}), which is "
                "not there; train it again, or give source=FOLDER if its job folder is elsewhere"
            )
        words = next(trial.overrides for trial in cell.planned if trial.trial == record.trial)
        places = [word.partition("=")[2] for word in words if word.startswith(tuple(f"{k}=" for k in PLACES))]
        yield row, column, Look.of(record.folder, places[-1] if places else None)


def weights(record: Record) -> str | None:
    """Return the sha256 of a run's weights.pt; None if it is not there, or of another run."""
    try:
        if read_result(record.folder)["job"] != record.job:
            return None
        return sha256(read_bytes(record.folder / "weights.pt")).hexdigest()
    except FileNotFoundError:
        return None


def digests(filled: FilledTable) -> dict[str, str | None]:
    """Return the sha256 of each weights.pt that the table's figures are drawn from, by the run's identity."""
    if not any(KINDS[how.kind].of_weights for how in filled.table.figures.values()):
        return {}
    runs = [record for record in map(first, filled.cells.values()) if record is not None]
    return {record.job: weights(record) for record in runs}


def check_one_direction(params: dict[str, Any]) -> None:
    """Refuse a network that reads from both ends, in which no step comes after another."""
    if params.get("model.bidirectional"):
        raise ConfigError(
            "model.bidirectional=true: reads from both ends, so there is no way back through time"
        )


def panels(figure: Any, count: int, *, across: int = 3, height: float = 2.0) -> list[Any]:
    """Return so many axes, `across` side by side, on a figure that becomes as large as they need."""
    across = min(across, count)
    down = -(-count // across)
    width = figure.get_figwidth() if across == 1 else 2.6 * across
    figure.set_size_inches(width, max(figure.get_figheight(), height * down))
    every = list(figure.subplots(down, across, squeeze=False).ravel())
    for axes in every[count:]:
        axes.set_axis_off()
    return every[:count]
