"""Draws how far back an input still changes the last answer, from the weights."""

from typing import Any

import numpy as np

from rnnbench.paper.sheet import Sheet
from rnnbench.paper.weights import check_one_direction, looks, panels

CAPTION = (
    "Memory length: the most steps before the last answer at which the norm of the gradient of its loss at "
    "the input is above 1 % of the largest over the steps. A dot for each of 32 test examples spread over "
    "the test set, line: their median; grey: the length of the examples. The run of the first seed at its "
    "best epoch."
)
OF_WEIGHTS = True
check_trial = check_one_direction


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw the memory lengths of examples beside the lengths of these, a panel for each group of columns."""
    columns = sheet.filled.columns
    axes_of = dict(zip(columns, panels(figure, len(columns)), strict=True))
    for row, column, look in looks(sheet):
        axes, at = axes_of[column], sheet.filled.rows.index(row)
        found = look.gradients()
        longest = np.array([len(gradients.input) - 1 for gradients in found])
        lengths = np.array(
            [gradients.memory() for gradients in found], dtype=float
        )  # nan: no gradient at all
        spread = np.linspace(-0.3, 0.3, len(found))
        axes.plot(at + spread, longest, "_", ms=3, color="#bbbbbb", zorder=1)
        colour, gid = sheet.style(row)["color"], sheet.series(row)
        axes.plot(at + spread, lengths, ".", ms=4, color=colour, alpha=0.8, gid=gid)
        if (known := lengths[np.isfinite(lengths)]).size:
            axes.plot([at - 0.4, at + 0.4], [np.median(known)] * 2, color=colour, lw=1.5, gid=gid)
    names = [sheet.row(row) for row in sheet.filled.rows]
    turned = sum(map(len, names)) > 30
    for column, axes in axes_of.items():
        axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0)
        axes.set_ylim(bottom=0)
        axes.set_title(sheet.column(column), fontsize=8)
    next(iter(axes_of.values())).set_ylabel("memory length (steps)")
