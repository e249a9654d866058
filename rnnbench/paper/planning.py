"""Finds which trials a table needs, and trains the missing ones with rnnbench in a process of its own."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from rnnbench.config import ConfigError, Tracking, conf_folder, recorded
from rnnbench.config.uris import sqlite_file
from rnnbench.mlflow_sync.courier import undelivered
from rnnbench.paper.aggregate import TableTrial, latest
from rnnbench.paper.definition import Table, Tuning
from rnnbench.paper.forks import Forks
from rnnbench.reader import Record, SearchRecord, Source, open_source
from rnnbench.record import is_sweep, read_sweep
from rnnbench.sweep.plan import grids, sweeper_settings
from rnnbench.system.files import sound

MULTIRUN = Path("multirun")
RANGE = re.compile(r"[^=]+=((choice|range|interval|glob|tag|sort|shuffle|float|int)\(|[^\[{'\"]*,)")
# Keys that say where a trial is trained, read and recorded, not what is trained.
PLACES = ("tracking", "data.root", "data.path", "data.download", "data.source", "data.sha256", "fit.device",
          "fit.kernel", "dry_run", "reuse")  # fmt: skip


def is_place(key: str) -> bool:
    """Return whether a key, or the override `key=value`, says where a trial runs, not what it is."""
    name = key.partition("=")[0].lstrip("+")
    return any(name == place or name.startswith(f"{place}.") for place in PLACES)


def portable(overrides: Iterable[str]) -> list[str]:
    """Return overrides that hold on every machine."""
    return [word for word in overrides if not is_place(word)]


@dataclass(frozen=True)
class TableSearch:
    """Describes a search that a table needs, for a row or for a cell."""

    row: str  # the row's overrides, and the names of its columns: model=lstm, digits
    name: str  # name of the search's study
    command: list[str]  # overrides of the whole search
    trials: int
    found: SearchRecord | None
    drawn: int  # number of trials that are already recorded
    sampler: str
    space: dict[str, str]  # the distribution of each parameter, as text

    @property
    def done(self) -> bool:
        """Whether all its trials have ended, or all points of its space, and its winner is known."""
        if self.found is None:
            return False
        return self.drawn >= self.trials or "study/used_up" in self.found.metrics


@dataclass
class Plan:
    """Keeps the trials that a table needs, and where their records are read."""

    planned: list[TableTrial]  # in a tuned table only trials of rows whose search is done
    searches: list[TableSearch]
    where: str  # the folder or store of the records
    searched: list[TableTrial] = field(default_factory=list)  # the trial that each search varies

    def source(self) -> Source | None:
        """Return the source of the records; None if it does not exist yet."""
        file = sqlite_file(self.where) if "://" in self.where else Path(self.where)
        return None if file is not None and not file.exists() else open_source(self.where)

    def missing(self) -> list[TableTrial]:
        """Return each trial that has no record of its end, once."""
        source = self.source()
        counts: dict[str, Record] = latest(self.planned, source)[0] if source is not None else {}
        unique = {trial.trial: trial for trial in self.planned}
        return [trial for name, trial in unique.items() if name not in counts]


class App:
    """Plans the trials of a table in this process, and trains them with rnnbench in a process of its own.

    Args:
        name: the table's name, which names the folder of its runs.
        folders: the user's config folders.
    """

    def __init__(self, name: str, folders: Sequence[Path]) -> None:
        self.name = name
        self.folders = list(folders)
        self.folder = MULTIRUN / "paper" / name

    def words(self, overrides: Sequence[str], several: bool = True) -> list[str]:
        """Return the arguments of `python -m rnnbench`, for a sweep (`several`) or a single run."""
        given = [f"--config-dir={folder}" for folder in self.folders]
        return [*given, *(["-m"] if several else []), *overrides]

    def command(self, overrides: Sequence[str]) -> list[str]:
        """Return the command line of a sweep."""
        return [sys.executable, "-m", "rnnbench", *self.words(overrides)]

    def points(self, overrides: Sequence[str]) -> list[TableTrial]:
        """Return the trials of a grid.

        Raises:
            ConfigError: the app refuses it.
        """
        with self.grids(overrides) as points:
            return points([])

    @contextmanager
    def grids(self, overrides: Sequence[str]) -> Iterator[Callable[[Sequence[str]], list[TableTrial]]]:
        """Yield a function of further overrides that returns the trials of a grid.

        Args:
            overrides: those with which all grids begin.

        Raises:
            ConfigError: the app refuses them; from the function, a grid.
        """
        with ExitStack() as stack:
            with _named_sweep():
                plan = stack.enter_context(grids(self.words([*overrides, "hydra/sweeper=grid"])))

            def points(more: Sequence[str]) -> list[TableTrial]:
                with _named_sweep():
                    return [
                        TableTrial(one["trial"], one["overrides"], one["params"], None) for one in plan(more)
                    ]

            yield points

    def run(self, overrides: Sequence[str], trials: Sequence[TableTrial], *more: str) -> int:
        """Train some of the trials of a grid, with the app's output; return the app's exit code."""
        with tempfile.TemporaryDirectory() as folder:
            only = Path(folder, "only")
            only.write_text("".join(f"{trial.trial}\n" for trial in trials), encoding="utf-8")
            place = f"hydra.sweep.dir={self.place()}"
            chosen = ["hydra/sweeper=grid", f"hydra.sweeper.only={only}"]
            return subprocess.run(self.command([*overrides, *chosen, place, *more])).returncode

    def estimate(self, overrides: Sequence[str]) -> int:
        """Have the app print how long a grid would take; return its exit code."""
        return subprocess.run(self.command([*overrides, "hydra/sweeper=grid", "dry_run=true"])).returncode

    def budget(self, overrides: Sequence[str]) -> tuple[str, dict[str, str]]:
        """Return the sampler of a search, and its space, as Hydra composes them."""
        ranges = [word for word in overrides if RANGE.match(word)]
        fixed = [word for word in overrides if word not in ranges]
        try:
            sweeper = sweeper_settings(self.words(fixed, several=False))
        except ConfigError as error:
            raise ConfigError(f"tuned.search: {error}") from None
        if "sampler" not in sweeper:
            raise ConfigError(f"tuned.search={list(overrides)}: is no search; add hydra/sweeper=optuna")
        given = dict(word.split("=", 1) for word in ranges)
        space = {**(sweeper["space"] or {}), **(sweeper["params"] or {}), **given}
        return sweeper["sampler"]["name"], {key: _in_words(key, over) for key, over in space.items()}

    def search(self, wanted: TableSearch, forks: Forks, *more: str) -> int:
        """Start or resume a search, in a fork of a process that all searches have; return its exit code."""
        place = [
            f"hydra.sweeper.study_name={wanted.name}",
            f"hydra.sweep.dir={self.folder / 'searches' / wanted.name}",
        ]
        return forks.run(self.words([*wanted.command, *place, *more]))

    def place(self) -> Path:
        """Return a folder for the next runs: the last one if its sweep has not finished, else a new one."""
        runs = self.folder / "runs"
        numbers = sorted(int(path.name) for path in runs.glob("[0-9]*") if is_sweep(path))
        last = [runs / str(number) for number in numbers[-1:]]
        if any(info["status"] in ("running", "interrupted") for info in sound(last, read_sweep)):
            return last[0]
        return runs / str(numbers[-1] + 1 if numbers else 1)

    def deliver(self) -> None:
        """Deliver this table's undelivered records to MLflow; otherwise they would count as missing."""
        sweeps = [file.parent for file in self.folder.glob("*/*/sweep.json")]
        known = sound(sweeps, lambda sweep: (sweep, read_sweep(sweep)))
        if any(info["tracking"]["uri"] and undelivered(sweep) for sweep, info in known):
            subprocess.run([sys.executable, "-m", "rnnbench.record", "sync", str(self.folder)])


