"""A filled table as text: Markdown, CSV, HTML, LaTeX. The same numbers give the same bytes."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rnnbench.paper.aggregate import Filled, Key, judged
from rnnbench.paper.notes import notes
from rnnbench.paper.published import Beside, beside
from rnnbench.paper.statistics import Estimate
from rnnbench.system.plain_text import html, spreadsheet
from rnnbench.system.plain_text import markdown as as_markdown

MOST = 6  # digits after the point; smaller figures print in powers of ten


@dataclass(frozen=True)
class Shown:
    """One number of the table as it is printed."""

    value: str  # "" for none
    deviation: str = ""
    interval: str = ""
    bold: bool = False
    alike: bool = False
    sort: float = math.nan

    def plain(self) -> str:
        """Without bold face."""
        spread = f" ± {self.deviation}" if self.deviation else f" {self.interval}" if self.interval else ""
        return self.value + spread + ("†" if self.alike else "")


@dataclass(frozen=True)
class Heading:
    """A column of the printed table."""

    group: str  # the group of columns; "" where there is but one
    title: str
    metric: str | None = None  # None for a count, or words


def decimals(filled: Filled, metric: str) -> int:
    """Digits after the point: what the table says, four of a share, four that count of the smallest mean."""
    if metric in filled.table.digits:
        return filled.table.digits[metric]
    if metric.startswith("parameters/"):
        return 0
    if metric.endswith("accuracy"):
        return 4
    values = [abs(c.figures[metric].value) for c in filled.cells.values() if metric in c.figures]
    values = [value for value in values if value > 0 and math.isfinite(value)]
    if metric.startswith("time/") or not values:
        return 1
    return min(MOST, max(0, 3 - math.floor(math.log10(min(values)))))


def number(value: float, digits: int, sign: str = "") -> str:
    """A figure with so many digits after the point; in powers of ten where these do not show it.

    Args:
        sign: "+" writes that of positive figures too.
    """
    exact = float(f"{value:.12g}")  # so that rounding noise does not decide how a half is rounded
    tiny = 1e-4 if digits == MOST else 0.5 * 10.0**-digits
    return f"{exact:{sign}.2e}" if 0 < abs(exact) < tiny else f"{exact:{sign}.{digits}f}"


def layout(filled: Filled) -> tuple[list[Heading], list[tuple[str, list[Shown]]]]:
    """The columns, and the rows with their labels."""
    table = filled.table
    headings: list[Heading] = []
    published = beside(filled)
    counts = {cell.count() for cell in filled.cells.values()}
    for column in filled.columns:
        group = _group(filled, column)
        for metric in table.metrics:
            headings.append(Heading(group, table.label(metric), metric))
            if published is not None and metric == published.ours:
                headings += [Heading(group, "published", metric), Heading(group, "difference", metric)]
        if len(counts) > 1:
            headings.append(Heading(group, "n"))
    rows = []
    for row in filled.rows:
        shown: list[Shown] = []
        for column in filled.columns:
            cell = filled.cell(row, column)
            for metric in table.metrics:
                shown.append(_shown(filled, row, column, metric))
                if published is not None and metric == published.ours:
                    shown += _beside(filled, published, row, cell.figures.get(metric), metric)
            if len(counts) > 1:
                shown.append(Shown(cell.count() if cell.planned else "", sort=len(cell.records)))
        rows.append((filled.name(row), shown))
    return _once(headings, rows)


def _once(
    headings: list[Heading], rows: list[tuple[str, list[Shown]]]
) -> tuple[list[Heading], list[tuple[str, list[Shown]]]]:
    """The columns with each count of parameters that is the same in every group once, before the groups."""
    groups = {heading.group for heading in headings}
    metrics = dict.fromkeys(
        h.metric for h in headings if len(groups) > 1 and (h.metric or "").startswith("parameters/")
    )
    first, others = [], list(range(len(headings)))
    for metric in metrics:
        at = [n for n, heading in enumerate(headings) if heading.metric == metric]
        if all(len({shown[n].value for n in at}) == 1 for _, shown in rows):
            first.append(at[0])
            others = [n for n in others if n not in at]
    kept = [Heading("", headings[n].title, headings[n].metric) for n in first]
    order = [*first, *others]
    return [*kept, *(headings[n] for n in others)], [(row, [shown[n] for n in order]) for row, shown in rows]


def _group(filled: Filled, column: Key) -> str:
    keys = [filled.table.label(key) for key in filled.table.columns]
    parts = [filled.name((part,)) for part in column]
    return ", ".join(f"{key} {part}" for key, part in zip(keys, parts, strict=True))


def _shown(filled: Filled, row: Key, column: Key, metric: str) -> Shown:
    cell = filled.cell(row, column)
    figure = cell.figures.get(metric)
    if figure is None:
        return Shown("not finite" if cell.diverged(metric) else cell.count() if cell.planned else "")
    digits = decimals(filled, metric)
    if metric.startswith("parameters/"):
        return Shown(f"{figure.value:,.{digits}f}", sort=figure.value)
    deviation = interval = ""
    if filled.table.spread == "deviation" and figure.deviation is not None:
        deviation = number(figure.deviation, digits)
    elif figure.low is not None and figure.high is not None:
        interval = f"[{number(figure.low, digits)}, {number(figure.high, digits)}]"
    return Shown(
        number(figure.value, digits),
        deviation,
        interval,
        bold=(row, column, metric) in filled.best,
        alike=filled.alike(row, column, metric),
        sort=figure.value,
    )


def _beside(filled: Filled, published: Beside, row: Key, figure: Estimate | None, metric: str) -> list[Shown]:
    theirs = published.values.get(row)
    if theirs is None:
        return [Shown(""), Shown("")]
    shown = Shown(theirs, sort=float(theirs))
    if figure is None:
        return [shown, Shown("")]
    difference = figure.value - float(theirs)
    return [shown, Shown(number(difference, decimals(filled, metric), "+"), sort=difference)]


def markdown(filled: Filled) -> str:
    """A Markdown table, its title and notes."""
    headings, rows = layout(filled)
    titles = [as_markdown(f"{h.group}: {h.title}" if h.group else h.title) for h in headings]
    lines = [[as_markdown(corner(filled)), *titles], ["---"] + ["---:"] * len(headings)]
    for label, shown in rows:
        cells = (f"**{one.plain()}**" if one.bold else one.plain() for one in shown)
        lines.append([as_markdown(label), *cells])
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    caption = " ".join(filled.table.caption.split())
    parts = [f"**{as_markdown(filled.table.title)}**", as_markdown(caption), body.rstrip("\n")]
    parts.append(as_markdown(" ".join(notes(filled))))
    return "\n\n".join(filter(None, parts)) + "\n"


def corner(filled: Filled) -> str:
    return ", ".join(filled.table.label(key) for key in filled.table.rows)


def long(filled: Filled) -> str:
    """A line of CSV for each row, column and metric, with all digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")

    def write(line: Sequence[object]) -> None:
        writer.writerow(["" if p is None else spreadsheet(p) if isinstance(p, str) else p for p in line])

    table = filled.table
    names = ["metric", "n", "other", table.statistic, "deviation", "low", "high", "best", "compared_with"]
    names += ["difference", "difference_low", "difference_high", "paired", "p_holm"]
    names += ["p_improvement", "p_improvement_low", "p_improvement_high"]
    write([*table.rows, *table.columns, *names])
    compared = {(c.row, c.column, c.metric): c for c in filled.comparisons}
    for (row, column), cell in filled.cells.items():
        for metric in table.metrics:
            lost = cell.lost | ({"not finite": n} if (n := cell.diverged(metric)) else {})
            others = ", ".join(f"{n} {status}" for status, n in lost.items())
            figure = cell.figures.get(metric)
            line: list[object] = [*row, *column, metric, len(cell.values(metric)), others]
            if figure is None:
                write([*line, *[""] * (len(names) - 3)])
                continue
            best = (row, column, metric) in filled.best if judged(metric) else ""
            line += [figure.value, figure.deviation, figure.low, figure.high, best]
            c = compared.get((row, column, metric))
            if c is not None:
                d = c.difference
                wins = c.improvement
                line += [" ".join(map(str, c.reference)), d.value, d.low, d.high, d.paired, c.p]
                line += [wins.value, wins.low, wins.high]
            line += [""] * (len(table.rows) + len(table.columns) + len(names) - len(line))
            write(line)
    return out.getvalue()


