"""Computes the metrics of a stack's trials: from means, from confusion matrices, from the logits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from rnnbench.config import Config
from rnnbench.config.metrics import METRICS, Metric, find
from rnnbench.kernels import Compute, torch_evaluation
from rnnbench.kernels.torch_path import Sums
from rnnbench.tasks import Goal, Task

Measured = list[dict[str, float]]  # of each trial, by the metric's name


@dataclass(frozen=True)
class Answers:
    """What k trials answered to a split."""

    metrics: Measured
    predictions: Tensor  # (k, examples) classes, where one is asked for at the end
    words: tuple[Tensor, ...] | None  # (k, n) how many words of each n are right, and all; where words have n


class Evaluation:
    """Measures the trials of a stack: the loss, the task's metric and those that `data.metrics` adds.

    Args:
        config: of any of the trials.
        task: the data, and what is asked of it.
        compute: what trains the stack.
    """

    def __init__(self, config: Config, task: Task, compute: Compute) -> None:
        self.task = task
        self.compute = compute
        self.metrics = [find(name) for name in (task.metric, *(config.data.metrics or []))]
        self.summed = [metric for metric in self.metrics if metric.sums is not None]
        self.outputs = cache(lambda: torch_evaluation(config, task, compute))  # made when it is needed

    def of_means(self, loss: Tensor, hits: Tensor) -> dict[str, Tensor]:
        """Give the metrics (k,) that follow from the mean loss and the share of right answers, (k,) each."""
        metrics = [METRICS["loss"], *self.metrics]
        return {metric.name: metric.of_means(loss, hits) for metric in metrics if metric.of_means}

    def measure(self, parameters: Tensor, index: Tensor, poll: Callable[[], None] = lambda: None) -> Answers:
        """Evaluate parameters (k, P) on the examples `index`."""
        loss, hits, predictions = self.compute.evaluate(parameters, index, poll)
        found = self.of_means(loss, hits)
        if any(metric.of_confusion for metric in self.metrics):
            counts = self.confusion(parameters, index, predictions, poll)
            found |= {m.name: m.of_confusion(counts) for m in self.metrics if m.of_confusion}
        words = None
        if self.summed:
            totals = self.outputs().totals(sums_of(self.task, self.summed), parameters, index, poll)
            found |= {m.name: m.of_sums(*totals[m.name]) for m in self.summed if m.of_sums}
            words = next((totals[m.name] for m in self.summed if m.sums == "task"), None)
        order = ["loss", *(metric.name for metric in self.metrics)]
        return Answers(rows({name: found[name] for name in order}), predictions, words)

    def confusion(
        self, parameters: Tensor, index: Tensor, predictions: Tensor, poll: Callable[[], None]
    ) -> Tensor:
        """Count how often each class was answered for each: (k, classes, classes), rows are the truth.

        Args:
            parameters: (k, P).
            index: (examples,), the places of the examples in the task.
            predictions: (k, examples) their classes, where one is asked for at the end.
        """
        if self.task.goal is Goal.label:
            return confusion(self.task, predictions.cpu(), index)
        (counts,) = self.outputs().totals({"": pairs}, parameters, index, poll)[""]
        return counts.long().cpu()


def sums_of(task: Task, metrics: list[Metric]) -> dict[str, Sums]:
    """Return what metrics sum over the examples of a task, by their names."""
    own = {"task": task.sums, "optimum": task.optimum}
    found = {m.name: own[m.sums] if isinstance(m.sums, str) else m.sums for m in metrics}
    return {name: sums for name, sums in found.items() if sums is not None}


def pairs(logits: Tensor, y: Tensor, counts: Tensor) -> tuple[Tensor]:
    """Count pairs of true class and answer at the steps that count, (K, classes, classes); see `Metric`."""
    K, C = logits.shape[:2]
    both = (y.clamp(min=0) * C + logits.argmax(1)).flatten(1)
    return (counts.new_zeros(K, C * C).scatter_add_(1, both, counts.flatten(1)).view(K, C, C),)


def rows(columns: dict[str, Tensor]) -> Measured:
    """Give a dict for each trial in place of a tensor (k,) for each metric."""
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def confusion(task: Task, predictions: Tensor, index: Tensor) -> Tensor:
    """Count how often each class was answered for each: (k, classes, classes), rows are the truth.

    Args:
        predictions: (k, examples) classes.
        index: (examples,), the places of these examples in the task.
    """
    k, C = len(predictions), task.outputs
    pairs = torch.from_numpy(task.targets)[index] * C + predictions + torch.arange(k)[:, None] * C * C
    return torch.bincount(pairs.flatten(), minlength=k * C * C).view(k, C, C)


def by_length(task: Task, found: Answers, k: int) -> Tensor | None:
    """Give the accuracy by length of trial k on the test set.

    Returns:
        rows (lengths, 2) of length and accuracy, None where no class is asked for at the end or all sequences
        have one length. Words that have an n are told apart by it in place of their length.
    """
    if found.words is not None:
        right, words = (part[k].cpu() for part in found.words)
        return shares(right, words)
    if task.goal is not Goal.label or task.lengths is None:
        return None
    predictions, test = found.predictions[k].cpu(), torch.from_numpy(task.splits["test"])
    truth, lengths = (torch.from_numpy(part)[test] for part in (task.targets, task.lengths))
    right, examples = (
        torch.bincount(lengths, weights) for weights in ((truth == predictions).double(), None)
    )
    return shares(right, examples)


def shares(right: Tensor, examples: Tensor) -> Tensor:
    """Give rows (lengths, 2) of a length and the share right / examples, for lengths that have examples."""
    known = examples.nonzero().squeeze(1)
    return torch.stack([known.double(), right[known] / examples[known]], 1)
