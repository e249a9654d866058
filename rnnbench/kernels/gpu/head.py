"""Computes the head of a network, the loss of its answers and their gradients, on a GPU.

Three kernels: `forward` writes the logits and measures them, `down` writes the gradient at h, and `across`
that at the head's weights. The last two compute the gradient at the logits anew from the logits, so that it
is nowhere in memory. A `place` is a step of an example; a program takes COLUMNS examples at STEPS steps.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnbench.kernels.gpu.scan import COLUMNS, padded
from rnnbench.tasks import Goal

LARGEST = 32  # rows of a block at most
CLASSES, NUMBERS, KEYS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # kinds of loss
LOSSES = {
    Goal.label: CLASSES, Goal.labels: CLASSES, Goal.value: NUMBERS, Goal.values: NUMBERS, Goal.keys: KEYS,
}  # fmt: skip


@dataclass
class Answers:
    """The arrays of the head for a minibatch; T is 1 where the answer is at the end."""

    h: Tensor  # (K, width, B), or of every step (K, T, width, B)
    targets: Tensor  # of all examples, as a Task has them: (N,), (N, outputs), (N, T) or (N, T, outputs)
    index: Tensor  # (K, B) int64: which example; -1 where there is none
    lengths: Tensor  # (K, B) int64: steps of each example, 0 where there is none
    asked: Tensor  # (K, B) int64: answers of each example; where each step has one, its steps
    parameters: Tensor  # (K, P)
    # Forward:
    logits: Tensor  # (K, T, outputs, B); in evaluation 0 where no answer counts
    measured: (
        Tensor  # (K, T, 4, B): of each answer the greatest logit, the sum of exp, the loss, whether right
    )
    losses: Tensor  # (K, B): of each example, summed over its answers
    hits: Tensor  # (K, B)
    count: Tensor  # (K,): answers of the minibatch
    predictions: Tensor  # (K, B) int64: the class of an answer at the end, 0 of other goals
    # Backward: the gradient of the mean loss of an answer
    d_h: Tensor | None = None  # as h
    parts: Tensor | None = None  # (K, parts, P)


class Head:
    """The kernels of a network's head.

    Args:
        goal: of the task; its own loss, not one in its place.
        outputs: width of the head.
        width: of h.
        weight: where head.weight begins in a row of P.
        bias: where head.bias begins.
        precision: of products: ieee, tf32x3 or tf32.
    """

    def __init__(
        self, goal: Goal, outputs: int, width: int, *, weight: int, bias: int, precision: str = "ieee"
    ) -> None:
        self.goal = goal
        self.sizes = {
            "OUTPUTS": outputs, "WIDTH": width, "OB": block(outputs), "WB": block(width),
            "STEPS": 2 if goal.every_step else 1, "BB": COLUMNS, "LOSS": LOSSES[goal].value,
            "PRECISION": precision,
        }  # fmt: skip
        self.places = {"AT_WEIGHT": weight, "AT_BIAS": bias}
        self.warps = 8 if goal.every_step else 4  # so that nothing leaves the registers

    def answers(self, K: int, T: int, B: int, device: torch.device) -> dict[str, Tensor]:
        """Make the arrays that the forward pass writes; T is 1 where the answer is at the end."""
        zeros = torch.zeros(K, B, device=device)
        return {
            "logits": torch.zeros(K, T, self.sizes["OUTPUTS"], B, device=device),
            "measured": torch.zeros(K, T, 4, B, device=device),
            "losses": zeros,
            "hits": zeros.clone(),
            "count": torch.zeros(K, device=device),
            "predictions": torch.zeros(K, B, dtype=torch.int64, device=device),
        }

    def forward(self, answers: Answers, training: bool) -> None:
        """Write logits, losses, hits, count and predictions."""
        K, T, _, B = answers.logits.shape
        sizes = self._sizes(answers)
        parts, places = triton.cdiv(B, COLUMNS), triton.cdiv(T, self.sizes["STEPS"])
        written = {
            "MEASURED": answers.measured, "LOSSES": answers.losses, "HITS": answers.hits,
            "COUNT": answers.count, "PREDICTIONS": answers.predictions,
        }  # fmt: skip
        every = self.goal.every_step
        forward[(places, parts, K)](
            answers.h, ASKED=answers.asked, **self._read(answers), **written, **sizes,
            EVERY=every, TRAINING=training,
            num_warps=self.warps,
        )  # fmt: skip
        if every:
            over_steps[(parts, K)](
                answers.measured, answers.lengths, answers.losses, answers.hits, T, B, BB=COLUMNS
            )

    def backward(self, answers: Answers) -> None:
        """Write d_h and, into every part, the gradient at the head's weights."""
        K, T, _, B = answers.logits.shape
        sizes = self._sizes(answers)
        parts, places = triton.cdiv(B, COLUMNS), triton.cdiv(T, self.sizes["STEPS"])
        rows = triton.cdiv(sizes["WIDTH"], sizes["WB"])
        read = self._read(answers) | {"MEASURED": answers.measured, "COUNT": answers.count}
        down[(places * rows, parts, K)](answers.d_h, **read, **sizes, num_warps=self.warps)
        blocks = triton.cdiv(sizes["OUTPUTS"], sizes["OB"]) * rows
        across[(blocks, parts, K)](answers.h, answers.parts, **read, **sizes, num_warps=self.warps)

    def _read(self, answers: Answers) -> dict[str, Tensor]:
        return {
            "TARGETS": answers.targets, "INDEX": answers.index, "LENGTHS": answers.lengths,
            "PARAMETERS": answers.parameters, "LOGITS": answers.logits,
        }  # fmt: skip

    def _sizes(self, answers: Answers) -> dict[str, Any]:
        _, T, _, B = answers.logits.shape
        stored = answers.targets.shape[1] if self.goal.every_step else 1
        numbers = {"T": T, "B": B, "P": answers.parameters.shape[1], "STORED": stored}
        return numbers | self.places | self.sizes


