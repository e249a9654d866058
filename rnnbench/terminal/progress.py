"""Shows the progress of a sweep while it trains."""

import math
import time
from collections.abc import Iterable

from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rnnbench.terminal.formats import number
from rnnbench.terminal.lines import out, say

PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal
EPOCH_LINES = 30  # number of lines for a trial that trains alone


class Live:
    """Shows the epochs done, the trials ended, the best value so far and the time left.

    A terminal has one line that is redrawn; other outputs get a plain line every ten seconds. Both get a line
    for each trial that ends, and for epochs of a trial that trains alone.

    Args:
        trials: number of trials.
        epochs: number of epochs of all trials together.
        metric: name of the objective.
        maximize: True if greater values are better.
    """

    def __init__(self, trials: int, epochs: int, metric: str, maximize: bool) -> None:
        self.trials, self.epochs, self.metric = trials, epochs, metric.removeprefix("best/")
        self.maximize = maximize
        self.best = math.nan
        self.done = self.ended = 0
        self.started = self.said = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=out,
            transient=True,
        )
        self.terminal = out.is_terminal
        if self.terminal:
            self.bar = self.progress.add_task("training", total=epochs, state="")
            self.progress.start()

    def epoch(self, epochs: int, measured: Iterable[float]) -> None:
        """Count `epochs` more epochs as done; `measured` are new values of the objective."""
        self.done += epochs
        for value in measured:
            if math.isfinite(value) and (math.isnan(self.best) or (value > self.best) == self.maximize):
                self.best = value
        if self.terminal:
            self.progress.update(self.bar, completed=self.done, state=self._state())
        elif self.trials > 1 and time.monotonic() - self.said > PLAIN_EVERY:
            self.said = time.monotonic()
            elapsed = self.said - self.started
            left = elapsed / self.done * (self.epochs - self.done)
            say(
                f"epochs {self.done}/{self.epochs}, {self._state()}, {elapsed:.0f} s, about {left:.0f} s left"
            )

    def alone(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """Print the line of an epoch, if its trial is the only one.

        Up to thirty epochs have a line each; more have about thirty lines, and one every ten seconds.
        """
        late = time.monotonic() - self.said > PLAIN_EVERY
        if self.trials == 1 and (late or epoch % -(-epochs // EPOCH_LINES) == 0 or epoch in (1, epochs)):
            self.said = time.monotonic()
            say(", ".join([f"epoch {epoch}/{epochs}", *(f"{k} {number(k, v)}" for k, v in metrics.items())]))

    def end(self, line: str, epochs_saved: int, failed: bool) -> None:
        """Print the line of a trial that has ended, perhaps before its last epoch."""
        self.ended += 1
        self.epochs -= epochs_saved
        say(line, "red" if failed else None)
        if self.terminal:
            self.progress.update(self.bar, total=self.epochs, state=self._state())

    def leave_out(self, line: str, trials: int, epochs: int) -> None:
        """Print why some trials are not trained, and no longer count them."""
        self.trials -= trials
        self.epochs -= epochs
        say(line)
        if self.terminal:
            self.progress.update(self.bar, total=self.epochs, state=self._state())

    def close(self) -> None:
        """Remove the display."""
        if self.terminal:
            self.progress.stop()

    def _state(self) -> str:
        best = "" if math.isnan(self.best) else f", best {self.metric} {number(self.metric, self.best)}"
        return f"trials {self.ended}/{self.trials}{best}"


class Reading:
    """Shows how far a file is read: a bar on a terminal, else a line at the beginning and at the end.

    Args:
        what: is done, such as "reading big.csv".
        total: of what `advance` counts.
        shown: False prints nothing.
    """

    def __init__(self, what: str, total: int, *, shown: bool) -> None:
        self.what, self.total, self.shown = what, total, shown
        self.bar = Progress(console=out, transient=True, disable=not (shown and out.is_terminal))

    def __enter__(self) -> "Reading":
        self.started = time.monotonic()
        self.task = self.bar.add_task(self.what, total=self.total)
        self.bar.start()
        if self.shown and not out.is_terminal:
            say(f"{self.what}, once")
        return self

    def advance(self, by: int) -> None:
        """Count so much more as read."""
        self.bar.advance(self.task, by)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self.bar.stop()
        if self.shown and kind is None:
            say(f"{self.what} took {time.monotonic() - self.started:.0f} s; the next time it is there")
