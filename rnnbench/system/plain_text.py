"""Escapes names that users choose, so that terminals, files and spreadsheets only show them.

A cell's name may hold control characters that a terminal obeys, a formula that a spreadsheet computes, or the
markup of a format. Each function but `drawn`, which cuts long text, is reversible: two names never look the
same.
"""

import re
from html import escape
from textwrap import wrap

# Escape sequences that `printable` writes. A name that has one already is escaped too.
ESCAPED = re.compile(r"\\(?=[\\nrtxuU])")
NUMBER = re.compile(r"[+-]?(?:[\d.,]+(?:e[+-]?\d+)?|inf|nan)%?(?: ± [\d.,]+(?:e[+-]?\d+)?)?", re.IGNORECASE)
FORMULA = re.compile(r"'*\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
# An underscore inside a word is not markup, so it is not escaped.
MARKUP = re.compile(r"[\\`*\[\]<>|~$]|&(?=[#\w])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.")


def printable(text: str) -> str:
    r"""Write text in one line: line ends, control and format characters as in Python, \n and \x1b."""
    if text.isprintable() and not ESCAPED.search(text):
        return text
    return "".join(_visible(char) for char in text)


def _visible(char: str) -> str:
    if char == "\\" or not char.isprintable():
        return char.encode("unicode_escape").decode("ascii")
    return char


def markdown(text: str) -> str:
    """Write text in a line or a cell of Markdown."""
    return MARKUP.sub(lambda found: "\\" + found[0], printable(text))


def html(text: str) -> str:
    """Write text, or the value of an attribute, in HTML."""
    return escape(printable(text))


def drawn(text: str, width: int = 40, lines: int = 2) -> str:
    """Write text in a picture: wrapped, cut after some lines, without characters that fonts lack."""
    shown = "".join(char if ord(char) < 0x10000 else f"\\U{ord(char):08x}" for char in printable(text))
    return "\n".join(wrap(shown, width, max_lines=lines, placeholder=" …"))


def spreadsheet(text: str) -> str:
    """Write text in a cell of CSV, with a quote before formulas; numbers stay numbers."""
    shown = printable(text)
    return f"'{shown}" if FORMULA.match(shown) and not NUMBER.fullmatch(shown) else shown
