"""Divides the columns of a table into tasks, on which rows are ranked, and settings, which stand apart."""

from rnnbench.paper.aggregate import Cell, FilledTable, Key, as_text
from rnnbench.paper.definition import Table
from rnnbench.paper.sheet import in_words


def setting_of(table: Table, column: Key) -> Key:
    """Return the values of the keys of a column that name no task; () where all keys name it."""
    return tuple(
        value
        for key, value in zip(table.columns, column, strict=True)
        if table.tasks and key not in table.tasks
    )


def setting_name(table: Table, setting: Key) -> str:
    """Return how a setting is printed; "" where there is none."""
    return in_words(table, [key for key in table.columns if key not in table.tasks], setting)


def task_name(filled: FilledTable, column: Key) -> str:
    """Return how the task of a column is printed; that of the trials where no key names it."""
    table = filled.table
    named = {
        key: value
        for key, value in zip(table.columns, column, strict=True)
        if not table.tasks or key in table.tasks
    }
    if named:
        return in_words(table, list(named), tuple(named.values()))
    cells: list[Cell] = [cell for (_, at), cell in filled.cells.items() if at == column]
    names = {as_text(trial.params["data.name"]) for cell in cells for trial in cell.planned}
    return ", ".join(map(table.label, sorted(names)))
