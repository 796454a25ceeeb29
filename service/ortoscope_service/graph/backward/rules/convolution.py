"""Convolutions and transposed convolutions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank, static_shape
from ortoscope_service.graph.backward.placing import cut, flip
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.windows import (
    Window,
    convolution_windows,
    crop,
    framed,
    transposed_windows,
)
from ortoscope_service.graph.backward.sizes import Size, extent, listed
from ortoscope_service.graph.constants import int_attribute


@rule("Conv")
def conv(call: Call) -> Gradients:
    """The input gets the transposed convolution of the cotangent; weights and bias get what they met."""
    weight, group = call.input(1), int_attribute(call.node, "group", 1)
    windows = convolution_windows(call, _weight_shape(call)[2:])
    gradients: dict[int, ir.Value | None] = {}
    if 0 in call.wanted:
        gradients[0] = input_gradient(call.b, call.g, weight, group, windows)
    if 1 in call.wanted:
        gradients[1] = _weight_gradient(call.b, call.x, call.g, weight, group, windows)
    if 2 in call.wanted:
        gradients[2] = _bias_gradient(call)
    return gradients


@rule("ConvTranspose")
def conv_transpose(call: Call) -> Gradients:
    """It is the gradient of a convolution, so its gradient is that convolution, with the same weights."""
    b, weight, group = call.b, call.input(1), int_attribute(call.node, "group", 1)
    windows = transposed_windows(call, _weight_shape(call)[2:])
    gradients: dict[int, ir.Value | None] = {}
    if 0 in call.wanted:
        gradients[0] = _convolved(b, call.g, weight, group, windows)
    if 1 in call.wanted:
        gradients[1] = _weight_gradient(b, call.g, call.x, weight, group, windows)
    if 2 in call.wanted:
        gradients[2] = _bias_gradient(call)
    return gradients


def input_gradient(b: Builder, g: ir.Value, weight: ir.Value, group: int, windows: Sequence[Window]) -> ir.Value:
    """The cotangent of a convolution's input.

    With the cotangent's values as far apart as their windows were, it is a convolution of stride 1 with the weights
    turned: flipped along space, input and output channels exchanged.

    Args:
        b: Where to emit.
        g: The cotangent of its output.
        weight: Its weights (output channel, input channel / group, kernel…), of static shape.
        group: Its number of groups.
        windows: How they slide.
    """
    outputs, inputs, *_ = static_shape(weight) or ()
    frames = [_frame(window) for window in windows]
    strides, zeros = [window.stride for window in windows], [frame.zeros for frame in frames]
    pads = [frame.front for frame in frames] + [frame.back for frame in frames]
    turned = _turned(b, weight, group)
    if all(window.reach == 1 for window in windows) and not any(pads):
        # A convolution that does not look around may come first, while there are no zeros to multiply.
        whole = spread(b, b.op("Conv", g, turned, group=group), inputs * group, strides, zeros)
    else:
        whole = b.op(
            "Conv",
            spread(b, g, outputs, strides, zeros),
            turned,
            group=group,
            pads=pads,
            dilations=[window.dilation for window in windows],
        )
    cropped = [index for index, frame in enumerate(frames) if not frame.fits]
    return crop(b, whole, [windows[index] for index in cropped], [frames[index].start for index in cropped])


def spread(b: Builder, value: ir.Value, channels: int, strides: Sequence[int], zeros: Sequence[int]) -> ir.Value:
    """Inserts `stride` - 1 zeros between neighbours along the spatial axes, and so many after the last."""
    if all(stride == 1 for stride in strides):
        return value
    ones = b.constant(np.ones([channels, 1, *([1] * len(strides))]), data_type(value))
    return b.op("ConvTranspose", value, ones, group=channels, strides=list(strides), output_padding=list(zeros))


@dataclass(frozen=True)
class _Frame:
    """What to put around spread values along one axis, so that a convolution gives the input's positions."""

    zeros: int
    """Zeros after the last value, fewer than the stride."""

    front: int
    """Padding of the convolution before the first."""

    back: int
    """Padding of the convolution after the last."""

    start: Size
    """Where the input begins in the result."""

    fits: bool
    """Whether the result is the input, without anything to cut off."""


