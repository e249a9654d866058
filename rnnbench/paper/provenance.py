"""Writes provenance.json, which says where a table's numbers come from."""

import shlex
from collections.abc import Container, Sequence
from dataclasses import asdict
from typing import Any

from rnnbench.paper.aggregate import FilledTable, TableTrial
from rnnbench.paper.definition import FigureSettings, Publication, Table, Tuning
from rnnbench.paper.planning import TableSearch, is_place, portable
from rnnbench.paper.weights import digests
from rnnbench.reader import Record, Source

# `renderer` is raised when the bytes of a file change, `statistics` when a figure, an interval or a test is
# computed in another way. A provenance.json without them has version 1. Since version 3 of the statistics a
# table has its number of bootstrap resamples, and the median over several tasks is that of the tasks' means;
# since version 4 the permutations of the mean of 14 to 36 pairs are all counted.
VERSIONS = {"renderer": 3, "statistics": 4}
EARLIER_RESAMPLES = 2_000  # number of resamples before version 3
# Keys of a table that version 2 of the renderer did not have from the start.
LATER = ("margin", "chance", "tasks", "decisive", "transpose")
LATER_OF_FIGURES = ("test", "example", "n", "start")
LATER_OF_SEARCHES = ("columns",)
LATER_OF_PUBLISHED = ("tasks",)
MIXED = ("rnnbench.kernel", "rnnbench.device", "rnnbench.card")


def provenance(filled: FilledTable, searches: Sequence[TableSearch]) -> dict[str, Any]:
    """Return the runs of every cell as JSON types: ids, seeds, code, versions, data, commands."""
    trials, drawn = [], digests(filled)
    for (row, column), cell in filled.cells.items():
        at = {(trial.trial): trial for trial in cell.planned}
        found = {record.trial: record for record in cell.records.values()}
        for name, trial in at.items():
            record = found.get(name)
            trials.append({"row": list(row), "column": list(column)} | _trial(filled, trial, record))
    return {
        "versions": dict(VERSIONS),
        "table": _declared(filled.table) | {"sweep": portable(filled.table.sweep)},
        "command": filled.command,
        "source": filled.place,
        "warnings": warnings(filled),
        "searches": [_search(filled, wanted) for wanted in searches],
        "superseded": filled.superseded,
        **({"weights": drawn} if drawn else {}),  # sha256 of each weights.pt that figures were drawn from
        "trials": trials,
    }


def _declared(table: Table) -> dict[str, Any]:
    """Return a table's keys, without those that came later where they are not set, so that bytes stay."""
    tree = asdict(table)
    for key in LATER:
        if tree[key] == getattr(Table(), key):
            del tree[key]
    for key in LATER_OF_SEARCHES:
        if table.tuned is not None and getattr(table.tuned, key) == getattr(Tuning(), key):
            del tree["tuned"][key]
    for key in LATER_OF_PUBLISHED:
        if table.published is not None and getattr(table.published, key) == getattr(Publication(), key):
            del tree["published"][key]
    for figure in tree["figures"].values():
        for key in LATER_OF_FIGURES:
            if figure[key] == getattr(FigureSettings(), key):
                del figure[key]
    return tree


def _trial(filled: FilledTable, planned: TableTrial, record: Record | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "trial": planned.trial,
        "seed": planned.params["seed"],
        "search": planned.search,
        "rerun": shlex.join(["python", "-m", "rnnbench", *own_folders(filled), *portable(planned.overrides)]),
    }
    if record is not None:
        tags = {key.removeprefix("rnnbench."): value for key, value in record.origin.items()}
        facts |= {
            "job": record.job,
            "run_id": record.run_id,
            "started": record.started,
            "command": tags.pop("command", None),
            "commit": tags.pop("git_commit", None),
            "dirty": {"true": True, "false": False}.get(tags.pop("git_dirty", "")),
            "data_checksum": tags.pop("data", None),
            "versions": {
                key.removeprefix("version."): tags.pop(key)
                for key in sorted(tags)
                if key.startswith("version.")
            },
            "tags": dict(sorted(tags.items())),
            # Metrics are text, since JSON has no infinities.
            "metrics": {
                name: repr(record.metrics[name]) for name in filled.table.metrics if name in record.metrics
            },
        }
    return facts | {"params": {key: value for key, value in planned.params.items() if not is_place(key)}}


def own_folders(filled: FilledTable) -> list[str]:
    """Return the --config-dir arguments for the user's config folders."""
    return [word for word in filled.command if word.startswith("--config-dir=")]


def _with_folders(command: str, filled: FilledTable) -> str:
    """Return a recorded command without this machine's places, with the user's config folders."""
    words = shlex.split(command)
    folders = [word for word in own_folders(filled) if word not in words]
    return shlex.join(portable([*words[:3], *folders, *words[3:]]))


def _search(filled: FilledTable, wanted: TableSearch) -> dict[str, Any]:
    found = wanted.found
    return {
        "row": wanted.row,
        "study": wanted.name,
        "trials": wanted.trials,
        "sampler": wanted.sampler,
        "space": wanted.space,
        "overrides": portable(wanted.command),
        "winner": found.winner if found else None,
        "winner_command": _with_folders(found.command, filled) if found else None,
        "run_id": found.run_id if found else None,
        "metrics": {name: repr(value) for name, value in sorted(found.metrics.items())} if found else {},
    }


def warnings(filled: FilledTable) -> list[str]:
    """Return warnings for reviewers, such as uncommitted changes or runs on different machines."""
    records = filled.records()
    said = []
    dirty = sum(record.tags.get("rnnbench.git_dirty") == "true" for record in records)
    unknown = sum("rnnbench.git_commit" not in record.tags for record in records)
    if dirty:
        said.append(f"{dirty} of {len(records)} runs: the code differed from its commit")
    if unknown:
        said.append(f"{unknown} of {len(records)} runs: their commit is not known")
    if moved := sum("rnnbench.moved" in record.tags for record in records):
        said.append(f"{moved} of {len(records)} runs: trained on one device, then on another")
    versions = sorted(
        {key for record in records for key in record.tags if key.startswith("rnnbench.version")}
    )
    for key in (*MIXED, *versions):
        values = sorted({record.tags.get(key, "unknown") for record in records})
        if len(values) > 1:
            said.append(f"the runs differ in {key.removeprefix('rnnbench.')}: {', '.join(values)}")
    return said


class RunsOfTable(Source):
    """Selects from a source only the runs that a table was made of.

    Args:
        jobs: the identities of these runs.
        unfinished: the trials that had no finished run when the table was made. Their other runs count,
            since a table says how many failed or were pruned.
    """

    def __init__(self, inner: Source, jobs: set[str], unfinished: Container[str] = ()) -> None:
        self.inner, self.jobs, self.unfinished, self.name = inner, jobs, unfinished, inner.name

    def all(self) -> list[Record]:
        return [record for record in self.inner.all() if self._counts(record)]

    def find(self, trials: Any) -> list[Record]:
        return [record for record in self.inner.find(trials) if self._counts(record)]

    def _counts(self, record: Record) -> bool:
        unfinished = record.trial in self.unfinished and record.status != "finished"
        return record.job in self.jobs or unfinished

    def of_study(self, study: str) -> list[Record]:
        return self.inner.of_study(study)

    def searches(self) -> Any:
        return self.inner.searches()

    def curve(self, record: Record, metric: str) -> list[tuple[int, float]]:
        return self.inner.curve(record, metric)
