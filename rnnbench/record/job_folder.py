"""The job folder: the record that a trial leaves on disk while it trains and when it ends.

    N/config.yaml    the config, resolved
      metrics.csv    one row an epoch: epoch, timestamp_ms, then the metrics by name; an empty cell is a
                     metric that was not measured after that epoch
      weights.pt     the parameters of the network, once it is trained
      confusion.csv  counts of the test set, a row for each true class; only for tasks with classes
      by_length.csv  test accuracy by length of the input; only for tasks whose inputs have lengths
      result.json    status, identity, params, final metrics, where the numbers come from

This module writes these files, and `copying` those of a job whose trial another one trained. Numbers are
written with repr, so that they are read back bit for bit. The folder also has files of other modules:
Hydra's .hydra/, a snapshot while the trial is unfinished, and mlflow.json, which says what MLflow has of
the record.
"""

import csv
import hashlib
import io
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from rnnbench.config import Config, flatten, plain, to_yaml
from rnnbench.config.metrics import remember
from rnnbench.job_state import RECORDED, JobState
from rnnbench.system.files import (
    DamagedFile,
    check,
    read,
    read_json,
    set_aside,
    sound,
    texts,
    warn,
    write,
    write_csv,
    write_json,
)
from rnnbench.system.plain_text import spreadsheet

ROW = ("epoch", "timestamp_ms")
NETWORK = ("weights.pt", "config.yaml", "result.json")  # the files that `rnnbench.load` needs
STATUSES = {state.value for state in RECORDED}
LATEST = 9_000_000_000_000  # latest time in ms since 1970 that pandas can hold too


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def moment(value: Any) -> bool:
    """True if a value is a time in milliseconds since 1970."""
    return type(value) is int and 0 <= value < LATEST


def moment_or_none(value: Any) -> bool:
    """True if a value is a time in milliseconds since 1970, or None."""
    return value is None or moment(value)


RESULT: dict[str, Any] = {
    "job": lambda value: isinstance(value, str) and value.isalnum(),
    "name": str,
    "status": STATUSES,
    "trial": str,
    "params": dict,
    "metrics": dict,
    "tags": lambda value: isinstance(value, dict) and texts(value),
    "started": moment,
    "ended": moment_or_none,
    "epochs": lambda value: type(value) is int and value >= 0,
    "error": (str, type(None)),
    "dataset": dict,
}
DELIVERY: dict[str, Any] = {
    "uri": str,
    "experiment": str,
    "run_id": str,
    "attempt": moment,
    "epochs": int,
    "final": bool,
}


