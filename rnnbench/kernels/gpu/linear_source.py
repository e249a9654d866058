"""Writes Triton source of a step that is linear in its state: a scan that is parallel over time.

A program of the grid is one trial times a tile of hidden rows times a part of the minibatch. It goes through
time in chunks; a block of the graph is a tensor (TT, HT, BB): the steps of a chunk, hidden rows, examples.
All values of a chunk are computed side by side, then an associative scan along the first dimension gives the
states, or the gradients at them. Products with x are computed before and after, for all steps at once.

    python -m rnnbench.kernels.gpu.linear_source mingru      prints the kernels of a cell
"""

import re
import sys
from collections.abc import Iterable, Iterator

from rnnbench.kernels.generator.graph import SUM, Factor, Graph, Product, Sum, Value, parse
from rnnbench.kernels.gpu.coefficients import Coefficients, Multiple, linear
from rnnbench.kernels.gpu.layer import EVERY, LAST, MEAN
from rnnbench.kernels.gpu.source import Form
from rnnbench.kernels.gpu.step import Step, function, indented
from rnnbench.kernels.libraries import STEPS

HEADER = """\
k = tl.program_id(0).to(tl.int64)
row = tl.program_id(1) * HT + tl.arange(0, HT)
column = tl.program_id(2) * BB + tl.arange(0, BB)
there = column < B
real = (row < H)[None, :, None]
unit = row[None, :, None] * B + column[None, None, :]  # of a block (H, B)
here = real & there[None, None, :]
nothing = tl.zeros([TT, HT, BB], tl.float32)
step = tl.arange(0, TT)
last = (step == TT - 1)[:, None, None]
length = tl.load(LENGTHS + k * B + column, there, 0).to(tl.int32)
chunks = tl.cdiv(tl.max(length, 0), TT)
parameters = PARAMETERS + k * P
trial = k * T"""
ARRAYS = (
    *("LENGTHS", "PARAMETERS", "ZONE", "CARRIED", "FRESH", "LEFT", "OUTPUTS", "OTHERS", "KEPT"),
    *("SUMMARY", "D_OUTPUTS", "D_SUMMARY", "PARTS"),
)
NUMBERS = ("T", "B", "P", "WIDTH", "ROW", "zone_rate", "AT_initial")
SIZES = ("H", "TT", "HT", "BB")


class Places:
    """Where the blocks of a step stand in the array of what is kept, (K, T, kept, hidden, B).

    Attributes:
        products: the first block of each product with x.
        lefts: the first block of the left sides of outer products and of the factors of d_x.
        values: the value of each block of the left sides.
        count: number of blocks of products with x, the first ones.
        kept: number of all blocks.
    """

    def __init__(self, graph: Graph) -> None:
        self.products: dict[Factor, int] = {}
        self.kept = 0
        for node in graph.nodes:
            if isinstance(node, Product):
                self.products[node.factors[0]] = self.kept
                self.kept += len(node.ids)
        self.count = self.kept
        self.lefts: dict[tuple[int, ...], int] = {}
        self.values: dict[int, int] = {}
        for blocks in (*(outer.left for outer in graph.outers), *(each.operand or () for each in graph.d_x)):
            if blocks not in self.lefts:
                self.lefts[blocks] = self.kept
                self.values |= dict(enumerate(blocks, self.kept))
                self.kept += len(blocks)


class Chunk(Step):
    """Writes the lines of the steps of a chunk, on blocks (TT, HT, BB).

    Attributes:
        products: the blocks of products with x that the lines read.
    """

    def __init__(self, graph: Graph, wanted: Iterable[int], given: dict[int, str], places: Places) -> None:
        self.places = places
        self.products: dict[int, None] = {}
        super().__init__(graph, wanted, given)

    def dots(self, factor: Factor, block: int) -> Iterator[str]:
        """Generate the block of a product with x, which is there."""
        number = self.places.products[factor] + block
        self.products[number] = None
        yield f"product_{number}"

    def _vector(self, name: str, block: int) -> str:
        text = super()._vector(name, block)
        return text.replace("[:, None]", "[None, :, None]")

    def _computed(self, node: Value) -> str:
        if node.op == SUM:
            return " + ".join(
                f"tl.sum(tl.where(real, {self.full(arg)}, 0.0), 1, keep_dims=True)" for arg in node.args
            )
        return super()._computed(node)


