"""Reports a search: its winner, confirmed on fresh seeds, the command that trains it, costs, pictures."""

import os
import statistics
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.table import Table

from rnnbench import terminal
from rnnbench.config import ConfigError, objective, recorded, to_yaml
from rnnbench.job_state import JobState
from rnnbench.record import delivered_runs
from rnnbench.render.layout import Layout
from rnnbench.search.constraints import broken, is_feasible
from rnnbench.search.identity import STUDY
from rnnbench.search.lease import LEASE, WORKER, myself, runs_here
from rnnbench.search.members import Member, members_of
from rnnbench.search.over import SCORE, ByTask, goal_of, name_of
from rnnbench.search.pictures import draw
from rnnbench.search.plan import Plan
from rnnbench.search.runner import Search, SearchFailed, StackSearch
from rnnbench.search.study import EARLIER, Study, is_earlier
from rnnbench.search.warm import said_of
from rnnbench.sweep.stages import show_plan
from rnnbench.system.files import write, write_csv
from rnnbench.terminal import mean_sd, say
from rnnbench.terminal.formats import clock

CONFIRMED = "confirmed"  # the study's attribute: trial number to results on fresh seeds
RUNS = "mlflow_runs"  # the study's attribute: name of a job folder to its MLflow run
SHOWN = 10  # trials in the table


def close_study(search: Search, error: BaseException | None) -> list[float] | float | None:
    """Report a search; if it ended without an error, confirm its winner and draw its pictures.

    Returns:
        the best value; None for several objectives, or if the search ended by an error.

    Raises:
        SearchFailed: no trial has a result.
    """
    plan, study = search.plan, search.study
    done, earlier = study.done(), study.earlier()
    winners = best(study, [*done, *earlier])
    if error is not None:
        if winners:
            say(f"best so far: {_values(plan, winners[0])}, trial {winners[0].number}")
        say(f"{len(done)} of {plan.n_trials} trials are done; {_again(plan)}")
        return None
    _link_runs(plan, study)
    if len(done) > plan.n_trials:
        say(f"hydra.sweeper.n_trials={plan.n_trials}: {len(done)} trials are done already")
    if not winners:
        raise SearchFailed(_nothing(done))
    confirmed = _confirm(search, done, winners)
    terminal.print_layout(table(plan, [*done, *earlier], winners))
    if isinstance(search, StackSearch) and (line := search.occupancy()):
        say(line)
    for line in filter(None, (saved(plan, done), turned_down(done))):
        say(line)
    if plan.settings.over is not None:
        terminal.print_layout(by_task(plan, [*done, *earlier], winners[0]))
    commands = {winner.number: command(plan, winner) for winner in winners}
    for winner in winners:
        _tell(plan, winner, confirmed.get(str(winner.number)), commands[winner.number])
    write_results(plan, done, winners)
    pictures = plan.folder / "study"
    importances = draw(study.study, plan.objectives, pictures)
    if importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in importances.items())
        among = f" (with {said_of(earlier)})" if earlier else ""
        say(f"importances for {terminal.title(plan.objectives[0])}{among}: {shares}")
    say(f"pictures: {pictures}")
    assert search.sweep.record is not None
    line = commands[winners[0].number]
    facts = _facts(plan, study, winners, confirmed=confirmed, importances=importances, line=line)
    search.sweep.record.note(study=facts)
    return winners[0].value if len(plan.objectives) == 1 else None


