"""Laws of series in long form: a file's rows are its series, and each mistake is named with its row."""

import dataclasses

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from conftest import make_config

from rnnbench import tasks
from rnnbench.api import Trained
from rnnbench.config import Config, ConfigError, Kernel
from rnnbench.nn.network import Network
from rnnbench.tasks import Goal
from rnnbench.tasks.array_file import Arrays
from rnnbench.tasks.series import columns
from rnnbench.tasks.series.long_form import LongForm
from rnnbench.tasks.series.settings import ClassWeights, Missing
from rnnbench.tasks.synthetic import Generated
from rnnbench.train.stack import Stack

rng = np.random.RandomState(0)
SERIES = [(f"s{k}", "up" if k % 2 else "down", rng.normal(5, 2, (3 + k % 4, 2)).round(3)) for k in range(36)]
ROWS = [
    f"{name},{t},{x},{y},{kind},{len(values) / 2}"
    for name, kind, values in SERIES
    for t, (x, y) in enumerate(values)
]
HEADER = "id,time,x,y,kind,size"


def long(folder, rows=ROWS, header=HEADER, **keys):
    path = folder / "mine.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    given = {"series": "id", "time": "time", "values": ["x", "y"], "target": "kind"} | keys
    return LongForm("csv", path=str(path), root=str(folder), **given)


def test_rows_are_series_in_any_form_of_the_file(tmp_path, monkeypatch):
    data = long(tmp_path, standardise=False)
    task = tasks.load(data)
    assert (task.goal, task.classes, task.inputs.shape) == (Goal.label, ("down", "up"), (36, 6, 2))
    for x, length, target, (_, kind, values) in zip(
        task.inputs, task.lengths, task.targets, SERIES, strict=True
    ):
        np.testing.assert_allclose(x[:length], values, rtol=1e-6)
        assert length == len(values) and task.classes[target] == kind
    table = pyarrow.csv.read_csv(data.path)
    pyarrow.parquet.write_table(table, tmp_path / "mine.parquet")
    parquet = dataclasses.replace(data, path=str(tmp_path / "mine.parquet"))
    by_time = sorted(ROWS, key=lambda row: int(row.split(",")[1]))  # the series alternate
    monkeypatch.setattr(columns, "KEPT", 0)
    for other in (parquet, long(tmp_path, by_time, standardise=False)):
        again = tasks.load(other)
        assert again.checksum == task.checksum
        assert (again.inputs == task.inputs).all()
    assert len(list((tmp_path / "series").glob("mine-*/stamp"))) == 2


def test_a_large_file_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "KEPT", 0)
    data = long(tmp_path)
    first = tasks.load(data)
    monkeypatch.setattr(columns, "scan", None)
    assert tasks.load(dataclasses.replace(data, folds=3)).checksum == first.checksum


def test_numbers_and_next_steps_are_asked_for(tmp_path):
    task = tasks.load(long(tmp_path, target="size", metric="mse", standardise=False))
    assert task.goal is Goal.value
    assert task.targets[:, 0].tolist() == [len(values) / 2 for _, _, values in SERIES]
    rows = [f"2020-01-{day + 1:02d},{day}" for day in range(30)]
    keys = {"series": None, "values": None, "target": None, "standardise": False, "metric": "mse"}
    task = tasks.load(long(tmp_path, rows, "time,x", horizon=2, window=4, **keys))
    for part, low, high in (("train", 4, 20), ("val", 20, 25), ("test", 25, 30)):
        index = task.splits[part]
        assert task.targets[index].min() == low and task.targets[index].max() == high - 1
        assert (task.inputs[index, -1, 0] + 1 == task.targets[index, 0]).all()


def steps(folder, answer, **keys):
    """Write the series with an answer of each step in a last column: answer(series, step, values) -> text."""
    rows = [
        f"{name},{t},{x},{y},{answer(k, t, values)}"
        for k, (name, _, values) in enumerate(SERIES)
        for t, (x, y) in enumerate(values)
    ]
    keys = {"every_step": True, "target": "phase"} | keys
    return rows, long(folder, rows, "id,time,x,y,phase", **keys)


def phase(k, t, values):
    """A class at each step, none at every fourth."""
    return "" if (k + t) % 4 == 3 else "high" if values[t].sum() > 10 else "low"