def _frame(window: Window) -> _Frame:
    begin, end, whole, count = window.begin, window.end, window.extent, window.count
    around = window.reach - 1
    if isinstance(begin, int) and isinstance(whole, int) and isinstance(count, int):
        values = window.stride * (count - 1) + 1
        zeros = min(window.stride - 1, max(0, whole + begin - values - around))
        front, back = around - begin, whole + begin - values - zeros
        return _Frame(zeros, max(0, front), max(0, back), max(0, -front), front >= 0 and back >= 0)
    front = around - begin if isinstance(begin, int) else around
    back = around - end if isinstance(end, int) else around
    start: Size = max(0, -front) if isinstance(begin, int) else begin
    fits = window.stride == 1 and isinstance(begin, int) and isinstance(end, int) and front >= 0 and back >= 0
    return _Frame(window.stride - 1, max(0, front), max(0, back), start, fits)


def _turned(b: Builder, weight: ir.Value, group: int) -> ir.Value:
    """Weights flipped along space, with input and output channels exchanged within each group.

    ONNX Runtime folds this when it loads the graph: the file does not hold the weights twice.
    """
    outputs, inputs, *kernel = static_shape(weight) or ()
    per_group, spatial = outputs // group, range(2, rank(weight))
    turned = weight
    if group == 1:
        turned = b.op("Transpose", turned, perm=[1, 0, *spatial])
    elif per_group > 1 or inputs > 1:
        turned = b.op("Reshape", turned, b.ints([group, per_group, inputs, *kernel]))
        turned = b.op("Transpose", turned, perm=[0, 2, 1, *(axis + 1 for axis in spatial)])
        turned = b.op("Reshape", turned, b.ints([group * inputs, per_group, *kernel]))
    axes = [axis for axis, taps in zip(spatial, kernel, strict=True) if taps > 1]
    return flip(b, turned, axes) if axes else turned


def _weight_gradient(
    b: Builder, x: ir.Value, g: ir.Value, weight: ir.Value, group: int, windows: Sequence[Window]
) -> ir.Value:
    """The cotangent of a convolution's weights.

    A weight meets the input at the distances of the windows: a convolution of the input with the cotangent, in which
    batch and channels, strides and dilations have changed places.
    """
    _, inputs, *kernel = static_shape(weight) or ()
    spatial = [window.axis for window in windows]
    images, pads = framed(b, x, windows)
    if group > 1:
        extents = [extent(b, images, axis) for axis in spatial]
        apart = b.op("Reshape", images, b.ints([0, group, inputs, -1]))
        swapped = b.op("Transpose", apart, perm=[2, 1, 0, 3])
        images = b.op("Reshape", swapped, listed(b, [inputs, -1, *extents]))
    else:
        images = b.op("Transpose", images, perm=[1, 0, *spatial])
    gradient = b.op(
        "Conv",
        images,
        b.op("Transpose", g, perm=[1, 0, *spatial]),
        group=group,
        strides=[window.dilation for window in windows],
        dilations=[window.stride for window in windows],
        pads=pads,
    )
    turned = b.op("Transpose", gradient, perm=[1, 0, *spatial])
    return cut(b, turned, spatial, [0] * len(spatial), kernel)


def _convolved(b: Builder, x: ir.Value, weight: ir.Value, group: int, windows: Sequence[Window]) -> ir.Value:
    """The convolution with these windows."""
    framed_x, pads = framed(b, x, windows)
    return b.op(
        "Conv",
        framed_x,
        weight,
        group=group,
        strides=[window.stride for window in windows],
        dilations=[window.dilation for window in windows],
        pads=pads,
    )


def _bias_gradient(call: Call) -> ir.Value:
    """A channel's bias was added everywhere."""
    axes = [0, *range(2, rank(call.y))]
    return call.b.op("ReduceSum", call.g, call.b.ints(axes), keepdims=0)


def _weight_shape(call: Call) -> tuple[int, ...]:
    shape = static_shape(call.input(1))
    if shape is None:
        raise call.refuse("with weights whose shape is not known")
    return shape
