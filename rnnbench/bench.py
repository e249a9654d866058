"""python -m rnnbench.bench: how fast this machine is, side by side with the tutorial's loop.

Three questions, each answered in alternation in one process run, as ratios with their spread:
what a trial-epoch costs beside the same recipe written with torch.nn and a DataLoader; how long the
command takes to its first epoch beside `import torch`; what the harness itself costs a trial.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table
from torch import nn

from rnnbench.config import Config, Data, Fit, Model, Select, Sgd, Tracking
from rnnbench.engine import Stack
from rnnbench.network import TorchNetwork
from rnnbench.show import say, show_table
from rnnbench.tasks import Task

TRAIN, TEST, BATCH = 60_000, 10_000, 128  # of the tutorial
HIDDEN, LAYERS = 10, 2


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Random images with the cost a sample of torchvision's MNIST under the tutorial's transforms."""

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        from torchvision import transforms

        self.images, self.targets = torch.from_numpy(images), torch.from_numpy(targets)
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(mean=(0.5,), std=(0.5,))]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.targets[index])


def random_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and labels in MNIST's shape; the time does not depend on what they show."""
    rng = np.random.RandomState(0)
    return rng.randint(0, 256, (count, 28, 28)).astype(np.uint8), rng.randint(0, 10, count)


