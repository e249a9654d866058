"""The laws of MLflow's copy: every record arrives exactly once, whatever dies meanwhile."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rnnbench.config import Artifact, ConfigError
from rnnbench.config.uris import check_store
from rnnbench.mlflow_sync.artifacts import download
from rnnbench.mlflow_sync.courier import undelivered
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.fields import text, value
from rnnbench.reader import records
from rnnbench.record import job_folders
from rnnbench.record.__main__ import sync
from rnnbench.record.job_folder import read_delivery
from tests.mlflow_store import (
    ENVIRONMENT,
    Server,
    assert_exact,
    claim,
    client,
    epoch,
    make_sweep,
    runs_of,
    start,
    train,
    until,
)


@pytest.mark.parametrize("kept", [None, True, 1, 0.1, 1e-8, "lstm", "1", "null", "", "a b", [], ["x"], {}])
def test_a_param_reads_as_the_value_it_was(kept: Any) -> None:
    assert repr(value(text(kept))) == repr(kept)


def test_delivered_twice_is_there_once(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweeps" / "one"
    with claim(folder, store) as sweep:
        for number, status in enumerate(["finished", "failed", "interrupted", "running", "finished"]):
            train(folder, number, status=status)
        sweep.end("failed")
    single = tmp_path / "sweeps" / "two"
    with claim(single, store, single=True) as sweep:
        train(single, 0)
        sweep.end("finished")
    assert sync(tmp_path / "sweeps") == 0
    assert "5 runs delivered, 0 already there" in capsys.readouterr().out
    for sweep in (folder, single):
        assert_exact(store, sweep)
    assert sync(tmp_path / "sweeps") == 0
    assert "0 runs delivered, 5 already there" in capsys.readouterr().out
    for sweep in (folder, single):
        for job in job_folders(sweep):
            (job / "mlflow.json").unlink()  # not even who delivered is known
    assert sync(tmp_path / "sweeps") == 0
    for sweep in (folder, single):
        assert_exact(store, sweep)
    (tmp_path / "mlflow.db").unlink()
    assert sync(folder) == 0  # MLflow is the copy: made anew from the folders
    assert_exact(store, folder)


def test_a_job_that_begins_anew_while_a_courier_is_at_it_is_there_once(store: str, tmp_path: Path) -> None:
    """As after a kill, when the killed sweep's courier still delivers while the next process trains."""
    folder = tmp_path / "sweep"
    with claim(folder, store) as sweep:
        delivery = Delivery(folder)
        for _ in range(2):
            job = start(folder, 0)
            epoch(job, 1)
            delivery.deliver_all()
        job.end("finished", {"test/loss": 1.0})
        sweep.end("finished")
        delivery.deliver_all()
    assert_exact(store, folder)


class Crash(BaseException):
    """The process dies here."""


class Fragile:
    """A client whose process dies at its n-th call, before it is carried out or after."""

    def __init__(self, client: Any, calls: int, after: bool) -> None:
        self.client, self.calls, self.after = client, calls, after

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls -= 1
            if self.calls == 0 and not self.after:
                raise Crash
            answer = getattr(self.client, name)(*args, **kwargs)
            if self.calls == 0:
                raise Crash
            return answer

        return call


@pytest.mark.parametrize("after", [False, True])
def test_a_delivery_that_dies_at_any_call_is_made_good(store: str, tmp_path: Path, after: bool) -> None:
    """Each delivery dies one call later than the last one, until one comes through."""
    folder = make_sweep(tmp_path / "sweep", store, jobs=2)
    for calls in range(1, 100):
        delivery = Delivery(folder)
        delivery.deliver([])
        delivery.runs.client = Fragile(delivery.runs.client, calls, after)
        try:
            delivery.deliver(job_folders(folder))
            break
        except Crash:
            pass
    assert calls > 5
    assert_exact(store, folder)


