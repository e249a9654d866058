"""Runs a search under a launcher other than our own: each suggestion is one of its jobs, with all members.

Up to n_jobs suggestions are in flight; Hydra's basic launcher runs one at a time.
"""

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from rnnbench import terminal
from rnnbench.job_state import JobState
from rnnbench.record import is_job, read_result
from rnnbench.search.members import Member
from rnnbench.search.plan import Plan
from rnnbench.search.runner import Search
from rnnbench.search.study import Study, Suggestion
from rnnbench.sweep.hydra_api import is_basic
from rnnbench.sweep.session import Sweep


class JobSearch(Search):
    """Trains each trial as a job of a launcher other than `StackLauncher`."""

    def __init__(
        self, plan: Plan, study: Study, config: DictConfig, sweep: Sweep, launcher: Launcher
    ) -> None:
        super().__init__(plan, study, config, sweep)
        self.launcher = launcher
        # Hydra's basic launcher runs its jobs in this process, which can have one HydraConfig only.
        self.lanes = 1 if is_basic(launcher) else plan.settings.n_jobs

    def _run(self) -> None:
        pending: dict[Future[Any], Suggestion] = {}
        if self.lanes == 1:  # in this thread, so that a job may handle signals
            while True:
                suggestion = self.study.ask(self.point)
                if suggestion is not None:
                    self._conclude(suggestion, self._launch(suggestion))
                elif not self._wait_for_others():
                    return
        with ThreadPoolExecutor(self.lanes) as pool:
            while True:
                while len(pending) < self.lanes and (suggestion := self.study.ask(self.point)):
                    pending[pool.submit(self._launch, suggestion)] = suggestion
                if not pending and not self._wait_for_others():
                    return
                done, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    self._conclude(pending.pop(future), future.result())

    def _launch(self, suggestion: Suggestion) -> str | None:
        """Train a suggestion; return the error if it raised one, else None."""
        try:
            self._take_up(suggestion)
            overrides = self.overrides(suggestion)
            (returned,) = self.launcher.launch([overrides], initial_job_idx=suggestion.number)
            _ = returned.return_value  # raises what the job has raised
        except Exception as error:  # whatever it is, the sweep goes on
            return f"{type(error).__name__}: {error}"
        return None

    def _conclude(self, suggestion: Suggestion, error: str | None) -> None:
        folder, *more = self._folders(suggestion.number)
        recorded = is_job(folder) and all(
            read_result(each)["status"] != JobState.running for each in (folder, *filter(is_job, more))
        )
        if error is not None:
            terminal.say(f"trial {suggestion.number}: failed: {error}", "red")
        self.conclude(suggestion, None if recorded else error or "left no record")
        if error is None and recorded:
            result = read_result(folder)
            goal = self.plan.objectives[0]
            shown = result["metrics"].get(goal)
            how = (
                result["status"]
                if shown is None
                else f"{terminal.title(goal)} {terminal.number(goal, shown)}"
            )
            terminal.say(f"trial {suggestion.number}: {how}")

    def confirm(
        self, overrides: Sequence[str], number: int, members: Sequence[Member]
    ) -> list[dict[str, Any]]:
        folders = [self.plan.folder / f"{number}.c{k}" for k in range(len(members))]
        batch = [
            [
                *overrides,
                *self.plan.tasks[member.task],
                *member.words(self.plan.base.seed),
                f"hydra.sweep.subdir={folder.name}",
            ]
            for member, folder in zip(members, folders, strict=True)
        ]
        for returned in self.launcher.launch(batch, initial_job_idx=number):
            _ = returned.return_value
        return [read_result(folder) for folder in folders]