def best(study: Study, done: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the best trial that keeps the constraints, or the Pareto front; [] if there is none."""
    if not any(trial.state == TrialState.COMPLETE and is_feasible(trial) for trial in done):
        return []
    if len(study.study.directions) > 1:
        return sorted(study.study.best_trials, key=lambda trial: trial.values)
    return [study.study.best_trial]


def table(plan: Plan, done: Sequence[FrozenTrial], winners: Sequence[FrozenTrial]) -> Layout:
    """Lay out the best ten trials, or the Pareto front: values, spread over repeats, parameters.

    Pruned trials stand below those that trained to their end, with the values that they had reached, and
    those that break a constraint below both.
    """
    trained = [trial for trial in done if trial.values]
    if len(plan.objectives) > 1:
        chosen = list(winners)
    else:
        sign = -1 if plan.directions[0] == "maximize" else 1
        chosen = sorted(
            trained,
            key=lambda trial: (
                bool(broken(trial)),
                trial.state == TrialState.PRUNED,
                sign * trial.values[0],
                trial.number,
            ),
        )[:SHOWN]
    keys = list(
        dict.fromkeys(item.partition("=")[0] for t in chosen for item in t.user_attrs["record"]["overrides"])
    )
    rows = []
    for trial in chosen:
        record = trial.user_attrs["record"]
        given = dict(item.split("=", 1) for item in record["overrides"])
        spread = record.get("spread", [])
        values = [
            _value(name, value) + (f" ± {_value(name, spread[n])}" if spread else "")
            for n, (name, value) in enumerate(zip(plan.objectives, trial.values, strict=True))
        ]
        if left_out(trial):
            values[0] += f" ({len(record['jobs'])} of {record['members']} runs)"
        if trial.state == TrialState.PRUNED:
            values[0] += f" (pruned at epoch {trial.last_step})"
        if names := broken(trial):
            values[0] += f" (breaks {', '.join(names)})"
        rows.append([_named(trial), *values, *(_short(given.get(key, "")) for key in keys)])
    return Layout.of_text(["trial", *map(terminal.title, plan.objectives), *keys], rows)


def _named(trial: FrozenTrial) -> str:
    """Return a trial's number, and for one of an earlier study whose it is."""
    if not is_earlier(trial):
        return str(trial.number)
    study, number = trial.user_attrs[EARLIER]
    return f"{trial.number} ({number} of {study})"


def by_task(plan: Plan, done: Sequence[FrozenTrial], winner: FrozenTrial) -> Layout:
    """Lay out what the winner reaches in each task, beside a constant answer, and its rank in the task."""
    complete = [trial for trial in done if trial.state == TrialState.COMPLETE and not left_out(trial)]
    rows = []
    for number, (task, base) in enumerate(zip(plan.tasks, plan.bases, strict=True)):
        goal, found = goal_of(plan.settings, base), winner.user_attrs["record"]["tasks"][number]
        scores = [trial.user_attrs["record"]["tasks"][number]["score"] for trial in complete]
        rows.append(
            [
                name_of(task),
                f"{terminal.title(goal)} {_value(goal, found['value'])}",
                _value(goal, found["constant"]),
                terminal.number(SCORE, found["score"]),
                f"{1 + sum(score > found['score'] for score in scores)} of {len(scores)}",
            ]
        )
    return Layout.of_text(["task", "winner", "constant answer", "score", "rank"], rows)


def _value(name: str, value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) > 1 else terminal.number(name, value)


def _short(value: str) -> str:
    """Round a number to three significant digits for the table; the printed command has all digits."""
    try:
        return value if value.lstrip("-").isdigit() else f"{float(value):.3g}"
    except ValueError:
        return value


def left_out(trial: FrozenTrial) -> int:
    """Return how many members of a trial were never trained, since the pruner had seen enough."""
    record = trial.user_attrs["record"]
    return int(record["members"]) - len(record["jobs"]) if "members" in record else 0


def is_turned_down(trial: FrozenTrial) -> bool:
    """Return whether a trial was not trained, since its size breaks a constraint."""
    return trial.state == TrialState.PRUNED and "jobs" not in trial.user_attrs["record"]


def turned_down(done: Sequence[FrozenTrial]) -> str | None:
    """Return a line on the trials that were not trained, since their sizes break constraints."""
    count = sum(map(is_turned_down, done))
    return (
        None
        if not count
        else f"{count} of {len(done)} trials broke a constraint by size, and were not trained"
    )


def _nothing(done: Sequence[FrozenTrial]) -> str:
    """Say why no trial has won."""
    failed = sum(trial.state == TrialState.FAIL for trial in done)
    if over := [trial for trial in done if broken(trial)]:
        names = ", ".join(sorted({name for trial in over for name in broken(trial)}))
        return (
            f"no trial keeps the constraints: {len(over)} of {len(done)} break {names}; loosen "
            "hydra.sweeper.constraints, or search where they can be kept"
        )
    return f"no trial has a result: {failed} of {len(done)} failed; see above"


def saved(plan: Plan, done: Sequence[FrozenTrial]) -> str | None:
    """Return a line on what pruning saved: epochs or runs, and their time at each trial's speed."""
    seconds, left, planned = 0.0, 0, 0
    pruned = [t for t in done if (t.state == TrialState.PRUNED and not is_turned_down(t)) or left_out(t)]
    for trial in pruned:
        record = trial.user_attrs["record"]
        if plan.first_turn is None:
            trained, full = sum(record["epochs"]), plan.base.fit.epochs * len(record["epochs"])
        else:
            trained, full = len(record["jobs"]), record["members"]
        seconds += (full - trained) * record["seconds"] / max(trained, 1)
        left, planned = left + full - trained, planned + full
    if not pruned:
        return None
    return (
        f"pruning stopped {len(pruned)} of {len(done)} trials and saved {left} of their {planned} "
        f"{'epochs' if plan.first_turn is None else 'runs'}, "
        f"about {clock(seconds)} of training one after the other"
    )


def _tell(plan: Plan, winner: FrozenTrial, confirmed: dict[str, Any] | None, line: str | None) -> None:
    """Print a winner: its values, its folder, the command that trains it."""
    record = winner.user_attrs["record"]
    kind = "best" if len(plan.objectives) == 1 else "on the front"
    folder = os.path.relpath(record["folder"])
    say(f"{kind}: trial {_named(winner)}, {_values(plan, winner)}; {folder}", "bold")
    if confirmed is None:
        say(
            "  the best of many is better than it will be again; "
            "hydra.sweeper.confirm=5 trains it under fresh seeds"
        )
    else:
        for name, values in confirmed["metrics"].items():
            seeds = len(confirmed["seeds"])
            folds = f" of each of {len(values) // seeds} folds" if len(values) > seeds else ""
            say(f"  {terminal.title(name)} on {seeds} fresh seeds{folds}: {mean_sd(values, name)}")
    if line is not None:
        for each in line.splitlines():
            say(f"  {each}")


def command(plan: Plan, winner: FrozenTrial) -> str | None:
    """Return the command line that trains a trial alone, over several tasks one for each.

    It is None if the trial's overrides do more than set values of this search's space. They come from the
    study's storage, which others can write to, so such overrides are not printed ready to paste.
    """
    try:
        drawn = recorded(winner.user_attrs["record"]["overrides"], plan.space)
    except ConfigError as error:
        terminal.warn(f"trial {winner.number}: {error}")
        return None
    return "\n".join(terminal.train_command([*plan.fixed, *drawn, *task]) for task in plan.tasks)


def _values(plan: Plan, trial: FrozenTrial) -> str:
    return ", ".join(
        f"{terminal.title(name)} {_value(name, value)}"
        for name, value in zip(plan.objectives, trial.values, strict=True)
    )


def _again(plan: Plan) -> str:
    if plan.named:
        return "the same command goes on from here"
    return "a study with a name (hydra.sweeper.study_name) can be gone on with"


def _confirm(
    search: Search, done: Sequence[FrozenTrial], winners: Sequence[FrozenTrial]
) -> dict[str, dict[str, Any]]:
    """Train the winners under fresh seeds, once for each study; return the results by trial number."""
    plan, study = search.plan, search.study
    known: dict[str, dict[str, Any]] = study.study.user_attrs.get(CONFIRMED, {})
    count = plan.settings.confirm
    todo = [trial for trial in winners if len(known.get(str(trial.number), {}).get("seeds", [])) < count]
    if not todo or not _last(done):
        return known
    with FileLock(plan.folder / ".confirm.lock"):
        known = dict(study.study.user_attrs.get(CONFIRMED, {}))
        first = plan.settings.repeats
        members = members_of(plan.bases, plan.fixed, range(first, first + count))
        for trial in todo:
            if len(known.get(str(trial.number), {}).get("seeds", [])) >= count:
                continue  # another process did it while this one waited
            say(f"confirming trial {trial.number} on {count} fresh seeds")
            record = trial.user_attrs["record"]
            overrides = recorded(record["overrides"], plan.space)
            results = search.confirm([*plan.fixed, *overrides], trial.number, members)
            failed = [result for result in results if result["status"] != JobState.finished]
            if failed:
                terminal.warn(
                    f"{len(failed)} of {len(members)} runs on fresh seeds failed: {failed[0]['error']}"
                )
                continue
            known[str(trial.number)] = {
                "seeds": [plan.base.seed + seed for seed in range(first, first + count)],
                "jobs": [result["job"] for result in results],
                "metrics": _fresh_metrics(plan, members, results),
            }
            study.study.set_user_attr(CONFIRMED, known)
    return known


def _fresh_metrics(
    plan: Plan, members: Sequence[Member], results: Sequence[dict[str, Any]]
) -> dict[str, list[float]]:
    """Return what fresh members have reached, by metric; several tasks have their names before it."""
    found: dict[str, list[float]] = {}
    if plan.settings.over is not None:
        found[SCORE] = ByTask.of(plan.settings, plan.bases, members, results).rounds
    for number, (task, base) in enumerate(zip(plan.tasks, plan.bases, strict=True)):
        own = [result["metrics"] for m, result in zip(members, results, strict=True) if m.task == number]
        names = [*plan.objectives, objective(base), f"test/{base.data.metric}"]
        if plan.settings.over is not None:
            names[0] = goal_of(plan.settings, base)
        place = f"{name_of(task)}/" if task else ""
        found |= {f"{place}{name}": [m[name] for m in own] for name in names if name in own[0]}
    return found


def _last(done: Sequence[FrozenTrial]) -> bool:
    """Return whether the last trial to end was trained by this process, or by a worker that has ended."""
    if not done:  # all that is known is of an earlier study
        return True
    last = max(done, key=lambda trial: (trial.datetime_complete, trial.number))
    if last.user_attrs.get(WORKER) == myself():
        return True
    here = runs_here(last)
    ended = last.datetime_complete
    assert ended is not None
    # A worker on another machine renews no lease after its last trial, so it is given time to confirm.
    return (datetime.now() - ended).total_seconds() > LEASE if here is None else not here


def write_results(plan: Plan, done: Sequence[FrozenTrial], winners: Sequence[FrozenTrial]) -> None:
    """Write optimization_results.yaml as the published plugin does, and a Pareto front as front.csv.

    A search whose pruner leaves runs out also says how many.
    """
    if len(plan.objectives) == 1:
        found: dict[str, Any] = {"best_params": winners[0].params, "best_value": winners[0].value}
    else:
        found = {"solutions": [{"params": trial.params, "values": trial.values} for trial in winners]}
        keys = list(dict.fromkeys(key for trial in winners for key in trial.params))
        heading = ["trial", *plan.objectives, *keys]
        rows = [[t.number, *t.values, *(t.params.get(key, "") for key in keys)] for t in winners]
        write_csv(plan.folder / "front.csv", [heading, *rows])
    if plan.first_turn is not None:
        found["runs_saved"] = sum(map(left_out, done))
    write(plan.folder / "optimization_results.yaml", to_yaml({"name": "optuna"} | found))


def _link_runs(plan: Plan, study: Study) -> None:
    """Write to the study which MLflow runs its trials have, as far as they are delivered."""
    if runs := delivered_runs(plan.folder):
        study.study.set_user_attr(RUNS, study.study.user_attrs.get(RUNS, {}) | runs)


def _facts(
    plan: Plan,
    study: Study,
    winners: Sequence[FrozenTrial],
    *,
    confirmed: dict[str, dict[str, Any]],
    importances: dict[str, float],
    line: str | None,
) -> dict[str, Any]:
    """Return the tags and metrics of the search's parent run in MLflow.

    Args:
        confirmed: results on fresh seeds, by trial number.
        line: the command that trains the first winner; None if it is not to be printed.
    """
    winner = winners[0]
    states = [trial.state.name.lower() for trial in study.done()]
    metrics = {f"study/{state}": float(states.count(state)) for state in sorted(set(states))}
    metrics |= {f"study/importance/{name}": share for name, share in importances.items()}
    if earlier := study.earlier():
        metrics["study/earlier"] = float(len(earlier))
    if count := sum(map(is_turned_down, study.done())):
        metrics["study/not_trained"] = float(count)
    if study.used_up():
        metrics["study/used_up"] = 1.0
    if plan.first_turn is not None:
        metrics["study/runs_saved"] = float(sum(map(left_out, study.done())))
    if len(plan.objectives) == 1:
        metrics[f"study/{plan.objectives[0]}"] = winner.values[0]
        for name, values in confirmed.get(str(winner.number), {}).get("metrics", {}).items():
            metrics[f"study/confirmed/{name}"] = statistics.fmean(values)
    tags = {
        STUDY: study.name,
        "rnnbench.best_trial": ", ".join(str(trial.number) for trial in winners),
    }
    if line is not None:
        tags["rnnbench.best_command"] = line
    return {"tags": tags, "metrics": metrics}


def show_search(plan: Plan, max_stack: int | None, elsewhere: bool) -> None:
    """Print what a search would do, for dry_run=true."""
    rows = Table(box=box.SIMPLE_HEAD)
    for name in ("parameter", "drawn from", "when"):
        rows.add_column(name, no_wrap=True)
    for parameter in plan.space.parameters:
        over = parameter.over if isinstance(parameter.over, str) else str(parameter.over)
        rows.add_row(parameter.key, over, str(parameter.when or ""))
    terminal.show_table(rows)
    aims = ", ".join(f"{way} {name}" for way, name in zip(plan.directions, plan.objectives, strict=True))
    say(f"{plan.n_trials} trials, {plan.settings.n_jobs} in flight, {len(plan.members)} runs each: {aims}")
    say("for the time of one of them, the corners of the space:")
    show_plan(plan.samples, max_stack, elsewhere)
