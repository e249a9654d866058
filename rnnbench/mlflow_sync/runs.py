"""Finds, makes, restores and deletes runs in MLflow, so that each folder has exactly one.

A run belongs to the folder that its tag `rnnbench.folder` names. A copy of a folder has the same identities
in its records, and gets runs of its own; a folder that was moved keeps its runs.
"""

import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnnbench.config import ConfigError
from rnnbench.config.uris import sqlite_file
from rnnbench.mlflow_sync.fields import CELL, NAME_CHARS, PARENT, TAG_CHARS, cut
from rnnbench.mlflow_sync.sql import KINDS, OtherSchemaError, SqlRuns
from rnnbench.record.job_folder import read_delivery, write_delivery
from rnnbench.system.files import DamagedFile, read

HOST = socket.gethostname()
JOB, SWEEP = "rnnbench.job", "rnnbench.sweep"  # tags with the identity of a run's job or sweep


@dataclass(frozen=True)
class Identity:
    """Identifies the run of a folder."""

    folder: Path
    tag: str  # JOB or SWEEP
    value: str  # identity of the record, the same for all attempts
    attempt: int  # start of this attempt, ms since 1970

    @classmethod
    def of_job(cls, folder: Path, result: dict[str, Any]) -> "Identity":
        """Read the identity in a result.json."""
        return cls(folder, JOB, result["job"], result["started"])

    @classmethod
    def of_sweep(cls, folder: Path, info: dict[str, Any]) -> "Identity":
        """Read the identity in a sweep.json."""
        return cls(folder, SWEEP, info["sweep"], info["started"])


