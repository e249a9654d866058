"""What a search draws from: Hydra's syntax, conditions, refusals, samplers and pruners by name."""

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rnnbench.config import ConfigError, conf_folder
from rnnbench.search.identity import _difference
from rnnbench.search.samplers import PRUNERS, SAMPLERS, pruner_of, sampler_of
from rnnbench.search.space import Space, read_space
from rnnbench.search.storage import check_storage
from rnnbench.sweep import own_options
from rnnbench.sweep.launcher import register

PARSER = OverridesParser.create()


@pytest.fixture
def loader():
    register()
    own_options._enter({}, {}, {})  # cells that other tests of this process have entered would be options too
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def nothing_set(key):
    return None


def read(entries=None, *overrides):
    parameters, fixed = read_space(entries or {}, overrides, PARSER)
    return Space(parameters), fixed


@pytest.mark.parametrize(
    "line, expected",
    [
        ("a=choice(lstm,gru)", CategoricalDistribution(["lstm", "gru"])),
        ("a=lstm,gru", CategoricalDistribution(["lstm", "gru"])),
        ("a=choice(16,32)", CategoricalDistribution([16, 32])),
        ("a=null,true", CategoricalDistribution([None, True])),
        ("a=interval(0.0,1)", FloatDistribution(0, 1)),
        ("a=interval(1,8)", FloatDistribution(1, 8)),
        ("a=int(interval(1,8))", IntDistribution(1, 8)),
        ("a=tag(log,interval(1e-4,1))", FloatDistribution(1e-4, 1, log=True)),
        ("a=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a=range(1,4)", IntDistribution(1, 3)),  # without its stop, as everywhere in Hydra
        ("a=range(0,10,step=4)", IntDistribution(0, 8, step=4)),
    ],
)
def test_hydras_syntax_makes_distributions(line, expected):
    space, fixed = read(None, line)
    assert space.drawn[0].over == expected
    assert fixed == []


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=5, unique=True), st.integers(2, 4))
def test_each_point_of_a_finite_space_occurs_once(choices, count):
    line = f"a=choice({','.join(map(str, choices))})"
    space, _ = read({"b": {"over": f"range(0,{count})", "when": f"a={choices[0]}"}}, line)
    points = [tuple(point) for point in space.points(nothing_set)]
    assert len(points) == len(set(points)) == count + len(choices) - 1
    assert all(
        (f"a={choices[0]}" in point) == any(item.startswith("b=") for item in point) for point in points
    )


@pytest.mark.parametrize(
    "word, inside",
    [
        ("a=lstm", True),
        ("a=rnn", False),
        ("a=lstm,rnn", False),
        ("b=1e-05", True),
        ("b=0.5", True),
        ("b=-3", True),
        ("b=${oc.env:HOME}", False),
        ("b=[1]", False),
        ("c=7", True),
        ("c=8", False),
        ("+b=0.5", False),
        ("d=1", False),
    ],
)
def test_an_override_is_inside_a_space_if_the_space_can_draw_it(word, inside):
    space, _ = read({"a": "choice(lstm,gru)", "b": "interval(-3.0,1.0)", "c": 7})
    assert (word in space) is inside


def test_every_point_of_a_space_is_inside_it():
    space, _ = read({"a": "null,true,x", "b": {"over": "interval(0.0,1.0)", "complement": True}})
    for point in space.corners(nothing_set):
        assert all(word in space for word in point)


def test_a_glob_is_a_choice_among_the_options_of_its_group(loader):
    parser = OverridesParser.create(config_loader=loader)
    (parameter,), _ = read_space({}, ["model=glob(l*)"], parser)
    assert parameter.over == CategoricalDistribution(["lem", "ligru", "lmu", "lru", "lstm", "lstm_peephole"])
    with pytest.raises(ConfigError, match="without values"):
        read_space({}, ["model=glob(zz*)"], parser)


@pytest.mark.parametrize("epochs, first", [(1, 1), (5, 1), (9, 2), (20, 4), (200, 40)])
def test_asha_judges_first_after_a_fifth_of_the_epochs(epochs, first):
    assert pruner_of({"name": "asha"}, epochs)._min_resource == first
    assert pruner_of({"name": "asha", "min_resource": 1}, epochs)._min_resource == 1


def test_a_condition_is_drawn_after_what_it_waits_for():
    space, _ = read({"optim.momentum": {"over": "interval(0.0,0.9)", "when": "optim=sgd"}}, "optim=sgd,adam")
    values = {"optim": "adam"}
    assert space.point(lambda p: values[p.key], nothing_set) == ["optim=adam"]
    values |= {"optim": "sgd", "optim.momentum [optim=sgd]": 0.5, "optim.momentum": 0.5}
    assert space.point(lambda p: values[p.key], nothing_set) == ["optim=sgd", "optim.momentum=0.5"]


def test_the_command_line_takes_a_key_out_of_the_space():
    space, fixed = read({"a": "choice(1,2)", "b": "choice(1,2)"}, "a=1")
    assert space.keys == {"b"}
    assert fixed == ["a=1"]


def test_a_mapping_takes_nothing_out_of_the_space():
    given = ["data=adding", "data={folds: 3}", "optim={lr: 0.1}", "optim={eps: 0.1}"]
    space, fixed = read({"optim": "choice(sgd, adam)"}, *given)
    assert space.keys == {"optim"} and fixed == given


