"""The points of a grid: zip pairs, union adds, exclude leaves out, a file is its words."""

import itertools
import shlex
from contextlib import nullcontext

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import rnnbench
from rnnbench.config import ConfigError, conf_folder
from rnnbench.paper.definition import read_table
from rnnbench.sweep import launcher
from rnnbench.sweep.arguments import as_hydra_reads, completable, is_sweep, read_arguments
from rnnbench.sweep.compose import separate_hydra
from rnnbench.sweep.overrides import Checker
from rnnbench.sweep.plan import grids as open_grids
from rnnbench.sweep.plan import plan_grid
from rnnbench.sweep.points import Expansion, as_typed, as_words, for_hydra

PAIR = "pair=zip(model=lstm,gru; model.hidden_size=48,56)"
VALUES = {
    "model": ["lstm", "gru", "rnn", "mgu"],
    "optim": ["sgd", "adam"],
    "model.hidden_size": ["8", "16", "24"],
    "optim.lr": ["0.1", "0.001"],
    "seed": ["0", "1", "2"],
    "data.name": ["'a, b'", '"c;d"', "'(x=1'"],
}


@pytest.fixture(scope="module")
def checker():
    launcher.register()
    with separate_hydra():
        yield Checker(GlobalHydra.instance().config_loader())


@st.composite
def grids(draw, keys=tuple(VALUES), least=0):
    """Some keys, each with some of its values: a dictionary."""
    chosen = draw(st.lists(st.sampled_from(keys), min_size=least, max_size=3, unique=True))
    some = {
        key: st.lists(st.sampled_from(VALUES[key]), min_size=1, max_size=3, unique=True) for key in chosen
    }
    return {key: draw(values) for key, values in some.items()}


def words(grid):
    return [f"{key}={','.join(values)}" for key, values in grid.items()]


def reference(grid):
    """The points of a grid, as itertools has them."""
    columns = [[f"{key}={value}" for value in values] for key, values in grid.items()]
    return list(itertools.product(*columns))


FEW = settings(max_examples=20, deadline=None, phases=[Phase.generate])


@FEW
@given(grid=grids(least=1))
def test_without_combinations_the_points_are_those_of_hydras_own_sweeper(checker, grid):
    (batch,) = BasicSweeper.split_arguments(checker.parser.parse_overrides(words(grid)), None)
    assert [list(point) for point in Expansion(checker).expand(words(grid))] == batch


def test_a_mapping_takes_the_place_of_no_option_and_of_no_other_mapping(checker):
    given = ["data=adding", "data={folds:3}", "optim={lr:0.1}", "optim={eps:0.1}", "seed=0,1"]
    points = Expansion(checker).expand(given)
    assert points == [(*given[:-1], f"seed={seed}") for seed in (0, 1)]
    assert Expansion(checker).expand(["data={folds:3}", "data=adding"]) == [("data={folds:3}", "data=adding")]


@FEW
@given(st.data())
def test_a_zip_has_the_rows_of_zip(checker, data):
    """Written with ; or as Hydra plans it, by itself or in the product with other keys."""
    keys = data.draw(st.lists(st.sampled_from(list(VALUES)), min_size=3, max_size=4, unique=True))
    beside, *paired = keys
    rows = data.draw(st.integers(1, 3))
    distinct = dict(zip(paired, (st.permutations(VALUES[key]) for key in paired), strict=True))
    columns = {key: (data.draw(order) * 2)[:rows] for key, order in distinct.items()}
    lines = [tuple(f"{key}={column[n]}" for key, column in columns.items()) for n in range(rows)]
    if len(set(lines)) < rows:
        return
    forms = [f"{key}={','.join(values)}" for key, values in columns.items()]
    planned = [f"{key}=[{','.join(values)}]" for key, values in columns.items()]
    if paired[0] != "data.name":  # choice() of Hydra's loses quotes
        planned[0] = f"{paired[0]}=choice({','.join(columns[paired[0]])})"
    form = data.draw(
        st.sampled_from(["; ".join(forms), ",".join(planned), "\n ".join(f + " ;" for f in forms)])
    )
    grid = {beside: VALUES[beside]}
    expected = [(*row, *point) for row in lines for point in reference(grid)]
    for typed in ([f"pair=zip({form})", *words(grid)], for_hydra([f"pair=zip({form})", *words(grid)])):
        assert Expansion(checker).expand(typed) == expected


@FEW
@given(st.lists(grids(least=1), min_size=1, max_size=3))
def test_a_union_has_the_points_of_its_grids(checker, parts):
    """As one word, and as a list of lists."""
    expected = [point for part in parts for point in reference(part)]
    form = f"grids=union({'; '.join(' '.join(words(part)) for part in parts)})"
    assert as_words([words(part) for part in parts]) == [form]
    if len({frozenset(point) for point in expected}) == len(expected):
        assert Expansion(checker).expand([form]) == expected
    else:
        with pytest.raises(ConfigError, match="twice"):
            Expansion(checker).expand([form])


