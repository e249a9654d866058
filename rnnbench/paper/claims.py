"""Says in words what holds of the sentence that a row does about as well as another, and where."""

from collections.abc import Sequence

from rnnbench.paper.aggregate import FilledTable, Key
from rnnbench.paper.settings import setting_name, setting_of, task_name
from rnnbench.paper.statistics.equivalence import MOST
from rnnbench.paper.verdicts import BETTER, CHANCE, EQUIVALENT, UNDECIDED, WORSE, Verdict

SIZE = "parameters/total"
LIKE = 0.1  # numbers of parameters that differ by less than this share are about as many
NUMBERS = {"fewer": "fewer", "like": "about as many", "more": "more"}
WORDS = {BETTER: "better", EQUIVALENT: "equivalent within the margin", WORSE: "worse", UNDECIDED: "undecided",
         CHANCE: "neither beats a constant answer"}  # fmt: skip
# What a verdict says of the sentence; a row that is better does at least as well.
HOLDS, FAILS, OPEN = (BETTER, EQUIVALENT), (WORSE,), (UNDECIDED, CHANCE)


def claims(filled: FilledTable, verdicts: Sequence[Verdict]) -> list[str]:
    """Return a paragraph for each row and setting: its size, on which tasks the sentence holds or fails."""
    table = filled.table
    settings = dict.fromkeys(setting_of(table, column) for column in filled.columns)
    rows = dict.fromkeys(v.comparison.row for v in verdicts)
    found = []
    for row in rows:
        for setting in settings:
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
    sizes = {v.comparison.column: _size(filled, v) for v in verdicts}
    ratios = [ratio for ratio in sizes.values() if ratio is not None]
    said = ""
    if ratios:
        low, high = (f"{bound(ratios):.2f}" for bound in (min, max))
        said = f", with {low if low == high else f'{low} to {high}'} times the parameters"
    sentences = [f"{row} against {other}{at}{said}."]
    for kind in (*NUMBERS, None):
        of_kind = [v for v in verdicts if _kind(sizes[v.comparison.column]) == kind]
        if of_kind:
            subject = f"With {NUMBERS[kind]} parameters {row}" if kind else row
            open_too = left_out if of_kind[-1] is verdicts[-1] else []
            sentences += _holds(filled, subject, of_kind, open_too)
    return " ".join(sentences)


def _holds(
    filled: FilledTable, subject: str, verdicts: Sequence[Verdict], left_out: Sequence[str]
) -> list[str]:
    """Return on which tasks it holds that a row does about as well, fails and is open.

    Args:
        subject: of the first sentence.
        left_out: tasks without a verdict, on which it is open too.
    """
    several = len({v.comparison.column for v in verdicts}) < len(verdicts)
    noun = "comparisons" if several else "tasks"
    total = len(verdicts) + len(left_out)
    every = f"all {total} {noun}" if total > 1 else "the one task"
    of = f"of {total} {noun}"
    none = f"{subject} does about as well on none {of}." if total > 1 else ""
    said = [none] if none and not any(v.word in HOLDS for v in verdicts) else []
    for verb, words in (("does about as well", HOLDS), ("does not", FAILS), ("is open", OPEN)):
        why = [text for word in words for text in _why(filled, verdicts, word, several)]
        count = sum(v.word in words for v in verdicts)
        if left_out and words == OPEN:
            count += len(left_out)
            why.append(f"not compared for want of runs on {listed(left_out)}")
        if count:
            many = every if count == total else f"{count} {of}" if words == HOLDS else str(count)
            said.append(f"{'It' if said else subject} {verb} on {many}: {'; '.join(why)}.")
    return said


def _why(filled: FilledTable, verdicts: Sequence[Verdict], word: str, several: bool) -> list[str]:
    """Return the tasks that have a verdict, those that differ by more than the margin first.

    Args:
        several: whether the metrics must be named too.
    """
    parts = []
    for far in (True, False):
        there = [v for v in verdicts if v.word == word and _far(v) == far]
        if there:
            beyond = " by more than the margin" if far else ""
            names = listed([_named(filled, v, several) for v in there])
            parts.append(f"{WORDS[word]}{beyond} on {names}{_deciding(there)}")
    return parts


def _far(verdict: Verdict) -> bool:
    """Return whether a row is better or worse, and its whole interval is beyond the margin."""
    low, high = verdict.comparison.difference.low, verdict.comparison.difference.high
    if verdict.word not in (BETTER, WORSE) or low is None or high is None:
        return False
    return low > verdict.margin or high < -verdict.margin


def _named(filled: FilledTable, verdict: Verdict, several: bool) -> str:
    """Return a task's name, with the metric if a task has several."""
    c = verdict.comparison
    name = task_name(filled, c.column)
    return f"{name} ({filled.table.label(c.metric)})" if several else name


def _deciding(verdicts: Sequence[Verdict]) -> str:
    """Return how many seeds would decide what is undecided; "" for other verdicts."""
    if verdicts[0].word != UNDECIDED:
        return ""
    known = [v.seeds for v in verdicts if v.seeds is not None]
    if not known:
        return ": one run has no spread"
    low, high = min(known), max(known)
    return f": {seeds(high) if low == high else f'{low:,} to {seeds(high)}'} would decide"


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


def listed(names: Sequence[str]) -> str:
    """Return names as text: a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
