"""The laws of MLflow's copy: every record arrives exactly once, whatever dies or hangs meanwhile."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_config

from rnnbench.config import Artifact, ConfigError, Tracking
from rnnbench.record import (
    Courier,
    JobFolder,
    SweepFolder,
    check_store,
    download,
    job_folders,
    read_metrics,
    read_result,
    read_sweep,
    records,
    undelivered,
)
from rnnbench.record.__main__ import sync
from rnnbench.record.delivery import Delivery, text, value
from rnnbench.record.folder import read_delivery

CHECKOUT = Path(__file__).parents[1]
DATASET = {"name": "digits", "checksum": "ab" * 32, "details": {"digits.csv.gz": "verified"}}
TAGS = {"rnnbench.git_commit": "c" * 40, "rnnbench.user": "me", "rnnbench.kernel": "torch"}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(CHECKOUT)}
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "running": "KILLED"}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh SQLite store, made once: its migration takes seconds."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}")
    return file


@pytest.fixture
def store(migrated: Path, tmp_path: Path) -> str:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


class Server:
    """A real MLflow server on a free port, as a process; down until it is started."""

    def __init__(self, folder: Path, file: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder, self.file = folder, file
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.file}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = ENVIRONMENT | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # starts in half the time
        with open(self.folder / "log", "w") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def signal(self, number: int) -> None:
        """To the server and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, number)


