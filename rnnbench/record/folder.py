"""The job folder: what a trial leaves on disk while it trains and when it ends. The truth of the record.

    N/config.yaml    the config, resolved
      metrics.csv    one row an epoch: epoch, timestamp_ms, then the metrics by name; an empty cell is a
                     metric that was not measured after that epoch
      result.json    status, identity, params, final metrics, where the numbers come from

Numbers are written with repr, so that what is read is what was measured, bit for bit.
"""

import csv
import io
import json
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rnnbench.config import Config, flatten, plain, to_yaml

ROW = ("epoch", "timestamp_ms")
NETWORK = ("weights.pt", "config.yaml", "result.json")  # the files that a trained network is made from again


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def write(path: Path, text: str) -> None:
    """Replace a file as a whole: who reads it sees the old text or the new one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="")
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole; numbers that JSON does not have raise ValueError."""
    write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


class JobFolder:
    """Writes the record of one trial. `path` is its folder."""

    def __init__(self, path: Path, result: dict[str, Any]) -> None:
        self.path = path
        self.result = result
        self.names: list[str] = []  # the metrics of the header
        self.last = 0  # timestamp of the last row: a clock that is set back turns no history round

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
        """Make the folder, or take an unfinished one and begin its record anew, or go on with it.

        Args:
            name: readable, for tables and MLflow.
            trial: `rnnbench.config.trial_hash` of the config.
            dataset: JSON types, `name` and `checksum` among them.
            tags: where the numbers come from, see `provenance`.
            keep: epochs that are not trained again: their rows stay.
        """
        path.mkdir(parents=True, exist_ok=True)
        rows = read_metrics(path)[:keep] if keep else []
        before = read_result(path) if (path / "result.json").exists() else None
        tree = plain(config)
        result = {
            "format": 1,
            "job": before["job"] if before else uuid.uuid4().hex,
            "name": name,
            "status": "running",
            "trial": trial,
            "params": flatten(tree),
            "metrics": {},
            "tags": tags,
            # Names the attempt: never that of an earlier one, even if the clock was set back.
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
        # The rows go before the result does: no reader takes rows of the last attempt for this one's.
        folder._rewrite(rows)
        folder._save()
        return folder

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append the row of an epoch (counted from 1)."""
        self.last = max(now(), self.last)
        row = {"epoch": epoch, "timestamp_ms": self.last} | metrics
        new = [name for name in metrics if name not in self.names]
        if new:  # the first epoch, or the first evaluation: the header grows
            rows = read_metrics(self.path) if self.result["epochs"] else []
            self.names += new
            self._rewrite([*rows, row])
        else:
            with open(self.path / "metrics.csv", "a", encoding="utf-8", newline="") as file:
                file.write(self._line(row))
        self.result["epochs"] = epoch

    def end(
        self,
        status: str,
        metrics: dict[str, float],
        error: str | None = None,
        traceback: str | None = None,
    ) -> None:
        """Close the record.

        Args:
            status: finished, failed or interrupted.
            metrics: the final ones.
        """
        self.result |= {
            "status": status,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "error": error,
            "traceback": traceback,
            "ended": max(now(), self.last, self.result["started"]),
        }
        self._save()

    def _save(self) -> None:
        # JSON has no nan and no infinities: they are written as the strings that float() reads.
        metrics = {
            name: value if abs(value) < float("inf") else repr(value)
            for name, value in self.result["metrics"].items()
        }
        write_json(self.path / "result.json", self.result | {"metrics": metrics})

    def _rewrite(self, rows: Iterable[dict[str, Any]]) -> None:
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow([*ROW, *self.names])
        write(self.path / "metrics.csv", header.getvalue() + "".join(map(self._line, rows)))

    def _line(self, row: dict[str, Any]) -> str:
        values = (repr(float(row[name])) if name in row else "" for name in self.names)
        return ",".join((str(row["epoch"]), str(row["timestamp_ms"]), *values)) + "\n"


def read_result(folder: Path | str) -> dict[str, Any]:
    """What result.json holds; metrics are floats, nan and the infinities among them.

    Raises:
        FileNotFoundError: the folder is not a job folder.
    """
    result: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    result["metrics"] = {name: float(value) for name, value in result["metrics"].items()}
    return result


def inherit(old: Path, new: Path, checkpoint: str) -> None:
    """Have a job that was broken off go on in another folder, as a job of its own with the same rows.

    Args:
        checkpoint: name of the file to go on from, which moves; last, so that it is in one of the two.
    """
    new.mkdir(parents=True, exist_ok=True)
    text = (old / "metrics.csv").read_text(encoding="utf-8")
    write(new / "metrics.csv", text[: text.rindex("\n") + 1])
    result = json.loads((old / "result.json").read_text(encoding="utf-8"))
    write_json(new / "result.json", result | {"job": uuid.uuid4().hex, "status": "interrupted"})
    os.replace(old / checkpoint, new / checkpoint)


def abandon(folder: Path, error: str | None = None) -> None:
    """Note that a job was interrupted whose process is dead, if its record says that it runs.

    Args:
        error: why nobody will go on with it: then it has failed. Its rows and its checkpoint stay.
    """
    result = read_result(folder)
    if result["status"] == "running" or (error is not None and result["status"] == "interrupted"):
        status = "interrupted" if error is None else "failed"
        ended = end_of(result, read_metrics(folder))
        write_json(folder / "result.json", result | {"status": status, "error": error, "ended": ended})


def end_of(result: dict[str, Any], rows: Sequence[dict[str, Any]]) -> int:
    """When a job ended; one whose process has died, with its last row."""
    return int(result["ended"] or max([result["started"], *(row["timestamp_ms"] for row in rows[-1:])]))


def read_delivery(folder: Path | str) -> dict[str, Any]:
    """What mlflow.json says has been delivered of a job or sweep folder; {} for nothing."""
    file = Path(folder) / "mlflow.json"
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return state


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """The rows of metrics.csv: epoch and timestamp_ms as int, and the measured metrics as float.

    A row that is being written (no end of line yet) is left out.
    """
    text = (Path(folder) / "metrics.csv").read_text(encoding="utf-8")
    header, *lines = csv.reader(io.StringIO(text[: text.rindex("\n") + 1], newline=""))
    return [
        {"epoch": int(line[0]), "timestamp_ms": int(line[1])}
        | {name: float(cell) for name, cell in zip(header[2:], line[2:], strict=True) if cell}
        for line in lines
    ]
