"""Lowers what makes constants, views, sums and products of tensors."""

from dataclasses import replace
from typing import Any

from torch.fx import Node

from rnnbench.kernels.generator.graph import Factor, Outer
from rnnbench.kernels.lower_elementwise import add
from rnnbench.kernels.lowering import (
    EXAMPLES,
    ROWS,
    SAME,
    TRIALS,
    Gradient,
    InputGradient,
    Lowered,
    Lowering,
    Matrix,
    NoKernelError,
    Sheet,
    aligned,
    operation,
    rule,
)

# What makes constants.


@rule("zeros_like", "new_zeros", "zeros", "empty_like", "new_empty", "empty")
def _zeros(low: Lowering, node: Node, *args: Any, **options: Any) -> Lowered:
    return low.constant(0, tuple(node.meta["val"].shape))


@rule("ones_like", "new_ones", "ones")
def _ones(low: Lowering, node: Node, *args: Any, **options: Any) -> Lowered:
    return low.constant(1, tuple(node.meta["val"].shape))


@rule("full_like", "new_full", "full", "scalar_tensor")
def _full(low: Lowering, node: Node, *args: Any, **options: Any) -> Lowered:
    number = args[-1]
    assert isinstance(number, int | float)
    return low.constant(float(number), tuple(node.meta["val"].shape))


@rule("fill")
def _fill(low: Lowering, node: Node, a: Lowered, number: float) -> Lowered:
    return low.constant(float(number), tuple(node.meta["val"].shape))


@rule("copy")
def _copy(low: Lowering, node: Node, a: Lowered, b: Lowered, **options: Any) -> Lowered:
    return low.elementwise(lambda _, block: block, a, b)


@rule("lift_fresh_copy", "alias", "detach", "clone", "_to_copy", "lift_fresh")
def _same(low: Lowering, node: Node, a: Lowered, **options: Any) -> Lowered:
    return a


# Views.


@rule("view", "_unsafe_view", "unsqueeze", "squeeze", "select", "_reshape_alias")
def _reshape(low: Lowering, node: Node, a: Lowered, *args: Any, **options: Any) -> Lowered:
    shape = tuple(node.meta["val"].shape)
    if isinstance(a, Matrix | Gradient | InputGradient):
        assert [n for n in shape if n != 1] == [n for n in a.shape if n != 1]
        return replace(a, shape=shape)
    if operation(node) == "aten.select":
        dim = args[0] % len(a.shape)
        if a.roles[dim] == ROWS:
            raise NoKernelError("uses single rows of a tensor")
        assert a.roles[dim] == SAME
    kept = [(size, role) for size, role in zip(a.shape, a.roles, strict=True) if size != 1 or role != SAME]
    if operation(node) == "aten.select":
        kept = [(size, role) for n, (size, role) in enumerate(zip(a.shape, a.roles, strict=True))
                if n != args[0] % len(a.shape) and (size != 1 or role != SAME)]  # fmt: skip
    roles = ""
    for size in shape:
        if kept and kept[0][0] == size:
            roles += kept.pop(0)[1]
        else:
            if size != 1:
                raise NoKernelError("divides rows in another way than into blocks of the hidden size")
            roles += SAME
    assert not kept
    return replace(a, shape=shape, roles=roles)


@rule("transpose", "permute", "t")
def _transpose(low: Lowering, node: Node, a: Lowered, *dims: Any) -> Lowered:
    count = len(a.shape)
    order = list(range(count))
    if operation(node) == "aten.permute":
        order = [dim % count for dim in dims[0]]
    else:
        one, other = (dim % count for dim in (dims or (-2, -1)))
        order[one], order[other] = order[other], order[one]
    shape = tuple(a.shape[dim] for dim in order)
    if isinstance(a, Sheet):
        return replace(a, shape=shape, roles="".join(a.roles[dim] for dim in order))
    if isinstance(a, InputGradient):
        return replace(a, shape=shape)
    # A matrix of one row or column is turned, too; of more dimensions, those of size 1 say nothing.
    kept = [dim for dim in order if a.shape[dim] != 1 or (count == 3 and dim > 0)]
    if kept == sorted(kept):
        return replace(a, shape=shape)
    assert len(kept) < 4 and kept[-2:] == sorted(kept)[:-3:-1]
    if isinstance(a, Gradient):
        turned = tuple((column, right, row, left) for row, left, column, right in a.outers)
        return Gradient(shape, turned)  # type: ignore[arg-type]
    return replace(a, shape=shape, transposed=not a.transposed)


@rule("expand")
def _expand(low: Lowering, node: Node, a: Lowered, *args: Any, **options: Any) -> Lowered:
    shape = tuple(node.meta["val"].shape)
    if isinstance(a, Matrix):  # a row of a weight stands for a block of equal ones
        return replace(a, shape=shape)
    if not isinstance(a, Sheet):
        assert a.shape == shape
        return a
    return replace(a, shape=shape, roles=SAME * (len(shape) - len(a.shape)) + a.roles)


