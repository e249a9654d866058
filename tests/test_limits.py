"""What a machine leaves to a process: limits on memory and cores, wherever they stand, and odd machines."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnbench.__main__ import check_here
from rnnbench.config import ConfigError
from rnnbench.kernels.compiled import cores, threads_asked
from rnnbench.mlflow_sync.store import PATIENCE, seconds
from rnnbench.record import provenance as tags_of
from rnnbench.sweep.preflight import check_folder
from rnnbench.system import limits
from rnnbench.train import resources

provenance = sys.modules["rnnbench.record.provenance"]
GIB = 2**30


def tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / name.lstrip("/")).write_text(text)


def v2(group: str, limit: object, used: int = 0, cached: int = 0) -> dict[str, str]:
    at = f"/sys/fs/cgroup{group}"
    return {
        f"{at}/memory.max": f"{limit}\n",
        f"{at}/memory.current": f"{used}\n",
        f"{at}/memory.stat": f"anon 3\ninactive_file {cached}\n",
    }


def v1(group: str, limit: object, used: int = 0, cached: int = 0) -> dict[str, str]:
    at = f"/sys/fs/cgroup/memory{group}"
    return {
        f"{at}/memory.limit_in_bytes": f"{limit}\n",
        f"{at}/memory.usage_in_bytes": f"{used}\n",
        f"{at}/memory.stat": f"inactive_file 7\ntotal_inactive_file {cached}\n",
    }


HYBRID = """22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw
"""
BOUND = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,relatime master:9 - cgroup cgroup rw,memory\n"
NAMED = r"41 31 0:38 / /mnt/c\040g rw - cgroup2 cgroup2 rw" + "\n"
CASES = {
    "v2, own group": ("0::/a/b\n", "", v2("/a/b", 2 * GIB), 2 * GIB),
    "v2, root of a namespace": ("0::/\n", "", v2("", 2 * GIB), 2 * GIB),
    "v2, Slurm limits the job": (
        "0::/job_1/step_0/task_0\n",
        "",
        v2("/job_1", GIB) | v2("/job_1/step_0/task_0", "max"),
        GIB,
    ),
    "v2, systemd limits the user": (
        "0::/user.slice/u.scope\n",
        "",
        v2("/user.slice", GIB) | v2("/user.slice/u.scope", 3 * GIB),
        GIB,
    ),
    "v1, bound into a container": ("4:memory:/docker/abc\n0::/\n", BOUND, v1("", GIB), GIB),
    "v1, a container, no mountinfo": ("4:memory:/docker/abc\n0::/\n", "", v1("", GIB), GIB),
    "v1, no line of v2": ("4:cpu,memory:/slurm/job_1\n", "", v1("/slurm/job_1", GIB), GIB),
    "v1, the parent": (
        "4:memory:/slurm/job_1\n",
        HYBRID,
        v1("/slurm", GIB) | v1("/slurm/job_1", 2 * GIB),
        GIB,
    ),
    "hybrid": ("4:memory:/j\n0::/\n", HYBRID, v1("/j", GIB), GIB),
    "a namespace that shows where it is not": ("0::/../../x\n", "", v2("", GIB), GIB),
    "a mount with a space": ("0::/x\n", NAMED, {"/mnt/c g/x/memory.max": f"{GIB}\n"}, GIB),
    "used, but for what makes room": ("0::/\n", "", v2("", GIB, used=300, cached=100), GIB - 200),
    "v1, used, but for what makes room": ("4:memory:/\n", "", v1("", GIB, used=300, cached=100), GIB - 200),
    "more used than is allowed": ("0::/\n", "", v2("", 5, used=300), 0),
    "no resources.stat": (
        "0::/\n",
        "",
        {"/sys/fs/cgroup/memory.max": "7\n", "/sys/fs/cgroup/memory.current": "0\n"},
        7,
    ),
    "no resources.current": ("0::/\n", "", {"/sys/fs/cgroup/memory.max": "7\n"}, 7),
    "no limit": ("0::/\n", "", v2("", "max"), None),
    "nothing": (None, "", {}, None),
    "nonsense": ("x\n::\n0:\n", "a b - c\n- cgroup2\n", {}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_tightest_limit_holds_wherever_it_stands(case: str, tmp_path: Path) -> None:
    own, mounts, files, left = CASES[case]
    tree(tmp_path, files | ({"/proc/self/cgroup": own} if own else {}))
    if mounts:
        tree(tmp_path, {"/proc/self/mountinfo": mounts})
    assert min(limits.memory(tmp_path), default=None) == left


@given(
    st.lists(st.none() | st.integers(1, 2**40), min_size=1, max_size=5),
    st.lists(st.none() | st.integers(1, 2**40), min_size=1, max_size=5),
)
def test_the_limit_is_the_least_on_the_way_to_the_root(new: list[int | None], old: list[int | None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = ["".join(f"/g{n}" for n in range(depth)) for depth in range(5)]
        of_new = [v2(path, "max" if n is None else n) for path, n in zip(paths, new, strict=False)]
        of_old = [v1(path, n) for path, n in zip(paths, old, strict=False) if n is not None]
        for files in (*of_new, *of_old, v2("/aside", 1), v1("/aside", 1)):
            tree(root, files)
        own = f"3:memory:{paths[len(old) - 1]}\n0::{paths[len(new) - 1]}\n"
        tree(root, {"/proc/self/cgroup": own})
        given_limits = [n for n in (*new, *old) if n is not None]
        assert min(limits.memory(root), default=None) == min(given_limits, default=None)


def test_quotas_limit_the_cores(tmp_path: Path) -> None:
    there = limits.cores(tmp_path / "nothing")
    assert there == len(os.sched_getaffinity(0))
    for name, quota in {
        "one": "100000 100000",
        "half": "50000 100000",
        "none": "max 100000",
        "odd": "x",
    }.items():
        root = tmp_path / name
        tree(root, {"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": f"{quota}\n"})
        assert limits.cores(root) == (1 if name in ("one", "half") else there)
    for name, quota in {"v1": "100000", "v1 none": "-1"}.items():
        at = "/sys/fs/cgroup/cpu/a"
        files = {"/proc/self/cgroup": "2:cpu,cpuacct:/a\n", f"{at}/cpu.cfs_quota_us": f"{quota}\n"}
        tree(tmp_path / name, files | {f"{at}/cpu.cfs_period_us": "100000\n"})
        assert limits.cores(tmp_path / name) == (1 if name == "v1" else there)


def test_the_limit_of_a_real_group_is_seen() -> None:
    """In a control group of our own, of either version, where one can be made."""
    version, own = next(limits.groups("memory"))
    group = own / f"rnnbench-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(str(3 * GIB))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    script = (
        f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        "from rnnbench.system import limits; print(min(limits.memory()))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert 2 * GIB < int(done.stdout) <= 3 * GIB
    finally:
        group.rmdir()


@pytest.mark.parametrize("text", ["", "0", "-3", "abc", "1.5", " ", ",", "99999999999999999999", "²"])
def test_threads_that_are_no_number_are_as_many_as_without(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads_asked() is None and cores() == limits.cores()


@pytest.mark.parametrize("text, threads", [("3", 3), (" 2 ", 2), ("4,2", 4), ("007", 7)])
def test_threads_that_are_asked_for_are_taken(
    text: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cores() == threads


@pytest.mark.parametrize("text", ["", "abc", "-1", "0", "nan", "inf", "1e9", "²"])
def test_a_time_that_is_none_is_the_usual_one(text: str) -> None:
    assert seconds(text) == float(PATIENCE) and seconds("7") == 7


def test_free_memory_is_there_on_any_machine() -> None:
    assert resources.available("cpu") > 0


# Facts about the machine


def refuse(*args: object, **kwargs: object) -> str:
    raise OSError("no")


def unknown(name: str) -> str:
    raise metadata.PackageNotFoundError(name)


def nobody() -> str:
    raise KeyError("getpwuid(): uid not found: 54321")


def test_no_fact_about_the_machine_fails_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance.getpass, "getuser", nobody)
    monkeypatch.setattr(provenance.metadata, "version", unknown)
    monkeypatch.setattr(provenance.platform, "processor", refuse)
    monkeypatch.setattr(provenance, "_system", refuse)
    monkeypatch.setattr(sys, "argv", ["rnnbench", "caf\udce9"])
    provenance._fixed.cache_clear()
    try:
        found = tags_of("cpu")
    finally:
        provenance._fixed.cache_clear()
    assert found["rnnbench.user"] == f"uid {os.getuid()}"
    assert "rnnbench.platform" not in found and "rnnbench.version.torch" not in found
    assert "\\udce9" in found["rnnbench.command"]
    for text in found.values():
        text.encode()
    assert provenance._cpu(tmp_path / "nothing")[1]
    (tmp_path / "cpuinfo").write_bytes(b"\xff\xfe:\n\x00")
    assert provenance._cpu(tmp_path / "cpuinfo")[1]


@pytest.mark.parametrize("kind", ["not executable", "folder", "no program", "fails", "hangs"])
def test_a_git_that_cannot_be_asked_says_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    if kind == "folder":
        git.mkdir()
    else:
        text = {
            "no program": "\0\0",
            "fails": "#!/bin/sh\nexit 3\n",
            "hangs": "#!/bin/sh\nexec /bin/sleep 60\n",
        }
        git.write_text(text.get(kind, "#!/bin/sh\n"))
        git.chmod(0o644 if kind == "not executable" else 0o755)
    monkeypatch.setenv("PATH", str(git.parent))
    monkeypatch.setattr(provenance, "PATIENCE", 0.2)
    (tmp_path / ".git").mkdir()
    assert provenance._git(tmp_path) == {}


def test_a_user_without_a_name_and_a_home_trains(tmp_path: Path) -> None:
    """In a user namespace of its own, where there are such."""
    space = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if shutil.which("unshare") is None or subprocess.run([*space, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME", "MPLCONFIGDIR")
    }
    command = [sys.executable, "-m", "rnnbench", "-m", "seed=0", "model.hidden_size=3", "fit.epochs=1"]
    command += ["data=digits", "data.train_size=64", "tracking.uri=null", "hydra.sweep.dir=s"]
    done = subprocess.run(
        [*space, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s" / "0" / "weights.pt").exists()


@pytest.mark.parametrize(
    "name, why",
    [
        ("x" * 300, "too long|more than 255 bytes"),
        ("here/" + "x" * 300 + "/y", "more than 255 bytes"),
        ("here/" + "\u00e9" * 200, "more than 255 bytes"),  # 400 bytes
        ("nowhere", "a link to what is not there"),
        ("nowhere/y/z", "a link to what is not there"),
        ("loop", "symbolic links"),
        ("loop/y", "symbolic links"),
        ("file", "no folder"),
        ("file/y/z", "no folder"),
        ("a\0b", "null"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "nowhere").symlink_to("not/there")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=f"(?s)hydra.sweep.dir=.*({why})"):
        check_folder(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_can_be_made_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for name in ("there", "there/x/y", "link", "link/x", "new", "x" * 255):
        check_folder(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"there", "link"}


def test_the_folder_that_a_command_runs_in_may_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match="was deleted"):
        check_folder(Path("multirun/x"))
    with pytest.raises(ConfigError, match="the folder that this command runs in is gone"):
        check_here()
