"""Makes C of a graph: the functions of one cell, which native/layer.h calls.

The text of a cell is static functions and a `struct cell`; it is compiled together with native/stack.c. In it
`n` is the floats of a block, `e` an element of a block, `t` the step that is computed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .graph import LEAVES, Factor, Graph, Product, Sum, Value, read
from .schedule import Half, Place, Plan, Round, plan

Lines = list[str]

COMPARISONS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
FUNCTIONS = {
    "sigmoid": "sigmoid",
    "maximum": "larger",
    "minimum": "smaller",
    **{op: f"vec_{op}" for op in ("tanh", "exp", "log", "sqrt", "abs", "sign", "sin", "cos")},
}
# Where the blocks of a place begin: the first, if it stands apart, and all others.
ARRAYS = {
    "state": ("h_before", "states_before"),
    "after": ("h", "states_after"),
    "kept": ("kept",),
    "made": ("made",),
    "turned": ("d",),
    "mask": ("call->mask",),
    "zone": ("zone",),
    "d_after": ("d_after",),
    "before": ("d_before",),
    "row": ("rows",),
    "kept_row": ("kept_rows",),
}


def source(graph: Graph) -> str:
    """Write the C of a cell."""
    name, order = identifier(graph.name), plan(graph)
    parts = [
        [f"// {name}"],
        _sizes(order, name),
        _forward(order, name),
        _backward(order, name),
        _table(graph, name),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def library(sources: dict[str, str]) -> str:
    """Write the sources of cells, by name, and the table of them."""
    table = [f"    CELL_{identifier(name)}," for name in sources]
    return "\n".join([*sources.values(), "static const struct cell CELLS[] = {", *table, "};", ""])


def identifier(name: str) -> str:
    """Return what stands for a cell in the names of its functions."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _table(graph: Graph, name: str) -> Lines:
    """Write what the driver must know of the cell."""
    leaves = {node.op for node in graph.nodes if isinstance(node, Value)}
    shapes = [
        f"{{{rows}, {'INPUTS' if columns == 'input' else columns or 'VECTOR'}}}"
        for rows, columns in graph.weights.values()
    ]
    members = [
        f".states = {graph.states}, .masked = {int('mask' in leaves)}, .zoned = {int('zone' in leaves)}",
        f".weights = {len(shapes)}, .weight = (const struct weight[]){{{', '.join(shapes)}}}",
        f".memory = memory_{name}, .scratch = scratch_{name}",
        f".forward = forward_{name}, .backward = backward_{name}",
    ]
    return [f"#define CELL_{name} {{ \\", *(f"    {member}, \\" for member in members), "}"]


def _indent(lines: Iterable[str]) -> Lines:
    return [f"    {line}" if line else line for line in lines]


def _block(head: str, lines: Iterable[str]) -> Lines:
    return [f"{head} {{", *_indent(lines), "}"]


# --- Memory: arrays one after the other, and their floats


def _memory(order: Plan) -> dict[str, str]:
    """Return the arrays that stay from the forward to the backward pass."""
    return _some(
        ("all_states", order.graph.states - 1, "n * (call->train ? T : 2)"),
        ("all_kept", order.kept, "n * (call->train ? T : 1)"),
        ("all_kept_rows", order.kept_rows, "N * (call->train ? T : 1)"),
    )


def _scratch(half: Half) -> dict[str, str]:
    """Return the arrays that both halves have."""
    arrays = _some(
        ("zero", max(1, half.graph.states - 1), "n"),
        ("made", half.sizes["made"], "n"),
        ("rows", half.sizes["row"], "N"),
        ("columns", sum(map(len, _columns(half))), "H"),
    )
    return arrays | {name: " * ".join(_extent(factor)) for name, factor in _exchanged(half).items()}


