"""Lays out a filled table: which columns it has, and how every number is printed."""

import math
from collections.abc import Sequence
from dataclasses import replace

from rnnbench.config import direction, metrics
from rnnbench.paper.aggregate import FilledTable, Key, metrics_of
from rnnbench.paper.definition import Table
from rnnbench.paper.margins import judged
from rnnbench.paper.notes import notes
from rnnbench.paper.published import PublishedValues, beside
from rnnbench.paper.statistics import Estimate
from rnnbench.render.layout import Column, Layout, Row, TextCell

MOST = 6  # digits after the point; figures that need more are printed in powers of ten


def decimals(filled: FilledTable, metric: str) -> int:
    """Return how many digits of a metric stand after the point.

    The table's setting comes first, then the metric's; otherwise as many as show four significant digits of
    the smallest mean.
    """
    if metric in filled.table.digits:
        return filled.table.digits[metric]
    if metric.startswith("parameters/"):
        return 0
    if (fixed := metrics.digits(metric)) is not None:
        return fixed
    values = [abs(c.figures[metric].value) for c in filled.cells.values() if metric in c.figures]
    values = [value for value in values if value > 0 and math.isfinite(value)]
    if metric.startswith("time/") or not values:
        return 1
    return min(MOST, max(0, 3 - math.floor(math.log10(min(values)))))


def number(value: float, digits: int, sign: str = "") -> str:
    """Return a figure with `digits` digits after the point, or in powers of ten where these would hide it.

    Args:
        sign: "+" prints a sign before positive figures too.
    """
    exact = float(f"{value:.12g}")  # rounding noise must not decide how a half is rounded
    tiny = 1e-4 if digits == MOST else 0.5 * 10.0**-digits
    return f"{exact:{sign}.2e}" if 0 < abs(exact) < tiny else f"{exact:{sign}.{digits}f}"


def metric_name(table: Table, metric: str) -> str:
    """Return a metric's name with an arrow to its better values, where several metrics stand in a column."""
    return f"{table.label(metric)} {'↑' if direction(metric) == 'maximize' else '↓'}"


def layout(filled: FilledTable) -> Layout:
    """Return the headings and the text of every cell of a table, for every format."""
    table = filled.table
    published = beside(filled)
    counted = len({cell.count() for cell in filled.cells.values()}) > 1
    columns = [column for at in filled.columns for column in _columns(filled, at, published, counted)]
    rows = [
        Row(
            filled.name(row),
            [cell for column in filled.columns for cell in _cells(filled, row, column, published, counted)],
        )
        for row in filled.rows
    ]
    corner = ", ".join(map(table.label, table.rows))
    found = Layout(corner, columns, rows, table.title, table.caption, notes(filled))
    if not table.transpose:
        return _parameters_once(found)
    at = [at for at in filled.columns for _ in _columns(filled, at, published, counted)]
    return _transposed(filled, found, at)


def _metrics(filled: FilledTable, column: Key) -> list[str]:
    """Return the metrics that a group of columns shows: of a task those that its trials measure.

    Where the table does not say what a task is, every group shows all of the table's metrics.
    """
    measured = {
        name
        for (_, at), cell in filled.cells.items()
        for record in (cell.records.values() if at == column else ())
        for name in record.metrics
    }
    there = metrics_of(filled.table, column)
    return [name for name in there if not filled.table.tasks or name in measured]


def _transposed(filled: FilledTable, found: Layout, at: Sequence[Key]) -> Layout:
    """Return the layout with a line for each column and the rows side by side, numbers of parameters first.

    Args:
        at: the values of the table's column keys of each column of `found`.
    """
    keys = list(map(filled.table.label, filled.table.columns)) or ["metric"]
    sizes = [n for n, column in enumerate(found.columns) if (column.metric or "").startswith("parameters/")]
    lines = [n for n in range(len(found.columns)) if n not in sizes]
    counts = dict.fromkeys(found.columns[n].title for n in sizes)
    group = filled.table.statistic if counts else ""
    named = bool(filled.table.columns) and len({found.columns[n].title for n in lines}) > 1
    columns = [
        *map(Column, keys[1:]),
        *([Column("metric")] if named else []),
        *(Column(row.label, count, right=True) for count in counts for row in found.rows),
        *(Column(row.label, group, right=True) for row in found.rows),
    ]
    rows = []
    for n in lines:
        words = [filled.name((part,)) for part in at[n]] or [found.columns[n].title]
        metric = found.columns[n].metric
        title = metric_name(filled.table, metric) if metric and judged(metric) else found.columns[n].title
        texts = [*words[1:], *([title] if named else [])]
        counted = [cell for m in sizes if at[m] == at[n] for cell in found.column(m)]
        rows.append(Row(words[0], [*map(TextCell, texts), *counted, *found.column(n)]))
    return replace(found, corner=keys[0], columns=columns, rows=rows, sideways=True)


