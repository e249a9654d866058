"""A search that knows something: points to train first, an earlier study, when to end."""

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from rnnbench.config import ConfigError, Search
from rnnbench.record import read_result
from rnnbench.search import lease
from rnnbench.search import study as study_module
from rnnbench.search.constraints import Constraint, read_constraints
from rnnbench.search.ending import Ending, without_improvement
from rnnbench.search.known import check_points, point_of, read_point, read_points
from rnnbench.search.runner import StackSearch
from rnnbench.search.samplers import sampler_of
from rnnbench.search.space import Space, read_space
from rnnbench.search.study import Given, Suggestion
from rnnbench.search.warm import _begin, copy_trials
from tests.conftest import make_config
from tests.test_search import counted, journal, search, settings, study
from tests.test_search_faults import ELSEWHERE, draw, in_between, worker_of
from tests.test_search_faults import journal as storage_in

optuna.logging.set_verbosity(optuna.logging.WARNING)
PARSER = OverridesParser.create()
RATE = ["optim.lr=interval(0.01,0.1)"]
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
    more = settings(n_trials=1, study_name="other", enqueue="['best:s']", warm_start="s")
    out, _ = here(*search(*more, space=lr))
    (result,) = [read_result(folder) for folder in (tmp_path / "multirun/other").glob("[0-9]")]
    assert result["params"]["optim.lr"] == best.params["optim.lr"]
    assert result["metrics"]["best/val_accuracy"] == best.value
    assert "reused from" in out and "the sampler knows 5 trials of s; they do not count among the 1" in out
    assert f"best: trial {best.number} ({best.number} of s), " in out
    facts = json.loads((tmp_path / "multirun/other/sweep.json").read_text())["study"]["metrics"]
    assert (facts["study/complete"], facts["study/earlier"]) == (1, 5)
    more = settings(n_trials=1, study_name="third", warm_start="multirun/s")
    _, err = here(*search(*more, "fit.clip=1", space=lr), code=1)
    assert "hydra.sweeper.warm_start=multirun/s: has another setting: fit.clip is None there and 1" in err
    assert not (tmp_path / "multirun/third").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (settings(enqueue="['best:nowhere']"), "hydra.sweeper.enqueue=best:nowhere: there is no such study"),
        (["hydra/sweeper/sampler=grid", "optim.lr=0.01,0.02", *settings(enqueue="['model=lstm']")],
         "hydra/sweeper/sampler=grid trains all points"),
        (settings(warm_start="s", study_name="s"), "hydra.sweeper.warm_start=s: is this search itself"),
        (["hydra/sweeper/sampler=random", *settings(warm_start="s")], "sampler=random learns nothing"),
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


COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


@pytest.mark.parametrize(
    "values, since",
    [
        ([3, 1, 2, 2], 2),
        ([3, 1, 1], 1),  # as good is no improvement
        ([1], 0),
        ([], 0),
        ([1, None, PRUNED, FAIL, 2], 2),  # one that failed says nothing
        ([(1, 5), (5, 1), (3, 3), (4, 4), (3, 3)], 2),  # of several objectives: whatever enters the front
        ([2, "infeasible"], 1),
    ],
)
def test_trials_without_improvement_are_counted(values, since):
    trials = []
    for value in filter(lambda value: value is not None, values):
        state = value if isinstance(value, TrialState) else COMPLETE
        best = {"infeasible": (0.0,)}.get(value, value if isinstance(value, tuple) else (value,))
        trials.append(
            create_trial(
                state=state,
                values=list(best) if state == COMPLETE else None,
                system_attrs={"constraints:size<=1": 1.0} if value == "infeasible" else {},
            )
        )
        trials[-1].number = len(trials)
    directions = ["minimize"] * (2 if (1, 5) in values else 1)
    assert without_improvement(list(reversed(trials)), directions) == since