def _backward_scratch(order: Plan) -> dict[str, str]:
    """Return the arrays of the backward half."""
    half = order.backward
    down = {_exchanged_name(f): f"{_extent(f)[0]} * I" for f in half.graph.d_x}
    sums = {part.name: _part_size(part) for part in _parts(order)}
    own = _some(
        ("d", len(order.turned), "n"),
        ("d_states", half.graph.states * (1 if _in_place(half) else 2), "n"),
        ("turned", 1, "N * all"),
        ("d_bias", 1, "all"),
    )
    return _scratch(half) | down | own | sums


def _some(*arrays: tuple[str, int, str]) -> dict[str, str]:
    """Return the floats of arrays that have any: their name, how many blocks they have, the size of one."""
    return {name: _times(count, size) for name, count, size in arrays if count}


def _taken(arrays: dict[str, str], base: str) -> Lines:
    """Write the arrays one after the other, beginning at `base`."""
    lines, before = [], base
    for array, size in arrays.items():
        lines.append(f"float *const {array} = {before};")
        before = f"{array} + up_16({size})"
    return lines


def _sizes(order: Plan, name: str) -> Lines:
    """Write the functions that say how much memory a call needs."""

    def total(arrays: dict[str, str]) -> str:
        return " + ".join(f"up_16({size})" for size in arrays.values()) or "0"

    memory = [*_extents(), f"return {total(_memory(order))};"]
    scratch = [
        *_extents(order),
        f"const long forward = {total(_scratch(order.forward))};",
        f"const long backward = {total(_backward_scratch(order))};",
        "return call->train && backward > forward ? backward : forward;",
    ]
    return [
        *_block(f"static long memory_{name}(const struct layer_call *call)", memory),
        "",
        *_block(f"static long scratch_{name}(const struct layer_call *call)", scratch),
    ]


def _extents(order: Plan | None = None) -> Lines:
    lines = ["const long T = call->T, N = call->N, H = call->H, I = call->inputs, n = H * N;"]
    if order:
        lines.append(f"const long all = up_16({_times(len(order.turned), 'H')}) + 16;  // a row of `turned`")
    return lines


def _weights(graph: Graph, base: str, prefix: str) -> Lines:
    """Write where each weight of a layer begins."""
    lines, before = [], base
    for weight, (rows, columns) in graph.weights.items():
        lines.append(f"{'const ' if prefix == 'w_' else ''}float *const {prefix}{weight} = {before};")
        before = f"{prefix}{weight} + {_size(rows, columns)}"
    return lines


def _size(rows: int, columns: int | str | None) -> str:
    """Return the floats of a weight."""
    if not rows:
        return "1"
    return _times(rows, "H") + (f" * {_width(columns)}" if columns is not None else "")


def _width(columns: int | str | None) -> str:
    """Return the floats between the rows of a weight."""
    if columns is None:
        return "1"
    return "I" if isinstance(columns, str) else _times(columns, "H")


def _times(count: int, what: str) -> str:
    return what if count == 1 else f"{count} * {what}"


def _plus(array: str, count: int, what: str) -> str:
    return f"{array} + {_times(count, what)}" if count else array


def _at(place: Place, size: str = "n") -> str:
    """Return the pointer to a block."""
    array, number = place
    names = ARRAYS[array]
    if len(names) == 1:
        return _plus(names[0], number, size)
    return _plus(names[1], number - 1, size) if number else names[0]


def _runs(places: Sequence[Place]) -> list[tuple[int, int]]:
    """Divide blocks into runs that stand side by side: the first of each, and how many."""
    before = [None, *places[:-1]]
    apart = [
        n for n, (array, number) in enumerate(places)
        if before[n] != (array, number - 1) or (len(ARRAYS[array]) == 2 and number == 1)
    ]  # fmt: skip
    return [(start, end - start) for start, end in zip(apart, [*apart[1:], len(places)], strict=True)]


# --- What is the same at every step


def _leaf(half: Half, number: int) -> bool:
    node = half.nodes[number]
    return isinstance(node, Value) and node.op in LEAVES


