"""Laws of the generated C: a layer computes what its graph says, whatever the graph and the call."""

import ctypes
import random
import shutil
import subprocess
from ctypes import POINTER, c_float, c_int, c_int32, c_long
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnbench.kernels import build
from rnnbench.kernels.generator import c
from rnnbench.kernels.generator.graph import (
    SUM,
    Factor,
    Graph,
    Outer,
    Product,
    Sum,
    Value,
    parse,
    read,
)
from rnnbench.kernels.generator.units import UnitsError, blocks_of, with_rows

STEPS = Path(build.__file__).parent / "generator/steps"
STOCK = {path.stem: parse(path.read_text()) for path in sorted(STEPS.glob("*.txt"))}
COMPILER = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

Array = np.ndarray[Any, np.dtype[Any]]

# The functions of native/layer.h as those of a library.
PROBE = """
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "products.h"
#include "layer.h"
#include "cells.h"
long sizes(int cell, const struct layer_call *call, int which) {
    if (which == 2) return layer_parameters(&CELLS[cell], call->H, call->M, call->inputs);
    return which ? CELLS[cell].scratch(call) : CELLS[cell].memory(call);
}
void forward(int cell, const struct layer_call *call) { CELLS[cell].forward(call); }
void backward(int cell, const struct layer_call *call) { CELLS[cell].backward(call); }
"""
FLOATS = POINTER(c_float)


class Call(ctypes.Structure):
    """`struct layer_call` of native/layer.h."""

    _fields_ = [
        ("p", FLOATS),
        ("constants", FLOATS),
        *((name, c_int) for name in ("T", "N", "H", "M", "inputs", "reverse", "train")),
        *((name, FLOATS) for name in ("memory", "scratch", "x")),
        ("symbols", POINTER(c_int32)),
        ("h", FLOATS),
        ("h_step", c_long),
        *((name, FLOATS) for name in ("initial", "last", "mask", "zone")),
        ("zone_step", c_long),
        *((name, FLOATS) for name in ("d_out", "d_x", "d_initial", "gradient")),
    ]


