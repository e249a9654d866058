"""Divides the columns of a table into tasks, on which rows are ranked, and settings, which stand apart."""

from rnnbench.paper.aggregate import Cell, FilledTable, Key, as_text
from rnnbench.paper.definition import Table
from rnnbench.paper.sheet import in_words


def setting_keys(table: Table) -> list[str]:
    """Return the keys of the columns that name no task; [] where all keys name it."""
    return [key for key in table.columns if table.tasks and key not in table.tasks]


def setting_of(table: Table, column: Key) -> Key:
    """Return the values of a column's keys that name no task."""
    keys = setting_keys(table)
    return tuple(value for key, value in zip(table.columns, column, strict=True) if key in keys)


def setting_name(table: Table, setting: Key) -> str:
    """Return how a setting is printed; "" where there is none."""
    return in_words(table, setting_keys(table), setting)


def task_name(filled: FilledTable, column: Key, over: Key = ()) -> str:
    """Return how a task is printed; by what the trials' data are called where no key names it.

    Args:
        over: the values of the keys that a cell sums over, where the task is one of these.
    """
    table = filled.table
    settings = setting_keys(table)
    named = {key: value for key, value in zip(table.columns, column, strict=True) if key not in settings}
    named |= dict(zip(table.over, over, strict=False))
    if named:
        return in_words(table, list(named), tuple(named.values()))
    cells: list[Cell] = [cell for (_, at), cell in filled.cells.items() if at == column]
    names = {as_text(trial.params["data.name"]) for cell in cells for trial in cell.planned}
    return ", ".join(map(table.label, sorted(names)))
