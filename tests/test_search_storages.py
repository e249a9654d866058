"""The same small search on every storage; Optuna's own tools read it there."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from rnnbench.config import ConfigError
from rnnbench.record import read_result
from rnnbench.search.storage import open_storage
from tests.test_app import run, start
from tests.test_search import counted, search, settings

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def proxy(tmp_path):
    """Optuna's gRPC proxy before a SQLite file, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import optuna; optuna.storages.run_grpc_proxy_server("
        f"optuna.storages.RDBStorage('sqlite:///{tmp_path}/behind.db'), host='127.0.0.1', port={port})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while time.monotonic() < until:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None
        time.sleep(0.1)
    yield f"grpc://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.mark.parametrize("kind", [pytest.param("sqlite", marks=pytest.mark.slow), "postgresql"])
def test_two_processes_share_a_study_on_a_database(tmp_path, kind, request):
    url = "sqlite:///study.db" if kind == "sqlite" else request.getfixturevalue("postgresql")
    command = search(*settings(n_trials=7, n_jobs=2, study_name="s", storage=f"'{url}'"))
    workers = [start(tmp_path, *command) for _ in range(2)]
    for worker in workers:
        out, err = worker.communicate(timeout=300)
        assert worker.returncode == 0, out + err
        assert "locked" not in out + err
    there = f"sqlite:///{tmp_path}/study.db" if kind == "sqlite" else url
    trials = optuna.load_study(study_name="s", storage=open_storage(there)).get_trials()
    assert [trial.state for trial in counted(trials)] == [TrialState.COMPLETE] * 7


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "proxy"])
def test_the_same_command_again_finds_its_search_done(tmp_path, kind, request):
    url = "sqlite:///study.db" if kind == "sqlite" else request.getfixturevalue(kind)
    command = search(*settings(n_trials=3, study_name="s", storage=f"'{url}'"))
    run(tmp_path, *command)
    before = {job: job.read_bytes() for job in tmp_path.glob("multirun/s/*/result.json")}
    out, _ = run(tmp_path, *command)
    assert "trial" in out and len(before) == 3
    assert {job: job.read_bytes() for job in tmp_path.glob("multirun/s/*/result.json")} == before
    there = f"sqlite:///{tmp_path}/study.db" if kind == "sqlite" else url
    trials = optuna.load_study(study_name="s", storage=open_storage(there)).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3


def test_a_search_through_a_proxy(tmp_path, proxy):
    run(tmp_path, *search(*settings(n_trials=3, study_name="s", storage=f"'{proxy}'")))
    trials = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/behind.db").get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3


def test_the_slurm_example_is_an_array_of_sweepers(tmp_path):
    """As a task of the array runs it; what Slurm itself does with it is in its #SBATCH lines.

    That two share a study is shown above, and by tests/test_slurm.py with this example.
    """
    example = Path(__file__).parents[1] / "conf/slurm/sweepers.sbatch"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    arguments = [*search(*settings(n_trials=2, n_jobs=2, study_name="s"))[2:]]
    done = subprocess.run(
        ["bash", example, *arguments], cwd=tmp_path, text=True, capture_output=True, timeout=300,
        env=os.environ | {"PATH": path, "SLURM_ARRAY_TASK_ID": "0", "SLURM_CPUS_PER_TASK": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    url = f"journal:///{tmp_path}/multirun/s/journal.log"
    trials = counted(optuna.load_study(study_name="s", storage=open_storage(url)).get_trials())
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    for trial in trials:
        assert read_result(tmp_path / "multirun/s" / str(trial.number))["status"] == "finished"


@pytest.mark.parametrize(
    "line", [b"[]", b"null", b"{}", b"7", b'{"op_code": 99, "worker_id": "a"}', b"caf\xe9", b"\0\0"]
)
def test_a_damaged_journal_is_named_and_left_alone(line: bytes, tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    url = f"journal:///{file}"
    optuna.create_study(study_name="one", storage=open_storage(url))
    whole = file.read_bytes() + line + b"\n"
    file.write_bytes(whole)
    with pytest.raises(ConfigError, match=f"hydra.sweeper.storage={url}: is damaged"):
        open_storage(url)
    assert file.read_bytes() == whole
