"""What the user sees: lines, live progress, and the table that compares the trials of a sweep.

Everything that the package prints goes through here. A terminal that cannot show a sign, a pipe that nobody
reads any more, a full device: none of them ends a training.
"""

import codecs
import hashlib
import io
import math
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

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
from rich.text import Text

from rnnbench.config import direction
from rnnbench.system.files import write, write_csv
from rnnbench.system.plain_text import markdown, printable, spreadsheet

PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal
NARROWEST = 12  # that a column of names is folded to
CONFIG_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
EPOCH_LINES = 30  # of a trial that trains alone, however many epochs it has

# Control characters, marks that turn the direction of text, and bytes of a file name that are not UTF-8.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
INSTEAD = {"±": "+-", "…": "...", "–": "-", "—": "-", "×": "x", "’": "'", "•": "*"}  # noqa: RUF001


def visible(text: str) -> str:
    """The text with escapes for what a terminal would act upon, or could not write: \\x1b, \\xe9."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found[0])
        code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # how Python holds such a byte
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return UNSAFE.sub(escape, text)


def _instead(error: UnicodeError) -> tuple[str | bytes, int]:
    """For codecs: what stands for characters that an encoding does not have."""
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
        """The text with something else for the characters that this stream's encoding does not have."""
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
        """What is still to be written goes to the null device: a dead pipe, a full device, a closed file."""
        try:
            number = target.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
            target.flush()
        except (AttributeError, OSError, ValueError):  # it has no number: each write fails, and is forgotten
            pass