class JobFolder:
    """Writes the record of one trial to its folder `path`; `result` is what result.json is to hold."""

    def __init__(self, path: Path, result: dict[str, Any]) -> None:
        self.path = path
        self.result = result
        self.names: list[str] = []  # metrics in the header of metrics.csv
        self.last = 0  # timestamp of the last row, so that timestamps never decrease

    @classmethod
    def start(
        cls,
        path: Path,
        *,
        name: str,
        config: Config,
        trial: str,
        dataset: dict[str, Any],
        tags: dict[str, str],
        keep: int = 0,
    ) -> "JobFolder":
        """Make the folder; if it exists, begin its unfinished record again, or continue it.

        Args:
            name: readable, for tables and MLflow.
            trial: `rnnbench.config.trial_hash` of the config.
            dataset: JSON types, `name` and `checksum` among them.
            tags: where the numbers come from, see `provenance`.
            keep: number of epochs whose rows stay, since they are not trained again.
        """
        path.mkdir(parents=True, exist_ok=True)
        rows = read_metrics(path)[:keep] if keep else []
        before = previous(path) or _delivered(path)
        tree = plain(config)
        result = {
            "format": 1,
            "job": before["job"] if before else uuid.uuid4().hex,
            "name": name,
            "status": JobState.running.value,
            "trial": trial,
            "params": flatten(tree),
            "metrics": {},
            "tags": tags,
            # This time identifies the attempt, so it must be new even if the clock was set back.
            "started": max(now(), before["started"] + 1) if before else now(),
            "ended": None,
            "epochs": keep,
            "error": None,
            "traceback": None,
            "dataset": dataset,
        }
        write(path / "config.yaml", to_yaml(tree))
        folder = cls(path, result)
        folder.names = [name for name in {name: None for row in rows for name in row} if name not in ROW]
        folder.last = rows[-1]["timestamp_ms"] if rows else 0
        # The rows are replaced before the result, so that no reader takes old rows for this attempt's.
        folder.write_rows(rows)
        folder.save()
        return folder

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append the row of an epoch (counted from 1)."""
        self.last = max(now(), self.last)
        row = {"epoch": epoch, "timestamp_ms": self.last} | metrics
        new = [name for name in metrics if name not in self.names]
        if new:  # the first epoch, or the first evaluation: the header grows
            rows = read_metrics(self.path) if self.result["epochs"] else []
            self.names += new
            self.write_rows([*rows, row])
        else:
            with open(self.path / "metrics.csv", "a", encoding="utf-8", newline="") as file:
                file.write(self._line(row))
        self.result["epochs"] = epoch

    def write_network(self, weights: bytes, facts: dict[str, Any]) -> None:
        """Write weights.pt, and write to the record what `rnnbench.load` checks and needs.

        Args:
            weights: the file, as torch.save makes it.
            facts: sizes of the network that the config does not have.
        """
        write(self.path / "weights.pt", weights)
        self.result["weights"] = {"sha256": hashlib.sha256(weights).hexdigest()} | facts

    def write_confusion(self, counts: Iterable[Sequence[int]], classes: Sequence[str] = ()) -> None:
        """Write the confusion matrix of the test set: counts (true class, predicted class).

        Args:
            counts: the matrix.
            classes: their names; a row and a column of names are then written beside the counts.
        """
        rows: Iterable[Sequence[object]] = counts
        if classes:
            names = [spreadsheet(name) for name in classes]
            rows = [[NAMED, *names], *([name, *row] for name, row in zip(names, counts, strict=True))]
        write_csv(self.path / "confusion.csv", rows)

    def write_lengths(self, accuracies: Iterable[tuple[float, float]]) -> None:
        """Write by_length.csv: pairs of a length and the test accuracy over inputs of that length."""
        rows = ((int(length), accuracy) for length, accuracy in accuracies)
        write_csv(self.path / "by_length.csv", [("length", "accuracy"), *rows])

    def end(
        self,
        status: str,
        metrics: dict[str, float],
        *,
        error: str | None = None,
        traceback: str | None = None,
    ) -> None:
        """Write the end of the job to its record.

        Args:
            status: value of the final JobState.
            metrics: the final metrics.
            error: why the trial failed.
            traceback: traceback of the exception that made it fail.

        Raises:
            ValueError: a running job cannot get this status, or the record has ended already.
        """
        if status == JobState.pruned:  # MLflow has no such status, so a tag holds it
            self.result["tags"] |= {"rnnbench.status": status}
        self.result |= {
            "status": JobState(self.result["status"]).then(JobState(status)).value,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "error": error,
            "traceback": traceback,
            "ended": max(now(), self.last, self.result["started"]),
        }
        self.save()

    def save(self) -> None:
        """Write result.json."""
        # JSON has no nan and no infinities: they are written as the strings that float() reads.
        metrics = {
            name: value if abs(value) < float("inf") else repr(value)
            for name, value in self.result["metrics"].items()
        }
        write_json(self.path / "result.json", self.result | {"metrics": metrics})

    def write_rows(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write metrics.csv anew."""
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow([*ROW, *self.names])
        write(self.path / "metrics.csv", header.getvalue() + "".join(map(self._line, rows)))

    def _line(self, row: dict[str, Any]) -> str:
        values = (repr(float(row[name])) if name in row else "" for name in self.names)
        return ",".join((str(row["epoch"]), str(row["timestamp_ms"]), *values)) + "\n"


def is_job(folder: Path) -> bool:
    """True if a folder holds the record of a trial."""
    return (folder / "result.json").exists()


def read_result(folder: Path | str) -> dict[str, Any]:
    """Read result.json; metrics are floats, nan and the infinities among them.

    Raises:
        FileNotFoundError: the folder is not a job folder.
        DamagedFile: the file does not hold a record.
    """
    file = Path(folder) / "result.json"
    result = read_json(file)
    check(file, result, RESULT)
    check(file, result["dataset"], {"name": str, "checksum": str})
    if "reused" in result:
        check(file, result, {"reused": dict})
        check(file, result["reused"], {"job": str, "folder": str})
    try:
        result["metrics"] = {name: float(value) for name, value in result["metrics"].items()}
    except (ValueError, TypeError, OverflowError) as error:
        raise DamagedFile(
            file, f"is damaged, or another tool's: its metrics are no numbers ({error})"
        ) from None
    remember(result["tags"])
    return result


def previous(folder: Path) -> dict[str, Any] | None:
    """Read the record of the last attempt in a folder, if there is one; rename a damaged one."""
    try:
        return read_result(folder)
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        set_aside(error, "the trial is trained again")
        return None


def _delivered(folder: Path) -> dict[str, Any] | None:
    """Return the identity that MLflow's run has of a folder whose result.json was damaged, or None.

    The next attempt keeps this identity, so that it replaces MLflow's run and adds no second one.
    """
    state = read_delivery(folder)
    return {"job": state["record"], "started": state["attempt"]} if "record" in state else None


NAMED = "true/predicted"  # the first cell of a confusion matrix whose classes have names


def abandon(folder: Path, error: str | None = None) -> None:
    """Record that a job was interrupted whose process is dead, if its record says that it runs.

    Args:
        error: why the job cannot be continued; if given, the job has failed. Its rows and snapshot stay.
    """
    result = previous(folder)
    if result is None:
        return
    state = JobState(result["status"])
    if state is JobState.running or (error is not None and state is JobState.interrupted):
        status = state.then(JobState.interrupted if error is None else JobState.failed).value
        ended = end_of(result, next(sound([folder], read_metrics), []))
        write_json(folder / "result.json", result | {"status": status, "error": error, "ended": ended})


