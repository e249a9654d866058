"""Draws the runs of each row as violins, and a dot a run."""

from collections.abc import Sequence
from typing import Any

from rnnbench.paper.figures.box import draw_runs
from rnnbench.paper.sheet import Sheet

CAPTION = "Estimated density over the runs; a dot a run."


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw the runs of each row over seeds: violins, and a dot a run, side by side in order of seeds."""
    draw_runs(figure, sheet, _violin)


def _violin(axes: Any, values: Sequence[float], at: int, colour: str, gid: str) -> None:
    """Draw the violin of a row; runs that are all the same have none."""
    if len(set(values)) > 1:
        for body in axes.violinplot([values], [at], showextrema=False)["bodies"]:
            body.set(facecolor=colour, alpha=0.3, gid=gid)
