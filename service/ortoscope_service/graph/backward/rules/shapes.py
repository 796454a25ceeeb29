"""Operators that regroup, permute, repeat, join, part and pad elements without changing them."""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward import gates
from ortoscope_service.graph.backward.builder import Builder, rank
from ortoscope_service.graph.backward.placing import CopyingMode, cut, fold, permute, put_back, widen
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.sizes import (
    Size,
    elements,
    extent,
    extents,
    larger,
    listed,
    minus,
    plus,
)
from ortoscope_service.graph.constants import constant_ints, int_attribute, ints_attribute, string_attribute


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(call: Call) -> Gradients:
    """Whatever regroups axes in storage order is undone by the input's shape."""
    return {0: call.b.reshape_like(call.g, call.x)}


@rule("Transpose")
def transpose(call: Call) -> Gradients:
    """Undone by the inverse permutation."""
    permutation = ints_attribute(call.node, "perm") or tuple(reversed(range(rank(call.x))))
    inverse = sorted(range(len(permutation)), key=permutation.__getitem__)
    return {0: permute(call.b, call.g, extents(call.b, call.y), inverse)}


@rule("Expand")
def expand(call: Call) -> Gradients:
    """The sum over all copies of an element."""
    return {0: call.b.sum_to(call.g, call.x, source=call.y)}


@rule("Tile")
def tile(call: Call) -> Gradients:
    """The sum over all copies of an element: over the axes that count them, once those are separate."""
    b = call.b
    shape: list[Size] = []
    copies = []
    for repeats, size in zip(elements(b, call.input(1), rank(call.x)), extents(b, call.x), strict=True):
        if not (isinstance(repeats, int) and repeats == 1):
            copies.append(len(shape))
            shape.append(repeats)
        shape.append(size)
    if not copies:
        return {0: call.g}
    separate = b.op("Reshape", call.g, listed(b, shape), allowzero=1)
    return {0: b.op("ReduceSum", separate, b.ints(copies), keepdims=0)}


@rule("Concat")
def concat(call: Call) -> Gradients:
    """Every input gets its part of the cotangent; parts that nobody asks for are not cut out."""
    b, axis = call.b, normal_axis(call)
    gate = gates.gate_of(call.y) if call.early_gates else None
    whole = call.g if gate is None else gates.passed(b, call.g, call.y, gate)
    gradients: dict[int, ir.Value | None] = {}
    start: Size = 0
    for position in range(len(call.node.inputs)):
        end = plus(b, start, extent(b, call.input(position), axis))
        if position in call.wanted:
            part = cut(b, whole, [axis], [start], [end])
            if gates.has_passed(whole, call.y):
                gates.mark_passed(part, [call.input(position)])
            gradients[position] = part
        start = end
    return gradients


@rule("Split")
def split(call: Call) -> Gradients:
    """The parts' cotangents joined again, with zeros for parts that have none."""
    b, axis, parts = call.b, normal_axis(call), call.node.outputs
    given = [position for position, cotangent in enumerate(call.cotangents) if cotangent is not None]
    first, last = given[0], given[-1]
    joined = [call.cotangents[position] or b.zeros_like(parts[position]) for position in range(first, last + 1)]
    gradient = joined[0] if len(joined) == 1 else b.op("Concat", *joined, axis=axis)
    before = plus(b, *(extent(b, part, axis) for part in parts[:first]))
    after = plus(b, *(extent(b, part, axis) for part in parts[last + 1 :]))
    return {0: widen(b, gradient, [axis], [before], [after])}


@rule("DepthToSpace")
def depth_to_space(call: Call) -> Gradients:
    """Undone by SpaceToDepth, which has the order of channels DCR."""
    b, block = call.b, int_attribute(call.node, "blocksize", 0)
    gradient = b.op("SpaceToDepth", call.g, blocksize=block)
    if string_attribute(call.node, "mode", "DCR") == "DCR":
        return {0: gradient}
    shape = extents(b, call.x)
    apart = [shape[0], block**2, extent(b, call.y, 1), *shape[2:]]
    order = [0, 2, 1, *range(3, len(apart))]
    swapped = permute(b, b.op("Reshape", gradient, listed(b, apart), allowzero=1), apart, order)
    return {0: b.reshape_like(swapped, call.x)}


@rule("SpaceToDepth")
def space_to_depth(call: Call) -> Gradients:
    """Undone by DepthToSpace with the same order of channels."""
    mode = string_attribute(call.node, "mode", "DCR")
    return {0: call.b.op("DepthToSpace", call.g, blocksize=int_attribute(call.node, "blocksize", 0), mode=mode)}