def _columns(half: Half) -> list[tuple[int, ...]]:
    """Return the groups of columns that are computed once: starts of products, and those that loops load."""
    groups = dict.fromkeys(
        product.start
        for each in half.rounds
        for product in each.products
        if product.start and half.shapes[product.start[0]] == "column"
    )
    loads = [number for each in half.rounds for number in half.loads(each)]
    groups |= dict.fromkeys((i,) for i in loads if half.shapes[i] == "column" and not _leaf(half, i))
    return list(groups)


def _column_at(half: Half, group: tuple[int, ...]) -> str:
    groups = _columns(half)
    return _plus("columns", sum(map(len, groups[: groups.index(group)])), "H")


def _constant_lines(half: Half) -> Lines:
    """Write the columns of a half."""
    groups = [number for group in _columns(half) for number in group]
    if not groups:
        return []
    needed, left = set(), list(groups)
    while left:
        number = left.pop()
        needed.add(number)
        node = half.nodes[number]
        left += node.args if isinstance(node, Value) else ()
    order = sorted(needed, key=half.position.__getitem__)
    lines = [_made(half, number, 0 if _leaf(half, number) else None) for number in order]
    lines += [f"columns[{_plus('r', n, 'H')}] = v{number}[0];" for n, number in enumerate(groups)]
    return _block("for (long r = 0; r < H; r++)", lines)


def _exchanged(half: Half) -> dict[str, Factor]:
    """Return the parts of weights whose transpose the steps multiply with, by the name of the array of it."""
    factors = [f for each in half.rounds for product in each.products for f in product.factors]
    return {_exchanged_name(f): f for f in factors if f.transposed}


def _exchanged_name(factor: Factor) -> str:
    numbers = factor.rows + (factor.columns or ())
    return "_".join(["down" if factor.columns is None else "back", factor.weight, *map(str, numbers)])


def _extent(factor: Factor) -> tuple[str, str]:
    """Return the rows and the columns of a part of a weight."""
    rows = _times(factor.rows[1] - factor.rows[0], "H")
    return rows, "I" if factor.columns is None else _times(factor.columns[1] - factor.columns[0], "H")


def _part(half: Half, factor: Factor, prefix: str = "w_") -> str:
    """Return the pointer to a part of a weight."""
    columns = half.graph.weights[factor.weight][1]
    part = f"{prefix}{factor.weight}"
    if factor.rows[0]:
        part += f" + {_times(factor.rows[0], 'H')} * {_width(columns)}"
    return part if factor.columns is None else _plus(part, factor.columns[0], "H")


def _exchange(half: Half, factor: Factor) -> str:
    rows, columns = _extent(factor)
    width = _width(half.graph.weights[factor.weight][1])
    return f"transpose({rows}, {columns}, {_part(half, factor)}, {width}, {_exchanged_name(factor)}, {rows});"


# --- Rounds


def _number(value: float) -> str:
    """Write a number as C does."""
    if value != value:
        return "NAN"
    return f"{value!r}f" if abs(value) != float("inf") else "INFINITY" if value > 0 else "-INFINITY"


def _loaded(half: Half, number: int, at: int) -> str:
    """Return what loads a value in a loop of round `at`."""
    node, shape = half.nodes[number], half.shapes[number]
    leaf = isinstance(node, Value) and node.op in LEAVES
    if shape == "one" and isinstance(node, Value):
        if node.op == "hidden":
            return "splat((float)H)"
        return f"splat({_number(node.index) if node.op == 'number' else f'*w_{node.name}'})"
    if shape == "column" and isinstance(node, Value):
        array = _plus(f"w_{node.name}", int(node.index), "H") if leaf else _column_at(half, (number,))
        return f"splat(({array})[r])"
    if half.filled.get(number, at + 1) <= at:
        place = half.places[number]
        return f"load({_at(place, 'N')} + j)" if shape == "row" else f"load({_at(place)} + e)"
    assert isinstance(node, Value) and node.op == "d_after", node
    own = f"load({_at(('d_after', int(node.index)))} + e)"
    return own if node.index else f"{own} + load(d_out + e)"


