"""Prints a table as Markdown."""

from rnnbench.render.layout import Layout, TextCell
from rnnbench.system.plain_text import markdown as escaped


def markdown(layout: Layout) -> str:
    """Return the title, the caption, the paragraphs, the table and the notes."""
    caption, notes = (escaped(" ".join(words)) for words in (layout.caption.split(), layout.notes))
    text = map(escaped, layout.text)
    parts = [f"**{escaped(layout.title)}**", caption, *text, markdown_grid(layout).rstrip("\n"), notes]
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown_grid(layout: Layout) -> str:
    """Return the table alone: headings and rows."""
    lines = [list(map(escaped, layout.headings()))]
    lines.append(["---", *("---:" if column.right else "---" for column in layout.columns)])
    lines += [[escaped(row.label), *map(_cell, row.cells)] for row in layout.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(cell: TextCell) -> str:
    text = escaped(cell.value) + cell.spread()
    return f"**{text}**" if cell.best else text