def test_a_search_without_improvement_or_time_begins_no_trial(tmp_path):
    a, b = (worker_of(storage_in(tmp_path), 20) for _ in range(2))
    a.ending, b.ending = (Ending(Search(stop_after=3), ["minimize"]) for _ in range(2))
    for value in (5.0, 1.0, 2.0, 3.0):
        worker = a if value < 3 else b  # the study counts, not the worker
        assert worker.tell(worker.ask(draw), COMPLETE, [value], {})
    last, other = a.ask(draw), b.ask(draw)
    assert a.tell(last, COMPLETE, [4.0], {})
    assert a.ask(draw) is None and "stop_after=3" in a.over()
    assert b.tell(other, COMPLETE, [0.5], {})  # what is in flight ends, and may be better
    assert a.over() is None and a.ask(draw) is not None

    late = worker_of(storage_in(tmp_path), 20)
    late.ending = Ending(Search(timeout=0.5), ["minimize"])
    suggestion = late.ask(draw)
    late.ending.began -= 1799
    assert late.over() is None
    late.ending.began -= 1
    assert late.ask(draw) is None and "hydra.sweeper.timeout=0.5" in late.over()
    assert late.tell(suggestion, COMPLETE, [1.0], {})


@pytest.mark.parametrize(
    "line, value, kept",
    [
        ("parameters/total<=700", 700, True),
        ("parameters/total<700", 700, False),
        ("parameters/total > 700", 700, False),
        ("parameters/total>=7e2", 700, True),
        ("val/accuracy>=0.9", 0.89, False),
    ],
)
def test_a_constraint_is_kept_where_optuna_is_told_at_most_0(line, value, kept):
    (constraint,) = read_constraints([line], make_config(), use_test_set=False)
    assert (constraint.excess(value) <= 0) == kept
    assert constraint.metric in ("parameters/total", "best/val_accuracy")


@pytest.mark.parametrize(
    "line, message",
    [
        ("parameters/totl<=3", "must be on a metric that is recorded: best/val_accuracy"),
        ("parameters/total=3", "must be like parameters/total<=20000"),
        ("parameters/total<=x", "must be like parameters/total<=20000"),
        ("test/accuracy>0.5", "no honest test figure"),
    ],
)
def test_constraints_are_refused(line, message):
    with pytest.raises(ConfigError) as refusal:
        read_constraints([line], make_config(), use_test_set=False)
    assert str(refusal.value).startswith(f"hydra.sweeper.constraints={line}: ") and message in str(
        refusal.value
    )
    assert read_constraints(["test/accuracy>0.5"], make_config(), use_test_set=True) == [
        Constraint("test/accuracy", ">", 0.5)
    ]


def test_the_winner_keeps_the_constraints_and_what_is_too_large_is_not_trained(here, tmp_path):
    size = ["model=gru", "model.hidden_size=choice(4,8,32)", "optim.lr=choice(0.001,0.02)", "fit.epochs=1"]
    more = settings(n_trials=9, n_jobs=1, study_name="s", stop_after=4)
    kept = settings(constraints="['parameters/total<=1000','parameters/total>300']")
    known = settings(enqueue="[model.hidden_size=32, model.hidden_size=4, model.hidden_size=8]")
    out, _ = here(*search(*more, *kept, *known, space=size))
    s = study(journal(tmp_path))
    trials = s.get_trials()
    assert [trial.state for trial in trials[:3]] == [PRUNED, PRUNED, COMPLETE]
    assert trials[0].constraints == {
        "parameters/total<=1000": 4362 - 1000,
        "parameters/total>300": 300 - 4362,
    }
    assert not (tmp_path / "multirun/s/0").exists() and (tmp_path / "multirun/s/2").exists()
    assert {t.params["model.hidden_size"] for t in trials if t.state == COMPLETE} == {8}
    assert f"best: trial {s.best_trial.number}," in out
    assert "trial 0: " in out and "not trained, breaks parameters/total<=1000" in out
    assert "trials broke a constraint by size, and were not trained" in out
    assert (
        "hydra.sweeper.stop_after=4: as many trials have not improved on the best, so the search ends" in out
    )
    _, err = here(*search(*more, space=size), code=1)
    assert "hydra.sweeper.study_name=s: is there, with another constraint" in err
    _, err = here(*search(*settings(n_trials=1, constraints="[val/accuracy>1]"), space=size), code=1)
    assert "no trial keeps the constraints: 1 of 1 break best/val_accuracy>1" in err


