"""Draws the values that each search found, by a hyperparameter."""

from typing import Any

from rnnbench.config import ConfigError, direction
from rnnbench.paper.axes import legend, log_axis
from rnnbench.paper.planning import TableSearch
from rnnbench.paper.sheet import Sheet
from rnnbench.reader import Record

CAPTION = "A dot a trial of the search, joined in order of the {parameter}; ring: the winner."
OF_SEARCHES = True


def _trials(sheet: Sheet, wanted: TableSearch) -> list[Record]:
    """Return the finished trials of a search."""
    return [record for record in sheet.source.of_study(wanted.name) if record.status == "finished"]


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw the value of each trial of a search by a hyperparameter: a dot a trial, joined in order of x."""
    axes = figure.subplots()
    parameter = sheet.how.parameter
    for row, column, wanted in sheet.searched():
        judged_by = [name for name in (wanted.found.metrics if wanted.found else {}) if "/best/" in name]
        goal = sheet.how.y or judged_by[0].removeprefix("study/")
        records = _trials(sheet, wanted)
        if any(parameter not in record.params or goal not in record.metrics for record in records):
            raise ConfigError(
                f"figures: not every trial of the search for {wanted.row} has {parameter} and {goal}"
            )
        found = sorted((record.params[parameter], record.metrics[goal]) for record in records)
        style = sheet.style(row, column) | {"gid": sheet.series(row)}
        axes.plot(*zip(*found, strict=True), ms=3.5, lw=0.6, label=sheet.name(row, column), **style)
        sign = 1 if direction(goal) == "maximize" else -1
        winner = max(found, key=lambda point: sign * point[1])
        axes.plot(*winner, "o", ms=8, mfc="none", mew=0.8, color=style["color"], gid=style["gid"])
        axes.set_ylabel(sheet.label(goal))
    if all(value > 0 for line in axes.lines for value in line.get_xdata()):
        log_axis(axes)
    axes.set_xlabel(sheet.label(parameter))
    legend(figure, axes)
