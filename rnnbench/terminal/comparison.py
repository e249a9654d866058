"""Compares the trials of a sweep: one row for each configuration, seeds and folds together."""

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rnnbench.config import direction, measured_by
from rnnbench.config.user_code import IMPORT
from rnnbench.job_state import JobState
from rnnbench.render.layout import Column, Layout, Row, TextCell
from rnnbench.render.markdown import markdown_grid
from rnnbench.system.files import write, write_csv
from rnnbench.system.plain_text import spreadsheet
from rnnbench.terminal.formats import mean_sd, title

# Keys that are not compared: the model has its own column, seeds and folds are averaged, the others change no
# result.
APART = ("model.name", "seed", "tracking.", "reuse", "data.metric", "data.root", "data.download",
         "data.source", "data.sha256")  # fmt: skip
FOLDS, FOLD = "data.folds", "data.fold"
SEEDS_FOLDS = "seeds x folds"  # the heading of the last column where there are folds
SECONDS = "time/train_seconds"
Results = Sequence[dict[str, Any]]  # as `rnnbench.record.read_result` gives them


def compare(results: Results, goal: str | None = None) -> Layout:
    """Lay out a row for each configuration, seeds and folds together: what varied, parameters, metrics.

    Args:
        goal: the metric by which the best rows are marked; None: no row is marked.
    """
    varied, groups = grouped(results)
    results = [member for members in groups for member in members]
    titles = _measured(results)
    goals = [_mean_goal(members, goal) for members in groups]
    one_task = len({result["params"].get("data.metric", "accuracy") for result in results}) == 1
    best = chosen(goals, goal) if goal and one_task else []
    rows = [
        Row(
            str(members[0]["params"].get("model.name", "")),
            [TextCell(text) for text in (*_texts(members[0], varied), *_cells(members, titles))],
            best=n in best,
        )
        for n, members in enumerate(groups)
    ]
    spare = ["seconds", "parameters", *(titles[name] for name in reversed(titles) if name != goal)]
    number = SEEDS_FOLDS if any(map(_is_fold, results)) else "seeds"
    headings = [*varied, "parameters", *titles.values(), "seconds", number]
    columns = [
        Column(
            heading,
            setting=heading in {*varied, "parameters", number},
            spare=spare.index(heading) + 1 if heading in spare else 0,
        )
        for heading in headings
    ]
    return Layout("model", columns, rows)


def grouped(results: Results) -> tuple[list[str], list[list[dict[str, Any]]]]:
    """Put the trials of each configuration together, whatever their seeds and folds, each trial once.

    Returns:
        the keys besides the model that vary, and the trials of each configuration.
    """
    results = _once(_with_code(results))
    varied = _varied(results)
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        values = [result["params"].get(key) for key in ("model.name", *varied)]
        groups.setdefault(repr(values), []).append(result)
    return varied, list(groups.values())


def _texts(result: dict[str, Any], varied: Sequence[str]) -> list[str]:
    return [_text(result["params"].get(key, "")) for key in varied]


def save_comparison(layout: Layout, folder: Path) -> None:
    """Write comparison.md and comparison.csv into a folder."""
    write(folder / "comparison.md", markdown_grid(layout))
    lines = (layout.headings(), *layout.lines())
    write_csv(folder / "comparison.csv", (map(spreadsheet, line) for line in lines))


def _varied(results: Results) -> list[str]:
    """Return the keys of what was trained that differ between results."""
    keys = sorted({key for result in results for key in result["params"]})
    constant = {key for key in keys if len({str(result["params"].get(key)) for result in results}) == 1}
    apart = {FOLD, *(key for key in keys if key.startswith(APART))}
    varied = [key for key in keys if key not in constant and key not in apart]
    # The choice of a group changes all its values at once, so its name alone is shown.
    for group in ("optim", "data"):
        name = f"{group}.name"
        if name in varied:
            varied = [
                key
                for key in varied
                if key == name or not key.startswith(f"{group}.") or _differ_within(results, group, key)
            ]
    return varied


def _measured(results: Results) -> dict[str, str]:
    """Return the metrics that a finished trial has, with their titles."""
    titles: dict[str, str] = {}
    for metric in dict.fromkeys(name for result in results for name in measured_by(result["params"])):
        titles |= {
            f"best/val_{metric}": f"val {metric}",
            f"best/test_{metric}": f"test {metric} (best epoch, watched)",
            f"test/{metric}": f"test {metric}",
        }
    done = [result["metrics"] for result in results if result["status"] == JobState.finished]
    return {name: text for name, text in titles.items() if any(name in metrics for metrics in done)}


def _mean_goal(members: Results, goal: str | None) -> float:
    """Return the mean of the goal over the finished trials of a row; nan where none has a finite one."""
    reached = [value for value in _values(members, goal) if math.isfinite(value)] if goal else []
    return statistics.fmean(reached) if reached else math.nan


