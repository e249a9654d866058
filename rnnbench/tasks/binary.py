"""Generates binary arithmetic whose answers are read after the input (Deletang et al. 2023)."""

import math
from collections.abc import Callable

import numpy as np

from rnnbench.tasks.generated import Uniforms, integers
from rnnbench.tasks.task import Labels
from rnnbench.tasks.transductions import Symbols, Transduction, enter_all, gathered

EXACT = 50  # bits of a whole number that one uniform draws


def positive(bits: Labels, u: Uniforms) -> Symbols:
    """Draw whole numbers from 1 to 2^bits - 1, all equally likely, in bits (rows, N) from the lowest.

    Args:
        bits: (rows,) of each number; higher ones are 0.
        u: (rows, 1 + N). Of more than 50 bits each is drawn by itself, and at least one is certain to be 1
            but for a probability below 2^-50.
    """
    place = np.arange(u.shape[1] - 1)
    small = 1 + np.floor(u[:, 0] * (2.0 ** np.minimum(bits, EXACT) - 1)).astype(np.int64)
    of_small = small[:, None] >> np.minimum(place, 62) & 1
    drawn = np.where((bits <= EXACT)[:, None], of_small, integers(u[:, 1:], 0, 2))
    return np.where(place < bits[:, None], drawn, 0)


def carried(sums: Symbols) -> Symbols:
    """Turn numbers at binary places (rows, N) into bits; what is carried beyond the last place is lost."""
    bits, carry = np.empty_like(sums), np.zeros(len(sums), np.int64)
    for place in range(sums.shape[1]):
        total = sums[:, place] + carry
        bits[:, place], carry = total & 1, total >> 1
    return bits


def shown(bits: Symbols) -> Symbols:
    """Return numbers in bits (rows, N) from the lowest as answers: up to the highest 1, then the end, 2."""
    length = np.maximum(bits.shape[1] - np.flip(bits, 1).argmax(1), 1)
    length = np.where(bits.any(1), length, 1)
    answers = gathered(
        bits, np.broadcast_to(np.arange(bits.shape[1] + 1), (len(bits), bits.shape[1] + 1)), length
    )
    np.put_along_axis(answers, length[:, None], 2, 1)
    return answers


class Binary:
    """Two positive numbers in binary, lowest bits first, with 2 between them, and what they give, then 2.

    The first number has 1 to n - 2 bits, uniformly many. A word of one or two symbols is a single number,
    from 0 to 2^n - 2, which is its own answer. A constant answer is right less than half the time (sums 0.49,
    products 0.47 of the symbols for up to 40).

    Args:
        combine: takes the bits of both numbers (rows, N), and returns numbers at binary places (rows, N).
    """

    symbols = outputs = 3

    def __init__(self, combine: Callable[[Symbols, Symbols], Symbols]) -> None:
        self.combine = combine

    def draws(self, n: int) -> int:
        return 1 + 2 * (n + 2)

    def answer_length(self, n: int) -> int:
        return n + 1

    def make(self, n: Labels, u: Uniforms) -> tuple[Symbols, Symbols]:
        N = (u.shape[1] - 1) // 2 - 1
        first = integers(u[:, 0], 1, np.maximum(n - 1, 2))
        a = positive(first, u[:, 1 : N + 2])
        b = positive(np.maximum(n - 1 - first, 0), u[:, N + 2 :])
        single = n <= 2
        number = np.floor(u[:, 1] * (2.0 ** np.minimum(n, 2) - 1)).astype(np.int64)
        alone = np.where(np.arange(N) < 2, number[:, None] >> np.minimum(np.arange(N), 2) & 1, 0)
        a, b = np.where(single[:, None], alone, a), np.where(single[:, None], 0, b)
        place, second = np.arange(N), np.arange(N) - first[:, None] - 1
        both = np.where(place < first[:, None], a, np.take_along_axis(b, np.clip(second, 0, N - 1), 1))
        words = np.where(single[:, None], a, np.where(second == -1, 2, both))
        result = np.where(single[:, None], alone, carried(self.combine(a, b)))
        return words, shown(result)


def added(a: Symbols, b: Symbols) -> Symbols:
    """binary_addition: 0 0 1 2 0 1 1 0 1 -> 0 1 0 1 1 2, which is 4 + 22 = 26."""
    return a + b


def multiplied(a: Symbols, b: Symbols) -> Symbols:
    """binary_multiplication: 1 1 2 1 0 1 -> 1 1 1 1 2, which is 3 x 5 = 15.

    The products of bits are added up at each place by a Fourier transform, whose sums of at most N zeros and
    ones are exact after rounding.
    """
    size = 2 * a.shape[1]
    spectrum = np.fft.rfft(a, size) * np.fft.rfft(b, size)
    product: Symbols = np.rint(np.fft.irfft(spectrum, size)).astype(np.int64)
    return product[:, : a.shape[1]]


class ComputeSqrt:
    """The square root of a positive number, rounded down, both from their highest bit.

        1 0 0 1 0 1 -> 1 1 0          37: 6

    The answer has ceil(n / 2) bits. A constant answer is right half the time.
    """

    symbols = outputs = 2

    def draws(self, n: int) -> int:
        return 1 + n

    def answer_length(self, n: int) -> int:
        return -(-n // 2)

    def make(self, n: Labels, u: Uniforms) -> tuple[Symbols, Symbols]:
        N, M = u.shape[1] - 1, self.answer_length(u.shape[1] - 1)
        bits = positive(n, u)  # from the lowest
        lengths = -(-n // 2)
        packed = np.packbits(bits.astype(np.uint8), axis=1, bitorder="little")
        roots = [math.isqrt(int.from_bytes(row.tobytes(), "little")) for row in packed]
        size = -(-M // 8)
        raw = np.frombuffer(b"".join(root.to_bytes(size, "little") for root in roots), np.uint8)
        of_roots = np.unpackbits(raw.reshape(len(n), size), axis=1, bitorder="little")[:, :M].astype(np.int64)
        words = np.take_along_axis(bits, np.clip(n[:, None] - 1 - np.arange(N), 0, N - 1), 1)
        return words, gathered(of_roots, lengths[:, None] - 1 - np.arange(M), lengths)


BINARY: dict[str, Callable[[], Transduction]] = {
    "binary_addition": lambda: Binary(added),
    "binary_multiplication": lambda: Binary(multiplied),
    "compute_sqrt": ComputeSqrt,
}
enter_all(BINARY)
