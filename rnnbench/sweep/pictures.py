"""Optuna's pictures of a study, as PNG and as pages that work without a network."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState


def draw(study: optuna.Study, objectives: Sequence[str], folder: Path) -> dict[str, float]:
    """Draw history, importances, parallel coordinates, slices; of several objectives the front.

    Args:
        objectives: their names.
        folder: is made; the pages share one plotly.min.js in it.

    Returns:
        importance of each parameter for the first objective, greatest first, of all 1; {} as long as
        there are too few trials to tell.
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


def _picture(kind: str, study: optuna.Study, folder: Path, **how: Any) -> None:
    """One picture, drawn by matplotlib as PNG and by plotly as a page."""
    import matplotlib.pyplot as plt
    import optuna.visualization
    import optuna.visualization.matplotlib

    axes = getattr(optuna.visualization.matplotlib, f"plot_{kind}")(study, **how)
    some = axes if not hasattr(axes, "flat") else axes.flat[0]
    if kind in ("parallel_coordinate", "slice"):  # an axis for each parameter
        parameters = {name for trial in study.get_trials(deepcopy=False) for name in trial.params}
        some.figure.set_size_inches(max(7.0, 2.4 * (len(parameters) + 1)), 5.0)
        for part in some.figure.axes:
            part.xaxis.label.set_size(9)
    some.figure.savefig(folder / f"{kind}.png", dpi=120, bbox_inches="tight")
    plt.close(some.figure)
    page = getattr(optuna.visualization, f"plot_{kind}")(study, **how)
    page.write_html(folder / f"{kind}.html", include_plotlyjs="directory")
