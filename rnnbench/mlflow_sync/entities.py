"""Makes the params, metrics, tags and dataset that MLflow is sent of a record or of a sweep."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rnnbench.job_state import JobState
from rnnbench.mlflow_sync.fields import (
    DATASET_CHARS,
    DIGEST_CHARS,
    NAME_CHARS,
    NOTE,
    PARAM_CHARS,
    TAG_CHARS,
    UNSET,
    cut,
    param_name,
    text,
)
from rnnbench.record.job_folder import read_result
from rnnbench.system.files import DamagedFile, read

PARAMS, METRICS = 100, 900  # largest numbers that MLflow takes in one call
SOURCE = {"mlflow.source.name": "rnnbench", "mlflow.source.type": "LOCAL"}


def log(
    client: Any,
    state: dict[str, Any],
    result: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    given: Collection[str],
) -> None:
    """Send params, rows and final metrics that are not delivered yet, and count the rows in `state`.

    Args:
        given: the keys that the user has set.
    """
    from mlflow.entities import Metric, Param, RunTag

    params, metrics, tags = [], [], []
    if state["epochs"] == 0:
        unset = _unset(result["params"], given)
        left_out = set(unset)
        params = [
            Param(param_name(name), cut(text(value), PARAM_CHARS))
            for name, value in result["params"].items()
            if name not in left_out
        ]
        tags = [RunTag(UNSET, ", ".join(map(param_name, unset)))] if unset else []
    per_epoch = {name for row in rows for name in row}
    for row in rows:
        if row["epoch"] > state["epochs"]:
            epoch, timestamp = row.pop("epoch"), row.pop("timestamp_ms")
            metrics += [Metric(param_name(name), value, timestamp, epoch) for name, value in row.items()]
            state["epochs"] = epoch
    if result["status"] != JobState.running:
        # MLflow draws a bar of a metric that has one value at step 0. The last value of a metric is the one
        # with the highest step, so one that is measured every epoch too gets the step of the last epoch.
        metrics += [
            Metric(param_name(name), value, result["ended"], state["epochs"] if name in per_epoch else 0)
            for name, value in result["metrics"].items()
        ]
    while params or metrics:
        client.log_batch(state["run_id"], metrics[:METRICS], params[:PARAMS], tags)
        metrics, params, tags = metrics[METRICS:], params[PARAMS:], []


def _unset(params: dict[str, Any], given: Collection[str]) -> list[str]:
    """Return the keys that are null and that the user has not set: a tag names them, no param does.

    Where their names are too long for a tag, they are params like all others.
    """
    unset = [name for name, value in params.items() if value is None and name not in given]
    return unset if len(", ".join(map(param_name, unset))) <= TAG_CHARS else []


def dataset_input(data: dict[str, Any]) -> Any:
    """Make MLflow's DatasetInput from the dataset of a record."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        cut(data["name"], DATASET_CHARS),
        data["checksum"][:DIGEST_CHARS],
        source_type="code",
        source=json.dumps({"checksum": data["checksum"]}),
        profile=json.dumps(data.get("details", {})),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def tags_of(result: dict[str, Any]) -> dict[str, str]:
    """Make the tags of a new run of a job."""
    given: dict[str, str] = result["tags"]
    tags = (
        given | {"rnnbench.trial": result["trial"], "rnnbench.data": result["dataset"]["checksum"]} | SOURCE
    )
    known = {"rnnbench.git_commit": "mlflow.source.git.commit", "rnnbench.user": "mlflow.user"}
    return tags | {theirs: cut(given[ours], NAME_CHARS) for ours, theirs in known.items() if ours in given}


def sweep_name(sweep: Path) -> str:
    """Return the name by which the runs of a sweep are found: its folder, with the one that this is in."""
    return "/".join(sweep.resolve().parts[-2:])


def sweep_facts(sweep: Path, info: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Make the metrics and tags of a sweep that has ended: the figures of its best trial, its table.

    Args:
        info: the content of its sweep.json, with the moment when it ended.
    """
    from mlflow.entities import Metric, RunTag

    tags = {"rnnbench.reused": str(info["reused"])} if "reused" in info else {}
    if (sweep / "comparison.md").exists():
        tags[NOTE] = _note(read(sweep / "comparison.md"))
    metrics: dict[str, float] = {}
    if info.get("best") is not None:
        try:
            metrics = read_result(sweep / info["best"])["metrics"]
            tags["rnnbench.best_trial"] = info["best"]
        except (FileNotFoundError, DamagedFile):  # removed since
            pass
    batch = [Metric(param_name(name), value, info["ended"], 0) for name, value in metrics.items()]
    return batch, [RunTag(name, value) for name, value in tags.items()]


def _note(table: str) -> str:
    """Return the table of a sweep as a run's description: as many of its rows as it may hold."""
    lines = cut(table, len(table) * 10).splitlines()
    end = "\n\n±: sample standard deviation over seeds" if "±" in table else ""
    end += ", of a single seed over its folds" if end and "seeds x folds" in lines[0] else ""
    kept, room = 0, TAG_CHARS - 200
    while kept < len(lines) and (room := room - len(lines[kept]) - 1) >= 0:
        kept += 1
    more = f"\n\n{len(lines) - kept} more rows: comparison.md" if kept < len(lines) else ""
    return "\n".join(lines[:kept]) + end + more
