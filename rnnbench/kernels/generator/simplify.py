"""Simplifies the graph of a step: no value twice, none that is not read, as few products as there can be."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby

from .graph import LEAVES, SUM, Factor, Graph, Outer, Product, Value, made, read, together


@dataclass
class Builder:
    """Collects the nodes of a graph, each value once; products make one block each until `finished`."""

    graph: Graph
    nodes: dict[int, Value | Product] = field(default_factory=dict)
    known: dict[tuple[object, ...], int] = field(default_factory=dict)
    shapes: dict[int, str] = field(default_factory=dict)

    def leaf(self, op: str, index: float = 0, name: str = "") -> int:
        """Enter a leaf and return its id."""
        one = op == "vector" and self.graph.arrays[name][0] == 0
        return self._enter(Value(-1, op, (), name, index), "one" if one else LEAVES[op])

    def number(self, number: float) -> int:
        """Enter a number and return its id."""
        return self.leaf("number", float(number))

    def constant(self, block: int) -> float | None:
        """Return the number that a block is, or None."""
        node = self.nodes[block]
        return node.index if isinstance(node, Value) and node.op == "number" else None

    def value(self, op: str, *args: int) -> int:
        """Enter an elementwise value and return its id, or that of what is equal to it."""
        numbers = [self.constant(arg) for arg in args]
        if op in ("add", "sub") and numbers[1] == 0:
            return args[0]
        if op == "add" and numbers[0] == 0:
            return args[1]
        if op == "sub" and numbers[0] == 0:
            return self.value("neg", args[1])
        if op in ("mul", "div") and numbers[1] == 1:
            return args[0]
        if op == "mul" and numbers[0] == 1:
            return args[1]
        if op == "mul" and 0 in numbers:
            return self.number(0)
        if op == "neg" and numbers[0] is not None:
            return self.number(-numbers[0])
        if op in FOLDED and numbers[0] is not None and numbers[1] is not None:
            return self.number(FOLDED[op](numbers[0], numbers[1]))
        return self._enter(Value(-1, op, args), together({self.shapes[arg] for arg in args}))

    def rows(self, blocks: tuple[int, ...]) -> int:
        """Enter the sum over all rows of the blocks, and return its id."""
        return self._enter(Value(-1, SUM, blocks), "row")

    def product(self, start: int | None, factor: Factor) -> int:
        """Enter one block of a product and return its id."""
        return self._enter(Product((-1,), () if start is None else (start,), (factor,)), "full")

    def _enter(self, node: Value | Product, shape: str) -> int:
        key: tuple[object, ...] = (node,)
        if key not in self.known:
            number = len(self.nodes)
            self.known[key] = number
            own = replace(node, ids=(number,)) if isinstance(node, Product) else replace(node, id=number)
            self.nodes[number] = own
            self.shapes[number] = shape
        return self.known[key]

    def finished(self) -> Graph:
        """Return the graph of what is read, its products merged and grouped, its ids in order."""
        while self._merge():
            pass
        try:
            order = self._ordered(self._grouped())
        except CircleError:  # two groups read each other
            order = self._ordered({})
        names = {old: new for new, old in enumerate(i for node in order for i in made(node))}
        return renamed(replace(self.graph, nodes=order), names)

    def _ordered(self, groups: dict[int, Product]) -> list[Value | Product]:
        """Return what is needed in an order in which it can be computed, the forward half first.

        Raises:
            CircleError: a group reads what is computed from it.
        """
        order: list[Value | Product] = []
        placed: set[int] = set()
        begun: set[int] = set()  # first blocks of the nodes whose arguments are being placed
        waiting = [*sorted(self._live(), reverse=True), *reversed(self.graph.after)]
        while waiting:  # no recursion: a step may have thousands of nodes one after the other
            node = groups.get(waiting[-1], self.nodes[waiting[-1]])
            first = made(node)[0]
            missing = [arg for arg in read(node) if arg not in placed]
            if first in placed:
                waiting.pop()
            elif not missing:
                placed.update(made(node))
                order.append(node)
                waiting.pop()
            elif first in begun:
                raise CircleError
            else:
                begun.add(first)
                waiting += reversed(missing)
        return order

    def _roots(self) -> list[int]:
        graph = self.graph
        outer = [i for each in graph.outers for i in (*each.left, *(each.right or ()))]
        d_x = [i for factor in graph.d_x for i in factor.operand or ()]
        return [*graph.after, *graph.before, *outer, *(each.value for each in graph.sums), *d_x]

    def _live(self) -> set[int]:
        """Return the blocks that the graph's results need."""
        live: set[int] = set()
        waiting = self._roots()
        while waiting:
            block = waiting.pop()
            if block not in live:
                live.add(block)
                waiting += read(self.nodes[block])
        return live

    def _uses(self) -> Counter[int]:
        """Count how often each block is read by what is needed."""
        uses = Counter(self._roots())
        for block in self._live():
            uses.update(read(self.nodes[block]))
        return uses

    def _merge(self) -> bool:
        """Make one product of a product and what is added to it, where nothing else reads it; once."""
        uses = self._uses()

        def alone(block: int) -> Product | None:
            node = self.nodes[block]
            return node if isinstance(node, Product) and uses[block] == 1 else None

        for block in sorted(self._live()):
            node = self.nodes[block]
            merged: Product | None = None
            if isinstance(node, Product) and node.start and (below := alone(node.start[0])):
                merged = self._together(block, below, node)
            elif isinstance(node, Value) and node.op == "add":
                first, second = (alone(arg) for arg in node.args)
                if first and second and node.args[0] != node.args[1]:
                    merged = self._together(block, first, second)
                elif first and self._may_start(first, node.args[1]):
                    merged = self._together(block, first, Product((-1,), (node.args[1],), ()))
                elif second and self._may_start(second, node.args[0]):
                    merged = self._together(block, Product((-1,), (node.args[0],), ()), second)
            if merged is not None:
                self.nodes[block] = merged
                return True
        return False

    def _may_start(self, product: Product, block: int) -> bool:
        """Return whether a block can be what a product starts from, or be added to that."""
        if not product.start:
            return self.shapes[block] in ("full", "column")
        return self.shapes[block] == self.shapes[product.start[0]] == "column"

    def _together(self, block: int, first: Product, second: Product) -> Product:
        """Return the product of the factors of both, those of the input first."""
        inside = {made_id for product in (first, second) for made_id in product.ids}
        starts = [s for product in (first, second) for s in product.start if s not in inside]
        start = () if not starts else (starts[0] if len(starts) == 1 else self.value("add", *starts),)
        factors = first.factors + second.factors
        return Product((block,), start, tuple(sorted(factors, key=lambda factor: factor.operand is not None)))

    def _grouped(self) -> dict[int, Product]:
        """Join products of consecutive rows that are alike otherwise: the product that has each block."""
        live = self._live()
        products = [self.nodes[block] for block in sorted(live) if isinstance(self.nodes[block], Product)]
        open_groups: list[list[Product]] = []
        for product in products:
            assert isinstance(product, Product)
            for group in open_groups:
                if self._follows(group[-1], product) and not self._reads(product.ids[0], group):
                    group.append(product)
                    break
            else:
                open_groups.append([product])
        joined: dict[int, Product] = {}
        for group in open_groups:
            one = Product(
                tuple(product.ids[0] for product in group),
                tuple(product.start[0] for product in group if product.start),
                tuple(_spanning(first, last) for first, last in
                      zip(group[0].factors, group[-1].factors, strict=True)),
            )  # fmt: skip
            joined |= dict.fromkeys(one.ids, one)
        return joined

    def _follows(self, before: Product, product: Product) -> bool:
        """Return whether a product is that of the rows after another's."""
        starts = [self.shapes[each.start[0]] if each.start else "" for each in (before, product)]
        if starts[0] != starts[1] or len(before.factors) != len(product.factors):
            return False
        pairs = zip(before.factors, product.factors, strict=True)
        return all(_next(first) == second for first, second in pairs)

    def _reads(self, block: int, group: list[Product]) -> bool:
        """Return whether a block is computed from what a group makes."""
        made_ids = {product.ids[0] for product in group}
        seen: set[int] = set()
        waiting = [block]
        while waiting:
            for arg in read(self.nodes[waiting.pop()]):
                if arg in made_ids:
                    return True
                if arg not in seen:
                    seen.add(arg)
                    waiting.append(arg)
        return False


