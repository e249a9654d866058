"""Stacks as tasks of a real Slurm cluster of one node: the numbers, and what survives its faults."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from rnnbench.cluster import SentStack, work_on
from rnnbench.cluster.slurm import SlurmLauncher
from rnnbench.config import ConfigError, plain, trial_hash
from rnnbench.record import SweepFolder, read_metrics, read_result, workers
from rnnbench.record.sweep_folder import held
from tests.conftest import make_config
from tests.test_app import QUICK, jobs, numbers, start
from tests.test_own_code import MINE
from tests.test_search import counted, journal, search, settings, study

GRID = ["-m", "model=lstm,gru", "seed=0,1", "hydra.sweep.dir=s", "tracking=none", *QUICK]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.max_stack=2"]
# Trains for some seconds, so that something can happen meanwhile.
LONG = ["-m", "seed=0,1", "hydra.sweep.dir=s", "tracking=none", "model.hidden_size=32", "fit.epochs=200"]


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


def worker(sweep):
    """The process that trains the one stack of a sweep folder."""
    (found,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if {"submitit.core._submit", str(sweep / "stacks" / "slurm")} <= set(process.info["cmdline"] or [])
        and "srun" not in process.info["cmdline"]
    ]
    return found


@contextmanager
def stopped(process):
    """A process that does not move, until it is resumed."""
    process.suspend()
    try:
        yield process
    finally:
        if process.is_running():
            process.resume()


def pending(process, number):
    """Whether a signal waits for a process that does not move, or has ended it (Slurm resumes those)."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return True
    waiting = next(int(line.split()[1], 16) for line in lines if line.startswith("ShdPnd:"))
    return waiting >> (number - 1) & 1


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
    ended = [line for line in out.splitlines() if line[:2] in {f"{number} " for number in range(4)}]
    assert "trials 4/4" in out or sum("val/accuracy 0." in line for line in ended) == 4
    new = {task: state for task, state in tasks().items() if task not in before}
    assert len({array for array, _ in new}) == 1 and sorted(index for _, index in new) == ["0", "1"]
    for job in jobs(tmp_path / "s"):
        assert {file.name for file in (job / ".hydra").iterdir()} >= {"config.yaml", "overrides.yaml"}
    again = run(tmp_path, *GRID, *SLURM)
    assert "4 of 4 trials are finished already" in again and len(tasks()) == len(before) + 2


def test_the_login_process_dies_and_the_command_finds_its_stacks_at_work(slurm, long_here, tmp_path):
    before = tasks()
    login = start(tmp_path, *LONG, *SLURM)
    folders = [tmp_path / "s" / str(number) for number in range(2)]
    until(lambda: all(epochs(job) for job in folders))
    login.kill()
    login.communicate()
    started = [read_result(job)["started"] for job in folders]
    with stopped(worker(tmp_path / "s")) as process:
        assert held(tmp_path / "s")  # what runs is not taken for interrupted
        refused = run(tmp_path, *LONG, code=1)
        assert "1 of its stacks train elsewhere" in refused
        login = start(tmp_path, *LONG, *SLURM)
        said = next(line for line in login.stdout if "stacks" in line)
        assert "0 trials in 0 stacks sent" in said and "2 in 1 stacks are there already" in said
        process.resume()
        out, err = login.communicate(timeout=400)
    assert login.returncode == 0, out + err
    assert [read_result(job)["started"] for job in folders] == started  # trained once
    assert len(tasks()) == len(before) + 1  # sent once
    assert [numbers(job) for job in folders] == long_here
    assert not workers(tmp_path / "s")


def test_a_stack_that_is_requeued_in_mid_training_goes_on(slurm, long_here, tmp_path):
    before = tasks()
    login = start(tmp_path, *LONG, *SLURM)
    folders = [tmp_path / "s" / str(number) for number in range(2)]
    until(lambda: all(epochs(job) for job in folders))
    (stack,) = (tmp_path / "s" / "stacks").glob("*.json")
    subprocess.run(["scontrol", "requeue", SentStack(stack).task["job"]], check=True)
    out, err = login.communicate(timeout=400)
    assert login.returncode == 0, out + err
    assert "again" not in err  # Slurm has seen to it
    assert all(int(read_result(job)["tags"]["rnnbench.resumed"]) > 0 for job in folders)
    assert [numbers(job) for job in folders] == long_here
    assert len(tasks()) == len(before) + 1


def test_a_trial_that_fails_fails_alone_with_its_message(slurm, tmp_path):
    given = ["-m", "optim=sgd", "optim.lr=0.1,1e30", "hydra.sweep.dir=s", "tracking=none", *QUICK]
    out = run(tmp_path, *given, *SLURM, code=1)
    assert [read_result(job)["status"] for job in jobs(tmp_path / "s")] == ["finished", "failed"]
    assert "failed: the training loss is not finite" in out and "1 of 2 trials failed" in out


