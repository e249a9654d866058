"""Damaged files: each is named, and everything beside it works. What is written is whole."""

import ast
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import crossed, make_config
from hypothesis import given, settings
from hypothesis import strategies as st

import rnnbench
from rnnbench import tasks
from rnnbench.cluster.stack_file import SentStack, sent
from rnnbench.config import Tracking
from rnnbench.mlflow_sync.courier import undelivered
from rnnbench.reader import Folders
from rnnbench.record import (
    JobFolder,
    SweepFolder,
    job_folders,
    read_delivery,
    read_metrics,
    read_overrides,
    read_result,
    read_sweep,
    results,
)
from rnnbench.record.copying import inherit
from rnnbench.record.job_folder import read_confusion
from rnnbench.record.sweep_folder import find
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.placing import place, take_finished
from rnnbench.sweep.recorder import Recorder
from rnnbench.system import files
from rnnbench.system.files import DamagedFile, DamagedWarning, sound
from rnnbench.terminal import compare, judge, save_comparison
from rnnbench.train import snapshot as checkpoint
from rnnbench.train.snapshot import Unusable
from rnnbench.train.stack import Slot, Snapshot

PACKAGE = Path(rnnbench.__file__).parent
SEEDS = (0, 1, 2)
OF_A_JOB = ("result.json", "metrics.csv", "mlflow.json", "config.yaml", "confusion.csv", "weights.pt",
            ".hydra/overrides.yaml", "checkpoint.pt")  # fmt: skip
KINDS = (*OF_A_JOB, "sweep.json", "sweep's mlflow.json", "stack")
FINAL = {"best/val_accuracy": 0.5, "best/epoch": 2.0, "parameters/total": 9.0, "time/train_seconds": 1.0}


def trial(seed: int) -> str:
    return identity(make_config(seed=seed))


