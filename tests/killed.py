"""What the tests that kill sweeps share: a small grid, and its numbers where nothing happens."""

import time

import pytest
from conftest import made_once

from rnnbench.record import read_result
from tests.test_app import jobs, numbers, run

# Two stacks of different cells; every epoch is a checkpoint.
GRID = ["-m", "model=lstm,gru", "seed=0,1", "hydra.sweep.dir=s", "fit.checkpoint_every=1"]
SHORT = ["model.hidden_size=6", "data.train_size=256", "fit.epochs=40"]


def recorded(folder):
    """All that a sweep has measured but times, by trial: the rows, the final figures."""
    found = {}
    for job in jobs(folder):
        final, rows = numbers(job)
        assert read_result(job)["status"] == "finished"
        assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
        found[read_result(job)["trial"]] = final, rows
    assert len(found) == len(jobs(folder))
    return found


def begun(process, file):
    """Wait until a file is there that the process makes."""
    until = time.monotonic() + 300
    while not file.exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The grid as it comes out where nothing happens."""
    folder = made_once(tmp_path_factory, "whole", lambda part: run(part, *GRID, *SHORT, "tracking.uri=null"))
    return recorded(folder / "s")
