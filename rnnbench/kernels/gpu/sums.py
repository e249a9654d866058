"""Sums of a minibatch on a GPU, each in an order that does not depend on the size of the stack."""

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 1024  # elements of a program


def squares(gradient: Tensor) -> Tensor:
    """Make the array (K, chunks) for the sums of squares of chunks of a gradient (K, P)."""
    K, P = gradient.shape
    return torch.zeros(K, triton.cdiv(P, CHUNK), device=gradient.device)


def gradient_of(parts: Tensor, gradient: Tensor, squares: Tensor) -> None:
    """Write the gradient (K, P), the sum of parts (K, parts, P) in their order, and squares of its chunks."""
    K, P = gradient.shape
    add_parts[(triton.cdiv(P, CHUNK), K)](parts, gradient, squares, parts.shape[1], P, CHUNK=CHUNK)


def norms(squares: Tensor, norm: Tensor) -> None:
    """Write the norms (K, 1) of gradients, of the sums of squares of their chunks."""
    add_squares[(len(norm),)](squares, norm, squares.shape[1])


def totals(
    losses: Tensor, hits: Tensor, count: Tensor, index: Tensor, sums: Tensor, norm: Tensor | None = None
) -> None:
    """Add those of a minibatch to sums (K, 4) float64: loss, hits, norm times examples, answers.

    Args:
        losses: of each example, (K, B).
        hits: (K, B).
        count: answers, (K,).
        index: (K, B), -1 where there is no example.
        sums: to which they are added.
        norm: of the gradient, (K, 1); None: there is none.
    """
    add_totals[(len(sums),)](losses, hits, count, index, sums, norm, losses.shape[1])


@triton.jit
def add_parts(PARTS, GRADIENT, SQUARES, parts, P, CHUNK: tl.constexpr):
    """Add the parts of a chunk in order; grid (chunks, K)."""
    k = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    total = tl.zeros([CHUNK], tl.float32)
    for part in range(parts):
        total += tl.load(PARTS + (k * parts + part) * P + at, at < P, 0.0)
    tl.store(GRADIENT + k * P + at, total, at < P)
    tl.store(SQUARES + k * tl.num_programs(0) + tl.program_id(0), tl.sum(total * total, 0))


@triton.jit
def add_squares(SQUARES, NORM, chunks):
    """Add the squares of all chunks; grid (K,)."""
    k = tl.program_id(0).to(tl.int64)
    total = tl.zeros([128], tl.float32)
    for first in range(0, chunks, 128):
        at = first + tl.arange(0, 128)
        total += tl.load(SQUARES + k * chunks + at, at < chunks, 0.0)
    tl.store(NORM + k, tl.sqrt(tl.sum(total, 0)))


@triton.jit
def add_totals(LOSSES, HITS, COUNT, INDEX, SUMS, NORM, B):
    """Add a minibatch's sums of a trial; grid (K,)."""
    k = tl.program_id(0).to(tl.int64)
    loss = tl.zeros([128], tl.float64)
    hits = tl.zeros([128], tl.float64)
    examples = tl.zeros([128], tl.int32)
    for first in range(0, B, 128):
        at = first + tl.arange(0, 128)
        loss += tl.load(LOSSES + k * B + at, at < B, 0.0)
        hits += tl.load(HITS + k * B + at, at < B, 0.0)
        examples += (tl.load(INDEX + k * B + at, at < B, -1) >= 0).to(tl.int32)
    sums = SUMS + k * 4
    tl.store(sums, tl.load(sums) + tl.sum(loss, 0))
    tl.store(sums + 1, tl.load(sums + 1) + tl.sum(hits, 0))
    if NORM is not None:
        tl.store(sums + 2, tl.load(sums + 2) + tl.load(NORM + k).to(tl.float64) * tl.sum(examples, 0))
    tl.store(sums + 3, tl.load(sums + 3) + tl.load(COUNT + k))
