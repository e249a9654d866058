"""Keeps the data of a figure and the style of its rows: a cell type has one colour in every table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.paper.aggregate import OF, Cell, FilledTable, Key, as_text
from rnnbench.paper.definition import FigureSettings, Table
from rnnbench.paper.planning import TableSearch
from rnnbench.paper.statistics import Values
from rnnbench.reader import Source
from rnnbench.system.plain_text import drawn

# Okabe and Ito's colours, which colour-blind readers can distinguish; markers and lines distinguish repeats.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
MARKERS = "osD^vP*X<>"
LINES: Any = ("-", "--", ":", "-.", (0, (6, 1)), (0, (1, 3)), (0, (8, 2, 1, 2, 1, 2)), (0, (4, 4)),
              (0, (3, 1, 1, 1)), (0, (10, 3)))  # fmt: skip
# The package's cell types have a fixed colour, whichever rows the table has.
FIXED = ("lstm", "gru", "rnn", "mgu", "mingru", "minlstm", "lstm_peephole", "gru_v1", "irnn", "janet", "cifg",
         "fgr", "nig", "nfg", "nog", "niaf", "noaf", "mut1", "mut2", "mut3", "slstm", "indrnn", "ligru",
         "ugrnn", "intersection", "lem", "cornn", "rglru", "lru", "lmu")  # fmt: skip


class Sheet:
    """Keeps the data that a figure is drawn from, and gives names and styles to its rows."""

    def __init__(
        self, filled: FilledTable, source: Source, searches: Sequence[TableSearch], how: FigureSettings
    ) -> None:
        self.filled, self.source, self.searches, self.how = filled, source, searches, how
        self.metric = how.y or filled.table.metrics[-1]
        others = [row for row in filled.rows if len(row) > 1 or row[0] not in FIXED]
        first = 0 if others == filled.rows else len(FIXED)
        self.places = {
            row: first + others.index(row) if row in others else FIXED.index(row[0]) for row in filled.rows
        }

    def style(self, row: Key, column: Key = ()) -> dict[str, Any]:
        """Return colour, marker and line of a row; with several columns in a panel, of each column."""
        n, several = self.places[row], len(self.filled.columns)
        colour, again = n % len(COLOURS), n // len(COLOURS)
        if column and several > 1:
            again = again * several + self.filled.columns.index(column)
            marker = again
        else:
            marker = n
        return {
            "color": COLOURS[colour],
            "marker": MARKERS[marker % len(MARKERS)],
            "fillstyle": ("full", "none")[marker // len(MARKERS) % 2],
            "linestyle": LINES[again % len(LINES)],
        }

    def row(self, row: Key) -> str:
        """Return a row's name for a figure."""
        return drawn(in_words(self.filled.table, self.filled.table.rows, row), 32)

    def column(self, column: Key) -> str:
        """Return the name of a group of columns for a figure."""
        return drawn(in_words(self.filled.table, self.filled.table.columns, column), 18)

    def name(self, row: Key, column: Key) -> str:
        """Return a cell's name for a figure."""
        words = ", ".join(
            filter(
                None,
                (
                    in_words(self.filled.table, self.filled.table.rows, row),
                    in_words(self.filled.table, self.filled.table.columns, column),
                ),
            )
        )
        return drawn(words, 32)

    def searched(self) -> list[tuple[Key, Key, TableSearch]]:
        """Return each search with its winner's row and column; cells and searches have one order."""
        return [(*at, wanted) for at, wanted in zip(self.filled.cells, self.searches, strict=True)]

    def series(self, row: Key) -> str:
        """Return the SVG id of a row's elements, by which the page shows and hides them."""
        return f"series-{self.filled.rows.index(row)}"

    def label(self, metric: str) -> str:
        """Return a metric's or a key's name for a figure."""
        return drawn(self.filled.table.label(metric))

    def middle(self, cell: Cell) -> list[float]:
        """Return x and y of a cell: the table's statistic of its runs."""
        of = OF[self.filled.table.statistic]
        return [of(values) for values in points(cell, self.how.x, self.metric)]

    def cells(self, *metrics: str) -> list[tuple[Key, Key, Cell]]:
        """Return the cells with a run that has all these metrics.

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


def in_words(table: Table, keys: Sequence[str], values: Key) -> str:
    """Return the values of some keys as text; a number follows its key, since 0.003 alone says nothing."""
    return ", ".join(_in_words(table, key, value) for key, value in zip(keys, values, strict=True))


def _in_words(table: Table, key: str, value: Any) -> str:
    shown = table.label(as_text(value))
    shown = f"{shown[:21]}…" if len(shown) > 22 else shown  # leaves room for the keys that follow
    if isinstance(value, str) or as_text(value) in table.labels:
        return shown
    label = table.label(key)
    return f"{label} = {shown}" if label == key else f"{label} {shown}"


def points(cell: Cell, *metrics: str) -> Values:
    """Return metrics (metrics, runs) of the runs that have them all."""
    runs = [
        record.metrics for record in cell.records.values() if all(name in record.metrics for name in metrics)
    ]
    return np.array([[run[name] for run in runs] for name in metrics])
