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

# MLflow's settings, unless the user has set them. Calls fail soon, and Delivery repeats them after it has
# looked up what arrived. If the HTTP client repeated a create_run whose answer was lost, it would make a
# second run.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": PATIENCE,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # data goes only to the store that the user named
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

FOLDER_CHARS = 200  # longest name of an experiment's folder
# MLflow's error codes for input that it will never accept; any other error may be temporary.
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE"}


def connect(uri: str, experiment: str, say: Callable[[str], None]) -> tuple[Any, str]:
    """Open MLflow's client, and return it with the id of the experiment, which is made if it is not there.

    Args:
        say: is given each message for the user.

    Raises:
        Refusal: the experiment was deleted, or the tables of the store are of another version of MLflow.
        mlflow.exceptions.MlflowException: the store fails.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow", "alembic", "urllib3"):  # they log what they also raise; importing sets levels
        logging.getLogger(noisy).setLevel(logging.CRITICAL + 1)
    file = sqlite_file(uri)
    if file is None:
        client = MlflowClient(driven(uri))
        place = None  # the server chooses where artifacts are kept
    else:
        # The journal mode stays: with six writers, WAL was not faster and nothing was lost without it.
        with FileLock(f"{file}.lock"):
            prepare(file, say)
            client = MlflowClient(patient(uri))
        # Artifacts lie beside the file, not in the current directory. Names of folders have a limited length;
        # two experiments whose names are cut to the same one may share a folder.
        place = (file.parent / "mlruns" / quote(experiment, safe=" ")[:FOLDER_CHARS]).as_uri()
    found: Any = client.get_experiment_by_name(experiment)
    if found is None:
        try:
            return client, str(client.create_experiment(experiment, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another sweep has just made the experiment
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
    """Add a timeout of WAIT to a SQLite URI: the default of 5 s is too short for eight writers."""
    uri = driven(uri)
    return (
        uri
        if "timeout=" in uri or sqlite_file(uri) is None
        else f"{uri}{'&' if '?' in uri else '?'}timeout={WAIT}"
    )


def settle(uri: str) -> None:
    """Check that the store answers, and set MLflow's environment; call it before mlflow is imported.

    Raises:
        NoAnswer: the store does not answer.
    """
    trouble = silence(uri)
    if trouble is not None:
        raise NoAnswer(trouble)
    for key, setting in ENVIRONMENT.items():
        if setting.isdecimal() and not os.environ.get(key, "").isdecimal():
            os.environ[key] = setting  # MLflow fails if the setting is not a number
        os.environ.setdefault(key, setting)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn errors of MLflow, its database or the network in this block into StoreError."""
    from alembic.util import CommandError  # another process, such as `mlflow ui`, migrates at the same time
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError, OSError) as error:
        raise StoreError(first_line(error)) from error


def permanent(error: Exception) -> bool:
    """True if repeating the call cannot help: MLflow refuses its input, or a file cannot be read."""
    if isinstance(error, OSError):
        status = getattr(getattr(error, "response", None), "status_code", 0)  # set for uploads
        beyond_reach = isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError))
        return beyond_reach or status in (400, 413, 422)
    return getattr(error, "error_code", None) in REFUSALS
