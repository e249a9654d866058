"""Laws of figures: what is drawn where, in whose colour, over which runs."""

import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import sampled
from kept import Kept, kept
from matplotlib.figure import Figure
from test_paper import (
    ACCURACIES,
    CELLS,
    NEED_MORE,
    PARAMETERS,
    PLANNED,
    SEEDS,
    config_of,
    leave,
    planned_of,
    runs,
    table,
)
from test_plain_text import NAMES

from rnnbench.config import ConfigError, conf_folder
from rnnbench.paper.aggregate import TableTrial, fill
from rnnbench.paper.definition import FigureSettings
from rnnbench.paper.drawing import caption, draw
from rnnbench.paper.figures import STOCK, load_kind
from rnnbench.paper.figures.pareto import front
from rnnbench.paper.files import texts
from rnnbench.paper.sheet import COLOURS, FIXED, Sheet, in_words
from rnnbench.reader import Folders

__all__ = ["runs"]  # a fixture


def sheet_of(folder: Path, kind: str, planned: list[TableTrial] = PLANNED, **changes: Any) -> Sheet:
    source = Folders(folder)
    y = changes.pop("y", None)
    return Sheet(fill(table(**changes), planned, source), source, [], FigureSettings(kind, y=y))


def drawn(sheet: Sheet) -> Any:
    figure = Figure(figsize=(3.4, 2.5), layout="constrained")
    kind = load_kind(sheet.how.kind)
    assert kind is not None
    kind.draw(figure, sheet)
    return figure


@pytest.fixture
def two_tasks(tmp_path: Path) -> tuple[Path, list[TableTrial]]:
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


def test_every_row_and_column_of_a_figure_has_a_look_of_its_own(tmp_path):
    rates = [0.001 * n for n in range(1, 13)]
    planned = []
    for order in ("rows", "columns", "hilbert"):
        for rate in rates:
            config = config_of("lstm", 0)
            config.data, config.optim = replace(config.data, order=order), replace(config.optim, lr=rate)
            leave(tmp_path / f"{order}{rate}", config, 0.5)
            planned.append(planned_of(config))
    sheet = sheet_of(tmp_path, "pareto", planned, rows=["model.name", "optim.lr"], columns=["data.order"])
    looks = [sheet.style(*at) for at in sheet.filled.cells]
    for parts in (("color", "marker", "fillstyle"), ("color", "linestyle")):
        assert len({tuple(str(look[part]) for part in parts) for look in looks}) == len(planned)
    (axes,) = drawn(sheet).axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels[0].replace("\n", " ") == "lstm, learning rate 0.001, rows"
    assert len(set(labels)) == len(planned)
    by_rate = sheet_of(tmp_path, "box", planned, rows=["data.order"], columns=["optim.lr"])
    assert drawn(by_rate).axes[2].get_title().replace("\n", " ") == "learning rate 0.003"
    by_decay = replace(by_rate.filled.table, columns=["optim.beta1"])
    assert in_words(by_decay, by_decay.columns, (0.9,)) == "optim.beta1 = 0.9"


@pytest.mark.parametrize("kind", sampled([kind for kind in STOCK if kind not in NEED_MORE], ["curves"]))
def test_names_stand_for_themselves_in_a_figure_and_its_page(kind, runs, tmp_path):
    names = [*NAMES[:12], *NAMES[-6:], "$a$ and " * 40]
    planned = []
    for number, name in enumerate(names):
        config = config_of("lstm", 0)
        config.model.name = name
        PARAMETERS[name] = 5000.0 + number
        leave(tmp_path / "jobs" / str(number), config, 0.5)
        planned.append(planned_of(config))
    source = Folders(tmp_path / "jobs")
    how = {name: {"kind": kind, "title": r"$\frac{1}{$ <b>"} for name in ("one",)}
    filled = fill(table(figures=how, title="<b>$\\frac$"), planned, source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(filled, source, [], tmp_path)
    svg = (tmp_path / "one.svg").read_text(encoding="utf-8")
    tree = ElementTree.fromstring(svg)
    ids = [part.get("id", "") for part in tree.iter()]
    series = [name for name in ids if name.startswith("series-")]
    assert len(series) == len(set(series))
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]*", name) for name in ids)
    shown = "".join(tree.itertext())
    assert "\x1b" not in shown and r"$\frac{1}{$ <b>" in shown
    page = texts(filled, [], tmp_path)["report.html"]
    rows = {part.split('"')[0] for part in page.split('data-series="')[1:]}
    assert rows == ({str(n) for n in range(len(names))} if kind != "confusion" else set())
    assert page.count("<script") == 1 and "\x1b" not in page
    plain = texts(fill(table(figures={}, title="x"), planned[10:11], source), [], tmp_path)["report.html"]
    same_tags = texts(fill(table(figures={}, title="x"), planned[:1], source), [], tmp_path)["report.html"]
    assert re.findall(r"<[a-z/]+", plain) == re.findall(r"<[a-z/]+", same_tags)


def test_every_kind_says_how_it_is_read():
    for kind in map(load_kind, STOCK):
        assert kind is not None and kind.caption.endswith(".") and kind.draw.__doc__
    assert caption(table(statistic="iqm"), FigureSettings("pareto")).startswith(
        "Large: a cell's interquartile mean"
    )
    assert "in order of the learning rate" in caption(table(), FigureSettings("sensitivity"))


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
    *drawn_front, end = zip(*line.get_data(), strict=True)
    assert drawn_front == [(x, pytest.approx(y)) for x, y in front(points, 1)]
    assert end == (pytest.approx(axes.get_xlim()[1]), pytest.approx(0.9))  # nothing to the right is better
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


@pytest.mark.parametrize("kind", ["box", "violin"])
def test_each_task_is_drawn_by_its_own_metric(kind):
    runs = {
        (model, task): [0.1, 0.2, 0.4] for model in ("lstm", "gru") for task in ("digits", "adding", "copy")
    }
    planned, records = kept(runs, metrics={"adding": "test/mse", "copy": "test/nll"})
    changes = {"columns": ["data.name"], "tasks": ["data.name"]}
    source, metrics = Kept(records), ["test/accuracy", "test/mse", "test/nll"]
    filled = fill(table(metrics=metrics, **changes), planned, source)
    axes = [one for one in drawn(Sheet(filled, source, [], FigureSettings(kind))).axes if one.axison]
    assert [one.get_title() for one in axes] == ["digits", "adding", "copy"]
    assert [one.get_ylabel() for one in axes] == ["test accuracy", "test MSE", "test NLL"]
    assert all(len(one.lines) > 1 for one in axes)  # no panel is empty


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
