"""Writes Triton source of single steps from the graph of a cell, for hidden sizes too large for the chip.

A program computes a tile of one trial: TR hidden rows times BB examples. A launch is a stage of a step (see
`rnnbench.kernels.gpu.stages`): first its products, for which the program goes through all rows of the
operands, then what follows from them element by element. The products with x are there before, those of the
weights' gradients are made after all steps (rnnbench.kernels.gpu.products).
"""

import re
from collections.abc import Iterable, Iterator

from rnnbench.kernels.generator.graph import LEAVES, SUM, Factor, Graph, Product, Value, made
from rnnbench.kernels.gpu.layer import EVERY, MEAN
from rnnbench.kernels.gpu.source import Form
from rnnbench.kernels.gpu.stages import Stages
from rnnbench.kernels.gpu.step import Step, function, kept

ARRAYS = (
    *("LENGTHS", "PARAMETERS", "MASK", "ZONE", "INITIAL", "OUTPUTS", "OTHERS", "KEPT", "KEPT_ROWS"),
    *("SCRATCH", "SUMS", "D_OUTPUTS", "D_SUMMARY", "D_STATES"),
)
NUMBERS = ("n", "T", "B", "P", "WIDTH", "ROW", "BLOCKS", "zone_rate")
SIZES = ("H", "TR", "BB", "DEEP", "PRECISION")
HEADER = """\
k = tl.program_id(0).to(tl.int64)
row = tl.program_id(1) * TR + tl.arange(0, TR)
column = tl.program_id(2) * BB + tl.arange(0, BB)
there = column < B
length = tl.load(LENGTHS + k * B + column, there, 0)
ok = there & (n < length)
real = (row < H)[:, None]
real_ok = real & ok[None, :]
begun = n > 0 * length
nothing = tl.zeros([TR, BB], tl.float32)
parameters = PARAMETERS + k * P"""


class TileStep(Step):
    """Writes the lines of a stage; products have been computed before, without what they are added to."""

    def __init__(self, graph: Graph, wanted: Iterable[int], given: dict[int, str], stage: set[int]) -> None:
        self.stage = stage  # blocks of products that are computed in this stage
        super().__init__(graph, wanted, given)

    def dots(self, factor: Factor, block: int) -> Iterator[str]:
        """Return nothing: the products of all factors are computed before."""
        return iter(())

    def _add(self, node: Value | Product, number: int) -> None:
        if not isinstance(node, Product):
            super()._add(node, number)
            return
        if number in self.stage:
            start = f"{self.full(node.start[node.ids.index(number)])} + " if node.start else ""
            self.names[number] = f"v{number}"
            self.lines.append(f"v{number} = {start}p{number}")


