"""python -m rnnbench.paper as it is typed: runs what is missing, once, and writes the same bytes again."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from mlflow_store import client

from rnnbench.config import ConfigError
from rnnbench.mlflow_sync.reading import ClientRuns
from rnnbench.mlflow_sync.sql import SqlRuns
from rnnbench.paper import planning
from rnnbench.paper.__main__ import main
from rnnbench.paper.definition import Tuning, read_table
from rnnbench.paper.forks import Forks
from rnnbench.paper.planning import App, make_plan, search_of
from rnnbench.reader import Folders
from rnnbench.record import job_folders
from tests.forked import forked_command

TINY = """# python -m rnnbench.paper table=tiny
# Expected: a table
title: Two cells
sweep: ["model=lstm,gru", "seed=range(3)", model.hidden_size=4, fit.epochs=2, data.train_size=64]
metrics: [parameters/total, test/accuracy]
figures:
  curves: { kind: curves }
"""
SPACE = """# @package _global_
defaults:
  - override /hydra/sweeper: optuna
  - override /hydra/sweeper/sampler: random
hydra:
  sweeper:
    space:
      fit.clip: choice(0.1, 1, 10)
      optim.lr:
        - { over: "tag(log, interval(1e-3, 1e-1))", when: model=lstm }
        - { over: "interval(1e-3, 1e-2)", when: model=gru }
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
    monkeypatch.setattr(planning, "subprocess", SimpleNamespace(run=forked_command))
    fork = ["python", "-m", "rnnbench"]
    monkeypatch.setattr(Forks, "run", lambda _, words: forked_command([*fork, *words]).returncode)

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


