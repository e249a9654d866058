"""Trains the members of a suggestion in turns, and stops where it is hopeless against the best suggestion.

Optuna's WilcoxonPruner compares what two suggestions have reached member by member: each member is one of
its instances, and is reported under its number. The first turn has as many members as the pruner needs
before it can stop anything, and each later turn has one of every task; others train beside them. A suggestion
that is stopped is told to Optuna as complete, with the mean of its trained members, as Optuna recommends:
a sampler then learns how bad it was.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from optuna.pruners import WilcoxonPruner

from rnnbench.config import ConfigError, Search
from rnnbench.job_state import JobState
from rnnbench.record import read_result
from rnnbench.search.members import rounds_of
from rnnbench.search.over import value_of
from rnnbench.search.samplers import name_of
from rnnbench.sweep.job import Job

NAME = "wilcoxon"  # of hydra/sweeper/pruner


class Turns:
    """Hands out the jobs of a suggestion in turns.

    Args:
        jobs: of the suggestion's members.
        first: number of rounds of the first turn; None: all train at once, and nothing is judged.
        judge: takes a member's number and its value, and returns whether to stop.
        settings: of the search.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        first: int | None = None,
        judge: Callable[[int, float], bool] | None = None,
        settings: Search | None = None,
    ) -> None:
        self.jobs = jobs
        self.rounds = rounds_of(jobs)
        self.first = first or len(self.rounds)
        self.judge = judge
        self.settings = settings
        self.begun = self.told = 0  # numbers of rounds
        self.hopeless = False  # whether the pruner has said stop

    def next(self) -> list[Job]:
        """Return the jobs that train next; [] if there are none, one has failed, or the pruner says stop."""
        over = self.begun
        if any(job.state is not JobState.finished for job in self._jobs(0, over)) or self._stops():
            return []
        self.begun = min(over + 1 if over else self.first, len(self.rounds))
        return self._jobs(over, self.begun)

    @property
    def saved(self) -> list[Job]:
        """The jobs that have not begun."""
        return self._jobs(self.begun, len(self.rounds))

    def _jobs(self, start: int, end: int) -> list[Job]:
        return [job for round in self.rounds[start:end] for job in round]

    def _stops(self) -> bool:
        """Report the members that have trained since the last turn; return whether the pruner says stop."""
        if self.judge is not None and self.settings is not None:
            for job in self._jobs(self.told, self.begun):
                value = value_of(self.settings, job.config, read_result(job.folder)["metrics"])
                self.hopeless = self.judge(self.jobs.index(job), value)
        self.told = self.begun
        return self.hopeless


def first_turn(pruner: dict[str, Any], count: int, tasks: int = 1) -> int | None:
    """Return how many rounds train before the pruner can stop a suggestion; None for other pruners.

    If all of n pairs speak against a suggestion, the p-value of Wilcoxon's exact one-sided test is 2**-n.

    Args:
        pruner: hydra.sweeper.pruner.
        count: number of members.
        tasks: members of a round.

    Raises:
        ConfigError: the pruner could never save a member.
    """
    if name_of("pruner", pruner) != NAME:
        return None
    threshold, startup = (_argument(pruner, key) for key in ("p_threshold", "n_startup_steps"))
    for first in range(max(2, int(startup)), count - tasks + 1):
        if 2.0**-first < threshold:
            return -(-first // tasks)
    if count - tasks < 2:
        raise ConfigError(
            f"hydra/sweeper/pruner={NAME}: compares suggestions seed by seed and fold by fold, and {count} "
            "are too few to stop before the last; give hydra.sweeper.repeats=5, or take another pruner"
        )
    raise ConfigError(
        f"hydra/sweeper/pruner={NAME}: with hydra.sweeper.pruner.p_threshold={threshold:g} and "
        f"n_startup_steps={startup:g} nothing is stopped before all {count} runs have ended (n runs that "
        "are all worse have p = 2**-n); give more hydra.sweeper.repeats, or a p_threshold above "
        f"{2.0 ** -(count - tasks):g}"
    )


def _argument(pruner: dict[str, Any], key: str) -> float:
    """Return an argument of the pruner, null for Optuna's own default."""
    given = pruner.get(key)
    return float(inspect.signature(WilcoxonPruner).parameters[key].default if given is None else given)
