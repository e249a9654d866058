"""Shows how far the sweeps in a folder have come: python -m rnnbench.record show FOLDER."""

import math
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.live import Live
from rich.text import Text

from rnnbench import terminal
from rnnbench.job_state import JobState
from rnnbench.record.job_folder import now
from rnnbench.record.progress import Cell, JobNow, Reader, SweepNow
from rnnbench.record.sweep_folder import find
from rnnbench.system.files import DamagedFile
from rnnbench.terminal import grouped, mean_sd, number, say, title, visible
from rnnbench.terminal.formats import clock

EVERY = 1.0  # seconds between two looks, on a terminal
PLAIN_EVERY = 10.0  # and elsewhere
MOST = 12  # running jobs, and reasons of failures, that have a line each
Line = tuple[str, str]  # text, style


def show(folder: Path, watch: bool) -> int:
    """Print the state of every sweep at or below a folder, or of the sweep that a job folder belongs to.

    Args:
        watch: whether to show it again each second until no sweep runs.

    Returns:
        0; 1 if there is no sweep, or none that can be read.
    """
    reader = Reader()
    lines, running = _look(reader, folder)
    if not lines:
        say(f"error: no records in {folder}: it and the folders in it have no sweep.json")
        return 1
    if watch and running and terminal.out.is_terminal:
        _redraw(reader, folder, lines)
        return 0
    _print(lines)
    while watch and running:
        time.sleep(PLAIN_EVERY)
        lines, running = _look(reader, folder)
        _print(lines)
    return 0


def _redraw(reader: Reader, folder: Path, lines: Sequence[Line]) -> None:
    """Show the state of the sweeps on the terminal until none runs."""
    running = True
    with Live(_text(lines), console=terminal.out, auto_refresh=False, vertical_overflow="crop") as live:
        while running:
            time.sleep(EVERY)
            lines, running = _look(reader, folder)
            live.update(_text(lines), refresh=True)


def _look(reader: Reader, folder: Path) -> tuple[list[Line], bool]:
    """Return the lines that show the sweeps in a folder, and whether one of them runs."""
    places = find(folder)
    lines: list[Line] = []
    running = False
    for place in places:
        try:
            sweep = reader.read(place)
        except DamagedFile as error:
            lines.append((f"{os.path.relpath(place)}: {error}", "red"))
            continue
        except FileNotFoundError:  # deleted at this moment
            continue
        running = running or sweep.alive
        brief = len(places) > 1 and sweep.status == JobState.finished
        lines += _brief(sweep) if brief else list(_lines(sweep))
    return lines, running


def _brief(sweep: SweepNow) -> list[Line]:
    """Return the line of one of several sweeps that has finished."""
    best = sweep.best(final=True)
    value = f"; best {_value(sweep, best)}" if best else ""
    return [(f"{os.path.relpath(sweep.folder)}: {sweep.info['name']}: finished, {_jobs(sweep)}{value}", "")]


def _lines(sweep: SweepNow) -> Iterator[Line]:
    """Yield the lines that show a sweep."""
    started, ended = sweep.info["started"], sweep.info["ended"]
    lasted = "" if sweep.status == JobState.interrupted and not ended else _lasted(sweep, started, ended)
    yield f"{os.path.relpath(sweep.folder)}: {sweep.info['name']}: {sweep.status}{lasted}", "bold"
    if sweep.is_search:
        ended_trials, planned = sweep.trials()
        yield f"  trials: {ended_trials}{f' of {planned}' if planned else ''} have ended", ""
    yield f"  {_jobs(sweep)}", ""
    done, total = sweep.epochs()
    if sweep.alive and total:
        left = sweep.seconds_left()
        yield f"  epochs: {done} of {total}" + ("" if left is None else f", about {clock(left)} left"), ""
    best = sweep.best(final=not sweep.alive)
    if best is not None:
        so_far = " so far" if sweep.status != JobState.finished else ""
        yield f"  best{so_far}: {_value(sweep, best)}; {os.path.relpath(best.jobs[0].folder)}", "bold"
    yield from _running(sweep)
    yield from _failures(sweep)
    if sweep.status == JobState.interrupted and (command := _command(sweep.info["command"])):
        yield f"  to go on: {command}", ""


