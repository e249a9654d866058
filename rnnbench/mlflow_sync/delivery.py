"""The one piece of code that writes to MLflow: a sweep folder's records become runs, exactly once.

What a job has delivered stands in its mlflow.json, written after MLflow has answered. So after a crash
some of it may be sent again, and every step is one that may be repeated: a run is looked for by its
`rnnbench.job` tag before it is created; a metric is sent with the timestamp of its row, and MLflow keeps
one of equal (name, step, timestamp, value); params are the same. A job that is trained anew has other
rows under the same steps: it becomes a new run, and the run of its last attempt is deleted.

A run belongs to the folder that its `rnnbench.folder` names. A copy of a folder has the same identities in
its records, and gets runs of its own; a folder that was moved keeps its runs.
"""

import hashlib
import json
import posixpath
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rnnbench.config.uris import absolute, sqlite_file
from rnnbench.mlflow_sync.connection import connect, patient, settle
from rnnbench.mlflow_sync.store import Refusal, Silent, StoreError, first_line
from rnnbench.record.job_folder import NETWORK, end_of, read_delivery, read_metrics, read_result
from rnnbench.record.sweep_folder import delete_command, held, job_folders, read_sweep, results, status_now
from rnnbench.system.files import Damaged, read, sound, write_json

# MLflow's limits: of what is sent at once, and of characters in its tables.
PARAMS, METRICS = 100, 900
PARAM_CHARS, TAG_CHARS, NAME_CHARS, DATASET_CHARS, DIGEST_CHARS = 6000, 8000, 250, 500, 36
NOT_IN_A_NAME = re.compile(r"[^\w.:/-]+")  # what it does not take in a metric's name
HOST = socket.gethostname()
PARENT = "mlflow.parentRunId"
TRIES = 10  # in a row, of a store that answers, but not as it should
STATUS = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "pruned": "KILLED",  # MLflow has no word for it: the tag rnnbench.status does
    "running": "RUNNING",
}

# What MLflow says when it will not have what it was given, now or later; anything else may pass.
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE"}


def text(value: Any) -> str:
    """A config value as a param: as one writes it on the command line, and read back by `value`."""
    plain = isinstance(value, str) and value != "" and not _is_json(value)
    return value if plain else json.dumps(value)


def value(text: str) -> Any:
    """What `text` was made from."""
    return json.loads(text) if _is_json(text) else text


def cut(value: str, chars: int) -> str:
    """A text as MLflow's tables can hold it: no longer than `chars`, without NUL and broken Unicode."""
    value = value.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
    return value if len(value) <= chars else f"{value[: chars - 1]}…"


def param_name(name: str) -> str:
    """A config key as the name of a param: what MLflow does not take in it stands as its code point."""
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


