"""Laws of the image sets: splits, orders, checksums; what cannot be is refused."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnbench.config import ConfigError
from rnnbench.tasks import load, sequences, shape
from rnnbench.tasks.images import DATASETS
from rnnbench.tasks.sequences import Fill, Images, Order
from tests.published_files import (
    HERE,
    unpack,
)

# Splits and orders


@given(
    val=st.none() | st.integers(0, 1436),
    train=st.none() | st.integers(1, 1437),
    seed=st.integers(0, 2**32 - 1),
)
def test_splits_are_disjoint_and_cover(val: int | None, train: int | None, seed: int) -> None:
    data = Images("digits", val_size=val, train_size=train, split_seed=seed)
    room = 1437 - (240 if val is None else val)
    if train is not None and train > room:
        with pytest.raises(ConfigError, match=f"data.train_size={train}.*at most {room}"):
            shape(data)
        return
    splits = load(data).splits
    every = np.concatenate(list(splits.values()))
    assert len(set(every)) == len(every)
    assert set(every) <= set(range(1797))
    assert {name: len(index) for name, index in splits.items()} == {
        "train": room if train is None else train,
        "val": 1437 - room,
        "test": 360,
    }
    sizes = shape(data)
    assert (sizes.train, sizes.val, sizes.test) == tuple(len(splits[k]) for k in ("train", "val", "test"))
    whole = load(dataclasses.replace(data, train_size=None)).splits
    assert (whole["train"][: len(splits["train"])] == splits["train"]).all()
    assert (whole["val"] == splits["val"]).all()


@given(folds=st.integers(2, 1437), split_seed=st.integers(0, 2**32 - 1), data=st.data())
def test_each_example_outside_of_the_test_validates_in_one_fold(folds, split_seed, data):
    one = Images("digits", split_seed=split_seed, folds=folds)
    parts = [load(dataclasses.replace(one, fold=k)).splits for k in {0, folds // 2, folds - 1}]
    whole = load(Images("digits", split_seed=split_seed, val_size=0)).splits
    for splits in parts:
        assert set(splits["train"]) | set(splits["val"]) == set(whole["train"])
        assert len(splits["train"]) + len(splits["val"]) == 1437
        assert (splits["test"] == whole["test"]).all()
    few = dataclasses.replace(one, folds=data.draw(st.integers(2, 9)))
    validate = [load(dataclasses.replace(few, fold=k)).splits["val"] for k in range(few.folds)]
    assert sorted(np.concatenate(validate)) == sorted(whole["train"])
    assert {len(part) for part in validate} <= {1437 // few.folds, 1437 // few.folds + 1}
    assert shape(few).val == len(validate[0])


@pytest.mark.parametrize("fill", [None, Fill.noise])
def test_steps_after_the_image(fill):
    plain, later = load(Images("digits")), load(Images("digits", delay=5, fill=fill))
    assert np.array_equal(later.inputs[:, :8], plain.inputs)
    after = later.inputs[:, 8:]
    assert after.shape == (1797, 5, 8)
    noise = np.random.RandomState(0).randint(0, 17, after.shape)
    assert np.array_equal(after, noise if fill is Fill.noise else np.zeros_like(noise))
    assert shape(Images("digits", delay=5)).steps == 13
    assert later.checksum == plain.checksum  # of the images; the delay is in the trial's configuration


def test_the_split_seed_moves_validation_and_never_test() -> None:
    first, second = (load(Images("digits", split_seed=seed)).splits for seed in (0, 1))
    assert set(first["val"]) != set(second["val"])
    assert (first["test"] == second["test"]).all()


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("name", DATASETS)
def test_shape_agrees_with_what_is_loaded(name: str, order: Order, tmp_path: Path, small: None) -> None:
    if name != "digits":
        unpack(name, tmp_path)
    data = Images(name, root=str(tmp_path), order=order, download=False)
    task, sizes = load(data), shape(data)
    assert task.inputs.shape == (sizes.train + sizes.val + sizes.test, sizes.steps, sizes.input_size)
    assert task.inputs.dtype == np.uint8 and task.inputs.flags.c_contiguous
    assert task.targets.shape == task.inputs.shape[:1] and task.targets.dtype == np.int64
    assert task.outputs == sizes.outputs > task.targets.max()
    assert 0.9 < task.inputs.max() * task.scale <= 1
    assert load(data).inputs is task.inputs  # hundreds of trials share one copy


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_orders_are_views_of_the_same_images(name: str, tmp_path: Path, small: None) -> None:
    if name != "digits":
        unpack(name, tmp_path)
    tasks_by = {order: load(Images(name, root=str(tmp_path), order=order)) for order in Order}
    height, width, channels = DATASETS[name].size
    images = {o: t.inputs.reshape(-1, height, width, channels) for o, t in tasks_by.items()}
    rows = images[Order.rows]
    assert (images[Order.pixels] == rows).all()
    columns = tasks_by[Order.columns].inputs.reshape(-1, width, height, channels)
    assert (columns == rows.transpose(0, 2, 1, 3)).all()
    # One bijection of the steps, the same for every example.
    moved = sequences.permutation(DATASETS[name])
    assert sorted(moved) == list(range(height * width))
    back = np.argsort(moved)
    assert (tasks_by[Order.permuted].inputs[:, back] == tasks_by[Order.pixels].inputs).all()
    assert (moved != np.arange(height * width)).any()
    assert len({task.checksum for task in tasks_by.values()}) == 1


def test_the_permutation_is_the_same_for_ever() -> None:
    digest = load(Images("digits", order=Order.permuted)).details["permutation"]
    assert digest == "d282de6dfcc9d9fafa19369241d05bc12c9fce798ee820c11692e78f9e8e73f7"
    moved = sequences.permutation(DATASETS["mnist"]).astype("<i8").tobytes()
    expected = "fe62e3fef305ce16e55f08cd0056a8b237e12af6c9523ff3fb35395f6ec55222"
    assert hashlib.sha256(moved).hexdigest() == expected


def test_the_digits_are_the_known_ones() -> None:
    task = load(Images("digits"))
    assert task.inputs.max() == 16
    # The test examples, and with them every number ever reported on them, stay.
    assert np.bincount(task.targets[task.splits["test"]]).sum() == 360
    assert task.checksum == load(Images("digits", split_seed=3, train_size=5)).checksum
    from sklearn.datasets import load_digits

    theirs = load_digits()
    ours = sorted((*x.ravel().tolist(), y) for x, y in zip(task.inputs, task.targets.tolist(), strict=True))
    assert ours == sorted((*map(int, x), int(y)) for x, y in zip(theirs.data, theirs.target, strict=True))


def test_nothing_slow_is_imported_to_read_the_digits() -> None:
    script = (
        "import sys; from rnnbench.tasks import load, sequences; load(sequences.Images('digits'));"
        "print(*({'torch', 'torchvision', 'sklearn', 'pandas', 'scipy', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE.parent, capture_output=True, text=True)
    assert done.stdout.split() == [] and done.returncode == 0, done.stderr


# The real MNIST


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "mnits"}, "data.name=mnits: must be one of .*digits, mnist, "),
        ({"val_size": 1437}, "data.val_size=1437: .* below 1437"),
        ({"val_size": -1}, "data.val_size=-1"),
        ({"train_size": 1198}, "data.train_size=1198: .* at most 1197"),
        ({"train_size": 0}, "data.train_size=0: must be at least 1"),
        ({"source": "nowhere"}, "data.source=nowhere: must start with http://"),
        ({"source": "http:///x"}, "data.source=http:///x"),
        ({"sha256": {"digit.csv": "0" * 64}}, "data.sha256.digit.csv: .* digits.csv"),
        ({"sha256": {"digits.csv": "abc"}}, "data.sha256.digits.csv=abc: must be 64"),
    ],
)
def test_what_cannot_be_is_refused_before_a_file_is_read(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shape(Images(**{"name": "digits", "root": "/nowhere", **change}))


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="password") as refused:
        shape(Images("mnist", root="x", source="http://me:secret@host/"))
    assert "secret" not in str(refused.value)


def test_a_torchvision_of_another_torch_is_explained(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]\n"
        "from rnnbench import tasks, config; from rnnbench.tasks import sequences\n"
        f"try: tasks.load(sequences.Images('mnist', root={str(tmp_path / 'new')!r}))\n"
        "except config.ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE.parent, capture_output=True, text=True)
    assert "pip install --force-reinstall torch torchvision" in done.stdout, done.stderr
