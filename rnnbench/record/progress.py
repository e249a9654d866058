"""Reads how far a sweep has come from its records, while another process may be training it."""

import math
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rnnbench.config import direction, identifies
from rnnbench.config.metrics import measured_by
from rnnbench.config.user_code import IMPORT
from rnnbench.job_state import JobState
from rnnbench.record.job_folder import now, read_metrics, read_result
from rnnbench.record.sweep_folder import held, read_sweep
from rnnbench.system.files import DamagedFile

STUDY, NUMBER = "rnnbench.study", "rnnbench.number"  # tags of a search's jobs
MEMBERS = ("seed", "data.fold")  # keys over which a cell of a grid, or a suggestion, averages
UNFINISHED = (JobState.running, JobState.interrupted)


@dataclass
class JobNow:
    """A job as its folder shows it at this moment."""

    folder: Path
    state: JobState
    result: dict[str, Any]
    rows: Sequence[dict[str, Any]]  # of metrics.csv, if the job is unfinished

    @property
    def params(self) -> dict[str, Any]:
        """The values of its configuration by key."""
        params: dict[str, Any] = self.result["params"]
        return params

    @property
    def epochs(self) -> int:
        """The number of epochs that it has trained."""
        return int(self.rows[-1]["epoch"] if self.rows else self.result["epochs"])

    @property
    def planned(self) -> int:
        """The number of epochs that it trains in all; early stopping aside."""
        count = self.params.get("fit.epochs")
        return max(self.epochs, count) if self.state in UNFINISHED and type(count) is int else self.epochs

    def value(self, goal: str) -> float:
        """Return the final value of a metric; of an unfinished job its best so far; nan without one."""
        if self.state not in UNFINISHED:
            return float(self.result["metrics"].get(goal, math.nan))
        name = goal.removeprefix("best/").replace("_", "/", 1) if goal.startswith("best/") else goal
        seen = [row[name] for row in self.rows if math.isfinite(row.get(name, math.nan))]
        return (max if direction(goal) == "maximize" else min)(seen, default=math.nan)


@dataclass
class Cell:
    """The jobs of one configuration under its seeds and folds, or of one suggestion of a search."""

    jobs: list[JobNow]
    values: list[float]  # of the objective; of several seeds with folds, each seed's mean over its folds
    number: str | None = None  # of the suggestion

    @property
    def mean(self) -> float:
        """The mean of the objective; nan without a value."""
        return statistics.fmean(self.values) if self.values else math.nan


class SweepNow:
    """A sweep folder as it is at this moment.

    Args:
        folder: the sweep folder.
        info: its sweep.json.
        jobs: its jobs, in order of number, without those whose records are damaged.
        damaged: what is wrong with these.
        alive: whether a process holds the folder.
    """

    def __init__(
        self, folder: Path, info: dict[str, Any], jobs: list[JobNow], damaged: list[str], *, alive: bool
    ) -> None:
        self.folder, self.info, self.jobs, self.damaged, self.alive = folder, info, jobs, damaged, alive
        plan = info.get("plan")
        self.plan: dict[str, Any] = plan if isinstance(plan, dict) else {}

    @property
    def status(self) -> str:
        """The status of the sweep: interrupted if its record says running, but no process holds it."""
        running = self.info["status"] == JobState.running
        return JobState.interrupted.value if running and not self.alive else str(self.info["status"])

    @cached_property
    def is_search(self) -> bool:
        """Whether Optuna suggests its trials."""
        return any(STUDY in job.result["tags"] for job in self.jobs) or "trials" in self.plan

    @cached_property
    def members(self) -> list[JobNow]:
        """Its jobs without those that confirm the winner of a search under fresh seeds, N.c0, N.c1, ..."""
        return [job for job in self.jobs if not job.folder.name.partition(".")[2].startswith("c")]

    @cached_property
    def goal(self) -> str | None:
        """The metric by which its trials are compared; None if none suits all of them."""
        given = self.plan.get("objectives")
        goals = set(
            map(str, given if isinstance(given, list) else (_goal(job.params) for job in self.members))
        )
        tasks = {job.params.get("data.name") for job in self.members}
        return goals.pop() if len(goals) == 1 and len(tasks) < 2 else None

    @property
    def waiting(self) -> int:
        """The number of jobs that have not begun; 0 if it is not known how many there are."""
        return max(0, _count(self.plan, "jobs") - len(self.members) - len(self.damaged))

    def states(self) -> dict[str, int]:
        """Count the jobs by state, in the order of a job's life."""
        counts = Counter(job.state for job in self.members)
        counts[JobState.waiting] += self.waiting
        order = ("finished", "pruned", "running", "interrupted", "waiting", "failed")
        return {name: counts[JobState(name)] for name in order if counts[JobState(name)]}

    def epochs(self) -> tuple[int, int]:
        """Return how many epochs are done, and how many there are in all; early stopping aside."""
        done, known = (sum(getattr(job, name) for job in self.members) for name in ("epochs", "planned"))
        lengths = [job.params.get("fit.epochs") for job in self.members]
        each = statistics.fmean([n for n in lengths if type(n) is int] or [0])
        return done, known + round(each * self.waiting)

    def seconds_left(self, at: int | None = None) -> float | None:
        """Reckon the time left from the epochs a second since the command began; None if it is not known.

        Args:
            at: the time in ms since 1970; None: now.
        """
        since = _count(self.plan, "since") or self.info["started"]
        done = 0
        for job in self.members:
            if job.state in UNFINISHED:
                done += sum(row["timestamp_ms"] >= since for row in job.rows)
            elif job.result["started"] >= since:
                done += job.epochs
        trained, planned = self.epochs()
        passed = (at or now()) - since
        return (planned - trained) * passed / done / 1000 if done and passed > 0 else None

    def best(self, *, final: bool) -> Cell | None:
        """Return the best configuration of a grid, or suggestion of a search, by its mean.

        Args:
            final: whether finished jobs alone count, and of suggestions those whose jobs all have; as long as
                there is one with all its repeats and folds, none that lacks some, as after an interruption.
        """
        goal = self.goal
        if goal is None:
            return None
        cells = [cell for cell in self.cells(goal, final=final) if math.isfinite(cell.mean)]
        if final and self.is_search:
            each = _count(self.plan, "jobs") // max(1, _count(self.plan, "trials"))
            cells = [cell for cell in cells if len(cell.jobs) >= each] or cells
        better = max if direction(goal) == "maximize" else min
        return better(cells, key=lambda cell: cell.mean, default=None)

    def cells(self, goal: str, *, final: bool) -> list[Cell]:
        """Return the configurations of a grid, or suggestions of a search, with their values."""
        groups: dict[Any, list[JobNow]] = {}
        for job in self.members:
            key = job.result["tags"].get(NUMBER) if self.is_search else _configuration(job)
            groups.setdefault(key, []).append(job)
        found = []
        for key, jobs in groups.items():
            wanted = [job for job in jobs if job.state is JobState.finished or not final]
            if final and self.is_search and len(wanted) < len(jobs):
                continue
            found.append(Cell(jobs, _values(_once(wanted), goal), key if self.is_search else None))
        return found

    def trials(self) -> tuple[int, int]:
        """Return how many suggestions of a search have ended, and how many there are to be, 0 if unknown."""
        groups: dict[str, list[JobNow]] = {}
        for job in self.members:
            groups.setdefault(job.result["tags"].get(NUMBER, ""), []).append(job)
        ended = sum(not any(job.state in UNFINISHED for job in jobs) for jobs in groups.values())
        return ended, _count(self.plan, "trials")


