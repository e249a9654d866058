"""Trains stacks for a measurement: a stack is made once, and trains so many minibatches at a time."""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rnnbench.config import Config
from rnnbench.kernels.torch_path import set_threads
from rnnbench.nn.cells.cell import NONE
from rnnbench.tasks import Task
from rnnbench.train.stack import Stack

TRAIN, TEST, BATCH = 60_000, 10_000, 128  # MNIST's examples, and the tutorial's minibatch
MOST = 200  # minibatches of a measurement
ENOUGH = 0.25  # seconds that a measurement should take, in whole minibatches


@lru_cache
def random_images() -> tuple[np.ndarray, np.ndarray]:
    """Draw bytes and labels in MNIST's shape; the time does not depend on what they show."""
    rng = np.random.RandomState(0)
    return rng.randint(0, 256, (TRAIN, 28, 28), dtype=np.uint8), rng.randint(0, 10, TRAIN)


def image_task(steps: int = 28) -> Task:
    """Return a task of random bytes in MNIST's shape, in so many steps."""
    images, targets = random_images()
    everything = np.arange(TRAIN)
    splits = {"train": everything, "val": everything[:0], "test": everything[:TEST]}
    inputs = images.reshape(TRAIN, steps, -1)
    return Task(
        inputs, targets.astype(np.int64), splits,
        scale=1 / 255, mean=0.5, std=0.5, outputs=10, checksum="", details={},
    )  # fmt: skip


def stack_of(config: Config, task: Task, K: int) -> Stack:
    """Make a stack of K trials, ready to train."""
    stack = Stack(config, task)
    stack.admit([stack.fresh(config) for _ in range(K)])
    stack.state["lr"].fill_(config.optim.lr)  # as an epoch does
    return stack


def training(stack: Stack, orders: Sequence[Tensor]) -> float:
    """Train on the examples of each order (K, count), and return the seconds."""
    set_threads(stack.slots[0].config)
    started = time.perf_counter()
    for order in orders:
        stack.compute.train(stack.state, order, NONE, lambda: None)
    wait(stack.device)
    return time.perf_counter() - started


def shuffled(K: int, minibatches: int) -> list[Tensor]:
    """Order random examples of `image_task`, for so many minibatches."""
    return [torch.randint(TRAIN, (K, minibatches * BATCH))]


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def adapting(
    measure: Callable[[int], float], enough: float = ENOUGH, most: int = MOST
) -> Callable[[], float]:
    """Make a contestant that measures so many minibatches at a time that they take `enough` seconds."""
    minibatches = 0

    def contestant() -> float:
        nonlocal minibatches
        if not minibatches:  # the warm-up round
            measure(1)
            started = time.perf_counter()
            measure(1)
            minibatches = min(most, max(1, round(enough / (time.perf_counter() - started))))
        return measure(minibatches)

    return contestant
