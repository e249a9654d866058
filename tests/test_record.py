"""The laws of the record on disk: job folders, sweep folders, provenance, the check of the store."""

import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import make_config
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rnnbench.config import ConfigError, Tracking, typed
from rnnbench.config.uris import check_store
from rnnbench.record import (
    JobFolder,
    SweepFolder,
    job_folders,
    provenance,
    read_metrics,
    read_result,
    read_sweep,
    status_now,
)
from rnnbench.record.provenance import _git

CHECKOUT = Path(__file__).parents[1]
DATASET = {"name": "digits", "checksum": "ab" * 32, "details": {"digits.csv.gz": "verified"}}
metrics = st.dictionaries(st.sampled_from(["train/loss", "val/loss", "a,b", 'c"d']), st.floats(), max_size=4)


def start(path: Path, seed: int = 0, trial: str = "0" * 16) -> JobFolder:
    config = make_config(seed=seed)
    return JobFolder.start(path, name=f"seed={seed}", config=config, trial=trial, dataset=DATASET, tags={})


def same(a: dict[str, float], b: dict[str, float]) -> bool:
    """Equal to the bit; nan is nan."""
    return a.keys() == b.keys() and all(repr(float(a[key])) == repr(float(b[key])) for key in a)


@settings(max_examples=40, deadline=None)
@given(st.lists(metrics, max_size=5), metrics)
def test_what_is_read_is_what_was_measured(epochs: list[dict[str, float]], final: dict[str, float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = start(Path(folder))
        for number, row in enumerate(epochs, 1):
            job.epoch(number, row)
        job.end("finished", final)
        rows = read_metrics(folder)
        assert [row.pop("epoch") for row in rows] == list(range(1, len(epochs) + 1))
        assert all(row.pop("timestamp_ms") > 1e12 for row in rows)
        assert all(same(row, epoch) for row, epoch in zip(rows, epochs, strict=True))
        result = read_result(folder)
        assert same(result["metrics"], final)
        assert (result["status"], result["epochs"]) == ("finished", len(epochs))


def test_a_record_is_valid_json_and_holds_its_config(tmp_path: Path) -> None:
    job = start(tmp_path / "0", seed=7)
    job.epoch(1, {"train/loss": math.nan})
    job.end("failed", {"best/loss": -math.inf}, error="no", traceback="Traceback")
    assert '"-inf"' in (tmp_path / "0" / "result.json").read_text()
    assert typed(OmegaConf.load(tmp_path / "0" / "config.yaml")) == typed(
        OmegaConf.to_container(OmegaConf.structured(make_config(seed=7)), resolve=True)
    )
    result = read_result(tmp_path / "0")
    assert result["params"]["model.hidden_size"] == 6 and result["params"]["seed"] == 7
    assert (result["error"], result["traceback"]) == ("no", "Traceback")
    assert result["started"] <= result["ended"]
    assert {path.name for path in (tmp_path / "0").iterdir()} == {"config.yaml", "metrics.csv", "result.json"}


def test_a_row_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    job = start(tmp_path)
    job.epoch(1, {"a": 1.0})
    job.epoch(2, {"a": 0.1})
    file = tmp_path / "metrics.csv"
    whole = file.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        file.write_bytes(whole[:cut])
        assert len(read_metrics(tmp_path)) == whole[:cut].count(b"\n") - 1


def test_a_restarted_job_keeps_its_identity_and_begins_its_record_anew(tmp_path: Path) -> None:
    job = start(tmp_path)
    job.epoch(1, {"a": 1.0})
    job.end("interrupted", {})
    again = start(tmp_path)
    assert read_metrics(tmp_path) == []
    assert again.result["job"] == job.result["job"]
    assert read_result(tmp_path)["status"] == "running"
    again.epoch(1, {"b": 2.0})
    assert [set(row) for row in read_metrics(tmp_path)] == [{"epoch", "timestamp_ms", "b"}]


def claim(folder: Path, uri: str | None = None):
    return SweepFolder.claim(folder, name="x", command=["x"], tracking=Tracking(uri), single=False)


def test_a_folder_in_use_by_a_living_process_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    script = f"""
import sys, time
from pathlib import Path
from rnnbench.config import Tracking
from rnnbench.record import SweepFolder
with SweepFolder.claim(Path({str(folder)!r}), name="x", command=sys.argv, tracking=Tracking(), single=False):
    print("held", flush=True)
    time.sleep(600)
"""
    other = subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        before = (folder / "sweep.json").read_bytes()
        start(folder / "0")
        assert status_now(read_result(folder / "0"), folder / "0") == "running"
        with pytest.raises(ConfigError, match=rf"hydra.sweep.dir={folder}.*{other.pid}"), claim(folder):
            pass
        assert (folder / "sweep.json").read_bytes() == before
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert status_now(read_result(folder / "0"), folder / "0") == "interrupted"
    sweep = read_sweep(folder)["sweep"]
    with claim(folder) as again:
        assert again.info["sweep"] == sweep
        with pytest.raises(ConfigError, match="in use"), claim(folder):
            pass
    with claim(folder):
        pass


def test_a_resumed_sweep_finds_its_trials(tmp_path: Path) -> None:
    with claim(tmp_path) as sweep:
        for number, trial in enumerate("abcabcabcab"):
            start(tmp_path / str(number), trial=trial)
        assert sweep.trials()["b"] == [tmp_path / number for number in ("1", "4", "7", "10")]
        assert [int(job.name) for job in job_folders(tmp_path)] == list(range(11))
        sweep.end("finished")
    assert read_sweep(tmp_path)["status"] == "finished"
    with claim(tmp_path) as sweep:
        assert sweep.info["status"] == "running" and sweep.info["ended"] is None


def test_the_store_is_noted_as_seen_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = {
        "sqlite:///mlflow.db": f"sqlite:///{tmp_path}/mlflow.db",
        f"sqlite:///{tmp_path}/a.db?timeout=3": f"sqlite:///{tmp_path}/a.db?timeout=3",
        "http://localhost:5000": "http://localhost:5000",
    }
    for uri, wanted in seen.items():
        with claim(tmp_path / "sweep", uri) as sweep:
            assert sweep.info["tracking"]["uri"] == wanted


def test_passwords_are_not_recorded(tmp_path: Path) -> None:
    word = "data.source=https://me:secret@host/data"
    with SweepFolder.claim(tmp_path, name="x", command=[word], tracking=Tracking(), single=True):
        assert "secret" not in (tmp_path / "sweep.json").read_text()


def test_provenance_says_where_numbers_come_from() -> None:
    tags = provenance("cpu")
    assert all(isinstance(value, str) and value for value in tags.values())
    assert tags["rnnbench.device"] == "cpu" and tags["rnnbench.version.torch"]
    assert provenance("cuda:0")["rnnbench.device"] == "cuda:0"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_told_and_whether_the_code_differs_from_it(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=clean).stdout.strip()

    assert _git(tmp_path) == {}
    git("init")
    assert _git(tmp_path) == {}
    (tmp_path / "rnnbench").mkdir()
    code, readme = tmp_path / "rnnbench" / "code.py", tmp_path / "README.md"
    for file in (code, readme):
        file.write_text("1\n")
    git("add", "."), git("commit", "-m", "first")
    clean = {"rnnbench.git_commit": git("rev-parse", "HEAD"), "rnnbench.git_dirty": "false"}
    assert _git(tmp_path) == clean
    readme.write_text("2\n")
    (tmp_path / "rnnbench" / "untracked.py").write_text("3\n")
    assert _git(tmp_path) == clean
    code.write_text("2\n")
    assert _git(tmp_path) == clean | {"rnnbench.git_dirty": "true"}


def test_a_store_that_can_be_written_to_is_accepted_and_nothing_is_made(tmp_path: Path) -> None:
    check_store(f"sqlite:///{tmp_path}/new.db")
    check_store("http://localhost:1")
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "used ünd %20.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE a (b)")
    connection.close()
    check_store(f"sqlite:///{file}")
    assert list(tmp_path.iterdir()) == [file]


def test_a_store_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at" * 50)
    for name, why in {"no/such.db": "no folder", "text.db": "not an SQLite database", "": "folder"}.items():
        with pytest.raises(ConfigError, match=f"tracking.uri=sqlite:.*{why}.*for example"):
            check_store(f"sqlite:///{tmp_path}/{name}")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_store_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    sqlite3.connect(file).close()
    file.chmod(0o444)
    with pytest.raises(ConfigError, match="read-only"):
        check_store(f"sqlite:///{file}")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(ConfigError, match="read-only"):
            check_store(f"sqlite:///{tmp_path}/b.db")
    finally:
        tmp_path.chmod(0o755)
