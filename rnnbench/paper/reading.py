"""Records as a table needs them: looked up by trial hash, in job folders or in MLflow.

Of a SQL store (SQLite, PostgreSQL) the tables are read directly, by queries that only read: MLflow's own
search_runs, the way for every other store, takes three times as long and gives the same.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rnnbench.config import ConfigError
from rnnbench.config.uris import driven, sqlite_file
from rnnbench.mlflow_sync.delivery import value as read_value
from rnnbench.mlflow_sync.store import silence
from rnnbench.reader import STATUS, mlflow_client, number
from rnnbench.record import read_delivery, read_metrics, read_result, read_sweep, status_now
from rnnbench.record.job_folder import ROW, read_confusion
from rnnbench.system.files import read, sound

TRIAL = re.compile(r'"trial": "([0-9a-f]+)"')
STUDY = re.compile(r'"rnnbench.study": "([^"]*)"')
SQL = ("sqlite", "postgresql")
AT_ONCE = 500  # runs of one query
FIELDS = {
    "rnnbench." + name for name in ("trial", "job", "error", "status", "folder", "attempt", "last_epoch")
}


@dataclass
class Record:
    """What one run of a trial left."""

    trial: str
    job: str  # identity of the run, the same in its folder and in MLflow
    status: str
    started: int  # ms since 1970
    run_id: str | None  # of MLflow
    parent: str | None  # MLflow's run of its sweep
    metrics: dict[str, float]
    tags: dict[str, str]
    error: str | None
    params: dict[str, Any] = field(compare=False)  # of a SQL store only those of a search's trials
    folder: Path = field(compare=False)  # its job folder, which may be another machine's


@dataclass(frozen=True)
class Search:
    """What a finished search left."""

    study: str
    command: str  # that trains its winner
    winner: str  # number of the trial
    metrics: dict[str, float]  # study/complete, study/importance/KEY, ...
    run_id: str | None


class Source(ABC):
    """Where records are read."""

    name: str

    @abstractmethod
    def find(self, trials: Iterable[str]) -> list[Record]:
        """All runs of these trials, by trial hash, in order of their start."""

    @abstractmethod
    def of_study(self, study: str) -> list[Record]:
        """All runs that a search has trained, in order of their start."""

    @abstractmethod
    def searches(self) -> dict[str, Search]:
        """The searches that have come to an end, by name; of several the last."""

    @abstractmethod
    def curve(self, record: Record, metric: str) -> list[tuple[int, float]]:
        """A metric by epoch."""


def open_source(where: str) -> Source:
    """The records in a folder, or in the MLflow store of a URI.

    Raises:
        ConfigError: there are none.
    """
    if "://" not in where:
        return Folders(Path(where))
    file = sqlite_file(where)
    trouble = f"there is no {file}" if file is not None and not file.exists() else silence(where)
    if trouble is not None:
        raise ConfigError(
            f"source={where}: cannot be read ({trouble}); give a store or a folder with records"
        )
    return Tables(where) if where.startswith(SQL) else Runs(where)


def in_order(records: Iterable[Record]) -> list[Record]:
    """By start; what started in the same millisecond by identity."""
    return sorted(records, key=lambda record: (record.started, record.job))


class Folders(Source):
    """Job folders, wherever they are below one."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"source={folder}: no such folder; give one with records, or an MLflow URI")
        self.folder = folder
        self.name = str(folder)

    @cached_property
    def index(self) -> list[tuple[str, str | None, Path]]:
        """Trial hash, study and folder of every job. A damaged file that names neither is skipped."""
        found = []
        for job, text in sound(self.folder.rglob("result.json"), lambda file: (file.parent, read(file))):
            trial, study = TRIAL.search(text), STUDY.search(text)
            if trial is not None:
                found.append((trial[1], study[1] if study else None, job))
        return found

    def find(self, trials: Iterable[str]) -> list[Record]:
        wanted = set(trials)
        return in_order(sound([job for trial, _, job in self.index if trial in wanted], self._read))

    def of_study(self, study: str) -> list[Record]:
        return in_order(sound([job for _, name, job in self.index if name == study], self._read))

    def searches(self) -> dict[str, Search]:
        found = {}
        sweeps = [file.parent for file in sorted(self.folder.rglob("sweep.json"))]
        for sweep, info in sound(sweeps, lambda sweep: (sweep, read_sweep(sweep))):
            if "study" in info:
                run = read_delivery(sweep).get("run_id")
                search = _search(info["study"]["tags"], info["study"]["metrics"], run)
                found[search.study] = search
        return found

    def curve(self, record: Record, metric: str) -> list[tuple[int, float]]:
        return [(row["epoch"], row[metric]) for row in read_metrics(record.folder) if metric in row]

    def _read(self, job: Path) -> Record:
        result = read_result(job)
        epochs = {name: value for row in read_metrics(job) for name, value in row.items() if name not in ROW}
        return Record(
            trial=result["trial"],
            job=result["job"],
            status=status_now(result, job),
            started=result["started"],
            run_id=read_delivery(job).get("run_id"),
            parent=read_delivery(job.parent).get("run_id"),
            metrics=epochs | result["metrics"],
            params=result["params"],
            tags=_ours(result["tags"]) | {"rnnbench.data": result["dataset"]["checksum"]},
            error=result["error"],
            folder=job,
        )


