"""Makes a run in MLflow of each configuration of a sweep: the means over its seeds, with their intervals.

Such a run has the tag `rnnbench.cell`, a digest of all that it says, and no tag `rnnbench.job`, so that
nobody takes it for a trial. It lies below the sweep's own run. Whenever the sweep is delivered, the runs
that are there are compared with those that the records give: what is missing is made, and what no longer
holds is deleted, so that a delivery can break off anywhere and be repeated.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from rnnbench.config.metrics import bounds
from rnnbench.job_state import JobState
from rnnbench.mlflow_sync.entities import METRICS, PARAMS, SOURCE
from rnnbench.mlflow_sync.fields import (
    CELL,
    NAME_CHARS,
    PARAM_CHARS,
    PARENT,
    TAG_CHARS,
    cut,
    param_name,
    text,
)
from rnnbench.mlflow_sync.runs import Runs
from rnnbench.terminal import grouped

CONFIRMS = re.compile(r"\d+\.c\d+")  # folders of a search whose trials train its winner under fresh seeds
CONFIDENCE = 0.95
FOLD = "data.fold"
MEAN_ALONE = ("parameters/", "time/")  # beginnings of metrics that have a mean, but no deviation


@dataclass(frozen=True)
class Cell:
    """The finished trials of one configuration."""

    name: str
    params: dict[str, Any]  # its model and task, and what varies in the sweep besides seeds and folds
    metrics: dict[str, float]
    jobs: list[str]  # names of their job folders
    attempts: list[list[Any]]  # identity and start of each
    ended: int  # when the last of them ended, ms since 1970

    @cached_property
    def digest(self) -> str:
        """A digest of all that the run says."""
        return hashlib.sha256(json.dumps(astuple(self), sort_keys=True).encode()).hexdigest()[:32]


def cells_of(results: Mapping[Path, dict[str, Any]]) -> list[Cell]:
    """Return the configurations of a sweep that have a finished trial; [] if none has several trials.

    Args:
        results: the content of result.json by job folder.
    """
    names = {
        result["job"]: job.name
        for job, result in results.items()
        if not ("rnnbench.study" in result["tags"] and CONFIRMS.fullmatch(job.name))
    }
    varied, groups = grouped([result for result in results.values() if result["job"] in names])
    if all(len(members) < 2 for members in groups):
        return []
    models = {members[0]["params"].get("model.name") for members in groups}
    keys = (["model.name"] if len(models) > 1 or not varied else []) + varied
    finished = [[m for m in members if m["status"] == JobState.finished] for members in groups]
    return [_cell(members, keys, names) for members in finished if members]


def _cell(members: Sequence[dict[str, Any]], varied: Sequence[str], names: Mapping[str, str]) -> Cell:
    first = members[0]["params"]
    label = " ".join(_word(key, first.get(key)) for key in varied)
    folded = ["data.folds"] if first.get("data.folds") is not None else []
    keys = dict.fromkeys(["model.name", "data.name", *folded, *varied])
    runs = _runs(members)
    folds = len({member["params"].get(FOLD) for member in members})
    counted = f"{len(runs)} x {folds} folds" if folds > 1 else f"{len(runs)}"
    return Cell(
        name=f"{label}: mean of {counted}",
        params={key: first[key] for key in keys if key in first},
        metrics=means(runs) | ({"folds": float(folds)} if folds > 1 else {}),
        jobs=[names[member["job"]] for member in members],
        attempts=[[member["job"], member["started"]] for member in members],
        ended=max(member["ended"] or member["started"] for member in members),
    )


def _runs(members: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the metrics of each trial; where the data has folds, each seed's means over its folds.

    Folds share training data: as runs of their own they would make deviation and interval too small.
    """
    if members[0]["params"].get("data.folds") is None:
        return [member["metrics"] for member in members]
    seeds: dict[Any, list[dict[str, float]]] = {}
    for member in members:
        seeds.setdefault(member["params"]["seed"], []).append(member["metrics"])
    return [
        {
            name: fmean(fold[name] for fold in folds if name in fold)
            for name in dict.fromkeys(name for fold in folds for name in fold)
        }
        for folds in seeds.values()
    ]


