"""Writes table.csv: a line for each row, column and metric, with all digits and the comparison."""

import csv
import io
from collections.abc import Sequence

from rnnbench.paper.aggregate import FilledTable
from rnnbench.paper.margins import judged
from rnnbench.paper.verdicts import Verdict
from rnnbench.system.plain_text import spreadsheet

VERDICT = ["margin", "p_equivalent_holm", "a12", "a12_low", "a12_high", "verdict", "seeds",
           "seeds_of_margin"]  # fmt: skip


def long(filled: FilledTable, verdicts: Sequence[Verdict] = ()) -> str:
    """Return a line of CSV for each row, column and metric, with all digits.

    Args:
        verdicts: those of a table with a margin.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")

    def write(line: Sequence[object]) -> None:
        writer.writerow(["" if p is None else spreadsheet(p) if isinstance(p, str) else p for p in line])

    table = filled.table
    names = ["metric", "n", "other", table.statistic, "deviation", "low", "high", "best", "compared_with"]
    names += ["difference", "difference_low", "difference_high", "paired", "p_holm"]
    names += ["p_improvement", "p_improvement_low", "p_improvement_high"]
    names += VERDICT if table.margin else []
    write([*table.rows, *table.columns, *names])
    judgements = {(v.comparison.row, v.comparison.column, v.comparison.metric): v for v in verdicts}
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
            if v := judgements.get((row, column, metric)):
                line += _judgement(v)
            line += [""] * (len(table.rows) + len(table.columns) + len(names) - len(line))
            write(line)
    return out.getvalue()


def _judgement(v: Verdict) -> list[object]:
    return [v.margin, v.p, v.effect.value, v.effect.low, v.effect.high, v.word, v.seeds, v.telling]