class Lines:
    """Collects the lines of a chunk, part after part.

    Attributes:
        loop: the lines.
        constants: lines before the loop over chunks.
        products: the blocks of products with x that the lines read.
        given: what has been computed, by its text.
        chunk: the last part.
    """

    def __init__(self, graph: Graph, places: Places) -> None:
        self.graph, self.places = graph, places
        self.loop: list[str] = []
        self.constants: dict[str, None] = {}
        self.products: dict[int, None] = {}
        self.given: dict[int, str] = {}

    def compute(self, *values: int) -> list[str]:
        """Add the lines that compute values, and return their texts."""
        self.chunk = chunk = Chunk(self.graph, values, self.given, self.places)
        self.loop += chunk.lines
        self.constants |= dict.fromkeys(chunk.constants)
        self.products |= chunk.products
        self.given |= {number: name for number, name in chunk.names.items() if name == f"v{number}"}
        return [chunk.full(number) for number in values]


class LinearWriter:
    """Writes the kernels of a step with these coefficients; form: what else the source depends on."""

    def __init__(self, coefficients: Coefficients, form: Form) -> None:
        self.coefficients, self.form = coefficients, form
        self.graph = coefficients.graph
        self.places = Places(self.graph)
        values = [node for node in self.graph.nodes if isinstance(node, Value)]
        self.zones = sorted({int(node.index) for node in values if node.op == "zone"})
        self.numbers = {node.id: node.index for node in values if node.op == "number"}

    def source(self) -> str:
        """Return the module's text: what scans combine, and the functions `forward` and `backward`."""
        return "\n\n\n".join([self.forward(), self.backward()]) + "\n"

    def _function(self, name: str, lines: Iterable[str]) -> str:
        offsets = [f"AT_{weight}" for weight in self.graph.weights]
        sizes = [f"{size}: tl.constexpr" for size in SIZES]
        body = [*HEADER.splitlines(), *lines]
        return function(name, ["@triton.jit"], [*ARRAYS, *NUMBERS, *offsets, *sizes], body)

    def forward(self) -> str:
        """Write the forward scan."""
        form, states = self.form, range(self.graph.states)
        lines = Lines(self.graph, self.places)
        for each in self.coefficients.forward:
            s = each.state
            slope, rest = lines.compute(each.slope, each.rest)
            lines.loop += [
                f"a_{s} = tl.where(real_ok, {slope}, 1.0)",
                f"b_{s} = tl.where(real_ok, {rest}, 0.0)",
                f"a_{s}, b_{s} = tl.associative_scan((a_{s}, b_{s}), 0, then)",
                f"after_{s} = a_{s} * left_{s} + b_{s}",
                f"left_{s} = tl.sum(tl.where(last, after_{s}, 0.0), 0, keep_dims=True)",
            ]
            lines.given[self.graph.after[s]] = f"after_{s}"
            if s == 0 or form.training:
                lines.loop.append(f"tl.store({self._state(s, 'line')}, after_{s}, real_ok)")
        loop = ["n = chunk * TT + step", *self._steps(), *self._loads(lines.products), *lines.loop]
        begin = [*lines.constants, *(f"left_{s} = {text}" for s, text in enumerate(self._initial()))]
        if form.reads == MEAN:
            begin.append("total = tl.zeros([1, HT, BB], tl.float32)")
            loop.append("total += tl.sum(tl.where(real_ok, after_0, 0.0), 0, keep_dims=True)")
        summary = "total / tl.maximum(length, 1)[None, None, :]" if form.reads == MEAN else "left_0"
        ends = [f"tl.store(SUMMARY + (k * WIDTH + ROW) * B + unit, {summary}, here)"]
        ends = [] if form.reads == EVERY else ends
        if form.carried:
            place = f"LEFT + (k * {self.graph.states} + {{}}) * H * B + unit"
            ends += [f"tl.store({place.format(s)}, left_{s}, here)" for s in states]
        return self._function("forward", [*begin, "for chunk in range(chunks):", *indented(loop), *ends])

    def backward(self) -> str:
        """Write the backward scan: gradients at the states, then all that follows from these."""
        lines = Lines(self.graph, self.places)
        for each in self.coefficients.backward:
            lines.loop += self._scan_back(each, *lines.compute(each.slope, each.rest))
        roots = [*self.places.values.values(), *(each.value for each in self.graph.sums)]
        stored = lines.compute(*roots)
        for block, text in zip(self.places.values, stored, strict=False):
            lines.loop.append(f"tl.store({self._kept(block)}, {text}, real_ok)")
        sums = Sums(self.graph, lines.chunk)
        loop = ["n = (chunks - chunk) * TT - 1 - step", *self._steps(), *self._loads(lines.products)]
        loop += [*self._before(" ".join([*lines.loop, *sums.adds])), *lines.loop, *sums.adds]
        begin = [*lines.constants, *self._gradients(), *sums.start]
        ends = [*sums.ends, *self._d_initial()]
        return self._function("backward", [*begin, "for chunk in range(chunks):", *indented(loop), *ends])

    def _scan_back(self, each: Multiple, slope: str, rest: str) -> list[str]:
        """Return the lines of the scan that gives the gradient at a state after each step."""
        s, function, more = each.state, "back", ""
        lines = [
            f"d_{s} = {self._given() if s == 0 else 'nothing'}",
            f"a_{s} = tl.where(real_ok, {slope}, 1.0)",
        ]
        if self.numbers.get(each.rest) != 0:
            function, more = "back_and_more", f", r_{s}"
            lines.append(f"r_{s} = tl.where(real_ok, {rest}, 0.0)")
        names = f"p_{s}, q_{s}, a_{s}{more}"
        left = f"a_{s} * d_after_{s}{more.replace(',', ' +')}"
        return [
            *lines,
            f"{names} = tl.associative_scan((nothing + 1.0, d_{s}, a_{s}{more}), 0, {function})",
            f"d_after_{s} = p_{s} * d_left_{s} + q_{s}",
            f"d_left_{s} = tl.sum(tl.where(last, {left}, 0.0), 0, keep_dims=True)",
        ]

    def _gradients(self) -> list[str]:
        """Return the lines before the loop: states before the first step, gradients after the last one."""
        reads, initial = self.form.reads, enumerate(self._initial())
        lines = [f"first_{s} = {text}" for s, text in initial]
        lines += [f"d_left_{s} = tl.zeros([1, HT, BB], tl.float32)" for s in range(self.graph.states)]
        if reads != EVERY:
            lines.append("given = tl.load(D_SUMMARY + (k * WIDTH + ROW) * B + unit, here, 0.0)")
        lines += ["d_left_0 = given"] if reads == LAST else []
        return lines + (["share = given / tl.maximum(length, 1)[None, None, :]"] if reads == MEAN else [])

    def _given(self) -> str:
        """Return the text of the gradient that a step's own output has."""
        if self.form.reads == EVERY:
            return "tl.load(D_OUTPUTS + ((trial + line) * WIDTH + ROW) * B + unit, real_ok, 0.0)"
        return "tl.where(real_ok, share, 0.0)" if self.form.reads == MEAN else "nothing"

    def _steps(self) -> list[str]:
        """Return the lines that say which steps there are, and their places in time."""
        return [
            "ok = there[None, :] & (n[:, None] >= 0) & (n[:, None] < length[None, :])",
            "real_ok = real & ok[:, None, :]",
            f"line = {self._place('n')}",
        ]

    def _place(self, n: str) -> str:
        text = (
            f"length[None, :] - 1 - {n}[:, None]"
            if self.form.reverse
            else f"{n}[:, None] + 0 * length[None, :]"
        )
        return f"({text}).to(tl.int64)[:, None, :]"

    def _loads(self, products: Iterable[int]) -> list[str]:
        """Return the lines that load products with x and factors of zoneout."""
        lines = [f"product_{n} = tl.load({self._kept(n)}, real_ok, 0.0)" for n in products]
        if not self.form.training:
            return lines + [f"zone_{s} = nothing + zone_rate" for s in self.zones]
        place = f"ZONE + ((trial + line) * {self.graph.states} + {{}}) * (H * B) + unit"
        return lines + [f"zone_{s} = tl.load({place.format(s)}, real_ok, 0.0)" for s in self.zones]

    def _before(self, used: str) -> list[str]:
        """Return the lines that load the states before each step which other lines read."""
        lines = ["begun = (n > 0)[:, None, None]", f"line_before = {self._place('(n - 1)')}"]
        for s in range(self.graph.states):
            if re.search(rf"\bstate_{s}\b", used):
                lines += [
                    f"state_{s} = tl.load({self._state(s, 'line_before')}, real_ok & begun, 0.0)",
                    f"state_{s} = tl.where(begun, state_{s}, first_{s})",
                ]
        return lines

    def _d_initial(self) -> list[str]:
        """Return the lines that store the gradient of a learned state before the first step."""
        found = []
        for s in range(self.graph.states) if self.form.learned else ():
            whole = f"tl.sum(tl.where(here, d_left_{s}, 0.0), 2)"
            if self.form.carried:
                whole = f"tl.where(tl.load(FRESH) != 0, {whole}, 0.0)"
            found.append(
                f"tl.store(parts + AT_initial + {s} * H + row[None, :], {whole}, (row < H)[None, :])"
            )
        return found

    def _initial(self) -> list[str]:
        """Return the text of the state before the first step, for each of its tensors."""
        found = []
        for s in range(self.graph.states):
            text = "tl.zeros([1, HT, BB], tl.float32)"
            if self.form.learned:
                own = f"tl.load(parameters + AT_initial + {s} * H + row, row < H, 0.0)[None, :, None]"
                text = f"{own} + {text}"
            if self.form.carried:
                before = f"tl.load(CARRIED + (k * {self.graph.states} + {s}) * H * B + unit, here, 0.0)"
                text = f"tl.where(tl.load(FRESH) != 0, {text}, {before})"
            found.append(text)
        return found

    def _state(self, s: int, line: str) -> str:
        if s == 0:
            return f"OUTPUTS + ((trial + {line}) * WIDTH + ROW) * B + unit"
        return f"OTHERS + ((trial + {line}) * {self.graph.states - 1} + {s - 1}) * (H * B) + unit"

    def _kept(self, block: int) -> str:
        blocks = self.places.kept if self.form.training else self.places.count
        return f"KEPT + ((trial + line) * {blocks} + {block}) * (H * B) + unit"


