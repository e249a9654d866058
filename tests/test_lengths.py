"""Laws of what is asked of a sequence: padding never counts, and each loss is that of torch.nn."""

import numpy as np
import pytest
import torch
from conftest import models
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rnnbench.config import Model
from rnnbench.kernels.losses import measure
from rnnbench.nn.network import Network, flipped
from rnnbench.tasks import Goal

T, B, K = 7, 4, 2


@settings(max_examples=25, deadline=None)
@given(model=models(5), every_step=st.booleans(), seed=st.integers(0, 99), data=st.data())
def test_an_example_among_longer_ones_is_answered_as_if_alone(model, every_step, seed, data):
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, T), min_size=B, max_size=B)))
    network = Network(model, 3, 2, every_step)
    parameters = torch.cat([network.start(seed), network.start(seed + 1)])
    weights = network.views(parameters)
    x = torch.randn(K, T, 3, B, generator=torch.Generator().manual_seed(seed))
    together = network(weights, x, lengths=lengths.expand(K, -1))
    for b, length in enumerate(lengths.tolist()):
        alone = network(weights, x[:, :length, :, b : b + 1])
        mine = together[..., b : b + 1]
        mine = mine[:, :, :length] if every_step else mine
        torch.testing.assert_close(mine, alone, atol=1e-5, rtol=1e-5)


def test_flipping_twice_changes_nothing_and_the_padding_stays():
    x = torch.arange(K * T * 3 * B, dtype=torch.float32).view(K, T, 3, B)
    lengths = torch.tensor([[1, 3, 7, 4], [2, 2, 5, 6]])
    once = flipped(x, lengths)
    assert torch.equal(flipped(once, lengths), x)
    assert torch.equal(once[0, :3, :, 1], x[0, :3, :, 1].flip(0))
    assert torch.equal(once[0, 3:, :, 1], x[0, 3:, :, 1])


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("padding", [False, True])
def test_a_loss_is_that_of_torch(goal, padding):
    rng = torch.Generator().manual_seed(0)
    lengths = torch.tensor([[2, 7, 1, 3]]) if padding and goal.every_step else None
    outputs = 5
    logits = torch.randn(1, outputs, *((T,) if goal.every_step else ()), B, generator=rng)
    if goal in (Goal.label, Goal.labels):
        y = torch.randint(outputs, (1, *logits.shape[2:]), generator=rng)
    else:
        y = torch.randint(2, logits.shape, generator=rng).float()
    loss, hits, answers = (part.sum() for part in measure(goal, logits, y, lengths))
    kept = [(b, t) for b in range(B) for t in range(T) if lengths is None or t < lengths[0, b]]
    if goal is Goal.label:
        theirs, right = (
            functional.cross_entropy(logits[0].T, y[0]),
            (logits[0].argmax(0) == y[0]).float().mean(),
        )
    elif goal is Goal.value:
        theirs, right = functional.mse_loss(logits[0], y[0]), torch.tensor(0.0)
    else:
        at = torch.stack([logits[0, :, t, b] for b, t in kept])
        if goal is Goal.labels:
            wanted = torch.stack([y[0, t, b] for b, t in kept])
            theirs, right = functional.cross_entropy(at, wanted), (at.argmax(1) == wanted).float().mean()
        else:
            wanted, right = torch.stack([y[0, :, t, b] for b, t in kept]), torch.tensor(0.0)
            if goal is Goal.values:
                theirs = functional.mse_loss(at, wanted)
            else:
                summed = functional.binary_cross_entropy_with_logits(at, wanted, reduction="sum")
                theirs = summed / len(kept)
    torch.testing.assert_close(loss / answers, theirs)
    torch.testing.assert_close(hits / answers, right)


@pytest.mark.parametrize("goal", [Goal.labels, Goal.values])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_takes_no_gradient(goal, bidirectional):
    model = Model("lstm", hidden_size=3, bidirectional=bidirectional)
    network = Network(model, 3, 2, every_step=True)
    weights = network.views(network.start(0))
    x = torch.randn(1, T, 3, B).requires_grad_()
    lengths = torch.tensor([[1, 7, 3, 2]])
    y = torch.zeros(1, T, B, dtype=torch.int64) if goal is Goal.labels else torch.zeros(1, 2, T, B)
    loss, _, _ = measure(goal, network(weights, x, lengths=lengths), y, lengths)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    for b, length in enumerate(lengths[0].tolist()):
        assert gradient[0, :length, :, b].abs().min() > 0
        assert not gradient[0, length:, :, b].any()


def test_numpy_targets_of_keys_reach_the_loss_as_keys():
    """A batch of keys (K, B, T, 88) becomes (K, 88, T, B)."""
    from conftest import small_task

    from rnnbench.kernels.batches import Batches

    task = small_task()
    keys = np.random.RandomState(0).randint(0, 2, (len(task.inputs), 5, 6)).astype(np.uint8)
    object.__setattr__(task, "targets", keys)
    object.__setattr__(task, "goal", Goal.keys)
    y = Batches(task, torch.device("cpu")).stored(torch.tensor([[3, 1], [0, 2]])).y
    assert y.shape == (2, 6, 5, 2)
    assert np.array_equal(y[1, :, 2, 1].numpy(), keys[2, 2])
