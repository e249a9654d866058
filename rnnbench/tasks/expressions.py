"""Generates arithmetic modulo 5 with brackets, whose answer is read after the input (Deletang et al. 2023).

An expression of n symbols is a digit d (n = 1), -d, (d), (-d), or from 5 symbols on (E+E) or (E-E), whose
first part has 1 to n - 4 symbols, uniformly many.
"""

from collections.abc import Callable

import numpy as np

from rnnbench.tasks.generated import Uniforms, integers
from rnnbench.tasks.task import Labels
from rnnbench.tasks.transductions import Symbols, Transduction, enter_all

MODULUS = 5
PLUS, MINUS, OPEN, CLOSE, UNKNOWN, EQUALS = range(MODULUS, MODULUS + 6)
DIGIT, OPERATOR, EXPRESSION = (
    -1,
    -2,
    100,
)  # still to be written; an expression of n symbols is 100 + n
SHORT = {1: (DIGIT,), 2: (MINUS, DIGIT), 3: (OPEN, DIGIT, CLOSE), 4: (OPEN, MINUS, DIGIT, CLOSE)}


class Stacks:
    """Keeps what each row still has to write, as a stack.

    Args:
        rows: number of stacks.
        room: most items of a stack.
    """

    def __init__(self, rows: int, room: int) -> None:
        self.items, self.height = np.zeros((rows, room), np.int64), np.zeros(rows, np.int64)

    def push(self, rows: Labels, item: int | Labels) -> None:
        """Put an item on top of the stacks of rows."""
        self.items[rows, self.height[rows]] = item
        self.height[rows] += 1

    def pop(self) -> Labels:
        """Take the top of every stack, (rows,); of an empty one, something."""
        self.height = np.maximum(self.height - 1, 0)
        return self.items[np.arange(len(self.items)), self.height]


def expressions(n: Labels, u: Uniforms) -> Symbols:
    """Write expressions of n (rows,) symbols from u (rows, N), a symbol at each step; 0 after their end.

    What stands on top of a row's stack always begins with exactly one symbol; the rest of it is put back.
    """
    rows, N = u.shape
    stacks = Stacks(rows, N + 4)
    stacks.push(np.arange(rows), EXPRESSION + n)
    words = np.zeros((rows, N), np.int64)
    for t in range(N):
        top = np.where(t < n, stacks.pop(), 0)
        size = top - EXPRESSION
        first = np.maximum(top, 0)
        for short, (symbol, *rest) in SHORT.items():
            first[size == short] = symbol
            for item in reversed(rest):
                stacks.push(np.flatnonzero(size == short), item)
        long = np.flatnonzero(size >= 5)
        first[long] = OPEN
        left = integers(u[long, t], 1, size[long] - 3)
        for part in (CLOSE, EXPRESSION + size[long] - 3 - left, OPERATOR, EXPRESSION + left):
            stacks.push(long, part)
        first = np.where((top == DIGIT) | (first == DIGIT), integers(u[:, t], 0, MODULUS), first)
        words[:, t] = np.where(top == OPERATOR, integers(u[:, t], PLUS, MINUS + 1), first)
    return words


def values(words: Symbols, n: Labels) -> Labels:
    """Return the values (rows,) modulo 5 of expressions (rows, N) of n (rows,) symbols."""
    rows, N = np.arange(len(words)), words.shape[1]
    total, sign = np.zeros((len(words), N + 2), np.int64), np.ones((len(words), N + 2), np.int64)
    depth, minus = np.zeros(len(words), np.int64), np.ones(len(words), np.int64)
    before = np.full(len(words), OPEN)
    for t in range(N):
        symbol, real = words[:, t], t < n
        operator = real & np.isin(symbol, (PLUS, MINUS))
        unary = operator & np.isin(before, (OPEN, PLUS, MINUS))
        minus = np.where(unary, -1, minus)  # of the digit that follows
        binary = operator & ~unary
        sign[rows[binary], depth[binary]] = np.where(symbol[binary] == MINUS, -1, 1)
        opens, closes, digit = (real & (symbol == OPEN), real & (symbol == CLOSE), real & (symbol < MODULUS))
        depth = depth + opens
        total[rows[opens], depth[opens]], sign[rows[opens], depth[opens]] = 0, 1
        part = np.where(digit, minus * symbol, total[rows, depth])
        depth = depth - closes
        done = digit | closes
        total[rows[done], depth[done]] += sign[rows[done], depth[done]] * part[done]
        minus = np.where(digit, 1, minus)
        before = np.where(real, symbol, before)
    found: Labels = total[:, 0] % MODULUS
    return found


class ModularArithmeticBrackets:
    """The value modulo 5: ( ( 3 ) - ( - 2 ) ) -> 0. A constant answer is right once in five."""

    symbols, outputs = MODULUS + 4, MODULUS

    def draws(self, n: int) -> int:
        return n

    def answer_length(self, n: int) -> int:
        return 1

    def make(self, n: Labels, u: Uniforms) -> tuple[Symbols, Symbols]:
        words = expressions(n, u)
        return words, values(words, n)[:, None]


class SolveEquation:
    """The digit that x stands for, modulo 5: ( x - 2 ) = 4 -> 1. A constant answer is right once in five.

    The digit is the first from a uniform place of the expression on, beginning anew at its end. Words of less
    than three symbols are zeros, and so is their answer.
    """

    symbols, outputs = MODULUS + 6, MODULUS

    def draws(self, n: int) -> int:
        return 1 + n

    def answer_length(self, n: int) -> int:
        return 1

    def make(self, n: Labels, u: Uniforms) -> tuple[Symbols, Symbols]:
        N, size = u.shape[1] - 1, np.maximum(n - 2, 1)
        words = expressions(size, u[:, 1:])
        place = np.arange(N)
        start = integers(u[:, 0], 0, size)[:, None]
        is_digit = (words < MODULUS) & (place < size[:, None])
        distance = np.where(is_digit, (place - start) % size[:, None], N + 1)
        chosen = distance.argmin(1)[:, None]
        answers = np.take_along_axis(words, chosen, 1)
        value = values(words, size)
        np.put_along_axis(words, chosen, UNKNOWN, 1)
        wide = np.concatenate([words, np.zeros((len(n), 2), np.int64)], 1)
        np.put_along_axis(wide, size[:, None], EQUALS, 1)
        np.put_along_axis(wide, size[:, None] + 1, value[:, None], 1)
        short = n[:, None] < 3
        return np.where(short, 0, wide[:, :N]), np.where(short, 0, answers)


EXPRESSIONS: dict[str, Callable[[], Transduction]] = {
    "modular_arithmetic_brackets": ModularArithmeticBrackets,
    "solve_equation": SolveEquation,
}
enter_all(EXPRESSIONS)