def _expression(half: Half, value: Value) -> str:
    """Return what computes a value of its arguments."""
    args = [f"v{arg}" for arg in value.args]
    if value.op in OPERATORS:
        return f"{args[0]} {OPERATORS[value.op]} {args[1]}"
    if value.op in COMPARISONS:
        return f"truth({args[0]} {COMPARISONS[value.op]} {args[1]})"
    if value.op == "where":
        return f"choose({args[0]} != 0, {args[1]}, {args[2]})"
    if value.op == "neg":
        return f"-{args[0]}"
    if value.op == "relu":
        return f"at_least(0, {args[0]})"
    return f"{FUNCTIONS[value.op]}({', '.join(args)})"


def _made(half: Half, number: int, at: int | None) -> str:
    """Write a value that a loop of round `at` loads, or that it computes (None)."""
    made = _expression(half, half.value(number)) if at is None else _loaded(half, number, at)
    return f"const vec v{number} = {made};"


def _rows(half: Half, each: Round, at: int) -> Lines:
    """Write the loop over the examples that computes rows."""
    if not each.rows:
        return []
    computed = {row.id for row in each.rows}
    needed, left = set(computed), [arg for row in each.rows for arg in row.args]
    while left:
        number = left.pop()
        if number not in needed and half.shapes[number] == "one" and not _leaf(half, number):
            computed.add(number)
            left += read(half.nodes[number])
        needed.add(number)
    order = sorted(needed, key=half.position.__getitem__)
    lines = [_made(half, number, None if number in computed else at) for number in order]
    lines += [f"store({_at(half.places[row.id], 'N')} + j, v{row.id});" for row in each.rows]
    return _block("for (long j = 0; j < N; j += LANES)", lines)


def _loop(half: Half, each: Round, at: int) -> Lines:
    """Write the loop over the elements of full blocks."""
    loads = half.loads(each)
    if not each.stores and not each.sums:
        return []
    body = [_made(half, number, at) for number in loads]
    body += [_made(half, value.id, None) for value in each.values]
    body += [f"store({_at(place)} + e, v{number});" for number, place in each.stores]
    for value in each.sums:
        row = f"{_at(half.places[value.id], 'N')} + j"
        body.append(f"store({row}, load({row}) + ({' + '.join(f'v{arg}' for arg in value.args)}));")
    if not each.sums and not any(half.shapes[number] in ("column", "row") for number in loads):
        return _block("for (long e = 0; e < n; e += LANES)", body)
    zero = [f"memset({_at(half.places[value.id], 'N')}, 0, sizeof(float) * N);" for value in each.sums]
    inner = _block("for (long j = 0, e = r * N; j < N; j += LANES, e += LANES)", body)
    return [*zero, *_block("for (long r = 0; r < H; r++)", inner)]


def _operand(half: Half, numbers: Sequence[int]) -> list[tuple[int, int, Place]]:
    """Divide the blocks of an operand into runs: the first, how many, and where the run stands."""
    places = [half.blocks[number] for number in numbers]
    return [(first, count, places[first]) for first, count in _runs(places)]


def _factor_lines(half: Half, factor: Factor) -> Lines:
    """Write the factors of a product that one factor of the graph is, a run of its operand each."""
    columns = half.graph.weights[factor.weight][1]
    if factor.operand is None:
        f = f"{{{_part(half, factor)}, I, 1, call->x + t * I * N, N, I}}"
        return [f"if (call->x) f[count++] = (struct factor){f};"]
    lines = []
    for first, count, place in _operand(half, factor.operand):
        if factor.transposed:
            weight, width = _exchanged_name(factor), _extent(factor)[0]
        else:
            weight, width = _part(half, factor), _width(columns)
        f = f"{{{_plus(weight, first, 'H')}, {width}, 1, {_at(place)}, N, {_times(count, 'H')}}}"
        known = "if (known) " if place[0] == "state" else ""
        lines.append(f"{known}f[count++] = (struct factor){f};")
    return lines


