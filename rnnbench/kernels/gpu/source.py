"""Writes Triton source from the graph of a cell's step: a scan over time, forward and backward.

A program of the grid is one trial times a part of the minibatch. The state, the weights and the gradients of
the weights stay in registers while time is a loop inside of the kernel, so hidden sizes are small (see
`rnnbench.kernels.gpu.scan`). A block of the graph is a tensor (HP, BB): hidden rows, padded to a power of
two, times examples. Rows beyond the hidden size have weights of 0, and what they hold is never stored.

    python -m rnnbench.kernels.gpu.source lstm      prints the kernels of a cell
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rnnbench.kernels.generator.graph import LEAVES, SUM, Factor, Graph, Product, Value, made, read
from rnnbench.kernels.generator.schedule import EXPENSIVE
from rnnbench.kernels.gpu.layer import EVERY, HIDDEN, LAST, MEAN

UNARY = {
    "neg": "-{0}",
    "sigmoid": "tl.sigmoid({0})",
    "tanh": "2 * tl.sigmoid(2 * {0}) - 1",  # libdevice's tanh is not there in the interpreter
    "relu": "tl.where({0} < 0, 0.0, {0})",  # lets nan pass
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "sqrt": "tl.sqrt({0})",
    "abs": "tl.abs({0})",
    "sign": "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, {0}))",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
}
BINARY = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
}
COMPARED = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
TEXT = UNARY | BINARY | {op: f"tl.where({{0}} {sign} {{1}}, 1.0, 0.0)" for op, sign in COMPARED.items()}
TEXT["where"] = "tl.where({0} != 0, {1}, {2})"
# Operations whose value may be infinite or nan in rows beyond the hidden size, where all weights are 0.
UNSAFE = {"div", "log", "sqrt", "exp"}


@dataclass(frozen=True)
class Form:
    """What the source of a layer depends on besides the graph."""

    kind: int = HIDDEN  # of the input
    dropped: bool = False  # whether x has dropout's factors
    reverse: bool = False
    reads: str = LAST  # EVERY, LAST or MEAN
    learned: bool = False  # the state before the first step is a parameter
    carried: bool = False  # it is what the minibatch before has left
    training: bool = True  # the forward pass keeps what the backward one reads
    wants_d_x: bool = True
    add: bool = False  # d_x is added to what is there


def kept(graph: Graph) -> tuple[list[int], list[int]]:
    """Return the full blocks and the rows of the forward pass that the backward one reads from memory.

    It reads the states before and after a step anyway, and computes again what follows from these without a
    product.
    """
    nodes = {number: node for node in graph.nodes for number in made(node)}
    shapes = graph.shapes()
    cheap: dict[int, bool] = dict.fromkeys(graph.after, True)

    def again(number: int) -> bool:
        """Return whether a value follows from states and leaves without a product or a sum over rows."""
        if number not in cheap:
            node = nodes[number]
            product = isinstance(node, Product) or node.op == SUM
            cheap[number] = not product and all(map(again, read(node)))
        return cheap[number]

    found: dict[int, None] = {}
    met: set[int] = set(graph.after)
    left = backward_roots(graph)
    forward = reached(graph, graph.after)
    while left:
        number = left.pop()
        if number in met:
            continue
        met.add(number)
        node = nodes[number]
        costly = isinstance(node, Product) or node.op == SUM or node.op in EXPENSIVE
        if number in forward and costly and not again(number):
            found[number] = None
        else:
            left += read(node)
    ordered = [number for number in nodes if number in found]
    full = [number for number in ordered if shapes[number] == "full"]
    return full, [number for number in ordered if shapes[number] == "row"]


def backward_roots(graph: Graph) -> list[int]:
    """Return the values that a step leaves behind in the backward pass."""
    roots = [*graph.before, *(each.value for each in graph.sums)]
    for outer in graph.outers:
        roots += [*outer.left, *(outer.right or ())]
    return roots + [i for factor in graph.d_x for i in factor.operand or ()]


def reached(graph: Graph, roots: Iterable[int], ends: Iterable[int] = ()) -> set[int]:
    """Return the values that roots are computed from, and the roots; not beyond `ends`."""
    nodes = {number: node for node in graph.nodes for number in made(node)}
    ends, found, left = set(ends), set[int](), list(roots)
    while left:
        number = left.pop()
        if number not in found:
            found.add(number)
            left += () if number in ends else read(nodes[number])
    return found


class Step:
    """Writes the lines of one step, forward or backward.

    Args:
        graph: of the step.
        wanted: values that it computes.
        given: values that are there before, by their text.

    Attributes:
        lines: the step.
        constants: lines before the loop over time: weights, and what is the same at every step.
    """

    def __init__(self, graph: Graph, wanted: Iterable[int], given: dict[int, str]) -> None:
        self.graph, self.shapes, self.names = graph, graph.shapes(), dict(given)
        self.lines: list[str] = []
        self.constants: list[str] = []
        self.unsafe = any(isinstance(node, Value) and node.op in UNSAFE for node in graph.nodes)
        relevant = reached(graph, wanted, given)
        for node in graph.nodes:
            for number in made(node):
                if number in relevant and number not in given:
                    self._add(node, number)

    def _add(self, node: Value | Product, number: int) -> None:
        """Add the line of a value."""
        name = f"v{number}"
        if isinstance(node, Product):
            block = node.ids.index(number)
            start = [self.full(node.start[block])] if node.start else []
            text = " + ".join([*start, *(dot for factor in node.factors for dot in self.dots(factor, block))])
        elif node.op in LEAVES:
            self.names[number] = self._leaf(node)
            return
        else:
            text = self._computed(node)
        self.names[number] = name
        constant = self.shapes[number] == "column" or self.shapes[number] == "one"
        (self.constants if constant and not isinstance(node, Product) else self.lines).append(
            f"{name} = {text}"
        )

    def _leaf(self, node: Value) -> str:
        at = int(node.index) if node.op != "number" else 0
        match node.op:
            case "number":
                text = repr(float(node.index))
                return (
                    text
                    if text.strip("-").replace(".", "").replace("e", "").replace("-", "").isdigit()
                    else f"float('{text}')"
                )
            case "hidden":
                return "(H * 1.0)"
            case "mask":
                return "mask"
            case "vector":
                self._constant(f"{node.name}_{at}", self._vector(node.name, at))
                return f"{node.name}_{at}"
        return f"{node.op}_{at}"

    def _vector(self, name: str, block: int) -> str:
        place = f"parameters + AT_{name}"
        if not self.graph.weights[name][0]:
            return f"tl.load({place})"
        return f"tl.load({place} + {block} * H + row, row < H, 0.0)[:, None]"

    def _computed(self, node: Value) -> str:
        args = [self.names[arg] for arg in node.args]
        if node.op == SUM:
            sums = [f"tl.sum(tl.where(real, {self.full(arg)}, 0.0), 0)" for arg in node.args]
            return f"({' + '.join(sums)})[None, :]"
        return TEXT[node.op].format(*args)

    def _constant(self, name: str, text: str) -> None:
        line = f"{name} = {text}"
        if line not in self.constants:
            self.constants.append(line)

    def full(self, number: int) -> str:
        """Return the text of a value as a tensor (HP, BB)."""
        name = self.names[number]
        return name if self.shapes[number] == "full" else f"({name} + nothing)"

    def operand(self, number: int) -> str:
        """Return the text of a value that products read: 0 in the rows beyond the hidden size, if need be."""
        return f"tl.where(real, {self.full(number)}, 0.0)" if self.unsafe else self.full(number)

    def dots(self, factor: Factor, block: int) -> Iterator[str]:
        """Generate the products of a factor that make its block number `block`."""
        rows, columns = factor.rows, factor.columns
        if factor.transposed:
            column = None if columns is None else columns[0] + block
            for operand, r in zip(factor.operand or (), range(*rows), strict=True):
                yield self._dot(self.weight(factor.weight, r, column, transposed=True), self.operand(operand))
        elif factor.operand is None:
            yield self._dot(self.weight(factor.weight, rows[0] + block, None), "x")
        else:
            assert columns is not None
            for operand, c in zip(factor.operand, range(*columns), strict=True):
                yield self._dot(self.weight(factor.weight, rows[0] + block, c), self.operand(operand))

    def _dot(self, weight: str, operand: str) -> str:
        return f"tl.dot({weight}, {operand}, input_precision=PRECISION)"

    def weight(self, name: str, r: int, c: int | None, transposed: bool = False) -> str:
        """Return the variable of a block of a weight, (HP, HP), or (HP, XP) of one with `input` columns."""
        across, width = ("feature", "INPUT") if c is None else ("row", f"({self.graph.weights[name][1]} * H)")
        left, top = "" if c is None else f" + {c} * H", f"{r} * H + "
        rows, columns = ("[None, :]", "[:, None]") if transposed else ("[:, None]", "[None, :]")
        mask = f"(row < H){rows} & ({across} < {'INPUT' if c is None else 'H'}){columns}"
        place = f"parameters + AT_{name} + ({top}row){rows} * {width} + {across}{columns}{left}"
        variable = f"{name}_{r}" + ("" if c is None else f"_{c}") + "_t" * transposed
        self._constant(variable, f"tl.load({place}, {mask}, 0.0)")
        return variable


HEADER = """\
    k = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BB + tl.arange(0, BB)
    there = column < B
    row = tl.arange(0, HP)
    feature = tl.arange(0, XP)
    real = (row < H)[:, None]
    unit = row[:, None] * B + column[None, :]  # of a block (H, B)
    here = real & there[None, :]
    nothing = tl.zeros([HP, BB], tl.float32)
    length = tl.load(LENGTHS + k * B + column, there, 0)
    index = tl.load(INDEX + k * B + column, there, 0)
    steps = tl.max(length, 0)
    parameters = PARAMETERS + k * P"""
ARRAYS = (
    *("X", "INDEX", "LENGTHS", "DROPOUT", "PARAMETERS", "MASK", "ZONE", "CARRIED", "FRESH", "LEFT"),
    *("OUTPUTS", "OTHERS", "KEPT", "KEPT_ROWS", "SUMMARY", "D_OUTPUTS", "D_SUMMARY", "D_X", "PARTS"),
)
NUMBERS = ("T", "B", "P", "WIDTH", "ROW", "scale", "shift", "zone_rate", "AT_initial")
SIZES = ("H", "HP", "BB", "INPUT", "XP", "PRECISION")


class Writer:
    """Writes the kernels of a graph.

    Args:
        graph: of the step.
        form: what else the source depends on.
        again: whether the backward pass computes the values of the forward one again, from the states alone.
    """

    def __init__(self, graph: Graph, form: Form, again: bool = False) -> None:
        self.graph, self.form = graph, form
        self.kept, self.kept_rows = ([], []) if again else kept(graph)
        self.leaves = [node for node in graph.nodes if isinstance(node, Value) and node.op in LEAVES]
        self.masked = any(node.op == "mask" for node in self.leaves)
        self.zones = sorted({int(node.index) for node in self.leaves if node.op == "zone"})

    def source(self) -> str:
        """Return the module's text: the functions `forward` and `backward`."""
        return "\n\n\n".join([self.forward(), self.backward()]) + "\n"

    def _function(self, name: str, lines: Iterable[str]) -> str:
        offsets = [f"AT_{weight}" for weight in self.graph.weights]
        sizes = [f"{size}: tl.constexpr" for size in SIZES]
        arguments = ", ".join([*ARRAYS, *NUMBERS, *offsets, *sizes])
        body = [HEADER, *(f"    {line}" for line in lines)]
        return "\n".join(["@triton.jit", f"def {name}({arguments}):", *body])

    def forward(self) -> str:
        """Write the forward scan."""
        graph, form = self.graph, self.form
        step = Step(graph, [*graph.after, *(self.kept + self.kept_rows if form.training else [])], {})
        states = range(graph.states)
        loop = ["ok = there & (n < length)", "real_ok = real & ok[None, :]", *self._place("at", "n")]
        loop += [*self._x(step.lines), *self._zones(), *step.lines]
        after = [step.full(number) for number in graph.after]
        loop += [f"next_{s} = tl.where(ok[None, :], {text}, state_{s})" for s, text in enumerate(after)]
        loop += [f"state_{s} = next_{s}" for s in states]
        loop += [f"tl.store(OUTPUTS + {self._output('at')}, state_0, real_ok)"]
        if form.training:
            loop += [f"tl.store(OTHERS + {self._other('at', s)}, state_{s}, real_ok)" for s in states[1:]]
            loop += [
                f"tl.store(KEPT + {self._kept(n)}, {step.full(v)}, real_ok)" for n, v in enumerate(self.kept)
            ]
            loop += [
                f"tl.store(KEPT_ROWS + {self._kept_row(n)}, {step.names[v]}, ok[None, :])"
                for n, v in enumerate(self.kept_rows)
            ]
        if form.reads == MEAN:
            loop.append("total += tl.where(ok[None, :], state_0, 0.0)")
        summary = "total / tl.maximum(length, 1)[None, :]" if form.reads == MEAN else "state_0"
        ends = (
            []
            if form.reads == EVERY
            else [f"tl.store(SUMMARY + (k * WIDTH + ROW) * B + unit, {summary}, here)"]
        )
        if form.carried:
            ends += [
                f"tl.store(LEFT + (k * {graph.states} + {s}) * H * B + unit, state_{s}, here)" for s in states
            ]
        lines = [*self._mask(), *step.constants]
        lines += [f"state_{s} = {text}" for s, text in enumerate(self._initial())]
        lines += ["total = nothing"] if form.reads == MEAN else []
        return self._function("forward", [*lines, "for n in range(steps):", *_indented(loop), *ends])

    def backward(self) -> str:
        """Write the backward scan."""
        graph, form = self.graph, self.form
        kept = {v: f"kept_{n}" for n, v in enumerate(self.kept)}
        kept |= {v: f"kept_row_{n}" for n, v in enumerate(self.kept_rows)}
        given = {v: f"after_{s}" for s, v in enumerate(graph.after)} | kept
        states = {node.id for node in self.leaves if node.op == "state"}
        given = {v: text for v, text in given.items() if v not in states}  # a state that a step hands on
        roots = backward_roots(graph)
        if not form.wants_d_x:
            downs = {i for factor in graph.d_x for i in factor.operand or ()}
            roots = [root for root in roots if root not in downs or root in _others(graph)]
        step = Step(graph, roots, given)
        used = " ".join(step.lines) + " ".join(step.names[root] for root in roots)
        states_ = range(graph.states)
        ends, adds = self._gradients(step)
        loop = ["n = steps - 1 - back", "ok = there & (n < length)", "real_ok = real & ok[None, :]"]
        loop += [*self._place("at", "n"), *self._place("before", "n - 1")]
        loop += ["begun = n > 0 * length", "later = real_ok & begun[None, :]"]
        for s, first in enumerate(self._initial_loaded()):
            place = (
                f"OUTPUTS + {self._output('before')}" if s == 0 else f"OTHERS + {self._other('before', s)}"
            )
            loop.append(f"state_{s} = tl.load({place}, later, 0.0)")
            if first != "nothing":
                loop.append(f"state_{s} = tl.where(begun[None, :], state_{s}, {first})")
            if f"after_{s}" in used:
                place = f"OUTPUTS + {self._output('at')}" if s == 0 else f"OTHERS + {self._other('at', s)}"
                loop.append(f"after_{s} = tl.load({place}, real_ok, 0.0)")
        loop += [f"kept_{n} = tl.load(KEPT + {self._kept(n)}, real_ok, 0.0)" for n in range(len(self.kept))]
        loop += [
            f"kept_row_{n} = tl.load(KEPT_ROWS + {self._kept_row(n)}, ok[None, :], 0.0)"
            for n in range(len(self.kept_rows))
        ]
        if form.reads == EVERY:
            loop.append(f"d_0 += tl.load(D_OUTPUTS + {self._output('at')}, real_ok, 0.0)")
        if form.reads == MEAN:
            loop.append("d_0 += tl.where(ok[None, :], share, 0.0)")
        loop += [f"d_after_{s} = d_{s}" for s in states_]
        loop += [*self._x([*step.lines, *adds]), *self._zones(), *step.lines, *adds, *self._d_x(step)]
        loop += [f"d_{s} = tl.where(ok[None, :], {step.full(v)}, d_{s})" for s, v in enumerate(graph.before)]
        start = [f"d_{s} = nothing" for s in states_]
        if form.reads != EVERY:
            start.append("given = tl.load(D_SUMMARY + (k * WIDTH + ROW) * B + unit, here, 0.0)")
            start.append(
                "d_0 = given" if form.reads == LAST else "share = given / tl.maximum(length, 1)[None, :]"
            )
        first = [f"first_{s} = {text}" for s, text in enumerate(self._initial()) if text != "nothing"]
        lines = [*self._mask(), *step.constants, *first, *start, *self.accumulators]
        return self._function("backward", [*lines, "for back in range(steps):", *_indented(loop), *ends])

    def _gradients(self, step: Step) -> tuple[list[str], list[str]]:
        """Return the lines after the loop that store the gradients, and those of a step that add to them."""
        graph = self.graph
        self.accumulators: list[str] = []
        ends = ["parts = PARTS + (k * tl.num_programs(1) + tl.program_id(1)) * P"]
        adds: list[str] = []

        def accumulator(name: str, shape: str, place: str, mask: str) -> str:
            variable = f"g_{name}"
            line = f"{variable} = tl.zeros([{shape}], tl.float32)"
            if line not in self.accumulators:
                self.accumulators.append(line)
                ends.append(f"tl.store(parts + {place}, {variable}, {mask})")
            return variable

        def masked(number: int) -> str:
            name = f"m{number}"
            line = f"{name} = tl.where(ok[None, :], {step.full(number)}, 0.0)"
            if line not in adds:
                adds.append(line)
            return name

        for outer in graph.outers:
            rows = range(*outer.rows)
            columns = [None] if outer.columns is None else list(range(*outer.columns))
            for left, r in zip(outer.left, rows, strict=True):
                for n, c in enumerate(columns):
                    right = "x" if outer.right is None else step.operand(outer.right[n])
                    name = f"{outer.weight}_{r}" + ("" if c is None else f"_{c}")
                    width = "INPUT" if c is None else f"({graph.weights[outer.weight][1]} * H)"
                    across = "feature" if c is None else "row"
                    left_of = "" if c is None else f" + {c} * H"
                    place = (
                        f"AT_{outer.weight} + ({r} * H + row)[:, None] * {width} + {across}[None, :]{left_of}"
                    )
                    mask = f"real & ({across} < {'INPUT' if c is None else 'H'})[None, :]"
                    g = accumulator(name, f"HP, {'XP' if c is None else 'HP'}", place, mask)
                    adds_line = (
                        f"{g} = tl.dot({masked(left)}, tl.trans({right}), {g}, input_precision=PRECISION)"
                    )
                    adds.append(adds_line)
        for each in graph.sums:
            if graph.weights[each.weight][0]:
                place = f"AT_{each.weight} + {each.block} * H + row"
                g = accumulator(f"{each.weight}_{each.block}", "HP", place, "row < H")
                adds.append(f"{g} += tl.sum({masked(each.value)}, 1)")
            else:
                g = accumulator(
                    each.weight, "1", f"AT_{each.weight} + tl.arange(0, 1)", "tl.arange(0, 1) == 0"
                )
                adds.append(f"{g} += {self._whole_sum(step, each.value)}")
        if self.form.learned:
            anew = "tl.load(FRESH) != 0" if self.form.carried else ""
            for s in range(graph.states):
                whole = f"tl.sum(tl.where(here, d_{s}, 0.0), 1)"
                whole = f"tl.where({anew}, {whole}, 0.0)" if anew else whole
                ends.append(f"tl.store(parts + AT_initial + {s} * H + row, {whole}, row < H)")
        return ends, adds

    def _whole_sum(self, step: Step, number: int) -> str:
        """Return the text of a sum over a row, or over the real rows and examples of a block, as (1,)."""
        if step.shapes[number] == "row":
            return f"tl.sum(tl.where(ok[None, :], {step.names[number]}, 0.0), 1)"
        return f"tl.sum(tl.sum(tl.where(real_ok, {step.full(number)}, 0.0), 0)[None, :], 1)"

    def _d_x(self, step: Step) -> list[str]:
        """Return the lines that store the gradient at x."""
        if not self.form.wants_d_x:
            return []
        dots = [dot for factor in self.graph.d_x for dot in step.dots(factor, 0)]
        inside = "(feature < INPUT)[:, None] & ok[None, :]"
        place = "((k * T + at[None, :]) * INPUT + feature[:, None]) * B + column[None, :]"
        lines = [f"d_x = {' + '.join(dots) or 'tl.zeros([XP, BB], tl.float32)'}"]
        if self.form.dropped:
            lines.append(f"d_x *= tl.load(DROPOUT + {place}, {inside}, 0.0)")
        if self.form.add:
            lines.append(f"d_x += tl.load(D_X + {place}, {inside}, 0.0)")
        return [*lines, f"tl.store(D_X + {place}, d_x, {inside})"]

    def _initial(self) -> list[str]:
        """Return the text of the state before the first step, for each of its tensors."""
        form, states = self.form, self.graph.states
        found = []
        for s in range(states):
            text = "nothing"
            if form.learned:
                text = f"tl.load(parameters + AT_initial + {s} * H + row, row < H, 0.0)[:, None] + nothing"
            if form.carried:
                before = f"tl.load(CARRIED + (k * {states} + {s}) * H * B + unit, here, 0.0)"
                text = f"tl.where(tl.load(FRESH) != 0, {text}, {before})"
            found.append(text)
        return found

    def _initial_loaded(self) -> list[str]:
        """Return the variable of the state before the first step in the backward pass, for each tensor."""
        return ["nothing" if text == "nothing" else f"first_{s}" for s, text in enumerate(self._initial())]

    def _mask(self) -> list[str]:
        """Return the line that loads the factors of recurrent dropout."""
        if not self.masked:
            return []
        return [
            "mask = tl.load(MASK + k * H * B + unit, here, 0.0)"
            if self.form.training
            else "mask = nothing + 1.0"
        ]

    def _zones(self) -> list[str]:
        """Return the lines that load a step's factors of zoneout."""
        if not self.form.training:
            return [f"zone_{s} = nothing + zone_rate" for s in self.zones]
        place = "((k * T + at[None, :]) * {n} + {s}) * H * B + row[:, None] * B + column[None, :]"
        return [
            f"zone_{s} = tl.load(ZONE + {place.format(n=self.graph.states, s=s)}, real_ok, 0.0)"
            for s in self.zones
        ]

    def _x(self, lines: Iterable[str]) -> list[str]:
        """Return the line that loads the input of a step, if lines read it."""
        if not any(re.search(r"\bx\b", line) for line in lines):
            return []
        form = self.form
        return [
            "x = load_x(X, DROPOUT, k, index, at, column, ok, T, B, scale, shift, "
            f"SIZE=INPUT, PADDED=XP, KIND={form.kind}, DROPPED={form.dropped})"
        ]

    def _place(self, name: str, n: str) -> list[str]:
        """Return the line that computes the places in time of step n."""
        text = f"length - 1 - ({n})" if self.form.reverse else f"{n} + 0 * length"
        return [f"{name} = ({text}).to(tl.int64)"]

    def _output(self, at: str) -> str:
        return f"((k * T + {at}[None, :]) * WIDTH + ROW + row[:, None]) * B + column[None, :]"

    def _other(self, at: str, s: int) -> str:
        states = self.graph.states - 1
        return f"(((k * T + {at}[None, :]) * {states} + {s - 1}) * H + row[:, None]) * B + column[None, :]"

    def _kept(self, n: int) -> str:
        return f"(((k * T + at[None, :]) * {len(self.kept)} + {n}) * H + row[:, None]) * B + column[None, :]"

    def _kept_row(self, n: int) -> str:
        return f"((k * T + at[None, :]) * {len(self.kept_rows)} + {n}) * B + column[None, :]"


def _others(graph: Graph) -> set[int]:
    """Return the values that a step leaves behind in the backward pass beside the gradient at x."""
    found = {*graph.before, *(each.value for each in graph.sums)}
    for outer in graph.outers:
        found |= {*outer.left, *(outer.right or ())}
    return found


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def main() -> None:
    """Print the kernels of the cells that the command line names."""
    from rnnbench.kernels.generator.graph import parse
    from rnnbench.kernels.libraries import STEPS

    for name in sys.argv[1:]:
        print(Writer(parse((STEPS / f"{name}.txt").read_text(encoding="utf-8")), Form()).source())


if __name__ == "__main__":
    main()
