"""Measures the generated kernels and cuDNN for a trial that trains alone, where fit.kernel=fastest."""

import time
from dataclasses import replace

import torch

from rnnbench import terminal
from rnnbench.config import Config, Kernel
from rnnbench.kernels import choose, cudnn, measured, take
from rnnbench.nn.cells.cell import NONE
from rnnbench.tasks import Task
from rnnbench.train.stack import Stack

MINIBATCHES = 20  # of a round; a CUDA graph replays all but the first
ROUNDS = 4  # the first compiles kernels, the best of the others counts


def settle(config: Config, task: Task) -> Kernel:
    """Choose the kernel of a trial that trains alone; measure, once a process, where fastest asks for it.

    cuDNN trains one trial at a time, so that trials that train together are on the generated kernels.
    """
    kernel = choose(config)
    if config.fit.kernel is not Kernel.fastest or not cudnn.supports(config):
        return kernel
    if known := measured(config):
        take(config, known)
        return known
    times = {each: seconds(config, task, each) for each in (kernel, Kernel.cudnn)}
    faster = min(times, key=times.__getitem__)
    take(config, faster)
    found = ", ".join(f"{each.value} {1e3 * taken:.3g} ms" for each, taken in times.items())
    terminal.say(f"fit.kernel=fastest takes {faster.value} (a minibatch of a trial alone: {found})")
    return faster


def seconds(config: Config, task: Task, kernel: Kernel) -> float:
    """Measure a minibatch of a trial alone, of its own size, in a stack that is thrown away."""
    config = replace(config, fit=replace(config.fit, kernel=kernel))
    stack = Stack(config, task)
    stack.admit([stack.fresh(config)])
    stack.state["lr"].fill_(config.optim.lr)
    B = config.fit.batch_size
    order = torch.from_numpy(task.splits["train"][: MINIBATCHES * B])[None]
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        stack.compute.train(stack.state, order, NONE, lambda: None).tolist()  # waits for the card
        taken.append(time.perf_counter() - started)
    return min(taken[1:]) * B / order.shape[1]
