"""python -m rnnbench.paper as it is typed: runs what is missing, once, and writes the same bytes again."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow_store import client

from rnnbench.paper.__main__ import main
from rnnbench.record import job_folders

TINY = """# python -m rnnbench.paper table=tiny
# Expected: a table
title: Two cells
sweep: ["model=lstm,gru", "seed=range(3)", model.hidden_size=4, fit.epochs=2, data.train_size=64]
metrics: [parameters/total, test/accuracy]
figures:
  curves: { kind: curves }
"""
TUNED = """# python -m rnnbench.paper table=tuned
# Expected: a table
title: Two cells at their best
sweep: [model.hidden_size=4, fit.epochs=2, data.train_size=64]
tuned:
  rows: [model=lstm, model=gru]
  search: [search=rate]
  trials: 3
  fresh: "101,102"
metrics: [best/val_accuracy]
figures:
  sensitivity: { kind: sensitivity }
  importances: { kind: importances }
"""
FILES = ["table.tex", "table.md", "table.csv", "table.html", "provenance.json", "report.html", "curves.pdf"]


Command = Callable[..., str]


@pytest.fixture
def paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in a directory with tables of one's own; what it and the app say."""
    (tmp_path / "mine" / "table").mkdir(parents=True)
    (tmp_path / "mine" / "table" / "tiny.yaml").write_text(TINY)
    (tmp_path / "mine" / "table" / "tuned.yaml").write_text(TUNED)
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["paper", *words])
        ended: object = 0
        try:
            main()
        except SystemExit as exit:
            ended = exit.code
        said = "".join(capfd.readouterr())
        if isinstance(ended, str):
            said, ended = said + ended, 1
        assert ended == code, said
        return said

    return run


def test_a_table_from_nothing_to_verified(paper, tmp_path):
    mine = ("--config-dir=mine", "table=tiny")
    assert "Two cells: 6 trials, 0 are recorded in sqlite:///mlflow.db" in paper(*mine)
    out = tmp_path / "multirun" / "paper" / "tiny"
    first = {name: (out / name).read_bytes() for name in FILES}
    assert len(job_folders(out / "runs" / "1")) == 6
    trials = json.loads(first["provenance.json"])["trials"]
    store = client(f"sqlite:///{tmp_path}/mlflow.db")
    parent = store.get_run(trials[0]["run_id"]).data.tags["mlflow.parentRunId"]
    assert "paper/tiny/curves.pdf" in {file.path for file in store.list_artifacts(parent, "paper/tiny")}

    for trial in trials[:3]:
        store.delete_run(trial["run_id"])
    assert "6 trials, 3 are recorded" in paper(*mine)
    assert len(job_folders(out / "runs" / "2")) == 3
    assert (out / "table.csv").read_bytes() == first["table.csv"]

    # Elsewhere, from the same records.
    before = {name: (out / name).read_bytes() for name in FILES}
    for job in job_folders(out / "runs" / "1")[:3]:  # those that were deleted in MLflow
        shutil.rmtree(job)
    shutil.move(tmp_path / "multirun", tmp_path / "records")
    there = ("source=records", "--no-run")
    assert "6 trials, 6 are recorded in records" in paper(*mine, *there)
    assert [name for name in FILES if (out / name).read_bytes() != before[name]] == []
    assert "every number is what the records give" in paper("verify", str(out), "source=records")
    text = (out / "table.md").read_text()
    (out / "table.md").write_text(text.replace("0.", "0.9", 1))
    assert "table.md, line" in paper("verify", str(out), "source=records", code=1)


@pytest.mark.slow
def test_a_dry_run_runs_nothing(paper, tmp_path):
    said = paper("--config-dir=mine", "table=tiny", "--dry-run")
    assert "Two cells: 6 trials, 0 are recorded in sqlite:///mlflow.db" in said
    assert "6 trials in 2 kinds of stacks" in said  # the app's own estimate
    assert not (tmp_path / "multirun").exists()


@pytest.mark.slow
def test_each_row_the_winner_of_its_own_search(paper, tmp_path):
    mine = ("--config-dir=mine", "table=tuned", "tracking.uri=null")
    said = paper(*mine)
    assert "searching for model=gru: 3 trials" in said
    out = tmp_path / "multirun" / "paper" / "tuned"
    facts = json.loads((out / "provenance.json").read_text())
    assert [search["row"] for search in facts["searches"]] == ["model=lstm", "model=gru"]
    assert all(search["winner_command"].startswith("python -m rnnbench ") for search in facts["searches"])
    assert [trial["seed"] for trial in facts["trials"]] == [101, 102, 101, 102]
    winner = facts["searches"][0]["winner_command"]
    assert f"optim.lr={facts['trials'][0]['params']['optim.lr']!r}" in winner
    first = (out / "report.html").read_bytes()
    said = paper(*mine)
    assert "search for model=lstm: 3 of 3 trials are recorded" in said and "searching" not in said
    assert "4 trials, 4 are recorded in multirun" in said
    assert (out / "report.html").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits"], "digits: give table=NAME, or verify FOLDER"),
        (["verify"], "verify: give the folder of a table"),
        (["table=nothing"], "table=nothing: there is no such table; there is adding50"),
        (["table=digits", "model=lsmt"], "sweep: In 'config': Could not find 'model/lsmt'"),
        (["table=digits", "--no-run"], "source=sqlite:///mlflow.db: there is nothing"),
    ],
)
def test_refusals(words, message, paper):
    assert f"error: {message}" in paper(*words, code=1)


@pytest.mark.slow
def test_latex_compiles(paper, tmp_path):
    """Needs Debian's texlive-latex-recommended and texlive-science."""
    if shutil.which("pdflatex") is None:
        pytest.skip("there is no pdflatex")
    paper("table=digits")
    paper("table=tuned_digits")
    for name in ("digits", "tuned_digits"):
        table = tmp_path / "multirun" / "paper" / name / "table.tex"
        document = tmp_path / f"{name}.tex"
        document.write_text(
            "\\documentclass{article}\n\\usepackage{booktabs,siunitx}\n\\begin{document}\n"
            f"\\input{{{table}}}\n\\end{{document}}\n"
        )
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", document.name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Overfull" not in done.stdout
