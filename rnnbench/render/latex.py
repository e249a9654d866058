r"""Prints a table as LaTeX: booktabs, numbers aligned by siunitx.

\documentclass{article}
\usepackage{booktabs,siunitx}
\begin{document}
\input{table.tex}
\end{document}
"""

import re
import textwrap
import unicodedata
from collections.abc import Sequence

from rnnbench.render.layout import Layout, TextCell
from rnnbench.system.plain_text import printable

GREEK = re.compile(
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|upsilon|phi|chi|"
    "psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega"
)
ACCENTS = {  # of Unicode and of LaTeX
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
ESCAPES = {
    "\\": r"\textbackslash{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # LaTeX takes a bracket or a star after the end of a row for an option.
    **{char: f"{{{char}}}" for char in "[]*"},
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": r"$-$",
    "→": r"$\to$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "·": r"$\cdot$",
    "°": r"$^\circ$",
    "²": r"$^2$",
    "³": r"$^3$",
    "\N{MICRO SIGN}": r"$\mu$",
    "…": r"\ldots{}",
    "\N{EN DASH}": r"\textendash{}",
    "—": r"\textemdash{}",
    "\N{LEFT SINGLE QUOTATION MARK}": r"\textquoteleft{}",
    "\N{RIGHT SINGLE QUOTATION MARK}": r"\textquoteright{}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
}
# What the notes say of other files, which the reader of a paper does not have.
ABOUT_FILES = re.compile(r"[;:] (?:table\.csv has [^.]*|see n)(?=\.)")
POWER = re.compile(r"([+-]?[\d.]+)e([+-]?\d+)")

# Set in the largest size in which it is no wider than the line.
FIT = [
    r"\sbox0{\body}",
    r"\ifdim\wd0>\linewidth\small\setlength{\tabcolsep}{3pt}\sbox0{\body}\fi",
    r"\ifdim\wd0>\linewidth\footnotesize\sbox0{\body}\fi",
    r"\ifdim\wd0>\linewidth\scriptsize\setlength{\tabcolsep}{2pt}\sbox0{\body}\fi",
    r"\usebox0",
]

# A turned table may be wider than that; the package rotating, which turns it, brings resizebox.
SCALED = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"


def escaped(text: str) -> str:
    """Return text that stands for itself in LaTeX; a sign that LaTeX lacks is given by its number, U+4E2D."""
    return "".join(map(_sign, printable(text))).replace("--", "-{}-")  # no dash


def _sign(char: str) -> str:
    if char in ESCAPES or char.isascii():
        return ESCAPES.get(char, char)
    letter = unicodedata.name(char, "").replace("LAMDA", "LAMBDA").split(" LETTER ")
    name = letter[-1].lower() if letter[0].endswith("SMALL") else letter[-1].capitalize()
    if letter[0].startswith("GREEK") and GREEK.fullmatch(name):
        return rf"$\{name}$"
    parts = unicodedata.normalize("NFD", char)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in ACCENTS:
        return rf"\{ACCENTS[parts[1]]}{{{parts[0]}}}"
    return rf"\texttt{{U+{ord(char):04X}}}"


def latex(layout: Layout, name: str, wide: bool = False) -> str:
    """Return the paragraphs, and a table environment: caption, label, tabular, notes.

    Args:
        name: of the table, for its label.
        wide: whether it spans both columns of a page.
    """
    environment = "sidewaystable" if layout.sideways else "table"
    environment += "*" if wide else ""
    needs = "booktabs, siunitx and rotating" if layout.sideways else "booktabs and siunitx"
    caption = f"{layout.title}. {' '.join(layout.caption.split())}" if layout.caption else f"{layout.title}."
    columns = [layout.column(n) for n in range(len(layout.columns))]
    kinds = [_kind(column) for column in columns]
    widths = [width for _, width in kinds]
    titles = [
        rf"\multicolumn{{{width}}}{{c}}{{{_title(heading.title, column)}}}"
        for heading, width, column in zip(layout.columns, widths, columns, strict=True)
    ]
    out = [
        f"% made by python -m rnnbench.paper; needs {needs}",
        *(f"{escaped(paragraph)}\n" for paragraph in layout.text),
        rf"\begin{{{environment}}}",
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9.:-]+', '-', name)}}}",
        r"\sisetup{detect-weight=true, group-digits=integer, group-separator={,}, group-minimum-digits=4,"
        r" table-align-text-pre=false, table-align-text-post=false}",
        r"\smallskip\setlength{\tabcolsep}{5pt}",
        r"\def\body{%",
        rf"\begin{{tabular}}{{l{''.join(spec for spec, _ in kinds)}}}",
        r"\toprule",
        *_groups(layout, widths),
        " & ".join([escaped(layout.corner), *titles]) + r" \\",
        r"\midrule",
    ]
    for row in layout.rows:
        cells = [_cell(cell, width) for cell, width in zip(row.cells, widths, strict=True)]
        out.append(" & ".join([escaped(row.label), *cells]) + r" \\")
    below = escaped(ABOUT_FILES.sub("", " ".join(layout.notes)))
    fit = [*FIT[:-1], SCALED] if layout.sideways else FIT
    out += [r"\bottomrule", r"\end{tabular}}", *fit, rf"\par\smallskip\footnotesize {below}"]
    out.append(rf"\end{{{environment}}}")
    return "\n".join(out) + "\n"