class TiledWriter:
    """Writes the kernels of a graph, one for each stage of each half.

    Args:
        graph: of the step.
        form: what else the source depends on.

    Attributes:
        inputs: the blocks of scratch that hold products with x, by weight and block of rows.
        lefts: the blocks of scratch that hold what the gradients are made of, by value.
        blocks: how many blocks of scratch a step has.
        sums: how many sums over rows a half of a step has, at most.
    """

    def __init__(self, graph: Graph, form: Form) -> None:
        self.graph, self.form, self.shapes = graph, form, graph.shapes()
        self.full, self.rows = kept(graph)
        leaves = [node for node in graph.nodes if isinstance(node, Value) and node.op in LEAVES]
        self.leaves = {node.id: node for node in leaves}
        self.forward = Stages(graph, [*graph.after, *self.full, *self.rows], ())
        after = [v for v in graph.after if v not in self.leaves]
        standing = [*after, *self.full, *self.rows]
        self.backward = Stages(graph, [*graph.before, *behind(graph)], standing)
        factors = [
            (factor.weight, r)
            for node in graph.nodes
            if isinstance(node, Product)
            for factor in node.factors
            for r in range(*factor.rows)
            if factor.operand is None
        ]
        self.inputs = {part: n for n, part in enumerate(sorted(set(factors)))}
        self.lefts = {v: n for n, v in enumerate(behind(graph))}
        crossing = (self.forward.crossing, self.backward.crossing)
        self.sums = max(1, *(sum(map(len, half.sums)) for half in (self.forward, self.backward)))
        self.blocks = max(len(self.inputs) + len(crossing[0]), len(self.lefts) + len(crossing[1]))

    def source(self) -> str:
        """Return the module's text: functions `forward_0`, ..., `backward_0`, ..."""
        halves = (("forward", self.forward), ("backward", self.backward))
        return "\n\n\n".join(
            self._stage(name, half, at) for name, half in halves for at in range(len(half.values))
        )

    def _stage(self, name: str, half: Stages, at: int) -> str:
        """Write the kernel of a stage."""
        summed = [arg for sum_ in half.sums[at] for arg in half.value(sum_).args]
        wanted = [*half.values[at], *summed]
        given = {
            number: f"v{number}"
            for number in half.nodes
            if number not in self.leaves and not half.register(number, at)
        }
        step = TileStep(self.graph, wanted, given, set(half.products[at]))
        products = self._products(half, at)
        ends = [line for number in half.values[at] for line in self._store(name, half, step, number)]
        ends += [self._add_rows(half, step, sum_) for sum_ in half.sums[at]]
        if name == "backward" and at == len(half.values) - 1:
            ends += self._pass_on()
        text = [*step.lines, *ends]
        loads = self._loads(name, half, [*text, *step.constants], given)
        body = [*self._places(), *step.constants, *products, *loads, *text]
        offsets = [f"AT_{weight}" for weight in self.graph.weights]
        sizes = [f"{size}: tl.constexpr" for size in SIZES]
        head = ['@triton.jit(do_not_specialize=["n"])']
        arguments = [*ARRAYS, *NUMBERS, *offsets, *sizes]
        return function(f"{name}_{at}", head, arguments, [*HEADER.splitlines(), *body])

    def _places(self) -> list[str]:
        """Return the lines that compute the places in time of this step and of the one before."""
        places = (
            ("length - 1 - n", "length - n")
            if self.form.reverse
            else ("n + 0 * length", "n - 1 + 0 * length")
        )
        return [
            f"{name} = ({text}).to(tl.int64)" for name, text in zip(("at", "before"), places, strict=True)
        ]

    def _products(self, half: Stages, at: int) -> list[str]:
        """Return the lines that compute the products of a stage, p and the number of each block."""
        start, loop = [], []
        operands: dict[int, None] = {}
        for number in half.products[at]:
            node = half.nodes[number]
            assert isinstance(node, Product)
            block = node.ids.index(number)
            start.append(f"p{number} = {self._of_inputs(node, block)}")
            for factor in node.factors:
                for operand, weight in self._tiles(factor, block):
                    operands[operand] = None
                    loop.append(
                        f"p{number} = tl.dot({weight}, o{operand}, p{number}, input_precision=PRECISION)"
                    )
        if not loop:
            return start
        inner = ["unit = first + tl.arange(0, DEEP)", "inner = (unit < H)[:, None] & ok[None, :]"]
        inner += [f"o{operand} = {self._operand(half, operand)}" for operand in operands]
        return [*start, "for first in range(0, H, DEEP):", *(f"    {line}" for line in [*inner, *loop])]

    def _of_inputs(self, node: Product, block: int) -> str:
        """Return the text of the products of a block with x."""
        places = [
            self.inputs[factor.weight, factor.rows[0] + block]
            for factor in node.factors
            if factor.operand is None
        ]
        loads = [f"tl.load(SCRATCH + {self._scratch(str(n), 'row')}, real_ok, 0.0)" for n in places]
        return " + ".join(loads) or "tl.zeros([TR, BB], tl.float32)"

    def _tiles(self, factor: Factor, block: int) -> Iterable[tuple[int, str]]:
        """Generate the operands of a block of a factor, each with the tile of the weight it goes with."""
        if factor.operand is None:
            return
        assert factor.columns is not None
        width = f"({self.graph.weights[factor.weight][1]} * H)"
        blocks = range(*factor.rows) if factor.transposed else range(*factor.columns)
        for operand, other in zip(factor.operand, blocks, strict=True):
            if factor.transposed:
                rows, columns = (
                    f"({other} * H + unit)[None, :]",
                    f"({factor.columns[0] + block} * H + row)[:, None]",
                )
            else:
                rows, columns = (
                    f"({factor.rows[0] + block} * H + row)[:, None]",
                    f"({other} * H + unit)[None, :]",
                )
            place = f"parameters + AT_{factor.weight} + {rows} * {width} + {columns}"
            yield operand, f"tl.load({place}, real & (unit < H)[None, :], 0.0)"

    def _operand(self, half: Stages, number: int) -> str:
        """Return the text of the rows `unit` of an operand."""
        node = half.nodes[number]
        if number not in half.standing and half.inline(number):
            assert isinstance(node, Value)
            return " * ".join(f"({self._load(half, arg, 'unit', 'inner')})" for arg in node.args)
        return self._load(half, number, "unit", "inner")

    def _load(self, half: Stages, number: int, row: str, mask: str) -> str:
        """Return the text that loads rows of a value from where it stands."""
        if number in self.leaves and self.shapes[number] == "full":
            return self._load_leaf(self.leaves[number], row, mask)
        return f"tl.load({self._place(half, number, row)}, {mask}, 0.0)"

    def _place(self, half: Stages, number: int, row: str) -> str:
        """Return the text of the addresses of rows of a value that is no leaf."""
        if number in self.graph.after:
            return self._state("at", self.graph.after.index(number), row)
        if number in self.full:
            block = f"((k * T + at[None, :]) * {len(self.full)} + {self.full.index(number)})"
            return f"KEPT + ({block} * H + {row}[:, None]) * B + column[None, :]"
        return f"SCRATCH + {self._scratch(self._block(half, number), row)}"

    def _block(self, half: Stages, number: int) -> str:
        """Return the block of scratch of a value."""
        if half is self.backward and number in self.lefts:
            return str(self.lefts[number])
        first = len(self.inputs if half is self.forward else self.lefts)
        return str(first + list(half.crossing).index(number))

    def _scratch(self, block: str, row: str) -> str:
        return f"(((k * T + at[None, :]) * BLOCKS + {block}) * H + {row}[:, None]) * B + column[None, :]"

    def _state(self, at: str, s: int, row: str) -> str:
        """Return the text of the addresses of a state after the step at these places in time."""
        if s == 0:
            return f"OUTPUTS + ((k * T + {at}[None, :]) * WIDTH + ROW + {row}[:, None]) * B + column[None, :]"
        block = f"((k * T + {at}[None, :]) * {self.graph.states - 1} + {s - 1})"
        return f"OTHERS + ({block} * H + {row}[:, None]) * B + column[None, :]"

    def _load_leaf(self, node: Value, row: str, mask: str) -> str:
        """Return the text that loads rows of a leaf."""
        s, states = int(node.index), self.graph.states
        unit = f"{row}[:, None]) * B + column[None, :]"
        match node.op:
            case "state":
                text = f"tl.load({self._state('before', s, row)}, {mask} & begun[None, :], 0.0)"
                if self.form.learned or self.form.carried:
                    initial = f"INITIAL + ((k * {states} + {s}) * H + {unit}"
                    text += f" + tl.load({initial}, {mask} & (begun == 0)[None, :], 0.0)"
                return text
            case "mask":
                load = f"tl.load(MASK + (k * H + {unit}, {mask}, 0.0)"
                return load if self.form.training else f"tl.where({mask}, 1.0, 0.0)"
            case "zone":
                load = f"tl.load(ZONE + (((k * T + at[None, :]) * {states} + {s}) * H + {unit}, {mask}, 0.0)"
                return load if self.form.training else f"tl.where({mask}, zone_rate, 0.0)"
        return self._d_after(s, row, mask)

    def _d_after(self, s: int, row: str, mask: str) -> str:
        """Return the text of the gradient at a state after the step."""
        text = f"tl.load({self._d_state('n', s, row)}, {mask}, 0.0)"
        if s == 0 and self.form.reads == EVERY:
            outputs = self._state("at", 0, row).replace("OUTPUTS", "D_OUTPUTS", 1)
            text += f" + tl.load({outputs}, {mask}, 0.0)"
        if s == 0 and self.form.reads == MEAN:
            summary = (
                f"tl.load(D_SUMMARY + (k * WIDTH + ROW + {row}[:, None]) * B + column[None, :], {mask}, 0.0)"
            )
            text += f" + {summary} / tl.maximum(length, 1)[None, :]"
        return text

    def _d_state(self, n: str, s: int, row: str) -> str:
        """Return the addresses of the gradient at a state after step n; there is one array for two steps."""
        states = self.graph.states
        block = f"(k * 2 + {n} % 2) * {states} + {s}"
        return f"D_STATES + (({block}) * H + {row}[:, None]) * B + column[None, :]"

    def _loads(self, name: str, half: Stages, lines: list[str], given: dict[int, str]) -> list[str]:
        """Return the lines that load what lines read."""
        used = set(re.findall(r"\w+", " ".join(lines)))
        found = []
        for leaf in self.leaves.values():
            variable = leaf.op if leaf.op == "mask" else f"{leaf.op}_{int(leaf.index)}"
            if leaf.op in ("state", "mask", "zone", "d_after") and variable in used:
                found.append(f"{variable} = {self._load_leaf(leaf, 'row', 'real_ok')}")
        for number, variable in given.items():
            if variable not in used:
                continue
            node = half.nodes[number]
            if self.shapes[number] == "full":
                found.append(f"{variable} = {self._load(half, number, 'row', 'real_ok')}")
            elif number in half.standing:
                n = f"((k * T + at[None, :]) * {len(self.rows)} + {self.rows.index(number)})"
                found.append(f"{variable} = tl.load(KEPT_ROWS + {n} * B + column[None, :], ok[None, :], 0.0)")
            else:
                assert isinstance(node, Value) and node.op == SUM
                found += self._sum_of_rows(half, number)
        return found

    def _sum_of_rows(self, half: Stages, number: int) -> list[str]:
        """Return the lines that add up the sums over the rows of each tile, in their order."""
        return [
            f"v{number} = tl.zeros([1, BB], tl.float32)",
            "for tile in range(0, (H + TR - 1) // TR):",
            f"    v{number} += tl.load({self._sum(half, number, 'tile')}, there[None, :], 0.0)",
        ]

    def _sum(self, half: Stages, number: int, tile: str) -> str:
        """Return the addresses of a tile's sum over rows."""
        sums = [sum_ for stage in half.sums for sum_ in stage]
        block = f"((k * ((H + TR - 1) // TR) + {tile}) * {len(sums)} + {sums.index(number)})"
        return f"SUMS + {block} * B + column[None, :]"

    def _add_rows(self, half: Stages, step: Step, number: int) -> str:
        """Return the line that stores the sum over the rows of this tile."""
        blocks = [f"tl.where(real, {step.full(arg)}, 0.0)" for arg in half.value(number).args]
        total = f"tl.sum({' + '.join(blocks)}, 0)[None, :]"
        return f"tl.store({self._sum(half, number, 'tl.program_id(1)')}, {total}, there[None, :])"

    def _store(self, name: str, half: Stages, step: Step, number: int) -> list[str]:
        """Return the lines that store a value where it is wanted."""
        found = []
        if name == "forward" and number in self.rows:
            n = f"((k * T + at[None, :]) * {len(self.rows)} + {self.rows.index(number)})"
            once = "(ok & (tl.program_id(1) == 0 * length))[None, :]"
            found.append(f"tl.store(KEPT_ROWS + {n} * B + column[None, :], {step.names[number]}, {once})")
            if number not in half.crossing:
                return found
        if name == "forward":
            for s, after in enumerate(self.graph.after):
                if after == number:
                    found.append(f"tl.store({self._state('at', s, 'row')}, {step.full(number)}, real_ok)")
            if number in self.graph.after:
                return found
        elif number in self.graph.before:
            for s, before in enumerate(self.graph.before):
                if before == number:
                    place = self._d_state("(n + 1)", s, "row")
                    found.append(f"tl.store({place}, {step.full(number)}, real_ok)")
            if number not in self.lefts and number not in half.crossing:
                return found
        if name == "forward" and number in self.full:
            place = self._place(half, number, "row")
        else:
            place = f"SCRATCH + {self._scratch(self._block(half, number), 'row')}"
        return [*found, f"tl.store({place}, {step.full(number)}, real_ok)"]

    def _pass_on(self) -> list[str]:
        """Return the lines that keep the gradient of examples that do not have the step."""
        rest = "real & (there & (n >= length))[None, :]"
        lines = []
        for s in range(self.graph.states):
            old = f"tl.load({self._d_state('n', s, 'row')}, {rest}, 0.0)"
            lines.append(f"tl.store({self._d_state('(n + 1)', s, 'row')}, {old}, {rest})")
        return lines


def behind(graph: Graph) -> list[int]:
    """Return the values of a backward step that gradients and d_x are made of, in blocks side by side."""
    found: dict[int, None] = {}
    for outer in sorted(graph.outers, key=lambda outer: -len(outer.left)):
        found |= dict.fromkeys(outer.left)
    found |= dict.fromkeys(each.value for each in graph.sums)
    found |= dict.fromkeys(i for factor in graph.d_x for i in factor.operand or ())
    nodes = {number: node for node in graph.nodes for number in made(node)}
    for outer in graph.outers:
        for i in outer.right or ():
            node = nodes[i]
            if not (isinstance(node, Value) and node.op == "state"):
                found[i] = None
    return list(found)
