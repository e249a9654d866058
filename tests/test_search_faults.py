"""Searches whose storage goes away, whose answers get lost, whose workers die: still exactly n_trials."""

import fcntl
import random
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from rnnbench.bench.traffic import KINDS, storage_of, traffic
from rnnbench.record import read_result
from rnnbench.search import lease, retry, study
from rnnbench.search.retry import RetryingStorage, StorageAway
from rnnbench.search.storage import open_storage
from rnnbench.search.study import Study
from tests.test_app import start
from tests.test_search import counted, search, settings

COMPLETE = TrialState.COMPLETE
ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": 0.0}


class Proxy:
    """Optuna's gRPC proxy before a SQLite file, in a process that can be ended and started again."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"grpc://127.0.0.1:{self.port}"

    def start(self):
        code = (
            "import optuna; optuna.storages.run_grpc_proxy_server(optuna.storages.get_storage("
            f"'sqlite:///{self.folder}/behind.db'), host='127.0.0.1', port={self.port})"
        )
        self.process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        open_when_there(self.url)

    def stop(self):
        self.process.kill()
        self.process.wait()


class PostgreSQL:
    """A server of its own that can be stopped and started again."""

    def __init__(self, pgserver, folder):
        folder.chmod(0o755)  # PostgreSQL refuses root: pgserver runs it as another user
        self.control = pgserver.pg_ctl
        self.server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        self.url = self.server.get_uri()

    def start(self):
        self.server.ensure_postgres_running()

    def stop(self):
        """As `systemctl restart` does: connections are cut."""
        data = self.server.pgdata
        self.control(["-m", "fast", "stop"], pgdata=data, user=self.server.system_user)


def open_when_there(url):
    until = time.monotonic() + 300
    while time.monotonic() < until:
        try:
            return open_storage(url)
        except ValueError:
            time.sleep(0.2)
    raise AssertionError(f"{url} did not come up")


@pytest.fixture
def server(request, tmp_path):
    """What the test's parameter names, running."""
    if request.param == "grpc":
        one = Proxy(tmp_path)
        one.start()
        yield one
        one.stop()
    else:
        pgserver = pytest.importorskip("pgserver", reason="pgserver brings PostgreSQL: rnnbench[test]")
        # Not in tmp_path: another pytest that starts closes what is above that to other users.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            one = PostgreSQL(pgserver, Path(folder))
            yield one
            one.server.cleanup()


