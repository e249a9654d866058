"""The members of a suggestion: which jobs it has, in which turns they train, and what Optuna is told."""

import json
import statistics
from dataclasses import replace

import numpy as np
import optuna
import pytest
import yaml
from optuna.trial import TrialState

from rnnbench import tasks
from rnnbench.config import ConfigError
from rnnbench.record import read_result
from rnnbench.search.samplers import pruner_of
from rnnbench.search.turns import Turns, first_turn
from rnnbench.tasks.recall import Selective
from rnnbench.tasks.sequences import Images
from rnnbench.tasks.synthetic import Generated
from rnnbench.train.constant import constant_answer
from tests.conftest import make_config
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


TWO = "'data=digits', 'data=adding'"
OVER = "hydra.sweeper.over=['data=digits', 'data=adding data.steps=9 fit.steps_per_epoch=9']"
ON_TWO = [word for word in GRID if word != "data=digits"] + [OVER]


def constants():
    """What constant answers reach on validation examples: the commonest class, the mean of the numbers."""
    digits, adding = (tasks.load(data) for data in (Images("digits"), Generated("adding", "mse", steps=9)))
    labels, numbers = (task.targets[task.splits["val"]] for task in (digits, adding))
    return np.bincount(labels).max() / len(labels), numbers.astype(float).var()


@pytest.mark.parametrize("launcher", ["stack", "basic"])
def test_a_search_over_tasks_is_told_the_mean_of_their_scores(here, tmp_path, launcher):
    more = settings(repeats=2, n_trials=1, confirm=1)
    out, _ = here(*ON_TWO, *more, f"hydra/launcher={launcher}")
    (trial,) = study(journal(tmp_path)).get_trials()
    sweep = tmp_path / "multirun/s"
    accuracy, mse = constants()
    runs = [read_result(sweep / name)["metrics"] for name in ("0", "0.1", "0.2", "0.3")]
    scores = [(run["best/val_accuracy"] - accuracy) / (1 - accuracy) for run in runs[:2]]
    scores += [max(1 - run["best/val_mse"] / mse, -1) for run in runs[2:]]
    assert trial.value == pytest.approx(statistics.fmean(scores))
    assert not (sweep / "0.4").exists()
    by_task = [statistics.fmean(scores[:2]), statistics.fmean(scores[2:])]
    found = trial.user_attrs["record"]["tasks"]
    assert [task["score"] for task in found] == pytest.approx(by_task)
    assert [task["constant"] for task in found] == pytest.approx([accuracy, mse])
    confirmed = [read_result(sweep / f"0.c{k}")["params"] for k in range(2)]
    assert [(params["data.name"], params["seed"]) for params in confirmed] == [("digits", 2), ("adding", 2)]
    commands = [line.split() for line in out.splitlines() if "python -m rnnbench" in line]
    assert [words[-1] for words in commands] == ["data=digits", "fit.steps_per_epoch=9"]
    assert "adding,9,9" in out and "1 of 1" in out


def test_turns_over_tasks_have_every_task(here, tmp_path):
    here(*ON_TWO, *WILCOXON, "hydra.sweeper.repeats=4")
    good, bad = sorted(study(journal(tmp_path)).get_trials(), key=lambda trial: -trial.value)
    assert set(bad.intermediate_values) == {0, 1, 4, 5}  # two seeds of each task
    assert bad.value == pytest.approx(statistics.fmean(bad.intermediate_values.values()))
    assert len(good.intermediate_values) == 8


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
        (["hydra.sweeper.over=['data=digits']"], "hydra.sweeper.over: needs two tasks or more"),
        (["hydra.sweeper.over=['data=digit', 'data=adding']"], "did you mean data=digits?"),
        ([OVER], "hydra.sweeper.over: data is given outside of the list too"),
    ],
)
def test_refusals_make_nothing(here, tmp_path, given, message):
    _, err = here(*GRID, *given, code=1)
    assert message in err and "Traceback" not in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("over", "given", "message"),
    [
        ("'data=digits', 'data=digits data.split_seed=0'", "seed=0", "are one task"),
        ("'data=digits', 'data=adding seed=1'", "fit.epochs=1", "seed cannot differ by task"),
        ("'data=digits', 'data=adding optim.lr=1'", "seed=0", "the search draws optim.lr"),
        (TWO, "data.split_seed=0,1", "the search draws data.split_seed"),
        (TWO, "hydra.sweeper.objectives=[val/mse]", "data=digits does not record"),
        (TWO, "hydra.sweeper.objectives=[parameters/total]", "has no scale"),
        (TWO, "hydra.sweeper.objectives=[val/loss,parameters/total]", "one objective"),
        (TWO, "hydra/sweeper/pruner=median", "judges epochs"),
        (TWO, "data.folds=2", "data=adding"),
    ],
)
def test_tasks_that_cannot_be_searched_together_are_refused(here, tmp_path, over, given, message):
    _, err = here(*ON_TWO[:-1], f"hydra.sweeper.over=[{over}]", given, code=1)
    assert message in err and "Traceback" not in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data",
    [
        Images("digits"),
        Generated("adding", "mse", steps=9),
        Generated("copy", "nll", steps=20),
        Selective("selective_copy"),  # asks for nothing at most steps
    ],
    ids=lambda d: d.name,
)
def test_a_constant_answer_is_that_of_the_frequencies_or_the_mean(data):
    task = tasks.load(data)
    found = constant_answer(replace(make_config(), data=data), "val")
    targets = task.targets[task.splits["val"]]
    if data.name == "adding":
        assert found["mse"] == pytest.approx(targets.astype(float).var(), rel=1e-4)
        return
    asked = targets[targets >= 0]
    shares = np.bincount(asked) / asked.size
    assert found["loss"] == pytest.approx(-sum(p * np.log(p) for p in shares if p), rel=1e-4)
    if "accuracy" in found:
        assert found["accuracy"] == pytest.approx(shares.max())
