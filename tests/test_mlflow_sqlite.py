"""MLflow's SQLite file: whole or not there at all, whatever dies while it is made; and the file that is
written is the file that is named."""

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import sampled
from hypothesis import given
from hypothesis import strategies as st

from rnnbench.config import Artifact, ConfigError
from rnnbench.config.uris import absolute, check_store, driven, sqlite_file, sqlite_uri, ui_command
from rnnbench.mlflow_sync import sqlite as made
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.store import StoreError
from rnnbench.reader import open_source, records
from rnnbench.record.__main__ import main, sync
from tests.mlflow_store import ENVIRONMENT, assert_exact, claim, make_sweep, train

HERE = Path(__file__).parent
# Each delivery is a fork of one process, which has imported mlflow: it is broken off at a moment of the
# first, the next one comes through.
ATTACKS = """
import os, random, resource, shutil, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from rnnbench.record.__main__ import sync
from tests.mlflow_store import assert_exact
import mlflow.tracking

folder, attack, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
dice = random.Random(attack)

def fork(work):
    if pid := os.fork():
        return pid
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = work()
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        code = 99
    os._exit(code)

def clean():
    code = sync(folder / "sweep")
    assert_exact(f"sqlite:///{folder}/mlflow.db", folder / "sweep")
    return code

def reset():
    for file in [*folder.glob("mlflow.db*"), *folder.rglob("mlflow.json")]:
        file.unlink()

began = time.monotonic()
assert os.waitpid(fork(clean), 0)[1] == 0
seconds, size = time.monotonic() - began, (folder / "mlflow.db").stat().st_size
for number in range(rounds):
    reset()
    def first():
        if attack == "full disk":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, [dice.randrange(1, size)] * 2)
        return sync(folder / "sweep")
    pid = fork(first)
    if attack != "full disk":
        time.sleep(dice.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL if attack == "kill" else signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (-9, 0, 1, 130)
    assert os.waitpid(fork(clean), 0)[1] == 0, number
    left = {file.name for file in folder.glob("mlflow.db*")} - {"mlflow.db.lock"}
    assert left == {"mlflow.db"}, left
"""


