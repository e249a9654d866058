"""Writes the records of a sweep folder to MLflow, where each becomes one run, exactly once.

A job's mlflow.json says what has been delivered, and is written after MLflow has answered. After a crash
some of it may be sent again, so every step can be repeated: a run is looked up by its `rnnbench.job` tag
before it is created; a metric is sent with the timestamp of its row, and of equal metrics (name, step,
timestamp, value) MLflow keeps one; params stay the same. A job that is trained again has other rows for the
same steps: it becomes a new run, and the run of its last attempt is deleted.
"""

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rnnbench.config.uris import absolute, sqlite_file
from rnnbench.job_state import JobState
from rnnbench.mlflow_sync.artifacts import job_artifacts
from rnnbench.mlflow_sync.cells import cells_of, deliver_cells
from rnnbench.mlflow_sync.connection import connect, permanent, settle, store_errors
from rnnbench.mlflow_sync.copies import run_of_origin
from rnnbench.mlflow_sync.entities import SOURCE, dataset_input, log, sweep_facts, sweep_name, tags_of
from rnnbench.mlflow_sync.fields import NAME, NOT_IN_A_NAME, PARENT, STATUS, TAG_CHARS, cut, param_name
from rnnbench.mlflow_sync.runs import HOST, Identity, Runs, place_of
from rnnbench.mlflow_sync.store import NoAnswer, Refusal, StoreError, first_line
from rnnbench.record.job_folder import (
    end_of,
    is_job,
    read_delivery,
    read_metrics,
    read_overrides,
    read_result,
)
from rnnbench.record.sweep_folder import delete_command, held, job_folders, read_sweep, results, status_now
from rnnbench.system.files import DamagedFile

TRIES = 10  # deliveries without progress until a store that answers with errors is given up


