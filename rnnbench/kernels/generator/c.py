"""Makes C of a graph: the functions of one cell, which native/layer.h calls.

The text of a cell is static functions and a `struct cell`; it is compiled together with native/stack.c.
"""

from .gradients import down_lines, gradients, in_place, numbers_of, part_size, parts_of, step_sums, unread
from .graph import Graph, Value
from .places import (
    Lines,
    braced,
    exchange,
    exchanged_name,
    extent,
    extents,
    identifier,
    plus,
    some,
    stride,
    taken,
    times,
    weights_of,
)
from .rounds import all_rounds, columns_of, constants, exchanged_of
from .schedule import Half, Plan, plan


def source(graph: Graph) -> str:
    """Write the C of a cell."""
    name, order = identifier(graph.name), plan(graph)
    texts = [
        [f"// {name}"],
        _sizes(order, name),
        _forward(order, name),
        _backward(order, name),
        _table(graph, name),
    ]
    return "\n\n".join("\n".join(text) for text in texts) + "\n"


def library(sources: dict[str, str]) -> str:
    """Write the sources of cells, by name, and the table of them."""
    table = [f"    CELL_{identifier(name)}," for name in sources]
    return "\n".join([*sources.values(), "static const struct cell CELLS[] = {", *table, "};", ""])


def _table(graph: Graph, name: str) -> Lines:
    """Write what the driver must know of the cell."""
    leaves = {node.op for node in graph.nodes if isinstance(node, Value)}
    shapes = [
        f"{{{rows}, {'INPUTS' if columns == 'input' else columns or 'VECTOR'}{_memory_of(graph, name)}}}"
        for name, (rows, columns) in graph.weights.items()
    ]
    members = [
        f".states = {graph.states}, .remembers = {int(graph.memory)}",
        f".masked = {int('mask' in leaves)}, .zoned = {int('zone' in leaves)}",
        f".weights = {len(shapes)}, .weight = (const struct weight[]){{{', '.join(shapes)}}}",
        f".memory = memory_{name}, .scratch = scratch_{name}",
        f".forward = forward_{name}, .backward = backward_{name}",
    ]
    return [f"#define CELL_{name} {{ \\", *(f"    {member}, \\" for member in members), "}"]


def _memory_of(graph: Graph, name: str) -> str:
    """Write whether the rows and the columns of a weight are those of the memory."""
    return "".join(f", {int(unit == 'M')}" for unit in graph.units.get(name, ""))


def _memory(order: Plan) -> dict[str, str]:
    """Return the arrays that stay from the forward to the backward pass."""
    return some(
        ("all_states", order.graph.states - 1, "n * (call->train ? T : 2)"),
        ("all_kept", order.kept, "n * (call->train ? T : 1)"),
        ("all_kept_rows", order.kept_rows, "N * (call->train ? T : 1)"),
    )


def _scratch(half: Half) -> dict[str, str]:
    """Return the arrays that both halves have."""
    arrays = some(
        ("zero", max(1, half.graph.states - 1), "n"),
        ("made", half.sizes["made"], "n"),
        ("rows", half.sizes["row"], "N"),
        ("columns", sum(map(len, columns_of(half))), stride(half.graph)),
    )
    turned = exchanged_of(half).items()
    return arrays | {name: " * ".join(extent(half.graph, factor)) for name, factor in turned}


def _backward_scratch(order: Plan) -> dict[str, str]:
    """Return the arrays of the backward half."""
    half = order.backward
    down = {exchanged_name(f): f"{extent(half.graph, f)[0]} * I" for f in half.graph.d_x}
    sums = {part.name: part_size(half.graph, part) for part in parts_of(order)}
    own = some(
        ("d", len(order.turned), "n"),
        ("d_states", half.graph.states * (1 if in_place(half) else 2), "n"),
        ("turned", 1, "N * all"),
        ("d_bias", 1, "all"),
    )
    return _scratch(half) | down | own | sums


def _sizes(order: Plan, name: str) -> Lines:
    """Write the functions that say how much memory a call needs."""

    def total(arrays: dict[str, str]) -> str:
        return " + ".join(f"up_16({size})" for size in arrays.values()) or "0"

    memory = [*extents(order, turned=False), f"return {total(_memory(order))};"]
    scratch = [
        *extents(order),
        f"const long forward = {total(_scratch(order.forward))};",
        f"const long backward = {total(_backward_scratch(order))};",
        "return call->train && backward > forward ? backward : forward;",
    ]
    return [
        *braced(f"static long memory_{name}(const struct layer_call *call)", memory),
        "",
        *braced(f"static long scratch_{name}(const struct layer_call *call)", scratch),
    ]


