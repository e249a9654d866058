"""Laws of figures: what is drawn where, in whose colour, over which runs."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_paper import ACCURACIES, CELLS, PLANNED, SEEDS, config_of, leave, planned_of, runs, table

from rnnbench.config import ConfigError, conf_folder
from rnnbench.paper.aggregate import Planned, fill
from rnnbench.paper.definition import KINDS, FigureOf
from rnnbench.paper.plots import CAPTIONS, DRAWERS, caption, front
from rnnbench.paper.reading import Folders
from rnnbench.paper.sheet import COLOURS, FIXED, Sheet

__all__ = ["runs"]  # a fixture


def sheet_of(folder: Path, kind: str, planned: list[Planned] = PLANNED, **changes: Any) -> Sheet:
    source = Folders(folder)
    y = changes.pop("y", None)
    return Sheet(fill(table(**changes), planned, source), source, [], FigureOf(kind, y=y))


def drawn(sheet: Sheet) -> Any:
    figure = Figure(figsize=(3.4, 2.5), layout="constrained")
    DRAWERS[sheet.how.kind](figure, sheet)
    return figure


@pytest.fixture
def two_tasks(tmp_path: Path) -> tuple[Path, list[Planned]]:
    """Two cells on two tasks, the second 0.2 harder."""
    planned = []
    for order, shift in (("rows", 0.0), ("columns", -0.2)):
        for model in ("lstm", "gru"):
            for seed in SEEDS:
                config = config_of(model, seed)
                config.data = replace(config.data, order=order)
                leave(tmp_path / f"{order}{model}{seed}", config, ACCURACIES[model][seed] + shift)
                planned.append(planned_of(config))
    return tmp_path, planned


def test_every_cell_that_ships_has_its_colour_marker_and_line():
    assert set(FIXED) == {file.stem for file in (conf_folder() / "model").glob("*.yaml")}


def test_a_cell_has_the_same_colour_whatever_stands_beside_it(runs):
    beside_all = sheet_of(runs, "box")
    alone = sheet_of(runs, "box", [trial for trial in PLANNED if trial.params["model.name"] == "rnn"])
    assert beside_all.style(("rnn",)) == alone.style(("rnn",))
    assert len({beside_all.style(row)["color"] for row in beside_all.filled.rows}) == 3
    by_size = sheet_of(runs, "box", rows=["model.hidden_size", "model.name"])
    assert [by_size.style(row)["color"] for row in by_size.filled.rows] == list(COLOURS[:3])


def test_every_kind_says_how_it_is_read():
    assert set(CAPTIONS) == set(DRAWERS) == set(KINDS)
    assert caption(table(statistic="iqm"), FigureOf("pareto")).startswith(
        "Large: a cell's interquartile mean"
    )
    assert "in order of the learning rate" in caption(table(), FigureOf("sensitivity"))


def test_curves_are_means_with_a_band_from_the_lowest_to_the_highest(runs):
    (axes,) = drawn(sheet_of(runs, "curves", y="val/accuracy")).axes
    assert [line.get_label() for line in axes.lines] == list(CELLS)
    assert axes.lines[0].get_ydata() == pytest.approx([0.89, 0.9])  # of 0.8, 0.9, 1.0
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(0.79), pytest.approx(1.0))


def test_the_front_of_accuracy_against_parameters_has_a_log_axis(runs):
    (axes,) = drawn(sheet_of(runs, "pareto")).axes
    assert axes.get_xscale() == "log"
    line = axes.lines[-1]
    points = [(5110.0, 0.9), (5085.0, 0.8), (4951.0, 0.5)]
    assert list(zip(*line.get_data(), strict=True)) == [(x, pytest.approx(y)) for x, y in front(points, 1)]
    ticks = [float(tick.get_text().replace(",", "")) for tick in axes.get_xticklabels()]
    assert len(ticks) > 1 and all(4951 <= tick <= 5110 for tick in ticks)


def test_boxes_span_the_quartiles_of_the_runs(runs):
    (axes,) = drawn(sheet_of(runs, "box")).axes
    edges = axes.patches[0].get_path().vertices[:, 1]
    assert (edges.min(), edges.max()) == (pytest.approx(0.85), pytest.approx(0.95))
    dots = next(line for line in axes.lines if line.get_marker() == ".")
    assert list(dots.get_ydata()) == list(ACCURACIES["lstm"])
    assert len(set(dots.get_xdata())) == 3  # equal values do not hide each other


def test_a_profile_is_over_the_runs_of_all_tasks(two_tasks):
    folder, planned = two_tasks
    (axes,) = drawn(sheet_of(folder, "profile", planned, over=["data.order"], spread="bootstrap")).axes
    x, share = axes.lines[0].get_data()  # lstm: 0.6, 0.7, 0.8, 0.8, 0.9, 1.0
    assert share[np.searchsorted(x, 0.65)] == pytest.approx(5 / 6)
    assert share[np.searchsorted(x, 0.85)] == pytest.approx(2 / 6)
    # gru: always 0.8 and always 0.6. Whatever is drawn of each task, half of the runs are above 0.7.
    band = axes.collections[1].get_paths()[0].vertices
    assert band[np.abs(band[:, 0] - 0.7) < 0.05, 1] == pytest.approx(0.5)


def test_what_is_better_when_it_is_low_has_a_profile_below(runs):
    (axes,) = drawn(sheet_of(runs, "profile", y="time/train_seconds")).axes
    assert axes.get_xlabel() == "training seconds below"


@pytest.mark.parametrize(("kind", "panels"), [("box", 2), ("profile", 2), ("confusion", 4)])
def test_every_column_has_its_panel(kind, panels, two_tasks):
    folder, planned = two_tasks
    figure = drawn(sheet_of(folder, kind, planned, columns=["data.order"]))
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == panels
    assert any("columns" in axes.get_title() for axes in shown)


def test_a_cell_without_runs_has_no_confusion_matrix(runs):
    for number in (6, 7, 8):
        shutil.rmtree(runs / "1" / str(number))
    figure = drawn(sheet_of(runs, "confusion"))
    assert [axes.get_title() for axes in figure.axes] == ["lstm", "gru"]
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert shown == {"9", "3", "12"}  # three runs of 3, 1, 0, 4


def test_figures_of_what_no_run_has_are_refused(runs):
    with pytest.raises(ConfigError, match="figures: no run has val/f1 by epoch"):
        drawn(sheet_of(runs, "curves", y="val/f1"))
    with pytest.raises(ConfigError, match="figures: no run has test/f1; there is"):
        drawn(sheet_of(runs, "box", y="test/f1"))
    with pytest.raises(ConfigError, match="figures: no run has parameters/total and test/f1"):
        drawn(sheet_of(runs, "scatter", y="test/f1"))
