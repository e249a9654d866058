"""Finds out where a trial's numbers come from: code, versions, machine, command.

A trial never fails because of this: what cannot be found out is left out.
"""

import getpass
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import rnnbench
from rnnbench.config import mask

PACKAGES = ("torch", "numpy", "hydra-core", "optuna", "mlflow")
NUMBERS = ("config", "kernels", "nn", "tasks", "train")  # parts of rnnbench that determine numbers
ROUNDING = (
    "rnnbench.kernel", "rnnbench.card", "rnnbench.instruction_set", "rnnbench.version.torch"
)  # fmt: skip
CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = 10.0  # seconds to wait for git


def provenance(device: str) -> dict[str, str]:
    """Make the tags that say where the numbers come from; they are looked up once a process.

    `rnnbench.git_commit` and `rnnbench.git_dirty` (whether tracked files under rnnbench/ or conf/ differ
    from that commit) need git and a checkout with a commit. An installed wheel has neither tag.

    Args:
        device: as in fit.device.
    """
    return {**_fixed(), "rnnbench.device": device}


@cache
def _fixed() -> dict[str, str]:
    git = _git(CHECKOUT)
    edited = {"rnnbench.code": _code()} if git.get("rnnbench.git_dirty") == "true" else {}
    tags = (
        git
        | edited
        | {
            "rnnbench.version": rnnbench.__version__,
            "rnnbench.version.python": platform.python_version(),
        }
    )
    found = {f"rnnbench.version.{package}": _fact(metadata.version, package) for package in PACKAGES}
    found["rnnbench.platform"] = _fact(_system)
    found["rnnbench.cpu"], found["rnnbench.instruction_set"] = _cpu()
    found["rnnbench.cores"] = str(os.cpu_count())
    found["rnnbench.host"] = platform.node()
    found["rnnbench.user"] = _fact(getpass.getuser) or _fact(lambda: f"uid {os.getuid()}")
    found["rnnbench.command"] = mask(shlex.join(sys.argv))
    return tags | {name: _utf8(fact) for name, fact in found.items() if fact}


def _code() -> str:
    """Compute a digest of the source that determines numbers, of a checkout with edits that no commit has."""
    digest = hashlib.sha256()
    for part in NUMBERS:
        for file in sorted((CHECKOUT / "rnnbench" / part).rglob("*.*")):
            if file.suffix in (".py", ".c", ".h"):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def same_numbers(there: Mapping[str, str], here: Mapping[str, str]) -> bool:
    """Return whether two trainings of one trial give the same numbers, by the tags of `provenance`.

    The trial's hash has the engine's revision, its data and the user's own code. Beyond it numbers depend, in
    their last digits, on the kernel, the kind of device, the card, the instruction set and the version of
    torch; and on edits of the engine that no commit has.
    """
    if "rnnbench.moved" in there or _edits(there) is None:
        return False
    kinds = [tags.get("rnnbench.device", "").partition(":")[0] for tags in (there, here)]
    return (
        kinds[0] == kinds[1]
        and _edits(there) == _edits(here)
        and all(there.get(tag) == here.get(tag) for tag in ROUNDING)
    )


def _edits(tags: Mapping[str, str]) -> str | None:
    """Return the digest of an engine with edits; "" for one without; None if its edits are not known."""
    return tags.get("rnnbench.code") if tags.get("rnnbench.git_dirty") == "true" else ""


def _fact(look: Callable[..., str], *args: str) -> str | None:
    """Return what `look` finds out, or None if the system cannot tell.

    Which error that is depends on the system: a user without a name is a KeyError, an OSError or an
    ImportError, a package without its metadata a PackageNotFoundError, which is an ImportError too.
    """
    try:
        return look(*args)
    except (OSError, KeyError, ImportError, AttributeError, ValueError):
        return None


def _utf8(text: str) -> str:
    """Write out the bytes of a text that are not UTF-8, so that every store can hold it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _system() -> str:
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def _git(checkout: Path) -> dict[str, str]:
    """Ask git for the commit of a checkout, and whether what determines numbers differs from it."""
    if not (checkout / ".git").exists():
        return {}
    command = ["git", "--no-optional-locks", "-C", str(checkout), "status", "--porcelain=v2", "--branch"]
    command += ["--untracked-files=no", "--", "rnnbench", "conf"]
    # A git that calls us, from a hook, names its own folders in the environment.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):  # not installed, not to be executed, or it hangs
        return {}
    lines = done.stdout.splitlines()
    words = [line.split() for line in lines if line.startswith("# branch.oid ")]
    commit = words[0][-1] if words else "(initial)"
    if done.returncode != 0 or commit == "(initial)":  # no commit yet, or git refuses to read the checkout
        return {}
    dirty = any(not line.startswith("#") for line in lines)
    return {"rnnbench.git_commit": commit, "rnnbench.git_dirty": str(dirty).lower()}


def _cpu(facts: Path = Path("/proc/cpuinfo")) -> tuple[str | None, str | None]:
    """Read the model of the processor and its widest vector instructions, as far as the system tells."""
    about: dict[str, str] = {}
    try:
        text = facts.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if not line.strip():
            break  # the first processor stands for all
        about[key.strip()] = value.strip()
    flags = set((about.get("flags") or about.get("Features") or "").split())
    known = {"avx512f": "avx512", "avx2": "avx2", "avx": "avx", "sve": "sve", "asimd": "neon"}
    machine = _fact(platform.machine)
    widest = next((name for flag, name in known.items() if flag in flags), machine)
    return about.get("model name") or _fact(platform.processor) or machine, widest