def _product(half: Half, product: Product) -> Lines:
    """Write a product, and in place of one with inputs that are symbols the columns that they choose."""
    place = _at(half.blocks[product.ids[0]])
    rows = _times(len(product.ids), "H")
    column = bool(product.start) and half.shapes[product.start[0]] == "column"
    start = _column_at(half, product.start) if column else "0"
    add = str(int(bool(product.start) and not column))
    factors = [line for factor in product.factors for line in _factor_lines(half, factor)]
    lines = [f"struct factor f[{len(factors)}];", "int count = 0;", *factors]
    seen = False
    for factor in product.factors:
        if factor.operand is None:
            part = f"{_part(half, factor)}, I, call->symbols + t * N"
            first = "0, 1" if seen else f"{start}, {add}"
            lines.append(f"if (!call->x) look_up({rows}, N, {part}, {first}, {place});")
            seen = True
    if seen:
        start = start if start == "0" else f"call->x ? {start} : 0"
        add = add if add == "1" else "!call->x"
    lines.append(f"product({rows}, N, f, count, {start}, {add}, {place}, N);")
    return ["{", *_indent(lines), "}"]


def _rounds(half: Half, only_before: frozenset[Product] = frozenset()) -> Lines:
    """Write all rounds; products that give nothing but the gradient at a state before are not always run."""
    lines: Lines = []
    for at, each in enumerate(half.rounds):
        lines += _rows(half, each, at)
        for product in each.products:
            text = _product(half, product)
            if product in only_before:
                text[0] = "if (left || call->d_initial) {"
            lines += text
        lines += _loop(half, each, at)
    return lines


# --- The forward pass


def _step_lines(order: Plan, half: Half, before: str) -> Lines:
    """Write where the blocks of a step stand; `before` is the number of steps before it."""
    others, first = order.graph.states - 1, "call->initial ? call->initial{} : zero;"
    lines = [
        f"const long t = call->reverse ? T - 1 - {before} : {before};",
        "const long earlier = call->reverse ? t + 1 : t - 1;",
        f"const int known = {before} || call->initial;",
        f"const float *const h_before = {before} ? call->h + earlier * call->h_step : {first.format('')}",
        "float *const h = call->h + t * call->h_step;",
    ]
    if others:
        at = "all_states + (call->train ? {0} : {0} & 1) * " + _times(others, "n")
        lines += [
            f"const float *const states_before = {before} ? {at.format('earlier')} : {first.format(' + n')}",
            f"float *const states_after = {at.format('t')};",
        ]
    for name, count, size in (("kept", order.kept, "n"), ("kept_rows", order.kept_rows, "N")):
        if count:
            lines.append(f"float *const {name} = all_{name} + (call->train ? t : 0) * {_times(count, size)};")
    if any(place[0] == "zone" for place in half.places.values()):
        lines.append("const float *const zone = call->zone + t * call->zone_step;")
    return lines


def _prologue(order: Plan, scratch: dict[str, str], half: Half) -> Lines:
    """Write where everything stands, and compute what is the same at every step."""
    return [
        *_extents(order),
        *_weights(order.graph, "call->p", "w_"),
        *_taken(_memory(order), "call->memory"),
        *_taken(scratch, "call->scratch"),
        f"memset(zero, 0, sizeof(float) * {scratch['zero']});",
        *_constant_lines(half),
        *(_exchange(half, factor) for factor in _exchanged(half).values()),
    ]