def tutorial_loop(model: str, steps: int, threads: int) -> Callable[[], float]:
    """Seconds of a trial-epoch of the tutorial's loop, scaled up from `steps` minibatches."""
    images, targets = random_images(steps * BATCH)
    data = Images(images, targets)
    network = TorchNetwork(Model(model, HIDDEN, LAYERS), 28, 10)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()

    def measure() -> float:
        torch.set_num_threads(threads)
        started = time.perf_counter()
        for x, y in torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True):
            loss = criterion(network(x.reshape(-1, 28, 28)), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        trained = time.perf_counter()
        hits = 0
        with torch.no_grad():
            for x, y in torch.utils.data.DataLoader(data, batch_size=100):
                hits += int((network(x.reshape(-1, 28, 28)).argmax(1) == y).sum())
        evaluated = time.perf_counter()
        return (trained - started) * TRAIN / len(data) + (evaluated - trained) * TEST / len(data)

    return measure


def harness(model: str, K: int, steps: int) -> Callable[[], float]:
    """Seconds of a trial-epoch in a stack of K, scaled up from `steps` minibatches."""
    count = steps * BATCH
    images, targets = random_images(2 * count)
    splits = {"train": np.arange(count), "val": np.arange(0), "test": np.arange(count, 2 * count)}
    task = Task(images, targets.astype(np.int64), splits, 1 / 255, 0.5, 0.5, 10, "", {})
    fit = Fit(epochs=10**6, batch_size=BATCH, select=Select.test)
    config = Config(Model(model, HIDDEN, LAYERS), Sgd(), Data("mnist", val_size=0), fit, Tracking())
    stack = Stack(config, task)
    stack.admit([stack.fresh(config) for _ in range(K)])

    def measure() -> float:
        from rnnbench.engine import set_threads

        set_threads(config)
        started = time.perf_counter()
        for index in stack._shuffled().split(BATCH, dim=1):
            stack.step(*stack.batch(index), None)
        trained = time.perf_counter()
        stack.evaluate(stack.state["parameters"], "test")
        evaluated = time.perf_counter()
        return ((trained - started) * TRAIN + (evaluated - trained) * TEST) / count / K

    return measure


def spread(values: Sequence[float], digits: int) -> str:
    """Median, and the least and the greatest in brackets."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def in_turn(contestants: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Each contestant's figures from rounds in alternation, after one round that does not count."""
    figures = [[contestant() for contestant in contestants] for _ in range(rounds + 1)]
    return [list(column) for column in zip(*figures[1:], strict=True)]


def compare_loops(stacks: Sequence[int], rounds: int, steps: int) -> Table:
    """Seconds of a trial-epoch: the tutorial's loop, and stacks of the harness.

    The loop is run with all cores, as a plain script has it, and with one thread, which is faster
    where something else wants a core; ratios are to the faster of both in the same round.
    """
    table = Table(title="Seconds of a trial-epoch, training and test; median [min, max]", box=box.SIMPLE_HEAD)
    for name in ("model", "what", "seconds", "times faster"):
        table.add_column(name, no_wrap=True)
    cores = os.cpu_count() or 1
    for model in ("lstm", "gru"):
        loops = {f"tutorial's loop, {n} threads": tutorial_loop(model, steps, n) for n in (cores, 1)}
        ours = {f"torch path, stack of {K}": harness(model, K, steps) for K in stacks}
        figures = dict(zip([*loops, *ours], in_turn([*loops.values(), *ours.values()], rounds), strict=True))
        best = [min(row) for row in zip(*(figures[name] for name in loops), strict=True)]
        for name, seconds in figures.items():
            ratios = [a / b for a, b in zip(best, seconds, strict=True)]
            table.add_row(model, name, spread(seconds, 2), spread(ratios, 1))
    return table


def command(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The app as its own process, quiet, its store and its results below `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "rnnbench", *arguments, f"tracking.uri=sqlite:///{folder}/mlflow.db"],
        stdout=subprocess.DEVNULL, cwd=folder, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def first_epoch() -> float:
    """Seconds from the command to the first epoch's report, on the digits."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        process = command(folder, "hydra.run.dir=run/0", "fit.epochs=2")
        metrics = folder / "run" / "0" / "metrics.csv"
        while not (metrics.exists() and metrics.read_text().count("\n") > 1):
            if process.poll() not in (None, 0):
                raise RuntimeError("the command failed")
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        process.wait()
        return seconds


def import_torch() -> float:
    """Seconds of a process that imports torch and ends."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - started


def sweep(trials: int) -> tuple[float, float]:
    """Seconds of a sweep of so many tiny trials, and those of them spent training."""
    import json

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        process = command(
            folder, "-m", "hydra.sweep.dir=sweep", f"seed=range({trials})", "fit.epochs=1",
            "data.train_size=32", "model.hidden_size=4",
        )  # fmt: skip
        if process.wait():
            raise RuntimeError("the sweep failed")
        seconds = time.perf_counter() - started
        results = [json.loads(path.read_text()) for path in folder.glob("sweep/*/result.json")]
        return seconds, sum(result["metrics"]["time/train_seconds"] for result in results)


def compose_seconds() -> float:
    """What Hydra takes to compose one job of a sweep."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig

    from rnnbench.config import conf_folder
    from rnnbench.launch import register

    register()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        loader: Any = GlobalHydra.instance().config_loader()
        master: DictConfig = hydra.compose("config", return_hydra_config=True)
        started = time.perf_counter()
        for seed in range(20):
            loader.load_sweep_config(master, [f"seed={seed}"])
        return (time.perf_counter() - started) / 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m rnnbench.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no sweeps: under a minute")
    quick = parser.parse_args().quick
    say(f"torch {torch.__version__}, {os.cpu_count()} cores; the machine's load shows in the spread")
    show_table(compare_loops((1, 16), rounds=3 if quick else 7, steps=10 if quick else 30))
    rounds = 1 if quick else 5
    torch_seconds, epoch_seconds = in_turn([import_torch, first_epoch], rounds)
    ratios = [a / b for a, b in zip(epoch_seconds, torch_seconds, strict=True)]
    say(
        f"command to first epoch on digits: {spread(epoch_seconds, 1)} s, `import torch` "
        f"{spread(torch_seconds, 1)} s, ratio {spread(ratios, 2)}"
    )
    if not quick:
        (whole, training), (alone, alone_training) = sweep(200), sweep(1)
        trial = (whole - training - alone + alone_training) / 199
        compose = compose_seconds()
        say(
            f"a sweep of 200: {whole:.1f} s; beside its training a trial costs {1e3 * trial:.0f} ms; "
            f"Hydra's compose is {1e3 * compose:.0f} ms of them, the harness {1e3 * (trial - compose):.0f} ms"
        )


if __name__ == "__main__":
    main()