@pytest.mark.parametrize(
    "server", ["postgresql", pytest.param("grpc", marks=pytest.mark.slow)], indirect=True
)
def test_a_search_outlives_a_restart_of_its_storage(tmp_path, server):
    more = settings(n_trials=12, n_jobs=4, study_name="s", storage=f"'{server.url}'")
    process = start(tmp_path, *search(*more), "fit.epochs=60")
    seen = None
    while sum(trial.state == COMPLETE for trial in trials_of(seen)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
        seen = seen or study_in(server.url)
    server.stop()
    time.sleep(4)
    assert process.poll() is None, process.communicate()
    server.start()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert (out + err).count("does not answer") == 1
    assert "the storage answers again" in out
    there = counted(trials_of(study_in(server.url)))
    assert [trial.state for trial in there] == [COMPLETE] * 12
    for trial in there:
        result = read_result(tmp_path / "multirun/s" / str(trial.number))
        assert result["status"] == "finished"
        assert result["metrics"]["best/val_accuracy"] == trial.value


def study_in(url):
    try:
        return optuna.load_study(study_name="s", storage=open_when_there(url))
    except KeyError:  # the search has not come so far
        return None


def trials_of(there):
    return [] if there is None else there.get_trials()


@pytest.mark.parametrize("server", ["grpc"], indirect=True)
def test_a_storage_that_stays_away_ends_the_search_with_its_name(monkeypatch, server):
    monkeypatch.setattr(retry, "PATIENCE", 2.0)
    monkeypatch.setattr(retry, "PAUSE", 0.1)
    storage = open_storage(server.url)
    worker = worker_of(storage, 3)
    assert worker.ask(draw) is not None
    server.stop()
    with pytest.raises(StorageAway, match=f"{server.url}: has not answered .* the same command goes on"):
        worker.ask(draw)
    monkeypatch.setattr(retry, "PAUSE", 1e6)  # it does not wait again
    with pytest.raises(StorageAway):
        worker.release()


class Deaf(BaseStorage):
    """A storage some of whose answers are lost, after it has done what it was asked."""

    def __init__(self, inner):
        self.inner, self.chance, self.lost = inner, random.Random(0), set()


def deaf(name):
    def method(self, *args, **kwargs):
        answer = getattr(self.inner, name)(*args, **kwargs)
        if self.chance.random() < 0.3:
            self.lost.add(name)
            raise StorageInternalError from OperationalError("", None, ConnectionError("lost"))
        return answer

    return method


for name in (*BaseStorage.__abstractmethods__, "get_trial_id_from_study_id_trial_number"):
    setattr(Deaf, name, deaf(name))
Deaf.__abstractmethods__ = frozenset()
WRITES = {"create_new_trial", "set_trial_param", "set_trial_state_values", "set_trial_user_attr"}


def test_what_is_repeated_counts_once(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "LOOK", 0.0)
    inner = open_storage(f"sqlite:///{tmp_path}/s.db").inner
    monkeypatch.setattr(retry, "PAUSE", 0.0)
    deaf = Deaf(inner)
    worker = worker_of(RetryingStorage(deaf, "sqlite:///s.db", (OperationalError,)), 8)
    told = {}
    while len(worker.done()) < 8:
        if (suggestion := worker.ask(draw)) is not None:
            told[suggestion.number] = float(suggestion.number)
            assert worker.tell(suggestion, COMPLETE, [told[suggestion.number]], {})
    worker.release()
    there = optuna.load_study(study_name="s", storage=inner).get_trials()
    assert {t.number: t.value for t in counted(there)} == told and len(told) == 8
    assert {t.state for t in counted(there)} == {COMPLETE}
    assert deaf.lost >= WRITES and len(there) > 8  # trials were made twice


def test_a_connection_may_be_cut_at_any_statement(monkeypatch, postgresql):
    """Really cut, by the server."""
    monkeypatch.setattr(study, "LOOK", 0.0)
    monkeypatch.setattr(retry, "PAUSE", 0.0)
    psycopg2 = pytest.importorskip("psycopg2")
    chance, cut = random.Random(0), set()

    def sever(connection, *statement):
        if chance.random() < 0.02:
            cut.add(statement[1].split()[0] if statement else "COMMIT")
            pid = connection.connection.dbapi_connection.info.backend_pid
            admin.cursor().execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    storage = open_storage(postgresql)
    engine = storage.inner._backend.engine
    with closing(psycopg2.connect(postgresql)) as admin:
        admin.autocommit = True
        event.listen(engine, "before_cursor_execute", sever)
        event.listen(engine, "commit", sever)
        worker = worker_of(storage, 30, name="cut")
        told = {}
        while len(worker.done()) < 30:
            if (suggestion := worker.ask(draw)) is not None:
                told[suggestion.number] = float(suggestion.number)
                assert worker.tell(suggestion, COMPLETE, [told[suggestion.number]], {})
        worker.release()
        event.remove(engine, "before_cursor_execute", sever)
        event.remove(engine, "commit", sever)
    assert cut >= {"SELECT", "INSERT", "UPDATE", "COMMIT"}
    there = optuna.load_study(study_name="cut", storage=storage).get_trials()
    assert {t.number: t.value for t in counted(there)} == told and len(told) == 30


@pytest.mark.parametrize("server", ["grpc"], indirect=True)
def test_a_proxy_may_be_restarted_while_a_trial_is_drawn(server):
    """It has read no trials then, and Optuna's takes the one that is drawn for unknown."""
    worker = worker_of(open_storage(server.url), 2)

    def late(trial):
        server.stop()
        server.start()
        return draw(trial)

    suggestion = worker.ask(late)
    assert worker.tell(suggestion, COMPLETE, [0.5], {})
    (trial,) = worker.done()
    assert (trial.value, list(trial.params)) == (0.5, ["x"])


def draw(trial):
    return [f"x={trial.suggest_float('x', 0, 1)}"]


def worker_of(storage, n_trials, me=None, name="s"):
    worker = Study(
        storage,
        name,
        identity={"space": []},
        objectives=["val/loss"],
        directions=["minimize"],
        sampler=optuna.samplers.RandomSampler(),
        pruner=optuna.pruners.NopPruner(),
        n_trials=n_trials,
    )
    worker.leases.me = me or worker.leases.me
    return worker


def journal(folder):
    return open_storage(f"journal:///{folder}/journal.log")


def in_between(worker, other):
    """Have `other` ask after `worker` has seen what is there, and before it takes its trial."""
    begin, taken = worker._begin, []

    def late(*seen):
        worker._begin = begin
        taken.append(other.ask(draw))
        return begin(*seen)

    worker._begin = late
    return taken


def test_the_last_place_has_one_trial_and_a_lost_point_is_run_once(tmp_path):
    first = worker_of(journal(tmp_path), 3)
    begun = [first.ask(draw) for _ in range(2)]
    first.retire(begun[0].id, "interrupted")
    points = [trial.params for trial in first.study.get_trials()]
    a = worker_of(journal(tmp_path), 3, me=ELSEWHERE | {"pid": 2})
    b = worker_of(journal(tmp_path), 3, me=ELSEWHERE | {"pid": 3})
    taken = in_between(a, b)  # both see two places and a point to run again
    taken.append(a.ask(draw))
    assert sorted(suggestion.number for suggestion in taken) == [2, 4]
    assert a.ask(draw) is None and b.ask(draw) is None
    there = a.study.get_trials()
    assert there[2].params == points[0] and there[4].params not in points
    assert there[3].user_attrs["retired"] == "surplus"

    more = [worker_of(journal(tmp_path), 4, me=ELSEWHERE | {"pid": pid}) for pid in (4, 5)]
    last = in_between(*more)  # both see the last place
    last.append(more[0].ask(draw))
    assert [suggestion is None for suggestion in last] == [False, True]
    assert len(counted(a.study.get_trials())) == 4


def test_a_worker_elsewhere_is_dead_when_its_signs_of_life_stop_here(tmp_path, monkeypatch):
    """By this machine's clock, and not for the time that the storage was away."""
    monkeypatch.setattr(study, "LOOK", 0.0)
    monkeypatch.setattr(lease, "LEASE", 0.5)
    there, here = worker_of(journal(tmp_path), 5, me=ELSEWHERE), worker_of(journal(tmp_path), 5)
    suggestion = there.ask(draw)

    def judged(sign=None):
        if sign is not None:
            there.storage.set_trial_user_attr(suggestion.id, lease.SEEN, sign)
        here.retire_dead(here.study.get_trials())
        return bool(here.left())

    assert not judged(sign=0.0)  # a clock that is years behind
    time.sleep(0.6)
    assert not judged(sign=1.0)
    time.sleep(0.6)
    here.storage.back = time.monotonic()
    assert not judged()
    time.sleep(0.6)
    assert judged()
    again = here.ask(draw)
    assert here.study.trials[again.number].params == here.study.trials[suggestion.number].params
    assert not there.tell(suggestion, COMPLETE, [1.0], {})


def test_a_trial_whose_workers_die_again_and_again_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "LOOK", 0.0)
    monkeypatch.setattr(lease, "LEASE", -1.0)
    here = worker_of(journal(tmp_path), 2)
    for n in range(study.ATTEMPTS):
        worker = worker_of(journal(tmp_path), 2, me=ELSEWHERE | {"pid": n})
        suggestion = worker.ask(draw)
        assert suggestion.number == n
        if n > 0:
            worker.left_at(suggestion, [])  # it had nothing to go on from
        here.retire_dead(here.study.get_trials())
    states = [(t.state, t.user_attrs.get("retired")) for t in here.study.get_trials()]
    assert states == [(TrialState.FAIL, "dead")] * 2 + [(TrialState.FAIL, None)]
    assert len({str(t.params) for t in here.study.get_trials()}) == 1
    assert len(here.trials()) == 1
    assert here.left() == {0: None, 1: None, 2: study.GIVEN_UP}


