"""Multiplies weights with what a layer reads or leaves behind at all steps at once, in a fixed order.

The bits of a trial depend on the sizes of its arrays alone: each program computes one tile of one trial, and
adds its products in the order of the rows, or of the steps. Arrays over time are (K, T, rows, B); steps at or
beyond an example's length are neither read nor written.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from rnnbench.kernels.gpu.inputs import load_x
from rnnbench.kernels.gpu.layer import HIDDEN, Inputs

COLUMNS = 16  # examples of a part of the minibatch
DEEP = 32  # how much of a sum is read at once


@dataclass
class Moved:
    """A state before each step, as the right side of an outer product."""

    data: Tensor  # (K, T, width, B): the state after each step
    reverse: bool
    initial: Tensor | None = None  # (K, rows, B): the state before the first step; None: 0


def tile(size: int, largest: int = 64) -> int:
    """Return how much of a size one program computes."""
    return min(largest, max(16, int(triton.next_power_of_2(size))))


def of_inputs(
    inputs: Inputs, lengths: Tensor, parameters: Tensor, at: int, out: Tensor,
    *, rows: int, row: int = 0, precision: str = "ieee",
) -> None:  # fmt: skip
    """Write W x of all steps into the rows `row` ... of out (K, T, all rows, B).

    Args:
        inputs: x.
        lengths: (K, B).
        parameters: (K, P).
        at: where in a row of P the part of W begins that counts: (rows, inputs.size).
        out: where the products are written.
        rows: of W.
        row: the first that is written.
        precision: of the products: ieee, tf32x3 or tf32.
    """
    K, T, everything, B = out.shape
    wide, high = tile(B, 32), tile(rows)
    grid = (T * triton.cdiv(B, wide), triton.cdiv(rows, high), K)
    _of_inputs[grid](
        inputs.data, inputs.dropout, inputs.index, lengths, parameters, out,
        at, T, B, parameters.shape[1], rows, everything, row, inputs.scale, inputs.shift,
        SIZE=inputs.size, KIND=inputs.kind, DROPPED=inputs.dropout is not None,
        HIGH=high, WIDE=wide, DEEP=tile(inputs.size, DEEP), PRECISION=precision,
    )  # fmt: skip


def down(
    left: Tensor, lengths: Tensor, parameters: Tensor, at: int, d_x: Tensor,
    *, rows: int, row: int = 0, add: bool = False, dropout: Tensor | None = None, precision: str = "ieee",
) -> None:  # fmt: skip
    """Write W' left of all steps, times the factors of dropout, into d_x (K, T, input, B), or add it there.

    Args:
        left: (K, T, all rows, B), of which the rows `row` ... count.
        lengths: (K, B).
        parameters: (K, P).
        at: where in a row of P the part of W begins that counts: (rows, input).
        d_x: the gradient at x.
        rows: of W.
        row: the first that counts in left.
        add: whether d_x keeps what is there.
        dropout: (K, T, input, B).
        precision: of the products: ieee, tf32x3 or tf32.
    """
    K, T, size, B = d_x.shape
    wide, high = tile(B, 32), tile(size)
    grid = (T * triton.cdiv(B, wide), triton.cdiv(size, high), K)
    _down[grid](
        left, dropout, lengths, parameters, d_x,
        at, T, B, parameters.shape[1], rows, left.shape[2], row, size,
        DROPPED=dropout is not None, ADD=add, HIGH=high, WIDE=wide, DEEP=tile(rows, DEEP),
        PRECISION=precision,
    )  # fmt: skip


def outer(
    left: Tensor, right: Inputs | Moved, lengths: Tensor, parts: Tensor, at: int,
    *, rows: int, row: int = 0, columns: int, column: int = 0, stride: int, add: bool = False,
    precision: str = "ieee",
) -> None:  # fmt: skip
    """Write the sum over all steps of left times right transposed into each part's gradient.

    Args:
        left: (K, T, all rows, B), of which the rows `row` ... count.
        right: x, or a state before each step.
        lengths: (K, B).
        parts: (K, parts, P): part p sums over the examples from p * COLUMNS on.
        at: where in a row of P the gradient begins.
        rows: of the gradient.
        row: the first that counts in left.
        columns: of the gradient.
        column: the first that counts in right.
        stride: from a row of the gradient to the next.
        add: whether parts keeps what is there.
        precision: of the products: ieee, tf32x3 or tf32.
    """
    K, T, everything, B = left.shape
    high, across = tile(rows), tile(columns)
    moved, initial = 0, None
    if isinstance(right, Moved):
        moved, initial = -1 if right.reverse else 1, right.initial
        right = Inputs(HIDDEN, right.data, right.data.shape[2], lengths)
    grid = (triton.cdiv(rows, high) * triton.cdiv(columns, across), parts.shape[1], K)
    _outer[grid](
        left, right.data, right.dropout, right.index, lengths, initial, parts,
        at, T, B, parts.shape[2], rows, everything, row, columns, column, stride,
        0 if initial is None else initial.stride(0), right.scale, right.shift,
        SIZE=right.size, KIND=right.kind, DROPPED=right.dropout is not None, MOVED=moved,
        STARTED=initial is not None, ADD=add, HIGH=high, ACROSS=across, COLUMNS=COLUMNS, PRECISION=precision,
    )  # fmt: skip


def total(
    left: Tensor, lengths: Tensor, parts: Tensor, at: int,
    *, rows: int, row: int = 0, whole: bool = False, add: bool = False,
) -> None:  # fmt: skip
    """Write the sum of left over all steps into each part's gradient: of each row, or of the whole.

    Args:
        left: (K, T, all rows, B), of which the rows `row` ... count.
        lengths: (K, B).
        parts: (K, parts, P): part p sums over the examples from p * COLUMNS on.
        at: where in a row of P the gradient begins.
        rows: of the gradient, or that are summed into one number.
        row: the first that counts in left.
        whole: whether the gradient is one number.
        add: whether parts keeps what is there.
    """
    K, T, everything, B = left.shape
    high = tile(rows)
    _total[(1 if whole else triton.cdiv(rows, high), parts.shape[1], K)](
        left, lengths, parts, at, T, B, parts.shape[2], rows, everything, row,
        WHOLE=whole, ADD=add, HIGH=high, COLUMNS=COLUMNS,
    )  # fmt: skip


def mean_of_steps(values: Tensor, lengths: Tensor, mean: Tensor) -> None:
    """Write the mean over the steps of each example of values (K, T, rows, B) into mean (K, rows, B).

    Both may be rows of a larger array. An example without steps has 0.
    """
    K, _, rows, B = values.shape
    _mean_of_steps[(triton.cdiv(rows, 16), triton.cdiv(B, 32), K)](
        values, lengths, mean, B, rows, *values.stride()[:2], mean.stride(0), HIGH=16, WIDE=32
    )


@triton.jit
def _mean_of_steps(
    VALUES, LENGTHS, MEAN, B, rows, of_trial, of_step, of_mean, HIGH: tl.constexpr, WIDE: tl.constexpr
):
    k = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * HIGH + tl.arange(0, HIGH)
    column = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    there = column < B
    length = tl.load(LENGTHS + k * B + column, there, 0)
    unit = row[:, None] * B + column[None, :]
    total = tl.zeros([HIGH, WIDE], tl.float32)
    for n in range(tl.max(length, 0)):
        ok = (row < rows)[:, None] & (there & (n < length))[None, :]
        total += tl.load(VALUES + k * of_trial + n * of_step + unit, ok, 0.0)
    inside = (row < rows)[:, None] & there[None, :]
    tl.store(MEAN + k * of_mean + unit, total / tl.maximum(length, 1)[None, :], inside)


@triton.jit
def _of_inputs(
    X, DROPOUT, INDEX, LENGTHS, PARAMETERS, OUT,
    at, T, B, P, rows, everything, first_row, scale, shift,
    SIZE: tl.constexpr, KIND: tl.constexpr, DROPPED: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(2).to(tl.int64)
    across = tl.cdiv(B, WIDE)
    column = (tl.program_id(0) % across) * WIDE + tl.arange(0, WIDE)
    row = tl.program_id(1) * HIGH + tl.arange(0, HIGH)
    there = column < B
    length = tl.load(LENGTHS + k * B + column, there, 0)
    place = tl.program_id(0) // across + 0 * length
    ok = there & (place < length)
    index = tl.load(INDEX + k * B + column, there, 0)
    weights = PARAMETERS + k * P + at + row[:, None] * SIZE
    if KIND == 3:
        symbol = tl.load(X + index * T + place, ok, -1).to(tl.int64)
        known = ok & (symbol >= 0) & (symbol < SIZE)
        result = tl.load(weights + symbol[None, :], (row < rows)[:, None] & known[None, :], 0.0)
        if DROPPED:
            result *= tl.load(DROPOUT + ((k * T + place) * SIZE + symbol) * B + column, known, 0.0)[None, :]
    else:
        result = tl.zeros([HIGH, WIDE], tl.float32)
        for first in range(0, SIZE, DEEP):
            x = load_x(
                X, DROPOUT, k, index, place, column, ok, T, B, scale, shift,
                SIZE=SIZE, PADDED=DEEP, KIND=KIND, DROPPED=DROPPED, first=first,
            )  # fmt: skip
            feature = first + tl.arange(0, DEEP)
            weight = tl.load(
                weights + feature[None, :], (row < rows)[:, None] & (feature < SIZE)[None, :], 0.0
            )
            result = tl.dot(weight, x, result, input_precision=PRECISION)
    to = OUT + ((k * T + place[None, :]) * everything + first_row + row[:, None]) * B + column[None, :]
    tl.store(to, result, (row < rows)[:, None] & ok[None, :])


@triton.jit
def _down(
    LEFT, DROPOUT, LENGTHS, PARAMETERS, D_X,
    at, T, B, P, rows, everything, first_row, SIZE,
    DROPPED: tl.constexpr, ADD: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(2).to(tl.int64)
    across = tl.cdiv(B, WIDE)
    column = (tl.program_id(0) % across) * WIDE + tl.arange(0, WIDE)
    feature = tl.program_id(1) * HIGH + tl.arange(0, HIGH)
    there = column < B
    length = tl.load(LENGTHS + k * B + column, there, 0)
    place = tl.program_id(0) // across + 0 * length
    ok = there & (place < length)
    lefts = LEFT + ((k * T + place[None, :]) * everything + first_row) * B + column[None, :]
    result = tl.zeros([HIGH, WIDE], tl.float32)
    for first in range(0, rows, DEEP):
        row = first + tl.arange(0, DEEP)
        left = tl.load(lefts + row[:, None] * B, (row < rows)[:, None] & ok[None, :], 0.0)
        weights = PARAMETERS + k * P + at + row[None, :] * SIZE + feature[:, None]
        weight = tl.load(weights, (feature < SIZE)[:, None] & (row < rows)[None, :], 0.0)
        result = tl.dot(weight, left, result, input_precision=PRECISION)
    inside = (feature < SIZE)[:, None] & ok[None, :]
    to = ((k * T + place[None, :]) * SIZE + feature[:, None]) * B + column[None, :]
    if DROPPED:
        result *= tl.load(DROPOUT + to, inside, 0.0)
    if ADD:
        result += tl.load(D_X + to, inside, 0.0)
    tl.store(D_X + to, result, inside)


@triton.jit
def _outer(
    LEFT, X, DROPOUT, INDEX, LENGTHS, INITIAL, PARTS,
    at, T, B, P, rows, everything, first_row, columns, first_column, stride, initial_stride, scale, shift,
    SIZE: tl.constexpr, KIND: tl.constexpr, DROPPED: tl.constexpr, MOVED: tl.constexpr,
    STARTED: tl.constexpr, ADD: tl.constexpr,
    HIGH: tl.constexpr, ACROSS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(2).to(tl.int64)
    tiles = tl.cdiv(columns, ACROSS)
    row = (tl.program_id(0) // tiles) * HIGH + tl.arange(0, HIGH)
    begin = (tl.program_id(0) % tiles) * ACROSS
    feature = begin + tl.arange(0, ACROSS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = column < B
    length = tl.load(LENGTHS + k * B + column, there, 0)
    index = tl.load(INDEX + k * B + column, there, 0)
    result = tl.zeros([HIGH, ACROSS], tl.float32)
    for time in range(tl.max(length, 0)):
        place = time + 0 * length
        ok = there & (place < length)
        left = tl.load(
            LEFT + ((k * T + place[None, :]) * everything + first_row + row[:, None]) * B + column[None, :],
            (row < rows)[:, None] & ok[None, :], 0.0,
        )  # fmt: skip
        known = ok
        if MOVED == 1:
            known = ok & (place > 0 * length)
        if MOVED == -1:
            known = ok & (place < length - 1)
        right = load_x(
            X, DROPOUT, k, index, place - MOVED, column, known, T, B, scale, shift,
            SIZE=SIZE, PADDED=ACROSS, KIND=KIND, DROPPED=DROPPED, first=first_column + begin,
        )  # fmt: skip
        if STARTED:
            initial = INITIAL + k * initial_stride + feature[:, None] * B + column[None, :]
            right += tl.load(initial, (feature < columns)[:, None] & (ok & (known == 0))[None, :], 0.0)
        result = tl.dot(left, tl.trans(right), result, input_precision=PRECISION)
    to = PARTS + (k * tl.num_programs(1) + tl.program_id(1)) * P + at
    to += row[:, None] * stride + feature[None, :]
    inside = (row < rows)[:, None] & (feature < columns)[None, :]
    if ADD:
        result += tl.load(to, inside, 0.0)
    tl.store(to, result, inside)


@triton.jit
def _total(
    LEFT, LENGTHS, PARTS, at, T, B, P, rows, everything, first_row,
    WHOLE: tl.constexpr, ADD: tl.constexpr, HIGH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(2).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = column < B
    length = tl.load(LENGTHS + k * B + column, there, 0)
    begin = tl.program_id(0) * HIGH
    unit = tl.arange(0, HIGH)
    sums = tl.zeros([HIGH], tl.float32)
    for time in range(tl.max(length, 0)):
        place = time + 0 * length
        ok = there & (place < length)
        lefts = LEFT + ((k * T + place[None, :]) * everything + first_row) * B + column[None, :]
        for first in range(begin, rows if WHOLE else begin + 1, HIGH):
            row = first + unit
            sums += tl.sum(tl.load(lefts + row[:, None] * B, (row < rows)[:, None] & ok[None, :], 0.0), 1)
    to = PARTS + (k * tl.num_programs(1) + tl.program_id(1)) * P + at
    if WHOLE:
        number = to + tl.arange(0, 1)
        result = tl.sum(sums[None, :], 1)
        if ADD:
            result += tl.load(number)
        tl.store(number, result)
    else:
        row = begin + unit
        if ADD:
            sums += tl.load(to + row, row < rows, 0.0)
        tl.store(to + row, sums, row < rows)
