"""Where a trial's numbers come from: code, versions, machine, command."""

import getpass
import os
import platform
import shlex
import socket
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import rnnbench
from rnnbench.config import mask

PACKAGES = ("torch", "numpy", "hydra-core", "optuna", "mlflow")
CHECKOUT = Path(__file__).resolve().parents[2]


def provenance(device: str) -> dict[str, str]:
    """Tags that say where the numbers come from. Looked up once a process.

    `rnnbench.git_commit` and `rnnbench.git_dirty` (whether tracked files under rnnbench/ or conf/ differ
    from that commit) are there for a git checkout with a commit, and git; not for an installed wheel.

    Args:
        device: as in fit.device.
    """
    return {**_fixed(), "rnnbench.device": device}


@cache
def _fixed() -> dict[str, str]:
    tags = _git(CHECKOUT) | {
        "rnnbench.version": rnnbench.__version__,
        "rnnbench.version.python": platform.python_version(),
    }
    for package in PACKAGES:
        tags[f"rnnbench.version.{package}"] = metadata.version(package)
    model, instructions = _cpu()
    return tags | {
        "rnnbench.platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "rnnbench.cpu": model,
        "rnnbench.instruction_set": instructions,
        "rnnbench.cores": str(os.cpu_count()),
        "rnnbench.host": socket.gethostname(),
        "rnnbench.user": getpass.getuser(),
        "rnnbench.command": mask(shlex.join(sys.argv)),
    }


def _git(checkout: Path) -> dict[str, str]:
    """The commit of a checkout, and whether what determines numbers differs from it: one call of git."""
    if not (checkout / ".git").exists():
        return {}
    command = ["git", "--no-optional-locks", "-C", str(checkout), "status", "--porcelain=v2", "--branch"]
    command += ["--untracked-files=no", "--", "rnnbench", "conf"]
    # A git that calls us, from a hook, names its own folders in the environment.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except FileNotFoundError:  # git is not installed
        return {}
    lines = done.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    if commit == "(initial)":  # no commit yet, or a checkout that git refuses to read
        return {}
    dirty = any(not line.startswith("#") for line in lines)
    return {"rnnbench.git_commit": commit, "rnnbench.git_dirty": str(dirty).lower()}


def _cpu() -> tuple[str, str]:
    """Model of the processor and the widest vector instructions it has, as far as the system tells."""
    about: dict[str, str] = {}
    file = Path("/proc/cpuinfo")
    if file.exists():
        with open(file) as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if not line.strip():
                    break  # the first processor stands for all
                about[key.strip()] = value.strip()
    flags = set((about.get("flags") or about.get("Features") or "").split())
    known = {"avx512f": "avx512", "avx2": "avx2", "avx": "avx", "sve": "sve", "asimd": "neon"}
    widest = next((name for flag, name in known.items() if flag in flags), platform.machine())
    return about.get("model name") or platform.processor() or platform.machine(), widest
