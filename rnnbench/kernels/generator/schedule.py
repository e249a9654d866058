"""Orders the work of one step of a graph: loops and products one after the other, and what stands where.

A half of a step, forward or backward, is a sequence of rounds. Each round first computes values that are one
row, then runs products, then one loop over the elements of full blocks. A loop computes what the products and
sums of later rounds read, and what the half leaves behind. Whatever a later loop needs and is cheap is
computed again there; what is not is stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .graph import LEAVES, SUM, Graph, Product, Sum, Value, made, reached, read
from .units import blocks_of

EXPENSIVE = ("sigmoid", "tanh", "exp", "log", "sqrt", "sin", "cos", "div")

Place = tuple[str, int]  # an array of blocks, and which of them


@dataclass
class Round:
    """Rows, then products, then a loop that computes `values`, stores some, and sums some over the rows."""

    rows: list[Value] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    stores: list[tuple[int, Place]] = field(default_factory=list)
    sums: list[Value] = field(default_factory=list)


class Half:
    """The forward or the backward half of a step.

    Args:
        graph: of which it is a half.
        standing: blocks that are in memory before it, and where.
        wanted: values that it leaves behind, and where.
        operands: values that products after it read, wherever they stand.
        rows: rows that are read after it.

    Attributes:
        rounds: what it does.
        places: where each value stands that a loop loads.
        blocks: where each full block stands that a product reads; another place if the value is a row.
        sizes: how many blocks the arrays `made` (full) and `row` have.
    """

    def __init__(
        self,
        graph: Graph,
        standing: dict[int, Place],
        wanted: Iterable[tuple[int, Place]],
        operands: Iterable[int] = (),
        rows: Iterable[int] = (),
    ) -> None:
        self.graph, self.shapes, self.units = graph, graph.shapes(), blocks_of(graph)
        self.nodes = {made_id: node for node in graph.nodes for made_id in made(node)}
        self.position = {made_id: n for n, made_id in enumerate(self.nodes)}
        self.places = dict(standing)
        self.blocks = {number: place for number, place in standing.items() if self.shapes[number] != "row"}
        self.sizes = {"made": 0, "row": 0}
        self.wanted, self.operands = list(wanted), list(operands)
        self.relevant = self._relevant([number for number, _ in self.wanted] + self.operands + list(rows))
        self.round: dict[int, int] = {}  # from which on a value can be computed, or is there
        for number in sorted(self.relevant, key=self.position.__getitem__):
            self.round[number] = self._first_round(number)
        self.rounds = [Round() for _ in range(1 + max(self.round.values(), default=0))]
        self.inside: list[set[int]] = [set() for _ in self.rounds]  # what each round's loop computes
        self.read: list[set[int]] = [set() for _ in self.rounds]  # and loads
        self.filled = dict.fromkeys(standing, 0)  # the first round whose loop can load a value
        self._place_products()
        self._place_rows()
        self._fill()
        for loop, inside in zip(self.rounds, self.inside, strict=True):
            loop.values = [self.value(i) for i in sorted(inside, key=self.position.__getitem__)]

    def share(self, array: str) -> None:
        """Let products write to blocks of an array that loops fill when the products' own are read no more.

        Less memory is gone through, so that more of it stays in the cache.
        """
        filled = {
            place[1]: n for n, each in enumerate(self.rounds) for _, place in each.stores if place[0] == array
        }
        products = [product for each in self.rounds for product in each.products]
        operands = {i for product in products for factor in product.factors for i in factor.operand or ()}
        moved: dict[Place, Place] = {}
        for product in products:
            ids = set(product.ids)
            if self.blocks[product.ids[0]][0] != "made" or ids & operands:
                continue
            last = max((n for n, each in enumerate(self.rounds) if ids & set(self.loads(each))), default=0)
            free = [k for k, n in filled.items() if n >= last]
            runs = (range(k, k + len(product.ids)) for k in sorted(free))
            if run := next((run for run in runs if set(run) <= set(free)), None):
                for k, number in zip(run, product.ids, strict=True):
                    del filled[k]
                    moved[self.blocks[number]] = array, k
        left = [place for place in (("made", n) for n in range(self.sizes["made"])) if place not in moved]
        moved |= {place: ("made", n) for n, place in enumerate(left)}
        self.sizes["made"] = len(left)
        self.places = {number: moved.get(place, place) for number, place in self.places.items()}
        self.blocks = {number: moved.get(place, place) for number, place in self.blocks.items()}
        for each in self.rounds:
            each.stores = [(number, moved.get(place, place)) for number, place in each.stores]

    def constant(self, number: int) -> bool:
        """True for a column, which is the same at every step, and for the leaves that are a number."""
        node = self.nodes[number]
        leaf = isinstance(node, Value) and node.op in LEAVES
        return self.shapes[number] == "column" or (leaf and self.shapes[number] == "one")

    def loads(self, loop: Round) -> list[int]:
        """Return the values that a round's loop reads and does not compute."""
        computed = {value.id for value in loop.values}
        needed = [arg for value in loop.values + loop.sums for arg in value.args]
        needed += [number for number, _ in loop.stores]
        return sorted(set(needed) - computed, key=self.position.__getitem__)

    def value(self, number: int) -> Value:
        """Return the node of a value that is no product's."""
        node = self.nodes[number]
        assert isinstance(node, Value)
        return node

    def _ends(self, number: int) -> bool:
        """True for what is not computed in this half: leaves, constants, what stands in memory."""
        node = self.nodes[number]
        leaf = isinstance(node, Value) and node.op in LEAVES
        return leaf or number in self.places or self.constant(number)

    def _relevant(self, left: list[int]) -> set[int]:
        found: set[int] = set()
        while left:
            number = left.pop()
            if number in found or self._ends(number):
                continue
            found |= set(made(self.nodes[number]))
            left += read(self.nodes[number])
        return found

    def _first_round(self, number: int) -> int:
        node = self.nodes[number]
        if isinstance(node, Value):
            return max((self.round.get(arg, 0) for arg in node.args), default=0) + (node.op == SUM)
        operands = [i for factor in node.factors for i in factor.operand or ()]
        full = [i for i in node.start if self.shapes[i] != "column"]
        after_loop = [*full, *(i for i in operands if not self._stands(i))]
        rounds = [self.round.get(i, 0) for i in operands] + [self.round.get(i, 0) + 1 for i in after_loop]
        return max(rounds, default=0)

    def _stands(self, number: int) -> bool:
        """True if a product may read it without a loop before."""
        return number in self.blocks or isinstance(self.nodes[number], Product)

    def _place_products(self) -> None:
        """Place each product's blocks, side by side: where they are wanted, or in `made`."""
        homes: dict[int, Place] = {}
        for number, place in reversed(self.wanted):
            homes[number] = place
        for node in self.graph.nodes:
            if not isinstance(node, Product) or node.ids[0] not in self.relevant:
                continue
            home = homes.get(node.ids[0])
            apart = home == ("after", 0) and len(node.ids) > 1  # h does not stand beside the other states
            if (
                home is None
                or apart
                or any(homes.get(i) != (home[0], home[1] + n) for n, i in enumerate(node.ids))
            ):
                home = "made", self._new("made", len(node.ids))
            at = self.round[node.ids[0]]
            self.rounds[at].products.append(node)
            for n, number in enumerate(node.ids):
                self.places[number] = self.blocks[number] = home[0], home[1] + n
                self.filled[number] = at

    def _new(self, array: str, count: int = 1) -> int:
        self.sizes[array] += count
        return self.sizes[array] - count

    def _place_rows(self) -> None:
        homes = {number: place for number, place in self.wanted if place[0] == "kept_row"}
        for number in sorted(self.relevant, key=self.position.__getitem__):
            if self.shapes[number] != "row":
                continue
            self.places[number] = homes.get(number) or ("row", self._new("row"))
            self.filled[number] = self.round[number]
            value = self.value(number)
            if value.op != SUM:
                self.rounds[self.round[number]].rows.append(value)

    def _fill(self) -> None:
        """Put into the loops what products, sums, and what comes after the half need."""
        for at, each in enumerate(self.rounds):
            for product in each.products:
                for block, number in enumerate(product.start):
                    if self.shapes[number] != "column":
                        place = self.blocks[product.ids[block]]
                        self.rounds[self._join(number, at - 1)].stores.append((number, place))
                for factor in product.factors:
                    self._stand(factor.operand or (), at - 1)
            for node in self.graph.nodes:
                if isinstance(node, Value) and node.op == SUM and self.round.get(node.id) == at:
                    self.rounds[at - 1].sums.append(node)
                    for arg in node.args:
                        self._include(arg, at - 1)
        last = len(self.rounds) - 1
        self._stand(self.operands, last)
        for number, place in self.wanted:
            if self.blocks.get(number) != place and place[0] != "kept_row":
                self._store(number, place, last)

    def _stand(self, numbers: Iterable[int], latest: int) -> None:
        """See to it that values are in memory after the loop of a round."""
        for number in numbers:
            if number not in self.blocks:
                self._store(number, self._home(number), latest)

    def _home(self, number: int) -> Place:
        """Return where a value is wanted, or a new place."""
        wanted = (place for other, place in self.wanted if other == number and place[0] != "kept_row")
        return next(wanted, None) or ("made", self._new("made"))

    def _store(self, number: int, place: Place, latest: int) -> None:
        """Store a value, not after the loop of round `latest`."""
        at = self._join(number, latest)
        self._stored(number, place, at)

    def _stored(self, number: int, place: Place, at: int) -> None:
        self.rounds[at].stores.append((number, place))
        self.blocks.setdefault(number, place)
        self.places.setdefault(number, place)
        self.filled.setdefault(number, at + 1)

    def _join(self, number: int, latest: int) -> int:
        """Return the round to whose loop a value adds the least, which computes it from now on."""
        computed = (n for n in range(latest + 1) if number in self.inside[n])
        if (there := next(computed, None)) is not None:
            return there
        candidates = range(self.round.get(number, 0), latest + 1)
        at = min(candidates, key=lambda n: (self._cost(number, n), -n))
        self._include(number, at)
        return at

    def _cost(self, number: int, at: int) -> int:
        """Count what the loop of a round would compute and load for a value that it does not by now."""
        needed = self._needed(number, at)
        return len((needed | self._args(needed, number)) - self.inside[at] - self.read[at])

    def _args(self, needed: set[int], number: int) -> set[int]:
        """Return what is loaded to compute `needed`, or a value itself where nothing is."""
        return ({arg for i in needed for arg in self.value(i).args} | {number}) - needed

    def _include(self, number: int, at: int) -> None:
        """Let the loop of a round compute a value; what it needs of earlier loops, these store."""
        needed = self._needed(number, at)
        self.inside[at] |= needed
        loads = self._args(needed, number) - self.inside[at]
        self.read[at] |= loads
        for arg in sorted(loads):
            earlier = self._computed_before(arg, at)
            if earlier is not None and arg not in self.filled:
                self._stored(arg, self._home(arg), earlier)

    def _computed_before(self, number: int, at: int) -> int | None:
        """Return the loop before round `at` in which an expensive value is computed."""
        node = self.nodes[number]
        if isinstance(node, Value) and node.op in EXPENSIVE and self.shapes[number] == "full":
            return next((n for n in range(at) if number in self.inside[n]), None)
        return None

    def _needed(self, number: int, at: int) -> set[int]:
        """Return what the loop of round `at` has to compute for a value."""
        found: set[int] = set()
        left = [number]
        while left:
            number = left.pop()
            loadable = self.filled.get(number, at + 1) <= at or self._computed_before(number, at) is not None
            node = self.nodes[number]
            leaf = isinstance(node, Value) and node.op in LEAVES
            if number in found or leaf or loadable or self.constant(number):
                continue
            found.add(number)
            left += self.value(number).args
        return found


