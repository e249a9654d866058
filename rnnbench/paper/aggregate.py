"""Computes the cells of a table from records: values over seeds, their spread, significant differences."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from rnnbench.config import ConfigError, bounds, direction, identifies
from rnnbench.config.advice import either, nearest
from rnnbench.paper import statistics
from rnnbench.paper.definition import Table
from rnnbench.paper.figures import KINDS
from rnnbench.paper.folds import At, averaged, part_of, run_of
from rnnbench.paper.margins import judged, tested
from rnnbench.paper.statistics import Difference, Estimate
from rnnbench.reader import Record, Source, once

Key = tuple[Any, ...]  # identifies a row or a group of columns: the values of its keys
ALPHA = 1 - statistics.CONFIDENCE
OF: dict[str, statistics.Statistic] = {
    "mean": statistics.mean,
    "median": statistics.median,
    "iqm": statistics.iqm,
}


@dataclass(frozen=True)
class TableTrial:
    """A trial that a table needs."""

    trial: str  # the trial's hash
    overrides: list[str]
    params: dict[str, Any]  # its config, by dotted keys
    search: str | None = None  # the search whose winner this trial is


@dataclass
class Cell:
    """Keeps what stands where a row meets a group of columns: records, and a figure for each metric."""

    planned: list[TableTrial] = field(default_factory=list)
    records: dict[At, Record] = field(default_factory=dict)  # finished trials
    lost: dict[str, int] = field(default_factory=dict)  # number of trials that did not finish, by status
    figures: dict[str, Estimate] = field(default_factory=dict)  # the printed estimate of each metric
    by_fold: bool = False  # whether a fold counts as a run, since there is one seed alone

    def measured(self, metric: str) -> dict[At, float]:
        """Return a metric's values where they are finite."""
        measured = {at: record.metrics.get(metric, math.nan) for at, record in self.records.items()}
        return {at: value for at, value in measured.items() if math.isfinite(value)}

    def values(self, metric: str) -> dict[tuple[Key, int], float]:
        """Return the values of a metric by task and seed, each the mean over its folds; see `by_fold`."""
        return averaged(self.measured(metric), self.by_fold)

    def runs(self) -> int:
        """Return the number of runs: of finished seeds, see `by_fold`."""
        return len({run_of(at, self.by_fold) for at in self.records})

    def folds(self) -> int | None:
        """Return the number of folds of the data; None if no more than one fold is in the cell."""
        folds = {part_of(trial.params) for trial in self.planned}
        return next(iter(folds))[0] if len(folds) > 1 else None

    def diverged(self, metric: str) -> int:
        """Return how many runs have a metric that is not finite."""
        return sum(not math.isfinite(record.metrics.get(metric, 0.0)) for record in self.records.values())

    def tasks(self, metric: str) -> set[Key]:
        """Return the tasks that have a run with the metric."""
        return {task for task, *_ in self.measured(metric)}

    def count(self) -> str:
        """Return the number of runs as text; where there are folds, of seeds and folds."""
        return ", ".join([self._finished(), *(f"{n} {status}" for status, n in self.lost.items())])

    def _finished(self) -> str:
        if self.folds() is None:
            return str(len(self.records))
        seeds = len({trial.params["seed"] for trial in self.planned})
        tasks = len(dict.fromkeys(task for task, *_ in self.records)) or 1
        named = f"{seeds} seed{'s' if seeds > 1 else ''} x {self._parts()} folds"
        named += f" x {tasks} tasks" if tasks > 1 else ""
        return f"{len(self.records)} of {named}" if self.lacks_folds() else named

    def _parts(self) -> int:
        return len({part_of(trial.params) for trial in self.planned})

    def lacks_folds(self) -> bool:
        """Return whether a seed has a value on fewer folds than there are in the cell."""
        seeds = Counter((task, seed) for task, seed, _ in self.records)
        there = {trial.params["seed"] for trial in self.planned}
        complete = there == {seed for _, seed in seeds} and set(seeds.values()) == {self._parts()}
        return self.folds() is not None and not complete


