"""Jobs that are composed once for their choices are as Hydra composes them one by one, to the last flag."""

import itertools
import re
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import Container, OmegaConf, open_dict

from rnnbench.app import app
from rnnbench.config import SharedYaml, conf_folder, to_yaml, typed
from rnnbench.sweep import launcher
from rnnbench.sweep.compose import Composer, compose_one
from rnnbench.sweep.hydra_api import initialized

SWEEP = ["seed=0,1", "hydra.sweep.dir=s"]


@contextmanager
def sweep(*more):
    """The loader and the config of a sweep."""
    launcher.register()
    with initialized(str(conf_folder())):
        loader = GlobalHydra.instance().config_loader()
        yield loader, loader.load_configuration("config", [*SWEEP, *more], RunMode.MULTIRUN)


def hydras(loader):
    """Hydra's own loader of the same files, which parses and merges them all for each config."""
    return ConfigLoaderImpl(loader.config_search_path)


def composers(*more):
    """A Composer's compose, Hydra's way beside it, and what the Composer has left to Hydra."""
    with sweep(*more) as (loader, master):
        ours = Composer(loader, master)
        calls = []

        def counted(master, overrides):
            calls.append(overrides)
            return type(loader).load_sweep_config(loader, master, overrides)

        loader.load_sweep_config = counted
        slow = hydras(loader)
        plain = slow.load_configuration("config", [*SWEEP, *more], RunMode.MULTIRUN)
        OmegaConf.copy_cache(from_config=master, to_config=plain)  # the time of day
        assert facts(master) == facts(plain)
        return ours.compose, lambda words: slow.load_sweep_config(master, list(words)), calls


@pytest.fixture(scope="module")
def both():
    return composers()


def facts(node):
    """All that a node is: types, flags, caches, content."""
    if isinstance(node, Container):
        content = node._content
        if isinstance(content, dict):
            content = {key: facts(child) for key, child in content.items()}
        elif isinstance(content, list):
            content = [facts(child) for child in content]
    else:
        content = repr(node._value())
    return type(node), dict(vars(node._metadata)), content


def outcome(compose, overrides):
    """A job's config in every respect, or its error with its causes. What is written follows from it."""
    try:
        cfg = compose(overrides)
    except Exception as error:
        causes = (error, error.__cause__, getattr(error.__cause__, "__cause__", 0))
        # Hydra 1.4 says at which place of its list of words it stopped; a Composer reads them one by one.
        return [(type(e), re.sub(r"^Error when parsing index: .*\n", "", str(e))) for e in causes]
    composed = facts(cfg)
    with open_dict(cfg):  # as a launcher does
        cfg.hydra.job.id = cfg.hydra.job.num = 7
        cfg.hydra.runtime.output_dir = "/s/7"
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True)
    except Exception as error:
        resolved = type(error), str(error)
    try:
        config = repr(typed(cfg))
    except Exception as error:
        config = type(error), str(error)
    return composed, repr(resolved), config


def check(both, *overrides):
    ours, slow, _ = both
    assert outcome(ours, overrides) == outcome(slow, overrides)


def choices():
    """Every choice of every group of ours, as an override."""
    for folder in sorted(path for path in conf_folder().rglob("*") if path.is_dir()):
        group = folder.relative_to(conf_folder()).as_posix()
        for file in sorted(folder.glob("*.yaml")):
            yield f"{group}={file.stem}"


def first_of_each_group():
    """Every choice; slow but for the first of each group: tests/test_config.py composes them all."""
    for _, group in itertools.groupby(choices(), key=lambda choice: choice.partition("=")[0]):
        first, *others = group
        yield first
        yield from (pytest.param(choice, marks=pytest.mark.slow) for choice in others)


@pytest.mark.parametrize("choice", list(first_of_each_group()))
def test_every_choice(both, choice):
    check(both, choice, "seed=3", "fit.epochs=2")


def test_every_pair_of_model_and_optimiser_with_values_of_theirs(both):
    models = ["gru", "rnn"]
    values = {"sgd": "momentum=0.5", "adam": "beta1=0.5", "adamw": "eps=1e-3", "rmsprop": "alpha=0.5"}
    for model, optim in itertools.product(models, values):
        check(both, f"model={model}", f"optim.{values[optim]}", f"optim={optim}", "optim.lr=0.5")


