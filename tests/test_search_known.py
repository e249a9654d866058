"""A search that knows something: points to train first, an earlier study, when to end."""

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from rnnbench.config import ConfigError
from rnnbench.record import read_result
from rnnbench.search.known import check_points, point_of, read_point, read_points
from rnnbench.search.space import Space, read_space
from rnnbench.search.study import Given
from tests.test_search import counted, journal, search, settings, study
from tests.test_search_faults import ELSEWHERE, draw, in_between, worker_of
from tests.test_search_faults import journal as storage_in

optuna.logging.set_verbosity(optuna.logging.WARNING)
PARSER = OverridesParser.create()
SPACE = {
    "optim": "choice(sgd, adam)",
    "optim.lr": "tag(log, interval(1e-4, 1e-1))",
    "optim.momentum": {"over": "interval(0.0, 0.5)", "when": "optim=sgd", "complement": True},
    "model.hidden_size": "range(8, 33, step=8)",
    "fit.clip": [{"over": "choice(1, 5)", "when": "optim=sgd"}, {"over": "2", "when": "optim=adam"}],
}


@pytest.fixture
def here(here, monkeypatch):
    """The command in this process without its pictures."""
    monkeypatch.setattr("rnnbench.search.pictures.draw", lambda *_: {})
    return here


def space_of(entries=SPACE):
    return Space(read_space(entries, [], PARSER)[0])


def lookup(key):
    return {"model": "lstm", "fit.epochs": "2"}.get(key)


@pytest.mark.parametrize(
    "point, drawn",
    [
        ("optim=sgd optim.momentum=0.75", {"optim": "sgd", "optim.momentum [optim=sgd]": 0.25}),
        ("optim.momentum=0.75", {"optim.momentum [optim=sgd]": 0.25}),  # if the sampler draws sgd
        ("optim.lr=1e-2 model=lstm", {"optim.lr": 0.01}),
        ("model.hidden_size=16", {"model.hidden_size": 16}),
        ("fit.clip=5.0", {"fit.clip [optim=sgd]": 5}),
        ("fit.clip=2 optim=adam", {"optim": "adam"}),
    ],
)
def test_a_known_point_is_what_the_sampler_would_have_drawn(point, drawn):
    given = read_point(point, space_of(), lookup, PARSER)
    assert given.parameters == drawn
    words = point_of(given, space_of(), lookup)
    typed = set(point.replace("1e-2", "0.01").replace("5.0", "5").split()) - {"model=lstm"}
    assert typed <= {*words} or "optim=adam" in words  # where the condition does not hold it is not drawn


@pytest.mark.parametrize(
    "point, message",
    [
        ("optim.lr=0.5", "optim.lr=0.5 is outside of the space: from 0.0001 to 0.1"),
        ("optim=rmsprop", "optim=rmsprop is outside of the space: one of sgd, adam"),
        ("optim.momentum=0.4", "optim.momentum=0.4 is outside of the space: from 0.5 to 1 (where optim=sgd)"),
        ("optim=adam optim.momentum=0.9", "optim.momentum is drawn only where optim=sgd"),
        ("optim=adam fit.clip=5", "fit.clip=5 is outside of the space: 2 (where optim=adam)"),
        ("model.hidden_size=12", "from 8 to 32 in steps of 8"),
        ("model.hidden_size=x", "from 8 to 32 in steps of 8"),
        ("fit.epochs=3", "fit.epochs is 2 in all trials; searched are fit.clip,"),
        ("speed=3", "speed is not searched"),
        ("model=lstm", "sets no key of the space"),
        ("optim.lr=0.01,0.02", "a point has one value for a key"),
        ("optim.lr=0.01 optim.lr=0.02", "sets optim.lr twice"),
        ("optim.lr", "Error parsing override"),
        ("", "a point is empty"),
    ],
)
def test_a_point_outside_of_the_space_is_refused_with_the_range(point, message):
    with pytest.raises(ConfigError) as refusal:
        read_point(point, space_of(), lookup, PARSER)
    assert message in str(refusal.value) and "hydra.sweeper.enqueue" in str(refusal.value)


