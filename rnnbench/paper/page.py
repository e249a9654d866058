"""report.html: the table, its figures and where they come from, as one file that needs no network."""

import base64
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnnbench.paper.aggregate import FilledTable
from rnnbench.paper.drawing import caption
from rnnbench.paper.figures import KINDS
from rnnbench.paper.notes import OF
from rnnbench.paper.planning import TableSearch
from rnnbench.paper.provenance import own_folders, provenance
from rnnbench.render.html import html as table_element
from rnnbench.render.layout import Layout
from rnnbench.system.plain_text import html

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #666; --line: #d4d4d4; --page: #fff;
  --lift: #f5f5f3 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --soft: #a2a2a0; --line: #3c3c3c; --page: #161616; --lift: #222 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--page);  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 .5rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
p { max-width: 46rem } .soft, .notes { color: var(--soft); font-size: .875rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; width: 100% }
caption { display: none } .plain thead th { white-space: normal; vertical-align: bottom }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap }
th:first-child, table.plain th, table.plain td { text-align: left } tbody th { font-weight: 500 }
thead tr:last-child th { border-bottom: 1px solid var(--ink) }
th[colspan] { text-align: center; border-bottom: 1px solid var(--line) }
tbody tr { border-bottom: 1px solid var(--line) }
.sortable button { all: unset; cursor: pointer; font-weight: 600 }
.sortable button:focus-visible { outline: 2px solid #0072b2; outline-offset: 2px }
.sortable [aria-sort=ascending] button::after { content: " ↑" }
.sortable [aria-sort=descending] button::after { content: " ↓" }
.paper th:first-child { position: sticky; left: 0; background: var(--page) }
.figures p { margin: .3rem 0 0 }
@media (max-width: 40rem) { th, td { padding: .35rem .45rem } table { font-size: .8125rem } }
.wide svg { min-width: 36rem }
.wide { grid-column: 1 / -1 }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)) }
figure { margin: 0; padding: .5rem; background: #fff; border: 1px solid var(--line); border-radius: 6px;
  overflow-x: auto } figure svg { width: 100%; height: auto; display: block }
.toggles { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: 0 0 .8rem; font-size: .875rem }
details { border-top: 1px solid var(--line); padding: .6rem 0 } summary { cursor: pointer }
pre { background: var(--lift); padding: .7rem .9rem; border-radius: 6px; overflow-x: auto;
  font-size: .8125rem }
.warn { border-left: 3px solid #d55e00; padding-left: .8rem }
"""

SCRIPT = """
for (const head of document.querySelectorAll('.sortable')) {
  [...head.children].forEach((cell, column) => {
    const button = document.createElement('button')
    button.append(...cell.childNodes)
    cell.append(button)
    button.onclick = () => {
      const up = cell.getAttribute('aria-sort') === 'descending'
      for (const other of head.children) other.removeAttribute('aria-sort')
      cell.setAttribute('aria-sort', up ? 'ascending' : 'descending')
      const body = head.closest('table').tBodies[0]
      const key = row => row.children[column].dataset.sort ?? row.children[column].textContent
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)]
        const order = x !== '' && y !== '' && !isNaN(x) && !isNaN(y) ? x - y : x.localeCompare(y)
        return up ? order : -order
      })
      body.append(...rows)
    }
  })
}
for (const box of document.querySelectorAll('.toggles input'))
  box.onchange = () => {
    for (const part of document.querySelectorAll('figure [data-series]'))
      if (part.dataset.series === box.value) part.style.display = box.checked ? '' : 'none'
  }
