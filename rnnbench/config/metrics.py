"""The metrics by name: which are recorded, which way is better, which one judges a trial.

A task has a loss and the metric that `data.metric` names: accuracy (the share of right answers), or, as a
function of the loss, mse, nll (natural logarithms) and bpc (bits per character).
"""

import math

from rnnbench.config.schema import Config, Select

METRICS = ("accuracy", "mse", "nll", "bpc")


def direction(metric: str) -> str:
    """`maximize` or `minimize`, by the metric's name."""
    return "maximize" if metric.endswith(("accuracy", "per_second")) else "minimize"


def bounds(metric: str) -> tuple[float, float]:
    """What a metric lies between, by its name: a share between 0 and 1, all else is not negative."""
    return (0.0, 1.0 if metric.endswith("accuracy") else math.inf)


def on_test(metric: str) -> bool:
    """Whether a metric is measured on the test set."""
    return metric.startswith(("test/", "best/test_"))


def final_metrics(config: Config) -> list[str]:
    """Names of the metrics that a finished trial records once (epoch metrics aside)."""
    split, metric = config.fit.select.value, config.data.metric
    final = [f"best/{split}_{metric}", f"best/{split}_loss", "best/epoch"]
    if config.fit.select is Select.val:
        final += [f"test/{metric}", "test/loss"]
    return [
        *final,
        "parameters/total",
        "parameters/recurrent",
        "parameters/head",
        "time/train_seconds",
        "time/sequences_per_second",
    ]


def objective(config: Config) -> str:
    """The final metric that a trial is judged by; `val/loss` asks for the one of the best epoch."""
    split = config.fit.select.value
    chosen = config.objective or f"{split}/{config.data.metric}"
    return f"best/{chosen.replace('/', '_')}" if chosen in per_epoch(config) else chosen


def per_epoch(config: Config) -> tuple[str, str]:
    """Names of the metrics that are measured after an epoch, on the split that is watched."""
    split = config.fit.select.value
    return f"{split}/{config.data.metric}", f"{split}/loss"


def selection(config: Config) -> str:
    """The metric's name or `loss`: what chooses the best epoch, on the split `fit.select`."""
    loss = objective(config) == f"best/{config.fit.select.value}_loss"
    return "loss" if loss else config.data.metric