@pytest.mark.parametrize("there, holds", [("1.0", True), ("1", True), ("1.5", False), (None, False)])
def test_a_condition_compares_values_not_their_text(there, holds):
    space, _ = read({"a": {"over": "choice(3,4)", "when": "b=1"}, "c": "choice(5,6)"})
    assert (space.point(lambda p: 4, lambda key: there) == ["a=4", "c=4"]) is holds


def test_a_complement_is_what_is_missing_to_one():
    space, _ = read({"a": {"over": "tag(log,interval(0.01,1))", "complement": True}})
    assert space.point(lambda p: 0.25, nothing_set) == ["a=0.75"]


@pytest.mark.parametrize(
    "entries, overrides, message",
    [
        ({}, [], "nothing to search"),
        ({}, ["a=1"], "nothing to search"),
        ({}, ["a=tag(log,interval(0,1))"], "must begin above 0"),
        ({}, ["a=interval(2,1)"], "there is nothing"),
        ({}, ["a=range(3,3)"], "without values"),
        ({}, ["a=choice(1,1)"], "is given twice"),
        ({}, ["seed=choice(0,1)"], "hydra.sweeper.repeats=3"),
        ({"a": {"over": "choice(1,2)", "wenn": "b=1"}}, [], "keys are over, when, complement"),
        ({"a": {"over": "choice(1,2)", "when": "b"}}, [], "must be like optim=sgd"),
        ({"a": {"over": "choice(1,2)", "when": "b=3"}, "b": "choice(1,2)"}, [], "can never be drawn"),
        (
            {"a": {"over": "choice(1,2)", "when": "b=1"}, "b": "interval(0,1)"},
            [],
            "a condition needs a choice",
        ),
        ({"a": ["choice(1,2)", "choice(3,4)"]}, [], "each needs a `when`"),
        ({"a": {"over": "choice(1,2)", "complement": True}}, [], "complement needs an interval"),
        (
            {"a": {"over": "choice(1,2)", "when": "b=1"}, "b": {"over": "choice(1,2)", "when": "a=1"}},
            [],
            "depend on one another",
        ),
    ],
)
def test_refusals_of_spaces(entries, overrides, message):
    with pytest.raises(ConfigError, match=message):
        read(entries, *overrides)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_optunas_own(name):
    import optuna

    sampler = sampler_of({"name": name}, {"a": [1, 2]}, 1)
    study = optuna.create_study(sampler=sampler)
    trial = study.ask()
    assert trial.suggest_categorical("a", [1, 2]) in (1, 2)
    assert type(sampler.inner).__name__ == SAMPLERS[name]


@pytest.mark.parametrize("name", sorted(set(PRUNERS) - {"percentile", "patient"}))
def test_every_pruner_is_optunas_own(name):
    assert type(pruner_of({"name": name}, 9)).__name__ == PRUNERS[name]


def test_pruners_that_need_a_value():
    assert type(pruner_of({"name": "percentile", "percentile": 25.0}, 9)).__name__ == "PercentilePruner"
    inner = pruner_of({"name": "patient", "wrapped_pruner": "median", "patience": 2}, 9)
    assert type(inner).__name__ == "PatientPruner"


def test_workers_with_one_seed_draw_apart_and_one_worker_draws_alike():
    import optuna

    def draws(first):
        study = optuna.create_study(sampler=sampler_of({"name": "random", "seed": 1}, {}, 1))
        for _ in range(first):
            study.add_trial(optuna.trial.create_trial(value=0.0))
        return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]

    assert draws(0) == draws(0) != draws(3)


def test_the_published_sampler_paths_mean_ours():
    published = {"_target_": "optuna.samplers.TPESampler", "seed": 123, "n_startup_trials": 10}
    assert sampler_of(published, {}, 1).inner is None
    assert sampler_of({"_target_": "optuna.samplers.MOTPESampler"}, {}, 2).kind.__name__ == "TPESampler"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: sampler_of({"name": "annealing"}, {}, 1), "must be one of tpe, random"),
        (lambda: pruner_of({"name": "guillotine"}, 9), "must be one of none, median"),
        (lambda: sampler_of({"name": "cmaes"}, {}, 2), "knows one objective, not 2"),
        (lambda: sampler_of({"name": "tpe", "warmth": 1}, {}, 1), "no such argument"),
        (lambda: pruner_of({"name": "percentile"}, 9), "needs a value"),
        (lambda: check_storage("mongodb://a/b"), "must be one of sqlite"),
        (lambda: check_storage("study.db"), "must be one of sqlite"),
        (lambda: check_storage("journal:///nowhere/at/all/j.log"), "there is no folder"),
        (lambda: check_storage("postgresql://me:secret@h/db"), "a password, token or key in it"),
    ],
)
def test_refusals_of_samplers_pruners_and_storages(make, message):
    with pytest.raises(ConfigError, match=message) as refused:
        make()
    assert "secret" not in str(refused.value)


def test_where_two_spaces_differ_is_said_in_words():
    """As a search is refused whose name another one has, in another space."""

    def space(*overrides):
        parameters, _ = read_space({}, overrides, OverridesParser.create())
        return Space(parameters).identity()

    there = space("optim.lr=tag(log,interval(0.01,0.1))", "model.num_layers=range(1,4)")
    here = space("optim.lr=interval(0.01,0.2)", "optim=adam,sgd", "model.num_layers=range(1,4)")
    assert _difference(there, here) == (
        "there optim.lr from 0.01 to 0.1 (log), here optim of adam, sgd, optim.lr from 0.01 to 0.2"
    )
