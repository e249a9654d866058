"""Generates text whose next character is asked for: sums with distractors, and nested tags.

Both are tasks of Jozefowicz, Zaremba and Sutskever 2015 (proceedings.mlr.press/v37/jozefowicz15, section
3.5). The paper itself could not be read: the definitions are those of readers who quote and retell it, and
what they leave open is ours, and said so.
"""

import string
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rnnbench.config import Data
from rnnbench.config.refusals import at_least, refuse
from rnnbench.tasks.generated import Made, Uniforms, integers
from rnnbench.tasks.task import Examples, Goal, enter

Numbers = NDArray[np.int64]


@dataclass
class Sums(Data):
    """Settings of arithmetic. train_size=null: endless; val_size=null: 1,000."""

    digits: int = 8  # most digits of a number
    distractors: int = 3  # most letters after a character
    test_size: int = 1000

    def check(self) -> None:
        """Refuse sizes below 1, and numbers that 64 bits have no room for; see `Data.check`."""
        super().check()
        at_least(0, ("data.distractors", self.distractors))
        at_least(1, ("data.digits", self.digits), ("data.test_size", self.test_size))
        if self.digits > 15:
            refuse("data.digits", self.digits, "must be at most 15")


class Arithmetic:
    """Add or subtract two numbers between whose characters stand letters that mean nothing.

        input   3 e 3 6 d 9 - h 1 h 3 9 f 4 = 1 9 7 5
        target  _ _ _ _ _ _ _ _ _ _ _ _ _ _ 1 9 7 5 .       asked for from = on: 3369 - 1394 = 1975

    The answer is read one symbol a step, each time with the right symbol before as input, and ends with a
    full stop, which is asked for too. Metric: accuracy over these symbols. A constant answer, the full stop,
    is right in 0.141 of them. Ours: a number has 1 to data.digits digits, all equally likely; after a
    character come k letters with a probability of 2^-(k + 1), cut at data.distractors; each sum is an
    example of its own, where theirs was one text, read in parts with the state carried over.
    """

    goal, metric = Goal.labels, "accuracy"
    symbols = string.ascii_lowercase + string.digits + "+-=."
    baseline = 0.141

    def __init__(self, data: Sums) -> None:
        self.digits, self.most = data.digits, data.distractors
        self.input_size = self.outputs = len(self.symbols)
        self.question = 2 * self.digits + 1
        self.steps = self.question * (1 + self.most) + 1 + self.digits + 1
        self.draws = 5 + self.question + self.steps

    def make(self, u: Uniforms) -> Examples:
        """Return inputs as tokens (n, T), and targets (n, T), -1 but where the answer is asked for."""
        few, of_gaps, of_letters = np.split(u, [5, 5 + self.question], axis=1)
        size = integers(few[:, :2], 1, self.digits + 1)
        first, second = integers(few[:, 2:4], np.where(size == 1, 0, 10 ** (size - 1)), 10**size).T
        minus = few[:, 4] < 0.5
        value = np.where(minus, first - second, first + second)
        plus, dash, equals, stop = (self.symbols.index(sign) for sign in "+-=.")
        sign = np.where(minus, dash, plus)[:, None]
        question = np.hstack([self.written(first, self.digits), sign, self.written(second, self.digits)])
        answer = self.written(np.abs(value), self.digits + 1)
        ends = np.full((2, len(u), 1), [[[equals]], [[stop]]])
        text = np.hstack([question, ends[0], np.where(value < 0, dash, -1)[:, None], answer, ends[1]])
        # Each character takes a place and those of the letters after it; a character of -1 takes none.
        width = (text >= 0).astype(np.int64)
        gaps = np.minimum(np.floor(-np.log2(1 - of_gaps)), self.most).astype(np.int64)
        width[:, : self.question] *= 1 + gaps
        place = width.cumsum(1) - width
        tokens = np.hstack([integers(of_letters, 0, 26), np.zeros((len(u), 1), np.int64)])
        rows, columns = np.nonzero(text >= 0)
        tokens[rows, place[rows, columns]] = text[rows, columns]
        step, lengths = np.arange(self.steps), place[:, -1]
        asked = (step >= place[:, self.question, None]) & (step < lengths[:, None])
        read = np.where(step < lengths[:, None], tokens[:, :-1], 0)
        return Examples(read.astype(np.int16), np.where(asked, tokens[:, 1:], -1), lengths)

    def written(self, numbers: Numbers, room: int) -> Numbers:
        """Return the digits of numbers (n,) as symbols (n, room), right-aligned after -1."""
        power = 10 ** np.arange(room)[::-1]
        digits = numbers[:, None] // power
        return np.where((digits > 0) | (power == 1), self.symbols.index("0") + digits % 10, -1)


