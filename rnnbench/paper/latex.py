r"""A filled table as LaTeX: booktabs, numbers aligned by siunitx.

\documentclass{article}
\usepackage{booktabs,siunitx}
\begin{document}
\input{table.tex}
\end{document}
"""

import textwrap
from collections.abc import Sequence

from rnnbench.paper.aggregate import Filled
from rnnbench.paper.notes import notes
from rnnbench.paper.text import Shown, corner, layout, spans

ESCAPES = {
    "\\": r"\textbackslash{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
}

# Set in the largest size in which it is no wider than the line.
FIT = [
    r"\sbox0{\body}",
    r"\ifdim\wd0>\linewidth\small\setlength{\tabcolsep}{3pt}\sbox0{\body}\fi",
    r"\ifdim\wd0>\linewidth\footnotesize\sbox0{\body}\fi",
    r"\ifdim\wd0>\linewidth\scriptsize\setlength{\tabcolsep}{2pt}\sbox0{\body}\fi",
    r"\usebox0",
]


def escaped(text: str) -> str:
    """Text that stands for itself in LaTeX."""
    return "".join(ESCAPES.get(char, char) for char in text)


def latex(filled: Filled) -> str:
    """A table environment: caption, tabular, notes."""
    headings, rows = layout(filled)
    columns = list(zip(*(shown for _, shown in rows), strict=True))
    kinds = [_kind(column) for column in columns]
    out = [
        "% made by python -m rnnbench.paper; needs booktabs and siunitx",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(filled.table.title)}. {escaped(' '.join(filled.table.caption.split()))}}}",
        r"\sisetup{detect-weight=true, group-digits=integer, group-separator={,}, group-minimum-digits=4,"
        r" table-align-text-pre=false, table-align-text-post=false}",
        r"\smallskip\setlength{\tabcolsep}{5pt}",
        r"\def\body{%",
        rf"\begin{{tabular}}{{l{''.join(spec for spec, _ in kinds)}}}",
        r"\toprule",
    ]
    widths = [width for _, width in kinds]
    groups = list(spans(headings))
    if any(group for group, _ in groups):
        line, rules, at, seen = [""], [], 2, 0
        for group, span in groups:
            width = sum(widths[seen : seen + span])
            line.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(group)}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
            at, seen = at + width, seen + span
        out += [" & ".join(line) + r" \\", " ".join(rules)]
    titles = [
        rf"\multicolumn{{{width}}}{{c}}{{{_title(heading.title, column)}}}"
        for heading, width, column in zip(headings, widths, columns, strict=True)
    ]
    out += [" & ".join([escaped(corner(filled)), *titles]) + r" \\", r"\midrule"]
    for label, shown in rows:
        cells = [_cell(one, width) for one, width in zip(shown, widths, strict=True)]
        out.append(" & ".join([escaped(label), *cells]) + r" \\")
    below = escaped(" ".join(notes(filled)))
    out += [r"\bottomrule", r"\end{tabular}}", *FIT, rf"\par\smallskip\footnotesize {below}", r"\end{table}"]
    return "\n".join(out) + "\n"


def _kind(column: Sequence[Shown]) -> tuple[str, int]:
    """How a column is set, and how many columns of the tabular it takes: a spread has its own.

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


def _title(title: str, column: Sequence[Shown]) -> str:
    """A heading in lines that are not much wider than what stands below it."""
    lines = textwrap.wrap(title, 2 + max(len(one.plain()) for one in column), break_long_words=False)
    text = r"\\".join(map(escaped, lines))
    return rf"\shortstack{{{text}}}" if len(lines) > 1 else text


def _form(numbers: Sequence[str]) -> str:
    """The room that numbers take: sign, digits before the point, digits after it, exponent."""
    exponent = max((number.partition("e")[2] for number in numbers), key=len)
    numbers = [number.partition("e")[0] for number in numbers]
    whole = max(len(number.replace(",", "").lstrip("+-").partition(".")[0]) for number in numbers)
    sign = "-" if any(number[0] in "+-" for number in numbers) else ""
    places = max(len(number.partition(".")[2]) for number in numbers)
    return f"{sign}{whole}.{places}{f'e{int(exponent)}' if exponent else ''}"


def _cell(one: Shown, width: int) -> str:
    empty = " &" if width == 2 else ""
    if not _is_number(one.value):
        return f"{{{escaped(one.value)}}}" + empty
    bold = r"\bfseries " if one.bold else ""
    mark = r"{$^\dagger$}" if one.alike else ""
    value = f"{bold}{one.value.replace(',', '')}"
    if one.deviation:
        return rf"{value} & {{$\pm$\,}}{one.deviation}{mark}"
    if one.interval:
        return f"{value}{mark} & {{{bold}{one.interval}}}"
    return value + mark + empty


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