@dataclass(frozen=True)
class Comparison:
    """Keeps the comparison of a row with its reference row."""

    row: Key
    column: Key
    metric: str
    reference: Key
    difference: Difference
    p: float | None  # corrected by Holm over all comparisons of the table
    improvement: Estimate  # probability that a run of the row is better than one of the reference
    alike: bool  # no significant difference, though there are enough runs to find one
    contradicts: bool  # whether the test finds a difference whose sign the figures do not have


@dataclass
class FilledTable:
    """Keeps a table with its numbers."""

    table: Table
    rows: list[Key]
    columns: list[Key]
    cells: dict[tuple[Key, Key], Cell]
    comparisons: list[Comparison]
    tests: int  # number of tests that Holm's correction is over
    best: set[tuple[Key, Key, str]]  # row, column, metric
    superseded: list[str]  # identities of runs left out, since the same trial has a newer one
    searched: str = ""  # a sentence on the budget of the searches whose winners the rows are
    command: list[str] = field(default_factory=list)  # arguments of rnnbench.paper that make the table
    place: str = ""  # folder or store of the records, if one was given

    def records(self) -> list[Record]:
        """Return the runs that the table is made of, in its order."""
        return [record for cell in self.cells.values() for record in cell.records.values()]

    @property
    def by_fold(self) -> bool:
        """Whether a fold counts as a run, since there is one seed alone."""
        return any(cell.by_fold for cell in self.cells.values())

    def incomplete(self, column: Key, metric: str) -> set[Key]:
        """Return the rows whose cell lacks a task that another cell of the column has."""
        tasks = {row: self.cell(row, column).tasks(metric) for row in self.rows}
        every = set[Key]().union(*tasks.values())
        return {row for row, ours in tasks.items() if ours and ours != every}

    def alike(self, row: Key, column: Key, metric: str) -> bool:
        """Return whether a cell does not differ significantly from the one that it is compared with."""
        return any(c.alike for c in self.comparisons if (c.row, c.column, c.metric) == (row, column, metric))

    def cell(self, row: Key, column: Key) -> Cell:
        """Return the cell; an empty one where the sweep has no such trials."""
        return self.cells.get((row, column), Cell())

    def name(self, key: Key) -> str:
        """Return how a row or a group of columns is printed."""
        return row_name(self.table, key)

    @property
    def reference(self) -> str:
        """How the row that the others are compared with is printed, where the table names one."""
        return next(self.name(row) for row in self.rows if _is_named(self.table, row))


def latest(planned: Sequence[TableTrial], source: Source) -> tuple[dict[str, Record], list[str]]:
    """Find each trial's run that counts: the newest finished one, or the newest that ended if none finished.

    Returns:
        the runs that count, by trial hash; and the identities of the finished runs that are superseded.
    """
    counts: dict[str, Record] = {}
    superseded = []
    for record in once(source.find(trial.trial for trial in planned)):
        if record.status in ("running", "interrupted"):
            continue
        before = counts.get(record.trial)
        if before is not None and before.status == "finished":
            if record.status != "finished":
                continue
            superseded.append(before.job)
        counts[record.trial] = record
    return counts, sorted(superseded)