def _forward(order: Plan, name: str) -> Lines:
    """Write the forward pass."""
    half, states = order.forward, order.graph.states
    last = ["memcpy(call->last, h, sizeof(float) * n);"]
    if states > 1:
        last.append(f"memcpy(call->last + n, states_after, sizeof(float) * {_times(states - 1, 'n')});")
    step = [
        *_step_lines(order, half, "done"),
        *_rounds(half),
        *_block("if (call->last && done == T - 1)", last),
    ]
    body = _prologue(order, _scratch(half), half) + _block("for (long done = 0; done < T; done++)", step)
    return _block(f"static void forward_{name}(const struct layer_call *call)", body)


# --- The backward pass


@dataclass(frozen=True)
class Part:
    """A part of a weight's gradient: the sum over steps of blocks of `turned` times `right`, transposed."""

    name: str  # of the array of its sum
    factor: Factor  # which part of the weight
    left: int  # the first of the blocks of `turned`
    right: Place | None  # None: x


def _parts(order: Plan) -> list[Part]:
    """Divide the outer products into those of blocks that stand side by side."""
    half = order.backward
    parts: list[Part] = []
    for outer in order.graph.outers:
        lefts = _runs([("turned", order.turned[number]) for number in outer.left])
        rights: Sequence[tuple[int, int, Place | None]] = [(0, 0, None)]
        if outer.right is not None:
            rights = _operand(half, outer.right)
        for first, count in lefts:
            rows = outer.rows[0] + first, outer.rows[0] + first + count
            for begin, wide, place in rights:
                start = outer.columns[0] + begin if outer.columns else 0
                columns = (start, start + wide) if outer.columns else None
                factor = Factor(outer.weight, rows, columns, None)
                parts.append(Part(f"sum{len(parts)}", factor, order.turned[outer.left[first]], place))
    return parts


def _part_size(part: Part) -> str:
    rows, columns = _extent(part.factor)
    return f"({columns}) * up_16({rows})"


def _accumulate(part: Part) -> Lines:
    """Write what a step adds to the sum of a part."""
    rows, columns = _extent(part.factor)
    left = _plus("turned", part.left, "H")
    if part.right is None:
        f = f"{{call->x + t * I * N, N, 1, {left}, all, N}}"
        call = f"product(I, up_16({rows}), &(struct factor){f}, 1, 0, 1, {part.name}, up_16({rows}))"
        symbols = f"add_rows({rows}, N, call->symbols + t * N, {left}, all, {part.name}, up_16({rows}))"
        return [f"if (call->x) {call};", f"else {symbols};"]
    f = f"{{{_at(part.right)}, N, 1, {left}, all, N}}"
    call = f"product({columns}, up_16({rows}), &(struct factor){f}, 1, 0, 1, {part.name}, up_16({rows}));"
    return [f"if (known) {call}" if part.right[0] == "state" else call]


def _in_place(half: Half) -> bool:
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


def _unread(half: Half) -> frozenset[Product]:
    """Return the products that give the gradient at the state before, and nothing else."""
    loads = {number for each in half.rounds for number in half.loads(each)} | set(half.operands)
    products = [product for each in half.rounds for product in each.products]
    loads |= {i for product in products for factor in product.factors for i in factor.operand or ()}
    return frozenset(
        product for product in products
        if not loads & set(product.ids) and all(half.blocks[i][0] == "before" for i in product.ids)
    )  # fmt: skip


def _down_lines(half: Half) -> Lines:
    """Write the gradient at x of a step."""
    lines = []
    for factor in half.graph.d_x:
        rows = _extent(factor)[0]
        for first, count, place in _operand(half, factor.operand or ()):
            weight = _plus(_exchanged_name(factor), first, "H")
            lines.append(f"{{{weight}, {rows}, 1, {_at(place)}, N, {_times(count, 'H')}}},")
    if not lines:
        return []
    f = ["const struct factor f[] = {", *_indent(lines), "};"]
    call = f"product(I, N, f, {len(lines)}, 0, 1, call->d_x + t * I * N, N);"
    return _block("if (call->d_x)", [*f, call])


