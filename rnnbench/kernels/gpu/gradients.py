"""Writes the lines of a backward scan that add up the gradients of the weights in registers."""

from rnnbench.kernels.generator.graph import Graph, Outer, Sum
from rnnbench.kernels.gpu.step import Step


class Gradients:
    """Collects what a backward scan does for the gradients.

    Attributes:
        start: lines before the loop over time: sums of 0.
        adds: lines of a step.
        ends: lines after the loop: the sums are stored.
    """

    def __init__(self, graph: Graph, step: Step) -> None:
        self.graph, self.step = graph, step
        self.start: list[str] = []
        self.adds: list[str] = []
        self.ends = ["parts = PARTS + (k * tl.num_programs(1) + tl.program_id(1)) * P"]
        for outer in graph.outers:
            self._outer(outer)
        self.vectors: dict[int, str] = {}  # sums of rows that biases share, such as b_ih and b_hh
        for each in graph.sums:
            if graph.weights[each.weight][0]:
                self._vector(each)
            else:
                self._number(each)

    def _sum(self, name: str, shape: str, place: str, mask: str) -> str:
        """Return the variable of a sum; its first user adds the lines that start and store it."""
        variable = f"g_{name}"
        line = f"{variable} = tl.zeros([{shape}], tl.float32)"
        if line not in self.start:
            self.start.append(line)
            self.ends.append(f"tl.store(parts + {place}, {variable}, {mask})")
        return variable

    def _masked(self, number: int) -> str:
        """Return a value that is 0 where there is no step.

        It is linear in the gradient at the state, which is 0 there; but 0 times infinity is not. A second
        copy of each value would not fit into the registers.
        """
        if not self.step.unsafe:
            return self.step.full(number)
        line = f"m{number} = tl.where(ok[None, :], {self.step.full(number)}, 0.0)"
        if line not in self.adds:
            self.adds.append(line)
        return f"m{number}"

    def _outer(self, outer: Outer) -> None:
        """Add the products of blocks with the input, or with other blocks, transposed."""
        columns = [None] if outer.columns is None else list(range(*outer.columns))
        for left, r in zip(outer.left, range(*outer.rows), strict=True):
            for n, c in enumerate(columns):
                right = "x" if outer.right is None else self._right(outer.right[n])
                total = self._block(outer.weight, r, c)
                product = (
                    f"tl.dot({self._masked(left)}, tl.trans({right}), {total}, input_precision=PRECISION)"
                )
                self.adds.append(f"{total} = {product}")

    def _block(self, weight: str, r: int, c: int | None) -> str:
        """Return the variable of the gradient of a block of a weight; c None: of all its input columns."""
        top = f"AT_{weight} + ({r} * H + row)[:, None]"
        if c is None:
            place, inside = f"{top} * INPUT + feature[None, :]", "(feature < INPUT)"
            return self._sum(f"{weight}_{r}", "HP, XP", place, f"real & {inside}[None, :]")
        place = f"{top} * ({self.graph.weights[weight][1]} * H) + row[None, :] + {c} * H"
        return self._sum(f"{weight}_{r}_{c}", "HP, HP", place, "real & (row < H)[None, :]")

    def _right(self, number: int) -> str:
        """Return the text of a value that an outer product reads transposed, 0 where there is no step."""
        value = self.step.full(number)
        return f"tl.where(real_ok, {value}, 0.0)" if self.step.unsafe else value

    def _vector(self, each: Sum) -> None:
        """Add the sum of a value over the examples."""
        place = f"AT_{each.weight} + {each.block} * H + row"
        if each.value in self.vectors:
            self.ends.append(f"tl.store(parts + {place}, {self.vectors[each.value]}, row < H)")
            return
        total = self._sum(f"{each.weight}_{each.block}", "HP", place, "row < H")
        self.vectors[each.value] = total
        self.adds.append(f"{total} += tl.sum({self._masked(each.value)}, 1)")

    def _number(self, each: Sum) -> None:
        """Add the sum of a row over the examples, or of a block over its rows and the examples."""
        total = self._sum(each.weight, "1", f"AT_{each.weight} + tl.arange(0, 1)", "tl.arange(0, 1) == 0")
        if self.step.shapes[each.value] == "row":
            whole = f"tl.sum(tl.where(ok[None, :], {self.step.names[each.value]}, 0.0), 1)"
        else:
            rows = f"tl.sum(tl.where(real_ok, {self.step.full(each.value)}, 0.0), 0)"
            whole = f"tl.sum({rows}[None, :], 1)"
        self.adds.append(f"{total} += {whole}")