def test_a_death_before_the_training_says_nothing_of_the_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "LOOK", 0.0)
    monkeypatch.setattr(lease, "LEASE", -1.0)
    here = worker_of(journal(tmp_path), 2)
    for n in range(2 * study.ATTEMPTS):
        worker_of(journal(tmp_path), 2, me=ELSEWHERE | {"pid": n}).ask(draw)
        here.retire_dead(here.study.get_trials())
    assert len(here.left()) == 2 * study.ATTEMPTS


def test_a_trial_that_gets_on_between_deaths_has_not_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "LOOK", 0.0)
    monkeypatch.setattr(lease, "LEASE", -1.0)
    here = worker_of(journal(tmp_path), 2)
    for n in range(2 * study.ATTEMPTS):
        worker = worker_of(journal(tmp_path), 2, me=ELSEWHERE | {"pid": n})
        suggestion = worker.ask(draw)
        assert suggestion.attempts == tuple(reversed(range(n)))
        worker.left_at(suggestion, [n // 2])  # every other one has left a checkpoint
        here.retire_dead(here.study.get_trials())
    assert len(here.left()) == 2 * study.ATTEMPTS


def test_the_lock_of_a_journal_is_taken_from_the_dead(tmp_path):
    file = tmp_path / "journal.log"
    code = (
        "import pathlib, sys, time; from rnnbench.search.storages.journal import KernelLock; "
        "lock = KernelLock(pathlib.Path(sys.argv[1])); lock.acquire(); print(flush=True); time.sleep(600)"
    )
    file.touch()
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        with file.open() as same, pytest.raises(BlockingIOError):
            fcntl.flock(same, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        process.kill()
        process.wait()
    assert worker_of(journal(tmp_path), 2).ask(draw) is not None


def test_a_journal_goes_on_after_an_entry_that_was_cut_short(tmp_path):
    """By a full disk, say: Optuna could not read such a file any more."""
    begun = worker_of(journal(tmp_path), 2, me=ELSEWHERE).ask(draw)
    with open(tmp_path / "journal.log", "ab") as file:
        file.write(b'{"op_code":6,"worker_id":"')
    worker = worker_of(journal(tmp_path), 2)
    assert worker.ask(draw).number == begun.number + 1
    assert len(worker_of(journal(tmp_path), 2).trials()) == 2


def test_an_older_study_gets_the_names_of_its_objectives(tmp_path):
    optuna.create_study(storage=journal(tmp_path), study_name="s")
    assert worker_of(journal(tmp_path), 2).study.metric_names == ["val/loss"]
    assert worker_of(journal(tmp_path), 2).ask(draw) is not None


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "postgresql" else pytest.mark.slow) for kind in KINDS]
)
def test_workers_that_start_at_once_run_exactly_n_trials(kind):
    """On a fresh storage; `python -m rnnbench.bench traffic` does the same with more of them."""
    if kind != "journal":
        pytest.importorskip("pgserver", reason="pgserver brings PostgreSQL: rnnbench[test]")
    with storage_of(kind) as url:
        assert traffic(url, workers=3, trials=30, seconds=0.02).complete == 30