def _blocks(low: Lowering, size: int) -> int:
    """Return a number of rows in blocks."""
    if size % low.hidden_size:
        raise NoKernelError(f"uses {size} rows, which is no multiple of the hidden size {low.hidden_size}")
    return size // low.hidden_size


def _cut(low: Lowering, a: Lowered, dim: int, start: int, end: int) -> Lowered:
    """Return the part of a tensor from start to end along a dimension."""
    dim %= len(a.shape)
    start, end = (max(0, min(at + a.shape[dim] * (at < 0), a.shape[dim])) for at in (start, end))
    shape = (*a.shape[:dim], end - start, *a.shape[dim + 1 :])
    if shape == a.shape:
        return a
    if isinstance(a, Matrix):
        first, last = _blocks(low, start), _blocks(low, end)
        along_rows = (dim == len(a.shape) - 2) is not a.transposed
        assert dim >= len(a.shape) - 2
        if along_rows:
            return replace(a, shape=shape, rows=(a.rows[0] + first, a.rows[0] + last))
        assert a.columns is not None
        return replace(a, shape=shape, columns=(a.columns[0] + first, a.columns[0] + last))
    assert isinstance(a, Sheet) and not a.x
    if a.roles[dim] == SAME:
        return replace(a, shape=shape)
    if a.roles[dim] != ROWS:
        raise NoKernelError("uses some of the examples or trials apart from the others")
    return replace(a, shape=shape, blocks=a.blocks[_blocks(low, start) : _blocks(low, end)])


@rule("slice")
def _slice(
    low: Lowering, node: Node, a: Lowered, dim: int = 0, start: int | None = 0, end: int | None = None,
    step: int = 1,
) -> Lowered:  # fmt: skip
    assert step == 1
    whole = a.shape[dim % len(a.shape)]
    return _cut(low, a, dim, start or 0, whole if end is None else end)


@rule("split", "split_with_sizes")
def _split(low: Lowering, node: Node, a: Lowered, sizes: Any, dim: int = 0) -> Lowered:
    whole = a.shape[dim % len(a.shape)]
    if isinstance(sizes, int):
        sizes = [min(sizes, whole - at) for at in range(0, whole, sizes)]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    return [_cut(low, a, dim, at, at + size) for at, size in zip(starts, sizes, strict=True)]


@rule("cat")
def _cat(low: Lowering, node: Node, parts: list[Lowered], dim: int = 0) -> Lowered:
    shape = tuple(node.meta["val"].shape)
    dim %= len(shape)
    if any(isinstance(part, Gradient) for part in parts):
        outers: list[Any] = []
        at = 0
        for part in parts:
            assert isinstance(part, Gradient)
            outers += _moved(part, dim - len(shape) + 2, _blocks(low, at))
            at += part.shape[dim]
        return Gradient(shape, tuple(outers))
    sheets = [low.sheet(part) for part in parts]
    others = [replace(sheet, shape=_without(sheet.shape, dim), roles=_without(sheet.roles, dim))
              for sheet in sheets]  # fmt: skip
    _, roles = aligned(others)
    if any(sheet.roles[dim] not in (ROWS, SAME) for sheet in sheets):
        raise NoKernelError("joins examples or trials")
    blocks: tuple[int, ...] = ()
    for sheet in sheets:
        count = _blocks(low, sheet.shape[dim])
        blocks += sheet.blocks * count if sheet.roles[dim] == SAME else sheet.blocks
    roles = roles[:dim] + ROWS + roles[dim:]
    summed = any(sheet.summed for sheet in sheets)
    return Sheet(shape, roles, blocks, summed=summed)


def _without(values: Any, dim: int) -> Any:
    return values[:dim] + values[dim + 1 :]


def _moved(gradient: Gradient, axis: int, by: int) -> list[Any]:
    """Return the outer products of a gradient some blocks further along rows (axis 0) or columns (1)."""
    assert axis in (0, 1)
    return [
        (row + by * (axis == 0), left, column + by * (axis == 1), right)
        for row, left, column, right in gradient.outers
    ]