def test_a_courier_killed_in_mid_delivery_is_made_good(store: str, tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", store, jobs=24, epochs=30)
    command = [sys.executable, "-m", "rnnbench.record", "sync", str(folder)]
    courier = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    until(lambda: len(undelivered(folder)) < 23)
    courier.send_signal(signal.SIGKILL)
    courier.wait()
    assert undelivered(folder)
    assert sync(folder) == 0
    assert_exact(store, folder)


def test_a_store_whose_writer_was_killed_is_in_order(tmp_path: Path) -> None:
    """What the writer had not committed lies in a journal, which whoever opens the file next rolls back."""
    file = tmp_path / "mlflow.db"
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA cache_size=1');"
        "c.execute('CREATE TABLE t (x)'); c.executemany('INSERT INTO t VALUES (?)', [('a' * 9000,)] * 50);"
        "c.commit(); c.execute('UPDATE t SET x = x || x'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    assert (tmp_path / "mlflow.db-journal").exists()
    check_store(f"sqlite:///{file}")


def test_a_job_that_is_trained_anew_is_one_run(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with claim(folder, store) as sweep:
        train(folder, 0)
        train(folder, 1, epochs=9, status="running")
        Delivery(folder).deliver(job_folders(folder))
        first = read_delivery(folder / "1")["run_id"]
        sweep.end("interrupted")
    assert sync(folder) == 0
    assert_exact(store, folder)
    time.sleep(0.01)  # the next attempt starts at another millisecond
    with claim(folder, store) as sweep:
        train(folder, 1, epochs=3)
        sweep.end("finished")
    assert undelivered(folder) == [folder / "1"]
    assert sync(folder) == 0
    assert_exact(store, folder)
    assert client(store).get_run(first).info.lifecycle_stage == "deleted"


def test_another_store_gets_everything(store: str, tmp_path: Path, migrated: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", store)
    assert sync(folder) == 0
    shutil.copy(migrated, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path}/other.db"
    with claim(folder, other) as sweep:
        assert len(undelivered(folder)) == 3
        sweep.end("finished")
    assert sync(folder) == 0
    assert_exact(other, folder)


def test_records_larger_than_a_batch_arrive_whole(store: str, tmp_path: Path) -> None:
    digests = {f"file{number}": "d" * 64 for number in range(130)}
    with claim(tmp_path / "sweep", store, single=True) as sweep:
        job = start(tmp_path / "sweep", 0, data__sha256=digests, data__source="s" * 7000)
        for number in range(1, 1001):
            epoch(job, number)
        job.end("failed", {}, error="e" * 9000)
        sweep.end("failed")
    assert sync(tmp_path / "sweep") == 0
    (run,) = runs_of(store, tmp_path / "sweep")[0].values()
    given = [value for value in job.result["params"].values() if value is not None]
    assert len(run.data.params) == len(given) > 130
    assert len(run.data.params["data.source"]) == 6000 and len(run.data.tags["rnnbench.error"]) == 8000
    assert len(client(store).get_metric_history(run.info.run_id, "train/loss")) == 1000


def test_artifacts_are_uploaded_when_asked_for(
    mlflow_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_server.start()
    folder = tmp_path / "sweep"
    with claim(folder, mlflow_server.uri, *Artifact) as sweep:
        job = start(folder, 0)
        for number in range(1, 6):
            epoch(job, number)
        (job.path / "weights.pt").write_bytes(b"weights")
        (job.path / "confusion.csv").write_text("5,0,1\n2,9,0\n0,0,40\n")
        job.end("finished", {})
        train(folder, 1)  # left nothing to upload but its curves
        (folder / "comparison.md").write_text("| a |\n")
        sweep.end("finished")
    assert sync(folder) == 0
    assert_exact(mlflow_server.uri, folder)

    def uploaded(state: Path) -> set[str]:
        return {
            file.path for file in client(mlflow_server.uri).list_artifacts(read_delivery(state)["run_id"])
        }

    files = {"weights.pt", "config.yaml", "result.json", "confusion.csv", "confusion.png", "curves.png"}
    assert uploaded(folder / "0") == files
    assert uploaded(folder / "1") == {"curves.png"}
    assert uploaded(folder) == {"comparison.md"}

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    run, other = (read_delivery(folder / number)["run_id"] for number in "01")
    assert download(run) == job.path
    shutil.rmtree(folder)
    assert (download(run) / "weights.pt").read_bytes() == b"weights"
    with pytest.raises(ConfigError, match="no checkpoint"):
        download(other)
    with pytest.raises(ConfigError, match="no such run"):
        download("f" * 32)


def test_records_from_folders_are_those_from_mlflow(store: str, tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", store)
    with claim(tmp_path / "more", store, single=True) as sweep:
        train(tmp_path / "more", 0, status="failed")
        sweep.end("failed")
    sync(tmp_path)
    ours, theirs = records(tmp_path), records(store)
    assert list(ours["status"]) == ["finished"] * 3 + ["failed"]
    assert set(ours.columns) == set(theirs.columns)
    assert {"model.name", "seed", "test/loss", "train/loss", "rnnbench.kernel", "run_id"} < set(ours.columns)
    import pandas

    pandas.testing.assert_frame_equal(ours, theirs[list(ours.columns)], check_dtype=False)
    pandas.testing.assert_frame_equal(records([folder / "0", folder / "2"]), records(folder).iloc[[0, 2]].reset_index(drop=True))  # fmt: skip  # noqa: E501
    for nowhere in (tmp_path / "no", f"sqlite:///{tmp_path}/no.db"):
        with pytest.raises(ConfigError, match="no"):
            records(nowhere)
    assert not (tmp_path / "no.db").exists()
