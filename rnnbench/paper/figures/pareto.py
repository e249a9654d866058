"""Draws a scatter with the Pareto front: the cells of which no other has as little x and a better y."""

from collections.abc import Sequence
from typing import Any

from rnnbench.config import direction
from rnnbench.paper.axes import log_axis
from rnnbench.paper.figures import scatter
from rnnbench.paper.sheet import Sheet

CAPTION = f"{scatter.CAPTION} Line: what no other cell beats with less. Logarithmic axis."


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw a scatter, and the Pareto front through the cells that no other beats with as little x."""
    scatter.draw(figure, sheet)
    (axes,) = figure.axes
    log_axis(axes)
    sign = 1 if direction(sheet.metric) == "maximize" else -1
    cells = [tuple(sheet.middle(cell)) for _, _, cell in sheet.cells(sheet.how.x, sheet.metric)]
    x, y = zip(*front(cells, sign), strict=True)
    # The front extends to the right edge, so that a single cell has a visible one too.
    end = axes.get_xlim()[1]
    axes.plot([*x, end], [*y, y[-1]], color="#666666", lw=0.8, zorder=0, drawstyle="steps-post")
    axes.set_xlim(right=end)


def front(cells: Sequence[tuple[float, ...]], sign: int) -> list[tuple[float, ...]]:
    """Return the points that no other beats: none has as little x and a better y.

    Args:
        sign: +1 where a higher y is better, else -1.
    """
    kept: list[tuple[float, ...]] = []
    for x, y in sorted(cells, key=lambda point: (point[0], -sign * point[1])):
        if not kept or sign * y > sign * kept[-1][1]:
            kept.append((x, y))
    return kept
