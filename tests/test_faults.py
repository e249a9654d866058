"""Faults to survive, each a real one: kills, signals, a full disk, no memory, clocks that jump."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rnnbench.config import ConfigError
from rnnbench.record import job_folders, read_metrics, read_result
from rnnbench.sweep.preflight import check_folder
from rnnbench.system import files
from tests.forked import Forked
from tests.killed import GRID, SHORT, begun, recorded
from tests.mlflow_store import assert_exact, client, runs_of
from tests.test_app import jobs, numbers, run, start


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_sweep_that_is_killed_again_and_again_ends_with_the_same_numbers(kills, whole, store, tmp_path):
    command = [*GRID, *SHORT, f"tracking.uri={store}", "tracking.experiment=laws"]
    moments = random.Random(kills)
    for _ in range(kills):
        process = start(tmp_path, *command)
        shown = tmp_path / "s" / "sweep.json"
        before = shown.stat().st_mtime_ns if shown.exists() else 0
        while process.poll() is None and (not shown.exists() or shown.stat().st_mtime_ns == before):
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 2))
        process.kill()
        process.communicate()
    run(tmp_path, *command)
    assert recorded(tmp_path / "s") == whole
    assert_exact(store, tmp_path / "s")
    children, _ = runs_of(store, tmp_path / "s")
    assert [child.info.status for child in children.values()] == ["FINISHED"] * 4


STACK, SIDE_BY_SIDE = "seed=0,1", "model.hidden_size=5,6"


@pytest.mark.parametrize(
    "number, grid",
    [
        pytest.param(signal.SIGINT, SIDE_BY_SIDE, id="SIGINT, side by side"),
        pytest.param(signal.SIGTERM, STACK, id="SIGTERM, a stack"),
        pytest.param(signal.SIGINT, STACK, id="SIGINT, a stack", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, SIDE_BY_SIDE, id="SIGTERM, side by side", marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_checkpoints_of_the_last_whole_epoch(number, grid, tmp_path):
    few = ["-m", grid, "data.train_size=256", "tracking.uri=null", "fit.epochs=200"]
    run(tmp_path, *few, "hydra.sweep.dir=whole")
    # Without the option, and far from a minute: what is kept is kept because of the signal.
    process = start(tmp_path, *few, "hydra.sweep.dir=s")
    begun(process, tmp_path / "s" / "0" / "metrics.csv")
    while len(read_metrics(tmp_path / "s" / "0")) < 2:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert "Traceback" not in err and "goes on from here" in err
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["status"] == "interrupted"
    left = [read_result(job) for job in jobs(tmp_path / "s")]
    # One that trains beside another may be through before a busy machine has delivered the signal.
    stopped = [result["status"] != "finished" for result in left]
    assert any(stopped) if grid == SIDE_BY_SIDE else all(stopped)
    assert {result["status"] for result in left} <= {"interrupted", "finished"}
    kept = [(job / "checkpoint.pt").exists() for job in jobs(tmp_path / "s")]
    assert any(kept) and kept == [
        stop and result["epochs"] > 0 for stop, result in zip(stopped, left, strict=True)
    ]
    run(tmp_path, *few, "hydra.sweep.dir=s")
    assert recorded(tmp_path / "s") == recorded(tmp_path / "whole")
    for job, again, before in zip(jobs(tmp_path / "s"), kept, left, strict=False):  # the others had not begun
        assert read_result(job)["tags"].get("rnnbench.resumed", "0") == str(before["epochs"] if again else 0)
        assert not (job / "checkpoint.pt").exists()


def test_a_second_ctrl_c_exits_at_once(tmp_path):
    """Here while the last deliveries go to a server that never answers."""
    with subprocess.Popen(
        [sys.executable, "-c", "import socket, time; s = socket.create_server(('127.0.0.1', 0)); "
         "print(s.getsockname()[1], flush=True); time.sleep(600)"], stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        port = int(server.stdout.readline())
        process = start(tmp_path, *GRID, "fit.epochs=1000000", f"tracking.uri=http://127.0.0.1:{port}")
        begun(process, tmp_path / "s" / "0" / "checkpoint.pt")
        process.send_signal(signal.SIGINT)
        while (status := json.loads((tmp_path / "s" / "sweep.json").read_text())["status"]) == "running":
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
        server.kill()
    assert (process.returncode, status) == (130, "interrupted")


@pytest.mark.parametrize("damage", ["cut", pytest.param("another's", marks=pytest.mark.slow)])
def test_a_corrupt_checkpoint_is_set_aside(damage, whole, tmp_path):
    command = [*GRID, *SHORT, "tracking.uri=null"]
    process = start(tmp_path, *command)
    begun(process, tmp_path / "s" / "1" / "checkpoint.pt")
    process.kill()
    process.communicate()
    file = tmp_path / "s" / "0" / "checkpoint.pt"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        shutil.copy(tmp_path / "s" / "1" / "checkpoint.pt", file)
    _, err = run(tmp_path, *command)
    assert "checkpoint.unusable now, and the trial starts over" in err
    assert (tmp_path / "s" / "0" / "checkpoint.unusable").exists()
    assert "rnnbench.resumed" not in read_result(tmp_path / "s" / "0")["tags"]
    assert "rnnbench.resumed" in read_result(tmp_path / "s" / "1")["tags"]
    assert recorded(tmp_path / "s") == whole


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for 400 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing(small_disk, whole, store):
    command = [*GRID, *SHORT, f"tracking.uri={store}", "tracking.experiment=laws"]
    filler = small_disk / "filler"
    filler.write_bytes(bytes(250 * 1024))
    _, err = run(small_disk, *command, code=1)
    assert "hydra.sweep.dir=s: no space left on device; what is recorded so far is whole" in err
    assert "Traceback" not in err
    for job in job_folders(small_disk / "s"):
        read_result(job), read_metrics(job)
    filler.unlink()
    run(small_disk, *command)
    assert recorded(small_disk / "s") == whole
    assert_exact(store, small_disk / "s")


@pytest.mark.parametrize("left", [0, 4, 12, 40])
def test_a_disk_that_is_full_at_the_start_is_named_before_anything_is_made(small_disk, left):
    """By us, not by Hydra, which writes into the folder of a single run first."""
    (small_disk / "filler").write_bytes(bytes((400 - left) * 1024))
    with pytest.raises(ConfigError, match=r"cannot be written to \(No space left on device"):
        check_folder(small_disk / "s")
    assert [file.name for file in small_disk.iterdir()] == ["filler"]


def test_a_limit_on_the_size_of_files_is_one_on_room(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ConfigError, match=r"cannot be written to \(File too large"):
            check_folder(tmp_path / "s")
        with pytest.raises(OSError) as caught:
            files.write(tmp_path / "a", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.errno in files.NO_SPACE
    assert not (tmp_path / "s").exists()


HUNGRY = """
import resource, sys
from pathlib import Path
from conftest import make_config
from rnnbench import tasks
from rnnbench.sweep import scheduler as train
from rnnbench.config import Kernel
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.recorder import Recorder

