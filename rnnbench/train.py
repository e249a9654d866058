"""Train jobs: grouping into stacks, stacks side by side, the engine's reports into job folders.

No Hydra here: a job is a checked configuration and the folder that its record goes to. The engine,
and with it torch, is imported when training starts.
"""

import csv
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from rnnbench import show, tasks
from rnnbench.config import Config, ConfigError, Select, direction, objective, trial_hash
from rnnbench.record import (
    Courier,
    JobFolder,
    SweepFolder,
    job_folders,
    provenance,
    read_result,
    sync_command,
)

if TYPE_CHECKING:
    from rnnbench.engine import Outcome, Report, Slot, Stack


@dataclass
class Job:
    """One trial to be trained, and where its record goes."""

    name: str
    config: Config
    folder: Path
    prepare: Callable[[], None] = lambda: None  # makes the folder's other files, just before it starts
    value: float | None = None  # of the objective, once finished
    error: str | None = None  # why it failed


warn_once = lru_cache(show.warn)


@dataclass
class Group:
    """Jobs of equal shapes: those that wait, and those in the stack."""

    waiting: list[Job]
    active: dict[int, tuple[Job, JobFolder]] = field(default_factory=dict)  # by id of the slot


@dataclass
class Sweep:
    """An open sweep folder: its records, and their courier to MLflow."""

    folder: Path
    records: SweepFolder | None  # None in a process that works for the one that holds the folder
    courier: Courier | None
    live: show.Live | None = None
    interrupted: bool = False
    lock: RLock = field(default_factory=RLock)  # held by whoever writes records or to the terminal

    def train(self, jobs: Sequence[Job], max_stack: int | None) -> None:
        """Train jobs as stacks of equal shapes; each ends with its value or its error set.

        A job whose loss is not finite fails alone. When a stack raises, its jobs are trained again
        one by one, so that only the guilty one fails, with its own traceback; where memory ran out,
        in halves.

        Args:
            max_stack: trials that train together at most; None: as many as gain from it.
        """
        from rnnbench.engine import shape_key
        from rnnbench.kernels import missing
        from rnnbench.memory import places

        goal = objective(jobs[0].config)
        epochs = sum(job.config.fit.epochs for job in jobs)
        groups: dict[object, list[Job]] = {}
        for job in jobs:
            groups.setdefault(shape_key(job.config), []).append(job)
        sized = []
        for members in groups.values():
            config = members[0].config
            if line := missing(config):
                warn_once(line)
            sized.append((members, min(len(members), places(config, tasks.shape(config.data), max_stack))))
        self.live = show.Live(len(jobs), epochs, goal, direction(goal) == "maximize")
        try:
            self._train_groups(sized)
        finally:
            self.live.close()

    def _train_groups(self, groups: Sequence[tuple[list[Job], int]]) -> None:
        """Groups that fill the cores one after the other; then the others, several side by side."""
        from rnnbench.kernels import cores_used
        from rnnbench.kernels.compiled import cores

        used = [cores_used(members[0].config, width) for members, width in groups]
        wide = [group for group, count in zip(groups, used, strict=True) if 2 * count > cores()]
        narrow = [group for group, count in zip(groups, used, strict=True) if 2 * count <= cores()]
        for group in wide:
            self._train_group(*group)
        if len(narrow) < 2:  # in this thread, as long as nothing is gained by another
            for group in narrow:
                self._train_group(*group)
            return
        beside = cores() // max(count for count in used if 2 * count <= cores())
        with ThreadPoolExecutor(beside) as pool:
            pending = {pool.submit(self._train_group, *group) for group in narrow}
            try:
                while pending:  # wakes up now and then: a Ctrl-C may have been delivered to another thread
                    done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            except BaseException:  # Ctrl-C reaches this thread alone
                self.interrupted = True
                pool.shutdown(cancel_futures=True)
                raise

    def _poll(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    def _train_group(self, jobs: Sequence[Job], max_stack: int) -> None:
        from rnnbench.engine import Stack
        from rnnbench.memory import ran_out

        group = Group(list(jobs))
        try:
            stack = Stack(jobs[0].config, tasks.load(jobs[0].config.data), self._poll)
            self._admit(group, stack, max_stack)
            for report in stack.epochs():
                with self.lock:
                    self._report(group, report)
                ended = [slot for slot in report.slots if slot.ended]
                if ended:
                    with self.lock:
                        self._end(group, stack, ended)
                    self._admit(group, stack, max_stack)
        except KeyboardInterrupt:
            with self.lock:
                for _, folder in group.active.values():
                    folder.end("interrupted", {})
            raise
        except Exception as error:
            suspects = [job for job, _ in group.active.values()] or group.waiting
            rest = [job for job in group.waiting if job not in suspects]
            if len(suspects) == 1:
                message = f"{type(error).__name__}: {error}"
                with self.lock:
                    self._fail(suspects[0], self._start(suspects[0]), message, traceback.format_exc())
            else:
                half = ran_out(error)
                width = -(-len(suspects) // 2) if half else 1
                how = f"{width} at a time" if half else "one by one"
                show.warn(f"a stack of {len(suspects)} stopped: {error!r}; training its trials {how}")
                max_stack = width if half else max_stack
                for at in range(0, len(suspects), width):
                    self._train_group(suspects[at : at + width], width)
            if rest:
                self._train_group(rest, max_stack)

    def _admit(self, group: Group, stack: "Stack", max_stack: int) -> None:
        """Fill the free places of a stack."""
        free = max_stack - len(stack.slots)
        fresh = [stack.fresh(job.config) for job in group.waiting[:free]]
        if fresh:
            stack.admit(fresh)
            jobs, group.waiting = group.waiting[:free], group.waiting[free:]
            with self.lock:
                for job, trial in zip(jobs, fresh, strict=True):
                    group.active[id(trial.slot)] = job, self._start(job)

    def _start(self, job: Job) -> JobFolder:
        from rnnbench.kernels import kernel_name

        job.prepare()
        task = tasks.load(job.config.data)
        tags = provenance(job.config.fit.device) | {"rnnbench.kernel": kernel_name(job.config)}
        return JobFolder.start(
            job.folder,
            name=job.name,
            config=job.config,
            trial=trial_hash(job.config, task.checksum),
            dataset={"name": job.config.data.name, "checksum": task.checksum, "details": task.details},
            tags=tags,
        )

    def _report(self, group: Group, report: "Report") -> None:
        assert self.live is not None
        measured = []
        for slot, metrics in zip(report.slots, report.metrics, strict=True):
            job, folder = group.active[id(slot)]
            folder.epoch(slot.epoch, metrics)
            self._changed(folder.path)
            split, _, name = objective(job.config).removeprefix("best/").partition("_")
            if f"{split}/{name}" in metrics:
                measured.append(metrics[f"{split}/{name}"])
        self.live.epoch(len(report.slots), measured)

    def _end(self, group: Group, stack: "Stack", slots: "Sequence[Slot]") -> None:
        from rnnbench.engine import conclude

        for slot in slots:
            if slot.diverged:
                job, folder = group.active[id(slot)]
                message = (
                    f"the training loss is not finite in epoch {slot.epoch}; "
                    f"a lower optim.lr (here {job.config.optim.lr:g}) or fit.clip=1 may help"
                )
                self._fail(job, folder, message, None)
        for outcome in conclude(stack, slots):
            self._finish(*group.active[id(outcome.slot)], outcome)
        for slot in slots:
            del group.active[id(slot)]

    def _finish(self, job: Job, folder: JobFolder, outcome: "Outcome") -> None:
        import torch

        assert self.live is not None
        weights = folder.path / "weights.pt.part"
        torch.save({"parameters": outcome.weights.clone()}, weights)  # a view takes its whole stack along
        weights.rename(folder.path / "weights.pt")
        with open(folder.path / "confusion.csv", "w", newline="") as file:
            csv.writer(file).writerows(outcome.confusion.tolist())
        folder.end("finished", outcome.metrics)
        self._changed(folder.path)
        goal = objective(job.config)
        job.value = outcome.metrics[goal]
        line = (
            f"{job.name}: {goal} {job.value:.4f} at epoch {outcome.slot.best_epoch} of {outcome.slot.epoch}"
        )
        self.live.end(line, job.config.fit.epochs - outcome.slot.epoch, failed=False)

    def _fail(self, job: Job, folder: JobFolder, message: str, trace: str | None) -> None:
        assert self.live is not None
        job.error = message
        folder.end("failed", {}, error=message, traceback=trace)
        self._changed(folder.path)
        left = job.config.fit.epochs - folder.result["epochs"]
        self.live.end(f"{job.name}: failed: {message}", left, failed=True)
        if trace:
            show.err.print(trace, markup=False, highlight=False)

    def _changed(self, folder: Path) -> None:
        if self.courier is not None:
            self.courier.changed(folder)

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

    def place(self, jobs: Sequence[Job], first: int) -> None:
        """Give each job its folder: that of the same trial if it is there, else the next free number."""
        there = self.records.trials() if self.records is not None else {}
        taken = {int(path.name) for paths in there.values() for path in paths}
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
    failed = error is not None or any(result["status"] == "failed" for result in results)
    if results:
        comparison = show.compare(results)
        comparison.save(sweep.folder)
        comparison.print()
    if config.fit.select is Select.test:
        show.say("This protocol watches the test set: its accuracies are optimistic.", "yellow")
    interrupted = isinstance(error, KeyboardInterrupt)
    sweep.records.end("interrupted" if interrupted else "failed" if failed else "finished")
    show.say(f"records: {os.path.relpath(sweep.folder)}")
    if sweep.courier is not None:
        left = sweep.courier.close()
        if left:
            show.warn(f"{left} of {len(results)} trials are not in MLflow yet: {sync_command(sweep.folder)}")
        elif str(config.tracking.uri).startswith("sqlite"):
            show.say(f"compare: mlflow ui --backend-store-uri {config.tracking.uri}")
        else:
            show.say(f"compare: {config.tracking.uri}")
