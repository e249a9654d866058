"""Sweep folders and MLflow stores to deliver them to: for the tests of records."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import made_once, make_config

from rnnbench.config import Artifact, Tracking
from rnnbench.mlflow_sync.cells import cells_of
from rnnbench.mlflow_sync.courier import undelivered
from rnnbench.mlflow_sync.fields import value
from rnnbench.record import (
    JobFolder,
    SweepFolder,
    job_folders,
    read_metrics,
    read_result,
    read_sweep,
    results,
)
from rnnbench.record.job_folder import read_delivery

CHECKOUT = Path(__file__).parents[1]
DATASET = {"name": "digits", "checksum": "ab" * 32, "details": {"digits.csv.gz": "verified"}}
TAGS = {"rnnbench.git_commit": "c" * 40, "rnnbench.user": "me", "rnnbench.kernel": "torch"}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(CHECKOUT)}
STATUS = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "pruned": "KILLED",
    "running": "KILLED",
}


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh SQLite store, made once: its migration takes seconds."""

    def make(folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        MlflowClient(f"sqlite:///{folder}/mlflow.db")

    return made_once(tmp_path_factory, "store", make) / "mlflow.db"


@pytest.fixture
def store(migrated: Path, tmp_path: Path) -> str:
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL of its own, with a database `mlflow` besides the one of its URL."""
    pgserver = pytest.importorskip("pgserver", reason="pgserver brings PostgreSQL: rnnbench[test]")
    # PostgreSQL refuses root, so pgserver runs it as another user. In no folder of pytest's: another pytest
    # that starts closes those to other users.
    root = os.environ.get("PYTEST_DEBUG_TEMPROOT")
    with tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        server.psql("CREATE DATABASE mlflow")  # Optuna's tables and MLflow's do not go together
        yield server.get_uri()
        server.cleanup()


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
        for _ in range(1800):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Kill it; `start` begins anew."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def signal(self, number: int) -> None:
        """To the server and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, number)


@pytest.fixture(scope="session")
def mlflow_server(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
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
        assert_cells(uri, sweep)
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
        final = {(n, 0, ended, repr(stored(v))) for n, v in result["metrics"].items()}
        history = [
            (point.key, point.step, point.timestamp, repr(point.value))
            for name in run.data.metrics
            for point in store.get_metric_history(run.info.run_id, name)
        ]
        assert sorted(history) == sorted(wanted | final)
        kept = {name: value(text) for name, text in run.data.params.items()}
        assert kept == {name: given for name, given in result["params"].items() if given is not None}
        tags = run.data.tags
        assert result["tags"].items() <= tags.items()
        assert tags["rnnbench.trial"] == result["trial"]
        assert tags.get("rnnbench.error") == result["error"]
        for theirs, ours in (("mlflow.user", "user"), ("mlflow.source.git.commit", "git_commit")):
            assert tags.get(theirs) == result["tags"].get(f"rnnbench.{ours}")
        assert tags.get("mlflow.parentRunId") == (parents[0].info.run_id if parents else None)
        (data,) = run.inputs.dataset_inputs
        known = result["dataset"]["name"], result["dataset"]["checksum"][:36]
        assert (data.dataset.name, data.dataset.digest) == known


def cells(uri: str, sweep: Path) -> list[Any]:
    """The runs below a sweep's own run that have means over seeds, in order of their names."""
    (parent,) = runs_of(uri, sweep)[1]
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND tags.`rnnbench.cell` != ''"
    found = client(uri).search_runs([parent.info.experiment_id], query)
    return sorted(found, key=lambda run: str(run.info.run_name))


def assert_cells(uri: str, sweep: Path) -> None:
    """MLflow holds the means over seeds that the folders give: each once, and no others."""
    wanted = {cell.digest: cell for cell in cells_of(results(sweep))}
    there = cells(uri, sweep)
    assert sorted(run.data.tags["rnnbench.cell"] for run in there) == sorted(wanted)
    for run in there:
        cell = wanted[run.data.tags["rnnbench.cell"]]
        assert (run.info.status, run.info.run_name) == ("FINISHED", cell.name)
        assert run.data.metrics == cell.metrics
        assert {name: value(text) for name, text in run.data.params.items()} == cell.params


def trouble(warnings: list[str]) -> list[str]:
    """What a courier said, but for that it is waited for: that depends on the machine."""
    return [line for line in warnings if "is slow to take it" not in line]


def until(reached: Callable[[], bool], minutes: int = 10) -> None:
    """Wait for another process; how long depends on what else the machine does."""
    for _ in range(3000 * minutes):
        if reached():
            return
        time.sleep(0.02)
    raise AssertionError(f"waited {minutes} minutes")
