"""Writes Triton source from the graph of a cell's step: a scan over time, forward and backward.

A program of the grid is one trial times a part of the minibatch. The state, the weights and the gradients of
the weights stay in registers while time is a loop inside of the kernel, so hidden sizes are small (see
`rnnbench.kernels.gpu.scan`). A block of the graph is a tensor (HP, BB): hidden rows, padded to a power of
two, times examples. Rows beyond the hidden size have weights of 0, and what they hold is never stored.

    python -m rnnbench.kernels.gpu.source lstm      prints the kernels of a cell
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from rnnbench.kernels.generator.graph import LEAVES, Graph, Value, parse
from rnnbench.kernels.gpu.gradients import Gradients
from rnnbench.kernels.gpu.layer import EVERY, HIDDEN, LAST, MEAN
from rnnbench.kernels.gpu.step import Step, backward_roots, function, indented, kept
from rnnbench.kernels.libraries import STEPS


@dataclass(frozen=True)
class Form:
    """What the source of a layer depends on besides the graph."""

    kind: int = HIDDEN  # of the input
    dropped: bool = False  # whether x has dropout's factors
    reverse: bool = False
    reads: str = LAST  # EVERY, LAST or MEAN
    learned: bool = False  # the state before the first step is a parameter
    carried: bool = False  # it is what the minibatch before has left
    training: bool = True  # the forward pass keeps what the backward one reads
    wants_d_x: bool = True
    add: bool = False  # d_x is added to what is there


HEADER = """\
k = tl.program_id(0).to(tl.int64)
column = tl.program_id(1) * BB + tl.arange(0, BB)
there = column < B
row = tl.arange(0, HP)
feature = tl.arange(0, XP)
real = (row < H)[:, None]
unit = row[:, None] * B + column[None, :]  # of a block (H, B)
here = real & there[None, :]
nothing = tl.zeros([HP, BB], tl.float32)
length = tl.load(LENGTHS + k * B + column, there, 0)
index = tl.load(INDEX + k * B + column, there, 0)
steps = tl.max(length, 0)
parameters = PARAMETERS + k * P"""
ARRAYS = (
    *("X", "INDEX", "LENGTHS", "DROPOUT", "PARAMETERS", "MASK", "ZONE", "CARRIED", "FRESH", "LEFT"),
    *("OUTPUTS", "OTHERS", "KEPT", "KEPT_ROWS", "SUMMARY", "D_OUTPUTS", "D_SUMMARY", "D_X", "PARTS"),
)
NUMBERS = ("T", "B", "P", "WIDTH", "ROW", "scale", "shift", "zone_rate", "AT_initial")
SIZES = ("H", "HP", "BB", "INPUT", "XP", "PRECISION")


class Writer:
    """Writes the kernels of a graph.

    Args:
        graph: of the step.
        form: what else the source depends on.
        again: whether the backward pass computes the values of the forward one again, from the states alone.
    """

    def __init__(self, graph: Graph, form: Form, again: bool = False) -> None:
        self.graph, self.form = graph, form
        self.kept, self.kept_rows = ([], []) if again else kept(graph)
        self.leaves = [node for node in graph.nodes if isinstance(node, Value) and node.op in LEAVES]
        self.masked = any(node.op == "mask" for node in self.leaves)
        self.zones = sorted({int(node.index) for node in self.leaves if node.op == "zone"})

    def source(self) -> str:
        """Return the module's text: the functions `forward` and `backward`."""
        return "\n\n\n".join([self.forward(), self.backward()]) + "\n"

    def _function(self, name: str, lines: Iterable[str]) -> str:
        offsets = [f"AT_{weight}" for weight in self.graph.weights]
        sizes = [f"{size}: tl.constexpr" for size in SIZES]
        body = [*HEADER.splitlines(), *lines]
        return function(name, ["@triton.jit"], [*ARRAYS, *NUMBERS, *offsets, *sizes], body)

    def forward(self) -> str:
        """Write the forward scan."""
        graph, form = self.graph, self.form
        step = Step(graph, [*graph.after, *(self.kept + self.kept_rows if form.training else [])], {})
        states = range(graph.states)
        loop = ["ok = there & (n < length)", "real_ok = real & ok[None, :]", *self._place("at", "n")]
        loop += [*self._x(step.lines), *self._zones(), *step.lines]
        after = [step.full(number) for number in graph.after]
        loop += [f"next_{s} = tl.where(ok[None, :], {text}, state_{s})" for s, text in enumerate(after)]
        loop += [f"state_{s} = next_{s}" for s in states]
        loop += [f"tl.store(OUTPUTS + {self._output('at')}, state_0, real_ok)"]
        if form.training:
            loop += [f"tl.store(OTHERS + {self._other('at', s)}, state_{s}, real_ok)" for s in states[1:]]
            loop += [
                f"tl.store(KEPT + {self._kept(n)}, {step.full(v)}, real_ok)" for n, v in enumerate(self.kept)
            ]
            loop += [
                f"tl.store(KEPT_ROWS + {self._kept_row(n)}, {step.names[v]}, ok[None, :])"
                for n, v in enumerate(self.kept_rows)
            ]
        if form.reads == MEAN:
            loop.append("total += tl.where(ok[None, :], state_0, 0.0)")
        summary = "total / tl.maximum(length, 1)[None, :]" if form.reads == MEAN else "state_0"
        ends = (
            []
            if form.reads == EVERY
            else [f"tl.store(SUMMARY + (k * WIDTH + ROW) * B + unit, {summary}, here)"]
        )
        if form.carried:
            ends += [
                f"tl.store(LEFT + (k * {graph.states} + {s}) * H * B + unit, state_{s}, here)" for s in states
            ]
        lines = [*self._mask(), *step.constants]
        lines += [f"state_{s} = {text}" for s, text in enumerate(self._initial())]
        lines += ["total = nothing"] if form.reads == MEAN else []
        return self._function("forward", [*lines, "for n in range(steps):", *indented(loop), *ends])

    def backward(self) -> str:
        """Write the backward scan."""
        graph, form = self.graph, self.form
        step = self._backward_step()
        gradients = Gradients(graph, step)
        loop = ["n = steps - 1 - back", "ok = there & (n < length)", "real_ok = real & ok[None, :]"]
        loop += [*self._place("at", "n"), *self._place("before", "n - 1"), *self._loads(step)]
        if form.reads == EVERY:
            loop.append(f"d_0 += tl.load(D_OUTPUTS + {self._output('at')}, real_ok, 0.0)")
        if form.reads == MEAN:
            loop.append("d_0 += tl.where(ok[None, :], share, 0.0)")
        loop += [f"d_after_{s} = tl.where(ok[None, :], d_{s}, 0.0)" for s in range(graph.states)]
        lines = [*step.lines, *gradients.adds]
        loop += [*self._x(lines), *self._zones(), *lines, *self._d_x(step)]
        loop += [f"d_{s} = tl.where(ok[None, :], {step.full(v)}, d_{s})" for s, v in enumerate(graph.before)]
        begin = [f"first_{s} = {text}" for s, text in enumerate(self._initial()) if text != "nothing"]
        begin += [f"d_{s} = nothing" for s in range(graph.states)]
        if form.reads != EVERY:
            begin.append("given = tl.load(D_SUMMARY + (k * WIDTH + ROW) * B + unit, here, 0.0)")
        begin += ["d_0 = given"] if form.reads == LAST else []
        begin += ["share = given / tl.maximum(length, 1)[None, :]"] if form.reads == MEAN else []
        before = [*self._mask(), *step.constants, *begin, *gradients.start]
        after = [*gradients.ends, *self._d_initial()]
        return self._function("backward", [*before, "for back in range(steps):", *indented(loop), *after])

    def _backward_step(self) -> Step:
        """Return the lines of a backward step, which reads what the forward pass has left."""
        graph, states = self.graph, {node.id for node in self.leaves if node.op == "state"}
        given = {v: f"after_{s}" for s, v in enumerate(graph.after)}
        given |= {v: f"kept_{n}" for n, v in enumerate(self.kept)}
        given |= {v: f"kept_row_{n}" for n, v in enumerate(self.kept_rows)}
        given = {v: text for v, text in given.items() if v not in states}  # a state may be handed on as it is
        return Step(graph, backward_roots(graph, self.form.wants_d_x), given)

    def _loads(self, step: Step) -> list[str]:
        """Return the lines that load what a backward step reads: states, and what was kept."""
        left = [step.names[number] for number in backward_roots(self.graph, self.form.wants_d_x)]
        used = " ".join([*step.lines, *left])
        lines = ["begun = n > 0 * length", "later = real_ok & begun[None, :]"]
        for s, text in enumerate(self._initial()):
            arrays = [
                f"OUTPUTS + {self._output(at)}" if s == 0 else f"OTHERS + {self._other(at, s)}"
                for at in ("before", "at")
            ]
            lines.append(f"state_{s} = tl.load({arrays[0]}, later, 0.0)")
            if text != "nothing":
                lines.append(f"state_{s} = tl.where(begun[None, :], state_{s}, first_{s})")
            if re.search(rf"\bafter_{s}\b", used):
                lines.append(f"after_{s} = tl.load({arrays[1]}, real_ok, 0.0)")
        lines += [f"kept_{n} = tl.load(KEPT + {self._kept(n)}, real_ok, 0.0)" for n in range(len(self.kept))]
        return lines + [
            f"kept_row_{n} = tl.load(KEPT_ROWS + {self._kept_row(n)}, ok[None, :], 0.0)"
            for n in range(len(self.kept_rows))
        ]

    def _d_initial(self) -> list[str]:
        """Return the lines that store the gradient of a learned state before the first step."""
        found = []
        for s in range(self.graph.states if self.form.learned else 0):
            whole = f"tl.sum(tl.where(here, d_{s}, 0.0), 1)"
            if self.form.carried:
                whole = f"tl.where(tl.load(FRESH) != 0, {whole}, 0.0)"
            found.append(f"tl.store(parts + AT_initial + {s} * H + row, {whole}, row < H)")
        return found

    def _d_x(self, step: Step) -> list[str]:
        """Return the lines that store the gradient at x."""
        if not self.form.wants_d_x:
            return []
        dots = [dot for factor in self.graph.d_x for dot in step.dots(factor, 0)]
        inside = "(feature < INPUT)[:, None] & ok[None, :]"
        place = "((k * T + at[None, :]) * INPUT + feature[:, None]) * B + column[None, :]"
        lines = [f"d_x = {' + '.join(dots) or 'tl.zeros([XP, BB], tl.float32)'}"]
        if self.form.dropped:
            lines.append(f"d_x *= tl.load(DROPOUT + {place}, {inside}, 0.0)")
        if self.form.add:
            lines.append(f"d_x += tl.load(D_X + {place}, {inside}, 0.0)")
        return [*lines, f"tl.store(D_X + {place}, d_x, {inside})"]

    def _initial(self) -> list[str]:
        """Return the text of the state before the first step, for each of its tensors."""
        form, states = self.form, self.graph.states
        found = []
        for s in range(states):
            text = "nothing"
            if form.learned:
                text = f"tl.load(parameters + AT_initial + {s} * H + row, row < H, 0.0)[:, None] + nothing"
            if form.carried:
                before = f"tl.load(CARRIED + (k * {states} + {s}) * H * B + unit, here, 0.0)"
                text = f"tl.where(tl.load(FRESH) != 0, {text}, {before})"
            found.append(text)
        return found

    def _mask(self) -> list[str]:
        """Return the line that loads the factors of recurrent dropout."""
        if not self.masked:
            return []
        return [
            "mask = tl.load(MASK + k * H * B + unit, here, 0.0)"
            if self.form.training
            else "mask = nothing + 1.0"
        ]

    def _zones(self) -> list[str]:
        """Return the lines that load a step's factors of zoneout."""
        if not self.form.training:
            return [f"zone_{s} = nothing + zone_rate" for s in self.zones]
        place = "((k * T + at[None, :]) * {n} + {s}) * H * B + row[:, None] * B + column[None, :]"
        return [
            f"zone_{s} = tl.load(ZONE + {place.format(n=self.graph.states, s=s)}, real_ok, 0.0)"
            for s in self.zones
        ]

    def _x(self, lines: Iterable[str]) -> list[str]:
        """Return the line that loads the input of a step, if lines read it."""
        if not any(re.search(r"\bx\b", line) for line in lines):
            return []
        form = self.form
        return [
            "x = load_x(X, DROPOUT, k, index, at, column, ok, T, B, scale, shift, "
            f"SIZE=INPUT, PADDED=XP, KIND={form.kind}, DROPPED={form.dropped})"
        ]

    def _place(self, name: str, n: str) -> list[str]:
        """Return the line that computes the places in time of step n."""
        text = f"length - 1 - ({n})" if self.form.reverse else f"{n} + 0 * length"
        return [f"{name} = ({text}).to(tl.int64)"]

    def _output(self, at: str) -> str:
        return f"((k * T + {at}[None, :]) * WIDTH + ROW + row[:, None]) * B + column[None, :]"

    def _other(self, at: str, s: int) -> str:
        states = self.graph.states - 1
        return f"(((k * T + {at}[None, :]) * {states} + {s - 1}) * H + row[:, None]) * B + column[None, :]"

    def _kept(self, n: int) -> str:
        return f"(((k * T + at[None, :]) * {len(self.kept)} + {n}) * H + row[:, None]) * B + column[None, :]"

    def _kept_row(self, n: int) -> str:
        return f"((k * T + at[None, :]) * {len(self.kept_rows)} + {n}) * B + column[None, :]"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        text = (STEPS / f"{name}.txt").read_text(encoding="utf-8")
        sys.stdout.write(Writer(parse(text), Form()).source())