@FEW
@given(grids(least=2), st.data())
def test_exclude_leaves_out_what_has_all_of_its_values(checker, grid, data):
    keys = data.draw(st.lists(st.sampled_from(list(grid)), min_size=1, unique=True))
    some = {key: data.draw(st.lists(st.sampled_from(grid[key]), min_size=1, unique=True)) for key in keys}
    gone = [{f"{key}={value}" for value in values} for key, values in some.items()]
    expected = [point for point in reference(grid) if not all(part & set(point) for part in gone)]
    given = [*words(grid), f"exclude={','.join(words(some))}"]
    if expected:
        assert Expansion(checker).expand(for_hydra(given)) == expected
    else:
        with pytest.raises(ConfigError, match="excludes all points"):
            Expansion(checker).expand(given)


@FEW
@given(st.text(st.characters(codec="ascii"), max_size=12))
def test_what_hydra_is_given_is_read_as_it_was_typed(checker, text):
    word = f"pair=zip({text.strip()})"
    (hidden,) = for_hydra([word])
    assert checker.parser.parse_override(hidden).is_discrete_sweep()
    assert as_typed(hidden) == word
    assert for_hydra([hidden]) == [hidden]


@settings(FEW, max_examples=25)
@given(
    st.sampled_from(["a=zip(", "a=union(", "exclude=", "exclude=choice("]),
    st.lists(
        st.sampled_from(["model=", "seed=", "lstm", "1", *",;()[]{} '~+$=", "a=zip(", "exclude="]), max_size=9
    ),
    st.sampled_from(["", ")"]),
)
def test_whatever_is_typed_ends_in_points_or_in_one_message(checker, start, parts, end):
    word = start + "".join(parts) + end
    for typed in ([word, "model=lstm,gru"], for_hydra([word, "model=lstm,gru"])):
        try:
            assert Expansion(checker).expand(typed)
        except ConfigError as error:
            assert "\n" not in str(error), error


def test_combinations_stand_inside_of_each_other_and_values_are_compared_as_values(checker):
    word = f"all=union({PAIR} optim.lr=0.10,1e-2 exclude=model=gru,optim.lr=0.1; model=rnn)"
    assert Expansion(checker).expand([word, "seed=range(2)", "exclude=model=rnn,seed=1"]) == [
        ("model=lstm", "model.hidden_size=48", "optim.lr=0.1", "seed=0"),
        ("model=lstm", "model.hidden_size=48", "optim.lr=0.1", "seed=1"),
        ("model=lstm", "model.hidden_size=48", "optim.lr=0.01", "seed=0"),
        ("model=lstm", "model.hidden_size=48", "optim.lr=0.01", "seed=1"),
        ("model=gru", "model.hidden_size=56", "optim.lr=0.01", "seed=0"),
        ("model=gru", "model.hidden_size=56", "optim.lr=0.01", "seed=1"),
        ("model=rnn", "seed=0"),
    ]