# More of the forms below.
AGAIN = [
    "~tracking=none",
    "optim=lion seed=1",
    "nothing@there=here",
    "+more=1 +more=2",
    "model.more=1",
    "+model.more=1",
    "++model.more=1",
    "~seed=0",
    "~more",
    "+more=1 ~more=2",
    "tracking.uri=null",
    "tracking.uri=''",
    "tracking.experiment='1e3'",
    "tracking.artifacts=[nothing]",
    "tracking.artifacts=checkpoint",
    "data.sha256={a:1}",
    "data.sha256=3",
    "model.readout=MEAN",
    "model.readout=first",
    "model.forget_bias=true",
    "model.hidden_size=null",
    "model.bidirectional=3",
    "optim.lr=inf",
    "optim.lr=nan",
    "optim.lr=high",
    "seed=${fit.none}",
    "seed=${model.name}",
    "data.root=${hydra:sweep.dir}",
    "model=gru,lstm",
    "seed=choice(1,2)",
]  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        # choices in their forms
        "+model@teacher=gru seed=1",
        "model@model=gru seed=1",
        "~tracking seed=1",
        "~tracking=mlflow",
        "+experiment=tutorial seed=2",
        "experiment=tutorial model=gru fit.epochs=3 data.train_size=5",
        "experiment=null seed=1",
        "hydra/launcher=basic seed=1",
        "hydra/job_logging=default",
        "model=[gru]",
        "optim=sgd optim=adam",
        "++model=gru",
        "model=foo",
        "model=3",
        "nothing=here",
        "model@nowhere=gru",
        "~experiment",
        # values in their forms
        "seed=1 seed=2",
        "+seed=1",
        "++seed=1",
        "+more=1",
        "+more.deep.er=1 more.deep.er=2",
        "++more.deep=[1,{a:b},null]",
        "+more={a:1} +more={b:2} more.a=3",
        "more=1",
        "~seed",
        "+more=1 ~more",
        "+data.sha256.x=y ~data.sha256.x seed=1",
        "~model.dropout",
        "objective='a, b'",
        'tracking.experiment="x=1, y"',
        "tracking.experiment=null",
        "tracking.uri=",
        "tracking.artifacts=[checkpoint,curves]",
        "data.sha256={a.gz:b,c:d}",
        "model.readout=mean",
        "model.forget_bias=1",
        "model.hidden_size=4.5",
        "model.bidirectional=yes",
        "model={hidden_size:5,name:gru}",
        "model.hidden_size=3 model={hidden_size:5} model.num_layers=2",
        "model={hiden_size:5}",
        "model=null",
        "optim.lr=1e-3",
        "fit.epochs=1_000",
        "seed=08",
        # interpolations
        "seed=${fit.epochs}",
        "model.hidden_size=${.num_layers}",
        "data.root=${hydra.sweep.dir}/x",
        "data.root=${hydra.job.num}/${hydra.job.override_dirname}",
        "data.root=${oc.env:HOME}/${now:%Y}",
        "tracking.experiment=${model.name}-${data.name} model=gru",
        "+more=${hydra.job.config_name} +more=1",
        "+more=${hydra.job.override_dirname} ~more=x",
        # Hydra's own settings, as some sweeper might give them
        "hydra.job.name=x seed=1",
        "hydra.job.config.override_dirname.exclude_keys=[seed] seed=1 fit.epochs=2",
        "+hydra.job.env_set.A=b",
        "hydra={job:{name:x}}",
        "hydra.searchpath=[file:///nowhere]",
        "hydra.nothing=1",
        # what is no override of one job
        "seed=1,2",
        "seed=range(3)",
        "seed",
        "seed=[1",
        "=1",
        "seed=1 fit.epochs==",
        "foo=1 model=foo",
        "seed=x nothing@there=y",
        *(pytest.param(again, marks=pytest.mark.slow) for again in AGAIN),
    ],
)  # fmt: skip
def test_every_form_of_override(both, overrides):
    check(both, *split(overrides))


def split(overrides):
    """At blanks outside of quotes."""
    words = []
    for word in overrides.split(" "):
        if words and any(words[-1].count(quote) % 2 for quote in "'\""):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