def make_plan(table: Table, app: App, where: str | None) -> Plan:
    """Find the trials that the table needs, and those that are recorded.

    Args:
        where: the folder or store of the records; None: the store that the trials' configs name.

    Raises:
        ConfigError: the app refuses its trials.
    """
    if table.tuned is None:
        planned = app.points(table.sweep)
        return Plan(planned, [], where or store(planned))
    settings = [word for word in table.sweep if word.startswith("hydra")]
    with app.grids(settings) as points:
        return _tuned_plan(table, app, where, points)


def _tuned_plan(
    table: Table, app: App, where: str | None, grid: Callable[[Sequence[str]], list[TableTrial]]
) -> Plan:
    """Make the plan of a tuned table, with a function that returns the trials of a grid."""
    tuned = table.tuned
    assert tuned is not None
    cells, common = tuned_cells(tuned), [word for word in table.sweep if not word.startswith("hydra")]
    bases = [grid([*common, *cell.overrides, f"seed={tuned.seed}"]) for cell in cells]
    plan = Plan([], [], where or store([point for points in bases for point in points]))
    records = SearchRecords(plan.source())
    budget = app.budget([*table.sweep, *cells[0].overrides, *search_of(tuned)])  # the same for all
    for cell, points in zip(cells, bases, strict=True):
        # A search trains all folds of its suggestions.
        if len({repr({**point.params, "data.fold": 0}) for point in points}) > 1:
            raise ConfigError(
                f"tuned.rows: {cell.name} with sweep={table.sweep} is {len(points)} trials, not one"
            )
        if taken := [name for name in cell.columns if name in points[0].params]:
            raise ConfigError(f"tuned.columns.{taken[0]}: is a key of the trials; give another name")
        search = _search_of_cell(app, table, cell, trial=points[0].trial, records=records, budget=budget)
        plan.searches.append(search)
        plan.searched.append(replace(points[0], params=points[0].params | cell.columns))
        if search.done:
            plan.planned += [
                replace(trial, params=trial.params | cell.columns, search=search.name)
                for trial in grid(winner(search, tuned, app.words([])))
            ]
    return plan


