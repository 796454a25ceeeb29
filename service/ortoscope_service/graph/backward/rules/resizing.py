"""Resize: an interpolation matrix along every axis."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank, static_shape
from ortoscope_service.graph.backward.placing import fold
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.sizes import Size, extent, extents, listed, times, traced
from ortoscope_service.graph.constants import constant_ints, int_attribute, ints_attribute, string_attribute

_COPIED = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias")
"""Attributes of a Resize node that say how it interpolates along an axis."""

_BLOCKWISE = frozenset(
    {
        ("asymmetric", "floor"),
        *itertools.product(
            ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"), ("round_prefer_floor", "round_prefer_ceil")
        ),
    }
)
"""How the nearest element is found, where whole factors repeat every element."""

_MANY = 32
"""From so many elements along an axis on, linear enlarging by a whole factor is undone faster by a convolution than by
matrices. (ONNX Runtime 1.32, 64 channels, to twice the size.)"""

_MAX_PROBE = 2**24
"""A tensor that is resized only to see what Resize does has at most so many elements."""


@dataclass(frozen=True)
class _Axis:
    """An axis that a Resize node changes."""

    number: int
    position: int
    """Among the axes that the node's scales, sizes and region are of."""

    scale: float | None
    """How many times longer it becomes; None if that is computed."""


@rule("Resize")
def resize(call: Call) -> Gradients:
    """Along each axis the transpose of the matrix that interpolates, which is what Resize makes of the unit matrix.

    So the gradient is that of the values which the same kernel computes, however it rounds coordinates. Enlarging to
    the nearest by whole factors is undone by sums over blocks. What is nearest varies with scales and region in steps.
    """
    if call.wanted - {0} and string_attribute(call.node, "mode", "nearest") != "nearest":
        raise call.refuse("by its scales or region")
    if 0 not in call.wanted:
        return {}
    b, axes = call.b, _changed_axes(call)
    if not axes:
        return {0: call.g}
    factors = _whole_factors(call, axes)
    if factors is not None and _is_blockwise(call):
        return {0: _block_sums(call, factors)}
    if factors is not None and _is_tent(call, factors):
        return {0: _tents(call, factors)}
    gradient, shape = call.g, extents(b, call.y)
    # Those that shrink most go first, so that less is left for the others.
    for axis in sorted(axes, key=lambda axis: -(axis.scale or 1)):
        whole = extent(b, call.x, axis.number)
        gradient = _multiplied(b, _matrix(call, axis), gradient, shape, axis.number, whole)
        shape[axis.number] = whole
    return {0: gradient}


def _numbers(call: Call) -> list[int]:
    """The axes that the node's scales, sizes and region are of."""
    return [number % rank(call.x) for number in ints_attribute(call.node, "axes") or range(rank(call.x))]


def _changed_axes(call: Call) -> list[_Axis]:
    numbers = _numbers(call)
    crops = _coordinates(call) == "tf_crop_and_resize"
    axes = []
    for position, number in enumerate(numbers):
        axis = _Axis(number, position, _scale(call, position, number))
        region = [traced(call.input(1), index) for index in (position, position + len(numbers))] if crops else [0, 1]
        if axis.scale != 1 or region != [0, 1]:
            axes.append(axis)
    return axes


def _scale(call: Call, position: int, axis: int) -> float | None:
    """How many times longer an axis becomes, if that is given or the extents, or where they come from, tell it."""
    scales, sizes = _list(call, 2), _list(call, 3)
    if scales is not None:
        scale = traced(scales, position)
        return scale if isinstance(scale, float) else None
    if _policy(call) != "stretch":
        return None
    before, after = _dimension(call.x, axis), _dimension(call.y, axis)
    origin = traced(sizes, position)
    if isinstance(origin, tuple):
        after = _dimension(*origin)
    if origin == (call.x, axis) or (before is not None and before == after):
        return 1.0
    return after / before if isinstance(before, int) and isinstance(after, int) and before else None


def _list(call: Call, position: int) -> ir.Value | None:
    """An optional input that may also be left out by giving an empty list."""
    value = call.optional_input(position)
    return None if value is None or static_shape(value) == (0,) else value


def _policy(call: Call) -> str:
    """How sizes are to be understood; scales leave nothing to understand."""
    by_sizes = _list(call, 3) is not None
    return string_attribute(call.node, "keep_aspect_ratio_policy", "stretch") if by_sizes else "stretch"


