"""Derives a table from sweeps: a row for each combination of what varies, seeds and folds together."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rnnbench.config import ADDED, ConfigError, identifies, measured_by
from rnnbench.paper.aggregate import TableTrial
from rnnbench.paper.definition import Table, override_keys
from rnnbench.paper.planning import MULTIRUN
from rnnbench.paper.provenance import RunsOfTable
from rnnbench.reader import Folders, Record, Source, in_order
from rnnbench.record import is_sweep, read_overrides, read_sweep
from rnnbench.sweep.points import names_a_file
from rnnbench.system.files import sound

MANY = 12  # with more rows than this, none is tested against the best


def name_of(folders: Sequence[Path]) -> str:
    """Return the name of the table of these folders; its folder and files are named after it."""
    inside = [os.path.relpath(folder, MULTIRUN) for folder in folders]
    names = [
        folder.absolute().name if path == "." or path.startswith("..") else path
        for folder, path in zip(folders, inside, strict=True)
    ]
    return re.sub(r"[^\w.-]+", "-", "-".join(names)).strip(".-") or "table"


def derive(folders: Sequence[Path]) -> tuple[Table, list[TableTrial], Source]:
    """Return the table of the trials in some folders, the trials, and their records.

    Of a grid every trial counts; of a search only those that were trained to their end, since pruned trials
    are a selection by their values.

    Raises:
        ConfigError: there is no record of a trial that has finished.
    """
    inner = Folders(Path(os.path.commonpath([os.path.relpath(folder) for folder in folders])))
    there = {record.folder: record for folder in folders for record in Folders(folder).all()}
    records = [
        record
        for record in in_order(there.values())
        if record.status == "finished" or "rnnbench.study" not in record.tags
    ]
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        raise ConfigError(f"{' '.join(map(str, folders))}: there is no record of a trial that has finished")
    planned = _planned(records)
    rows = _rows(planned)
    searched = any("rnnbench.study" in record.tags for record in records)
    table = Table(
        title=name_of(folders),
        caption="Every trial of a search that was trained to its end: the best of many is optimistic."
        if searched
        else "",
        sweep=_grid(folders[0]) if len(folders) == 1 and not searched else [],
        rows=rows,
        metrics=_metrics(finished),
        mixed_protocols=len({trial.params["fit.select"] for trial in planned}) > 1,
    )
    if len({tuple(trial.params[key] for key in rows) for trial in planned}) > MANY:
        table.compare = None
    return table, planned, RunsOfTable(inner, {record.job for record in records})


def table_file(table: Table) -> str:
    """Return the file that declares a table of a grid."""
    default = Table()
    keys = ("title", "sweep", "rows", "metrics", "compare", "mixed_protocols")
    tree = {key: getattr(table, key) for key in keys if getattr(table, key) != getattr(default, key)}
    return OmegaConf.to_yaml(OmegaConf.create(tree))


def _planned(records: Sequence[Record]) -> list[TableTrial]:
    """Return the trials, each once; a key that only some have is off in the others."""
    newest = {record.trial: record for record in records}
    keys = sorted({key for record in records for key in record.params})
    return [
        TableTrial(
            record.trial,
            _overrides(record.folder),
            {key: _plain(record.params.get(key, ADDED.get(key))) for key in keys},
            record.tags.get("rnnbench.study"),
        )
        for record in newest.values()
    ]


def _plain(value: Any) -> Any:
    """Return a value in hashable form, for a row's key."""
    return str(value) if isinstance(value, list | dict) else value


def _overrides(job: Path) -> list[str]:
    """Return a job's overrides, read from Hydra's files in its folder."""
    return next(sound([job], read_overrides), [])


def _rows(planned: Sequence[TableTrial]) -> list[str]:
    """Return the keys that vary besides seed and fold, those given on the command line first.

    A key that another key of its group determines, as the optimiser's name does its options, is left out.
    """
    typed = override_keys([word for trial in planned for word in trial.overrides])
    keys = dict.fromkeys(["data.name", *typed, *planned[0].params])
    rows = ["model.name"]
    for key in keys:
        if key not in planned[0].params or key in ("seed", "data.fold") or not identifies(key):
            continue
        group = [row for row in rows if row.partition(".")[0] == key.partition(".")[0]]
        seen: dict[Any, set[str]] = {}
        for trial in planned:
            seen.setdefault(tuple(trial.params[row] for row in group), set()).add(str(trial.params[key]))
        if any(len(values) > 1 for values in seen.values()):
            rows.append(key)
    return rows


def _metrics(finished: Sequence[Record]) -> list[str]:
    """Return the metrics to print: number of parameters, the metric that chose the epochs, test metrics."""
    measured = dict.fromkeys(name for record in finished for name in measured_by(record.params))
    wanted = [f"{kind}{name}" for name in measured for kind in ("best/val_", "best/test_", "test/")]
    there = {name for record in finished for name in record.metrics}
    return [name for name in ("parameters/total", *wanted) if name in there]


def _grid(folder: Path) -> list[str]:
    """Return the overrides that a grid was started with; [] if the folder is not a grid's."""
    if not is_sweep(folder):
        return []
    try:
        words: list[str] = read_sweep(folder)["command"]
    except ConfigError:  # a damaged file is no obstacle, since the trials have their own records
        return []
    if not ("-m" in words or "--multirun" in words or any(map(names_a_file, words))):
        return []
    return [word for word in words[1:] if "=" in word and not word.startswith(("-", "hydra"))]
