"""Keys of the options of a sweep: what all of them have composes, the rest is refused, behind a + as well."""

import pytest
from hydra.types import RunMode

import rnnbench
from rnnbench.config import ConfigError
from rnnbench.paper.planning import App
from rnnbench.search.plan import make_plan
from rnnbench.sweep.arguments import loader_of, read_arguments
from rnnbench.sweep.compose import Composer, compose_one
from rnnbench.sweep.launcher import register, task_config
from rnnbench.sweep.overrides import Checker
from rnnbench.sweep.plan import plan_grid


@pytest.fixture(autouse=True)
def nothing_is_made(tmp_path, monkeypatch):
    """Every test here plans only."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def grid(*words):
    return plan_grid(["-m", "tracking=none", *words])


def search(*words):
    """The plan of a search with these words."""
    register()
    words = [*words, "tracking=none", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=s"]
    loader = loader_of(read_arguments(["-m"]))
    Checker(loader).check(words, several=True)
    config = loader.load_configuration("config", words, RunMode.MULTIRUN)
    return make_plan(loader, config, Composer(loader, config), list(config.hydra.overrides.task))


ALL_HAVE = {
    "optim=sgd,rmsprop optim.momentum=0.5,0": [
        "optim=sgd optim.momentum=0.5,0",
        "optim=rmsprop optim.momentum=0.5,0",
    ],
    "optim=glob([sgd,rms*]) optim.momentum=0.5": [
        "optim=rmsprop optim.momentum=0.5",
        "optim=sgd optim.momentum=0.5",
    ],
    "data=adding,copy data.steps=10": ["data=adding data.steps=10", "data=copy data.steps=10"],
}  # fmt: skip


@pytest.mark.parametrize("line", ALL_HAVE)
def test_a_key_that_every_swept_option_has_composes(line):
    """The default option has not, and each point is the trial of its single run."""
    expected = [point["trial"] for words in ALL_HAVE[line] for point in grid(*words.split())]
    assert [point["trial"] for point in grid(*line.split())] == expected


SOME_LACK = {
    "optim=sgd,adam,adamw optim.momentum=0.5": "optim.momentum=0.5: optim=adam,adamw have no momentum",
    "optim.momentum=0,0.5 optim=sgd,adam": "optim.momentum=0,0.5: optim=adam has no momentum",
    "optim=glob(*) optim.momentum=0.5": "or sweep over those that have it: optim=rmsprop,sgd",
    "data=digits,adding data.steps=10 model=lstm,gru": "data.steps=10: data=digits has no steps",
}


@pytest.mark.parametrize("line", SOME_LACK)
def test_one_that_only_some_have_is_refused_with_the_options_that_lack_it(line):
    with pytest.raises(ConfigError) as refusal:
        grid(*line.split())
    assert SOME_LACK[line] in str(refusal.value)


def test_both_hold_in_a_search():
    words = ["optim=sgd,rmsprop", "optim.lr=interval(0.1,1.0)"]
    plan, other = (search(*words, f"optim.momentum={momentum}") for momentum in (0.5, 0.7))
    assert {sample.optim.name for sample in plan.samples} == {"sgd", "rmsprop"}
    assert {sample.optim.momentum for sample in plan.samples} == {0.5}
    assert plan.identity != other.identity
    drawn = search("optim=sgd,rmsprop", "optim.momentum=interval(0.1,0.5)")
    assert "optim.momentum" not in drawn.identity["setting"]
    for line in ("optim=sgd,adam optim.momentum=0.5", "optim=adam,sgd optim.momentum=interval(0.5,0.9)"):
        with pytest.raises(ConfigError, match=r"optim.momentum=0.5: optim=adam has no momentum"):
            search(*line.split())
    with pytest.raises(ConfigError, match=r"goes with optim=rmsprop or optim=sgd"):
        search("optim=adam,adamw", "optim.momentum=0.5")


def test_and_in_a_table():
    table = App("t", [])
    words = ["optim=sgd,rmsprop", "optim.momentum=0.5", "tracking=none"]
    assert [point.params["optim.momentum"] for point in table.points(words)] == [0.5, 0.5]
    with pytest.raises(ConfigError, match=r"^sweep: optim.momentum=0.5: optim=adam has no momentum"):
        table.points(["optim=sgd,adam", *words[1:]])


TYPOS = {
    "+model.hiden_size=3": "there is no key model.hiden_size; did you mean model.hidden_size=3?",
    "++model.hiden_size=3": "did you mean model.hidden_size=3?",
    "+model={hiden_size:3}": "did you mean model.hidden_size",
    "+modle.hidden_size=3": "did you mean model.hidden_size=3?",
    "+mine=3": "there is no key mine",
    "+modle=gru": "did you mean model=gru",
    "++model=gru": "++model=gru: an option is chosen without ++; write model=gru",
    "+model@modle=gru": "there is no section modle, where this option of model would go; write model=gru",
    "+data.options.val_sise=5": "data=digits reads none; did you mean data.val_size?",
}  # fmt: skip


@pytest.mark.parametrize("word", TYPOS)
def test_a_typo_behind_a_plus_is_refused(word):
    register()
    with pytest.raises(ConfigError) as refusal:
        task_config(compose_one([word]))
    assert TYPOS[word] in str(refusal.value)


@pytest.mark.parametrize(
    "planned",
    [
        rnnbench.run,
        grid,
        lambda *words: App("t", []).points([*words, "seed=0,1"]),
        lambda *words: search(*words, "optim.lr=interval(0.1,1.0)"),
    ],
    ids=["run", "grid", "table", "search"],
)
def test_so_it_is_wherever_it_is_given(planned):
    for word in ("+model.hiden_size=3", "+data.options.val_sise=5"):
        with pytest.raises(ConfigError) as refusal:
            planned(word, "tracking=none")
        assert TYPOS[word] in str(refusal.value)


def test_a_mapping_does_not_take_the_place_of_swept_options():
    with pytest.raises(
        ConfigError, match=r"takes the place of model=lstm,gru in a sweep; write model.budget=900"
    ):
        grid("model=lstm,gru", "model={budget:900}")