def test_known_points_are_trained_first_and_once(here, tmp_path):
    lr = ["optim.lr=tag(log,interval(1e-3,0.1))", "model.hidden_size=choice(4,8)", "fit.epochs=1"]
    points = "['optim.lr=0.01','optim.lr=0.05 model.hidden_size=4']"
    more = settings(n_trials=3, n_jobs=2, study_name="s")
    here(*search(*more, *settings(enqueue=points), space=lr))
    trials = study(journal(tmp_path)).get_trials()
    assert [trial.params["optim.lr"] for trial in trials[:2]] == [0.01, 0.05]
    assert trials[1].params["model.hidden_size"] == 4
    assert read_result(tmp_path / "multirun/s/1")["params"]["optim.lr"] == 0.05
    more = settings(n_trials=5, study_name="s")
    here(*search(*more, *settings(enqueue=points[:-1] + ",'optim.lr=0.02']"), space=lr))
    rates = [trial.params["optim.lr"] for trial in study(journal(tmp_path)).get_trials()]
    assert len(rates) == 5 and rates[3] == 0.02 and len(set(rates)) == 5

    best = study(journal(tmp_path)).best_trial
    more = settings(n_trials=1, study_name="other", enqueue="['best:s']")
    out, _ = here(*search(*more, space=lr))
    (result,) = [read_result(folder) for folder in (tmp_path / "multirun/other").glob("[0-9]")]
    assert (result["params"]["optim.lr"], best.value) == (
        best.params["optim.lr"],
        result["metrics"]["best/val_accuracy"],
    )
    assert "reused from" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (settings(enqueue="['best:nowhere']"), "hydra.sweeper.enqueue=best:nowhere: there is no such study"),
        (["hydra/sweeper/sampler=grid", "optim.lr=0.01,0.02", *settings(enqueue="['model=lstm']")],
         "hydra/sweeper/sampler=grid trains all points"),
    ],
)  # fmt: skip
def test_refusals_make_nothing(here, tmp_path, arguments, message):
    _, err = here(*search(*arguments), code=1)
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_points_are_distinct_and_no_more_than_trials():
    points = read_points(["optim.lr=0.01", "optim.lr=1e-2"], space_of(), lookup, PARSER)
    with pytest.raises(ConfigError, match=r"optim\.lr=0\.01: is given twice"):
        check_points(points, 5)
    with pytest.raises(ConfigError, match="has 1 points, more than"):
        check_points(points[:1], 0)


def knowing(storage, n_trials, me=None):
    worker = worker_of(storage, n_trials, me=me)
    worker.known = [Given("x=0.25", {"x": 0.25}), Given("x=0.75", {"x": 0.75})]
    return worker


def test_workers_that_ask_at_once_train_a_known_point_once(tmp_path):
    a, b = (knowing(storage_in(tmp_path), 4, me=ELSEWHERE | {"pid": pid}) for pid in (1, 2))
    taken = in_between(a, b)  # both see that the first point is left
    taken.append(a.ask(draw))
    assert [suggestion.overrides for suggestion in taken] == [("x=0.25",), ("x=0.75",)]
    a.retire(taken[1].id, "interrupted")
    taken += [b.ask(draw), a.ask(draw), b.ask(draw)]
    assert [s.overrides for s in taken[1:3]] == [("x=0.75",), ("x=0.75",)]  # the lost one again
    assert taken[2].attempts == (taken[1].number,)
    drawn = [trial.params["x"] for trial in counted(a.study.get_trials())]
    assert len(drawn) == 4 and drawn.count(0.25) == drawn.count(0.75) == 1
    assert a.ask(draw) is None


def test_a_point_that_was_lost_before_it_was_drawn_keeps_its_values(tmp_path):
    a = knowing(storage_in(tmp_path), 2)
    with pytest.raises(KeyboardInterrupt):
        a.ask(lambda trial: (_ for _ in ()).throw(KeyboardInterrupt))
    (begun,) = a.study.get_trials()
    a.retire(begun._trial_id, "dead")
    assert a.ask(draw).overrides == ("x=0.25",)
    assert a.study.get_trials()[0].state == TrialState.FAIL