@pytest.mark.parametrize(
    ("attack", "rounds"),
    [
        ("kill", 1),
        pytest.param("full disk", 1, marks=pytest.mark.slow),
        pytest.param("ctrl-c", 1, marks=pytest.mark.slow),  # gentler than "kill"
        *(pytest.param(attack, 20, marks=pytest.mark.slow) for attack in ("kill", "ctrl-c", "full disk")),
    ],
)
def test_a_first_delivery_that_is_broken_off_is_made_good(tmp_path: Path, attack: str, rounds: int) -> None:
    make_sweep(tmp_path / "sweep", f"sqlite:///{tmp_path}/mlflow.db", jobs=2)
    command = [sys.executable, "-c", ATTACKS, str(tmp_path), attack, str(rounds), str(HERE)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def change(file: Path, *statements: str) -> None:
    with sqlite3.connect(file) as tables:
        for statement in statements:
            tables.execute(statement)
    tables.close()


BROKEN_OFF = {
    "no version": ["DELETE FROM alembic_version"],
    "no table of versions": ["DROP TABLE alembic_version"],
    "half-way": ["UPDATE alembic_version SET version_num = '451aebb31d03'", "DROP TABLE inputs"],
    "a table that is gone": ["DROP TABLE metrics"],
    "a table that is being changed": ["DELETE FROM alembic_version", "CREATE TABLE _alembic_tmp_runs (x)"],
}


@pytest.mark.parametrize("broken_off", sampled(BROKEN_OFF, ["no version", "a table that is gone"]))
def test_a_half_made_store_without_runs_is_set_aside(
    store: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    broken_off: str,
) -> None:
    monkeypatch.setattr(made, "STEP", 0.0)
    change(tmp_path / "mlflow.db", *BROKEN_OFF[broken_off])
    broken = (tmp_path / "mlflow.db").read_bytes()
    (tmp_path / "mlflow.db.unusable-1").touch()
    folder = make_sweep(tmp_path / "sweep", store)
    assert sync(folder) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "mlflow.db.unusable-2" in said[0] and "3 runs delivered" in said[1]
    assert (tmp_path / "mlflow.db.unusable-2").read_bytes() == broken
    assert_exact(store, folder)


def test_a_store_that_another_process_is_making_is_waited_for(
    store: str, tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `mlflow ui` may, which takes no lock of ours."""
    change(tmp_path / "mlflow.db", *BROKEN_OFF["half-way"])
    monkeypatch.setattr(made.time, "sleep", lambda seconds: shutil.copy(migrated, tmp_path / "mlflow.db"))
    folder = make_sweep(tmp_path / "sweep", store, jobs=1)
    Delivery(folder).deliver_all()
    assert_exact(store, folder)
    assert not list(tmp_path.glob("*.unusable*"))


@pytest.mark.parametrize("statements", BROKEN_OFF.values(), ids=BROKEN_OFF)
def test_a_store_with_runs_that_is_not_this_mlflows_is_left_alone(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], statements: list[str]
) -> None:
    change(tmp_path / "mlflow.db", "INSERT INTO runs (run_uuid, experiment_id) VALUES ('r', 0)", *statements)
    before = (tmp_path / "mlflow.db").read_bytes()
    assert sync(make_sweep(tmp_path / "sweep", store)) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "refuses the records" in said and "mlflow db upgrade" in said
    assert (tmp_path / "mlflow.db").read_bytes() == before and not list(tmp_path.glob("*.unusable*"))


@pytest.mark.parametrize(
    "statements, reason",
    [
        (["UPDATE alembic_version SET version_num = 'ffffffffffff'"], "newer than the one installed"),
        (["DROP TABLE experiments"], "another program"),
    ],
)
def test_the_store_of_a_newer_mlflow_or_of_another_program_is_left_alone(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], statements: list[str], reason: str
) -> None:
    change(tmp_path / "mlflow.db", "DELETE FROM alembic_version", *statements)
    if "newer" in reason:
        change(tmp_path / "mlflow.db", "INSERT INTO alembic_version VALUES ('ffffffffffff')")
    before = (tmp_path / "mlflow.db").read_bytes()
    assert sync(make_sweep(tmp_path / "sweep", store)) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and reason in said
    assert (tmp_path / "mlflow.db").read_bytes() == before and not list(tmp_path.glob("*.unusable*"))


@pytest.mark.parametrize("damage", ["cut off", "overwritten", "a page"])
def test_a_damaged_store_is_named_and_left_alone(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    file = tmp_path / "mlflow.db"
    whole = file.read_bytes()
    with closing(sqlite3.connect(file)) as tables:
        (page,) = tables.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'alembic_version'"
        ).fetchone()
        (size,) = tables.execute("PRAGMA page_size").fetchone()
    damaged = {
        "cut off": whole[:50_000],
        "overwritten": whole[:size] + b"x" * (len(whole) - size),
        "a page": whole[: size * (page - 1)] + b"x" * size + whole[size * page :],
    }
    file.write_bytes(damaged[damage])
    before = file.read_bytes()
    folder = make_sweep(tmp_path / "sweep", store, jobs=1)
    assert sync(folder) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and file.read_bytes() == before
    assert f"{file} is damaged" in said or f"{file} is not an SQLite database" in said
    file.rename(tmp_path / "away")  # as it says
    assert sync(folder) == 0
    assert_exact(store, folder)


def test_a_store_that_is_locked_is_tried_again(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "WAIT", 0.01)
    folder = make_sweep(tmp_path / "sweep", store, jobs=1)
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked"):
        Delivery(folder).deliver([])
    holder.close()
    assert sync(folder) == 0
    assert_exact(store, folder)


def test_an_empty_file_becomes_a_store_and_a_dead_makers_files_go(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    left = [tmp_path / f"mlflow.db.part-0123{end}" for end in ("", "-journal")]
    for file in left:
        file.write_text("x")
    folder = make_sweep(tmp_path / "sweep", f"sqlite:///{tmp_path}/mlflow.db", jobs=1)
    assert sync(folder) == 0
    assert_exact(f"sqlite:///{tmp_path}/mlflow.db", folder)
    assert not any(file.exists() for file in left)


NAMES = ["a%20b", "what?", "a?b=c", "#1", "a b", "é漢字", "[new]", "100%", "a&b=c", "%3F", "$HOME", "it's",
         '"', "a;b", "a+b", "%FF", "file:x", "~", "\\n", "a\nb", "*"]  # fmt: skip


@given(
    st.one_of(
        st.sampled_from(NAMES), st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1)
    )
)
def test_the_file_that_a_uri_names_is_the_file_that_is_opened(name: str) -> None:
    from sqlalchemy import make_url

    file = Path("/somewhere") / name / "x.db"
    uri = sqlite_uri(file)
    assert sqlite_file(uri) == file
    for form in (uri, absolute(uri), driven(uri), shlex.split(ui_command(uri))[-1]):
        assert sqlite_file(form) == file and make_url(form).database == str(file)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with every odd name in its path."""
    folder = tmp_path.joinpath(*NAMES)
    folder.mkdir(parents=True)
    return folder


def test_a_store_in_a_folder_of_any_name(
    odd: Path, tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(odd)
    everything = set(tmp_path.rglob("*"))
    folder = odd / "sweep"
    with claim(folder, "sqlite:///mlflow.db", Artifact.curves) as sweep:
        train(folder, 0)
        sweep.end("finished")
    check_store("sqlite:///mlflow.db")
    assert sync(folder) == 0
    assert_exact(driven(sqlite_uri(odd / "mlflow.db")), folder)
    uri = sqlite_uri(odd / "mlflow.db")
    assert len(records(uri)) == len(records(folder)) == 1
    assert len(open_source(uri).find([f"{0:016x}"])) == 1
    assert all(path.is_relative_to(odd) for path in set(tmp_path.rglob("*")) - everything)
    assert len(list((odd / "mlruns").rglob("curves.png"))) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_the_storage_of_a_study_is_the_file_named(tmp_path: Path, name: str, kind: str) -> None:
    from rnnbench.search.storage import check_storage, file_of, open_storage

    file = tmp_path / name / "s.db"
    file.parent.mkdir()
    url = sqlite_uri(file) if kind == "sqlite" else f"journal:///{file}"
    check_storage(url)
    assert file_of(url) == file
    if kind == "journal" or name in ("a%20b", "what?"):  # Optuna's migration takes a second
        open_storage(url)
        assert file.exists() and {path.name for path in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize(
    "rest, reason",
    [
        ("/tmp/what?/mlflow.db", "%3F"),
        ("/tmp/what?x=1", "%3F"),
        ("file:/tmp/x.db?uri=true", "uri is none"),
        (":memory:", "no file on disk"),
        ("a%00b.db", "no file on disk"),
        (os.fsdecode(b"/tmp/\xff.db"), "not UTF-8"),
    ],
)
def test_what_a_uri_cannot_say_is_refused(rest: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_store(f"sqlite:///{rest}")


def test_a_folder_whose_name_is_not_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)
    monkeypatch.chdir(os.fsdecode(folder))
    with pytest.raises(ConfigError, match="not UTF-8"):
        check_store("sqlite:///mlflow.db")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of sixteen megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("only root may mount")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [0, 40, 1000])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_full_disk_is_told_and_all_arrives_when_there_is_room(
    small_disk: Path,
    migrated: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kilobytes: int,
    fresh: bool,
) -> None:
    folder = make_sweep(small_disk / "sweep", f"sqlite:///{small_disk}/mlflow.db", jobs=6, epochs=400)
    if not fresh:
        shutil.copy(migrated, small_disk / "mlflow.db")
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(bytes(max(0, free - 1024 * kilobytes)))
    monkeypatch.setattr(sys, "argv", ["record", "sync", str(folder)])
    assert main() == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("error: "), said
    assert "full" in said or "No space" in said, said
    (small_disk / "filler").unlink()
    assert main() == 0
    assert_exact(f"sqlite:///{small_disk}/mlflow.db", folder)
