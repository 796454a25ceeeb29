"""Pooling."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.graph.backward import layout
from ortoscope_service.graph.backward.builder import Builder, data_type, rank
from ortoscope_service.graph.backward.placing import cut, widen
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules import blocked
from ortoscope_service.graph.backward.rules.convolution import input_gradient
from ortoscope_service.graph.backward.rules.windows import Window, crop, pool_windows, static_axes
from ortoscope_service.graph.backward.sizes import Size, extent, larger, listed, minus, plus, quotient, times
from ortoscope_service.graph.constants import int_attribute, ints_attribute, string_attribute


@rule("MaxPool")
def max_pool(call: Call) -> Gradients:
    """All of a window's goes to its maximum; of equal ones to the first in row-major order, as in PyTorch.

    The maximum of a window is the maximum over its rows of the maximum within each row: the pool is a chain of pools
    along one axis each, the last axis first. Going back, the first row that holds the maximum is chosen, then the first
    element within it. That needs no indices, with which ONNX Runtime's MaxPool takes many times as long.
    """
    if call.cotangents[0] is None:
        return {}
    windows = pool_windows(call)
    axes = static_axes(windows)
    if axes is not None and layout.can_be_blocked(call.x) and all(axis.dilation == 1 for axis in axes):
        return {0: blocked.max_pool_gradient(call.b, call.x, call.y, call.g, axes)}
    return {0: _max_pool_gradient(call, windows)}


def _max_pool_gradient(call: Call, windows: Sequence[Window]) -> ir.Value:
    """The cotangent of a max pool's input, for any number of axes and any extents."""
    moving = [window for window in windows if not window.is_identity]
    stages = [call.x]
    for window in moving[:0:-1]:
        stages.append(_pool_along(call, stages[-1], window.axis - 2))
    gradient, y = call.g, call.y
    for window in moving:
        x = stages.pop()
        later = [other.count for other in windows if other.axis > window.axis]
        gradient, y = _max_pool_along(call.b, x, y, gradient, window, later), x
    return gradient


def _pool_along(call: Call, x: ir.Value, index: int) -> ir.Value:
    """A pool's maxima along one of its spatial axes alone."""

    def only(name: str, other: int) -> list[int] | None:
        given = ints_attribute(call.node, name)
        if given is None:
            return None
        return [size if position % spatial == index else other for position, size in enumerate(given)]

    spatial = rank(call.x) - 2
    return call.b.op(
        "MaxPool",
        x,
        kernel_shape=only("kernel_shape", 1),
        strides=only("strides", 1),
        dilations=only("dilations", 1),
        pads=only("pads", 0),
        auto_pad=string_attribute(call.node, "auto_pad", "NOTSET"),
        ceil_mode=int_attribute(call.node, "ceil_mode", 0),
    )


def _max_pool_along(
    b: Builder, x: ir.Value, y: ir.Value, g: ir.Value, window: Window, later: Sequence[Size]
) -> ir.Value:
    """The cotangent of the input of a max pool along one axis.

    Of the taps, in order, the first that reads the maximum takes the window's cotangent; the last one takes what nobody
    has taken.

    Args:
        b: Where to emit.
        x: The pool's input.
        y: Its output.
        g: The output's cotangent.
        window: How it slides.
        later: The extents of the axes after that of the window.
    """
    if window.kernel == 1:
        return _put_back(b, [g], window, later)
    whole, taken, shares = _surrounded(b, x, window), None, []
    for tap in range(window.kernel - 1):
        hit = b.op("Equal", _read(b, whole, window, tap), y)
        shares.append(_where(b, hit if taken is None else b.op("And", hit, b.op("Not", taken)), g))
        taken = hit if taken is None else b.op("Or", taken, hit)
    shares.append(_where(b, b.op("Not", taken), g))
    return _put_back(b, shares, window, later)


def _where(b: Builder, mask: ir.Value, g: ir.Value) -> ir.Value:
    """The cotangent where the mask holds. (`Where` takes ten times as long, which only an infinite cotangent needs.)"""
    return b.op("Mul", b.op("Cast", mask, to=data_type(g)), g)


def _surrounded(b: Builder, x: ir.Value, window: Window) -> ir.Value:
    """The input with its padding, which is no number: it equals no maximum, not even minus infinity."""
    reached = plus(b, _last(b, window), window.reach, minus(b, 0, window.begin))
    after = window.end if window.stride == 1 else larger(b, 0, minus(b, reached, window.extent))
    if window.begin == 0 and after == 0:
        return x
    return b.op("Pad", x, listed(b, [window.begin, after]), b.number(math.nan, x), b.ints([window.axis]))


