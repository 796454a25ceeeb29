"""The rules of relaxations, by operator.

Those of activation functions concern rectifiers, however they are written: `Relu`, `Clip` with constant bounds, `Max`
and `Min` with a constant number. For any other use of these operators the ordinary rules hold. They look at the
cotangent's sign, which is that of an ascent: a positive cotangent asks for a larger value.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, rank
from ortoscope_service.graph.backward.gates import Gate, gate_of
from ortoscope_service.graph.backward.registry import Call, Gradients, Rule, rule_for
from ortoscope_service.graph.backward.rules import pooling
from ortoscope_service.graph.backward.rules.windows import pool_windows
from ortoscope_service.graph.constants import constant_scalar, int_attribute, ints_attribute, string_attribute


def redirected(call: Call) -> Gradients:
    """Lets a gradient through where a whole sample has none, as the library Lucid does at the start of an optimization.

    Where the ordinary gradient of a sample (along axis 0) is zero in all of its elements, the sample gets the cotangent
    instead, but for what would drive a value farther away from the interval in which the function rises.
    """
    ordinary = _ordinary(call)
    gate = gate_of(call.y)
    if gate is None or not _is_of_operand(call):
        return ordinary
    (position,) = call.wanted
    gradient, b = ordinary[position], call.b
    assert gradient is not None
    free = b.op("Where", _drives_away(call, call.input(position), gate), b.number(0, call.g), call.g)
    return {position: b.op("Where", _is_zero_for_sample(b, gradient, rank(call.y)), free, gradient)}


def _drives_away(call: Call, x: ir.Value, gate: Gate) -> ir.Value:
    """Where a value is beyond a bound and the cotangent asks for more of that."""
    b, g = call.b, call.g
    zero = b.number(0, g)
    away = []
    if gate.low is not None:
        away.append(b.op("And", b.op("Less", x, b.number(gate.low, x)), b.op("Less", g, zero)))
    if gate.high is not None:
        away.append(b.op("And", b.op("Greater", x, b.number(gate.high, x)), b.op("Greater", g, zero)))
    return away[0] if len(away) == 1 else b.op("Or", *away)


def _is_zero_for_sample(b: Builder, gradient: ir.Value, axes: int) -> ir.Value:
    """For each sample, whether all of its elements are zero."""
    total = b.op("ReduceL1", gradient, b.ints(range(1, axes)), keepdims=1) if axes > 1 else gradient
    return b.op("Equal", total, b.number(0, total))


def guided(call: Call) -> Gradients:
    """Guided backpropagation (Springenberg et al. 2015): what is positive of the cotangent passes the rectifier."""
    if not _is_rectifier(call):
        return _ordinary(call)
    return _ordinary(replace(call, cotangents=(call.b.op("Relu", call.g),)))


def deconvolution(call: Call) -> Gradients:
    """The deconvolutional network (Zeiler and Fergus 2014): the rectifier is applied to the cotangent instead."""
    if not _is_rectifier(call):
        return _ordinary(call)
    return dict.fromkeys(call.wanted, call.b.op("Relu", call.g))


def _ordinary(call: Call) -> Gradients:
    rule = rule_for(call.node)
    assert rule is not None
    return rule(call)


def _is_rectifier(call: Call) -> bool:
    gate = gate_of(call.y)
    return gate is not None and gate.low == 0 and _is_of_operand(call)


def _is_of_operand(call: Call) -> bool:
    """Whether the gradient is asked for at what the function is applied to, not at a bound."""
    return len(call.wanted) == 1 and all(constant_scalar(call.input(position)) is None for position in call.wanted)


def averaged_max_pool(call: Call) -> Gradients:
    """The gradient of the average pool with the same windows: every element gets an equal part."""
    return {0: _averaged(call, call.g)} if call.cotangents[0] is not None else {}


def l2_max_pool(call: Call) -> Gradients:
    """The gradient of avg(x²) / (0.01 + avg(|x|)), which favours large elements without leaving out the others.

    The average is over the same windows. With the denominator d and the ratio r the gradient is
    2 x avgᵀ(g / d) - sign(x) avgᵀ(r g / d). From the library Lucid.
    """
    if call.cotangents[0] is None:
        return {}
    b, x = call.b, call.x
    size = b.op("Add", _average(call, b.op("Abs", x)), b.number(0.01, x))
    ratio = b.op("Div", _average(call, b.op("Mul", x, x)), size)
    share = b.op("Div", call.g, size)
    up = b.op("Mul", b.op("Add", x, x), _averaged(call, share))
    down = b.op("Mul", b.op("Sign", x), _averaged(call, b.op("Mul", ratio, share)))
    return {0: b.op("Sub", up, down)}


def _average(call: Call, value: ir.Value) -> ir.Value:
    """The average pool with the windows of a max pool."""
    if call.node.op_type == "GlobalMaxPool":
        return call.b.op("GlobalAveragePool", value)
    return call.b.op(
        "AveragePool",
        value,
        auto_pad=string_attribute(call.node, "auto_pad", "NOTSET"),
        ceil_mode=int_attribute(call.node, "ceil_mode", 0),
        **{name: ints_attribute(call.node, name) for name in ("dilations", "kernel_shape", "pads", "strides")},
    )


def _averaged(call: Call, g: ir.Value) -> ir.Value:
    """The transpose of that: the cotangent of its input for one of its output."""
    g.shape, g.type = call.y.shape.copy() if call.y.shape is not None else None, call.y.type
    averaging = replace(call, cotangents=(g,))
    if call.node.op_type == "GlobalMaxPool":
        gradient = pooling.global_average_pool(averaging)[0]
        assert gradient is not None
        return gradient
    return pooling.average_pool_gradient(averaging, pool_windows(call))


def _for_each(rule: Rule, *op_types: str) -> Mapping[str, Rule]:
    return MappingProxyType(dict.fromkeys(op_types, rule))


_RECTIFIERS = ("Clip", "Max", "Min", "Relu")
_MAX_POOLS = ("GlobalMaxPool", "MaxPool")

REDIRECTED_RELU = _for_each(redirected, *_RECTIFIERS)
GUIDED = _for_each(guided, *_RECTIFIERS)
DECONVOLUTION = _for_each(deconvolution, *_RECTIFIERS)
AVERAGED_MAX_POOL = _for_each(averaged_max_pool, *_MAX_POOLS)
L2_MAX_POOL = _for_each(l2_max_pool, *_MAX_POOLS)
