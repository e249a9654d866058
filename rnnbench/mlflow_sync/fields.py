"""How the values and texts of a record stand in MLflow's fields, which are short and take no NUL."""

import hashlib
import json
import math
import posixpath
import re
import sys
from typing import Any

from rnnbench.job_state import JobState

# Characters that MLflow's tables hold.
PARAM_CHARS, TAG_CHARS, NAME_CHARS, DATASET_CHARS, DIGEST_CHARS = 6000, 8000, 250, 500, 36
NOT_IN_A_NAME = re.compile(r"[^\w.:/-]+")  # what it does not take in a metric's name
PARENT = "mlflow.parentRunId"  # the tag that names the run of the sweep
STATUS: dict[str, str] = {
    JobState.finished.value: "FINISHED",
    JobState.failed.value: "FAILED",
    JobState.interrupted.value: "KILLED",
    JobState.pruned.value: "KILLED",  # MLflow has no word for it: the tag rnnbench.status does
    JobState.running.value: "RUNNING",
}
RECORDED = {theirs: ours for ours, theirs in STATUS.items() if ours != JobState.pruned}  # the other way


def text(value: Any) -> str:
    """Write a config value as a param: as on the command line, so that `value` reads it back."""
    plain = isinstance(value, str) and value != "" and not _is_json(value)
    return value if plain else json.dumps(value)


def value(text: str) -> Any:
    """Read the config value that `text` has written."""
    return json.loads(text) if _is_json(text) else text


def number(metric: float) -> float:
    """Read a metric: MLflow's SQL stores hold the largest float in place of an infinity."""
    return math.copysign(math.inf, metric) if abs(metric) == sys.float_info.max else metric


def cut(value: str, chars: int) -> str:
    """Shorten a text to so many characters, and write out its NULs and broken Unicode."""
    value = value.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
    return value if len(value) <= chars else f"{value[: chars - 1]}…"


def param_name(name: str) -> str:
    """Make the name of a param of a config key: what MLflow does not take in it stands as its code point."""
    name = re.sub(r"[^\w./ -]", lambda sign: f":{ord(sign[0]):x}", name)
    if posixpath.normpath(name) != name or name.startswith(("/", "..")):  # it would be read as a path
        name = name.replace("/", ":2f")
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 9]}:{digest}"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
