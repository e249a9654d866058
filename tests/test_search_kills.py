"""Searches that are killed: exactly n_trials, the numbers of a run that nothing happened to, nothing lost."""

import itertools
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from rnnbench.record import read_result
from rnnbench.record.sweep_folder import read_sweep
from rnnbench.search.pruning import Watch
from rnnbench.search.study import ATTEMPTS, GIVEN_UP
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.recorder import Recorder
from rnnbench.sweep.scheduler import train
from rnnbench.train import stack as engine
from tests.conftest import make_config
from tests.killed import SHORT, begun
from tests.mlflow_store import assert_exact
from tests.test_app import numbers, run, start
from tests.test_search import counted, journal, settings, study

# The grid's trials, drawn at random; its pruner sees every epoch, and never has seen enough.
# Its space has two points, each of which is to train again.
SEARCH = ["-m", "reuse=none", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random",
          "hydra.sweeper.sampler.seed=1",
          "model=choice(lstm,gru)", "fit.checkpoint_every=1", *SHORT,
          "hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=100",
          *settings(n_trials=4, repeats=2, n_jobs=2, study_name="s")]  # fmt: skip


def snapshots(sweep):
    """When each checkpoint there is was written; a copy for another attempt keeps this time."""
    found = set()
    for file in sweep.glob("*/checkpoint.pt"):
        with suppress(FileNotFoundError):  # its trial has just ended
            found.add(file.stat().st_mtime_ns)
    return found


def progressed(process, sweep):
    """Wait until both repeats of both trials that are under way have a new checkpoint, or the search ends.

    A trial that dies three times without one counts as failed, which is another law.
    """
    before, until = snapshots(sweep), time.monotonic() + 300
    while process.poll() is None and len(snapshots(sweep) - before) < 4:
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_search_that_is_killed_again_and_again_has_the_same_numbers(kills, whole, store, tmp_path):
    command = [*SEARCH, f"tracking.uri={store}", "tracking.experiment=laws"]
    moments, sweep = random.Random(kills), tmp_path / "multirun" / "s"
    for _ in range(kills):
        process = start(tmp_path, *command)
        shown = sweep / "sweep.json"
        before = shown.stat().st_mtime_ns if shown.exists() else 0
        while process.poll() is None and (not shown.exists() or shown.stat().st_mtime_ns == before):
            time.sleep(0.02)
        progressed(process, sweep)
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.communicate()
    run(tmp_path, *command)
    trials = counted(study(journal(tmp_path)).get_trials())
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    for trial in trials:
        reached = []
        for job in runs_of_trial(sweep, trial):
            final, rows = numbers(job)
            assert (final, rows) == whole[read_result(job)["trial"]]
            best = itertools.accumulate((row["val/accuracy"] for row in rows), max)
            reached.append(list(best)[:-1])  # after the last there was nothing left to stop
        means = [sum(both) / 2 for both in zip(*reached, strict=True)]
        assert list(trial.intermediate_values.items()) == list(enumerate(means, start=1))
    counting = [job for trial in trials for job in runs_of_trial(sweep, trial)]
    assert any("rnnbench.resumed" in read_result(job)["tags"] for job in counting)
    assert not list(sweep.glob("*/checkpoint.pt"))
    assert_exact(store, sweep)


def test_a_job_of_another_launcher_goes_on_from_a_checkpoint_too(whole, tmp_path):
    command = [*SEARCH, "hydra/launcher=basic", "hydra.sweeper.n_trials=1", "tracking.uri=null"]
    sweep = tmp_path / "multirun" / "s"
    process = start(tmp_path, *command)
    begun(process, sweep / "0.1" / "checkpoint.pt")
    process.kill()
    process.communicate()
    run(tmp_path, *command)
    (trial,) = counted(study(journal(tmp_path)).get_trials())
    assert (trial.number, trial.state) == (1, TrialState.COMPLETE)
    for job in runs_of_trial(sweep, trial):
        assert int(read_result(job)["tags"]["rnnbench.resumed"]) > 0
        assert numbers(job) == whole[read_result(job)["trial"]]


