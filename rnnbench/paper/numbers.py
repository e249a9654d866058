"""Compares the numbers in a table's files, to verify files that an earlier version wrote.

A later version may print other digits, words or columns. An earlier file is right as long as each number
in it is what the records give, to the digits printed.
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
NOISE = Decimal("2e-15")  # relative error that the order of a sum may make
INTERVAL = re.compile(r"\[[^\]]*\]")
BAR = re.compile(r"(?<!\\)\|")  # separates columns in Markdown
AMPERSAND = re.compile(r"(?<!\\)&")  # separates columns in LaTeX
CELL = re.compile(r"\\(?:bfseries|pm|dagger|num|,)|[{}$*^†]")  # markup around a number
# Columns of table.csv without and with a dependence on tests or intervals.
EXACT = ("n", "mean", "median", "iqm", "deviation")
TESTED = ("low", "high", "difference", "difference_low", "difference_high", "p_holm", "p_improvement",
          "p_improvement_low", "p_improvement_high", "margin", "p_equivalent_holm", "a12",
          "a12_low", "a12_high", "seeds", "seeds_of_margin")  # fmt: skip
# Keys of provenance.json whose text is not compared.
WORDS = ("table", "versions", "warnings", "rerun", "winner_command", "overrides")


def differing(name: str, was: str, now: str, tests: bool, figures: Sequence[float] = ()) -> list[str]:
    """Return the numbers of a file that are not what the records give.

    Args:
        name: the file's name.
        was: text of the file as an earlier version wrote it.
        now: text of the file as this version writes it.
        tests: whether both versions compute intervals and tests the same way.
        figures: the table's figures with all digits: one that is halfway between two printed numbers may
            have been rounded the other way before.
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
    """Return whether two rows have the same numbers; with other columns, whether `now` has all of `was`."""

    def agree(a: str, b: str) -> bool:
        return same(a, b) or any(_is_half(a, b, figure) for figure in figures)

    if len(was) == len(now):
        return all(map(agree, was, now))
    return all(any(agree(a, b) for b in now) for a in was)


def _is_half(a: str, b: str, figure: float) -> bool:
    """Return whether a figure is halfway between two printed numbers, one last digit apart."""
    x, y = (Decimal(text.replace(",", "")) for text in (a, b))
    unit = Decimal(1).scaleb(int(x.as_tuple().exponent)) if x.is_finite() else Decimal(0)
    if abs(x - y) != unit or not math.isfinite(figure):
        return False
    return abs(Decimal(figure) - (x + y) / 2) <= NOISE * abs(x)


def same(a: str, b: str) -> bool:
    """Return whether two printed numbers are equal, rounded to the digits of the shorter."""
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
    return [
        line[len(line) - columns :] for line in lines[at + 1 :]
    ]  # labels in earlier files may contain bars


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
    """Return the paths of the leaves that two JSON values both have with different numbers."""
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