@pytest.mark.parametrize("keys", [{}, {"missing": Missing.mask}, {"missing": Missing.forward}])
def test_a_class_is_asked_for_at_every_step_in_any_form_of_the_file(tmp_path, monkeypatch, keys):
    rows, data = steps(tmp_path, phase, class_weights=ClassWeights.balanced, **keys)
    task, shape = tasks.load(data), tasks.shape(data)
    assert (task.goal, task.classes, task.targets.shape) == (Goal.labels, ("high", "low"), (36, 6))
    assert (shape.goal, shape.outputs) == (Goal.labels, 2)
    for k, (targets, (_, _, values)) in enumerate(zip(task.targets, SERIES, strict=True)):
        said = [("", *task.classes)[target + 1] for target in targets[: len(values)]]
        assert said == [phase(k, t, values) for t in range(len(values))]
        assert not targets[len(values) :].any()
    known = [target for k in task.splits["train"] for target in task.targets[k, : task.lengths[k]]]
    counts = np.bincount([target for target in known if target >= 0])
    np.testing.assert_allclose(task.weights, counts.sum() / (2 * counts))
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(data.path), tmp_path / "mine.parquet")
    parquet = dataclasses.replace(data, path=str(tmp_path / "mine.parquet"))
    by_time = sorted(rows, key=lambda row: int(row.split(",")[1]))
    monkeypatch.setattr(columns, "KEPT", 0)
    for other in (parquet, long(tmp_path, by_time, "id,time,x,y,phase", every_step=True, target="phase")):
        assert tasks.load(other).checksum == task.checksum
        assert (tasks.load(other).targets == task.targets).all()


def test_numbers_are_asked_for_at_every_step(tmp_path):
    data = steps(tmp_path, lambda k, t, values: 3 * values[t, 0], metric="mse")[1]
    task, own = tasks.load(data), tasks.load(dataclasses.replace(data, standardise=False))
    assert (task.goal, task.targets.shape) == (Goal.values, (36, 6, 1))
    for targets, (_, _, values) in zip(own.targets, SERIES, strict=True):
        np.testing.assert_allclose(targets[: len(values), 0], 3 * values[:, 0], rtol=1e-6)
    train = task.splits["train"]
    there = task.targets[train][np.arange(6) < task.lengths[train][:, None]]
    np.testing.assert_allclose([there.mean(), there.std()], [0, 1], atol=1e-5)


