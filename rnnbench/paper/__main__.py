"""python -m rnnbench.paper table=NAME: run what a table lacks, and write it.

python -m rnnbench.paper FOLDER: write a table of the trials in a sweep's folder.

python -m rnnbench.paper look FOLDER kind=KIND: draw what is inside of trained networks.

python -m rnnbench.paper verify FOLDER: compute its numbers again from the records."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rnnbench.config import ConfigError
from rnnbench.config.secrets import check_words
from rnnbench.mlflow_sync.artifacts import upload_figures
from rnnbench.mlflow_sync.store import StoreError
from rnnbench.paper.aggregate import FilledTable, TableTrial, arrange, check_compared, fill
from rnnbench.paper.constants import levels
from rnnbench.paper.definition import Table, find_table, read_table
from rnnbench.paper.derived import derive, name_of, table_file
from rnnbench.paper.drawing import draw
from rnnbench.paper.files import texts
from rnnbench.paper.forks import Forks
from rnnbench.paper.layout import layout
from rnnbench.paper.looking import draw_of_folders
from rnnbench.paper.planning import (
    MULTIRUN,
    App,
    Plan,
    TableSearch,
    make_plan,
    portable,
    searched,
    tuned_cells,
)
from rnnbench.paper.provenance import warnings
from rnnbench.paper.published import cited
from rnnbench.paper.verdict_table import summary_layout, verdict_layout
from rnnbench.paper.verdicts import judge
from rnnbench.paper.verification import verify
from rnnbench.reader import Source
from rnnbench.sweep.points import as_words
from rnnbench.system.files import show_warnings, write
from rnnbench.terminal import complain, open_streams, print_layout, refuse, say, warn

USAGE = """examples
  python -m rnnbench.paper table=digits             run what is missing, write multirun/paper/digits
  python -m rnnbench.paper table=digits --dry-run   only say what is missing
  python -m rnnbench.paper table=digits --no-run source=multirun
                                                    from the job folders in multirun, whatever is there
  python -m rnnbench.paper table=mnist_rows data.root=PATH
                                                    further overrides go to the table's trials
  python -m rnnbench.paper multirun/lr              a row for what varied in a sweep: no table file is needed
  python -m rnnbench.paper look multirun/lr/0 kind=gates
                                                    also gradient_flow, memory, counter
  python -m rnnbench.paper verify multirun/paper/digits