def block(size: int) -> int:
    """Return the rows of a block, where `size` rows are computed."""
    return min(padded(size), LARGEST)


@triton.jit
def places_of(INDEX, LENGTHS, k, part, first, T, B, STEPS: tl.constexpr, BB: tl.constexpr):
    """Return step, column, example and whether it counts, of the places of a program."""
    place = tl.arange(0, STEPS * BB)
    column = part * BB + place % BB
    t = first + place // BB
    index = tl.load(INDEX + k * B + column, column < B, -1)
    length = tl.load(LENGTHS + k * B + column, column < B, 0)
    return t, column, index, (t < length) & (t < T)


@triton.jit
def number_of(TARGETS, index, t, row, ok, STORED, OUTPUTS: tl.constexpr):
    """Return the targets (rows, places) that are numbers or keys; 0 where there are none."""
    at = (index * STORED + t)[None, :] * OUTPUTS + row[:, None]
    return tl.load(TARGETS + at, (row < OUTPUTS)[:, None] & ok[None, :], 0).to(tl.float32)


@triton.jit
def d_logits(
    TARGETS, LOGITS, MEASURED, COUNT, k, t, column, index, row, ok, T, B, STORED,
    OUTPUTS: tl.constexpr, LOSS: tl.constexpr,
):  # fmt: skip
    """Return the gradient (rows, places) of the mean loss at logits; 0 where there are none."""
    real = (row < OUTPUTS)[:, None] & ok[None, :]
    step = k * T + t
    logits = tl.load(LOGITS + (step[None, :] * OUTPUTS + row[:, None]) * B + column[None, :], real, 0.0)
    if LOSS == CLASSES:
        greatest = tl.load(MEASURED + step * 4 * B + column, ok, 0.0)
        total = tl.load(MEASURED + (step * 4 + 1) * B + column, ok, 1.0)
        label = tl.load(TARGETS + index * STORED + t, ok, 0).to(tl.int32)
        real = real & (label >= 0)[None, :]
        right = tl.where(row[:, None] == label[None, :], 1.0, 0.0)
        d = tl.exp(logits - greatest[None, :]) / total[None, :] - right
    elif LOSS == NUMBERS:
        d = 2 * (logits - number_of(TARGETS, index, t, row, ok, STORED, OUTPUTS)) / OUTPUTS
    else:
        d = tl.sigmoid(logits) - number_of(TARGETS, index, t, row, ok, STORED, OUTPUTS)
    return tl.where(real, d / tl.load(COUNT + k), 0.0)