class Delivery:
    """Delivers one sweep folder. In `refused`, job names to why MLflow would not have the record; the
    sweep's own has the name "".

    Args:
        say: is given each message for the user.

    Raises (all methods):
        StoreError: the store does not answer; what was not delivered still is to be.
    """

    def __init__(self, sweep: Path, say: Callable[[str], None] = print) -> None:
        self.sweep = sweep
        self.say = say
        self.refused: dict[str, str] = {}
        self.delivered = 0  # runs, by this object
        self.steps = 0  # that are noted as done, by this object
        self.restored = 0  # runs that somebody had deleted in MLflow, not told yet
        self.known: set[str] = set()  # runs that are in the store for sure
        info = read_sweep(sweep)
        self.uri: str = absolute(info["tracking"]["uri"])
        self.experiment: str = info["tracking"]["experiment"]
        self.artifacts: list[str] = info["tracking"]["artifacts"]
        self.single: bool = info["single"]
        self.alone = not info.get("shared", False)  # whether no other process delivers this folder
        self.first = False  # whether no run of this sweep can be there but those made by this object
        self.made: set[str] = set()  # identities of records that this object has asked runs for
        self.client: Any = None
        self.experiment_id = ""

    def deliver_all(self) -> None:
        """Bring everything that is new in the sweep folder to MLflow, past answers that fail now and then.

        Raises:
            StoreError: it does not answer, or fails TRIES times and nothing gets any further.
        """
        failures = 0
        while True:
            before = self.steps
            try:
                self.deliver(job_folders(self.sweep))
                return
            except (Silent, Refusal):
                raise
            except StoreError:
                failures = 1 if self.steps > before else failures + 1
                if failures == TRIES:
                    raise
                time.sleep(0.2)

    def deliver(self, jobs: Iterable[Path]) -> None:
        """Bring what is new in these job folders to MLflow, and in the sweep's own record."""
        settle(self.uri)
        from alembic.util import CommandError  # a migration, by `mlflow ui` too, at the same moment
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            try:
                if self.client is None:
                    self.client, self.experiment_id = connect(self.uri, self.experiment, self.say)
                parent = None if self.single else self._parent()
            except MlflowException as error:
                if _permanent(error):
                    raise Refusal(first_line(error)) from error
                raise
            trouble: Exception | None = None
            failed = False  # whether the last record met with trouble: two in a row, and it is the store's
            for job in jobs:
                if not (job / "result.json").exists():  # deleted since
                    continue
                try:
                    self._job(job, parent)
                    self.refused.pop(job.name, None)
                except Damaged as error:
                    self.refused[job.name] = str(error)
                    failed = False
                except (MlflowException, OSError) as error:
                    if _permanent(error):
                        self.refused[job.name] = first_line(error)
                    elif failed:
                        raise
                    else:
                        trouble, failed = error, True
                except (ValueError, TypeError, LookupError) as error:
                    damage = f"a file of it is damaged ({type(error).__name__}: {first_line(error)})"
                    self.refused[job.name] = damage
            if parent is not None:
                try:
                    self._end_parent(parent)
                    self.refused.pop("", None)
                except MlflowException as error:
                    if not _permanent(error):
                        raise
                    self.refused[""] = first_line(error)
            if trouble is not None:
                raise trouble
        except (MlflowException, SQLAlchemyError, CommandError, OSError) as error:
            raise StoreError(first_line(error)) from error
        finally:
            if self.restored:
                self.say(
                    f"{self.sweep}: {self.restored} of its runs had been deleted in MLflow and are restored; "
                    f"to remove runs and records together: {delete_command(self.sweep)}"
                )
                self.restored = 0

    def runs(self, jobs: Iterable[Path], whole: bool) -> list[str]:
        """The runs of these job folders in the store, the sweep's own among them if the `whole` sweep's.

        Makes nothing: where there is no such store or experiment, there are no runs.
        """
        file = sqlite_file(self.uri)
        if file is not None and not file.exists():
            return []
        settle(self.uri)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        try:
            self.client = MlflowClient(patient(self.uri))
            experiment = self.client.get_experiment_by_name(self.experiment)
            if experiment is None:
                return []
            self.experiment_id = experiment.experiment_id
            records = [(job, "rnnbench.job", read_result(job)["job"]) for job in jobs]
            if whole:
                records.append((self.sweep, "rnnbench.sweep", read_sweep(self.sweep)["sweep"]))
            found = [run.info.run_id for record in records for run in self._of(*record)]
            if whole:  # and what is left of jobs whose folders were removed by hand
                below = _place(self.sweep) + "/"
                for parent in list(found):
                    for run in self._search(PARENT, parent):
                        if run.data.tags.get("rnnbench.folder", "").startswith(below):
                            found.append(run.info.run_id)
            return list(dict.fromkeys(found))
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise StoreError(first_line(error)) from error

    def delete(self, runs: Iterable[str]) -> None:
        """Delete runs that `runs` has found."""
        from mlflow.exceptions import MlflowException

        try:
            for run in runs:
                self.client.delete_run(run)
        except (MlflowException, OSError) as error:
            raise StoreError(first_line(error)) from error

    def _search(self, tag: str, wanted: str) -> list[Any]:
        """The runs of the experiment that have a tag."""
        return list(self.client.search_runs([self.experiment_id], f"tags.`{tag}` = '{wanted}'"))

    def _of(self, folder: Path, key: str, identity: str) -> list[Any]:
        """The runs of a folder, of whatever attempt, and not those of a copy of it."""
        # Of a run that another machine made, what has become of its folder there is not to be seen here.
        return [
            run
            for run in self._search(key, identity)
            if run.data.tags.get("rnnbench.folder") == _place(folder)
            or (
                run.data.tags.get("rnnbench.host", HOST) == HOST
                and self._owns(folder, key, identity, run.data.tags)
            )
        ]

    def _state(
        self, folder: Path, key: str, identity: str, attempt: int, tags: dict[str, str]
    ) -> dict[str, Any]:
        """What has been delivered of a folder to this store; {} if it is to begin anew.

        Args:
            tags: of the run, which are set where they are not there: the folder was moved, the parent made
                anew.
        """
        from mlflow.exceptions import MlflowException

        state = read_delivery(folder)
        here = {"uri": self.uri, "experiment": self.experiment, "attempt": attempt}
        if not state or any(state[key] != wanted for key, wanted in here.items()):
            return {}
        if state["run_id"] in self.known:
            return state
        try:
            run = self.client.get_run(state["run_id"])
        except MlflowException as error:  # the store was made anew
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        if not self._owns(folder, key, identity, run.data.tags):
            return {}
        if run.info.lifecycle_stage == "deleted":
            self.client.restore_run(run.info.run_id)
            self.restored += 1
        for tag, wanted in tags.items():
            if run.data.tags.get(tag) != wanted:
                self.client.set_tag(run.info.run_id, tag, wanted)
        self.known.add(run.info.run_id)
        return state

    def _owns(self, folder: Path, key: str, identity: str, tags: dict[str, str]) -> bool:
        """Whether a run of this identity is the folder's: not if the folder that it names still has it."""
        place = tags.get("rnnbench.folder", "")
        if place in ("", _place(folder)):
            return True
        file = Path(place) / ("sweep.json" if key == "rnnbench.sweep" else "result.json")
        try:
            if not file.exists() or file.parent.samefile(folder):
                return True
            return identity not in read(file)
        except (OSError, Damaged):  # it cannot be looked at: it may have it
            return False

    def _run(
        self, folder: Path, key: str, identity: str, attempt: int, name: str, tags: dict[str, str]
    ) -> dict[str, Any]:
        """The state of a run that is in the store already without our knowing, or of a new one."""
        tags = tags | {key: identity, "rnnbench.attempt": str(attempt)}
        # A job may be at its next attempt already, or its run be there though we got no answer.
        new_here = self.first and identity not in self.made
        run_id = None if new_here else self._only(folder, key, identity, attempt)
        if run_id is None:
            self.made.add(identity)
            tags = {tag: cut(value, TAG_CHARS) for tag, value in tags.items()}
            run = self.client.create_run(self.experiment_id, attempt, tags, cut(name, NAME_CHARS))
            run_id = run.info.run_id
            # Where the parent is new, no child of it is there yet, and a local store does not answer late.
            local = self.alone and sqlite_file(self.uri) is not None
            self.first = self.first or (key == "rnnbench.sweep" and local)
        self.known.add(run_id)
        state = {
            "uri": self.uri,
            "experiment": self.experiment,
            "run_id": run_id,
            "record": identity,
            "attempt": attempt,  # start of the training whose rows these are
            "epochs": 0,  # delivered
            "final": False,  # whether the end is delivered too
        }
        self._note(folder, state)
        return state

    def _note(self, folder: Path, state: dict[str, Any]) -> None:
        """MLflow has answered: this much is delivered of a folder."""
        if state != read_delivery(folder):
            write_json(folder / "mlflow.json", state)
            self.steps += 1

    def _only(self, folder: Path, key: str, identity: str, attempt: int) -> str | None:
        """The run of this attempt, if there is one; every other run of the same record is deleted."""
        runs = self._of(folder, key, identity)
        same = [run for run in runs if run.data.tags["rnnbench.attempt"] == str(attempt)]
        keep = min(same, key=lambda run: (run.info.start_time, run.info.run_id), default=None)
        for run in runs:
            if run is not keep:
                self.client.delete_run(run.info.run_id)
        return None if keep is None else str(keep.info.run_id)

    def _parent(self) -> str:
        """The run of the sweep itself."""
        info = read_sweep(self.sweep)
        record = (self.sweep, "rnnbench.sweep", info["sweep"], info["started"])
        place = _place(self.sweep)
        state = self._state(*record, {"rnnbench.folder": place}) or self._run(
            *record,
            info["name"],
            {
                "rnnbench.command": " ".join(info["command"]),
                "rnnbench.folder": place,
                "rnnbench.host": HOST,
            },
        )
        return str(state["run_id"])

    def _end_parent(self, run_id: str) -> None:
        """Give the parent the status of its sweep, and at its end the comparison."""
        info = read_sweep(self.sweep)
        state = read_delivery(self.sweep)
        if info["ended"] is None and not held(self.sweep):  # the process was killed
            moments = [info["started"]]
            moments += [result["ended"] or result["started"] for result in results(self.sweep).values()]
            info |= {"status": "interrupted", "ended": max(moments)}
        if state.get("status") == info["status"] and state["ended"] == info["ended"]:
            return
        if info["ended"] is None:
            self.client.update_run(run_id, "RUNNING")
        else:
            for name in ("comparison.md", "comparison.csv"):
                if (self.sweep / name).exists():
                    self.client.log_artifact(run_id, str(self.sweep / name))
            if "study" in info:
                self._study(run_id, info)
            self.client.set_terminated(run_id, STATUS[info["status"]], info["ended"])
        self._note(self.sweep, state | {"status": info["status"], "ended": info["ended"]})

    def _study(self, run_id: str, info: dict[str, Any]) -> None:
        """What a search has found: tags, metrics, pictures."""
        from mlflow.entities import Metric, RunTag

        tags = [RunTag(param_name(n), cut(text, TAG_CHARS)) for n, text in info["study"]["tags"].items()]
        metrics = [
            Metric(param_name(NOT_IN_A_NAME.sub(" ", name).strip()), value, info["ended"], 0)
            for name, value in info["study"]["metrics"].items()
        ]
        self.client.log_batch(run_id, metrics, tags=tags)
        for name in ("optimization_results.yaml", "front.csv"):
            if (self.sweep / name).exists():
                self.client.log_artifact(run_id, str(self.sweep / name))
        self.client.log_artifacts(run_id, str(self.sweep / "study"), "study")

    def _job(self, job: Path, parent: str | None) -> None:
        from mlflow.entities import Metric, Param

        result = read_result(job)  # before the rows: a result that says the end comes after the last row
        record = (job, "rnnbench.job", result["job"], result["started"])
        place = {"rnnbench.folder": _place(job)} | ({} if parent is None else {PARENT: parent})
        state = self._state(*record, place)
        if state.get("final"):
            return
        if not state:
            state = self._run(*record, result["name"], _tags(result) | place)
        run_id = state["run_id"]
        rows = read_metrics(job)
        ended = end_of(result, rows)
        params, metrics = [], []
        if state["epochs"] == 0:
            params = [Param(param_name(n), cut(text(v), PARAM_CHARS)) for n, v in result["params"].items()]
        for row in [row for row in rows if row["epoch"] > state["epochs"]]:
            epoch, timestamp = row.pop("epoch"), row.pop("timestamp_ms")
            metrics += [Metric(param_name(name), value, timestamp, epoch) for name, value in row.items()]
            state["epochs"] = epoch
        status = status_now(result, job)
        if status != "running":
            final = result["metrics"].items()
            metrics += [Metric(param_name(name), value, ended, state["epochs"]) for name, value in final]
        while params or metrics:
            self.client.log_batch(run_id, metrics[:METRICS], params[:PARAMS])
            metrics, params = metrics[METRICS:], params[PARAMS:]
        self._note(job, state)
        if status != "running":
            self._end(job, result, run_id, status, ended)
            self._note(job, state | {"final": True})
            self.delivered += 1

    def _end(self, job: Path, result: dict[str, Any], run_id: str, status: str, ended: int) -> None:
        """What is delivered once, when a job has ended."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = result["dataset"]
        dataset = Dataset(
            cut(data["name"], DATASET_CHARS),
            data["checksum"][:DIGEST_CHARS],
            source_type="code",
            source=json.dumps({"checksum": data["checksum"]}),
            profile=json.dumps(data.get("details", {})),
        )
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        self.client.log_inputs(run_id, inputs)
        if result["error"] is not None:
            self.client.set_tag(run_id, "rnnbench.error", cut(result["error"], TAG_CHARS))
        if status == "pruned":
            self.client.set_tag(run_id, "rnnbench.status", "pruned")
            self.client.set_tag(run_id, "rnnbench.last_epoch", str(result["epochs"]))
        with tempfile.TemporaryDirectory() as folder:
            for file in _artifacts(job, self.artifacts, Path(folder)):
                self.client.log_artifact(run_id, str(file))
        if sqlite_file(self.uri) is None:
            # A server may have carried out a create_run that we had given up on and repeated.
            self._only(job, "rnnbench.job", result["job"], result["started"])
        self.client.set_terminated(run_id, STATUS[status], ended)


def _tags(result: dict[str, Any]) -> dict[str, str]:
    given: dict[str, str] = result["tags"]
    tags = given | {
        "rnnbench.trial": result["trial"],
        "rnnbench.data": result["dataset"]["checksum"],
        "mlflow.source.name": "rnnbench",
        "mlflow.source.type": "LOCAL",
    }
    known = {"rnnbench.git_commit": "mlflow.source.git.commit", "rnnbench.user": "mlflow.user"}
    return tags | {theirs: cut(given[ours], NAME_CHARS) for ours, theirs in known.items() if ours in given}


def _place(folder: Path) -> str:
    """A folder as a run's `rnnbench.folder` names it."""
    return cut(str(folder.resolve()), TAG_CHARS)


