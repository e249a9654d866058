"""Laws of the reader: the same records wherever they are read; of a store only tables that were checked."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from mlflow_store import claim, make_sweep, train

from rnnbench.config import ConfigError
from rnnbench.mlflow_sync import sql
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.reading import ClientRuns, connect_reader
from rnnbench.mlflow_sync.sql import CHECKED, OtherSchemaError, SqlRuns
from rnnbench.reader import Folders, Record, open_source, records
from rnnbench.system.files import RecordsWarning


def schema_of(file: Path) -> str:
    with sqlite3.connect(file) as db:
        (version,) = db.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(version)


def set_schema(file: Path, version: str) -> None:
    with sqlite3.connect(file) as db:
        db.execute("UPDATE alembic_version SET version_num = ?", [version])


def written(record: Record) -> str:
    """Write all fields of a record; a nan, which equals nothing, is written as any other number."""
    fields = vars(record).items()
    return repr([(k, sorted(v.items()) if isinstance(v, dict) else v) for k, v in fields])


def test_the_schema_of_this_mlflow_was_checked(migrated: Path) -> None:
    """Fails with a new MLflow: look at its migrations, and add the schema if the tables are as they were."""
    assert schema_of(migrated) in CHECKED


def test_all_ways_read_the_same_records(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with claim(folder, store) as sweep:
        for number, status in enumerate(["finished", "failed", "pruned"]):
            train(folder, number, status=status)
        sweep.end("failed")
    Delivery(folder).deliver_all()
    ours, by_sql, by_client = (
        source.all() for source in (Folders(folder), SqlRuns(store), ClientRuns(store))
    )
    assert list(map(written, by_sql)) == list(map(written, by_client))
    assert [record.origin for record in ours] == [record.origin for record in by_sql]
    assert [record.status for record in ours] == ["finished", "failed", "pruned"]
    for one, other in zip(ours, by_sql, strict=True):
        assert one.params == other.params and one.folder == other.folder
        assert (one.name, one.started, one.ended) == (other.name, other.started, other.ended)
    assert [record.job for record in SqlRuns(store).find([ours[0].trial])] == [ours[0].job]


def test_a_schema_that_was_not_checked_is_read_through_mlflow(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Delivery(make_sweep(tmp_path / "sweep", store)).deliver_all()
    frame = records(store)
    monkeypatch.setattr(sql, "CHECKED", {})
    with pytest.raises(OtherSchemaError, match=schema_of(tmp_path / "mlflow.db")):
        SqlRuns(store)
    with pytest.warns(
        RecordsWarning, match=r"mlflow\.db: its tables are of a version of MLflow that rnnbench"
    ):
        source = open_source(store)
    assert isinstance(source, ClientRuns)
    with pytest.warns(RecordsWarning):
        through_client = records(store)
    import pandas

    pandas.testing.assert_frame_equal(frame, through_client[list(frame.columns)])


def test_a_store_of_another_mlflow_is_refused_with_what_mlflow_says(store: str, tmp_path: Path) -> None:
    set_schema(tmp_path / "mlflow.db", "0123456789ab")
    before = (tmp_path / "mlflow.db").read_bytes()
    with pytest.raises(ConfigError, match=r"source=sqlite:.*: cannot be read \(.*0123456789ab"):
        open_source(store)
    assert (tmp_path / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize("tables", [[], ["trials"], ["alembic_version", "studies", "runs"]])
def test_a_database_of_another_program_is_refused_and_stays_as_it_is(
    tmp_path: Path, tables: list[str]
) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as db:
        for table in tables:
            db.execute(f"CREATE TABLE {table} (x)")
    before = file.read_bytes()
    for read in (open_source, records):
        with pytest.raises(ConfigError, match=r"other\.db: cannot be read \(it is no store of MLflow"):
            read(f"sqlite:///{file}")
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_reading_leaves_no_trace(store: str, tmp_path: Path) -> None:
    Delivery(make_sweep(tmp_path / "sweep", store)).deliver_all()
    shutil.rmtree(tmp_path / "mlruns", ignore_errors=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(records(store)) == len(records(tmp_path)) == 3
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_search_without_a_command_is_no_entry_of_a_table(tmp_path: Path) -> None:
    """Where others could write to its storage, a search may have no command that is safe to paste."""
    for name, tags in (("a", {}), ("b", {"rnnbench.best_command": "x"})):
        with claim(tmp_path / name, f"sqlite:///{tmp_path}/mlflow.db") as sweep:
            tags = {"rnnbench.study": name, "rnnbench.best_trial": "0"} | tags
            sweep.note(study={"tags": tags, "metrics": {"study/complete": 1.0}})
            sweep.end("finished")
    assert list(Folders(tmp_path).searches()) == ["b"]


def test_a_relative_store_is_that_of_the_directory_that_the_process_is_in(tmp_path, monkeypatch):
    """MLflow keeps a store for each URI, which would be the first directory's for ever."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        MlflowClient(f"sqlite:///{tmp_path}/{name}/mlflow.db").create_experiment(name)
    for name in ("here", "there"):
        monkeypatch.chdir(tmp_path / name)
        found = connect_reader("sqlite:///mlflow.db").search_experiments()
        assert name in {experiment.name for experiment in found}
