"""What the reader of a table has to know, in sentences: runs, statistics, tests, what was chosen how."""

from rnnbench.paper.aggregate import ALPHA, Cell, Filled
from rnnbench.paper.published import beside
from rnnbench.paper.statistics import RESAMPLES

STATISTICS = {"mean": "Mean", "median": "Median", "iqm": "Interquartile mean"}
SPREADS = {
    "deviation": " with sample standard deviation",
    "student": " with 95 % interval by Student's t",
    "bootstrap": f" with 95 % percentile interval of the bootstrap ({RESAMPLES:,} resamples, stratified by "
    "task)",
    "none": "",
}
TESTS = {
    ("permutation", True): "permutation test of the mean difference, paired by seed",
    ("permutation", False): "permutation test of the difference of means, not paired",
    ("wilcoxon", True): "Wilcoxon's signed-rank test, paired by seed",
    ("wilcoxon", False): "Mann and Whitney's rank-sum test, not paired",
}


def notes(filled: Filled) -> list[str]:
    """The sentences below a table, those on published figures last."""
    table = filled.table
    cells = list(filled.cells.values())
    said = [_counts(filled, cells)]
    over = "runs and tasks" if table.over else "runs"
    said.append(f"{STATISTICS[table.statistic]} over {over}{SPREADS[table.spread]}.")
    for metric in table.metrics:
        if any(0 < len(cell.values(metric)) < len(cell.records) for cell in cells):
            said.append(f"Not every run has {table.label(metric)}: table.csv has its n.")
    if any(len(cell.records) == 1 for cell in cells):
        said.append("One run alone has no spread and no test.")
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


def _counts(filled: Filled, cells: list[Cell]) -> str:
    counts = {cell.count() for cell in cells}
    if len(counts) > 1:
        return "The number of runs differs between cells: see n."
    tasks = {task for cell in cells for task, _ in cell.records}
    of = f", over {len(tasks)} tasks together" if filled.table.over else ""
    return f"n = {counts.pop()} runs in each cell{of}."


def _tests(filled: Filled) -> list[str]:
    """What bold face and the dagger mean, and how far the test can tell anything."""
    tested = [c for c in filled.comparisons if c.p is not None]
    if not tested:
        return ["Bold: the best."] if filled.best else []
    table = filled.table
    of_best = table.compare == "best"
    against = "the best of its column" if of_best else table.label(str(table.compare))
    test = "; ".join(
        TESTS[table.test, paired] for paired in sorted({c.difference.paired for c in tested}, reverse=True)
    )
    family = f"{filled.tests} comparison{'s' if filled.tests > 1 else ''}"
    family += (
        ", all pairs of rows since any might have been the best"
        if of_best and len(tested) < filled.tests
        else ""
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
        ]
    said = [
        f"Bold: the best. †: cannot be told apart from {against} at the level {ALPHA:.2f} ({test}; Holm's "
        f"correction over {family})."
    ]
    if len(able) < len(filled.comparisons):
        said.append("Where a cell has too few runs for the test, nothing is marked.")
    return said
