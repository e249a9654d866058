"""What was begun before the redesign goes on with the code of today (before_redesign/README.md)."""

import base64
import csv
import io
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import rnnbench
from tests.forked import Forked
from tests.mlflow_store import assert_exact

KEPT = Path(__file__).parent / "before_redesign"
EXPECTED: dict[str, Any] = json.loads((KEPT / "expected.json").read_text())
GRID = [
    "model=gru,lstm", "optim=sgd", "optim.momentum=0", "optim.lr=0.05,1e38", "fit.epochs=3,40",
    "model.hidden_size=4", "data.train_size=256", "fit.batch_size=2", "fit.checkpoint_every=1",
    "hydra.launcher.max_stack=2", "hydra.sweep.dir=grid",
]  # fmt: skip
SEARCH = [
    "hydra/sweeper=optuna", "hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.seed=1",
    "hydra.sweeper.sampler.n_startup_trials=3", "hydra/sweeper/pruner=median",
    "hydra.sweeper.pruner.n_startup_trials=2", "hydra.sweeper.n_trials=8",
    "hydra.sweeper.pruner.n_warmup_steps=2", "hydra.sweeper.n_jobs=1", "hydra.sweeper.study_name=s",
    "model=choice(gru,lstm)", "optim.lr=tag(log,interval(1e-4,0.1))", "model.hidden_size=4",
    "data.train_size=256", "fit.batch_size=1", "fit.epochs=12", "fit.checkpoint_every=1",
]  # fmt: skip


def unpack(name: str, to: Path) -> Path:
    """Copy one of the kept folders, as if it had been made in the folder `to` lies in."""
    places = {"@HERE@": str(to.parent), "@CHECKOUT@": str(KEPT.parents[1]), "@HOST@": platform.node()}
    if name == "search":  # it lay in multirun/s
        places["@HERE@"] = str(to.parents[1])
    for file in (KEPT / name).rglob("*"):
        copy = to / file.relative_to(KEPT / name)
        if file.is_dir():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".base64":
            copy.with_suffix("").write_bytes(base64.decodebytes(file.read_bytes()))
            continue
        text = file.read_text()
        for placeholder, place in places.items():
            text = text.replace(placeholder, place)
        copy.write_text(text)
    return to


