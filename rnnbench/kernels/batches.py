"""Minibatches of a task as tensors, feature-major: bytes, numbers or tokens, stored or made on demand."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnbench.tasks import Examples, Task
from rnnbench.tasks.generated import TRAIN, uniforms


class Batch(NamedTuple):
    """A minibatch of every trial of a stack."""

    x: Tensor  # (K, T, input, B)
    y: Tensor  # see rnnbench.kernels.losses.measure
    lengths: Tensor | None  # (K, B)


def tensor(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor, floats as float32; a copy where torch cannot read it as it lies."""
    kind = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
    array = array.astype(kind, copy=False)
    readable = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    return torch.from_numpy(array if readable else np.ascontiguousarray(array))


class Batches:
    """Gives minibatches of a task's examples on a device."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.task = task
        self.device = device
        self.scale, self.shift = task.scale / task.std, -task.mean / task.std
        self.inputs = tensor(task.inputs).to(device)  # (N, T, input), or tokens (N, T)
        self.targets = tensor(task.targets).to(device)
        self.lengths = None if task.lengths is None else tensor(task.lengths).to(device)

    def stored(self, index: Tensor) -> Batch:
        """Gather the stored examples index (K, B)."""
        lengths = None if self.lengths is None else self.lengths[index]
        T = self.inputs.shape[1] if lengths is None else int(lengths.max())
        return self._batch(self.inputs, self.targets, index, lengths, T)

    def made(self, numbers: Tensor, seeds: Tensor) -> Batch:
        """Make the training examples `numbers` (K, B) of trials with these seeds (K,)."""
        assert self.task.make is not None
        K, B = numbers.shape
        seed, number = np.repeat(seeds.cpu().numpy(), B), numbers.flatten().cpu().numpy()
        u = uniforms(seed, TRAIN, number, self.task.draws)
        made: Examples = self.task.make(u)
        inputs, targets = (tensor(part).to(self.device) for part in (made.inputs, made.targets))
        lengths = None
        if made.lengths is not None:
            lengths = torch.from_numpy(made.lengths).to(self.device).view(K, B)
        T = inputs.shape[1] if lengths is None else int(lengths.max())
        index = torch.arange(K * B, device=self.device).view(K, B)
        return self._batch(inputs, targets, index, lengths, T)

    def _batch(self, inputs: Tensor, targets: Tensor, index: Tensor, lengths: Tensor | None, T: int) -> Batch:
        K, B = index.shape
        rows = inputs.index_select(0, index.flatten())[:, :T].flatten(1)  # (K * B, T * input)
        rows = rows.view(K, B, -1).transpose(1, 2).contiguous()
        if self.task.tokens is not None:
            x = torch.zeros(K, T, self.task.tokens, B, device=self.device)
            x.scatter_(2, rows.long().unsqueeze(2), 1.0)
        else:
            floats = rows.is_floating_point()
            x = (rows if floats else torch.mul(rows, self.scale).add_(self.shift)).view(K, T, -1, B)
        y = targets[index]  # (K, B, ...)
        if y.dim() > 2:
            y = y[:, :, :T] if self.task.goal.every_step else y
            y = y.movedim(1, -1)  # (K, T, B) or (K, T, outputs, B) or (K, outputs, B)
        if y.dim() == 4:
            y = y.transpose(1, 2).float()
        return Batch(x, y if y.is_floating_point() else y.long(), lengths)
