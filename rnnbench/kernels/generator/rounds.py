"""Writes the rounds of a step in C: rows, products, loops, and what is the same at every step."""

from .graph import LEAVES, Factor, Product, Value, read
from .places import (
    Lines,
    braced,
    exchanged_name,
    extent,
    indented,
    operand,
    plus,
    pointer,
    stride,
    times,
    weight_part,
    weight_width,
)
from .schedule import Half, Round

COMPARISONS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}

OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}

FUNCTIONS = {
    "sigmoid": "sigmoid",
    "maximum": "larger",
    "minimum": "smaller",
    **{op: f"vec_{op}" for op in ("tanh", "exp", "log", "sqrt", "abs", "sign", "sin", "cos")},
}


def _leaf(half: Half, number: int) -> bool:
    node = half.nodes[number]
    return isinstance(node, Value) and node.op in LEAVES


def columns_of(half: Half) -> list[tuple[int, ...]]:
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
    groups = columns_of(half)
    return plus("columns", sum(map(len, groups[: groups.index(group)])), stride(half.graph))


def constants(half: Half) -> Lines:
    """Write the columns of a half."""
    every = [number for group in columns_of(half) for number in group]
    lines: Lines = []
    for unit in dict.fromkeys(half.units[number] for number in every):
        places = [(n, number) for n, number in enumerate(every) if half.units[number] == unit]
        lines += _columns(half, places, unit)
    return lines


def _columns(half: Half, groups: list[tuple[int, int]], unit: str) -> Lines:
    """Write the loop that computes columns of one unit; each is given with its place."""
    needed, left = set(), [number for _, number in groups]
    while left:
        number = left.pop()
        needed.add(number)
        node = half.nodes[number]
        left += node.args if isinstance(node, Value) else ()
    order = sorted(needed, key=half.position.__getitem__)
    lines = [_made(half, number, 0 if _leaf(half, number) else None) for number in order]
    lines += [f"columns[{plus('r', n, stride(half.graph))}] = v{number}[0];" for n, number in groups]
    return braced(f"for (long r = 0; r < {unit}; r++)", lines)


def exchanged_of(half: Half) -> dict[str, Factor]:
    """Return the parts of weights whose transpose the steps multiply with, by the name of the array of it."""
    factors = [f for each in half.rounds for product in each.products for f in product.factors]
    return {exchanged_name(f): f for f in factors if f.transposed}


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
        array = (
            plus(f"w_{node.name}", int(node.index), half.units[number])
            if leaf
            else _column_at(half, (number,))
        )
        return f"splat(({array})[r])"
    if half.filled.get(number, at + 1) <= at:
        place = half.places[number]
        return f"load({pointer(place, 'N')} + j)" if shape == "row" else f"load({pointer(place)} + e)"
    assert isinstance(node, Value) and node.op == "d_after", node
    own = f"load({pointer(('d_after', int(node.index)))} + e)"
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
    lines += [f"store({pointer(half.places[row.id], 'N')} + j, v{row.id});" for row in each.rows]
    return braced("for (long j = 0; j < N; j += LANES)", lines)


def _loops(half: Half, each: Round, at: int) -> Lines:
    """Write the loops over the elements of full blocks: one, or one for each unit."""
    results = [number for number, _ in each.stores] + [value.args[0] for value in each.sums]
    units = sorted({half.units[number] for number in results if number in half.units}) or ["H"]
    if len(units) == 1:
        return _loop(half, each, at, units[0])
    return [line for unit in units for line in _loop(half, _of_unit(half, each, unit), at, unit)]


def _of_unit(half: Half, each: Round, unit: str) -> Round:
    """Return the part of a round's loop that computes blocks of one unit."""
    values = [value for value in each.values if half.units.get(value.id, unit) == unit]
    stores = [(number, place) for number, place in each.stores if half.units.get(number, "H") == unit]
    sums = [value for value in each.sums if half.units.get(value.args[0], "H") == unit]
    return Round(values=values, stores=stores, sums=sums)