def _last(b: Builder, window: Window) -> Size:
    """How far the last window is from the first."""
    return times(b, plus(b, window.count, -1), window.stride)


def _read(b: Builder, whole: ir.Value, window: Window, tap: int) -> ir.Value:
    """What one tap reads, for every window."""
    start = tap * window.dilation
    end = plus(b, _last(b, window), start + 1)
    return b.op("Slice", whole, b.ints([start]), listed(b, [end]), b.ints([window.axis]), b.ints([window.stride]))


def _put_back(b: Builder, shares: Sequence[ir.Value], window: Window, later: Sequence[Size]) -> ir.Value:
    """Adds what each tap has of every window where the tap read it.

    Positions fall into phases by their remainder modulo the stride; within a phase, the windows are neighbours.
    """
    begin = window.begin if isinstance(window.begin, int) else 0
    places = [divmod(tap * window.dilation - begin, window.stride) for tap in range(window.kernel)]
    more = _surplus(window, max(shift for shift, _ in places))
    phases: list[ir.Value | None] = [None] * window.stride
    for share, (shift, phase) in zip(shares, places, strict=True):
        after, moved = more - shift, share
        if shift < 0 or after < 0:
            moved = cut(b, share, [window.axis], [max(0, -shift)], [plus(b, window.count, min(0, after))])
        moved = widen(b, moved, [window.axis], [max(0, shift)], [max(0, after)])
        other = phases[phase]
        phases[phase] = moved if other is None else b.op("Add", other, moved)
    length = times(b, plus(b, window.count, more), window.stride)
    whole = _interleaved(b, phases, window.axis, [length, *later])
    if isinstance(window.begin, int) and (length == window.extent or _covers(window)):
        return whole
    return crop(b, whole, [window], [0 if isinstance(window.begin, int) else window.begin])


def _surplus(window: Window, farthest: int) -> int:
    """By how many positions a phase is longer than there are windows."""
    if isinstance(window.extent, int) and isinstance(window.count, int) and isinstance(window.begin, int):
        return -(-window.extent // window.stride) - window.count
    if _covers(window):
        assert isinstance(window.end, int)
        return farthest - window.end
    return farthest + 1


def _covers(window: Window) -> bool:
    """Whether it is known, without extents, how the ends of windows and input lie to each other."""
    return window.stride == 1 and isinstance(window.begin, int) and isinstance(window.end, int)


def _interleaved(b: Builder, phases: Sequence[ir.Value | None], axis: int, extents: Sequence[Size]) -> ir.Value:
    """Puts equally long phases of an axis together: the first element of each, the second of each, and so on.

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
    counted = bool(int_attribute(call.node, "count_include_pad", 0))
    return {0: average_pool_gradient(call, pool_windows(call), count_padding=counted)}


def average_pool_gradient(call: Call, windows: Sequence[Window], *, count_padding: bool = False) -> ir.Value:
    """The cotangent of a pool's input as if it averaged.

    Args:
        call: The pool.
        windows: How its windows slide.
        count_padding: Whether the average is taken over the padding, too, of zeros.
    """
    b, size = call.b, math.prod(window.kernel for window in windows)
    counts = [_element_counts(b, window, count_padding) for window in windows]
    if all(count is None for count in counts):
        return sum_over_windows(call, call.g, windows, 1 / size)
    gradient = call.g
    for window, count in zip(windows, counts, strict=True):
        if count is not None:
            # As wide as the axes from the window's on.
            aligned = b.op("Reshape", count, b.ints([-1] + [1] * (len(windows) + 1 - window.axis)))
            gradient = b.op("Div", gradient, b.op("Cast", aligned, to=data_type(gradient)))
    return gradient


def sum_over_windows(call: Call, g: ir.Value, windows: Sequence[Window], factor: float = 1.0) -> ir.Value:
    """For each element of a pool's input the sum over the windows that it is in, times a factor."""
    channels = call.x.shape[1] if call.x.shape is not None else None
    if not isinstance(channels, int):
        raise call.refuse("with a number of channels that is not known")
    b = call.b
    if all(window.count == 1 and window.kernel == window.extent and window.dilation == 1 for window in windows):
        return b.op("Expand", b.op("Mul", g, b.number(factor, g)), b.shape(call.x))
    ones = b.constant(np.full([channels, 1, *(window.kernel for window in windows)], factor), data_type(g))
    return input_gradient(b, g, ones, channels, windows)
