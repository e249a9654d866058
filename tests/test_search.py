"""Searches as a user runs them: real commands, real storages, a real kill."""

import csv
import json
import os
import re
import signal
import time
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from rnnbench.config import ConfigError, Search, direction
from rnnbench.record import read_metrics, read_result
from rnnbench.search.aims import directions_of
from rnnbench.sweep.hydra_api import IS_1_3
from tests.test_app import run, start

optuna.logging.set_verbosity(optuna.logging.WARNING)
SLOW = pytest.mark.slow
QUICK = ["fit.epochs=2", "data.train_size=128", "tracking.uri=null"]
SPACE = ["model=choice(lstm,gru)", "model.hidden_size=choice(4,8)", "optim.lr=tag(log,interval(1e-3,0.1))"]
BOTH = "val/accuracy,parameters/total"
SEARCH = ["-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.seed=1"]


def search(*more, space=SPACE):
    return [*SEARCH, *space, *QUICK, *more]


def settings(**values):
    return [f"hydra.sweeper.{key}={value}" for key, value in values.items()]


def study(storage, name="s"):
    return optuna.load_study(study_name=name, storage=storage)


def journal(folder):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / "multirun/s/journal.log")))


def counted(trials):
    """Those that are run; one that was drawn beyond n_trials waits in the queue for a larger n_trials."""
    return [t for t in trials if "retired" not in t.user_attrs and t.state != TrialState.WAITING]


@pytest.fixture
def here(here, monkeypatch):
    """The command in this process without its pictures, which take longer to draw than such a search to run;
    `run` draws them, and tests/test_search_pictures.py looks at them."""
    monkeypatch.setattr("rnnbench.search.pictures.draw", lambda *_: {})
    return here


def test_a_search_leaves_its_winner_and_its_records(here, tmp_path):
    more = settings(n_trials=6, repeats=2, confirm=2, study_name="s")
    out, _err = run(tmp_path, *search(*more))
    trials = study(journal(tmp_path)).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    folder = tmp_path / "multirun/s"
    for trial in trials:
        runs = [read_result(folder / name) for name in (f"{trial.number}", f"{trial.number}.1")]
        values = [result["metrics"]["best/val_accuracy"] for result in runs]
        assert trial.value == pytest.approx(sum(values) / 2)
        assert [result["params"]["seed"] for result in runs] == [0, 1]
        assert all(result["tags"]["rnnbench.number"] == str(trial.number) for result in runs)
        assert trial.user_attrs["record"]["jobs"] == [result["job"] for result in runs]
        assert trial.user_attrs["record"]["folder"] == str(folder / str(trial.number))
        assert trial.user_attrs["record"]["spread"][0] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    best = study(journal(tmp_path)).best_trial
    found = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert found == {"name": "optuna", "best_params": best.params, "best_value": best.value}
    confirmed = [read_result(folder / f"{best.number}.c{k}") for k in range(2)]
    assert [result["params"]["seed"] for result in confirmed] == [2, 3]  # none that the search has seen
    assert {path.suffix for path in (folder / "study").iterdir()} >= {".png", ".html"}
    command = next(line for line in out.splitlines() if "python -m rnnbench" in line)
    assert f"model.hidden_size={best.params['model.hidden_size']}" in command
    facts = json.loads((folder / "sweep.json").read_text())
    assert (facts["status"], facts["study"]["tags"]["rnnbench.best_trial"]) == ("finished", str(best.number))

    again, _ = here(*search(*settings(n_trials=4, repeats=2, confirm=2, study_name="s")))
    assert "6 trials are done already" in again
    assert len(study(journal(tmp_path)).get_trials()) == 6
    _more_of_it, _ = here(*search(*settings(n_trials=8, repeats=2, study_name="s")))
    assert [trial.number for trial in study(journal(tmp_path)).get_trials()] == list(range(8))
    assert (folder / "7.1/result.json").exists()

    _, refused = here(*search(*settings(study_name="s", direction="minimize")), code=1)
    assert (
        "hydra.sweeper.direction=minimize: of best/val_accuracy the higher value is the better one" in refused
    )
    _, refused = here(*search(*settings(study_name="s"), "optim.lr=interval(0.1,0.2)"), code=1)
    assert "with another" in refused


