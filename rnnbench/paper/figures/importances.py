"""Draws how much of the variance each hyperparameter explains in each search."""

from typing import Any

from rnnbench.paper.axes import legend
from rnnbench.paper.sheet import Sheet

CAPTION = "Share of the variance of the search's objective that each parameter explains (fANOVA)."
OF_SEARCHES = True


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw the share of the variance that each hyperparameter explains in each search (fANOVA of Optuna)."""
    axes = figure.subplots()
    prefix = "study/importance/"
    shares = {
        (row, column): {
            name.removeprefix(prefix): share
            for name, share in (wanted.found.metrics if wanted.found else {}).items()
            if name.startswith(prefix)
        }
        for row, column, wanted in sheet.searched()
    }
    names = sorted({name for found in shares.values() for name in found})
    height = 0.8 / len(shares)
    for n, ((row, column), found) in enumerate(shares.items()):
        at = [k + n * height for k in range(len(names))]
        values = [found.get(name, 0) for name in names]
        bars = axes.barh(
            at, values, height, color=sheet.style(row)["color"], ec="white", label=sheet.name(row, column)
        )
        for bar in bars:
            bar.set_gid(sheet.series(row))
    axes.set_yticks([k + 0.4 - height / 2 for k in range(len(names))], [sheet.label(name) for name in names])
    axes.set(xlabel="importance", xlim=(0, 1))
    axes.invert_yaxis()
    legend(figure, axes)
