"""Shows what a sweep would do, for dry_run=true: trials, stacks, memory, time; nothing is trained."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rnnbench import tasks, terminal
from rnnbench.config import STEPS_PER_EPOCH, Config, Kernel
from rnnbench.kernels import kernel_name, on_card, reason
from rnnbench.nn.cells.cell import NONE
from rnnbench.train.resources import data_bytes, places, trial_bytes
from rnnbench.train.stack import Stack, shape_key


def show_plan(configs: Sequence[Config], max_stack: int | None) -> None:
    """Print the plan of a sweep.

    The time is estimated from a few steps of each kind of stack on random bytes, with weights that are
    discarded, times the number of steps; an evaluated minibatch counts as a third of a step.
    """
    groups: dict[object, list[Config]] = {}
    for config in configs:
        groups.setdefault(shape_key(config), []).append(config)
    terminal.say(f"{counted(len(configs), 'trial')} in {counted(len(groups), 'kind')} of stacks")
    total = 0.0
    for members in groups.values():
        config = members[0]
        shape = tasks.shape(config.data)
        width = min(len(members), places(config, shape, max_stack))
        seconds, memory, parameters = measure(config, shape, width)
        rounds = math.ceil(len(members) / width)
        epochs = max(member.fit.epochs for member in members)
        seconds *= rounds * epochs
        total += seconds
        terminal.say(
            f"  {len(members)} x {config.model.name}, hidden size {config.model.hidden_size}, "
            f"{counted(config.model.num_layers, 'layer')} on {config.data.name}: {parameters:,} parameters, "
            f"{counted(rounds, 'stack')} of up to {width}, about {memory / 2**20:,.0f} MiB, "
            f"{clock(seconds)}, {computed_by(config)}"
        )
    terminal.say(
        f"about {clock(total)} in all on {configs[0].fit.device}, early stopping aside; nothing was trained"
    )


def measure(config: Config, shape: tasks.Shape, width: int) -> tuple[float, float, int]:
    """Measure a stack of `width` trials.

    Returns:
        seconds an epoch, bytes of the stack with its data, parameters of a trial.
    """
    B = min(config.fit.batch_size, shape.train or config.fit.batch_size)
    rng = np.random.default_rng(0)
    examples = {"train": 3 * B, "val": 1, "test": 1}
    N, T, outputs = sum(examples.values()), shape.steps, shape.outputs
    targets: dict[tasks.Goal, NDArray[Any]] = {
        tasks.Goal.label: np.zeros(N, np.int64),
        tasks.Goal.value: np.zeros((N, outputs), np.float32),
        tasks.Goal.labels: np.zeros((N, T), np.int64),
        tasks.Goal.keys: np.zeros((N, T, outputs), np.uint8),
        tasks.Goal.values: np.zeros((N, T, outputs), np.float32),
    }
    task = tasks.Task(
        inputs=rng.integers(0, 256, (N, T, shape.input_size), dtype=np.uint8),
        targets=targets[shape.goal],
        splits={name: np.arange(count) for name, count in examples.items()},
        scale=1 / 255,
        mean=0.5,
        std=0.5,
        outputs=outputs,
        checksum="",
        details={},
        goal=shape.goal,
    )
    stack = Stack(config, task)
    stack.admit([stack.fresh(config) for _ in range(width)])
    order = torch.arange(3 * B).repeat(width, 1)
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        stack.compute.train(stack.state, order, NONE, lambda: None).tolist()  # waits for a card
        taken.append(time.perf_counter() - started)
    step = min(taken[1:]) / 3
    watched = shape.val if config.fit.select.value == "val" else shape.test
    train = shape.train or B * (config.fit.steps_per_epoch or STEPS_PER_EPOCH)
    seconds = step * (train + watched / 3 / config.fit.evaluate_every) / B
    return seconds, data_bytes(shape) + width * trial_bytes(config, shape), stack.network.count()


def computed_by(config: Config) -> str:
    """Name the kernel of a stack and its card, and say why it is torch where nobody asked for that."""
    why = reason(config) if config.fit.kernel is Kernel.auto else None
    return kernel_name(config) + (f" ({why})" if why else "") + on_card(config)


def counted(number: int, what: str) -> str:
    """Return a number of things in words: 1 trial, 2 trials."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def clock(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
