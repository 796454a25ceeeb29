"""Pooling."""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, known_extents, rank, static_shape
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.convolution import input_gradient
from ortoscope_service.graph.backward.rules.shapes import widen
from ortoscope_service.graph.backward.rules.windows import Window, crop, sliding_windows
from ortoscope_service.graph.backward.sizes import Size, extent, larger, listed, minus, plus, times
from ortoscope_service.graph.constants import int_attribute, ints_attribute, string_attribute


@rule("MaxPool")
def max_pool(call: Call) -> Gradients:
    """All of a window's goes to its maximum; of equal ones to the first in row-major order, as in PyTorch."""
    if call.cotangents[0] is None:
        return {}
    kernel = ints_attribute(call.node, "kernel_shape") or ()
    windows = sliding_windows(call.b, call.node, call.x, call.y, kernel)
    return {0: max_pool_gradient(call.b, call.node, call.x, call.y, call.g, windows)}


def max_pool_gradient(
    b: Builder, node: ir.Node, x: ir.Value, y: ir.Value, g: ir.Value, windows: Sequence[Window]
) -> ir.Value:
    """The cotangent of a max pool's input.

    The maximum of a window is the maximum over its rows of the maximum within each row: the pool is a chain of pools
    along one axis each, the last axis first. Going back, the first row that holds the maximum is chosen, then the first
    element within it, which makes the first in row-major order.
    """
    moving = [window for window in windows if window.kernel > 1 or window.stride > 1]
    stages = [x]
    for window in moving[:0:-1]:
        stages.append(_pool_along(b, node, stages[-1], window.axis - 2))
    stages.append(y)
    for window in moving:
        y = stages.pop()
        later = [other.count for other in windows if other.axis > window.axis]
        g = _max_pool_step(b, stages[-1], y, g, window, later)
    return g


def _pool_along(b: Builder, node: ir.Node, x: ir.Value, index: int) -> ir.Value:
    """A pool's maxima along one of its spatial axes alone."""

    def only(name: str, other: int) -> list[int] | None:
        given = ints_attribute(node, name)
        if given is None:
            return None
        return [size if position % spatial == index else other for position, size in enumerate(given)]

    spatial = len(ints_attribute(node, "kernel_shape") or ())
    return b.op(
        "MaxPool",
        x,
        kernel_shape=only("kernel_shape", 1),
        strides=only("strides", 1),
        dilations=only("dilations", 1),
        pads=only("pads", 0),
        auto_pad=string_attribute(node, "auto_pad", "NOTSET"),
        ceil_mode=int_attribute(node, "ceil_mode", 0),
    )


def _max_pool_step(
    b: Builder, x: ir.Value, y: ir.Value, g: ir.Value, window: Window, later: Sequence[Size]
) -> ir.Value:
    """The cotangent of the input of a max pool along one axis.

    The taps, in order, take what earlier ones left if they equal the maximum; the last one gets the remainder.

    Args:
        b: Where to emit.
        x: The pool's input.
        y: Its output.
        g: The output's cotangent.
        window: How it slides.
        later: The extents of the axes after that of the window.
    """
    shares = []
    if window.kernel > 1:
        whole = _surrounded(b, x, window)
    for tap in range(window.kernel - 1):
        hit = b.op("Equal", _tap(b, whole, window, tap), y)
        zero = b.number(0, g)
        shares.append(b.op("Where", hit, g, zero))
        g = b.op("Where", hit, zero, g)
    return _put_back(b, [*shares, g], window, later)


def _surrounded(b: Builder, x: ir.Value, window: Window) -> ir.Value:
    """The input with its padding, which equals no maximum, not even minus infinity."""
    after = larger(b, 0, minus(b, plus(b, _last(b, window), window.begin, window.reach), window.extent))
    if window.begin == 0 and after == 0:
        return x
    return b.op("Pad", x, listed(b, [window.begin, after]), b.number(math.nan, x), b.ints([window.axis]))


def _last(b: Builder, window: Window) -> Size:
    """Where the last window begins, counted from where the first one does."""
    return times(b, plus(b, window.count, -1), window.stride)


def _tap(b: Builder, whole: ir.Value, window: Window, tap: int) -> ir.Value:
    """What one tap reads, for every window."""
    start = tap * window.dilation
    end = plus(b, _last(b, window), start + 1)
    return b.op(
        "Slice", whole, b.ints([start]), listed(b, [end]), b.ints([window.axis]), b.ints([window.stride])
    )


def _put_back(b: Builder, shares: Sequence[ir.Value], window: Window, later: Sequence[Size]) -> ir.Value:
    """Adds what each tap has of every window where the tap read it."""
    stride, begin, count = window.stride, window.begin, window.count
    places = [divmod(tap * window.dilation, stride) for tap in range(window.kernel)]
    farthest = max(shift for shift, _ in places) + 1
    length = plus(b, count, farthest)
    phases: list[ir.Value | None] = [None] * stride
    for share, (shift, phase) in zip(shares, places, strict=True):
        moved = widen(b, share, [window.axis], [shift], [farthest - shift])
        other = phases[phase]
        phases[phase] = moved if other is None else b.op("Add", other, moved)
    whole = _interleaved(b, phases, window.axis, [times(b, length, stride), *later])
    return crop(b, whole, [window.axis], [begin], [window.extent])