def _permanent(error: Exception) -> bool:
    """Whether trouble will stay: MLflow refuses what it was given, or a file cannot be read."""
    if isinstance(error, OSError):
        status = getattr(getattr(error, "response", None), "status_code", 0)  # of an upload
        beyond_reach = isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError))
        return beyond_reach or status in (400, 413, 422)
    return getattr(error, "error_code", None) in REFUSALS


def _artifacts(job: Path, wanted: list[str], folder: Path) -> list[Path]:
    """The files to upload: those that are asked for and that the job has; pictures are drawn here.

    A damaged one goes as it is, without a picture.
    """
    files = []
    if "checkpoint" in wanted and (job / "weights.pt").exists():
        files += [job / name for name in NETWORK]
    if "confusion" in wanted and (job / "confusion.csv").exists():
        from rnnbench.mlflow_sync.pictures import confusion

        files += [
            job / "confusion.csv",
            *sound([job], lambda job: confusion(job, folder / "confusion.png")),
        ]
    if "by_length" in wanted and (job / "by_length.csv").exists():
        from rnnbench.mlflow_sync.pictures import by_length

        files += [
            job / "by_length.csv",
            *sound([job], lambda job: by_length(job, folder / "by_length.png")),
        ]
    if "curves" in wanted and read_metrics(job):
        from rnnbench.mlflow_sync.pictures import curves

        files.append(curves(job, folder / "curves.png"))
    return files