class Runs(Source):
    """Any MLflow store, through MLflow's client."""

    def __init__(self, uri: str) -> None:
        self.name = uri
        self.client = mlflow_client(uri)

    @cached_property
    def runs(self) -> list[Record]:
        """Every run of ours."""
        return [_of_run(run) for run in self._search("tags.`rnnbench.job` != ''")]

    def find(self, trials: Iterable[str]) -> list[Record]:
        wanted = set(trials)
        return in_order(record for record in self.runs if record.trial in wanted)

    def of_study(self, study: str) -> list[Record]:
        return in_order(record for record in self.runs if record.tags.get("rnnbench.study") == study)

    def searches(self) -> dict[str, Search]:
        runs = self._search("tags.`rnnbench.best_command` != ''")
        found = [_search(run.data.tags, run.data.metrics, run.info.run_id) for run in runs]
        return {search.study: search for search in reversed(found)}  # MLflow gives the newest first

    def curve(self, record: Record, metric: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(record.run_id, metric)
        return sorted((point.step, number(point.value)) for point in points)

    def _search(self, query: str) -> Iterator[Any]:
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        page = None
        while True:
            runs = self.client.search_runs(experiments, query, page_token=page)
            yield from runs
            page = runs.token
            if not page:
                return


class Tables(Source):
    """MLflow's tables in SQLite or PostgreSQL, read by SQL."""

    def __init__(self, uri: str) -> None:
        from sqlalchemy import create_engine, text

        self.name = uri
        file = sqlite_file(uri)
        # A reader of a SQLite file makes no lock, no journal and no file.
        where = driven(uri)
        if file is not None:  # encoded twice: SQLAlchemy and SQLite decode it one after the other
            where = f"sqlite:///file:{quote(quote(str(file.absolute())))}?mode=ro&uri=true"
        self.engine = create_engine(where)
        self.text = text

    def find(self, trials: Iterable[str]) -> list[Record]:
        return in_order(self._tagged("rnnbench.trial", sorted(set(trials))))

    def of_study(self, study: str) -> list[Record]:
        return in_order(self._tagged("rnnbench.study", [study], params=True))

    def searches(self) -> dict[str, Search]:
        rows = self._rows(
            "SELECT t.run_uuid FROM tags t JOIN runs r ON r.run_uuid = t.run_uuid WHERE "
            "t.key = 'rnnbench.best_command' AND r.lifecycle_stage = 'active' ORDER BY r.start_time"
        )
        runs = [row[0] for row in rows]
        tags = self._by_run("tags", runs)
        metrics = self._metrics(runs)
        found = [_search(tags[run], metrics.get(run, {}), run) for run in runs]
        return {search.study: search for search in found}

    def curve(self, record: Record, metric: str) -> list[tuple[int, float]]:
        rows = self._rows(
            "SELECT step, value, is_nan FROM metrics WHERE run_uuid = :run AND key = :key ORDER BY step",
            run=record.run_id,
            key=metric,
        )
        return [(int(step), math.nan if is_nan else number(value)) for step, value, is_nan in rows]

    def _rows(self, query: str, **values: Any) -> Sequence[Any]:
        with self.engine.connect() as connection:
            return connection.execute(self.text(query), values).fetchall()

    def _tagged(self, key: str, values: list[str], params: bool = False) -> Iterator[Record]:
        for start in range(0, len(values), AT_ONCE):
            some = {f"v{n}": value for n, value in enumerate(values[start : start + AT_ONCE])}
            rows = self._rows(
                "SELECT r.run_uuid, r.status, r.start_time FROM runs r "
                "JOIN tags t ON t.run_uuid = r.run_uuid "
                "JOIN experiments e ON e.experiment_id = r.experiment_id "
                "WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active' "
                f"AND t.key = '{key}' AND t.value IN ({', '.join(f':{name}' for name in some)})",
                **some,
            )
            for first in range(0, len(rows), AT_ONCE):
                yield from self._read(rows[first : first + AT_ONCE], params)

    def _read(self, rows: Sequence[Any], with_params: bool) -> Iterator[Record]:
        runs = [row[0] for row in rows]
        tags, metrics = self._by_run("tags", runs), self._metrics(runs)
        params = self._by_run("params", runs) if with_params else {}
        for run, status, started in rows:
            if "rnnbench.job" in tags[run]:
                yield _record(run, status, started, tags[run], params.get(run, {}), metrics.get(run, {}))

    def _by_run(self, table: str, runs: list[str]) -> dict[str, dict[str, str]]:
        """Keys and values of the runs in the table `tags` or `params`."""
        found: dict[str, dict[str, str]] = {}
        for run, key, value in self._of(f"SELECT run_uuid, key, value FROM {table}", runs):
            found.setdefault(run, {})[key] = value
        return found

    def _metrics(self, runs: list[str]) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for run, key, value, is_nan in self._of(
            "SELECT run_uuid, key, value, is_nan FROM latest_metrics", runs
        ):
            found.setdefault(run, {})[key] = math.nan if is_nan else number(value)
        return found

    def _of(self, query: str, runs: list[str]) -> Sequence[Any]:
        if not runs:
            return []
        some = {f"v{n}": run for n, run in enumerate(runs)}
        return self._rows(f"{query} WHERE run_uuid IN ({', '.join(f':{name}' for name in some)})", **some)


def _search(tags: dict[str, str], metrics: dict[str, float], run_id: str | None) -> Search:
    names = {name: value for name, value in metrics.items() if name.startswith("study/")}
    study, command, winner = (tags[f"rnnbench.{key}"] for key in ("study", "best_command", "best_trial"))
    return Search(study, command, winner, names, run_id)


def _of_run(run: Any) -> Record:
    info, data = run.info, run.data
    return _record(info.run_id, info.status, info.start_time, data.tags, data.params, data.metrics)


def _record(
    run: str,
    status: str,
    started: int,
    tags: dict[str, str],
    params: dict[str, str],
    metrics: dict[str, float],
) -> Record:
    """A record from what MLflow has of a run."""
    return Record(
        trial=tags["rnnbench.trial"],
        job=tags["rnnbench.job"],
        status=tags.get("rnnbench.status", STATUS[status]),
        started=started,
        run_id=run,
        parent=tags.get("mlflow.parentRunId"),
        metrics={name: number(value) for name, value in metrics.items()},
        params={key: read_value(text) for key, text in params.items()},
        tags=_ours(tags),
        error=tags.get("rnnbench.error"),
        folder=Path(tags["rnnbench.folder"]),
    )


def _ours(tags: dict[str, str]) -> dict[str, str]:
    """The tags that say where numbers come from, without those that a record has as fields."""
    return {key: value for key, value in tags.items() if key.startswith("rnnbench.") and key not in FIELDS}


def confusion(record: Record) -> list[list[int]]:
    """The confusion matrix of a run: counts, rows the truth.

    Raises:
        ConfigError: its job folder is not here, or its task has no classes.
    """
    file = record.folder / "confusion.csv"
    # The folder may have been trained anew since.
    if not file.exists() or read_result(record.folder)["job"] != record.job:
        raise ConfigError(f"figures: the confusion matrix of run {record.job} needs its job folder, "
                          "which is not here; give source=FOLDER")  # fmt: skip
    return read_confusion(record.folder)
