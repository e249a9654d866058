"""The laws of what MLflow's pages show of a sweep: bars, params that somebody set, means over seeds."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnbench.config.metrics import bounds
from rnnbench.mlflow_sync import entities
from rnnbench.mlflow_sync.cells import cells_of
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.fields import UNSET, value
from rnnbench.mlflow_sync.reading import ClientRuns
from rnnbench.mlflow_sync.sql import SqlRuns
from rnnbench.paper import statistics
from rnnbench.reader import Folders, Source, records
from rnnbench.record import JobFolder, job_folders, read_result
from rnnbench.record.__main__ import delete
from tests.conftest import make_config
from tests.mlflow_store import (
    DATASET,
    TAGS,
    assert_cells,
    assert_exact,
    cells,
    claim,
    client,
    epoch,
    make_sweep,
    runs_of,
    train,
)


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


def trained(folder: Path, number: int, seed: int, *, status: str = "finished", **model: Any) -> None:
    """A job of a sweep, with final metrics that depend on its number."""
    job = JobFolder.start(
        folder / str(number),
        name=f"seed={seed}",
        config=make_config(seed=seed, **model),
        trial=f"{number:016x}",
        dataset=DATASET,
        tags=TAGS,
    )
    epoch(job, 1)
    found = {"best/val_accuracy": 0.9 + number / 97, "test/loss": 1 / (number + 3), "parameters/total": 44.0}
    job.end(status, found if status == "finished" else {}, error="why" if status == "failed" else None)


def seeds(folder: Path, store: str, numbers: range = range(6)) -> Path:
    """A sweep of two models with three seeds each; that of number 7 failed."""
    with claim(folder, store) as sweep:
        for number in numbers:
            kind = "lstm" if number % 2 else "gru"
            status = "failed" if number == 7 else "finished"
            trained(folder, number, number // 2, status=status, model__name=kind)
        (folder / "comparison.md").write_text("| model |\n| --- |\n| lstm ± 1 |\n")
        sweep.note(best="5")
        sweep.end("finished")
    return folder


def test_a_run_of_each_configuration_has_the_figures_of_a_table(store: str, tmp_path: Path) -> None:
    folder = seeds(tmp_path / "lr", store, range(8))
    Delivery(folder).deliver_all()
    assert_exact(store, folder)
    gru, lstm = cells(store, folder)
    assert (gru.info.run_name, lstm.info.run_name) == ("gru: mean of 4", "lstm: mean of 3")
    assert lstm.data.tags["rnnbench.jobs"] == "1, 3, 5"  # not the one that failed
    assert lstm.data.params["model.name"] == "lstm" and "seed" not in lstm.data.params
    for name in ("best/val_accuracy", "test/loss"):
        values = np.array([read_result(folder / job)["metrics"][name] for job in "135"])
        figure = statistics.estimate(values, bounds=bounds(name))
        found = {end: lstm.data.metrics[f"{name}/{end}"] for end in ("mean", "deviation", "low", "high")}
        assert found == {
            "mean": figure.value,
            "deviation": figure.deviation,
            "low": pytest.approx(figure.low, rel=1e-12),
            "high": pytest.approx(figure.high, rel=1e-12),
        }
    assert (lstm.data.metrics["n"], lstm.data.metrics["parameters/total"]) == (3.0, 44.0)
    (parent,) = runs_of(store, folder)[1]
    assert parent.data.tags["mlflow.note.content"].startswith("| model |\n| --- |\n| lstm ± 1 |")
    assert parent.data.tags["rnnbench.best_trial"] == "5"
    assert parent.data.metrics == read_result(folder / "5")["metrics"]
    assert {run.data.tags["rnnbench.sweep_name"] for run in (parent, gru, lstm)} == {f"{tmp_path.name}/lr"}
    # Nobody who reads the store takes these runs for trials.
    for source in (SqlRuns(store), ClientRuns(store)):
        assert told(source) == told(Folders(folder)) and source.searches() == {}
    assert len(records(store)) == 8


def test_runs_of_configurations_follow_the_records(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = seeds(tmp_path / "sweep", store)
    Delivery(folder).deliver_all()
    first = {run.info.run_id for run in cells(store, folder)}
    (folder / "mlflow.json").unlink()
    Delivery(folder).deliver_all()  # not even who delivered is known
    assert {run.info.run_id for run in cells(store, folder)} == first
    shutil.copytree(folder, tmp_path / "copy")
    Delivery(tmp_path / "copy").deliver_all()
    seeds(folder, store, range(6, 8))  # goes on with further seeds, of which one fails
    Delivery(folder).deliver_all()
    for sweep in (folder, tmp_path / "copy"):
        query = f"tags.`rnnbench.folder` = '{sweep}'"
        (parent,) = client(store).search_runs(["1"], query)
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND tags.`rnnbench.cell` != ''"
        names = sorted(str(run.info.run_name) for run in client(store).search_runs(["1"], query))
        assert names == [f"gru: mean of {4 if sweep == folder else 3}", "lstm: mean of 3"]
    assert delete(tmp_path / "copy", yes=True) == 0
    assert_cells(store, folder)
    assert delete(folder / "3", yes=True) == 0
    assert [run.info.run_name for run in cells(store, folder)] == ["gru: mean of 4", "lstm: mean of 2"]
    assert_cells(store, folder)
    assert delete(folder, yes=True) == 0
    assert client(store).search_runs(["1"]) == []


def test_only_seeds_of_one_configuration_have_a_mean(tmp_path: Path) -> None:
    none = {"rnnbench.study": "s"}
    trial = {"metrics": {"test/loss": 1.0}, "status": "finished", "started": 1, "ended": 2, "tags": none}

    def found(*jobs: tuple[str, int, float]) -> list[tuple[str, list[str]]]:
        given = {
            Path(name): trial
            | {"job": name, "trial": name, "params": {"model.name": "lstm", "seed": seed, "optim.lr": rate}}
            for name, seed, rate in jobs
        }
        return [(cell.name, cell.jobs) for cell in cells_of(given)]

    assert found(("0", 0, 0.1), ("1", 0, 0.2)) == []
    # A suggestion of a search has its repeats; the seeds that confirm the winner are none of them.
    winner = [("0.c0", 8, 0.1), ("0.c1", 9, 0.1)]
    assert found(("0", 0, 0.1), ("1", 0, 0.2), *winner) == []
    assert found(("0", 0, 0.1), ("0.1", 1, 0.1), ("1", 0, 0.2), ("1.1", 1, 0.2), *winner) == [
        ("optim.lr=0.1: mean of 2", ["0", "0.1"]),
        ("optim.lr=0.2: mean of 2", ["1", "1.1"]),
    ]
    # Numbers that a table rounds to the same digits are two configurations all the same.
    assert len(found(("0", 0, 0.12345671), ("1", 1, 0.12345671), ("2", 0, 0.12345672))) == 2


def test_a_configurations_figures_are_over_seeds_each_the_mean_of_its_folds() -> None:
    template = {"status": "finished", "tags": {}, "started": 1, "ended": 2}
    params = {"model.name": "lstm", "data.folds": 2}
    given = {
        Path(f"{seed}{fold}"): template
        | {"job": f"{seed}{fold}", "trial": f"{seed}{fold}", "metrics": {"test/accuracy": accuracy}}
        | {"params": params | {"seed": seed, "data.fold": fold}}
        for (seed, fold), accuracy in {(0, 0): 0.5, (0, 1): 0.7, (1, 0): 0.6, (1, 1): 0.8}.items()
    }
    (cell,) = cells_of(given)
    assert cell.name == "lstm: mean of 2 x 2 folds" and cell.params == params
    assert (cell.metrics["n"], cell.metrics["folds"]) == (2, 2)
    assert cell.metrics["test/accuracy/mean"] == pytest.approx(0.65)
    assert cell.metrics["test/accuracy/deviation"] == pytest.approx(0.1 / 2**0.5)
    (alone,) = cells_of(dict(list(given.items())[:2]))
    assert alone.metrics == {"n": 1, "folds": 2, "test/accuracy/mean": pytest.approx(0.6)}


def test_a_long_table_is_cut_between_its_rows() -> None:
    rows = [f"| {number} | {'x' * 90} |" for number in range(200)]
    note = entities._note("\n".join(rows) + "\n")
    assert len(note) <= 8000 and note.endswith("more rows: comparison.md")
    kept = note.splitlines()[:-2]
    assert kept == rows[: len(kept)] and f"{200 - len(kept)} more rows" in note
