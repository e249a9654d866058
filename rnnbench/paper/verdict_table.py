"""Lays out the verdicts of a table: a row for each task and row, with the words on what they add up to."""

from collections.abc import Sequence
from dataclasses import replace

from rnnbench.paper.aggregate import ALPHA, FilledTable, Key
from rnnbench.paper.claims import claims, listed, seeds
from rnnbench.paper.layout import decimals, metric_name, number
from rnnbench.paper.notes import test_of
from rnnbench.paper.settings import setting_keys, setting_name, setting_of, task_name
from rnnbench.paper.statistics.equivalence import MOST, SHARE
from rnnbench.paper.verdicts import BETTER, CHANCE, UNDECIDED, WORSE, Verdict
from rnnbench.render.layout import Column, Layout, Row, TextCell

WIDEST = 4  # columns of words that fit across a page
A12 = "A12"  # the heading of the probability of superiority
PERCENT = f"{100 * SHARE:.0f} %"


def verdict_layout(filled: FilledTable, verdicts: Sequence[Verdict]) -> Layout:
    """Return the table of verdicts, a line for each, with the paragraphs of `claims` before it."""
    table = filled.table
    settings = setting_keys(table)
    keys = list(map(table.label, settings))
    corner = ", ".join(table.label(key) for key in table.columns if key not in settings)
    other = f"less {filled.reference}"
    several = len({v.comparison.metric for v in verdicts}) > 1
    columns = [
        *([Column(", ".join(keys))] if keys else []),
        Column(", ".join(map(table.label, table.rows))),
        Column("verdict"),
        Column("seeds", right=True),
        *([Column("metric")] if several else []),
        Column(other, right=True),
        Column("margin", right=True, spare=4),
        Column(A12, right=True),
        *(Column(title, right=True, spare=n) for n, title in ((3, "p"), (2, "p equivalent"), (1, "n"))),
    ]
    rows = [_row(filled, v, bool(keys), several) for v in verdicts]
    return Layout(
        corner or "task",
        columns,
        rows,
        f"{table.title}: verdicts",
        notes=verdict_notes(filled, verdicts),
        text=claims(filled, verdicts),
    )


def summary_layout(filled: FilledTable, verdicts: Sequence[Verdict]) -> Layout | None:
    """Return the verdicts in brief, a line for each task; None where each task has one verdict alone."""
    table = filled.table
    settings = dict.fromkeys(setting_of(table, v.comparison.column) for v in verdicts)
    compared = dict.fromkeys(v.comparison.row for v in verdicts)
    shown = [(setting, row) for setting in settings for row in compared]
    if len(shown) < 2:
        return None
    lines: dict[tuple[str, str], dict[tuple[Key, Key], Verdict]] = {}
    for v in verdicts:
        c = v.comparison
        line = lines.setdefault((task_name(filled, c.column), c.metric), {})
        line[setting_of(table, c.column), c.row] = v
    several = len({metric for _, metric in lines}) > 1
    columns = [Column("metric")] if several else []
    columns += [Column(filled.name(row), setting_name(table, setting)) for setting, row in shown]
    rows = [
        Row(
            task,
            [
                *([TextCell(metric_name(table, metric))] if several else []),
                *(_brief(filled, line[at]) if at in line else TextCell("") for at in shown),
            ],
        )
        for (task, metric), line in lines.items()
    ]
    notes = [
        f"Verdicts against {filled.reference}; better and worse with the difference, "
        "undecided with the number of seeds that would decide."
    ]
    title = f"{table.title}: verdicts in brief"
    return Layout("task", columns, rows, title, notes=notes, sideways=len(columns) > WIDEST)


def _brief(filled: FilledTable, verdict: Verdict) -> TextCell:
    """Return a verdict as its word and one number."""
    c = verdict.comparison
    if verdict.word == UNDECIDED:
        many = "" if verdict.seeds is None else f" ({_seeds(verdict.seeds).value})"
        return TextCell(f"{verdict.word}{many}")
    if verdict.word in (BETTER, WORSE):
        return TextCell(f"{verdict.word} {c.difference.value:+.3g}", best=True)
    return TextCell(verdict.word, best=verdict.word != CHANCE)


def printed(filled: FilledTable, verdicts: Sequence[Verdict]) -> list[Layout]:
    """Return what a paper prints of the verdicts: a table for each setting, without columns to spare.

    The words stand before the first, the notes below the last.
    """
    whole = verdict_layout(filled, verdicts)
    kept = [n for n, column in enumerate(whole.columns) if not column.spare]
    settings = [setting_of(filled.table, v.comparison.column) for v in verdicts]
    each = list(dict.fromkeys(settings))
    if len(each) > 1:
        kept = kept[1:]  # the column with the setting
    found = []
    for setting in each:
        rows = [
            replace(row, cells=[_narrow(row.cells[n], whole.columns[n]) for n in kept])
            for row, at in zip(whole.rows, settings, strict=True)
            if at == setting
        ]
        at = f" at {setting_name(filled.table, setting)}" if len(each) > 1 else ""
        columns, title = [whole.columns[n] for n in kept], f"{filled.table.title}: verdicts{at}"
        found.append(replace(whole, columns=columns, rows=rows, title=title, text=[], notes=[]))
    found[0].text, found[-1].notes = whole.text, whole.notes
    return found


