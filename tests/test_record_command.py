"""python -m rnnbench.record: whose runs a folder's are, where records may be sent, what delete removes."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from rnnbench.config import ConfigError
from rnnbench.record import __main__ as command
from rnnbench.record import job_folders, read_sweep
from rnnbench.record.__main__ import delete, sync
from rnnbench.record.job_folder import read_delivery, write_json
from tests.mlflow_store import Server, claim, client, make_sweep, train


def active(uri: str, folder: Path) -> dict[str, str]:
    """Run ids of a sweep folder and its jobs, by the folder that they name."""
    store = client(uri)
    found: dict[str, str] = {}
    for experiment in store.search_experiments():
        for run in store.search_runs([experiment.experiment_id]):
            if "rnnbench.cell" in run.data.tags:  # of means over seeds, which are of no folder
                continue
            place = run.data.tags["rnnbench.folder"]
            if Path(place).is_relative_to(folder):
                assert place not in found, "two runs of one folder"
                found[place] = run.info.run_id
                parent = run.data.tags.get("mlflow.parentRunId")
                assert parent is None or store.get_run(parent).data.tags["rnnbench.folder"] == str(folder)
    return found


def interrupted(folder: Path, uri: str) -> Path:
    with claim(folder, uri) as sweep:
        train(folder, 0)
        train(folder, 1, status="interrupted")
        sweep.end("interrupted")
    return folder


def resume(folder: Path, uri: str) -> None:
    """Train what was interrupted, from the start."""
    with claim(folder, uri) as sweep:
        train(folder, 1)
        sweep.end("finished")


@pytest.mark.parametrize("delivered_before", [True, False])
def test_copies_of_a_sweep_each_have_their_own_runs(
    store: str, tmp_path: Path, delivered_before: bool
) -> None:
    original = interrupted(tmp_path / "a", store)
    if delivered_before:
        assert sync(original) == 0
    copies = [tmp_path / "b", tmp_path / "deep" / "c"]
    for copy in copies:
        shutil.copytree(original, copy)
    for folder in (original, *copies, original):  # each is trained on, and delivered, twice over
        resume(folder, store)
        assert sync(folder) == 0
        assert sync(folder) == 0
    everything = [active(store, folder) for folder in (original, *copies)]
    for folder, runs in zip((original, *copies), everything, strict=True):
        assert runs.keys() == {str(folder), str(folder / "0"), str(folder / "1")}
        assert read_delivery(folder / "1")["run_id"] == runs[str(folder / "1")]
    assert len({run for runs in everything for run in runs.values()}) == 9


def test_a_sweep_that_was_moved_keeps_its_runs(store: str, tmp_path: Path) -> None:
    original = interrupted(tmp_path / "a", store)
    assert sync(original) == 0
    before = active(store, original)
    moved = tmp_path / "there" / "b"
    moved.parent.mkdir()
    original.rename(moved)
    resume(moved, store)
    assert sync(moved) == 0
    after = active(store, moved)
    assert (
        after[str(moved)] == before[str(original)] and after[str(moved / "0")] == before[str(original / "0")]
    )
    assert len(after) == 3 and active(store, original) == {}


def test_a_run_of_another_machine_is_never_deleted(store: str, tmp_path: Path) -> None:
    folder = interrupted(tmp_path / "a", store)
    assert sync(folder) == 0
    run = read_delivery(folder / "1")["run_id"]
    client(store).set_tag(run, "rnnbench.host", "elsewhere")
    client(store).set_tag(run, "rnnbench.folder", "/not/here")
    resume(folder, store)
    assert sync(folder) == 0
    assert client(store).get_run(run).info.lifecycle_stage == "active"


def name_store(folder: Path, uri: str) -> None:
    """As a stranger would."""
    info = read_sweep(folder)
    info["tracking"]["uri"] = uri
    write_json(folder / "sweep.json", info)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has trained to no store yet; the file where that would be noted."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "state" / "rnnbench" / "destinations"


STRANGE = [
    "http://{host}",
    "postgresql://{host}/x",
    "databricks",
    "file:///{host}",
    "sqlite:////{outside}/x.db",
]


@pytest.mark.parametrize("uri", STRANGE)
def test_a_strangers_folder_decides_not_where_records_go(
    nowhere: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
) -> None:
    folder = make_sweep(tmp_path / "s", f"sqlite:///{tmp_path}/mlflow.db", jobs=1)
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.setattr(command, "Delivery", None)  # it is not even asked
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: False, raising=False)
    name_store(folder, uri.format(host="stranger.example:1", outside=str(outside)[1:]))
    for act in (lambda: sync(folder), lambda: sync(tmp_path), lambda: delete(folder, yes=True)):
        assert act() == 1
        said = capsys.readouterr().out
        assert said.count("\n") == 1 and "--to URI" in said and "nothing was sent" in said
    assert folder.exists() and list(outside.iterdir()) == []


def test_a_link_beside_the_folder_is_no_store_of_ones_own(
    nowhere: Path, tmp_path: Path, migrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(migrated, own / "mlflow.db")
    folder = make_sweep(tmp_path / "got" / "s", f"sqlite:///{tmp_path}/got/else.db", jobs=1)
    (tmp_path / "got" / "mlflow.db").symlink_to(own / "mlflow.db")
    name_store(folder, f"sqlite:///{tmp_path}/got/mlflow.db")
    assert sync(folder) == 1
    assert "--to URI" in capsys.readouterr().out


def test_a_store_that_the_user_names_gets_the_records(
    nowhere: Path, mlflow_server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On the command line, in the environment, at the terminal, or by having trained to it."""
    mlflow_server.start()
    uri = mlflow_server.uri
    folder = make_sweep(tmp_path / "s", f"sqlite:///{tmp_path}/mlflow.db", jobs=1)
    noted = nowhere.read_text()
    name_store(folder, uri)
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: False, raising=False)
    assert sync(folder) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}/")
    assert sync(folder) == 0 and len(active(uri, folder)) == 2
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(folder) == 1
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: True, raising=False)
    for answer, code in (("n", 1), ("", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert sync(folder) == code
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: False, raising=False)
    assert sync(folder) == 0  # remembered
    nowhere.write_text(noted)
    assert sync(folder) == 1
    assert sync(folder, to=uri) == 0
    nowhere.write_text(noted)
    with claim(tmp_path / "other", uri) as sweep:
        sweep.end("finished")
    assert sync(folder) == 0
    assert delete(folder, yes=True) == 0 and active(uri, folder) == {}


def test_records_go_to_another_store_from_now_on(
    store: str, tmp_path: Path, migrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_sweep(tmp_path / "s", store)
    assert sync(folder) == 0
    (tmp_path / "other").mkdir()
    shutil.copy(migrated, tmp_path / "other" / "mlflow.db")
    other = f"sqlite:///{tmp_path}/other/mlflow.db"
    assert sync(folder, to=other) == 0
    assert read_sweep(folder)["tracking"]["uri"] == other
    assert len(active(other, folder)) == len(active(store, folder)) == 4
    name_store(folder, None)  # type: ignore[arg-type]  # tracking.uri=null, and changed one's mind
    assert sync(folder) == 0 and "not meant for MLflow" in capsys.readouterr().out
    assert sync(folder, to=store) == 0
    for wrong in ("multirun", "ftp://x", f"sqlite:///{tmp_path}/no/x.db", "http://u:secret@h"):
        with pytest.raises(ConfigError, match="--to="):
            sync(folder, to=wrong)
    with claim(folder, store), pytest.raises(ConfigError, match="in use by process"):
        sync(folder, to=other)


def test_a_sweep_is_deleted_with_its_runs(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, other = make_sweep(tmp_path / "s", store), make_sweep(tmp_path / "t", store)
    shutil.copytree(folder, tmp_path / "copy")
    assert sync(folder) == sync(other) == sync(tmp_path / "copy") == 0
    shutil.rmtree(folder / "1")  # by hand: its run is an orphan
    assert delete(folder, yes=True) == 0
    assert "5 of their runs" in capsys.readouterr().out
    assert not folder.exists() and active(store, folder) == {}
    assert len(active(store, other)) == len(active(store, tmp_path / "copy")) == 4


def test_a_job_is_deleted_with_its_run(store: str, tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "s", store)
    assert sync(folder) == 0
    (folder / "1" / "mlflow.json").unlink()
    assert delete(folder / "1", yes=True) == 0
    assert not (folder / "1").exists()
    assert active(store, folder).keys() == {str(folder), str(folder / "0"), str(folder / "2")}
    assert sync(folder) == 0


def test_nothing_is_deleted_without_a_yes_or_where_not_all_can_be(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_sweep(tmp_path / "s", store)
    assert sync(folder) == 0
    capsys.readouterr()

    def refused(reason: str, place: Path = folder, yes: bool = True) -> None:
        assert delete(place, yes) == 1
        said = capsys.readouterr().out
        assert reason in said, said
        assert len(job_folders(folder)) == 3

    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: False, raising=False)
    refused("--yes", yes=False)
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: True, raising=False)
    for answer in ("n", "", "yess"):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        refused("nothing was removed", yes=False)
    refused("neither a sweep folder nor a job folder", tmp_path)
    refused("neither", tmp_path / "no")
    refused("neither", folder / "0" / "no")
    with claim(folder, store) as sweep:
        refused("in use")
        refused("in use", folder / "0")
        sweep.end("finished")
    with FileLock(folder / ".mlflow.lock"):
        refused("in use")
    name_store(folder, "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    refused("cannot be removed")
    assert len(active(store, folder)) == 4


def test_records_without_a_store_are_deleted_too(tmp_path: Path) -> None:
    for number, uri in enumerate((f"sqlite:///{tmp_path}/mlflow.db", None)):
        folder = make_sweep(tmp_path / str(number), uri)  # type: ignore[arg-type]
        assert delete(folder, yes=True) == 0 and not folder.exists()
    assert not (tmp_path / "mlflow.db").exists()
