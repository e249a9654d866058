"""hydra/launcher=joblib, the published plugin: jobs in processes, one trial each."""

import json
import os

import pytest
from conftest import sampled
from mlflow import MlflowClient

from rnnbench.record import read_result
from tests.test_app import QUICK, jobs, numbers, start
from tests.test_app import run as app

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="its launcher is not here: rnnbench[test]")
GRID = ["-m", "model=lstm,gru", "seed=0", "hydra.sweep.dir=s", *QUICK]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def run(folder, *arguments, code=0):
    """What the command says on stderr; its exit code is checked."""
    process = start(folder, *arguments, env=os.environ)  # joblib starts processes of its own
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return err


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    """What the launcher of stacks makes of the grid."""
    folder = tmp_path_factory.mktemp("stacked")
    app(folder, *GRID, "tracking.uri=null")
    return [numbers(job) for job in jobs(folder / "s")]


@pytest.mark.parametrize("sweeper", sampled(["grid", "basic"], ["grid"]))
def test_a_grid_in_processes_gives_the_numbers_of_stacks(tmp_path, store, stacked, sweeper):
    """Under Hydra's own sweeper no process holds the folder all the time: its jobs share it."""
    err = run(tmp_path, *GRID, *JOBLIB, f"hydra/sweeper={sweeper}", f"tracking.uri={store}")
    assert "not in MLflow" not in err
    assert [numbers(job) for job in jobs(tmp_path / "s")] == stacked
    facts = json.loads((tmp_path / "s/sweep.json").read_text())
    assert facts["status"] == "finished" and facts["ended"] is not None

    client = MlflowClient(store)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    below = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    children = [r for r in below if "rnnbench.job" in r.data.tags]
    assert len(children) == 2 and {r.info.status for r in [parent, *children]} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.parametrize("sweeper", ["grid", "basic"])
def test_a_grid_in_processes_is_not_trained_again(tmp_path, sweeper):
    run(tmp_path, *GRID, *JOBLIB, f"hydra/sweeper={sweeper}", "tracking.uri=null")
    before = [read_result(job)["ended"] for job in jobs(tmp_path / "s")]
    run(tmp_path, *GRID, *JOBLIB, f"hydra/sweeper={sweeper}", "tracking.uri=null")
    assert [read_result(job)["ended"] for job in jobs(tmp_path / "s")] == before  # nothing is trained again


@pytest.mark.slow
def test_a_trial_that_fails_in_its_process_fails_alone(tmp_path):
    grid = ["-m", "model=rnn", "optim=sgd", "optim.lr=0.01,1e30", "hydra.sweep.dir=s", *QUICK]
    err = run(tmp_path, *grid, *JOBLIB, "tracking.uri=null", code=1)
    assert "1 of 2 trials failed" in err
    assert [read_result(job)["status"] for job in jobs(tmp_path / "s")] == ["finished", "failed"]
