"""Generates tasks whose answers are read after the input (Deletang et al. 2023, arXiv 2207.02098).

    input   0 1 1 e e e          target   - - - 1 1 0          (reverse_string)

A word of n symbols is followed by as many empty symbols e as the answer has; before them nothing is asked.
Training words have 1 to data.longest symbols, all lengths equally likely; test words are longer, the same
number of each length up to data.test_longest. Metric: `length_accuracy`, the share of the answers' symbols
that are right among all words of a length, averaged over the lengths, as in the authors' code. Where an
answer ends with a symbol of its own, nothing is asked after it; the paper's loss, but not its accuracy,
asks for zeros there.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rnnbench.tasks.generated import TEST, VAL, Made, Uniforms, integers, uniforms
from rnnbench.tasks.languages import DELETANG, Language
from rnnbench.tasks.task import Examples, Goal, Labels, Shape, enter

Symbols = NDArray[np.int64]


class Transduction(Protocol):
    """Describes the words of a task and their answers."""

    symbols: int  # of words
    outputs: int  # symbols of answers

    def draws(self, n: int) -> int:
        """Return how many uniforms words of up to n symbols take."""
        ...

    def answer_length(self, n: int) -> int:
        """Return the most symbols that the answer to a word of n symbols has."""
        ...

    def make(self, n: Labels, u: Uniforms) -> tuple[Symbols, Symbols]:
        """Return words (rows, N) of n (rows,) symbols, N the most, and answers (rows, M), -1 after their end.

        What stands after the end of a word does not count.
        """
        ...


class Answered:
    """Makes sequences of a transduction: words, and their answers after them."""

    goal, metric = Goal.labels, "length_accuracy"
    summed = (metric,)

    def __init__(self, of: Transduction, data: Language) -> None:
        self.of_words = of
        self.longest, self.largest = data.longest, data.test_longest
        self.steps = self.steps_of(data.longest)
        self.input_size, self.outputs = of.symbols + 1, of.outputs  # the last symbol is the empty one
        self.draws = 1 + of.draws(data.longest)

    def steps_of(self, n: int) -> int:
        """Return the most steps of a word of n symbols with its answer."""
        return n + self.of_words.answer_length(n)

    def make(self, u: Uniforms) -> Examples:
        """Make examples from u (rows, draws), whose first number draws n."""
        return self.of(integers(u[:, 0], 1, self.longest + 1), u[:, 1:], self.steps)

    def of(self, n: Labels, u: Uniforms, T: int) -> Examples:
        """Make examples of words of n (rows,) symbols, padded to T steps."""
        words, answers = self.of_words.make(n, u)
        after = np.arange(T) - n[:, None]  # the step of the answer
        asked = (answers >= 0).sum(1)
        real = (after >= 0) & (after < asked[:, None])
        place = np.clip(after, 0, answers.shape[1] - 1)
        targets = np.where(real, np.take_along_axis(answers, place, 1), -1)
        inputs = np.zeros((len(n), T), np.int64)
        inputs[:, : words.shape[1]] = words[:, :T]
        inputs = np.where(after < 0, inputs, np.where(real, self.of_words.symbols, 0))
        return Examples(inputs.astype(np.int16), targets, n + asked)

    def sums(self, logits: Any, y: Any, counts: Any) -> tuple[Any, ...]:
        """Count by the length of words, 0 to the largest, the right symbols of answers, and all.

        Args:
            logits: (K, outputs, T, B)
            y: (K, T, B), -1 where nothing is asked
            counts: (K, T, B)

        Returns:
            (K, largest + 1) each.
        """
        hits = (logits.argmax(1) == y) & (counts > 0)
        n = ((counts > 0).cumsum(1) == 0).sum(1)  # steps before the answer
        zeros = logits.new_zeros(len(logits), self.largest + 1)
        return tuple(zeros.scatter_add(1, n, part.to(zeros)) for part in (hits.sum(1), counts.sum(1)))


class TransductionTask(Made):
    """A transduction as a task, with test words that are longer than the training words."""

    def shape(self, data: Any) -> Shape:
        """Return the sizes; see `Made.shape`."""
        sequences: Any = self.build(data)
        return replace(super().shape(data), test_steps=sequences.steps_of(data.test_longest))

    def val(self, sequences: Any, data: Any) -> Examples:
        numbers = np.arange(self.val_size(data))
        n = 1 + numbers % data.longest
        return _words(sequences, n, data.split_seed, VAL, data.longest)

    def test_numbers(self, data: Any) -> Labels:
        return np.arange((data.test_longest - data.longest) * data.per_length)

    def test(self, sequences: Any, data: Any) -> Examples:
        n = data.longest + 1 + self.test_numbers(data) // data.per_length
        return _words(sequences, n, 0, TEST, data.test_longest)


def _words(sequences: Answered, n: Labels, seed: int, purpose: int, longest: int) -> Examples:
    """Make held-out words of these lengths (rows,), the same for all trials."""
    draws = sequences.of_words.draws(longest)
    u = uniforms(np.full(len(n), seed), purpose, np.arange(len(n)), draws)
    return sequences.of(n, u, sequences.steps_of(longest))


def gathered(words: Symbols, place: Symbols, lengths: Labels) -> Symbols:
    """Return the symbols of words at `place` (rows, M), and -1 from `lengths` (rows,) on."""
    real = np.arange(place.shape[1]) < lengths[:, None]
    found: Symbols = np.take_along_axis(words, np.where(real, place, 0), 1)
    return np.where(real, found, -1)


class Rearranged:
    """A word of uniform symbols whose answer has the same symbols at other places.

    Args:
        order: takes n (rows, 1) and the step of the answer (M,), and returns the place (rows, M) in the word.
        symbols: size of the alphabet.
        times: how often the answer has each symbol of the word.
    """

    def __init__(self, order: Callable[[Labels, Labels], Symbols], symbols: int = 2, times: int = 1) -> None:
        self.order, self.symbols, self.outputs, self.times = order, symbols, symbols, times

    def draws(self, n: int) -> int:
        return n

    def answer_length(self, n: int) -> int:
        return self.times * n

    def make(self, n: Labels, u: Uniforms) -> tuple[Symbols, Symbols]:
        words = integers(u, 0, self.symbols)
        place = self.order(n[:, None], np.arange(self.times * u.shape[1]))
        return words, gathered(words, place, self.times * n)


def reversed_order(n: Labels, step: Labels) -> Symbols:
    """reverse_string: 0 0 1 -> 1 0 0. A constant answer is right half the time."""
    return n - 1 - step


def repeated_order(n: Labels, step: Labels) -> Symbols:
    """duplicate_string: 0 0 1 -> 0 0 1 0 0 1. A constant answer is right half the time."""
    return step % n


def odds_first_order(n: Labels, step: Labels) -> Symbols:
    """odds_first: a b c d e -> b d a c e, places counted from 0. A constant answer is right half the time."""
    return np.where(step < n // 2, 2 * step + 1, 2 * (step - n // 2))


class BucketSort:
    """Sort the symbols: 1 0 4 0 2 -> 0 0 1 2 4. A constant answer is right once in five."""

    symbols = outputs = 5

    def draws(self, n: int) -> int:
        return n

    def answer_length(self, n: int) -> int:
        return n

    def make(self, n: Labels, u: Uniforms) -> tuple[Symbols, Symbols]:
        words = integers(u, 0, self.symbols)
        step = np.arange(u.shape[1])
        ordered = np.sort(np.where(step < n[:, None], words, self.symbols), axis=1)
        return words, np.where(step < n[:, None], ordered, -1)


class MissingDuplicate:
    """Which symbol is missing, marked 2, in a word that stands there twice? 0 1 1 0 0 2 1 0 -> 1.

    A word of odd length ends with the symbol 3; that of one symbol is 1, its answer 1. A constant answer is
    right half the time.
    """

    symbols, outputs = 4, 2

    def draws(self, n: int) -> int:
        return n // 2 + 1

    def answer_length(self, n: int) -> int:
        return 1

    def make(self, n: Labels, u: Uniforms) -> tuple[Symbols, Symbols]:
        half = np.maximum(n // 2, 1)[:, None]
        place = np.arange(n.max())
        word = integers(u[:, 1:], 0, 2) if u.shape[1] > 1 else np.zeros((len(n), 1), np.int64)
        words = np.take_along_axis(word, np.minimum(place % half, word.shape[1] - 1), 1)
        missing = integers(u[:, 0], 0, np.maximum(2 * (n // 2), 1))[:, None]
        answers = np.take_along_axis(words, missing, 1)
        np.put_along_axis(words, missing, 2, 1)
        words = np.where(place < 2 * (n // 2)[:, None], words, 3)
        alone = n[:, None] == 1
        return np.where(alone, 1, words), np.where(alone, 1, answers)


class StackManipulation:
    """The stack, from its top, after pops (2) and pushes of 0 (3) and 1 (4); then the end, 2.

        0 1 1 0 4 2 2 -> 1 1 0 2          the stack is given from its bottom: 0 1 1 0

    A pop from the empty stack does nothing. The first 1 to n - 1 symbols are the stack, uniformly many. A
    constant answer is right less than half the time (0.47 of the symbols for up to 40).
    """

    symbols, outputs = 5, 3

    def draws(self, n: int) -> int:
        return n + 1

    def answer_length(self, n: int) -> int:
        return n + 1

    def make(self, n: Labels, u: Uniforms) -> tuple[Symbols, Symbols]:
        given = np.maximum(integers(u[:, 0], 1, np.maximum(n, 2)), 1)[:, None]
        T, step = u.shape[1] - 1, np.arange(u.shape[1] - 1)
        words = np.where(step < given, integers(u[:, 1:], 0, 2), integers(u[:, 1:], 2, 5))
        stack, height = np.zeros((len(n), T + 1), np.int64), np.zeros(len(n), np.int64)
        for t in range(T):
            symbol, real = words[:, t], t < n
            push = real & (symbol != 2)
            rows = np.flatnonzero(push)
            stack[rows, height[rows]] = symbol[rows] % 3  # 3 pushes 0, and 4 pushes 1
            height += push
            height -= real & (symbol == 2) & (height > 0)
        answers = gathered(stack, height[:, None] - 1 - np.arange(T + 1), height)
        np.put_along_axis(answers, height[:, None], 2, 1)
        return words, answers


TRANSDUCTIONS: dict[str, Callable[[], Transduction]] = {
    "reverse_string": partial(Rearranged, reversed_order),
    "duplicate_string": partial(Rearranged, repeated_order, times=2),
    "odds_first": partial(Rearranged, odds_first_order),
    "bucket_sort": BucketSort,
    "missing_duplicate_string": MissingDuplicate,
    "stack_manipulation": StackManipulation,
}


def enter_all(transductions: dict[str, Callable[[], Transduction]]) -> None:
    """Register transductions as tasks under their names."""
    for name, build in transductions.items():
        enter(name, TransductionTask(partial(Answered, build()), DELETANG), Language)


enter_all(TRANSDUCTIONS)