def _dimension(value: ir.Value, axis: int) -> int | str | None:
    size = value.shape[axis] if value.shape is not None else None
    return size.value if isinstance(size, ir.SymbolicDim) else size


def _whole_factors(call: Call, axes: Sequence[_Axis]) -> list[int] | None:
    """How many times longer each of the input's axes becomes, if all of these are known whole numbers."""
    factors = [1] * rank(call.x)
    for axis in axes:
        if axis.scale is None or axis.scale < 1 or not axis.scale.is_integer():
            return None
        factors[axis.number] = int(axis.scale)
    return factors


def _coordinates(call: Call) -> str:
    return string_attribute(call.node, "coordinate_transformation_mode", "half_pixel")


def _is_blockwise(call: Call) -> bool:
    """Whether whole factors repeat every element, so that the results of one are a block."""
    rounding = string_attribute(call.node, "nearest_mode", "round_prefer_floor")
    return string_attribute(call.node, "mode", "nearest") == "nearest" and (_coordinates(call), rounding) in _BLOCKWISE


def _channels(call: Call, factors: Sequence[int]) -> int | None:
    """The number of channels, if it is known and axes beyond it alone change: as convolutions have it."""
    size = call.x.shape[1] if call.x.shape is not None and rank(call.x) in {3, 4, 5} else None
    return size if isinstance(size, int) and factors[0] == factors[1] == 1 else None


def _block_sums(call: Call, factors: Sequence[int]) -> ir.Value:
    """The sums over blocks: a depthwise convolution with ones where that is possible, which is the fastest."""
    b, g, channels = call.b, call.g, _channels(call, factors)
    if channels is not None:
        ones = b.constant(np.ones((channels, 1, *factors[2:])), data_type(g))
        return b.op("Conv", g, ones, kernel_shape=factors[2:], strides=factors[2:], group=channels)
    apart: list[Size] = []
    for size, factor in zip(extents(b, call.x), factors, strict=True):
        apart.extend((size, factor))
    within = [2 * axis + 1 for axis in range(len(factors))]
    return b.op("ReduceSum", b.op("Reshape", g, listed(b, apart), allowzero=1), b.ints(within), keepdims=0)