def test_kernels_agree_on_answers_at_some_steps(tmp_path):
    data = steps(tmp_path, phase, class_weights=ClassWeights.balanced)[1]
    losses = []
    for kernel in (Kernel.torch, Kernel.compiled):
        config = on(data)
        config.fit.kernel = kernel
        stack = Stack(config, tasks.load(data))
        stack.admit([stack.fresh(config)])
        reports = zip(range(3), stack.epochs(), strict=False)
        losses.append(
            [report.metrics[0][name] for _, report in reports for name in ("train/loss", "val/loss")]
        )
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize(
    "answer, keys, message",
    [
        (phase, {"every_step": False}, "row 7: has nothing in column phase .* data.every_step=true asks"),
        (lambda k, t, values: t, {"every_step": False, "metric": "mse"},
         "row 3: has 1.0 in column phase .* data.every_step=true asks for an answer at every step"),
        (lambda k, t, values: "" if k == 3 else phase(k, t, values), {},
         r"row 14: begins a series whose target is empty at every step; leave the 1 series"),
        (lambda k, t, values: "low", {}, "has the label low alone"),
        (lambda k, t, values: "" if t == 2 else t, {"metric": "mse"},
         "row 4: has nothing in column phase .* needs a number at every step: leave the row out"),
        (lambda k, t, values: "inf" if k else t, {"metric": "mse"}, "row 5: has an infinite number"),
        (phase, {"metric": "mse"}, "Row #2: .*'high'.*; correct"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_answers_of_steps_is_named(tmp_path, answer, keys, message):
    with pytest.raises(ConfigError, match=message):
        tasks.shape(steps(tmp_path, answer, **keys)[1])


def test_a_label_at_a_step_of_the_test_that_training_lacks_is_refused(tmp_path):
    rows = steps(tmp_path, lambda k, t, values: "odd" if (k, t) == (33, 2) else phase(k, t, values))[0]
    rows = [f"{row},{'train' if int(row.split(',')[0][1:]) < 30 else 'test'}" for row in rows]
    data = long(tmp_path, rows, "id,time,x,y,phase,part", every_step=True, target="phase", part="part")
    message = r"row 1\d\d: step 3 of the series has the label odd, which no training .* the 1 steps of such"
    with pytest.raises(ConfigError, match=message):
        tasks.load(data)


RAW = np.stack([np.pad(values, ((0, 6 - len(values)), (0, 0))) for _, _, values in SERIES])
RAW[4, 1, 0] = np.nan
STEPS = np.array([len(values) for _, _, values in SERIES])


def on(data):
    config = make_config("gru")
    config.data = data
    return config


def trained(config: Config, task: tasks.Task) -> Trained:
    """A network of random weights, and what its record says of the data."""
    network = Network(config.model, task.input_size, task.outputs, task.goal.every_step)
    weights = torch.randn(network.count(), generator=torch.Generator().manual_seed(0))
    return Trained(config, network, weights, task.goal, {"dataset": {"details": task.details}})


def arrays(folder, **keys):
    np.savez(folder / "mine.npz", x_train=RAW, y_train=np.arange(36) % 2, lengths_train=STEPS)
    return Arrays("npz", path=str(folder / "mine.npz"), **keys)


def gaps(folder, **keys):
    rows = [row.replace(f"s4,1,{SERIES[4][2][1, 0]},", "s4,1,,") for row in ROWS]
    return long(folder, rows, **keys)


@pytest.mark.parametrize("missing", Missing)
@pytest.mark.parametrize(
    "file, keys",
    [
        (gaps, {}),
        (gaps, {"standardise": False}),
        (gaps, {"target": "size", "metric": "mse"}),
        (arrays, {"standardise": True}),
        (arrays, {"mean": 3.0, "std": 2.0}),
    ],
)
def test_a_trained_network_takes_values_as_in_the_file(tmp_path, file, keys, missing):
    """What enters is what entered in training, to the bit; and numbers are answered in the file's units."""
    config = on(file(tmp_path, missing=missing, **keys))
    task = tasks.load(config.data)
    network = trained(config, task)
    entered = dataclasses.replace(network, config=on(Generated("adding")))
    answers = entered(torch.from_numpy(task.inputs), task.lengths)
    assert torch.equal(network(RAW, STEPS), answers)
    if task.goal is Goal.value:
        sizes = STEPS[task.splits["train"]] / 2
        np.testing.assert_allclose(
            network.predict(RAW, STEPS), answers * sizes.std() + sizes.mean(), rtol=1e-5
        )
    with pytest.raises(
        ConfigError, match=r"expected \(B, T, channels\) = \(B, T, 2\), values as in the file"
    ):
        network(task.inputs[:, :, :1])
    if missing is Missing.mask:
        with pytest.raises(ConfigError, match="nan in channel 1, which no training example had there"):
            network(np.where(RAW[0, 0, 1] == RAW, np.nan, RAW), STEPS)


def test_a_forecast_is_answered_in_the_units_of_the_file(tmp_path):
    rows = [f"{t},{100 + 7 * np.sin(t)},{t % 5}" for t in range(60)]
    keys = {"series": None, "values": None, "target": None, "metric": "mse"}
    config = on(long(tmp_path, rows, "time,x,y", horizon=3, window=4, **keys))
    task = tasks.load(config.data)
    network = trained(config, task)
    network.network.views(network.parameters[None])["head.weight"].zero_()
    bias = torch.from_numpy(task.targets[0])
    network.network.views(network.parameters[None])["head.bias"][0] = bias
    own = tasks.load(dataclasses.replace(config.data, standardise=False))
    np.testing.assert_allclose(network.predict(own.inputs[:1])[0], own.targets[0], rtol=1e-5, atol=1e-5)


def test_a_record_that_does_not_say_how_values_entered_is_refused(tmp_path):
    config = on(long(tmp_path))
    network = dataclasses.replace(trained(config, tasks.load(config.data)), result={})
    with pytest.raises(ConfigError, match="the record does not have the channel means"):
        network(RAW[:3])


def test_missing_values_are_read_as_asked(tmp_path):
    rows = [ROWS[0], ROWS[1].replace(f"{SERIES[0][2][1, 0]}", ""), *ROWS[2:]]
    with pytest.raises(ConfigError, match=r"row 2: step 2 .* no value in channel x; data.missing=mask"):
        tasks.load(long(tmp_path, rows))
    assert tasks.load(long(tmp_path, rows, missing=Missing.mask)).inputs[0, 1, 2] == 1


@pytest.mark.parametrize(
    "rows, keys, message",
    [
        (ROWS, {"time": "tme"}, r"row 1: data.time=tme: .*time"),
        (ROWS, {"values": ["z"]}, r"row 1: data.values=z"),
        (ROWS, {"header": "id,time,x,x,kind,size", "values": None}, "row 1: has several columns x; rename"),
        (
            ROWS,
            {"target": "kind", "metric": "mse"},
            "invalid value .* data.metric=accuracy for a target of cl",
        ),
        (
            [ROWS[1], ROWS[0], *ROWS[2:]],
            {},
            "row 3: has an earlier time than .*; sort the file by series and",
        ),
        ([ROWS[0], *ROWS], {}, "row 3: has the same time as the row before"),
        (
            [ROWS[0], ROWS[1].replace("down", "up"), *ROWS[2:]],
            {},
            "row 3: has up in column kind .* began with",
        ),
        ([*ROWS, "z,0,1,1,other,1"], {}, "is the only example of class other"),
        ([ROWS[0].replace(",0,", ",0,q"), *ROWS[1:]], {}, "Row #2: .*; correct the value"),
        ([ROWS[0] + ",7", *ROWS[1:]], {}, "Expected 6 columns, got 7"),
        ([ROWS[0].replace("down", ""), *ROWS[1:]], {}, "row 2: has nothing in column kind"),
        ([ROWS[0].replace("s0,0", "s0,soon"), *ROWS[1:]], {}, "row 2: has the time soon"),
        ([], {}, "has no rows"),
        (ROWS, {"part": "kind"}, r"row 2: has down in column kind \(data.part\); must be train, val, test"),
    ],
)
def test_a_mistake_is_named_with_file_row_and_remedy(tmp_path, rows, keys, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        tasks.shape(long(tmp_path, rows, **keys))
    assert "mine.csv" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            "data=csv data.series=id data.path=mine.csv data.target=knd",
            "mine.csv, row 1: data.target=knd: must be one of",
        ),
        (
            "data=csv data.series=id data.path=mine.csv data.target=kind data.values=[x]",
            "row 4: has up in column kind",
        ),
        ("data=csv data.series=id data.path=. data.target=kind", "data.path=.: cannot be read"),
        ("data=npz data.path=mine.csv", "data.path=mine.csv: is not a file of arrays; write it with"),
        ("data=ucr data.problem=Tiny data.root=.", "Tiny_TRAIN.ts, row 3: has a series of length 0; remove"),
        ("data=ucr data.problem=Tiny data.root=. data.every_step=true", "it goes with data=csv"),
    ],
)
@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_bad_input_ends_a_command_with_1_and_one_line_and_leaves_nothing(
    here, tmp_path, words, message, sweep
):
    long(tmp_path, ["a,0,1,1,down,1", "b,0,2,2,down,1", "a,1,1,1,up,1"])
    (tmp_path / "Tiny").mkdir()
    for part in ("TRAIN", "TEST"):
        (tmp_path / "Tiny" / f"Tiny_{part}.ts").write_text("@classLabel true a b\n@data\n:a\n1,2:b\n")
    before = {*tmp_path.rglob("*")}
    out, err = here(*sweep, *words.split(), code=1)
    assert not out and err.startswith("error: ") and len(err.splitlines()) == 1 and message in err
    assert {*tmp_path.rglob("*")} == before


def test_a_label_of_the_test_that_training_lacks_is_refused(tmp_path):
    rows = [f"{row},{'train' if int(row.split(',')[0][1:]) < 30 else 'test'}" for row in ROWS]
    data = long(tmp_path, rows, HEADER + ",part", part="part")
    assert tasks.load(data).splits["test"].tolist() == [*range(30, 36)]
    rows[-1:] = []
    rows += ["z,0,1,1,other,1,test"]
    with pytest.raises(ConfigError, match="has the label other, which no training example has"):
        tasks.load(long(tmp_path, rows, HEADER + ",part", part="part"))


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"target": None}, "data.target=null: name the column"),
        ({"series": None}, "data.series=null: name the column that says which series .* can be forecast"),
        ({"horizon": 2}, "data.metric=accuracy: a forecast"),
        ({"horizon": 2, "metric": "mse", "folds": 3}, "data.folds=3: a forecast"),
        ({"horizon": 0}, "data.horizon=0: must be"),
        ({"values": ["x", "kind"]}, "data.target=kind: is among data.values too; name it in one of them"),
        ({"horizon": 2, "metric": "mse", "every_step": True}, "data.every_step=True: asks for data.target"),
        ({"delimiter": ""}, "data.delimiter=: must be one"),
    ],
)
def test_a_schema_that_asks_for_nothing_is_refused(tmp_path, keys, message):
    with pytest.raises(ConfigError, match=message):
        long(tmp_path, **keys).check()