"""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rnnbench.paper",
        description="Tables and figures from records.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what",
        nargs="+",
        help="table=NAME [source=FOLDER or URI] [overrides], a sweep's FOLDER or several, look FOLDER "
        "kind=KIND, or verify FOLDER",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and for how long")
    parser.add_argument("--no-run", action="store_true", help="only read records")
    parser.add_argument("--strict", action="store_true", help="verify: warnings are errors")
    parser.add_argument(
        "--config-dir", type=Path, action="append", default=[], help="more files of any group"
    )
    return parser.parse_intermixed_args()


def main() -> None:
    """Run the command: exit code 1 for what was refused, failed or differs, 130 for Ctrl-C."""
    open_streams()
    given = arguments()
    show_warnings()
    values = dict(word.split("=", 1) for word in given.what if "=" in word)
    try:
        check_words(given.what)
        if given.what[0] == "verify":
            if len(given.what) < 2:
                raise ConfigError("verify: give the folder of a table: multirun/paper/NAME")
            sys.exit(check(Path(given.what[1]), values.get("source"), given))
        if given.what[0] == "look":
            files, said = draw_of_folders(given.what[1:], given.config_dir)
            say(said)
            say(f"written: {' '.join(map(os.path.relpath, files))}")
            return
        if all(Path(word).is_dir() for word in given.what):
            of_folders(list(map(Path, given.what)), given)
            return
        if "table" not in values:
            stray = next(word for word in given.what if not Path(word).is_dir())
            raise ConfigError(
                f"{stray}: is no folder; give table=NAME, or verify FOLDER, or the folder of a sweep; --help "
                "has examples"
            )
        extra = [word for word in given.what if not word.startswith(("table=", "source="))]
        for name in values["table"].split(","):
            make(name, values.get("source"), extra, given)
    except ConfigError as error:
        raise refuse(str(error)) from None
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from here")
        sys.exit(130)


def make(name: str, where: str | None, extra: Sequence[str], given: argparse.Namespace) -> None:
    """Make one table: plan it, run what is missing, write its files."""
    table = read_table(find_table(name, given.config_dir), given.config_dir)
    table.sweep = [*table.sweep, *extra]
    if table.published is not None:
        cited(table.published)  # refused before anything is trained
    app = App(name, [folder.absolute() for folder in given.config_dir])
    if not given.no_run:
        app.deliver()
    plan = make_plan(table, app, where)
    if all(wanted.done for wanted in plan.searches):
        arrange(table, plan.planned)
    elif not set(table.rows) & {key for wanted in plan.searches for key in wanted.space}:
        check_compared(table, plan.searched)  # before anything is trained
    tell(table, plan)
    if not given.no_run:
        reckon(table, app, plan)
    if given.dry_run:
        return
    if not given.no_run:
        plan = run(table, app, plan, where)
    source = plan.source()
    if source is None:
        raise ConfigError(f"source={plan.where}: there is nothing; run the table without --no-run first")
    left = [wanted for wanted in plan.searches if not wanted.done]
    if left:
        raise ConfigError(
            f"tuned: the search for {left[0].row} has {left[0].drawn} of {left[0].trials} trials"
        )
    filled = fill(table, plan.planned, source)
    filled.command, filled.place = typed(name, where, extra, given), near(where)
    filled.searched = searched(table, plan.searches)
    table.chance = levels(filled) | table.chance  # provenance.json keeps them, so that verify needs no data
    write_all(name, filled, source, plan.searches, app.folder)


def typed(name: str, where: str | None, extra: Sequence[str], given: argparse.Namespace) -> list[str]:
    """Return the words that make a table again, without those that hold on this machine alone."""
    words = ["--no-run"] if given.no_run else []
    words += [f"--config-dir={near(os.fspath(folder))}" for folder in given.config_dir]
    source = [f"source={near(where)}"] if where else []
    return [*words, f"table={name}", *source, *portable(extra)]


def near(place: str | None) -> str:
    """Return a folder relative to the working directory, since others read it; a URI as it is."""
    return place or "" if not place or "://" in place else os.path.relpath(place)


def of_folders(folders: Sequence[Path], given: argparse.Namespace) -> None:
    """Write the table of the records in some folders; for a grid also the file that declares the table."""
    table, planned, source = derive(folders)
    name = name_of(folders)
    filled = fill(table, planned, source)
    out = MULTIRUN / "paper" / name
    filled.command = [near(os.fspath(folder)) for folder in folders]
    filled.command[:0] = [f"--config-dir={near(os.fspath(folder))}" for folder in given.config_dir]
    filled.place = near(source.name)
    write_all(name, filled, source, [], out)
    if not table.sweep:
        say("a table file declares one grid: this table is of a search, or of more than one sweep")
        return
    file = out / "table" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    folder = os.path.relpath(out)
    again = shlex.join(["python", "-m", "rnnbench.paper", f"--config-dir={folder}", f"table={name}"])
    write(file, f"# {again}\n{table_file(table)}")
    say(f"to change it: edit {folder}/table/{name}.yaml, then {again}")


def tell(table: Table, plan: Plan) -> None:
    """Print how many trials of the plan are recorded, and where."""
    named = table.tuned.columns if table.tuned is not None else {}
    for wanted in plan.searches:
        if not named or 0 < wanted.drawn < wanted.trials:
            say(f"search for {wanted.row}: {wanted.drawn} of {wanted.trials} trials are recorded")
    if named:
        say(f"{sum(wanted.done for wanted in plan.searches)} of {len(plan.searches)} searches are done")
    unique = len({trial.trial for trial in plan.planned})
    missing = len(plan.missing())
    left = sum(not wanted.done for wanted in plan.searches)
    later = f", and {left} {'cells' if named else 'rows'} follow their searches" if left else ""
    say(f"{table.title}: {unique} trials, {unique - missing} are recorded in {plan.where}{later}")


def reckon(table: Table, app: App, plan: Plan) -> None:
    """Have the app print how long the missing trials would take."""
    if table.tuned is not None and table.tuned.columns:
        if not all(wanted.done for wanted in plan.searches):
            _checked(app.estimate(open_cells(table, app, plan)))  # refused before anything is trained
    else:
        with Forks() as forks:
            for wanted in plan.searches:
                if not wanted.done:
                    app.search(wanted, forks, "dry_run=true")
    for trials, overrides in lots(table, plan):
        app.run(overrides, trials, "dry_run=true")


def open_cells(table: Table, app: App, plan: Plan) -> list[str]:
    """Return a grid with as many trials of each cell whose search is open as its search and its seeds have.

    It is estimated by one process, where a dry run of each search would take seconds a search.
    """
    assert table.tuned is not None
    tuned, cells = table.tuned, tuned_cells(table.tuned)
    fresh = len(app.points([*table.sweep, *cells[0].overrides, f"seed={tuned.fresh}"]))
    wanted = [cell.overrides for cell, search in zip(cells, plan.searches, strict=True) if not search.done]
    return as_words([*table.sweep, *wanted, f"seed=range({tuned.trials + fresh})"])


def lots(table: Table, plan: Plan) -> list[tuple[list[TableTrial], list[str]]]:
    """Return the missing trials of each grid with its overrides: the table's grid, or each winner's.

    Where each cell has a search, the winners are one grid: they are many, and each process takes seconds.
    """
    missing = plan.missing()
    if table.tuned is None:
        return [(missing, table.sweep)] if missing else []
    found = []
    for wanted in plan.searches:
        mine = [trial for trial in missing if trial.search == wanted.name]
        if mine:
            fixed = [word for word in mine[0].overrides if not word.startswith(("seed=", "data.fold="))]
            named = [word for trial in mine for word in trial.overrides if word.startswith("data.fold=")]
            folds = ",".join(word.partition("=")[2] for word in dict.fromkeys(named))
            fixed += [f"data.fold={folds}"] if folds else []
            found.append((mine, [*fixed, f"seed={table.tuned.fresh}"]))
    if table.tuned.columns and found:
        return [(missing, as_words([overrides for _, overrides in found]))]
    return found


def run(table: Table, app: App, plan: Plan, where: str | None) -> Plan:
    """Run the missing searches and trials; return the plan made anew after that."""
    with Forks() as forks:
        for wanted in plan.searches:
            if not wanted.done:
                say(f"searching for {wanted.row}: {wanted.trials} trials")
                _checked(app.search(wanted, forks))
    if any(not wanted.done for wanted in plan.searches):
        app.deliver()  # a slow store may not have taken the records of a search when it ended
        plan = make_plan(table, app, where)
    for trials, overrides in lots(table, plan):
        _checked(app.run(overrides, trials))
    app.deliver()
    left = plan.missing()
    if left:
        warn(f"{len(left)} trials have no record in {plan.where}; see above")
    return plan


def _checked(code: int) -> None:
    """Refuse exit codes of the app other than 0 and 1 (a trial failed, which has its record).

    Raises:
        KeyboardInterrupt: the app was stopped.
        ConfigError: the app refused the command.
    """
    if code in (130, 143) or code < 0:
        raise KeyboardInterrupt
    if code not in (0, 1):
        raise ConfigError(f"the app ended with exit code {code}; see above")


def write_all(
    name: str, filled: FilledTable, source: Source, searches: Sequence[TableSearch], folder: Path
) -> None:
    """Write and print a table; upload the figures that changed to MLflow."""
    folder.mkdir(parents=True, exist_ok=True)
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    figures = draw(filled, source, searches, folder)
    for file, text in texts(filled, searches, folder).items():
        write(folder / file, text)
    shown = layout(filled)
    print_layout(shown, shown.notes)
    if verdicts := judge(filled):
        judged = verdict_layout(filled, verdicts)
        whole = f"{os.path.relpath(folder)}/verdicts.md"
        brief = summary_layout(filled, verdicts)
        print_layout(brief or judged, [*judged.text, *judged.notes], whole)
    for cell in filled.cells.values():
        if "failed" in cell.lost:
            warn("some trials failed, and stand as such; delete their records to run them again")
            break
    for warning in warnings(filled):
        warn(warning)
    if figures and "://" in source.name:
        same = {file.name for file in figures if before.get(file.name) == file.read_bytes()}
        upload(source.name, name, filled, figures, same)
    drawn = len(filled.table.figures)
    kinds = f"{drawn} figure" if drawn == 1 else f"{drawn} figures"
    say(f"written: {os.path.relpath(folder)}/table.tex .md .csv .html, report.html, {kinds}")


def upload(uri: str, name: str, filled: FilledTable, files: Sequence[Path], same: set[str]) -> None:
    """Upload figures to the MLflow runs of the trials' sweeps, unless these have them already.

    Args:
        same: names of the files that did not change.
    """
    parents = sorted({record.parent for record in filled.records() if record.parent is not None})
    try:
        upload_figures(uri, parents, files, place=f"paper/{name}", same=same)
    except StoreError as error:
        warn(f"MLflow did not take the figures: {error}")


def check(folder: Path, where: str | None, given: argparse.Namespace) -> int:
    """Verify a table and say what differs; return the exit code."""
    faults, doubts = verify(folder, where, given.config_dir)
    for fault in faults:
        say(fault, "red")
    for doubt in doubts:
        warn(doubt)
    if not faults:
        say(f"{folder}: every number is what the records give")
    return 1 if faults or (given.strict and doubts) else 0


if __name__ == "__main__":
    main()
