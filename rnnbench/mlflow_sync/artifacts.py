"""Uploads files to runs in MLflow, and downloads trained networks from them."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rnnbench.config import ConfigError, mask
from rnnbench.config.uris import absolute, driven
from rnnbench.mlflow_sync import pictures
from rnnbench.mlflow_sync.fields import CELL, NAME
from rnnbench.mlflow_sync.reading import connect_reader
from rnnbench.mlflow_sync.store import StoreError, first_line
from rnnbench.record.job_folder import NETWORK, is_job, read_metrics, read_result
from rnnbench.system.files import sound


def job_artifacts(job: Path, wanted: Sequence[str], folder: Path) -> list[Path]:
    """List the files of a job to upload: those in `wanted` that it has.

    Draws its pictures. A damaged file is uploaded as it is, and its picture is left out.

    Args:
        wanted: names from tracking.artifacts.
        folder: where pictures are drawn.
    """
    files = []
    if "checkpoint" in wanted and (job / "weights.pt").exists():
        files += [job / name for name in NETWORK]
    for name, draw in (("confusion", pictures.confusion), ("by_length", pictures.by_length)):
        if name in wanted and (job / f"{name}.csv").exists():
            files.append(job / f"{name}.csv")
            files += sound([job], lambda job, name=name, draw=draw: draw(job, folder / f"{name}.png"))  # type: ignore[misc]
    if "curves" in wanted and read_metrics(job):
        files.append(pictures.curves(job, folder / "curves.png"))
    return files


def upload_figures(
    uri: str, runs: Sequence[str], files: Sequence[Path], *, place: str, same: set[str]
) -> None:
    """Upload files to runs, except unchanged files that a run already has.

    Args:
        place: the folder among a run's artifacts.
        same: names of the unchanged files.

    Raises:
        ConfigError: there is no such store.
        StoreError: the store does not take the files.
    """
    client = connect_reader(uri)
    from mlflow.exceptions import MlflowException

    try:
        for run in runs:
            there = {Path(file.path).name for file in client.list_artifacts(run, place)}
            for file in files:
                if file.name not in there & same:
                    client.log_artifact(run, str(file), place)
    except (MlflowException, OSError) as error:
        raise StoreError(first_line(error)) from error


def download(run_id: str) -> Path:
    """Find or make a folder with the config.yaml and weights.pt of an MLflow run, and its result.json.

    That is its own job folder if it is still there, else a temporary one with these artifacts; the
    result.json may not be among them.

    The store is the one that MLFLOW_TRACKING_URI names, else mlflow.db in this directory. Artifacts come from
    there, or from where a tracking server keeps them; a database that names another host is not followed,
    since its runs may be a stranger's.

    Raises:
        ConfigError: no store, no such run, a run that left neither folder nor checkpoint, or artifacts on
            another host.
    """
    uri = driven(absolute(os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")))
    client = connect_reader(uri, "MLFLOW_TRACKING_URI")
    from mlflow.artifacts import download_artifacts, list_artifacts
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException:
        raise ConfigError(f"{run_id}: no such folder, and no such run in {mask(uri)}") from None
    tags = run.data.tags
    if CELL in tags:
        raise ConfigError(
            f"{run_id}: is the mean of several trials, {tags['rnnbench.jobs']} of {tags[NAME]}; give the run "
            "of one of them"
        )
    folder = Path(tags.get("rnnbench.folder", ""))
    # The job may have been trained again since, or the folder may be on another machine.
    attempt = tags.get("rnnbench.attempt")
    if is_job(folder) and str(read_result(folder)["started"]) == attempt:
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
    """Return whether artifacts are on this machine, or where the tracking server of `uri` keeps them."""
    place, store = urlsplit(artifacts), urlsplit(uri)
    if store.scheme not in ("http", "https"):
        return place.scheme in ("", "file") and not place.netloc
    return place.scheme not in ("http", "https", "mlflow-artifacts") or place.netloc in ("", store.netloc)
