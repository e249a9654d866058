"""Reckons what a minibatch costs on a GPU at least: counted operations and bytes, beside what a card can do.

Nothing here is measured. Counted are the operations of products, with sizes padded as the kernels that hold
weights on the chip pad them, and each byte that a kernel reads or writes, once. The time of a kernel is the
longer one of both; kernels run one after the other. Not counted is what a step waits for the one before (most
of a small stack's time), and launches, weights that do not stay on the chip and are read again at each step,
and all operations but those of products. So no stack reaches the bound.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rnnbench.config import Model
from rnnbench.kernels.generator.graph import Graph, Product, made, parse, reached
from rnnbench.kernels.gpu.step import kept
from rnnbench.kernels.libraries import STEPS
from rnnbench.nn.network import Network

FLOAT = 4  # bytes
COLUMNS = 16  # examples of a program; see rnnbench.kernels.gpu.scan
RESIDENT = 32  # the largest size of weights that stay on the chip
TILE = 32  # hidden rows, and examples, of a program where they do not; see rnnbench.kernels.gpu.tiled


@dataclass(frozen=True)
class Card:
    """What a card can do in a second, by its data sheet."""

    name: str
    bandwidth: float  # bytes of its memory
    float32: float  # operations, outside of tensor cores
    tf32: float  # operations of tensor cores, without sparsity
    processors: int  # a program runs on one of them

    def rate(self, precision: str) -> float:
        """Return the operations of products in a second; tf32x3 makes three of each."""
        return {"float32": self.float32, "tf32x3": self.tf32 / 3, "tf32": self.tf32}[precision]


CARDS = {
    "h100": Card("NVIDIA H100 SXM", 3.35e12, 66.9e12, 494.7e12, 132),
    "a100": Card("NVIDIA A100 SXM 80 GB", 2.039e12, 19.5e12, 156e12, 108),
}
# Operations of a processor in a cycle, by compute capability: float32, and tf32 of tensor cores.
CYCLE = {(8, 0): (128, 1024), (8, 6): (256, 512), (8, 9): (256, 512), (9, 0): (256, 2048)}


def card_of(device: str) -> Card | None:
    """Return what a card that is here can do, by its clocks; None where its architecture is not known."""
    told = torch.cuda.get_device_properties(device)
    if (told.major, told.minor) not in CYCLE:
        return None
    hertz = told.multi_processor_count * told.clock_rate * 1e3
    float32, tf32 = (hertz * operations for operations in CYCLE[told.major, told.minor])
    bandwidth = 2 * told.memory_clock_rate * 1e3 * told.memory_bus_width / 8  # two transfers a cycle
    return Card(told.name, bandwidth, float32, tf32, told.multi_processor_count)


@dataclass(frozen=True)
class Load:
    """What a stack trains on: stored examples of bytes, a class at the end of each."""

    model: Model
    K: int
    input_size: int = 28
    steps: int = 28
    batch: int = 128
    outputs: int = 10


@dataclass(frozen=True)
class Work:
    """What kernels do that run side by side."""

    operations: float
    bytes: float
    programs: float = math.inf  # each runs on one processor


@dataclass(frozen=True)
class Bound:
    """What a minibatch of a whole stack costs at least."""

    operations: float
    bytes: float
    seconds: float


def bound(load: Load, card: Card, precision: str = "float32") -> Bound:
    """Reckon the least time of a minibatch on a card."""
    works = list(works_of(load))
    seconds = 0.0
    for work in works:
        rate = card.rate(precision) * min(1.0, work.programs / card.processors)
        seconds += max(work.operations / rate, work.bytes / card.bandwidth)
    return Bound(sum(work.operations for work in works), sum(work.bytes for work in works), seconds)


def works_of(load: Load) -> Iterator[Work]:
    """Generate what the kernels of a minibatch do: of layers, then of the parameters' update."""
    network = Network(load.model, load.input_size, load.outputs)
    for layer in range(load.model.num_layers):
        yield from of_layer(load, network, layer)
    parameters = FLOAT * load.K * network.count()
    # The gradient's parts are read and their sum is written; the update reads it, and reads and writes the
    # parameters and SGD's velocity.
    yield Work(0, parameters * (parts(load) + 1 + 5))


def parts(load: Load) -> int:
    """Count the parts of a minibatch: a scan's program is one trial times 16 examples."""
    return -(-load.batch // COLUMNS)


def of_layer(load: Load, network: Network, layer: int) -> Iterator[Work]:
    """Generate what the kernels of a layer do, forward and backward."""
    H, size = load.model.hidden_size, load.model.hidden_size if layer else load.input_size
    graph = parse((STEPS / f"{load.model.name}.txt").read_text(encoding="utf-8"))
    there, back = products(graph, counted(H), counted(size), bool(layer))
    examples, programs = load.K * load.batch * load.steps, load.K * parts(load)
    blocks, rows = kept(graph)
    left = FLOAT * ((graph.states + len(blocks)) * H + len(rows))  # written forward, read backward
    x = size * (FLOAT if layer else 1)
    d_x = FLOAT * size if layer else 0
    above = FLOAT * H if layer < load.model.num_layers - 1 else 0
    own = [shape for name, shape in network.shapes.items() if name.endswith(f"_l{layer}")]
    weights = FLOAT * load.K * sum(map(math.prod, own))
    if max(H, size) <= RESIDENT:
        yield Work(sum(there) * examples, (x + left) * examples + weights, programs)
        back_bytes = (x + left + above + d_x) * examples + weights * (1 + parts(load))
        yield Work(sum(back) * examples, back_bytes, programs)
        return
    programs = load.K * -(-H // TILE) * -(-load.batch // TILE)
    a = FLOAT * graph.weights["weight_ih"][0] * H  # what x contributes to a step, and its gradient
    yield Work(there[1] * examples, (x + a) * examples + weights)
    yield Work(there[0] * examples, (a + left) * examples, programs)
    yield Work(back[0] * examples, (left + above + a) * examples, programs)
    yield Work(back[1] * examples, (a + x + d_x + FLOAT * H) * examples + weights * (1 + parts(load)))


def products(graph: Graph, H: int, size: int, d_x: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """Count the operations of a step's products for one example, forward and backward.

    Of each: of those that wait for the step before, and of the others: with x, of the weights' gradients, and
    down to x.
    """
    forward = reached(graph, graph.after)
    counts = {(there, waits): 0.0 for there in (True, False) for waits in (True, False)}
    for node in graph.nodes:
        if isinstance(node, Product):
            for factor in node.factors:
                width = H * len(factor.operand) if factor.operand else size
                key = bool(set(made(node)) & forward), factor.operand is not None
                counts[key] += 2 * H * width * len(node.ids)
    for outer in graph.outers:
        counts[False, False] += 2 * H * (H * len(outer.right) if outer.right else size) * len(outer.left)
    for factor in graph.d_x if d_x else ():
        counts[False, False] += 2 * H * size * len(factor.operand or ())
    return (counts[True, True], counts[True, False]), (counts[False, True], counts[False, False])


def counted(size: int) -> int:
    """Return a size as kernels compute it: padded to 16 or 32 on the chip; larger ones count as they are."""
    return size if size > RESIDENT else max(16, 2 ** math.ceil(math.log2(size)))
