"""Lowers ATen's elementwise operations, and their gradients, to those of graphs."""

import math

from torch.fx import Node

from rnnbench.kernels.lowering import (
    RULES,
    Gradient,
    InputGradient,
    Lowered,
    Lowering,
    NoKernelError,
    Sheet,
    operation,
    rule,
)

for _name in ("neg", "sigmoid", "tanh", "relu", "exp", "log", "sqrt", "abs", "sign", "sin", "cos"):
    RULES[f"aten.{_name}"] = lambda low, node, a, _op=_name: low.op(_op, a)
RULES["aten.sgn"] = RULES["aten.sign"]
for _name in ("mul", "maximum", "minimum", "gt", "ge", "lt", "le", "eq", "ne"):
    RULES[f"aten.{_name}"] = lambda low, node, a, b, _op=_name: low.op(_op, a, b)


@rule("div")
def _div(low: Lowering, node: Node, a: Lowered, b: Lowered, rounding_mode: None = None) -> Lowered:
    assert rounding_mode is None
    return low.op("div", a, b)


@rule("add")
def add(low: Lowering, node: Node, a: Lowered, b: Lowered, alpha: float = 1) -> Lowered:
    for first, second in ((a, b), (b, a)):
        if isinstance(first, Gradient | InputGradient):
            assert alpha == 1
            if isinstance(second, Sheet):  # zeros
                assert all(low.builder.constant(block) == 0 for block in second.blocks)
                return first
    if isinstance(a, Gradient):
        return Gradient(a.shape, a.outers + b.outers)
    if isinstance(a, InputGradient):
        return InputGradient(a.shape, a.factors + b.factors)
    return low.op("add", a, b if alpha == 1 else low.op("mul", b, alpha))


@rule("sub")
def _sub(low: Lowering, node: Node, a: Lowered, b: Lowered, alpha: float = 1) -> Lowered:
    return low.op("sub", a, b if alpha == 1 else low.op("mul", b, alpha))


@rule("rsub")
def _rsub(low: Lowering, node: Node, a: Lowered, b: Lowered, alpha: float = 1) -> Lowered:
    assert alpha == 1
    return low.op("sub", b, a)


@rule("addcmul")
def _addcmul(low: Lowering, node: Node, a: Lowered, b: Lowered, c: Lowered, value: float = 1) -> Lowered:
    product = low.op("mul", b, c)
    return low.op("add", a, product if value == 1 else low.op("mul", product, value))


@rule("addcdiv")
def _addcdiv(low: Lowering, node: Node, a: Lowered, b: Lowered, c: Lowered, value: float = 1) -> Lowered:
    ratio = low.op("div", b, c)
    return low.op("add", a, ratio if value == 1 else low.op("mul", ratio, value))


@rule("lerp")
def _lerp(low: Lowering, node: Node, a: Lowered, b: Lowered, weight: Lowered) -> Lowered:
    return low.op("add", a, low.op("mul", weight, low.op("sub", b, a)))


@rule("sigmoid_backward")
def _sigmoid_backward(low: Lowering, node: Node, gradient: Lowered, s: Lowered) -> Lowered:
    return low.op("mul", low.op("mul", gradient, s), low.op("sub", 1, s))


@rule("tanh_backward")
def _tanh_backward(low: Lowering, node: Node, gradient: Lowered, t: Lowered) -> Lowered:
    return low.op("mul", gradient, low.op("sub", 1, low.op("mul", t, t)))


@rule("threshold_backward")
def _threshold_backward(low: Lowering, node: Node, gradient: Lowered, a: Lowered, least: float) -> Lowered:
    return low.op("where", low.op("gt", a, least), gradient, 0)


@rule("rsqrt")
def _rsqrt(low: Lowering, node: Node, a: Lowered) -> Lowered:
    return low.op("div", 1, low.op("sqrt", a))


@rule("reciprocal")
def _reciprocal(low: Lowering, node: Node, a: Lowered) -> Lowered:
    return low.op("div", 1, a)


@rule("pow")
def _pow(low: Lowering, node: Node, a: Lowered, exponent: Lowered) -> Lowered:
    if isinstance(a, int | float):
        return low.op("exp", low.op("mul", exponent, math.log(a)))
    assert isinstance(exponent, int | float)
    whole, half = divmod(abs(exponent), 1)
    if whole > 8:
        raise NoKernelError(f"raises a tensor to the power {exponent}, which has no kernel")
    if half not in (0, 0.5):
        return low.op("exp", low.op("mul", low.op("log", a), exponent))
    parts = [a] * int(whole) + [low.op("sqrt", a)] * (half > 0)
    power = parts[0] if parts else low.op("add", low.op("mul", a, 0), 1)
    for part in parts[1:]:
        power = low.op("mul", power, part)
    return power if exponent >= 0 else low.op("div", 1, power)


@rule("exp2")
def _exp2(low: Lowering, node: Node, a: Lowered) -> Lowered:
    return low.op("exp", low.op("mul", a, math.log(2)))