def test_what_slurm_refuses_is_one_message_and_a_dry_run_sends_nothing(slurm, tmp_path):
    before = tasks()
    out = run(tmp_path, *GRID, *SLURM, "dry_run=true")
    assert "4 trials in 2 kinds of stacks" in out and not (tmp_path / "s").exists()
    out = run(tmp_path, *GRID, *SLURM, "hydra.launcher.partition=nowhere", code=1)
    assert "error: hydra/launcher=slurm: " in out and "invalid partition" in out.lower()
    assert "Traceback" not in out
    assert tasks().keys() == before.keys()


@pytest.mark.slow
def test_a_stack_that_is_cancelled_fails_with_the_reason(slurm, tmp_path):
    login = start(tmp_path, *LONG, *SLURM, "+hydra.launcher.additional_parameters={hold: true}")
    until(lambda: any(SentStack(file).task.get("job") for file in (tmp_path / "s" / "stacks").glob("*.json")))
    (stack,) = (tmp_path / "s" / "stacks").glob("*.json")
    subprocess.run(["scancel", SentStack(stack).task["job"]], check=True)
    out, err = login.communicate(timeout=300)
    assert login.returncode == 1, out + err
    for job in jobs(tmp_path / "s"):
        result = read_result(job)
        assert result["status"] == "failed" and "has ended as CANCELLED" in result["error"]


@pytest.mark.slow
def test_an_array_that_is_preempted_goes_on(slurm, long_here, tmp_path):
    login = start(tmp_path, *LONG, *SLURM, "hydra.launcher.max_stack=1")
    folders = [tmp_path / "s" / str(number) for number in range(2)]
    until(lambda: all(epochs(job) for job in folders))
    urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"]
    subprocess.run(urgent, check=True)
    out, err = login.communicate(timeout=600)
    assert login.returncode == 0, out + err
    assert "again" not in err  # none was taken for lost
    assert all(int(read_result(job)["tags"]["rnnbench.resumed"]) > 0 for job in folders)
    assert [numbers(job) for job in folders] == long_here


@pytest.mark.slow
def test_a_stack_that_is_told_that_its_time_is_up_goes_on(slurm, long_here, tmp_path):
    login = start(tmp_path, *LONG, *SLURM)
    folders = [tmp_path / "s" / str(number) for number in range(2)]
    until(lambda: all(epochs(job) for job in folders))
    (stack,) = (tmp_path / "s" / "stacks").glob("*.json")
    subprocess.run(["scancel", "--signal=USR2", SentStack(stack).task["job"]], check=True)
    out, err = login.communicate(timeout=400)
    assert login.returncode == 0, out + err
    assert all(int(read_result(job)["tags"]["rnnbench.resumed"]) > 0 for job in folders)
    assert [numbers(job) for job in folders] == long_here
    (log,) = (tmp_path / "s" / "stacks" / "slurm").glob("*_log.out")
    assert "Requeued job" in log.read_text()


@pytest.mark.slow
def test_a_stack_that_runs_into_its_time_limit_goes_on(slurm, long_here, tmp_path):
    """Stands still until Slurm warns it: it counts limits in minutes, and may do so one too early."""
    limit = ["hydra.launcher.timeout_min=2", "+hydra.launcher.additional_parameters={signal: USR2@20}"]
    login = start(tmp_path, *LONG, *SLURM, *limit, "hydra.launcher.requeue=50")
    folders = [tmp_path / "s" / str(number) for number in range(2)]
    until(lambda: all(epochs(job) for job in folders))
    with stopped(worker(tmp_path / "s")) as process:
        until(lambda: pending(process, signal.SIGUSR2))
    out, err = login.communicate(timeout=600)
    assert login.returncode == 0, out + err
    assert "again" not in err
    assert all(int(read_result(job)["tags"]["rnnbench.resumed"].split()[0]) > 0 for job in folders)
    assert [numbers(job) for job in folders] == long_here


@pytest.mark.slow
def test_a_search_under_slurm_prunes_through_its_storage(slurm, tmp_path):
    given = ["-m", "hydra/sweeper=optuna", "optim.lr=tag(log,interval(1e-4,1e-1))", "tracking=none", *QUICK]
    given += ["hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2", "hydra.sweeper.study_name=s"]
    given += [
        "hydra/sweeper/pruner=asha",
        "fit.epochs=6",
        "hydra.sweeper.repeats=2",
        "hydra.sweeper.confirm=2",
    ]
    out = run(tmp_path, *given, "hydra/launcher=slurm")
    folder = tmp_path / "multirun" / "s"
    found = [read_result(path) for path in folder.iterdir() if (path / "result.json").exists()]
    assert len(found) == 5 * 2 + 2, out
    assert {result["status"] for result in found} <= {"finished", "pruned"}
    assert sum("rnnbench.study" in result["tags"] for result in found) == 10