def _loop(half: Half, each: Round, at: int, unit: str) -> Lines:
    """Write the loop over the elements of full blocks of one unit."""
    loads = half.loads(each)
    if not each.stores and not each.sums:
        return []
    body = [_made(half, number, at) for number in loads]
    body += [_made(half, value.id, None) for value in each.values]
    body += [f"store({pointer(place)} + e, v{number});" for number, place in each.stores]
    for value in each.sums:
        row = f"{pointer(half.places[value.id], 'N')} + j"
        body.append(f"store({row}, load({row}) + ({' + '.join(f'v{arg}' for arg in value.args)}));")
    if not each.sums and not any(half.shapes[number] in ("column", "row") for number in loads):
        size = f"{unit} * N" if half.graph.memory else "n"
        return braced(f"for (long e = 0; e < {size}; e += LANES)", body)
    zero = [f"memset({pointer(half.places[value.id], 'N')}, 0, sizeof(float) * N);" for value in each.sums]
    inner = braced("for (long j = 0, e = r * N; j < N; j += LANES, e += LANES)", body)
    return [*zero, *braced(f"for (long r = 0; r < {unit}; r++)", inner)]


def _factor_lines(half: Half, factor: Factor) -> Lines:
    """Write the factors of a product that one factor of the graph is, a run of its operand each."""
    width = weight_width(half.graph, factor.weight)
    if factor.operand is None:
        f = f"{{{weight_part(half, factor)}, {width}, 1, call->x + t * I * N, N, I}}"
        return [f"if (call->x) f[count++] = (struct factor){f};"]
    lines = []
    for first, count, place in operand(half, factor.operand):
        unit = half.graph.units_of(factor.weight)[not factor.transposed]
        if factor.transposed:
            weight, apart = exchanged_name(factor), extent(half.graph, factor)[0]
        else:
            weight, apart = weight_part(half, factor), width
        f = f"{{{plus(weight, first, unit)}, {apart}, 1, {pointer(place)}, N, {times(count, unit)}}}"
        known = "if (known) " if place[0] == "state" else ""
        lines.append(f"{known}f[count++] = (struct factor){f};")
    return lines


def _product(half: Half, product: Product) -> Lines:
    """Write a product, and in place of one with inputs that are symbols the columns that they choose."""
    place = pointer(half.blocks[product.ids[0]])
    rows = times(len(product.ids), half.units[product.ids[0]])
    column = bool(product.start) and half.shapes[product.start[0]] == "column"
    start = _column_at(half, product.start) if column else "0"
    add = str(int(bool(product.start) and not column))
    factors = [line for factor in product.factors for line in _factor_lines(half, factor)]
    lines = [f"struct factor f[{len(factors)}];", "int count = 0;", *factors]
    seen = False
    for factor in product.factors:
        if factor.operand is None:
            width = weight_width(half.graph, factor.weight)
            part = f"{weight_part(half, factor)}, {width}, call->symbols + t * N"
            first = "0, 1" if seen else f"{start}, {add}"
            lines.append(f"if (!call->x) look_up({rows}, N, {part}, {first}, {place});")
            seen = True
    if seen:
        start = start if start == "0" else f"call->x ? {start} : 0"
        add = add if add == "1" else "!call->x"
    lines.append(f"product({rows}, N, f, count, {start}, {add}, {place}, N);")
    return ["{", *indented(lines), "}"]


def all_rounds(half: Half, only_before: frozenset[Product] = frozenset()) -> Lines:
    """Write all rounds; products that give nothing but the gradient at a state before are not always run."""
    lines: Lines = []
    for at, each in enumerate(half.rounds):
        lines += _rows(half, each, at)
        for product in each.products:
            text = _product(half, product)
            if product in only_before:
                text[0] = "if (left || call->d_initial) {"
            lines += text
        lines += _loops(half, each, at)
    return lines