class CircleError(Exception):
    """Two groups of products read each other, so that neither can be computed first."""


FOLDED: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b if b else a * math.copysign(math.inf, b),
}


def _next(factor: Factor) -> Factor:
    """Return the factor of the next block of the same product."""
    if factor.transposed:
        assert factor.columns is not None
        return replace(factor, columns=(factor.columns[1], 2 * factor.columns[1] - factor.columns[0]))
    return replace(factor, rows=(factor.rows[1], 2 * factor.rows[1] - factor.rows[0]))


def _spanning(first: Factor, last: Factor) -> Factor:
    """Return the factor of all blocks from the first to the last."""
    if first.transposed:
        assert first.columns is not None and last.columns is not None
        return replace(first, columns=(first.columns[0], last.columns[1]))
    return replace(first, rows=(first.rows[0], last.rows[1]))


def joined(outers: list[Outer]) -> list[Outer]:
    """Join outer products of consecutive rows of one weight with one right side."""
    outers = sorted(
        outers, key=lambda each: (each.weight, each.columns or (-1, -1), str(each.right), each.rows)
    )
    found: list[Outer] = []
    for _, group in groupby(outers, key=lambda each: (each.weight, each.columns, each.right)):
        last: Outer | None = None
        for outer in group:
            if last is not None and last.rows[1] == outer.rows[0]:
                last = replace(last, rows=(last.rows[0], outer.rows[1]), left=last.left + outer.left)
                found[-1] = last
            else:
                last = outer
                found.append(outer)
    return found


def renamed(graph: Graph, names: dict[int, int]) -> Graph:
    """Return a graph with other ids."""

    def of(ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(names[i] for i in ids)

    def factor(each: Factor) -> Factor:
        return each if each.operand is None else replace(each, operand=of(each.operand))

    nodes: list[Value | Product] = [
        replace(node, id=names[node.id], args=of(node.args))
        if isinstance(node, Value)
        else Product(of(node.ids), of(node.start), tuple(map(factor, node.factors)))
        for node in graph.nodes
    ]
    outers = [
        replace(each, left=of(each.left), right=None if each.right is None else of(each.right))
        for each in graph.outers
    ]
    return replace(
        graph, nodes=nodes, after=of(graph.after), before=of(graph.before), outers=outers,
        sums=[replace(each, value=names[each.value]) for each in graph.sums],
        d_x=tuple(map(factor, graph.d_x)),
    )  # fmt: skip