class Interpreter:
    """Computes a layer by its graph in float64, a block (H, B) each, or (M, B) of a memory."""

    def __init__(self, graph: Graph, weights: dict[str, Array], call: Call, given: dict[str, Array]) -> None:
        self.graph, self.call, self.H = graph, call, call.H
        self.units, self.sizes = blocks_of(graph), {"H": call.H, "M": call.M}
        self.weights = {name: weight.astype(float) for name, weight in weights.items()}
        self.given = {name: array.astype(float) for name, array in given.items()}

    def layer(self) -> dict[str, Array]:
        """Return h, last, d_x, d_initial and the gradient of each weight."""
        graph, given = self.graph, self.given
        order = range(self.call.T)[:: -1 if self.call.reverse else 1]
        rows = [self.sizes[graph.state_unit(k)] for k in range(graph.states)]
        zero = [np.zeros((size, self.call.N)) for size in rows]
        first, before, h = np.split(given["initial"], np.cumsum(rows)[:-1]), {}, np.zeros_like(given["d_out"])
        state = first
        for t in order:
            before[t] = state
            values = self.values(t, {"state": state}, forward=True)
            state = [values[number] + none for number, none in zip(graph.after, zero, strict=True)]
            h[t] = state[0]
        gradients = {name: np.zeros_like(self.weights[name]) for name in graph.weights}
        d_state, d_x = zero, np.zeros_like(given["x"])
        for t in reversed(order):
            d_after = [d_state[0] + given["d_out"][t], *d_state[1:]]
            values = self.values(t, {"state": before[t], "d_after": d_after}, forward=False)
            d_state = [values[number] + none for number, none in zip(graph.before, zero, strict=True)]
            self.add(gradients, values, t)
            d_x[t] = sum(self.times(factor, values, t) for factor in graph.d_x)
        last, d_initial = np.concatenate(state), np.concatenate(d_state)
        return {"h": h, "last": last, "d_x": d_x, "d_initial": d_initial, **gradients}

    def full(self, values: dict[int, Array], number: int, columns: int) -> Array:
        """Return a block with all its rows, and as many columns."""
        return values[number] + np.zeros((self.sizes[self.units.get(number, "H")], columns))

    def slices(
        self, weight: str, rows: tuple[int, int], columns: tuple[int, int] | None
    ) -> tuple[slice, slice]:
        """Return where a part of a weight is."""
        up, across = (self.sizes[unit] for unit in self.graph.units_of(weight))
        wide = slice(None) if columns is None else slice(columns[0] * across, columns[1] * across)
        return slice(rows[0] * up, rows[1] * up), wide

    def values(self, t: int, known: dict[str, list[Array]], forward: bool) -> dict[int, Array]:
        values: dict[int, Array] = {}
        for node in self.graph.nodes:
            if not all(number in values for number in read(node)):
                continue  # of the backward half
            if isinstance(node, Product):
                terms = [self.times(factor, values, t) for factor in node.factors]
                if node.start:
                    terms.append(np.concatenate([self.full(values, i, 1) for i in node.start]))
                values |= dict(zip(node.ids, np.split(sum(terms), len(node.ids)), strict=True))
            elif node.op != "d_after" or not forward:
                values[node.id] = self.value(node, [values[arg] for arg in node.args], t, known)
        return values

    def value(self, node: Value, args: list[Array], t: int, known: dict[str, list[Array]]) -> Array:
        index = int(node.index)
        if node.op in ("state", "d_after"):
            return known[node.op][index]
        if node.op == "number":
            return np.full((1, 1), node.index)
        if node.op == "vector":
            vector = self.weights[node.name]
            rows, _ = self.slices(node.name, (index, index + 1), None)
            return vector[rows, None] if vector.size > 1 else vector.reshape(1, 1)
        if node.op == "hidden":
            return np.full((1, 1), self.H)
        if node.op == "mask":
            return self.given["mask"]
        if node.op == "zone":
            return self.given["zone"][t][index]
        if node.op == SUM:
            return sum(arg.sum(0, keepdims=True) for arg in args)
        return FUNCTIONS[node.op](*args)

    def part(self, factor: Factor) -> Array:
        weight = self.weights[factor.weight]
        if not self.graph.arrays[factor.weight][0]:  # one row for a block of equal ones
            return np.repeat(weight, self.sizes[self.graph.units_of(factor.weight)[0]], 0)
        return weight[self.slices(factor.weight, factor.rows, factor.columns)]

    def times(self, factor: Factor, values: dict[int, Array], t: int) -> Array:
        operand = self.given["x"][t]
        if factor.operand is not None:
            operand = self.stacked(values, factor.operand)
        return (self.part(factor).T if factor.transposed else self.part(factor)) @ operand

    def stacked(self, values: dict[int, Array], numbers: tuple[int, ...]) -> Array:
        return np.concatenate([self.full(values, i, self.call.N) for i in numbers])

    def add(self, gradients: dict[str, Array], values: dict[int, Array], t: int) -> None:
        for outer in self.graph.outers:
            left = self.stacked(values, outer.left)
            right = self.given["x"][t] if outer.right is None else self.stacked(values, outer.right)
            part, at = left @ right.T, self.slices(outer.weight, outer.rows, outer.columns)
            gradients[outer.weight][at] += part if self.graph.weights[outer.weight][0] else part.sum(0)
        for each in self.graph.sums:
            whole = values[each.value].sum(1)
            if self.graph.weights[each.weight][0]:
                rows, _ = self.slices(each.weight, (each.block, each.block + 1), None)
                gradients[each.weight][rows] += whole
            else:
                gradients[each.weight] += whole.sum()


FUNCTIONS = {
    "neg": np.negative, "sigmoid": lambda a: 1 / (1 + np.exp(-a)), "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0), "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "abs": np.abs,
    "sign": np.sign, "sin": np.sin, "cos": np.cos, "add": np.add, "sub": np.subtract, "mul": np.multiply,
    "div": np.divide, "maximum": np.maximum, "minimum": np.minimum,
    "where": lambda a, b, c: np.where(a != 0, b, c),
    **{
        name: lambda a, b, f=f: f(a, b).astype(float)
        for name, f in {
            "gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal, "eq": np.equal,
            "ne": np.not_equal,
        }.items()
    },
}  # fmt: skip


