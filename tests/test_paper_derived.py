"""A table straight from a sweep's folder: rows for what varied, no trial is run, it verifies."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow_store import claim
from test_paper import ACCURACIES, CELLS, SEEDS, config_of, leave

from rnnbench.config import Adam, ConfigError, Sgd
from rnnbench.paper.__main__ import main
from rnnbench.paper.aggregate import fill
from rnnbench.paper.definition import read_table
from rnnbench.paper.derived import derive, name_of
from rnnbench.paper.verification import verify


def grid(folder: Path, **command: object) -> Path:
    """A sweep over cells, optimisers, learning rates and seeds, as its command leaves it."""
    number = 0
    for model in CELLS:
        for optim in (Adam(lr=0.001), Adam(lr=0.003), Sgd(lr=0.1)):
            for seed in SEEDS:
                config = config_of(model, seed)
                config.optim = optim
                job = leave(folder / str(number), config, ACCURACIES[model][seed] - optim.lr)
                (job / ".hydra").mkdir()
                words = [f"model={model}", f"optim={optim.name}", f"optim.lr={optim.lr}", f"seed={seed}"]
                (job / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
                number += 1
    words = ["rnnbench", "-m", "model=lstm,gru,rnn", "seed=0,1,2", "hydra.sweep.dir=x"]
    with claim(folder, f"sqlite:///{folder}/mlflow.db") as records:
        records.end("finished")
    info = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(info | {"command": words}))
    return folder


def test_the_rows_are_what_varied_and_seeds_are_together(tmp_path):
    table, planned, source = derive([grid(tmp_path / "lr")])
    assert table.rows == ["model.name", "optim.name", "optim.lr"]  # beta1, momentum go with the optimiser
    assert table.metrics == ["parameters/total", "test/accuracy"]
    filled = fill(table, planned, source)
    assert len(filled.rows) == 9
    assert table.sweep == ["model=lstm,gru,rnn", "seed=0,1,2"]
    (tmp_path / "lr" / "sweep.json").write_text("{")
    assert derive([tmp_path / "lr"])[0] == replace(table, sweep=[])  # the trials' own records are whole
    assert {cell.count() for cell in filled.cells.values()} == {"3"}
    figure = filled.cell(("lstm", "adam", 0.003), ()).figures["test/accuracy"]
    assert figure.value == pytest.approx(0.897)


def test_a_record_without_a_key_that_was_added_later_is_in_the_same_row(tmp_path):
    table = derive([grid(tmp_path / "lr")])[0]
    for number in range(0, 27, 2):
        file = tmp_path / "lr" / str(number) / "result.json"
        result = json.loads(file.read_text())
        del result["params"]["fit.precision"]
        file.write_text(json.dumps(result))
    filled = fill(*derive([tmp_path / "lr"]))
    assert filled.table.rows == table.rows and len(filled.rows) == 9


def test_the_command_writes_it_and_a_table_file_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    grid(tmp_path / "multirun" / "lr")
    before = sorted((tmp_path / "multirun" / "lr").rglob("*"))
    monkeypatch.setattr(sys, "argv", ["paper", "multirun/lr"])
    main()
    said = capsys.readouterr().out
    assert sorted((tmp_path / "multirun" / "lr").rglob("*")) == before
    out = tmp_path / "multirun" / "paper" / "lr"
    assert "python -m rnnbench.paper --config-dir=multirun/paper/lr table=lr" in said
    definition = read_table(out / "table" / "lr.yaml")
    assert (definition.title, definition.sweep) == ("lr", ["model=lstm,gru,rnn", "seed=0,1,2"])
    assert definition.rows == ["model.name", "optim.name", "optim.lr"]
    assert verify(Path("multirun/paper/lr"), None) == ([], [])  # where it was made from
    assert "python -m rnnbench.paper multirun/lr\n" in (out / "report.html").read_text()


def test_all_sweeps_together_are_a_table_in_which_a_trial_counts_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grid(tmp_path / "multirun" / "a")
    shutil.copytree(tmp_path / "multirun" / "a" / "0", tmp_path / "multirun" / "b" / "0")
    leave(tmp_path / "multirun" / "b" / "1", config_of("gru", 7, batch_size=16), 0.7)
    table, planned, source = derive([Path("multirun")])
    assert table.sweep == []
    filled = fill(table, planned, source)
    assert len(planned) == 28 and len(filled.records()) == 28
    assert "fit.batch_size" in table.rows
    one, (trial, *_), its = derive([Path("multirun/b")])
    assert len(its.find([trial.trial])) == 1 and {*one.rows} == {"model.name", "optim.lr", "fit.batch_size"}
    assert [name_of([Path(p)]) for p in ("multirun", "multirun/a/b c", "/x/it's")] == [
        "multirun",
        "a-b-c",
        "it-s",
    ]


def test_a_search_has_a_row_for_each_trial_that_was_trained_to_its_end(tmp_path):
    for number, rate in enumerate((0.1, 0.01, 0.001)):
        config = config_of("lstm", 0)
        config.optim = Adam(lr=rate)
        status = "pruned" if rate == 0.1 else "finished"
        leave(tmp_path / str(number), config, 0.8 + rate, status, {"rnnbench.study": "mine"})
    table, planned, source = derive([tmp_path])
    assert table.rows == ["model.name", "optim.lr"] and "the best of many is optimistic" in table.caption
    assert fill(table, planned, source).rows == [("lstm", 0.01), ("lstm", 0.001)]


def test_a_folder_without_a_finished_trial_is_refused(tmp_path):
    leave(tmp_path / "0", config_of("lstm", 0), 0.8, "failed")
    with pytest.raises(ConfigError, match="there is no record of a trial that has finished"):
        derive([tmp_path])


@pytest.mark.parametrize("words", [["r", "nope"], ["nope"], ["r", "nope=x"]])
def test_the_word_that_is_no_folder_is_named(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r").mkdir()
    monkeypatch.setattr(sys, "argv", ["paper", *words])
    with pytest.raises(SystemExit, match=r"error: nope\S*: is no folder; give table=NAME"):
        main()
