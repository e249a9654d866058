"""Converts values and texts of a record to and from MLflow's fields, which are short and take no NUL."""

import hashlib
import json
import math
import posixpath
import re
import sys
from typing import Any

from rnnbench.job_state import JobState

# Longest texts, in characters, that MLflow's tables hold.
PARAM_CHARS, TAG_CHARS, NAME_CHARS, DATASET_CHARS, DIGEST_CHARS = 6000, 8000, 250, 500, 36
NOT_IN_A_NAME = re.compile(r"[^\w.:/-]+")  # characters that MLflow refuses in a metric's name
PARENT = "mlflow.parentRunId"  # the tag that names the run of the sweep
CELL = "rnnbench.cell"  # the tag of a run that has the means over the seeds of a configuration
NAME, NOTE = (
    "rnnbench.sweep_name",
    "mlflow.note.content",
)  # tags with the name of a sweep, and its description
UNSET = "rnnbench.unset"  # the tag that names the keys which are null and no params
STATUS: dict[str, str] = {
    JobState.finished.value: "FINISHED",
    JobState.failed.value: "FAILED",
    JobState.interrupted.value: "KILLED",
    JobState.pruned.value: "KILLED",  # MLflow has no such status, so the tag rnnbench.status holds it
    JobState.running.value: "RUNNING",
}
# MLflow's status to the status of the job.
RECORDED = {theirs: ours for ours, theirs in STATUS.items() if ours != JobState.pruned}


def text(value: Any) -> str:
    """Write a config value as a param, in command-line syntax, so that `value` reads it back."""
    plain = isinstance(value, str) and value != "" and not _is_json(value)
    return value if plain else json.dumps(value)


def value(text: str) -> Any:
    """Read the config value that `text` has written."""
    return json.loads(text) if _is_json(text) else text


def number(metric: float) -> float:
    """Read a metric; the largest float becomes an infinity, which MLflow's SQL stores cannot hold."""
    return math.copysign(math.inf, metric) if abs(metric) == sys.float_info.max else metric


def cut(value: str, chars: int) -> str:
    """Shorten a text to `chars` characters, and escape its NULs and invalid Unicode."""
    value = value.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
    return value if len(value) <= chars else f"{value[: chars - 1]}…"


def param_name(name: str) -> str:
    """Make the name of a param from a config key; characters that MLflow refuses become their code points."""
    name = re.sub(r"[^\w./ -]", lambda sign: f":{ord(sign[0]):x}", name)
    if posixpath.normpath(name) != name or name.startswith(("/", "..")):  # MLflow refuses paths
        name = name.replace("/", ":2f")
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 9]}:{digest}"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
