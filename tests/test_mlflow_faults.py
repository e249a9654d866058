"""An MLflow server that is away, answers with errors, loses its answers or is slow: training does not wait
for it, nothing is lost, and every metric arrives once."""

import random
import signal
import time
from pathlib import Path

import pytest

from rnnbench.mlflow_sync.courier import Courier, undelivered
from rnnbench.record import job_folders, read_result, read_sweep
from rnnbench.record.__main__ import sync
from rnnbench.record.job_folder import read_delivery
from tests.forked import Forked
from tests.mlflow_store import Server, assert_exact, claim, epoch, start, train, trouble, until
from tests.proxy import Fault, Proxy
from tests.test_app import start as start_app

# The command, which says after a second instead of fifteen that it waits.
HASTY = """
from rnnbench.__main__ import main
from rnnbench.mlflow_sync import courier
courier.GRACE = 1.0
main()
"""
SWEEP = ["-m", "seed=0,1", "fit.epochs=3", "model.hidden_size=4", "data.train_size=64", "hydra.sweep.dir=s"]


@pytest.fixture
def server(mlflow_server: Server) -> Server:
    mlflow_server.start()
    return mlflow_server


def ended(sweep: Path) -> bool:
    """Whether all jobs of the app's sweep have their final figures, and the sweep its end."""
    return (sweep / "comparison.md").exists() and read_sweep(sweep)["status"] == "finished"


def test_training_ends_while_the_server_still_holds_the_first_call(server: Server, tmp_path: Path) -> None:
    with Proxy(server.port) as proxy:
        proxy.opened.clear()  # it takes requests, and answers none
        (tmp_path / "hasty.py").write_text(HASTY)
        app = Forked("hasty", [*SWEEP, f"tracking.uri={proxy.uri}"], tmp_path)
        until(lambda: (tmp_path / "s").exists() and ended(tmp_path / "s"))
        assert proxy.faults == []  # nothing has been passed on
        assert [read_result(job)["status"] for job in job_folders(tmp_path / "s")] == ["finished"] * 2
        assert len(undelivered(tmp_path / "s")) == 2
        assert app.poll() is None  # it waits for the deliveries, and says so:
        said = next(line for line in app.stderr if "is slow to take it" in line)
        assert "2 of 2 records" in said and "Ctrl-C is safe" in said and "record sync s" in said
        app.send_signal(signal.SIGINT)
        out, err = app.communicate(timeout=300)
        assert app.returncode == 130, out + err
        assert "2 records are not in MLflow yet: python -m rnnbench.record sync s" in err
        assert "Traceback" not in err
        proxy.opened.set()
        assert sync(tmp_path / "s") == 0
        assert_exact(proxy.uri, tmp_path / "s")


def test_a_server_that_is_slow_is_waited_for_at_the_end(server: Server, tmp_path: Path) -> None:
    folder, warnings = tmp_path / "sweep", []
    with Proxy(server.port) as proxy:
        proxy.delay = 0.3
        with claim(folder, proxy.uri) as sweep:
            courier = Courier(folder, warnings.append)
            courier.changed(train(folder, 0).path)
            sweep.end("finished")
            assert undelivered(folder)
            assert courier.close() == 0
        assert len(proxy.faults) > 5
        assert trouble(warnings) == [] and all("Ctrl-C is safe" in line for line in warnings)
        left = "of 1 records are to come", "the sweep's own record is to come"
        assert all(any(what in line for what in left) for line in warnings)
        proxy.delay = 0
        assert_exact(proxy.uri, folder)


@pytest.mark.slow
def test_a_server_that_takes_five_seconds_a_call(server: Server, tmp_path: Path) -> None:
    with Proxy(server.port) as proxy:
        proxy.delay = 5.0
        app = start_app(tmp_path, *SWEEP, f"tracking.uri={proxy.uri}")
        until(lambda: (tmp_path / "s").exists() and ended(tmp_path / "s"))
        assert undelivered(tmp_path / "s")
        out, err = app.communicate(timeout=300)
        assert app.returncode == 0, out + err
        assert "is slow to take it" in err
        assert sync(tmp_path / "s") == 0
        proxy.delay = 0
        assert_exact(proxy.uri, tmp_path / "s")


