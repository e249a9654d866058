"""Generates strings of small languages whose best prediction is known (Lan, Geyer, Chemla, Katzir 2022).

A network reads a string symbol by symbol, # before it, and predicts the next symbol, # at its end. Strings
are drawn from a probabilistic grammar, so that the best cross entropy is known of each of them: `excess` is
what a network needs beyond it, in bits per character, and `deterministic_accuracy` its accuracy at the steps
where one symbol alone can follow (TACL 10, arXiv 2111.00600; corpora.py of github.com/taucompling/mdlrnn).
"""

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Optional

import numpy as np

from rnnbench.config import Data
from rnnbench.config.refusals import at_least, refuse
from rnnbench.tasks.counting import Brackets, Dyck, Symbols, next_symbols
from rnnbench.tasks.generated import TEST, Made, Uniforms, uniforms
from rnnbench.tasks.task import Examples, Goal, Labels, Shape, enter


class Grammar(Enum):
    """Names a language."""

    anbn = "anbn"
    anbncn = "anbncn"
    anbncndn = "anbncndn"
    anb2n = "anb2n"
    anbmcnm = "anbmcnm"  # a^n b^m c^(n + m)
    dyck1 = "dyck1"  # balanced brackets
    dyck2 = "dyck2"  # of two kinds


BRACKETS = {Grammar.dyck1: 1, Grammar.dyck2: 2}
# How many of each letter there are for each n; for each n and m.
BLOCKS = {
    Grammar.anbn: [[1, 1]],
    Grammar.anbncn: [[1, 1, 1]],
    Grammar.anbncndn: [[1, 1, 1, 1]],
    Grammar.anb2n: [[1, 2]],
    Grammar.anbmcnm: [[1, 0, 1], [0, 1, 1]],
}


@dataclass
class Strings(Data):
    """Settings of strings of a small language. train_size=null: endless; val_size=null: 1,000."""

    language: Grammar = Grammar.anbn
    p: float = 0.3  # probability that a run of letters ends, or that a bracket opens
    longest: Optional[int] = None  # largest n and m of training strings; null: 20, pairs of brackets 50
    test_longest: Optional[int] = None  # of test strings; null: 1,000 more (anbmcnm: 49); not of brackets
    test_size: Optional[int] = None  # number of test strings of brackets; null: 50,000

    def check(self) -> None:
        """Refuse a p outside of its range, and sizes that the language does not have; see `Data.check`."""
        super().check()
        at_least(1, ("data.longest", self.longest), ("data.test_size", self.test_size))
        brackets = self.language in BRACKETS
        if not 0 < self.p < (0.5 if brackets else 1):
            wanted = "must be above 0 and below "
            refuse("data.p", self.p, wanted + ("0.5: brackets would not end" if brackets else "1"))
        if brackets and self.test_longest is not None:
            refuse(
                "data.test_longest", self.test_longest, "must be null: test brackets are drawn as in training"
            )
        if not brackets and self.test_size is not None:
            refuse("data.test_size", self.test_size, "must be null: the test has each n above data.longest")
        if not brackets and self.largest <= self.most:
            wanted = f"must be above {self.most}, the largest n of training strings"
            refuse("data.test_longest", self.test_longest, wanted)
        if brackets and "deterministic_accuracy" in (self.metrics or []):
            wanted = f"does not go with data.language={self.language.value}: another bracket can always open"
            refuse("data.metrics", "deterministic_accuracy", wanted)

    @property
    def most(self) -> int:
        """Return the largest n of training strings."""
        return self.longest or (50 if self.language in BRACKETS else 20)

    @property
    def largest(self) -> int:
        """Return the largest n of test strings."""
        if self.language in BRACKETS:
            return self.most
        return self.test_longest or self.most + (49 if self.language is Grammar.anbmcnm else 1000)


class Known:
    """Predicts the next symbol of strings of which the best prediction is known."""

    goal, metric = Goal.labels, "bpc"

    def optimum(self, logits: Any, y: Any, counts: Any) -> tuple[Any, ...]:
        """Sum, over the answers that count, what compares them with the best prediction.

        Args:
            logits: (K, outputs, T, B)
            y: (K, T, B) next symbols
            counts: (K, T, B), 0 after the end of a string

        Returns:
            (K,) each: the negative log-likelihood; the least that can be; the answers; those that are right
            where one symbol alone can follow; and how many there are of these.
        """
        nll = -logits.log_softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)
        best = self.best(y)
        certain = best == 0
        right = certain & (logits.argmax(1) == y)
        parts = (nll, best, nll.new_ones(nll.shape), right.to(nll), certain.to(nll))
        return tuple((part * counts).flatten(1).sum(1) for part in parts)

    def best(self, y: Any) -> Any:
        """Return the negative log-likelihood of the best prediction of each symbol of y (K, T, B)."""
        raise NotImplementedError


