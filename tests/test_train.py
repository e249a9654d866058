"""Laws of training jobs: what does not fit is divided, and no number changes by it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_config

from rnnbench import tasks
from rnnbench.config import Kernel
from rnnbench.job_state import JobState
from rnnbench.kernels import make_compute
from rnnbench.record import read_result
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.recorder import Recorder
from rnnbench.sweep.scheduler import Scheduler
from rnnbench.sweep.scheduler import train as train_jobs
from rnnbench.train import resources


def jobs_of(folder):
    """Five short trials of one shape."""
    configs = [make_config("gru", seed, fit__epochs=2, data__train_size=64) for seed in range(5)]
    return [Job(f"seed={n}", c, folder / str(n), identity(c)) for n, c in enumerate(configs)]


def figures_of(jobs):
    """Their final figures but for the times."""
    assert [job.error for job in jobs] == [None] * 5
    assert {job.state for job in jobs} == {JobState.finished}
    return [
        {name: value for name, value in read_result(job.folder)["metrics"].items() if "time" not in name}
        for job in jobs
    ]


def train(folder, max_stack):
    """Train five short trials; their final figures but for the times."""
    jobs = jobs_of(folder)
    train_jobs(Recorder(), jobs, max_stack)
    return figures_of(jobs)


@pytest.mark.parametrize("max_stack", [2, 5])
def test_jobs_that_are_added_while_others_train_have_the_numbers_of_a_grid(max_stack, tmp_path):
    jobs, ended = jobs_of(tmp_path / "added"), []
    recorder = Recorder()
    scheduler = Scheduler(recorder, max_stack)
    with recorder.progress("best/val_accuracy", 5, 10):
        for more in (jobs[:2], jobs[2:3], jobs[3:]):
            scheduler.add(more)
            scheduler.round(ended.extend)
        while scheduler.stacks:
            scheduler.round(ended.extend)
    assert set(ended[:2]) == set(jobs[:2]) and set(ended) == set(jobs) and len(ended) == 5
    whole = train(tmp_path / "whole", max_stack)
    assert figures_of(jobs) == [pytest.approx(figures, abs=1e-6) for figures in whole]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=lambda error: type(error).__name__,
)
def test_a_stack_that_does_not_fit_is_trained_in_halves(error, tmp_path, monkeypatch, capsys):
    whole = train(tmp_path / "whole", 5)
    kind = type(make_compute(make_config("gru"), tasks.load(make_config("gru").data)))
    really = kind.train
    tried = []

    def limited(self, state, order, drop, poll):
        tried.append(len(order))
        if len(order) > 2:
            raise error
        return really(self, state, order, drop, poll)

    monkeypatch.setattr(kind, "train", limited)
    parts = train(tmp_path / "parts", None)
    assert parts == [pytest.approx(figures, abs=1e-6) for figures in whole]
    assert tried[:2] == [5, 3]
    assert "a stack of 5 stopped" in capsys.readouterr().err


def test_places_are_those_that_fit(monkeypatch):
    config = make_config("lstm", model__hidden_size=64, fit__kernel=Kernel.torch)
    shape = tasks.shape(config.data)
    monkeypatch.setattr(resources, "cores", lambda: 1)
    for free, places in ((10**15, 16), (0, 1), (2 * 3 * resources.trial_bytes(config, shape), 3)):
        monkeypatch.setattr(resources, "available", lambda device, free=free: free)
        assert resources.places(config, shape, None) == places
    monkeypatch.setattr(resources, "available", lambda device: 10**15)
    assert resources.places(config, shape, 200) == 200
    monkeypatch.setattr(resources, "cores", lambda: 64)
    assert resources.places(config, shape, None) == 128


def test_free_memory_is_less_than_there_is():
    assert 2**27 < resources.available("cpu") <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


PEAK = """
import resource, sys
import numpy as np
from conftest import make_config
from rnnbench import tasks
from rnnbench.train import resources
from rnnbench.config import Kernel
from rnnbench.train.stack import Stack
name, H, K, kernel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Kernel(sys.argv[4])
config = make_config(name, fit__epochs=1, fit__batch_size=128, fit__kernel=kernel)
config.model.hidden_size, config.model.num_layers = H, 2
shape = tasks.Shape(28, 28, 10, 256, 500, 500)
rng = np.random.RandomState(0)
splits = {"train": np.arange(256), "val": np.arange(256, 756), "test": np.arange(256, 756)}
task = tasks.Task(rng.randint(0, 256, (756, 28, 28), dtype=np.uint8), rng.randint(0, 10, 756), splits,
                  scale=1 / 255, mean=0.5, std=0.5, outputs=10, checksum="", details={})
stack = Stack(config, task)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stack.admit([stack.fresh(config) for _ in range(K)])
next(stack.epochs())
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024, K * resources.trial_bytes(config, shape), after * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(
    ("hidden_size", "K", "kernel"), [(10, 64, "auto"), (10, 64, "torch"), (64, 16, "torch")]
)
def test_the_estimate_of_memory_is_on_the_safe_side(name, hidden_size, K, kernel):
    """And 64 trials of the tutorial's size take less than 2 GiB, torch itself included."""
    command = [sys.executable, "-c", PEAK, name, str(hidden_size), str(K), kernel]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken, reckoned, peak = map(int, done.stdout.split())
    threads = 2**25  # the compiled kernels' own memory, whatever K
    assert taken < reckoned + threads
    assert peak < 2**31