@contextmanager
def _named_sweep() -> Iterator[None]:
    """Put the table's key before the message of a grid that the app refuses."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"sweep: {error}") from None


@dataclass(frozen=True)
class TunedCell:
    """Describes a cell of a tuned table, which has a search of its own.

    Args:
        row: the row's overrides, as the table has them.
        columns: the name of each column that the table names, by its key.
        overrides: those of the row and of its columns.
    """

    row: str
    columns: dict[str, str]
    overrides: list[str]

    @property
    def name(self) -> str:
        """The row's overrides, and the names of its columns."""
        return ", ".join([self.row, *self.columns.values()])


def tuned_cells(tuned: Tuning) -> list[TunedCell]:
    """Return the cells of a tuned table: each row with each combination of the columns that it names."""
    found = []
    combinations = list(product(*(values.items() for values in tuned.columns.values())))
    for row, chosen in product(tuned.rows, combinations):
        names = dict(zip(tuned.columns, (name for name, _ in chosen), strict=True))
        words = [word for _, overrides in chosen for word in overrides.split()]
        found.append(TunedCell(row, names, [*row.split(), *words]))
    return found


def search_of(tuned: Tuning) -> list[str]:
    """Return the overrides of a search, with Optuna's sweeper if only ranges of keys are given."""
    keys = {word.partition("=")[0].lstrip("+") for word in tuned.search}
    chosen = keys & {"search", "experiment", "hydra/sweeper"}
    return tuned.search if chosen else ["hydra/sweeper=optuna", *tuned.search]


def winner(wanted: TableSearch, tuned: Tuning, flags: Sequence[str] = ()) -> list[str]:
    """Return the overrides of a search's winner, under the fresh seeds.

    Args:
        flags: the table's own arguments, which are left out.

    Raises:
        ConfigError: the winner's recorded command has other words than overrides.
    """
    assert wanted.found is not None
    words = shlex.split(wanted.found.command)[3:]
    given = [word for word in words if word not in flags and not word.startswith(("seed=", "hydra"))]
    return [*recorded(given, wanted.command), f"seed={tuned.fresh}"]