KEYS = """
    model.name model.hidden_size model.bidirectional model.dropout model.readout model.forget_bias optim.lr
    optim.weight_decay optim.beta1 optim.momentum data.name data.root data.order data.train_size data.sha256
    fit.clip fit.schedule fit.kernel tracking.uri tracking.artifacts seed objective dry_run model optim
    nothing fit.nothing
"""
WORDS = """
    null true False 0 -3 7 1e-3 .5 inf nan lstm gru rows PIXELS torch 'a,b' "1" [] [checkpoint] {} {a:1}
    {lr:0.5} ${seed} ${model.hidden_size} ${fit.nothing} ${oc.env:HOME} sgd a/b sqlite:///x.db
"""
VALUES = st.sampled_from(WORDS.split()) | st.integers().map(str) | st.floats(allow_nan=False).map(repr)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "", "+", "++"]), st.sampled_from(KEYS.split()), VALUES), max_size=4
    )
)
def test_any_overrides(both, overrides):
    check(both, *(f"{sign}{key}={value}" for sign, key, value in overrides))


@pytest.mark.parametrize(
    "more",
    [
        ["hydra.job.config.override_dirname.kv_sep=:", "hydra.job.env_copy=[HOME]"],
        ["hydra.job.config.override_dirname.exclude_keys=[seed]", "hydra.job.name=x"],
        ["hydra/launcher=basic", "hydra/sweeper=basic", "hydra/hydra_logging=default"],
        ["hydra.launcher.max_stack=3", "+hydra.job.env_set.A=${seed}"],
    ],
)
def test_hydras_settings_of_the_sweep(more):
    both = composers(*more)
    check(both, "model=gru", "seed=1")
    check(both, "seed=2", "fit.epochs=3")


def test_groups_of_a_searchpath(tmp_path):
    (tmp_path / "kind").mkdir()
    (tmp_path / "kind" / "small.yaml").write_text("# @package _global_\nmodel: {hidden_size: 3}\n")
    both = composers(f"hydra.searchpath=[file://{tmp_path}]")
    check(both, "+kind=small", "seed=1")
    check(both, "+kind={a:1}", "seed=1")


def test_what_the_sweep_resolved_stays_so_in_its_jobs(both):
    with sweep() as (loader, master):
        compose = Composer(loader, master).compose
        compose(["seed=1"])
        with open_dict(master):
            master.moment = "${now:%f}"
        moment = master.moment
        assert compose(["seed=2", "data.root=${now:%f}"]).data.root == moment


def test_each_config_has_the_time_at_which_it_is_composed(monkeypatch):
    launcher.register()
    folders = []
    for hour in (1, 2, 3):
        moment = datetime(2001, 2, 3, hour)
        monkeypatch.setattr("hydra.core.utils.datetime", SimpleNamespace(now=lambda moment=moment: moment))
        folders.append(compose_one([]).hydra.run.dir)
    assert folders == [f"multirun/2001-02-03/0{hour}-00-00/0" for hour in (1, 2, 3)]


def test_a_job_is_its_own():
    ours, slow, _ = composers()
    first = ours(["seed=1"])
    first.hydra.job.env_set.update({})
    first.data.sha256 = {"a": "b"}
    first.model.hidden_size = 3
    assert facts(ours(["seed=1"])) == facts(slow(["seed=1"]))


def test_choices_are_composed_once():
    ours, _, calls = composers()
    for model, seed in itertools.product(["lstm", "gru"], range(20)):
        assert ours([f"seed={seed}", f"model={model}"]).seed == seed
    assert calls == [["model=lstm"], ["model=gru"]]


def test_the_typed_values_have_their_types(both):
    config = typed(both[0](["optim.lr=1", "model.readout=mean", "tracking.artifacts=[curves]"]))
    assert isinstance(config.optim.lr, float)
    assert isinstance(config.model.readout, Enum) and isinstance(config.tracking.artifacts[0], Enum)