@pytest.fixture(scope="module")
def server(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(migrated, folder / "mlflow.db")
    one = Server(folder, folder / "mlflow.db")
    yield one
    one.signal(signal.SIGCONT)
    one.signal(signal.SIGKILL)


def tracking(uri: str, *artifacts: Artifact) -> Tracking:
    return Tracking(uri, "laws", list(artifacts))


def claim(folder: Path, uri: str, *artifacts: Artifact, single: bool = False) -> Any:
    return SweepFolder.claim(
        folder, name="x", command=["x"], tracking=tracking(uri, *artifacts), single=single
    )


def start(folder: Path, number: int, **changes: Any) -> JobFolder:
    return JobFolder.start(
        folder / str(number),
        name=f"seed={number}",
        config=make_config(seed=number, **changes),
        trial=f"{number:016x}",
        dataset=DATASET,
        tags=TAGS,
    )


def epoch(job: JobFolder, number: int) -> None:
    measured = {"train/loss": 1 / 3 / number, "lr": 0.1 + 0.2}
    if number % 2 == 0:
        measured |= {"val/loss": math.inf if number == 4 else 2 / number, "val/accuracy": math.nan}
    job.epoch(number, measured)


def train(folder: Path, number: int, epochs: int = 5, status: str = "finished") -> JobFolder:
    job = start(folder, number)
    for each in range(1, epochs + 1):
        epoch(job, each)
    if status == "finished":
        job.end(status, {"test/loss": 0.1 * number, "best/epoch": 2.0, "best/val_loss": -math.inf})
    elif status != "running":
        job.end(status, {}, error="what went wrong" if status == "failed" else None)
    return job


def make_sweep(folder: Path, uri: str, jobs: int = 3, epochs: int = 5) -> Path:
    with claim(folder, uri) as sweep:
        for number in range(jobs):
            train(folder, number, epochs)
        sweep.end("finished")
    return folder


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def runs_of(uri: str, sweep: Path) -> tuple[dict[str, Any], list[Any]]:
    """The sweep's child runs by job uuid, each there once, and its parent runs."""
    store = client(uri)
    found = [run for e in store.search_experiments() for run in store.search_runs([e.experiment_id])]
    parents = [r for r in found if r.data.tags.get("rnnbench.sweep") == read_sweep(sweep)["sweep"]]
    jobs = {read_result(job)["job"] for job in job_folders(sweep)}
    children = [run for run in found if run.data.tags.get("rnnbench.job") in jobs]
    assert len(children) == len({run.data.tags["rnnbench.job"] for run in children})
    return {run.data.tags["rnnbench.job"]: run for run in children}, parents


def stored(number: float) -> float:
    """MLflow's SQL stores hold the largest float in place of an infinity."""
    return math.copysign(sys.float_info.max, number) if math.isinf(number) else number


def assert_exact(uri: str, sweep: Path) -> None:
    """MLflow holds of each job what its folder holds: nothing less, more, or twice."""
    children, parents = runs_of(uri, sweep)
    store = client(uri)
    if not read_sweep(sweep)["single"]:
        (parent,) = parents
        wanted = read_sweep(sweep)["status"]
        assert parent.info.status == STATUS[wanted]
        assert parent.info.start_time == read_sweep(sweep)["started"]
    assert undelivered(sweep) == []
    for job in job_folders(sweep):
        result, rows = read_result(job), read_metrics(job)
        run = children[result["job"]]
        assert read_delivery(job)["run_id"] == run.info.run_id
        assert (run.info.run_name, run.info.status) == (result["name"], STATUS[result["status"]])
        assert run.info.start_time == result["started"]
        ended = result["ended"] or rows[-1]["timestamp_ms"]
        assert run.info.end_time == ended
        wanted = {(n, r["epoch"], r["timestamp_ms"], repr(stored(v))) for r in rows for n, v in r.items()}
        wanted = {point for point in wanted if point[0] not in ("epoch", "timestamp_ms")}
        final = {(n, len(rows), ended, repr(stored(v))) for n, v in result["metrics"].items()}
        history = [
            (point.key, point.step, point.timestamp, repr(point.value))
            for name in run.data.metrics
            for point in store.get_metric_history(run.info.run_id, name)
        ]
        assert sorted(history) == sorted(wanted | final)
        assert {name: value(kept) for name, kept in run.data.params.items()} == result["params"]
        tags = run.data.tags
        assert result["tags"].items() <= tags.items()
        assert tags["rnnbench.trial"] == result["trial"]
        assert tags.get("rnnbench.error") == result["error"]
        assert (tags["mlflow.user"], tags["mlflow.source.git.commit"]) == ("me", "c" * 40)
        assert tags.get("mlflow.parentRunId") == (parents[0].info.run_id if parents else None)
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("digits", ("ab" * 32)[:36])


def until(reached: Callable[[], bool]) -> None:
    """Wait for another process."""
    for _ in range(600):
        if reached():
            return
        time.sleep(0.1)
    raise AssertionError("waited a minute")


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
        delivery.client = Fragile(delivery.client, calls, after)
        try:
            delivery.deliver(job_folders(folder))
            break
        except Crash:
            pass
    assert calls > 5
    assert_exact(store, folder)


def test_a_courier_killed_in_mid_delivery_is_made_good(store: str, tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", store, jobs=40, epochs=60)
    command = [sys.executable, "-m", "rnnbench.record", "sync", str(folder)]
    courier = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    until(lambda: len(undelivered(folder)) < 37)
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
    assert len(run.data.params) == len(job.result["params"]) > 130
    assert len(run.data.params["data.source"]) == 6000 and len(run.data.tags["rnnbench.error"]) == 8000
    assert len(client(store).get_metric_history(run.info.run_id, "train/loss")) == 1000


def test_artifacts_are_uploaded_when_asked_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()
    folder = tmp_path / "sweep"
    with claim(folder, server.uri, *Artifact) as sweep:
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
    assert_exact(server.uri, folder)

    def uploaded(state: Path) -> set[str]:
        return {file.path for file in client(server.uri).list_artifacts(read_delivery(state)["run_id"])}

    files = {"weights.pt", "config.yaml", "confusion.csv", "confusion.png", "curves.png"}
    assert uploaded(folder / "0") == files
    assert uploaded(folder / "1") == {"curves.png"}
    assert uploaded(folder) == {"comparison.md"}

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
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


def test_a_running_sweep_is_delivered_beside_it(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    warnings: list[str] = []
    with claim(folder, store) as sweep:
        courier = Courier(folder, warnings.append)
        assert os.getsid(courier.process.pid) != os.getsid(0)  # Ctrl-C does not reach it
        job = start(folder, 0)
        epoch(job, 1)
        courier.changed(job.path)
        until(lambda: read_delivery(job.path).get("epochs") == 1)
        assert sync(folder) == 0  # keeps out of its way
        # A courier that does not read at all keeps no one waiting, and misses nothing.
        courier.process.send_signal(signal.SIGSTOP)
        for _ in range(20_000):
            courier.changed(job.path)
        epoch(job, 2)
        courier.process.send_signal(signal.SIGCONT)
        train(folder, 1)  # and nobody tells it of this one
        job.end("finished", {"test/loss": 1.0})
        sweep.end("finished")
        assert courier.close() == 0
    assert_exact(store, folder)
    assert warnings == []


def test_a_courier_that_dies_is_counted_on_no_more(store: str, tmp_path: Path) -> None:
    with claim(tmp_path / "sweep", store) as sweep:
        courier = Courier(tmp_path / "sweep", print)
        courier.process.kill()
        courier.process.wait()
        job = train(tmp_path / "sweep", 0)
        courier.changed(job.path)
        sweep.end("finished")
        assert courier.close() == 1


def test_a_sweep_that_is_killed_is_delivered_as_it_is(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_record_mlflow import Courier, claim, train
with claim(Path({str(folder)!r}), {store!r}):
    courier = Courier(Path({str(folder)!r}), print)
    train(Path({str(folder)!r}), 0)
    train(Path({str(folder)!r}), 1, status="running")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT)
    until(lambda: (folder / "1" / "mlflow.json").exists() and undelivered(folder) == [])
    until(lambda: read_delivery(folder).get("status") == "interrupted")
    assert_exact(store, folder)


def test_a_server_that_was_down_or_hangs_gets_everything_later(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.signal(signal.SIGSTOP)  # where another test has started it: listens, and does not answer
    folder, warnings = tmp_path / "sweep", []
    with claim(folder, server.uri) as sweep:
        courier = Courier(folder, warnings.append)
        job = train(folder, 0)
        courier.changed(job.path)
        until(lambda: bool(warnings))
        assert "python -m rnnbench.record sync" in warnings[0] and server.uri in warnings[0]
        train(folder, 1)
        sweep.end("finished")
        assert courier.close() == 2
    assert len(warnings) == 1
    assert sync(folder) == 1
    assert "2 of 2 runs are still to be delivered" in capsys.readouterr().out
    server.signal(signal.SIGCONT)
    server.start()
    assert sync(folder) == 0
    assert_exact(server.uri, folder)


def test_a_server_that_stops_in_the_middle_gets_the_rest_when_it_is_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()
    monkeypatch.setenv(
        "MLFLOW_HTTP_REQUEST_TIMEOUT", "2"
    )  # in the courier's environment: the test is quicker
    folder, warnings = tmp_path / "sweep", []
    with claim(folder, server.uri) as sweep:
        courier = Courier(folder, warnings.append)
        job = start(folder, 0)
        epoch(job, 1)
        courier.changed(job.path)
        until(lambda: read_delivery(job.path).get("epochs") == 1)
        server.signal(signal.SIGSTOP)
        epoch(job, 2)
        courier.changed(job.path)
        until(lambda: bool(warnings))
        server.signal(signal.SIGCONT)
        until(lambda: read_delivery(job.path).get("epochs") == 2)  # by itself
        job.end("finished", {"test/loss": 1.0})
        sweep.end("finished")
        assert courier.close() == 0
    assert_exact(server.uri, folder)
    assert len(warnings) == 1


def test_what_is_not_mlflow_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"]
    web = subprocess.Popen([command[0], "-u", *command[1:]], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                           stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        assert web.stdout is not None
        port = web.stdout.readline().split(" port ")[1].split()[0]
        folder = make_sweep(tmp_path / "sweep", f"http://127.0.0.1:{port}", jobs=1)
        assert sync(folder) == 1
        assert "does not take records" in capsys.readouterr().out
    finally:
        web.kill()
        web.wait()


def test_a_deleted_experiment_and_a_deleted_run_are_told(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    with claim(folder, store) as sweep:
        train(folder, 0, status="running")
        train(folder, 1)
        Delivery(folder).deliver(job_folders(folder))
        client(store).delete_run(read_delivery(folder / "0")["run_id"])
        sweep.end("interrupted")
    assert sync(folder) == 1
    said = capsys.readouterr().out
    assert f"MLflow did not take the record of {folder}/0" in said and "1 already there" in said
    experiment = client(store).get_experiment_by_name("laws").experiment_id
    client(store).delete_experiment(experiment)
    assert sync(folder) == 1
    assert "tracking.experiment=laws is deleted" in capsys.readouterr().out


def test_first_starts_at_once_on_a_fresh_store_all_arrive(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/fresh.db"
    folders = [make_sweep(tmp_path / str(number), uri, jobs=1) for number in range(4)]
    command = [sys.executable, "-m", "rnnbench.record", "sync"]
    couriers = [
        subprocess.Popen(
            [*command, str(folder)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for folder in folders
    ]
    said = [courier.communicate()[0] for courier in couriers]
    assert [courier.returncode for courier in couriers] == [0] * 4, said
    assert all(text.count("\n") == 1 and "1 runs delivered" in text for text in said), said
    for folder in folders:
        assert_exact(uri, folder)
