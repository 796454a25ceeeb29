"""Operators that pick elements by their positions, and those that put elements there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank, same_shape, static_shape
from ortoscope_service.graph.backward.placing import add_at, cut, flip, put_back, widen
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.shapes import normal_axis
from ortoscope_service.graph.backward.sizes import (
    Size,
    elements,
    extent,
    extents,
    larger,
    listed,
    minus,
    plus,
    quotient,
    remainder,
    smaller,
    times,
)
from ortoscope_service.graph.constants import constant_array, constant_ints, int_attribute, string_attribute

_IN_CONVOLUTIONS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
"""The data types that ONNX Runtime has transposed convolutions for."""


@dataclass(frozen=True)
class _Stretch:
    """The elements of an axis that a Slice node takes, in the order of storage."""

    axis: int
    lowest: Size
    count: Size
    step: int


@rule("Slice")
def slice_(call: Call) -> Gradients:
    """Zeros for the elements that were not taken: around the others and, with steps, between them."""
    b, axes, steps = call.b, _axes(call), _steps(call)
    backwards = [axis for axis, step in zip(axes, steps, strict=True) if step < 0]
    gradient = flip(b, call.g, backwards) if backwards else call.g
    if same_shape(call.x, call.y):
        return {0: gradient}
    stretches = [
        _Stretch(axis, _lowest(call, axis, start, step), extent(b, call.y, axis), abs(step))
        for axis, start, step in zip(axes, elements(b, call.input(1), len(axes)), steps, strict=True)
    ]
    shape = extents(b, call.y)
    for index, stretch in enumerate(stretches):
        if _is_last_of_many(call, stretch):
            gradient, stretches[index] = _apart(b, gradient, shape, stretch)
            shape[stretch.axis] = stretches[index].count
    if any(stretch.step > 1 for stretch in stretches):
        return {0: _spread(call, gradient, stretches)}
    before = [stretch.lowest for stretch in stretches]
    ends = [plus(b, stretch.lowest, stretch.count) for stretch in stretches]
    after = [minus(b, extent(b, call.x, axis), end) for axis, end in zip(axes, ends, strict=True)]
    return {0: widen(b, gradient, axes, before, after)}


def _axes(call: Call) -> list[int]:
    axes = constant_ints(call.optional_input(3))
    if call.optional_input(3) is None:
        shape = static_shape(call.input(1))
        axes = tuple(range(*shape)) if shape is not None else None
    if axes is None:
        raise call.refuse("with computed axes")
    return [axis % rank(call.x) for axis in axes]


def _steps(call: Call) -> Sequence[int]:
    steps = constant_ints(call.optional_input(4))
    if steps is None and call.optional_input(4) is not None:
        raise call.refuse("with computed steps")
    return steps or (1,) * len(_axes(call))


def _lowest(call: Call, axis: int, start: Size, step: int) -> Size:
    """The first position, in the order of storage, that a slice takes."""
    b = call.b
    if isinstance(start, int) and start == 0 and step > 0:
        return 0
    whole, part = extent(b, call.x, axis), extent(b, call.y, axis)
    if not isinstance(start, int):
        first: Size = b.op("Where", b.op("Less", start, b.ints([0])), listed(b, [plus(b, start, whole)]), start)
    else:
        first = start if start >= 0 else plus(b, start, whole)
    if step < 0:
        first = plus(b, smaller(b, first, plus(b, whole, -1)), times(b, plus(b, part, -1), step))
    return smaller(b, larger(b, first, 0), whole)


def _is_last_of_many(call: Call, stretch: _Stretch) -> bool:
    """Whether single elements are taken of the last axis of several, and a convolution can put them apart."""
    return (
        stretch.step > 1
        and stretch.axis == rank(call.x) - 1 > 0
        and isinstance(stretch.count, int)
        and stretch.count > 0
        and data_type(call.x) in _IN_CONVOLUTIONS
    )


def _apart(b: Builder, gradient: ir.Value, shape: Sequence[Size], stretch: _Stretch) -> tuple[ir.Value, _Stretch]:
    """Zeros put between the elements of the last axis, by a transposed convolution: it is ten times as fast as Pad.

    Returns:
        The gradient, and the stretch that it is of now.
    """
    assert isinstance(stretch.count, int)
    *lead, rows, columns = shape
    count = (stretch.count - 1) * stretch.step + 1
    images = b.op("Reshape", gradient, listed(b, [times(b, *lead), 1, rows, columns]), allowzero=1)
    one = b.constant(np.ones((1, 1, 1, 1)), data_type(gradient))
    apart = b.op("ConvTranspose", images, one, strides=[1, stretch.step])
    result = b.op("Reshape", apart, listed(b, [*lead, rows, count]), allowzero=1)
    return result, replace(stretch, count=count, step=1)


def _spread(call: Call, gradient: ir.Value, stretches: Sequence[_Stretch]) -> ir.Value:
    """Seen as blocks as long as the step, an axis holds one element in each: pad the blocks, and add blocks around."""
    b, shape = call.b, extents(call.b, call.x)
    blocked = sorted(stretch.axis for stretch in stretches if stretch.step > 1)
    axes, before, after = [], [], []
    for stretch in stretches:
        axis, step = stretch.axis, stretch.step
        outer = axis + sum(other < axis for other in blocked)
        blocks = quotient(b, plus(b, shape[axis], step - 1), step)
        skipped, offset = quotient(b, stretch.lowest, step), remainder(b, stretch.lowest, step)
        axes.append(outer)
        before.append(skipped)
        after.append(minus(b, blocks, plus(b, skipped, stretch.count)))
        if step > 1:
            axes.append(outer + 1)
            before.append(offset)
            after.append(minus(b, step - 1, offset))
            shape[axis] = times(b, blocks, step)
    column = b.op("Unsqueeze", gradient, b.ints([axis + 1 + index for index, axis in enumerate(blocked)]))
    joined = b.op("Reshape", widen(b, column, axes, before, after), listed(b, shape), allowzero=1)
    longer = [axis for axis in blocked if shape[axis] != extent(b, call.x, axis)]
    return cut(b, joined, longer, [0] * len(longer), [extent(b, call.x, axis) for axis in longer]) if longer else joined


@rule("Gather")
def gather(call: Call) -> Gradients:
    """An element gets the sum of the cotangents of its copies."""
    b, axis, shape = call.b, normal_axis(call), extents(call.b, call.x)
    indices, gradient = call.input(1), call.g
    known = constant_array(indices)
    if rank(indices) != 1:
        count = times(b, *extents(b, indices))
        gradient = b.op("Reshape", gradient, listed(b, [*shape[:axis], count, *shape[axis + 1 :]]), allowzero=1)
        if known is None:
            indices = b.op("Reshape", indices, b.ints([-1]))
    positions = indices if known is None else [int(index) for index in known.flat]
    return {0: put_back(b, gradient, call.x, shape, axis, positions)}


@rule("GatherElements")
def gather_elements(call: Call) -> Gradients:
    """An element gets the sum of the cotangents of its copies."""
    b = call.b
    return {0: add_at(b, call.x, extents(b, call.x), normal_axis(call), call.input(1), call.g)}


@rule("GatherND")
def gather_nd(call: Call) -> Gradients:
    """An element gets the sum of the cotangents of its copies."""
    batch = int_attribute(call.node, "batch_dims", 0)
    return {0: _add_slices(call.b, call.x, call.input(1), call.g, batch)}


@rule("ScatterElements")
def scatter_elements(call: Call) -> Gradients:
    """See `_scatter`."""
    b, axis, indices = call.b, normal_axis(call), call.input(1)
    return _scatter(
        call,
        lambda data, updates, reduction: b.op(
            "ScatterElements", data, indices, updates, axis=axis, reduction=reduction
        ),
        lambda data: b.op("GatherElements", data, indices, axis=axis),
        lambda updates: add_at(b, call.x, extents(b, call.x), axis, indices, updates),
    )


@rule("ScatterND")
def scatter_nd(call: Call) -> Gradients:
    """See `_scatter`."""
    b, indices = call.b, call.input(1)
    return _scatter(
        call,
        lambda data, updates, reduction: b.op("ScatterND", data, indices, updates, reduction=reduction),
        lambda data: b.op("GatherND", data, indices),
        lambda updates: _add_slices(b, call.x, indices, updates, 0),
    )


def _scatter(
    call: Call,
    scatter: Callable[[ir.Value, ir.Value, str | None], ir.Value],
    gather: Callable[[ir.Value], ir.Value],
    add: Callable[[ir.Value], ir.Value],
) -> Gradients:
    """What is written or added gets the cotangent of its place; what is overwritten gets none.

    Of several updates of one place all get its cotangent, as in PyTorch, also where only one of them remains. The
    cotangent of a maximum or minimum is divided evenly among all that equal it.
    """
    b, gradients = call.b, dict[int, ir.Value | None]()
    reduction = string_attribute(call.node, "reduction", "none")
    if reduction in {"none", "add"}:
        if 0 in call.wanted:
            gradients[0] = call.g if reduction == "add" else scatter(call.g, b.zeros_like(call.input(2)), None)
        if 2 in call.wanted:
            gradients[2] = gather(call.g)
        return gradients
    if reduction == "mul":
        if 2 in call.wanted:
            raise call.refuse("with the reduction 'mul' by its updates")
        ones = b.op("Expand", b.number(1, call.x), b.shape(call.x))
        return {0: b.op("Mul", call.g, scatter(ones, call.input(2), "mul"))}
    updates = call.input(2)
    kept, taken = b.op("Equal", call.x, call.y), b.op("Equal", updates, gather(call.y))
    kept_count, taken_count = (b.op("Cast", won, to=data_type(call.x)) for won in (kept, taken))
    share = b.op("Div", call.g, b.op("Add", kept_count, add(taken_count)))
    if 0 in call.wanted:
        gradients[0] = b.op("Where", kept, share, b.number(0, call.x))
    if 2 in call.wanted:
        gradients[2] = b.op("Where", taken, gather(share), b.number(0, call.x))
    return gradients


def _add_slices(b: Builder, like: ir.Value, indices: ir.Value, updates: ir.Value, batch: int) -> ir.Value:
    """Zeros shaped like a value, with updates added at the slices that GatherND would pick.

    What GatherND picks from a tensor of consecutive numbers are the places of the slices among all.
    """
    shape = extents(b, like)
    depth = indices.shape[-1] if indices.shape is not None else None
    assert isinstance(depth, int), "shape inference knows how many axes GatherND indexes"
    places, inner = shape[: batch + depth], shape[batch + depth :]
    count, length = times(b, *places), times(b, *inner)
    numbers = b.op("Range", b.constant(0), b.op("Squeeze", listed(b, [count])), b.constant(1))
    picked = b.op("GatherND", b.op("Reshape", numbers, listed(b, places), allowzero=1), indices, batch_dims=batch)
    flat = b.op("Reshape", picked, b.ints([-1]))
    rows = b.op("Reshape", updates, listed(b, [extent(b, flat, 0), length]), allowzero=1)
    total = put_back(b, rows, like, [count, length], 0, flat)
    return b.op("Reshape", total, listed(b, shape), allowzero=1)


@rule("TopK")
def top_k(call: Call) -> Gradients:
    """The values' cotangents go to where the values were; of equal elements to those that were chosen."""
    b = call.b
    axis = normal_axis(call, -1)
    return {0: b.op("ScatterElements", b.zeros_like(call.x), call.node.outputs[1], call.g, axis=axis)}