def _cells(members: Results, metrics: Iterable[str]) -> list[str]:
    """Return what the trials of a row measured: parameters, each metric, seconds, number of seeds."""
    finished = [member["metrics"] for member in members if member["status"] == JobState.finished]
    counts = [measured["parameters/total"] for measured in finished if "parameters/total" in measured]
    parameters = f"{counts[0]:,.0f}" if counts else ""
    means = [mean_sd(_values(members, name), name) for name in (*metrics, SECONDS)]
    others = Counter(member["status"] for member in members if member["status"] != JobState.finished)
    count = [_number(members, len(finished)), *(f"{n} {status}" for status, n in sorted(others.items()))]
    return [parameters, *means, ", ".join(count)]


def _is_fold(result: dict[str, Any]) -> bool:
    """Return whether a trial is one of the folds of its data."""
    return result["params"].get(FOLDS) is not None


def _values(members: Results, metric: str) -> list[float]:
    """Return a metric of the finished trials of a row, where it is measured.

    Folds share training data, so they are no independent trials: of several seeds each has one value, its
    mean over folds. A single seed has the value of each fold.
    """
    seeds: dict[Any, list[float]] = {}
    for member in members:
        if member["status"] == JobState.finished and metric in member["metrics"]:
            seeds.setdefault(member["params"].get("seed"), []).append(member["metrics"][metric])
    if len(seeds) > 1 and _is_fold(members[0]):
        return [statistics.fmean(values) for values in seeds.values()]
    return [value for values in seeds.values() for value in values]


def _number(members: Results, finished: int) -> str:
    """Return how many seeds of a row have finished; where it has folds, how many seeds and folds."""
    if not _is_fold(members[0]):
        return str(finished)
    seeds, folds = ({member["params"].get(key) for member in members} for key in ("seed", FOLD))
    whole = f"{len(seeds)} x {len(folds)}"
    return whole if finished == len(seeds) * len(folds) else f"{finished} of {whole}"


def _once(results: Results) -> list[dict[str, Any]]:
    """Return each trial once: of several results the last finished one counts, else the last."""
    counts: dict[Any, dict[str, Any]] = {}
    for n, result in enumerate(results):
        at = result.get("trial", n), result["params"].get("code")
        known = counts[at]["status"] if at in counts else None
        if known != JobState.finished or result["status"] == JobState.finished:
            counts[at] = result
    return list(counts.values())


def chosen(values: Sequence[float], goal: str) -> list[int]:
    """Return the positions of the best finite values of a metric; [] if fewer than two are finite."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return []
    best = max(finite) if direction(goal) == "maximize" else min(finite)
    return [n for n, value in enumerate(values) if math.isclose(value, best, rel_tol=1e-12)]


def _with_code(results: Results) -> list[dict[str, Any]]:
    """Return the results; if the user's own files were edited in between, with `code` among the parameters.

    Trials with different code are not averaged as seeds, even if their command lines are the same.
    """
    seen: dict[str, set[str]] = {}
    marks = []
    for result in results:
        own = sorted((k, v) for k, v in result.get("tags", {}).items() if k.startswith(IMPORT))
        marks.append(hashlib.sha256(repr(own).encode()).hexdigest()[:8] if own else "")
        typed = [result["params"].get(key) for key in ("rnnbench_import", "model.name", "data.name")]
        seen.setdefault(repr(typed), set()).add(marks[-1])
    if all(len(contents) == 1 for contents in seen.values()):
        return list(results)
    return [
        result | {"params": result["params"] | {"code": mark}}
        for result, mark in zip(results, marks, strict=True)
    ]


def judge(goal: str, results: Results) -> str | None:
    """Return the metric by which the trials of one task are compared, never a metric of the test set.

    Args:
        goal: the objective.
    """
    params = [result["params"] for result in results]
    tasks = {(given.get("data.name"), given.get("data.metric", "accuracy")) for given in params}
    if len(tasks) != 1:
        return None
    if "test" in goal:
        ((_, metric),) = tasks
        goal = f"best/val_{metric}"
    return goal if all(goal in r["metrics"] for r in results if r["status"] == JobState.finished) else None


def legend(comparison: Layout, goal: str | None) -> list[str]:
    """Return one line that explains the signs in the table of a sweep; [] if it has no signs."""
    said = []
    if goal is not None and any(row.best for row in comparison.rows):
        said.append(f"*: the best {title(goal)}")
    if any("±" in cell for line in comparison.lines() for cell in line):
        of_folds = ", of a single seed over its folds" if SEEDS_FOLDS in comparison.headings() else ""
        said.append(f"±: sample standard deviation over seeds{of_folds}")
    return ["; ".join(said)] if said else []


def _differ_within(results: Results, group: str, key: str) -> bool:
    """Return whether a value varies even among the trials that chose the same option of a group."""
    values: dict[Any, set[str]] = {}
    for result in results:
        values.setdefault(result["params"].get(f"{group}.name"), set()).add(str(result["params"].get(key)))
    return any(len(seen) > 1 for seen in values.values())


def _text(value: Any) -> str:
    """Return the value of a key as it is printed."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
