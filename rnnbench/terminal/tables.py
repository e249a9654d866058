"""Prints tables on the terminal, within its width if that can be."""

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rnnbench.render.layout import Layout
from rnnbench.system.plain_text import printable
from rnnbench.terminal.lines import out, say
from rnnbench.terminal.streams import stdout

NARROWEST = 12  # that a column of names is folded to
HEADINGS = (1000, 9, 8, 7, 6, 5, 4)  # signs in a line of a heading, as the terminal gets narrower


def print_layout(layout: Layout, notes: Sequence[str] = (), whole: str = "") -> None:
    """Print a table on the terminal, within its width if that can be.

    Columns of settings that are the same in all rows stand in one line below it. A narrow terminal does
    without the columns that can be spared.

    Args:
        notes: lines below the table.
        whole: the file that has the columns that are left out; "": none is.
    """
    table = TerminalTable(layout)
    same = [n for n, column in enumerate(layout.columns, 1) if column.setting and table.is_constant(n)]
    table.kept = [n for n in table.kept if n not in same]
    for breaks in ("", " .", " ._"):  # headings in one line, in several, and in several short ones
        table.breaks = breaks
        if table.width() <= out.width:
            break
    spare = sorted((column.spare, n) for n, column in enumerate(layout.columns, 1) if column.spare)
    left_out: list[str] = []
    for _, n in spare if whole else ():
        if table.width() > out.width and n in table.kept:
            table.kept.remove(n)
            left_out.append(table.headings[n])
    for table.longest in HEADINGS:  # at last headings go on in another line anywhere, so that no name is lost
        if table.width() <= out.width:
            break
    table.show()
    if same:
        say("every row: " + ", ".join(f"{table.headings[n]} {table.lines[0][n]}" for n in same))
    for note in notes:
        say(note)
    if left_out:
        say(f"not shown, since the terminal is too narrow: {', '.join(left_out)}; all columns: {whole}")


class TerminalTable:
    """A table whose columns and headings can be made to fit a terminal.

    Args:
        layout: what it shows; a row that is the best is bold, with a star.
    """

    def __init__(self, layout: Layout) -> None:
        self.headings, self.lines = layout.headings(), layout.lines()
        self.best = {k for k, row in enumerate(layout.rows) if row.best}
        self.kept = list(range(len(self.headings)))  # columns that are shown
        self.breaks = ""  # the signs after which a heading may go on in another line
        self.longest = HEADINGS[0]  # line of a heading above numbers that are shorter

    def is_constant(self, column: int) -> bool:
        """Return whether all rows, of two or more, have the same in a column."""
        return len(self.lines) > 1 and len({line[column] for line in self.lines}) == 1

    def width(self) -> int:
        """Return how many columns of the terminal it takes if nothing is folded."""
        return _width(self.table())

    def show(self) -> None:
        """Print it, as narrow as the terminal where its columns can be folded so far."""
        table = self.table()
        least = sum(column.min_width or 0 for column in table.columns) + 3 * len(self.kept) + 1
        show_table(table, max(min(_width(table), out.width), least))

    def table(self) -> Table:
        """Return the columns that are kept; numbers stay in one line, names may be folded."""
        table = Table(box=box.SIMPLE_HEAD)
        columns = []
        for n in self.kept:
            cells = [_cell(line[n]) for line in self.lines]
            number = all(not cell or cell[0].isdigit() for cell in cells)
            if n == self.kept[0] and self.best:
                cells = [f"{cell} *" if k in self.best else cell for k, cell in enumerate(cells)]
            widest = max(map(len, cells), default=0)
            name = _cell(self.headings[n])
            heading = _in_lines(name, widest, self.breaks) if self.breaks else name
            if number:
                heading = _cut(heading, max(widest, self.longest))
            table.add_column(
                Text(heading),
                justify="right" if number else "left",
                no_wrap=number,
                # Without room for the headings of numbers, rich would take it from the names.
                min_width=max(widest, *map(len, heading.split("\n"))) if number else min(widest, NARROWEST),
                overflow="fold",
            )
            columns.append(map(Text, cells))
        for k, row in enumerate(zip(*columns, strict=True)):
            table.add_row(*row, style="bold" if k in self.best else None)
        return table


def show_table(table: Table, width: int | None = None) -> None:
    """Print a table on the terminal; no cell is cut short, however narrow that is.

    Args:
        width: to fold the columns to that may be folded; None: as wide as it comes.
    """
    width = width or _width(table)
    Console(width=max(width, out.width), file=out.file).print(table)


def _cell(text: str) -> str:
    """Return a cell as the terminal shows it, before the width of its column is known."""
    return stdout.encodable(printable(text))


def _width(table: Table) -> int:
    """Return how many columns of the terminal a table takes if nothing in it is folded."""
    return Console(width=10_000).measure(table).maximum


def _in_lines(name: str, width: int, breaks: str) -> str:
    """Return a heading in lines of this width, or little more, that end with one of the signs in `breaks`."""
    lines = [""]
    for part in re.findall(f"[^{breaks}]*[{breaks}]|[^{breaks}]+", name):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _cut(heading: str, width: int) -> str:
    """Return a heading whose lines have no more signs than `width`."""
    lines = heading.split("\n")
    return "\n".join(line[k : k + width] for line in lines for k in range(0, len(line), width))