REFUSED = {
    f"{PAIR[:-4]})": "needs as many values of each key: model has 2, model.hidden_size has 1",
    "'pair=zip(model=lstm,gru; optim.lr=interval(0,1))'": "a grid needs values",
    "'pair=zip(model=lstm,gru; seed=shuffle(range(2)))'": "has no fixed order",
    "'pair=zip(model=lstm,gru; model=lstm,gru)'": "model is there twice",
    "'pair=zip(model=lstm,gru)'": "pairs nothing",
    "'pair=zip(lstm,gru; 1,2)'": "lstm,gru is not key=values",
    "'pair=zip(a=zip(seed=1,2; model=lstm,gru); optim=sgd,adam)'": "is not key=values; for example",
    "'pair=zip(model=lstm,lstm; seed=1,1)'": "has model=lstm seed=1 twice",
    "'pair=zip(model=lstm,gru; tracking=none,mlflow)'": "the same tracking",
    "'pair=zip(model=lstm,gru; modl.hidden_size=1,2)'": "did you mean model.hidden_size=1,2",
    "'pair=zip(model=lstm,gru; hydra.verbose=true,false)'": "is of the whole sweep",
    "'pair=zip(model=lstm,gru; seed=1,2'": "( is not closed; write",
    "'model=zip(model=lstm,gru; seed=1,2)'": "needs a name that is no key",
    "'zip(model=lstm,gru; seed=1,2)'": "a key has letters",
    "'seed=zip(0,1)'": "needs a name that is no key",
    f"'{PAIR}' model=rnn": "another word sets model too; leave one of the two out",
    f"'{PAIR}' '{PAIR}'": "pair= is there twice; give each a name of its own",
    "'a=union(seed=0,1; seed=1.0,2)'": "has seed=1.0 twice",
    "'a=union(seed=0,1; seed=1,2)'": "has seed=1 twice; leave one of the two out",
    "'a=union()'": "has no grid",
    "'a=union(sweep=optimisers; seed=1)'": "cannot stand inside of another word",
    "model=lstm,gru exclude=model=rnn": "excludes nothing with model=rnn, which no point has",
    "model=lstm,gru exclude=seed=1": "excludes nothing with seed=1, which no point has",
    "model=lstm,gru exclude=model=lstm,seed=0 seed=0,1 exclude=model=gru,seed=1 exclude=model=lstm,seed=1 "
    "exclude=seed=0": "excludes all points",
    "'a=union(model=lstm seed=0; model=gru seed=1)' exclude=model=lstm,seed=1": "no point has all of it",
    "'pair=zp(model=lstm,gru; seed=1,2)'": "there is no zp(); did you mean zip(...)?",
    "'+pair=zip(model=lstm,gru; seed=1,2)'": "needs a name that is no key",
    "'pair=zip(optim=sgd,adam; optim.lr=0.1,0.01)' optim.momentum=0.5": "optim=adam has no momentum",
    "model=lstm,gru exclude=model=lstm,gru": "excludes all points",
    "model=lstm,gru exclude=lstm": "write 'exclude=model=rnn,optim=sgd'",
    "sweep=optimiser": "did you mean sweep=optimisers?",
    "sweep=optimisers sweep=equal_parameters": "sweep= is there twice; sweep=a,b takes both",
    "sweep=equal_parameters model=lstm": "pair=zip(",
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_combined_is_refused(line):
    line = line if line.startswith(("'", "sweep", "model")) else f"'{line}'"
    with pytest.raises(ConfigError) as refusal:
        plan_grid(["-m", *shlex.split(line), "tracking=none"])
    key = next(key for key in REFUSED if line in (key, f"'{key}'"))
    assert REFUSED[key] in str(refusal.value), refusal.value
    assert "\n" not in str(refusal.value)


FILES = {
    "model: lstm": "sweep=mine: its file must be a list of overrides",
    "[]": "sweep=mine: its file must be a list of overrides",
    "- seed: 3": "sweep=mine: {'seed': 3}: must be an override: seed=3",
    "- [seed=1, lstm]": "sweep=mine: lstm: must be an override: key=value",
    "- [data.path=a b]": "has blanks or a semicolon; put the value in quotes",
    "- sweep=optimisers": "sweep=mine: names another file; give both, as sweep=mine,optimisers",
    "- tracking.uri=http://me:secret@host": "tracking.uri=http://me:***@host",
    "- hydra.sweep.dir=x": "hydra.sweep.dir=x: is of the whole sweep; give it on the command line",
}


@pytest.mark.parametrize("content", FILES)
def test_a_file_that_is_no_list_of_overrides_is_refused(content, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(content)
    with pytest.raises(ConfigError) as refusal:
        plan_grid([f"--config-dir={tmp_path}", "sweep=mine", "tracking=none"])
    assert FILES[content] in str(refusal.value), refusal.value


def test_grids_with_a_common_beginning_are_what_each_is_alone():
    words = ["tracking=none", "fit.epochs=3"]
    grid = [
        ["model=lstm,gru", "seed=range(2)"],
        ["model=gru", "data=adding", "data.steps=10,20"],
        ["pair=zip(model=lstm,gru; model.hidden_size=4,5)"],
        ["model=gru", "model.budget=2000", "optim=sgd", "optim.lr=0.1"],
    ]
    with open_grids([*words, "hydra/sweeper=grid"]) as plan:
        assert [plan(more) for more in grid] == [plan_grid(["-m", *words, *more]) for more in grid]
        with pytest.raises(ConfigError, match=r"fit\.epoch=3"):
            plan(["fit.epoch=3"])
        with pytest.raises(ConfigError, match=r"fit\.epochs=0"):
            plan(["fit.epochs=0"])
        assert plan(grid[0]) == plan_grid(["-m", *words, *grid[0]])


def overrides(*given):
    return [trial["overrides"] for trial in plan_grid([*given, "tracking=none"])]


def test_a_file_is_its_words_and_the_command_line_replaces_them(tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(
        "- model=lstm,gru\n- seed=range(5)\n- [optim=sgd, 'optim.lr=0.1,1']\n- [optim=adam]\n"
    )
    found = overrides(f"--config-dir={tmp_path}", "sweep=mine", "seed=7", "exclude=model=gru,optim=adam")
    rows = [["optim=sgd", "optim.lr=0.1"], ["optim=sgd", "optim.lr=1"], ["optim=adam"]]
    models = ["model=lstm"] * 3 + ["model=gru"] * 2
    expected = [[m, "seed=7", *row, "tracking=none"] for m, row in zip(models, rows + rows[:2], strict=True)]
    assert found == expected
    (tmp_path / "sweep" / "more.yaml").write_text("- model=rnn,mgu\n- optim=sgd\n")
    two = overrides(f"--config-dir={tmp_path}", "sweep=mine,more", "seed=7", "fit.epochs=3")
    assert two[6:] == [
        [m, "optim=sgd", "seed=7", "fit.epochs=3", "tracking=none"] for m in ("model=rnn", "model=mgu")
    ]
    assert two[:6] == [
        [m, "seed=7", *row, "fit.epochs=3", "tracking=none"]
        for m in ("model=lstm", "model=gru") for row in rows
    ]  # fmt: skip


def test_hydra_sweeper_params_say_the_same(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n"
        f"      pair: '{PAIR[5:]}'\n      seed: 0,1\n"
        "      exclude: ['model=lstm,seed=0', 'model=gru,seed=1']\n"
    )
    found = overrides(f"--config-dir={tmp_path}", "-m", "experiment=mine")
    assert [words[:3] for words in found] == [
        ["model=lstm", "model.hidden_size=48", "seed=1"],
        ["model=gru", "model.hidden_size=56", "seed=0"],
    ]


def test_a_key_that_all_options_of_a_zip_have_composes():
    """The default option need not have it."""
    found = overrides("-m", "pair=zip(optim=sgd,rmsprop; optim.lr=0.1,0.01)", "optim.momentum=0.5")
    assert [words[:3] for words in found] == [
        ["optim=sgd", "optim.lr=0.1", "optim.momentum=0.5"],
        ["optim=rmsprop", "optim.lr=0.01", "optim.momentum=0.5"],
    ]


def test_a_table_is_of_the_same_words(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"title: a\nsweep: ['{PAIR}', [seed=0], [seed=1, optim=sgd]]\nmetrics: [test/accuracy]\n")
    table = read_table(file)
    assert table.sweep == [PAIR, "grids=union(seed=0; seed=1 optim=sgd)"]
    assert [words[:-1] for words in overrides("-m", *table.sweep)] == [
        [model, size, *rest]
        for model, size in (("model=lstm", "model.hidden_size=48"), ("model=gru", "model.hidden_size=56"))
        for rest in (["seed=0"], ["seed=1", "optim=sgd"])
    ]


@pytest.mark.parametrize("name", sorted(file.stem for file in (conf_folder() / "sweep").glob("*.yaml")))
def test_every_file_composes(name):
    found = plan_grid([f"sweep={name}"])
    assert len({trial["trial"] for trial in found}) == len(found) > 10


def test_other_sweepers_and_modes_refuse_them():
    for sweeper in ("optuna", "basic"):
        hidden = {"task": for_hydra([PAIR])}
        for params, task, refused in (
            ({"pair": PAIR[5:]}, {"task": []}, True),
            ({}, hidden, True),
            ({}, {"task": ["seed=0,1"]}, False),
        ):
            node = {"sweeper": {"_target_": sweeper, "params": params}, "overrides": task}
            config = OmegaConf.create({"hydra": node | {"runtime": {"choices": {"hydra/sweeper": sweeper}}}})
            with (
                pytest.raises(ConfigError, match=f"hydra/sweeper={sweeper} cannot")
                if refused
                else nullcontext()
            ):
                launcher.check_sweeper(config)
    for words in (["--cfg", "job", "sweep=optimisers"], ["sweep=optimisers", "hydra.mode=RUN"]):
        with pytest.raises(ConfigError, match="leave one of the two out"):
            is_sweep(read_arguments(words))


def test_a_file_needs_no_m_and_the_shell_completes_what_comes_after():
    arguments = read_arguments(["sweep=optimisers", PAIR, "seed=1"])
    assert is_sweep(arguments) and not arguments.multirun
    given = as_hydra_reads(arguments)
    assert given.multirun and given.overrides[0] == "sweep=choice(optimisers)"
    assert completable(f"rnnbench -m '{PAIR}' seed=1 sweep=opt") == "rnnbench -m seed=1 sweep=opt"
    assert completable("rnnbench sweep=optimisers ") == "rnnbench "


@pytest.mark.parametrize("word", [PAIR, "exclude=model=rnn", "sweep=optimisers", "a=union(seed=0; seed=1)"])
def test_a_single_run_has_no_use_for_them(word):
    with pytest.raises(ConfigError) as refusal:
        rnnbench.run(word, "tracking=none")
    assert str(refusal.value) == f"{word}: is of a sweep: put -m before all values"