def fragment(filled: Filled) -> str:
    """An HTML table; data-sort holds what a cell is sorted by."""
    headings, rows = layout(filled)
    out = ['<table class="paper">', f"<caption>{html(filled.table.title)}</caption>", "<thead>"]
    groups = list(spans(headings))
    if any(group for group, _ in groups):
        cells = "".join(f'<th colspan="{span}">{html(group)}</th>' for group, span in groups)
        out.append(f"<tr><th></th>{cells}</tr>")
    cells = "".join(f"<th>{html(h.title)}</th>" for h in headings)
    out += [f'<tr class="sortable"><th>{html(corner(filled))}</th>{cells}</tr>', "</thead>", "<tbody>"]
    for label, shown in rows:
        parts = [f"<th>{html(label)}</th>"]
        for one in shown:
            text = html(one.plain())
            sort = "" if math.isnan(one.sort) else f' data-sort="{one.sort!r}"'
            parts.append(f"<td{sort}>{f'<b>{text}</b>' if one.bold else text}</td>")
        out.append(f"<tr>{''.join(parts)}</tr>")
    return "\n".join([*out, "</tbody>", "</table>"]) + "\n"


def spans(headings: Sequence[Heading]) -> Iterator[tuple[str, int]]:
    """The groups of columns, and how many columns each has."""
    groups: list[list[Heading]] = []
    for heading in headings:
        if groups and groups[-1][0].group == heading.group:
            groups[-1].append(heading)
        else:
            groups.append([heading])
    for members in groups:
        yield members[0].group, len(members)