class Reader:
    """Reads sweeps again and again; a record whose file has not changed is not read again."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[tuple[int, int], dict[str, Any] | DamagedFile]] = {}

    def read(self, folder: Path) -> SweepNow:
        """Read a sweep folder as it is now.

        Raises:
            FileNotFoundError: there is no sweep.
            DamagedFile: its sweep.json is damaged.
        """
        info = read_sweep(folder)
        alive = info["status"] == JobState.running and held(folder)
        jobs, damaged = [], []
        for path in _folders(folder):
            result = self._result(path)
            if isinstance(result, DamagedFile):
                damaged.append(str(result))
            elif result is not None:
                jobs.append(_job(path, result, alive))
        return SweepNow(folder, info, jobs, damaged, alive=alive)

    def _result(self, path: str) -> dict[str, Any] | DamagedFile | None:
        """Return result.json of a folder, what is wrong with it, or None if there is none."""
        file = f"{path}/result.json"
        try:
            about = os.stat(file)
            stamp = about.st_mtime_ns, about.st_size
            if path in self.known and self.known[path][0] == stamp:
                return self.known[path][1]
            result: dict[str, Any] | DamagedFile = read_result(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedFile as error:
            result = error
        self.known[path] = stamp, result
        return result


def _folders(folder: Path) -> list[str]:
    """Return the folders in a sweep folder, in order of number."""
    with os.scandir(folder) as found:
        names = [each.name for each in found if each.is_dir() and not each.name.startswith(".")]
    names.sort(key=lambda name: [(len(part), part) for part in name.split(".")])
    return [f"{folder}/{name}" for name in names]


def _job(path: str, result: dict[str, Any], alive: bool) -> JobNow:
    """Return a job with the rows of its epochs, which a finished one's record has the number of."""
    state = JobState(result["status"])
    if state is JobState.running and not alive:
        state = JobState.interrupted
    rows: list[dict[str, Any]] = []
    if state in UNFINISHED:
        try:
            rows = read_metrics(path)
        except (FileNotFoundError, DamagedFile):
            rows = []  # deleted, or damaged: nothing is known of its epochs
    return JobNow(Path(path), state, result, rows)


def _goal(params: Mapping[str, Any]) -> str:
    """Return the objective of a recorded trial; a metric of the test set only where that was watched."""
    split = params.get("fit.select", "val")
    goal = str(params.get("objective") or f"{split}/{measured_by(params)[0]}")
    if goal in [f"{split}/{name}" for name in (*measured_by(params), "loss")]:
        return f"best/{goal.replace('/', '_')}"
    return goal


def _configuration(job: JobNow) -> tuple[Any, ...]:
    """Return what jobs of one cell have in common: what determines their numbers, but for seed and fold."""
    values = [(k, str(v)) for k, v in job.params.items() if identifies(k) and k not in MEMBERS]
    return (*values, *sorted((k, v) for k, v in job.result["tags"].items() if k.startswith(IMPORT)))


def _values(jobs: Sequence[JobNow], goal: str) -> list[float]:
    """Return the values of a cell, of jobs that have one; folds of a seed are no independent trials."""
    seeds: dict[Any, list[float]] = {}
    for job in jobs:
        if math.isfinite(value := job.value(goal)):
            seeds.setdefault(job.params.get("seed"), []).append(value)
    if len(seeds) > 1 and jobs[0].params.get("data.folds") is not None:
        return [statistics.fmean(values) for values in seeds.values()]
    return [value for values in seeds.values() for value in values]


def _once(jobs: Sequence[JobNow]) -> list[JobNow]:
    """Return one job of each trial: a copy of a record is no second seed."""
    return list({job.result["trial"]: job for job in jobs}.values())


def _count(plan: Mapping[str, Any], key: str) -> int:
    """Return a number of the plan in sweep.json; 0 if it has none."""
    value = plan.get(key)
    return value if type(value) is int and value > 0 else 0
