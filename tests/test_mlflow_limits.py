"""What MLflow's tables cannot hold is cut or written otherwise, what it refuses for good is told with its
reason, and one record that it refuses holds up no other."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnbench.config import Artifact, ConfigError, Tracking, check
from rnnbench.config.uris import driven
from rnnbench.mlflow_sync.courier import undelivered
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.fields import cut, param_name
from rnnbench.mlflow_sync.store import Refusal, first_line
from rnnbench.record import JobFolder, SweepFolder, job_folders, read_result
from rnnbench.record.__main__ import sync
from rnnbench.record.job_folder import write_json
from rnnbench.system.files import DamagedWarning
from tests.conftest import make_config
from tests.mlflow_store import DATASET, TAGS, Server, assert_exact, claim, client, epoch, make_sweep, train

LONG = "seed=" + ",".join(map(str, range(2000, 2051)))  # 51 seeds: more than a run's name may have
ODD = ["\0", "\udcff", "\ud83d\ude00", "a\0b", "%", "'", "\\", "\n", "\x1b[31m", "…" * 300, "a" * 300]


def deliver_odd(folder: Path, uri: str) -> None:
    """Records whose every text is too long for some table, or has what some table refuses."""
    tracking = Tracking(uri, "é" * 256, [])
    options = {name: name * 1000 for name in ["a b!", "x/../y", "/", "..", "é" * 300, "k" * 260, *ODD]}
    options = {name: value for name, value in options.items() if not re.search("[\ud800-\udfff]", name)}
    options |= {f"long{number}": "é" * 7000 for number in range(40)}  # together more than a request may have
    options |= {"k" * 259 + "2": 1}  # differs where it is cut
    with SweepFolder.claim(folder, name=LONG, command=[LONG * 50], tracking=tracking, single=False) as sweep:
        for number, odd in enumerate([LONG, *ODD]):
            job = JobFolder.start(
                folder / str(number),
                name=LONG + odd,
                config=make_config(seed=number, data__options=options),
                trial=f"{number:016x}",
                dataset=DATASET | {"name": "own" * 200 + odd, "details": {odd: odd}},
                tags=TAGS | {"rnnbench.user": "me" * 200 + odd, "rnnbench.command": odd * 9000},
            )
            epoch(job, 1)
            job.end("failed", {"test/loss": 1.0}, error=odd * 9000)
        sweep.end("failed")
    said: list[str] = []
    delivery = Delivery(folder, said.append)
    delivery.deliver_all()
    assert (delivery.refused, said, undelivered(folder)) == ({}, [], [])
    delivery = Delivery(folder, said.append)  # and again, with nothing known
    for state in folder.rglob("mlflow.json"):
        state.unlink()
    delivery.deliver_all()
    assert delivery.refused == {} and undelivered(folder) == []
    store = client(driven(uri))
    experiment = store.get_experiment_by_name("é" * 256)
    runs = store.search_runs([experiment.experiment_id])
    assert len(runs) == 2 + len(ODD)
    names = {run.info.run_name for run in runs}
    assert all(len(name) <= 250 and name.endswith("…") for name in names)
    for job in job_folders(folder):
        assert read_result(job)["name"].startswith(LONG)  # the folder keeps the whole
    params = next(run.data.params for run in runs if run.data.params)
    assert len(params) == sum(value is not None for value in read_result(folder / "0")["params"].values())


@pytest.mark.slow  # the server of the next test has such a store
def test_records_that_a_sqlite_store_cannot_hold_as_they_are(store: str, tmp_path: Path) -> None:
    deliver_odd(tmp_path / "sweep", store)


def test_records_that_a_server_cannot_hold_as_they_are(mlflow_server: Server, tmp_path: Path) -> None:
    mlflow_server.start()
    deliver_odd(tmp_path / "sweep", mlflow_server.uri)


@pytest.mark.slow  # what a server cannot hold is cut in the same way
def test_records_that_postgresql_cannot_hold_as_they_are(postgresql: str, tmp_path: Path) -> None:
    deliver_odd(tmp_path / "sweep", postgresql.replace("/postgres?", "/mlflow?"))


@given(st.text(), st.integers(1, 300))
def test_a_text_is_cut_to_what_can_be_stored(value: str, chars: int) -> None:
    short = cut(value, chars)
    assert len(short) <= chars and "\0" not in short
    short.encode()
    if short == value:
        return
    assert short.endswith("…") or "\\" in short


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
def test_every_param_has_a_name_of_its_own_that_mlflow_takes(names: list[str]) -> None:
    from mlflow.utils.validation import _validate_param

    made = [param_name(f"data.options.{name}") for name in names]
    for name in made:
        _validate_param(name, "x")
    assert len(set(made)) == len(made)
    for name in ("model.hidden_size", "test/accuracy", "time/train_seconds", "data.sha256.train-images.gz"):
        assert param_name(name) == name


@pytest.mark.parametrize("name", ["", " ", "e" * 257, "a\0b", "a\nb", os.fsdecode(b"\xff")])
def test_an_experiment_that_mlflow_cannot_name_is_refused_before_training(name: str) -> None:
    config = make_config()
    config.tracking.experiment = name
    with pytest.raises(ConfigError, match=r"tracking\.experiment="):
        check(config)
    config.tracking.experiment = "é" * 256
    check(config)


def test_a_record_that_is_refused_holds_up_no_other(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    with claim(folder, store, Artifact.checkpoint) as sweep:
        for number in range(4):
            train(folder, number)
        for number in "12":  # two in a row, each without a file that is to be uploaded
            (folder / number / "weights.pt").touch()
            (folder / number / "config.yaml").unlink()
        sweep.end("finished")
    assert sync(folder) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].strip() for line in said[:2]] == [
        f"MLflow did not take the record of {folder}/{number}" for number in "12"
    ]
    assert undelivered(folder) == [folder / "1", folder / "2"]
    for number in "12":
        (folder / number / "config.yaml").touch()
    assert sync(folder) == 0
    assert_exact(store, folder)


def test_a_refusal_is_not_repeated_and_shows_mlflows_reason(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a database whose columns are shorter than they were when this was written."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST
    from sqlalchemy.exc import DataError

    from rnnbench.mlflow_sync import delivery

    calls = []

    def refuse(*args: Any) -> Any:
        calls.append(args)
        driver = type("StringDataRightTruncation", (Exception,), {"__module__": "psycopg2.errors"})
        raise MlflowException(
            message=DataError("INSERT INTO runs ...", {}, driver("value too long for type varchar(9)\n")),
            error_code=BAD_REQUEST,
        )

    monkeypatch.setattr(delivery, "connect", refuse)
    folder = make_sweep(tmp_path / "sweep", store)
    with pytest.raises(Refusal):
        Delivery(folder).deliver_all()
    assert len(calls) == 1
    assert sync(folder) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "refuses the records (value too long for type varchar(9))" in said


@pytest.mark.parametrize(
    "text, shown",
    [
        ("(psycopg2.errors.StringDataRightTruncation) value too long\n\n[SQL: x]", "value too long"),
        ("BAD_REQUEST: (sqlite3.OperationalError) disk is full\n[SQL: x]", "BAD_REQUEST: disk is full"),
        ("(builtins.ValueError) no NUL", "no NUL"),
        ("a (b) c", "a (b) c"),
    ],
)
def test_an_error_is_shown_without_its_preamble(text: str, shown: str) -> None:
    assert first_line(Exception(text)) == shown


@pytest.mark.parametrize("name", [*ODD, r"$\frac{", "漢字"])
def test_a_picture_is_drawn_whatever_the_name(tmp_path: Path, name: str) -> None:
    from rnnbench.mlflow_sync.pictures import curves

    train(tmp_path, 0)
    write_json(tmp_path / "0" / "result.json", read_result(tmp_path / "0") | {"name": name, "metrics": {}})
    assert curves(tmp_path / "0", tmp_path / "curves.png").stat().st_size > 1000


def test_a_damaged_record_holds_up_no_other(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    with claim(folder, store, Artifact.confusion) as sweep:
        for number in range(3):
            train(folder, number)
        (folder / "1" / "metrics.csv").write_text("epoch,timestamp_ms,loss\n1,x,0.5\n")
        sweep.end("finished")
    assert sync(folder) == 1
    assert f"{folder}/1/metrics.csv: is damaged" in capsys.readouterr().out
    assert undelivered(folder) == [folder / "1"]


def test_a_damaged_confusion_matrix_costs_its_picture_alone(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with claim(folder, store, Artifact.confusion) as sweep:
        train(folder, 0)
        (folder / "0" / "confusion.csv").write_text("5,x\n")
        sweep.end("finished")
    with pytest.warns(DamagedWarning, match=r"confusion.csv: is damaged"):
        assert sync(folder) == 0
    assert undelivered(folder) == []