"""


def report(filled: FilledTable, shown: Layout, searches: Sequence[TableSearch], folder: Path) -> str:
    """Return the page of a table whose figures are drawn already.

    Args:
        shown: the table as it is printed.
        folder: of the table, with the figures.
    """
    table, name = filled.table, folder.name
    facts = provenance(filled, searches)
    title = html(table.title)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><link rel='icon' href='data:,'><style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
    ]
    if table.caption:
        parts.append(f"<p>{html(table.caption)}</p>")
    parts += [f"<p class='warn'>{html(warning)}</p>" for warning in facts["warnings"]]
    parts += ["<div class='scroll'>", table_element(shown), "</div>"]
    parts.append(f"<p class='notes'>{html(' '.join(shown.notes))}</p>")
    if filled.comparisons:
        parts += ["<h2>Comparisons</h2>", *_comparisons(filled)]
    if table.figures:
        parts += ["<h2>Figures</h2>", *_figures(filled, folder)]
    parts += ["<h2>Where the numbers come from</h2>", *_runs(filled, facts), "<h2>Again</h2>"]
    paper = ["python", "-m", "rnnbench.paper"]
    again = shlex.join([*paper, *(filled.command or [f"table={name}"])])
    place = [word for word in filled.command if word.startswith("source=")]
    check = shlex.join([*paper, "verify", f"multirun/paper/{name}", *place])
    parts += [
        f"<pre>{html(again)}\n{html(check)}</pre>",
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _comparisons(filled: FilledTable) -> list[str]:
    heads = [
        "row",
        "against",
        "metric",
        f"difference of {OF[filled.table.statistic]}",
        "95 % interval",
        "p (Holm)",
    ]
    heads += ["P(better) [95 %]", "n"]
    if len(filled.columns) > 1:
        heads.insert(0, "column")
    out = ["<div class='scroll'><table class='plain'><thead><tr class='sortable'>"]
    out += [*(f"<th>{head}</th>" for head in heads), "</tr></thead><tbody>"]
    for c in filled.comparisons:
        d = c.difference
        interval = "" if d.low is None else f"[{d.low:+.4g}, {d.high:+.4g}]"
        wins = c.improvement
        bounds = "" if wins.low is None else f" [{wins.low:.2f}, {wins.high:.2f}]"
        cells = [
            filled.name(c.row),
            filled.name(c.reference),
            filled.table.label(c.metric),
            f"{d.value:+.4g}",
        ]
        cells += [interval, "" if c.p is None else f"{c.p:.3g}", f"{wins.value:.2f}{bounds}", str(d.n)]
        if len(filled.columns) > 1:
            cells.insert(0, filled.name(c.column))
        out.append(f"<tr>{''.join(f'<td>{html(cell)}</td>' for cell in cells)}</tr>")
    return [*out, "</tbody></table></div>", f"<p class='notes'>{html(_how(filled))}</p>"]


def _how(filled: FilledTable) -> str:
    """Return what the columns of the comparisons are."""
    paired = {c.difference.paired for c in filled.comparisons}
    interval = "Student's t on the differences of pairs" if True in paired else "Welch's t"
    interval = (
        "Student's t on the differences of pairs, Welch's t where seeds differ"
        if len(paired) > 1
        else interval
    )
    if filled.table.over or filled.table.statistic != "mean":
        interval = "bootstrap, each task's runs by themselves"
    return (
        f"Interval of the difference: {interval}. p: both sides, after Holm's correction over {filled.tests} "
        "comparisons. P(better): the share of pairs of runs, one of each row, in which the row's is better, "
        "a tie for half, with the bootstrap's interval (Agarwal et al. 2021)."
    )


def _figures(filled: FilledTable, folder: Path) -> list[str]:
    toggles = [
        f"<label><input type='checkbox' checked value='{number}'> {html(filled.name(row))}</label>"
        for number, row in enumerate(filled.rows)
    ]
    out = [f"<div class='toggles'>{''.join(toggles)}</div>", "<div class='figures'>"]
    for number, (name, how) in enumerate(filled.table.figures.items()):
        svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
        svg = svg[svg.index("<svg") :]
        # One page has each id once; the series keep their name where the switches find it.
        svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>f{number}-", svg)
        svg = re.sub(rf'id="f{number}-series-(\d+)-\d+"', r'data-series="\1"', svg)
        links = " ".join(
            f"<a download='{html(name)}.{form}' "
            f"href='data:{kind};base64,{_encoded(folder, name, form)}'>{form}</a>"
            for form, kind in (("pdf", "application/pdf"), ("png", "image/png"))
        )
        label = html(how.title or name)
        wide = " class='wide'" if KINDS[how.kind].wide else ""
        out.append(
            f"<div{wide}><figure role='img' aria-label='{label}'>{svg}</figure><p class='soft'>"
            f"{html(caption(filled.table, how))} {links}</p></div>"
        )
    return [*out, "</div>"]


def _encoded(folder: Path, name: str, form: str) -> str:
    return base64.b64encode((folder / f"{name}.{form}").read_bytes()).decode()


def _runs(filled: FilledTable, facts: dict[str, Any]) -> list[str]:
    out = []
    for search in facts["searches"]:
        words = ["python", "-m", "rnnbench", *own_folders(filled), "-m", *search["overrides"]]
        command = html(shlex.join(words))
        winner = html(f"{search['winner_command']}")
        space = ", ".join(f"{key} from {over}" for key, over in search["space"].items())
        title = f"Search for {search['row']}: {search['trials']} trials of {search['sampler']}, "
        title += f"winner {search['winner']}"
        out.append(
            f"<details><summary>{html(title)}</summary><p>{html(space)}</p>"
            f"<pre>{command}\n\n{winner}</pre></details>"
        )
    runs = [trial for trial in facts["trials"] if "job" in trial]
    out.append(f"<details><summary>{len(runs)} runs: ids, seeds, code, data</summary>")
    heads = ["trial", "row", "column", "seed", "MLflow run", "commit", "kernel", "device", "versions"]
    heads += ["data (sha256)", "rerun"]
    out.append("<div class='scroll'><table class='plain'><thead><tr class='sortable'>")
    out.append("".join(f"<th>{head}</th>" for head in heads) + "</tr></thead><tbody>")
    for trial in runs:
        commit = (trial["commit"] or "")[:10] + (" (differs)" if trial["dirty"] else "")
        cells = [trial["trial"], " ".join(map(str, trial["row"])), " ".join(map(str, trial["column"]))]
        cells += [str(trial["seed"]), trial["run_id"] or "", commit]
        cells += [trial["tags"].get("kernel", ""), trial["tags"].get("device", "")]
        cells += [", ".join(f"{name} {version}" for name, version in trial["versions"].items())]
        cells += [(trial["data_checksum"] or "")[:10], trial["rerun"]]
        out.append(f"<tr>{''.join(f'<td>{html(cell)}</td>' for cell in cells)}</tr>")
    return [*out, "</tbody></table></div></details>"]
