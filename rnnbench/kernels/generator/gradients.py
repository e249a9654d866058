"""Writes in C the gradients of weights, of x and of the state before the first step."""

from collections.abc import Sequence
from dataclasses import dataclass

from .graph import Factor, Graph, Product, Sum, Value
from .places import (
    Lines,
    braced,
    exchanged_name,
    extent,
    indented,
    operand,
    plus,
    pointer,
    runs,
    stride,
    times,
    weight_part,
    weight_size,
    weight_width,
)
from .schedule import Half, Place, Plan, row_sums


@dataclass(frozen=True)
class Part:
    """A part of a weight's gradient: the sum over steps of blocks of `turned` times `right`, transposed."""

    name: str  # of the array of its sum
    factor: Factor  # which part of the weight
    left: int  # the first of the blocks of `turned`
    right: Place | None  # None: x


def parts_of(order: Plan) -> list[Part]:
    """Divide the outer products into those of blocks that stand side by side."""
    half = order.backward
    parts: list[Part] = []
    for outer in order.graph.outers:
        lefts = runs([("turned", order.turned[number]) for number in outer.left])
        rights: Sequence[tuple[int, int, Place | None]] = [(0, 0, None)]
        if outer.right is not None:
            rights = operand(half, outer.right)
        for first, count in lefts:
            rows = outer.rows[0] + first, outer.rows[0] + first + count
            for begin, wide, place in rights:
                start = outer.columns[0] + begin if outer.columns else 0
                columns = (start, start + wide) if outer.columns else None
                factor = Factor(outer.weight, rows, columns, None)
                parts.append(Part(f"sum{len(parts)}", factor, order.turned[outer.left[first]], place))
    return parts


def part_size(graph: Graph, part: Part) -> str:
    rows, columns = extent(graph, part.factor)
    return f"({columns}) * up_16({rows})"


def _accumulate(graph: Graph, part: Part) -> Lines:
    """Write what a step adds to the sum of a part."""
    rows, columns = extent(graph, part.factor)
    left = plus("turned", part.left, stride(graph))
    if part.right is None:
        f = f"{{call->x + t * I * N, N, 1, {left}, all, N}}"
        call = f"product(I, up_16({rows}), &(struct factor){f}, 1, 0, 1, {part.name}, up_16({rows}))"
        symbols = f"add_rows({rows}, N, call->symbols + t * N, {left}, all, {part.name}, up_16({rows}))"
        return [f"if (call->x) {call};", f"else {symbols};"]
    f = f"{{{pointer(part.right)}, N, 1, {left}, all, N}}"
    call = f"product({columns}, up_16({rows}), &(struct factor){f}, 1, 0, 1, {part.name}, up_16({rows}));"
    return [f"if (known) {call}" if part.right[0] == "state" else call]


def step_sums(order: Plan) -> Lines:
    """Write what a step adds to the sums that become the gradients."""
    half = order.backward
    numbers = numbers_of(order).items()
    lines = [f"{name} += sum_of({pointer(half.places[value], 'N')}, N);" for value, name in numbers]
    if order.turned:
        lines += [
            f"transpose({times(len(order.turned), stride(order.graph))}, N, d, N, turned, all);",
            "column_sums(N, all, turned, d_bias);",
        ]
    return lines + [line for part in parts_of(order) for line in _accumulate(order.graph, part)]


def down_lines(half: Half) -> Lines:
    """Write the gradient at x of a step."""
    lines = []
    for factor in half.graph.d_x:
        rows, unit = extent(half.graph, factor)[0], half.graph.units_of(factor.weight)[0]
        for first, count, place in operand(half, factor.operand or ()):
            weight = plus(exchanged_name(factor), first, unit)
            lines.append(f"{{{weight}, {rows}, 1, {pointer(place)}, N, {times(count, unit)}}},")
    if not lines:
        return []
    f = ["const struct factor f[] = {", *indented(lines), "};"]
    call = f"product(I, N, f, {len(lines)}, 0, 1, call->d_x + t * I * N, N);"
    return braced("if (call->d_x)", [*f, call])


