"""Draws the mean rank of each row over the tasks, and which rows the test tells apart (Demsar 2006)."""

import math
from typing import Any

from rnnbench.paper.ranked import RankedRows, check, rank_rows
from rnnbench.paper.settings import setting_name
from rnnbench.paper.sheet import Sheet
from rnnbench.paper.statistics import CONFIDENCE

__all__ = ["CAPTION", "check", "draw"]
CAPTION = "Mean rank over the tasks, 1 the best; a bar joins rows that the test does not tell apart."
BAR, NAME = 0.35, 0.5  # heights of a bar and of a name, in units of the vertical axis
INCH = 0.42  # of a unit of the vertical axis


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw an axis of mean ranks with the rows' names, and bars that join rows which are not told apart."""
    panels = rank_rows(sheet.filled, sheet.how)
    depths = [_depth(panel) for panel in panels]
    figure.set_size_inches(figure.get_figwidth(), INCH * sum(depth + 2.4 for depth in depths))
    all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[d + 2.4 for d in depths])[:, 0]
    for axes, panel, depth in zip(all_axes, panels, depths, strict=True):
        _draw(axes, sheet, panel)
        most = len(panel.rows)
        room = 0.42 * (most - 1)  # for names beside the axis
        axes.set(xlim=(1 - room, most + room), ylim=(-depth - 0.7, 1.7))
        axes.set_axis_off()
        axes.set_title(setting_name(sheet.filled.table, panel.setting), fontsize=8)


def _depth(panel: RankedRows) -> float:
    """Return how far the names reach below the axis."""
    return 0.3 + BAR * len(panel.ranking.alike) + NAME * math.ceil(len(panel.rows) / 2)


def _draw(axes: Any, sheet: Sheet, panel: RankedRows) -> None:
    """Draw the axis, the rows, the bars and the words of one setting."""
    ranking, most = panel.ranking, len(panel.rows)
    axes.plot([1, most], [0, 0], color="black", lw=0.8)
    for tick in range(1, most + 1):
        axes.plot([tick, tick], [0, 0.12], color="black", lw=0.8)
        axes.text(tick, 0.18, str(tick), ha="center", va="bottom", fontsize=7)
    if ranking.critical is not None:
        end = min(1 + ranking.critical, most + 0.3)
        axes.plot([1, end], [1.0, 1.0], color="black", lw=1.2, marker="|", ms=4)
        axes.text((1 + end) / 2, 1.08, f"CD = {ranking.critical:.2f}", ha="center", va="bottom", fontsize=6)
    for n, group in enumerate(ranking.alike):
        at = sorted(ranking.ranks[row] for row in group)
        axes.plot(at, [-0.25 - BAR * n] * len(at), color="#444444", lw=2.5, marker="o", ms=4, zorder=3)
    order = sorted(range(most), key=lambda row: ranking.ranks[row])
    for place, row in enumerate(order):
        left = place < math.ceil(most / 2)
        level = place if left else most - 1 - place
        y = -0.3 - BAR * len(ranking.alike) - NAME * (level + 0.5)
        edge = 1 - 0.04 * (most - 1) if left else most + 0.04 * (most - 1)
        style, gid = sheet.style(panel.rows[row]), sheet.series(panel.rows[row])
        x = ranking.ranks[row]
        axes.plot([x, x, edge], [0, y, y], color=style["color"], lw=1.0, gid=gid)
        axes.plot([x], [0], ".", color=style["color"], ms=6, gid=gid)
        name = f"{sheet.row(panel.rows[row])} {x:.2f}"
        axes.annotate(name, (edge, y), (-2 if left else 2, 0), textcoords="offset points", va="center",
                      ha="right" if left else "left", fontsize=7, color=style["color"], gid=gid)  # fmt: skip
    axes.text((1 + most) / 2, -_depth(panel) - 0.1, _words(panel), ha="center", va="top", fontsize=6)


def _words(panel: RankedRows) -> str:
    """Return the tests that were used and what they found, in two lines."""
    ranking, level = panel.ranking, 1 - CONFIDENCE
    p = f"p = {ranking.p:.2g}" if ranking.p >= 1e-4 else "p < 0.0001"
    first = f"Friedman over {len(panel.tasks)} tasks: χ²({len(panel.rows) - 1}) = {ranking.chi2:.2f}, {p}"
    if ranking.p >= level:
        return f"{first}\nno difference found at {level:.2f}, so that all are joined"
    pairs = "Nemenyi" if ranking.critical is not None else "Wilcoxon's signed ranks, Holm's correction"
    return f"{first}\npairs at {level:.2f}: {pairs}"