def _columns(filled: FilledTable, at: Key, published: PublishedValues | None, counted: bool) -> list[Column]:
    """Return the headings of a group of columns.

    Args:
        counted: whether the number of runs has its own column.
    """
    columns, group = [], _group(filled, at)
    for metric in _metrics(filled, at):
        titles = [filled.table.label(metric)]
        if published is not None and metric == published.ours and at in published.values:
            titles += ["published", "difference"]
        columns += [Column(title, group, metric, right=True) for title in titles]
    return columns + ([Column("n", group, right=True)] if counted else [])


def _cells(
    filled: FilledTable, row: Key, column: Key, published: PublishedValues | None, counted: bool
) -> list[TextCell]:
    """Return the printed cells of a row in a group of columns."""
    cell = filled.cell(row, column)
    shown: list[TextCell] = []
    for metric in _metrics(filled, column):
        shown.append(_shown(filled, row, column, metric))
        if published is not None and metric == published.ours and column in published.values:
            theirs = published.values[column].get(row)
            shown += _beside(theirs, cell.figures.get(metric), decimals(filled, metric))
    if counted:
        shown.append(TextCell(cell.count() if cell.planned else "", sort=len(cell.records)))
    return shown


def _parameters_once(layout: Layout) -> Layout:
    """Return the layout with one column of parameter counts before the groups, if all groups share them."""
    columns = layout.columns
    several = len({column.group for column in columns}) > 1
    metrics = dict.fromkeys(
        column.metric for column in columns if several and (column.metric or "").startswith("parameters/")
    )
    first, others = [], list(range(len(columns)))
    for metric in metrics:
        at = [n for n, column in enumerate(columns) if column.metric == metric]
        if all(len({row.cells[n].value for n in at}) == 1 for row in layout.rows):
            first.append(at[0])
            others = [n for n in others if n not in at]
    kept = [replace(columns[n], group="") for n in first] + [columns[n] for n in others]
    rows = [replace(row, cells=[row.cells[n] for n in [*first, *others]]) for row in layout.rows]
    return replace(layout, columns=kept, rows=rows)


def _group(filled: FilledTable, column: Key) -> str:
    """Return the heading of a group of columns; "" if there is only one group."""
    keys = [filled.table.label(key) for key in filled.table.columns]
    parts = [filled.name((part,)) for part in column]
    return ", ".join(f"{key} {part}" for key, part in zip(keys, parts, strict=True))


def _shown(filled: FilledTable, row: Key, column: Key, metric: str) -> TextCell:
    """Return a metric of a cell as it is printed."""
    cell = filled.cell(row, column)
    figure = cell.figures.get(metric)
    if figure is None:
        return TextCell("not finite" if cell.diverged(metric) else cell.count() if cell.planned else "")
    digits = decimals(filled, metric)
    if metric.startswith("parameters/"):
        return TextCell(f"{figure.value:,.{digits}f}", sort=figure.value)
    deviation = interval = ""
    if filled.table.spread == "deviation" and figure.deviation is not None:
        deviation = number(figure.deviation, digits)
    elif figure.low is not None and figure.high is not None:
        interval = f"[{number(figure.low, digits)}, {number(figure.high, digits)}]"
    return TextCell(
        number(figure.value, digits),
        deviation,
        interval,
        best=(row, column, metric) in filled.best,
        alike=filled.alike(row, column, metric),
        sort=figure.value,
    )


def _beside(theirs: str | None, figure: Estimate | None, digits: int) -> list[TextCell]:
    """Return the cells with a row's published figure, and with our figure minus the published one."""
    if theirs is None:
        return [TextCell(""), TextCell("")]
    shown = TextCell(theirs, sort=float(theirs))
    if figure is None:
        return [shown, TextCell("")]
    difference = figure.value - float(theirs)
    return [shown, TextCell(number(difference, digits, "+"), sort=difference)]