@pytest.mark.parametrize("lost", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_a_share_of_answers_that_are_errors(server: Server, tmp_path: Path, lost: float) -> None:
    """Every fourth request or so: not passed on, or carried out and then denied."""
    dice = random.Random(7)

    def fault(number: int) -> Fault:
        return "" if dice.random() > 0.25 else "lost" if dice.random() < lost else "500"

    with Proxy(server.port, fault) as proxy:
        folder, warnings = tmp_path / "sweep", []
        with claim(folder, proxy.uri) as sweep:
            courier = Courier(folder, warnings.append)
            for number in range(4):
                courier.changed(train(folder, number).path)
            sweep.end("finished")
            left = courier.close()
        for _ in range(20):
            if not left:
                break
            left = sync(folder)
        assert left == 0
        assert ("lost" if lost else "500") in proxy.faults
        proxy.fault = lambda number: ""
        assert_exact(proxy.uri, folder)


@pytest.mark.slow
def test_a_server_that_only_answers_with_errors_is_told_once(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, warnings = tmp_path / "sweep", []
    with Proxy(server.port, lambda number: "500") as proxy:
        with claim(folder, proxy.uri) as sweep:
            courier = Courier(folder, warnings.append)
            courier.changed(train(folder, 0).path)
            until(lambda: bool(warnings))
            sweep.end("finished")
            assert courier.close() == 1
        assert "does not take records now" in warnings[0] and "500" in warnings[0]
        assert sum("does not take records" in line for line in warnings) == 1
        assert sync(folder) == 1
        assert "1 of 1 runs are still to be delivered" in capsys.readouterr().out
        proxy.fault = lambda number: ""
        assert sync(folder) == 0
        assert_exact(proxy.uri, folder)


@pytest.mark.slow  # by default tests/test_courier.py stops it, and lets it go on
@pytest.mark.parametrize("seconds", [3, 60])
def test_a_server_that_is_down_for_a_while_gets_the_rest_by_itself(
    mlflow_server: Server, tmp_path: Path, seconds: int
) -> None:
    """The process is killed in mid-sweep, and another is started on its store."""
    mlflow_server.start()
    folder, warnings = tmp_path / "sweep", []
    with claim(folder, mlflow_server.uri) as sweep:
        courier = Courier(folder, warnings.append)
        job = start(folder, 0)
        epoch(job, 1)
        courier.changed(job.path)
        until(lambda: read_delivery(job.path).get("epochs") == 1)
        mlflow_server.stop()
        epoch(job, 2)
        courier.changed(job.path)
        until(lambda: bool(warnings))
        epoch(job, 3)
        courier.changed(job.path)
        train(folder, 1)
        time.sleep(seconds)
        mlflow_server.start()
        until(lambda: read_delivery(job.path).get("epochs") == 3)
        job.end("finished", {"test/loss": 1.0})
        sweep.end("finished")
        assert courier.close() == 0
    (line,) = trouble(warnings)
    assert "training goes on" in line
    assert_exact(mlflow_server.uri, folder)


@pytest.mark.slow
def test_a_server_that_is_down_for_the_rest_of_the_sweep(
    mlflow_server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow_server.start()
    app = start_app(tmp_path, *SWEEP, "fit.epochs=400", f"tracking.uri={mlflow_server.uri}")
    delivered = tmp_path / "s" / "0" / "mlflow.json"
    until(lambda: delivered.exists() or app.poll() is not None)
    assert app.poll() is None, app.communicate()
    mlflow_server.stop()
    out, err = app.communicate(timeout=300)
    assert app.returncode == 0, out + err
    assert "2 of 2 trials are not in MLflow yet: python -m rnnbench.record sync s" in err
    assert sync(tmp_path / "s") == 1
    mlflow_server.start()
    assert sync(tmp_path / "s") == 0
    assert "2 runs delivered" in capsys.readouterr().out
    assert_exact(mlflow_server.uri, tmp_path / "s")
