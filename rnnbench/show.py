"""What the user sees: live progress, and the table that compares the trials of a sweep."""

import csv
import math
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rnnbench.plain_text import markdown, spreadsheet

PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal

out = Console(emoji=False)  # a trial's name may hold colons
err = Console(stderr=True, emoji=False)


def say(text: str, style: str | None = None) -> None:
    """One line for the user, unwrapped, above a progress display if there is one."""
    out.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


def warn(text: str) -> None:
    """One line on stderr."""
    err.print(f"warning: {text}", style="yellow", soft_wrap=True, markup=False, highlight=False)


def show_table(table: Table) -> None:
    """A table on the terminal; no cell is cut short, however narrow that is."""
    width = Console(width=10_000).measure(table).maximum
    Console(width=max(width, out.width)).print(table)


class Live:
    """Progress of a sweep: epochs done of all, trials ended, the best value so far, the time left.

    On a terminal one line that is redrawn; elsewhere a plain line for each trial that ends and every
    ten seconds.

    Args:
        trials: how many there are.
        epochs: of all of them together.
        metric: name of the objective.
        maximize: whether the greater of two values is the better one.
    """

    def __init__(self, trials: int, epochs: int, metric: str, maximize: bool) -> None:
        self.trials, self.epochs, self.metric = trials, epochs, metric.removeprefix("best/")
        self.maximize = maximize
        self.best = math.nan
        self.done = self.ended = 0
        self.started = self.said = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}"),
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
        """So many trial-epochs more are done; `measured` are new values of the objective."""
        self.done += epochs
        for value in measured:
            if math.isnan(self.best) or (value > self.best) == self.maximize:
                self.best = value
        if self.terminal:
            self.progress.update(self.bar, completed=self.done, state=self._state())
        elif time.monotonic() - self.said > PLAIN_EVERY:
            self.said = time.monotonic()
            elapsed = self.said - self.started
            left = elapsed / self.done * (self.epochs - self.done)
            say(
                f"epochs {self.done}/{self.epochs}, {self._state()}, {elapsed:.0f} s, about {left:.0f} s left"
            )

    def end(self, line: str, epochs_saved: int, failed: bool) -> None:
        """A trial has ended, perhaps before its last epoch."""
        self.ended += 1
        self.epochs -= epochs_saved
        say(line, "red" if failed else None)
        if self.terminal:
            self.progress.update(self.bar, total=self.epochs, state=self._state())

    def close(self) -> None:
        """Take the display away."""
        if self.terminal:
            self.progress.stop()

    def _state(self) -> str:
        best = "" if math.isnan(self.best) else f", best {self.metric} {number(self.metric, self.best)}"
        return f"trials {self.ended}/{self.trials}{best}"


@dataclass
class Comparison:
    """The table at the end of a sweep: a heading and rows of text."""

    heading: list[str]
    rows: list[list[str]]

    def print(self) -> None:
        """The table on the terminal."""
        table = Table(box=box.SIMPLE_HEAD)
        for number, name in enumerate(self.heading):
            numeric = all(row[number][:1].isdigit() for row in self.rows)
            table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        show_table(table)

    def save(self, folder: Path) -> None:
        """comparison.md and comparison.csv in a folder."""
        heading, *rows = [list(map(markdown, line)) for line in (self.heading, *self.rows)]
        lines = [heading, ["---"] * len(heading), *rows]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        (folder / "comparison.md").write_text(text, encoding="utf-8")
        with open(folder / "comparison.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(map(spreadsheet, line) for line in (self.heading, *self.rows))


def compare(results: Sequence[dict[str, Any]]) -> Comparison:
    """One row for each configuration, seeds together: what varied, parameters, accuracies, seconds.

    Args:
        results: as `rnnbench.record.read_result` gives them.
    """
    done = [result for result in results if result["status"] == "finished"]
    keys = sorted({key for result in results for key in result["params"]})
    constant = {key for key in keys if len({str(result["params"].get(key)) for result in results}) == 1}
    # The model has a column of its own, seeds are averaged over; the rest says where, not what.
    apart = ("model.name", "seed", "tracking.", "data.metric", "data.root", "data.download", "data.source",
             "data.sha256")  # fmt: skip
    varied = [key for key in keys if key not in constant and not key.startswith(apart)]
    # A group choice varies all its values at once: its name says it.
    for group in ("optim", "data"):
        if f"{group}.name" in varied:
            varied = [
                k
                for k in varied
                if k == f"{group}.name" or not k.startswith(f"{group}.") or _differ_within(results, group, k)
            ]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for result in results:
        values = tuple(_text(result["params"].get(key, "")) for key in varied)
        groups.setdefault((str(result["params"]["model.name"]), *values), []).append(result)
    metrics = dict.fromkeys(result["params"].get("data.metric", "accuracy") for result in results)
    titles: dict[str, str] = {}
    for metric in metrics:
        titles |= {
            f"best/val_{metric}": f"val {metric}",
            f"best/test_{metric}": f"test {metric} (best epoch, watched)",
            f"test/{metric}": f"test {metric}",
        }
    watched = [name for name in titles if any(name in result["metrics"] for result in done)]
    heading = ["model", *varied, "parameters", *(titles[name] for name in watched), "seconds", "seeds"]
    rows = []
    for labels, members in groups.items():
        finished = [member["metrics"] for member in members if member["status"] == "finished"]
        parameters = f"{finished[0]['parameters/total']:,.0f}" if finished else ""
        cells = [mean_sd([m[name] for m in finished if name in m], name) for name in watched]
        seconds = mean_sd([metrics["time/train_seconds"] for metrics in finished], "time/train_seconds")
        rest = {s: sum(m["status"] == s for m in members) for s in sorted({m["status"] for m in members})}
        rest.pop("finished", None)
        count = "".join([str(len(finished)), *(f", {number} {status}" for status, number in rest.items())])
        rows.append([*labels, parameters, *cells, seconds, count])
    return Comparison(heading, rows)


def _differ_within(results: Sequence[dict[str, Any]], group: str, key: str) -> bool:
    """Whether a value varies even among the trials that chose the same option of a group."""
    values: dict[Any, set[str]] = {}
    for result in results:
        values.setdefault(result["params"].get(f"{group}.name"), set()).add(str(result["params"].get(key)))
    return any(len(seen) > 1 for seen in values.values())


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def number(metric: str, value: float) -> str:
    """A value of a metric for people: shares and seconds with fixed digits, others with four that count."""
    if metric.endswith("accuracy"):
        return f"{value:.4f}"
    return f"{value:.1f}" if metric.endswith("_seconds") else f"{value:.4g}"


def mean_sd(values: Sequence[float], metric: str) -> str:
    """Mean and sample standard deviation of a metric; one value alone has no deviation."""
    if not values:
        return ""
    mean = number(metric, statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {number(metric, statistics.stdev(values))}"


def refuse(message: str) -> SystemExit:
    """The end of a command that cannot be run: one message on stderr, exit code 1."""
    sys.stdout.flush()
    return SystemExit(f"error: {message}")
