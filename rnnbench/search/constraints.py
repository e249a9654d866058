"""Reads constraints on recorded metrics, such as parameters/total<=20000, and measures what breaks them.

Optuna keeps them with each trial as values that are at most 0 where the constraint is met.
"""

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from rnnbench.config import Config, ConfigError, final_metrics
from rnnbench.config.metrics import at_best

KEY = "hydra.sweeper.constraints"
FORM = re.compile(r"\s*([^\s<>=]+)\s*(<=|>=|<|>)\s*(\S+)\s*")


@dataclass(frozen=True)
class Constraint:
    """A bound that a metric has to keep."""

    metric: str
    sign: str  # <=, >=, < or >
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:.12g}"

    def excess(self, value: float) -> float:
        """Return by how much a value breaks the constraint; at most 0 if it keeps it."""
        over = value - self.bound if "<" in self.sign else self.bound - value
        at_the_bound = over == 0 and "=" not in self.sign
        return sys.float_info.epsilon if at_the_bound else over


def read_constraints(given: Sequence[str] | None, base: Config, *, use_test_set: bool) -> list[Constraint]:
    """Read the constraints of a search.

    Args:
        use_test_set: whether a test metric may decide which trial wins.

    Raises:
        ConfigError: names the constraint, and the metrics that are recorded.
    """
    read = []
    for line in given or []:
        found = FORM.fullmatch(line)
        bound = math.nan if found is None else _number(found[3])
        if found is None or math.isnan(bound):
            raise ConfigError(f"{KEY}={line}: must be like parameters/total<=20000, with <=, >=, < or >")
        metric, known = at_best(found[1], base), final_metrics(base)
        if metric not in known:
            raise ConfigError(f"{KEY}={line}: must be on a metric that is recorded: {', '.join(known)}")
        if metric.startswith(("test/", "best/test_")) and not use_test_set:
            raise ConfigError(
                f"{KEY}={line}: what a search chooses by the test set has no honest test figure left; take "
                f"val/{base.data.metric}, or insist with hydra.sweeper.use_test_set=true"
            )
        read.append(Constraint(metric, found[2], bound))
    return read


def excesses(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> dict[str, float]:
    """Return by how much the metrics break each constraint, as far as they are there."""
    return {str(each): each.excess(metrics[each.metric]) for each in constraints if each.metric in metrics}


def is_feasible(trial: FrozenTrial) -> bool:
    """Return whether a trial keeps all constraints."""
    return all(excess <= 0 for excess in trial.constraints.values())


def broken(trial: FrozenTrial) -> list[str]:
    """Return the constraints that a trial breaks."""
    return [name for name, excess in trial.constraints.items() if excess > 0]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
