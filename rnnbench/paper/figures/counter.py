"""Draws the state of a cell while it reads a word a^n b^n: whether a unit counts, and how far."""

from typing import Any

from rnnbench.config import ConfigError
from rnnbench.paper.sheet import Sheet
from rnnbench.paper.weights import looks, panels

CAPTION = (
    "State of the last layer while it reads a^n b^n (c^n): c, or h of a cell without c. The three units "
    "whose state has the highest correlation with the count (a less b) are in colour, the others grey; dots: "
    "the largest n of training. The run of the first seed at its best epoch."
)
WIDE = True
OF_WEIGHTS = True
LANGUAGES = ("anbn", "anbncn", "dyck1")
SHADES = (1.0, 0.6, 0.35)  # of the units that follow the count


def check_trial(params: dict[str, Any]) -> None:
    """Refuse a task without words a^n b^n."""
    if params.get("data.name") not in LANGUAGES:
        raise ConfigError(
            f"counter is drawn of data={'|'.join(LANGUAGES)}, and a trial has data={params.get('data.name')}"
        )


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw the units' states by step, and how many a and b were read at the turn and in training."""
    found = [(row, column, look.count(sheet.how.n)) for row, column, look in looks(sheet)]
    for axes, (row, column, count) in zip(panels(figure, len(found)), found, strict=True):
        units, steps = count.units(), range(1, len(count.letters) + 1)
        for unit in units[len(SHADES) :]:
            axes.plot(steps, count.state[:, unit], color="#cccccc", lw=0.6)
        for unit, shade in reversed(list(zip(units, SHADES, strict=False))):
            axes.plot(steps, count.state[:, unit], color=sheet.style(row)["color"], alpha=shade, lw=1.3)
        n = int(count.open.max())
        axes.axvline(n, color="black", lw=0.5)
        for edge in (count.longest, 2 * n - count.longest) if n > count.longest else ():
            axes.axvline(edge, color="black", lw=0.8, ls=":")
        axes.set_title(sheet.name(row, column), fontsize=8)
        axes.set(xlabel=f"step of a^n b^n, n = {n}", ylabel=count.name)