def fill(table: Table, planned: Sequence[TableTrial], source: Source) -> FilledTable:
    """Fill the table with its numbers; trials without a record are left out of their cells.

    Raises:
        ConfigError: what stands in a cell varies with more than the seed; protocols are mixed; no run has
            a metric; there is nothing at all.
    """
    counts, superseded = latest(planned, source)
    cells = arrange(table, planned)
    for cell in cells.values():
        for trial in _once(cell.planned):
            record = counts.get(trial.trial)
            if record is not None and record.status == "finished":
                at = _key(trial, table.over), trial.params["seed"], part_of(trial.params)
                cell.records[at] = record
            else:
                status = "missing" if record is None else record.status
                cell.lost[status] = cell.lost.get(status, 0) + 1
    _check_metrics(table, cells)
    by_fold = _are_runs(table, cells)
    for cell in cells.values():
        cell.by_fold = by_fold
        for metric in table.metrics:
            if cell.measured(metric):
                cell.figures[metric] = _estimate(table, metric, cell)
    rows, columns = (list(dict.fromkeys(at[n] for at in cells)) for n in (0, 1))
    filled = FilledTable(table, rows, columns, cells, [], 0, set(), superseded)
    _compare(filled)
    return filled


def arrange(table: Table, planned: Sequence[TableTrial]) -> dict[tuple[Key, Key], Cell]:
    """Arrange the trials in cells, by row and column.

    Raises:
        ConfigError: what stands in a cell varies with more than the seed; protocols are mixed; the row that
            the others are to be compared with is not there; a figure cannot show such cells.
    """
    cells: dict[tuple[Key, Key], Cell] = {}
    for trial in planned:
        at = _key(trial, table.rows), _key(trial, table.columns)
        cells.setdefault(at, Cell()).planned.append(trial)
    for (row, column), cell in cells.items():
        _check_alike(table, row, column, cell)
    _check_protocols(table, planned)
    places = {(*at, _key(trial, table.over)) for at, cell in cells.items() for trial in cell.planned}
    _check_figures(table, places, planned)
    if table.margin and _are_runs(table, cells):
        raise ConfigError("margin: the folds of one seed are not independent runs; add seeds: seed=range(5)")
    _check_published(table, [column for _, column in cells])
    check_compared(table, planned)
    return cells


def check_compared(table: Table, planned: Sequence[TableTrial]) -> None:
    """Refuse a table whose trials are not of the row that it names as the reference of its comparisons.

    Raises:
        ConfigError: names the rows.
    """
    rows = dict.fromkeys(_key(trial, table.rows) for trial in planned)
    if table.compare not in (None, "best") and not any(_is_named(table, row) for row in rows):
        names = ", ".join(" ".join(map(as_text, row)) for row in rows)
        raise ConfigError(f"compare={table.compare}: must be best or one of the rows: {names}")


def _check_published(table: Table, columns: Sequence[Key]) -> None:
    """Refuse published figures beside a column that the table does not have."""
    there = dict.fromkeys(as_text(part) for column in columns for part in column)
    for name, task in (table.published.tasks if table.published is not None else {}).items():
        if name not in there:
            raise ConfigError(
                f"published.tasks.{name}={task}: no column has this value; there is {', '.join(there)}"
            )


def _is_named(table: Table, row: Key) -> bool:
    """Return whether the table names this row as the reference of its comparisons."""
    return table.compare in (row_name(table, row), " ".join(map(as_text, row)))


def row_name(table: Table, key: Key) -> str:
    """Return how a row or a group of columns is printed."""
    return " ".join(filter(None, (table.label(as_text(part)) for part in key)))


def _once(planned: Sequence[TableTrial]) -> list[TableTrial]:
    """Return each trial once, however often it is planned."""
    return list({trial.trial: trial for trial in planned}.values())


def _key(trial: TableTrial, keys: Sequence[str]) -> Key:
    for key in keys:
        if key not in trial.params:
            near = nearest(key, trial.params)
            hint = f"; did you mean {either(near)}?" if near else ""
            raise ConfigError(
                f"rows, columns, over: {key} is no key of the trial {' '.join(trial.overrides)}{hint}"
            )
    return tuple(trial.params[key] for key in keys)


