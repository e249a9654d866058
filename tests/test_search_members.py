"""The members of a suggestion: which jobs it has, in which turns they train, and what Optuna is told."""

import json
import statistics

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from rnnbench.config import ConfigError
from rnnbench.record import read_result
from rnnbench.search.samplers import pruner_of
from rnnbench.search.turns import Turns, first_turn
from tests.test_search import counted, journal, settings, study

ALIKE = ["model.hidden_size=4", "reuse=none", "tracking.uri=null", "data=digits", "fit.epochs=1"]
GRID = ["-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.sampler.seed=1",
        *ALIKE, "optim.lr=choice(0.03,1e-6)",
        *settings(n_trials=2, n_jobs=1, repeats=5, study_name="s")]  # fmt: skip
WILCOXON = ["hydra/sweeper/pruner=wilcoxon", "hydra.sweeper.pruner.p_threshold=0.2"]


@pytest.fixture
def here(here, monkeypatch):
    """The command in this process without its pictures, which take longer than such a search."""
    monkeypatch.setattr("rnnbench.search.pictures.draw", lambda *_: {})
    return here


def value(folder):
    return read_result(folder)["metrics"]["best/val_accuracy"]


def folds_and_seeds(trained):
    return [(params.get("data.fold", 0), params["seed"]) for params in trained]


def assert_stopped(sweep, trials):
    """The better of the two has five runs, the other three, of which Optuna knows the mean."""
    good, bad = sorted(trials, key=lambda trial: -trial.value)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    for trial, runs in ((good, 5), (bad, 3)):
        folders = [sweep / str(trial.number), *(sweep / f"{trial.number}.{k}" for k in range(1, runs))]
        values = [value(folder) for folder in folders]
        assert trial.value == statistics.fmean(values)
        assert trial.intermediate_values == dict(enumerate(values))
        assert [read_result(folder)["params"]["seed"] for folder in folders] == list(range(runs))
        assert not (sweep / f"{trial.number}.{runs}").exists()
        assert len(trial.user_attrs["record"]["jobs"]) == runs


@pytest.mark.parametrize("launcher", ["stack", "basic"])
def test_a_hopeless_suggestion_is_stopped_and_its_seeds_are_saved(here, tmp_path, launcher):
    out, _ = here(*GRID, *WILCOXON, f"hydra/launcher={launcher}")
    sweep = tmp_path / "multirun/s"
    assert_stopped(sweep, study(journal(tmp_path)).get_trials())
    assert "pruning stopped 1 of 2 trials and saved 2 of their 5 runs" in out and "(3 of 5 runs)" in out
    assert yaml.safe_load((sweep / "optimization_results.yaml").read_text())["runs_saved"] == 2
    assert json.loads((sweep / "sweep.json").read_text())["study"]["metrics"]["study/runs_saved"] == 2


def test_a_search_that_is_stopped_between_turns_goes_on(here, tmp_path, monkeypatch):
    ended = []

    def turn(self, next=Turns.next):
        ended.append(self.begun)
        if ended == [0, 3]:  # the first suggestion has trained its first turn
            raise KeyboardInterrupt
        return next(self)

    monkeypatch.setattr(Turns, "next", turn)
    command = [*GRID, *WILCOXON]
    here(*command, code=130)
    here(*command)
    trials = study(journal(tmp_path)).get_trials()
    assert trials[0].user_attrs["retired"] == "interrupted"
    assert [trial.number for trial in counted(trials)] == [1, 2]
    assert trials[0].params == trials[1].params
    assert_stopped(tmp_path / "multirun/s", trials[1:])


@pytest.mark.parametrize("launcher", ["stack", "basic"])
def test_a_suggestion_under_folds_is_the_mean_of_its_single_runs(here, tmp_path, launcher):
    folds = ["data.folds=3", *settings(repeats=2, n_trials=1, confirm=1)]
    out, _ = here(*GRID, f"hydra/launcher={launcher}", *folds)
    (trial,) = study(journal(tmp_path)).get_trials()
    sweep = tmp_path / "multirun/s"
    folders = [sweep / name for name in ("0", "0.1", "0.2", "0.3", "0.4", "0.5")]
    assert trial.value == statistics.fmean(map(value, folders))
    trained = [read_result(folder)["params"] for folder in folders]
    assert folds_and_seeds(trained) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert not (sweep / "0.6").exists()
    confirmed = [read_result(sweep / f"0.c{k}")["params"] for k in range(3)]
    assert folds_and_seeds(confirmed) == [(0, 2), (1, 2), (2, 2)]
    assert "on 1 fresh seeds of each of 3 folds" in out
    here(*ALIKE, "data.folds=3", "data.fold=2", "seed=1", "optim.lr=0.03", "hydra.run.dir=one")
    one, same = tmp_path / "one/0", sweep / "0.5"
    assert read_result(one)["trial"] == read_result(same)["trial"] and value(one) == value(same)


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.125, 0.2, 0.3, 1.0])
def test_the_first_turn_ends_where_optunas_pruner_can_first_stop(threshold):
    """Told of members that are all worse, by different amounts."""
    settings = {"name": "wilcoxon", "p_threshold": threshold}
    pruner = pruner_of(settings, 1)
    known = optuna.create_study(pruner=pruner)
    best = dict.fromkeys(range(9), 0.0)
    known.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values=best))

    def stops(count):
        worse = {step: 1.0 + step for step in range(count)}
        return pruner.prune(known, optuna.trial.create_trial(value=9.0, intermediate_values=worse))

    assert first_turn(settings, 9) == next(count for count in range(1, 9) if stops(count))


@pytest.mark.parametrize(
    ("count", "given", "message"),
    [
        (1, {}, "give hydra.sweeper.repeats=5"),
        (4, {}, "p_threshold above 0.125"),
        (5, {"p_threshold": 0.0}, "nothing is stopped before all 5 runs"),
        (5, {"n_startup_steps": 5}, "n_startup_steps=5 nothing is stopped"),
    ],
)
def test_a_test_that_could_save_nothing_is_refused(count, given, message):
    with pytest.raises(ConfigError, match=message):
        first_turn({"name": "wilcoxon", **given}, count)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["hydra/sweeper/pruner=wilcoxon", "hydra.sweeper.repeats=1"], "hydra/sweeper/pruner=wilcoxon"),
        (["data.folds=5", "data.fold=0,1"], "data.fold: a search does not choose among folds"),
        (["data.folds=2,3"], "data.folds: a search does not choose among folds"),
        (["data.folds=2000"], "data.folds=2000: must be at most"),
    ],
)
def test_refusals_make_nothing(here, tmp_path, given, message):
    _, err = here(*GRID, *given, code=1)
    assert message in err and "Traceback" not in err and not list(tmp_path.iterdir())
