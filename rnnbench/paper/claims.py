"""Says in words what holds of the sentence that a row does about as well as another, and where."""

from collections.abc import Sequence

from rnnbench.paper.aggregate import FilledTable, Key
from rnnbench.paper.settings import setting_name, setting_of, task_name
from rnnbench.paper.statistics.equivalence import MOST
from rnnbench.paper.verdicts import BETTER, CHANCE, EQUIVALENT, UNDECIDED, WORSE, Verdict

SIZE = "parameters/total"
LIKE = 0.05  # numbers of parameters that differ by less than this share are about as many
NUMBERS = {"fewer": "fewer", "like": "about as many", "more": "more"}


def claims(filled: FilledTable, verdicts: Sequence[Verdict]) -> list[str]:
    """Return a paragraph for each row and setting: its verdicts by task, its size, what follows."""
    table = filled.table
    settings = dict.fromkeys(setting_of(table, column) for column in filled.columns)
    rows = dict.fromkeys(v.comparison.row for v in verdicts)
    found = []
    for setting in settings:
        for row in rows:
            of_row = [
                v
                for v in verdicts
                if v.comparison.row == row and setting_of(table, v.comparison.column) == setting
            ]
            if of_row:
                found.append(_claim(filled, setting, of_row, _left_out(filled, setting, row, of_row)))
    return found


def _left_out(filled: FilledTable, setting: Key, row: Key, of_row: Sequence[Verdict]) -> list[str]:
    """Return the tasks of a setting on which the row has trials and no verdict."""
    compared = {v.comparison.column for v in of_row}
    return [
        task_name(filled, column)
        for column in filled.columns
        if setting_of(filled.table, column) == setting
        and column not in compared
        and filled.cell(row, column).planned
    ]


def _claim(filled: FilledTable, setting: Key, verdicts: Sequence[Verdict], left_out: Sequence[str]) -> str:
    """Return the paragraph of a row in a setting.

    Args:
        left_out: tasks without a verdict.
    """
    first = verdicts[0].comparison
    row, other = filled.name(first.row), filled.name(first.reference)
    at = f" at {setting_name(filled.table, setting)}" if setting else ""
    said = [f"{row} against {other}{at}: {_by_verdict(filled, verdicts, left_out)}."]
    sizes = {v.comparison.column: _size(filled, v) for v in verdicts}
    ratios = [ratio for ratio in sizes.values() if ratio is not None]
    if ratios:
        low, high = (f"{bound(ratios):.2f}" for bound in (min, max))
        said.append(f"It has {low if low == high else f'{low} to {high}'} times the parameters of {other}.")
    for kind in (*NUMBERS, None):
        of_kind = [v for v in verdicts if _kind(sizes[v.comparison.column]) == kind]
        if of_kind:
            numbers = f" with {NUMBERS[kind]} parameters" if kind else ""
            sentence = f"That {row} does about as well as {other}{numbers}"
            said.append(
                f"{sentence} {_holds(of_kind, len(left_out) if len(of_kind) == len(verdicts) else 0)}."
            )
    return " ".join(said)


def _by_verdict(filled: FilledTable, verdicts: Sequence[Verdict], left_out: Sequence[str]) -> str:
    """Return the tasks by their verdict."""
    words = {
        BETTER: "better on",
        EQUIVALENT: "equivalent within the margin on",
        WORSE: "worse on",
        UNDECIDED: "undecided on",
        CHANCE: "neither beats a constant answer on",
    }
    several = len({v.comparison.column for v in verdicts}) < len(verdicts)
    parts = []
    for word, text in words.items():
        names = [_named(filled, v, several) for v in verdicts if v.word == word]
        if names:
            parts.append(f"{text} {listed(names)}")
    if left_out:
        parts.append(f"not compared for want of runs on {listed(left_out)}")
    return "; ".join(parts)


def _named(filled: FilledTable, verdict: Verdict, several: bool) -> str:
    """Return a task's name with what its verdict adds: by how much, or how many seeds would decide.

    Args:
        several: whether the metric must be named too.
    """
    c = verdict.comparison
    name = task_name(filled, c.column)
    added = [filled.table.label(c.metric)] if several else []
    if verdict.word in (BETTER, WORSE):
        low, high = c.difference.low, c.difference.high
        if low is not None and high is not None and (low > verdict.margin or high < -verdict.margin):
            added.append("by more than the margin")
    if verdict.word == UNDECIDED:
        added.append(
            "one run has no spread" if verdict.seeds is None else f"{seeds(verdict.seeds)} would decide"
        )
    return f"{name} ({', '.join(added)})" if added else name


def seeds(number: int) -> str:
    """Return a number of seeds as text."""
    return f"{number:,} seeds" if number <= MOST else f"more than {MOST:,} seeds"


def _size(filled: FilledTable, verdict: Verdict) -> float | None:
    """Return a row's number of parameters relative to the other's; None where it is not recorded."""
    c = verdict.comparison
    records = [filled.cell(row, c.column).records.values() for row in (c.row, c.reference)]
    ours, theirs = ([r.metrics[SIZE] for r in found if SIZE in r.metrics] for found in records)
    if not ours or not theirs:
        return None
    return sum(ours) / len(ours) / (sum(theirs) / len(theirs))


def _kind(ratio: float | None) -> str | None:
    """Return whether a row has fewer, about as many, or more parameters, by the ratio of both."""
    if ratio is None:
        return None
    return "like" if abs(ratio - 1) < LIKE else "fewer" if ratio < 1 else "more"


def _holds(verdicts: Sequence[Verdict], left_out: int) -> str:
    """Return on how many tasks the sentence holds, fails and is open.

    Args:
        left_out: number of tasks without a verdict, on which it is open too.
    """
    words = [v.word for v in verdicts]
    holds = words.count(BETTER) + words.count(EQUIVALENT)
    fails, still_open = words.count(WORSE), words.count(UNDECIDED) + words.count(CHANCE) + left_out
    total = len(words) + left_out
    noun = "tasks" if len({v.comparison.column for v in verdicts}) == len(words) else "comparisons"
    every = "the one task" if total == 1 else f"all {total} {noun}"
    for count, verb in ((holds, "holds"), (fails, "fails"), (still_open, "is open")):
        if count == total:
            return f"{verb} on {every}"
    return (
        f"holds on {holds} of {total} {noun} (better or equivalent), fails on {fails} (worse), and is open "
        f"on {still_open}"
    )


def listed(names: Sequence[str]) -> str:
    """Return names as text: a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
