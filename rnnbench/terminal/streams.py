"""Defines streams whose writes never fail, so that a closed pipe or a full device ends no training."""

import codecs
import io
import os
import re
import sys
from typing import Any

# Control characters, marks that turn the direction of text, and bytes of a file name that are not UTF-8.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
INSTEAD = {"±": "+-", "…": "...", "–": "-", "—": "-", "×": "x", "’": "'", "•": "*"}  # noqa: RUF001


def visible(text: str) -> str:
    """Return the text with escapes for what a terminal would act upon, or could not write: \\x1b, \\xe9."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found[0])
        code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # how Python holds such a byte
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return UNSAFE.sub(escape, text)


def _instead(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return, for codecs, what stands for characters that an encoding does not have."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(INSTEAD.get(c, c.encode("ascii", "backslashreplace").decode()) for c in missing), error.end


codecs.register_error("rnnbench.instead", _instead)


class Stream(io.TextIOBase):
    """sys.stdout or sys.stderr, whichever it is at the moment; writing to it never fails.

    Args:
        name: `stdout` or `stderr`.
        over: the stream to write to; None: that of this name.
    """

    def __init__(self, name: str, over: Any = None) -> None:
        self.name, self.over = name, over

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)  # what streams have besides, buffer for one

    @property
    def _target(self) -> Any:
        target = getattr(sys, self.name) if self.over is None else self.over
        return getattr(target, "rich_proxied_file", target)  # a progress display puts itself before it

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._target, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return bool(self._target is not None and self._target.isatty())
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        if self._target is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._target.fileno())

    def encodable(self, text: str) -> str:
        """Return the text with substitutes for the characters that this stream's encoding lacks."""
        return text.encode(self.encoding, "rnnbench.instead").decode(self.encoding)

    def write(self, text: str) -> int:
        target = self._target
        if target is not None:
            try:
                target.write(self.encodable(text))
            except BlockingIOError:  # a full pipe that does not wait
                pass
            except (OSError, ValueError):
                self._give_up(target)
        return len(text)

    def flush(self) -> None:
        target = self._target
        if target is not None:
            try:
                target.flush()
            except BlockingIOError:
                pass
            except (OSError, ValueError):
                self._give_up(target)

    def _give_up(self, target: Any) -> None:
        """Send what is still to be written to the null device: a dead pipe, a full device, a closed file."""
        try:
            number = target.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
            target.flush()
        except (AttributeError, OSError, ValueError):  # it has no number: each write fails, and is forgotten
            pass


stdout, stderr = Stream("stdout"), Stream("stderr")


def open_streams() -> None:
    """Make sys.stdout and sys.stderr streams that never fail; for a command, whose Hydra prints too.

    What a shell has closed (`>&-`) of stdin, stdout and stderr is opened on the null device: otherwise the
    next file that is opened would have its number, and whoever prints would write into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        if number and not isinstance(getattr(sys, name), Stream):
            setattr(sys, name, Stream(name, getattr(sys, name)))