@rule("log2", "log10")
def _log_to_base(low: Lowering, node: Node, a: Lowered) -> Lowered:
    return low.op("mul", low.op("log", a), 1 / math.log(2 if operation(node) == "aten.log2" else 10))


@rule("log1p")
def _log1p(low: Lowering, node: Node, a: Lowered) -> Lowered:
    # What rounding takes from 1 + a, the ratio gives back: exact near 0 too.
    more = low.op("add", a, 1)
    rounded = low.op("sub", more, 1)
    exact = low.op("mul", low.op("log", more), low.op("div", a, rounded))
    return low.op("where", low.op("eq", rounded, 0), a, exact)


@rule("expm1")
def _expm1(low: Lowering, node: Node, a: Lowered) -> Lowered:
    # By tanh, which is exact near 0; above 1 that would lose digits, and nothing is lost without it.
    half = low.op("tanh", low.op("mul", a, 0.5))
    by_tanh = low.op("div", low.op("mul", half, 2), low.op("sub", 1, half))
    return low.op("where", low.op("gt", a, 1), low.op("sub", low.op("exp", a), 1), by_tanh)


@rule("erf")
def _erf(low: Lowering, node: Node, a: Lowered) -> Lowered:
    # Abramowitz and Stegun 7.1.26, within 1.5e-7: as near as float32 comes.
    size = low.op("abs", a)
    t = low.op("div", 1, low.op("add", low.op("mul", size, 0.3275911), 1))
    sum_: Lowered = 1.061405429
    for number in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        sum_ = low.op("add", low.op("mul", sum_, t), number)
    rest = low.op("mul", low.op("mul", sum_, t), low.op("exp", low.op("neg", low.op("mul", a, a))))
    return low.op("mul", low.op("sign", a), low.op("sub", 1, rest))


@rule("gelu")
def _gelu(low: Lowering, node: Node, a: Lowered, approximate: str = "none") -> Lowered:
    if approximate == "tanh":
        inside = low.op("add", a, low.op("mul", low.op("mul", low.op("mul", a, a), a), 0.044715))
        share = low.op("tanh", low.op("mul", inside, math.sqrt(2 / math.pi)))
    else:
        share = _erf(low, node, low.op("mul", a, math.sqrt(0.5)))
    return low.op("mul", low.op("mul", a, 0.5), low.op("add", share, 1))


@rule("elu")
def _elu(
    low: Lowering, node: Node, a: Lowered, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> Lowered:
    below = low.op("mul", _expm1(low, node, low.op("mul", a, input_scale)), alpha * scale)
    return low.op("where", low.op("gt", a, 0), low.op("mul", a, scale), below)


@rule("leaky_relu")
def _leaky_relu(low: Lowering, node: Node, a: Lowered, slope: float = 0.01) -> Lowered:
    return low.op("where", low.op("gt", a, 0), a, low.op("mul", a, slope))


@rule("softshrink_backward", "hardshrink_backward")
def _shrink_backward(low: Lowering, node: Node, gradient: Lowered, a: Lowered, least: float) -> Lowered:
    return low.op("where", low.op("gt", low.op("abs", a), least), gradient, 0)


@rule("isnan")
def _isnan(low: Lowering, node: Node, a: Lowered) -> Lowered:
    return low.op("ne", a, a)


@rule("where")
def _where(low: Lowering, node: Node, condition: Lowered, a: Lowered, b: Lowered) -> Lowered:
    return low.op("where", condition, a, b)


@rule("masked_fill")
def _masked_fill(low: Lowering, node: Node, a: Lowered, mask: Lowered, value: Lowered) -> Lowered:
    return low.op("where", mask, value, a)


@rule("logical_not", "bitwise_not")
def _logical_not(low: Lowering, node: Node, a: Lowered) -> Lowered:
    return low.op("eq", a, 0)


@rule("logical_and", "bitwise_and")
def _logical_and(low: Lowering, node: Node, a: Lowered, b: Lowered) -> Lowered:
    return low.op("mul", low.op("ne", a, 0), low.op("ne", b, 0))


@rule("logical_or", "bitwise_or")
def _logical_or(low: Lowering, node: Node, a: Lowered, b: Lowered) -> Lowered:
    return low.op("maximum", low.op("ne", a, 0), low.op("ne", b, 0))


@rule("clamp", "clamp_min", "clamp_max", "hardtanh")
def _clamp(
    low: Lowering, node: Node, a: Lowered, low_end: float | None = None, high_end: float | None = None,
    **ends: float | None,
) -> Lowered:  # fmt: skip
    name = operation(node)
    if name == "aten.hardtanh" and low_end is None:
        low_end, high_end = -1.0, 1.0
    if name == "aten.clamp_max":
        low_end, high_end = None, low_end
    low_end, high_end = ends.get("min", low_end), ends.get("max", high_end)
    if low_end is not None:
        a = low.op("maximum", a, low_end)
    return a if high_end is None else low.op("minimum", a, high_end)
