"""Prints a table as an HTML element; attributes data-sort hold the numbers that cells are sorted by."""

import math

from rnnbench.render.layout import Layout, Row
from rnnbench.system.plain_text import html as escaped


def html(layout: Layout) -> str:
    """Return a table element of the class `paper`."""
    out = ['<table class="paper">', f"<caption>{escaped(layout.title)}</caption>", "<thead>"]
    groups = list(layout.groups())
    if any(group for group, _ in groups):
        cells = "".join(f'<th colspan="{span}">{escaped(group)}</th>' for group, span in groups)
        out.append(f"<tr><th></th>{cells}</tr>")
    titles = "".join(f"<th>{escaped(column.title)}</th>" for column in layout.columns)
    out.append(f'<tr class="sortable"><th>{escaped(layout.corner)}</th>{titles}</tr>')
    out += ["</thead>", "<tbody>", *map(_row, layout.rows), "</tbody>", "</table>"]
    return "\n".join(out) + "\n"


def _row(row: Row) -> str:
    parts = [f"<th>{escaped(row.label)}</th>"]
    for cell in row.cells:
        text = escaped(cell.plain())
        sort = "" if math.isnan(cell.sort) else f' data-sort="{cell.sort!r}"'
        parts.append(f"<td{sort}>{f'<b>{text}</b>' if cell.best else text}</td>")
    return f"<tr>{''.join(parts)}</tr>"