@pytest.mark.parametrize(
    "sampler",
    ["gp", "cmaes", "brute_force", *(pytest.param(name, marks=SLOW) for name in ("random", "nsgaii", "qmc"))],
)
def test_every_sampler_finds_a_winner(here, tmp_path, sampler):
    values = ["model.hidden_size=choice(4,8)", "optim.lr=choice(0.01,0.03)"]
    space = values if sampler == "brute_force" else [*SPACE[1:], "model.dropout=interval(0,0.5)"]
    more = [f"hydra/sweeper/sampler={sampler}", "model.num_layers=2", "fit.epochs=1"]
    out, _ = here(*search(*settings(n_trials=4, study_name="s"), *more, space=space))
    trials = study(journal(tmp_path)).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert len({str(trial.params) for trial in trials}) == 4
    assert "python -m rnnbench" in out


def test_a_study_with_conditions_reaches_mlflow(store, tmp_path):
    """MLflow takes neither brackets nor commas nor = in the name of a metric."""
    uri = f"tracking.uri={store}"
    run(tmp_path, *search(*settings(n_trials=6, study_name="s"), "search=lstm_gru", uri, space=[]))
    from mlflow import MlflowClient

    client = MlflowClient(store)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [r for r in runs if "rnnbench.best_trial" in r.data.tags]
    assert "study/importance/optim.lr optim sgd" in parent.data.metrics


def test_the_same_search_finds_the_same(here, tmp_path):
    for name in ("a", "b"):
        here(*search(*settings(n_trials=4, n_jobs=1), f"hydra.sweep.dir={name}"))
    for n in range(4):
        a, b = (read_result(tmp_path / name / str(n)) for name in ("a", "b"))
        assert a["trial"] == b["trial"]
        assert a["metrics"]["best/val_accuracy"] == b["metrics"]["best/val_accuracy"]


@pytest.mark.slow  # tests/test_search_kills.py kills one with checkpoints
def test_a_killed_search_goes_on_where_it_was(tmp_path):
    slow = [*settings(n_trials=6, n_jobs=2, study_name="s"), "fit.epochs=400"]
    process = start(tmp_path, *search(*slow))
    until = time.monotonic() + 300
    while len(list(tmp_path.glob("multirun/s/*/metrics.csv"))) < 2:
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = study(journal(tmp_path)).get_trials()
    lost = [trial for trial in before if trial.state == TrialState.RUNNING]
    assert lost
    run(tmp_path, *search(*slow))
    trials = study(journal(tmp_path)).get_trials()
    assert [trial.state for trial in counted(trials)] == [TrialState.COMPLETE] * 6
    for trial in lost:  # drawn again with the same parameters
        assert trials[trial.number].user_attrs["retired"] == "dead"
        assert sum(other.params == trial.params for other in counted(trials)) == 1
        assert read_result(tmp_path / "multirun/s" / str(trial.number))["status"] == "interrupted"


