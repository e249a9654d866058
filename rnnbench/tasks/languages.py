"""Generates words of formal languages that need a state (Deletang et al. 2023, arXiv 2207.02098).

Training words have 1 to data.longest symbols, all lengths equally likely; test words are longer, the same
number of each length up to data.test_longest. Symbols enter one-hot; the target is a class after the last
symbol. Metric: accuracy; on the test set its mean over lengths.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rnnbench.config import Data
from rnnbench.config.refusals import at_least, refuse
from rnnbench.tasks.generated import TEST, Made, Uniforms, integers, uniforms
from rnnbench.tasks.task import Examples, Goal, Labels, enter

Tokens = NDArray[np.int64]


@dataclass
class Language(Data):
    """Settings of words of a formal language. train_size=null: endless; val_size=null: 1,000."""

    longest: int = 40  # most symbols of training and validation words
    test_longest: int = 500  # most symbols of test words, which have more than `longest`
    per_length: int = 4  # number of test words of each length

    def check(self) -> None:
        """Refuse sizes below 1, and test words that are not longer than training words; see `Data.check`."""
        super().check()
        at_least(1, ("data.longest", self.longest), ("data.per_length", self.per_length))
        if self.test_longest <= self.longest:
            wanted = f"must be above data.longest={self.longest}: "
            wanted += "the words of the test are longer than those of training"
            refuse("data.test_longest", self.test_longest, wanted)


class Words(Protocol):
    """Describes the rules of one language: its symbols and its targets."""

    symbols: int
    outputs: int

    def tokens(self, u: Uniforms) -> Tokens:
        """Turn uniforms (n, T) into words (n, T)."""
        ...

    def answers(self, tokens: Tokens) -> Tokens:
        """Return the answers (n, T) after each step of words (n, T)."""
        ...


class Parity:
    """Is the number of b's even (0) or odd (1)? abba -> 0. A constant answer is right half the time."""

    symbols, outputs, baseline = 2, 2, 0.5

    def tokens(self, u: Uniforms) -> Tokens:
        return integers(u, 0, 2)

    def answers(self, tokens: Tokens) -> Tokens:
        counted: Tokens = np.cumsum(tokens, axis=1) % 2
        return counted


class EvenPairs:
    """Is the number of ab plus the number of ba even (0) or odd (1)? aabba -> 0: one ab, one ba.

    It is even if the first symbol equals the last. A constant answer is right in half of all words.
    """

    symbols, outputs, baseline = 2, 2, 0.5

    def tokens(self, u: Uniforms) -> Tokens:
        return integers(u, 0, 2)

    def answers(self, tokens: Tokens) -> Tokens:
        differs: Tokens = (tokens != tokens[:, :1]).astype(np.int64)
        return differs


class CycleNavigation:
    """Where on a cycle of five places does one end? stay, +1, -1, +1, +1 -> 2.

    A constant answer is right once in five on long words.
    """

    symbols, outputs, baseline = 3, 5, 0.2

    def tokens(self, u: Uniforms) -> Tokens:
        return integers(u, 0, 3)

    def answers(self, tokens: Tokens) -> Tokens:
        moved: Tokens = np.array([0, 1, -1])[tokens]
        place: Tokens = np.cumsum(moved, axis=1) % 5
        return place


class ModularArithmetic:
    """The value of a sum of products modulo 5: 1 + 2 * 3 -> 2, products before sums.

    Numbers 0..4 at the even steps, +, - or * (symbols 5, 6, 7) between them; a word of even length is one
    symbol shorter. The answer is a little more often 0 than anything else, since 0 makes a product 0; a
    constant one is right once in five on long words.
    """

    symbols, outputs, baseline = 8, 5, 0.2
    PLUS, MINUS, TIMES = 5, 6, 7

    def tokens(self, u: Uniforms) -> Tokens:
        numbers, operators = integers(u, 0, 5), integers(u, 5, 8)
        return np.where(np.arange(u.shape[1]) % 2 == 0, numbers, operators)

    def answers(self, tokens: Tokens) -> Tokens:
        total = np.zeros(len(tokens), np.int64)  # sum of the complete terms
        term = tokens[:, 0].copy()  # the current product, with its sign
        answers = np.zeros_like(tokens)
        answers[:, 0] = term
        for t in range(2, tokens.shape[1], 2):
            operator, number = tokens[:, t - 1], tokens[:, t]
            times = operator == self.TIMES
            total = np.where(times, total, (total + term) % 5)
            sign = np.where(operator == self.MINUS, -1, 1)
            term = np.where(times, term * number, sign * number) % 5
            answers[:, t] = (total + term) % 5
        return answers


class Vocabulary:
    """Makes words of varied length of a language."""

    goal, metric = Goal.label, "accuracy"

    def __init__(self, words: Words, data: Language) -> None:
        self.words = words
        self.steps = data.longest
        self.input_size, self.outputs = words.symbols, words.outputs
        self.odd = isinstance(words, ModularArithmetic)
        self.draws = 1 + self.steps

    def make(self, u: Uniforms) -> Examples:
        """Make words of 1 to `steps` symbols from u (n, 1 + steps)."""
        return self.of(integers(u[:, 0], 1, self.steps + 1), u[:, 1:])

    def of(self, lengths: Labels, u: Uniforms) -> Examples:
        """Make words of these lengths (n,) from u (n, T); 0 stands after their end."""
        lengths = lengths - (lengths % 2 == 0) if self.odd else lengths
        tokens = self.words.tokens(u)
        targets = self.words.answers(tokens)[np.arange(len(u)), lengths - 1]
        after = np.arange(u.shape[1]) >= lengths[:, None]
        return Examples(np.where(after, 0, tokens).astype(np.int16), targets, lengths)


class FormalLanguage(Made):
    """A formal language as a task, with test words that are longer than the training words."""

    def test_numbers(self, data: Any) -> Labels:
        return np.arange((data.test_longest - data.longest) * data.per_length)

    def test(self, sequences: Any, data: Any) -> Examples:
        numbers = self.test_numbers(data)
        u = uniforms(np.zeros_like(numbers), TEST, numbers, data.test_longest)
        words: Examples = sequences.of(data.longest + 1 + numbers // data.per_length, u)
        return words


DELETANG = "regular languages (Deletang et al. 2023, arXiv 2207.02098)"
LANGUAGES: dict[str, type[Words]] = {
    "parity": Parity,
    "even_pairs": EvenPairs,
    "modular_arithmetic": ModularArithmetic,
    "cycle_navigation": CycleNavigation,
}
for _name, _words in LANGUAGES.items():
    enter(_name, FormalLanguage(partial(Vocabulary, _words()), DELETANG), Language)
