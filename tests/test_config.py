"""Laws of the configuration: every choice composes, identity ignores what it should and nothing else."""

import dataclasses
from pathlib import Path

import hydra
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnbench
from rnnbench.config import (
    Adam,
    Config,
    Fit,
    Kernel,
    Model,
    Precision,
    Sgd,
    Tracking,
    check,
    conf_folder,
    direction,
    folds_of,
    objective,
    plain,
    selection,
    trial_hash,
    typed,
)
from rnnbench.sweep import launcher
from rnnbench.tasks.sequences import Images

GROUPS = ("model", "optim", "data", "fit", "tracking", "experiment")
CHOICES = {group: [path.stem for path in sorted((conf_folder() / group).glob("*.yaml"))] for group in GROUPS}
# Each choice of each group once; experiments alone, since they choose of the other groups.
TOGETHER = [
    {group: names[number % len(names)] for group, names in CHOICES.items() if group != "experiment"}
    for number in range(max(map(len, CHOICES.values())))
]
TOGETHER += [{"experiment": name} for name in CHOICES["experiment"]]


def compose(*overrides):
    launcher.register()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return launcher.task_config(hydra.compose("config", list(overrides)))


@pytest.mark.parametrize("chosen", TOGETHER, ids=lambda chosen: " ".join(chosen.values()))
def test_every_choice_composes_and_names_itself(chosen):
    needed = {
        "lmu": ["model.theta=9"],  # else that of the data, which may lack their file here
        "ucr": ["data.problem=x"],
        "csv": ["data.path=x", "data.target=y", "data.series=z"],
        "text": ["data.path=x"],
        "npz": ["data.path=x"],
        "own": ["data.name=own"],
    }
    words = [f"{group}={name}" for group, name in chosen.items()]
    config = compose(*words, *(word for name in chosen.values() for word in needed.get(name, [])))
    check(config)
    for group in chosen.keys() & {"model", "optim", "data"}:
        assert getattr(config, group).name == chosen[group]


@pytest.mark.parametrize("path", sorted(conf_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_opens_with_its_command(path):
    text = path.read_text()
    assert "python -m rnnbench" in "\n".join(text.splitlines()[:3])


def test_the_tutorial_is_the_tutorials():
    for model in ("lstm", "gru"):
        config = compose("experiment=tutorial", f"model={model}")
        assert config.model == Model(model, hidden_size=10, num_layers=2)
        assert config.optim == Sgd(lr=0.1, momentum=0.9)
        assert (config.data.name, config.data.mean, config.data.std, config.data.val_size) == (
            "mnist",
            0.5,
            0.5,
            0,
        )
        assert (config.fit.epochs, config.fit.batch_size, config.fit.select.value) == (200, 128, "test")


def test_data_root_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("RNNBENCH_DATA", raising=False)  # with which the tests find the real files
    assert compose().data.root == "./data"
    monkeypatch.setenv("RNNBENCH_DATA", "/somewhere")
    assert compose().data.root == "/somewhere"


def make(**parts):
    return dataclasses.replace(
        Config(Model("lstm"), Adam(), Images("digits", root="data"), Fit(), Tracking()), **parts
    )


@settings(max_examples=20, deadline=None)
@given(
    hidden=st.integers(1, 300),
    lr=st.floats(1e-6, 1),
    seed=st.integers(0, 2**31),
    clip=st.none() | st.floats(0.1, 10),
)
def test_a_config_survives_its_record(hidden, lr, seed, clip):
    config = make(model=Model("gru", hidden), optim=Sgd(lr=lr), seed=seed, fit=Fit(clip=clip))
    again = typed(plain(config))
    assert again == config
    assert trial_hash(again, "x") == trial_hash(config, "x")


SAME = [
    {"tracking": Tracking(uri=None, experiment="other")},
    {"dry_run": True},
    {"data": Images("digits", root="/elsewhere", download=False, source="http://x", sha256={"a": "b"})},
    {"fit": Fit(device="cuda", kernel=Kernel.torch)},
    {"fit": Fit(device="cuda", kernel=Kernel.fastest, precision=Precision.float32)},
    {"objective": "val/accuracy"},
    {"objective": "test/accuracy"},
    {"data": Images("digits", folds=None, fold=0)},
]
OTHER = [
    {"seed": 1},
    {"model": Model("gru")},
    {"model": Model("lstm", 33)},
    {"model": Model("lstm", forget_bias=0.0)},
    {"optim": Adam(lr=0.02)},
    {"data": Images("digits", train_size=9)},
    {"data": Images("digits", split_seed=1)},
    {"data": Images("digits", folds=5)},
    {"data": Images("digits", folds=5, fold=1)},
    {"data": Images("digits", folds=4, fold=1)},
    {"fit": Fit(epochs=21)},
    {"fit": Fit(device="cuda", precision=Precision.tf32)},
    {"fit": Fit(device="cuda", precision=Precision.tf32x3)},
    {"objective": "val/loss"},
]


@pytest.mark.parametrize("parts", SAME, ids=str)
def test_identity_ignores_what_does_not_touch_the_numbers(parts):
    assert trial_hash(make(**parts), "x") == trial_hash(make(), "x")


def test_identity_sees_everything_else():
    hashes = [trial_hash(make(**parts), "x") for parts in [{}, *OTHER]] + [trial_hash(make(), "y")]
    assert len(set(hashes)) == len(hashes)


def test_a_trial_keeps_the_hash_that_it_had_before_a_key_was_added():
    """The hashes are those that the code before fit.precision has computed."""
    assert trial_hash(make(), "x") == "c61685e66b55a773"
    for fit in (Fit(epochs=7), Fit(epochs=7, device="cuda:1"), Fit(epochs=7, device="cuda")):
        assert trial_hash(make(fit=fit), "x") == "a3408379c8d25428"


def test_a_sweep_trains_all_folds_unless_one_is_named():
    one, two = (make(data=Images("digits", folds=3, fold=k)) for k in (0, 2))
    assert [*folds_of(one, ["model=gru", "data.folds=3"])] == [0, 1, 2]
    assert [*folds_of(one, ["data.fold=0"])] == [*folds_of(make(), ["model=gru"])] == [0]
    assert [*folds_of(two, [])] == [*folds_of(two, ["data.fold=2"])] == [2]


def test_the_objective_and_its_direction():
    assert objective(make()) == "best/val_accuracy"
    assert (objective(make(objective="val/loss")), selection(make(objective="val/loss"))) == (
        "best/val_loss",
        "loss",
    )
    assert direction("best/val_accuracy") == "maximize" == direction("time/sequences_per_second")
    assert direction("best/val_loss") == "minimize" == direction("parameters/total")


def test_conf_is_where_the_package_or_the_checkout_is():
    assert (conf_folder() / "config.yaml").exists()
    package = Path(rnnbench.__file__).parent
    assert conf_folder().parent in (package, package.parent)
