"""Says where code of one's own is written, and which of its lines raises an exception."""

import os
import traceback
from types import FunctionType
from typing import Any

from rnnbench.config.refusals import ConfigError
from rnnbench.config.sources import outside


def defined(value: Any) -> str:
    """Return FILE:LINE of a function, or of the first function of a class."""
    functions = [value] if isinstance(value, FunctionType) else vars(value).values()
    for function in functions:
        if isinstance(function, FunctionType):
            return place(function.__code__.co_filename, function.__code__.co_firstlineno)
    return f"{value.__module__}.{value.__qualname__}"


def place(file: str, line: int | None) -> str:
    """Write FILE:LINE for a message, the file relative to the working directory if it is below it."""
    below = os.path.realpath(file).startswith(os.path.realpath(os.curdir) + os.sep)
    return f"{os.path.relpath(os.path.realpath(file), os.path.realpath(os.curdir)) if below else file}:{line}"


def blamed(error: BaseException) -> str | None:
    """Return the last line of one's own code in an exception's traceback, as FILE:LINE; None if none is."""
    if isinstance(error, SyntaxError) and error.filename and outside(error.filename):
        return place(error.filename, error.lineno)
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file, main = frame.f_code.co_filename, frame.f_globals.get("__name__") == "__main__"
        if outside(file) if os.path.isfile(file) else main:
            found = place(file, line)
    return found


def explained(error: BaseException) -> str:
    """Return an exception's message, after the line of one's own code that raised it, if one did."""
    where = blamed(error)
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # printing may raise anything, by its class
        text = "its message cannot be printed"
    said = [] if isinstance(error, ConfigError) else [type(error).__name__]
    words = ". ".join([": ".join([*said, *([str(text)] if text else [])]), *getattr(error, "__notes__", [])])
    return f"{where}: {words}" if where else words