def _word(key: str, value: Any) -> str:
    """Return a value as it is given on the command line; of a model its name is enough."""
    return str(value) if key == "model.name" else f"{key.removesuffix('.name')}={text(value)}"


def means(trials: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return mean, deviation, number and interval over trials of each metric that one of them has.

    The mean and the sample standard deviation are over the values that are finite, and the interval is
    Student's of the mean, as in a table of `rnnbench.paper`. A number of parameters stays as it is.
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for trial in trials for name in trial):
        values = [trial[name] for trial in trials if math.isfinite(trial.get(name, math.nan))]
        if name.startswith("parameters/") and len(set(values)) == 1:
            found[name] = values[0]
        elif values:
            figures = _figures(values, bounds(name))
            kept = ["mean"] if name.startswith(MEAN_ALONE) else figures
            found |= {f"{name}/{figure}": figures[figure] for figure in kept}
            if len(values) < len(trials):
                found[f"{name}/n"] = float(len(values))
    return found | {"n": float(len(trials))}  # last: MLflow's page of a comparison begins with the first


def _figures(values: Sequence[float], within: tuple[float, float]) -> dict[str, float]:
    """Return mean, deviation and the ends of the interval; of a single value the mean alone."""
    import numpy as np
    from scipy.special import stdtrit

    mean = float(np.mean(np.sort(values)))
    if len(values) < 2:
        return {"mean": mean}
    alike = math.isclose(min(values), max(values), rel_tol=1e-12)
    deviation = 0.0 if alike else float(np.std(values, ddof=1))
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * deviation / math.sqrt(len(values))
    low, high = (min(max(end, within[0]), within[1]) for end in (mean - half, mean + half))
    return {"mean": mean, "deviation": deviation, "low": low, "high": high}


def deliver_cells(
    runs: Runs, parent: str, cells: Sequence[Cell], *, tags: dict[str, str], ended: int
) -> bool:
    """Make the runs of cells that are missing, and delete those that hold no longer.

    Args:
        parent: id of the sweep's own run.
        tags: of every new run.
        ended: when the sweep ended, ms since 1970.

    Returns:
        whether there was anything to do.
    """
    wanted = {cell.digest: cell for cell in cells}
    kept: dict[str, Any] = {}
    spare = []
    for run in sorted(runs.cells(parent), key=lambda run: str(run.info.run_id)):
        digest = run.data.tags[CELL]
        if digest in wanted and digest not in kept:
            kept[digest] = run
        else:
            spare.append(run.info.run_id)
    runs.delete(spare)
    missing = [cell for digest, cell in wanted.items() if digest not in kept]
    broken_off = [run for run in kept.values() if run.info.status != "FINISHED"]
    for run in broken_off:
        _fill(runs.client, run.info, wanted[run.data.tags[CELL]])
    for place, cell in enumerate(missing):
        own = {CELL: cell.digest, "rnnbench.jobs": ", ".join(cell.jobs), PARENT: parent} | SOURCE | tags
        own = {tag: cut(value, TAG_CHARS) for tag, value in own.items()}
        # The page shows the youngest first: above the trials, in the order of the sweep's table.
        run = runs.client.create_run(runs.experiment_id, ended - place, own, cut(cell.name, NAME_CHARS))
        _fill(runs.client, run.info, cell)
    return bool(spare or missing or broken_off)


def _fill(client: Any, run: Any, cell: Cell) -> None:
    """Send the params and metrics of a cell, and end its run."""
    from mlflow.entities import Metric, Param

    params = [Param(param_name(key), cut(text(value), PARAM_CHARS)) for key, value in cell.params.items()]
    metrics = [Metric(param_name(name), value, cell.ended, 0) for name, value in cell.metrics.items()]
    while params or metrics:
        client.log_batch(run.run_id, metrics[:METRICS], params[:PARAMS])
        metrics, params = metrics[METRICS:], params[PARAMS:]
    client.set_terminated(run.run_id, "FINISHED", run.start_time)
