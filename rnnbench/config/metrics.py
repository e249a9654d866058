"""The metrics by name: which are recorded, which way is better, which one judges a trial."""

from rnnbench.config.schema import Config, Select


def direction(metric: str) -> str:
    """`maximize` or `minimize`, by the metric's name."""
    return "maximize" if metric.endswith(("accuracy", "per_second")) else "minimize"


def final_metrics(config: Config) -> list[str]:
    """Names of the metrics that a finished trial records once (epoch metrics aside)."""
    split = config.fit.select.value
    final = [f"best/{split}_accuracy", f"best/{split}_loss", "best/epoch"]
    if config.fit.select is Select.val:
        final += ["test/accuracy", "test/loss"]
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
    chosen = config.objective or f"{split}/accuracy"
    return f"best/{chosen.replace('/', '_')}" if chosen in per_epoch(split) else chosen


def per_epoch(split: str) -> tuple[str, str]:
    """Names of the metrics that are measured on a split after an epoch."""
    return f"{split}/accuracy", f"{split}/loss"


def selection(config: Config) -> str:
    """`accuracy` or `loss`: what chooses the best epoch, on the split `fit.select`."""
    return "loss" if objective(config) == f"best/{config.fit.select.value}_loss" else "accuracy"
