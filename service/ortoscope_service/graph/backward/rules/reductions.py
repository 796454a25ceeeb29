"""Reductions over axes, and cumulative sums and products.

What rules compute of the output keeps the axes that were reduced, with extent 1, so that it broadcasts to the input.
"""

import onnx_ir as ir

from ortoscope_service.graph.backward.builder import data_type, rank
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.elementwise import affine
from ortoscope_service.graph.backward.sizes import extent, times
from ortoscope_service.graph.constants import constant_ints, int_attribute


@rule("ReduceSum")
def reduce_sum(call: Call) -> Gradients:
    """Every element gets the sum's cotangent."""
    return {0: _repeated(call, _kept(call, call.g))}


@rule("ReduceMean")
def reduce_mean(call: Call) -> Gradients:
    """Every element gets the same part of the mean's cotangent."""
    return {0: _repeated(call, call.b.op("Mul", _kept(call, call.g), _part(call)))}


@rule("ReduceMax", "ReduceMin")
def reduce_extremum(call: Call) -> Gradients:
    """The elements chosen get equal parts, as in PyTorch's `amax`."""
    b = call.b
    chosen = b.op("Cast", b.op("Equal", call.x, _kept(call, call.y)), to=data_type(call.x))
    return {0: b.op("Mul", b.op("Div", _kept(call, call.g), _reduced(call, "ReduceSum", chosen)), chosen)}


@rule("ReduceProd")
def reduce_prod(call: Call) -> Gradients:
    """Every element gets the product of the others, which is exact where there are zeros among them, too."""
    b, x = call.b, call.x
    zero, one = b.number(0, x), b.number(1, x)
    is_zero = b.op("Equal", x, zero)
    without_zeros = b.op("Where", is_zero, one, x)
    zeros = b.op("Cast", is_zero, to=data_type(x))
    other_zeros = b.op("Sub", _reduced(call, "ReduceSum", zeros), zeros)
    product = b.op("Div", _reduced(call, "ReduceProd", without_zeros), without_zeros)
    has_none = b.op("Cast", b.op("Equal", other_zeros, zero), to=data_type(x))
    return {0: b.op("Mul", _kept(call, call.g), b.op("Mul", product, has_none))}


@rule("ReduceL1")
def reduce_l1(call: Call) -> Gradients:
    """The derivative is sign(x), 0 at 0."""
    return {0: call.b.op("Mul", _kept(call, call.g), call.b.op("Sign", call.x))}


@rule("ReduceL2")
def reduce_l2(call: Call) -> Gradients:
    """The derivative is x / y, 0 where y = 0, as in PyTorch."""
    b, y = call.b, call.y
    norm = b.op("Where", b.op("Equal", y, b.number(0, y)), b.number(1, y), y)
    return {0: b.op("Mul", _kept(call, b.op("Div", call.g, norm)), call.x)}


@rule("ReduceSumSquare")
def reduce_sum_square(call: Call) -> Gradients:
    """The derivative is 2 x."""
    return {0: call.b.op("Mul", _kept(call, affine(call.b, call.g, 2)), call.x)}


@rule("ReduceLogSum")
def reduce_log_sum(call: Call) -> Gradients:
    """The derivative is 1 / Σ x."""
    return {0: _repeated(call, call.b.op("Div", _kept(call, call.g), _reduced(call, "ReduceSum", call.x)))}


@rule("ReduceLogSumExp")
def reduce_log_sum_exp(call: Call) -> Gradients:
    """The derivative is exp(x - y)."""
    b = call.b
    return {0: b.op("Mul", _kept(call, call.g), b.op("Exp", b.op("Sub", call.x, _kept(call, call.y))))}


@rule("CumSum")
def cum_sum(call: Call) -> Gradients:
    """Every element gets the cotangents of the sums that it is in."""
    return {0: _gathered(call, call.g)}


@rule("CumProd")
def cum_prod(call: Call) -> Gradients:
    """Every element gets the products of the others, which is exact where there are zeros among them, too.

    As long as there was no zero, that is y / x; the first zero gets the products without it; it is in all others.
    """
    b, x, axis = call.b, call.x, call.input(1)
    zero, one = b.number(0, x), b.number(1, x)
    exclusive, reverse = int_attribute(call.node, "exclusive", 0), int_attribute(call.node, "reverse", 0)
    is_zero = b.op("Equal", x, zero)
    zeros = b.op("CumSum", b.op("Cast", is_zero, to=data_type(x)), axis, reverse=reverse)
    has_none, has_one = b.op("Equal", zeros, zero), b.op("Equal", zeros, one)
    is_first = b.op("And", is_zero, has_one)
    without = b.op("CumProd", b.op("Where", is_first, one, x), axis, exclusive=exclusive, reverse=reverse)
    ratio = b.op("Div", _gathered(call, b.op("Mul", call.g, call.y)), b.op("Where", is_zero, one, x))
    at_first = _gathered(call, b.op("Mul", call.g, without))
    masks = [b.op("Cast", mask, to=data_type(x)) for mask in (has_none, is_first)]
    return {0: b.op("Add", b.op("Mul", ratio, masks[0]), b.op("Mul", at_first, masks[1]))}


def _gathered(call: Call, value: ir.Value) -> ir.Value:
    """For each element of a cumulative operator's input, the sum over the results that it is in."""
    exclusive, reverse = int_attribute(call.node, "exclusive", 0), int_attribute(call.node, "reverse", 0)
    return call.b.op("CumSum", value, call.input(1), exclusive=exclusive, reverse=1 - reverse)


def _kept(call: Call, value: ir.Value) -> ir.Value:
    """A value of the output's shape with the axes that were reduced, of extent 1."""
    axes = call.optional_input(1)
    if int_attribute(call.node, "keepdims", 1) or axes is None or constant_ints(axes) == ():
        return value
    return call.b.op("Unsqueeze", value, axes)


def _reduced(call: Call, op_type: str, value: ir.Value) -> ir.Value:
    """Another reduction over the same axes, which are kept."""
    axes = call.optional_input(1)
    operands = [value] if axes is None else [value, axes]
    empty = int_attribute(call.node, "noop_with_empty_axes", 0)
    return call.b.op(op_type, *operands, keepdims=1, noop_with_empty_axes=empty)


def _repeated(call: Call, value: ir.Value) -> ir.Value:
    """A value, repeated along the axes that were reduced."""
    return call.b.op("Expand", value, call.b.shape(call.x))


def _part(call: Call) -> ir.Value:
    """1 / the number of elements that become one, as a scalar or a list of one number."""
    b, axes = call.b, _axes(call)
    if axes is None:
        all_elements, kept = (b.op("Cast", b.op("Size", value), to=ir.DataType.DOUBLE) for value in (call.x, call.y))
        return b.op("Cast", b.op("Div", kept, all_elements), to=data_type(call.x))
    count = times(b, *(extent(b, call.x, axis) for axis in axes))
    if isinstance(count, int):
        return b.number(1 / max(count, 1), call.x)
    # In double precision: counts can be larger than the largest number of float16.
    reciprocal = b.op("Reciprocal", b.op("Cast", count, to=ir.DataType.DOUBLE))
    return b.op("Cast", reciprocal, to=data_type(call.x))


def _axes(call: Call) -> list[int] | None:
    """The axes that are reduced, counted from the front; None if they are not known."""
    given = call.optional_input(1)
    axes = () if given is None else constant_ints(given)
    if axes is None or call.x.shape is None:
        return None
    if not axes:
        return [] if int_attribute(call.node, "noop_with_empty_axes", 0) else list(range(rank(call.x)))
    return [axis % rank(call.x) for axis in axes]
