"""Laws of real series: files are read as published, figures come from training examples alone, and each
mistake is named with file, row and remedy."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch
from conftest import make_config

from rnnbench import tasks
from rnnbench.config import ConfigError
from rnnbench.kernels import reason
from rnnbench.kernels.losses import measure
from rnnbench.record.job_folder import JobFolder, read_classes, read_confusion
from rnnbench.tasks import Goal
from rnnbench.tasks.series.settings import ClassWeights, Missing
from rnnbench.tasks.series.splits import spread, stratified
from rnnbench.tasks.series.ucr import Ucr
from rnnbench.train.stack import shape_key

HEADER = """@problemName Tiny
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength false
"""
CLASSES = "@classLabel true wave walk 10"
rng = np.random.RandomState(0)
LENGTHS = 2 + np.arange(24) % 4
SERIES = [rng.normal((5, 300), (1, 40), (T, 2)) for T in LENGTHS]
NAMES = ["wave", "walk", "10"]
LABELS = [NAMES[k % 3] for k in range(24)]


def line(values, label):
    return ":".join(",".join(map(repr, map(float, channel))) for channel in values.T) + f":{label}"


def tiny(folder, header=HEADER + CLASSES, train=(), test=(), metric="accuracy", **keys):
    """Write Tiny_TRAIN.ts and Tiny_TEST.ts of 18 and 6 series, with rows replaced: {number: text}."""
    lines = [line(values, label) for values, label in zip(SERIES, LABELS, strict=True)]
    for part, kept, changed in (("TRAIN", lines[:18], train), ("TEST", lines[18:], test)):
        for number, text in dict(changed).items():
            kept[number] = text
        path = folder / "ucr" / "Tiny" / f"Tiny_{part}.ts"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# a remark\n{header}\n@data\n" + "\n".join(kept) + "\n")
    return Ucr("ucr", metric=metric, problem="Tiny", root=str(folder), **keys)


def test_a_ts_file_is_read_as_published(tmp_path):
    task = tasks.load(tiny(tmp_path, standardise=False))
    assert (task.goal, task.outputs, task.inputs.shape) == (Goal.label, 3, (24, 5, 2))
    assert task.classes == ("10", "walk", "wave")
    assert [task.classes[k] for k in task.targets] == LABELS
    assert task.splits["test"].tolist() == [*range(18, 24)]
    assert sorted([*task.splits["train"], *task.splits["val"]]) == [*range(18)]
    for x, values, length in zip(task.inputs, SERIES, task.lengths, strict=True):
        np.testing.assert_allclose(x[:length], values, rtol=1e-6)
        assert len(values) == length and not x[length:].any()
    shape = tasks.shape(tiny(tmp_path))
    assert (shape.steps, shape.input_size, shape.train, shape.val, shape.test) == (5, 2, 15, 3, 6)


def test_a_tsv_file_is_the_ts_file(tmp_path):
    one = [values[:, :1] for values in SERIES]
    for suffix in ("ts", "tsv"):
        for part, chosen in (("TRAIN", range(18)), ("TEST", range(18, 24))):
            path = tmp_path / suffix / "Tiny" / f"Tiny_{part}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == "ts":
                rows = ["@classLabel true 10 walk wave", "@data", *(line(one[k], LABELS[k]) for k in chosen)]
            else:
                cells = [[LABELS[k], *map(repr, one[k][:, 0].tolist())] for k in chosen]
                rows = ["\t".join(row + ["NaN"] * (6 - len(row))) for row in cells]
            path.write_text("\n".join(rows))
    ts, tsv = (tasks.load(Ucr("ucr", problem="Tiny", root=str(tmp_path / kind))) for kind in ("ts", "tsv"))
    assert ts.checksum == tsv.checksum
    assert (ts.inputs == tsv.inputs).all() and (ts.targets == tsv.targets).all()


def test_channels_are_standardised_by_the_training_examples_alone(tmp_path):
    data = tiny(tmp_path)
    task = tasks.load(data)
    values = np.concatenate([task.inputs[k, : task.lengths[k]] for k in task.splits["train"]])
    np.testing.assert_allclose([values.mean(0), values.std(0)], [[0, 0], [1, 1]], atol=1e-5)
    other = tiny(tmp_path, test={0: line(SERIES[0] * 1e6, "walk")})
    assert tasks.load(other).details["channel sds"] == task.details["channel sds"]


def test_numbers_are_asked_for(tmp_path):
    rows = {k: line(values, 100 + k) for k, values in enumerate(SERIES)}
    header = HEADER + "@targetLabel true"
    data = tiny(
        tmp_path, header, {k: rows[k] for k in range(18)}, {k - 18: rows[k] for k in range(18, 24)}, "mse"
    )
    task = tasks.load(data)
    assert (task.goal, task.classes, task.targets.shape) == (Goal.value, (), (24, 1))
    own = tasks.load(dataclasses.replace(data, standardise=False)).targets[:, 0]
    assert own.tolist() == [100 + k for k in range(24)]
    assert abs(task.targets[task.splits["train"]].mean()) < 1e-6
    with pytest.raises(ConfigError, match=r"asks for numbers: data.metric=mse"):
        tasks.load(dataclasses.replace(data, metric="accuracy"))


GAP = line(SERIES[4], "walk").replace(repr(float(SERIES[4][1, 0])), "?")
OPEN = HEADER.replace("@missing false", "@missing true") + CLASSES


def test_missing_values_are_refused_marked_or_carried_on(tmp_path):
    with pytest.raises(ConfigError, match=r"TRAIN.ts, row 14: step 2 .* no value in channel 1; data.missing"):
        tasks.load(tiny(tmp_path, OPEN, {4: GAP}))
    whole = tasks.load(tiny(tmp_path, OPEN))
    mask = tasks.load(tiny(tmp_path, OPEN, {4: GAP}, missing=Missing.mask, standardise=False))
    assert mask.inputs.shape == (24, 5, 3)
    assert mask.inputs[:, :, 2].sum() == mask.inputs[4, 1, 2] == 1
    assert mask.inputs[4, 1, 0] == 0
    forward = tasks.load(tiny(tmp_path, OPEN, {4: GAP}, missing=Missing.forward))
    assert forward.inputs.shape == whole.inputs.shape
    assert forward.inputs[4, 1, 0] == forward.inputs[4, 0, 0]
    first = line(SERIES[4], "walk").replace(repr(float(SERIES[4][0, 0])), "NaN")
    begin = tasks.load(tiny(tmp_path, OPEN, {4: first}, missing=Missing.forward))
    assert begin.inputs[4, 0, 0] == 0  # the mean: nothing is carried on from the series before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"header": HEADER.replace("2\n", "3\n") + "@classLabel true 10 walk wave"},
         r"TRAIN.ts, row 10: has 2 channels; the header says @dimensions 3: correct one"),
        ({"header": HEADER.replace("@equalLength false", "@equalLength true") + CLASSES},
         r"row 11: has 3 steps, and row 10 has 2; the header says @equalLength true: write false"),
        ({"header": "@univariate true\n" + CLASSES}, "row 5: has 2 channels; .*@univariate"),
        ({"header": "@seriesLength 2\n" + CLASSES}, "row 6: has 3 steps; .*@seriesLength 2"),
        ({"header": "@seriesLength x\n" + CLASSES}, "(?i)@seriesLength x must"),
        ({"header": "@classLabel true wave walk"}, "row 6: has the label 10; the header says @classLabel"),
        ({"header": "@classLabel false"}, "asks for nothing"),
        ({"header": "@timeStamps true\n@classLabel true 10"}, "has time stamps"),
        ({"train": {4: GAP}}, "row 14: has a missing value; the header says @missing false: write true"),
        ({"train": {2: ":2,3:walk"}}, "row 12: has a series of length 0; remove the row"),
        ({"train": {2: "1,2:2,3,4:walk"}}, "row 12: has channels of 2, 3 steps"),
        ({"train": {2: "1,2:walk"}}, "row 12: has 1 channels where row 10 has 2"),
        ({"train": {2: "1,b:2,3:walk"}}, "row 12: has a value that is no number"),
        ({"train": {2: "1,2:2,3:"}}, "row 12: has no label after its values"),
        ({"train": {2: "1,inf:2,3:walk"}},
         "row 12: step 2 of the series has an infinite value .* correct it"),
        ({"header": HEADER + "@classLabel true", "test": {1: "1,2:2,3:run"}},
         r"TEST.ts, row 11: has the label run, which no training example has \(10, walk, wave\); remove"),
        ({"header": HEADER + "@classLabel true", "train": {3: "1,2:2,3:run"}},
         "TRAIN.ts, row 13: is the only example of class run .* leave .* out, or data.stratified=false"),
        ({"header": HEADER + "@targetLabel true", "metric": "mse"}, "row 10: has the target wave"),
        ({"missing": None, "folds": 40}, r"data.folds=40: must be at most 18"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_row_and_remedy(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        tasks.shape(tiny(tmp_path, **change))


def test_what_is_nowhere_is_said_with_the_place_for_it(tmp_path):
    with pytest.raises(ConfigError, match=r"NoSuch_TRAIN.ts and .* download them there from timeseriescl"):
        tasks.shape(Ucr("ucr", problem="NoSuch", root=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"data.problem=../x: must be a data set's name"):
        Ucr("ucr", problem="../x", root="").check()


@pytest.mark.parametrize("folds", [None, 3, 5])
def test_every_part_has_each_class_in_its_share(folds):
    classes = np.repeat([0, 1, 2], [30, 10, 5])[np.random.RandomState(1).permutation(45)]
    seen = []
    for fold in range(folds or 1):
        data = Ucr("ucr", problem="x", root="", folds=folds, fold=fold)
        parts = stratified(data, classes, 9)
        share = len(parts["val"]) / 45
        counts = np.bincount(classes[parts["val"]], minlength=3)
        assert (abs(counts - share * np.array([30, 10, 5])) < 1).all()
        assert sorted([*parts["train"], *parts["val"]]) == [*range(45)]
        seen += parts["val"].tolist()
    assert folds is None or sorted(seen) == [*range(45)]
    small = stratified(Ucr("ucr", problem="x", root="", train_size=12), classes, 9)["train"]
    assert (abs(np.bincount(classes[small]) - 12 / 45 * np.array([30, 10, 5])) < 1).all()
    assert all(len(set(spread(n, k))) == k for n in range(1, 30) for k in range(n + 1))


def test_unscaled_input_is_named_in_a_line(tmp_path, capsys):
    tasks.load(tiny(tmp_path, standardise=False))
    said = capsys.readouterr().err
    assert "1 of 2 channels enter unscaled, such as 2 with values of about 3" in said
    assert "data.standardise=true" in said
    tasks.load(tiny(tmp_path))
    assert "unscaled" not in capsys.readouterr().err


def test_folds_share_a_stack_only_where_their_examples_enter_alike(tmp_path):
    series = tiny(tmp_path, folds=3, class_weights=ClassWeights.balanced)
    images = dataclasses.replace(make_config().data, folds=3)
    for data, alike in ((series, False), (images, True)):
        configs = [dataclasses.replace(make_config(), data=dataclasses.replace(data, fold=k)) for k in (0, 1)]
        first, second = (tasks.load(config.data) for config in configs)
        assert np.array_equal(first.inputs, second.inputs) == alike
        assert len(first.splits["train"]) == len(second.splits["train"])
        assert (shape_key(configs[0]) == shape_key(configs[1])) == alike


def test_class_weights_let_all_classes_count_the_same(tmp_path):
    data = tiny(tmp_path, class_weights=ClassWeights.balanced, stratified=False)
    task = tasks.load(data)
    y = torch.from_numpy(task.targets[task.splits["train"]])[None]
    logits = torch.randn(1, 3, y.shape[1])
    means = [torch.nn.functional.cross_entropy(logits[:, :, y[0] == c], y[:, y[0] == c]) for c in range(3)]
    loss = measure(Goal.label, logits, y, None, weights=task.weights)[0]
    assert loss.mean() == pytest.approx(sum(means).item() / 3, rel=1e-5)
    config = make_config("gru")
    config.data = data
    assert reason(config) is None
    config.fit.device = "cuda"
    assert "data.class_weights weighs the loss on the torch path" in reason(config)
    with pytest.raises(ConfigError, match=r"data.class_weights=balanced: needs classes"):
        dataclasses.replace(data, metric="mse").check()


def test_classes_keep_their_names_to_the_confusion_matrix(tmp_path):
    task = tasks.load(tiny(tmp_path))
    folder = JobFolder.__new__(JobFolder)
    folder.path = tmp_path
    folder.write_confusion([[1, 0, 0], [0, 2, 0], [0, 1, 3]], task.classes)
    assert (tmp_path / "confusion.csv").read_text().splitlines()[0] == "true/predicted,10,walk,wave"
    assert read_classes(tmp_path) == ["10", "walk", "wave"]
    assert read_confusion(tmp_path) == [[1, 0, 0], [0, 2, 0], [0, 1, 3]]
    folder.write_confusion([[1, 0], [0, 2]])
    assert read_classes(tmp_path) == ["0", "1"]
    assert read_confusion(tmp_path) == [[1, 0], [0, 2]]


@pytest.mark.skipif(importlib.util.find_spec("aeon") is None, reason="needs the package aeon")
def test_japanese_vowels_are_those_that_aeon_ships(tmp_path):
    task = tasks.load(Ucr("ucr", problem="JapaneseVowels", root=str(tmp_path)))
    assert task.inputs.shape == (640, 29, 12) and task.outputs == 9
    assert (task.lengths.min(), task.lengths.max()) == (7, 29)
    assert {part: len(index) for part, index in task.splits.items()} == {"train": 225, "val": 45, "test": 370}
    assert np.bincount(task.targets[task.splits["val"]]).tolist() == [5] * 9
