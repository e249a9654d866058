"""Divides half of a step into stages, for hidden sizes of which a program computes only a part of the rows.

Within a stage every value is computed of the same rows. A product reads all rows of its operands, and a sum
over rows needs all of its rows, so these come one stage after what they read: a stage is one launch.
"""

from collections.abc import Iterable

from rnnbench.kernels.generator.graph import LEAVES, SUM, Graph, Product, Value, made, read


class Stages:
    """The stages of a forward or a backward step.

    Args:
        graph: of the step.
        wanted: values that the half leaves in memory.
        standing: values that are in memory before it.

    Attributes:
        values: of each stage, the values that it stores.
        sums: of each stage, the sums over rows to which it adds its rows.
        products: of each stage, the blocks of products that it computes.
        crossing: values that a later stage, or a product, reads from memory and that `wanted` has not.
    """

    def __init__(self, graph: Graph, wanted: Iterable[int], standing: Iterable[int]) -> None:
        self.graph, self.shapes = graph, graph.shapes()
        self.nodes = {number: node for node in graph.nodes for number in made(node)}
        self.standing = set(standing) | {
            number for number, node in self.nodes.items() if isinstance(node, Value) and node.op in LEAVES
        }
        self.stage: dict[int, int] = {}
        wanted = list(dict.fromkeys(wanted))
        count = 1 + max((self.of(number) for number in wanted), default=0)
        self.values: list[dict[int, None]] = [{} for _ in range(count)]
        self.sums: list[dict[int, None]] = [{} for _ in range(count)]
        self.products: list[dict[int, None]] = [{} for _ in range(count)]
        for number in wanted:
            self.values[self.of(number)][number] = None
        self.crossing: dict[int, None] = {}
        for at in reversed(range(count)):
            self._complete(at, set(wanted))

    def of(self, number: int) -> int:
        """Return the stage of a value: the first in which it can be computed."""
        if number not in self.stage:
            node = self.nodes[number]
            if number in self.standing:
                self.stage[number] = 0
            elif isinstance(node, Product):
                operands = [i for factor in node.factors for i in factor.operand or ()]
                after = [self.of(i) + 1 for i in operands if not self.inline(i)]
                self.stage[number] = max([*after, *map(self.of, node.start)], default=0)
            else:
                self.stage[number] = max(map(self.of, node.args), default=0) + (node.op == SUM)
        return self.stage[number]

    def inline(self, number: int) -> bool:
        """Return whether a product may compute an operand of what stands in memory: a masked state."""
        node = self.nodes[number]
        if self._by_rows(number):
            return True
        return isinstance(node, Value) and node.op == "mul" and all(map(self._by_rows, node.args))

    def _by_rows(self, number: int) -> bool:
        """Return whether a value stands in memory with all of its rows, for each example."""
        return number in self.standing and self.shapes[number] == "full"

    def register(self, number: int, at: int) -> bool:
        """Return whether a value is computed in stage `at` if it is needed there, not read from memory."""
        node = self.nodes[number]
        if number in self.standing or (isinstance(node, Value) and node.op == SUM):
            return False
        return self.shapes[number] != "full" or self.of(number) == at

    def _complete(self, at: int, wanted: set[int]) -> None:
        """Note what a stage computes, and what earlier stages have to store for it."""
        left = list(self.values[at])
        left += [arg for sum_ in self.sums[at] for arg in self.value(sum_).args]
        met: set[int] = set()
        while left:
            number = left.pop()
            if number in met:
                continue
            met.add(number)
            node = self.nodes[number]
            if isinstance(node, Value) and node.op == SUM and number not in self.standing:
                self.sums[self.of(number) - 1][number] = None
            elif not self.register(number, at):
                if number not in self.standing:
                    self._store(number, wanted)
            elif isinstance(node, Product):
                self.products[at][number] = None
                left += [node.start[node.ids.index(number)]] if node.start else []
                for operand in (i for factor in node.factors for i in factor.operand or ()):
                    if not self.inline(operand):
                        self._store(operand, wanted)
            else:
                left += read(node)

    def _store(self, number: int, wanted: set[int]) -> None:
        self.values[self.of(number)][number] = None
        if number not in wanted or self.shapes[number] != "full":  # what is kept of a row is one number
            self.crossing[number] = None

    def value(self, number: int) -> Value:
        """Return the node of a value that is no product's."""
        node = self.nodes[number]
        assert isinstance(node, Value)
        return node
