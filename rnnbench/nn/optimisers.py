"""Optimisers over a stack: one row of parameters a trial, hyperparameters (K, 1).

Each matches torch.optim of the same name. Its memory is a dict of (K, ...) tensors, so that trials
join and leave a stack by rows. Nothing mixes rows: a trial that diverges stays alone.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rnnbench.config import Adam, AdamW, Fit, Optim, RMSprop, Schedule, Sgd

# Columns of a stack's state, one row a trial. `lr`, the hyperparameters and `step` (updates made) are
# (K, 1) in float64, since 1 - 0.999 is wrong by 5e-5 in float32; the rest is float32 and as wide as
# the parameters, (K, P).
State = dict[str, Tensor]


def hyperparameters(optim: Optim) -> dict[str, float]:
    """What may differ between the trials of a stack, the learning rate aside: it has a schedule."""
    names = ("weight_decay", "momentum", "beta1", "beta2", "eps", "alpha")
    return {name: getattr(optim, name) for name in names if hasattr(optim, name)}


def memory(optim: Optim) -> tuple[str, ...]:
    """Names of the (K, P) tensors that the optimiser carries from step to step, all zero at first."""
    match optim:
        case Sgd():
            return ("velocity",)
        case Adam():
            return ("mean", "square")
        case RMSprop():
            return ("square", "velocity")
    raise TypeError(f"no optimiser for {optim}")


def clip(gradient: Tensor, largest: Tensor) -> Tensor:
    """Scale gradient (K, P) in place to a norm of at most `largest` (K, 1); the norms (K, 1) before.

    As torch.nn.utils.clip_grad_norm_; `largest` is inf where nothing is clipped.
    """
    norm: Tensor = gradient.norm(dim=1, keepdim=True)
    gradient.mul_((largest / (norm + 1e-6)).clamp_(max=1.0))
    return norm


def update(optim: Optim) -> Callable[[State, Tensor, Tensor], None]:
    """The function that makes one step: (state, parameters (K, P) changed in place, gradient (K, P))."""
    match optim:
        case Sgd(nesterov=nesterov):
            return lambda state, parameters, gradient: sgd(state, parameters, gradient, nesterov)
        case AdamW():
            return adamw
        case Adam():
            return adam
        case RMSprop():
            return rmsprop
    raise TypeError(f"no optimiser for {optim}")


def sgd(state: State, parameters: Tensor, gradient: Tensor, nesterov: bool) -> None:
    """v = momentum v + d, p -= lr v (Nesterov: lr (d + momentum v)), d the gradient with decay."""
    momentum = state["momentum"].float()
    gradient = torch.addcmul(gradient, state["weight_decay"].float(), parameters)
    velocity = state["velocity"].mul_(momentum).add_(gradient)
    if nesterov:
        velocity = gradient.addcmul_(momentum, velocity)
    parameters.addcmul_(state["lr"].float(), velocity, value=-1)


def adam(state: State, parameters: Tensor, gradient: Tensor) -> None:
    """Adam (Kingma and Ba 2015) with the decay added to the gradient."""
    _adam(state, parameters, torch.addcmul(gradient, state["weight_decay"].float(), parameters))


def adamw(state: State, parameters: Tensor, gradient: Tensor) -> None:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    parameters.mul_((1 - state["lr"] * state["weight_decay"]).float())
    _adam(state, parameters, gradient)


def _adam(state: State, parameters: Tensor, gradient: Tensor) -> None:
    step, beta1, beta2 = state["step"].add_(1), state["beta1"], state["beta2"]
    mean = state["mean"].lerp_(gradient, (1 - beta1).float())
    square = state["square"].mul_(beta2.float()).addcmul_((1 - beta2).float(), gradient * gradient)
    denominator = square.sqrt().div_((1 - beta2**step).sqrt().float()).add_(state["eps"].float())
    parameters.addcdiv_(mean * (-state["lr"] / (1 - beta1**step)).float(), denominator)


def rmsprop(state: State, parameters: Tensor, gradient: Tensor) -> None:
    """RMSprop (Hinton 2012) with momentum on the scaled gradient."""
    alpha = state["alpha"]
    gradient = torch.addcmul(gradient, state["weight_decay"].float(), parameters)
    square = state["square"].mul_(alpha.float()).addcmul_((1 - alpha).float(), gradient * gradient)
    scaled = gradient.div_(square.sqrt().add_(state["eps"].float()))
    velocity = state["velocity"].mul_(state["momentum"].float()).add_(scaled)
    parameters.addcmul_(state["lr"].float(), velocity, value=-1)


def learning_rate(lr: float, fit: Fit, epoch: int, factor: float) -> float:
    """The learning rate of an epoch, counted from 0; `factor` is what plateau has come down to.

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
