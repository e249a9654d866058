"""Kernels that are compiled at first use: built once whoever asks, kept whole, and never in the way."""

import os
import shutil
import signal
import subprocess
import time
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from rnnbench.kernels import user_cache
from tests.forked import CONTEXT

COMPILER = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


class Builder:
    """Builds a library whose `answer` is 42, and notes each time that it begins."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.folder, self.seconds = folder, seconds

    def __call__(self, library: Path) -> None:
        with open(self.folder / "begun", "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(self.seconds)
        source = self.folder / "answer.c"
        source.write_text("int answer(void) { return 42; }")
        assert COMPILER is not None
        subprocess.run([COMPILER, "-shared", "-fPIC", source, "-o", library], check=True)

    @property
    def begun(self) -> int:
        """How often it was begun."""
        return len((self.folder / "begun").read_text().splitlines())


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of libraries of a user who has none yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rnnbench" / "kernels"


def asking(count: int, build: Builder, home: Path) -> list[int]:
    """Ask from so many processes at once; their answers."""
    answers = CONTEXT.Queue()
    processes = [CONTEXT.Process(target=_ask_at, args=(home, build, answers)) for _ in range(count)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return found


def _ask_at(home: Path, build: Builder, answers: "Queue[int]") -> None:
    os.environ["XDG_CACHE_HOME"] = str(home)
    answers.put(user_cache.load("key", build).answer())


@needs_compiler
def test_eight_processes_that_ask_at_once_build_it_once(tmp_path, kept):
    build = Builder(tmp_path, seconds=0.5)
    assert asking(8, build, tmp_path / "cache") == [42] * 8
    assert build.begun == 1
    assert len(list(kept.glob("*.so"))) == 1
    assert user_cache.load("key", build).answer() == 42
    assert build.begun == 1


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "empty", "longer"])
def test_a_damaged_file_is_built_again(damage, tmp_path, kept):
    build = Builder(tmp_path)
    user_cache.load("key", build)
    (library,) = kept.glob("*.so")
    whole = library.read_bytes()
    library.unlink()  # a file that is loaded is never written to
    library.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "longer": whole + b"\0"}[damage])
    assert user_cache.load("key", build).answer() == 42
    assert build.begun == 2
    assert [file.read_bytes() == whole for file in kept.glob("*.so")] == [True]


@needs_compiler
def test_a_library_of_another_machine_is_built_again(tmp_path, kept):
    """Two machines share a home; the checksum is right, and it cannot be loaded."""
    build = Builder(tmp_path)
    kept.mkdir(parents=True)
    (kept / user_cache._name("key", b"of another machine")).write_bytes(b"of another machine")
    assert user_cache.load("key", build).answer() == 42
    assert len(list(kept.glob("*.so"))) == 1


@needs_compiler
@pytest.mark.parametrize("home", ["no folder", "nowhere", "read only", "full"])
def test_where_nothing_can_be_kept_it_serves_this_process(home, tmp_path, kept, monkeypatch, capfd):
    if home == "no folder":
        kept.parent.parent.write_text("a file stands where the folder should be")
    if home == "nowhere":
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    if home == "read only":
        if os.getuid() == 0:
            pytest.skip("root writes everywhere")
        kept.mkdir(parents=True)
        kept.chmod(0o500)
    if home == "full":
        monkeypatch.setattr(user_cache, "write", full)
    build = Builder(tmp_path)
    assert user_cache.load("key", build).answer() == 42
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be kept" in said
    assert user_cache.load("key", build).answer() == 42
    assert build.begun == 2


def full(path: Path, content: bytes) -> None:
    raise OSError(28, "No space left on device")


@needs_compiler
def test_a_builder_that_is_killed_is_in_nobodys_way(tmp_path, kept, monkeypatch):
    slow, quick, answers = Builder(tmp_path, seconds=60), Builder(tmp_path), CONTEXT.Queue()
    killed = CONTEXT.Process(target=_ask_at, args=(tmp_path / "cache", slow, answers))
    killed.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    monkeypatch.setattr(user_cache, "PATIENCE", 0.0)
    assert user_cache.load("key", quick).answer() == 42
    assert len(list(kept.glob("*.so"))) == 1


@needs_compiler
def test_what_nothing_has_loaded_for_long_is_removed(tmp_path, kept):
    build = Builder(tmp_path)
    user_cache.load("old", build)
    user_cache.load("young", build)
    for file in kept.glob("old*"):
        os.utime(file, (0, 0))
    user_cache.load("used", build)
    assert {file.name[:3] for file in kept.iterdir()} == {"you", "use"}
    for file in kept.glob("young*.so"):
        os.utime(file, (0, 0))
    user_cache.load("young", build)
    user_cache.load("new", build)
    assert any(kept.glob("young*.so"))
