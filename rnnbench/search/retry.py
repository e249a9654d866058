"""Wraps a storage whose server may be unavailable for a while, so that a search waits for it to restart.

A repeated write must be harmless. Optuna's writes are, except creating a trial and ending it: for these,
`rnnbench.search.study` recognises repeated calls.
"""

import copy
import threading
import time
from typing import Any

from hydra.errors import CompactHydraException
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy
from optuna.trial import FrozenTrial

from rnnbench.system import signals
from rnnbench.terminal import say, warn

PATIENCE = 600.0  # seconds that a server may be away, enough for a restart or an upgrade
PAUSE = 1.0  # seconds between two tries


class StorageAway(CompactHydraException):
    """The storage of a search has not answered for longer than a restart takes."""


def _retried(name: str) -> Any:
    """Return a method that calls the storage's method of this name until the storage answers."""

    def method(self: "RetryingStorage", *args: Any, **kwargs: Any) -> Any:
        return self._call(name, *args, **kwargs)

    return method


class RetryingStorage(BaseStorage):
    """Wraps a storage, and repeats calls that its server does not answer for up to PATIENCE seconds.

    A call may have been carried out although its answer was lost, and is then carried out twice.

    Args:
        inner: the wrapped storage.
        url: the storage's URL, for messages.
        unavailable: the errors that `inner` raises if its server does not answer; () if it has no server.

    Raises:
        StopRequest: a signal has asked the search to stop while it waited.
        StorageAway: from any method, when the server has been away for PATIENCE seconds; later calls raise
            it at once until the server answers again.
    """

    def __init__(self, inner: BaseStorage, url: str, unavailable: tuple[type[Exception], ...] = ()) -> None:
        self.inner, self.url, self.unavailable = inner, url, unavailable
        self.lock = threading.Lock()  # guards the attributes below, which two threads use
        self.gone: float | None = None  # when the server went away; None while it answers
        self.warned = False
        self.back = time.monotonic()  # when the server last came back
        self.study = -1  # the id of the study in which a trial was last created

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        while True:
            try:
                answer = getattr(self.inner, name)(*args, **kwargs)
            except Exception as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                if not isinstance(cause, self.unavailable):
                    raise
                self._wait(cause)
            else:
                if self.gone is not None:
                    self._welcome()
                return answer

    def _wait(self, trouble: Exception) -> None:
        """Pause before a call is repeated; the first repeat is immediate, for a closed idle connection."""
        with self.lock:
            if isinstance(self.inner, GrpcStorageProxy):
                # A copy opens a new channel: one that has lost its server reconnects only after minutes.
                self.inner = copy.copy(self.inner)
            if self.gone is None:
                self.gone = time.monotonic()
                return
            reason = (str(trouble).strip().splitlines() or [type(trouble).__name__])[0]
            if time.monotonic() - self.gone > PATIENCE:
                raise StorageAway(
                    f"hydra.sweeper.storage={self.url}: has not answered for {PATIENCE / 60:.0f} minutes "
                    f"({reason}); the same command goes on from here"
                ) from None
            if not self.warned:
                self.warned = True
                warn(
                    f"hydra.sweeper.storage={self.url}: does not answer ({reason}); "
                    f"the search waits for it, up to {PATIENCE / 60:.0f} minutes"
                )
        time.sleep(PAUSE)
        if (
            threading.current_thread() is threading.main_thread()
        ):  # the heartbeat's thread has nothing to stop
            signals.check()

    def _welcome(self) -> None:
        with self.lock:
            if self.warned and self.gone is not None:
                say(f"the storage answers again, after {time.monotonic() - self.gone:.0f} s")
            self.gone, self.warned, self.back = None, False, time.monotonic()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self.study = study_id
        return int(self._call("create_new_trial", study_id, template_trial))

    def set_trial_param(self, trial_id: int, *drawn: Any) -> None:
        try:
            self._call("set_trial_param", trial_id, *drawn)
        except KeyError:  # a restarted proxy knows a trial only after it has read all trials
            self.get_all_trials(self.study, deepcopy=False)
            self._call("set_trial_param", trial_id, *drawn)

    create_new_study = _retried("create_new_study")
    delete_study = _retried("delete_study")
    set_study_user_attr = _retried("set_study_user_attr")
    set_study_system_attr = _retried("set_study_system_attr")
    get_study_id_from_name = _retried("get_study_id_from_name")
    get_study_name_from_id = _retried("get_study_name_from_id")
    get_study_directions = _retried("get_study_directions")
    get_study_user_attrs = _retried("get_study_user_attrs")
    get_study_system_attrs = _retried("get_study_system_attrs")
    get_all_studies = _retried("get_all_studies")
    set_trial_state_values = _retried("set_trial_state_values")
    set_trial_intermediate_value = _retried("set_trial_intermediate_value")
    set_trial_user_attr = _retried("set_trial_user_attr")
    set_trial_system_attr = _retried("set_trial_system_attr")
    get_trial_id_from_study_id_trial_number = _retried("get_trial_id_from_study_id_trial_number")
    get_trial = _retried("get_trial")
    get_all_trials = _retried("get_all_trials")
    get_best_trial = _retried("get_best_trial")
