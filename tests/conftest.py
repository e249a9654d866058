"""What several test files use: a small made-up task, configurations, where the real MNIST may be."""

import inspect
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import islice, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from hypothesis import strategies as st

from rnnbench.config import Adam, Config, Fit, Model, Readout, Tracking
from rnnbench.tasks import Task
from rnnbench.tasks.sequences import Images

pytest_plugins = [  # their fixtures
    "tests.killed",
    "tests.published_files",
    "tests.mlflow_store",
    "tests.slurm_cluster",
]

# In the background a shell makes its commands deaf to Ctrl-C, and what they start inherits that. (No
# preexec_fn: it would fork this process with the threads of every library that a test has loaded.)
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, so that none fails at times; --hypothesis-profile=default draws others.
settings.load_profile("ci")

HERE = Path(__file__).parent
# Commands that the tests start from other folders run this checkout, whatever is installed.
# What the tests train to is not noted as the developer's own, nor are their kernels kept with these.
OURS = Path(tempfile.gettempdir()) / f"rnnbench-tests-{os.getuid()}"
os.environ["XDG_STATE_HOME"] = os.environ["XDG_CACHE_HOME"] = str(OURS)
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
os.environ["TRITON_INTERPRET"] = "1"  # kernels for GPUs run on the CPU; read when triton is imported
DATA = Path(os.environ.get("RNNBENCH_DATA", HERE.parents[1] / "shared" / "data"))


def has_room(folder: str) -> bool:
    """Whether all that the tests write fits into a folder, and programs may be started there."""
    if not os.access(folder, os.W_OK):
        return False
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize > 4 << 30 and not found.f_flag & os.ST_NOEXEC


# In memory nothing waits for a disk: a store of MLflow is made of hundreds of transactions.
if os.path.isdir("/dev/shm") and has_room("/dev/shm"):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")


# Fixtures that take seconds to start, and wait more than they compute: those of each set go together.
SERVICES = [{"mlflow_server", "postgresql"}, {"slurm"}, {"head"}]


@pytest.hookimpl(trylast=True)  # what is slow has been taken out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that need a service where a worker begins.

    Each worker begins at its part of the list and takes from the others' ends when it is through. So a
    service is started once, beside workers that compute, and no long test is left for the end. Two begin at
    once; a third waits until the second is through, so that the workers do not all wait at the same time.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    needs = {item: set(getattr(item, "fixturenames", ())) for item in items}
    served = [[item for item in items if service & needs[item]] for service in SERVICES]
    others = (item for item in items if not any(service & needs[item] for service in SERVICES))
    ordered: list[pytest.Item] = []
    for number in range(workers):
        begin = [item for tests in served[number::workers] for item in tests]
        room = max(0, len(items) // workers - len(begin))
        first = room // 4 if number > 1 else 0
        ordered += [*islice(others, first), *begin, *islice(others, room - first)]
    items[:] = [*ordered, *others]


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of that name; one of the workers makes it for all of them, which only read it."""
    root = factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / f"once-{name}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            part = folder.with_suffix(".part")
            part.mkdir()
            make(part)
            part.rename(folder)
    return folder


def quick_compiler(folder: Path) -> dict[str, str]:
    """Return the environment in which the kernels are compiled to slow code in a fraction of the time; {}
    where there is no compiler."""
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if found is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    script, part = folder / "cc-O0", folder / f"cc-O0.{os.getpid()}"
    part.write_text(f'#!/bin/sh\nexec {shlex.quote(found)} "$@" -O0\n')
    part.chmod(0o755)
    part.replace(script)  # other workers may be running it
    return {"CC": str(script)}


# Kernels that tests have compiled at first use are quick to build; those of the package are as installed.
os.environ.update(quick_compiler(OURS) if "CC" not in os.environ else {})


def crossed(*lists: Sequence[Any]) -> list[Any]:
    """Return every combination as pytest parameters, of which each value of each list occurs in one that is
    not slow."""
    longest = max(map(len, lists))
    shown = {tuple(number % len(each) for each in lists) for number in range(longest)}
    return [
        pytest.param(
            *(each[place] for each, place in zip(lists, places, strict=True)),
            marks=[] if places in shown else [pytest.mark.slow],
        )
        for places in product(*(range(len(each)) for each in lists))
    ]


def sampled(values: Iterable[Any], quick: Container[Any]) -> list[Any]:
    """Return values as parameters, of which all but the quick ones are slow."""
    return [pytest.param(value, marks=[] if value in quick else [pytest.mark.slow]) for value in values]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Have torch compute in one thread: beside other workers two of them mostly wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def builtins_found_once() -> None:
    """Have Triton's interpreter look for its builtins once: it does at each call of a device function."""
    interpreter: Any = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None:  # no test of kernels for GPUs is among those of this run
        return
    found: dict[Any, list[tuple[str, Any]]] = {}

    def members(place: Any) -> list[tuple[str, Any]]:
        if place not in found:
            found[place] = [(n, m) for n, m in inspect.getmembers(place) if interpreter.tl.core.is_builtin(m)]
        return [(name, member) for name, member in found[place] if getattr(place, name) is member]

    interpreter.inspect = SimpleNamespace(**vars(inspect) | {"getmembers": members})


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """The command in this process, which has torch and Optuna imported already; its stdout and stderr."""

    from rnnbench.__main__ import main

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["rnnbench", *arguments])
        capfd.readouterr()
        ended: int | str | None = 0
        try:
            main()
        except SystemExit as end:
            ended = end.code
        out, err = capfd.readouterr()
        if isinstance(ended, str):  # what Python says on stderr, and ends with 1
            ended, err = 1, err + ended
        assert ended == code, out + err
        return out, err

    return run


@pytest.fixture
def mnist_root() -> Path:
    """The folder with the real MNIST files; the test is skipped where they are not."""
    if not (DATA / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip("the MNIST files are not here: set RNNBENCH_DATA to their folder")
    return DATA


def small_task(examples: int = 60, T: int = 5, width: int = 4, classes: int = 3) -> Task:
    """Sequences whose class shows in their mean brightness, with noise."""
    rng = np.random.RandomState(0)
    targets = rng.randint(0, classes, examples)
    noise = rng.randint(0, 120, (examples, T, width))
    inputs = (noise + 60 * targets[:, None, None]).astype(np.uint8)
    third = examples // 5
    splits = {
        "train": np.arange(0, examples - 2 * third),
        "val": np.arange(examples - 2 * third, examples - third),
        "test": np.arange(examples - third, examples),
    }
    return Task(
        inputs, targets.astype(np.int64), splits,
        scale=1 / 255, mean=0.5, std=0.5, outputs=classes, checksum="made-up", details={},
    )  # fmt: skip


def make_config(model: str = "lstm", seed: int = 0, **changes) -> Config:
    """A small configuration; `changes` by dotted keys with __ for the dot, or whole parts."""
    config = Config(
        Model(model, hidden_size=6),
        changes.pop("optim", Adam()),
        Images("digits"),
        Fit(epochs=3, batch_size=8),
        Tracking(uri=None),
        seed,
    )
    for key, value in changes.items():
        part, _, name = key.partition("__")
        setattr(getattr(config, part), name, value)
    return config


def models(largest: int) -> st.SearchStrategy[Model]:
    """Models of every cell that torch.nn has too, with hidden sizes up to the largest."""
    return st.builds(
        Model,
        name=st.sampled_from(["lstm", "gru", "rnn"]),
        hidden_size=st.integers(1, largest),
        num_layers=st.integers(1, 3),
        bidirectional=st.booleans(),
        readout=st.sampled_from(Readout),
    )
