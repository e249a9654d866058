"""Writes the text of every file of a table that holds numbers."""

import json
from collections.abc import Sequence
from pathlib import Path

from rnnbench.paper.aggregate import FilledTable
from rnnbench.paper.layout import layout
from rnnbench.paper.long import long
from rnnbench.paper.page import report
from rnnbench.paper.planning import TableSearch
from rnnbench.paper.provenance import provenance
from rnnbench.paper.verdict_table import narrow, summary_layout, verdict_layout
from rnnbench.paper.verdicts import judge
from rnnbench.render.html import html
from rnnbench.render.latex import latex
from rnnbench.render.markdown import markdown


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
            "verdicts.md": markdown(judged),
            "verdicts.html": html(judged),
            "verdicts.tex": latex(narrow(judged), f"{folder.name}-verdicts", filled.table.wide),
        }
    if brief is not None:
        found |= {
            "summary.md": markdown(brief),
            "summary.html": html(brief),
            "summary.tex": latex(brief, f"{folder.name}-summary", filled.table.wide),
        }
    return found
