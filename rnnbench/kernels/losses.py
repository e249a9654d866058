"""What is asked of a sequence, as a loss; one function for each Goal.

Each takes the head's logits, the targets and the steps that count, and gives for every example (K, B)
the loss and the right answers, both summed over its answers, and how many answers that is.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rnnbench.tasks import Goal

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits and y: (K, B), or (K, T, B) at every step
Weights = NDArray[np.float64] | None  # (classes,), see `rnnbench.tasks.Task`
Measured = tuple[Tensor, Tensor, Tensor]  # (K, B) each: loss, right answers, answers


def cross_entropy(logits: Tensor, y: Tensor, weights: Weights = None) -> tuple[Tensor, Tensor]:
    """Return loss and hits, (K, ...) each, of logits (K, classes, ...) and y (K, ...); 0 where y is -1."""
    hits = (logits.detach().argmax(1) == y).float()
    weight = None if weights is None else logits.new_tensor(weights)
    return torch.nn.functional.cross_entropy(logits, y, weight, reduction="none", ignore_index=-1), hits


def measure(
    goal: Goal,
    logits: Tensor,
    y: Tensor,
    lengths: Tensor | None,
    own: Loss | None = None,
    *,
    weights: Weights = None,
) -> Measured:
    """Return loss and right answers of a minibatch; values and keys have no right answers.

    Args:
        logits: (K, outputs, B), of every step (K, outputs, T, B).
        y: (K, B) classes or (K, outputs, B) numbers; of every step (K, T, B) classes or
            (K, outputs, T, B) keys or numbers.
        lengths: (K, B) steps that count; None: all do.
        own: the task's own loss in place of the goal's; see `rnnbench.tasks.Task`.
        weights: by which the classes count.
    """
    match goal:
        case Goal.label | Goal.labels:
            loss, hits = cross_entropy(logits, y, weights)  # (K, B) or (K, T, B)
        case Goal.value | Goal.values:
            loss = (logits - y).square().mean(1)
            hits = torch.zeros_like(loss)
        case Goal.keys:
            loss = binary_cross_entropy_with_logits(logits, y, reduction="none").sum(1)
            hits = torch.zeros_like(loss)
    if own is not None:
        loss = own(logits, y)
    counts = counted(goal, logits, y, lengths)
    if not goal.every_step:
        return loss, hits, counts
    if lengths is not None:
        loss, hits = loss * counts, hits * counts
    return loss.sum(1), hits.sum(1), counts.sum(1)


def counted(goal: Goal, logits: Tensor, y: Tensor, lengths: Tensor | None) -> Tensor:
    """Give 1 for each answer that counts, and 0 for padding and where y is -1: (K, B), or (K, T, B)."""
    counts = (y >= 0).to(logits.dtype) if goal is Goal.labels else torch.ones_like(logits[:, 0])
    if not goal.every_step or lengths is None:
        return counts
    steps = torch.arange(counts.shape[1], device=counts.device).view(1, -1, 1)
    return counts * (steps < lengths.unsqueeze(1))
