"""Writes the notes below a table: number of runs, statistics, tests, how epochs and trials were chosen."""

from rnnbench.paper.aggregate import ALPHA, Cell, Comparison, FilledTable, Key
from rnnbench.paper.folds import run_of
from rnnbench.paper.margins import judged
from rnnbench.paper.margins import tested as tested_metrics
from rnnbench.paper.published import beside

STATISTICS = {"mean": "mean", "median": "median", "iqm": "interquartile mean"}
SPREADS = {
    "deviation": " with sample standard deviation",
    "student": " with 95 % interval by Student's t",
    "bootstrap": " with 95 % percentile interval of the bootstrap ({resamples:,} resamples, stratified by "
    "task)",
    "none": "",
}
OF = {name: f"{words}s" for name, words in STATISTICS.items()}
FEW = 10  # with fewer runs, the bootstrap's interval covers the true value far less often than its level
LEFT_OUT = "Left out, since not finite (diverged): "


def test_of(filled: FilledTable, paired: bool) -> str:
    """Return the name of the significance test as text."""
    table = filled.table
    if filled.by_fold:
        return "corrected resampled t-test (Nadeau, Bengio 2003), paired by fold"
    if table.test == "wilcoxon":
        unpaired = (
            "van Elteren's rank-sum test within tasks" if table.over else "Mann and Whitney's rank-sum test"
        )
        test = "Wilcoxon's signed-rank test" if paired else unpaired
    elif paired and table.statistic == "mean":
        test = "permutation test of the mean difference"
    else:
        within = " within tasks" if table.over and not paired else ""
        test = f"permutation test{within} of the difference of {OF[table.statistic]}"
    pairs = "seed and fold" if folded(filled) else "seed"
    return f"{test}, {f'paired by {pairs}' if paired else 'not paired'}"


def folded(filled: FilledTable) -> bool:
    """Return whether a cell has several folds of a seed."""
    return any(cell.folds() is not None for cell in filled.cells.values())


def notes(filled: FilledTable) -> list[str]:
    """Return the notes below a table, those on published figures last."""
    table = filled.table
    cells = list(filled.cells.values())
    said = [_counts(filled, cells), *_folds(filled)]
    over = "runs and tasks" if table.over else "runs"
    if table.over and table.statistic == "median":
        over = "tasks of each task's mean over runs"
    spread = SPREADS[table.spread].format(resamples=table.resamples)
    said.append(f"{STATISTICS[table.statistic].capitalize()} over {over}{spread}.")
    for metric in table.metrics:
        there = [cell for cell in cells if not table.tasks or cell.values(metric)]
        lacking = [len(cell.measured(metric)) + cell.diverged(metric) < len(cell.records) for cell in there]
        if any(lacking) and any(cell.values(metric) for cell in cells):
            said.append(f"Not every run has {table.label(metric)}: table.csv has its n.")
    said += _diverged(filled)
    if any(cell.runs() == 1 for cell in cells):
        said.append("One run alone has no spread and no test.")
    runs = {figure.n for cell in cells for figure in cell.figures.values()}
    if table.spread == "bootstrap" and any(1 < n < FEW for n in runs):
        said.append(
            f"Of fewer than {FEW} runs the bootstrap's interval is too narrow: at n = 3 it covers the truth "
            "in 70 to 78 % of cases, not 95 %."
        )
    said += _uneven(filled)
    said += _tests(filled)
    if filled.searched:
        said.append(filled.searched)
    if any(trial.params["fit.select"] == "test" for cell in cells for trial in cell.planned):
        said.append("Chosen by watching the test set: these accuracies are optimistic.")
    if filled.superseded:
        again = f"{n} trials were" if (n := len(filled.superseded)) > 1 else "One trial was"
        said.append(f"{again} run more than once: the newest finished run counts.")
    published = beside(filled)
    return said + (published.notes if published is not None else [])


def _counts(filled: FilledTable, cells: list[Cell]) -> str:
    counts = {cell.count() for cell in cells}
    if len(counts) > 1:
        return "The number of runs differs between cells: see n."
    tasks = {task for cell in cells for task, *_ in cell.records}
    of = f", over {len(tasks)} tasks together" if filled.table.over and not folded(filled) else ""
    return f"n = {counts.pop()}{'' if folded(filled) else ' runs'} in each cell{of}."


