"""Draws the confusion matrix of each cell on the test set."""

import math
from typing import Any

import numpy as np

from rnnbench.paper.sheet import Sheet
from rnnbench.reader import classes, confusion
from rnnbench.system.plain_text import drawn

CAPTION = "Answers on the test set, all runs of a cell together; shade: share of the true class."
WIDE = True
ACROSS = 3  # number of matrices side by side


def draw(figure: Any, sheet: Sheet) -> None:
    """Draw the confusion matrix of each cell on the test set: counts of all seeds, shaded by their share."""
    cells = [(at, cell) for at, cell in sheet.filled.cells.items() if cell.records]
    across = min(ACROSS, len(cells))
    down = math.ceil(len(cells) / across)
    figure.set_size_inches(2.2 * across, 2.5 * down)
    every = figure.subplots(down, across, squeeze=False).ravel()
    for axes in every[len(cells) :]:
        axes.set_axis_off()
    for axes, ((row, column), cell) in zip(every, cells, strict=False):
        counts = np.sum([confusion(record) for record in cell.records.values()], axis=0)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        room = 120 / len(counts) / len(str(counts.max()))  # width in points for each digit of a count
        for true, predicted in np.argwhere(counts > 0) if room > 2 else []:
            colour = "white" if shares[true, predicted] > 0.5 else "black"
            axes.text(predicted, true, str(counts[true, predicted]), ha="center", va="center",
                      fontsize=min(7, room / 0.66), color=colour)  # fmt: skip
        axes.set_title(sheet.name(row, column), fontsize=8)
        axes.set(xlabel="predicted", ylabel="true")
        if len(counts) <= 12:
            names = [drawn(name, 14, 1) for name in classes(next(iter(cell.records.values())))]
            turned = 90 if max(map(len, names)) > 3 else 0
            axes.set_xticks(range(len(counts)), names, rotation=turned, parse_math=False)
            axes.set_yticks(range(len(counts)), names, parse_math=False)
        axes.tick_params(labelsize=6)