def runs_of_trial(sweep, trial):
    return sweep / str(trial.number), sweep / f"{trial.number}.1"


DEADLY = '''"""A cell that has its process killed, as the kernel does where memory runs out."""

import os
import signal

import rnnbench


@rnnbench.register_cell("deadly")
class Deadly(rnnbench.Cell):
    """h = tanh(W x + R h- + b), with five units at most once"""

    def step(self, a, state, layer):
        if self.hidden_size == 5 and a.shape[-1] > 4:  # in training, not while it is traced
            os.kill(os.getpid(), signal.SIGKILL)
        return (layer.recurrent(state[0], a).tanh(),)
'''


def test_a_trial_that_kills_its_worker_three_times_has_failed_and_the_search_goes_on(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    command = ["-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=brute_force", *SHORT[1:], "fit.epochs=2",
               "rnnbench_import=deadly.py", "fit.kernel=torch", "model=rnn", "model.name=deadly",
               "tracking.uri=null", "model.hidden_size=choice(4,5)",
               *settings(n_trials=2, n_jobs=1, study_name="s")]  # fmt: skip
    for _ in range(ATTEMPTS):
        run(tmp_path, *command, code=-signal.SIGKILL)
    run(tmp_path, *command)
    sweep, there = tmp_path / "multirun" / "s", study(journal(tmp_path)).get_trials()
    died = [trial.number for trial in there if trial.params["model.hidden_size"] == 5]
    (failed,) = (trial for trial in counted(there) if trial.state == TrialState.FAIL)
    assert len(died) == ATTEMPTS and failed.number == died[-1]
    ends = [read_result(sweep / str(number)) for number in died]
    assert [end["status"] for end in ends] == ["interrupted"] * (ATTEMPTS - 1) + ["failed"]
    assert ends[-1]["error"] == failed.user_attrs["record"]["error"] == GIVEN_UP
    assert len(counted(there)) == 2 and read_sweep(sweep)["status"] == "finished"


def test_a_deleted_job_folder_costs_a_search_this_trial_alone(tmp_path):
    process = start(tmp_path, *SEARCH, "tracking.uri=null")
    begun(process, tmp_path / "multirun" / "s" / "1" / "checkpoint.pt")
    os.rename(tmp_path / "multirun" / "s" / "1", tmp_path / "gone")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "was deleted while it trained" in out and "Traceback" not in out + err
    trials = study(journal(tmp_path)).get_trials()
    states = {trial.number: trial.state for trial in counted(trials)}
    assert states == {n: TrialState.FAIL if n == 1 else TrialState.COMPLETE for n in range(4)}
    assert not (tmp_path / "multirun" / "s" / "1").exists()


@pytest.mark.parametrize("left", [1, 0], ids=["the last epoch is left", "only the test set is left"])
def test_a_pruner_hears_of_runs_that_go_on_at_their_very_end(left, tmp_path, monkeypatch):
    def runs():
        configs = [make_config(seed=n) for n in range(2)]
        return [
            Job(f"seed={n}", config, tmp_path / str(n), identity(config)) for n, config in enumerate(configs)
        ]

    def heard(jobs):
        told = []
        Watch(lambda *reached: told.append(reached), jobs, "accuracy")
        train(Recorder(), jobs, None)
        return told

    whole = heard([replace(job, folder=tmp_path / "whole" / job.name) for job in runs()])
    assert [epoch for epoch, _ in whole] == [1, 2]  # of 3: after the last there is nothing left to stop
    really = engine.conclude

    def interrupted(stack, slots):
        if stack.slots[0].epoch == 3 - left:
            raise KeyboardInterrupt
        return really(stack, slots)

    monkeypatch.setattr(engine, "conclude", interrupted)
    with pytest.raises(KeyboardInterrupt):
        heard(runs())
    assert [read_result(tmp_path / str(n))["epochs"] for n in range(2)] == [3 - left] * 2
    monkeypatch.setattr(engine, "conclude", really)
    assert heard(runs()) == whole
