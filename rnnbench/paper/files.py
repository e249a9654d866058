"""Writes the text of every file of a table that holds numbers."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from rnnbench.paper.aggregate import FilledTable
from rnnbench.paper.drawing import caption
from rnnbench.paper.layout import layout
from rnnbench.paper.long import long
from rnnbench.paper.page import report
from rnnbench.paper.planning import TableSearch
from rnnbench.paper.provenance import provenance
from rnnbench.paper.verdict_table import printed, summary_layout, verdict_layout
from rnnbench.paper.verdicts import judge
from rnnbench.render.html import html
from rnnbench.render.latex import latex
from rnnbench.render.layout import Layout
from rnnbench.render.markdown import markdown
from rnnbench.system.plain_text import markdown as escaped


def texts(filled: FilledTable, searches: Sequence[TableSearch], folder: Path) -> dict[str, str]:
    """Return the text of each file, by name.

    Args:
        folder: the table's folder, with its figures already drawn.
    """
    shown = layout(filled)
    facts = provenance(filled, searches)
    verdicts = judge(filled)
    judged = verdict_layout(filled, verdicts) if verdicts else None
    brief = summary_layout(filled, verdicts)
    found = {
        "table.md": markdown(shown),
        "table.csv": long(filled, verdicts),
        "table.html": html(shown),
        "table.tex": latex(shown, folder.name, filled.table.wide),
        "provenance.json": json.dumps(facts, indent=1, allow_nan=False) + "\n",
        "report.html": report(filled, shown, [one for one in (brief, judged) if one], facts, folder),
    }
    if judged is not None:
        found |= {
            "report.md": _index(filled, replace(brief or judged, text=judged.text)),
            "verdicts.md": markdown(judged),
            "verdicts.html": html(judged),
            "verdicts.tex": _parts(printed(filled, verdicts), f"{folder.name}-verdicts", filled.table.wide),
        }
    if brief is not None:
        found |= {
            "summary.md": markdown(brief),
            "summary.html": html(brief),
            "summary.tex": latex(brief, f"{folder.name}-summary", filled.table.wide),
        }
    return found


def _parts(layouts: Sequence[Layout], name: str, wide: bool) -> str:
    """Return tables of LaTeX one after the other, numbered in their labels where there are several."""
    if len(layouts) == 1:
        return latex(layouts[0], name, wide)
    return "\n".join(latex(one, f"{name}-{n}", wide) for n, one in enumerate(layouts, 1))


def _index(filled: FilledTable, brief: Layout) -> str:
    """Return a short page: the words, the verdicts in brief, the figures, and where the rest is.

    Args:
        brief: the verdicts with the words.
    """
    table = filled.table
    page = markdown(replace(brief, title=table.title, caption=table.caption))
    drawn = [
        f"![{escaped(how.title or name)}]({quote(name)}.svg)\n\n{escaped(caption(table, how))}"
        for name, how in table.figures.items()
    ]
    there = "All numbers: [table.md](table.md); all verdicts: [verdicts.md](verdicts.md); runs and code: "
    return "\n\n".join([page.rstrip("\n"), *drawn, f"{there}[report.html](report.html)."]) + "\n"
