"""Generates sequences of a fixed length T that ask for memory: adding, copying, temporal order."""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from rnnbench.config import ConfigError, Data
from rnnbench.config.refusals import at_least, refuse
from rnnbench.tasks.generated import Made, Uniforms, integers
from rnnbench.tasks.task import Examples, Goal, enter


class Markers(Enum):
    """Names the positions of the two markers of `adding`."""

    halves = "halves"  # one in each half of the sequence
    anywhere = "anywhere"  # at any two steps


@dataclass
class Generated(Data):
    """Settings of generated sequences. train_size=null: endless examples; val_size=null: 1,000."""

    steps: int = 50  # T, the length of a sequence
    test_size: int = 1000
    low: float = 0.0  # lowest value of `adding`; all values are below 1
    markers: Markers = Markers.halves  # positions of the markers of `adding`

    def check(self) -> None:
        """Refuse sizes below 1, and a lowest value of `adding` that is not below 1; see `Data.check`."""
        super().check()
        at_least(1, ("data.steps", self.steps), ("data.test_size", self.test_size))
        if not self.low < 1:
            refuse("data.low", self.low, "must be below 1")


def check_steps(data: Generated, least: int) -> None:
    """Refuse a T that is too short.

    Raises:
        ConfigError: data.steps is less than `least`.
    """
    if data.steps < least:
        raise ConfigError(f"data.steps={data.steps}: data={data.name} needs at least {least}")


class Adding:
    """Add the two marked numbers (Hochreiter and Schmidhuber 1997).

        value   0.3  0.8  0.1  0.5  0.9  0.2
        marker   0    1    0    0    0    1      -> 1.0

    T steps of (value, marker). Values are uniform in [data.low, 1); one marker stands in each half of the
    sequence (data.markers=anywhere: at any two steps, as in Bai et al. 2018). Metric: mean squared error.
    The best constant answer is the sum's mean; it scores the sum's variance, (1 - low)^2 / 6.
    """

    goal, metric, input_size, outputs = Goal.value, "mse", 2, 1

    def __init__(self, data: Generated) -> None:
        check_steps(data, 2)
        self.steps, self.low, self.anywhere = data.steps, data.low, data.markers is Markers.anywhere
        self.draws = self.steps + 2
        self.baseline = (1 - self.low) ** 2 / 6

    def make(self, u: Uniforms) -> Examples:
        """Return inputs (n, T, 2), targets (n, 1)."""
        n, T = len(u), self.steps
        values = self.low + (1 - self.low) * u[:, :T]
        if self.anywhere:  # the second marker is at one of the T - 1 other steps
            first = integers(u[:, T], 0, T)
            second = (first + integers(u[:, T + 1], 1, T)) % T
        else:
            first, second = integers(u[:, T], 0, T // 2), integers(u[:, T + 1], T // 2, T)
        rows = np.arange(n)
        inputs = np.zeros((n, T, 2), np.float32)
        inputs[:, :, 0] = values
        inputs[rows, first, 1] = inputs[rows, second, 1] = 1
        targets = values[rows, first] + values[rows, second]
        return Examples(inputs, targets[:, None].astype(np.float32))


class CopyMemory:
    """Say ten numbers again after T steps (Hochreiter and Schmidhuber 1997; as in Bai et al. 2018).

        input   3 1 8 ... 2   0 0 ... 0   9 9 9 ... 9
        target  0 0 0 ... 0   0 0 ... 0   3 1 8 ... 2

    The input is ten numbers of 1..8, T - 1 zeros, eleven nines: T + 20 steps of one number, not one-hot. The
    target at every step is a class of 0..9: the numbers at the last ten steps, 0 before. Metric: the loss,
    mean cross entropy over all steps. Without memory of the numbers, the best score is 10 ln 8 / (T + 20).
    """

    goal, metric, input_size, outputs = Goal.labels, "nll", 1, 10
    MEMORY = 10  # numbers to remember

    def __init__(self, data: Generated) -> None:
        check_steps(data, 1)
        self.blank = data.steps
        self.steps = self.blank + 2 * self.MEMORY
        self.draws = self.MEMORY
        self.baseline = self.MEMORY * math.log(8) / self.steps

    def make(self, u: Uniforms) -> Examples:
        """Return inputs (n, T + 20, 1), targets (n, T + 20)."""
        numbers = integers(u, 1, 9)
        inputs = np.zeros((len(u), self.steps, 1), np.float32)
        inputs[:, : self.MEMORY, 0] = numbers
        inputs[:, self.MEMORY + self.blank - 1 :, 0] = 9
        targets = np.zeros((len(u), self.steps), np.int64)
        targets[:, -self.MEMORY :] = numbers
        return Examples(inputs, targets)


class TemporalOrder:
    """In which order did X and Y come? (Hochreiter and Schmidhuber 1997, task 6a)

        E a c X d a b ... d Y a c ... B  ->  XY

    T symbols, one-hot: E at the start, B at the end, between them a, b, c or d, except X or Y at one step in
    [T/10, 2T/10) and one in [5T/10, 6T/10). The target is one of XX, XY, YX, YY, at the end. Metric:
    accuracy. A constant answer is right once in four.
    """

    goal, metric, input_size, outputs = Goal.label, "accuracy", 8, 4
    baseline = 0.25
    X, E, B = 4, 6, 7  # a, b, c, d are 0..3, Y is X + 1

    def __init__(self, data: Generated) -> None:
        check_steps(data, 10)
        self.steps = data.steps
        self.draws = self.steps + 4

    def make(self, u: Uniforms) -> Examples:
        """Return inputs as tokens (n, T), targets (n,)."""
        n, T = len(u), self.steps
        tokens = integers(u[:, :T], 0, 4)
        tokens[:, 0], tokens[:, -1] = self.E, self.B
        answer = np.zeros(n, np.int64)
        for k, (start, end) in enumerate(((T // 10, 2 * T // 10), (5 * T // 10, 6 * T // 10))):
            where = integers(u[:, T + k], start, end)
            symbol = integers(u[:, T + 2 + k], 0, 2)
            tokens[np.arange(n), where] = self.X + symbol
            answer = 2 * answer + symbol
        return Examples(tokens.astype(np.int16), answer)


enter("adding", Made(Adding, "adding (Hochreiter, Schmidhuber 1997)"), Generated)
enter("copy", Made(CopyMemory, "copy memory (Hochreiter, Schmidhuber 1997; Bai et al. 2018)"), Generated)
enter(
    "temporal_order",
    Made(TemporalOrder, "temporal order (Hochreiter, Schmidhuber 1997, task 6a)"),
    Generated,
)
