"""Draws the figures beside a table as PDF, SVG and PNG: print sizes, the same bytes every time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

from rnnbench.paper.aggregate import FilledTable
from rnnbench.paper.definition import FigureSettings, Table
from rnnbench.paper.figures import KINDS
from rnnbench.paper.notes import STATISTICS
from rnnbench.paper.planning import TableSearch
from rnnbench.paper.sheet import Sheet
from rnnbench.reader import Source
from rnnbench.system.plain_text import drawn

WIDTH, HEIGHT = 3.4, 2.5  # inches; the width of a column of a paper
FORMATS = ("pdf", "svg", "png")
STYLE: Any = {
    "font.size": 8,
    "legend.fontsize": 6,
    "text.parse_math": False,  # dollars in names do not start a formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "rnnbench",  # without it, ids are random
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: editable text, which journals ask for
    "legend.frameon": False,
}


def draw(filled: FilledTable, source: Source, searches: Sequence[TableSearch], folder: Path) -> list[Path]:
    """Draw every figure of the table; return the files.

    Raises:
        ConfigError: no run has the data that a figure needs.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    files = []
    for name, how in filled.table.figures.items():
        sheet = Sheet(filled, source, searches, how)
        with style.context(["default", STYLE]), catch_warnings():  # ignores this machine's matplotlibrc
            filterwarnings("ignore", "Glyph .* missing")  # SVGs hold the text itself
            figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
            KINDS[how.kind].draw(figure, sheet)
            if how.title:
                figure.suptitle(drawn(how.title, 44), fontsize=9)
            for n, part in enumerate(figure.findobj(lambda part: str(part.get_gid()).startswith("series-"))):
                part.set_gid(f"{part.get_gid()}-{n}")  # ids are unique in a page
            for form in FORMATS:
                files.append(folder / f"{name}.{form}")
                dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[form]
                figure.savefig(files[-1], dpi=300, metadata=dates)
    return files


def caption(table: Table, how: FigureSettings) -> str:
    """Return a figure's caption."""
    words = {"statistic": STATISTICS[table.statistic], "parameter": table.label(how.parameter)}
    return KINDS[how.kind].caption.format(**words)
