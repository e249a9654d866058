"""report.html as its readers see it: in headless Chromium, and the pages that LaTeX makes of table.tex."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from browser import Browser, chromium
from test_paper import CELLS, NEED_MORE, SEEDS, config_of, leave, planned_of, runs, table, write_out
from test_plain_text import NAMES

from rnnbench.paper.aggregate import fill
from rnnbench.paper.figures import STOCK
from rnnbench.paper.files import texts
from rnnbench.reader import Folders

__all__ = ["runs"]  # a fixture
FIGURES = {kind: {"kind": kind} for kind in STOCK if kind not in NEED_MORE}
COLUMN = """
const rows = [...document.querySelector('table.paper').tBodies[0].rows]
return rows.map(row => row.children[arguments[0]].textContent)"""
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"
CONTRAST = """
const light = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  return .2126 * r + .7152 * g + .0722 * b
}
const page = light(getComputedStyle(document.body).backgroundColor)
return Math.min(...[...document.querySelectorAll('h1, p, td, th, summary')].map(part => {
  const ink = light(getComputedStyle(part).color)
  return (Math.max(ink, page) + .05) / (Math.min(ink, page) + .05)
}))"""


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(width, dark, runs, tmp_path):
    """Needs Debian's chromium and chromium-driver."""
    if shutil.which("chromedriver") is None:
        pytest.skip("there is no chromedriver")
    page = write_out(runs, tmp_path / "out" / "name", figures=FIGURES) / "report.html"
    with chromium() as browser:
        browser.open(page, width, dark)
        assert browser.js("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
        assert browser.js(BACKGROUND) == ("rgb(22, 22, 22)" if dark else "rgb(255, 255, 255)")
        assert browser.js(CONTRAST) >= 4.5  # WCAG AA
        assert browser.js("return document.querySelectorAll('figure svg').length") == len(FIGURES)
        sorts(browser)
        switches(browser)
        assert browser.js("return [...document.querySelectorAll('details')].map(d => d.open)") == [False]
        browser.js("document.querySelector('summary').click()")
        assert "python -m rnnbench model=lstm seed=0" in browser.js("return document.body.innerText")
        assert browser.js("return document.documentElement.scrollWidth") == width
        assert browser.console() == []
        browser.js("console.error('seen')")
        assert len(browser.console()) == 1  # it would have said so


def sorts(browser: Browser) -> None:
    """A click on a heading sorts, the next the other way; numbers as numbers."""
    click = "document.querySelectorAll('table.paper .sortable button')[arguments[0]].click()"
    assert browser.js(COLUMN, 0) == ["lstm", "gru", "rnn"]
    browser.js(click, 1)
    assert browser.js(COLUMN, 1) == ["5,110", "5,085", "4,951"]
    browser.js(click, 2)
    browser.js(click, 2)
    assert browser.js(COLUMN, 0) == ["rnn", "gru", "lstm"]
    browser.js(click, 0)
    assert browser.js(COLUMN, 0) == ["rnn", "lstm", "gru"]


def switches(browser: Browser) -> None:
    """A row's box takes it out of the figures and brings it back."""
    hidden = """
    const parts = [...document.querySelectorAll('figure [data-series="1"]')]
    return [parts.length > 0, new Set(parts.map(part => getComputedStyle(part).display === 'none')).size,
            getComputedStyle(parts[0]).display === 'none']"""
    toggle = "document.querySelector('.toggles input[value=\"1\"]').click()"
    for gone in (True, False):
        browser.js(toggle)
        assert browser.js(hidden) == [True, 1, gone]


def compiled(text: str, folder: Path) -> str:
    """What pdflatex says of a minimal document with this table."""
    (folder / "table.tex").write_text(text)
    (folder / "minimal.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs,siunitx}\n\\begin{document}\n"
        "\\input{table.tex}\n\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "minimal.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout.replace("LaTeX Warning: Label(s) may have changed.", "")  # it was run but once


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"spread": "student"},
        {"spread": "bootstrap", "statistic": "iqm", "compare": "gru"},
        {"spread": "none", "metrics": ["test/accuracy", "test/loss"]},
        {"metrics": ["parameters/total", "best/val_accuracy", "test/accuracy", "time/train_seconds"]},
        {"title": "5 % of a_b & {c} #1 ~ ^ \\ < > $x$", "caption": "As above: 5 % & more."},
        {"title": " ".join(name[:20] for name in NAMES), "caption": "äöüßéçñÅøŁ αβΩ ≤ “x” — 中 😀"},
        {"labels": dict(zip(("lstm", "gru", "rnn"), NAMES[:3], strict=True))},
        {"labels": dict(zip(("lstm", "gru", "rnn"), ("[link](x)", "*star", "|a|--b"), strict=True))},
        {"wide": True, "metrics": ["test/loss", "tiny"]},
        {"published": {"key": "bai2018", "task": "seq_mnist", "metric": "accuracy", "ours": "test/accuracy"}},
    ],
    ids=[
        "plain",
        "interval",
        "iqm",
        "infinite",
        "wide",
        "signs",
        "names",
        "rows",
        "options",
        "tiny",
        "published",
    ],
)
def test_latex_compiles(changes, runs, tmp_path):
    """Needs Debian's texlive-latex-recommended and texlive-science."""
    if shutil.which("pdflatex") is None:
        pytest.skip("there is no pdflatex")
    for job in (runs / "1").glob("[0-9]*"):
        result = json.loads((job / "result.json").read_text())
        result["metrics"]["tiny"] = 1.25e-7 * result["metrics"]["test/accuracy"]
        result["metrics"]["best/val_accuracy"] = result["metrics"]["test/accuracy"]
        (job / "result.json").write_text(json.dumps(result))
    planned = [planned_of(config_of(model, seed)) for model in CELLS for seed in SEEDS]
    filled = fill(table(**changes), planned, Folders(runs))
    said = compiled(texts(filled, [], tmp_path)["table.tex"], tmp_path)
    assert "Overfull" not in said
    assert "Warning" not in said


@pytest.mark.slow
def test_latex_fits_a_table_of_many_columns_to_the_line(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("there is no pdflatex")
    planned = []
    for batch in (8, 16, 32, 64):
        for model in CELLS:
            for seed in SEEDS:
                config = config_of(model, seed, batch_size=batch)
                leave(tmp_path / f"{batch}{model}{seed}", config, 0.9 + 0.01 * seed)
                planned.append(planned_of(config))
    filled = fill(table(columns=["fit.batch_size"]), planned, Folders(tmp_path))
    text = texts(filled, [], tmp_path)["table.tex"]
    assert "Overfull" not in compiled(text, tmp_path)
    # Four groups of columns are wider than the line of an article: it is the fitting that helps.
    lines = [line for line in text.splitlines() if not line.startswith(r"\ifdim")]
    wide = "\n".join(lines)
    assert "Overfull" in compiled(wide, tmp_path)
