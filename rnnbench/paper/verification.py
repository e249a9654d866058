"""Verifies a table: computes its files again from the records, and compares them with those in its folder."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnnbench.config import ConfigError
from rnnbench.paper.aggregate import FilledTable, TableTrial, fill
from rnnbench.paper.definition import Table, table_of
from rnnbench.paper.files import texts
from rnnbench.paper.numbers import differing
from rnnbench.paper.planning import TableSearch, default_place, searched
from rnnbench.paper.provenance import EARLIER_RESAMPLES, VERSIONS, RunsOfTable, warnings
from rnnbench.reader import SearchRecord, Source, open_source

# Keys that `verify` reads from provenance.json, with their types; for a list of objects those of each object.
KINDS: dict[str, Any] = {
    "table": dict,
    "command": [str],
    "source": str,
    "versions": dict,
    "superseded": [str],
    "searches": [
        {"row": str, "study": str, "overrides": [str], "trials": int, "sampler": str, "space": dict}
    ],
    "trials": [{"trial": str, "rerun": str, "params": dict, "search": str | None}],
}


def _of_kind(value: Any, kind: Any) -> Any:
    """Return the value if it has the type `kind`.

    Raises:
        TypeError: it is of another type.
        KeyError: it lacks a key.
    """
    if isinstance(kind, list):
        for part in _of_kind(value, list):
            _of_kind(part, kind[0])
    elif isinstance(kind, dict):
        _of_kinds(value, kind)
    elif not isinstance(value, kind):
        raise TypeError(f"{str(value)[:40]} has the place of another type")
    return value


def _of_kinds(tree: Any, kinds: dict[str, Any]) -> dict[str, Any]:
    """Return the object if its keys have values of these types; raise as `_of_kind` does otherwise."""
    found: dict[str, Any] = _of_kind(tree, dict)
    for key, kind in kinds.items():
        _of_kind(found[key], kind)
    if not isinstance(found.get("job", ""), str):
        raise TypeError("the identity of a run is no text")
    return found


@dataclass(frozen=True)
class Provenance:
    """Keeps the checked contents of a provenance.json.

    Args:
        jobs: the command that trains each run of the table again, by the identity of the run.
        unfinished: the trials that had no finished run when the table was made.
        searches: the file's entries for searches.
        versions: versions of the renderer and the statistics that made the table.
    """

    table: Table
    planned: list[TableTrial]
    jobs: dict[str, str]
    unfinished: set[str]
    searches: list[dict[str, Any]]
    superseded: list[str]
    command: list[str]
    place: str
    versions: dict[str, int]

    @property
    def same_tests(self) -> bool:
        """Whether this version computes intervals and tests as the table's version did."""
        return self.versions["statistics"] > 1 and self.same_figures and self._same_permutations

    @property
    def _same_permutations(self) -> bool:
        """Whether the same permutations are tried: version 3 drew some of those of 14 or more pairs."""
        if self.versions["statistics"] > 3 or self.table.test != "permutation":
            return True
        keys = ("seed", *self.table.over)
        pairs = {tuple(str(trial.params.get(key)) for key in keys) for trial in self.planned}
        return self.table.statistic != "mean" or len(pairs) < 14

    @property
    def same_figures(self) -> bool:
        """Whether figures are computed as then: before version 3, medians over tasks were of all runs."""
        pooled = self.table.statistic == "median" and self.table.over
        return not pooled or self.versions["statistics"] > 2


def verify(folder: Path, where: str | None, folders: Sequence[Path] = ()) -> tuple[list[str], list[str]]:
    """Compute a table's files again from the records, and compare them with those in a folder.

    For files of another version, the numbers are compared instead of the text.

    Args:
        where: the folder or store with the records; None: the one that the table was made from, else the
            default store if it is here, else multirun.
        folders: the user's config folders, for the user's kinds of figures. Those in provenance.json are
            ignored, since others may have written it, and a figure's file is code.

    Returns:
        descriptions of what differs or is missing; and warnings.

    Raises:
        ConfigError: the folder has no table, or there are no records at all.
    """
    known = read_provenance(folder / "provenance.json", folders)
    place = known.place if "://" in known.place or Path(known.place or "?").exists() else default_place()
    source = open_source(where or place)
    there = {record.job for record in source.find(trial.trial for trial in known.planned)}
    faults = [
        f"missing: run {job} ({rerun}) is not in {source.name}"
        for job, rerun in known.jobs.items()
        if job not in there
    ]
    if len(faults) == len(known.jobs):
        return [*faults, f"no run of the table is in {source.name}: source=FOLDER or URI names another"], []
    filled, searches = _filled(known, source)
    if faults:  # every file differs then, which adds no information
        faults += [
            f"{name}: is not there"
            for name in texts(filled, searches, folder)
            if not (folder / name).exists()
        ]
    else:
        faults += _compared(known, filled, searches, folder)
    doubts = warnings(filled)
    if not known.same_tests:
        which = "marks, intervals and p" if known.same_figures else "figures"
        earlier = f"its {which} were computed by an earlier version of the statistics"
        doubts.insert(0, f"{earlier}, and are not compared; make the table again to have today's")
    return faults, doubts