def open_streams() -> None:
    """For a command: whatever prints, Hydra and code of one's own too, fails by no terminal.

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


stdout, stderr = Stream("stdout"), Stream("stderr")
out = Console(emoji=False, file=cast(IO[str], stdout))  # a trial's name may hold colons
err = Console(stderr=True, emoji=False, file=cast(IO[str], stderr))


def say(text: str, style: str | None = None) -> None:
    """One line for the user, unwrapped, above a progress display if there is one."""
    out.print(visible(text), style=style, soft_wrap=True, markup=False, highlight=False)


def complain(text: str, style: str | None = None) -> None:
    """One line on stderr."""
    err.print(visible(text), style=style, soft_wrap=True, markup=False, highlight=False)


def warn(text: str) -> None:
    """A warning on stderr."""
    complain(f"warning: {text}", "yellow")


def refuse(message: str) -> SystemExit:
    """The end of a command that cannot be run: one message on stderr, exit code 1."""
    out.file.flush()
    return SystemExit(visible(f"error: {message}"))


def show_table(table: Table, width: int | None = None) -> None:
    """A table on the terminal; no cell is cut short, however narrow that is.

    Args:
        width: to fold the columns to that may be folded; None: as wide as it comes.
    """
    width = width or _width(table)
    Console(width=max(width, out.width), file=out.file).print(table)


class Live:
    """Progress of a sweep: epochs done of all, trials ended, the best value so far, the time left.

    On a terminal one line that is redrawn; elsewhere a plain line every ten seconds. On both a line for each
    trial that ends, and for epochs of a trial that trains alone.

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
        """So many trial-epochs more are done; `measured` are new values of the objective."""
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
        """The line of an epoch, if its trial is the only one.

        Each epoch of a short training has one; a long one has thirty lines, and one every ten seconds.
        """
        late = time.monotonic() - self.said > PLAIN_EVERY
        if self.trials == 1 and (late or epoch % -(-epochs // EPOCH_LINES) == 0 or epoch in (1, epochs)):
            self.said = time.monotonic()
            say(", ".join([f"epoch {epoch}/{epochs}", *(f"{k} {number(k, v)}" for k, v in metrics.items())]))

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
    """The table at the end of a sweep: a heading and rows of text.

    Args:
        settings: columns that the terminal has in one line, if all rows have the same in them.
        spare: columns that a narrow terminal does without, the least needed first.
        best: the rows that are marked.
    """

    heading: list[str]
    rows: list[list[str]]
    settings: Collection[str] = ()
    spare: Sequence[str] = ()
    best: Collection[int] = ()

    def print(self, notes: Sequence[str] = (), whole: str = "") -> None:
        """The table on the terminal, within its width if that can be.

        Args:
            notes: lines below it.
            whole: the file that has the columns that are left out.
        """
        kept = list(range(len(self.heading)))
        same = [n for n in kept[1:] if self.heading[n] in self.settings and self._is_constant(n)]
        kept = [n for n in kept if n not in same]
        left_out: list[str] = []
        for breaks in ("", " .", " ._"):  # headings in one line, in several, and in several short ones
            table = self._table(kept, breaks)
            if _width(table) <= out.width:
                break
        for name in self.spare if whole else ():
            if _width(table) > out.width and name in self.heading and self.heading.index(name) in kept:
                kept.remove(self.heading.index(name))
                left_out.append(name)
                table = self._table(kept, breaks)
        least = sum(column.min_width or 0 for column in table.columns) + 3 * len(kept) + 1
        show_table(table, max(min(_width(table), out.width), least))
        if same:
            say("every row: " + ", ".join(f"{self.heading[n]} {self.rows[0][n]}" for n in same))
        for note in notes:
            say(note)
        if left_out:
            say(f"not shown, for want of room: {', '.join(left_out)}; all columns: {whole}")

    def _is_constant(self, column: int) -> bool:
        return len(self.rows) > 1 and len({row[column] for row in self.rows}) == 1

    def _table(self, kept: Sequence[int], breaks: str) -> Table:
        """The table of some columns; numbers stay in one line, names may be folded.

        Args:
            breaks: the signs after which a heading may go on in another line.
        """
        table = Table(box=box.SIMPLE_HEAD)
        columns = []
        for n in kept:
            cells = [_cell(row[n]) for row in self.rows]
            number = all(not cell or cell[0].isdigit() for cell in cells)
            if n == kept[0] and self.best:
                cells = [f"{cell} *" if k in self.best else cell for k, cell in enumerate(cells)]
            widest = max(map(len, cells), default=0)
            name = _cell(self.heading[n])
            table.add_column(
                Text(_in_lines(name, widest, breaks) if breaks else name),
                justify="right" if number else "left",
                no_wrap=number,
                min_width=widest if number else min(widest, NARROWEST),
                overflow="fold",
            )
            columns.append(map(Text, cells))
        for k, row in enumerate(zip(*columns, strict=True)):
            table.add_row(*row, style="bold" if k in self.best else None)
        return table

    def save(self, folder: Path) -> None:
        """comparison.md and comparison.csv in a folder."""
        heading, *rows = [list(map(markdown, line)) for line in (self.heading, *self.rows)]
        lines = [heading, ["---"] * len(heading), *rows]
        write(folder / "comparison.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))
        write_csv(folder / "comparison.csv", (map(spreadsheet, line) for line in (self.heading, *self.rows)))


def _cell(text: str) -> str:
    """A cell as the terminal shows it, before the width of its column is known."""
    return stdout.encodable(printable(text))


def _width(table: Table) -> int:
    """Columns of the terminal that a table takes if nothing in it is folded."""
    return Console(width=10_000).measure(table).maximum


def _in_lines(name: str, width: int, breaks: str) -> str:
    """A heading in lines of this width, or little more, that end with one of the signs in `breaks`."""
    lines = [""]
    for part in re.findall(f"[^{breaks}]*[{breaks}]|[^{breaks}]+", name):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def compare(results: Sequence[dict[str, Any]], goal: str | None = None) -> Comparison:
    """One row for each configuration, seeds together: what varied, parameters, accuracies, seconds.

    Args:
        results: as `rnnbench.record.read_result` gives them.
        goal: the metric by which the best rows are marked; None: none are.
    """
    results = _once(_with_code(results))
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
        groups.setdefault((str(result["params"].get("model.name", "")), *values), []).append(result)
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
    took = "time/train_seconds"
    rows = []
    goals: list[float] = []  # the goal of each row
    for labels, members in groups.items():
        finished = [member["metrics"] for member in members if member["status"] == "finished"]
        counts = [metrics["parameters/total"] for metrics in finished if "parameters/total" in metrics]
        parameters = f"{counts[0]:,.0f}" if counts else ""
        cells = [mean_sd([m[name] for m in finished if name in m], name) for name in watched]
        seconds = mean_sd([m[took] for m in finished if took in m], took)
        rest = {s: sum(m["status"] == s for m in members) for s in sorted({m["status"] for m in members})}
        rest.pop("finished", None)
        count = "".join([str(len(finished)), *(f", {number} {status}" for status, number in rest.items())])
        rows.append([*labels, parameters, *cells, seconds, count])
        reached = [m[goal] for m in finished if math.isfinite(m[goal])] if goal else []
        goals.append(statistics.fmean(reached) if reached else math.nan)
    best = chosen(goals, goal) if goal and len(metrics) == 1 else []
    spare = ["seconds", "parameters", *(titles[name] for name in reversed(watched) if name != goal)]
    return Comparison(heading, rows, {*varied, "parameters", "seeds"}, spare, best)


def _once(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each trial once: of several results the last finished one counts, else the last."""
    counts: dict[Any, dict[str, Any]] = {}
    for n, result in enumerate(results):
        at = result.get("trial", n), result["params"].get("code")
        if at not in counts or result["status"] == "finished" or counts[at]["status"] != "finished":
            counts[at] = result
    return list(counts.values())


def chosen(values: Sequence[float], goal: str) -> list[int]:
    """The positions of the best of these values of a metric; of those that are finite, if there are two."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return []
    best = max(finite) if direction(goal) == "maximize" else min(finite)
    return [n for n, value in enumerate(values) if math.isclose(value, best, rel_tol=1e-12)]


def _with_code(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results, where files of one's own were edited meanwhile with `code` among their parameters.

    Trials of different content are no seeds of one another, though all that was typed is the same.
    """
    seen: dict[str, set[str]] = {}
    marks = []
    for result in results:
        own = sorted((k, v) for k, v in result.get("tags", {}).items() if k.startswith("rnnbench.import."))
        marks.append(hashlib.sha256(repr(own).encode()).hexdigest()[:8] if own else "")
        typed = [result["params"].get(key) for key in ("rnnbench_import", "model.name", "data.name")]
        seen.setdefault(repr(typed), set()).add(marks[-1])
    if all(len(contents) == 1 for contents in seen.values()):
        return list(results)
    return [
        result | {"params": result["params"] | {"code": mark}}
        for result, mark in zip(results, marks, strict=True)
    ]


def judge(goal: str, results: Sequence[dict[str, Any]]) -> str | None:
    """The metric by which the trials of one task are compared on the terminal: never one of the test set.

    Args:
        goal: the objective.
    """
    params = [result["params"] for result in results]
    tasks = {(given.get("data.name"), given.get("data.metric", "accuracy")) for given in params}
    if len(tasks) != 1:
        return None
    if "test" in goal:
        ((_, metric),) = tasks
        goal = f"best/val_{metric}"
    return goal if all(goal in r["metrics"] for r in results if r["status"] == "finished") else None


def legend(comparison: Comparison, goal: str | None) -> list[str]:
    """What the signs in the table of a sweep mean, in one line; none if it has none."""
    said = []
    if comparison.best and goal is not None:
        said.append(f"*: the best {title(goal)}")
    if any("±" in cell for row in comparison.rows for cell in row):
        said.append("±: sample standard deviation over seeds")
    return ["; ".join(said)] if said else []


def title(metric: str) -> str:
    """An objective as the lines of a sweep have it: that of the best epoch without saying so."""
    split, _, name = metric.removeprefix("best/").partition("_")
    return f"{split}/{name}" if metric.startswith("best/") and name else metric


def train_command(overrides: Sequence[str]) -> str:
    """The command line that trains a trial alone, to be pasted into a shell."""
    return shlex.join(["python", "-m", "rnnbench", *_config_files(sys.argv), *overrides])


def _config_files(words: Sequence[str]) -> list[str]:
    """The words of a command line that say where configuration files of one's own are: flags, then values."""
    flags: list[str] = []
    values: list[str] = []
    for n, word in enumerate(words):
        flag, equals, _ = word.partition("=")
        if flag in CONFIG_FLAGS:
            flags += [word] if equals else words[n : n + 2]
        elif word.startswith("hydra.searchpath="):
            values.append(word)
    return [*flags, *values]


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
        return f"{value:.4f}" if value == 0 or abs(value) >= 5e-5 else f"{value:.2e}"
    if metric.endswith("_seconds"):
        return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2g}"
    return f"{value:.4g}"


def mean_sd(values: Sequence[float], metric: str) -> str:
    """Mean and sample standard deviation of the finite values of a metric; one alone has no deviation."""
    finite = [value for value in values if math.isfinite(value)]
    parts = [number(metric, statistics.fmean(finite))] if finite else []
    if len(finite) > 1:
        deviation = statistics.stdev(finite)
        shown = number(metric, deviation)
        if metric.endswith("_seconds") and "e" not in parts[0]:  # to as many digits as the mean
            shown = f"{deviation:.{len(parts[0].partition('.')[2])}f}"
        parts = [f"{parts[0]} ± {shown}"]
    if len(finite) < len(values):
        parts.append(f"{len(values) - len(finite)} not finite")
    return ", ".join(parts)
