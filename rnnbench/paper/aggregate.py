"""From records to the cells of a table: values over seeds, their spread, what can be told apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from rnnbench.config import ConfigError, direction, identifies
from rnnbench.paper import statistics
from rnnbench.paper.definition import Table
from rnnbench.paper.reading import Record, Source
from rnnbench.paper.statistics import Difference, Estimate

Key = tuple[Any, ...]  # of a row or of a group of columns: the values of its keys
ALPHA = 1 - statistics.CONFIDENCE
OF: dict[str, Callable[[statistics.Values], float]] = {
    "mean": statistics.mean,
    "median": statistics.median,
    "iqm": statistics.iqm,
}


@dataclass(frozen=True)
class Planned:
    """A trial that a table needs."""

    trial: str  # hash
    overrides: list[str]
    params: dict[str, Any]  # its config, by dotted keys
    search: str | None = None  # whose winner it is


@dataclass
class Cell:
    """What a row has in a group of columns: its trials, and a figure of each metric."""

    planned: list[Planned] = field(default_factory=list)
    records: dict[tuple[Key, int], Record] = field(default_factory=dict)  # finished, by task and seed
    lost: dict[str, int] = field(default_factory=dict)  # how many others, by status
    figures: dict[str, Estimate] = field(default_factory=dict)  # by metric

    def values(self, metric: str) -> dict[tuple[Key, int], float]:
        """A metric by task and seed, of the runs that have it."""
        return {at: record.metrics[metric] for at, record in self.records.items() if metric in record.metrics}

    def count(self) -> str:
        """How many runs, in words."""
        return ", ".join([str(len(self.records)), *(f"{n} {status}" for status, n in self.lost.items())])


@dataclass(frozen=True)
class Comparison:
    """A row beside the one that it is compared with."""

    row: Key
    column: Key
    metric: str
    reference: Key
    difference: Difference
    p: float | None  # after Holm, over all comparisons of the table
    improvement: Estimate  # probability that a run of the row is better than one of the reference
    alike: bool  # whether the two cannot be told apart


@dataclass
class Filled:
    """A table with its numbers."""

    table: Table
    rows: list[Key]
    columns: list[Key]
    cells: dict[tuple[Key, Key], Cell]
    comparisons: list[Comparison]
    tests: int  # how many Holm's correction is over
    best: set[tuple[Key, Key, str]]  # row, column, metric
    superseded: list[str]  # runs that do not count, since the same trial was run again
    searched: str = ""  # the budget of the searches whose winners the rows are, in a sentence
    command: list[str] = field(default_factory=list)  # what makes the table again, after rnnbench.paper
    place: str = ""  # the folder or store that the records were said to be in

    def records(self) -> list[Record]:
        """The runs that the table is made of, in its order."""
        return [record for cell in self.cells.values() for record in cell.records.values()]

    def alike(self, row: Key, column: Key, metric: str) -> bool:
        """Whether a cell cannot be told apart from the one that it is compared with."""
        return any(c.alike for c in self.comparisons if (c.row, c.column, c.metric) == (row, column, metric))

    def cell(self, row: Key, column: Key) -> Cell:
        """The cell; an empty one where the sweep has no such trials."""
        return self.cells.get((row, column), Cell())

    def name(self, key: Key) -> str:
        """How a row or a group of columns is printed."""
        return " ".join(self.table.label(as_text(part)) for part in key)


def latest(planned: Sequence[Planned], source: Source) -> tuple[dict[str, Record], list[str]]:
    """The run that counts of each trial: its newest finished one, else its newest that has ended.

    Returns:
        by trial hash, those that have ended; and the finished runs that are superseded, by identity.
    """
    counts: dict[str, Record] = {}
    superseded = []
    for record in source.find(trial.trial for trial in planned):
        if record.status in ("running", "interrupted"):
            continue
        before = counts.get(record.trial)
        if before is not None and before.status == "finished":
            if record.status != "finished":
                continue
            superseded.append(before.job)
        counts[record.trial] = record
    return counts, sorted(superseded)


def fill(table: Table, planned: Sequence[Planned], source: Source) -> Filled:
    """The table with its numbers; trials that are not recorded are left out of their cells.

    Raises:
        ConfigError: what stands in a cell varies with more than the seed; protocols are mixed; no run has
            a metric; there is nothing at all.
    """
    counts, superseded = latest(planned, source)
    cells: dict[tuple[Key, Key], Cell] = {}
    for trial in planned:
        at = _key(trial, table.rows), _key(trial, table.columns)
        cells.setdefault(at, Cell()).planned.append(trial)
    for (row, column), cell in cells.items():
        _check_alike(table, row, column, cell)
        for trial in cell.planned:
            record = counts.get(trial.trial)
            if record is not None and record.status == "finished":
                cell.records[_key(trial, table.over), trial.params["seed"]] = record
            else:
                status = "missing" if record is None else record.status
                cell.lost[status] = cell.lost.get(status, 0) + 1
    _check_protocols(table, planned)
    _check_metrics(table, cells)
    for cell in cells.values():
        for metric in table.metrics:
            if values := cell.values(metric):
                cell.figures[metric] = _estimate(table, values)
    rows, columns = (list(dict.fromkeys(at[n] for at in cells)) for n in (0, 1))
    filled = Filled(table, rows, columns, cells, [], 0, set(), superseded)
    _compare(filled)
    return filled


def judged(metric: str) -> bool:
    """Whether one value of a metric is better than another, rather than only another."""
    return not metric.startswith(("parameters/", "time/")) and metric != "best/epoch"


def _key(trial: Planned, keys: Sequence[str]) -> Key:
    for key in keys:
        if key not in trial.params:
            raise ConfigError(f"rows, columns, over: {key} is no key of the config of {trial.overrides}")
    return tuple(trial.params[key] for key in keys)


def _check_alike(table: Table, row: Key, column: Key, cell: Cell) -> None:
    """Refuse to average over anything but seeds, unless the table says so."""
    named = {*table.rows, *table.columns, *table.over, "seed"}
    first: dict[Key, dict[str, Any]] = {}
    seen: dict[tuple[Key, int], str] = {}
    for trial in cell.planned:
        task = _key(trial, table.over)
        like = first.setdefault(task, trial.params)
        for key in sorted(trial.params.keys() | like.keys()):
            a, b = like.get(key), trial.params.get(key)
            if a != b and key not in named and identifies(key):
                raise ConfigError(
                    f"{key}: is {a} and {b} in one cell ({' '.join(map(as_text, row + column))}); name it in "
                    "rows or columns, or in over to sum over it"
                )
        if seen.setdefault((task, trial.params["seed"]), trial.trial) != trial.trial:
            raise ConfigError(f"seed={trial.params['seed']}: stands for two trials in one cell")


def _check_protocols(table: Table, planned: Sequence[Planned]) -> None:
    protocols = {trial.params["fit.select"] for trial in planned}
    if len(protocols) > 1 and not table.mixed_protocols:
        raise ConfigError(
            "fit.select: some trials choose their epoch on the test set, others on validation; their "
            "accuracies do not compare. mixed_protocols: true lets them stand side by side"
        )


def _check_metrics(table: Table, cells: dict[tuple[Key, Key], Cell]) -> None:
    records = [record for cell in cells.values() for record in cell.records.values()]
    if not records:
        raise ConfigError("no trial of this table is recorded and finished")
    there = {name for record in records for name in record.metrics}
    for metric in table.metrics:
        if metric not in there:
            raise ConfigError(f"metrics: no run has {metric}; there is {', '.join(sorted(there))}")


def _estimate(table: Table, values: dict[tuple[Key, int], float]) -> Estimate:
    interval = "none" if table.spread == "deviation" else table.spread
    return statistics.estimate(matrix(values) if table.over else flat(values), interval, OF[table.statistic])


def flat(values: dict[tuple[Key, int], float]) -> statistics.Values:
    """Values in a fixed order."""
    return np.array([values[at] for at in sorted(values, key=repr)])


def matrix(values: dict[tuple[Key, int], float]) -> statistics.Values:
    """Values as (runs, tasks).

    Raises:
        ConfigError: the tasks do not have equally many runs.
    """
    tasks: dict[Key, list[float]] = {}
    for (task, _), value in sorted(values.items(), key=lambda item: item[0][1]):
        tasks.setdefault(task, []).append(value)
    if len({len(runs) for runs in tasks.values()}) > 1:
        counts = ", ".join(f"{' '.join(map(as_text, task))}: {len(runs)}" for task, runs in tasks.items())
        raise ConfigError(f"over: the tasks of a cell need equally many runs; there are {counts}")
    return np.array([tasks[task] for task in sorted(tasks, key=repr)]).T


def _compare(filled: Filled) -> None:
    """Find the best of each column, and compare the rows with it, or with the row that is named."""
    table = filled.table
    drafts: list[Comparison] = []
    spare: list[float | None] = []  # p of the pairs that neither of is the best
    for column in filled.columns:
        for metric in filter(judged, table.metrics):
            sign = 1 if direction(metric) == "maximize" else -1
            there = {
                row: filled.cell(row, column)
                for row in filled.rows
                if metric in filled.cell(row, column).figures
            }
            if len(there) < 2:
                continue
            value = {row: sign * cell.figures[metric].value for row, cell in there.items()}
            top = max(value.values())
            filled.best |= {(row, column, metric) for row in there if value[row] == top}
            if table.compare is None:
                continue
            reference = _reference(filled, there, value)
            drafts += [
                _draft(table, there, row, column, metric, reference) for row in there if row != reference
            ]
            if table.compare == "best":
                # Any row might have been the best: the correction is over all pairs.
                others = [row for row in there if row != reference]
                spare += [_difference(table, there, *pair, metric)[0].p for pair in combinations(others, 2)]
    tested = [p for p in [*(draft.p for draft in drafts), *spare] if p is not None]
    filled.tests = len(tested)
    adjusted = iter(statistics.holm(tested))
    for draft in drafts:
        p = None if draft.p is None else next(adjusted)
        # Where there are too few runs for any p below the level, not to tell apart says nothing.
        able = draft.difference.least * filled.tests < ALPHA
        filled.comparisons.append(replace(draft, p=p, alike=able and p is not None and p >= ALPHA))


def _difference(
    table: Table, there: dict[Key, Cell], row: Key, other: Key, metric: str
) -> tuple[Difference, statistics.Values, statistics.Values]:
    """A row less another, and the values of both, (runs, tasks)."""
    ours, theirs = (there[key].values(metric) for key in (row, other))
    a, b = (matrix(values) if table.over else flat(values)[:, None] for values in (ours, theirs))
    return statistics.compare(a, b, ours.keys() == theirs.keys(), table.test), a, b


def _draft(
    table: Table, there: dict[Key, Cell], row: Key, column: Key, metric: str, reference: Key
) -> Comparison:
    """A comparison whose p is not corrected yet."""
    difference, a, b = _difference(table, there, row, reference, metric)
    sign = 1 if direction(metric) == "maximize" else -1
    wins = statistics.improvement(sign * a, sign * b)
    return Comparison(row, column, metric, reference, difference, difference.p, wins, False)


def _reference(filled: Filled, there: dict[Key, Cell], value: dict[Key, float]) -> Key:
    wanted = filled.table.compare
    if wanted == "best":
        return max(there, key=lambda row: value[row])
    for row in there:
        if wanted in (filled.name(row), " ".join(map(as_text, row))):
            return row
    names = ", ".join(" ".join(map(as_text, row)) for row in filled.rows)
    raise ConfigError(f"compare={wanted}: must be best or one of the rows: {names}")


def as_text(value: Any) -> str:
    """A value of a key as it is printed, where the table has no label for it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
