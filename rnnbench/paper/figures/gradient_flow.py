"""Draws the norm of the gradient back through time, from the weights."""

from typing import Any

import numpy as np

from rnnbench.paper.axes import legend, log_axis
from rnnbench.paper.sheet import Sheet
from rnnbench.paper.weights import check_one_direction, looks, panels

CAPTION = (
    "Norm of the gradient of the last answer's loss at the state (h of all layers, and c where there is one) "
    "by steps before that answer, in the run of the first seed at its best epoch; median over 32 test "
    "examples spread over the test set, of those that are as long. Dotted, if there: before training."
)
OF_WEIGHTS = True
check_trial = check_one_direction


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw the median norm by lag, a panel for each group of columns."""
    axes_of = dict(zip(sheet.filled.columns, panels(figure, len(sheet.filled.columns)), strict=True))
    for row, column, look in looks(sheet):
        axes, style = axes_of[column], sheet.style(row) | {"marker": ""}
        for start in (False, True)[: 1 + sheet.how.start]:
            norms = [gradients.state for gradients in look.gradients(start=start)]
            lags = max(map(len, norms))
            middle = [np.median([norm[lag] for norm in norms if len(norm) > lag]) for lag in range(lags)]
            look_of = {"lw": 0.8, "linestyle": ":"} if start else {"lw": 1.2, "label": sheet.row(row)}
            axes.plot(range(lags), middle, gid=sheet.series(row), **style | look_of)
    for column, axes in axes_of.items():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        low, high = axes.get_ylim()
        if high <= 10 * low:  # ticks between two decades have labels
            log_axis(axes, "y")
        axes.set(xlabel="steps before the answer", title=sheet.column(column))
        axes.title.set_fontsize(8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    first = next(iter(axes_of.values()))
    first.set_ylabel("norm of the gradient at the state")
    legend(figure, first)