def in_place(half: Half) -> bool:
    """True if the gradient at a state before may be written over that after: nobody reads that later."""
    reads: dict[int, int] = {}
    writes: dict[int, int] = {}  # a round's products come before its loop
    for n, each in enumerate(half.rounds):
        for number in half.loads(each):
            node = half.nodes[number]
            if isinstance(node, Value) and node.op == "d_after":
                reads[int(node.index)] = 2 * n + 1
        for product in each.products:
            for number in product.ids:
                array, k = half.blocks[number]
                if array == "before":
                    writes.setdefault(k, 2 * n)
        for _, (array, k) in each.stores:
            if array == "before":
                writes[k] = min(2 * n + 1, writes.get(k, 2 * n + 1))
    return all(writes.get(k, at) >= at for k, at in reads.items())


def unread(half: Half) -> frozenset[Product]:
    """Return the products that give the gradient at the state before, and nothing else."""
    loads = {number for each in half.rounds for number in half.loads(each)} | set(half.operands)
    products = [product for each in half.rounds for product in each.products]
    loads |= {i for product in products for factor in product.factors for i in factor.operand or ()}
    return frozenset(
        product for product in products
        if not loads & set(product.ids) and all(half.blocks[i][0] == "before" for i in product.ids)
    )  # fmt: skip


def gradients(order: Plan) -> Lines:
    """Write the gradient of the layer's weights."""
    graph, lines = order.graph, []
    seen: set[tuple[str, int, int | None]] = set()
    written: set[tuple[str, int, int | None]] = set()
    for part in parts_of(order):
        rows, columns = extent(graph, part.factor)
        width = weight_width(graph, part.factor.weight)
        blocks = _blocks(part.factor)
        # Where one row stands for a block, all rows of the block are added to it.
        add = int(bool(blocks & seen) or not graph.weights[part.factor.weight][0])
        seen |= blocks
        written |= set() if add else blocks
        to = weight_part(order.backward, part.factor, "g_")
        lines.append(f"write_gradient({rows}, {columns}, {part.name}, up_16({rows}), {to}, {width}, {add});")
    for each in graph.sums:
        block = (each.weight, each.block, None)
        lines.append(_sum_line(order, each, int(block in seen)))
        seen.add(block)
        written.add(block)
    return [*_zeros(graph, written), *lines]


def _blocks(factor: Factor) -> set[tuple[str, int, int | None]]:
    columns = range(*factor.columns) if factor.columns else (None,)
    return {(factor.weight, row, column) for row in range(*factor.rows) for column in columns}


def _sum_line(order: Plan, each: Sum, add: int) -> str:
    """Write what sums a value over the steps and examples into the gradient of a vector or of a number."""
    to, apart, unit = f"g_{each.weight}", stride(order.graph), order.graph.units_of(each.weight)[0]
    if order.graph.weights[each.weight][0]:
        start = plus("d_bias", order.turned[each.value], apart)
        return f"write_gradient(1, {unit}, {start}, 1, {plus(to, each.block, unit)}, {unit}, {add});"
    numbers = numbers_of(order)
    if each.value in numbers:
        total = numbers[each.value]
    else:
        rows = order.backward.units[each.value]
        total = f"sum_of({plus('d_bias', order.turned[each.value], apart)}, {rows})"
    return f"*{to} {'+' * add}= {total};"


def numbers_of(order: Plan) -> dict[int, str]:
    """Return the rows whose sum is the gradient of a number, and the name of that sum."""
    return {each.value: f"number{each.value}" for each in row_sums(order.graph)}


def _zeros(graph: Graph, written: set[tuple[str, int, int | None]]) -> Lines:
    """Write zeros for the weights of which some blocks are not written, but added to or left alone."""
    lines = []
    for name, (rows, columns) in graph.weights.items():
        across = range(columns) if isinstance(columns, int) else (None,)
        if any((name, row, column) not in written for row in range(max(1, rows)) for column in across):
            lines.append(f"memset(g_{name}, 0, sizeof(float) * {weight_size(graph, name)});")
    return lines