def read_provenance(file: Path, folders: Sequence[Path] = ()) -> Provenance:
    """Read and check a provenance.json.

    Raises:
        ConfigError: it is not there, or cannot be read.
    """
    if not file.exists():
        raise ConfigError(
            f"{file.parent}: has no provenance.json; give a folder that rnnbench.paper has made"
        )
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        tree = _of_kinds({"command": [], "source": "", "versions": {}} | _of_kind(tree, dict), KINDS)
        versions = {key: tree["versions"].get(key, 1) for key in VERSIONS}
        if versions["statistics"] < 3:
            tree["table"].setdefault("resamples", EARLIER_RESAMPLES)
        trials = tree["trials"]
        for trial in trials:
            _of_kinds(trial["params"], {"seed": int, "fit.select": str})
        return Provenance(
            table_of(tree["table"], folders),
            [TableTrial(t["trial"], _overrides(t["rerun"]), t["params"], t["search"]) for t in trials],
            {trial["job"]: trial["rerun"] for trial in trials if "job" in trial},
            {trial["trial"] for trial in trials if "job" not in trial},
            tree["searches"],
            tree["superseded"],
            tree["command"],
            tree["source"],
            versions,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error!r}); make the table again") from None


def _filled(known: Provenance, source: Source) -> tuple[FilledTable, list[TableSearch]]:
    """Fill the table from the runs that it was made of; return it and its searches."""
    filled = fill(known.table, known.planned, RunsOfTable(source, set(known.jobs), known.unfinished))
    there = source.searches() if known.searches else {}
    searches = [_again(search, there.get(search["study"])) for search in known.searches]
    filled.command, filled.place = known.command, known.place
    filled.superseded, filled.searched = known.superseded, searched(known.table, searches)
    return filled, searches


def _compared(known: Provenance, filled: FilledTable, searches: list[TableSearch], folder: Path) -> list[str]:
    """Return descriptions of what the files in a folder have that the records do not give."""
    faults = []
    figures = [figure.value for cell in filled.cells.values() for figure in cell.figures.values()]
    for name, text in texts(filled, searches, folder).items():
        path = folder / name
        if not path.exists():
            faults.append(f"{name}: is not there")
        elif (was := path.read_text(encoding="utf-8")) == text:
            continue
        elif known.versions == VERSIONS:
            faults += differences(name, was, text)
        elif known.same_figures or name == "provenance.json":
            faults += differing(name, was, text, known.same_tests, figures)
    return faults


def _overrides(rerun: str) -> list[str]:
    """Return the overrides of a trial's command."""
    return [word for word in shlex.split(rerun)[3:] if not word.startswith("-")]


def _again(known: dict[str, Any], found: SearchRecord | None) -> TableSearch:
    """Return a search from provenance.json, with the current records of it."""
    trials, sampler, space = (known[name] for name in ("trials", "sampler", "space"))
    return TableSearch(
        known["row"], known["study"], known["overrides"], trials, found, trials, sampler, space
    )


def differences(name: str, was: str, now: str) -> list[str]:
    """Return the lines of a file that differ from what the records give."""
    a, b = was.splitlines(), now.splitlines()
    pairs = [(n, *pair) for n, pair in enumerate(zip(a, b, strict=False), 1) if pair[0] != pair[1]]
    said = [
        f"{name}, line {n}: {old.strip()[:160]!r}; the records give {new.strip()[:160]!r}"
        for n, old, new in pairs
    ]
    if len(a) != len(b):
        said.append(f"{name}: has {len(a)} lines; the records give {len(b)}")
    return said or [f"{name}: differs in its line ends"]