def _lasted(sweep: SweepNow, started: int, ended: int | None) -> str:
    """Return for how long a sweep runs, or ran, and who trains it."""
    if sweep.alive:
        holder = sweep.info["holder"]
        since = sweep.plan.get("since")
        begun = since if type(since) is int else started
        return f" for {clock((now() - begun) / 1000)}, process {holder['pid']} on {holder['host']}"
    return "" if ended is None else f" {time.strftime('%Y-%m-%d %H:%M', time.localtime(ended / 1000))}"


def _jobs(sweep: SweepNow) -> str:
    """Return the number of jobs by state."""
    states = sweep.states()
    if sweep.damaged:
        states["damaged"] = len(sweep.damaged)
    total = sum(states.values())
    confirming = len(sweep.jobs) - len(sweep.members)
    more = f"; {confirming} on fresh seeds" if confirming else ""
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{total} job{'' if total == 1 else 's'}{f': {counts}' if counts else ''}{more}"


def _value(sweep: SweepNow, best: Cell) -> str:
    """Return the name and the mean of the best cell or suggestion."""
    assert sweep.goal is not None
    value = f"{title(sweep.goal)} {mean_sd(best.values, sweep.goal)}"
    name = f"trial {best.number}, " if best.number is not None else ""
    shown = label(sweep, best)
    seeds = f" ({of_what(best)})" if len(best.values) > 1 else ""
    return f"{name}{f'{shown}: ' if shown else ''}{value}{seeds}"


def of_what(cell: Cell) -> str:
    """Return what a cell has values of: `3 jobs`, or `3 seeds over 5 folds`."""
    folds = {job.params.get("data.fold") for job in cell.jobs if job.params.get("data.folds") is not None}
    pooled = folds and len(cell.values) < len(cell.jobs)
    return f"{len(cell.values)} seeds over {len(folds)} folds" if pooled else f"{len(cell.values)} jobs"


def label(sweep: SweepNow, cell: Cell) -> str:
    """Return what distinguishes a cell from others of its sweep: `gru optim.lr=0.01`."""
    keys, _ = grouped([job.result for job in sweep.members])
    params = cell.jobs[0].params
    models = len({job.params.get("model.name") for job in sweep.members}) > 1
    words = [str(params.get("model.name"))] if models else []
    return " ".join([*words, *(f"{key}={params.get(key)}" for key in keys)])


def _running(sweep: SweepNow) -> Iterator[Line]:
    """Yield a line for each of the first jobs that are not finished."""
    open_jobs = [job for job in sweep.jobs if job.state in (JobState.running, JobState.interrupted)]
    width = max((len(job.folder.name) for job in open_jobs[:MOST]), default=0)
    for job in open_jobs[:MOST]:
        yield f"  {job.folder.name:>{width}}  {_one(sweep, job)}", "cyan"
    if len(open_jobs) > MOST:
        yield f"  and {len(open_jobs) - MOST} more that are {open_jobs[-1].state.value}", "cyan"


def _one(sweep: SweepNow, job: JobNow) -> str:
    """Return how far a job has come."""
    value = job.value(sweep.goal) if sweep.goal else math.nan
    said = f", best {title(str(sweep.goal))} {number(str(sweep.goal), value)}" if math.isfinite(value) else ""
    return f"{job.result['name']}: {job.state.value}, epoch {job.epochs} of {job.planned}{said}"


def _failures(sweep: SweepNow) -> Iterator[Line]:
    """Yield a line for each reason for which jobs failed, and for each damaged record."""
    reasons: dict[str, list[str]] = {}
    for job in sweep.jobs:
        if job.state is JobState.failed:
            reasons.setdefault(job.result["error"] or "no reason is recorded", []).append(job.folder.name)
    for reason, names in list(reasons.items())[:MOST]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"  failed: {', '.join(names[:3])}{more}: {reason}", "red"
    if len(reasons) > MOST:
        yield f"  failed: {len(reasons) - MOST} more reasons", "red"
    for said in sweep.damaged[:MOST]:
        yield f"  damaged: {said}", "red"


def _command(words: Sequence[str]) -> str | None:
    """Return the command of a sweep, to be given again; None if a program of the user's started it."""
    if not words or not words[0].endswith(os.path.join("rnnbench", "__main__.py")):
        return None
    return shlex.join(["python", "-m", "rnnbench", *words[1:]])


def _text(lines: Sequence[Line]) -> Text:
    """Return lines as one text for a terminal, each cut at its width."""
    return Text("\n", no_wrap=True, overflow="ellipsis").join(Text(visible(t), style=s) for t, s in lines)


def _print(lines: Sequence[Line]) -> None:
    for text, style in lines:
        say(text, style or None)
