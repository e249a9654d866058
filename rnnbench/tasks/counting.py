"""Generates words of languages that ask for counting: a^n b^n, a^n b^n c^n, balanced brackets.

A network reads a word symbol by symbol and predicts the next symbol (Gers and Schmidhuber 2001; Weiss,
Goldberg and Yahav 2018, arXiv 1805.04908). It is trained on words of the language alone; # stands before and
after each. Training words have n from 0 to data.longest, all equally likely; validation has words of each of
these n; the test has n from 1 to data.test_longest.

A word is answered right if each of its symbols after an opening one (a, or an opening bracket), the last #
included, is predicted with a probability above 0.01, and at every step each symbol with which no word of the
language goes on with at most 0.01. A network that is right on a^n b^n therefore rejects a^n b^(n-1) and
a^n b^(n+1). An opening symbol need not be predicted, since in training n ends at data.longest. Metrics: nll,
and `largest_n`, the largest n up to which all words are right. A constant answer is right on no word, and
scores 0.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnbench.config import Data
from rnnbench.config.refusals import at_least, refuse
from rnnbench.tasks.generated import TEST, VAL, Made, Uniforms, integers, uniforms
from rnnbench.tasks.task import Examples, Goal, Labels, Shape, enter

LIKELY = 0.01  # a symbol is predicted if its probability is above this

Symbols = NDArray[np.int64]


@dataclass
class Counting(Data):
    """Settings of the words of a counting language. train_size=null: endless."""

    longest: int = 50  # largest n of training and validation words
    test_longest: int = 200  # largest n of test words

    def check(self) -> None:
        """Refuse an n below 1, a test without longer words, and val_size; see `Data.check`."""
        super().check()
        at_least(1, ("data.longest", self.longest))
        if self.test_longest <= self.longest:
            wanted = f"must be above data.longest={self.longest}: "
            wanted += "the test has longer words than training"
            refuse("data.test_longest", self.test_longest, wanted)
        if self.val_size is not None:
            refuse(
                "data.val_size", self.val_size, "must be null: validation has words of every n of training"
            )


@dataclass
class Brackets(Counting):
    """Settings of balanced brackets."""

    per_length: int = 4  # number of validation and test words of each n

    def check(self) -> None:
        """Refuse a number of words below 1; see `Counting.check`."""
        super().check()
        at_least(1, ("data.per_length", self.per_length))


def next_symbols(letters: Symbols, many: Labels, end: int) -> Examples:
    """Return examples that ask for the next symbol of words.

    Args:
        letters: (rows, T), of which the first `many` (rows,) of each row, fewer than T, are the word.
        end: the symbol # before and after each word.
    """
    step, last = np.arange(letters.shape[1]), many[:, None]
    following = np.where(step < last, letters, end)
    read = np.roll(following, 1, axis=1)  # the last symbol of a row, or of its padding, is #
    read, following = (np.where(step <= last, symbols, 0) for symbols in (read, following))
    return Examples(read.astype(np.int16), following, many + 1)


class Language:
    """Makes the words of a language whose n is the number of their symbols 0."""

    goal, metric = Goal.labels, "nll"
    summed = ("largest_n", "word_accuracy")

    def __init__(self, data: Counting, *, letters: int, per_n: int) -> None:
        self.longest, self.largest = data.longest, data.test_longest
        self.letters, self.per_n = letters, per_n  # letters of the language; of a word for each n
        self.steps = self.steps_of(data.longest)
        self.input_size = self.outputs = letters + 1  # # is the last
        self.draws = 1 + self.steps

    def steps_of(self, n: int) -> int:
        """Return the number of steps of a word: its letters, and # before them."""
        return self.per_n * n + 1

    def make(self, u: Uniforms) -> Examples:
        """Make words from u (rows, draws), whose first number draws n."""
        return self.of(integers(u[:, 0], 0, self.longest + 1), u[:, 1:])

    def of(self, n: Labels, u: Uniforms) -> Examples:
        """Make words of these n (rows,) from u (rows, T): inputs and targets (rows, T), 0 after their end."""
        return next_symbols(self.symbols(n, u), self.per_n * n, self.letters)

    def symbols(self, n: Labels, u: Uniforms) -> Symbols:
        """Return the letters of words of these n (rows,) from u (rows, T); after its end a word has any."""
        raise NotImplementedError

    def possible(self, y: Any) -> Any:
        """Return which symbols a word may go on with, (K, outputs, T, B), at each step of y (K, T, B)."""
        raise NotImplementedError

    def sums(self, logits: Any, y: Any, counts: Any) -> tuple[Any, ...]:
        """Count the words of each n from 0 to the largest of the test: those that are right, and all.

        Args:
            logits: (K, outputs, T, B)
            y: (K, T, B) next symbols
            counts: (K, T, B), 0 after the end of a word

        Returns:
            (K, largest + 1) each.
        """
        p = logits.softmax(1)
        expected = (p.gather(1, y.unsqueeze(1)).squeeze(1) > LIKELY) | (y == 0)
        rejected = ((p <= LIKELY) | self.possible(y)).all(1)
        right = ((expected & rejected) | (counts == 0)).all(1)  # (K, B)
        n = ((y == 0) & (counts > 0)).sum(1)
        zeros = logits.new_zeros(len(logits), self.largest + 1)
        return tuple(zeros.scatter_add(1, n, words.to(zeros)) for words in (right, right | True))


