"""Draws Optuna's pictures of a study, as PNG and as HTML pages that work without a network."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

CROSS: Any = {"marker": "x", "ls": "", "color": "gray", "ms": 5, "label": "pruned (its last value)"}


def draw(study: optuna.Study, objectives: Sequence[str], folder: Path) -> dict[str, float]:
    """Draw history, importances, parallel coordinates and slices; for several objectives also the front.

    Args:
        objectives: the names of the objectives.
        folder: where the pictures go, created if needed; the pages share one plotly.min.js in it.

    Returns:
        importance of each parameter for the first objective, greatest first; they sum to 1. {} if there
        are too few trials to tell.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(exist_ok=True)
    logged = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return _draw(study, objectives, folder)
    finally:
        optuna.logging.set_verbosity(logged)


def _draw(study: optuna.Study, objectives: Sequence[str], folder: Path) -> dict[str, float]:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    first: Callable[[Any], float] | None = None
    if len(objectives) > 1:
        first = lambda trial: trial.values[0]  # noqa: E731
        _picture("pareto_front", study, folder, target_names=list(objectives))
    aim = {"target": first, "target_name": objectives[0]}
    _picture("optimization_history", study, folder, **aim)
    _picture("parallel_coordinate", study, folder, **aim)
    _picture("slice", study, folder, **aim)
    importances: dict[str, float] = {}
    values = {trial.values[0] for trial in complete}
    if len(complete) > 2 and len(values) > 1:  # else there is no variance to explain
        importances = optuna.importance.get_param_importances(study, target=first)
        if importances:
            _picture("param_importances", study, folder, **aim)
    return dict(importances)


def _cross_out(kind: str, panels: Sequence[Any], page: Any, study: optuna.Study) -> None:
    """Mark the pruned trials at their last values; Optuna's pictures leave them out."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    pruned = [(t, t.intermediate_values[t.last_step]) for t in trials if t.last_step is not None]
    if kind == "optimization_history":
        points = {1: [(trial.number, value) for trial, value in pruned]}
    elif kind == "slice":
        keys = sorted({name for trial in study.get_trials(deepcopy=False) for name in trial.params})
        points = {
            n: [(trial.params[key], value) for trial, value in pruned if key in trial.params]
            for n, key in enumerate(keys, 1)
        }
    else:
        return
    for n, found in points.items():
        panel = next(axes for axes in panels if kind != "slice" or axes.get_xlabel() == keys[n - 1])
        if not found:
            continue
        xs, values = zip(*found, strict=True)
        crosses = panel.plot([*map(repr, xs)] if panel.xaxis.have_units() else xs, values, **CROSS)
        known = [] if kind == "slice" else panel.get_legend_handles_labels()[0][:-1]
        panel.legend(handles=[*known, *crosses], fontsize=7)
        axis = str(n) if n > 1 else ""
        page.add_scatter(x=xs, y=values, mode="markers", name=CROSS["label"], marker_symbol="x-thin-open",
                         showlegend=n == 1, xaxis=f"x{axis}", yaxis=f"y{axis}")  # fmt: skip


def _picture(kind: str, study: optuna.Study, folder: Path, **how: Any) -> None:
    """Draw one picture by matplotlib as PNG and by plotly as a page, with the pruned trials marked.

    Formulas are switched off, since keys and values may contain dollar signs; logarithmic axes therefore
    get plain numbers.
    """
    import matplotlib.pyplot as plt
    import optuna.visualization
    import optuna.visualization.matplotlib
    from matplotlib.ticker import NullFormatter

    with plt.rc_context({"text.parse_math": False}):
        axes = getattr(optuna.visualization.matplotlib, f"plot_{kind}")(study, **how)
        some = axes if not hasattr(axes, "flat") else axes.flat[0]
        for part in some.figure.axes:
            for axis in (part.xaxis, part.yaxis):
                if axis.get_scale() == "log":
                    axis.set_major_formatter("{x:g}")
                    axis.set_minor_formatter(NullFormatter())
        some.figure.canvas.draw()
    page = getattr(optuna.visualization, f"plot_{kind}")(study, **how)
    if len(study.directions) == 1:
        _cross_out(kind, some.figure.axes, page, study)
    if kind in ("parallel_coordinate", "slice"):  # an axis for each parameter
        parameters = {name for trial in study.get_trials(deepcopy=False) for name in trial.params}
        some.figure.set_size_inches(max(7.0, 2.4 * (len(parameters) + 1)), 5.0)
        for part in some.figure.axes:
            part.xaxis.label.set_size(9)
    some.figure.savefig(folder / f"{kind}.png", dpi=120, bbox_inches="tight")
    plt.close(some.figure)
    page.write_html(folder / f"{kind}.html", include_plotlyjs="directory")
