"""Laws of data=npz: arrays are read as asked, freely as series are; each mistake has its message."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_config
from hypothesis import given
from hypothesis import strategies as st

from rnnbench import tasks
from rnnbench.config import ConfigError
from rnnbench.tasks import Examples, Goal, Task
from rnnbench.tasks.array_file import Arrays
from rnnbench.tasks.series.long_form import LongForm
from rnnbench.tasks.series.settings import ClassWeights, Missing
from rnnbench.tasks.task import check_examples
from rnnbench.train.stack import Stack


def arrays(tmp_path, **contents):
    np.savez(tmp_path / "a.npz", **contents)
    metric = contents.pop("metric", "accuracy")
    return Arrays("npz", metric=str(metric), path=str(tmp_path / "a.npz"))


X = np.random.RandomState(0).rand(60, 5, 2)
Y = np.arange(60) % 3
NAMED = np.array(["walk", "run", "sit"])[np.minimum(Y, np.arange(60) // 3 % 3)]  # of unequal shares


def test_arrays_with_and_without_sets_of_their_own(tmp_path):
    task = tasks.load(arrays(tmp_path, x_train=X, y_train=Y))
    splits = [set(task.splits[name].tolist()) for name in ("train", "val", "test")]
    assert [len(split) for split in splits] == [42, 8, 10]
    assert set.union(*splits) == set(range(60))
    assert "set aside" in task.details["test"]
    own = tasks.load(
        arrays(tmp_path, x_train=X, y_train=Y, x_val=X[:4], y_val=Y[:4], x_test=X[:5], y_test=Y[:5])
    )
    assert [len(own.splits[name]) for name in ("train", "val", "test")] == [60, 4, 5]
    assert np.array_equal(own.inputs[own.splits["test"]], X[:5].astype(np.float32))
    assert own.details == {"source": "a.npz"}


def test_numbers_are_scaled_and_bytes_stay_bytes(tmp_path):
    data = arrays(tmp_path, x_train=X, y_train=Y)
    data.mean, data.std = 0.5, 2.0
    np.testing.assert_allclose(tasks.load(data).inputs, (X - 0.5) / 2, rtol=1e-6)
    small = (X * 255).astype(np.uint8)
    task = tasks.load(arrays(tmp_path / ".", x_train=small, y_train=Y))
    assert task.inputs.dtype == np.uint8


@pytest.mark.parametrize(
    "contents, message",
    [
        ({"inputs": X, "labels": Y}, "inputs is none of the keys .* x_train"),
        ({"x_train": X}, "y_train is missing"),
        ({"x_train": X[:, :, 0], "y_train": Y}, r"x_train has shape \(60, 5\).*\(N, T, input\)"),
        ({"x_train": X[:, :, 0], "y_train": Y}, r"with one input a step, x\[:, :, None\]"),
        ({"x_train": X, "y_train": Y[:9]}, "y_train has 9 answers for 60"),
        ({"x_train": X, "y_train": Y - 1}, "y_train has shape .* whole numbers from 0"),
        ({"x_train": X, "y_train": Y * 1.0}, "data.metric=mse"),
        ({"x_train": X * np.nan, "y_train": Y}, "x_train has 600 values that are not finite.*lengths_train"),
        ({"x_train": X * 1e300, "y_train": Y}, r"x_train has \d+ values beyond what float32 .* data.std"),
        (
            {"x_train": X, "y_train": Y, "x_val": np.full((4, 5, 2), -4e38), "y_val": Y[:4]},
            "x_val has 40 values",
        ),
        ({"x_train": X, "y_train": Y + 1}, "y_train has the classes 1, 2, 3: number them from 0"),
        ({"x_train": X, "y_train": Y * 500_000}, "y_train has the classes 0, 500000, 1000000: number them"),
        ({"x_train": X, "y_train": 2 * np.arange(60)}, r"the classes 0, 2, 4, \.\.\., 118: .* to 59"),
        (
            {"x_train": X, "y_train": Y.astype(np.uint64) + np.uint64(2**63)},
            "y_train has the classes 9223372036854775808",
        ),
        ({"x_train": X, "y_train": Y * 0}, "y_train has class 0 alone"),
        ({"x_train": X, "y_train": Y * 0 + 7}, "y_train has class 7 alone"),
        ({"x_train": X, "y_train": np.array(3)}, "y_train has 1 answers for 60"),
        ({"x_train": X, "y_train": Y, "y_test": Y}, "x_test is missing, and y_test is there"),
        ({"x_train": X, "y_train": Y, "lengths_val": Y}, "x_val is missing, and lengths_val is there"),
        ({"x_train": X, "y_train": Y, "x_test": X[:0], "y_test": Y[:0]}, r"x_test has shape \(0, 5, 2\)"),
        (
            {"x_train": X, "y_train": Y.astype(str)[:, None, None]},
            "y_train has shape .* of <U.*must be texts",
        ),
        ({"x_train": X, "y_train": Y.astype("M8[s]")}, "y_train has shape .* of datetime64.*must be classes"),
        ({"x_train": X + 1j, "y_train": Y}, "x_train has shape .* of complex128; must be numbers"),
        ({"x_train": np.array([[1], [2, 3]], object), "y_train": Y}, "x_train holds Python objects"),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :3], "y_test": Y},
            r"x_test .*\(N, 5, 2\); pad all parts",
        ),
        (
            {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1},
            r"y_test has class 3, first at y_test\[2\], which y_train has not \(0, 1, 2\); remove",
        ),
        ({"x_train": X, "y_train": np.where(Y, NAMED, " ")}, r"y_train\[0\] is empty; leave the example out"),
        (
            {"x_train": X, "y_train": NAMED, "x_test": X[:4], "y_test": ["run", "walk", "jog", "jog"]},
            r"y_test\[2\] has the label jog, which y_train has not \(run, sit, walk\); remove",
        ),
        ({"x_train": X, "y_train": NAMED, "x_test": X, "y_test": Y}, "y_test has .* texts .* as y_train"),
        (
            {"x_train": np.where(X[3, 1, 0] == X, np.nan, X), "y_train": Y},
            r"at \[3, 1, 0\]; data.missing=",
        ),
        (
            {"x_train": X, "y_train": Y, "lengths_train": Y},
            r"lengths_train must be 60 whole numbers.* from 0, the first at \[0\]: leave",
        ),
        ({"x_train": X, "y_train": Y, "lengths_train": Y + 9}, "lengths_train has 11, beyond the T=5"),
        ({"x_train": X, "y_train": Y, "metric": "mse"}, "metric is none"),
        ({"x_train": X[:3], "y_train": Y[:3]}, "too few to be split"),
    ],
)
def test_arrays_are_refused(tmp_path, contents, message):
    with pytest.raises(ConfigError, match=message):
        tasks.shape(arrays(tmp_path, **contents))


def test_answers_beyond_float32_are_refused(tmp_path):
    for y, count in ((Y * 1e300, 40), (np.where(Y == 0, 1e20, 0.0), 20)):
        data = arrays(tmp_path, x_train=X, y_train=y)
        data.metric = "mse"
        with pytest.raises(ConfigError, match=f"y_train has {count} values whose squares are beyond"):
            tasks.shape(data)
    data = arrays(tmp_path, x_train=X * 1e39, y_train=Y)
    data.std = 1e39  # as numbers enter the network they fit
    assert np.abs(tasks.load(data).inputs).max() <= 1


@pytest.mark.parametrize(
    "y, message", [(Y * 0 + 0.5, "the same answer everywhere"), (np.zeros((60, 0)), "shape")]
)
def test_numbers_that_teach_nothing_are_refused(tmp_path, y, message):
    data = arrays(tmp_path, x_train=X, y_train=y)
    data.metric = "mse"
    with pytest.raises(ConfigError, match=f"y_train has .*{message}"):
        tasks.shape(data)


LENGTHS = 1 + np.arange(60) % 5
PADDED = np.arange(5) >= LENGTHS[:, None]
CLASSES = np.where(PADDED, -1, (X[:, :, 0] * 3).astype(int))  # at every step
NUMBERS = np.where(PADDED[..., None], np.nan, X * 5 - 2)


@pytest.mark.parametrize("y, goal, metric", [(CLASSES, "labels", "accuracy"), (NUMBERS, "values", "mse")])
def test_answers_at_every_step_count_as_far_as_their_lengths(tmp_path, y, goal, metric):
    """Whatever stands beyond the lengths, in x and in y, the numbers are the same."""
    losses = []
    for x, there in ((X, np.where(y == y, y, 0)), (np.where(PADDED[..., None], np.inf, X), y)):
        config = make_config("lstm", model__bidirectional=True)
        config.data = arrays(tmp_path, x_train=x, y_train=there, lengths_train=LENGTHS)
        config.data.metric = metric
        task = tasks.load(config.data)
        assert (task.goal.value, task.outputs) == (goal, 3 if goal == "labels" else 2)
        assert tasks.shape(config.data).goal is task.goal
        stack = Stack(config, task)
        stack.admit([stack.fresh(config)])
        losses.append(next(stack.epochs()).metrics[0]["val/loss"])
        np.testing.assert_array_equal(task.targets[~PADDED], there[~PADDED].astype(task.targets.dtype))
        assert not task.targets[PADDED].any()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_arrays_have_the_freedom_of_series(tmp_path):
    """Labels that are texts, missing values, standardised channels, shares and weights: as of data=csv."""
    x = np.where(np.arange(5)[:, None] < LENGTHS[:, None, None], X * 20 + [0, 300], 0)
    x[7, 1, 0] = np.nan
    file = arrays(tmp_path, x_train=x, y_train=NAMED, lengths_train=LENGTHS)
    keys = {"standardise": True, "missing": Missing.mask, "stratified": True}
    keys["class_weights"] = ClassWeights.balanced
    task = tasks.load(dataclasses.replace(file, **keys))
    rows = [
        f"{k},{t},{'' if np.isnan(a) else a},{b},{NAMED[k]}"
        for k in range(60)
        for t, (a, b) in enumerate(x[k, : LENGTHS[k]])
    ]
    (tmp_path / "a.csv").write_text("\n".join(["id,t,a,b,kind", *rows]))
    long = LongForm("csv", path=str(tmp_path / "a.csv"), series="id", time="t", target="kind",
                    root=str(tmp_path), **keys)  # fmt: skip
    same = tasks.load(long)
    assert task.classes == same.classes == ("run", "sit", "walk")
    assert np.array_equal(task.inputs, same.inputs) and np.array_equal(task.targets, same.targets)
    assert all(np.array_equal(task.splits[part], same.splits[part]) for part in task.splits)
    for key in ("channel means", "channel sds", "class weights"):
        assert task.details[key] == same.details[key]
    assert not tasks.same_examples(dataclasses.replace(file, standardise=True))


def test_shares_of_classes_need_one_class_for_each_example(tmp_path):
    data = arrays(tmp_path, x_train=X, y_train=CLASSES, lengths_train=LENGTHS)
    with pytest.raises(ConfigError, match=r"data.stratified=True: needs one class for each example"):
        tasks.load(dataclasses.replace(data, stratified=True))


def test_numbers_at_every_step_are_standardised_as_far_as_they_count(tmp_path):
    data = arrays(tmp_path, x_train=X, y_train=NUMBERS, lengths_train=LENGTHS)
    task = tasks.load(dataclasses.replace(data, metric="mse", standardise=True))
    train = task.splits["train"]
    for values in (task.inputs, task.targets):
        there = values[train][~PADDED[train]]
        np.testing.assert_allclose([there.mean(0), there.std(0)], [[0, 0], [1, 1]], atol=1e-5)
        assert not values[PADDED].any()


def test_unscaled_arrays_are_named_in_a_line(tmp_path, capsys):
    shifted = X * [20, 1] + [0, 40]
    for x, y, keys, said in (
        (shifted, Y, {}, "x_train: 2 of 2 channels enter unscaled, such as 1 with values of about 40"),
        (X * 0.01, Y, {}, "2 of 2 channels enter unscaled"),
        ((X * 255).astype(np.uint8), Y, {}, "2 of 2 channels enter unscaled"),
        (shifted, Y, {"mean": 30.0, "std": 20.0}, ""),
        (shifted, Y, {"standardise": True}, ""),
        (X, Y, {}, ""),
        (X * [1, 0] + [0, 50], Y, {}, ""),  # a channel that never varies teaches nothing either way
    ):
        tasks.load(dataclasses.replace(arrays(tmp_path, x_train=x, y_train=y), **keys))
        err = capsys.readouterr().err
        assert said in err and bool(said) == ("data.standardise=true" in err)


@pytest.mark.parametrize(
    "contents, metric, message",
    [
        (
            {"y_train": CLASSES},
            "accuracy",
            r"the class -1 \(where .*lengths_train\); must be .* at every step",
        ),
        (
            {"y_train": np.where(np.arange(60)[:, None] == 7, -1, CLASSES), "lengths_train": LENGTHS},
            "accuracy",
            r"y_train\[7\] asks for nothing at any step; leave the example out",
        ),
        ({"y_train": CLASSES[:, :4]}, "accuracy", r"shape \(60, 4\).*classes \(N,\), or \(N, 5\)"),
        (
            {"y_train": np.where(PADDED, 0, 1 + CLASSES), "lengths_train": LENGTHS},
            "accuracy",
            "y_train has the classes 1, 2, 3: number them",
        ),
        ({"y_train": NUMBERS}, "mse", r"with 240 that are not finite \(.*\); must be finite floats"),
        ({"y_train": NUMBERS[:, :4], "lengths_train": LENGTHS}, "mse", r"\(60, 4, 2\).*\(N, 5, outputs\)"),
    ],
)
def test_answers_at_every_step_are_refused(tmp_path, contents, metric, message):
    data = arrays(tmp_path, x_train=X, **contents)
    data.metric = metric
    with pytest.raises(ConfigError, match=message):
        tasks.shape(data)


@pytest.mark.parametrize("names", [None, np.array(["", "rest", "walk", "run"])])
def test_steps_without_a_class_ask_for_nothing(tmp_path, names):
    """As in data=csv with data.every_step: the same steps and answers make the same task."""
    y = np.where((X[:, :, 1] < 0.3) & (np.arange(5) > 0), -1, CLASSES.clip(0))
    rows = [
        f"{k},{t},{a},{b},{'' if y[k, t] < 0 else y[k, t] if names is None else names[y[k, t] + 1]}"
        for k in range(60)
        for t, (a, b) in enumerate(X[k, : LENGTHS[k]])
    ]
    (tmp_path / "a.csv").write_text("\n".join(["id,t,a,b,phase", *rows]))
    long = LongForm("csv", path=str(tmp_path / "a.csv"), series="id", time="t", target="phase",
                    root=str(tmp_path), every_step=True, standardise=False)  # fmt: skip
    given = y if names is None else names[y + 1]
    task = tasks.load(arrays(tmp_path, x_train=X, y_train=given, lengths_train=LENGTHS))
    same = tasks.load(long)
    assert np.array_equal(task.targets, same.targets) and (task.targets[~PADDED] < 0).any()
    assert (task.goal, task.outputs) == (same.goal, same.outputs) == (Goal.labels, 3)
    assert names is None or task.classes == same.classes == ("rest", "run", "walk")


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_that_is_alone_where_it_is_measured_is_said(tmp_path, capsys, part):
    tasks.load(arrays(tmp_path, x_train=X, y_train=Y, **{f"x_{part}": X[:4], f"y_{part}": np.full(4, 2)}))
    assert f"class 2 is the only one in {part}, where" in capsys.readouterr().err
    tasks.load(arrays(tmp_path, x_train=X, y_train=Y))
    assert "alone" not in capsys.readouterr().err


def test_classes_that_training_does_not_see_are_said(tmp_path, capsys):
    data = arrays(tmp_path, x_train=X, y_train=np.r_[Y[:59], 3])
    for data.split_seed in range(20):
        task = tasks.load(data)
        y = task.targets
        unseen = set(y.tolist()) - set(y[task.splits["train"]].tolist())
        assert ("3 of the classes are not among the 42" in capsys.readouterr().err) == bool(unseen)


@given(st.integers(0, 2**32), st.integers(1, 255), st.booleans())
def test_a_damaged_file_is_named_or_reads_as_it_was(place, change, cut):
    with tempfile.TemporaryDirectory() as folder:
        data = arrays(Path(folder), x_train=X[:12], y_train=Y[:12])
        whole = tasks.load(data).checksum
        content = bytearray(Path(data.path).read_bytes())
        place %= len(content)
        content[place] ^= change
        damaged = Path(folder) / "damaged.npz"
        damaged.write_bytes(content[:place] if cut else content)
        try:
            assert tasks.load(Arrays("npz", path=str(damaged))).checksum == whole
        except ConfigError as error:
            assert str(damaged) in str(error)


def test_arrays_are_folded_unless_their_file_has_a_validation_set(tmp_path):
    data = arrays(tmp_path, x_train=X, y_train=X.sum((1, 2)))
    data.metric, data.folds = "mse", 5
    parts = [tasks.load(dataclasses.replace(data, fold=k)).splits for k in range(5)]
    everything = [*range(len(X))]
    assert sorted(np.concatenate([*(one["val"] for one in parts), parts[0]["test"]])) == everything
    for splits in parts:
        assert sorted(np.concatenate([*splits.values()])) == everything
        assert (splits["test"] == parts[0]["test"]).all()
    more = arrays(tmp_path, x_train=X, y_train=X.sum((1, 2)), x_val=X, y_val=X.sum((1, 2)))
    with pytest.raises(ConfigError, match=r"data\.folds=5: the file has x_val; append it to x_train"):
        tasks.shape(dataclasses.replace(more, metric="mse", folds=5))


def test_files_that_hold_no_arrays(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        tasks.shape(Arrays("npz", path="nowhere.npz"))
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(ConfigError, match="not a file of arrays"):
        tasks.shape(Arrays("npz", path=str(tmp_path / "a.npz")))


def test_padding_of_arrays_does_not_reach_the_loss(tmp_path):
    """The same arrays with other numbers beyond their lengths train to the same numbers."""
    lengths = 1 + np.arange(60) % 5
    losses = []
    for padding in (0.0, 7.0):
        x = np.where(np.arange(5)[None, :, None] < lengths[:, None, None], X, padding)
        config = make_config("gru")
        config.data = arrays(tmp_path, x_train=x, y_train=X.sum((1, 2)), lengths_train=lengths)
        config.data.metric = "mse"
        stack = Stack(config, tasks.load(config.data))
        stack.admit([stack.fresh(config)])
        losses.append(next(stack.epochs()).metrics[0]["val/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.isfinite(torch.tensor(losses)).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"targets": np.zeros((60, 5), np.float32)}, r"numbers of shape \(60, 5, 2\), as goal = Goal.values"),
        ({"targets": np.zeros((60, 5)), "goal": Goal.labels}, "whole numbers from -1 to 1 of shape"),
        (
            {"targets": np.where(np.arange(60)[:, None] == 3, -1, 0).repeat(5, 1), "goal": Goal.labels},
            "targets of example 3 are all -1; each example must ask for an answer",
        ),
        ({"targets": Y, "goal": Goal.label}, r"targets have shape \(60,\) .* from 0 to 1"),
        ({"inputs": X[:, :, 0], "tokens": 3}, r"inputs .*must be tokens .* from 0 to 2"),
        ({"inputs": X[:, :, 0].astype("M8[s]")[..., None]}, r"must be numbers \(N, T, 1\)"),
        ({"lengths": np.zeros(60, np.int64)}, "lengths must be 60 whole numbers from 1 to 5"),
    ],
)
def test_examples_that_kernels_would_read_wrongly_are_refused(change, message):
    sound = Task(X, X, {}, outputs=2, checksum="", details={}, goal=Goal.values)
    check_examples(sound, Examples(X, X, LENGTHS))
    task = dataclasses.replace(sound, **change)
    with pytest.raises(ConfigError, match=message):
        check_examples(task, Examples(task.inputs, task.targets, task.lengths))
