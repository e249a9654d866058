"""Reads records from any MLflow store, through MLflow's client."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from rnnbench.config import ConfigError, mask
from rnnbench.config.metrics import remember
from rnnbench.config.uris import absolute, driven, sqlite_file
from rnnbench.mlflow_sync.fields import PARENT, RECORDED, UNSET, number, value
from rnnbench.mlflow_sync.store import first_line, silence
from rnnbench.record.source import FIELDS, Record, SearchRecord, Source, in_order, search_record


def check_there(uri: str, key: str = "source") -> None:
    """Refuse a store that does not answer, and a SQLite file that is not there, since MLflow would make it.

    Args:
        key: name of the argument or config key that holds the URI.

    Raises:
        ConfigError: the store cannot be read; says why.
    """
    file = sqlite_file(uri)
    trouble = f"there is no {file}" if file is not None and not file.exists() else silence(uri)
    if trouble is not None:
        raise unreadable(uri, trouble, key)


def unreadable(uri: str, trouble: str, key: str = "source") -> ConfigError:
    """Make the error for a store that cannot be read."""
    return ConfigError(
        f"{key}={mask(uri)}: cannot be read ({trouble}); give the tracking.uri of a store with runs"
    )


def connect_reader(uri: str, key: str = "source") -> Any:
    """Open MLflow's client for an existing store.

    Args:
        key: name of the argument or config key that holds the URI.

    Raises:
        ConfigError: the store is not there, does not answer, or has the tables of another version of MLflow.
    """
    check_there(uri, key)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        # Absolute, since MLflow keeps one store for each URI, also when the process changes its directory.
        return MlflowClient(driven(absolute(uri)))
    except MlflowException as error:
        raise unreadable(uri, first_line(error), key) from error


class ClientRuns(Source):
    """Reads the runs of an MLflow store through its public API.

    It always reads all runs of rnnbench, since MLflow has no query for several values of a tag.
    """

    def __init__(self, uri: str) -> None:
        self.name = uri
        self.client = connect_reader(uri)

    @cached_property
    def _runs(self) -> list[Record]:
        return in_order(_of_run(run) for run in self._search("tags.`rnnbench.job` != ''"))

    def all(self) -> list[Record]:
        return self._runs

    def find(self, trials: Iterable[str]) -> list[Record]:
        wanted = set(trials)
        return [record for record in self._runs if record.trial in wanted]

    def of_study(self, study: str) -> list[Record]:
        return [record for record in self._runs if record.tags.get("rnnbench.study") == study]

    def searches(self) -> dict[str, SearchRecord]:
        runs = self._search("tags.`rnnbench.best_command` != ''")
        found = [search_record(run.data.tags, run.data.metrics, run.info.run_id) for run in runs]
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


def _of_run(run: Any) -> Record:
    info, data = run.info, run.data
    return record_of(
        {
            "run_id": info.run_id,
            "name": info.run_name,
            "status": info.status,
            "started": info.start_time,
            "ended": info.end_time,
        },
        tags=data.tags,
        params=data.params,
        metrics=data.metrics,
    )


def record_of(
    run: Mapping[str, Any], *, tags: dict[str, str], params: dict[str, str], metrics: dict[str, float]
) -> Record:
    """Make a record from a run.

    Args:
        run: run_id, name, MLflow's status, started and ended.
    """
    remember(tags)
    return Record(
        trial=tags.get("rnnbench.trial", ""),
        job=tags["rnnbench.job"],
        name=run["name"],
        status=tags.get("rnnbench.status", RECORDED[run["status"]]),
        started=run["started"],
        ended=run["ended"],
        run_id=run["run_id"],
        parent=tags.get(PARENT),
        metrics={name: number(metric) for name, metric in metrics.items()},
        params=_with_unset({key: value(text) for key, text in params.items()}, tags),
        tags={k: v for k, v in tags.items() if not k.startswith("mlflow.") and k not in FIELDS},
        error=tags.get("rnnbench.error"),
        folder=Path(tags.get("rnnbench.folder", "")),
    )


def _with_unset(params: dict[str, Any], tags: dict[str, str]) -> dict[str, Any]:
    """Add the keys that are null, which MLflow has in a tag; {} stays, where params are left out."""
    unset = tags.get(UNSET)
    return params | dict.fromkeys(unset.split(", ")) if params and unset else params