def claim(folder: Path):
    tracking = Tracking("sqlite:///mlflow.db")
    return SweepFolder.claim(folder, name="x", command=["x"], tracking=tracking, single=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three finished trials, with all the files that there may be."""
    sweep = tmp_path_factory.mktemp("made") / "s"
    with claim(sweep) as held:
        for seed in SEEDS:
            config = make_config(seed=seed)
            job = JobFolder.start(
                sweep / str(seed),
                name=f"seed={seed}",
                config=config,
                trial=trial(seed),
                dataset={"name": "digits", "checksum": tasks.load(config.data).checksum},
                tags={"rnnbench.study": "one"},
            )
            job.epoch(1, {"train/loss": 2.5})
            job.epoch(2, {"train/loss": 1.25, "val/accuracy": 0.5})
            job.end("finished", FINAL)
            files.write_csv(job.path / "confusion.csv", [[3, 1], [0, 4]])
            torch.save({"parameters": torch.zeros(9)}, job.path / "weights.pt")
            torch.save({"made_by": {}}, job.path / "checkpoint.pt")
            (job.path / ".hydra").mkdir()
            (job.path / ".hydra" / "overrides.yaml").write_text(f"- seed={seed}\n")
        tags = {"rnnbench.study": "one", "rnnbench.best_command": "x", "rnnbench.best_trial": "0"}
        held.note(study={"tags": tags, "metrics": {"study/complete": 3.0}})
        held.end("finished")
        attempt = held.info["started"]
    for folder in (sweep, *(sweep / str(seed) for seed in SEEDS)):
        state = {
            "uri": "sqlite:///mlflow.db",
            "experiment": "x",
            "run_id": "r",
            "record": "ab",
            "final": True,
        }
        files.write_json(folder / "mlflow.json", state | {"attempt": attempt, "epochs": 2})
    (sweep / "stacks").mkdir()
    for name in ("0-a", "1-b"):
        jobs = [{"name": "x", "folder": "0", "trial": "a", "tags": {}, "config": {}, "before": None}]
        content = {"format": 1, "sweep": "a", "cwd": "/", "max_stack": 1, "search": None, "jobs": jobs}
        files.write_json(sweep / "stacks" / f"{name}.json", content)
    return sweep


def read_everything(sweep: Path, damaged: str) -> None:
    """What every reader makes of a sweep whose job 1 has a damaged file: the others are all there."""
    beside = {"seed=0", "seed=2"}
    names = list(rnnbench.records(sweep)["name"])
    assert beside <= set(names) and len(names) <= 3
    source = Folders(sweep)
    neighbours = {trial(0), trial(2)}
    assert neighbours <= {record.trial for record in source.find(map(trial, SEEDS))}
    assert neighbours <= {record.trial for record in source.of_study("one")}
    assert set(source.searches()) <= {"one"}
    if damaged in OF_A_JOB:
        assert set(source.searches()) == {"one"}
    assert find(sweep.parent) == [sweep]
    assert {"0", "2"} <= {job.name for job in job_folders(sweep)}
    assert {"0-a"} <= {stack.name for stack in sent(sweep)}
    assert next(sound([sweep / "0"], read_overrides)) == ["seed=0"]
    list(sound([sweep / "1"], read_overrides))
    ended = list(results(sweep).values())
    save_comparison(compare(ended, judge("best/val_accuracy", ended)), sweep)
    with suppress(rnnbench.ConfigError):
        rnnbench.load(sweep / "1")
    with suppress(Unusable):
        checkpoint.load(sweep / "1", Snapshot(Slot(make_config(seed=1)), {}), {})
    if damaged != "sweep.json":
        assert {job.name for job in undelivered(sweep)} <= {"0", "1", "2"}


def resume(sweep: Path) -> None:
    """The same command again: finished trials keep their folders, a damaged one is trained there again."""
    jobs = [Job(f"seed={seed}", make_config(seed=seed), sweep, trial(seed)) for seed in SEEDS]
    recorder = Recorder()
    with claim(sweep) as record:
        place(jobs, sweep, results(sweep), first=0)
        assert jobs[0].folder == sweep / "0" and jobs[2].folder == sweep / "2"
        todo = take_finished(jobs)
        assert not {jobs[0], jobs[2]} & set(todo)
        for job in todo:
            recorder.start(job)
            recorder.records[job].end("finished", FINAL)
        record.end("finished")
    assert read_sweep(sweep)["status"] == "finished"
    assert len(job_folders(sweep)) >= 3


def file_of(sweep: Path, kind: str) -> Path:
    known = {
        "sweep.json": sweep / "sweep.json",
        "sweep's mlflow.json": sweep / "mlflow.json",
        "stack": sweep / "stacks" / "1-b.json",
    }
    return known.get(kind, sweep / "1" / kind)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def damage(data: st.DataObject, whole: bytes) -> bytes:
    how = data.draw(st.sampled_from(["cut", "flip", "replace", "value", "binary"]))
    if how == "cut":
        return whole[: data.draw(st.integers(0, max(len(whole) - 1, 0)))]
    if how == "flip":
        changed = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        return bytes(changed)
    if how == "binary":
        return data.draw(st.binary(max_size=60))
    if how == "value" and whole[:1] == b"{":  # one value of another type, at any depth
        tree = json.loads(whole)
        at = tree
        while True:
            key = data.draw(st.sampled_from(sorted(at)))
            if not isinstance(at[key], dict) or not at[key] or data.draw(st.booleans()):
                break
            at = at[key]
        if data.draw(st.booleans()):
            del at[key]
        else:
            at[key] = data.draw(json_values)
        return json.dumps(tree).encode()
    return json.dumps(data.draw(json_values)).encode()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_whatever_a_file_holds_all_beside_it_works(
    kind: str, made: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sweep = tmp_path_factory.mktemp("damaged") / "s"
    shutil.copytree(made, sweep)
    file = file_of(sweep, kind)
    file.write_bytes(damage(data, file.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedWarning)
        read_everything(sweep, kind)
        resume(sweep)
    shutil.rmtree(sweep.parent)


def as_folder(file: Path) -> None:
    file.unlink()
    (file / "inner").mkdir(parents=True)


def as_dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def as_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def foreign(file: Path) -> None:
    file.write_text('{"epoch": 1, "loss": [1, 2]}')


def deep(file: Path) -> None:
    file.write_text("[" * 200_000)


def far(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"started": 1', b'"started": 1' + b"9" * 6))


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def as_device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("kind", "how"),
    crossed(list(KINDS), [as_folder, as_dangling, as_loop, as_pipe, as_device, empty, foreign, deep, far]),
)
def test_whatever_stands_in_a_files_place_all_beside_it_works(
    kind: str, how: Callable[[Path], None], made: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "s"
    shutil.copytree(made, sweep)
    how(file_of(sweep, kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedWarning)
        read_everything(sweep, kind)
        resume(sweep)
        read_everything(sweep, "")


@pytest.mark.parametrize("how", [as_dangling, as_loop, empty, as_pipe, as_device])
def test_what_stands_in_the_place_of_a_job_folder_stays_and_the_trial_gets_another(
    how: Callable[[Path], None], made: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "s"
    shutil.copytree(made, sweep)
    shutil.rmtree(sweep / "1")
    (sweep / "1").touch()
    how(sweep / "1")
    resume(sweep)
    assert os.path.lexists(sweep / "1") and not (sweep / "1").is_dir()
    assert len(rnnbench.records(sweep)) == 3


@pytest.mark.parametrize("how", [as_folder, as_dangling, as_loop])
def test_a_folder_that_cannot_be_locked_is_refused_and_can_be_read(
    how: Callable[[Path], None], made: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "s"
    shutil.copytree(made, sweep)
    result = json.loads((sweep / "1" / "result.json").read_text())
    files.write_json(sweep / "1" / "result.json", result | {"status": "running"})
    how(sweep / ".lock")
    assert list(rnnbench.records(sweep)["status"]) == ["finished", "running", "finished"]
    with (
        pytest.raises(rnnbench.ConfigError, match=f"hydra.sweep.dir={sweep}: cannot be locked"),
        claim(sweep),
    ):
        pass


def test_a_damaged_record_is_named_once_and_set_aside_where_it_is_trained_again(
    made: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "s"
    shutil.copytree(made, sweep)
    file = sweep / "1" / "result.json"
    file.write_text("")
    with pytest.warns(DamagedWarning, match=f"{file}.*skipped") as said:
        assert len(rnnbench.records(sweep)) == 2
    assert len(said) == 1
    with pytest.warns(DamagedWarning, match=r"result\.unusable now, and the trial is trained again"):
        resume(sweep)
    assert (sweep / "1" / "result.unusable").read_text() == ""
    assert len(rnnbench.records(sweep)) == 3
    # The record is the one that MLflow has a run of: its run is replaced, not doubled.
    assert read_result(sweep / "1")["job"] == "ab"


def test_a_command_of_ours_tells_a_damaged_file_once_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings():
        files.show_warnings()
    damaged = DamagedWarning("x\n.json: is damaged; skipped")
    shown = [warnings.formatwarning(damaged, DamagedWarning, "files.py", 1) for _ in range(2)]
    assert shown == ["warning: x\\n.json: is damaged; skipped\n", ""]
    assert "f.py:1: UserWarning: x" in warnings.formatwarning(UserWarning("x"), UserWarning, "f.py", 1)


def test_a_damaged_sweep_json_is_set_aside_and_the_sweep_stays_what_it_is_in_mlflow(
    made: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "s"
    shutil.copytree(made, sweep)
    before = read_sweep(sweep)
    (sweep / "sweep.json").write_text("[]")
    with pytest.warns(DamagedWarning, match=r"sweep\.unusable now, and a new one is made"), claim(sweep):
        pass
    assert read_sweep(sweep)["sweep"] == "ab" and read_sweep(sweep)["started"] == before["started"]
    assert len(job_folders(sweep)) == 3


@given(
    part=st.sampled_from(["params", "metrics", "tags"]),
    name=st.sampled_from(["status", "trial", "name", "folder", "run_id", "error", "started", "ended"]),
    text=st.text(max_size=3),
)
def test_nothing_that_a_record_holds_takes_the_place_of_a_column(
    part: str, name: str, text: str, made: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder).resolve() / "s"
        shutil.copytree(made, sweep)
        wanted = rnnbench.records(sweep)
        result = json.loads((sweep / "1" / "result.json").read_text())
        result[part][name] = 0.5 if part == "metrics" else text
        (sweep / "1" / "result.json").write_text(json.dumps(result))
        assert rnnbench.records(sweep).equals(wanted)


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_records_holds_trials_without_a_whole_epoch(status: str, tmp_path: Path) -> None:
    config = make_config()
    dataset = {"name": "digits", "checksum": "ab"}
    started = {"name": "x", "config": config, "trial": "0" * 16, "dataset": dataset, "tags": {}}
    JobFolder.start(tmp_path / "s" / "0", **started).end("finished", FINAL)
    job = JobFolder.start(tmp_path / "s" / "1", **started)
    if status != "running":
        job.end(status, {})
    assert sorted(rnnbench.records(tmp_path)["status"]) == sorted(
        ["finished", "interrupted" if status == "running" else status]
    )


def test_each_file_has_one_reader_that_refuses_with_its_name(made: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    shutil.copytree(made, sweep)
    for kind, read in {
        "result.json": lambda: read_result(sweep / "1"),
        "metrics.csv": lambda: read_metrics(sweep / "1"),
        "confusion.csv": lambda: read_confusion(sweep / "1"),
        "sweep.json": lambda: read_sweep(sweep),
        "stack": lambda: SentStack(sweep / "stacks" / "1-b.json"),
    }.items():
        read()
        file_of(sweep, kind).write_text("{")
        with pytest.raises(DamagedFile, match=str(file_of(sweep, kind))):
            read()
    (sweep / "1" / "mlflow.json").write_text("{")
    with pytest.warns(DamagedWarning):
        assert read_delivery(sweep / "1") == {}


def test_nobody_goes_on_from_damaged_rows(made: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    shutil.copytree(made, sweep)
    (sweep / "1" / "metrics.csv").write_bytes(b"\0\0")
    (sweep / "1" / "checkpoint.pt").write_bytes(b"x")
    with pytest.warns(DamagedWarning, match="starts over"):
        inherit(sweep / "1", sweep / "9", "checkpoint.pt")
    assert not (sweep / "9").exists()


# What is written


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(number: int) -> None:
        done.append("sync " + Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    def renamed(old: Path, new: Path) -> None:
        done.append(f"rename {Path(new).name}")
        replace(old, new)

    with patch.object(os, "fsync", synced), patch.object(os, "replace", renamed):
        files.write(tmp_path / "a.json", "text")
    assert done == [f"sync a.json.{os.getpid()}.part", "rename a.json", f"sync {tmp_path.name}"]


def test_two_processes_may_write_one_file_at_once(tmp_path: Path) -> None:
    """Each renames its own part: one that shared its name would find that the other had moved it."""
    script = "import sys; from pathlib import Path; from rnnbench.system.files import write\n"
    script += "for n in range(100): write(Path(sys.argv[1]), 'x' * 9999)"
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    writers = [subprocess.Popen(command, cwd=Path(__file__).parents[1]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").stat().st_size == 9999


def test_a_full_disk_at_the_sync_is_the_error_that_it_is_and_the_old_file_stays(tmp_path: Path) -> None:
    files.write(tmp_path / "a", "old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with patch.object(os, "fsync", side_effect=full), pytest.raises(OSError) as caught:
        files.write(tmp_path / "a", "new")
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "a").read_text() == "old"


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.integers(0xDC80, 0xDCFF).map(chr)))
def test_text_with_names_that_are_not_utf8_is_read_as_it_was_written(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files.write_json(Path(folder) / "a.json", {"text": text})
        assert files.read_json(Path(folder) / "a.json") == {"text": text}
        files.write(Path(folder) / "b", "caf\udce9")
        assert (Path(folder) / "b").read_bytes() == b"caf\xe9"
        assert files.read(Path(folder) / "b") == "caf\udce9"


def test_a_folder_whose_name_is_not_utf8_is_like_any_other(made: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "caf\udce9" / "s"
    try:
        shutil.copytree(made, sweep)
    except OSError:
        pytest.skip("this disk has no such names")
    read_everything(sweep, "result.json")
    resume(sweep)
    assert all(Path(folder).is_dir() for folder in rnnbench.records(sweep)["folder"])


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_text_files_have_an_encoding(file: Path) -> None:
    """Else they are in that of the terminal, and a name with an accent ends a sweep."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in ("open", "read_text", "write_text", "NamedTemporaryFile", "fdopen"):
            continue
        words = {word.arg for word in node.keywords}
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        modes += [
            k.value.value for k in node.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)
        ]
        owner = ast.unparse(node.func)
        openers = ("os.open", "tarfile.open", "gzip.open", "packed.open", "webbrowser.open", "kind.open")
        other = owner in openers
        binary = any("b" in mode for mode in modes if len(mode) <= 3)
        assert "encoding" in words or binary or other or "OPENER" in owner, ast.unparse(node)