def _interleaved(b: Builder, phases: Sequence[ir.Value | None], axis: int, extents: Sequence[Size]) -> ir.Value:
    """Puts equally long phases of an axis together: the first element of each, the second of each, …

    Args:
        b: Where to emit.
        phases: The phases; None where all elements are zero.
        axis: The axis.
        extents: Those of the result from the axis on.
    """
    given = next(phase for phase in phases if phase is not None)
    if len(phases) == 1:
        return given
    zeros = b.op("Expand", b.number(0, given), b.op("Shape", given)) if None in phases else None
    columns = [b.op("Unsqueeze", phase or zeros, b.ints([axis + 1])) for phase in phases]
    stacked = b.op("Concat", *columns, axis=axis + 1)
    return b.op("Reshape", stacked, listed(b, [*([0] * axis), *extents]))


@rule("AveragePool")
def average_pool(call: Call) -> Gradients:
    """Every element of a window gets the same part of its cotangent."""
    kernel = ints_attribute(call.node, "kernel_shape") or ()
    windows = sliding_windows(call.b, call.node, call.x, call.y, kernel)
    counted = bool(int_attribute(call.node, "count_include_pad", 0))
    return {0: average_pool_gradient(call.b, call.x, call.g, windows, count_padding=counted)}


def average_pool_gradient(
    b: Builder, x: ir.Value, g: ir.Value, windows: Sequence[Window], *, count_padding: bool
) -> ir.Value:
    """The cotangent of an average pool's input.

    Args:
        b: Where to emit.
        x: The pool's input.
        g: The cotangent of its output.
        windows: How they slide.
        count_padding: Whether padding counts as elements that are zero.
    """
    return _summed_windows(b, x, b.op("Div", g, _counts(b, g, windows, count_padding)), windows)


def _summed_windows(b: Builder, x: ir.Value, g: ir.Value, windows: Sequence[Window]) -> ir.Value:
    """The sum, for each element of the input, over the windows that it is in."""
    channels = channel_count(x)
    kernel = [window.kernel for window in windows]
    ones = b.constant(np.ones([channels, 1, *kernel]), data_type(x))
    return input_gradient(b, g, ones, channels, windows)


def _counts(b: Builder, g: ir.Value, windows: Sequence[Window], count_padding: bool) -> ir.Value:
    """How many elements each window averages over, in a shape that broadcasts to the cotangent's."""
    whole: ir.Value | None = None
    for window in windows:
        along = _counts_along(b, window, count_padding)
        aligned = along.reshape([-1] + [1] * (len(windows) - 1 - (window.axis - 2)))
        whole = aligned if whole is None else whole * aligned
    return b.constant(whole, data_type(g))


def _counts_along(b: Builder, window: Window, count_padding: bool):
    assert isinstance(window.count, int) and isinstance(window.begin, int)
    assert isinstance(window.extent, int) and isinstance(window.end, int)
    first, last = (-window.begin, window.extent + window.end) if count_padding else (0, window.extent)
    starts = window.stride * np.arange(window.count) - window.begin
    taps = starts[:, None] + window.dilation * np.arange(window.kernel)
    return np.sum((taps >= first) & (taps < last), axis=1)


@rule("GlobalAveragePool")
def global_average_pool(call: Call) -> Gradients:
    """Every element gets the same part."""
    b, spatial = call.b, range(2, rank(call.x))
    extents = [extent(b, call.x, axis) for axis in spatial]
    numbers = [size for size in extents if isinstance(size, int)]
    if len(numbers) == len(extents):
        part = b.op("Mul", call.g, b.number(1 / math.prod(numbers), call.g))
    else:
        count = b.op("ReduceProd", listed(b, extents), keepdims=0)
        part = b.op("Div", call.g, b.op("Cast", count, to=data_type(call.g)))
    return {0: b.op("Expand", part, b.shape(call.x))}


@rule("GlobalMaxPool")
def global_max_pool(call: Call) -> Gradients:
    """All goes to the maximum; of equal ones to the first in row-major order, as in PyTorch's adaptive max pool."""
    b = call.b
    flat = b.op("Reshape", call.x, b.ints([0, 0, -1]))
    first = b.op("ArgMax", flat, axis=2, keepdims=1)
    size = b.op("Gather", b.op("Shape", flat), b.constant(2), axis=0)
    positions = b.op("Range", b.constant(0), size, b.constant(1))
    g = b.op("Reshape", call.g, b.ints([0, 0, 1]))
    flat_gradient = b.op("Where", b.op("Equal", positions, first), g, b.number(0, g))
    return {0: b.reshape_like(flat_gradient, call.x)}


def channel_count(value: ir.Value) -> int:
    """The extent of the second axis, which must be known."""
    extents = known_extents(value)
    assert extents is not None
    assert isinstance(extents[1], int)
    return extents[1]
