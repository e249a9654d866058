"""Writes table.csv: a line for each row, column and metric, with all digits and the comparison."""

import csv
import io
from collections.abc import Sequence

from rnnbench.paper.aggregate import FilledTable, judged
from rnnbench.system.plain_text import spreadsheet


def long(filled: FilledTable) -> str:
    """Return a line of CSV for each row, column and metric, with all digits."""
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
