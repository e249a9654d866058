"""How each kind of figure is drawn, and how it is to be read."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rnnbench.config import ConfigError, direction
from rnnbench.paper.aggregate import OF, Cell, matrix
from rnnbench.paper.definition import FigureOf, Table
from rnnbench.paper.planning import Wanted
from rnnbench.paper.reading import Record, confusion
from rnnbench.paper.sheet import Sheet, points
from rnnbench.paper.statistics import Values, performance_profile, profile_band

Drawer = Callable[[Any, Sheet], None]
ACROSS = 3  # confusion matrices side by side


def legend(figure: Any, axes: Any) -> None:
    """The rows' names; beside the axes where there are many."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 9 or sum(map(len, labels)) > 160:
        figure.set_size_inches(figure.get_figwidth() + 1, figure.get_figheight())
        figure.legend(handles, labels, loc="outside right upper")
    else:
        axes.legend(handles, labels)


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
            style = sheet.style(row, column) | {"marker": "", "lw": 1.2}
            axes.plot(shared, means, label=sheet.name(row, column), gid=sheet.series(row), **style)
            low, high = ([f(by_epoch[epoch]) for epoch in shared] for f in (min, max))
            axes.fill_between(
                shared, low, high, color=style["color"], alpha=0.15, lw=0, gid=sheet.series(row)
            )
    if not axes.lines:
        raise ConfigError(f"figures: no run has {metric} by epoch")
    axes.set(xlabel="epoch", ylabel=sheet.label(metric))
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(figure, axes)


def log_axis(axes: Any) -> None:
    """A logarithmic x axis whose ticks are plain numbers, however narrow its range."""
    from matplotlib.ticker import NullLocator

    values = np.concatenate([line.get_xdata() for line in axes.lines]).astype(float)
    axes.set_xscale("log")
    values = values[np.isfinite(values) & (values > 0)]  # a logarithm has no place for others
    if not values.size:
        axes.set_xscale("linear")
        return
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


def middle(sheet: Sheet, cell: Cell) -> list[float]:
    """x and y of a cell: the table's statistic of its runs."""
    of = OF[sheet.filled.table.statistic]
    return [of(values) for values in points(cell, sheet.how.x, sheet.metric)]


def scatter(figure: Any, sheet: Sheet) -> None:
    """A metric against another: the table's figure of each cell, the runs behind it."""
    axes = figure.subplots()
    for row, column, cell in sheet.cells(sheet.how.x, sheet.metric):
        style = sheet.style(row, column) | {"linestyle": "", "gid": sheet.series(row)}
        axes.plot(*points(cell, sheet.how.x, sheet.metric), ms=2.5, alpha=0.4, **style)
        x, y = middle(sheet, cell)
        axes.plot([x], [y], ms=6, label=sheet.name(row, column), **style)
    if sheet.how.kind == "pareto" or sheet.how.x.startswith(("parameters/", "time/")):
        log_axis(axes)
    axes.set(xlabel=sheet.label(sheet.how.x), ylabel=sheet.label(sheet.metric))
    legend(figure, axes)


def pareto(figure: Any, sheet: Sheet) -> None:
    """`scatter`, and the cells that no other beats with less: the front."""
    scatter(figure, sheet)
    (axes,) = figure.axes
    sign = 1 if direction(sheet.metric) == "maximize" else -1
    cells = [tuple(middle(sheet, cell)) for _, _, cell in sheet.cells(sheet.how.x, sheet.metric)]
    x, y = zip(*front(cells, sign), strict=True)
    # The front goes on to the right: nothing there is better. So a single cell has one too.
    end = axes.get_xlim()[1]
    axes.plot([*x, end], [*y, y[-1]], color="#666666", lw=0.8, zorder=0, drawstyle="steps-post")
    axes.set_xlim(right=end)


def front(cells: Sequence[tuple[float, ...]], sign: int) -> list[tuple[float, ...]]:
    """The points that no other beats: none has as little x and a better y (sign +1: higher is better)."""
    kept: list[tuple[float, ...]] = []
    for x, y in sorted(cells, key=lambda point: (point[0], -sign * point[1])):
        if not kept or sign * y > sign * kept[-1][1]:
            kept.append((x, y))
    return kept


