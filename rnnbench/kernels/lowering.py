"""Lowers the flat ATen graph of a step and its gradient to blocks: views become lists of blocks.

A tensor of the ATen graph is a `Sheet`: the blocks along its hidden rows, and which of its dimensions are
trials, rows and examples. A part of a weight matrix is a `Matrix`; it enters products alone. A gradient at a
weight is a sheet that is `summed` over the examples (vectors) or a list of outer products (`Gradient`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from rnnbench.kernels.generator.graph import Factor
from rnnbench.kernels.generator.simplify import Builder

# What a dimension is: trials, hidden rows, input rows, examples, or nothing that the numbers differ along.
TRIALS, ROWS, INPUTS, EXAMPLES, SAME = "K", "R", "I", "B", "-"


class NoKernelError(Exception):
    """The step has something that there are no kernels for; the message says what."""


@dataclass(frozen=True)
class Sheet:
    """A tensor of blocks; x itself has no blocks, and `x` set."""

    shape: tuple[int, ...]
    roles: str
    blocks: tuple[int, ...] = ()
    x: bool = False
    summed: bool = False  # over the examples: the blocks hold what is to be summed


@dataclass(frozen=True)
class Matrix:
    """A part of a weight matrix, (K, rows, columns), or its transpose."""

    shape: tuple[int, ...]
    weight: str
    rows: tuple[int, int]  # in blocks
    columns: tuple[int, int] | None  # None: those of the input
    transposed: bool = False


@dataclass(frozen=True)
class Gradient:
    """A sum of outer products: first row, left blocks, first column, right blocks (x where that is None)."""

    shape: tuple[int, ...]
    outers: tuple[tuple[int, tuple[int, ...], int, tuple[int, ...] | None], ...]


@dataclass(frozen=True)
class InputGradient:
    """The gradient at x: a sum of products with transposed weights."""

    shape: tuple[int, ...]
    factors: tuple[Factor, ...]


Lowered = Any  # Sheet, Matrix, Gradient, InputGradient, or a list of them


class Lowering:
    """Lowers the nodes of an ATen graph one by one.

    Args:
        builder: takes the blocks.
        hidden_size: rows of a block.
    """

    def __init__(self, builder: Builder, hidden_size: int) -> None:
        self.builder = builder
        self.hidden_size = hidden_size
        self.found: dict[Node, Lowered] = {}

    def run(self, node: Node) -> None:
        """Lower a node whose arguments are lowered.

        Raises:
            NoKernelError: an operation has no kernel, or not in this form.
        """
        name = operation(node)
        if name == "operator.getitem":
            self.found[node] = self.found[node.args[0]][node.args[1]]  # type: ignore[index]
            return
        rule = RULES.get(name) or RULES.get(name.removesuffix("_"))  # those in place end in _
        if rule is None:
            raise NoKernelError(f"uses {name}, which has no kernel")
        args = [self._argument(arg) for arg in node.args]
        options = {key: self._argument(arg) for key, arg in node.kwargs.items()}
        try:
            result = rule(self, node, *args, **options)
        except (TypeError, ValueError, AttributeError, IndexError, AssertionError) as error:
            raise NoKernelError(f"uses {name} in a form that has no kernel") from error
        self.found[node] = result
        if name.endswith("_") and isinstance(node.args[0], Node):  # in place
            self.found[node.args[0]] = result

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, Node):
            return self.found[arg]
        if isinstance(arg, list | tuple):
            return [self._argument(each) for each in arg]
        return arg

    # Elementwise.

    def constant(self, number: float, shape: tuple[int, ...] = ()) -> Sheet:
        """Return a sheet of one number."""
        return Sheet(shape, SAME * len(shape), (self.builder.number(number),))

    def sheet(self, value: Any) -> Sheet:
        """Return a number as a sheet, and a sheet of blocks as it is."""
        if isinstance(value, int | float):
            return self.constant(float(value))
        if not isinstance(value, Sheet) or value.x:
            raise NoKernelError("uses the input, a weight matrix or the gradient at one element by element")
        return value

    def elementwise(self, compute: Callable[..., int], *values: Any) -> Sheet:
        """Apply a function of blocks, which are spread over each other as torch spreads tensors."""
        sheets = [self.sheet(value) for value in values]
        shape, roles = aligned(sheets)
        count = 1 if ROWS not in roles else shape[roles.index(ROWS)] // self.hidden_size
        rows = [
            sheet.blocks * count if len(sheet.blocks) == 1 else sheet.blocks for sheet in sheets
        ]  # fmt: skip
        blocks = tuple(compute(*column) for column in zip(*rows, strict=True))
        return Sheet(shape, roles, blocks, summed=any(sheet.summed for sheet in sheets))

    def op(self, name: str, *values: Any) -> Sheet:
        """Apply one elementwise operation of graphs."""
        sheets = [self.sheet(value) for value in values]
        summed = [sheet for sheet in sheets if sheet.summed]
        if summed:
            zero = [all(self.builder.constant(b) == 0 for b in sheet.blocks) for sheet in sheets]
            linear = (
                name == "neg"
                or (name in ("add", "sub") and all(s.summed or z for s, z in zip(sheets, zero, strict=True)))
                or (name == "mul" and len(summed) == 1)
                or (name == "div" and summed == sheets[:1])
            )
            if not linear:
                raise NoKernelError("computes with sums over the examples")
        return self.elementwise(lambda *blocks: self.builder.value(name, *blocks), *values)


def operation(node: Node) -> str:
    """Return the name of a node's operation: aten.mul, operator.getitem."""
    target: Any = node.target
    if hasattr(target, "overloadpacket"):
        return str(target.overloadpacket)
    return "operator.getitem" if getattr(target, "__name__", "") == "getitem" else str(target)


def aligned(sheets: list[Sheet]) -> tuple[tuple[int, ...], str]:
    """Return shape and roles that sheets have together, aligned at the last dimension."""
    count = max(len(sheet.shape) for sheet in sheets)
    shape, roles = [], ""
    for at in range(-count, 0):
        sizes = {sheet.shape[at] for sheet in sheets if len(sheet.shape) >= -at}
        known = {sheet.roles[at] for sheet in sheets if len(sheet.shape) >= -at} - {SAME}
        if len(known) > 1:
            raise NoKernelError("brings rows, examples or trials together element by element")
        shape.append(max(sizes))
        roles += known.pop() if known else SAME
    return tuple(shape), roles


RULES: dict[str, Callable[..., Lowered]] = {}


def rule(*names: str) -> Callable[[Callable[..., Lowered]], Callable[..., Lowered]]:
    """Enter a function as the rule of operations of these names."""

    def enter(function: Callable[..., Lowered]) -> Callable[..., Lowered]:
        RULES.update(dict.fromkeys((f"aten.{name}" for name in names), function))
        return function

    return enter
