"""Describes a printed table in any format: columns, rows, cells, notes.

The comparison of a sweep, the trials of a search and the tables of a paper are laid out as a `Layout`. The
renderers beside this module, and terminal/tables.py, only print it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TextCell:
    """What stands in one cell, as text.

    Args:
        value: "" for none.
        deviation: standard deviation, "" for none.
        interval: such as "[0.1, 0.2]", "" for none.
        best: whether it is in bold face.
        alike: whether it is marked with a dagger, as one that cannot be told apart from another.
        sort: the number by which a page sorts the column, nan for none.
    """

    value: str
    deviation: str = ""
    interval: str = ""
    best: bool = False
    alike: bool = False
    sort: float = math.nan

    def spread(self) -> str:
        """Return the deviation or the interval with a blank before it, and the dagger."""
        spread = f" ± {self.deviation}" if self.deviation else f" {self.interval}" if self.interval else ""
        return spread + ("†" if self.alike else "")

    def plain(self) -> str:
        """Return the cell without bold face."""
        return self.value + self.spread()


@dataclass(frozen=True)
class Column:
    """The heading of a column, and how a terminal and Markdown treat it.

    Args:
        group: the group of columns that it belongs to, "" for none.
        metric: the metric that its numbers are of, None for a count or words.
        right: whether Markdown puts its cells to the right.
        setting: whether a terminal shows it in one line below the table where all rows have the same in it.
        spare: a narrow terminal leaves it out, the column with 1 first; 0: never.
    """

    title: str
    group: str = ""
    metric: str | None = None
    right: bool = False
    setting: bool = False
    spare: int = 0

    def heading(self) -> str:
        """Return the title, with the group before it where there is one."""
        return f"{self.group}: {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        label: what stands in the first column.
        cells: one for each column.
        best: whether a terminal marks the row.
    """

    label: str
    cells: list[TextCell]
    best: bool = False


@dataclass
class Layout:
    """A table as it is printed.

    Args:
        corner: the heading of the labels of the rows.
        notes: sentences that stand below the table.
        text: paragraphs that stand before it.
        sideways: whether a page of LaTeX shows it turned, since it has many columns.
    """

    corner: str
    columns: list[Column]
    rows: list[Row]
    title: str = ""
    caption: str = ""
    notes: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    sideways: bool = False

    @classmethod
    def of_text(cls, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> "Layout":
        """Return the layout of lines of text, whose first column holds the labels of the rows."""
        rows = [Row(label, list(map(TextCell, cells))) for label, *cells in lines]
        return cls(headings[0], list(map(Column, headings[1:])), rows)

    def headings(self) -> list[str]:
        """Return the headings of all columns in one line, that of the labels first."""
        return [self.corner, *(column.heading() for column in self.columns)]

    def lines(self) -> list[list[str]]:
        """Return the rows as plain text, with the labels first."""
        return [[row.label, *(cell.plain() for cell in row.cells)] for row in self.rows]

    def column(self, n: int) -> list[TextCell]:
        """Return the cells of a column."""
        return [row.cells[n] for row in self.rows]

    def groups(self) -> Iterator[tuple[str, int]]:
        """Yield each group of columns, and how many columns it has."""
        members: list[list[Column]] = []
        for column in self.columns:
            if members and members[-1][0].group == column.group:
                members[-1].append(column)
            else:
                members.append([column])
        for group in members:
            yield group[0].group, len(group)
