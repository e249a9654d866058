"""Tells whether the run of a record that was reused is in the store: then the copy needs none of its own."""

from pathlib import Path
from typing import Any

from rnnbench.record.job_folder import read_delivery, read_result
from rnnbench.system.files import DamagedFile


def has_run(job: Path, result: dict[str, Any], uri: str, experiment: str) -> bool:
    """Return whether a store has the run of the job that a reused record comes from.

    A second run of the same trial would count as another seed where MLflow groups runs. The run is that of
    the record's own folder, which delivers it and removes it; where it is gone, the copy gets a run.

    Args:
        job, result: a job folder, and its result.json.
        uri, experiment: of the store.
    """
    if "reused" not in result:
        return False
    if result["reused"].get("store") == uri:
        return True
    origin = Path(result["reused"]["folder"])
    try:
        theirs = read_result(origin)
    except (OSError, DamagedFile):
        return False
    state = read_delivery(origin)
    return (
        theirs["job"] == result["reused"]["job"]
        and bool(state)
        and state["final"]
        and (state["uri"], state["experiment"], state["attempt"]) == (uri, experiment, theirs["started"])
    )
