"""Draws a performance profile: the share of runs beyond each threshold (Agarwal et al. 2021)."""

from typing import Any

import numpy as np

from rnnbench.config import direction
from rnnbench.paper.aggregate import Cell, matrix
from rnnbench.paper.axes import legend
from rnnbench.paper.sheet import Sheet
from rnnbench.paper.statistics import Values, performance_profile, profile_band

CAPTION = "Share of the runs beyond each threshold; band: 95 %, bootstrap stratified by task."


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw the share of runs beyond each threshold, all tasks together, with the bootstrap's band."""
    found = sheet.cells(sheet.metric)
    columns = list(dict.fromkeys(column for _, column, _ in found))
    found = [one for one in found if one[2].values(sheet.metric)]  # only cells with a finite value
    figure.set_size_inches(max(figure.get_figwidth(), 2.2 * len(columns)), figure.get_figheight())
    all_axes = dict(
        zip(columns, figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], strict=True)
    )
    sign = 1 if direction(sheet.metric) == "maximize" else -1
    for row, column, cell in found:
        axes = all_axes[column]
        values = sign * _values(sheet, cell)
        others = [_values(sheet, cell) for _, at, cell in found if at == column]
        finite = np.concatenate([other[np.isfinite(other)] for other in others])
        thresholds = np.linspace(finite.min(), finite.max(), 60)
        style = sheet.style(row) | {"marker": "", "lw": 1.2, "gid": sheet.series(row)}
        shares = performance_profile(values, sign * thresholds)
        axes.plot(thresholds, shares, label=sheet.row(row), **style)
        if len(values) > 1 and not cell.by_fold:
            band = profile_band(values, sign * thresholds, sheet.filled.table.resamples)
            axes.fill_between(thresholds, *band, color=style["color"], alpha=0.15, lw=0, gid=style["gid"])
        axes.set(xlabel=f"{sheet.label(sheet.metric)} {'above' if sign > 0 else 'below'}")
        axes.set_title(sheet.column(column), fontsize=8)
    all_axes[columns[0]].set_ylabel("share of runs")
    legend(figure, all_axes[columns[0]])


def _values(sheet: Sheet, cell: Cell) -> Values:
    """Return the runs of a cell, (runs, tasks)."""
    return matrix(cell.values(sheet.metric))
