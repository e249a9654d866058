"""Draws the gates of each cell over the steps of a test example, from its weights."""

from typing import Any

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.paper.sheet import COLOURS, LINES, Sheet
from rnnbench.paper.weights import looks, panels

CAPTION = (
    "Gates of the last layer over the steps of one test example, in the run of the first seed at its best "
    "epoch; line: median over the units, band: quartiles."
)
WIDE = True
OF_WEIGHTS = True


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw the median over the units of each gate by step, with a band between the quartiles."""
    every = [(row, column, look.gates(sheet.how.example)) for row, column, look in looks(sheet)]
    found = [each for each in every if each[2]]
    if not found:
        names = ", ".join(dict.fromkeys(sheet.name(row, column) for row, column, _ in every))
        raise ConfigError(f"kind=gates: {names}: has no gates; kind=gradient_flow and kind=memory draw it")
    for axes, (row, column, gates) in zip(panels(figure, len(found)), found, strict=True):
        for n, (name, values) in enumerate(gates.items()):
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
            steps = np.arange(1, len(values) + 1)
            colour = COLOURS[n % len(COLOURS)]
            axes.plot(steps, middle, lw=1.0, color=colour, ls=LINES[n // len(COLOURS)], label=name)
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
        axes.set_title(sheet.name(row, column), fontsize=8, pad=18)
        axes.set(xlabel="step")
        axes.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1, handlelength=1.2)
