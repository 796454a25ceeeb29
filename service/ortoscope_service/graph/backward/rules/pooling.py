"""Pooling."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward import gates, layout
from ortoscope_service.graph.backward.builder import Builder, data_type, rank
from ortoscope_service.graph.backward.placing import cut, widen
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules import blocked
from ortoscope_service.graph.backward.rules.convolution import input_gradient
from ortoscope_service.graph.backward.rules.phases import interleaved
from ortoscope_service.graph.backward.rules.windows import Window, crop, pool_windows, static_axes
from ortoscope_service.graph.backward.sizes import Size, extent, larger, listed, minus, plus, times
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
    gate = gates.gate_of(call.x) if call.early_gates and gates.has_one_use(call.x) else None
    if gate is not None:
        # A maximum tells whether the gate is open as well as what it is the maximum of, and there are fewer of them.
        call = replace(call, cotangents=(gates.passed(call.b, call.g, call.y, gate), None))
    windows = pool_windows(call)
    axes = static_axes(windows)
    if axes is not None and layout.can_be_blocked(call.x) and all(axis.dilation == 1 for axis in axes):
        gradient = blocked.max_pool_gradient(call.b, call.x, call.y, call.g, axes)
    else:
        gradient = _max_pool_gradient(call, windows)
    if gate is not None:
        gates.mark_passed(gradient, [call.x])
    return {0: gradient}


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
    """The cotangent where a mask holds.

    ONNX Runtime takes ten times as long for `Where`, which cotangents that are infinite would need.
    """
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
    known = static_axes([window])
    # Where extents are not known, positions are counted from where the padding begins, which is cut off at the end.
    begin = known[0].pad if known else 0
    places = [divmod(tap * window.dilation - begin, window.stride) for tap in range(window.kernel)]
    if known:
        more = -(-known[0].extent // window.stride) - known[0].windows
    else:
        more = max(shift for shift, _ in places) + (window.stride > 1)
    phases: list[ir.Value | None] = [None] * window.stride
    for share, (shift, phase) in zip(shares, places, strict=True):
        moved, other = _moved(b, share, window, shift, more), phases[phase]
        phases[phase] = (other or moved) if other is None or moved is None else b.op("Add", other, moved)
    length = times(b, plus(b, window.count, more), window.stride)
    given = next(phase for phase in phases if phase is not None)
    whole = given
    if window.stride > 1:
        zeros = b.op("Expand", b.number(0, given), b.op("Shape", given)) if None in phases else given
        lengths = [*([0] * (window.axis - 2)), length, *later]
        whole = interleaved(b, [phase or zeros for phase in phases], window.axis, lengths)
    if length == window.extent or (window.stride == 1 and (window.begin, window.end) == (0, 0)):
        return whole
    return crop(b, whole, [window], [0 if known else window.begin])


def _moved(b: Builder, share: ir.Value, window: Window, shift: int, more: int) -> ir.Value | None:
    """One number per window, moved by some positions on an axis that is longer by `more`; None if all get lost."""
    count, after = window.count, more - shift
    if isinstance(count, int) and not -count < shift < count + more:
        return None
    if shift < 0 or after < 0:
        share = cut(b, share, [window.axis], [max(0, -shift)], [plus(b, count, min(0, after))])
    return widen(b, share, [window.axis], [max(0, shift)], [max(0, after)])


@rule("MaxUnpool")
def max_unpool(call: Call) -> Gradients:
    """Every element gets the cotangent of the place where it was put."""
    if call.optional_input(2) is not None:
        raise call.refuse("with an output_shape")
    b = call.b
    places = b.op("Reshape", call.input(1), b.ints([-1]))
    return {0: b.reshape_like(b.op("GatherElements", b.op("Reshape", call.g, b.ints([-1])), places), call.x)}


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
    b, total, size = call.b, None, 1
    for window in windows:
        count = _element_counts(call, window, count_padding)
        if count is None:
            size *= window.kernel
        else:
            aligned = b.op("Reshape", count, b.ints([-1] + [1] * (len(windows) + 1 - window.axis)))
            total = aligned if total is None else b.op("Mul", total, aligned)
    g = call.g
    if total is not None:
        g = b.op("Div", call.g, b.op("Cast", total, to=data_type(call.g)))
        g.shape = call.y.shape
    return sum_over_windows(call, g, windows, 1 / size)


def _element_counts(call: Call, window: Window, count_padding: bool) -> ir.Value | None:
    """Over how many elements along its axis each window averages; None if it is as many as it has taps for all."""
    b, begin, end = call.b, window.begin, window.end
    low: Size = minus(b, 0, begin) if count_padding else 0
    high = plus(b, window.extent, end) if count_padding else window.extent
    numbers = (window.count, begin, low, high)
    known = [number for number in numbers if isinstance(number, int)]
    if len(known) == len(numbers):
        starts = window.stride * np.arange(known[0]) - known[1]
        taps = starts[:, None] + window.dilation * np.arange(window.kernel)
        counts = np.sum((taps >= known[2]) & (taps < known[3]), axis=1)
        return None if (counts == window.kernel).all() else b.ints(counts.tolist())
    if not int_attribute(call.node, "ceil_mode", 0) and (count_padding or (begin, end) == (0, 0)):
        return None
    indices = b.op("Range", b.constant(0), b.op("Squeeze", listed(b, [window.count])), b.constant(1))
    firsts = b.op("Sub", b.op("Mul", indices, b.ints([window.stride])), listed(b, [begin]))
    offsets = b.ints([window.dilation * tap for tap in range(window.kernel)])
    places = b.op("Add", b.op("Unsqueeze", firsts, b.ints([1])), offsets)
    inside = b.op("And", b.op("GreaterOrEqual", places, listed(b, [low])), b.op("Less", places, listed(b, [high])))
    return b.op("ReduceSum", b.op("Cast", inside, to=ir.DataType.INT64), b.ints([1]), keepdims=0)


def sum_over_windows(call: Call, g: ir.Value, windows: Sequence[Window], factor: float = 1.0) -> ir.Value:
    """For each element of a pool's input the sum over the windows that it is in, times a factor."""
    channels = call.x.shape[1] if call.x.shape is not None else None
    if not isinstance(channels, int):
        raise call.refuse("with a number of channels that is not known")
    b = call.b
    if all(window.is_whole for window in windows):
        return b.op("Expand", b.op("Mul", g, b.number(factor, g)), b.shape(call.x))
    ones = b.constant(np.full([channels, 1, *(window.kernel for window in windows)], factor), data_type(g))
    return input_gradient(b, g, ones, channels, windows)


