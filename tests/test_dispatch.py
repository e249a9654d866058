"""Laws of stacks that train elsewhere, whatever the cluster: each job ends, also where no task comes back."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import make_config

from rnnbench.cluster.base import RemoteLauncher
from rnnbench.cluster.dispatch import Dispatch, cut
from rnnbench.cluster.stack_file import Lost, SentStack
from rnnbench.cluster.worker import work_on
from rnnbench.config import ConfigError
from rnnbench.job_state import JobState
from rnnbench.kernels.gpu import cards
from rnnbench.record import read_result
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.recorder import Recorder
from rnnbench.sweep.session import Sweep, open_sweep


class Here(RemoteLauncher):
    """Trains stacks in this process, but for those of its first sendings, which are lost."""

    place = "here"

    def __init__(self, loses: int, retries: int) -> None:
        super().__init__(None, retries)
        self.loses = loses
        self.sendings = 0

    def submit(self, stacks: Sequence[SentStack]) -> None:
        self.sendings += 1
        for stack in stacks if self.sendings > self.loses else ():
            work_on(stack.file)

    def lost(self, stacks: Sequence[SentStack]) -> dict[str, Lost]:
        return {stack.name: Lost("has died") for stack in stacks}


def job_of(folder: Path, seed: int = 0, model: str = "gru") -> Job:
    config = make_config(model, seed, fit__epochs=1, data__train_size=32)
    return Job(f"seed={seed}", config, folder / str(seed), identity(config))


def train(folder: Path, jobs: Sequence[Job], launcher: RemoteLauncher) -> None:
    with open_sweep(folder, jobs[0].config, "s", single=False, elsewhere=True) as sweep:
        assert isinstance(sweep, Sweep)
        Dispatch(launcher, sweep, {}).train(jobs)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("before", ["nothing", "a failure"])
def test_a_job_whose_task_is_always_lost_has_failed(before, retries, tmp_path, capsys):
    """A failed record of an earlier attempt is not taken for what the lost task has left."""
    if before == "a failure":
        Recorder().fail(job_of(tmp_path), "an earlier one")
    launcher = Here(loses=100, retries=retries)
    job = job_of(tmp_path)
    train(tmp_path, [job], launcher)
    assert job.state is JobState.failed and "has died" in str(job.error)
    assert read_result(job.folder)["error"] == job.error
    assert launcher.sendings == 1 + retries


def test_a_stack_that_was_lost_once_is_sent_again_and_finishes(tmp_path, capsys):
    jobs = [job_of(tmp_path, seed) for seed in range(2)]
    launcher = Here(loses=1, retries=1)
    train(tmp_path, jobs, launcher)
    assert launcher.sendings == 2
    for job in jobs:
        assert job.state is JobState.finished
        assert job.value == read_result(job.folder)["metrics"]["best/val_accuracy"]
        assert read_result(job.folder)["trial"] == job.trial


def test_a_node_without_the_card_of_a_stack_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "count", lambda: 0)
    job = job_of(tmp_path)
    job.config.fit.device = "cuda"
    with open_sweep(tmp_path, job.config, "s", single=False, elsewhere=True) as sweep:
        stack = SentStack.write(tmp_path, sweep.record.info["sweep"], [job], max_stack=None, search=None)
        with pytest.raises(ConfigError, match=r"^fit\.device=cuda: .*, or take fit\.device=cpu$"):
            work_on(stack.file)
    assert not job.folder.exists()


def test_jobs_are_cut_into_stacks_of_equal_shapes_and_nearly_equal_sizes(tmp_path):
    jobs = [job_of(tmp_path, seed, model) for model in ("gru", "lstm") for seed in range(5)]
    stacks = cut(jobs, 2)
    assert [len(stack) for stack in stacks] == [1, 2, 2, 1, 2, 2]
    assert [job for stack in stacks for job in stack] == jobs
    assert all(len({job.config.model.name for job in stack}) == 1 for stack in stacks)
