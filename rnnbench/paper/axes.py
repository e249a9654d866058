"""Draws parts that several kinds of figures share: legends, logarithmic axes."""

import math
from typing import Any

import numpy as np


def legend(figure: Any, axes: Any) -> None:
    """Draw the rows' names; beside the axes where there are many."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 9 or sum(map(len, labels)) > 160:
        figure.set_size_inches(figure.get_figwidth() + 1, figure.get_figheight())
        figure.legend(handles, labels, loc="outside right upper")
    else:
        axes.legend(handles, labels)


def log_axis(axes: Any, which: str = "x") -> None:
    """Make the x axis, or y, logarithmic; its ticks are plain numbers, however narrow its range."""
    from matplotlib.ticker import NullLocator

    values = np.concatenate([getattr(line, f"get_{which}data")() for line in axes.lines]).astype(float)
    axes.set(**{f"{which}scale": "log"})
    values = values[np.isfinite(values) & (values > 0)]  # others have no logarithm
    if not values.size:
        axes.set(**{f"{which}scale": "linear"})
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
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(ticks, [f"{tick:,g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())