@dataclass
class Tags(Data):
    """Settings of nested tags. train_size=null: endless; val_size=null: 1,000."""

    steps: int = 100  # characters of an example
    letters: int = 10  # most letters of a tag
    test_size: int = 1000

    def check(self) -> None:
        """Refuse sizes below 1, and names shorter than the shortest; see `Data.check`."""
        super().check()
        at_least(1, ("data.steps", self.steps), ("data.test_size", self.test_size))
        at_least(2, ("data.letters", self.letters))


class Xml:
    """Predict the next character of documents of nested tags.

        input   < a b > < x y z > < / x y z > < / a b      target  a b > < x y z > < / x y z > < / a b >

    Tags have 2 to data.letters lowercase letters. With a probability of one half, or after 50 tags of a
    document, the tag that was opened last is closed, or the document ends where none is open; else a random
    tag is opened. Documents follow each other without a character between them, and an empty one leaves no
    trace. Metric: accuracy over all characters. Of 10 letters, a constant answer, >, is right in 0.117; what
    knows the open tags, in at most 0.57, since the letters of a new tag are random. Ours: an example is the
    first data.steps + 1 characters of such a text, where theirs was one text, read in parts with the state
    carried over.
    """

    goal, metric = Goal.labels, "accuracy"
    symbols = string.ascii_lowercase + "</>"
    baseline = 0.117
    LEAST, TAGS = 2, 50  # letters of a tag; tags after which a document only closes

    def __init__(self, data: Tags) -> None:
        self.steps, self.letters = data.steps, data.letters
        self.input_size = self.outputs = len(self.symbols)
        self.tags = data.steps // 4 + 1  # the shortest is <ab>
        self.draws = self.tags * (2 + self.letters)

    def make(self, u: Uniforms) -> Examples:
        """Return inputs as tokens (n, T), and targets (n, T)."""
        n, least, most = len(u), self.LEAST, self.letters
        u = u.reshape(n, self.tags, 2 + most)
        size = integers(u[:, :, 1], least, most + 1)
        closes, names = self.nested(u[:, :, 0] < 0.5)
        rows = np.arange(n)[:, None]
        letters = np.where(np.arange(most) < size[:, :, None], integers(u[:, :, 2:], 0, 26), -1)[rows, names]
        opening, slash, closing = (self.symbols.index(sign) for sign in "</>")
        text = np.full((n, self.tags, most + 3), closing)  # </tag>
        text[:, :, 0], text[:, :, 1], text[:, :, 2:-1] = opening, np.where(closes, slash, -1), letters
        line = text.reshape(n, -1)
        place = (line >= 0).cumsum(1) - 1
        rows, columns = np.nonzero((line >= 0) & (place <= self.steps))
        made = np.empty((n, self.steps + 1), np.int64)
        made[rows, place[rows, columns]] = line[rows, columns]
        return Examples(made[:, :-1].astype(np.int16), made[:, 1:])

    def nested(self, heads: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Numbers]:
        """Follow tags, one coin (n, tags) each: which of them close, and which one's name each has.

        Where no tag is open, heads ends the document. What comes next opens a tag in any case, since empty
        documents leave no trace; the coin then says whether it is the first of a document.
        """
        n, tags = heads.shape
        closes, names = np.zeros((n, tags), np.bool_), np.zeros((n, tags), np.int64)
        open_tags = np.zeros((n, tags + 1), np.int64)  # which tags are open, the last one at `depth`
        depth, since, rows = np.zeros(n, np.int64), np.zeros(n, np.int64), np.arange(n)
        for t in range(tags):
            ends = heads[:, t] | (since >= self.TAGS)
            since = np.where(ends & (depth == 0), 0, since) + 1
            closes[:, t] = ends & (depth > 0)
            depth += ~closes[:, t]
            open_tags[rows, depth] = np.where(closes[:, t], open_tags[rows, depth], t)
            names[:, t] = open_tags[rows, depth]
            depth -= closes[:, t]
        return closes, names


_SOURCE = "Jozefowicz, Zaremba, Sutskever 2015, section 3.5, as retold"
enter("arithmetic", Made(Arithmetic, f"arithmetic ({_SOURCE})"), Sums)
enter("xml", Made(Xml, f"nested tags ({_SOURCE})"), Tags)
