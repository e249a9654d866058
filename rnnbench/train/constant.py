"""Measures what an answer reaches that is the same for every input."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from rnnbench import tasks
from rnnbench.config import Config, Kernel, Model
from rnnbench.tasks import Goal, Task
from rnnbench.train.stack import Stack

LEAST = 1e-12  # probability of what never occurs


def constant_answer(config: Config, split: str) -> dict[str, float]:
    """Return the metrics of a constant answer to a split: the frequencies of classes or keys, or the mean.

    It is the answer of a network whose weights are 0, but for the biases of the head.

    Args:
        config: of any trial of the task.
    """
    task = tasks.load(config.data)
    fit = replace(config.fit, device="cpu", kernel=Kernel.torch)
    stack = Stack(replace(config, model=Model("rnn", hidden_size=1), fit=fit), task)
    parameters = torch.zeros(1, stack.network.count())
    bias = torch.from_numpy(_bias(task, task.splits[split]))
    stack.network.views(parameters)["head.bias"][0] = bias.to(parameters.dtype)
    return stack.evaluation.measure(parameters, stack.splits[split]).metrics[0]


def _bias(task: Task, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the logits or numbers (outputs,) of the constant answer to the examples `index`."""
    targets = task.targets[index]
    if task.goal.every_step:
        steps = np.arange(targets.shape[1])
        counts = np.ones(targets.shape[:2], bool)
        if task.lengths is not None:
            counts = steps < task.lengths[index][:, None]
        if task.goal is Goal.labels:
            counts &= targets >= 0
        targets = targets[counts]
    if task.goal in (Goal.label, Goal.labels):
        occurs = np.bincount(targets, minlength=task.outputs) / len(targets)
        return np.asarray(np.log(occurs.clip(LEAST)))
    mean = targets.astype(np.float64).mean(0).reshape(-1)
    if task.goal is Goal.keys:
        return np.asarray(np.log(mean.clip(LEAST)) - np.log((1 - mean).clip(LEAST)))
    return np.asarray(mean)
