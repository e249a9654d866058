"""Stacks as tasks of a real Slurm cluster of one node: the numbers, and what survives its faults."""

import subprocess
import time

import pytest

from rnnbench.record import read_metrics
from tests.test_app import QUICK, jobs, numbers, start

GRID = ["-m", "model=lstm,gru", "seed=0,1", "hydra.sweep.dir=s", "tracking=none", *QUICK]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.max_stack=2"]
# Trains for some seconds, so that something can happen meanwhile.
LONG = ["-m", "seed=0,1", "hydra.sweep.dir=s", "tracking=none", "model.hidden_size=32", "fit.epochs=40"]


def run(folder, *arguments, code=0):
    """The command's stdout and stderr together; its exit code is checked."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=400)
    assert process.returncode == code, out + err
    return out + err


def tasks():
    """Array, index and state of every task that the cluster knows."""
    said = subprocess.run(
        ["squeue", "--states=all", "--array", "--noheader", "--format=%j|%K|%T"],
        capture_output=True,
        text=True,
    )
    return {tuple(line.split("|")[:2]): line.split("|")[2] for line in said.stdout.splitlines()}


def until(true, seconds=200):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def epochs(job):
    return len(read_metrics(job)) if (job / "metrics.csv").exists() else 0


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The numbers of the small grid as the stack launcher trains it."""
    folder = tmp_path_factory.mktemp("here")
    run(folder, *GRID)
    return [numbers(job) for job in jobs(folder / "s")]


@pytest.fixture(scope="module")
def long_here(tmp_path_factory):
    """The numbers of the longer grid as the stack launcher trains it."""
    folder = tmp_path_factory.mktemp("long")
    run(folder, *LONG)
    return [numbers(job) for job in jobs(folder / "s")]


def test_a_grid_goes_as_stacks_to_one_array_and_gives_the_same_numbers(slurm, here, tmp_path):
    before = tasks()
    out = run(tmp_path, *GRID, *SLURM)
    assert [numbers(job) for job in jobs(tmp_path / "s")] == here
    assert "4 trials in 2 stacks sent to slurm" in out
    assert "trials 4/4" in out or out.count("best/val_accuracy 0.") == 4
    new = {task: state for task, state in tasks().items() if task not in before}
    assert len({array for array, _ in new}) == 1 and sorted(index for _, index in new) == ["0", "1"]
    for job in jobs(tmp_path / "s"):
        assert {file.name for file in (job / ".hydra").iterdir()} >= {"config.yaml", "overrides.yaml"}
    again = run(tmp_path, *GRID, *SLURM)
    assert "4 of 4 trials are finished already" in again and len(tasks()) == len(before) + 2
