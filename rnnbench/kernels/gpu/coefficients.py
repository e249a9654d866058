"""Finds steps that are linear in their state, with coefficients that this state has no part in.

Such steps need not wait for each other: h_t = a_t h_{t-1} + b_t can be computed for all t by a scan.
"""

from collections.abc import Container
from dataclasses import dataclass, replace

from rnnbench.kernels.generator.graph import Graph, Product, Value, made, read
from rnnbench.kernels.generator.simplify import Builder


@dataclass(frozen=True)
class Multiple:
    """Blocks of a step: a state after it, or the gradient before it, is slope * what it was + rest."""

    state: int
    slope: int
    rest: int


@dataclass(frozen=True)
class Coefficients:
    """What scans over time compute a step from.

    A state's slope and rest may depend on the states that stand before it in `forward`, as they are after
    the step. A gradient's depend on states, and on the gradients that stand before it in `backward`.
    """

    graph: Graph  # of the step, with what computes the coefficients
    forward: tuple[Multiple, ...]
    backward: tuple[Multiple, ...]


@dataclass(frozen=True)
class Linear:
    """A value that is linear in leaves of a graph, which are states or gradients."""

    slopes: dict[int, int]  # what a leaf is multiplied by, by the number of its state
    rest: int


def linear(graph: Graph) -> Coefficients | None:
    """Return the coefficients of a step, or None where it is not linear or has other products than with x."""
    products = [node for node in graph.nodes if isinstance(node, Product)]
    if any(len(node.factors) != 1 or node.factors[0].operand is not None for node in products):
        return None
    if any(outer.right is not None for outer in graph.outers):
        return None
    graph, forward = _multiples(graph, "state", graph.after)
    graph, backward = _multiples(graph, "d_after", graph.before)
    if len(forward) < graph.states or len(backward) < graph.states:
        return None
    return Coefficients(graph, tuple(forward), tuple(backward))


def _multiples(graph: Graph, leaf: str, blocks: tuple[int, ...]) -> tuple[Graph, list[Multiple]]:
    """Return the blocks that are linear in a leaf of theirs, in an order in which they can be computed."""
    leaves = {int(node.index): node.id for node in graph.nodes if isinstance(node, Value) and node.op == leaf}
    found: list[Multiple] = []
    while True:
        done = {each.state for each in found}
        known = (
            {graph.after[s] for s in done} if leaf == "state" else {leaves[s] for s in done & leaves.keys()}
        )
        forms = Forms(graph, leaf, known)
        new = [forms.of(block, s) for s, block in enumerate(blocks) if s not in done]
        some = [each for each in new if each is not None]
        if not some:
            return graph, found
        found += some
        graph = forms.graph()


class Forms:
    """The values of a graph that depend on leaves of one kind, each in its linear form.

    Args:
        graph: of the step.
        leaf: state or d_after.
        known: blocks that count as independent.

    Attributes:
        found: the form, None of a value that has none; values that are independent are not in it.
    """

    def __init__(self, graph: Graph, leaf: str, known: Container[int]) -> None:
        nodes = {number: node for node in graph.nodes for number in made(node)}
        values: dict[tuple[object, ...], int] = {
            (replace(node, id=-1),): node.id for node in graph.nodes if isinstance(node, Value)
        }
        self.builder, self.size = Builder(graph, nodes, values, graph.shapes()), len(nodes)
        self.zero, self.one = self.builder.number(0.0), self.builder.number(1.0)
        self.found: dict[int, Linear | None] = {}
        for node in graph.nodes:
            if made(node)[0] in known:
                continue
            if isinstance(node, Value) and node.op == leaf:
                self.found[node.id] = Linear({int(node.index): self.one}, self.zero)
            elif any(arg in self.found for arg in read(node)):
                form = self._computed(node) if isinstance(node, Value) else None
                self.found |= dict.fromkeys(made(node), form)

    def of(self, block: int, state: int) -> Multiple | None:
        """Return the form of a block that is linear in the leaf of this state and depends on no other."""
        form = self.found.get(block, Linear({}, block))
        if form is None or form.slopes.keys() - {state}:
            return None
        return Multiple(state, form.slopes.get(state, self.zero), form.rest)

    def graph(self) -> Graph:
        """Return the graph with the values that were added to it."""
        new = [node for number, node in self.builder.nodes.items() if number >= self.size]
        return replace(self.builder.graph, nodes=[*self.builder.graph.nodes, *new])

    def _computed(self, node: Value) -> Linear | None:
        """Return the form of a value that is computed of at least one that depends on a leaf."""
        args = node.args
        forms = [self.found.get(arg, Linear({}, arg)) for arg in args]
        free = [arg not in self.found for arg in args]
        some = [form for form in forms if form is not None]
        if len(some) < len(forms):
            return None
        match node.op:
            case "neg":
                return self._each("neg", some)
            case "add" | "sub":
                return self._each(node.op, some)
            case "mul" if free[0] or free[1]:
                moving, factor = (some[1], args[0]) if free[0] else (some[0], args[1])
                return self._scaled("mul", moving, factor)
            case "div" if free[1]:
                return self._scaled("div", some[0], args[1])
            case "where" if free[0]:
                return self._each("where", some[1:], args[0])
        return None

    def _each(self, op: str, forms: list[Linear], *first: int) -> Linear:
        """Return the form of an operation that is linear in the values of these forms together."""
        leaves = dict.fromkeys(leaf for form in forms for leaf in form.slopes)
        slopes = {
            leaf: self._value(op, *first, *(f.slopes.get(leaf, self.zero) for f in forms)) for leaf in leaves
        }
        return Linear(slopes, self._value(op, *first, *(form.rest for form in forms)))

    def _scaled(self, op: str, form: Linear, factor: int) -> Linear:
        """Return the form of a value that is multiplied or divided by one that depends on no leaf."""
        slopes = {leaf: self._value(op, slope, factor) for leaf, slope in form.slopes.items()}
        return Linear(slopes, self._value(op, form.rest, factor))

    def _value(self, op: str, *args: int) -> int:
        """Enter a value; what is 0 whatever it is computed of stays a number."""
        zeros = [self.builder.constant(arg) == 0 for arg in args]
        if (op == "div" and zeros[0]) or (op == "where" and zeros[1] and zeros[2]):
            return self.zero
        return self.builder.value(op, *args)
