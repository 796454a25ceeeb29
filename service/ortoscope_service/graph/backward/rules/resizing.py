"""Resize: an interpolation matrix along every axis."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank, static_shape
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.sizes import Size, extent, extents, listed, times, traced
from ortoscope_service.graph.constants import constant_ints, ints_attribute, string_attribute

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
    the nearest by whole factors is undone by sums over blocks.
    """
    if call.wanted != {0}:
        raise call.refuse("by its scales or region")
    b, axes = call.b, _changed_axes(call)
    if _is_blockwise(call, axes):
        return {0: _block_sums(call, {axis.number: int(axis.scale or 1) for axis in axes})}
    gradient, shape = call.g, extents(b, call.y)
    # Those that shrink most go first, so that less is left for the others.
    for axis in sorted(axes, key=lambda axis: -(axis.scale or 1)):
        shape[axis.number] = extent(b, call.x, axis.number)
        gradient = _multiplied(b, _matrix(call, axis), gradient, shape, axis.number)
    return {0: gradient}


def _changed_axes(call: Call) -> list[_Axis]:
    numbers = ints_attribute(call.node, "axes") or tuple(range(rank(call.x)))
    crops = string_attribute(call.node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    axes = []
    for position, number in enumerate(numbers):
        axis = _Axis(number % rank(call.x), position, _scale(call, position, number % rank(call.x)))
        region = [traced(call.input(1), index) for index in (position, position + len(numbers))] if crops else [0, 1]
        if axis.scale != 1 or region != [0, 1]:
            axes.append(axis)
    return axes


def _scale(call: Call, position: int, axis: int) -> float | None:
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
    return (
        string_attribute(call.node, "keep_aspect_ratio_policy", "stretch") if _list(call, 3) is not None else "stretch"
    )


def _dimension(value: ir.Value, axis: int) -> int | str | None:
    size = value.shape[axis] if value.shape is not None else None
    return size.value if isinstance(size, ir.SymbolicDim) else size


def _is_blockwise(call: Call, axes: Sequence[_Axis]) -> bool:
    found = (
        string_attribute(call.node, "coordinate_transformation_mode", "half_pixel"),
        string_attribute(call.node, "nearest_mode", "round_prefer_floor"),
    )
    nearest = string_attribute(call.node, "mode", "nearest") == "nearest" and found in _BLOCKWISE
    whole = all(axis.scale is not None and axis.scale >= 1 and axis.scale.is_integer() for axis in axes)
    return not axes or (nearest and whole)


def _block_sums(call: Call, factors: Mapping[int, int]) -> ir.Value:
    """The sums over blocks: a depthwise convolution with ones where that is possible, which is the fastest."""
    b, g = call.b, call.g
    blocks = [factors.get(axis, 1) for axis in range(rank(call.x))]
    if not factors:
        return g
    channels = extent(b, call.x, 1) if rank(call.x) in {3, 4, 5} else None
    if isinstance(channels, int) and blocks[:2] == [1, 1]:
        ones = b.constant(np.ones((channels, 1, *blocks[2:])), data_type(g))
        return b.op("Conv", g, ones, kernel_shape=blocks[2:], strides=blocks[2:], group=channels)
    apart: list[Size] = []
    for size, block in zip(extents(b, call.x), blocks, strict=True):
        apart.extend((size, block))
    summed = [2 * axis + 1 for axis in range(len(blocks))]
    return b.op("ReduceSum", b.op("Reshape", g, listed(b, apart), allowzero=1), b.ints(summed), keepdims=0)


def _multiplied(b: Builder, matrix: ir.Value, value: ir.Value, shape: Sequence[Size], axis: int) -> ir.Value:
    """A matrix applied along an axis of a value, which gives it this shape."""
    last = len(shape) - 1
    if axis == last:
        return b.op("MatMul", value, b.op("Transpose", matrix, perm=[1, 0]))
    if axis == last - 1:
        return b.op("MatMul", matrix, value)
    flat = [*shape[:axis], b.extent(matrix, 1), times(b, *shape[axis + 1 :])]
    product = b.op("MatMul", matrix, b.op("Reshape", value, listed(b, flat), allowzero=1))
    return b.op("Reshape", product, listed(b, shape), allowzero=1)


def _matrix(call: Call, axis: _Axis) -> ir.Value:
    """The matrix of an axis, a row for each element of the input: the unit matrix resized along its rows."""
    b, count = call.b, len(ints_attribute(call.node, "axes") or range(rank(call.x)))
    attributes = {name: call.node.attributes[name].value for name in _COPIED if name in call.node.attributes}
    whole, part = extent(b, call.x, axis.number), extent(b, call.y, axis.number)
    unit = b.op("Reshape", _unit_matrix(b, whole, call.x), listed(b, [whole, 1, 1, whole]))
    scales, region = _list(call, 2), _list(call, 1)
    if region is not None:
        zeros, ones = b.constant([0, 0, 0], data_type(region)), b.constant([1, 1, 1], data_type(region))
        start, end = (b.op("Gather", region, b.ints([index])) for index in (axis.position, axis.position + count))
        region = b.op("Concat", zeros, start, ones, end, axis=0)
    if scales is not None:
        own = b.op("Gather", scales, b.ints([axis.position]))
        scales = b.op("Concat", b.constant([1, 1, 1], ir.DataType.FLOAT), own, axis=0)
        resized = b.op("Resize", unit, region, scales, **attributes)
    elif _policy(call) == "stretch":
        resized = b.op("Resize", unit, region, None, listed(b, [whole, 1, 1, part]), **attributes)
    else:
        resized = _kept_in_proportion(call, axis, unit, region, attributes)
    return b.op("Reshape", resized, listed(b, [whole, part]))


def _unit_matrix(b: Builder, size: Size, like: ir.Value) -> ir.Value:
    numbers = b.op("Range", b.constant(0), b.op("Squeeze", listed(b, [size])), b.constant(1))
    return b.op("Cast", b.op("Equal", b.op("Unsqueeze", numbers, b.ints([1])), numbers), to=data_type(like))


def _kept_in_proportion(
    call: Call, axis: _Axis, unit: ir.Value, region: ir.Value | None, attributes: Mapping[str, Any]
) -> ir.Value:
    """The unit matrix resized under a policy that gives all axes the scale of one of them.

    That one, if it is another, is put beside the matrix with its extents in lowest terms, which have the same quotient.
    """
    b, policy = call.b, _policy(call)
    whole, part = extent(b, call.x, axis.number), extent(b, call.y, axis.number)
    sizes = constant_ints(call.input(3))
    numbers = ints_attribute(call.node, "axes") or tuple(range(rank(call.x)))
    wholes = [extent(b, call.x, number % rank(call.x)) for number in numbers]
    if sizes is None or not all(isinstance(size, int) for size in wholes):
        raise call.refuse(f"with the policy {policy!r} and sizes that are not known beforehand")
    ratios = [Fraction(size, known) for size, known in zip(sizes, wholes, strict=True) if isinstance(known, int)]
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    if ratios[axis.position] == ratio or not isinstance(whole, int):
        return b.op("Resize", unit, region, None, listed(b, [whole, 1, 1, part]), **attributes)
    if ratio.denominator * whole**2 > _MAX_PROBE:
        raise call.refuse(f"with the policy {policy!r} and the scale {ratio}")
    beside = b.op("Expand", unit, b.ints([whole, 1, ratio.denominator, whole]))
    loose = whole * (math.ceil(ratio) + 1) if policy == "not_larger" else 1
    wanted = b.ints([ratio.numerator, loose])
    resized = b.op("Resize", beside, region, None, wanted, axes=[2, 3], keep_aspect_ratio_policy=policy, **attributes)
    return b.op("Gather", resized, b.ints([0]), axis=2)
