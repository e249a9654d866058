"""What is asked of a sequence, as a loss; one function for each Goal.

Each takes the head's logits, the targets and the steps that count, and gives for every example (K, B)
the loss and the right answers, both summed over its answers, and how many answers that is.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rnnbench.tasks import Goal

Measured = tuple[Tensor, Tensor, Tensor]  # (K, B) each: loss, right answers, answers


def cross_entropy(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and whether the largest logit is right, (K, ...) each, of logits (K, classes, ...), y (K, ...)."""
    right = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    hits = (logits.detach().argmax(1) == y).float()
    return logits.logsumexp(1) - right, hits


def measure(goal: Goal, logits: Tensor, y: Tensor, lengths: Tensor | None) -> Measured:
    """Loss and right answers of a minibatch; where right and wrong are not the question, there are none.

    Args:
        logits: (K, outputs, B), of every step (K, outputs, T, B).
        y: (K, B) classes, (K, outputs, B) numbers, (K, T, B) classes or (K, outputs, T, B) keys.
        lengths: (K, B) steps that count; None: all do.
    """
    match goal:
        case Goal.label:
            loss, hits = cross_entropy(logits, y)
            return loss, hits, torch.ones_like(loss)
        case Goal.value:
            loss = (logits - y).square().mean(1)
            return loss, torch.zeros_like(loss), torch.ones_like(loss)
        case Goal.labels:
            loss, hits = cross_entropy(logits, y)  # (K, T, B)
        case Goal.keys:
            loss = binary_cross_entropy_with_logits(logits, y, reduction="none").sum(1)
            hits = torch.zeros_like(loss)
    counts = torch.ones_like(hits)
    if lengths is not None:
        steps = torch.arange(loss.shape[1], device=loss.device).view(1, -1, 1)
        counts = (steps < lengths.unsqueeze(1)).to(loss.dtype)
        loss, hits = loss * counts, hits * counts
    return loss.sum(1), hits.sum(1), counts.sum(1)