def _groups(layout: Layout, widths: Sequence[int]) -> list[str]:
    """Return the line of the groups of columns and the rules below it; none where there is no group.

    Args:
        widths: how many columns of the tabular each column takes.
    """
    groups = list(layout.groups())
    if not any(group for group, _ in groups):
        return []
    line, rules, at, seen = [""], [], 2, 0
    for group, span in groups:
        width = sum(widths[seen : seen + span])
        line.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(group)}}}")
        if group:
            rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
        at, seen = at + width, seen + span
    return [" & ".join(line) + r" \\", " ".join(rules)]


def _kind(column: Sequence[TextCell]) -> tuple[str, int]:
    """Return how a column is set, and how many columns of the tabular it takes: a spread has its own.

    (siunitx sets a value and its uncertainty in one column, but does not space the sign between them.)
    """
    numbers = [one for one in column if _is_number(one.value)]
    if not numbers:
        return "l", 1
    deviations = [one.deviation for one in numbers if one.deviation]
    post = r", table-space-text-post={$^\dagger$}" if any(one.alike for one in column) else ""
    if deviations:
        spread = rf"@{{\,}}S[table-format={_form(deviations)}, table-space-text-pre={{$\pm$\,}}{post}]"
        return f"S[table-format={_form([one.value for one in numbers])}]{spread}", 2
    form = f"S[table-format={_form([one.value for one in numbers])}{post}]"
    return (rf"{form}@{{\,}}l", 2) if any(one.interval for one in numbers) else (form, 1)


def _title(title: str, column: Sequence[TextCell]) -> str:
    """Return a heading in lines that are not much wider than what stands below it."""
    lines = textwrap.wrap(title, 2 + max(len(one.plain()) for one in column), break_long_words=False)
    text = r"\\".join(map(escaped, lines))
    return rf"\shortstack{{{text}}}" if len(lines) > 1 else text


def _form(numbers: Sequence[str]) -> str:
    """Return the room that numbers take: sign, digits before the point, digits after it, power of ten."""
    parts = [_short(number).partition("e") for number in numbers]
    whole = max(len(number.lstrip("+-").partition(".")[0]) for number, _, _ in parts)
    sign = "-" if any(number[0] in "+-" for number, _, _ in parts) else ""
    powers = [power for _, _, power in parts if power]
    room = ""
    if powers:
        room = f"e{'-' if any('-' in power for power in powers) else ''}{max(map(len, powers)) - 1}"
    return f"{sign}{whole}.{max(len(number.partition('.')[2]) for number, _, _ in parts)}{room}"


def _short(number: str) -> str:
    """Return a number as siunitx reads it: 1.2e-7 for 1.2e-07."""
    return POWER.sub(lambda found: f"{found[1]}e{int(found[2]):+d}", number.replace(",", ""))


def _cell(one: TextCell, width: int) -> str:
    empty = " &" if width == 2 else ""
    if not _is_number(one.value):
        return f"{{{escaped(one.value)}}}" + empty
    bold = r"\bfseries " if one.best else ""
    mark = r"{$^\dagger$}" if one.alike else ""
    value = bold + _short(one.value)
    if one.deviation:
        return rf"{value} & {{$\pm$\,}}{_short(one.deviation)}{mark}"
    if one.interval:
        interval = POWER.sub(lambda found: rf"${found[1]}\times10^{{{int(found[2])}}}$", one.interval)
        return f"{value}{mark} & {{{bold}{interval}}}"
    return value + mark + empty


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
