"""The figures beside a table: print sizes, one colour a row everywhere, the same bytes every time."""

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnbench.config import ConfigError, direction
from rnnbench.paper.aggregate import OF, Cell, Filled, Key
from rnnbench.paper.definition import FigureOf
from rnnbench.paper.planning import Wanted
from rnnbench.paper.reading import Record, Source, confusion
from rnnbench.paper.statistics import estimate, performance_profile

# Okabe and Ito's colours, told apart by the colour-blind; then markers and lines tell what repeats.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
MARKERS = "osD^vP*X<>"
LINES = ("-", "--", ":", "-.")
WIDTH = 3.4  # inches: a column of a paper
FORMATS = ("pdf", "svg", "png")
STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "rnnbench",  # else its ids are drawn at random
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # editable text, as journals ask
    "legend.frameon": False,
}
# The cells that ship have their colour in every table.
FIXED = ("lstm", "gru", "rnn", "mgu", "mingru", "minlstm", "lstm_peephole", "gru_v1")
Drawer = Callable[[Any, "Sheet"], None]


class Sheet:
    """What a figure is drawn from."""

    def __init__(self, filled: Filled, source: Source, searches: Sequence[Wanted], how: FigureOf) -> None:
        self.filled, self.source, self.searches, self.how = filled, source, searches, how
        self.metric = how.y or filled.table.metrics[-1]
        others = [row for row in filled.rows if str(row[0]) not in FIXED or len(row) > 1]
        self.places = {
            row: len(FIXED) + others.index(row) if row in others else FIXED.index(str(row[0]))
            for row in filled.rows
        }
        if not others:
            return
        if len(others) == len(filled.rows):  # nothing has a colour of its own
            self.places = {row: n for n, row in enumerate(filled.rows)}

    def style(self, row: Key) -> dict[str, Any]:
        """Colour, marker and line of a row."""
        n = self.places[row]
        return {
            "color": COLOURS[n % len(COLOURS)],
            "marker": MARKERS[n % len(MARKERS)],
            "linestyle": LINES[n // len(COLOURS) % len(LINES)],
        }

    def label(self, metric: str) -> str:
        """How a metric is printed."""
        return self.filled.table.label(metric)

    def points(self, metric: str) -> list[tuple[Key, Key, Cell]]:
        """The cells that have a metric."""
        found = [
            (row, column, cell) for (row, column), cell in self.filled.cells.items() if cell.values(metric)
        ]
        if not found:
            names = {name for record in self.filled.records() for name in record.metrics}
            raise ConfigError(f"figures: no run has {metric}; there is {', '.join(sorted(names))}")
        return found


def draw(filled: Filled, source: Source, searches: Sequence[Wanted], folder: Path) -> list[Path]:
    """Draw every figure of the table as PDF, SVG and PNG; the files.

    Raises:
        ConfigError: a figure asks for what no run has.
    """
    import matplotlib
    from matplotlib.figure import Figure

    files = []
    for name, how in filled.table.figures.items():
        sheet = Sheet(filled, source, searches, how)
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
            DRAWERS[how.kind](figure, sheet)
            if how.title:
                figure.suptitle(how.title, fontsize=9)
            for form in FORMATS:
                files.append(folder / f"{name}.{form}")
                dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[form]
                figure.savefig(files[-1], dpi=300, metadata=dates)
    return files


def curves(figure: Any, sheet: Sheet) -> None:
    """A metric by epoch, the mean over seeds, with a band from the lowest to the highest."""
    metric = sheet.how.y or f"val/{sheet.metric.rpartition('/')[2]}"
    axes = figure.subplots()
    for column in sheet.filled.columns:
        for row in sheet.filled.rows:
            runs = [sheet.source.curve(r, metric) for r in sheet.filled.cell(row, column).records.values()]
            if not any(runs):
                continue
            by_epoch: dict[int, list[float]] = {}
            for epoch, value in (point for run in runs for point in run):
                by_epoch.setdefault(epoch, []).append(value)
            # Runs that have stopped early keep out of the later epochs, so the mean ends with the first.
            shared = sorted(epoch for epoch, values in by_epoch.items() if len(values) == len(runs))
            means = [statistics.fmean(by_epoch[epoch]) for epoch in shared]
            style = sheet.style(row) | {"marker": "", "lw": 1.2}
            if len(sheet.filled.columns) > 1:
                style["linestyle"] = LINES[sheet.filled.columns.index(column) % len(LINES)]
            label = " ".join(filter(None, (sheet.filled.name(row), sheet.filled.name(column))))
            (line,) = axes.plot(shared, means, label=label, **style)
            line.set_gid(f"series-{sheet.filled.name(row)}")
            low, high = ([f(by_epoch[epoch]) for epoch in shared] for f in (min, max))
            band = axes.fill_between(shared, low, high, color=style["color"], alpha=0.15, lw=0)
            band.set_gid(f"series-{sheet.filled.name(row)}")
    if not axes.lines:
        raise ConfigError(f"figures: no run has {metric} by epoch")
    axes.set(xlabel="epoch", ylabel=sheet.label(metric))
    axes.legend(fontsize=6)


def log_axis(axes: Any) -> None:
    """A logarithmic x axis whose ticks are plain numbers, however narrow its range."""
    from matplotlib.ticker import NullLocator

    values = np.concatenate([line.get_xdata() for line in axes.lines]).astype(float)
    axes.set_xscale("log")
    low, high = values.min(), values.max()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) > 1:
            break
    else:  # a narrow range
        ticks = sorted({float(f"{tick:.2g}") for tick in np.geomspace(low, high, 4)})
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def scatter(figure: Any, sheet: Sheet) -> None:
    """A metric against another: the table's figure of each cell, the runs behind it."""
    axes = figure.subplots()
    of = OF[sheet.filled.table.statistic]
    for row, _, cell in sheet.points(sheet.metric):
        x, y = (
            np.array([r.metrics[name] for r in cell.records.values()]) for name in (sheet.how.x, sheet.metric)
        )
        style = sheet.style(row) | {"linestyle": ""}
        group = f"series-{sheet.filled.name(row)}"
        axes.plot(x, y, ms=2.5, alpha=0.4, gid=group, **style)
        known = {line.get_label() for line in axes.lines}
        name = sheet.filled.name(row)
        axes.plot([of(x)], [of(y)], ms=6, gid=group, label="_" if name in known else name, **style)
    if sheet.how.kind == "pareto" or sheet.how.x.startswith(("parameters/", "time/")):
        log_axis(axes)
    axes.set(xlabel=sheet.label(sheet.how.x), ylabel=sheet.label(sheet.metric))
    axes.legend(fontsize=6)