class Runs:
    """The runs of one sweep folder in one experiment of a store.

    Args:
        client: MLflow's client.
        alone: no other process delivers this folder.
    """

    def __init__(self, client: Any, experiment_id: str, *, uri: str, experiment: str, alone: bool) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self.uri, self.experiment = uri, experiment
        self.alone = alone
        self.first = False  # True if this object alone has made runs of this sweep
        self.made: set[str] = set()  # identities of records for which this object has called create_run
        self.known: set[str] = set()  # ids of runs that are certainly in the store
        self.active: dict[str, bool] = {}  # whether runs of other folders are in the store, by id
        self.restored = 0  # number of runs restored that had been deleted in MLflow
        self.notes = 0  # how often this object has changed an mlflow.json

    def find_or_make(
        self, identity: Identity, name: str, *, tags: dict[str, str], place: dict[str, str]
    ) -> dict[str, Any]:
        """Find or make the run of a folder, and return what has been delivered to it.

        Args:
            name: name of a new run.
            tags: tags of a new run.
            place: tags that an existing run gets too, since its folder may have moved or its parent be new.

        Returns:
            the content of mlflow.json.
        """
        return self._delivered(identity, place) or self._make(identity, name, tags | place)

    def is_active(self, run_id: str) -> bool:
        """Return whether the store has a run that is not deleted; asked once for each run.

        MLflow takes 4 ms to read a run, so the ids in a database are read at once.
        """
        from mlflow.exceptions import MlflowException

        if not self.active and self.uri.startswith(KINDS):
            with suppress(OtherSchemaError, ConfigError):  # then each run is asked for
                self.active = dict.fromkeys(SqlRuns(self.uri).active(), True)
        if run_id not in self.active:
            try:
                self.active[run_id] = self.client.get_run(run_id).info.lifecycle_stage == "active"
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                self.active[run_id] = False
        return self.active[run_id]

    def note(self, folder: Path, state: dict[str, Any]) -> None:
        """Write to mlflow.json what has been delivered of a folder; call it after MLflow has answered."""
        if write_delivery(folder, state):
            self.notes += 1

    def find(self, identity: Identity) -> list[Any]:
        """Find the runs of a folder, of any attempt, without runs of its copies."""
        # The folder of a run from another machine cannot be looked at here.
        return [
            run
            for run in self.tagged(identity.tag, identity.value)
            if run.data.tags.get("rnnbench.folder") == place_of(identity.folder)
            or (run.data.tags.get("rnnbench.host", HOST) == HOST and _owns(identity, run.data.tags))
        ]

    def tagged(self, tag: str, value: str) -> list[Any]:
        """Find the runs of the experiment that have a tag."""
        return self._search(f"tags.`{tag}` = '{value}'")

    def below(self, parent: str, folder: Path) -> list[str]:
        """Find the runs of a sweep: cells, and jobs with folders inside `folder`, also if removed by hand."""
        inside = place_of(folder) + "/"
        return [
            run.info.run_id
            for run in self.tagged(PARENT, parent)
            if CELL in run.data.tags or run.data.tags.get("rnnbench.folder", "").startswith(inside)
        ]

    def cells(self, parent: str) -> list[Any]:
        """Find the runs of a sweep that have the means of its configurations."""
        return self._search(f"tags.`{PARENT}` = '{parent}' AND tags.`{CELL}` != ''")

    def _search(self, query: str) -> list[Any]:
        """Find the runs of the experiment that a query is true of."""
        found, page = [], None
        while True:
            runs = self.client.search_runs([self.experiment_id], query, page_token=page)
            found += runs
            page = runs.token
            if not page:
                return found

    def only(self, identity: Identity) -> str | None:
        """Keep one run of this attempt, delete the folder's other runs, and return its id or None."""
        runs = self.find(identity)
        same = [run for run in runs if run.data.tags["rnnbench.attempt"] == str(identity.attempt)]
        keep = min(same, key=lambda run: (run.info.start_time, run.info.run_id), default=None)
        self.delete(run.info.run_id for run in runs if run is not keep)
        return None if keep is None else str(keep.info.run_id)

    def delete(self, runs: Iterable[str]) -> None:
        """Delete runs; MLflow keeps them until `mlflow gc`."""
        for run in runs:
            self.client.delete_run(run)

    def _delivered(self, identity: Identity, place: dict[str, str]) -> dict[str, Any]:
        """Return what has been delivered of a folder to this store; {} if nothing has."""
        from mlflow.exceptions import MlflowException

        state = read_delivery(identity.folder)
        here = {"uri": self.uri, "experiment": self.experiment, "attempt": identity.attempt}
        if not state or any(state[key] != wanted for key, wanted in here.items()):
            return {}
        if state["run_id"] in self.known:
            return state
        try:
            run = self.client.get_run(state["run_id"])
        except MlflowException as error:  # the store was deleted and made again
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        if not _owns(identity, run.data.tags):
            return {}
        if run.info.lifecycle_stage == "deleted":
            self.client.restore_run(run.info.run_id)
            self.restored += 1
        for tag, wanted in place.items():
            if run.data.tags.get(tag) != wanted:
                self.client.set_tag(run.info.run_id, tag, wanted)
        self.known.add(run.info.run_id)
        return state

    def _make(self, identity: Identity, name: str, tags: dict[str, str]) -> dict[str, Any]:
        """Find the run of a folder whose mlflow.json does not name it, or make one; return its new state."""
        tags = tags | {identity.tag: identity.value, "rnnbench.attempt": str(identity.attempt)}
        # The run may be of an earlier attempt, or of a create_run whose answer was lost.
        new_here = self.first and identity.value not in self.made
        run_id = None if new_here else self.only(identity)
        if run_id is None:
            self.made.add(identity.value)
            tags = {tag: cut(value, TAG_CHARS) for tag, value in tags.items()}
            run = self.client.create_run(self.experiment_id, identity.attempt, tags, cut(name, NAME_CHARS))
            run_id = run.info.run_id
            # A new parent has no children yet, and a local store loses no answers, so no lookup is needed.
            local = self.alone and sqlite_file(self.uri) is not None
            self.first = self.first or (identity.tag == SWEEP and local)
        self.known.add(run_id)
        state = {
            "uri": self.uri,
            "experiment": self.experiment,
            "experiment_id": self.experiment_id,
            "run_id": run_id,
            "record": identity.value,
            "attempt": identity.attempt,
            "epochs": 0,  # number of rows delivered
            "final": False,  # True once the end is delivered
        }
        self.note(identity.folder, state)
        return state


def place_of(folder: Path) -> str:
    """Return the value of the tag `rnnbench.folder` for a folder."""
    return cut(str(folder.resolve()), TAG_CHARS)


def _owns(identity: Identity, tags: dict[str, str]) -> bool:
    """True if a run of this identity belongs to the folder: no other folder that it names has the record."""
    place = tags.get("rnnbench.folder", "")
    if place in ("", place_of(identity.folder)):
        return True
    file = Path(place) / ("sweep.json" if identity.tag == SWEEP else "result.json")
    try:
        if not file.exists() or file.parent.samefile(identity.folder):
            return True
        return identity.value not in read(file)
    except (OSError, DamagedFile):  # an unreadable folder may have the record
        return False
