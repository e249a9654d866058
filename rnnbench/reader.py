"""Records as a pandas frame, from job folders or from MLflow."""

import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rnnbench.config import ConfigError, mask
from rnnbench.config.uris import driven, sqlite_file
from rnnbench.mlflow_sync.store import silence
from rnnbench.record.job_folder import NETWORK, ROW, read_delivery, read_metrics, read_result
from rnnbench.record.sweep_folder import status_now
from rnnbench.system.files import sound

if TYPE_CHECKING:
    import pandas

# Tags that are columns of their own, or MLflow's bookkeeping.
COLUMNS = {"trial": "rnnbench.trial", "folder": "rnnbench.folder", "error": "rnnbench.error"}
BOOKKEEPING = {*COLUMNS.values(), "rnnbench.job", "rnnbench.attempt"}
STATUS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted", "RUNNING": "running"}


def records(source: str | Path | Sequence[str | Path] = "multirun") -> "pandas.DataFrame":
    """One row a trial, in order of its start.

    Columns: status, trial (hash), name, folder, run_id (of MLflow, if it was delivered), error, started
    and ended; then config values by dotted name (`model.hidden_size`), metrics (`test/accuracy`; of an
    epoch metric the last value), and tags (`rnnbench.git_commit`). A trial whose files are damaged is left
    out, with a warning that names the file.

    Args:
        source: a job folder, a sweep folder or a folder of them; several of these; or an MLflow tracking
            URI, of which all rnnbench runs in all experiments are read.

    Raises:
        ConfigError: there is no such folder or store.
    """
    import pandas

    if isinstance(source, str) and "://" in source:
        rows = list(_from_mlflow(source))
    else:
        sources = [source] if isinstance(source, (str, Path)) else source
        rows = [row for path in sources for row in _from_folders(Path(path))]
    rows.sort(key=lambda row: (row["started"] or 0, row["trial"] or ""))
    # The texts of pandas are UTF-8; the name of a folder need not be, and goes into a column of objects.
    odd = {name for row in rows for name, value in row.items() if isinstance(value, str) and not _utf8(value)}
    frame = pandas.DataFrame([{name: None if name in odd else row[name] for name in row} for row in rows])
    for name in odd:
        frame[name] = pandas.Series([row.get(name) for row in rows], dtype=object)
    for moment in ("started", "ended"):
        if rows:
            frame[moment] = pandas.to_datetime(frame[moment], unit="ms", utc=True)
    return frame


def _utf8(text: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _from_folders(folder: Path) -> Iterator[dict[str, Any]]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give one with job folders in it")
    yield from sound([file.parent for file in sorted(folder.rglob("result.json"))], _from_folder)


def _from_folder(job: Path) -> dict[str, Any]:
    result = read_result(job)
    epochs = {name: value for row in read_metrics(job) for name, value in row.items() if name not in ROW}
    columns = {
        "status": status_now(result, job),
        "trial": result["trial"],
        "name": result["name"],
        "folder": str(job.resolve()),
        "run_id": read_delivery(job).get("run_id"),
        "error": result["error"],
        "started": result["started"],
        "ended": result["ended"],
    }
    found: dict[str, Any] = result["params"] | epochs | result["metrics"] | result["tags"]
    # Last again: nothing that a record holds has the name of a column and another meaning.
    return columns | found | {"rnnbench.data": result["dataset"]["checksum"]} | columns


def _from_mlflow(uri: str) -> Iterator[dict[str, Any]]:
    from rnnbench.mlflow_sync.delivery import value

    client = mlflow_client(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    page = None
    while True:
        runs = client.search_runs(experiments, "tags.`rnnbench.job` != ''", page_token=page)
        for run in runs:
            tags = run.data.tags
            columns = {
                "status": run.data.tags.get(
                    "rnnbench.status", STATUS[run.info.status]
                ),  # pruned has no word there
                **{column: tags.get(tag) for column, tag in COLUMNS.items()},
                "name": run.info.run_name,
                "run_id": run.info.run_id,
                "started": run.info.start_time,
                "ended": run.info.end_time,
            }
            found: dict[str, Any] = {name: value(text) for name, text in run.data.params.items()}
            found |= {name: number(metric) for name, metric in run.data.metrics.items()}
            found |= {
                name: tag
                for name, tag in tags.items()
                if name not in BOOKKEEPING and not name.startswith("mlflow.")
            }
            yield columns | found | columns
        page = runs.token
        if not page:
            return


def mlflow_client(uri: str) -> Any:
    """MLflow's client of a store that is there (it would make a SQLite file that is not)."""
    file = sqlite_file(uri)
    trouble = f"there is no {file}" if file is not None and not file.exists() else silence(uri)
    if trouble is not None:
        raise ConfigError(
            f"{mask(uri)}: cannot be read ({trouble}); give the tracking.uri of a store with runs"
        )
    from mlflow.tracking import MlflowClient

    return MlflowClient(driven(uri))


def number(metric: float) -> float:
    """MLflow's SQL stores hold the largest float in place of an infinity."""
    return math.copysign(math.inf, metric) if abs(metric) == sys.float_info.max else metric


def download(run_id: str) -> Path:
    """A folder with the config.yaml and weights.pt of an MLflow run, and its result.json if it was uploaded.

    That is its own job folder if it is still there, else a temporary one with these artifacts.

    The store is the one that MLFLOW_TRACKING_URI names, else mlflow.db in this directory. Artifacts come from
    there, or from where a tracking server keeps them; a database that names another host is not followed,
    since its runs may be a stranger's.

    Raises:
        ConfigError: no store, no such run, a run that left neither folder nor checkpoint, or artifacts on
            another host.
    """
    uri = driven(os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"))
    from mlflow.artifacts import download_artifacts, list_artifacts
    from mlflow.exceptions import MlflowException

    try:
        run = mlflow_client(uri).get_run(run_id)
    except MlflowException:
        raise ConfigError(f"{run_id}: no such folder, and no such run in {mask(uri)}") from None
    tags = run.data.tags
    folder = Path(tags.get("rnnbench.folder", ""))
    # The folder may have been trained anew since, or be another machine's.
    attempt = tags.get("rnnbench.attempt")
    if (folder / "result.json").exists() and str(read_result(folder)["started"]) == attempt:
        return folder
    if not _of_the_store(run.info.artifact_uri, uri):
        raise ConfigError(
            f"{run_id}: its artifacts are at {mask(run.info.artifact_uri)}, which the record names and not "
            f"you; if you trust it: mlflow artifacts download --run-id {run_id} --dst-path FOLDER, then "
            "rnnbench.load(FOLDER)"
        )
    there = {file.path for file in list_artifacts(run_id=run_id, tracking_uri=uri)}
    if "weights.pt" not in there:
        raise ConfigError(
            f"{run_id}: the run has no checkpoint (tracking.artifacts=[checkpoint]), and its job folder "
            f"{folder} is not here"
        )
    here = tempfile.mkdtemp()
    for name in there & set(NETWORK):
        download_artifacts(run_id=run_id, artifact_path=name, dst_path=here, tracking_uri=uri)
    return Path(here)


def _of_the_store(artifacts: str, uri: str) -> bool:
    """Whether artifacts are on this machine, or where the tracking server that `uri` names keeps them."""
    place, store = urlsplit(artifacts), urlsplit(uri)
    if store.scheme not in ("http", "https"):
        return place.scheme in ("", "file") and not place.netloc
    return place.scheme not in ("http", "https", "mlflow-artifacts") or place.netloc in ("", store.netloc)
