"""Prints lines for the user: messages, warnings, the reason for which a command is refused."""

from typing import IO, cast

from rich.console import Console

from rnnbench.terminal.streams import stderr, stdout, visible

out = Console(emoji=False, file=cast(IO[str], stdout))  # no emoji: colons in a trial's name stay
err = Console(stderr=True, emoji=False, file=cast(IO[str], stderr))


def say(text: str, style: str | None = None) -> None:
    """Print one line for the user, unwrapped, above a progress display if there is one."""
    out.print(visible(text), style=style, soft_wrap=True, markup=False, highlight=False)


def complain(text: str, style: str | None = None) -> None:
    """Print one line on stderr."""
    err.print(visible(text), style=style, soft_wrap=True, markup=False, highlight=False)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    complain(f"warning: {text}", "yellow")


def refuse(message: str) -> SystemExit:
    """Return the SystemExit of a command that cannot be run: prints `message` on stderr, exit code 1."""
    out.file.flush()
    return SystemExit(visible(f"error: {message}"))