class Made:
    """Makes a graph at random, whose halves have nothing to do with each other but for what they share."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        choose = self.random.randint
        self.graph = Graph(f"made {seed}", choose(1, 3), {})
        self.graph.weights = {
            "w": (choose(1, 3), "input"), "r": (choose(2, 4), choose(1, 3)), "b": (choose(1, 3), None),
            "one": (0, None),
        }  # fmt: skip
        self.count = 0
        self.known = [self.leaf("state", k) for k in range(self.graph.states)]
        self.known += [self.leaf("vector", k, "b") for k in range(self.graph.weights["b"][0])]
        self.known += [self.leaf("vector", 0, "one"), self.leaf("mask"), self.leaf("zone", 0)]
        self.known.append(self.leaf("number", 0.5))
        self.graph.after = self.half(choose(2, 12))
        self.known += [self.leaf("d_after", k) for k in range(self.graph.states)]
        self.graph.before = self.half(choose(2, 12))
        self.gradients()

    def leaf(self, op: str, index: float = 0, name: str = "") -> int:
        return self.value(op, (), name, index)

    def value(self, op: str, args: tuple[int, ...] = (), name: str = "", index: float = 0) -> int:
        self.graph.nodes.append(Value(self.count, op, args, name, index))
        self.count += 1
        return self.count - 1

    def half(self, size: int) -> tuple[int, ...]:
        for _ in range(size):
            getattr(self, self.random.choice(["unary", "binary", "binary", "where", "product", "rows"]))()
        return tuple(self.value("tanh", (self.full(),)) for _ in range(self.graph.states))

    def any(self) -> int:
        return self.random.choice(self.known[-6:] + self.known)

    def block(self) -> int:
        """Choose a full block, or what stands for one: a row, a column, a number."""
        return self.any() if self.random.random() < 0.15 else self.full()

    def full(self) -> int:
        shapes = self.graph.shapes()
        return self.random.choice([number for number in self.known if shapes[number] == "full"])

    def unary(self) -> None:
        op = self.random.choice(["neg", "sigmoid", "tanh", "relu", "abs", "sin", "cos", "exp", "log", "sqrt"])
        arg = self.any()
        if op in ("exp", "log", "sqrt"):  # of what is neither large nor near 0
            arg = self.value("sigmoid", (self.value("tanh", (arg,)),))
        self.known.append(self.value(op, (arg,)))

    def binary(self) -> None:
        op = self.random.choice(["add", "sub", "mul", "maximum", "minimum", "div"])
        left, right = self.any(), self.any()
        if op == "div":
            right = self.value("exp", (self.value("sin", (right,)),))
        self.known.append(self.value(op, (left, right)))

    def where(self) -> None:
        """Choose by what rounding does not change: the factors of zoneout."""
        zone = next(node.id for node in self.graph.nodes if isinstance(node, Value) and node.op == "zone")
        half = next(node.id for node in self.graph.nodes if isinstance(node, Value) and node.op == "number")
        mask = self.value(self.random.choice(["gt", "ge", "lt", "le", "eq", "ne"]), (zone, half))
        self.known.append(self.value("where", (mask, self.any(), self.any())))

    def rows(self) -> None:
        total = self.value(SUM, tuple(self.full() for _ in range(self.random.randint(1, 2))))
        self.known.append(self.value("tanh", (total,)))

    def product(self) -> None:
        high, wide = self.graph.weights["r"]
        assert isinstance(wide, int)
        rows, columns = self.span(high), self.span(wide)
        transposed = self.random.random() < 0.4
        count = rows[1] - rows[0], columns[1] - columns[0]
        made, read = reversed(count) if transposed else count
        factors = [Factor("r", rows, columns, tuple(self.block() for _ in range(read)), transposed)]
        if self.random.random() < 0.5 and made <= self.graph.weights["w"][0]:
            factors.insert(self.random.randint(0, 1), Factor("w", (0, made), None, None))
        shapes = self.graph.shapes()
        columns_known = [number for number in self.known if shapes[number] == "column"]
        start: tuple[int, ...] = ()
        if self.random.random() < 0.7:
            column = self.random.random() < 0.6 and columns_known
            start = tuple(self.random.choice(columns_known) if column else self.full() for _ in range(made))
        ids = tuple(range(self.count, self.count + made))
        self.count += made
        self.graph.nodes.append(Product(ids, start, tuple(factors)))
        self.known += ids

    def span(self, size: int) -> tuple[int, int]:
        first = self.random.randrange(size)
        return first, self.random.randint(first + 1, size)

    def gradients(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            rows, columns = self.span(self.graph.weights["r"][0]), self.span(self.graph.weights["r"][1])
            left = tuple(self.block() for _ in range(*rows))
            right = tuple(self.block() for _ in range(*columns))
            self.graph.outers.append(Outer("r", rows, columns, left, right))
        for _ in range(self.random.randint(0, 2)):
            rows = self.span(self.graph.weights["w"][0])
            self.graph.outers.append(Outer("w", rows, None, tuple(self.block() for _ in range(*rows)), None))
        rows = self.span(self.graph.weights["w"][0])
        operand = tuple(self.block() for _ in range(*rows))
        self.graph.d_x = (Factor("w", rows, None, operand, True),)
        for _ in range(self.random.randint(0, 3)):
            self.graph.sums.append(Sum("b", self.random.randrange(self.graph.weights["b"][0]), self.full()))
        self.graph.sums.append(Sum("one", 0, self.value(SUM, (self.full(),))))


MADE = {f"made {seed}": Made(seed).graph for seed in range(20)}
# h and c are blocks of one product, but do not stand side by side in memory.
CHUNK = """chunk: 2 states
weight weight_ih 2H input
weight weight_hh 2H 1H
weight bias 2H
v0 = vector bias 0
v1 = vector bias 1
v2 = state 0
v3 = state 1
v4 = mul v2 v3
v5 v6 = v0 v1 + weight_ih[0:2] x + weight_hh[0:2, 0:1] (v4)
after v5 v6
v7 = d_after 0
v8 = d_after 1
v9 = weight_hh[0:2, 0:1]' (v7 v8)
v10 = mul v9 v2
v11 = mul v9 v3
before v11 v10
weight_hh[0:2, 0:1] += (v7 v8) (v4)
weight_ih[0:2] += (v7 v8) x
bias[0] += v7
bias[1] += v8
x += weight_ih[0:2]' (v7 v8)
"""
# The sum of one row is the gradient of a number, and the row is the left side of an outer product too.
NUMBER = """number: 1 states
weight weight_ih 1H input
weight weight_hh 1H 1H
weight bias 1H
weight one 0H
v0 = state 0
v1 = weight_hh[0:1, 0:1] (v0)
v2 = rows v1
v3 = vector one 0
v4 = add v2 v3
v5 = vector bias 0
v6 = v5 + weight_ih[0:1] x
v7 = add v4 v6
v8 = tanh v7
after v8
v9 = d_after 0
v10 = mul v8 v8
v11 = number 1.0
v12 = sub v11 v10
v13 = mul v9 v12
v14 = rows v13
v15 = weight_hh[0:1, 0:1]' (v14)
before v15
weight_hh[0:1, 0:1] += (v14) (v0)
weight_ih[0:1] += (v13) x
bias[0] += v13
one[0] += v14
x += weight_ih[0:1]' (v13)
"""
OWN = {"chunk": parse(CHUNK), "number": parse(NUMBER)}
GRAPHS = STOCK | MADE | OWN


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All graphs, compiled to slow code in a fraction of the time."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "cells.h").write_text(c.library({name: c.source(graph) for name, graph in GRAPHS.items()}))
    (folder / "probe.c").write_text(PROBE)
    flags = ["-O0", "-std=gnu11", "-fPIC", "-shared", f"-I{build.SOURCES}"]
    command = [*build.compiler(), *flags, "probe.c", "-o", "probe.so", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    loaded = ctypes.CDLL(str(folder / "probe.so"))
    loaded.sizes.restype = c_long
    return loaded


@pytest.mark.parametrize("initial", [True, False], ids=["carried", "from zero"])
@pytest.mark.parametrize("symbols", [True, False], ids=["symbols", "numbers"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_layer_computes_what_its_graph_says(library, name, symbols, initial):
    """Forward and backward, in both directions of time, with all that a driver may hand to a layer."""
    graph, number = GRAPHS[name], list(GRAPHS).index(name)
    rng = np.random.RandomState(number)
    call = Call(T=rng.randint(1, 5), N=16 * rng.randint(1, 4), H=rng.randint(1, 9), inputs=rng.randint(1, 6))
    call.reverse, call.h_step = rng.randint(2), call.H * call.N
    call.M = np.random.RandomState(number).randint(1, 18)
    weights, given = drawn(rng, graph, call, symbols)
    if not initial:
        given["initial"][:] = 0
    expected = Interpreter(graph, weights, call, given).layer()
    for key, names in (("p", graph.weights), ("constants", graph.constants)):
        given[key] = np.concatenate([np.empty(0, np.float32), *(weights[name].ravel() for name in names)])
    if symbols:
        del given["x"], expected["d_x"]
    if not initial:
        del given["initial"], expected["d_initial"]
    found = run(library, number, call, given, expected)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, atol=2e-5 * max(1, np.abs(value).max()), err_msg=key)


def drawn(
    rng: np.random.RandomState, graph: Graph, call: Call, symbols: bool
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return weights, and what a driver hands over besides."""
    T, N, H, width, states = call.T, call.N, call.H, call.inputs, graph.states

    def draw(*shape: int) -> Array:
        return rng.uniform(-0.7, 0.7, shape).astype(np.float32)

    weights, sizes = {}, {"H": H, "M": call.M}
    for name, (rows, columns) in graph.arrays.items():
        up, wide = (sizes[unit] for unit in graph.units_of(name))
        across = [] if columns is None else [width if columns == "input" else columns * wide]
        weights[name] = draw(rows * up or 1, *across)
    given = {"x": draw(T, width, N), "zone": rng.randint(0, 2, (T, states, H, N)).astype(np.float32)}
    rows = sum(sizes[graph.state_unit(k)] for k in range(states))
    given["initial"] = np.abs(draw(rows, N)) + 0.25  # slstm divides by its state
    given |= {"mask": draw(H, N), "d_out": draw(T, H, N)}
    if symbols:
        given["symbols"] = rng.randint(0, width, (T, N)).astype(np.int32)
        given["x"] = np.moveaxis(np.eye(width, dtype=np.float32)[given["symbols"]], 2, 1)
    call.zone_step = states * H * N
    if rng.randint(2):  # one step's factors for all, as in evaluation
        given["zone"][:], call.zone_step = given["zone"][0], 0
    return weights, given


