"""The numbers that stand in a table's files, by which files that an earlier version wrote are verified.

A renderer may come to print a number with other digits, in other words or beside other columns. What it
printed before is right as long as every number in it is what the records give, to the digits printed.
"""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?|[+-]?\b(?:inf|nan)\b")
NOT_FINITE = {"nan", "inf", "-inf"}
NOISE = Decimal("2e-15")  # relative: what the order of a sum changes
INTERVAL = re.compile(r"\[[^\]]*\]")
BAR = re.compile(r"(?<!\\)\|")  # a column's end in Markdown
AMPERSAND = re.compile(r"(?<!\\)&")  # and in LaTeX
CELL = re.compile(r"\\(?:bfseries|pm|dagger|num|,)|[{}$*^†]")  # what surrounds a number
EXACT = ("n", "mean", "median", "iqm", "deviation")  # columns of table.csv that no test or interval changes
TESTED = ("low", "high", "difference", "difference_low", "difference_high", "p_holm", "p_improvement",
          "p_improvement_low", "p_improvement_high")  # fmt: skip
WORDS = ("table", "versions", "warnings", "rerun", "winner_command", "overrides")  # of provenance.json


def differing(name: str, was: str, now: str, tests: bool, figures: Sequence[float] = ()) -> list[str]:
    """Return the numbers of a file that are not what the records give.

    Args:
        name: of the file.
        now: the file as it is written today.
        tests: whether intervals and tests are computed today as they were then.
        figures: of the table, with all digits: where one is a half of the last digit that is printed, its
            rounding may have been the other before.
    """
    if name == "provenance.json":
        return [f"{name}: {fault}" for fault in _leaves(json.loads(was), json.loads(now), "")]
    old, new = (_rows(name, text, tests) for text in (was, now))
    if len(old) != len(new):
        return [f"{name}: has {len(old)} rows of numbers; the records give {len(new)}"]
    return [
        f"{name}, row {n}: {' '.join(a)!r}; the records give {' '.join(b)!r}"
        for n, (a, b) in enumerate(zip(old, new, strict=True), 1)
        if not _agree(a, b, figures)
    ]


def _agree(was: Sequence[str], now: Sequence[str], figures: Sequence[float]) -> bool:
    """Return whether the numbers of a row are the same; under other columns, whether each is there."""

    def agree(a: str, b: str) -> bool:
        return same(a, b) or any(_is_half(a, b, figure) for figure in figures)

    if len(was) == len(now):
        return all(map(agree, was, now))
    return all(any(agree(a, b) for b in now) for a in was)


def _is_half(a: str, b: str, figure: float) -> bool:
    """Return whether a figure is halfway between two printed numbers, neighbours of equal digits."""
    x, y = (Decimal(text.replace(",", "")) for text in (a, b))
    unit = Decimal(1).scaleb(int(x.as_tuple().exponent)) if x.is_finite() else Decimal(0)
    if abs(x - y) != unit or not math.isfinite(figure):
        return False
    return abs(Decimal(figure) - (x + y) / 2) <= NOISE * abs(x)


def same(a: str, b: str) -> bool:
    """Return whether two printed numbers are one, rounded to the digits of the shorter."""
    x, y = (Decimal(text.replace(",", "") or "nan") for text in (a, b))
    if not (x.is_finite() and y.is_finite()):
        return str(x) == str(y)
    unit = Decimal(1).scaleb(max(int(x.as_tuple().exponent), int(y.as_tuple().exponent)))
    return abs(x - y) * 2 <= unit or abs(x - y) <= NOISE * abs(x)


def _rows(name: str, text: str, tests: bool) -> list[list[str]]:
    """Return the numbers of each row of a table, without those of its label."""
    if name == "table.csv":
        lines = list(csv.DictReader(io.StringIO(text)))
        kept = [*EXACT, *(TESTED if tests else ())]
        # Runs that diverged counted in n and in the mean before version 2 of the statistics.
        whole = [line for line in lines if tests or not NOT_FINITE & set(line.values())]
        return [[line[key] for key in kept if line.get(key)] if line in whole else [] for line in lines]
    rows = [[CELL.sub(" ", cell) for cell in cells] for cells in _cells(name, text)]
    if not tests:
        rows = [[INTERVAL.sub(" ", cell) for cell in cells] for cells in rows]
    found = [[number for cell in cells for number in NUMBER.findall(cell)] for cells in rows]
    return found if tests else [[number for number in row if number not in NOT_FINITE] for row in found]


def _cells(name: str, text: str) -> list[list[str]]:
    """Return the cells of each row below the headings."""
    if name.endswith(".html"):
        parser = _Table()
        parser.feed(text)
        return parser.rows
    if name.endswith(".tex"):
        body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
        return [AMPERSAND.split(line.removesuffix(r" \\"))[1:] for line in body.splitlines()]
    lines = [BAR.split(line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    at = next((n for n, line in enumerate(lines) if set("".join(line)) <= set("-: ")), len(lines))
    columns = len(lines[at]) - 1 if at < len(lines) else 0
    return [line[len(line) - columns :] for line in lines[at + 1 :]]  # a label may have held bars


class _Table(HTMLParser):
    """Collects the cells of the table of class `paper`."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = self.open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.inside = ("class", "paper") in attrs
        elif self.inside and tag == "tbody":
            self.rows = []
        elif self.inside and tag == "tr":
            self.rows.append([])
        elif self.inside and tag == "td":
            self.rows[-1].append("")
        self.open = self.inside and tag in ("td", "b")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "table"
        self.open = self.open and tag == "b"

    def handle_data(self, data: str) -> None:
        if self.open and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def _leaves(was: Any, now: Any, path: str) -> list[str]:
    """Return what two JSON values both have and do not have alike."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = [key for key in was if key in now and key not in WORDS]
        return [fault for key in keys for fault in _leaves(was[key], now[key], f"{path}/{key}")]
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        return [
            fault
            for n, pair in enumerate(zip(was, now, strict=True))
            for fault in _leaves(*pair, f"{path}/{n}")
        ]
    return [] if was == now else [f"{path} is {was!r}; the records give {now!r}"]
