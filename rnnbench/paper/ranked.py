"""Ranks the rows of a table over its tasks, in each setting by itself."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rnnbench.config import ConfigError, direction
from rnnbench.paper.aggregate import OF, Cell, FilledTable, Key, metrics_of
from rnnbench.paper.definition import FigureSettings, Table
from rnnbench.paper.margins import tested
from rnnbench.paper.settings import setting_of, task_name
from rnnbench.paper.statistics import Ranking, rank

KIND = "critical_difference"


@dataclass(frozen=True)
class RankedRows:
    """Keeps the ranking of the rows of a table in one setting.

    Args:
        tasks: names of the tasks that it is over.
    """

    setting: Key
    rows: list[Key]
    tasks: list[str]
    ranking: Ranking


def check(table: Table, places: Iterable[tuple[Key, Key, Key]]) -> None:
    """Refuse a table whose rows cannot be ranked over tasks.

    Args:
        places: row, column and values of `over` of the table's trials.

    Raises:
        ConfigError: a setting has fewer than three rows or two tasks, or no metric has a better direction;
            names the keys that would do.
    """
    if not tested(table.metrics) and any(how.kind == KIND and not how.y for how in table.figures.values()):
        raise ConfigError(
            f"figures: {KIND}: of {', '.join(table.metrics)} none is better or worse, so that rows have no "
            "rank; add one that is to metrics, such as test/accuracy"
        )
    settings: dict[Key, list[tuple[Key, Key, Key]]] = {}
    for place in places:
        settings.setdefault(setting_of(table, place[1]), []).append(place)
    for setting, there in settings.items():
        at = f" at {' '.join(map(str, setting))}" if setting else ""
        rows, tasks = {row for row, _, _ in there}, {(column, over) for _, column, over in there}
        if len(rows) < 3:
            raise ConfigError(
                f"figures: {KIND}: ranks take three rows or more, and there is {len(rows)}{at}; add to rows "
                f"and sweep, as in rows: [model.name], sweep: [model=lstm,gru,rnn]"
            )
        if len(tasks) < 2:
            raise ConfigError(
                f"figures: {KIND}: ranks are over two tasks or more, and there is one{at}; name what varies "
                "with the task in columns, as in columns: [data.name], sweep: [data=digits,parity]"
            )


def rank_rows(filled: FilledTable, how: FigureSettings) -> list[RankedRows]:
    """Return the ranking of each setting, by the figure of each row on each task.

    Raises:
        ConfigError: a row has no run on a task; Wilcoxon's test of tasks that have different metrics.
    """
    settings: dict[Key, list[Key]] = {}
    for column in filled.columns:
        settings.setdefault(setting_of(filled.table, column), []).append(column)
    return [_ranked(filled, how, setting, columns) for setting, columns in settings.items()]


def _ranked(filled: FilledTable, how: FigureSettings, setting: Key, columns: list[Key]) -> RankedRows:
    rows = [row for row in filled.rows if any(filled.cell(row, column).planned for column in columns)]
    metrics = {column: judged_by(filled, how, column) for column in columns}
    used = dict.fromkeys(metrics.values())
    if how.test == "wilcoxon" and len(used) > 1:
        raise ConfigError(
            f"figures: {KIND}: test=wilcoxon ranks differences of one unit, and the tasks have "
            f"{', '.join(used)}; take test: nemenyi, which ranks rows within each task"
        )
    scores: list[list[float]] = []
    tasks: list[str] = []
    for column, metric in metrics.items():
        of_rows = [_scores(filled, filled.cell(row, column), metric) for row in rows]
        for over in sorted(set[Key]().union(*of_rows), key=repr):
            tasks.append(task_name(filled, column, over))
            scores.append([found.get(over, np.nan) for found in of_rows])
    matrix = np.array(scores)
    if gaps := [
        f"{filled.name(row)} has no run on {task}"
        for task, found in zip(tasks, matrix, strict=True)
        for row, score in zip(rows, found, strict=True)
        if not np.isfinite(score)
    ]:
        raise ConfigError(
            f"figures: {KIND}: ranks need every row on every task, and {'; '.join(gaps)}; train these, or "
            "leave out the row or the task"
        )
    return RankedRows(setting, rows, tasks, rank(matrix, how.test))


def judged_by(filled: FilledTable, how: FigureSettings, column: Key) -> str:
    """Return the metric by which rows are ranked on a task: the figure's, or the first tested one it has."""
    if how.y is not None:
        return how.y
    cells = [cell for (_, at), cell in filled.cells.items() if at == column]
    there = tested(metrics_of(filled.table, column))
    metrics = [*(metric for metric in filled.table.margin if metric in there), *there]
    return next((one for one in metrics if any(cell.values(one) for cell in cells)), metrics[0])


def _scores(filled: FilledTable, cell: Cell, metric: str) -> dict[Key, float]:
    """Return the figure of a cell on each task that it has runs of, the higher the better."""
    sign = 1 if direction(metric) == "maximize" else -1
    of = OF[filled.table.statistic]
    by_task: dict[Key, list[float]] = {}
    for (task, _), value in cell.values(metric).items():
        by_task.setdefault(task, []).append(value)
    return {task: sign * of(np.array(values)) for task, values in by_task.items()}