@rule("Col2Im")
def col2im(call: Call) -> Gradients:
    """Every column gets the cotangents at the elements of the image that its block lay on."""
    b, node = call.b, call.node
    image, block = constant_ints(call.input(1)), constant_ints(call.input(2))
    if image is None or block is None:
        raise call.refuse("with computed shapes")
    axes = len(image)
    pads = ints_attribute(node, "pads") or (0,) * (2 * axes)
    strides, dilations = (ints_attribute(node, name) or (1,) * axes for name in ("strides", "dilations"))
    padded = [sum(sizes) for sizes in zip(image, pads[:axes], pads[axes:], strict=True)]
    places = np.zeros((1, 1), np.int64)
    for size, taps, stride, dilation in zip(padded, block, strides, dilations, strict=True):
        starts = np.arange(0, size - dilation * (taps - 1), stride)
        along = np.arange(taps)[:, None] * dilation + starts
        # Taps of all axes so far are rows, positions of the block are columns.
        grown = places[:, None, :, None] * size + along[:, None, :]
        places = grown.reshape(len(places) * taps, -1)
    batch, channels = extent(b, call.y, 0), extent(b, call.y, 1)
    spread = widen(b, call.g, range(2, 2 + axes), pads[:axes], pads[axes:])
    flat = b.op("Reshape", spread, listed(b, [batch, channels, math.prod(padded)]), allowzero=1)
    return {0: b.reshape_like(b.op("Gather", flat, b.constant(places.ravel()), axis=2), call.x)}


@rule("Pad")
def pad(call: Call) -> Gradients:
    """Copies are added to what they are copies of, the rest of the padding is cut off.

    What negative padding cut off gets zeros. The constant gets the sum over the padding.
    """
    b, mode = call.b, string_attribute(call.node, "mode", "constant")
    axes = constant_ints(call.optional_input(3))
    if call.optional_input(3) is None:
        axes = tuple(range(rank(call.x)))
    if axes is None:
        raise call.refuse("with computed axes")
    axes = tuple(axis % rank(call.x) for axis in axes)
    amounts = elements(b, call.input(1), 2 * len(axes))
    before, after = amounts[: len(axes)], amounts[len(axes) :]
    gradients: dict[int, ir.Value | None] = {}
    if 0 in call.wanted and mode == "constant":
        gradients[0] = _unpadded(call, axes, before, after)
    elif 0 in call.wanted:
        gradients[0] = _folded(call, cast("CopyingMode", mode), axes, before, after)
    if 2 in call.wanted and mode == "constant":
        gradients[2] = _over_padding(call)
    return gradients


def _unpadded(call: Call, axes: Sequence[int], before: Sequence[Size], after: Sequence[Size]) -> ir.Value:
    b, gradient = call.b, call.g
    added = [[larger(b, amount, 0) for amount in amounts] for amounts in (before, after)]
    lost = [[larger(b, minus(b, 0, amount), 0) for amount in amounts] for amounts in (before, after)]
    padded = [index for index in range(len(axes)) if not (added[0][index] == 0 == added[1][index])]
    if padded:
        starts = [added[0][index] for index in padded]
        ends = [minus(b, extent(b, call.y, axes[index]), added[1][index]) for index in padded]
        gradient = cut(b, gradient, [axes[index] for index in padded], starts, ends)
    return widen(b, gradient, axes, *lost)


def _over_padding(call: Call) -> ir.Value:
    """The sum of the cotangent over the places that the constant fills."""
    b = call.b
    ones = b.op("Expand", b.number(1, call.x), b.shape(call.x))
    inside = b.op("Cast", b.op("Pad", ones, call.input(1), None, call.optional_input(3)), to=ir.DataType.BOOL)
    total = b.op("ReduceSum", b.op("Where", inside, b.number(0, call.g), call.g), keepdims=0)
    return b.reshape_like(total, call.input(2))


def _folded(
    call: Call, mode: CopyingMode, axes: Sequence[int], before: Sequence[Size], after: Sequence[Size]
) -> ir.Value:
    b, gradient, shape = call.b, call.g, extents(call.b, call.y)
    for axis, start, end in zip(axes, before, after, strict=True):
        shape[axis] = extent(b, call.x, axis)
        gradient = _folded_axis(b, gradient, call.x, shape, axis, mode, start, end)
    return gradient


def _folded_axis(
    b: Builder,
    gradient: ir.Value,
    like: ir.Value,
    shape: Sequence[Size],
    axis: int,
    mode: CopyingMode,
    before: Size,
    after: Size,
) -> ir.Value:
    """The gradient along one axis: padding numbered positions shows what each element is a copy of."""
    whole = shape[axis]
    if isinstance(whole, int) and isinstance(before, int) and isinstance(after, int):
        if before == after == 0:
            return gradient
        if min(before, after) >= 0 and before + after <= whole - 2:
            return fold(b, gradient, axis, whole, before, after, mode)
        kept = np.arange(max(-before, 0), whole - max(-after, 0))
        positions = np.pad(kept, (max(before, 0), max(after, 0)), mode=mode)
        return put_back(b, gradient, like, shape, axis, positions.tolist())
    numbers = b.op("Range", b.constant(0), b.op("Squeeze", listed(b, [whole])), b.constant(1))
    copies = b.op("Pad", numbers, listed(b, [before, after]), mode=mode)
    return put_back(b, gradient, like, shape, axis, copies)


def normal_axis(call: Call, default: int = 0) -> int:
    """The node's attribute `axis`, counted from the front."""
    axis = int_attribute(call.node, "axis", default)
    return axis if axis >= 0 else axis + rank(call.x)
