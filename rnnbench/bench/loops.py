"""Times a trial-epoch of the tutorial's recipe: in the tutorial's loop, and in the harness's two paths."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from rnnbench.bench.harness import (
    BATCH,
    TEST,
    TRAIN,
    adapting,
    image_task,
    random_images,
    shuffled,
    stack_of,
    training,
)
from rnnbench.config import Config, Fit, Kernel, Model, Select, Sgd, Tracking
from rnnbench.kernels.compiled import cores
from rnnbench.nn.network import TorchNetwork
from rnnbench.tasks.sequences import Images as ImageData

LAYERS = 2  # the tutorial's


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


def tutorial_loop(model: str, hidden_size: int, threads: int, loader: bool) -> Callable[[], float]:
    """Time a trial-epoch of the tutorial's loop, in seconds: torch.nn, a DataLoader, then the test set.

    Args:
        threads: number of torch's threads.
        loader: False: the images are tensors in memory, without a DataLoader: torch.nn alone.
    """
    network = TorchNetwork(Model(model, hidden_size, LAYERS), 28, 10)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()

    def batches(data: Images, size: int, shuffle: bool) -> Iterable[Any]:
        if loader:
            return torch.utils.data.DataLoader(data, batch_size=size, shuffle=shuffle)
        images = (data.images.float() / 255 - 0.5) / 0.5
        return zip(images.split(size), data.targets.split(size), strict=True)

    def measure(minibatches: int) -> float:
        torch.set_num_threads(threads)
        data, test = Images(minibatches * BATCH), Images(-(-minibatches * BATCH // 600) * 100)
        started = time.perf_counter()
        for x, y in batches(data, BATCH, True):
            loss = criterion(network(x.reshape(-1, 28, 28)), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        trained = time.perf_counter()
        hits = 0
        with torch.no_grad():
            for x, y in batches(test, 100, False):
                hits += int((network(x.reshape(-1, 28, 28)).argmax(1) == y).sum())
        return whole(trained - started, time.perf_counter() - trained, minibatches, len(test))

    return adapting(measure)


def harness(model: str, hidden_size: int, K: int, kernel: Kernel) -> Callable[[], float]:
    """Time a trial-epoch in a stack of K, in seconds: its share of the stack's."""
    fit = Fit(batch_size=BATCH, select=Select.test, kernel=kernel)
    config = Config(Model(model, hidden_size, LAYERS), Sgd(), ImageData("mnist", val_size=0), fit, Tracking())
    stack = stack_of(config, image_task(), K)

    def measure(minibatches: int) -> float:
        examples = -(-minibatches * BATCH // 600) * 100
        trained = training(stack, shuffled(K, minibatches))
        started = time.perf_counter()
        stack.compute.evaluate(stack.state["parameters"], torch.arange(examples))
        return whole(trained, time.perf_counter() - started, minibatches, examples) / K

    return adapting(measure)


def products_per_second() -> float:
    """Measure the machine's matrix products, in floating-point operations a second: no kernel does more."""
    torch.set_num_threads(cores())
    a, b = torch.randn(2, 1024, 1024)
    taken = []
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(a, b)
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
