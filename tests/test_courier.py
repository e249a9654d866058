"""The courier beside the training, and servers that hang, stop, or are something else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rnnbench.mlflow_sync.courier import Courier, undelivered
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.record import job_folders
from rnnbench.record.__main__ import sync
from rnnbench.record.job_folder import read_delivery, write_json
from tests.mlflow_store import (
    ENVIRONMENT,
    Server,
    assert_exact,
    claim,
    client,
    epoch,
    make_sweep,
    start,
    train,
    trouble,
    until,
)


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
    assert trouble(warnings) == []


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
from tests.test_courier import Courier, claim, train
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
    mlflow_server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")  # nobody is to wait for it long
    mlflow_server.signal(signal.SIGSTOP)  # where another test has started it: listens, and does not answer
    folder, warnings = tmp_path / "sweep", []
    with claim(folder, mlflow_server.uri) as sweep:
        courier = Courier(folder, warnings.append)
        job = train(folder, 0)
        courier.changed(job.path)
        until(lambda: bool(warnings))
        assert "python -m rnnbench.record sync" in warnings[0] and mlflow_server.uri in warnings[0]
        train(folder, 1)
        sweep.end("finished")
        assert courier.close() == 2
    assert len(trouble(warnings)) == 1
    assert sync(folder) == 1
    assert "2 of 2 runs are still to be delivered" in capsys.readouterr().out
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    mlflow_server.signal(signal.SIGCONT)
    mlflow_server.start()
    assert sync(folder) == 0
    assert_exact(mlflow_server.uri, folder)


def test_a_server_that_stops_in_the_middle_gets_the_rest_when_it_is_back(
    mlflow_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_server.start()
    monkeypatch.setenv(
        "MLFLOW_HTTP_REQUEST_TIMEOUT", "2"
    )  # in the courier's environment: the test is quicker
    folder, warnings = tmp_path / "sweep", []
    with claim(folder, mlflow_server.uri) as sweep:
        courier = Courier(folder, warnings.append)
        job = start(folder, 0)
        epoch(job, 1)
        courier.changed(job.path)
        until(lambda: read_delivery(job.path).get("epochs") == 1)
        mlflow_server.signal(signal.SIGSTOP)
        epoch(job, 2)
        courier.changed(job.path)
        until(lambda: bool(warnings))
        mlflow_server.signal(signal.SIGCONT)
        until(lambda: read_delivery(job.path).get("epochs") == 2)  # by itself
        job.end("finished", {"test/loss": 1.0})
        sweep.end("finished")
        assert courier.close() == 0
    assert_exact(mlflow_server.uri, folder)
    assert len(trouble(warnings)) == 1


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


def test_a_deleted_experiment_is_told_with_what_brings_it_back(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_sweep(tmp_path / "sweep", store)
    assert sync(folder) == 0
    experiment = client(store).get_experiment_by_name("laws").experiment_id
    client(store).delete_experiment(experiment)
    capsys.readouterr()
    assert sync(folder) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "tracking.experiment=laws is deleted" in said
    advice = said[said.index("(MLFLOW_TRACKING_URI") + 1 : said.index(") or use")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(advice, shell=True, check=True, env=ENVIRONMENT | {"PATH": path})
    assert sync(folder) == 0
    assert_exact(store, folder)


def test_runs_that_were_deleted_by_hand_are_restored(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job's, while it trained; a finished one's; the sweep's own."""
    folder = tmp_path / "sweep"
    with claim(folder, store) as sweep:
        job = train(folder, 0, status="running")
        train(folder, 1)
        train(folder, 2)
        delivery = Delivery(folder)
        delivery.deliver(job_folders(folder))
        for place in (folder, folder / "0", folder / "1"):
            client(store).delete_run(read_delivery(place)["run_id"])
        epoch(job, 6)
        delivery.deliver(job_folders(folder))  # it looks once; what is said is MLflow's reason
        assert "active" in delivery.refused["0"]
        sweep.end("interrupted")
    assert sync(folder) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "3 of its runs had been deleted" in said[0] and "record delete" in said[0]
    assert_exact(store, folder)


def test_the_children_of_a_run_that_is_gone_for_good_get_the_new_one(store: str, tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", store)
    assert sync(folder) == 0
    before = read_delivery(folder)
    write_json(folder / "mlflow.json", before | {"run_id": "0" * 32})
    client(store).delete_run(before["run_id"])
    assert sync(folder) == 0
    assert read_delivery(folder)["run_id"] != before["run_id"]
    assert_exact(store, folder)