def _check_alike(table: Table, row: Key, column: Key, cell: Cell) -> None:
    """Refuse to average over anything but seeds, unless the table says so."""
    named = {*table.rows, *table.columns, *table.over, "seed", "data.fold"}
    first: dict[Key, dict[str, Any]] = {}
    seen: dict[At, str] = {}
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
        at = task, trial.params["seed"], part_of(trial.params)
        if seen.setdefault(at, trial.trial) != trial.trial:
            raise ConfigError(f"seed={trial.params['seed']}: stands for two trials in one cell")


def _check_figures(table: Table, places: set[tuple[Key, Key, Key]], planned: Sequence[TableTrial]) -> None:
    """Refuse figures that cannot show such cells, or such trials."""
    for name, figure in table.figures.items():
        kind = KINDS[figure.kind]
        if kind.check is not None:
            kind.check(table, places)
        if kind.check_trial is None:
            continue
        try:
            for trial in planned:
                kind.check_trial(trial.params)
        except ConfigError as error:
            raise ConfigError(f"figures.{name}: {error}") from None


def _check_protocols(table: Table, planned: Sequence[TableTrial]) -> None:
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


def _are_runs(table: Table, cells: dict[tuple[Key, Key], Cell]) -> bool:
    """Return whether folds count as runs: of one seed alone, since there is nothing else to compare.

    The correction for what they share is of a mean.
    """
    alone = all(len({trial.params["seed"] for trial in cell.planned}) == 1 for cell in cells.values())
    folds = {cell.folds() for cell in cells.values()}
    return alone and len(folds) == 1 and None not in folds and table.statistic == "mean" and not table.over


def _estimate(table: Table, metric: str, cell: Cell) -> Estimate:
    values = matrix(cell.values(metric))
    if cell.by_fold:
        folds = cell.folds()
        assert folds is not None
        return statistics.mean_of_folds(values[:, 0], folds, table.spread == "student", bounds(metric))
    interval = "none" if table.spread == "deviation" else table.spread
    return statistics.estimate(values, interval, OF[table.statistic], bounds(metric), table.resamples)


def matrix(*samples: dict[tuple[Key, int], float]) -> statistics.Values:
    """Return values as (runs, tasks), in the order of seeds, NaN where a task has no run of a seed.

    Several samples give (samples, runs, tasks), where equal (run, task) indices have equal seed and task.
    """
    places = {at for values in samples for at in values}
    tasks = sorted({task for task, _ in places}, key=repr)
    seeds = sorted({seed for _, seed in places})
    found = np.array(
        [[[values.get((task, seed), np.nan) for task in tasks] for seed in seeds] for values in samples]
    )
    return found if len(samples) > 1 else found[0]


def _compare(filled: FilledTable) -> None:
    """Find the best of each column, and compare the rows with it, or with the row that is named."""
    table = filled.table
    drafts: list[Comparison] = []
    spare: list[float | None] = []  # p of the pairs without the best row
    for column in filled.columns:
        for metric in filter(judged, metrics_of(table, column)):
            there = _comparable(filled, column, metric)
            if len(there) < 2:
                continue
            sign = 1 if direction(metric) == "maximize" else -1
            value = {row: sign * cell.figures[metric].value for row, cell in there.items()}
            top = max(value.values())
            filled.best |= {(row, column, metric) for row in there if statistics.same(value[row], top)}
            if table.compare is None:
                continue
            reference = _reference(filled, there, value)
            if reference is None:
                continue
            others = [row for row in there if row != reference]
            drafts += [_draft(table, there, row, reference, column=column, metric=metric) for row in others]
            if table.compare == "best" and metric in tested(table.metrics):
                # Any row might have been the best: the correction is over all pairs.
                spare += [_difference(table, there, *pair, metric)[0].p for pair in combinations(others, 2)]
    known = [p for p in [*(draft.p for draft in drafts), *spare] if p is not None]
    filled.tests = len(known)
    adjusted = iter(statistics.holm(known))
    for draft in drafts:
        p = None if draft.p is None else next(adjusted)
        # If no arrangement of so few runs gives p below the level, the lack of a difference means nothing.
        able = p is not None and draft.difference.least * filled.tests < ALPHA
        contradicts = able and draft.contradicts and p is not None and p < ALPHA
        alike = contradicts or (able and p is not None and p >= ALPHA)
        filled.comparisons.append(replace(draft, p=p, alike=alike, contradicts=contradicts))


