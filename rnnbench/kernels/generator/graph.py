"""Describes one step of a cell, forward and backward, as a graph of products, elementwise values and sums.

A value is a block: `full` (hidden, B), `column` (hidden, 1) of a weight vector, `row` (1, B), or `one`
number. A tensor of 4 hidden rows is four blocks. A cell whose memory may have another size than the hidden
size (lmu) has blocks of M rows beside those of H; `units.py` says which. `rnnbench.kernels.trace` makes
graphs of cells, and the modules beside this one make kernels of graphs. This module uses nothing but the
standard library, since an installation reads it before there is torch.

The text of a graph (`Graph.text`, `parse`):

    lstm: 2 states
    weight weight_ih 4H input
    weight weight_hh 4H 1H
    weight bias 4H
    v0 = state 0
    v2 = vector bias 0
    ...
    v6 v7 v8 v9 = v2 v3 v4 v5 + weight_ih[0:4] x + weight_hh[0:4, 0:1] (v0)
    v10 = sigmoid v6
    after v19 v17
    v20 = d_after 0
    ...
    v40 = v39 + weight_hh[0:4, 0:1]' (v30 v31 v32 v33)
    before v40 v28
    weight_ih[0:4] += (v30 v31 v32 v33) x
    weight_hh[0:4, 0:1] += (v30 v31 v32 v33) (v0)
    bias[0] += v30
    x += weight_ih[0:4]' (v30 v31 v32 v33)
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

# Leaves, with what stands after the word: a state before the step, the gradient at a state after it, a block
# of a weight vector, a number, the hidden size, the factors of recurrent dropout and of zoneout of a state.
LEAVES = {
    "state": "full",
    "d_after": "full",
    "vector": "column",
    "number": "one",
    "hidden": "one",
    "mask": "full",
    "zone": "full",
}
UNARY = ("neg", "sigmoid", "tanh", "relu", "exp", "log", "sqrt", "abs", "sign", "sin", "cos")
BINARY = (
    "add",
    "sub",
    "mul",
    "div",
    "maximum",
    "minimum",
    "gt",
    "ge",
    "lt",
    "le",
    "eq",
    "ne",
)  # comparisons: 0 or 1
TERNARY = ("where",)  # condition (not 0), then, else
SUM = "rows"  # the sum over all hidden rows of its blocks: a `row`


@dataclass(frozen=True)
class Value:
    """One block: a leaf, or computed from other blocks, each element by itself; or a sum over rows."""

    id: int
    op: str  # of LEAVES, UNARY, BINARY, TERNARY, or SUM
    args: tuple[int, ...] = ()
    name: str = ""  # of `vector`: the weight
    index: float = 0  # of a leaf: which state or block; of `number`: the number


@dataclass(frozen=True)
class Factor:
    """A part of a weight matrix, in blocks, times blocks (or the input x).

    `rows` and `columns` are those of the weight; columns None: all columns of a weight with `input` columns.
    transposed: the part's transpose is the factor, so that operand has as many blocks as the part has rows.
    """

    weight: str
    rows: tuple[int, int]
    columns: tuple[int, int] | None
    operand: tuple[int, ...] | None  # None: x (input, B)
    transposed: bool = False


@dataclass(frozen=True)
class Product:
    """Blocks `ids` = start + the sum of the factors' products; the factors are added in their order."""

    ids: tuple[int, ...]
    start: tuple[int, ...]  # one value for each block, all columns or all full; empty: 0
    factors: tuple[Factor, ...]


@dataclass(frozen=True)
class Outer:
    """What a step adds to the gradient of a part of a weight: blocks `left` times `right` transposed."""

    weight: str
    rows: tuple[int, int]
    columns: tuple[int, int] | None  # None: right is x
    left: tuple[int, ...]
    right: tuple[int, ...] | None


@dataclass(frozen=True)
class Sum:
    """What a step adds to the gradient of a block of a weight vector: a value, summed over the examples."""

    weight: str
    block: int
    value: int