def test_a_trial_that_diverges_fails_and_the_search_goes_on(here, tmp_path):
    space = ["model=rnn", "optim=sgd", "optim.lr=choice(0.05,1e30)", "optim.momentum=choice(0,0.9)"]
    grid = ["-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "model.hidden_size=8"]
    here(*grid, *space, *QUICK, *settings(n_trials=4, study_name="s"))
    trials = study(journal(tmp_path)).get_trials()
    states = [trial.state for trial in trials]
    assert states.count(TrialState.FAIL) == 2 and states.count(TrialState.COMPLETE) == 2
    for trial in trials:
        if trial.state == TrialState.FAIL:
            assert trial.params["optim.lr"] == 1e30
            assert (
                trial.user_attrs["record"]["error"]
                == read_result(tmp_path / "multirun/s" / str(trial.number))["error"]
            )


def test_a_search_whose_trials_all_fail_is_given_up(here, tmp_path):
    more = settings(n_trials=30, n_jobs=2, max_failure_rate=0.2, study_name="s")
    space = ["model=rnn", "optim=sgd", "optim.lr=interval(1e30,2e30)"]
    _, err = here(*search(*more, space=space), code=1)
    assert "max_failure_rate=0.2" in err
    assert len(counted(study(journal(tmp_path)).get_trials())) < 14


def test_a_pruned_trial_stops_at_once_and_says_so_everywhere(store, tmp_path):
    pruning = ["hydra/sweeper/pruner=asha", "hydra.sweeper.pruner.reduction_factor=2"]
    more = settings(n_trials=10, n_jobs=4, study_name="s", storage="sqlite:///s.db")
    out, _ = run(tmp_path, *search(*pruning, *more), "fit.epochs=8", f"tracking.uri={store}",
                 "optim.lr=tag(log,interval(1e-5,0.1))")  # fmt: skip
    trials = study("sqlite:///" + str(tmp_path / "s.db")).get_trials()
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned and len(trials) == 10
    assert "pruning stopped" in out
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = next(e for e in client.search_experiments() if e.name != "Default")
    runs = client.search_runs([experiment.experiment_id])
    by_number = {r.data.tags["rnnbench.number"]: r for r in runs if "rnnbench.number" in r.data.tags}
    for trial in pruned:
        folder = tmp_path / "multirun/s" / str(trial.number)
        result, rows = read_result(folder), read_metrics(folder)
        assert result["status"] == "pruned" and result["epochs"] == len(rows) < 8
        assert max(trial.intermediate_values) == result["epochs"]
        tags = by_number[str(trial.number)].data.tags
        assert (tags["rnnbench.status"], tags["rnnbench.last_epoch"]) == ("pruned", str(result["epochs"]))
    (parent,) = [r for r in runs if "rnnbench.best_trial" in r.data.tags]
    assert parent.data.metrics["study/pruned"] == len(pruned)
    assert "study" in {item.path for item in client.list_artifacts(parent.info.run_id)}


@pytest.mark.parametrize(
    ("objectives", "given"),
    [
        (["best/val_accuracy"], "minimize"),
        (["test/nll"], "maximize"),
        (["best/val_accuracy", "parameters/total"], ["maximize", "maximize"]),
    ],
)
def test_a_direction_that_contradicts_the_metric_is_refused(objectives, given):
    """The published plugin minimises unless told: a config moved from it would search for the worst."""
    with pytest.raises(ConfigError, match=r"direction=(min|max)imize: of .* leave direction out"):
        directions_of(Search(direction=given), objectives)
    right = [direction(name) for name in objectives]
    assert directions_of(Search(direction=right), objectives) == directions_of(Search(), objectives) == right


def test_several_objectives_leave_a_front(here, tmp_path):
    aims = settings(n_trials=6, objectives=f"[{BOTH}]", study_name="s")
    here(*search(*aims))
    front = list(csv.DictReader((tmp_path / "multirun/s/front.csv").open()))
    best = study(journal(tmp_path)).best_trials
    assert {int(row["trial"]) for row in front} == {trial.number for trial in best}
    assert [d.name for d in study(journal(tmp_path)).directions] == ["MAXIMIZE", "MINIMIZE"]


# That joblib trains in processes is shown by tests/test_joblib.py.
@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=SLOW)])
def test_pruning_under_launchers_that_are_not_ours(here, tmp_path, launcher):
    pruning = [
        f"hydra/launcher={launcher}",
        "hydra/sweeper/pruner=asha",
        "hydra.sweeper.pruner.reduction_factor=2",
    ]
    more = settings(n_trials=4, n_jobs=2, study_name="s")
    lr = "optim.lr=tag(log,interval(1e-6,0.1))"
    command = [*search(*pruning, *more), "fit.epochs=4", lr]
    if launcher == "basic":
        here(*command)
    else:
        run(tmp_path, *command, env=os.environ)  # joblib starts processes
    trials = counted(study(journal(tmp_path)).get_trials())
    assert len(trials) == 4
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        result = read_result(tmp_path / "multirun/s" / str(trial.number))
        assert (trial.state == TrialState.PRUNED) == (result["status"] == "pruned")
        assert trial.intermediate_values


