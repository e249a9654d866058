"""The books of an open sweep: what becomes of its jobs goes into their folders, to MLflow's courier and
to the terminal."""

import csv
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from rnnbench import show, tasks
from rnnbench.config import Config, ConfigError, Select, imported, objective, trial_hash
from rnnbench.record import (
    Courier,
    JobFolder,
    SweepFolder,
    held,
    job_folders,
    provenance,
    read_result,
    sync_command,
)

if TYPE_CHECKING:
    from rnnbench.engine import Outcome, Slot


@dataclass
class Job:
    """One trial to be trained, and where its record goes."""

    name: str
    config: Config
    folder: Path
    prepare: Callable[[], None] = lambda: None  # makes the folder's other files, just before it starts
    tags: dict[str, str] = field(default_factory=dict)  # for its record, besides where it comes from
    watch: "Callable[[Slot], None] | None" = None  # is given its slot after every evaluation
    pruned: bool = False  # whoever watches it has seen enough
    record: JobFolder | None = None  # while it trains
    value: float | None = None  # of the objective, once finished
    error: str | None = None  # why it failed


@dataclass
class Sweep:
    """An open sweep folder: its records, and their courier to MLflow."""

    folder: Path
    records: SweepFolder | None  # None in a process that works for the one that holds the folder
    courier: Courier | None
    live: show.Live | None = None
    interrupted: bool = False
    lock: RLock = field(default_factory=RLock)  # held by whoever writes records or to the terminal
    compared: bool = True  # whether its table compares all trials

    def start(self, job: Job) -> None:
        """A job has its place in a stack: its record begins."""
        from rnnbench.kernels import kernel_name

        job.prepare()
        task = tasks.load(job.config.data)
        tags = provenance(job.config.fit.device) | {"rnnbench.kernel": kernel_name(job.config)} | job.tags
        tags |= {f"rnnbench.import.{name}": digest for name, digest in imported(job.config).items()}
        job.record = JobFolder.start(
            job.folder,
            name=job.name,
            config=job.config,
            trial=trial_hash(job.config, task.checksum),
            dataset={"name": job.config.data.name, "checksum": task.checksum, "details": task.details},
            tags=tags,
        )

    def epoch(self, job: Job, epoch: int, metrics: dict[str, float]) -> None:
        """A job has done an epoch."""
        assert job.record is not None and self.live is not None
        job.record.epoch(epoch, metrics)
        self._changed(job)
        split, _, name = objective(job.config).removeprefix("best/").partition("_")
        watched = f"{split}/{name}"
        self.live.epoch(1, [metrics[watched]] if watched in metrics else [])

    def finish(self, job: Job, outcome: "Outcome") -> None:
        """A job has its final figures."""
        import torch

        weights = job.folder / "weights.pt.part"
        torch.save({"parameters": outcome.weights.clone()}, weights)  # a view takes its whole stack along
        weights.rename(job.folder / "weights.pt")
        if outcome.confusion is not None:
            with open(job.folder / "confusion.csv", "w", newline="") as file:
                csv.writer(file).writerows(outcome.confusion.tolist())
        if outcome.by_length is not None:
            with open(job.folder / "by_length.csv", "w", newline="") as file:
                rows = ((int(length), accuracy) for length, accuracy in outcome.by_length.tolist())
                csv.writer(file).writerows([("length", "accuracy"), *rows])
        goal, slot = objective(job.config), outcome.slot
        job.value = outcome.metrics[goal]
        line = f"{goal} {show.number(goal, job.value)} at epoch {slot.best_epoch} of {slot.epoch}"
        self._end(job, "finished", line, metrics=outcome.metrics)

    def prune(self, job: Job) -> None:
        """A job was stopped, since the search expects no more of it."""
        assert job.record is not None
        job.record.result["tags"] |= {"rnnbench.status": "pruned"}
        self._end(job, "pruned", f"pruned at epoch {job.record.result['epochs']}")

    def fail(self, job: Job, message: str, error: Exception | None = None) -> None:
        """A job has no result."""
        if job.record is None:
            self.start(job)
        job.error = message
        trace = "".join(traceback.format_exception(error)) if error else None
        self._end(job, "failed", f"failed: {message}", error=message, trace=trace)
        if trace:
            show.err.print(trace, markup=False, highlight=False)

    def _end(
        self,
        job: Job,
        status: str,
        line: str,
        *,
        metrics: dict[str, float] | None = None,
        error: str | None = None,
        trace: str | None = None,
    ) -> None:
        assert job.record is not None
        job.record.end(status, metrics or {}, error=error, traceback=trace)
        self._changed(job)
        left = job.config.fit.epochs - job.record.result["epochs"]
        if self.live is not None:
            self.live.end(f"{job.name}: {line}", left, failed=error is not None)
        job.record = None

    def interrupt(self, job: Job) -> None:
        """A job is left where it is."""
        if job.record is not None:
            job.record.end("interrupted", {})
            job.record = None

    def _changed(self, job: Job) -> None:
        if self.courier is not None:
            self.courier.changed(job.folder)

    def finished(self, job: Job) -> bool:
        """Whether the job's folder holds the finished record of this very trial; then takes its value.

        Raises:
            ConfigError: the folder holds another trial.
        """
        if not (job.folder / "result.json").exists():
            return False
        result = read_result(job.folder)
        trial = trial_hash(job.config, tasks.load(job.config.data).checksum)
        if result["trial"] != trial:
            raise ConfigError(
                f"hydra.sweep.dir={self.folder}: {job.folder} holds another trial ({result['name']}); "
                "give a new folder"
            )
        if result["status"] != "finished":
            return False
        job.value = result["metrics"][objective(job.config)]
        return True

    def place(self, jobs: Sequence[Job], first: int, promised: dict[str, list[Path]] | None = None) -> None:
        """Give each job its folder: that of the same trial if it is there, else the next free number.

        Args:
            promised: folders by trial hash that no record is in yet.
        """
        there = self.records.trials() if self.records is not None else {}
        for trial, folders in (promised or {}).items():
            known = there.setdefault(trial, [])
            known += [folder for folder in folders if folder not in known]
        taken = {int(path.name) for paths in there.values() for path in paths if path.name.isdigit()}
        number = first
        for job in jobs:
            same = there.get(trial_hash(job.config, tasks.load(job.config.data).checksum))
            if same:
                job.folder = same.pop(0)
                continue
            while number in taken:
                number += 1
            taken.add(number)
            job.folder = self.folder / str(number)