@dataclass(frozen=True)
class Plan:
    """Both halves of a graph, and how much of the forward half the backward half reads."""

    graph: Graph
    forward: Half
    backward: Half
    kept: int  # full blocks
    kept_rows: int
    turned: dict[int, int]  # the blocks of `turned`: values that outer products and sums read


def plan(graph: Graph) -> Plan:
    """Order the work of a step of a graph."""
    kept = _kept(graph)
    shapes = graph.shapes()
    full = [number for number in kept if shapes[number] == "full"]
    rows = [number for number in kept if shapes[number] == "row"]
    keep = {number: ("kept", n) for n, number in enumerate(full)}
    keep |= {number: ("kept_row", n) for n, number in enumerate(rows)}
    leaves = {
        node.id: (node.op, int(node.index))
        for node in graph.nodes
        if isinstance(node, Value) and node.op in ("state", "mask", "zone")
    }
    after = [(number, ("after", k)) for k, number in enumerate(graph.after)]
    turned: dict[int, int] = {}
    widest = sorted(
        graph.outers, key=lambda outer: -len(outer.left)
    )  # so that the blocks of most stand together
    single = row_sums(graph)
    summed = [each.value for each in graph.sums if each not in single]
    for number in [i for outer in widest for i in outer.left] + summed:
        turned.setdefault(number, len(turned))
    left = [(number, ("turned", n)) for number, n in turned.items()]
    before = [(number, ("before", k)) for k, number in enumerate(graph.before)]
    rights = [i for outer in graph.outers for i in outer.right or ()]
    downs = [i for factor in graph.d_x for i in factor.operand or ()]
    stand = dict(reversed(after)) | keep | leaves
    forward = Half(graph, leaves, after + list(keep.items()))
    forward.share("kept")
    backward = Half(graph, stand, left + before, rights + downs, [each.value for each in single])
    return Plan(graph, forward, backward, len(full), len(rows), turned)


def row_sums(graph: Graph) -> list[Sum]:
    """Return the sums of one row each, (1, B), that are the gradient of a number."""
    shapes = graph.shapes()
    return [s for s in graph.sums if shapes[s.value] == "row" and not graph.weights[s.weight][0]]


def _kept(graph: Graph) -> list[int]:
    """Return the values of the forward half that the backward half reads from memory, in their order."""
    nodes = {number: node for node in graph.nodes for number in made(node)}
    shapes = graph.shapes()

    forward = reached(graph, graph.after)
    costly = {
        number for number in forward
        if isinstance(node := nodes[number], Product) or node.op == SUM or node.op in EXPENSIVE
    }  # fmt: skip
    costly = {number for number in costly if shapes[number] in ("full", "row")}
    roots = [*graph.before, *(each.value for each in graph.sums)]
    for outer in graph.outers:
        roots += [*outer.left, *(outer.right or ())]
    roots += [i for factor in graph.d_x for i in factor.operand or ()]
    met = reached(graph, roots, costly | set(graph.after))
    return [number for number in nodes if number in (met & costly) - set(graph.after)]