def _folds(filled: FilledTable) -> list[str]:
    """Return a note on how folds are counted."""
    if not folded(filled):
        return []
    if filled.by_fold:
        said = "A run is a fold; folds share training data, for which p and intervals are corrected."
        none = " The bootstrap has no such correction, so there is no interval of a mean."
        return [said + (none if filled.table.spread == "bootstrap" else "")]
    said = "A run is a seed's mean over its folds, since folds share training data"
    lacking = any(cell.lacks_folds() for cell in filled.cells.values())
    return [said + ("; a seed that lacks some has the mean of the others." if lacking else ".")]


def _diverged(filled: FilledTable) -> list[str]:
    """Return a note on runs whose values are not finite, which the figures leave out."""
    said = [
        f"{filled.table.label(metric)} of {n} of {len(cell.records)} runs of {_name(filled, row, column)}"
        for metric in filled.table.metrics
        for (row, column), cell in filled.cells.items()
        if (n := cell.diverged(metric))
    ]
    return [f"{LEFT_OUT}{'; '.join(said)}."] if said else []


def _uneven(filled: FilledTable) -> list[str]:
    """Return notes on how tasks with fewer runs than others, or without runs, are counted."""
    table = filled.table
    said = []
    counts = [
        {len([at for at in cell.values(metric) if at[0] == task]) for task in cell.tasks(metric)}
        for cell in filled.cells.values()
        for metric in table.metrics
    ]
    if any(len(count) > 1 for count in counts):
        said.append("Each task weighs the same, also where it has fewer runs.")
    incomplete = {
        (row, column)
        for column in filled.columns
        for metric in table.metrics
        for row in filled.incomplete(column, metric)
    }
    lacking = [_name(filled, *place) for place in filled.cells if place in incomplete]
    if lacking:
        said.append(f"Not compared, since a task has no run: {', '.join(lacking)}.")
    return said


def _name(filled: FilledTable, row: Key, column: Key) -> str:
    return " ".join(filter(None, (filled.name(row), filled.name(column))))


def _tests(filled: FilledTable) -> list[str]:
    """Return notes on what bold face and the dagger mean, and on which differences the test can find."""
    tested = [c for c in filled.comparisons if c.p is not None]
    if not tested:
        return ["Bold: the best."] if filled.best else []
    table = filled.table
    of_best = table.compare == "best"
    against = "the best of its column" if of_best else filled.reference
    test = "; ".join(
        test_of(filled, paired) for paired in sorted({c.difference.paired for c in tested}, reverse=True)
    )
    test += _pairs(filled, tested)
    family = f"{filled.tests} comparison{'s' if filled.tests > 1 else ''}"
    family += (
        ", all pairs of rows since any might have been the best"
        if of_best and len(tested) < filled.tests
        else ""
    )
    chosen = [
        metric for metric in table.metrics if judged(metric) and metric not in tested_metrics(table.metrics)
    ]
    untested = (
        [f"Not tested, since results on the test set are: {', '.join(map(table.label, chosen))}."]
        if chosen
        else []
    )
    able = [c for c in tested if c.difference.least * filled.tests < ALPHA]
    if not able:
        n = max(c.difference.n for c in tested)
        least = min(c.difference.least for c in tested)
        return [
            "Bold: the best.",
            f"With {n} runs a cell no p falls below {least:.2g} ({test}; before Holm's correction over "
            f"{family}), so it can tell nothing apart, and nothing is marked; table.csv has the intervals of "
            "the differences.",
            *untested,
        ]
    said = [
        f"Bold: the best. †: cannot be told apart from {against} at the level {ALPHA:.2f} ({test}; Holm's "
        f"correction over {family})."
    ]
    if len(able) < len(tested):
        said.append(
            "Where a cell has too few runs that differ for the test to find anything, nothing is marked."
        )
    if any(c.contradicts for c in tested):
        said.append(
            "† too where the test finds a difference, but the other way than the figures that are shown."
        )
    return said + untested


def _pairs(filled: FilledTable, tested: list[Comparison]) -> str:
    """Return the number of pairs as text, if some runs have no partner with the same seed and fold."""
    found = set()
    for c in tested:
        ours, theirs = (filled.cell(row, c.column).measured(c.metric).keys() for row in (c.row, c.reference))
        if c.difference.paired and ours != theirs:
            found.add(len({run_of(at, filled.by_fold) for at in ours & theirs}))
    if not found:
        return ""
    low, high = min(found), max(found)
    span = f"{low} to {high}" if low < high else str(high)
    what = "folds" if filled.by_fold else "seeds and folds" if folded(filled) else "seeds"
    return f"; by the {what} that both have where one lacks some, {span} pairs"
