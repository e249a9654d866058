"""Clips the gradient's norm and schedules the learning rate, around an optimiser's update.

The optimisers themselves are in `rnnbench.config.optimisers`.
"""

import math

from torch import Tensor

from rnnbench.config import Fit, Schedule

State = dict[str, Tensor]  # what a stack carries, (K, ...) by name; `config.optimisers.State` says what


def clip(gradient: Tensor, largest: Tensor) -> Tensor:
    """Scale gradient (K, P) in place to a norm of at most `largest` (K, 1); return the norms (K, 1) before.

    As torch.nn.utils.clip_grad_norm_; `largest` is inf where nothing is clipped.
    """
    norm: Tensor = gradient.norm(dim=1, keepdim=True)
    scale(gradient, norm, largest)
    return norm


def scale(gradient: Tensor, norm: Tensor, largest: Tensor) -> None:
    """Scale gradient (K, P), whose norms are known, in place to a norm of at most `largest` (K, 1)."""
    gradient.mul_((largest / (norm + 1e-6)).clamp_(max=1.0))


def learning_rate(lr: float, fit: Fit, epoch: int, factor: float) -> float:
    """Return the learning rate of an epoch, counted from 0; `factor` is that of plateau so far.

    step: lr decay^(epoch // decay_every). cosine: half a cosine from lr to 0 over the epochs after
    the warm-up. Warm-up: (epoch + 1) / (warmup + 1) of lr.
    """
    if epoch < fit.warmup:
        return lr * (epoch + 1) / (fit.warmup + 1)
    epoch -= fit.warmup
    match fit.schedule:
        case Schedule.step:
            return lr * fit.decay ** (epoch // fit.decay_every)
        case Schedule.cosine:
            return lr * (1 + math.cos(math.pi * epoch / (fit.epochs - fit.warmup))) / 2
        case Schedule.plateau:
            return lr * factor
        case Schedule.constant:
            return lr
