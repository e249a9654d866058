"""Finds what a constant answer scores on each task of a table with verdicts."""

from collections.abc import Mapping
from typing import Any

from rnnbench.config import Config, ConfigError
from rnnbench.config.metrics import short
from rnnbench.config.user_code import own_config
from rnnbench.paper.aggregate import FilledTable, Key, as_text, metrics_of
from rnnbench.paper.definition import Table
from rnnbench.sweep.stages import constant_answer


def levels(filled: FilledTable) -> dict[str, str]:
    """Return what a constant answer to the test set scores by task, where the table does not state it.

    Left out are tasks whose data is not here, that are judged by several metrics, or whose name is that of
    several data sets.
    """
    table = filled.table
    known: dict[str, Mapping[str, float]] = {}
    found: dict[str, set[str]] = {}
    for column in filled.columns if table.margin else ():
        names = _names(table, column)
        config, metric = _config(filled, column), _metric(filled, column)
        if table.chance.keys() & set(names) or config is None or metric is None:
            continue
        place = repr(config.data)
        if place not in known:
            known[place] = _measured(config)
        value = known[place].get(short(metric))
        for name in names:
            found.setdefault(name, set()).add("" if value is None else f"{value:.6g}")
    return {name: min(values) for name, values in found.items() if len(values) == 1 and "" not in values}


def _names(table: Table, column: Key) -> list[str]:
    """Return the values of a column's keys that name a task."""
    pairs = zip(table.columns, column, strict=True)
    return [as_text(value) for key, value in pairs if not table.tasks or key in table.tasks]


def _metric(filled: FilledTable, column: Key) -> str | None:
    """Return the metric by which a task is judged; None if there is none, or several."""
    cells = [cell for (_, at), cell in filled.cells.items() if at == column]
    there = [
        metric
        for metric in metrics_of(filled.table, column)
        if metric in filled.table.margin and any(metric in cell.figures for cell in cells)
    ]
    return there[0] if len(there) == 1 else None


def _config(filled: FilledTable, column: Key) -> Config | None:
    """Return the configuration of a trial on a task, without downloads; None where their data differ."""
    trials = [trial for (_, at), cell in filled.cells.items() if at == column for trial in cell.planned]
    data = [{k: v for k, v in trial.params.items() if k.startswith("data.")} for trial in trials]
    if any(one != data[0] for one in data):
        return None
    named = filled.table.tuned.columns if filled.table.tuned is not None else {}
    tree: dict[str, Any] = {}
    for key, value in trials[0].params.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        if key not in named:
            node[last] = value if key != "data.download" else False
    return own_config(tree)


def _measured(config: Config) -> Mapping[str, float]:
    """Return the metrics of a constant answer to the test set; none where its data is not here."""
    try:
        return constant_answer(config, "test")
    except ConfigError:  # the table is of records, which need no data
        return {}
