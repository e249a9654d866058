"""Draws a metric by epoch: the mean over seeds, with a band from the lowest to the highest."""

import statistics
from typing import Any

from rnnbench.config import ConfigError
from rnnbench.paper.axes import legend
from rnnbench.paper.sheet import Sheet

CAPTION = "Mean over the runs by epoch; band: from the lowest run to the highest."


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw a metric by epoch, the mean over seeds, with a band from the lowest to the highest."""
    metric = sheet.how.y or f"val/{sheet.metric.rpartition('/')[2]}"
    axes = figure.subplots()
    for column in sheet.filled.columns:
        for row in sheet.filled.rows:
            runs = [sheet.source.curve(r, metric) for r in sheet.filled.cell(row, column).records.values()]
            if not any(runs):
                continue
            by_epoch: dict[int, list[float]] = {}
            for epoch, value in (point for run in runs for point in run):
                by_epoch.setdefault(epoch, []).append(value)
            # The mean ends where the first run stopped early: later epochs would average other runs.
            shared = sorted(epoch for epoch, values in by_epoch.items() if len(values) == len(runs))
            means = [statistics.fmean(by_epoch[epoch]) for epoch in shared]
            style = sheet.style(row, column) | {"marker": "", "lw": 1.2}
            axes.plot(shared, means, label=sheet.name(row, column), gid=sheet.series(row), **style)
            low, high = ([f(by_epoch[epoch]) for epoch in shared] for f in (min, max))
            axes.fill_between(
                shared, low, high, color=style["color"], alpha=0.15, lw=0, gid=sheet.series(row)
            )
    if not axes.lines:
        raise ConfigError(f"figures: no run has {metric} by epoch")
    axes.set(xlabel="epoch", ylabel=sheet.label(metric))
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(figure, axes)