class Delivery:
    """Delivers one sweep folder.

    `refused` maps names of jobs to the reason why MLflow refuses their records; "" is the sweep's own record.

    Args:
        say: is given each message for the user.

    Raises (all methods):
        StoreError: the store does not answer. The rest can be delivered later.
    """

    def __init__(self, sweep: Path, say: Callable[[str], None] = print) -> None:
        self.sweep = sweep
        self.say = say
        self.refused: dict[str, str] = {}
        self.delivered = 0  # number of runs that this object has delivered
        info = read_sweep(sweep)
        self.uri: str = absolute(info["tracking"]["uri"])
        self.experiment: str = info["tracking"]["experiment"]
        self.artifacts: list[str] = info["tracking"]["artifacts"]
        self.single: bool = info["single"]
        self.alone = not info.get("shared", False)  # no other process delivers this folder
        self.runs: Runs | None = None  # None until the store has answered

    def deliver_all(self) -> None:
        """Deliver everything that is new in the sweep folder, and try again after errors that may pass.

        Raises:
            StoreError: the store does not answer, or fails TRIES times in a row without progress.
        """
        failures = 0
        while True:
            before = self.runs.notes if self.runs is not None else 0
            try:
                self.deliver(job_folders(self.sweep))
                return
            except (NoAnswer, Refusal):
                raise
            except StoreError:
                further = self.runs is not None and self.runs.notes > before
                failures = 1 if further else failures + 1
                if failures == TRIES:
                    raise
                time.sleep(0.2)

    def deliver(self, jobs: Iterable[Path]) -> None:
        """Deliver what is new in these job folders and in the sweep's own record."""
        settle(self.uri)
        with store_errors():
            runs, parent = self._open()
            try:
                trouble = self._deliver_jobs(runs, parent, jobs)
                if parent is not None:
                    self._deliver_sweep(runs, parent)
                if trouble is not None:
                    raise trouble
            finally:
                self._tell_restored(runs)

    def _open(self) -> tuple[Runs, str | None]:
        """Connect to the store, and find or make the sweep's own run.

        Returns:
            the runs of the sweep folder, and the id of the sweep's own run; None for a single run.

        Raises:
            Refusal: the store refuses the sweep's own run.
        """
        from mlflow.exceptions import MlflowException

        try:
            if self.runs is None:
                client, experiment_id = connect(self.uri, self.experiment, self.say)
                self.runs = Runs(
                    client, experiment_id, uri=self.uri, experiment=self.experiment, alone=self.alone
                )
            return self.runs, None if self.single else self._parent(self.runs)
        except MlflowException as error:
            if permanent(error):
                raise Refusal(first_line(error)) from error
            raise

    def _parent(self, runs: Runs) -> str:
        """Find or make the sweep's own run, and return its id."""
        info = read_sweep(self.sweep)
        tags = {"rnnbench.command": " ".join(info["command"]), "rnnbench.host": HOST} | SOURCE
        place = {"rnnbench.folder": place_of(self.sweep), NAME: sweep_name(self.sweep)}
        state = runs.find_or_make(Identity.of_sweep(self.sweep, info), info["name"], tags=tags, place=place)
        return str(state["run_id"])

    def _deliver_jobs(self, runs: Runs, parent: str | None, jobs: Iterable[Path]) -> Exception | None:
        """Deliver jobs, and go on after one that fails; return the last error that may pass, or None.

        If two jobs in a row fail, the store is at fault, and the error is raised.
        """
        trouble = last = None
        for job in jobs:
            if not is_job(job):  # the folder has been deleted
                continue
            error = self._try_job(runs, parent, job)
            if error is not None and last is not None:
                raise error
            last = error
            trouble = trouble if error is None else error
        return trouble

    def _try_job(self, runs: Runs, parent: str | None, job: Path) -> Exception | None:
        """Deliver a job, or write to `refused` why MLflow refuses it; return an error that may pass."""
        from mlflow.exceptions import MlflowException

        try:
            self._deliver_job(runs, parent, job)
        except DamagedFile as error:
            self.refused[job.name] = str(error)
        except (MlflowException, OSError) as error:
            if not permanent(error):
                return error
            self.refused[job.name] = first_line(error)
        except (ValueError, TypeError, LookupError) as error:
            damage = f"a file of it is damaged ({type(error).__name__}: {first_line(error)})"
            self.refused[job.name] = damage
        else:
            self.refused.pop(job.name, None)
        return None

    def _deliver_job(self, runs: Runs, parent: str | None, job: Path) -> None:
        result = read_result(job)  # read before the rows: a job writes its last row before its end
        origin = run_of_origin(result, self.uri, self.experiment)
        if origin is not None and runs.is_active(origin):
            return
        identity = Identity.of_job(job, result)
        place = {"rnnbench.folder": place_of(job)} | ({} if parent is None else {PARENT: parent})
        tags = tags_of(result) | ({} if parent is None else {NAME: sweep_name(self.sweep)})
        state = runs.find_or_make(identity, result["name"], tags=tags, place=place)
        if state["final"]:
            return
        rows = read_metrics(job)
        result |= {"status": status_now(result, job), "ended": end_of(result, rows)}
        given = _given(job) if state["epochs"] == 0 else set()
        log(runs.client, state, result, rows, given)
        runs.note(job, state)
        if result["status"] != JobState.running:
            self._end_job(runs, identity, result, state["run_id"])
            runs.note(job, state | {"final": True})
            self.delivered += 1

    def _end_job(self, runs: Runs, identity: Identity, result: dict[str, Any], run_id: str) -> None:
        """Deliver what a job sends once, at its end: dataset, error, artifacts, status."""
        client, status = runs.client, result["status"]
        client.log_inputs(run_id, [dataset_input(result["dataset"])])
        if result["error"] is not None:
            client.set_tag(run_id, "rnnbench.error", cut(result["error"], TAG_CHARS))
        if status == JobState.pruned:
            client.set_tag(run_id, "rnnbench.status", status)
            client.set_tag(run_id, "rnnbench.last_epoch", str(result["epochs"]))
        with tempfile.TemporaryDirectory() as folder:
            for file in job_artifacts(identity.folder, self.artifacts, Path(folder)):
                client.log_artifact(run_id, str(file))
        if sqlite_file(self.uri) is None:
            # The server may have carried out a create_run that timed out here and was repeated.
            runs.only(identity)
        client.set_terminated(run_id, STATUS[status], result["ended"])

    def _deliver_sweep(self, runs: Runs, parent: str) -> None:
        """Set the status of the sweep's own run, or write to `refused` why MLflow refuses it."""
        from mlflow.exceptions import MlflowException

        try:
            self._end_parent(runs, parent)
            self.refused.pop("", None)
        except MlflowException as error:
            if not permanent(error):
                raise
            self.refused[""] = first_line(error)

    def _end_parent(self, runs: Runs, run_id: str) -> None:
        """Set the status of the sweep's own run, and upload the comparison when the sweep has ended."""
        info = read_sweep(self.sweep)
        state = read_delivery(self.sweep)
        if info["ended"] is None and not held(self.sweep):  # the process was killed
            moments = [info["started"]]
            moments += [result["ended"] or result["started"] for result in results(self.sweep).values()]
            info |= {"status": JobState.interrupted.value, "ended": max(moments)}
        if info["ended"] is not None:
            self._deliver_cells(runs, run_id, info["ended"])
        if state.get("status") == info["status"] and state["ended"] == info["ended"]:
            return
        if info["ended"] is None:
            runs.client.update_run(run_id, "RUNNING")
        else:
            self._upload(runs, run_id, "comparison.md", "comparison.csv")
            metrics, tags = sweep_facts(self.sweep, info)
            runs.client.log_batch(run_id, metrics, tags=tags)
            if "study" in info:
                self._deliver_study(runs, run_id, info)
            runs.client.set_terminated(run_id, STATUS[info["status"]], info["ended"])
        runs.note(self.sweep, state | {"status": info["status"], "ended": info["ended"]})

    def _deliver_cells(self, runs: Runs, parent: str, ended: int) -> None:
        """Deliver the means over seeds; twice, if the server may have carried out a call that timed out."""
        cells = cells_of(results(self.sweep))
        tags = {"rnnbench.host": HOST, NAME: sweep_name(self.sweep)}
        changed = deliver_cells(runs, parent, cells, tags=tags, ended=ended)
        if changed and sqlite_file(self.uri) is None:
            deliver_cells(runs, parent, cells, tags=tags, ended=ended)

    def _deliver_study(self, runs: Runs, run_id: str, info: dict[str, Any]) -> None:
        """Deliver the results of a search: tags, metrics, pictures."""
        from mlflow.entities import Metric, RunTag

        tags = [RunTag(param_name(n), cut(text, TAG_CHARS)) for n, text in info["study"]["tags"].items()]
        metrics = [
            Metric(param_name(NOT_IN_A_NAME.sub(" ", name).strip()), value, info["ended"], 0)
            for name, value in info["study"]["metrics"].items()
        ]
        runs.client.log_batch(run_id, metrics, tags=tags)
        self._upload(runs, run_id, "optimization_results.yaml", "front.csv")
        runs.client.log_artifacts(run_id, str(self.sweep / "study"), "study")

    def _upload(self, runs: Runs, run_id: str, *names: str) -> None:
        """Upload those files of the sweep folder that are there."""
        for name in names:
            if (self.sweep / name).exists():
                runs.client.log_artifact(run_id, str(self.sweep / name))

    def _tell_restored(self, runs: Runs) -> None:
        if runs.restored:
            self.say(
                f"{self.sweep}: {runs.restored} of its runs had been deleted in MLflow and are restored; "
                f"to remove runs and records together: {delete_command(self.sweep)}"
            )
            runs.restored = 0


def _given(job: Path) -> set[str]:
    """Return the keys that the overrides of a job set, as far as its folder tells."""
    try:
        return {word.lstrip("+~").partition("=")[0] for word in read_overrides(job)}
    except (FileNotFoundError, DamagedFile):
        return set()