@rule("LpPool")
def lp_pool(call: Call) -> Gradients:
    """The p-norm's gradient, sign(x) |x|^(p-1) / y^(p-1); 0 where a window is all zeros."""
    exponent = int_attribute(call.node, "p", 2)
    return {0: _scaled_power(call, exponent, sum_over_windows(call, _by_norm(call, exponent), pool_windows(call)))}


@rule("GlobalLpPool")
def global_lp_pool(call: Call) -> Gradients:
    """The p-norm's gradient, sign(x) |x|^(p-1) / y^(p-1); 0 where a channel is all zeros."""
    exponent = int_attribute(call.node, "p", 2)
    return {0: _scaled_power(call, exponent, _by_norm(call, exponent))}


def _by_norm(call: Call, exponent: int) -> ir.Value:
    """The cotangent divided by y^(p-1), or by 1 where that is 0, and with it all elements."""
    if exponent == 1:
        return call.g
    b, y = call.b, call.y
    power = y if exponent == 2 else b.op("Pow", y, b.number(exponent - 1, y))
    divisor = b.op("Where", b.op("Equal", power, b.number(0, y)), b.number(1, y), power)
    return b.op("Div", call.g, divisor)


def _scaled_power(call: Call, exponent: int, factor: ir.Value) -> ir.Value:
    """sign(x) |x|^(p-1) times a factor."""
    b, x = call.b, call.x
    if exponent == 1:
        return b.op("Mul", b.op("Sign", x), factor)
    if exponent > 2:
        factor = b.op("Mul", b.op("Pow", b.op("Abs", x), b.number(exponent - 2, x)), factor)
    return b.op("Mul", x, factor)


@rule("GlobalAveragePool")
def global_average_pool(call: Call) -> Gradients:
    """Every element gets the same part."""
    b = call.b
    extents = [extent(b, call.x, axis) for axis in range(2, rank(call.x))]
    known = [size for size in extents if isinstance(size, int)]
    if len(known) == len(extents):
        part = b.op("Mul", call.g, b.number(1 / math.prod(known), call.g))
    else:
        count = b.op("ReduceProd", listed(b, extents), keepdims=0)
        part = b.op("Div", call.g, b.op("Cast", count, to=data_type(call.g)))
    return {0: b.op("Expand", part, b.shape(call.x))}


@rule("GlobalMaxPool")
def global_max_pool(call: Call) -> Gradients:
    """All goes to the maximum; of equal ones to the first in row-major order, as in PyTorch's adaptive max pool."""
    b = call.b
    rows = b.op("Flatten", call.x, axis=2)
    first = b.op("ArgMax", rows, axis=1, keepdims=1)
    size = b.op("Squeeze", b.op("Shape", rows, start=1))
    positions = b.op("Range", b.constant(0), size, b.constant(1))
    g = b.op("Flatten", call.g, axis=2)
    return {0: b.reshape_like(_where(b, b.op("Equal", positions, first), g), call.x)}