def test_the_files_of_a_job(tmp_path, monkeypatch):
    """What the launcher leaves in a job's folder is what the slow way comes to."""
    monkeypatch.chdir(tmp_path)
    with sweep() as (loader, master):
        made = launcher.StackLauncher(max_stack=2)
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        made.setup(hydra_context=context, task_function=app, config=master)
        fixed = ["model=gru", "fit.epochs=1", "data.train_size=32", "tracking=none"]
        points = [[*fixed, f"seed={seed}"] for seed in (0, 1)]
        results = made.launch(points, initial_job_idx=3)
        for overrides, result, number in zip(points, results, (3, 4), strict=True):
            assert result.overrides == overrides and result.return_value > 0
            cfg = hydras(loader).load_sweep_config(master, overrides)
            with open_dict(cfg):
                cfg.hydra.job.id = cfg.hydra.job.num = number
                cfg.hydra.runtime.output_dir = str(tmp_path / "s" / str(number))
            tree = OmegaConf.to_container(cfg, enum_to_str=True)
            node = tree.pop("hydra")
            inner = Path("s", str(number), ".hydra")
            assert (inner / "config.yaml").read_text() == to_yaml(tree)
            assert (inner / "hydra.yaml").read_text() == to_yaml({"hydra": node})
            assert (inner / "overrides.yaml").read_text() == to_yaml(overrides)
            # To a reader they are what Hydra's own launcher writes.
            written = {"hydra": cfg.hydra}
            assert OmegaConf.load(inner / "hydra.yaml") == OmegaConf.create(OmegaConf.to_yaml(written))


def made(composer, overrides):
    """A job as typed objects and as YAML with its hydra node, or its error."""
    try:
        config, tree = composer.job(overrides)
    except Exception as error:
        return type(error), str(error)
    return repr(config), to_yaml(tree)


@pytest.fixture(scope="module")
def composer():
    with sweep("fit.epochs=3") as (loader, master):
        return Composer(loader, master)


def one_after_another(composer, *jobs):
    composer.templates.clear()
    return [made(composer, job) for job in jobs]


def alone(composer, job):
    (one,) = one_after_another(composer, job)
    return one


@pytest.mark.parametrize(
    "key, values",
    [
        ("seed", ["1", "-1", "08", "1.0", "null", "x", "${fit.epochs}", "???"]),
        ("optim.lr", ["1", "1e-3", "nan", "high", "'1'"]),
        ("model.readout", ["mean", "MEAN", "nothing"]),
        ("model.forget_bias", ["1", "null", "true"]),
        ("model.bidirectional", ["true", "1", "3", "yes"]),
        ("model.name", ["gru", "nothing"]),
        ("model.dropout", ["0.5"]),  # refused, since there is one layer
        ("model.nothing", ["1"]),
        ("objective", ["best/val_loss", "null", "a/b"]),
        ("data.metrics", ["[macro_f1]", "[macro_f1,loss]", "null"]),
        ("tracking.experiment", ["'1e3'", '"a=b, c"', "null"]),
        ("+more", ["1"]),
        ("data.sha256", ["{a:b}"]),
    ],
)
def test_a_job_made_of_another_is_as_one_composed_by_itself(composer, key, values):
    first = "0" if key == "seed" else values[0]
    jobs = [[f"{key}={value}", "model.hidden_size=4"] for value in (first, *values)]
    assert one_after_another(composer, *jobs) == [alone(composer, job) for job in jobs]


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(KEYS.split()), VALUES, VALUES), max_size=4))
def test_any_job_after_any_other(composer, words):
    jobs = [[f"{key}={pair[place]}" for key, *pair in words] for place in (0, 1)]
    assert one_after_another(composer, *jobs) == [alone(composer, job) for job in jobs]


def test_the_words_of_a_job_made_of_another_are_its_own_if_they_name_the_environment(composer):
    jobs = [[f"data.root=${{oc.env:HOME}}/{name}", f"fit.clip={clip}"] for name in "ab" for clip in (1, 2)]
    assert one_after_another(composer, *jobs) == [alone(composer, job) for job in jobs]


def test_a_job_made_of_another_leaves_it_as_it_was(composer):
    jobs = [composer.job([f"seed={seed}", "optim.lr=0.1"]) for seed in (0, 1, 2, 0)]
    assert any(composer.templates.values())
    assert [config.seed for config, _ in jobs] == [tree["seed"] for _, tree in jobs] == [0, 1, 2, 0]
    names = [tree["hydra"]["job"]["override_dirname"] for _, tree in jobs]
    assert names[:2] == ["optim.lr=0.1,seed=0", "optim.lr=0.1,seed=1"]
    assert jobs[0] == jobs[3]


def test_trees_that_share_parts_are_written_as_each_alone():
    part = {"a": 1, "long": "word " * 40, "empty": {}, "list": [1, {"b": None}]}
    trees = [{"part": part, "other": {"b": [number]}, "seed": number, "none": {}} for number in range(3)]
    shared = SharedYaml()
    for tree in [*trees, *trees]:
        assert shared.write(tree) == to_yaml(tree)
        assert shared.write(tree, "hydra") == to_yaml({"hydra": tree})