def end_of(result: dict[str, Any], rows: Sequence[dict[str, Any]]) -> int:
    """Return when a job ended (ms since 1970); one whose process has died ended with its last row."""
    return int(result["ended"] or max([result["started"], *(row["timestamp_ms"] for row in rows[-1:])]))


def read_delivery(folder: Path | str) -> dict[str, Any]:
    """Read from mlflow.json what has been delivered of a job or sweep folder; {} for nothing.

    A damaged file counts as missing, since what it says can be looked up in MLflow.
    """
    file = Path(folder) / "mlflow.json"
    try:
        state = read_json(file)
        check(file, state, DELIVERY)
        if "status" in state:  # the file is a sweep's
            check(file, state, {"ended": moment_or_none})
        return state
    except FileNotFoundError:
        return {}
    except DamagedFile as error:
        warn(error, "what MLflow has is looked up there")
        return {}


def write_delivery(folder: Path, state: dict[str, Any]) -> bool:
    """Write to mlflow.json what has been delivered of a job or sweep folder; False if it says so already."""
    if state == read_delivery(folder):
        return False
    write_json(folder / "mlflow.json", state)
    return True


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """Read the rows of metrics.csv: epoch and timestamp_ms as int, the measured metrics as float.

    A row that is being written (no end of line yet) is left out.

    Raises:
        FileNotFoundError: the folder is not there.
        DamagedFile: the file is missing, or does not hold epochs.
    """
    file = Path(folder) / "metrics.csv"
    try:
        text = read(file)
    except FileNotFoundError:
        if file.parent.exists():
            raise DamagedFile(file, "is not there") from None
        raise
    try:
        header, *lines = csv.reader(io.StringIO(text[: text.rindex("\n") + 1], newline=""), strict=True)
        rows = [
            {"epoch": int(line[0]), "timestamp_ms": int(line[1])}
            | {name: float(cell) for name, cell in zip(header[2:], line[2:], strict=True) if cell}
            for line in lines
        ]
    except (ValueError, IndexError, csv.Error) as error:
        raise DamagedFile(file, f"is damaged, or another tool's: {error}") from None
    epochs = [row["epoch"] for row in rows]
    if tuple(header[:2]) != ROW or epochs != sorted(set(epochs)) or min([1, *epochs]) < 1:
        raise DamagedFile(file, "is damaged, or another tool's: its rows are not numbered by epochs")
    if not all(moment(row["timestamp_ms"]) for row in rows):
        raise DamagedFile(file, "is damaged: it has impossible times")
    return rows


def read_confusion(folder: Path) -> list[list[int]]:
    """Read the confusion matrix of confusion.csv: counts (true class, predicted class).

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: it is not a square matrix of counts.
    """
    return _confusion(folder)[1]


def read_classes(folder: Path) -> list[str]:
    """Read the names of the classes of confusion.csv; their numbers where they have no names.

    Raises:
        as `read_confusion`.
    """
    names, counts = _confusion(folder)
    return names or [str(number) for number in range(len(counts))]


def _confusion(folder: Path) -> tuple[list[str], list[list[int]]]:
    """Read names and counts of confusion.csv; no names where the classes have none."""
    file, names = folder / "confusion.csv", []
    try:
        rows = list(csv.reader(io.StringIO(read(file)), strict=True))
        if rows and rows[0][:1] == [NAMED]:
            names, rows = rows[0][1:], [row[1:] for row in rows[1:]]
        counts = [[int(cell) for cell in row] for row in rows]
    except (ValueError, csv.Error) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(file, f"is damaged, or another tool's: {error}") from None
    square = all(len(row) == len(counts) and min(row) >= 0 for row in counts)
    if not counts or not square or len(names) not in (0, len(counts)):
        raise DamagedFile(file, "is damaged, or another tool's: it is not a square table of counts")
    return names, counts


def read_overrides(folder: Path) -> list[str]:
    """Read the overrides that a job was composed from, as Hydra leaves them in the job folder.

    Raises:
        FileNotFoundError: Hydra's file is not there.
        DamagedFile: the file holds something else.
    """
    file = folder / ".hydra" / "overrides.yaml"
    try:
        words = yaml.safe_load(read(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(file, "is damaged: no YAML") from None
    if not isinstance(words, list) or not texts(words):
        raise DamagedFile(file, "is damaged, or another tool's: it is no list of overrides")
    return words


def read_lengths(folder: Path) -> list[tuple[int, float]]:
    """Read by_length.csv: pairs of a length and the test accuracy over inputs of that length.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: it holds something else.
    """
    file = folder / "by_length.csv"
    try:
        rows = csv.DictReader(io.StringIO(read(file)), strict=True)
        points = [(int(row["length"]), float(row["accuracy"])) for row in rows]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        if isinstance(error, DamagedFile):
            raise
        raise DamagedFile(file, f"is damaged, or another tool's: {error!r}") from None
    if not points:
        raise DamagedFile(file, "is damaged: it is empty")
    return points
