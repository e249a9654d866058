"""Draws the runs of each row as boxes, and a dot a run."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rnnbench.paper.ranked import judged_by
from rnnbench.paper.sheet import Sheet
from rnnbench.paper.weights import panels

CAPTION = "Box: quartiles and median over the runs; whiskers: the lowest and the highest; a dot a run."


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw the runs of each row over seeds: boxes, and a dot a run, side by side in order of seeds."""
    draw_runs(figure, sheet, _box)


def _box(axes: Any, values: Sequence[float], at: int, colour: str, gid: str) -> None:
    """Draw the box of a row, whose whiskers reach the lowest and the highest run."""
    parts = axes.boxplot([values], positions=[at], whis=(0, 100), widths=0.6, patch_artist=True,
                         medianprops={"color": colour, "lw": 1.5})  # fmt: skip
    for part in (artist for artists in parts.values() for artist in artists):
        part.set_gid(gid)
    for body in parts["boxes"]:
        body.set(facecolor=colour, alpha=0.3, gid=gid)


def draw_runs(
    figure: Any, sheet: Sheet, shape: Callable[[Any, Sequence[float], int, str, str], None]
) -> None:
    """Draw the runs of each row, a panel for each group of columns.

    Args:
        shape: draws the shape behind a row's dots, from axes, values, position, colour, id of the row.
    """
    columns = sheet.filled.columns
    own = bool(sheet.filled.table.tasks)  # each task has its metric
    metrics = [judged_by(sheet.filled, sheet.how, one) if own else sheet.metric for one in columns]
    for metric in dict.fromkeys(metrics):
        sheet.cells(metric)
    longest = max(len(line) for row in sheet.filled.rows for line in sheet.row(row).split("\n"))
    turned = (longest + 2) * len(sheet.filled.rows) > 40 / len(columns) ** 0.5
    width = max(figure.get_figwidth(), max(1.2, 0.32 * len(sheet.filled.rows)) * len(columns))
    figure.set_size_inches(width, figure.get_figheight() + (0.06 * longest if turned else 0))
    if len(set(metrics)) > 1:
        all_axes = panels(figure, len(columns))
    else:
        all_axes = list(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0])
    for axes, column, metric in zip(all_axes, columns, metrics, strict=True):
        rows = [row for row in sheet.filled.rows if sheet.filled.cell(row, column).values(metric)]
        for n, row in enumerate(rows):
            values = list(sheet.filled.cell(row, column).values(metric).values())
            colour, gid = sheet.style(row)["color"], sheet.series(row)
            shape(axes, values, n, colour, gid)
            spread = n + np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else [n]
            axes.plot(spread, values, ".", ms=4, color=colour, alpha=0.8, gid=gid)
        axes.set_xticks(range(len(rows)), [sheet.row(row) for row in rows],
                        rotation=90 if turned else 0)  # fmt: skip
        axes.set_title(sheet.column(column), fontsize=8)
        if axes is all_axes[0] or len(set(metrics)) > 1:
            axes.set_ylabel(sheet.label(metric))