def _narrow(cell: TextCell, column: Column) -> TextCell:
    """Return a cell without the interval of A12, for which the line of a paper has no room."""
    return replace(cell, interval="") if column.title == A12 else cell


def _row(filled: FilledTable, verdict: Verdict, setting: bool, several: bool) -> Row:
    """Return the cells of a verdict.

    Args:
        setting: whether the setting has a column.
        several: whether the metric has one.
    """
    c = verdict.comparison
    table, digits = filled.table, decimals(filled, c.metric)
    d, wins = c.difference, verdict.effect
    cells = [TextCell(setting_name(table, setting_of(table, c.column)))] if setting else []
    cells.append(TextCell(filled.name(c.row)))
    cells += [TextCell(verdict.word, best=verdict.word not in (UNDECIDED, CHANCE)), _seeds(verdict.seeds)]
    if several:
        cells.append(TextCell(metric_name(table, c.metric)))
    interval = span = ""
    if d.low is not None and d.high is not None:
        interval = f"[{number(d.low, digits, '+')}, {number(d.high, digits, '+')}]"
    if wins.low is not None:
        span = f"[{wins.low:.2f}, {wins.high:.2f}]"
    cells.append(TextCell(number(d.value, digits, "+"), interval=interval, sort=d.value))
    cells.append(TextCell(f"{verdict.margin:.4g}", sort=verdict.margin))
    cells.append(TextCell(f"{wins.value:.2f}", interval=span, sort=wins.value))
    return Row(task_name(filled, c.column), [*cells, _p(c.p), _p(verdict.p), TextCell(str(d.n), sort=d.n)])


def _p(p: float | None) -> TextCell:
    if p is None:
        return TextCell("")
    return TextCell(f"{p:.4f}", sort=p) if p >= 1e-4 else TextCell(f"{p:.0e}" if p else "0", sort=p)


def _seeds(number: int | None) -> TextCell:
    if number is None:
        return TextCell("")
    return TextCell(f"{number:,}" if number <= MOST else f"> {MOST:,}", sort=number)


def verdict_notes(filled: FilledTable, verdicts: Sequence[Verdict]) -> list[str]:
    """Return the notes below the verdicts: margins, tests, effect size, seeds."""
    table = filled.table
    other = filled.reference
    margins = listed(
        [f"{width.replace('%', ' %')} of {table.label(metric)}" for metric, width in table.margin.items()]
    )
    paired = sorted({v.comparison.difference.paired for v in verdicts}, reverse=True)
    tests = "; ".join(test_of(filled, one) for one in paired)
    one_sided = listed(["t tests of pairs" if one else "Welch's t tests" for one in paired])
    equivalences = sum(v.p is not None for v in verdicts)
    said = [
        f"Each row less {other}, with 95 % interval; margin, stated beforehand: {margins}.",
        f"Equivalent: the difference is below the margin by two one-sided tests (TOST, {one_sided}) at the "
        f"level {ALPHA:.2f}, Holm's correction over {equivalences} comparisons.",
        f"Better, worse: not shown to be equivalent, and told apart at that level ({tests}; Holm's "
        f"correction over {filled.tests} comparisons).",
        "By more than the margin: the whole 95 % interval, which is not corrected, lies beyond it.",
        f"A12: probability that a run of the row is better than one of {other}, a tie for half, with "
        "Newcombe's 95 % interval.",
    ]
    if any(v.word == CHANCE for v in verdicts):
        said.append(
            "At chance: neither row's 95 % interval is beyond what a constant answer scores, so that it says "
            "nothing that they are alike."
        )
    if any(v.word == UNDECIDED for v in verdicts):
        said.append(
            f"Seeds: of so many {PERCENT} would decide, at the difference and the spread that are recorded "
            "here and the level that Holm's correction leaves to what is undecided."
        )
    return said + _telling(filled, verdicts)


def _telling(filled: FilledTable, verdicts: Sequence[Verdict]) -> list[str]:
    """Return a note on how many seeds tell a difference of the margin apart, for each metric."""
    said = []
    for metric in filled.table.margin:
        numbers = [v.telling for v in verdicts if v.comparison.metric == metric and v.telling is not None]
        if numbers:
            low, high = min(numbers), max(numbers)
            span = seeds(high) if low == high else f"{low:,} to {seeds(high)}"
            said.append(
                f"A difference of the margin in {filled.table.label(metric)} would be found with {span} in "
                f"{PERCENT} of tables, by the spread on each task."
            )
    return said
