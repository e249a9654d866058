"""The laws of what MLflow's pages show of a sweep: bars, params that somebody set, means over seeds."""

from pathlib import Path
from typing import Any

from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.fields import UNSET, value
from rnnbench.mlflow_sync.reading import ClientRuns
from rnnbench.mlflow_sync.sql import SqlRuns
from rnnbench.reader import Folders, Source
from rnnbench.record import job_folders, read_result
from tests.mlflow_store import assert_exact, claim, client, make_sweep, runs_of, train


def told(source: Source) -> list[Any]:
    """What a place says of its records; nan is equal to nan."""
    return [
        (record.job, record.name, record.params, record.tags, sorted(map(repr, record.metrics.items())))
        for record in source.all()
    ]


def test_nulls_that_nobody_set_are_no_params_and_read_back_as_nulls(store: str, tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep", store, jobs=2)
    (folder / "0" / ".hydra").mkdir()
    (folder / "0" / ".hydra" / "overrides.yaml").write_text("- fit.clip=null\n- seed=0\n")
    Delivery(folder).deliver_all()
    runs, _ = runs_of(store, folder)
    set_here, not_here = (runs[read_result(folder / name)["job"]].data for name in "01")
    assert set_here.params["fit.clip"] == "null" and "fit.clip" not in not_here.params
    assert "fit.clip" in not_here.tags[UNSET] and "fit.clip" not in set_here.tags[UNSET]
    ours = Folders(folder).all()
    for source in (SqlRuns(store), ClientRuns(store)):
        assert told(source) == told(Folders(folder))
        assert all(record.params in ({}, ours[0].params) for record in source.find([ours[0].trial]))
    # Delivered by a version that sent every null: nothing changes, and they are read as they were.
    old = client(store).create_run("1", tags=dict(not_here.tags) | {UNSET: ""}).info.run_id
    for name, text in (not_here.params | {"fit.clip": "null"}).items():
        client(store).log_param(old, name, text)
    again = [record for record in ClientRuns(store).all() if record.run_id == old]
    assert again[0].params["fit.clip"] is None and value("null") is None


def test_final_metrics_are_at_step_0_and_those_of_an_earlier_delivery_do_not_conflict(
    store: str, tmp_path: Path
) -> None:
    folder = make_sweep(tmp_path / "sweep", store, jobs=1)
    Delivery(folder).deliver_all()
    assert_exact(store, folder)  # the final metrics, once, at step 0
    (job,) = job_folders(folder)
    (run,) = runs_of(store, folder)[0].values()
    # An earlier version has delivered them at the step of the last epoch.
    from mlflow.entities import Metric

    result = read_result(job)
    earlier = [Metric(name, number, result["ended"], 5) for name, number in result["metrics"].items()]
    client(store).log_batch(run.info.run_id, earlier)
    (job / "mlflow.json").unlink()
    Delivery(folder).deliver_all()
    assert told(SqlRuns(store)) == told(ClientRuns(store)) == told(Folders(folder))


def test_a_metric_that_is_measured_every_epoch_too_ends_with_its_final_value(
    store: str, tmp_path: Path
) -> None:
    with claim(tmp_path / "sweep", store) as sweep:
        job = train(tmp_path / "sweep", 0, status="running")
        job.end("finished", {"train/loss": 7.0})
        sweep.end("finished")
    Delivery(tmp_path / "sweep").deliver_all()
    (record,) = SqlRuns(store).all()
    assert record.metrics["train/loss"] == 7.0
