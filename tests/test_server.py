"""docs/server.md, followed to the letter: MLflow over PostgreSQL, and a sweep and a search that use it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import yaml

from tests.mlflow_store import assert_exact, until
from tests.test_app import QUICK

DOCS = Path(__file__).parents[1] / "rnnbench" / "docs"
SECTIONS = dict(
    section.split("\n", 1) for section in (DOCS / "server.md").read_text().split("\n## ") if "\n" in section
)


def commands(section: str) -> list[str]:
    """The blocks of commands in a section."""
    return re.findall(r"```sh\n(.*?)```", SECTIONS[section], re.S)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_the_compose_file_keeps_to_this_machine_and_holds_no_password() -> None:
    services = yaml.safe_load((DOCS / "compose.yaml").read_text())["services"]
    assert services.keys() == {"postgres", "mlflow"}
    for service in services.values():
        assert service["ports"] and all(port.startswith("127.0.0.1:") for port in service["ports"])
        passwords = [value for key, value in service["environment"].items() if "PASSWORD" in key]
        assert passwords and all(value.startswith("${POSTGRES_PASSWORD:?") for value in passwords)
        assert "healthcheck" in service and service["volumes"]


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of whoever may run PostgreSQL, which refuses root."""
    folder = Path(tempfile.mkdtemp(prefix="rnnbench-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    yield folder
    stop = "$(ls /usr/lib/postgresql/*/bin/pg_ctl | tail -n 1) --pgdata=data --mode=fast stop"
    subprocess.run(["bash", "-c", stop], **someone(), cwd=folder, stdout=subprocess.DEVNULL)
    shutil.rmtree(folder)


def someone() -> dict[str, str]:
    """The user that PostgreSQL runs as, for subprocess."""
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


@pytest.mark.slow
@pytest.mark.skipif(
    not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="apt-get install postgresql"
)
def test_the_commands_make_a_server_that_a_sweep_and_a_search_use(home: Path, tmp_path: Path) -> None:
    database, server = commands("Without Docker")
    ports = {"PGPORT": str(free_port()), "PORT": str(free_port())}
    # The last of these halves the start of MLflow's server.
    here = os.environ | ports | {"HOME": str(home), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    subprocess.run(["bash", "-e", "-c", database], cwd=home, env=here, check=True, timeout=300, **someone())
    password = (home / "password").read_text().strip()
    mlflow = f"PATH={Path(sys.executable).parent}:$PATH; exec {server.strip()}"
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            ["bash", "-c", mlflow], cwd=tmp_path, env=here, stdout=log, stderr=log, start_new_session=True
        )
    try:
        uri = f"http://127.0.0.1:{ports['PORT']}"
        until(lambda: answers(f"{uri}/health") or process.poll() is not None, minutes=10)
        assert process.poll() is None, (tmp_path / "log").read_text()
        sweep, search = (
            block.replace("5000", ports["PORT"]).replace("5433", ports["PGPORT"])
            for block in commands("Using it")
        )
        work = tmp_path / "work"
        work.mkdir()
        python = f"PATH={Path(sys.executable).parent}:$PATH;"
        for block, more in (
            (sweep, ["hydra.sweep.dir=s", "tracking.artifacts=[curves]"]),
            (search, ["hydra.sweeper.n_trials=3"]),
        ):
            line = " ".join([block.strip(), *more, *QUICK])
            done = subprocess.run(
                ["bash", "-c", f"{python} {line}"],
                cwd=work,
                env=here,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"compare: {uri}" in done.stdout
        assert_exact(uri, work / "s")
        assert_exact(uri, work / "multirun" / "rate")
        assert len(list((tmp_path / "artifacts").rglob("curves.png"))) == 6
        os.environ["PGPASSWORD"] = password
        storage = f"postgresql+psycopg2://mlflow@127.0.0.1:{ports['PGPORT']}/studies"
        assert len(optuna.load_study(study_name="rate", storage=storage).trials) == 3
        assert not any(
            password in file.read_text(errors="replace") for file in work.rglob("*") if file.is_file()
        )
    finally:
        os.environ.pop("PGPASSWORD", None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True
