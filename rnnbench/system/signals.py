"""Stops training on Ctrl-C and SIGTERM at the next minibatch, and never while a record is being written.

By default Python raises KeyboardInterrupt anywhere in the main thread, and SIGTERM ends the process. While a
sweep is open, a signal during training or writing is remembered until `check` raises it as `StopRequest`; at
any other time it raises `StopRequest` at once.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

came: int | None = None  # the first signal that asked to stop
_listening = _deferred = 0  # how many blocks of `listen` and `deferred` are open


class StopRequest(KeyboardInterrupt):
    """A signal asked this process to stop; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def listen(*more: int) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and `more` as requests to stop, until the block ends; main thread only.

    A second Ctrl-C exits at once. Signals ignored at start stay ignored.
    """
    global came, _listening
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, *more) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, _take) for number in numbers}
    _listening += 1
    try:
        yield
    finally:
        _listening -= 1
        for number, handler in before.items():
            signal.signal(number, handler)
        if not _listening:
            came = None


def _take(number: int, frame: FrameType | None) -> None:
    global came
    if came is None:
        came = number
        if not _deferred:
            raise StopRequest(number)
    elif number == signal.SIGINT:
        os._exit(128 + number)


@contextmanager
def deferred() -> Iterator[None]:
    """Remember signals in this block; the block calls `check` where it can be stopped."""
    global _deferred
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1
    if not _deferred:
        check()


def check() -> None:
    """Stop here if a signal has come; any thread may call it.

    Raises:
        StopRequest: a signal has come; holds its number.
    """
    if came is not None:
        raise StopRequest(came)