def box(figure: Any, sheet: Sheet) -> None:
    """The runs of each row over seeds: boxes or violins, and a dot a run, side by side in order of seeds."""
    sheet.cells(sheet.metric)
    columns = sheet.filled.columns
    longest = max(len(line) for row in sheet.filled.rows for line in sheet.row(row).split("\n"))
    turned = (longest + 2) * len(sheet.filled.rows) > 40 / len(columns) ** 0.5
    width = max(figure.get_figwidth(), max(1.2, 0.32 * len(sheet.filled.rows)) * len(columns))
    figure.set_size_inches(width, figure.get_figheight() + (0.06 * longest if turned else 0))
    all_axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(all_axes, columns, strict=True):
        rows = [row for row in sheet.filled.rows if sheet.filled.cell(row, column).values(sheet.metric)]
        for n, row in enumerate(rows):
            values = list(sheet.filled.cell(row, column).values(sheet.metric).values())
            colour, gid = sheet.style(row)["color"], sheet.series(row)
            if sheet.how.kind == "violin" and len(set(values)) > 1:
                drawn = axes.violinplot([values], [n], showextrema=False)["bodies"]
            elif sheet.how.kind == "box":
                parts = axes.boxplot([values], positions=[n], whis=(0, 100), widths=0.6, patch_artist=True,
                                     medianprops={"color": colour, "lw": 1.5})  # fmt: skip
                drawn = parts["boxes"]
                for part in (artist for artists in parts.values() for artist in artists):
                    part.set_gid(gid)
            else:
                drawn = []
            for body in drawn:
                body.set(facecolor=colour, alpha=0.3, gid=gid)
            spread = n + np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else [n]
            axes.plot(spread, values, ".", ms=4, color=colour, alpha=0.8, gid=gid)
        axes.set_xticks(range(len(rows)), [sheet.row(row) for row in rows],
                        rotation=90 if turned else 0)  # fmt: skip
        axes.set_title(sheet.column(column), fontsize=8)
    all_axes[0].set_ylabel(sheet.label(sheet.metric))


def trials_of(sheet: Sheet, wanted: Wanted) -> list[Record]:
    """The finished trials of a search."""
    return [record for record in sheet.source.of_study(wanted.name) if record.status == "finished"]


def sensitivity(figure: Any, sheet: Sheet) -> None:
    """What each search found, by a hyperparameter: a dot a trial, joined in its order, the winner ringed."""
    axes = figure.subplots()
    parameter = sheet.how.parameter
    for row, column, wanted in sheet.searched():
        judged_by = [name for name in (wanted.found.metrics if wanted.found else {}) if "/best/" in name]
        goal = sheet.how.y or judged_by[0].removeprefix("study/")
        records = trials_of(sheet, wanted)
        if any(parameter not in record.params or goal not in record.metrics for record in records):
            raise ConfigError(
                f"figures: not every trial of the search for {wanted.row} has {parameter} and {goal}"
            )
        found = sorted((record.params[parameter], record.metrics[goal]) for record in records)
        style = sheet.style(row, column) | {"gid": sheet.series(row)}
        axes.plot(*zip(*found, strict=True), ms=3.5, lw=0.6, label=sheet.name(row, column), **style)
        sign = 1 if direction(goal) == "maximize" else -1
        winner = max(found, key=lambda point: sign * point[1])
        axes.plot(*winner, "o", ms=8, mfc="none", mew=0.8, color=style["color"], gid=style["gid"])
        axes.set_ylabel(sheet.label(goal))
    if all(value > 0 for line in axes.lines for value in line.get_xdata()):
        log_axis(axes)
    axes.set_xlabel(sheet.label(parameter))
    legend(figure, axes)


def importances(figure: Any, sheet: Sheet) -> None:
    """The share of the variance that each hyperparameter explains in each search (fANOVA of Optuna)."""
    axes = figure.subplots()
    prefix = "study/importance/"
    shares = {
        (row, column): {
            name.removeprefix(prefix): share
            for name, share in (wanted.found.metrics if wanted.found else {}).items()
            if name.startswith(prefix)
        }
        for row, column, wanted in sheet.searched()
    }
    names = sorted({name for found in shares.values() for name in found})
    height = 0.8 / len(shares)
    for n, ((row, column), found) in enumerate(shares.items()):
        at = [k + n * height for k in range(len(names))]
        values = [found.get(name, 0) for name in names]
        bars = axes.barh(
            at, values, height, color=sheet.style(row)["color"], ec="white", label=sheet.name(row, column)
        )
        for bar in bars:
            bar.set_gid(sheet.series(row))
    axes.set_yticks([k + 0.4 - height / 2 for k in range(len(names))], [sheet.label(name) for name in names])
    axes.set(xlabel="importance", xlim=(0, 1))
    axes.invert_yaxis()
    legend(figure, axes)


