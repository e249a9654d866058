"""Measures storages under load: many sweeper processes share a study, and their trials only sleep.

Each worker is a process of its own that asks and tells with TPE as the sweeper does
(`rnnbench.search.study`); a second of sleep replaces training.
"""

import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import TrialState

from rnnbench.bench.search import SPACE
from rnnbench.search.samplers import sampler_of
from rnnbench.search.space import Space, read_space
from rnnbench.search.storage import open_storage
from rnnbench.search.study import Study, counts, suggest

KINDS = ("postgresql", "journal", "grpc")
SLEEP = 1.0  # mean seconds of a trial


@dataclass
class Traffic:
    """Keeps the times and the memory of workers that share a storage."""

    complete: int  # number of trials in the study, each told by one worker
    seconds: float  # from the first ask to the last tell
    asks: list[float]  # seconds of each ask
    tells: list[float]
    memory: int  # bytes of the largest worker

    @property
    def row(self) -> list[str]:
        """Return the cells of a row of the printed table."""
        times = [_milliseconds(column) for column in (self.asks, self.tells)]
        rate = f"{self.complete / self.seconds:.1f}"
        return [f"{self.complete:,}", f"{self.seconds:.0f} s", rate, *times, f"{self.memory / 1e6:.0f}"]


def _milliseconds(times: list[float]) -> str:
    """Return the median and the 95th percentile as text, in ms."""
    return f"{1e3 * statistics.median(times):,.0f}, {1e3 * statistics.quantiles(times, n=20)[-1]:,.0f}"


def traffic(url: str, workers: int, trials: int, seconds: float = SLEEP) -> Traffic:
    """Run a fresh study with workers that start at the same moment.

    Raises:
        RuntimeError: a worker failed, or the study does not have exactly the trials that they told.
    """
    command = [sys.executable, "-m", "rnnbench.bench.traffic", url, str(trials), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen(
            [*command, str(n)], text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for n in range(workers)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()  # the worker prints a line when it is ready
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in running]
    if codes := {process.returncode for process in running} - {0}:
        raise RuntimeError(f"{url}: workers failed, with exit codes {codes}; their messages are above")
    results: list[dict[str, Any]] = [json.loads(text) for text in said]
    told = {number: value for result in results for number, value in result["told"]}
    study = optuna.load_study(study_name="traffic", storage=open_storage(url))
    there = [trial for trial in study.get_trials(deepcopy=False) if counts(trial)]
    kept = {trial.number: trial.value for trial in there if trial.state == TrialState.COMPLETE}
    if not (len(there) == len(kept) == trials and kept == told):
        raise RuntimeError(f"{url}: {len(there)} trials, {len(kept)} complete, {len(told)} told, of {trials}")
    return Traffic(
        len(kept),
        max(result["ended"] for result in results) - min(result["started"] for result in results),
        [time for result in results for time in result["asks"]],
        [time for result in results for time in result["tells"]],
        max(result["memory"] for result in results),
    )


@contextmanager
def storage_of(kind: str) -> Iterator[str]:
    """Serve a fresh storage until the block ends, and give its URL; PostgreSQL by the package pgserver."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if kind == "journal":
            yield f"journal:///{folder}/journal.log"
            return
        import pgserver  # of rnnbench[test]

        Path(folder).chmod(0o755)  # if we are root, PostgreSQL runs as another user
        with pgserver.get_server(Path(folder, "data"), cleanup_mode="stop") as server:  # type: ignore[attr-defined]
            url = server.get_uri()
            if kind == "postgresql":
                yield url
            else:
                with proxy(url) as address:
                    yield address


@contextmanager
def proxy(url: str) -> Iterator[str]:
    """Serve Optuna's gRPC proxy before a storage, in a process of its own, and give its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import optuna; optuna.logging.set_verbosity(optuna.logging.WARNING); "
        "from optuna.storages import run_grpc_proxy_server; "
        "from rnnbench.search.storage import open_storage; "
        f"run_grpc_proxy_server(open_storage({url!r}), host='127.0.0.1', port={port})"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    server = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env=environment)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if server.poll() is not None:
                raise RuntimeError("the proxy did not start; its message is above")
            time.sleep(0.1)
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def work(url: str, trials: int, seconds: float, worker: int) -> None:
    """Work as one worker: say when it is ready, wait for the start, ask and tell, print the times as JSON."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    space = Space(read_space({}, SPACE, OverridesParser.create())[0])
    rng = random.Random(worker)
    sampler = sampler_of({"name": "tpe", "seed": 1}, {}, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    study = Study(
        open_storage(url),
        "traffic",
        identity={"space": []},
        objectives=["value"],
        directions=["maximize"],
        sampler=sampler,
        pruner=optuna.pruners.NopPruner(),
        n_trials=trials,
    )
    asks, tells, told = [], [], []
    started = time.time()
    while True:
        began = time.perf_counter()
        suggestion = study.ask(lambda trial: space.point(partial(suggest, trial), lambda key: None))
        if suggestion is None:
            if len(study.done()) >= trials:
                break
            time.sleep(1.0)
            continue
        asks.append(time.perf_counter() - began)
        time.sleep(rng.uniform(0.5, 1.5) * seconds)
        value = rng.random()
        record = {"folder": f"{suggestion.number}", "overrides": list(suggestion.overrides), "epochs": [9]}
        began = time.perf_counter()
        if study.tell(suggestion, TrialState.COMPLETE, [value], record):
            told.append((suggestion.number, value))
        study.done()  # the sweeper makes this call too, to count failed trials
        tells.append(time.perf_counter() - began)
    study.release()
    memory = psutil.Process().memory_info().rss
    times = {"started": started, "ended": time.time(), "asks": asks, "tells": tells}
    print(json.dumps(times | {"told": told, "memory": memory}))


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
