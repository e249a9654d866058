"""Eight processes that write to one SQLite file, which none of them finds made: nothing is lost, and nobody
sees a lock or a half-made schema."""

import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from rnnbench.record import job_folders, read_result
from tests.forked import Forked
from tests.mlflow_store import assert_exact, client, make_sweep, trouble
from tests.test_search import counted

PROCESSES = range(8)
QUICK = ["fit.epochs=1", "model.hidden_size=4", "data.train_size=64"]


def at_once(folder: Path, *commands: list[str]) -> list[str]:
    """Start the commands at the same moment; what each says. All succeed, and none speaks of a lock."""
    started = [Forked(command[0], command[1:], folder) for command in commands]
    said = ["".join(process.communicate(timeout=900)) for process in started]
    assert [process.returncode for process in started] == [0] * len(commands), said
    for text in said:
        lines = [line for line in trouble(text.splitlines()) if "warning: no compiled kernels" not in line]
        assert not any(word in line for word in ("locked", "Traceback", "warning") for line in lines), text
    return said


def runs(folder: Path) -> list[str]:
    """The jobs of MLflow's runs, parents left out."""
    store = client(f"sqlite:///{folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in store.search_experiments()]
    found = store.search_runs(experiments, "tags.`rnnbench.job` != ''", max_results=1000)
    return sorted(run.data.tags["rnnbench.job"] for run in found)


def assert_sound(file: Path) -> None:
    """The schema was made once, and the file is whole."""
    with sqlite3.connect(file) as tables:
        assert len(tables.execute("SELECT version_num FROM alembic_version").fetchall()) == 1
        assert tables.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("processes, trials", [(3, 8), pytest.param(8, 25, marks=pytest.mark.slow)])
def test_couriers_that_start_at_once(tmp_path: Path, processes: int, trials: int) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sweeps = [make_sweep(tmp_path / str(number), uri, jobs=trials, epochs=2) for number in range(processes)]
    said = at_once(tmp_path, *(["rnnbench.record", "sync", str(sweep)] for sweep in sweeps))
    told = f"{trials} runs delivered, 0 already there"
    assert all(text.count("\n") == 1 and told in text for text in said), said
    assert_sound(tmp_path / "mlflow.db")
    jobs = sorted(read_result(job)["job"] for sweep in sweeps for job in job_folders(sweep))
    assert runs(tmp_path) == jobs and len(jobs) == trials * processes
    for sweep in sweeps[::4]:
        assert_exact(uri, sweep)


@pytest.mark.slow
def test_eight_sweeps_of_twenty_five_trials(tmp_path: Path) -> None:
    """In a fresh directory: MLflow's file, and the folders, which are named after the second."""
    at_once(
        tmp_path,
        *(["rnnbench", "-m", f"seed=range({25 * n},{25 * n + 25})", *QUICK] for n in PROCESSES),
    )
    sweeps = sorted(file.parent for file in (tmp_path / "multirun").glob("*/*/sweep.json"))
    assert len(sweeps) == 8
    seeds = [read_result(job)["params"]["seed"] for sweep in sweeps for job in job_folders(sweep)]
    assert sorted(seeds) == list(range(200))
    assert_sound(tmp_path / "mlflow.db")
    for sweep in sweeps:
        assert_exact(f"sqlite:///{tmp_path}/mlflow.db", sweep)
    assert len(runs(tmp_path)) == 200


@pytest.mark.slow
def test_eight_first_workers_of_a_study(tmp_path: Path) -> None:
    """Both schemas at once: Optuna's, of the study that they share, and MLflow's."""
    command = ["rnnbench", "-m", "hydra/sweeper=optuna", "search=rate", "hydra.sweeper.n_trials=24", *QUICK]
    command += ["hydra.sweeper.study_name=s", "hydra.sweeper.storage=sqlite:///study.db"]
    at_once(tmp_path, *([*command, "hydra.sweeper.n_jobs=2"] for _ in PROCESSES))
    trials = counted(optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db").get_trials())
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 24
    assert_sound(tmp_path / "study.db")
    assert_sound(tmp_path / "mlflow.db")
    jobs = sorted(read_result(job)["job"] for job in job_folders(tmp_path / "multirun" / "s"))
    assert len(jobs) >= 24 and runs(tmp_path) == jobs