def test_a_config_of_the_published_plugin_moves_over(here, tmp_path):
    """Its keys, its sampler's path, its params in lines of Hydra's syntax."""
    mode = "  mode: MULTIRUN\n" if IS_1_3 else ""  # Hydra 1.4 reads it from its primary config alone
    (tmp_path / "hparams").mkdir()
    (tmp_path / "hparams/published.yaml").write_text(
        f"""# @package _global_
defaults:
  - override /hydra/sweeper: optuna
hydra:
{mode}  sweeper:
    _target_: hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper
    storage: null
    study_name: null
    n_jobs: 1
    direction: maximize
    n_trials: 3
    max_failure_rate: 0.0
    sampler:
      _target_: optuna.samplers.TPESampler
      seed: 1234
      n_startup_trials: 2
    params:
      optim.lr: interval(0.0001, 0.1)
      model.hidden_size: choice(4, 8)
"""
    )
    flags = [f"--config-dir={tmp_path}"] if mode else [f"--config-dir={tmp_path}", "-m"]
    out, _ = here(*flags, "+hparams=published", "hydra.sweep.dir=p", *QUICK)
    assert "optuna.samplers.TPESampler is hydra/sweeper/sampler=tpe here" in out
    assert len(list((tmp_path / "p").glob("*/result.json"))) == 3
    found = yaml.safe_load((tmp_path / "p/optimization_results.yaml").read_text())
    assert set(found["best_params"]) == {"optim.lr", "model.hidden_size"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (settings(n_trials=0), "hydra.sweeper.n_trials=0"),
        (settings(objectives="[test/accuracy]"), "no honest test"),
        (settings(objectives="[speed]"), "must be metrics that are recorded"),
        (settings(storage="sqlite:////nowhere/at/all/s.db"), "nowhere"),
        (settings(storage="grpc://localhost:1"), "cannot be opened"),
        (["hydra/sweeper/pruner=asha", *settings(objectives=f"[{BOTH}]")], "cannot prune"),
        ([*settings(objectives="[parameters/total]"), "hydra/sweeper/pruner=asha"], "only at the end"),
        (settings(study_name="../s"), "name of a folder"),
        (["hydra/sweeper/sampler=grid"], "infinitely many values"),
        (["optim.lr=tag(log,interval(0,1))"], "must begin above 0"),
        (["seed=0,1"], "hydra.sweeper.repeats=3"),
        (["model=choice(lstm,lstmm)"], "lstmm"),
        (["data.batch=1"], "data.batch"),
    ],
)  # fmt: skip
def test_refusals_make_nothing(here, tmp_path, arguments, message):
    _, err = here(*search(*arguments), code=1)
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def records_of(folder):
    """The bytes of every file of the job folders in a folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.parent != folder}


def test_a_search_replaces_no_record_that_its_study_does_not_know(here, tmp_path):
    """Without a name into a folder that has records; with one whose storage is new, emptied or another."""
    space = ["model.hidden_size=choice(4,8)"]
    command = search(*settings(n_trials=2), "fit.epochs=1", space=space)
    here("-m", "model=gru", "fit.epochs=1", *QUICK[1:], "hydra.sweep.dir=grid")
    here(*command, "hydra.sweep.dir=unnamed")
    here(*command, *settings(study_name="s"))
    stored = tmp_path / "multirun/s/journal.log"
    whole = stored.read_bytes()
    before = records_of(tmp_path)

    for name in ("grid", "unnamed"):
        _, err = here(*command, f"hydra.sweep.dir={name}", code=1)
        assert f"error: hydra.sweep.dir={name}: holds" in err and "does not know" in err
    for more in ([], ["storage=sqlite:///new.db"]):
        stored.unlink(missing_ok=True)
        _, err = here(
            *command, *settings(study_name="s"), *(f"hydra.sweeper.{word}" for word in more), code=1
        )
        assert "hydra.sweep.dir=multirun/s: holds 2 records that this study does not know" in err
    stored.write_bytes(b"".join(whole.splitlines(keepends=True)[:1]))  # the study, without its trials
    _, err = here(*command, *settings(study_name="s"), code=1)
    assert "0 is of the study s" in err
    _, err = here("-m", "seed=7,8", *QUICK, "hydra.sweep.dir=multirun/s", code=1)
    assert "hydra.sweep.dir=multirun/s: holds the search s" in err

    stored.write_bytes(whole)
    assert {file: text for file, text in records_of(tmp_path).items() if file in before} == before
    here(*command, *settings(study_name="s", n_trials=3))
    assert (tmp_path / "multirun/s/2/result.json").exists()
    unchanged = {file for file in before if "study" not in file.parts}
    assert all(file.read_bytes() == before[file] for file in unchanged if file.parent.name in "01")


def test_what_a_stranger_wrote_into_a_journal_is_not_printed_ready_to_paste(here, tmp_path):
    """Nor is it trained again."""
    command = search(*settings(n_trials=2, study_name="s"), space=["model.hidden_size=choice(4,8)"])
    here(*command, "fit.epochs=1")
    file = tmp_path / "multirun/s/journal.log"
    lines = file.read_text()
    for word in (
        "rnnbench_import=/tmp/evil.py",
        "model.hidden_size=${oc.env:HOME}",
        "tracking.uri=http://evil",
    ):
        file.write_text(
            re.sub(r'("overrides": ?\[)"[^"]*"', lambda found, word=word: found[1] + json.dumps(word), lines)
        )
        out, err = here(*command, "fit.epochs=1")
        assert f"{word}: stands in a record" in err
        assert not [line for line in out.splitlines() if "python -m rnnbench" in line]


def test_a_pruned_trial_shows_what_it_had_reached(here, tmp_path):
    pruner = ["hydra/sweeper/pruner=asha", "hydra.sweeper.pruner.reduction_factor=2", "fit.epochs=5"]
    out, _ = here(*search(*settings(n_trials=8, n_jobs=4), *pruner, space=SPACE[2:]))
    lines = [line for line in out.splitlines() if "pruned at epoch 1, val/accuracy 0." in line]
    assert lines and all(line.startswith("trial") for line in lines)
    assert sum("(pruned at epoch 1)" in line for line in out.splitlines()) == len(lines)
    values = [float(line.split()[1]) for line in out.splitlines() if re.match(r" +\d+ +0\.\d+", line)]
    trained = len(values) - len(lines)
    assert values[:trained] == sorted(
        values[:trained], reverse=True
    )  # those that trained to their end, first


@pytest.mark.parametrize("name", sorted(p.stem for p in Path("conf/search").glob("*.yaml")))
def test_every_shipped_space_can_be_searched(here, tmp_path, name):
    out, _ = here("-m", f"search={name}", "dry_run=true", "hydra.sweeper.n_trials=3")
    assert "3 trials" in out
    assert not list(tmp_path.iterdir())


def test_a_winner_is_trained_again_as_a_grid_whatever_its_search_has_chosen(here):
    """As a tuned table does, under other seeds."""
    winner = ["search=chung2014", "data=digits", "model=gru", "model.hidden_size=46", "optim.lr=0.001"]
    out, _ = here("-m", "hydra/sweeper=grid", *winner, "seed=1,2", "dry_run=true")
    assert "2 trials" in out
    for given in ("hydra/sweeper/sampler=tpe", "hydra/sweeper/pruner=median", "search=chung2014"):
        _, err = here("-m", "hydra/sweeper=grid", "model=gru", given, code=1)
        assert err.startswith(f"error: hydra/sweeper=grid: has no use for {given}; take hydra/sweeper=optuna")
