"""Laws of a job's state: there is one table of its changes, and every event of a job goes by it."""

from pathlib import Path

import pytest
import torch
from conftest import make_config

from rnnbench.job_state import RECORDED, TRANSITIONS, JobState
from rnnbench.record import read_result
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.recorder import Recorder
from rnnbench.train.stack import Outcome, Slot

CONFIG = make_config()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job("seed=0", CONFIG, tmp_path / "0", identity(CONFIG))


@pytest.mark.parametrize("after", JobState)
@pytest.mark.parametrize("before", JobState)
def test_a_job_changes_as_the_table_says_and_not_otherwise(before: JobState, after: JobState, job: Job):
    job.state = before
    if after in TRANSITIONS[before]:
        job.become(after)
        assert job.state is after
    else:
        with pytest.raises(ValueError, match=f"is {before} cannot become {after}"):
            job.become(after)
        assert job.state is before


def test_every_state_is_reached_and_every_end_that_is_not_final_begins_again():
    assert set().union(*TRANSITIONS.values()) == set(JobState) - {JobState.waiting}
    again = {state for state in JobState if state.has_ended and JobState.running in TRANSITIONS[state]}
    assert again == {JobState.failed, JobState.pruned, JobState.interrupted}
    assert [state.value for state in JobState if state in RECORDED] == [
        "running", "finished", "failed", "pruned", "interrupted",
    ]  # fmt: skip


def finish(recorder: Recorder, job: Job) -> None:
    metrics = {"best/val_accuracy": 0.5, "best/epoch": 1.0}
    recorder.finish(job, Outcome(Slot(CONFIG, 1, best_epoch=1), metrics, torch.zeros(3), None, None))


EVENTS = {
    JobState.finished: finish,
    JobState.failed: lambda recorder, job: recorder.fail(job, "reason"),
    JobState.pruned: lambda recorder, job: recorder.prune(job, {"accuracy": 0.5}),
    JobState.interrupted: lambda recorder, job: recorder.interrupt(job, None),
}


@pytest.mark.parametrize("state", EVENTS)
def test_an_event_changes_the_state_and_the_record_together(state: JobState, job: Job):
    recorder, told = Recorder(), []
    job.started = lambda: told.append(job.state)
    job.ended = lambda: told.append(job.state)
    recorder.start(job)
    assert read_result(job.folder)["status"] == "running"
    EVENTS[state](recorder, job)
    assert read_result(job.folder)["status"] == state == job.state
    assert told == [JobState.running, state]
    for event in EVENTS.values():
        if event is not EVENTS[JobState.failed]:  # which begins a record where there is none
            event(recorder, job)
    assert read_result(job.folder)["status"] == state == job.state


@pytest.mark.parametrize("state", EVENTS)
def test_a_job_whose_folder_is_deleted_is_lost_at_its_next_event(state: JobState, job: Job, capsys):
    recorder = Recorder()
    with recorder.progress("best/val_accuracy", 1, 3):
        recorder.start(job)
        (job.folder / "result.json").unlink()
        for file in job.folder.iterdir():
            file.unlink()
        job.folder.rmdir()
        EVENTS[state](recorder, job)
    assert job.state is JobState.deleted and "was deleted while it trained" in capsys.readouterr().out


def test_a_record_is_closed_once(job: Job):
    recorder = Recorder()
    recorder.start(job)
    record = recorder.records[job]
    record.end("failed", {}, error="reason")
    with pytest.raises(ValueError, match="is failed cannot become finished"):
        record.end("finished", {})