def matrices(figure: Any, sheet: Sheet) -> None:
    """The confusion matrix of each cell on the test set, counts of all seeds together, shares of a class."""
    cells = [(at, cell) for at, cell in sheet.filled.cells.items() if cell.records]
    across = min(ACROSS, len(cells))
    down = math.ceil(len(cells) / across)
    figure.set_size_inches(2.2 * across, 2.5 * down)
    every = figure.subplots(down, across, squeeze=False).ravel()
    for axes in every[len(cells) :]:
        axes.set_axis_off()
    for axes, ((row, column), cell) in zip(every, cells, strict=False):
        counts = np.sum([confusion(record) for record in cell.records.values()], axis=0)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        room = 120 / len(counts) / len(str(counts.max()))  # points for a digit of a count
        for true, predicted in np.argwhere(counts > 0) if room > 2 else []:
            colour = "white" if shares[true, predicted] > 0.5 else "black"
            axes.text(predicted, true, str(counts[true, predicted]), ha="center", va="center",
                      fontsize=min(7, room / 0.66), color=colour)  # fmt: skip
        axes.set_title(sheet.name(row, column), fontsize=8)
        axes.set(xlabel="predicted", ylabel="true")
        if len(counts) <= 12:
            axes.set_xticks(range(len(counts)))
            axes.set_yticks(range(len(counts)))
        axes.tick_params(labelsize=6)


def profile(figure: Any, sheet: Sheet) -> None:
    """The share of runs beyond each threshold, all tasks together, with its stratified bootstrap's band."""
    found = sheet.cells(sheet.metric)
    columns = list(dict.fromkeys(column for _, column, _ in found))
    found = [one for one in found if one[2].values(sheet.metric)]  # those with a finite value
    figure.set_size_inches(max(figure.get_figwidth(), 2.2 * len(columns)), figure.get_figheight())
    all_axes = dict(
        zip(columns, figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], strict=True)
    )
    sign = 1 if direction(sheet.metric) == "maximize" else -1
    for row, column, cell in found:
        axes = all_axes[column]
        values = sign * values_of(sheet, cell)
        others = [values_of(sheet, cell) for _, at, cell in found if at == column]
        finite = np.concatenate([other[np.isfinite(other)] for other in others])
        thresholds = np.linspace(finite.min(), finite.max(), 60)
        style = sheet.style(row) | {"marker": "", "lw": 1.2, "gid": sheet.series(row)}
        shares = performance_profile(values, sign * thresholds)
        axes.plot(thresholds, shares, label=sheet.row(row), **style)
        if len(values) > 1:
            axes.fill_between(thresholds, *profile_band(values, sign * thresholds), color=style["color"],
                              alpha=0.15, lw=0, gid=style["gid"])  # fmt: skip
        axes.set(xlabel=f"{sheet.label(sheet.metric)} {'above' if sign > 0 else 'below'}")
        axes.set_title(sheet.column(column), fontsize=8)
    all_axes[columns[0]].set_ylabel("share of runs")
    legend(figure, all_axes[columns[0]])


def values_of(sheet: Sheet, cell: Cell) -> Values:
    """The runs of a cell, (runs, tasks)."""
    return matrix(cell.values(sheet.metric))


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
CELLS = "Large: a cell's {statistic}; small: its runs."
CAPTIONS = {
    "curves": "Mean over the runs by epoch; band: from the lowest run to the highest.",
    "pareto": f"{CELLS} Line: what no other cell beats with less. Logarithmic axis.",
    "scatter": CELLS,
    "box": "Box: quartiles and median over the runs; whiskers: the lowest and the highest; a dot a run.",
    "violin": "Estimated density over the runs; a dot a run.",
    "sensitivity": "A dot a trial of the search, joined in order of the {parameter}; ring: the winner.",
    "importances": "Share of the variance of the search's objective that each parameter explains (fANOVA).",
    "confusion": "Answers on the test set, all runs of a cell together; shade: share of the true class.",
    "profile": "Share of the runs beyond each threshold; band: 95 %, bootstrap stratified by task.",
}
STATISTICS = {"mean": "mean", "median": "median", "iqm": "interquartile mean"}


def caption(table: Table, how: FigureOf) -> str:
    """How a figure is to be read."""
    words = {"statistic": STATISTICS[table.statistic], "parameter": table.label(how.parameter)}
    return CAPTIONS[how.kind].format(**words)