folder, room = Path(sys.argv[1]), int(sys.argv[2])
def config(seed):
    one = make_config("gru", seed, fit__epochs=3, data__train_size=1024, fit__batch_size=512)
    one.model.hidden_size, one.fit.kernel = 64, Kernel.torch
    return one
jobs = [Job(f"seed={n}", config(n), folder / str(n), identity(config(n))) for n in range(6)]
recorder = Recorder()
record, rows = recorder.epoch, []
def size(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
def epoch(job, number, metrics):
    record(job, number, metrics)
    rows.append(number)
    if room and len(rows) == 6:  # the first whole epoch is in the books
        resource.setrlimit(resource.RLIMIT_AS, (size("VmSize") + room, resource.RLIM_INFINITY))
    if not room and len(rows) == 6:
        print("needs", size("VmPeak") - size("VmSize"))
recorder.epoch = epoch
train.train(recorder, jobs, 6)
print(*[job.error for job in jobs], sep="\\n")
"""


def test_a_stack_that_no_longer_fits_goes_on_in_halves(tmp_path):
    """A real limit of memory, set when the first epoch is done: no epoch is trained twice, none is lost."""

    def train(name, room):
        """Large blocks go back to the system when they are freed, so that a limit means something."""
        command = [sys.executable, "-c", HUNGRY, str(tmp_path / name), str(room)]
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True,
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    needs = int(train("whole", 0).stdout.split("needs ")[1].split()[0])
    done = train("halves", int(0.75 * needs))
    assert done.stdout.splitlines()[-6:] == ["None"] * 6, done.stderr
    assert "a stack of 6 stopped" in done.stderr and "its trials go on 3 at a time" in done.stderr
    for one, two in zip(jobs(tmp_path / "whole"), jobs(tmp_path / "halves"), strict=True):
        (final, rows), (final2, rows2) = numbers(one), numbers(two)
        assert [row["epoch"] for row in rows2] == [1, 2, 3]
        assert final == pytest.approx(final2, abs=1e-4)
        assert rows[0] == rows2[0]


def test_a_clock_that_jumps_turns_no_history_round(whole, store, tmp_path, monkeypatch):
    """Time goes back an hour after some calls, and forward a day later; in the courier too."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n"
        "calls, really, wall = 0, time.time_ns, time.time\n"
        "def jump():\n"
        "    global calls\n"
        "    calls += 1\n"
        "    return 0 if calls < 30 else -3600 if calls < 90 else 86400\n"
        "time.time_ns = lambda: really() + jump() * 10**9\n"
        "time.time = lambda: wall() + jump()\n"
    )
    (tmp_path / "jumping.py").write_text("import sitecustomize\nfrom rnnbench.__main__ import main\nmain()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    command = [*GRID, *SHORT, f"tracking.uri={store}", "tracking.experiment=laws"]
    process = Forked("jumping", command, tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert recorded(tmp_path / "s") == whole
    assert_exact(store, tmp_path / "s")
    for job in jobs(tmp_path / "s"):
        stamps = [row["timestamp_ms"] for row in read_metrics(job)]
        assert stamps == sorted(stamps)
        result = read_result(job)
        assert result["started"] <= result["ended"] and stamps[-1] <= result["ended"]
    jumped = [read_result(job)["ended"] for job in jobs(tmp_path / "s")]
    assert max(jumped) > time.time() * 1000 + 3.6e6  # it did


def test_a_job_folder_that_is_deleted_costs_this_job_alone(whole, store, tmp_path):
    command = [*GRID, *SHORT, f"tracking.uri={store}", "tracking.experiment=laws"]
    process = start(tmp_path, *command, "hydra.sweep.dir=s")
    begun(process, tmp_path / "s" / "1" / "checkpoint.pt")
    os.rename(tmp_path / "s" / "1", tmp_path / "gone")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert f"{Path('s') / '1'} was deleted while it trained" in out
    assert "Traceback" not in out + err
    assert [job.name for job in jobs(tmp_path / "s")] == ["0", "2", "3"]
    assert {read_result(job)["status"] for job in jobs(tmp_path / "s")} == {"finished"}
    run(tmp_path, *command)
    assert recorded(tmp_path / "s") == whole
    store_runs = client(store).search_runs([client(store).get_experiment_by_name("laws").experiment_id])
    trials = [one.data.tags["rnnbench.trial"] for one in store_runs if one.info.status == "FINISHED"
              and "rnnbench.trial" in one.data.tags]  # fmt: skip
    assert sorted(trials) == sorted(whole)


@pytest.mark.parametrize(
    "file",
    [
        "metrics.csv",
        "checkpoint.pt",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("weights.pt", "result.json")),
    ],
)
def test_a_job_folder_may_be_deleted_while_a_file_of_it_is_written(file, tmp_path):
    (tmp_path / "hooked.py").write_text(
        "import os\n"
        "from rnnbench.__main__ import main\n"
        "really, calls = os.replace, 0\n"
        "def replace(part, path):\n"
        "    global calls\n"
        f"    if str(path).endswith(os.path.join('s', '1', {file!r})):\n"
        "        calls += 1\n"
        # A record begins with its first writing of these two.
        f"        if calls == {2 if file in ('metrics.csv', 'result.json') else 1}:\n"
        "            os.rename(os.path.dirname(path), 'gone')\n"
        "    really(part, path)\n"
        "os.replace = replace\n"
        "main()\n"
    )
    command = [*GRID, "data.train_size=256", "fit.epochs=3", "tracking.uri=null"]
    process = Forked("hooked", command, tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and (tmp_path / "gone").exists(), out + err
    assert f"{Path('s') / '1'} was deleted while it trained" in out
    assert "Traceback" not in out + err
    assert [job.name for job in jobs(tmp_path / "s")] == ["0", "2", "3"]
    assert {read_result(job)["status"] for job in jobs(tmp_path / "s")} == {"finished"}
    run(tmp_path, *command)
    assert [job.name for job in jobs(tmp_path / "s")] == ["0", "1", "2", "3"]


def test_data_that_has_changed_are_refused(tmp_path):
    def make(seed):
        rng = np.random.default_rng(seed)
        parts = {}
        for split in ("train", "test"):
            parts[f"x_{split}"] = rng.normal(size=(40, 5, 3)).astype(np.float32)
            parts[f"y_{split}"] = rng.integers(0, 2, 40)
        np.savez(tmp_path / "mine.npz", **parts)

    command = ["-m", "data=npz", "data.path=mine.npz", "seed=0,1", "fit.epochs=1", "tracking.uri=null",
               "hydra.sweep.dir=s"]  # fmt: skip
    make(0)
    run(tmp_path, *command)
    before = {file: file.read_bytes() for file in (tmp_path / "s").rglob("result.json")}
    make(1)
    _, err = run(tmp_path, *command, code=1)
    assert "data=npz is not what it was" in err and "Traceback" not in err
    assert {file: file.read_bytes() for file in (tmp_path / "s").rglob("result.json")} == before
    make(0)
    out, _ = run(tmp_path, *command)
    assert "2 of 2 trials are finished already" in out