@triton.jit
def logits_of(
    H, WEIGHT, BIAS, step, column, row, ok, B,
    OUTPUTS: tl.constexpr, WIDTH: tl.constexpr, WB: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return logits (rows, places): products of rows of the head's weight with h, and the bias."""
    logits = tl.zeros([row.shape[0], column.shape[0]], tl.float32)
    for w in range(0, WIDTH, WB):
        unit = w + tl.arange(0, WB)
        real = (row < OUTPUTS)[:, None] & (unit < WIDTH)[None, :]
        weight = tl.load(WEIGHT + row[:, None] * WIDTH + unit[None, :], real, 0.0)
        real = (unit < WIDTH)[:, None] & ok[None, :]
        h = tl.load(H + (step[None, :] * WIDTH + unit[:, None]) * B + column[None, :], real, 0.0)
        logits = tl.dot(weight, h, logits, input_precision=PRECISION)
    return logits + tl.load(BIAS + row, row < OUTPUTS, 0.0)[:, None]


@triton.jit
def entropy(logits, row, label, greatest, total, right, guess, OUTPUTS: tl.constexpr):
    """Take a block of logits (rows, places) into account.

    Returns:
        of each place the greatest logit so far, the sum of exp(logit - greatest), the logit of the label, and
        the class with the greatest logit. As in torch, nan is the greatest, and the first of equals counts.
    """
    shown = tl.where((row < OUTPUTS)[:, None], logits, -float("inf"))
    here, place = tl.max(tl.where(shown != shown, float("inf"), shown), 0, return_indices=True)
    guess = tl.where(here > greatest, tl.min(row, 0) + place, guess)
    before, greatest = greatest, tl.maximum(greatest, here)
    base = tl.where(greatest == -float("inf"), 0.0, greatest)
    total = total * tl.exp(before - base) + tl.sum(tl.exp(shown - base[None, :]), 0)
    right += tl.sum(tl.where(row[:, None] == label[None, :], logits, 0.0), 0)
    return greatest, total, right, guess


@triton.jit
def log_of_1_more(x):
    """Return log(1 + x), which is exact for an x that 1 + x rounds away."""
    more = 1 + x
    return tl.where(more == 1, x, tl.log(more) * x / (more - 1))


@triton.jit
def distance(logits, aim, OUTPUTS: tl.constexpr, LOSS: tl.constexpr):
    """Return the loss of each output: of numbers a share of the mean square, of keys the cross entropy."""
    if LOSS == NUMBERS:
        loss = (logits - aim) * (logits - aim) / OUTPUTS
    else:
        loss = tl.where(logits < 0, 0.0, logits) - logits * aim + log_of_1_more(tl.exp(-tl.abs(logits)))
    return loss


@triton.jit
def count_answers(ASKED, COUNT, T, B):
    """Write how many answers the examples of a trial have."""
    count = tl.zeros([128], tl.int64)
    for first in range(0, B, 128):
        at = first + tl.arange(0, 128)
        count += tl.minimum(tl.load(ASKED + at, at < B, 0), T)
    tl.store(COUNT, tl.sum(count, 0).to(tl.float32))


@triton.jit
def forward(
    H, TARGETS, INDEX, LENGTHS, ASKED, PARAMETERS, LOGITS, MEASURED, LOSSES, HITS, COUNT, PREDICTIONS,
    T, B, P, STORED, AT_WEIGHT, AT_BIAS,
    OUTPUTS: tl.constexpr, WIDTH: tl.constexpr, OB: tl.constexpr, WB: tl.constexpr, STEPS: tl.constexpr,
    BB: tl.constexpr, LOSS: tl.constexpr, PRECISION: tl.constexpr, EVERY: tl.constexpr,
    TRAINING: tl.constexpr,
):  # fmt: skip
    """Write logits and what is measured of them; grid (steps / STEPS, parts, K)."""
    k, part, first = tl.program_id(2).to(tl.int64), tl.program_id(1), tl.program_id(0) * STEPS
    t, column, index, ok = places_of(INDEX, LENGTHS, k, part, first, T, B, STEPS, BB)
    step, weights = k * T + t, PARAMETERS + k * P
    if LOSS == CLASSES:
        label = tl.load(TARGETS + index * STORED + t, ok, 0).to(tl.int32)
    loss = tl.zeros([STEPS * BB], tl.float32)
    right, total = loss, loss  # the logit of the label, and the sum of exp(logit - greatest)
    greatest = loss - float("inf")
    guess = tl.zeros([STEPS * BB], tl.int32)
    for o in range(0, OUTPUTS, OB):
        row = o + tl.arange(0, OB)
        logits = logits_of(
            H, weights + AT_WEIGHT, weights + AT_BIAS, step, column, row, ok, B, OUTPUTS, WIDTH, WB, PRECISION
        )
        real = (row < OUTPUTS)[:, None] & ok[None, :]
        inside = real if TRAINING else (row < OUTPUTS)[:, None] & ((t < T) & (column < B))[None, :]
        logits = tl.where(real, logits, 0.0)
        tl.store(LOGITS + (step[None, :] * OUTPUTS + row[:, None]) * B + column[None, :], logits, inside)
        if LOSS == CLASSES:
            greatest, total, right, guess = entropy(
                logits, row, label, greatest, total, right, guess, OUTPUTS
            )
        else:
            aim = number_of(TARGETS, index, t, row, ok, STORED, OUTPUTS)
            loss += tl.sum(tl.where(real, distance(logits, aim, OUTPUTS, LOSS), 0.0), 0)
    there = (t < T) & (column < B)
    if LOSS == CLASSES:
        loss = tl.log(total) + (greatest - right)
        loss = tl.where(label >= 0, loss, 0.0)
        right = tl.where(guess == label, 1.0, 0.0)
        tl.store(MEASURED + step * 4 * B + column, greatest, ok)
        tl.store(MEASURED + (step * 4 + 1) * B + column, total, ok)
    loss, right = tl.where(ok, loss, 0.0), tl.where(ok, right, 0.0)
    if EVERY:
        tl.store(MEASURED + (step * 4 + 2) * B + column, loss, ok)
        tl.store(MEASURED + (step * 4 + 3) * B + column, right, ok)
    else:
        tl.store(LOSSES + k * B + column, loss, there)
        tl.store(HITS + k * B + column, right, there)
        tl.store(PREDICTIONS + k * B + column, guess.to(tl.int64), there)
    if (first == 0) & (part == 0):
        count_answers(ASKED + k * B, COUNT + k, T, B)


@triton.jit
def over_steps(MEASURED, LENGTHS, LOSSES, HITS, T, B, BB: tl.constexpr):
    """Write loss and hits of each example; grid (parts, K)."""
    k = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BB + tl.arange(0, BB)
    length = tl.load(LENGTHS + k * B + column, column < B, 0)
    loss = tl.zeros([BB], tl.float32)
    hits = tl.zeros([BB], tl.float32)
    for first in range(0, T, 32):
        t = first + tl.arange(0, 32)
        ok = (t[:, None] < length[None, :]) & (t < T)[:, None]
        at = MEASURED + (k * T + t)[:, None] * 4 * B + column[None, :]
        loss += tl.sum(tl.load(at + 2 * B, ok, 0.0), 0)
        hits += tl.sum(tl.load(at + 3 * B, ok, 0.0), 0)
    tl.store(LOSSES + k * B + column, loss, column < B)
    tl.store(HITS + k * B + column, hits, column < B)


@triton.jit
def down(
    D_H, TARGETS, INDEX, LENGTHS, PARAMETERS, LOGITS, MEASURED, COUNT,
    T, B, P, STORED, AT_WEIGHT, AT_BIAS,
    OUTPUTS: tl.constexpr, WIDTH: tl.constexpr, OB: tl.constexpr, WB: tl.constexpr, STEPS: tl.constexpr,
    BB: tl.constexpr, LOSS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient at h, 0 where no answer counts; grid (steps / STEPS * blocks of h, parts, K)."""
    k = tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(WIDTH, WB)
    unit = tl.program_id(0) % blocks * WB + tl.arange(0, WB)
    t, column, index, ok = places_of(
        INDEX, LENGTHS, k, tl.program_id(1), tl.program_id(0) // blocks * STEPS, T, B, STEPS, BB
    )
    d_h = tl.zeros([WB, STEPS * BB], tl.float32)
    for o in range(0, OUTPUTS, OB):
        row = o + tl.arange(0, OB)
        real = (row < OUTPUTS)[None, :] & (unit < WIDTH)[:, None]
        weight = tl.load(PARAMETERS + k * P + AT_WEIGHT + row[None, :] * WIDTH + unit[:, None], real, 0.0)
        d = d_logits(
            TARGETS, LOGITS, MEASURED, COUNT, k, t, column, index, row, ok, T, B, STORED, OUTPUTS, LOSS
        )
        d_h = tl.dot(weight, d, d_h, input_precision=PRECISION)
    inside = (unit < WIDTH)[:, None] & ((t < T) & (column < B))[None, :]
    at = ((k * T + t)[None, :] * WIDTH + unit[:, None]) * B + column[None, :]
    tl.store(D_H + at, tl.where(ok[None, :], d_h, 0.0), inside)


@triton.jit
def across(
    H, PARTS, TARGETS, INDEX, LENGTHS, PARAMETERS, LOGITS, MEASURED, COUNT,
    T, B, P, STORED, AT_WEIGHT, AT_BIAS,
    OUTPUTS: tl.constexpr, WIDTH: tl.constexpr, OB: tl.constexpr, WB: tl.constexpr, STEPS: tl.constexpr,
    BB: tl.constexpr, LOSS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradient at the head's weights of a part; grid (blocks of the weight, parts, K)."""
    k = tl.program_id(2).to(tl.int64)
    part = tl.program_id(1)
    blocks = tl.cdiv(WIDTH, WB)
    row = tl.program_id(0) // blocks * OB + tl.arange(0, OB)
    unit = tl.program_id(0) % blocks * WB + tl.arange(0, WB)
    example = part * BB + tl.arange(0, BB)
    steps = tl.minimum(tl.max(tl.load(LENGTHS + k * B + example, example < B, 0), 0), T)
    d_weight = tl.zeros([OB, WB], tl.float32)
    d_bias = tl.zeros([OB], tl.float32)
    for first in range(0, steps, STEPS):
        t, column, index, ok = places_of(INDEX, LENGTHS, k, part, first, T, B, STEPS, BB)
        d = d_logits(
            TARGETS, LOGITS, MEASURED, COUNT, k, t, column, index, row, ok, T, B, STORED, OUTPUTS, LOSS
        )
        real = (unit < WIDTH)[None, :] & ok[:, None]
        h = tl.load(H + ((k * T + t)[:, None] * WIDTH + unit[None, :]) * B + column[:, None], real, 0.0)
        d_weight = tl.dot(d, h, d_weight, input_precision=PRECISION)
        d_bias += tl.sum(d, 1)
    parts = PARTS + (k * tl.num_programs(1) + part) * P
    real = (row < OUTPUTS)[:, None] & (unit < WIDTH)[None, :]
    tl.store(parts + AT_WEIGHT + row[:, None] * WIDTH + unit[None, :], d_weight, real)
    if tl.program_id(0) % blocks == 0:
        tl.store(parts + AT_BIAS + row, d_bias, row < OUTPUTS)
