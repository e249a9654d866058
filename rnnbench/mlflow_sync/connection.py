"""Opens MLflow's client, set up to answer or to fail in time, and the experiment that runs go to."""

import logging
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from rnnbench.config.uris import driven, sqlite_file
from rnnbench.mlflow_sync.sqlite import prepare
from rnnbench.mlflow_sync.store import PATIENCE, WAIT, NoAnswer, Refusal, StoreError, first_line, silence

# Unless the user has set them: an answer in time, or trouble is reported and the call repeated
# later by us, who look first at what arrived. Repeated by the HTTP client, a create_run whose answer
# got lost would make a second run.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": PATIENCE,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing goes to anyone but the store that the user named
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

FOLDER_CHARS = 200  # of the name of an experiment's folder
# What MLflow says when it will not have what it was given, now or later; anything else may pass.
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE"}


def connect(uri: str, experiment: str, say: Callable[[str], None]) -> tuple[Any, str]:
    """Open MLflow's client, and find the id of the experiment, which is made if it is not there.

    Args:
        say: is given each message for the user.

    Raises:
        Refusal: the experiment was deleted, or the store is not one of this MLflow's.
        mlflow.exceptions.MlflowException: the store is in trouble.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow", "alembic", "urllib3"):  # they log what they also raise; importing sets levels
        logging.getLogger(noisy).setLevel(logging.CRITICAL + 1)
    file = sqlite_file(uri)
    if file is None:
        client = MlflowClient(driven(uri))
        place = None  # the server's choice
    else:
        # (We leave the journal mode as it is: six writers lost nothing and were no slower than under WAL.)
        with FileLock(f"{file}.lock"):
            prepare(file, say)
            client = MlflowClient(patient(uri))
        # Beside the file, not in whatever directory this process happens to run; the name of a folder has
        # an end, and two experiments may share one.
        place = (file.parent / "mlruns" / quote(experiment, safe=" ")[:FOLDER_CHARS]).as_uri()
    found: Any = client.get_experiment_by_name(experiment)
    if found is None:
        try:
            return client, str(client.create_experiment(experiment, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another sweep was quicker
                raise
            found = client.get_experiment_by_name(experiment)
    if found.lifecycle_stage != "active":
        restore = f"mlflow experiments restore -x {found.experiment_id}"
        raise Refusal(
            f"tracking.experiment={experiment} is deleted there; restore it "
            f"(MLFLOW_TRACKING_URI={shlex.quote(driven(uri))} {restore}) or use another name"
        )
    return client, str(found.experiment_id)


def patient(uri: str) -> str:
    """Give a SQLite URI a timeout of WAIT; SQLite's own five seconds are few for eight writers."""
    uri = driven(uri)
    return uri if "timeout=" in uri else f"{uri}{'&' if '?' in uri else '?'}timeout={WAIT}"


def settle(uri: str) -> None:
    """See that the store answers, and set MLflow's environment; to be called before mlflow is imported.

    Raises:
        NoAnswer: the store does not answer.
    """
    trouble = silence(uri)
    if trouble is not None:
        raise NoAnswer(trouble)
    for key, setting in ENVIRONMENT.items():
        if setting.isdecimal() and not os.environ.get(key, "").isdecimal():
            os.environ[key] = setting  # MLflow would fail at what is no number
        os.environ.setdefault(key, setting)


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise what MLflow, its database or the network raise in this block as StoreError."""
    from alembic.util import CommandError  # a migration, by `mlflow ui` too, at the same moment
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError, OSError) as error:
        raise StoreError(first_line(error)) from error


def permanent(error: Exception) -> bool:
    """True if trouble will stay: MLflow refuses what it was given, or a file cannot be read."""
    if isinstance(error, OSError):
        status = getattr(getattr(error, "response", None), "status_code", 0)  # of an upload
        beyond_reach = isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError))
        return beyond_reach or status in (400, 413, 422)
    return getattr(error, "error_code", None) in REFUSALS
