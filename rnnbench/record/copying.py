"""Makes the record of a job from another's: a copy of a finished trial, or rows that training goes on from.

What is in a job folder: see `rnnbench.record.job_folder`.
"""

import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnnbench.config import Config, flatten, plain, to_yaml
from rnnbench.job_state import JobState
from rnnbench.record.job_folder import ROW, JobFolder, previous, read_metrics, read_result
from rnnbench.system.files import DamagedFile, read, read_bytes, warn, write, write_json

LEFT = ("metrics.csv", "confusion.csv", "by_length.csv")  # what a trial leaves beside weights and result
FOREIGN = ("rnnbench.study", "rnnbench.number", "rnnbench.reused")  # tags of the job that trained alone


def is_whole(folder: Path, result: dict[str, Any]) -> bool:
    """Return whether the files of a finished record are there and sound, its weights bit for bit."""
    try:
        weights = read_bytes(folder / "weights.pt")
        known = result.get("weights", {}).get("sha256") == hashlib.sha256(weights).hexdigest()
        return known and len(read_metrics(folder)) > 0
    except (FileNotFoundError, DamagedFile):
        return False


def copy_record(
    origin: Path, result: dict[str, Any], folder: Path, *, name: str, config: Config, tags: dict[str, str]
) -> None:
    """Write a finished record of the same trial to another job's folder, and say there where it comes from.

    `reused` in result.json has the job that was trained and its folder, as it was then.

    Args:
        origin: the folder of the record.
        result: its result.json.
        name, config: of the job whose folder it becomes.
        tags: of this job, besides those that say where the numbers come from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = previous(folder)
    for file in LEFT:
        if (origin / file).exists():
            write(folder / file, read_bytes(origin / file))
    _link(origin / "weights.pt", folder / "weights.pt")
    _write_result(
        folder,
        result,
        name=name,
        config=config,
        tags=tags,
        job=known["job"] if known else uuid.uuid4().hex,
        source=result.get("reused") or {"job": result["job"], "folder": os.path.abspath(origin)},
    )


def _write_result(
    folder: Path,
    result: dict[str, Any],
    *,
    name: str,
    config: Config,
    tags: dict[str, str],
    job: str,
    source: dict[str, str],
) -> None:
    """Write config.yaml and result.json of a job whose trial was trained by the job that `source` names."""
    tree = plain(config)
    params = flatten(tree)
    file = Path(source["folder"]) / "config.yaml"
    # Writing YAML takes milliseconds, so the file that says the same is copied.
    same = result.get("params") == params and file.exists()
    write(folder / "config.yaml", read_bytes(file) if same else to_yaml(tree))
    kept = {key: value for key, value in result["tags"].items() if key not in FOREIGN}
    copy = result | {"job": job, "name": name, "params": params, "reused": source}
    copy["tags"] = kept | tags | {"rnnbench.reused": source["job"]}
    JobFolder(folder, copy).save()


def write_copy(
    folder: Path,
    result: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    *,
    name: str,
    config: Config,
    tags: dict[str, str],
    source: dict[str, str],
) -> None:
    """Write a finished record whose own folder is not here to a job's folder; it has no weights.

    Args:
        result: what its result.json would hold.
        rows: of its metrics.csv.
        source: `job` and `folder` of the record, and where else it is.
        name, config, tags: as for `copy_record`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = previous(folder)
    record = JobFolder(folder, result)
    record.names = [name for name in {name: None for row in rows for name in row} if name not in ROW]
    record.write_rows(rows)
    job = known["job"] if known else uuid.uuid4().hex
    _write_result(folder, result, name=name, config=config, tags=tags, job=job, source=source)


def _link(origin: Path, copy: Path) -> None:
    """Give a file, which is only ever replaced as a whole, a second name; copy it where that cannot be."""
    copy.unlink(missing_ok=True)
    try:
        os.link(origin, copy)
    except OSError:  # another disk, or a file system without links
        write(copy, read_bytes(origin))


def begin_from(
    origin: Path, result: dict[str, Any], folder: Path, *, trial: str, tags: dict[str, str]
) -> None:
    """Begin the record of a job with the rows of a finished trial that is the same with fewer epochs.

    Args:
        origin, result: folder and result.json of the finished trial.
        trial: hash of the trial that goes on.
        tags: besides those of the finished trial.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "metrics.csv", read_bytes(origin / "metrics.csv"))
    kept = {key: value for key, value in result["tags"].items() if key not in FOREIGN}
    begun = result | {"job": uuid.uuid4().hex, "trial": trial, "metrics": {}, "tags": kept | tags}
    write_json(folder / "result.json", begun | {"status": JobState.interrupted.value})


def inherit(old: Path, new: Path, checkpoint: str) -> None:
    """Begin a job with the rows of a job that was interrupted in another folder, to continue it.

    Args:
        checkpoint: name of the snapshot file. It is moved last, so that it is always in one of the folders.
    """
    try:
        read_metrics(old)  # raises if the rows are damaged
        text, result = read(old / "metrics.csv"), read_result(old)
    except DamagedFile as error:
        warn(error, "the trial starts over")
        return
    new.mkdir(parents=True, exist_ok=True)
    write(new / "metrics.csv", text[: text.rindex("\n") + 1])
    result["metrics"] = {}
    write_json(new / "result.json", result | {"job": uuid.uuid4().hex, "status": JobState.interrupted.value})
    os.replace(old / checkpoint, new / checkpoint)