def _step_lines(order: Plan, half: Half, before: str) -> Lines:
    """Write where the blocks of a step stand; `before` is the number of steps before it."""
    others, first = order.graph.states - 1, "call->initial ? call->initial{} : zero;"
    beside = " + H * N" if order.graph.memory else " + n"  # of h; the other states follow it
    lines = [
        f"const long t = call->reverse ? T - 1 - {before} : {before};",
        "const long earlier = call->reverse ? t + 1 : t - 1;",
        f"const int known = {before} || call->initial;",
        f"const float *const h_before = {before} ? call->h + earlier * call->h_step : {first.format('')}",
        "float *const h = call->h + t * call->h_step;",
    ]
    if others:
        at = "all_states + (call->train ? {0} : {0} & 1) * " + times(others, "n")
        lines += [
            f"const float *const states_before = {before} ? {at.format('earlier')} : {first.format(beside)}",
            f"float *const states_after = {at.format('t')};",
        ]
    for name, count, size in (("kept", order.kept, "n"), ("kept_rows", order.kept_rows, "N")):
        if count:
            lines.append(f"float *const {name} = all_{name} + (call->train ? t : 0) * {times(count, size)};")
    if any(place[0] == "zone" for place in half.places.values()):
        lines.append("const float *const zone = call->zone + t * call->zone_step;")
    return lines


def _prologue(order: Plan, scratch: dict[str, str], half: Half) -> Lines:
    """Write where everything stands, and compute what is the same at every step."""
    return [
        *extents(order),
        *weights_of(order.graph, order.graph.weights, "call->p", "w_"),
        *weights_of(order.graph, order.graph.constants, "call->constants", "w_"),
        *taken(_memory(order), "call->memory"),
        *taken(scratch, "call->scratch"),
        f"memset(zero, 0, sizeof(float) * {scratch['zero']});",
        *constants(half),
        *(exchange(half, factor) for factor in exchanged_of(half).values()),
    ]


def _state_sizes(graph: Graph) -> tuple[str, str]:
    """Return the floats of h, and of the other states together, in the arrays that a call brings."""
    return ("H * N", "M * N") if graph.memory else ("n", times(graph.states - 1, "n"))


def _forward(order: Plan, name: str) -> Lines:
    """Write the forward pass."""
    half, states = order.forward, order.graph.states
    first, others = _state_sizes(order.graph)
    last = [f"memcpy(call->last, h, sizeof(float) * {first});"]
    if states > 1:
        last.append(f"memcpy(call->last + {first}, states_after, sizeof(float) * {others});")
    step = [
        *_step_lines(order, half, "done"),
        *all_rounds(half),
        *braced("if (call->last && done == T - 1)", last),
    ]
    body = _prologue(order, _scratch(half), half) + braced("for (long done = 0; done < T; done++)", step)
    return braced(f"static void forward_{name}(const struct layer_call *call)", body)


def _first_gradient(graph: Graph) -> Lines:
    """Write where the gradient at the state before the first step goes."""
    if not graph.memory:
        return [f"memcpy(call->d_initial, d_after, sizeof(float) * {times(graph.states, 'n')});"]
    first, others = _state_sizes(graph)
    return [
        f"memcpy(call->d_initial, d_after, sizeof(float) * {first});",
        f"memcpy(call->d_initial + {first}, d_after + n, sizeof(float) * {others});",
    ]


def _backward(order: Plan, name: str) -> Lines:
    """Write the backward pass."""
    half, states = order.backward, order.graph.states
    size = f"sizeof(float) * {times(states, 'n')}"
    pair = [] if in_place(half) else ["float *const swap = d_after;", "d_after = d_before, d_before = swap;"]
    down = [exchange(half, factor) for factor in order.graph.d_x]
    step = [
        *_step_lines(order, half, "left"),
        "const float *const d_out = call->d_out + t * call->h_step;",
        *all_rounds(half, unread(half)),
        *step_sums(order),
        *down_lines(half),
        *pair,
    ]
    body = [
        *_prologue(order, _backward_scratch(order), half),
        *weights_of(order.graph, order.graph.weights, "call->gradient", "g_"),
        *(braced("if (call->d_x)", down) if down else []),
        f"float *d_after = d_states, *d_before = {plus('d_states', states if pair else 0, 'n')};",
        f"memset(d_states, 0, {size});",
        "memset(d_bias, 0, sizeof(float) * all);",
        *(f"float {number} = 0;" for number in numbers_of(order).values()),
        "// Products read past the last block, to the end of a vector; nothing reads what they make of it.",
        "memset(turned, 0, sizeof(float) * N * all);",
        *(f"memset({p.name}, 0, sizeof(float) * {part_size(order.graph, p)});" for p in parts_of(order)),
        *braced("for (long left = T - 1; left >= 0; left--)", step),
        *braced("if (call->d_initial)", _first_gradient(order.graph)),
        *gradients(order),
    ]
    return braced(f"static void backward_{name}(const struct layer_call *call)", body)