def run(
    library: ctypes.CDLL, number: int, call: Call, given: dict[str, Array], like: dict[str, Array]
) -> dict[str, Array]:
    """Return what a layer writes in training; in evaluation it must compute the same."""
    call.train = 1
    weights = [key for key in like if key not in ("h", "last", "d_x", "d_initial")]
    found = {key: np.zeros(like[key].shape, np.float32) for key in like if key not in weights}
    found["gradient"] = np.full(library.sizes(number, ctypes.byref(call), 2), np.nan, np.float32)
    hand_over(library, number, call, given | found)
    library.forward(number, ctypes.byref(call))
    library.backward(number, ctypes.byref(call))
    call.train = 0
    evaluated = {key: np.zeros_like(found[key]) for key in ("h", "last")}
    hand_over(library, number, call, evaluated)
    library.forward(number, ctypes.byref(call))
    for key, array in evaluated.items():
        np.testing.assert_array_equal(array, found[key])
    parts = np.split(found.pop("gradient"), np.cumsum([like[key].size for key in weights])[:-1])
    return found | {key: part.reshape(like[key].shape) for key, part in zip(weights, parts, strict=True)}


def hand_over(library: ctypes.CDLL, number: int, call: Call, arrays: dict[str, Array]) -> None:
    """Point the call to arrays, and to memory full of nan, which nothing may read before it is written."""
    sizes = [library.sizes(number, ctypes.byref(call), which) for which in range(2)]
    call.room = [np.full(size, np.nan, np.float32) for size in sizes]
    for key, array in {**arrays, "memory": call.room[0], "scratch": call.room[1]}.items():
        kind = c_int32 if key == "symbols" else c_float
        setattr(call, key, array.ctypes.data_as(POINTER(kind)))


@pytest.mark.parametrize("name", MADE)
def test_the_text_of_a_graph_is_read_as_it_was(name):
    assert parse(MADE[name].text()) == MADE[name]


def test_blocks_of_both_sizes_that_come_together_are_refused():
    text = (STEPS / "lmu.txt").read_text().replace("2 states", "2 states, a memory")
    units = {"weight_m": ("H", "M"), "encoder_m": ("M", "H"), "A": ("M", "M"), "B": ("M", "H")}
    made = with_rows(replace(parse(text), units=units))
    assert made == replace(STOCK["lmu_order"], name="lmu")
    with pytest.raises(UnitsError, match="brings hidden units and numbers of the memory together"):
        with_rows(replace(made, units=units | {"B": ("H", "H")}))
