"""Gradients that stay within the blocked layout of ONNX Runtime's CPU provider.

The provider keeps channels in blocks (NCHWc) as long as it meets nothing but convolutions, pools, `Add`, `Mul` and a
few activations; a comparison or a `Where` makes it reorder the tensor there and back, which costs more than either. But
a depthwise convolution with a kernel of one tap and an activation fused to it is an elementwise function within the
layout, and it can compare: with a huge slope, `Clip(slope * d, 0, 1)` is 0 where d = 0 and 1 where d > 0. That is exact
as long as d is finite and not below 1 / slope, that is for everything but subnormal numbers.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type
from ortoscope_service.graph.backward.gates import SLOPE
from ortoscope_service.graph.backward.layout import blocked, channel_count, scaled
from ortoscope_service.graph.backward.rules.phases import Axis, interleave

_FAR = 2.0**100
"""What lifts a position outside of the input above any activation."""


def max_pool_gradient(b: Builder, x: ir.Value, y: ir.Value, g: ir.Value, axes: Sequence[Axis]) -> ir.Value:
    """The cotangent of a two-dimensional max pool's input, all of a window's going to the first of equal maxima.

    The maximum over a window is the maximum over its rows of the maxima within the rows: first the row is chosen, then
    the column within it.

    Args:
        b: Where to emit.
        x: The pool's input, of a kind that `layout.can_be_blocked`.
        y: Its output.
        g: The output's cotangent.
        axes: Rows and columns.
    """
    _, column = axes
    channels = channel_count(x)
    x = blocked(b, x, channels)
    within_rows = x
    if column.kernel > 1 or column.stride > 1:
        within_rows = b.op(
            "MaxPool",
            x,
            kernel_shape=[1, column.kernel],
            strides=[1, column.stride],
            pads=[0, column.pad, 0, column.end_pad],
        )
        assert x.shape is not None
        assert y.shape is not None
        within_rows.shape = ir.Shape([*x.shape[:3], y.shape[3]])
    gradient = _max_pool_axis(b, within_rows, y, g, channels, axes, 0)
    return _max_pool_axis(b, x, within_rows, gradient, channels, axes, 1)


def _max_pool_axis(
    b: Builder, x: ir.Value, y: ir.Value, g: ir.Value, channels: int, axes: Sequence[Axis], position: int
) -> ir.Value:
    """The same for a pool along one axis: taps in order take what earlier ones left, the last one the remainder."""
    axis = axes[position]
    if axis.kernel == axis.stride == 1:
        return g
    rest = blocked(b, g, channels)
    shares: list[ir.Value] = []
    for tap in range(axis.kernel - 1):
        share = b.op("Mul", rest, _is_maximum(b, x, y, channels, axes, position, tap))
        shares.append(share)
        rest = b.op("Add", scaled(b, share, channels, -1.0), rest)
    shares.append(rest)
    phases: dict[tuple[int, ...], ir.Value | None] = {}
    for phase in range(axis.stride):
        taps, total = axis.taps(phase), None
        if taps:
            pads = axis.pads(phase)
            for tap in taps:
                kernel = sum(pads) - (axis.phase_length - axis.windows) + 1
                moved = shares[tap]
                if kernel > 1 or any(pads):
                    moved = _pick(b, moved, channels, position, kernel, pads[0] - axis.shift(tap), 1.0, pads, 1)
                total = moved if total is None else b.op("Add", moved, total)
        phases[(phase,)] = total
    if axis.stride == 1 and axis.phase_length == axis.extent:
        only = phases[(0,)]
        assert only is not None
        return only
    whole = {(*([0] * position), phase, *([0] * (1 - position))): value for (phase,), value in phases.items()}
    other = axes[1 - position]
    # The rows' pass runs on what the columns' pool left of the columns, the columns' pass on all rows.
    still = other.windows if position == 0 else other.extent
    untouched = Axis(extent=still, windows=still, kernel=1, stride=1, pad=0)
    return interleave(b, whole, [axis, untouched] if position == 0 else [untouched, axis], x, channels)


def _is_maximum(
    b: Builder, x: ir.Value, y: ir.Value, channels: int, axes: Sequence[Axis], position: int, tap: int
) -> ir.Value:
    """1 where the element under a tap equals the window's maximum, else 0."""
    axis, other = axes[position], axes[1 - position]
    offset = tap - axis.pad
    places = offset + axis.stride * np.arange(axis.windows)
    outside = (places < 0) | (places >= axis.extent)
    if outside.any():
        # The padding reads as 0, which could be the maximum; there, the maximum is put out of reach.
        across = other.windows if position == 0 else other.extent
        far = outside.reshape(1, 1, -1, 1) if position == 0 else outside.reshape(1, 1, 1, -1)
        along = [axis.windows, across] if position == 0 else [across, axis.windows]
        border = b.op("Expand", b.constant(far, data_type(x)), _batch_shape(b, x, along))
        y = b.op("Add", b.op("Conv", border, b.constant(np.full((channels, 1, 1, 1), _FAR), data_type(x))), y)
    before = max(0, -offset)
    # No more taps than needed: of those up to the tap, or as many as make the windows end with the last one.
    kernel = max(max(0, offset) + 1, axis.extent + before - axis.stride * axis.windows + 1)
    after = max(0, axis.stride * (axis.windows - 1) + kernel - before - axis.extent)
    picked = _pick(b, x, channels, position, kernel, max(0, offset), -1.0, (before, after), axis.stride)
    return b.op("HardSigmoid", b.op("Add", picked, y), alpha=-SLOPE, beta=1.0)


def _pick(
    b: Builder,
    value: ir.Value,
    channels: int,
    position: int,
    kernel: int,
    tap: int,
    factor: float,
    pads: tuple[int, int],
    stride: int,
) -> ir.Value:
    """What one tap of a window reads times a factor, for windows along one spatial axis."""
    weight = np.zeros((channels, 1, kernel))
    weight[:, :, tap] = factor
    shaped = weight.reshape(channels, 1, *((kernel, 1) if position == 0 else (1, kernel)))
    begin, end, strides = [0, 0], [0, 0], [1, 1]
    begin[position], end[position], strides[position] = *pads, stride
    return b.op(
        "Conv", value, b.constant(shaped, data_type(value)), group=channels, pads=[*begin, *end], strides=strides
    )


def _batch_shape(b: Builder, value: ir.Value, extents: Sequence[int]) -> ir.Value:
    """The shape (batch, 1, row, column)."""
    return b.op("Concat", b.extent(value, 0), b.ints([1, *extents]), axis=0)
