"""Says which metrics are ranked and tested, and reads the margins within which rows are equivalent."""

import math
from collections.abc import Mapping, Sequence

from rnnbench.config import ConfigError, on_test


def judged(metric: str) -> bool:
    """Return whether a metric has a better direction, so that its values can be ranked."""
    return not metric.startswith(("parameters/", "time/")) and metric != "best/epoch"


def tested(metrics: Sequence[str]) -> list[str]:
    """Return the metrics whose differences are tested: those on the test set, if there are any.

    A metric that chose an epoch or a trial is biased, so it is not tested beside the result.
    """
    worth = [metric for metric in metrics if judged(metric)]
    return [metric for metric in worth if on_test(metric)] or worth


def margin_of(text: str, figure: float) -> float:
    """Return a margin in the metric's units.

    Args:
        text: a number in the metric's units, or a percentage: 2%.
        figure: the figure of the row that the others are compared with, of which a percentage is taken.
    """
    return float(text[:-1]) / 100 * abs(figure) if text.endswith("%") else float(text)


def is_finite(text: str) -> bool:
    """Return whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check_margins(margins: Mapping[str, str], metrics: Sequence[str]) -> None:
    """Refuse margins of metrics that the table does not test, and margins that are none.

    Raises:
        ConfigError: names the metric.
    """
    for metric, text in margins.items():
        if metric not in metrics:
            raise ConfigError(f"margin.{metric}: is none of the table's metrics: {', '.join(metrics)}")
        if metric not in tested(metrics):
            there = ", ".join(tested(metrics)) or "none"
            raise ConfigError(
                f"margin.{metric}: its differences are not tested; of this table's metrics these are: {there}"
            )
        if not is_finite(text.removesuffix("%")) or margin_of(text, 1.0) <= 0:
            raise ConfigError(
                f"margin.{metric}={text}: must be a number above 0 in the metric's units, or a percentage of "
                "the figure that is compared with: 0.005, 2%"
            )
