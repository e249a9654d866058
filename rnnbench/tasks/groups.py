"""Generates word problems of finite groups, which ask for the tracking of a state."""

from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from rnnbench.config import Data
from rnnbench.config.refusals import at_least
from rnnbench.tasks.generated import Made, Uniforms, integers
from rnnbench.tasks.task import Examples, Goal, enter

Table = NDArray[np.int64]


class Group(Enum):
    """Names a group."""

    z60 = "z60"  # the numbers 0 .. 59, added modulo 60: commutative
    a5 = "a5"  # the 60 even permutations of five: the smallest group that is not solvable
    s5 = "s5"  # all 120 permutations of five: not solvable


@dataclass
class GroupWords(Data):
    """Settings of word problems. train_size=null: endless; val_size=null: 1,000."""

    group: Group = Group.a5
    steps: int = 20  # elements of a word
    test_size: int = 1000

    def check(self) -> None:
        """Refuse sizes below 1; see `Data.check`."""
        super().check()
        at_least(1, ("data.steps", self.steps), ("data.test_size", self.test_size))


class WordProblem:
    """The product of the elements so far (Merrill, Petty and Sabharwal 2024, arXiv 2404.08819, section 5).

        input   g7  g2     g7        of Z60: 7 2 7
        target  g7  g7g2   g7g2g7            7 9 16

    Elements of the group, uniform, enter one-hot; the target at each step is the product of those up to it.
    Z60 and A5 have equally many elements, but A5 and S5 are not solvable (their word problems: NC1):
    a cell that is linear in its state, with gates of the input alone, needs more layers the longer a word is.
    Metric: accuracy. A constant answer is right once in 60 (s5: 120).
    """

    goal, metric = Goal.labels, "accuracy"

    def __init__(self, data: GroupWords) -> None:
        self.table = products(data.group)
        self.steps = self.draws = data.steps
        self.input_size = self.outputs = len(self.table)
        self.baseline = 1 / len(self.table)

    def make(self, u: Uniforms) -> Examples:
        """Return inputs as tokens (n, T), targets (n, T)."""
        elements = integers(u, 0, self.outputs)
        targets = elements.copy()
        for t in range(1, self.steps):
            targets[:, t] = self.table[targets[:, t - 1], elements[:, t]]
        return Examples(elements.astype(np.int16), targets)


@cache
def products(group: Group) -> Table:
    """Return the number (n, n) of the product of elements i and j: of permutations, i after j.

    Permutations are numbered in the order of their images; the neutral element is 0.
    """
    if group is Group.z60:
        return np.add.outer(np.arange(60), np.arange(60)) % 60
    images = [p for p in permutations(range(5)) if group is Group.s5 or is_even(p)]
    number = {p: n for n, p in enumerate(images)}
    return np.array([[number[tuple(p[place] for place in q)] for q in images] for p in images])


def is_even(image: tuple[int, ...]) -> bool:
    """Return whether a permutation has an even number of inversions."""
    return sum(a > b for n, b in enumerate(image) for a in image[:n]) % 2 == 0


enter("word_problem", Made(WordProblem, "word problems (Merrill, Petty, Sabharwal 2024)"), GroupWords)