@pytest.mark.slow
def test_ctrl_c_ends_the_tasks_of_a_search(slurm, tmp_path):
    before = tasks()
    given = ["-m", "hydra/sweeper=optuna", "optim.lr=tag(log,interval(1e-4,1e-1))", *LONG[2:], *SLURM]
    login = start(tmp_path, *given, "hydra.sweeper.n_jobs=2")
    new = lambda: {task: state for task, state in tasks().items() if task not in before}  # noqa: E731
    until(lambda: list(new().values()).count("RUNNING") == 2)
    login.send_signal(signal.SIGINT)
    out, err = login.communicate(timeout=300)
    assert login.returncode == 130, out + err
    until(lambda: set(new().values()) == {"CANCELLED"})


@pytest.mark.slow
def test_submitit_on_this_machine_gives_the_same_numbers(here, tmp_path):
    pytest.importorskip("submitit")
    run(tmp_path, *GRID, *SLURM, "hydra.launcher.cluster=local")
    assert [numbers(job) for job in jobs(tmp_path / "s")] == here


@pytest.mark.slow
def test_code_of_ones_own_trains_on_a_node(slurm, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    given = ["rnnbench_import=mine.py", "model.name=leaky", "data=own", "data.name=largest", "fit.epochs=1"]
    given += ["fit.steps_per_epoch=20", "seed=0,1", "tracking=none", "hydra.sweep.dir=s"]
    run(tmp_path, "-m", *given, *SLURM)
    tags = [read_result(job)["tags"] for job in jobs(tmp_path / "s")]
    assert len(tags) == 2 and all("rnnbench.import.mine.py" in found for found in tags)


@pytest.mark.slow
def test_a_stack_whose_worker_is_killed_is_sent_again(long_here, tmp_path):
    pytest.importorskip("submitit")
    login = start(tmp_path, *LONG, *SLURM, "hydra.launcher.cluster=local")
    folders = [tmp_path / "s" / str(number) for number in range(2)]
    until(lambda: all(epochs(job) for job in folders))
    (stack,) = (tmp_path / "s" / "stacks").glob("*.json")
    controller = psutil.Process(int(SentStack(stack).task["job"]))
    (process,) = controller.children()
    process.kill()
    out, err = login.communicate(timeout=400)
    assert login.returncode == 0, out + err
    assert "sending it to local again" in err
    assert [numbers(job) for job in folders] == long_here


@pytest.mark.slow
def test_an_array_of_sweepers_shares_a_study(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    example = Path(__file__).parents[1] / "conf" / "slurm" / "sweepers.sbatch"
    # The node has no memory that Slurm knows of.
    options = ["--wait", "--array=0-1", "--cpus-per-task=1", "--mem=0"]
    command = ["sbatch", *options, example, *search(*settings(n_trials=5, n_jobs=2, study_name="s"))[2:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    logs = [log.read_text() for log in tmp_path.glob("sweepers-*.log")]
    assert done.returncode == 0 and len(logs) == 2, (done.stderr, logs)
    trials = counted(study(journal(tmp_path)).get_trials())
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5
    best = study(journal(tmp_path)).best_trial.number
    assert all(f"multirun/s/{best}\n" in log for log in logs)


@pytest.mark.slow
def test_ctrl_c_leaves_the_stacks_to_the_cluster(slurm, long_here, tmp_path):
    login = start(tmp_path, *LONG, *SLURM)
    folders = [tmp_path / "s" / str(number) for number in range(2)]
    until(lambda: all(epochs(job) for job in folders))
    login.send_signal(signal.SIGINT)
    out, err = login.communicate(timeout=300)
    assert login.returncode == 130, out + err
    assert "1 stacks go on without this command" in out and "scancel" in out
    out = run(tmp_path, *LONG, *SLURM)
    assert [numbers(job) for job in folders] == long_here


GIVEN = {
    "max_stack": None, "retries": 1, "cluster": "local", "requeue": 1, "timeout_min": 1, "cpus_per_task": 1,
    "array_parallelism": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [("cluster", "pbs"), ("timeout_min", 0), ("cpus_per_task", 0), ("array_parallelism", 0), ("requeue", -1),
     ("retries", -1), ("max_stack", 0)],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(key, value):
    pytest.importorskip("submitit")
    SlurmLauncher(**GIVEN)
    with pytest.raises(ConfigError, match=f"hydra.launcher.{key}={value}: must be"):
        SlurmLauncher(**GIVEN | {key: value})


def script(tmp_path, monkeypatch, folder="s", **given):
    """The batch script of a stack, where there need be no cluster."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    usual = {"mem_gb": 1, "gpus_per_node": None, "partition": "p", "account": "a", "setup": ["module load x"],
             "additional_parameters": {"qos": "low"}}  # fmt: skip
    launcher = SlurmLauncher(**GIVEN | {"cluster": "slurm"} | usual | given)
    executor = launcher._executor(tmp_path / folder, "name", None)._executor
    return executor._make_submission_file_text(executor._submitit_command_str, "uid")


HOSTILE = [
    "x; touch mine",
    "$(touch mine)",
    "`touch mine`",
    "' touch mine '",
    '" touch mine "',
    "#",
    "a b",
    "&& touch mine",
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("key", ["partition", "account", "qos", "folder"])
def test_no_value_becomes_a_shell_line_of_the_batch_script(key, value, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    given = {"additional_parameters": {"qos": value}} if key == "qos" else {key: value}
    text = script(tmp_path, monkeypatch, **given)
    usual = script(tmp_path, monkeypatch)
    assert len(text.splitlines()) == len(usual.splitlines())
    run = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    run = run.replace(sys.executable, "true")
    work = tmp_path / "work"
    work.mkdir()
    subprocess.run(["bash", "-c", f"module() {{ :; }}\n{run}"], cwd=work, check=True)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x85", "\u2028", "\x00"])
@pytest.mark.parametrize("key", ["partition", "account", "setup", "additional_parameters"])
def test_a_line_end_in_a_value_for_slurm_is_refused(key, end):
    pytest.importorskip("submitit")
    value = f"x{end}touch mine"
    given = {"setup": [value], "additional_parameters": {"qos": value}}.get(key, value)
    with pytest.raises(
        ConfigError, match=rf"hydra\.launcher\.{key}.*control character; must be a single line"
    ):
        SlurmLauncher(**GIVEN | {key: given})
    with pytest.raises(ConfigError, match="no option of sbatch"):
        SlurmLauncher(**GIVEN | {"additional_parameters": {f"qos=a{end}touch mine": "x"}})


def test_a_folder_whose_name_has_a_line_end_is_refused_for_slurm(tmp_path):
    done = start(tmp_path, *GRID[:3], *SLURM, "hydra.launcher.cluster=local", "hydra.sweep.dir='a\nb'")
    _, err = done.communicate(timeout=300)
    assert done.returncode == 1 and "hydra.sweep.dir=" in err and "control character" in err
    assert list(tmp_path.iterdir()) == []


def test_without_submitit_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"rnnbench\[slurm\]"):
        SlurmLauncher(**GIVEN)


def test_a_cluster_needs_its_commands(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no srun here"):
        SlurmLauncher(**GIVEN | {"cluster": "slurm"})


def sent(folder, sweep, **changes):
    """A stack of one trial in a sweep folder, sent under the id of some sweep."""
    file = folder / "stacks" / "0-x.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    config = make_config()
    entry = {"name": "x", "folder": "0", "tags": {}, "before": None, "config": plain(config)} | changes
    content = {"format": 1, "sweep": sweep, "cwd": str(folder), "max_stack": None, "search": None}
    file.write_text(json.dumps(content | {"jobs": [{"trial": trial_hash(config, "?")} | entry]}))
    return file


def test_a_worker_that_does_not_see_the_sweep_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"does not see 0-x.json in it; give a folder on a disk that every"):
        work_on(tmp_path / "s" / "stacks" / "0-x.json")
    with pytest.raises(ConfigError, match="does not see this sweep's folder; give one on a disk that every"):
        work_on(sent(tmp_path / "s", "one"))
    tracking = make_config().tracking
    claim = {"name": "n", "command": [], "tracking": tracking, "single": False}
    with SweepFolder.claim(tmp_path / "s", elsewhere=True, **claim) as folder:
        with pytest.raises(ConfigError, match="does not see this sweep's folder"):
            work_on(sent(tmp_path / "s", "one"))
        with pytest.raises(ConfigError, match="has other data or other code"):
            work_on(sent(tmp_path / "s", folder.info["sweep"]))
    with (
        SweepFolder.claim(tmp_path / "s", **claim) as folder,
        pytest.raises(ConfigError, match="in use by process"),
    ):
        work_on(sent(tmp_path / "s", folder.info["sweep"]))
