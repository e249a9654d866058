"""Times a trial-epoch of the tutorial's recipe: in the tutorial's loop, and in the harness's two paths."""

import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from rnnbench.config import Config, Fit, Kernel, Model, Select, Sgd, Tracking
from rnnbench.kernels.compiled import cores
from rnnbench.kernels.torch_path import set_threads
from rnnbench.nn.cells.cell import NONE
from rnnbench.nn.network import TorchNetwork
from rnnbench.tasks import Task
from rnnbench.tasks.sequences import Images as ImageData
from rnnbench.train.stack import Stack

TRAIN, TEST, BATCH, LAYERS = 60_000, 10_000, 128, 2  # the tutorial's sizes
ENOUGH = 0.25  # seconds that a measurement should take, in whole minibatches


@lru_cache
def random_images() -> tuple[np.ndarray, np.ndarray]:
    """Draw bytes and labels in MNIST's shape; the time does not depend on what they show."""
    rng = np.random.RandomState(0)
    return rng.randint(0, 256, (TRAIN, 28, 28), dtype=np.uint8), rng.randint(0, 10, TRAIN)


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Random images that cost as much a sample as torchvision's MNIST with the tutorial's transforms."""

    def __init__(self, count: int) -> None:
        from torchvision import transforms

        images, targets = random_images()
        self.images, self.targets = torch.from_numpy(images[:count]), torch.from_numpy(targets[:count])
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(mean=(0.5,), std=(0.5,))]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.targets[index])


def whole(trained: float, evaluated: float, minibatches: int, examples: int) -> float:
    """Scale the seconds of some minibatches and test examples up to those of a trial-epoch."""
    return trained * TRAIN / (minibatches * BATCH) + evaluated * TEST / examples


def adapting(measure: Callable[[int], float], enough: float = ENOUGH) -> Callable[[], float]:
    """Make a contestant that measures so many minibatches at a time that they take `enough` seconds."""
    minibatches = 0

    def contestant() -> float:
        nonlocal minibatches
        if not minibatches:  # the warm-up round
            measure(1)
            started = time.perf_counter()
            measure(1)
            minibatches = min(200, max(1, round(enough / (time.perf_counter() - started))))
        return measure(minibatches)

    return contestant


def tutorial_loop(
    model: str, hidden_size: int, threads: int, loader: bool, device: str = "cpu"
) -> Callable[[], float]:
    """Time a trial-epoch of the tutorial's loop, in seconds: torch.nn, a DataLoader, then the test set.

    Args:
        threads: number of torch's threads.
        loader: False: the images are tensors in memory, without a DataLoader: torch.nn alone.
    """
    network = TorchNetwork(Model(model, hidden_size, LAYERS), 28, 10).to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()

    def batches(data: Images, size: int, shuffle: bool) -> Iterable[Any]:
        if loader:
            return torch.utils.data.DataLoader(data, batch_size=size, shuffle=shuffle)
        images = (data.images.to(device).float() / 255 - 0.5) / 0.5
        return zip(images.split(size), data.targets.to(device).split(size), strict=True)

    def measure(minibatches: int) -> float:
        torch.set_num_threads(threads)
        data, test = Images(minibatches * BATCH), Images(-(-minibatches * BATCH // 600) * 100)
        started = time.perf_counter()
        for x, y in batches(data, BATCH, True):
            loss = criterion(network(x.reshape(-1, 28, 28)), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        wait(device)
        trained = time.perf_counter()
        hits = 0
        with torch.no_grad():
            for x, y in batches(test, 100, False):
                hits += int((network(x.reshape(-1, 28, 28)).argmax(1) == y).sum())
        return whole(trained - started, time.perf_counter() - trained, minibatches, len(test))

    return adapting(measure)


def harness(model: str, hidden_size: int, K: int, kernel: Kernel, device: str = "cpu") -> Callable[[], float]:
    """Time a trial-epoch in a stack of K, in seconds: its share of the stack's."""
    images, targets = random_images()
    everything = np.arange(TRAIN)
    splits = {"train": everything, "val": everything[:0], "test": everything[:TEST]}
    task = Task(images, targets.astype(np.int64), splits, 1 / 255, 0.5, 0.5, 10, "", {})
    fit = Fit(batch_size=BATCH, select=Select.test, kernel=kernel, device=device)
    config = Config(Model(model, hidden_size, LAYERS), Sgd(), ImageData("mnist", val_size=0), fit, Tracking())
    stack = Stack(config, task)
    stack.admit([stack.fresh(config) for _ in range(K)])
    stack.state["lr"].fill_(config.optim.lr)  # as an epoch does

    def measure(minibatches: int) -> float:
        set_threads(config)
        examples = -(-minibatches * BATCH // 600) * 100
        order = torch.randint(TRAIN, (K, minibatches * BATCH))
        started = time.perf_counter()
        stack.compute.train(stack.state, order, NONE, lambda: None)
        wait(device)
        trained = time.perf_counter()
        stack.compute.evaluate(stack.state["parameters"], torch.arange(examples))
        wait(device)
        return whole(trained - started, time.perf_counter() - trained, minibatches, examples) / K

    return adapting(measure)


def wait(device: str) -> None:
    """Wait until a GPU has finished its queued work."""
    if device != "cpu":
        torch.cuda.synchronize()


def products_per_second(device: str = "cpu") -> float:
    """Measure the machine's matrix products, in floating-point operations a second: no kernel does more."""
    if device == "cpu":
        torch.set_num_threads(cores())
    a, b = torch.randn(2, 1024, 1024, device=device)
    taken = []
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(a, b)
        wait(device)
        taken.append(time.perf_counter() - started)
    return 2 * 1024**3 / min(taken)


def operations(model: str, hidden_size: int) -> float:
    """Count the floating-point operations of the matrix products of a trial-epoch, training and test."""
    gates = {"lstm": 4, "gru": 3}[model]
    forward = backward = 0
    for layer in range(LAYERS):
        inputs = hidden_size if layer else 28
        forward += gates * hidden_size * (inputs + hidden_size)
        # Gradients of the weights, of the state, and from the second layer on of the inputs.
        backward += gates * hidden_size * (inputs + 2 * hidden_size + (inputs if layer else 0))
    return 2 * 28 * (TRAIN * (forward + backward) + TEST * forward)
