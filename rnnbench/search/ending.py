"""Says when a search ends before its n_trials: its time is over, or its trials no longer improve."""

import time
from collections.abc import Sequence
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState

from rnnbench.config import Search
from rnnbench.search.constraints import is_feasible


class Ending:
    """Judges for one process whether to begin further trials.

    Args:
        settings: timeout and stop_after are read.
        directions: maximize or minimize, one for each objective.
    """

    def __init__(self, settings: Search, directions: Sequence[str]) -> None:
        self.timeout, self.stop_after = settings.timeout, settings.stop_after
        self.directions = directions
        self.began = time.monotonic()

    def reason(self, ended: Sequence[FrozenTrial], earlier: Sequence[FrozenTrial] = ()) -> str | None:
        """Return why no further trial is to begin; None if one is.

        Args:
            ended: all trials that have ended.
            earlier: copies of those of an earlier study.
        """
        hours = self.timeout
        if hours is not None and time.monotonic() - self.began >= hours * 3600:
            return f"hydra.sweeper.timeout={hours:g}: the time of this command is over"
        if self.stop_after is None:
            return None
        if without_improvement(ended, self.directions, earlier) >= self.stop_after:
            return f"hydra.sweeper.stop_after={self.stop_after}: as many trials have not improved on the best"
        return None


def without_improvement(
    ended: Sequence[FrozenTrial], directions: Sequence[str], earlier: Sequence[FrozenTrial] = ()
) -> int:
    """Count the trials that have ended after the last that was an improvement; failed ones do not count.

    Nor do those of an earlier study, but what they reached has to be improved on.

    A trial is an improvement if none that ended before it was at least as good in every objective.
    """
    signs = [-1 if direction == "maximize" else 1 for direction in directions]
    front: list[list[float]] = []
    count = 0
    told = [(trial, 1) for trial in ended] + [(trial, 0) for trial in earlier]
    for trial, counts in sorted(
        told, key=lambda each: (each[0].datetime_complete or datetime.max, each[0].number)
    ):
        if trial.state == TrialState.FAIL:
            continue
        count += counts
        if trial.state == TrialState.COMPLETE and is_feasible(trial):
            values = [sign * value for sign, value in zip(signs, trial.values, strict=True)]
            if not any(_covers(other, values) for other in front):
                front = [*(other for other in front if not _covers(values, other)), values]
                count = 0
    return count


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether one is at least as good as the other in every objective; lower is better."""
    return all(a <= b for a, b in zip(one, other, strict=True))