def metrics_of(table: Table, column: Key) -> list[str]:
    """Return the table's metrics in a column: of a task with a decisive one no other on the test set."""
    chosen = next((table.decisive[text] for text in map(as_text, column) if text in table.decisive), None)
    others = set(tested(table.metrics)) - {chosen} if chosen else set[str]()
    return [metric for metric in table.metrics if metric not in others]


def _comparable(filled: FilledTable, column: Key, metric: str) -> dict[Key, Cell]:
    """Return the cells of a column that have the metric on every task on which any cell has it."""
    cells = {row: filled.cell(row, column) for row in filled.rows}
    incomplete = filled.incomplete(column, metric)
    return {row: cell for row, cell in cells.items() if metric in cell.figures and row not in incomplete}


def pairs(ours: Cell, theirs: Cell, metric: str) -> tuple[statistics.Values, statistics.Values, bool]:
    """Return the values of two cells (runs, tasks), and whether equal indices have equal seeds.

    They are paired by the seeds and folds that both have, if these are most of the runs of each.
    """
    a, b = ours.measured(metric), theirs.measured(metric)
    shared = a.keys() & b.keys()
    paired = 2 * len(shared) > max(len(a), len(b)) and {task for task, *_ in shared} == {
        task for task, *_ in a
    }
    if paired and ours.folds() is not None:
        a, b = ({at: one[at] for at in one if at in shared} for one in (a, b))
    x, y = matrix(averaged(a, ours.by_fold), averaged(b, theirs.by_fold))
    return x, y, paired


def _difference(
    table: Table, there: dict[Key, Cell], row: Key, other: Key, metric: str
) -> tuple[Difference, statistics.Values, statistics.Values]:
    """Return a row less another, and the values of both, (runs, tasks)."""
    cells = there[row], there[other]
    a, b = matrix(*(cell.values(metric) for cell in cells))
    x, y, paired = pairs(*cells, metric)
    folds = cells[0].folds()
    if cells[0].by_fold and folds is not None:
        return statistics.compare_folds(x[:, 0], y[:, 0], paired, folds, bounds(metric)), a, b
    method = statistics.Method(table.test, OF[table.statistic], bounds(metric), table.resamples)
    return statistics.compare(x, y, paired, method), a, b


def _draft(
    table: Table, there: dict[Key, Cell], row: Key, reference: Key, *, column: Key, metric: str
) -> Comparison:
    """Return a comparison whose p is not yet corrected for multiple tests."""
    difference, a, b = _difference(table, there, row, reference, metric)
    sign = 1 if direction(metric) == "maximize" else -1
    wins = statistics.improvement(sign * a, sign * b, table.resamples)
    if there[row].by_fold:  # the bootstrap takes runs as independent
        wins = replace(wins, low=None, high=None)
    ours, theirs = (there[key].figures[metric].value for key in (row, reference))
    shown = 0.0 if statistics.same(ours, theirs) else ours - theirs
    p = difference.p if metric in tested(table.metrics) else None
    return Comparison(
        row, column, metric, reference, difference, p, wins, False, difference.sign * shown <= 0
    )


def _reference(filled: FilledTable, there: dict[Key, Cell], value: dict[Key, float]) -> Key | None:
    """Return the row that the others are compared with; None if it has no figure in this column."""
    if filled.table.compare == "best":
        return max(there, key=lambda row: value[row])
    row = next(row for row in filled.rows if _is_named(filled.table, row))
    return row if row in there else None


def as_text(value: Any) -> str:
    """Return a key's value as text, for values without a label in the table."""
    return f"{value:g}" if isinstance(value, float) else str(value)