@dataclass
class Graph:
    """One step of a cell; nodes stand in an order in which they can be computed."""

    name: str
    states: int
    # Of each weight: its rows, in blocks (0: one row, which stands for a block of equal rows in products with
    # x, or one number), and its columns: blocks, "input", or None for a vector. In the order of a trial's
    # parameters.
    weights: dict[str, tuple[int, int | str | None]]
    nodes: list[Value | Product] = field(default_factory=list)
    after: tuple[int, ...] = ()  # the state after the step
    before: tuple[int, ...] = ()  # the gradient at the state before the step
    outers: list[Outer] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    d_x: tuple[Factor, ...] = ()  # the gradient at x: the sum of these products
    constants: dict[str, tuple[int, int | str | None]] = field(default_factory=dict)  # as weights, untrained
    # Of weights and constants that have blocks of a memory's M rows: the units of their rows and columns.
    units: dict[str, tuple[str, str]] = field(default_factory=dict)
    memory: bool = False  # whether there are two states, h and a memory of M rows

    def units_of(self, name: str) -> tuple[str, str]:
        """Return the units of the rows and the columns of a weight, H or M each."""
        return self.units.get(name, ("H", "H"))

    def state_unit(self, number: int) -> str:
        """Return the unit of a state's rows."""
        return "M" if self.memory and number else "H"

    @property
    def arrays(self) -> dict[str, tuple[int, int | str | None]]:
        """Return weights and constants."""
        return self.weights | self.constants

    def shapes(self) -> dict[int, str]:
        """Return the shape of every block by its id: full, column, row or one."""
        shapes: dict[int, str] = {}
        for node in self.nodes:
            if isinstance(node, Product):
                shapes |= dict.fromkeys(node.ids, "full")
            elif node.op in LEAVES:
                one = node.op == "vector" and self.arrays[node.name][0] == 0
                shapes[node.id] = "one" if one else LEAVES[node.op]
            elif node.op == SUM:
                shapes[node.id] = "row"
            else:
                shapes[node.id] = together({shapes[arg] for arg in node.args})
        return shapes

    def with_numbers(self, values: Mapping[str, float]) -> "Graph":
        """Return the graph in which constants are numbers."""
        nodes = [
            Value(node.id, "number", index=values[node.name])
            if isinstance(node, Value) and node.name in values
            else node
            for node in self.nodes
        ]
        left = {name: size for name, size in self.constants.items() if name not in values}
        return replace(self, nodes=nodes, constants=left)

    def text(self) -> str:
        """Write the graph as text, one node a line; `parse` reads it."""
        lines = [f"{self.name}: {self.states} states{', a memory' * self.memory}"]
        for name, (rows, columns) in self.arrays.items():
            up, across = self.units_of(name)
            width = (
                ""
                if columns is None
                else f" {columns}"
                if isinstance(columns, str)
                else f" {columns}{across}"
            )
            lines.append(f"{'weight' if name in self.weights else 'constant'} {name} {rows}{up}{width}")
        forward = set(self.after)
        at = max((n for n, node in enumerate(self.nodes) if forward & set(made(node))), default=-1) + 1
        lines += map(_node, self.nodes[:at])
        lines.append(f"after {_ids(self.after)}")
        lines += map(_node, self.nodes[at:])
        lines.append(f"before {_ids(self.before)}")
        for outer in self.outers:
            right = "x" if outer.right is None else f"({_ids(outer.right)})"
            lines.append(f"{_part(outer.weight, outer.rows, outer.columns)} += ({_ids(outer.left)}) {right}")
        lines += [f"{each.weight}[{each.block}] += v{each.value}" for each in self.sums]
        if self.d_x:
            lines.append(f"x += {' + '.join(map(_factor, self.d_x))}")
        return "\n".join(lines) + "\n"


def made(node: Value | Product) -> tuple[int, ...]:
    """Return the ids of the blocks that a node makes."""
    return node.ids if isinstance(node, Product) else (node.id,)


def read(node: Value | Product) -> tuple[int, ...]:
    """Return the ids of the blocks that a node reads."""
    if isinstance(node, Value):
        return node.args
    return node.start + tuple(i for factor in node.factors for i in factor.operand or ())


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


def together(shapes: set[str]) -> str:
    """Return the shape that blocks of these shapes have together, each spread over the others."""
    if "full" in shapes or {"row", "column"} <= shapes:
        return "full"
    return next((shape for shape in ("row", "column") if shape in shapes), "one")


