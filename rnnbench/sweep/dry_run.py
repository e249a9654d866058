"""Shows what a sweep would do, for dry_run=true: trials, stacks, memory, time; nothing is trained."""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rnnbench import tasks, terminal
from rnnbench.config import STEPS_PER_EPOCH, Config, Kernel
from rnnbench.kernels import choose, kernel_name, on_card, reason
from rnnbench.kernels.gpu import cards
from rnnbench.nn.cells.cell import NONE
from rnnbench.nn.network import Network
from rnnbench.terminal.formats import clock
from rnnbench.train import resources
from rnnbench.train.stack import Stack, shape_key


def show_plan(configs: Sequence[Config], max_stack: int | None, elsewhere: bool = False) -> None:
    """Print the plan of a sweep.

    The time is estimated from a few steps of each kind of stack on random bytes, with weights that are
    discarded, times the number of steps; an evaluated minibatch counts as a third of a step. Where stacks
    train elsewhere, on cards that are not here, no time is estimated.
    """
    groups: dict[object, list[Config]] = {}
    for config in configs:
        groups.setdefault(shape_key(config), []).append(config)
    kinds = Counter(members[0].fit.device for members in groups.values())
    terminal.say(f"{counted(len(configs), 'trial')} in {counted(len(groups), 'kind')} of stacks")
    busy: dict[str, float] = defaultdict(
        float
    )  # seconds of each device; where stacks train elsewhere, of all together
    for members in groups.values():
        config, shape = members[0], tasks.shape(members[0].data)
        width, stacks = divided(members, kinds[config.fit.device], max_stack, elsewhere)
        memory = resources.data_bytes(shape) + resources.stack_bytes(config, shape)(width)
        epochs = max(member.fit.epochs for member in members)
        seconds = measure(config, shape, width) * stacks * epochs if is_here(config) else None
        devices = [config.fit.device] if elsewhere else resources.devices(config.fit.device)
        for _ in range(stacks):  # a device that is free takes the next stack
            busy[min(devices, key=lambda name: busy[name])] += (seconds or 0.0) / stacks
        terminal.say(
            f"  {len(members)} x {config.model.name}, hidden size {config.model.hidden_size}, "
            f"{counted(config.model.num_layers, 'layer')} on {config.data.name}{folds_in(members)}: "
            f"{Network(config.model, shape.input_size, shape.outputs).count():,} parameters, "
            f"{counted(stacks, 'stack')} of up to {width}, about {memory / 2**20:,.0f} MiB, "
            f"{'' if seconds is None else clock(seconds) + ', '}{computed_by(config)}"
        )
    if all(map(is_here, configs)):
        where = configs[0].fit.device if elsewhere else place(configs[0].fit.device)
        total = clock(max(busy.values()))
        terminal.say(f"about {total} in all on {where}, early stopping aside; nothing was trained")
    else:
        terminal.say("the time is not estimated, since there is no card here; nothing was trained")


def divided(members: Sequence[Config], kinds: int, max_stack: int | None, elsewhere: bool) -> tuple[int, int]:
    """Return how many trials a stack of this kind has at most, and how many stacks are trained.

    Args:
        members: trials of one kind.
        kinds: kinds of stacks on the same devices.
        elsewhere: whether stacks are sent to a cluster.
    """
    config, count = members[0], len(members)
    if elsewhere:
        stacks = -(-count // (max_stack or resources.gaining_elsewhere(config)))
        return -(-count // stacks), stacks
    devices = resources.devices(config.fit.device)
    parts = min(count, resources.parts(len(devices), kinds))
    here = config.on(devices[0])
    width = min(-(-count // parts), resources.places(here, tasks.shape(config.data), max_stack))
    return width, -(-count // width)


def is_here(config: Config) -> bool:
    """Return whether this machine has the device of a trial."""
    device = config.fit.device
    return device == "cpu" or int(device.partition(":")[2] or 0) < cards.count()


def place(device: str) -> str:
    """Name a device, or the number of cards that train side by side."""
    number = len(resources.devices(device))
    return device if number == 1 else f"{number} cards side by side"


def measure(config: Config, shape: tasks.Shape, width: int) -> float:
    """Measure how many seconds an epoch of a stack of `width` trials takes."""
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
    return step * (train + watched / 3 / config.fit.evaluate_every) / B


def folds_in(members: Sequence[Config]) -> str:
    """Return the folds of trials as text; "" where there are none."""
    if (folds := members[0].data.folds) is None:
        return ""
    return f", data.fold={','.join(map(str, sorted({one.data.fold for one in members})))} of {folds}"


def computed_by(config: Config) -> str:
    """Name the kernel of a stack and its card, and say why it is torch where nobody asked for that."""
    why = reason(config) if config.fit.kernel is Kernel.auto else None
    if not is_here(config):
        return f"{choose(config).value} on a card, in {config.fit.precision.value}"
    return kernel_name(config) + (f" ({why})" if why else "") + on_card(config)


def counted(number: int, what: str) -> str:
    """Return a number of things in words: 1 trial, 2 trials."""
    return f"{number} {what}{'' if number == 1 else 's'}"
