"""Tells whether the run of a record that was reused is in the store: then the copy needs none of its own.

A second run of the same trial would count as another seed where MLflow groups runs. The run is that of the
folder that trained, which delivers and removes it; where it is gone, the copy gets a run. So does a
suggestion of a search: tables and figures are drawn from all trials of a study, whatever store is read.
"""

from pathlib import Path
from typing import Any

from rnnbench.record.job_folder import read_delivery, read_result
from rnnbench.system.files import DamagedFile


def run_of_origin(result: dict[str, Any], uri: str, experiment: str) -> str | None:
    """Return the run that the job of a reused record became in a store, by what is on disk; None if none.

    Args:
        result: the result.json of the copy.
        uri, experiment: of the store.
    """
    reused = result.get("reused")
    if reused is None or "rnnbench.study" in result["tags"]:
        return None
    if reused.get("store") == uri:
        return str(reused["run_id"])
    origin = Path(reused["folder"])
    try:
        theirs = read_result(origin)
    except (OSError, DamagedFile):
        return None
    state = read_delivery(origin)
    if theirs["job"] != reused["job"] or not state or not state["final"]:
        return None
    same = (state["uri"], state["experiment"], state["attempt"]) == (uri, experiment, theirs["started"])
    return str(state["run_id"]) if same else None
