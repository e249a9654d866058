"""Times the training of every cell on MNIST's rows: compiled, on the torch path, and beside lstm compiled."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rnnbench.bench.harness import BATCH, adapting, image_task, shuffled, stack_of, training
from rnnbench.bench.measure import in_turn, spread
from rnnbench.config import Config, Fit, Kernel, Model, Select, Sgd, Tracking
from rnnbench.kernels import choose
from rnnbench.nn.cells import make_cell
from rnnbench.tasks.sequences import Images

WIDTH = 28  # numbers in a row
ENOUGH = 0.1  # seconds that a measurement should take, in whole minibatches


@dataclass
class CellRow:
    """Keeps, for each round, the seconds of a minibatch of one trial of a stack.

    Where a cell has no compiled kernel, `compiled` and `lstm` are empty.
    """

    cell: str
    hidden_size: int
    K: int
    torch: list[float]
    compiled: list[float]
    lstm: list[float]  # lstm compiled, in the same rounds

    @property
    def times_torch(self) -> list[float]:
        """Return, for each round, how many times as fast as the torch path the compiled kernel is."""
        return [a / b for a, b in zip(self.torch, self.compiled, strict=False)]

    @property
    def times_lstm(self) -> list[float]:
        """Return, for each round, the cost of an operation of a product beside that of lstm compiled."""
        share = step_operations("lstm", self.hidden_size) / step_operations(self.cell, self.hidden_size)
        return [a / b * share for a, b in zip(self.compiled, self.lstm, strict=True)]

    @property
    def cells(self) -> list[str]:
        """Return the cells of a row of the printed table."""
        ratios = [spread(values, 2) if values else "" for values in (self.times_torch, self.times_lstm)]
        kernel = "compiled" if self.compiled else "torch"
        return [str(self.hidden_size), str(self.K), self.cell, kernel, *ratios]


def cell_rows(
    cells: Sequence[str], hidden_sizes: Sequence[int], stacks: Sequence[int], rounds: int
) -> Iterator[CellRow]:
    """Measure each cell at each size and stack, one after the other; its contestants in turn."""
    for hidden_size in hidden_sizes:
        for K in stacks:
            lstm = trainer(configured("lstm", hidden_size, Kernel.auto), K)
            for cell in cells:
                config = configured(cell, hidden_size, Kernel.auto)
                contestants = [trainer(configured(cell, hidden_size, Kernel.torch), K)]
                if choose(config) is Kernel.compiled:
                    contestants += [trainer(config, K), lstm]
                seconds = [*in_turn(contestants, rounds), [], []]
                yield CellRow(cell, hidden_size, K, *seconds[:3])


def configured(cell: str, hidden_size: int, kernel: Kernel) -> Config:
    """Return the configuration of one layer; the learning rate is low, so that no cell diverges."""
    fit = Fit(batch_size=BATCH, select=Select.test, kernel=kernel)
    return Config(Model(cell, hidden_size), Sgd(lr=0.001), Images("mnist", val_size=0), fit, Tracking())


def trainer(config: Config, K: int) -> Callable[[], float]:
    """Time training in a stack of K, in seconds a minibatch and trial, on random bytes of MNIST's shape."""
    stack = stack_of(config, image_task(), K)
    return adapting(lambda count: training(stack, shuffled(K, count)) / count / K, ENOUGH)


def step_operations(cell: str, hidden_size: int) -> int:
    """Count the floating-point operations of a cell's products, for one example and one step.

    A matrix is multiplied once, and once for its own gradient; those of the recurrence also for the gradient
    at what they multiply, which the images have not.
    """
    shapes = make_cell(Model(cell, hidden_size)).all_shapes(WIDTH)
    products = {name: 2 if name == "weight_ih" else 3 for name, shape in shapes.items() if len(shape) == 2}
    return sum(2 * count * math.prod(shapes[name]) for name, count in products.items())