def _is_tent(call: Call, factors: Sequence[int]) -> bool:
    """Whether to undo linear enlarging by a convolution, as pays for many elements."""
    sizes = [size for size, factor in zip(extents(call.b, call.x), factors, strict=True) if factor > 1]
    return (
        string_attribute(call.node, "mode", "nearest") == "linear"
        and _coordinates(call) in {"asymmetric", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"}
        and not int_attribute(call.node, "antialias", 0)
        and not int_attribute(call.node, "exclude_outside", 0)
        and _channels(call, factors) is not None
        and all(isinstance(size, int) and size >= _MANY for size in sizes)
    )


def _tents(call: Call, factors: Sequence[int]) -> ir.Value:
    """The sums under tents: each element spreads linearly over the results between its neighbours' positions.

    Results beyond the outermost elements are what they were between those and copies of them, as if the input were
    padded.
    """
    b, channels = call.b, _channels(call, factors)
    assert channels is not None
    kernel, begins, ends = np.ones(()), [], []
    for factor in factors[2:]:
        # Where, among the results of an element, its own position is.
        top = 0 if _coordinates(call) == "asymmetric" else (factor - 1) / 2
        offsets = np.arange(math.floor(top - factor) + 1, math.ceil(top + factor))
        kernel = np.multiply.outer(kernel, 1 - np.abs(offsets - top) / factor)
        around = factor > 1
        begins.append(factor - int(offsets[0]) if around else 0)
        ends.append(int(offsets[-1]) + 1 if around else 0)
    weight = b.constant(np.broadcast_to(kernel, (channels, 1, *kernel.shape)), data_type(call.x))
    gradient = b.op("Conv", call.g, weight, strides=factors[2:], pads=[*begins, *ends], group=channels)
    for axis, factor in enumerate(factors):
        size = extent(b, call.x, axis)
        if factor > 1 and isinstance(size, int):
            gradient = fold(b, gradient, axis, size, 1, 1, "edge")
    return gradient


def _multiplied(
    b: Builder, matrix: ir.Value, value: ir.Value, shape: Sequence[Size], axis: int, rows: Size
) -> ir.Value:
    """A matrix of so many rows applied along an axis of a value of this shape."""
    lead, inner = shape[:axis], shape[axis + 1 :]
    if not inner:
        return b.op("MatMul", value, b.op("Transpose", matrix, perm=[1, 0]))
    if len(inner) == 1:
        return b.op("MatMul", matrix, value)
    flat = b.op("Reshape", value, listed(b, [*lead, shape[axis], times(b, *inner)]), allowzero=1)
    return b.op("Reshape", b.op("MatMul", matrix, flat), listed(b, [*lead, rows, *inner]), allowzero=1)


def _matrix(call: Call, axis: _Axis) -> ir.Value:
    """The matrix of an axis, with a row for each element of the input: the unit matrix resized along its rows."""
    b = call.b
    whole, part = extent(b, call.x, axis.number), extent(b, call.y, axis.number)
    numbers = b.op("Range", b.constant(0), b.op("Squeeze", listed(b, [whole])), b.constant(1))
    unit = b.op("Cast", b.op("Equal", b.op("Unsqueeze", numbers, b.ints([1])), numbers), to=data_type(call.x))
    resized = _resized(call, axis, b.op("Unsqueeze", unit, b.ints([1, 2])))
    return b.op("Reshape", b.op("Gather", resized, b.constant(0), axis=2), listed(b, [whole, part]))


def _resized(call: Call, axis: _Axis, unit: ir.Value) -> ir.Value:
    """The unit matrix, (row, 1, 1, column), resized along its columns and along the axis before them.

    That axis is there because of what depends on all axes of the node: where none of them changes its extent ONNX
    Runtime copies, whatever the scales are, so it changes if one of them does; and it can set the pace of a policy
    that gives all axes the scale of one. Of the result only the first element along it is of interest.
    """
    b, count = call.b, len(_numbers(call))
    attributes = {name: call.node.attributes[name].value for name in _COPIED if name in call.node.attributes}
    scales, region = _list(call, 2), _list(call, 1)
    if region is not None:
        start, end = (b.op("Gather", region, b.ints([index])) for index in (axis.position, axis.position + count))
        zero, one = (b.constant([number], data_type(region)) for number in (0, 1))
        region = b.op("Concat", zero, start, one, end, axis=0)
    pace = _pace(call, axis)
    if pace is not None:
        unit = b.op("Expand", unit, b.ints([1, 1, pace.denominator, 1]))
        policy = _policy(call)
        loose = times(b, extent(b, call.x, axis.number), math.ceil(pace) + 1) if policy == "not_larger" else 1
        sizes = listed(b, [pace.numerator, loose])
        return b.op("Resize", unit, region, None, sizes, axes=[2, 3], keep_aspect_ratio_policy=policy, **attributes)
    kept = b.op("Cast", b.op("Equal", b.shape(call.x), b.shape(call.y)), to=ir.DataType.INT64)
    beside = b.op("Sub", b.ints([2]), b.op("ReduceMin", kept, keepdims=1))
    if scales is None:
        sizes = listed(b, [beside, extent(b, call.y, axis.number)])
        return b.op("Resize", unit, region, None, sizes, axes=[2, 3], **attributes)
    own = b.op("Gather", scales, b.ints([axis.position]))
    pair = b.op("Concat", b.op("Cast", beside, to=ir.DataType.FLOAT), own, axis=0)
    return b.op("Resize", unit, region, pair, axes=[2, 3], **attributes)


def _pace(call: Call, axis: _Axis) -> Fraction | None:
    """The scale that a policy gives all axes, if it is another than the axis's own."""
    policy, sizes = _policy(call), constant_ints(_list(call, 3))
    if policy == "stretch":
        return None
    wholes = [extent(call.b, call.x, number) for number in _numbers(call)]
    known = [size for size in wholes if isinstance(size, int) and size > 0]
    if sizes is None or len(known) < len(wholes):
        raise call.refuse(f"with the policy {policy!r} and extents that are not known beforehand")
    ratios = list(map(Fraction, sizes, known))
    pace = min(ratios) if policy == "not_larger" else max(ratios)
    if pace.denominator * known[axis.position] ** 2 > _MAX_PROBE:
        raise call.refuse(f"with the policy {policy!r} and the scale {pace}")
    return None if ratios[axis.position] == pace else pace
