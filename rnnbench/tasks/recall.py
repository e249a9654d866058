"""Generates sequences whose parts are asked for again: associative recall, and selective copying."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rnnbench.config import Data
from rnnbench.config.refusals import at_least, positive, refuse
from rnnbench.tasks.generated import Made, Uniforms, integers
from rnnbench.tasks.task import Examples, Goal, enter


@dataclass
class Pairs(Data):
    """Settings of multi-query associative recall. train_size=null: endless; val_size=null: 1,000."""

    steps: int = 64
    vocabulary: int = 256  # symbols, the lower half of them keys, the upper half values
    pairs: int = 4  # keys with their values in a sequence
    power: float = 0.01  # a: the gap to the query i pairs on has a probability proportional to i^(a - 1)
    test_size: int = 3000

    def check(self) -> None:
        """Refuse sizes into which pairs and queries do not fit; see `Data.check`."""
        super().check()
        at_least(1, ("data.pairs", self.pairs), ("data.test_size", self.test_size))
        positive(("data.power", self.power))
        if self.steps % 2 or self.steps < 4 * self.pairs:
            least = 4 * self.pairs
            refuse("data.steps", self.steps, f"must be even and at least {least}: 4 for each of data.pairs")
        if self.vocabulary % 2 or self.vocabulary // 2 <= self.pairs:
            least = 2 * self.pairs + 2
            refuse(
                "data.vocabulary", self.vocabulary, f"must be even and at least {least}: half of it are keys"
            )


class AssociativeRecall:
    """Multi-query associative recall (Arora et al. 2024, arXiv 2312.04927, section 3).

        input   k3 v8 k1 v5 | x  x  k1 x  x  x  k3 x          pairs, then queries among random symbols x
        target  -  -  -  -    -  -  v5 -  -  -  v8 -          asked for at the queries alone

    Keys are distinct symbols of 1 .. V/2 - 1, values of V/2 .. V - 1. After the pairs each key is asked for
    once, at an even step whose distance follows a power law; all other symbols there are random. Metric:
    accuracy over the queries. A constant answer is right once in V/2.
    """

    goal, metric = Goal.labels, "accuracy"

    def __init__(self, data: Pairs) -> None:
        self.steps, self.pairs, self.half = data.steps, data.pairs, data.vocabulary // 2
        self.input_size = self.outputs = data.vocabulary
        self.places = data.steps // 2 - data.pairs  # where a query may stand
        weights = np.arange(1, self.places + 1) ** (data.power - 1)
        self.rate = weights / weights.sum()
        self.draws = 2 * self.pairs + self.places + self.steps
        self.baseline = 1 / self.half

    def make(self, u: Uniforms) -> Examples:
        """Return inputs as tokens (n, T), and targets (n, T), -1 but at the queries."""
        of_keys, of_values, of_places, of_others = np.split(
            u, np.cumsum([self.pairs, self.pairs, self.places]), axis=1
        )
        keys = 1 + distinct(of_keys, self.half - 1)
        values = self.half + distinct(of_values, self.half)
        # The places of the smallest of exponential times: drawn one after the other, without replacement.
        times = -np.log1p(-of_places) / self.rate
        query = 2 * (self.pairs + times.argsort(1)[:, : self.pairs])
        tokens = integers(of_others, 0, 2 * self.half)
        tokens[:, 0 : 2 * self.pairs : 2], tokens[:, 1 : 2 * self.pairs : 2] = keys, values
        np.put_along_axis(tokens, query, keys, 1)
        targets = np.full(tokens.shape, -1)
        np.put_along_axis(targets, query, values, 1)
        return Examples(tokens.astype(np.int16 if self.half < 2**14 else np.int32), targets)


def distinct(u: Uniforms, many: int) -> NDArray[np.int64]:
    """Draw distinct whole numbers below `many`, in an order that is uniform too, from u (n, draws)."""
    drawn = np.empty(u.shape, np.int64)
    for place in range(u.shape[1]):
        number = integers(u[:, place], 0, many - place)  # among those that are left
        for taken in np.sort(drawn[:, :place], axis=1).T:
            number += number >= taken
        drawn[:, place] = number
    return drawn


@dataclass
class Selective(Data):
    """Settings of selective copying. train_size=null: endless; val_size=null: 1,000."""

    steps: int = 64  # among which the symbols to remember stand
    vocabulary: int = 16  # symbols, the blank and the marker among them
    memory: int = 8  # number of symbols to remember
    test_size: int = 1000

    def check(self) -> None:
        """Refuse sizes into which the symbols do not fit; see `Data.check`."""
        super().check()
        at_least(1, ("data.memory", self.memory), ("data.test_size", self.test_size))
        at_least(3, ("data.vocabulary", self.vocabulary))
        if self.steps < self.memory:
            refuse(
                "data.steps", self.steps, f"must be at least data.memory={self.memory}, which it has room for"
            )


class SelectiveCopy:
    """Say the symbols again that stood at random steps (Gu and Dao 2023, arXiv 2312.00752, section 4.1.1).

        input   0 3 0 0 8 0 1 0   9 9 9          blanks 0 between the symbols, then markers
        target  - - - - - - - -   3 8 1          asked for at the markers alone

    data.memory symbols of 1 .. V - 2 stand in their order at random steps of data.steps, 0 at the others; the
    marker V - 1 follows data.memory times. Metric: accuracy over the markers. A constant answer is right once
    in V - 2. The paper has 4,096 steps and 16 symbols to remember, of a vocabulary of 16.
    """

    goal, metric = Goal.labels, "accuracy"

    def __init__(self, data: Selective) -> None:
        self.blank, self.memory = data.steps, data.memory
        self.steps = data.steps + data.memory
        self.input_size = self.outputs = data.vocabulary
        self.draws = self.memory + self.blank
        self.baseline = 1 / (data.vocabulary - 2)

    def make(self, u: Uniforms) -> Examples:
        """Return inputs as tokens (n, T), and targets (n, T), -1 but at the markers."""
        symbols = integers(u[:, : self.memory], 1, self.outputs - 1)
        where = np.sort(u[:, self.memory :].argsort(1)[:, : self.memory], axis=1)
        tokens = np.zeros((len(u), self.steps), np.int16 if self.outputs < 2**15 else np.int32)
        np.put_along_axis(tokens, where, symbols.astype(tokens.dtype), 1)
        tokens[:, self.blank :] = self.outputs - 1
        targets = np.full(tokens.shape, -1)
        targets[:, self.blank :] = symbols
        return Examples(tokens, targets)


enter("mqar", Made(AssociativeRecall, "multi-query associative recall (Arora et al. 2024)"), Pairs)
enter("selective_copy", Made(SelectiveCopy, "selective copying (Gu, Dao 2023)"), Selective)
