"""Laws of series in long form: a file's rows are its series, and each mistake is named with its row."""

import dataclasses

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from rnnbench import tasks
from rnnbench.config import ConfigError
from rnnbench.tasks import Goal
from rnnbench.tasks.series import columns
from rnnbench.tasks.series.long_form import LongForm
from rnnbench.tasks.series.settings import Missing

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
        ({"horizon": 2}, "data.metric=accuracy: a forecast"),
        ({"horizon": 2, "metric": "mse", "folds": 3}, "data.folds=3: a forecast"),
        ({"horizon": 0}, "data.horizon=0: must be"),
        ({"delimiter": ""}, "data.delimiter=: must be one"),
    ],
)
def test_a_schema_that_asks_for_nothing_is_refused(tmp_path, keys, message):
    with pytest.raises(ConfigError, match=message):
        long(tmp_path, **keys).check()
