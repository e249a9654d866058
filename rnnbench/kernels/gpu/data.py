"""Holds the examples of a task on a GPU: stored ones once, and those that are made on demand in a buffer."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnbench.kernels.feed import BYTES as FEED_BYTES
from rnnbench.kernels.feed import FLOATS as FEED_FLOATS
from rnnbench.kernels.feed import Feed, Maker
from rnnbench.kernels.gpu.layer import BYTES, FLOATS, SYMBOLS
from rnnbench.kernels.gpu.minibatch import Examples
from rnnbench.tasks import Task

ROOM = 2**25  # bytes of examples that are made for some minibatches at a time
KINDS = {FEED_BYTES: BYTES, FEED_FLOATS: FLOATS}  # of others the kernels read symbols as int32


def on_device(feed: Feed, device: torch.device) -> Examples:
    """Copy examples to a GPU."""
    kind = KINDS.get(feed.struct.kind, SYMBOLS)
    inputs = feed.inputs.astype(np.int32) if kind == SYMBOLS else feed.inputs

    def copied(array: NDArray[Any]) -> Tensor:
        return torch.tensor(np.ascontiguousarray(array), device=device)

    lengths = None if feed.lengths is None else copied(feed.lengths)
    return Examples(kind, copied(inputs), copied(feed.targets), lengths, feed.struct.scale, feed.struct.shift)


def put(part: Tensor, room: Tensor) -> None:
    """Enqueue a copy from the CPU to a place on a GPU; what is enqueued there before may still read it."""
    room.copy_(part.pin_memory() if room.is_cuda else part, non_blocking=True)


class Made:
    """The training examples of some minibatches, made on the CPU and copied to where the kernels read them.

    Args:
        task: which makes them.
        K: trials; those with equal seeds share their examples.
        B: examples of a minibatch.
        device: of the copies.
    """

    def __init__(self, task: Task, maker: Maker, K: int, B: int, device: torch.device) -> None:
        self.maker = maker
        self.lengths: Tensor | None = None  # of the examples that were made last, on the CPU
        first, _ = maker.make(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        one = on_device(first, device)
        arrays = [array for array in (one.inputs, one.targets, one.lengths) if array is not None]
        bytes_ = sum(array[0].nbytes for array in arrays)
        self.minibatches = max(1, ROOM // (bytes_ * K * B))  # that are made at once
        count = K * B * self.minibatches
        inputs, targets = (part.new_zeros(count, *part.shape[1:]) for part in (one.inputs, one.targets))
        lengths = None if one.lengths is None else one.lengths.new_zeros(count)
        self.examples = replace(one, inputs=inputs, targets=targets, lengths=lengths)

    def make(self, numbers: Tensor, seeds: Tensor) -> Tensor:
        """Make examples `numbers` (K, n) of trials with seeds (K,); return the place of each, (K, n)."""
        feed, places = self.maker.make(numbers, seeds)
        made, room = on_device(feed, torch.device("cpu")), self.examples
        self.lengths = made.lengths
        put(made.inputs, room.inputs[: len(made.inputs)])
        put(made.targets, room.targets[: len(made.targets)])
        if made.lengths is not None and room.lengths is not None:
            put(made.lengths, room.lengths[: len(made.lengths)])
        return places


class Order:
    """The examples of the next minibatches, on a GPU, and a counter there that chooses the next one.

    Args:
        trials: K, or 1 where all have the same examples.
        B: examples of a minibatch.
    """

    def __init__(self, trials: int, B: int, device: torch.device) -> None:
        self.examples = torch.zeros(trials, 0, B, dtype=torch.int64, device=device)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)

    def fill(self, order: Tensor) -> bool:
        """Take an order (trials, examples), and begin; -1 fills the last minibatch.

        Returns:
            whether the array is another one than before, so that no graph has it.
        """
        trials, count = order.shape
        B = self.examples.shape[2]
        minibatches = -(-count // B)
        moved = self.examples.shape[1] < minibatches
        if moved:
            self.examples = self.examples.new_zeros(trials, minibatches, B)
        padded = order.new_full((trials, minibatches * B), -1)
        padded[:, :count] = order
        put(padded.view(trials, minibatches, B), self.examples[:, :minibatches])
        self.at.zero_()
        return moved

    def take(self, index: Tensor) -> None:
        """Copy the examples of the next minibatch to index (K, B), and count it."""
        index.copy_(self.examples.index_select(1, self.at)[:, 0])
        self.at.add_(1)
