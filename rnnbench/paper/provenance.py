"""Where a table's numbers come from, and whether they still do: provenance.json and `verify`."""

import json
import shlex
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rnnbench.config import ConfigError
from rnnbench.paper.aggregate import Filled, Planned, fill
from rnnbench.paper.definition import table_of
from rnnbench.paper.numbers import differing
from rnnbench.paper.planning import Wanted, default_place, is_place, portable, searched
from rnnbench.paper.reading import Record, Search, Source, open_source

# `renderer` is raised where the bytes of a file change, `statistics` where an interval or a test is computed
# in another way. A provenance.json without them is of version 1.
VERSIONS = {"renderer": 2, "statistics": 2}
MIXED = ("rnnbench.kernel", "rnnbench.device")


def provenance(filled: Filled, searches: Sequence[Wanted]) -> dict[str, Any]:
    """For every cell its runs: ids, seeds, code, versions, data, commands. JSON types."""
    trials = []
    for (row, column), cell in filled.cells.items():
        at = {(trial.trial): trial for trial in cell.planned}
        found = {record.trial: record for record in cell.records.values()}
        for name, trial in at.items():
            record = found.get(name)
            trials.append({"row": list(row), "column": list(column)} | _trial(filled, trial, record))
    return {
        "versions": dict(VERSIONS),
        "table": asdict(filled.table) | {"sweep": portable(filled.table.sweep)},
        "command": filled.command,
        "source": filled.place,
        "warnings": warnings(filled),
        "searches": [_search(filled, wanted) for wanted in searches],
        "superseded": filled.superseded,
        "trials": trials,
    }


def _trial(filled: Filled, planned: Planned, record: Record | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "trial": planned.trial,
        "seed": planned.params["seed"],
        "search": planned.search,
        "rerun": shlex.join(["python", "-m", "rnnbench", *own_folders(filled), *portable(planned.overrides)]),
    }
    if record is not None:
        tags = {key.removeprefix("rnnbench."): value for key, value in record.tags.items()}
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
            # As text: a table may have infinities, JSON has not.
            "metrics": {
                name: repr(record.metrics[name]) for name in filled.table.metrics if name in record.metrics
            },
        }
    return facts | {"params": {key: value for key, value in planned.params.items() if not is_place(key)}}


def own_folders(filled: Filled) -> list[str]:
    """The words of a command that name config folders of the user's own."""
    return [word for word in filled.command if word.startswith("--config-dir=")]


def _with_folders(command: str, filled: Filled) -> str:
    """A recorded command of the app as it holds on every machine, with the user's config folders."""
    words = shlex.split(command)
    folders = [word for word in own_folders(filled) if word not in words]
    return shlex.join(portable([*words[:3], *folders, *words[3:]]))


def _search(filled: Filled, wanted: Wanted) -> dict[str, Any]:
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


def warnings(filled: Filled) -> list[str]:
    """What a reviewer would ask about: code that differed from its commit, machines that differ."""
    records = filled.records()
    said = []
    dirty = sum(record.tags.get("rnnbench.git_dirty") == "true" for record in records)
    unknown = sum("rnnbench.git_commit" not in record.tags for record in records)
    if dirty:
        said.append(f"{dirty} of {len(records)} runs: the code differed from its commit")
    if unknown:
        said.append(f"{unknown} of {len(records)} runs: their commit is not known")
    versions = sorted(
        {key for record in records for key in record.tags if key.startswith("rnnbench.version")}
    )
    for key in (*MIXED, *versions):
        values = sorted({record.tags.get(key, "unknown") for record in records})
        if len(values) > 1:
            said.append(f"the runs differ in {key.removeprefix('rnnbench.')}: {', '.join(values)}")
    return said


class Pinned(Source):
    """Only the runs that a table was made of.

    Args:
        jobs: the identities of these runs.
        unfinished: the trials that had no finished run then. Their other runs count, since a table says how
            many have failed or were pruned.
    """

    def __init__(self, inner: Source, jobs: set[str], unfinished: Container[str] = ()) -> None:
        self.inner, self.jobs, self.unfinished, self.name = inner, jobs, unfinished, inner.name

    def find(self, trials: Any) -> list[Record]:
        return [
            record
            for record in self.inner.find(trials)
            if record.job in self.jobs or (record.trial in self.unfinished and record.status != "finished")
        ]

    def of_study(self, study: str) -> list[Record]:
        return self.inner.of_study(study)

    def searches(self) -> Any:
        return self.inner.searches()

    def curve(self, record: Record, metric: str) -> list[tuple[int, float]]:
        return self.inner.curve(record, metric)