class SearchRecords:
    """Keeps the records of the searches in a folder or a store (None: it does not exist yet)."""

    def __init__(self, source: Source | None) -> None:
        self.source = source
        self.searches = source.searches() if source is not None else {}

    def ended(self, study: str) -> int:
        """Return how many trials of a search have ended."""
        records = self.source.of_study(study) if self.source is not None else []
        ended = ("finished", "failed", "pruned")
        return len({record.tags["rnnbench.number"] for record in records if record.status in ended})


def _search_of_cell(
    app: App,
    table: Table,
    cell: TunedCell,
    *,
    trial: str,
    records: SearchRecords,
    budget: tuple[str, dict[str, str]],
) -> TableSearch:
    """Return the search of a cell, with the number of its recorded trials and its winner.

    Args:
        trial: the hash of the trial whose values the search varies.
        budget: the sampler and the space of the search.
    """
    tuned = table.tuned
    assert tuned is not None
    command = [*table.sweep, *cell.overrides, *search_of(tuned), f"seed={tuned.seed}"]
    command += [f"hydra.sweeper.n_trials={tuned.trials}", f"hydra.sweeper.sampler.seed={tuned.seed}"]
    # A search is identified by its command, the trial that it varies, and the file of its space.
    text = json.dumps([portable(command), trial]) + "".join(_spaces(app, tuned.search))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    values = " ".join([*(word.rpartition("=")[2] for word in cell.row.split()), *cell.columns.values()])
    name = f"{app.name}-{re.sub(r'[^A-Za-z0-9]+', '-', values)}-{digest}"
    found = records.searches.get(name)
    return TableSearch(cell.name, name, command, tuned.trials, found, records.ended(name), *budget)


def _in_words(key: str, over: Any) -> str:
    """Return a parameter's distribution and condition as text.

    Raises:
        ConfigError: the entry of the space has no distribution.
    """
    if isinstance(over, list):
        return ", ".join(_in_words(key, one) for one in over)
    if not isinstance(over, dict):
        return str(over)
    if "over" not in over:
        raise ConfigError(
            f"tuned.search: hydra.sweeper.space: {key}: {over} has no over; a key with a dot is given whole: "
            "+hydra.sweeper.space={optim.lr:'interval(0.001, 0.1)'}"
        )
    return f"{over['over']} (where {over['when']})" if over.get("when") else str(over["over"])


def _spaces(app: App, search: Sequence[str]) -> list[str]:
    """Return the contents of the chosen files of the config group `search`."""
    names = [word.partition("=")[2] for word in search if word.startswith("search=")]
    files = [
        Path(folder) / "search" / f"{name}.yaml" for name in names for folder in [*app.folders, conf_folder()]
    ]
    return [file.read_text(encoding="utf-8") for file in files if file.exists()]


def searched(table: Table, searches: Sequence[TableSearch]) -> str:
    """Return a sentence on the search budget of each row; "" if the table has no searches."""
    if table.tuned is None:
        return ""
    one = searches[0]
    what = "cell" if table.columns else "row"
    space = "; ".join(f"{key} from {over}" for key, over in one.space.items())
    return (
        f"Each {what} is the winner of its own search: {one.trials} trials, sampler {one.sampler} with seed "
        f"{table.tuned.seed}, {space}; judged on validation, trained again under fresh seeds."
    )


def store(planned: Sequence[TableTrial]) -> str:
    """Return the place of the trials' records: MLflow's URI, or the folder of all runs if that is off."""
    stores: dict[Any, None] = dict.fromkeys(trial.params["tracking.uri"] for trial in planned)
    if len(stores) > 1:
        raise ConfigError(f"source: the trials go to {', '.join(map(str, stores))}; say where to read them")
    return next(iter(stores)) or os.fspath(MULTIRUN)


def default_place() -> str:
    """Return the default store if it exists, else the folder of all runs."""
    uri = str(Tracking().uri)
    file = sqlite_file(uri)
    return uri if file is not None and file.exists() else os.fspath(MULTIRUN)
