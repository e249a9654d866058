"""Runs commands of rnnbench in forks of one process, which has imported what is slow to import.

The searches of a table are commands of their own, and often train for seconds: to import torch, Optuna and
what draws a study's pictures would take four more seconds for each search.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Self

# What a search imports after its command line was read; none of it starts a thread that works.
SLOW = ("torch", "optuna", "sklearn.ensemble", "matplotlib.pyplot", "rnnbench.app", "rnnbench.search.runner",
        "rnnbench.search.pictures", "rnnbench.sweep.scheduler", "rnnbench.sweep.engine_checks")  # fmt: skip


class Forks:
    """Runs commands of `python -m rnnbench`, one after the other; the first starts the process that forks.

    Elsewhere than on Linux a process that has imported torch cannot be forked safely, and each command is a
    process of its own.
    """

    def __init__(self) -> None:
        self.server: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.server is not None:
            process, here = self.server
            here.close()
            process.wait()

    def run(self, words: Sequence[str]) -> int:
        """Run a command with its output; return its exit code, negative for a signal, as subprocess does.

        Args:
            words: what follows `python -m rnnbench`.
        """
        if sys.platform != "linux":
            return subprocess.run([sys.executable, "-m", "rnnbench", *words]).returncode
        if self.server is None:
            self.server = _start()
        process, here = self.server
        here.sendall(f"{json.dumps(list(words))}\n".encode())
        answer = here.recv(16)
        return int(answer) if answer else process.wait()


def _start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process that forks; return it with our end of the connection to it."""
    here, there = socket.socketpair()
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT}
    )  # inherited: Ctrl-C ends a fork, not the process
    try:
        with there:
            command = [sys.executable, "-m", __name__, str(there.fileno())]
            return subprocess.Popen(command, pass_fds=[there.fileno()]), here
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def serve(connection: socket.socket) -> None:
    """Fork for each command that comes, and send its exit code when it has ended.

    In the fork this returns, or raises, as the command does.
    """
    for module in SLOW:
        import_module(module)
    # Python 3.12 warns of threads when it forks: those of OpenBLAS, which ends them itself before a fork.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    for line in connection.makefile(encoding="utf-8"):
        child = os.fork()
        if child == 0:
            connection.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            sys.argv[1:] = json.loads(line)
            runpy.run_module("rnnbench", run_name="__main__", alter_sys=True)
            return
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(BrokenPipeError):  # the table's command was interrupted, and does not wait
            connection.sendall(b"%d" % code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
