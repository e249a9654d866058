"""Reads the input of a step inside of a kernel: the layer below's output, or examples by their index."""

import triton
import triton.language as tl


@triton.jit
def load_x(
    X, DROPOUT, k, index, at, column, ok, T, B, scale, shift,
    SIZE: tl.constexpr, PADDED: tl.constexpr, KIND: tl.constexpr, DROPPED: tl.constexpr, first=0,
):  # fmt: skip
    """Load x (PADDED, columns) of a step at places `at` (columns,); 0 beyond SIZE and where not ok.

    The rows of x that are loaded begin at `first`.
    """
    row = first + tl.arange(0, PADDED)[:, None]
    real = (row < SIZE) & ok[None, :]
    if KIND == 0:
        x = tl.load(X + ((k * T + at[None, :]) * SIZE + row) * B + column[None, :], real, 0.0)
    elif KIND == 3:
        symbol = tl.load(X + index * T + at, ok, -1).to(tl.int32)
        x = tl.where(row == symbol[None, :], 1.0, 0.0)
    else:
        x = tl.load(X + (index[None, :] * T + at[None, :]) * SIZE + row, real, 0).to(tl.float32)
        if KIND == 1:
            x = tl.where(real, x * scale + shift, 0.0)
    if DROPPED:
        x *= tl.load(DROPOUT + ((k * T + at[None, :]) * SIZE + row) * B + column[None, :], real, 0.0)
    return x
