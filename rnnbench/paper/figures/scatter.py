"""Draws a metric against another: each cell's statistic, and its runs."""

from typing import Any

from rnnbench.paper.axes import legend, log_axis
from rnnbench.paper.sheet import Sheet, points

CAPTION = "Large: a cell's {statistic}; small: its runs."


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw a metric against another: the table's figure of each cell, and the runs behind it."""
    axes = figure.subplots()
    for row, column, cell in sheet.cells(sheet.how.x, sheet.metric):
        style = sheet.style(row, column) | {"linestyle": "", "gid": sheet.series(row)}
        axes.plot(*points(cell, sheet.how.x, sheet.metric), ms=2.5, alpha=0.4, **style)
        x, y = sheet.middle(cell)
        axes.plot([x], [y], ms=6, label=sheet.name(row, column), **style)
    if sheet.how.x.startswith(("parameters/", "time/")):
        log_axis(axes)
    axes.set(xlabel=sheet.label(sheet.how.x), ylabel=sheet.label(sheet.metric))
    legend(figure, axes)
