"""Laws of a study's pictures: names stand for themselves, and what was pruned is seen."""

import optuna
import pytest
from matplotlib import pyplot as plt

from rnnbench.search.pictures import CROSS, draw


@pytest.mark.parametrize("prune", [True, False])
def test_pruned_trials_are_marked_and_dollars_are_no_formula(prune, tmp_path, monkeypatch):
    shown: dict[str, list[str]] = {}
    close = plt.close

    def look(figure):
        marks = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "x"]
        shown[str(len(shown))] = [str(len(line.get_xdata())) for line in marks]
        close(figure)

    monkeypatch.setattr(plt, "close", look)
    study = optuna.create_study(direction="maximize")
    for number in range(6):
        trial = study.ask()
        rate = trial.suggest_float("optim.lr", 1e-4, 1e-1, log=True)
        trial.suggest_categorical("model", [r"$\frac{1}{$", "a$x_1^$b", "<b>lstm</b>"])
        trial.suggest_float(r"a_$\x$", 0, 1)
        trial.report(rate, 1)
        pruned = prune and number % 2
        study.tell(trial, state=optuna.trial.TrialState.PRUNED) if pruned else study.tell(trial, rate)
    draw(study, ["best/val_accuracy"], tmp_path)
    history, _, slices, *_ = shown.values()
    assert history == (["3"] if prune else [])
    assert slices == (["3", "3", "3"] if prune else [])
    for kind in ("optimization_history", "slice"):
        assert (tmp_path / f"{kind}.png").stat().st_size > 0
        assert (CROSS["label"] in (tmp_path / f"{kind}.html").read_text(encoding="utf-8")) == prune