def run(folder: Path, module: str, *arguments: str, code: int = 0) -> str:
    """Run a command in a folder; return what it printed."""
    process = Forked(module, arguments, folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out + err


def results(sweep: Path) -> dict[str, dict[str, Any]]:
    """Return each job's result.json by the job's name."""
    return {file.parent.name: json.loads(file.read_text()) for file in sweep.glob("*/result.json")}


def statuses(sweep: Path) -> dict[str, str]:
    return {name: result["status"] for name, result in results(sweep).items()}


def contents(job: Path) -> dict[str, bytes]:
    """Return the files of a job but the note on its delivery to MLflow."""
    return {
        file.name: file.read_bytes()
        for file in job.iterdir()
        if file.is_file() and file.name != "mlflow.json"
    }


def assert_as_expected(sweep: Path, expected: dict[str, Any]) -> None:
    """Every job of a sweep has the numbers of a run that nothing stopped, to the bit on the same kernel."""
    for name, result in results(sweep).items():
        one = expected[result["trial"]]
        if result["status"] == "interrupted":  # its trial went on in another job
            continue
        assert (result["status"], result["epochs"]) == (one["status"], one["epochs"])
        got = {key: value for key, value in result["metrics"].items() if not key.startswith("time/")}
        assert got.keys() == one["metrics"].keys()
        if result["tags"].get("rnnbench.kernel") == EXPECTED["kernel"]:
            assert got == one["metrics"]
            head, *rows = (sweep / name / "metrics.csv").read_text().splitlines()
            if one["val/loss"]:
                column = head.split(",").index("val/loss")
                assert [row.split(",")[column] for row in rows] == one["val/loss"]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> tuple[Path, Path, str]:
    """The grid as it was kept, the same after its command was given again, and what that printed."""
    before = unpack("grid", tmp_path_factory.mktemp("kept") / "grid")
    folder = tmp_path_factory.mktemp("grid")
    sweep = unpack("grid", folder / "grid")
    shutil.copy(migrated, folder / "mlflow.db")
    out = run(folder, "rnnbench", "-m", *GRID, code=1)
    return before, sweep, out


def test_the_grid_that_was_stopped_ends_with_the_numbers_of_one_that_was_not(resumed):
    before, sweep, out = resumed
    assert statuses(before) == {"0": "finished", "1": "interrupted", "2": "failed", "3": "failed"}
    assert "1 of 8 trials are finished already" in out and "goes on from epoch 5" in out
    assert statuses(sweep) == {str(n): ("failed" if n in (2, 3, 6, 7) else "finished") for n in range(8)}
    assert {result["trial"] for result in results(sweep).values()} == EXPECTED["grid"].keys()
    assert_as_expected(sweep, EXPECTED["grid"])
    assert results(sweep)["1"]["tags"]["rnnbench.resumed"] == "5"


def test_nothing_that_is_finished_trains_again(resumed):
    before, sweep, _ = resumed
    assert contents(sweep / "0") == contents(before / "0")


def test_records_and_load_read_what_was_stopped(tmp_path):
    sweep = unpack("grid", tmp_path / "grid")
    frame = rnnbench.records(sweep)
    assert frame["status"].tolist() == [
        results(sweep)[Path(folder).name]["status"] for folder in frame["folder"]
    ]
    assert set(frame["trial"]) <= EXPECTED["grid"].keys()
    first = frame[frame["status"] == "finished"].iloc[0]
    expected = EXPECTED["grid"][first["trial"]]
    assert {name: first[name] for name in expected["metrics"]} == expected["metrics"]
    assert first["model.name"] == "gru" and first["optim.lr"] == 0.05

    trained = rnnbench.load(sweep / "0")
    assert sum(weights.numel() for weights in trained.to_torch().parameters()) == first["parameters/total"]


def test_the_record_command_delivers_it_to_a_fresh_store(tmp_path, migrated):
    sweep = unpack("grid", tmp_path / "grid")
    shutil.copy(migrated, tmp_path / "fresh.db")
    uri = f"sqlite:///{tmp_path}/fresh.db"
    run(tmp_path, "rnnbench.record", "sync", "grid", "--to", uri)
    assert_exact(uri, sweep)


def test_a_table_verifies_and_is_made_again(tmp_path):
    table = unpack("table", tmp_path) / "paper" / "runs"
    said = run(tmp_path, "rnnbench.paper", "verify", "paper/runs", "source=runs")
    assert "every number is what the records give" in said
    run(tmp_path, "rnnbench.paper", "runs")
    was, again = (
        list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
        for folder in (table, tmp_path / "multirun" / "paper" / "runs")
    )
    for line in (*was, *again):  # the bootstrap draws 50,000 today, then 2,000
        del line["p_improvement_low"], line["p_improvement_high"]
    assert again == was


def test_the_search_goes_on_with_its_study_and_its_numbers(tmp_path, migrated):
    before = unpack("search", tmp_path / "before" / "multirun" / "s")
    sweep = unpack("search", tmp_path / "multirun" / "s")
    assert statuses(before) == dict(
        zip("01234", ("finished", "finished", "pruned", "finished", "interrupted"), strict=True)
    )
    shutil.copy(migrated, tmp_path / "mlflow.db")
    out = run(tmp_path, "rnnbench", "-m", *SEARCH)
    assert "1 trial goes on from epoch 4" in out
    for name in "0123":
        assert contents(sweep / name) == contents(before / name)
    assert_as_expected(sweep, EXPECTED["search"])
    assert_exact(f"sqlite:///{tmp_path}/mlflow.db", sweep)

    trials = trials_of(sweep)
    counted = [trial for trial in trials if trial["state"] != "FAIL"]
    assert len(counted) == 8
    # Trial 5 is trial 4 again; what comes after it depends on the sampler and on what the kernel rounds.
    assert trials[:4] == EXPECTED["study"][:4]
    assert trials[5]["params"] == EXPECTED["study"][5]["params"]
    same_kernel = results(sweep)["5"]["tags"]["rnnbench.kernel"] == EXPECTED["kernel"]
    if optuna.__version__ == EXPECTED["optuna"] and same_kernel:
        assert trials == EXPECTED["study"]


def trials_of(sweep: Path) -> list[dict[str, Any]]:
    """Return the trials of a search's study, as expected.json has them."""
    storage = JournalStorage(JournalFileBackend(str(sweep / "journal.log")))
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "params": trial.params,
            "values": trial.values,
            "steps": {str(step): value for step, value in trial.intermediate_values.items()},
        }
        for trial in optuna.load_study(study_name="s", storage=storage).trials
    ]
