"""The tutorial's recipe, written directly with torch.nn and a DataLoader, beside experiment=tutorial."""

import statistics

import pytest
import torch
from torch import nn

from rnnbench import tasks
from rnnbench.config import Config, Fit, Model, Select, Sgd, Tracking
from rnnbench.tasks.sequences import Images
from rnnbench.train.stack import Stack, conclude

SEEDS = (0, 1, 2)


class TutorialNet(nn.Module):
    """As the tutorial has it: two layers of ten units, the last step into a linear layer."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.rnn = kind(28, 10, 2, batch_first=True)
        self.fc = nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(x)[0][:, -1, :])


def tutorial_epoch(kind: type[nn.Module], root: str, seed: int) -> float:
    """Test accuracy after one epoch of the tutorial's own loop."""
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean=(0.5,), std=(0.5,))])
    train, test = (datasets.MNIST(root, train=part, transform=transform) for part in (True, False))
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    network = TutorialNet(kind)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    for x, y in torch.utils.data.DataLoader(train, batch_size=128, shuffle=True):
        optimiser.zero_grad()
        criterion(network(x.reshape(-1, 28, 28)), y).backward()
        optimiser.step()
    hits = 0
    with torch.no_grad():
        for x, y in torch.utils.data.DataLoader(test, batch_size=100):
            hits += int((network(x.reshape(-1, 28, 28)).argmax(1) == y).sum())
    return hits / len(test)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "kind"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_one_epoch_reaches_what_the_tutorials_loop_reaches(model, kind, mnist_root):
    data = Images("mnist", root=str(mnist_root), val_size=0)
    fit = Fit(epochs=1, batch_size=128, select=Select.test)
    configs = [Config(Model(model, 10, 2), Sgd(), data, fit, Tracking(), seed) for seed in SEEDS]
    stack = Stack(configs[0], tasks.load(data))
    stack.admit([stack.fresh(config) for config in configs])
    report = next(stack.epochs())
    ours = [outcome.metrics["best/test_accuracy"] for outcome in conclude(stack, report.slots)]
    theirs = [tutorial_epoch(kind, str(mnist_root), seed) for seed in SEEDS]
    print(f"\n{model}: torch.nn and DataLoader {theirs}, rnnbench {ours}")
    # Same start, other orders: the difference of means lies within what the orders make of it.
    spread = max(statistics.stdev(ours), statistics.stdev(theirs))
    assert abs(statistics.fmean(ours) - statistics.fmean(theirs)) < max(3 * spread, 0.02)
