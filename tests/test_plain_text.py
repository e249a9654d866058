"""Laws of text that acts: a name stands for itself in every file, and in each it can be read back."""

import csv
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rnnbench.render.layout import Layout
from rnnbench.system import plain_text
from rnnbench.system.plain_text import printable, spreadsheet
from rnnbench.terminal import save_comparison

NAMES = [
    "<script>alert(1)</script>",
    "\\input{/etc/passwd}",
    "a&b_c%d$e#f{g}~^",
    "=cmd|' /C calc'!A0",
    "x' onmouseover='alert(1)",
    'y" onload="alert(2)',
    "|pipe|**b**",
    "\x1b[31mred\x1b]0;pwn\x07",
    "[link](javascript:alert(1))",
    "@SUM(1+1)",
    "series-x",
    "line\nbreak",
    "\r=1+1",
    "\t=1+1",
    "'=1+1",
    " +1+cmd",
    "-1 ± cmd",
    "=1",
    "`code` &amp; <b>",
    "\\x1b[31m",
    "\u202egnp.exe",
    "_emphasis_ and http://example.com/ or www.example.com",
    "$\\frac{1}{$",
    "^^41^^5cinput",
    "[new]",
    "*star",
    "\U0001f600 中文 \uff41",
    "a\x00b",
]
names = st.one_of(st.sampled_from(NAMES), st.text(max_size=30), st.text("\\nxu=+-@'|`*_[]<>&;#1a \n\x1b"))


def read_back(shown: str) -> str:
    """The text that `printable` has shown."""
    if not re.search(r"\\[\\nrtxuU]", shown):
        return shown
    return re.sub(
        r"\\(?:[\\nrt]|x..|u....|U........)",
        lambda found: found[0].encode("ascii").decode("unicode_escape"),
        shown,
    )


def from_cell(shown: str) -> str:
    """The text that `spreadsheet` has shown."""
    quoted = shown[:1] == "'" and plain_text.FORMULA.match(shown[1:])
    return read_back(shown[1:] if quoted else shown)


@given(names)
def test_what_is_shown_is_one_line_without_control_and_can_be_read_back(name):
    shown = printable(name)
    assert shown.isprintable()
    assert read_back(shown) == name


@given(names)
def test_a_spreadsheet_computes_no_name(name):
    cell = spreadsheet(name)
    assert cell.isprintable() and from_cell(cell) == name
    assert cell.lstrip()[:1] not in tuple("=@\uff1d\uff20\uff0b\uff0d") or cell == ""
    assert cell.lstrip()[:1] not in ("+", "-") or plain_text.NUMBER.fullmatch(cell)


@pytest.mark.parametrize(
    "number", ["0.5", "-0.5", "+0.0180", "1,234", "-1.2e-07", "-0.5 ± 0.1", "-inf", "nan"]
)
def test_numbers_stay_numbers(number):
    assert spreadsheet(number) == number


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(names)
def test_html_has_no_tag_of_a_name(name):
    page = Tags(
        f"<p title='{plain_text.html(name)}' class=\"{plain_text.html(name)}\">{plain_text.html(name)}</p>"
    )
    assert page.found == [("p", ("title", "class"))]
    assert read_back(page.text) == name


def rows_of(text: str) -> list[list[str]]:
    """The cells of a Markdown table, as a reader of GitHub's Markdown sees their text."""
    page = MarkdownIt("commonmark", {"linkify": False}).enable("table").enable("strikethrough").render(text)
    assert set(re.findall(r"<([a-z]+)", page)) <= {"table", "thead", "tbody", "tr", "th", "td"}, page
    return [
        [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    ]


@given(names)
def test_the_comparison_of_a_sweep_has_a_cell_for_a_name(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("comparison")
    save_comparison(Layout.of_text(["model", name], [[name, "0.5"], ["x", "-0.5 ± 0.1"]]), folder)
    rows = rows_of((folder / "comparison.md").read_text(encoding="utf-8"))
    assert [[read_back(cell) for cell in row] for row in rows] == [
        ["model", name.strip(" ")],
        [name.strip(" "), "0.5"],
        ["x", "-0.5 ± 0.1"],
    ]
    text = (folder / "comparison.csv").read_text(encoding="utf-8")
    lines = list(csv.reader(io.StringIO(text, newline="")))
    assert [[from_cell(cell) for cell in line] for line in lines] == [
        ["model", name],
        [name, "0.5"],
        ["x", "-0.5 ± 0.1"],
    ]
    assert Path(folder / "comparison.csv").read_bytes().count(b"\x1b") == 0
