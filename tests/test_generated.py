"""Laws of made-up data: an example depends on its seed and number alone; endless data never repeats."""

import numpy as np
import pytest
import torch
from conftest import make_config
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rnnbench.kernels.batches import Batches
from rnnbench.tasks import TASKS
from rnnbench.tasks.generated import TRAIN, VAL, Made, uniforms
from rnnbench.tasks.synthetic import Generated
from rnnbench.tasks.task import Examples, Goal
from rnnbench.train import stack as engine


class Brightest:
    """Five numbers; which is the largest: [0.1 0.9 0.3 0.2 0.4] -> 1. Always 1 is right once in five."""

    goal, metric, steps, input_size, outputs, draws = Goal.label, "accuracy", 5, 1, 5, 5

    def make(self, u):
        return Examples(u[:, :, None].astype(np.float32), u.argmax(1))


MADE = Made(lambda data: Brightest(), "these tests")


@pytest.fixture(scope="module", autouse=True)
def known():
    """The task under its name, in which the choice of the kernel looks for a loss of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "brightest", MADE)
        yield


def data(**changes):
    return Generated("brightest", val_size=40, test_size=30, **changes)


def reports(stack):
    return [
        report.metrics for report in stack.epochs() if not stack.stop([s for s in stack.slots if s.ended])
    ]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**40), numbers=st.lists(st.integers(0, 2**40), min_size=1, max_size=5))
def test_an_example_does_not_depend_on_who_is_asked_for_beside_it(seed, numbers):
    together = uniforms(np.full(len(numbers), seed), TRAIN, np.array(numbers), 6)
    for row, number in zip(together, numbers, strict=True):
        assert np.array_equal(row, uniforms(np.array([seed]), TRAIN, np.array([number]), 6)[0])


def test_they_are_uniform_and_independent():
    u = uniforms(np.zeros(20_000, np.int64), TRAIN, np.arange(20_000), 3)
    assert 0 <= u.min() <= u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    others = [
        uniforms(np.ones(20_000, np.int64), TRAIN, np.arange(20_000), 3),
        uniforms(np.zeros(20_000, np.int64), VAL, np.arange(20_000), 3),
        *(np.roll(u, 1, axis) for axis in (0, 1)),
    ]
    for other in others:
        assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 0.02


def test_held_out_examples_are_those_of_the_split_seed_and_the_test_never_moves():
    one, other = MADE.load(data()), MADE.load(data(split_seed=1))
    val, test = one.splits["val"], one.splits["test"]
    assert not np.array_equal(one.inputs[val], other.inputs[val])
    assert np.array_equal(one.inputs[test], other.inputs[test])
    assert MADE.load(data()).checksum == one.checksum != other.checksum


def seen(configs, kind):
    """The training inputs that each trial's minibatches hold, epoch by epoch."""
    task = MADE.load(kind)
    stack = engine.Stack(configs[0], task)
    stack.admit([stack.fresh(config) for config in configs])
    batches = []
    for _ in stack.epochs():
        for slot in stack.slots:
            slot.epoch -= 1  # the order of the epoch that has just been trained
        numbers = stack._order()
        for slot in stack.slots:
            slot.epoch += 1
        batches.append(Batches(task, stack.device).made(numbers, stack.state["seed"][:, 0]).x[:, :, 0])
        stack.stop([slot for slot in stack.slots if slot.ended])
    return batches  # (K, T, examples) an epoch


def made_config(seed=0):
    config = make_config("gru", seed)
    config.data = data()
    config.fit.epochs, config.fit.steps_per_epoch = 3, 5
    return config


def test_endless_data_never_repeats_and_belongs_to_the_trial():
    alone = seen([made_config(1)], data())
    together = seen([made_config(0), made_config(1)], data())
    every = torch.cat([batch[0].T for batch in alone])
    assert len(every.unique(dim=0)) == len(every) == 3 * 5 * 8
    for mine, both in zip(alone, together, strict=True):
        assert torch.equal(mine[0], both[1])
        assert not torch.equal(both[0], both[1])


def test_data_of_a_fixed_size_comes_again_in_another_order():
    first, second, _ = seen([made_config(1)], data(train_size=24))
    assert not torch.equal(first, second)
    assert torch.equal(first[0].sort(1).values, second[0].sort(1).values)


def test_a_network_learns_it():
    config = made_config()
    config.fit.epochs, config.fit.steps_per_epoch, config.model.hidden_size = 15, 40, 16
    stack = engine.Stack(config, MADE.load(data()))
    stack.admit([stack.fresh(config)])
    *_, last = reports(stack)
    assert last[0]["val/accuracy"] > 0.6