class Blocks(Language):
    """n times a, then n times each further letter: a^n b^n, a^n b^n c^n.

        input   # a a b b          target   a a b b #

    After an a follows an a or a b; after the first b, how many a there were says what follows.
    """

    def __init__(self, data: Counting, *, letters: int) -> None:
        super().__init__(data, letters=letters, per_n=letters)

    def symbols(self, n: Labels, u: Uniforms) -> Symbols:
        letter: Symbols = np.arange(u.shape[1]) // np.maximum(n, 1)[:, None]
        return letter

    def possible(self, y: Any) -> Any:
        from torch.nn.functional import one_hot

        possible = one_hot(y, self.outputs).movedim(-1, 1).bool()
        possible[:, :2, 1:] |= y[:, None, :-1] == 0  # after an a
        possible[:, 0, 0] = possible[:, -1, 0] = True  # at the start: an a, or # of the empty word
        return possible


class Dyck(Language):
    """Balanced brackets of one kind (Dyck-1), n pairs, all words of an n equally likely.

        input   # ( ( ) ( ) )      target   ( ( ) ( ) ) #

    An opening bracket may always follow, a closing one where some are open, and # where none is.
    """

    def __init__(self, data: Brackets) -> None:
        super().__init__(data, letters=2, per_n=2)

    def symbols(self, n: Labels, u: Uniforms) -> Symbols:
        """Draw words by the cycle lemma (Dvoretzky and Motzkin 1947).

        A random order of n times ( and n + 1 times ) has one rotation in which ) comes ahead only at the
        end: without its last symbol this is a balanced word, each as likely as any other.
        """
        size = 2 * n[:, None] + 1  # (rows, 1)
        place = np.arange(u.shape[1])
        rank = np.where(place < size, u, 2.0).argsort(1).argsort(1)
        height = np.where(rank < n[:, None], 1, -1).cumsum(1)
        first = np.where(place < size, height, 1).argmin(1)[:, None]  # the first of the lowest places
        rotated = np.where(place < size, (first + 1 + place) % size, place)
        word: Symbols = np.take_along_axis((rank >= n[:, None]).astype(np.int64), rotated, 1)
        return word

    def possible(self, y: Any) -> Any:
        import torch

        change = (y == 0).long() - (y == 1).long()
        open_before = change.cumsum(1) - change
        return torch.stack([torch.ones_like(y, dtype=torch.bool), open_before > 0, open_before == 0], 1)


class CountingTask(Made):
    """A counting language as a task: validation and test have the same number of words of each n."""

    def shape(self, data: Any) -> Shape:
        """Return the sizes; see `Made.shape`."""
        sequences: Any = self.build(data)
        return replace(super().shape(data), test_steps=sequences.steps_of(data.test_longest))

    def val_size(self, data: Any) -> int:
        n: int = data.longest + 1
        return n * _words_of_each(data)

    def val(self, sequences: Any, data: Any) -> Examples:
        numbers = np.arange(self.val_size(data))
        return _words(sequences, numbers // _words_of_each(data), data.split_seed, VAL, data.longest)

    def test_numbers(self, data: Any) -> Labels:
        return np.arange(data.test_longest * _words_of_each(data))

    def test(self, sequences: Any, data: Any) -> Examples:
        n = 1 + self.test_numbers(data) // _words_of_each(data)
        return _words(sequences, n, 0, TEST, data.test_longest)


def _words_of_each(data: Counting) -> int:
    """Return the number of validation and test words of each n; a^n b^n has one for each."""
    return data.per_length if isinstance(data, Brackets) else 1


def _words(sequences: Language, n: Labels, seed: int, purpose: int, longest: int) -> Examples:
    """Make held-out words of these n (rows,), the same for all trials."""
    steps = sequences.steps_of(longest)
    u = uniforms(np.full(len(n), seed), purpose, np.arange(len(n)), steps)
    return sequences.of(n, u)


_SOURCE = "counting languages (Weiss, Goldberg, Yahav 2018, arXiv 1805.04908)"
enter("anbn", CountingTask(partial(Blocks, letters=2), _SOURCE), Counting)
enter("anbncn", CountingTask(partial(Blocks, letters=3), _SOURCE), Counting)
enter("dyck1", CountingTask(Dyck, _SOURCE), Brackets)
