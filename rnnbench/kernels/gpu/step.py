"""Writes the lines of one step of a graph as Triton source, forward or backward, on blocks (HP, BB)."""

from collections.abc import Iterable, Iterator

from rnnbench.kernels.generator.graph import LEAVES, SUM, Factor, Graph, Product, Value, made, reached, read
from rnnbench.kernels.generator.schedule import EXPENSIVE

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


def backward_roots(graph: Graph, wants_d_x: bool = True) -> list[int]:
    """Return the values that a step leaves behind in the backward pass, with those that d_x is made of."""
    roots = [*graph.before, *(each.value for each in graph.sums)]
    for outer in graph.outers:
        roots += [*outer.left, *(outer.right or ())]
    return roots + [i for factor in graph.d_x for i in factor.operand or () if wants_d_x]


def function(name: str, head: list[str], arguments: Iterable[str], lines: Iterable[str]) -> str:
    """Return the text of a kernel: what stands above its name, its arguments, and its lines."""
    return "\n".join([*head, f"def {name}({', '.join(arguments)}):", *indented(lines)])


def indented(lines: Iterable[str]) -> list[str]:
    """Return lines as those of a block, one level in."""
    return [f"    {line}" for line in lines]


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