@rule("slice_backward")
def _slice_backward(
    low: Lowering, node: Node, a: Lowered, sizes: list[int], dim: int, start: int, end: int, step: int
) -> Lowered:
    assert step == 1
    shape = tuple(sizes)
    dim %= len(shape)
    start, end = (max(0, min(at + shape[dim] * (at < 0), shape[dim])) for at in (start, end))
    if a.shape == shape:
        return a
    if isinstance(a, Gradient):
        return Gradient(shape, tuple(_moved(a, dim - len(shape) + 2, _blocks(low, start))))
    sheet = low.sheet(a)
    assert sheet.roles[dim] in (ROWS, SAME)
    inside = sheet.blocks * _blocks(low, end - start) if sheet.roles[dim] == SAME else sheet.blocks
    zero = (low.builder.number(0),)
    blocks = zero * _blocks(low, start) + inside + zero * _blocks(low, shape[dim] - end)
    roles = sheet.roles[:dim] + ROWS + sheet.roles[dim + 1 :]
    return Sheet(shape, roles, blocks, summed=sheet.summed)


@rule("select_backward")
def _select_backward(
    low: Lowering, node: Node, a: Lowered, sizes: list[int], dim: int, index: int
) -> Lowered:
    dim %= len(sizes)
    assert sizes[dim] == 1
    if not isinstance(a, Sheet):
        return replace(a, shape=tuple(sizes))
    return replace(a, shape=tuple(sizes), roles=a.roles[:dim] + SAME + a.roles[dim:])


@rule("stack")
def _stack(low: Lowering, node: Node, parts: list[Lowered], dim: int = 0) -> Lowered:
    raise NoKernelError("uses torch.stack, which has no kernel: torch.cat along dimension 1 has")


# Sums.


@rule("sum", "mean")
def _sum(low: Lowering, node: Node, a: Lowered, dims: Any = None, keepdim: bool = False, **_: Any) -> Lowered:
    if isinstance(a, Gradient):  # at a row that stood for a block of equal ones
        assert operation(node) == "aten.sum" and [dim % 3 for dim in dims] == [1] and keepdim
        return replace(a, shape=tuple(node.meta["val"].shape))
    return _summed(low, low.sheet(a), dims, keepdim, mean=operation(node) == "aten.mean")


def _summed(low: Lowering, sheet: Sheet, dims: Any, keepdim: bool, mean: bool) -> Sheet:
    """Return the sum, or the mean, of a sheet along dimensions."""
    count = len(sheet.shape)
    dims = sorted({dim % count for dim in ([dims] if isinstance(dims, int) else dims or range(count))})
    for dim in dims:
        role = sheet.roles[dim]
        if role == TRIALS:
            raise NoKernelError("sums over trials")
        if role == EXAMPLES and mean:
            raise NoKernelError("uses the mean over examples")
        if role == ROWS:
            count = len(sheet.blocks)
            sheet = replace(sheet, blocks=(low.builder.rows(sheet.blocks),))
            if mean:
                sheet = replace(sheet, blocks=low.op("mul", sheet, _share(low, count)).blocks)
        elif role == EXAMPLES:
            sheet = replace(sheet, summed=True)
        elif not mean:
            sheet = low.op("mul", sheet, sheet.shape[dim])
    roles = "".join(SAME if n in dims else role for n, role in enumerate(sheet.roles))
    shape = tuple(1 if n in dims else n_ for n, n_ in enumerate(sheet.shape))
    if not keepdim:
        shape = tuple(n_ for n, n_ in enumerate(shape) if n not in dims)
        roles = "".join(role for n, role in enumerate(roles) if n not in dims)
    return replace(sheet, shape=shape, roles=roles)


@rule("var")
def _var(
    low: Lowering, node: Node, a: Lowered, dims: Any = None, correction: float = 1, keepdim: bool = False
) -> Lowered:
    sheet = low.sheet(a)
    dims = [dim % len(sheet.shape) for dim in dims or range(len(sheet.shape))]
    assert [sheet.roles[dim] for dim in dims] == [ROWS]
    centred = low.op("sub", sheet, _summed(low, sheet, dims, True, mean=True))
    total = _summed(low, low.op("mul", centred, centred), dims, keepdim, mean=False)
    rows = low.op("mul", Sheet((), "", (low.builder.leaf("hidden"),)), len(sheet.blocks))
    return low.op("div", total, low.op("sub", rows, correction))


@rule("native_layer_norm")
def _layer_norm(
    low: Lowering, node: Node, a: Lowered, shape: list[int], weight: Lowered, bias: Lowered, eps: float
) -> Lowered:
    sheet = low.sheet(a)
    assert len(shape) == 1 and sheet.roles[-1] == ROWS
    mean = _mean(low, sheet)
    centred = low.op("sub", sheet, mean)
    variance = _mean(low, low.op("mul", centred, centred))
    scale = low.op("div", 1, low.op("sqrt", low.op("add", variance, eps)))
    out = low.op("mul", centred, scale)
    out = out if weight is None else low.op("mul", out, weight)
    return [out if bias is None else low.op("add", out, bias), mean, scale]


def _mean(low: Lowering, sheet: Sheet) -> Sheet:
    """Return the mean over the rows, the last dimension of a sheet."""
    row = Sheet((*sheet.shape[:-1], 1), sheet.roles[:-1] + SAME, (low.builder.rows(sheet.blocks),))
    return low.op("mul", row, _share(low, len(sheet.blocks)))


