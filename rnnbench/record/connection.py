"""MLflow's client, set up to answer or to fail in time, and the experiment that runs go to."""

import logging
import os
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from rnnbench.record.store import PATIENCE, driven, silence, sqlite_file

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

WAIT = 60  # seconds that a writer of a SQLite file waits for the others


class StoreError(Exception):
    """The store does not answer, or not as MLflow does: try again later."""


class Silent(StoreError):
    """The store does not answer at all: there is no use in trying again at once."""


def connect(uri: str, experiment: str) -> tuple[Any, str]:
    """MLflow's client and the id of the experiment, which is made if it is not there.

    Raises:
        StoreError: the experiment was deleted.
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
        # MLflow's first migration of a fresh file fails when several processes run it at once. (We leave
        # the journal mode as it is: six writers lost nothing and were no slower than under WAL.)
        with FileLock(f"{file}.lock"):
            client = MlflowClient(patient(uri))
        # Beside the file, not in whatever directory this process happens to run.
        place = str(file.parent / "mlruns" / quote(experiment, safe=" "))
    found: Any = client.get_experiment_by_name(experiment)
    if found is None:
        try:
            return client, str(client.create_experiment(experiment, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another sweep was quicker
                raise
            found = client.get_experiment_by_name(experiment)
    if found.lifecycle_stage != "active":
        raise StoreError(
            f"tracking.experiment={experiment} is deleted there; restore it "
            f"(mlflow experiments restore -x {found.experiment_id}) or use another name"
        )
    return client, str(found.experiment_id)


def patient(uri: str) -> str:
    """A SQLite URI whose users wait long for one another; SQLite's own five seconds are few for eight."""
    return uri if "timeout=" in uri else f"{uri}{'&' if '?' in uri else '?'}timeout={WAIT}"


def settle(uri: str) -> None:
    """What is to be done before mlflow is imported: see that the store answers, set MLflow's manners.

    Raises:
        Silent: the store does not answer.
    """
    trouble = silence(uri)
    if trouble is not None:
        raise Silent(trouble)
    for key, setting in ENVIRONMENT.items():
        os.environ.setdefault(key, setting)
