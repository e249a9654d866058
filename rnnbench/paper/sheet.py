"""What a figure is drawn from, and how its rows look: one colour a cell in every table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.paper.aggregate import Cell, Filled, Key
from rnnbench.paper.definition import FigureOf
from rnnbench.paper.planning import Wanted
from rnnbench.paper.reading import Source
from rnnbench.paper.statistics import Values

# Okabe and Ito's colours, told apart by the colour-blind; then markers and lines tell what repeats.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
MARKERS = "osD^vP*X<>"
LINES = ("-", "--", ":", "-.")
# The cells that ship have a colour of their own, whatever stands beside them.
FIXED = ("lstm", "gru", "rnn", "mgu", "mingru", "minlstm", "lstm_peephole", "gru_v1", "irnn", "janet", "cifg",
         "fgr", "nig", "nfg", "nog", "niaf", "noaf", "mut1", "mut2", "mut3")  # fmt: skip


class Sheet:
    """What a figure is drawn from."""

    def __init__(self, filled: Filled, source: Source, searches: Sequence[Wanted], how: FigureOf) -> None:
        self.filled, self.source, self.searches, self.how = filled, source, searches, how
        self.metric = how.y or filled.table.metrics[-1]
        others = [row for row in filled.rows if len(row) > 1 or row[0] not in FIXED]
        first = 0 if others == filled.rows else len(FIXED)
        self.places = {
            row: first + others.index(row) if row in others else FIXED.index(row[0]) for row in filled.rows
        }

    def style(self, row: Key, column: Key = ()) -> dict[str, Any]:
        """Colour, marker and line of a row; of several columns in one panel, each has its line."""
        n = self.places[row]
        several = column and len(self.filled.columns) > 1
        line = self.filled.columns.index(column) if several else n // len(COLOURS)
        return {
            "color": COLOURS[n % len(COLOURS)],
            "marker": MARKERS[n % len(MARKERS)],
            "linestyle": LINES[line % len(LINES)],
        }

    def name(self, row: Key, column: Key) -> str:
        """How a cell is printed."""
        return " ".join(filter(None, (self.filled.name(row), self.filled.name(column))))

    def searched(self) -> list[tuple[Key, Key, Wanted]]:
        """Each search, and the row and the column whose cell its winner is: the cells are in its order."""
        return [(*at, wanted) for at, wanted in zip(self.filled.cells, self.searches, strict=True)]

    def series(self, row: Key) -> str:
        """The id in the SVG of what belongs to a row, by which the page shows and hides it."""
        return f"series-{self.filled.name(row)}"

    def label(self, metric: str) -> str:
        """How a metric is printed."""
        return self.filled.table.label(metric)

    def cells(self, *metrics: str) -> list[tuple[Key, Key, Cell]]:
        """The cells with a run that has all these metrics.

        Raises:
            ConfigError: there is none.
        """
        found = [
            (row, column, cell)
            for (row, column), cell in self.filled.cells.items()
            if points(cell, *metrics).size
        ]
        if not found:
            names = {name for record in self.filled.records() for name in record.metrics}
            raise ConfigError(
                f"figures: no run has {' and '.join(metrics)}; there is {', '.join(sorted(names))}"
            )
        return found


def points(cell: Cell, *metrics: str) -> Values:
    """These metrics of the runs that have them all: (metrics, runs)."""
    runs = [
        record.metrics for record in cell.records.values() if all(name in record.metrics for name in metrics)
    ]
    return np.array([[run[name] for run in runs] for name in metrics])