def _share(low: Lowering, blocks: int) -> Sheet:
    """Return one over the number of rows of so many blocks, for any hidden size."""
    return low.op("div", 1 / blocks, Sheet((), "", (low.builder.leaf("hidden"),)))


@rule("native_layer_norm_backward")
def _layer_norm_backward(
    low: Lowering, node: Node, gradient: Lowered, a: Lowered, shape: list[int], *rest: Any
) -> Lowered:
    mean, scale, weight, _, mask = rest
    assert not any(mask[1:])  # the gains are outside of torch's layer_norm
    normal = low.op("mul", low.op("sub", a, mean), scale)
    given = gradient if weight is None else low.op("mul", gradient, weight)
    part = low.op("sub", given, _mean(low, low.sheet(given)))
    along = _mean(low, low.op("mul", given, normal))
    return [low.op("mul", scale, low.op("sub", part, low.op("mul", normal, along))), None, None]


# Products.


@rule("bmm", "mm")
def _bmm(low: Lowering, node: Node, a: Lowered, b: Lowered) -> Lowered:
    shape = tuple(node.meta["val"].shape)
    if isinstance(a, Matrix) and isinstance(b, Sheet):
        return _product(low, a, b, shape)
    if isinstance(a, Sheet) and isinstance(b, Matrix):  # (W h)^T
        turned = replace(b, transposed=not b.transposed)
        sheet = replace(a, roles=a.roles[:-2] + a.roles[-1] + a.roles[-2])
        result = _product(low, turned, sheet, (*shape[:-2], shape[-1], shape[-2]))
        if isinstance(result, InputGradient):
            return replace(result, shape=shape)
        return replace(result, shape=shape, roles=result.roles[:-2] + EXAMPLES + ROWS)
    if isinstance(a, Sheet) and isinstance(b, Sheet) and a.roles[-1] == b.roles[-2] == EXAMPLES:
        left, right = (None if sheet.x else _along(low, sheet, dim) for sheet, dim in ((a, -2), (b, -1)))
        assert left is not None or right is not None
        return Gradient(shape, ((0, left, 0, right),))  # type: ignore[arg-type]
    raise NoKernelError("has a product of two tensors of which neither is a weight")


def _along(low: Lowering, sheet: Sheet, dim: int) -> tuple[int, ...]:
    """Return the blocks along the rows of an operand; one may stand for all, as their mean does."""
    if sheet.roles[dim] == SAME:
        return sheet.blocks * _blocks(low, sheet.shape[dim])
    assert sheet.roles[dim] == ROWS
    return sheet.blocks


def _product(low: Lowering, matrix: Matrix, sheet: Sheet, shape: tuple[int, ...]) -> Lowered:
    """Multiply a part of a weight, or its transpose, with blocks or with x."""
    if sheet.roles[-1] != EXAMPLES or sheet.summed:
        raise NoKernelError("has a product of a weight with what does not differ between examples")
    operand = None if sheet.x else _along(low, sheet, -2)
    if matrix.transposed and matrix.columns is None:
        assert operand is not None
        return InputGradient(shape, (Factor(matrix.weight, matrix.rows, None, operand, True),))
    first, last = matrix.rows if not matrix.transposed else matrix.columns or (0, 0)
    ids = []
    for at in range(first, last):
        factor = Factor(matrix.weight, matrix.rows, matrix.columns, operand, matrix.transposed)
        one = (at, at + 1)
        part = replace(factor, columns=one) if matrix.transposed else replace(factor, rows=one)
        ids.append(low.builder.product(None, part))
    return Sheet(shape, SAME * (len(shape) - 3) + TRIALS + ROWS + EXAMPLES, tuple(ids))


@rule("baddbmm")
def _baddbmm(
    low: Lowering, node: Node, onto: Lowered, a: Lowered, b: Lowered, beta: float = 1, alpha: float = 1
) -> Lowered:
    product = _bmm(low, node, a, b)
    if isinstance(product, Gradient | InputGradient):
        assert beta == alpha == 1
        return add(low, node, product, onto)
    product = product if alpha == 1 else low.op("mul", product, alpha)
    return low.op("add", onto if beta == 1 else low.op("mul", onto, beta), product)


def outers_of(gradient: Gradient, weight: str, low: Lowering) -> list[Outer]:
    """Return what a gradient adds to a weight, without the rows that are known to be zero."""
    outers = []
    for row, left, column, right in gradient.outers:
        columns = None if right is None else (column, column + len(right))
        for n, block in enumerate(left):
            if low.builder.constant(block) != 0:
                outers.append(Outer(weight, (row + n, row + n + 1), columns, (block,), right))
    return outers
