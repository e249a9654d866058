"""Laws of the optimisers: each is torch.optim's, row by row; schedules are torch's too."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnbench.config import Adam, AdamW, Fit, RMSprop, Schedule, Sgd
from rnnbench.nn import optimisers

P, STEPS = 7, 50


def torch_optimiser(config, parameters):
    common = {"lr": config.lr, "weight_decay": config.weight_decay}
    match config:
        case Sgd():
            return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.nesterov, **common)
        case AdamW():
            return torch.optim.AdamW(parameters, betas=(config.beta1, config.beta2), eps=config.eps, **common)
        case Adam():
            return torch.optim.Adam(parameters, betas=(config.beta1, config.beta2), eps=config.eps, **common)
        case RMSprop():
            return torch.optim.RMSprop(
                parameters, alpha=config.alpha, eps=config.eps, momentum=config.momentum, **common
            )


def state_of(configs):
    hyper = [config.hyperparameters | {"lr": config.lr, "step": 0.0} for config in configs]
    state = {name: torch.tensor([[h[name]] for h in hyper], dtype=torch.float64) for name in hyper[0]}
    return state | {name: torch.zeros(len(configs), P) for name in configs[0].memory}


rates = st.floats(1e-4, 0.3)
decays = st.sampled_from([0.0, 1e-3, 0.1])
betas = st.sampled_from([0.0, 0.5, 0.9, 0.99])
CONFIGS = {
    "sgd": st.builds(Sgd, lr=rates, weight_decay=decays, momentum=betas, nesterov=st.just(False)),
    "nesterov": st.builds(
        Sgd, lr=rates, weight_decay=decays, momentum=st.sampled_from([0.5, 0.9]), nesterov=st.just(True)
    ),
    "adam": st.builds(Adam, lr=rates, weight_decay=decays, beta1=betas, beta2=st.sampled_from([0.9, 0.999])),
    "adamw": st.builds(
        AdamW, lr=rates, weight_decay=decays, beta1=betas, beta2=st.sampled_from([0.9, 0.999])
    ),
    "rmsprop": st.builds(RMSprop, lr=st.floats(1e-4, 0.01), weight_decay=decays, momentum=betas),
}


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=10, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_a_stack_makes_the_steps_of_torch(kind, data, seed):
    """Three trials with hyperparameters of their own, 50 steps on a quadratic bowl with noise."""
    configs = data.draw(st.lists(CONFIGS[kind], min_size=3, max_size=3))
    torch.manual_seed(seed)
    start, noise = torch.randn(3, P), torch.randn(STEPS, 3, P)
    parameters, state = start.clone(), state_of(configs)
    update = configs[0].update
    singles = [start[k].clone().requires_grad_() for k in range(3)]
    theirs = [torch_optimiser(config, [single]) for config, single in zip(configs, singles, strict=True)]
    for step in range(STEPS):
        gradient = 0.1 * noise[step]  # the same for both, whatever the parameters have come to
        update(state, parameters, gradient.clone())
        for k in range(3):
            singles[k].grad = gradient[k].clone()
            theirs[k].step()
    for k in range(3):
        torch.testing.assert_close(parameters[k], singles[k].detach(), atol=1e-5, rtol=1e-6)


@given(largest=st.floats(0.01, 10), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_clipping_is_torchs_for_each_trial(largest, seed):
    torch.manual_seed(seed)
    gradient = torch.randn(3, P) * torch.tensor([[0.01], [1.0], [100.0]])
    singles = [row.clone().requires_grad_() for row in gradient]
    for single, row in zip(singles, gradient, strict=True):
        single.grad = row.clone()
    norms = [torch.nn.utils.clip_grad_norm_([single], largest) for single in singles]
    mine = optimisers.clip(gradient, torch.full((3, 1), largest))
    torch.testing.assert_close(mine.squeeze(1), torch.stack(norms))
    torch.testing.assert_close(gradient, torch.stack([single.grad for single in singles]))


def test_no_clip_changes_nothing():
    gradient = torch.randn(2, P)
    kept = gradient.clone()
    optimisers.clip(gradient, torch.full((2, 1), math.inf))
    assert torch.equal(gradient, kept)


def test_schedules_are_torchs():
    lr, epochs = 0.3, 12
    parameter = [torch.zeros(1, requires_grad=True)]
    schedulers = {
        Schedule.step: lambda o: torch.optim.lr_scheduler.StepLR(o, 5, 0.2),
        Schedule.cosine: lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs),
        Schedule.constant: lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0),
    }
    for schedule, make in schedulers.items():
        optimiser = torch.optim.SGD(parameter, lr=lr)
        scheduler = make(optimiser)
        fit = Fit(epochs=epochs, schedule=schedule, decay=0.2, decay_every=5)
        for epoch in range(epochs):
            assert optimisers.learning_rate(lr, fit, epoch, 1.0) == pytest.approx(scheduler.get_last_lr()[0])
            optimiser.step()
            scheduler.step()


def test_warmup_rises_to_the_full_rate_and_the_cosine_follows():
    fit = Fit(epochs=10, schedule=Schedule.cosine, warmup=3)
    rates = [optimisers.learning_rate(1.0, fit, epoch, 1.0) for epoch in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] > 0


def test_plateau_uses_its_factor():
    fit = Fit(schedule=Schedule.plateau)
    assert optimisers.learning_rate(0.4, fit, 3, 0.5) == pytest.approx(0.2)