class Sums:
    """Collects what a backward scan does for the gradients of vectors and numbers.

    Attributes:
        start: lines before the loop over chunks: sums of 0.
        adds: lines of a chunk.
        ends: lines after the loop: the sums are stored.
    """

    def __init__(self, graph: Graph, chunk: Chunk) -> None:
        self.graph, self.chunk = graph, chunk
        self.start: list[str] = []
        self.adds: list[str] = []
        self.ends = ["parts = PARTS + (k * tl.num_programs(2) + tl.program_id(2)) * P"]
        for each in graph.sums:
            self._add(each)

    def _add(self, each: Sum) -> None:
        """Add a value over the steps of a chunk, and over the examples in the end."""
        number, name = not self.graph.weights[each.weight][0], f"g_{each.value}"
        flat = number and self.chunk.shapes[each.value] in ("row", "one")  # it counts once, not for each row
        if not any(line.startswith(f"{name} = ") for line in self.start):
            rows, inside = ("1", "ok[:, None, :]") if flat else ("HT", "real_ok")
            text = f"{self.chunk.names[each.value]} + tl.zeros([TT, 1, BB], tl.float32)"
            value = text if flat else self.chunk.full(each.value)
            self.start.append(f"{name} = tl.zeros([1, {rows}, BB], tl.float32)")
            self.adds.append(f"{name} += tl.sum(tl.where({inside}, {value}, 0.0), 0, keep_dims=True)")
        place = f"parts + AT_{each.weight}"
        if number:
            whole = f"tl.sum(tl.sum({name}, 2), 1)"
            self.ends.append(f"tl.store({place} + tl.arange(0, 1), {whole})")
        else:
            rows = f"{place} + {each.block} * H + row[None, :]"
            self.ends.append(f"tl.store({rows}, tl.sum({name}, 2), (row < H)[None, :])")


def whole(graph: Graph) -> bool:
    """Return whether a program has to have all hidden rows, since something is summed over them."""
    rows = any(isinstance(node, Value) and node.op == SUM for node in graph.nodes)
    return rows or any(not graph.weights[each.weight][0] for each in graph.sums)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        found = linear(parse((STEPS / f"{name}.txt").read_text(encoding="utf-8")))
        sys.stdout.write(LinearWriter(found, Form()).source() if found else f"{name} is not linear\n")