class Runs(Known):
    """Runs of letters whose lengths follow from n, or from n and m.

        a^n b^n         input   # a a b b          target   a a b b #
        a^n b^m c^(n+m) input   # a b b c c c      target   a b b c c c #

    n and m are geometric: a further a follows with a probability of 1 - p. After an a (a b of m) the best
    prediction is uncertain; the other steps are certain. The test has one string of each n above those of
    training (each n and m), and p is that of training. Metric: cross entropy in bits per character, bpc, of
    which the best of the whole test is 0.2582 for anbn, 0.1722 for anbncn and anb2n, 0.1292 for anbncndn and
    about 0.27 for anbmcnm. A constant answer scores 1 or more (anbn).
    """

    def __init__(self, data: Strings) -> None:
        self.per = np.array(BLOCKS[data.language])  # (1 or 2, letters)
        self.p, self.longest = data.p, data.most
        self.steps = self.steps_of(data.most)
        self.input_size = self.outputs = self.per.shape[1] + 1  # # is the last
        self.draws = len(self.per)

    def steps_of(self, n: int) -> int:
        """Return the number of steps of the longest string up to n: its letters, and # before them."""
        return int(self.per.sum()) * n + 1

    def make(self, u: Uniforms) -> Examples:
        """Make strings from u (rows, 1 or 2); an n above data.longest would be drawn again."""
        least = (1 - self.p) ** self.longest
        n = 1 + np.floor(np.log1p(-u * (1 - least)) / math.log(1 - self.p)).astype(np.int64)
        return self.of(np.minimum(n, self.longest), self.steps)

    def of(self, n: Symbols, T: int) -> Examples:
        """Make strings of these n, or n and m (rows, 1 or 2)."""
        ends = (n @ self.per).cumsum(1)  # (rows, letters)
        letters: Symbols = (np.arange(T)[:, None] >= ends[:, None]).sum(2)
        return next_symbols(letters, ends[:, -1], self.per.shape[1])

    def test(self, data: Strings) -> Examples:
        """Make one string of each n, or n and m, of the test."""
        n = np.arange(data.most + 1, data.largest + 1)
        grid = np.stack(np.meshgrid(*[n] * len(self.per), indexing="ij"), axis=-1)
        return self.of(grid.reshape(-1, len(self.per)), self.steps_of(data.largest))

    def best(self, y: Any) -> Any:
        before = y[:, :-1]
        stays = -math.log(1 - self.p) * (y[:, 1:] == before) - math.log(self.p) * (y[:, 1:] != before)
        best = stays.new_zeros(y.shape)
        best[:, 1:] = stays * (before < len(self.per))
        return best


class Nested(Known):
    """Balanced brackets of one kind or two: S -> ( S ) S or [ S ] S with p / 2 each, or nothing.

        input   # ( [ ] ) ( )      target   ( [ ] ) ( ) #

    A bracket opens with a probability of p at every step, each kind equally likely; else the last one is
    closed, or the string ends. Training and test strings are drawn alike, and may be empty; those of more
    than data.longest pairs (1 in a million) would be drawn again. Metric: cross entropy in bits per
    character, bpc, of which the best is about 0.882 for dyck1 and 1.18 for dyck2; the latter has 0.30 of a
    bit for the kind of each bracket that opens. A constant answer scores 1.57 or more (dyck1).
    """

    def __init__(self, data: Strings) -> None:
        self.kinds, self.p = BRACKETS[data.language], data.p
        self.steps = self.steps_of(data.most)
        self.input_size = self.outputs = 2 * self.kinds + 1  # opening, closing, #
        self.draws = 1 + 2 * self.steps
        self.shapes = Dyck(Brackets("dyck1", longest=data.most, test_longest=data.most + 1))
        n = np.arange(data.most)
        more = (4 * n + 2) / (n + 2) * self.p * (1 - self.p)  # Catalan's number of n + 1 pairs by that of n
        self.chances = np.cumsum(np.cumprod([1.0, *more]))

    def steps_of(self, n: int) -> int:
        """Return the number of steps of a string of n pairs: its brackets, and # before them."""
        return 2 * n + 1

    def make(self, u: Uniforms) -> Examples:
        """Make strings from u (rows, draws): how many pairs, how they nest, and of which kind each is."""
        pairs = np.searchsorted(self.chances / self.chances[-1], u[:, 0], side="right")
        closes = self.shapes.symbols(pairs, u[:, 1 : 1 + self.steps])  # all nestings of n are equally likely
        kind = np.floor(u[:, 1 + self.steps :] * self.kinds).astype(np.int64)
        letters = np.empty_like(closes)
        opened, depth, rows = np.zeros_like(closes), np.zeros(len(u), np.int64), np.arange(len(u))
        for t in range(self.steps):  # `opened` has the kinds of the brackets that are open, the last at depth
            depth = np.maximum(depth - closes[:, t], 0)  # beyond the end of a string there is anything
            opened[rows, depth] = np.where(closes[:, t] == 0, kind[:, t], opened[rows, depth])
            letters[:, t] = closes[:, t] * self.kinds + opened[rows, depth]
            depth = np.minimum(depth + 1 - closes[:, t], self.steps - 1)
        return next_symbols(letters, 2 * pairs, 2 * self.kinds)

    def test(self, data: Strings) -> Examples:
        """Make test strings."""
        numbers = np.arange(data.test_size or 50_000)
        return self.make(uniforms(np.zeros_like(numbers), TEST, numbers, self.draws))

    def best(self, y: Any) -> Any:
        opens = y < self.kinds
        return -math.log(self.p / self.kinds) * opens - math.log(1 - self.p) * ~opens


class GrammarTask(Made):
    """Strings of a small language as a task."""

    def shape(self, data: Any) -> Shape:
        """Return the sizes; see `Made.shape`."""
        sequences: Any = self.build(data)
        return replace(super().shape(data), test_steps=sequences.steps_of(data.largest))

    def test_numbers(self, data: Any) -> Labels:
        if data.language in BRACKETS:
            return np.arange(data.test_size or 50_000)
        many: int = (data.largest - data.most) ** len(BLOCKS[data.language])
        return np.arange(many)

    def test(self, sequences: Any, data: Any) -> Examples:
        made: Examples = sequences.test(data)
        return made


def strings(data: Strings) -> Runs | Nested:
    """Return the strings of a language."""
    return Nested(data) if data.language in BRACKETS else Runs(data)


enter("grammar", GrammarTask(strings, "small languages (Lan et al. 2022, arXiv 2111.00600)"), Strings)
