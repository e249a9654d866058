"""Reads records from MLflow's own tables in SQLite or PostgreSQL, by queries that only read.

MLflow's tables are private. They are read here because search_runs makes a hundred SQLAlchemy objects for
each run and has no query for several trials at once: a table of all 3,000 runs of a store takes 9 s of CPU
time with search_runs and 0.5 s with these queries; a table of nine of these runs 9 s and 0.01 s. A store is
read here only if its schema is in CHECKED, for which a test compares both ways.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from rnnbench.config.uris import driven, sqlite_file
from rnnbench.mlflow_sync.fields import number
from rnnbench.mlflow_sync.reading import check_there, record_of, unreadable
from rnnbench.mlflow_sync.store import WAIT, first_line
from rnnbench.record.source import Record, SearchRecord, Source, in_order, search_record

KINDS = ("sqlite", "postgresql")  # beginnings of the URIs
AT_ONCE = 500  # largest number of runs in one query
# Schemas (alembic_version) whose tables are as read here, with the versions of MLflow that make them.
CHECKED = {"b7e2c1a4d9f3": "3.16", "dc11669786a5": "3.17"}
TABLES = {"alembic_version", "experiments", "latest_metrics", "metrics", "params", "runs", "tags"}


class OtherSchemaError(Exception):
    """Raised if the tables are of a version of MLflow for which these queries were not tested; says which."""


class SqlRuns(Source):
    """Reads the runs of a SQL store of MLflow from its tables.

    Raises:
        ConfigError: the store does not answer, or has no tables of MLflow.
        OtherSchemaError: the tables are of another version of MLflow.
    """

    def __init__(self, uri: str) -> None:
        check_there(uri)
        from sqlalchemy import create_engine, inspect, text
        from sqlalchemy.exc import SQLAlchemyError

        self.name = uri
        self.text = text
        file = sqlite_file(uri)
        # A SQLite file is opened read-only, so that no lock, journal or other file is made.
        where = driven(uri)
        if file is not None:  # encoded twice, since SQLAlchemy and SQLite both decode it
            name = quote(quote(str(file.absolute())))
            where = f"sqlite:///file:{name}?mode=ro&uri=true&timeout={WAIT}"
        self.engine = create_engine(where)
        try:
            if missing := sorted(TABLES - set(inspect(self.engine).get_table_names())):
                raise unreadable(uri, f"it is no store of MLflow: there is no table {missing[0]}")
            versions = [row[0] for row in self._rows("SELECT version_num FROM alembic_version")]
        except SQLAlchemyError as error:
            raise unreadable(uri, first_line(error)) from error
        if len(versions) != 1 or versions[0] not in CHECKED:
            raise OtherSchemaError(", ".join(versions) or "none")

    def all(self) -> list[Record]:
        rows = self._select("t.key = 'rnnbench.job'", {})
        return in_order(self._read(rows, with_params=True))

    def active(self) -> set[str]:
        """Return the ids of all runs that are not deleted."""
        return {row[0] for row in self._rows("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")}

    def find(self, trials: Iterable[str]) -> list[Record]:
        return in_order(self._tagged("rnnbench.trial", sorted(set(trials)), with_params=False))

    def of_study(self, study: str) -> list[Record]:
        return in_order(self._tagged("rnnbench.study", [study], with_params=True))

    def searches(self) -> dict[str, SearchRecord]:
        rows = sorted(self._select("t.key = 'rnnbench.best_command'", {}), key=lambda row: row.started)
        runs = [row.run_id for row in rows]
        tags, metrics = self._by_run("tags", runs), self._metrics(runs)
        found = [search_record(tags[run], metrics.get(run, {}), run) for run in runs]
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

    def _select(self, condition: str, values: dict[str, str]) -> Sequence[Any]:
        """Read the rows of all runs that are not deleted and have a tag `t` that meets a condition."""
        return self._rows(
            "SELECT r.run_uuid AS run_id, r.name, r.status, r.start_time AS started, r.end_time AS ended "
            "FROM runs r "
            "JOIN tags t ON t.run_uuid = r.run_uuid "
            "JOIN experiments e ON e.experiment_id = r.experiment_id "
            f"WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active' AND {condition}",
            **values,
        )

    def _tagged(self, key: str, values: list[str], *, with_params: bool) -> Iterator[Record]:
        for start in range(0, len(values), AT_ONCE):
            names, some = _numbered(values[start : start + AT_ONCE])
            rows = self._select(f"t.key = '{key}' AND t.value IN ({names})", some)
            yield from self._read(rows, with_params=with_params)

    def _read(self, rows: Sequence[Any], *, with_params: bool) -> Iterator[Record]:
        """Make records from the rows of `_select` that are runs of rnnbench's jobs."""
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            runs = [row.run_id for row in some]
            tags, metrics = self._by_run("tags", runs), self._metrics(runs)
            params = self._by_run("params", runs) if with_params else {}
            for row, run in zip(some, runs, strict=True):
                if "rnnbench.job" in tags[run]:
                    yield record_of(
                        row._mapping,
                        tags=tags[run],
                        params=params.get(run, {}),
                        metrics=metrics.get(run, {}),
                    )

    def _by_run(self, table: str, runs: list[str]) -> dict[str, dict[str, str]]:
        """Read keys and values of runs from the table `tags` or `params`."""
        found: dict[str, dict[str, str]] = {}
        for run, key, value in self._of(f"SELECT run_uuid, key, value FROM {table}", runs):
            found.setdefault(run, {})[key] = value
        return found

    def _metrics(self, runs: list[str]) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for run, key, value, is_nan in self._of(
            "SELECT run_uuid, key, value, is_nan FROM latest_metrics", runs
        ):
            found.setdefault(run, {})[key] = math.nan if is_nan else value
        return found

    def _of(self, query: str, runs: list[str]) -> Sequence[Any]:
        if not runs:
            return []
        names, some = _numbered(runs)
        return self._rows(f"{query} WHERE run_uuid IN ({names})", **some)


def _numbered(values: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Make SQL parameters for the values of an IN (...): the text of their names, and a dict of values."""
    some = {f"v{number}": value for number, value in enumerate(values)}
    return ", ".join(f":{name}" for name in some), some