def verify(
    folder: Path,
    where: str | None,
    texts: Callable[[Filled, list[Wanted], Path], dict[str, str]],
) -> tuple[list[str], list[str]]:
    """Compute a table's files anew from the records, and compare them with those in a folder.

    Of files that another version has written, the numbers are compared instead of the text.

    Args:
        where: the folder or store with the records; None: the one that the table was made from, else the
            default store if it is here, else multirun.
        texts: the files of a filled table, by name.

    Returns:
        what differs or is missing; and warnings.

    Raises:
        ConfigError: the folder has no table, or there are no records at all.
    """
    file = folder / "provenance.json"
    if not file.exists():
        raise ConfigError(f"{folder}: has no provenance.json; give a folder that rnnbench.paper has made")
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        known = _of_kinds({"command": [], "source": "", "versions": {}} | _of_kind(known, dict), KINDS)
        table = table_of(known["table"])
        for trial in known["trials"]:
            _of_kinds(trial["params"], {"seed": int, "fit.select": str})
        planned = [
            Planned(t["trial"], _overrides(t["rerun"]), t["params"], t["search"]) for t in known["trials"]
        ]
        jobs = {trial["job"]: trial for trial in known["trials"] if "job" in trial}
        command, place = known["command"], known["source"]
        versions = {key: known["versions"].get(key, 1) for key in VERSIONS}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error!r}); make the table again") from None
    source = open_source(
        where or (place if "://" in place or Path(place or "?").exists() else default_place())
    )
    there = {record.job for record in source.find(trial.trial for trial in planned)}
    faults = [
        f"missing: run {trial['job']} ({trial['rerun']}) is not in {source.name}"
        for job, trial in jobs.items()
        if job not in there
    ]
    if len(faults) == len(jobs):
        return [*faults, f"no run of the table is in {source.name}: source=FOLDER or URI names another"], []
    unfinished = {trial["trial"] for trial in known["trials"] if "job" not in trial}
    filled = fill(table, planned, Pinned(source, set(jobs), unfinished))
    there_are = source.searches() if known["searches"] else {}
    searches = [_again(search, there_are.get(search["study"])) for search in known["searches"]]
    filled.command, filled.place = command, place
    filled.superseded, filled.searched = known["superseded"], searched(table, searches)
    figures = [figure.value for cell in filled.cells.values() for figure in cell.figures.values()]
    lost = bool(faults)  # then every file differs, and says no more
    for name, text in texts(filled, searches, folder).items():
        path = folder / name
        if not path.exists():
            faults.append(f"{name}: is not there")
        elif not lost and (was := path.read_text(encoding="utf-8")) != text:
            if versions == VERSIONS:
                faults += differences(name, was, text)
            else:
                tests = versions["statistics"] == VERSIONS["statistics"]
                faults += differing(name, was, text, tests, figures)
    doubts = warnings(filled)
    if versions["statistics"] != VERSIONS["statistics"]:
        earlier = "its marks, intervals and p were computed by an earlier version of the statistics"
        doubts.insert(0, f"{earlier}, and are not compared; make the table again to have today's")
    return faults, doubts


# What `verify` reads of provenance.json; of lists of objects what each holds.
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
    """The value.

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
    """An object whose keys hold values of these types; raises as `_of_kind`."""
    found: dict[str, Any] = _of_kind(tree, dict)
    for key, kind in kinds.items():
        _of_kind(found[key], kind)
    if not isinstance(found.get("job", ""), str):
        raise TypeError("the identity of a run is no text")
    return found


def _overrides(rerun: str) -> list[str]:
    """The overrides of a trial's command."""
    return [word for word in shlex.split(rerun)[3:] if not word.startswith("-")]


def _again(known: dict[str, Any], found: Search | None) -> Wanted:
    """A search as provenance.json has it, with what its records say now."""
    trials, sampler, space = (known[name] for name in ("trials", "sampler", "space"))
    return Wanted(known["row"], known["study"], known["overrides"], trials, found, trials, sampler, space)


def differences(name: str, was: str, now: str) -> list[str]:
    """The lines of a file that are not what the records give."""
    a, b = was.splitlines(), now.splitlines()
    pairs = [(n, *pair) for n, pair in enumerate(zip(a, b, strict=False), 1) if pair[0] != pair[1]]
    said = [
        f"{name}, line {n}: {old.strip()[:160]!r}; the records give {new.strip()[:160]!r}"
        for n, old, new in pairs
    ]
    if len(a) != len(b):
        said.append(f"{name}: has {len(a)} lines; the records give {len(b)}")
    return said or [f"{name}: differs in its line ends"]