def test_members_that_have_finished_are_progress_of_an_attempt(here, tmp_path):
    here(*search(*settings(n_trials=1, study_name="s", repeats=2), space=RATE))
    (tmp_path / "multirun/s/1").mkdir()
    (tmp_path / "multirun/s/1/result.json").write_text("{")
    places = []
    attempt = SimpleNamespace(
        plan=SimpleNamespace(folder=tmp_path / "multirun/s", members=[0, 1]),
        study=SimpleNamespace(left_at=lambda _, place: places.append(place)),
    )
    for name in ("_folders", "_finished"):
        setattr(attempt, name, partial(getattr(StackSearch, name), attempt))
    for attempts in ((1,), (1, 0)):
        StackSearch._take_up(attempt, Suggestion(2, 2, (), attempts))
    assert places == [[], [0, 1]]


def earlier_study(folder):
    """A study with a trial of each state, in a journal of its own."""
    folder.mkdir()
    old = worker_of(storage_in(folder), 4, name="old")
    for value in (0.3, 0.1):
        suggestion = old.ask(draw)
        assert old.tell(suggestion, COMPLETE, [value], {"overrides": list(suggestion.overrides)})
    stopped = old.ask(draw)
    old.report(stopped, 1, 0.7)
    assert old.tell(stopped, PRUNED, None, {}) and old.tell(old.ask(draw), FAIL, None, {})
    return old.study


def told(trials):
    """What a sampler learns of trials."""
    return [(t.state, t.values, t.params, t.distributions, t.intermediate_values) for t in trials]


def test_an_earlier_study_is_told_to_the_sampler_and_does_not_count(tmp_path):
    source = earlier_study(tmp_path / "a")
    worker = worker_of(storage_in(tmp_path), 2)
    copy_trials(worker, source)
    copy_trials(worker, source)
    copies = worker.earlier()
    assert told(copies) == told(source.get_trials()[:3]) and len(worker.study.get_trials()) == 3
    assert [copy.user_attrs["earlier"] for copy in copies] == [["old", n] for n in range(3)]
    assert worker.study.best_trial.user_attrs["record"] == source.best_trial.user_attrs["record"]
    assert worker.done() == worker.trials() == []
    assert [worker.ask(draw).number, worker.ask(draw).number, worker.ask(draw)] == [3, 4, None]
    worker.points = 3
    assert worker.used_up() and "all 3 points" in worker.over()


def test_an_earlier_study_has_to_be_improved_on_but_its_trials_do_not_count_as_tries(tmp_path):
    worker = worker_of(storage_in(tmp_path), 9)
    copy_trials(worker, earlier_study(tmp_path / "a"))  # 0.3, 0.1, one that was pruned
    worker.ending = Ending(Search(stop_after=2), ["minimize"])
    for value in (0.2, 0.05, 0.2, 0.06):
        assert worker.tell(worker.ask(draw), COMPLETE, [value], {})
    assert worker.ask(draw) is None and "stop_after=2" in worker.over()
    assert without_improvement(worker.done()[:1], ["minimize"], worker.earlier()) == 1


def test_a_point_of_a_range_is_one_point_however_its_sum_is_rounded():
    over = {"x": FloatDistribution(0.1, 0.4, step=0.1)}
    trials = [create_trial(value=1.0, params={"x": x}, distributions=over) for x in (0.3, 0.1 + 2 * 0.1, 0.1)]
    assert study_module._distinct(trials) == 2


def test_a_point_may_name_options_that_all_trials_have(here):
    point = settings(n_trials=1, enqueue="['optim.lr=0.05 fit.schedule=cosine fit.clip=1']")
    here(*search(*point, space=RATE), "fit.schedule=cosine", "fit.clip=1", "dry_run=true")


def test_one_fold_of_a_study_is_another_search_than_all_folds(here):
    given = [*settings(n_trials=1, study_name="s"), "data.folds=2"]
    here(*search(*given, space=RATE), "data.fold=0")
    _, err = here(*search(*given, space=RATE), code=1)
    assert "hydra.sweeper.study_name=s: is there, with another fold: there less, here 1" in err


def test_what_a_worker_has_not_copied_before_it_died_another_copies(tmp_path, monkeypatch):
    source = earlier_study(tmp_path / "a")
    monkeypatch.setattr(study_module, "LOOK", 0.0)
    monkeypatch.setattr(lease, "LEASE", -1.0)
    dead = worker_of(storage_in(tmp_path), 2, me=ELSEWHERE)
    _begin(dead, ("old", 0), source.get_trials()[0])
    worker = worker_of(storage_in(tmp_path), 2)
    copy_trials(worker, source)
    assert sorted(map(str, told(worker.earlier()))) == sorted(map(str, told(source.get_trials()[:3])))
    assert worker.study.get_trials()[0].user_attrs["retired"] == "dead"
    assert worker.ask(draw).attempts == () and len(worker.trials()) == 1  # a copy is not trained


