"""The command in a process of its own, forked from one that has the slow libraries imported already.

It is a real process: it has its own folder, environment, streams and signals, and can be killed. It saves the
seconds of importing torch, Optuna and matplotlib and of parsing config files, some hundred times a test run.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from threading import Thread
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "filelock",
        "hydra._internal.hydra",
        "hydra.main",
        "numpy.random",
        "optuna.importance._fanova._fanova",
        "optuna.visualization.matplotlib",
        "plotly.graph_objects",
        "plotly.graph_objs._bar",
        "plotly.graph_objs._layout",
        "plotly.graph_objs.layout",
        "plotly.graph_objs.scatter",
        "rich.progress",
        "scipy.stats",
        "sklearn.datasets",
        "sqlalchemy",
        "torch",
        "torch._inductor",  # to trace a cell of one's own
        "rnnbench.app",
        "rnnbench.search.report",
        "rnnbench.sweep.scheduler",
        "tests.warmed",
    ]
)


class Forked:
    """`python -m MODULE ARGUMENTS` in a folder; the part of subprocess.Popen's interface that tests use."""

    def __init__(self, module: str, arguments: Sequence[str], folder: Path | str) -> None:
        self.args = [module, *arguments]
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        self.stdout = os.fdopen(out, encoding="utf-8", errors="replace")
        self.stderr = os.fdopen(err, encoding="utf-8", errors="replace")
        ends = DupFd(out_end), DupFd(err_end)
        self.process = CONTEXT.Process(
            target=_child, args=(module, list(arguments), str(folder), dict(os.environ), *ends)
        )
        self.process.start()
        os.close(out_end)
        os.close(err_end)

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; a signal's number, negative, if that ended it; None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, after so many seconds.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it writes to stdout and stderr until it ends.

        Raises:
            subprocess.TimeoutExpired: it has not ended after so many seconds.
        """
        said = ["", ""]

        def read(n: int, stream: Any) -> None:
            said[n] = stream.read()

        readers = [
            Thread(target=read, args=pair, daemon=True) for pair in enumerate((self.stdout, self.stderr))
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing if it has ended."""
        if self.process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def forked_command(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run `PYTHON -m MODULE ARGUMENTS` in this folder as subprocess.run does, and print what it says."""
    process = Forked(command[2], command[3:], Path.cwd())
    out, err = process.communicate()
    print(out, end="")
    print(err, end="", file=sys.stderr)
    return subprocess.CompletedProcess(command, process.wait(), out, err)


def _child(
    module: str, arguments: list[str], folder: str, environment: dict[str, str], out: DupFd, err: DupFd
) -> None:
    os.dup2(out.detach(), 1)
    os.dup2(err.detach(), 2)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder  # as -m has it
    sys.argv = [module, *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
