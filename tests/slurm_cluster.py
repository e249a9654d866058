"""A Slurm cluster of one node, this machine: Debian's slurm-wlm and munge, on ports of their own."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# cred_expire is also how long a requeued task waits before it starts again: 120 s unless told.
CONF = """
ClusterName=rnnbench
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=20
MinJobAge=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2
"""


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """The cluster, for commands of this process's environment; skipped where Debian's packages are not."""
    lacks = [
        name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name, path=PATH) is None
    ]
    if lacks:
        pytest.skip(f"no {', '.join(lacks)} here: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("slurmd has to be started by root")
    pytest.importorskip("submitit")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    daemons: list[subprocess.Popen[bytes]] = []
    before = os.environ.get("SLURM_CONF")
    try:
        _start(folder, daemons)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        _wait_for_the_node()
        yield
    finally:
        subprocess.run(["scancel", "--me", "--full", "--signal=KILL"])  # what a failed test has left
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])


def _start(folder: Path, daemons: "list[subprocess.Popen[bytes]]") -> None:
    host = socket.gethostname()
    ports = _free_ports(2)
    text = CONF.format(host=host, ports=ports, folder=folder, cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(text)
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    munge = [f"--{name}={folder / file}" for name, file in
             {"socket": "munge.socket", "key-file": "key", "pid-file": "munge.pid",
              "log-file": "munge.log", "seed-file": "seed"}.items()]  # fmt: skip
    for command in (
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-f", str(folder / "slurm.conf")],
        ["slurmd", "-D", "-f", str(folder / "slurm.conf"), "-N", host],
    ):
        with open(folder / f"{command[0]}.out", "wb") as log:
            file = shutil.which(command[0], path=PATH)
            daemons.append(
                subprocess.Popen([str(file), *command[1:]], stdout=log, stderr=log, start_new_session=True)
            )
        if command[0] == "munged":
            until = time.monotonic() + 300
            while not (folder / "munge.socket").exists() and time.monotonic() < until:
                time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for free in sockets:
            free.bind(("", 0))
        return [free.getsockname()[1] for free in sockets]
    finally:
        for free in sockets:
            free.close()


def _wait_for_the_node() -> None:
    until = time.monotonic() + 300
    said = ""
    while time.monotonic() < until:
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        said = done.stdout + done.stderr
        if "idle" in done.stdout:
            return
        time.sleep(0.2)
    raise RuntimeError(f"the node does not come up: {said}")