RACE = """
import sys
from rnnbench.search.study import Given
from rnnbench.search.warm import copy_trials
from tests.test_search_faults import draw, journal, worker_of
from optuna import load_study
from optuna.trial import TrialState
from pathlib import Path
folder = Path(sys.argv[1])
worker = worker_of(journal(folder), 12)
worker.known = [Given(f"x={n / 10}", {"x": n / 10}) for n in range(6)]
print(flush=True)
sys.stdin.readline()
copy_trials(worker, load_study(study_name="old", storage=journal(folder / "a")))
while suggestion := worker.ask(draw):
    worker.tell(suggestion, TrialState.COMPLETE, [1.0], {})
worker.release()
"""


def test_two_processes_copy_and_train_what_is_known_once(tmp_path):
    source = earlier_study(tmp_path / "a")
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:  # at once
        worker.stdin.write("\n")
        worker.stdin.flush()
    assert [worker.wait(60) for worker in workers] == [0, 0]
    there = worker_of(storage_in(tmp_path), 12)
    assert sorted(map(str, told(there.earlier()))) == sorted(map(str, told(source.get_trials()[:3])))
    drawn = [trial.params["x"] for trial in there.done()]
    assert len(drawn) == 12 and [drawn.count(n / 10) for n in range(6)] == [1] * 6


HUB_PACKAGE = """
import optuna
__all__ = ["Corner", "Middle", "optuna"]
class Corner(optuna.samplers.RandomSampler):
    def __init__(self, seed=None, high=False, **more):
        super().__init__(seed)
        self.high = high
    def sample_independent(self, study, trial, name, over):
        return over.high if self.high else over.low
class Middle(optuna.samplers.BaseSampler):
    def __init__(self, *, weight): ...
"""


def test_a_sampler_of_optunahub_is_taken_from_a_local_copy(tmp_path, monkeypatch):
    optunahub = pytest.importorskip("optunahub", reason="rnnbench[hub] brings it")
    folder = tmp_path / "optunahub/github.com/optuna/optunahub-registry/main/package/samplers/corner"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(HUB_PACKAGE)
    monkeypatch.setenv("OPTUNAHUB_CACHE_HOME", str(tmp_path / "optunahub"))
    monkeypatch.setattr(optunahub.hub, "_download_via_git", None)
    hub = {"name": "hub", "package": "samplers/corner", "class_name": "Corner"}
    copy = str(folder.parents[1])
    for where in ({}, {"registry": copy}):
        sampler = sampler_of({**hub, **where, "high": True, "seed": 1}, {}, 1)
        study_of = optuna.create_study(sampler=sampler)
        assert study_of.ask().suggest_float("x", 0, 3) == 3
    with pytest.raises(ConfigError, match=r"package=samplers/other: is not in .*load_module"):
        sampler_of({**hub, "package": "samplers/other"}, {}, 1)
    with pytest.raises(ConfigError, match="samplers/corner has Corner, Middle; name one"):
        sampler_of({**hub, "class_name": None}, {}, 1)
    with pytest.raises(ConfigError, match="weight: hydra/sweeper/sampler=hub needs a value"):
        sampler_of({**hub, "class_name": "Middle"}, {}, 1)
    with pytest.raises(ConfigError, match="package: hydra/sweeper/sampler=hub needs one"):
        sampler_of({"name": "hub"}, {}, 1)
    (folder / "__init__.py").write_text("import nowhere_at_all")
    (folder / "requirements.txt").write_text("nowhere_at_all")
    with pytest.raises(ConfigError, match=r"nowhere_at_all.*pip install -r .*requirements.txt"):
        sampler_of(hub, {}, 1)


def test_without_optunahub_the_install_line_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "optunahub", None)
    with pytest.raises(ConfigError, match=r"pip install 'rnnbench\[hub\]'"):
        sampler_of({"name": "hub", "package": "samplers/corner"}, {}, 1)