def pareto(figure: Any, sheet: Sheet) -> None:
    """`scatter`, and the cells that no other beats with less: the front."""
    scatter(figure, sheet)
    (axes,) = figure.axes
    of = OF[sheet.filled.table.statistic]
    sign = 1 if direction(sheet.metric) == "maximize" else -1
    cells = [
        tuple(
            of(np.array([r.metrics[name] for r in cell.records.values()]))
            for name in (sheet.how.x, sheet.metric)
        )
        for _, _, cell in sheet.points(sheet.metric)
    ]
    axes.plot(
        *zip(*front(cells, sign), strict=True), color="#666666", lw=0.8, zorder=0, drawstyle="steps-post"
    )


def front(points: Sequence[tuple[float, ...]], sign: int) -> list[tuple[float, ...]]:
    """The points that no other beats: none has as little x and a better y (sign +1: higher is better)."""
    kept: list[tuple[float, ...]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not kept or sign * y > sign * kept[-1][1]:
            kept.append((x, y))
    return kept


def box(figure: Any, sheet: Sheet) -> None:
    """The runs of each row over seeds: boxes (quartiles, whiskers to the extremes) or violins, and dots."""
    sheet.points(sheet.metric)
    all_axes = figure.subplots(1, len(sheet.filled.columns), sharey=True, squeeze=False)[0]
    figure.set_size_inches(max(WIDTH, 0.32 * len(sheet.filled.rows) * len(sheet.filled.columns)), 2.5)
    for axes, column in zip(all_axes, sheet.filled.columns, strict=True):
        rows = [row for row in sheet.filled.rows if sheet.filled.cell(row, column).values(sheet.metric)]
        for n, row in enumerate(rows):
            values = list(sheet.filled.cell(row, column).values(sheet.metric).values())
            style = sheet.style(row)
            if sheet.how.kind == "violin" and len(set(values)) > 1:
                for body in axes.violinplot([values], [n], showextrema=False)["bodies"]:
                    body.set(facecolor=style["color"], alpha=0.3)
            elif sheet.how.kind == "box":
                axes.boxplot([values], positions=[n], whis=(0, 100), widths=0.6,
                             medianprops={"color": style["color"]})  # fmt: skip
            axes.plot([n] * len(values), values, ".", ms=4, color=style["color"], alpha=0.7)
        axes.set_xticks(range(len(rows)), [sheet.filled.name(row) for row in rows],
                        rotation=90 if len(rows) > 6 else 0)  # fmt: skip
        axes.set_title(sheet.filled.name(column), fontsize=8)
    all_axes[0].set_ylabel(sheet.label(sheet.metric))


def trials_of(sheet: Sheet, wanted: Wanted) -> list[Record]:
    """The finished trials of a search."""
    return [record for record in sheet.source.of_study(wanted.name) if record.status == "finished"]


def sensitivity(figure: Any, sheet: Sheet) -> None:
    """What each search found, by a hyperparameter: a dot a trial, the best so far from left to right."""
    axes = figure.subplots()
    parameter = sheet.how.parameter
    for wanted, row in zip(sheet.searches, sheet.filled.rows, strict=False):
        records = trials_of(sheet, wanted)
        judged_by = [name for name in (wanted.found.metrics if wanted.found else {}) if "/best/" in name]
        goal = sheet.how.y or judged_by[0].removeprefix("study/")
        points = sorted((record.params[parameter], record.metrics[goal]) for record in records)
        style = sheet.style(row) | {"linestyle": ""}
        axes.plot(*zip(*points, strict=True), ms=3.5, label=sheet.filled.name(row), **style)
        axes.set_ylabel(sheet.label(goal))
    if all(value > 0 for line in axes.lines for value in line.get_xdata()):
        log_axis(axes)
    axes.set_xlabel(sheet.label(parameter))
    axes.legend(fontsize=6)


def importances(figure: Any, sheet: Sheet) -> None:
    """The share of the variance that each hyperparameter explains in each search (fANOVA of Optuna)."""
    axes = figure.subplots()
    prefix = "study/importance/"
    shares = {
        wanted.row: {
            name.removeprefix(prefix): share
            for name, share in (wanted.found.metrics if wanted.found else {}).items()
            if name.startswith(prefix)
        }
        for wanted in sheet.searches
    }
    names = sorted({name for found in shares.values() for name in found})
    height = 0.8 / max(len(shares), 1)
    for n, (row, wanted) in enumerate(zip(sheet.filled.rows, shares, strict=False)):
        at = [k + n * height for k in range(len(names))]
        values = [shares[wanted].get(name, 0) for name in names]
        axes.barh(at, values, height, color=sheet.style(row)["color"], label=sheet.filled.name(row))
    axes.set_yticks([k + 0.4 - height / 2 for k in range(len(names))], names)
    axes.set(xlabel="importance", xlim=(0, 1))
    axes.invert_yaxis()
    axes.legend(fontsize=6)


def matrices(figure: Any, sheet: Sheet) -> None:
    """The confusion matrix of each row on the test set, counts of all seeds together, shares of a class."""
    rows = sheet.filled.rows
    column = sheet.filled.columns[0]
    figure.set_size_inches(2.2 * len(rows), 2.5)
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        counts = np.sum([confusion(r) for r in sheet.filled.cell(row, column).records.values()], axis=0)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for true, predicted in np.argwhere(counts > 0):
            colour = "white" if shares[true, predicted] > 0.5 else "black"
            axes.text(predicted, true, str(counts[true, predicted]), ha="center", va="center",
                      fontsize=4, color=colour)  # fmt: skip
        axes.set(title=sheet.filled.name(row), xlabel="predicted", ylabel="true")
        axes.set_xticks(range(len(counts)))
        axes.set_yticks(range(len(counts)))
        axes.tick_params(labelsize=5)


def profile(figure: Any, sheet: Sheet) -> None:
    """The share of runs above each threshold, all tasks together, with a bootstrapped band."""
    axes = figure.subplots()
    values = {row: list(cell.values(sheet.metric).values()) for row, _, cell in sheet.points(sheet.metric)}
    everything = [value for runs in values.values() for value in runs]
    thresholds = np.linspace(min(everything), max(everything), 60)
    for row, runs in values.items():
        style = sheet.style(row) | {"marker": "", "lw": 1.2}
        shares = performance_profile(np.array(runs)[:, None], thresholds)
        axes.plot(
            thresholds, shares, label=sheet.filled.name(row), gid=f"series-{sheet.filled.name(row)}", **style
        )
        bounds = [
            estimate((np.array(runs) > threshold).astype(float), "bootstrap") for threshold in thresholds
        ]
        low, high = ([getattr(bound, side) or bound.value for bound in bounds] for side in ("low", "high"))
        axes.fill_between(thresholds, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.set(xlabel=f"{sheet.label(sheet.metric)} above", ylabel="share of runs")
    axes.legend(fontsize=6)


DRAWERS: dict[str, Drawer] = {
    "curves": curves,
    "pareto": pareto,
    "scatter": scatter,
    "box": box,
    "violin": box,
    "sensitivity": sensitivity,
    "importances": importances,
    "confusion": matrices,
    "profile": profile,
}
