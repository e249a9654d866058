"""The torch path: any cell on any device, batched products over the stack, gradients by autograd."""

import os
from collections.abc import Callable

import torch
from torch import Tensor

from rnnbench import optim
from rnnbench.config import Config
from rnnbench.kernels.compiled import cores
from rnnbench.network import Drop, Network
from rnnbench.tasks import Task

EVALUATION_BATCH = 250
LARGE = 128  # hidden size from which products are worth more than one thread


class TorchCompute:
    """Trains and evaluates a stack with torch."""

    def __init__(self, config: Config, task: Task, network: Network) -> None:
        set_threads(config)
        self.network = network
        self.device = torch.device(config.fit.device)
        self.batch_size = config.fit.batch_size
        _, self.T, self.input_size = task.inputs.shape
        self.inputs = torch.from_numpy(task.inputs).flatten(1).to(self.device)  # (N, T * input) bytes
        self.targets = torch.from_numpy(task.targets).to(self.device)  # (N,)
        self.scale, self.shift = task.scale / task.std, -task.mean / task.std
        self.update = optim.update(config.optim)

    def train(self, state: optim.State, order: Tensor, drop: Drop | None, poll: Callable[[], None]) -> Tensor:
        """Update every trial on its minibatches of order (K, examples); see `Compute.train`."""
        order = order.to(self.device)
        totals = torch.zeros(len(order), 3, dtype=torch.float64, device=self.device)
        for index in order.split(self.batch_size, dim=1):
            poll()
            totals += self.step(state, index, drop)
        return totals

    def step(self, state: optim.State, index: Tensor, drop: Drop | None) -> Tensor:
        """One update on the examples index (K, B): its part of the totals, (K, 3)."""
        x, y = self.batch(index)
        views = self.network.views(state["parameters"])
        weights = {name: view.detach().requires_grad_() for name, view in views.items()}
        loss, hits = cross_entropy(self.network(weights, x, drop), y)
        gradients = torch.autograd.grad(loss.mean(-1).sum(), list(weights.values()))
        gradient = torch.cat([part.flatten(1) for part in gradients], 1)  # (K, P)
        norm = optim.clip(gradient, state["clip"].float())
        with torch.no_grad():
            self.update(state, state["parameters"], gradient)
        return torch.stack([loss.detach().sum(-1), hits.sum(-1), norm.squeeze(-1) * index.shape[1]], 1)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """x (K, T, input, B) and y (K, B) for the examples index (K, B)."""
        K, B = index.shape
        rows = self.inputs[index.flatten()].view(K, B, -1).transpose(1, 2).contiguous()
        x = torch.mul(rows, self.scale).add_(self.shift)
        return x.view(K, self.T, self.input_size, B), self.targets[index]

    @torch.no_grad()
    def evaluate(self, parameters: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, accuracy and predictions of parameters (k, P); see `Compute.evaluate`."""
        weights = self.network.views(parameters)
        losses, hits, predictions = [], [], []
        for part in index.to(self.device).split(EVALUATION_BATCH):
            x, y = (t.expand(len(parameters), *t.shape[1:]) for t in self.batch(part.unsqueeze(0)))
            logits = self.network(weights, x)
            loss, hit = cross_entropy(logits, y)
            losses.append(loss)
            hits.append(hit)
            predictions.append(logits.argmax(1))
        loss, accuracy = (torch.cat(parts, 1).double().mean(1) for parts in (losses, hits))
        return loss, accuracy, torch.cat(predictions, 1)


def cross_entropy(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and whether the largest logit is right, (K, B) each, of logits (K, classes, B), y (K, B)."""
    right = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    hits = (logits.detach().argmax(1) == y).float()
    return logits.logsumexp(1) - right, hits


def set_threads(config: Config) -> None:
    """One thread for small products, all cores for large ones; OMP_NUM_THREADS, if set, decides.

    At hidden size 10 a second thread gains a tenth on an idle machine and loses a factor of ten when
    something else wants its core. And the numbers then do not depend on how many cores there are.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores() if config.model.hidden_size >= LARGE else 1)
