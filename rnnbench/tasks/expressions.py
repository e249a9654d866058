"""Generates arithmetic modulo 5 with brackets, whose answer is read after the input (Deletang et al. 2023).

An expression of n symbols is a digit d (n = 1), -d, (d), (-d), or from 5 symbols on (E+E), (E-E) or, where
there is a product, (E*E), whose first part has 1 to n - 4 symbols, uniformly many.
"""

from collections.abc import Callable

import numpy as np

from rnnbench.tasks.generated import Uniforms, integers
from rnnbench.tasks.task import Labels
from rnnbench.tasks.transductions import Symbols, Transduction, enter_all

MODULUS = 5
PLUS, MINUS, OPEN, CLOSE, TIMES, EQUALS = range(MODULUS, MODULUS + 6)
UNKNOWN = TIMES  # no task has both


def expressions(n: Labels, u: Uniforms, operators: list[int]) -> tuple[Symbols, Labels]:
    """Write expressions of n (rows,) symbols from u (rows, N), 0 after their end; and return their values.

    All parts of one depth are written at once, of which each is drawn by the numbers at its opening bracket,
    its operator and its digit.
    """
    words = np.zeros(u.shape, np.int64)
    row, start = np.arange(len(n)), np.zeros(len(n), np.int64)
    depths = []
    while len(row):
        bracketed, long = n > 2, n > 4
        words[row[bracketed], start[bracketed]] = OPEN
        words[row[bracketed], (start + n - 1)[bracketed]] = CLOSE
        digits = _digits(words, u, row[~long], start[~long], n[~long])
        row, start, n = row[long], start[long], n[long]
        left = integers(u[row, start], 1, n - 3)
        middle = start + 1 + left
        operator = np.array(operators)[integers(u[row, middle], 0, len(operators))]
        words[row, middle] = operator
        depths.append((long, operator, digits))
        row, start = np.concatenate([row, row]), np.concatenate([start + 1, middle + 1])
        n = np.concatenate([left, n - left - 3])
    values = np.zeros(0, np.int64)
    for long, operator, digits in reversed(depths):
        one, two = np.split(values, 2)
        values = np.zeros(len(long), np.int64)
        found = np.where(operator == MINUS, one - two, np.where(operator == PLUS, one + two, one * two))
        values[long], values[~long] = found % MODULUS, digits
    return words, values


def _digits(words: Symbols, u: Uniforms, row: Labels, start: Labels, n: Labels) -> Labels:
    """Write d, or -d where n is even, into expressions of at most 4 symbols; return their values."""
    place = start + np.where(n > 2, n - 2, n - 1)
    digits = integers(u[row, place], 0, MODULUS)
    words[row, place] = digits
    negative = n % 2 == 0
    words[row[negative], place[negative] - 1] = MINUS
    value: Labels = np.where(negative, -digits, digits) % MODULUS
    return value


class ModularArithmeticBrackets:
    """The value modulo 5: ( ( 3 ) - ( 2 * 4 ) ) -> 0, since 3 - 8 = -5.

    The authors' experiments have products (their code's constants.py), which are 0 more often than anything
    else: the constant answer 0 is right in 0.31 of long words.
    """

    symbols, outputs = MODULUS + 5, MODULUS

    def draws(self, n: int) -> int:
        return n

    def answer_length(self, n: int) -> int:
        return 1

    def make(self, n: Labels, u: Uniforms) -> tuple[Symbols, Symbols]:
        words, value = expressions(n, u, [PLUS, MINUS, TIMES])
        return words, value[:, None]


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
        words, value = expressions(size, u[:, 1:], [PLUS, MINUS])
        place = np.arange(N)
        start = integers(u[:, 0], 0, size)[:, None]
        is_digit = (words < MODULUS) & (place < size[:, None])
        distance = np.where(is_digit, (place - start) % size[:, None], N + 1)
        chosen = distance.argmin(1)[:, None]
        answers = np.take_along_axis(words, chosen, 1)
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