def _ids(ids: tuple[int, ...]) -> str:
    return " ".join(f"v{i}" for i in ids)


def _part(weight: str, rows: tuple[int, int], columns: tuple[int, int] | None) -> str:
    return f"{weight}[{rows[0]}:{rows[1]}{f', {columns[0]}:{columns[1]}' if columns else ''}]"


def _factor(factor: Factor) -> str:
    operand = "x" if factor.operand is None else f"({_ids(factor.operand)})"
    return f"{_part(factor.weight, factor.rows, factor.columns)}{chr(39) * factor.transposed} {operand}"


def _node(node: Value | Product) -> str:
    if isinstance(node, Product):
        terms = ([_ids(node.start)] if node.start else []) + list(map(_factor, node.factors))
        return f"{_ids(node.ids)} = {' + '.join(terms)}"
    words = [node.op]
    if node.op == "vector":
        words.append(node.name)
    if node.op == "number":
        words.append(repr(float(node.index)))
    elif node.op in LEAVES and node.op not in ("mask", "hidden"):
        words.append(str(int(node.index)))
    return f"v{node.id} = {' '.join([*words, *(f'v{arg}' for arg in node.args)])}"


_PART = r"(\w+)\[(\d+):(\d+)(?:, (\d+):(\d+))?\]"
_FACTOR = re.compile(_PART + r"('?) (x|\((v[\d v]*)\))")


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(int(word[1:]) for word in words.split())


def _factors(text: str) -> tuple[Factor, ...]:
    factors = []
    for weight, top, bottom, left, right, transposed, operand, ids in _FACTOR.findall(text):
        columns = (int(left), int(right)) if left else None
        blocks = None if operand == "x" else _numbers(ids)
        factors.append(Factor(weight, (int(top), int(bottom)), columns, blocks, bool(transposed)))
    return tuple(factors)


def parse(text: str) -> Graph:
    """Read the text of a graph."""
    first, *lines = text.splitlines()
    name, states = first.split(": ")
    graph = Graph(name, int(states.split()[0]), {}, memory=states.endswith(" memory"))
    for line in lines:
        words = line.split()
        if words[0] in ("weight", "constant"):
            columns = None if len(words) == 3 else words[3] if words[3] == "input" else int(words[3][:-1])
            table = graph.weights if words[0] == "weight" else graph.constants
            table[words[1]] = int(words[2][:-1]), columns
            across = "M" if isinstance(columns, int) and words[3][-1] == "M" else "H"
            if "M" in (units := (words[2][-1], across)):
                graph.units[words[1]] = units
        elif words[0] in ("after", "before"):
            setattr(graph, words[0], _numbers(" ".join(words[1:])))
        elif words[0] == "x":
            graph.d_x = _factors(line)
        elif " += " in line:
            _gradient(graph, line)
        else:
            graph.nodes.append(_parsed(line))
    return graph


def _gradient(graph: Graph, line: str) -> None:
    """Read the line of an outer product or of a sum."""
    if found := re.fullmatch(_PART + r" \+= \(([^)]*)\) (x|\((.*)\))", line):
        weight, top, bottom, left, right, ids, operand, operands = found.groups()
        columns = (int(left), int(right)) if left else None
        graph.outers.append(
            Outer(weight, (int(top), int(bottom)), columns, _numbers(ids),
                  None if operand == "x" else _numbers(operands))
        )  # fmt: skip
        return
    found = re.fullmatch(r"(\w+)\[(\d+)\] \+= v(\d+)", line)
    assert found, line
    graph.sums.append(Sum(found[1], int(found[2]), int(found[3])))


def _parsed(line: str) -> Value | Product:
    """Read the line of a node."""
    left, right = line.split(" = ")
    ids = _numbers(left)
    if "[" in right:
        start = right.split(" + ")[0]
        return Product(ids, () if "[" in start else _numbers(start), _factors(right))
    op, *words = right.split()
    if op not in LEAVES:
        return Value(ids[0], op, _numbers(" ".join(words)))
    name = words[0] if op == "vector" else ""
    return Value(ids[0], op, (), name, float(words[-1]) if words else 0)