def test_commands_in_forks_end_as_commands_of_their_own(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    search = ["-m", "tracking=none", "data=digits", "search=rate", "fit.epochs=1", "hydra.sweep.dir=x"]
    searching = ["model.hidden_size=3", "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=1"]
    with Forks() as forks:
        assert forks.run([*search, *searching]) == 0
        assert forks.run(["nonsense=3"]) == 1
        assert forks.run([*search, *searching, "fit.epochs=2"]) == 1
    said = "".join(capfd.readouterr())
    assert "error: nonsense=3: there is no key nonsense" in said and "records: x" in said
    assert "Traceback" not in said and (tmp_path / "x" / "1" / "result.json").exists()
    command = json.loads((tmp_path / "x" / "sweep.json").read_text())["command"]
    assert command[1:] == [*search, *searching] and command[0].endswith("rnnbench/__main__.py")


def test_a_table_from_nothing_to_verified(paper, store, tmp_path):
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

    # On another machine, from the same records.
    made = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    assert len(made) == len(FILES) + 2
    for job in job_folders(out / "runs" / "1")[:3]:  # those that were deleted in MLflow
        shutil.rmtree(job)
    shutil.move(tmp_path / "multirun", tmp_path / "records")
    words = ("table=tiny", "--no-run", "source=records")
    paper("--config-dir=mine", *words)
    again = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    # The command that makes it again stands on the page as it was typed, and nothing else is another.
    assert {name for name in made if again[name] != made[name]} == {"provenance.json", "report.html"}
    page = again["report.html"].decode()
    for line in (
        "rnnbench.paper --no-run --config-dir=mine table=tiny source=records\n",
        "rnnbench.paper verify multirun/paper/tiny source=records<",
        "rnnbench --config-dir=mine model=lstm seed=0",
    ):
        assert line in page
    there = elsewhere(tmp_path, "--config-dir=mine", *words, f"data.root={tmp_path / 'data'}")
    assert {file.name for file in there.iterdir()} == made.keys()
    assert [name for name in made if (there / name).read_bytes() != again[name]] == []

    # Verified there, until somebody touches it.
    where = f"source={tmp_path / 'records'}"
    assert "every number is what the records give" in paper("verify", str(there), where)
    for name in ("table.md", "table.tex"):
        text = (there / name).read_text()
        (there / name).write_text(text.replace("0.", "0.9", 1))
    said = paper("verify", str(there), where, code=1)
    assert "table.md, line" in said and "table.tex, line" in said
    (job,) = job_folders(tmp_path / "records" / "paper" / "tiny" / "runs" / "2")[:1]
    shutil.rmtree(job)
    assert "missing: run" in paper("verify", str(there), where, code=1)


def elsewhere(tmp_path: Path, *words: str) -> Path:
    """The folder of a table that a process makes as on another machine: directory, user, zone, language,
    settings of matplotlib, order of hashes, and a processor without wide instructions."""
    home = tmp_path / "elsewhere"
    home.mkdir()
    shutil.copytree(tmp_path / "mine", home / "mine")
    shutil.copytree(tmp_path / "records", home / "records")
    (home / "matplotlibrc").write_text("font.family: monospace\nfont.size: 20\nlines.linewidth: 5\n")
    environment = {
        "HOME": str(home),
        "MPLCONFIGDIR": str(home),
        "USER": "somebody",
        "LOGNAME": "somebody",
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "RNNBENCH_DATA": str(home),
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3",
        "SOURCE_DATE_EPOCH": "1",
        "COLUMNS": "40",
    }
    command = [sys.executable, "-m", "rnnbench.paper", *words]
    done = subprocess.run(command, cwd=home, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return home / "multirun" / "paper" / "tiny"


@pytest.mark.slow
def test_of_job_folders_alone_exactly_those_that_are_gone_run_again(paper, tmp_path):
    words = ("--config-dir=mine", "table=tiny", "tracking.uri=null")
    assert "0 are recorded in multirun" in paper(*words)
    out = tmp_path / "multirun" / "paper" / "tiny"
    table = (out / "table.csv").read_bytes()
    for job in job_folders(out / "runs" / "1")[1:4]:
        shutil.rmtree(job)
    assert "6 trials, 3 are recorded in multirun" in paper(*words)
    assert len(job_folders(out / "runs" / "1")) == len(job_folders(out / "runs" / "2")) == 3
    assert (out / "table.csv").read_bytes() == table
    assert "every number" in paper("verify", str(out))  # no MLflow here: the job folders
    # A checkout that differs from its commit, or is none, is a doubt; --strict refuses it.
    for file in out.rglob("result.json"):
        result = json.loads(file.read_text())
        result["tags"]["rnnbench.git_dirty"] = "true"
        file.write_text(json.dumps(result))
    said = paper(*words)
    assert "the code differed from its commit" in said
    assert "the code differed from its commit" in paper("verify", str(out))
    paper("verify", str(out), "--strict", code=1)


@pytest.mark.slow
def test_a_dry_run_runs_nothing(paper, tmp_path):
    said = paper("--config-dir=mine", "table=tiny", "--dry-run")
    assert "Two cells: 6 trials, 0 are recorded in sqlite:///mlflow.db" in said
    assert "6 trials in 2 kinds of stacks" in said  # the app's own estimate
    assert re.search(r"about \d+ s in all", said)
    tuned = paper("--config-dir=mine", "table=tuned", "--dry-run", "tracking.uri=null")
    assert "search for model=gru: 0 of 3 trials are recorded" in tuned
    assert tuned.count("3 trials, 8 in flight") == 2 and "about " in tuned
    assert not (tmp_path / "multirun").exists()


@pytest.mark.slow
def test_each_row_the_winner_of_its_own_search(paper, tmp_path):
    (tmp_path / "mine" / "search").mkdir()
    (tmp_path / "mine" / "search" / "own.yaml").write_text(SPACE)
    file = tmp_path / "mine" / "table" / "tuned.yaml"
    file.write_text(file.read_text().replace("search=rate", "search=own"))
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
    assert {search["sampler"] for search in facts["searches"]} == {"random"}
    assert facts["searches"][0]["space"]["fit.clip"] == "choice(0.1, 1, 10)"
    assert (
        "Each row is the winner of its own search: 3 trials, sampler random with seed 0, fit.clip from "
        "choice(0.1, 1, 10); optim.lr from tag(log, interval(1e-3, 1e-1)) (where model=lstm), "
        "interval(1e-3, 1e-2) (where model=gru); judged on validation"
    ) in said
    first = (out / "report.html").read_bytes()
    assert "every number is what the records give" in paper("verify", str(out))
    said = paper(*mine, f"data.root={tmp_path}")  # another place for the data: the same searches
    assert "search for model=lstm: 3 of 3 trials are recorded" in said and "searching" not in said
    assert "4 trials, 4 are recorded in multirun" in said
    assert (out / "report.html").read_bytes() == first


@pytest.mark.slow
def test_each_cell_the_winner_of_its_own_search_from_whatever_records(paper, tmp_path):
    (tmp_path / "mine" / "table" / "cells.yaml").write_text(
        TUNED.replace("table=tuned", "table=cells")
        .replace("rows: [model=lstm, model=gru]", 'rows: ["model=lstm optim=adam", "model=lstm optim=sgd"]')
        .replace("search: [search=rate]", 'search: [hydra/sweeper=optuna, "optim.lr=choice(0.01,0.02,0.04)"]')
        .replace("metrics:", "columns: [optim.name]\nmetrics:")
    )
    said = paper("--config-dir=mine", "table=cells")
    assert (
        "Each cell is the winner of its own search: 3 trials, sampler tpe with seed 0, optim.lr from" in said
    )
    out = tmp_path / "multirun" / "paper" / "cells"
    facts = json.loads((out / "provenance.json").read_text())
    assert [trial["column"] for trial in facts["trials"]] == [["adam"], ["adam"], ["sgd"], ["sgd"]]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sources = [Folders(tmp_path / "multirun"), SqlRuns(uri), ClientRuns(uri)]
    assert sources[0].searches().keys() == {search["study"] for search in facts["searches"]}
    for study in sources[0].searches():
        found = [source.of_study(study) for source in sources]
        assert len(found[0]) == 3 and found[0] == found[1] == found[2]
        assert [r.params["optim.lr"] for r in found[0]] == [r.params["optim.lr"] for r in found[1]]
        assert [r.params["optim.lr"] for r in found[0]] == [r.params["optim.lr"] for r in found[2]]
    assert sources[0].searches() == sources[1].searches() == sources[2].searches()
    made = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    assert "sensitivity.svg" in made
    shutil.copytree(tmp_path / "multirun", tmp_path / "records")
    paper("--config-dir=mine", "table=cells", "--no-run", "source=records")
    # These two have the command as it was typed.
    assert {name for name in made if (out / name).read_bytes() != made[name]} == {
        "provenance.json", "report.html",
    }  # fmt: skip


CELLS = TUNED.replace("tuned:", "columns: [task, size]\ntasks: [task]\ntuned:").replace(
    "  search:",
    """  columns:
    task: { by rows: data=digits, sum: data=adding data.steps=10 }
    size: { 300 parameters: model.budget=300, 4 units: model.hidden_size=4 }
  search:""",
)


def test_columns_by_name_give_each_cell_a_search_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "cells.yaml"
    file.write_text(CELLS.replace("model.hidden_size=4, fit.epochs=2", "fit.epochs=2"))
    table = read_table(file)
    plan = make_plan(table, App("cells", []), "multirun")
    assert len({search.name for search in plan.searches}) == len(plan.searches) == 8 and not plan.planned
    last = plan.searches[-1]
    assert last.row == "model=gru, sum, 4 units" and last.name.startswith("cells-gru-sum-4-units-")
    assert last.command[2:6] == [
        "model=gru", "data=adding", "data.steps=10", "model.hidden_size=4",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"tuned\.columns\.seed: is a key of the trials; give another name"):
        table.tuned.columns, table.columns = {"seed": {"one": "data=digits"}}, ["seed"]
        make_plan(table, App("cells", []), "multirun")


@pytest.mark.slow
def test_cells_of_several_tasks_are_trained_told_apart_and_verified(paper, tmp_path):
    text = CELLS.replace("table=tuned", "table=cells").replace(
        "model.hidden_size=4, fit.epochs=2", "fit.epochs=2"
    )
    text = text.replace(", data.train_size=64", "").replace("metrics: [", "metrics: [best/val_mse, ")
    text = text.replace("trials: 3", "trials: 1")
    (tmp_path / "mine" / "table" / "cells.yaml").write_text(text[: text.index("figures:")])
    mine = ("--config-dir=mine", "table=cells", "tracking.uri=null")
    said = paper(*mine)
    assert "0 of 8 searches are done" in said and "and 8 cells follow their searches" in said
    out = tmp_path / "multirun" / "paper" / "cells"
    assert len(list(out.glob("runs/*"))) == 1  # all winners are one grid
    trials = json.loads((out / "provenance.json").read_text())["trials"]
    assert [(trial["column"], trial["seed"]) for trial in trials[:4]] == [
        (["by rows", "300 parameters"], 101), (["by rows", "300 parameters"], 102),
        (["by rows", "4 units"], 101), (["by rows", "4 units"], 102),
    ]  # fmt: skip
    assert "every number is what the records give" in paper("verify", str(out))
    assert "8 of 8 searches are done" in paper(*mine)


@pytest.mark.parametrize(
    "search",
    [
        ["optim.lr=tag(log,interval(1e-4,1e-1))"],
        ["hydra/sweeper/sampler=random", "optim.lr=tag(log,interval(1e-4,1e-1))", "fit.clip=choice(1,2)"],
    ],
)
def test_a_space_of_ranges_alone_is_a_search(search, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tuned = Tuning(rows=["model=lstm"], search=search, trials=3, fresh="1,2")
    assert search_of(tuned)[0] == "hydra/sweeper=optuna"
    sampler, space = App("x", []).budget(["model.hidden_size=4", *search_of(tuned)])
    assert sampler == ("random" if len(search) > 1 else "tpe")
    assert space.pop("fit.clip", "choice(1,2)") == "choice(1,2)"
    assert space == {"optim.lr": "tag(log,interval(1e-4,1e-1))"}


def test_trials_are_planned_in_process_and_hydra_is_left_as_it_was(tmp_path, monkeypatch, capfd):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "conf.yaml").write_text("a: 1\n")
    monkeypatch.chdir(tmp_path)
    grid = ["model=lstm,gru", "seed=0,1,1", "tracking.uri=null"]
    with hydra.initialize_config_dir(str(tmp_path / "theirs"), version_base="1.3"):
        before = GlobalHydra.instance().config_loader()
        planned = App("x", []).points(grid)
        with pytest.raises(ConfigError, match=r"^sweep: model=lsmt: there is no such option"):
            App("x", []).points(["model=lsmt"])
        assert GlobalHydra.instance().config_loader() is before
        assert hydra.compose("conf") == {"a": 1}
    assert not GlobalHydra.instance().is_initialized()
    # The same trials as the app's own plan, each once, and no word is said of those that are planned twice.
    assert "".join(capfd.readouterr()) == ""
    command = [sys.executable, "-m", "rnnbench", "-m", *grid, "hydra.sweeper.plan=plan.json"]
    subprocess.run(command, check=True)
    assert [one.__dict__ for one in planned] == [
        {**one, "search": None} for one in json.loads((tmp_path / "plan.json").read_text())
    ]
    assert {file.name for file in tmp_path.iterdir()} == {"theirs", "plan.json"}


FAULTS = {
    "compare: lsmt": "compare=lsmt: must be best or one of the rows: lstm, gru",
    "rows: [model.name, optim.l]": "rows, columns, over: optim.l is no key of the trial",
    "tuned.search: ['+hydra.sweeper.space.optim.lr=3']": "tuned.search: hydra.sweeper.space: optim: "
    "{'lr': 3} has no over; a key with a dot is given whole",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tuned_table_is_refused_before_its_searches(fault, paper, tmp_path):
    key, _, value = fault.partition(": ")
    text = TUNED.replace("search: [search=rate]", f"search: {value}") if "." in key else f"{TUNED}{fault}\n"
    (tmp_path / "mine" / "table" / "faulty.yaml").write_text(text)
    said = paper("--config-dir=mine", "table=faulty", "tracking.uri=null", "--dry-run", code=1)
    assert f"error: {FAULTS[fault]}" in said and not (tmp_path / "multirun").exists()


@pytest.mark.parametrize("chosen", ["search=rate", "hydra/sweeper=optuna", "+experiment=mine"])
def test_a_search_that_is_chosen_stays_as_it_is(chosen):
    tuned = Tuning(rows=["model=lstm"], search=[chosen, "optim.lr=interval(0,1)"], trials=3, fresh="1,2")
    assert search_of(tuned) == tuned.search


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits"], "digits: is no folder; give table=NAME, or verify FOLDER"),
        (["verify"], "verify: give the folder of a table"),
        (["table=zzzzzzz"], "table=zzzzzzz: there is no such table; there is adding50"),
        (["table=digits", "model=lsmt"], "sweep: model=lsmt: there is no such option; did you mean"),
        (["table=digits", "--no-run"], "source=sqlite:///mlflow.db: there is nothing"),
    ],
)
def test_refusals(words, message, paper):
    assert f"error: {message}" in paper(*words, code=1)