def close(sweep: Sweep, config: Config, error: BaseException | None) -> None:
    """The end of a sweep: its table, the last deliveries, where the records are.

    Args:
        error: what ended it before its time.
    """
    assert sweep.records is not None
    results = [read_result(folder) for folder in job_folders(sweep.folder)]
    # A search goes on without a trial that fails, and has ended well where a comparison has not.
    failed = error is not None or (sweep.compared and any(result["status"] == "failed" for result in results))
    if results:
        comparison = show.compare(results)
        comparison.save(sweep.folder)
        if sweep.compared:
            comparison.print()
    if config.fit.select is Select.test:
        show.say("This protocol watches the test set: its accuracies are optimistic.", "yellow")
    interrupted = isinstance(error, KeyboardInterrupt)
    sweep.records.end("interrupted" if interrupted else "failed" if failed else "finished")
    show.say(f"records: {os.path.relpath(sweep.folder)}")
    if sweep.courier is not None:
        left = sweep.courier.close()
        # What others who share the folder train is theirs to deliver, and the last one sees to all.
        if left and not (sweep.records.info["shared"] and held(sweep.folder)):
            show.warn(f"{left} of {len(results)} trials are not in MLflow yet: {sync_command(sweep.folder)}")
        elif str(config.tracking.uri).startswith("sqlite"):
            show.say(f"compare: mlflow ui --backend-store-uri {config.tracking.uri}")
        else:
            show.say(f"compare: {config.tracking.uri}")