@rule("Compress")
def compress(call: Call) -> Gradients:
    """The elements that were dropped get zeros."""
    b = call.b
    positions = b.op("Reshape", b.op("NonZero", call.input(1)), b.ints([-1]))
    if "axis" in call.node.attributes:
        return {0: put_back(b, call.g, call.x, extents(b, call.x), normal_axis(call), positions)}
    total = put_back(b, call.g, call.x, [times(b, *extents(b, call.x))], 0, positions)
    return {0: b.reshape_like(total, call.x)}


@rule("OneHot")
def one_hot(call: Call) -> Gradients:
    """The two values get the sums over the places where they are; nothing varies with the indices but by steps."""
    b, g = call.b, call.g
    if 2 not in call.wanted:
        return {}
    axis = int_attribute(call.node, "axis", -1)
    values = b.constant([0, 1], data_type(g))
    hot = b.op("Equal", b.op("OneHot", call.x, call.input(1), values, axis=axis), b.number(1, g))
    zero = b.number(0, g)
    sums = [b.op("ReduceSum", part, keepdims=0) for part in (b.op("Where", hot, zero, g), b.op("Where", hot, g, zero))]
    return {2: b.op("Concat", *(b.op("Reshape", part, b.ints([1])) for part in sums), axis=0)}


@rule("ReverseSequence")
def reverse_sequence(call: Call) -> Gradients:
    """Undone by reversing the same stretches again."""
    node = call.node
    batch, time = int_attribute(node, "batch_axis", 1), int_attribute(node, "time_axis", 0)
    return {0: call.b.op("ReverseSequence", call.g, call.input(1), batch_axis=batch, time_axis=time)}
