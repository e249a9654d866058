"""Writes report.html: the table, its figures and their provenance, as one file that needs no network."""

import base64
import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from rnnbench.paper.aggregate import Comparison, FilledTable
from rnnbench.paper.drawing import caption
from rnnbench.paper.figures import KINDS
from rnnbench.paper.folds import part_of
from rnnbench.paper.notes import OF
from rnnbench.paper.provenance import own_folders
from rnnbench.render.html import html as table_element
from rnnbench.render.layout import Layout
from rnnbench.system.plain_text import html

PAPER = ["python", "-m", "rnnbench.paper"]
RUN_HEADINGS = ["trial", "row", "column", "seed", "MLflow run", "commit", "kernel", "device", "versions",
                "data (sha256)", "rerun"]  # fmt: skip
FORMATS = {"pdf": "application/pdf", "png": "image/png"}  # formats that the page offers for download


@cache
def _template() -> Template:
    """Return the page's template, which escapes text as table.html does, unless it is Markup."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(html(str(value))),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.jinja")


def report(
    filled: FilledTable, shown: Layout, judged: Sequence[Layout], facts: dict[str, Any], folder: Path
) -> str:
    """Return the page of a table whose figures are drawn already.

    Args:
        shown: the table's layout.
        judged: those of its verdicts, in brief and whole, if it has any.
        facts: the content of provenance.json.
        folder: the table's folder, with the figures.
    """
    name = folder.name
    place = [word for word in filled.command if word.startswith("source=")]
    return _template().render(
        table=filled.table,
        warnings=facts["warnings"],
        element=Markup(table_element(shown)),
        notes=" ".join(shown.notes),
        claims=[paragraph for one in judged for paragraph in one.text],
        verdicts=[{"element": Markup(table_element(one)), "notes": " ".join(one.notes)} for one in judged],
        comparisons=_comparisons(filled),
        explanation=_how(filled),
        rows=[filled.name(row) for row in filled.rows],
        figures=[_figure(filled, folder, number) for number in range(len(filled.table.figures))],
        searches=[_search(filled, search) for search in facts["searches"]],
        runs=[RUN_HEADINGS, *(_run(trial) for trial in facts["trials"] if "job" in trial)],
        again=shlex.join([*PAPER, *(filled.command or [f"table={name}"])]),
        verify=shlex.join([*PAPER, "verify", f"multirun/paper/{name}", *place]),
    )


def _comparisons(filled: FilledTable) -> list[list[str]]:
    """Return the rows of the table of comparisons, headings first; [] if there are no comparisons."""
    headings = ["row", "against", "metric", f"difference of {OF[filled.table.statistic]}", "95 % interval",
                "p (Holm)", "P(better) [95 %]", "n"]  # fmt: skip
    several = ["column"] if len(filled.columns) > 1 else []
    lines = [_comparison(filled, c) for c in filled.comparisons if c.metric not in filled.table.margin]
    return [several + headings, *lines] if lines else []


def _comparison(filled: FilledTable, c: Comparison) -> list[str]:
    """Return the cells of a comparison."""
    d, wins = c.difference, c.improvement
    bounds = "" if wins.low is None else f" [{wins.low:.2f}, {wins.high:.2f}]"
    return [
        *([filled.name(c.column)] if len(filled.columns) > 1 else []),
        filled.name(c.row),
        filled.name(c.reference),
        filled.table.label(c.metric),
        f"{d.value:+.4g}",
        "" if d.low is None else f"[{d.low:+.4g}, {d.high:+.4g}]",
        "" if c.p is None else f"{c.p:.3g}",
        f"{wins.value:.2f}{bounds}",
        str(d.n),
    ]


def _how(filled: FilledTable) -> str:
    """Return an explanation of the columns of the table of comparisons."""
    paired = {c.difference.paired for c in filled.comparisons}
    interval = "Student's t on the differences of pairs" if True in paired else "Welch's t"
    interval = (
        "Student's t on the differences of pairs, Welch's t where seeds differ"
        if len(paired) > 1
        else interval
    )
    if filled.table.over or filled.table.statistic != "mean":
        interval = "bootstrap, each task's runs by themselves"
    if filled.by_fold:
        interval = "Student's t on the differences of folds, with Nadeau and Bengio's variance (2003)"
    return (
        f"Interval of the difference: {interval}. p: both sides, after Holm's correction over {filled.tests} "
        "comparisons. P(better): the share of pairs of runs, one of each row, in which the row's is better, "
        "a tie for half, with the bootstrap's interval (Agarwal et al. 2021)."
    )


def _figure(filled: FilledTable, folder: Path, number: int) -> dict[str, Any]:
    """Return a figure's SVG, its caption and its files for download."""
    name, how = list(filled.table.figures.items())[number]
    svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    # Ids are unique in a page; those of series keep their name, by which the page shows and hides them.
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>f{number}-", svg)
    svg = re.sub(rf'id="f{number}-series-(\d+)-\d+"', r'data-series="\1"', svg)
    files = [
        {"name": f"{name}.{form}", "form": form, "kind": kind, "content": _encoded(folder / f"{name}.{form}")}
        for form, kind in FORMATS.items()
    ]
    return {
        "label": how.title or name,
        "svg": Markup(svg),
        "caption": caption(filled.table, how),
        "wide": KINDS[how.kind].wide,
        "files": files,
    }


def _encoded(file: Path) -> str:
    """Return a file in base64."""
    return base64.b64encode(file.read_bytes()).decode()


def _search(filled: FilledTable, search: dict[str, Any]) -> dict[str, str]:
    """Return a search of provenance.json as text."""
    words = ["python", "-m", "rnnbench", *own_folders(filled), "-m", *search["overrides"]]
    title = f"Search for {search['row']}: {search['trials']} trials of {search['sampler']}, "
    return {
        "title": title + f"winner {search['winner']}",
        "space": ", ".join(f"{key} from {over}" for key, over in search["space"].items()),
        "command": shlex.join(words),
        "winner": f"{search['winner_command']}",
    }


def _seed(trial: dict[str, Any]) -> str:
    """Return the seed of a run, and its fold if its data has folds."""
    folds, fold = part_of(trial["params"])
    return f"{trial['seed']}" if folds is None else f"{trial['seed']}, fold {fold} of {folds}"


def _run(trial: dict[str, Any]) -> list[str]:
    """Return the cells of a run of provenance.json."""
    return [
        trial["trial"],
        " ".join(map(str, trial["row"])),
        " ".join(map(str, trial["column"])),
        _seed(trial),
        trial["run_id"] or "",
        (trial["commit"] or "")[:10] + (" (differs)" if trial["dirty"] else ""),
        trial["tags"].get("kernel", ""),
        trial["tags"].get("device", ""),
        ", ".join(f"{name} {version}" for name, version in trial["versions"].items()),
        (trial["data_checksum"] or "")[:10],
        trial["rerun"],
    ]