def _gradients(order: Plan) -> Lines:
    """Write the gradient of the layer's weights."""
    graph, lines = order.graph, []
    seen: set[tuple[str, int, int | None]] = set()
    written: set[tuple[str, int, int | None]] = set()
    for part in _parts(order):
        rows, columns = _extent(part.factor)
        width = _width(graph.weights[part.factor.weight][1])
        blocks = _blocks(part.factor)
        add = int(bool(blocks & seen))
        seen |= blocks
        written |= set() if add else blocks
        to = _part(order.backward, part.factor, "g_")
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
    to = f"g_{each.weight}"
    if order.graph.weights[each.weight][0]:
        start = _plus("d_bias", order.turned[each.value], "H")
        return f"write_gradient(1, H, {start}, 1, {_plus(to, each.block, 'H')}, H, {add});"
    numbers = _numbers(order)
    if each.value in numbers:
        total = numbers[each.value]
    else:
        total = f"total({_plus('d_bias', order.turned[each.value], 'H')}, H)"
    return f"*{to} {'+' * add}= {total};"


def _numbers(order: Plan) -> dict[int, str]:
    """Return the rows whose sum is the gradient of a number, and the name of that sum."""
    single = (each.value for each in order.graph.sums if each.value not in order.turned)
    return {value: f"number{value}" for value in single}


def _zeros(graph: Graph, written: set[tuple[str, int, int | None]]) -> Lines:
    """Write zeros for the weights of which some blocks are not written, but added to or left alone."""
    lines = []
    for name, (rows, columns) in graph.weights.items():
        across = range(columns) if isinstance(columns, int) else (None,)
        if any((name, row, column) not in written for row in range(max(1, rows)) for column in across):
            lines.append(f"memset(g_{name}, 0, sizeof(float) * {_size(rows, columns)});")
    return lines


def _step_sums(order: Plan) -> Lines:
    """Write what a step adds to the sums that become the gradients."""
    half = order.backward
    numbers = _numbers(order).items()
    lines = [f"{name} += total({_at(half.places[value], 'N')}, N);" for value, name in numbers]
    if order.turned:
        lines += [
            f"transpose({_times(len(order.turned), 'H')}, N, d, N, turned, all);",
            "column_sums(N, all, turned, d_bias);",
        ]
    return lines + [line for part in _parts(order) for line in _accumulate(part)]


def _backward(order: Plan, name: str) -> Lines:
    """Write the backward pass."""
    half, states = order.backward, order.graph.states
    size = f"sizeof(float) * {_times(states, 'n')}"
    pair = [] if _in_place(half) else ["float *const swap = d_after;", "d_after = d_before, d_before = swap;"]
    down = [_exchange(half, factor) for factor in order.graph.d_x]
    step = [
        *_step_lines(order, half, "left"),
        "const float *const d_out = call->d_out + t * call->h_step;",
        *_rounds(half, _unread(half)),
        *_step_sums(order),
        *_down_lines(half),
        *pair,
    ]
    body = [
        *_prologue(order, _backward_scratch(order), half),
        *_weights(order.graph, "call->gradient", "g_"),
        *(_block("if (call->d_x)", down) if down else []),
        f"float *d_after = d_states, *d_before = {_plus('d_states', states if pair else 0, 'n')};",
        f"memset(d_states, 0, {size});",
        "memset(d_bias, 0, sizeof(float) * all);",
        *(f"float {number} = 0;" for number in _numbers(order).values()),
        "// Products read past the last block, to the end of a vector; nothing reads what they make of it.",
        "memset(turned, 0, sizeof(float) * N * all);",
        *(f"memset({part.name}, 0, sizeof(float) * {_part_size(part)});" for part in _parts(order)),
        *_block("for (long left = T - 1; left >= 0; left--)", step),
        f"if (call->d_initial) memcpy(call->d_initial, d_after, {size});",
        *_gradients(order),
    ]
    return _block(f"static void backward_{name}(const struct layer_call *call)", body)
