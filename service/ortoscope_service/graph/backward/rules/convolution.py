"""Convolutions and transposed convolutions."""

from collections.abc import Sequence

import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, rank, static_shape
from ortoscope_service.graph.backward.placing import cut, flip
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.phases import Axis, convolution_gradient, swap_channels
from ortoscope_service.graph.backward.rules.windows import (
    Window,
    convolution_windows,
    crop,
    framed,
    static_axes,
    transposed_windows,
)
from ortoscope_service.graph.backward.sizes import extent, listed
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

    Args:
        b: Where to emit.
        g: The cotangent of its output.
        weight: Its weights (output channel, input channel / group, kernel…), of static shape.
        group: Its number of groups.
        windows: How they slide.
    """
    axes = static_axes(windows)
    if axes is not None and _have_phases(axes):
        return convolution_gradient(b, g, weight, group, axes)
    padding = [(window.begin, window.end) for window in windows if window.stride == 1]
    known = [(begin, end) for begin, end in padding if isinstance(begin, int) and isinstance(end, int)]
    if len(known) == len(windows) and all(
        max(pads) < window.reach for pads, window in zip(known, windows, strict=True)
    ):
        return _turned_convolution(b, g, weight, group, windows, known)
    return _transposed_convolution(b, g, weight, group, windows)


def _have_phases(axes: Sequence[Axis]) -> bool:
    """Whether windows have no holes, or are at all positions and not beyond the reach of the padding."""
    if all(axis.dilation == 1 for axis in axes):
        return True
    return all(axis.stride == 1 and axis.pad <= axis.dilation * (axis.kernel - 1) for axis in axes)


def _turned_convolution(
    b: Builder,
    g: ir.Value,
    weight: ir.Value,
    group: int,
    windows: Sequence[Window],
    pads: Sequence[tuple[int, int]],
) -> ir.Value:
    """The same for windows at all positions, of any number: convolved with the weights turned around.

    A depthwise one takes two thirds of the time of a transposed convolution, which ONNX Runtime does not run in its
    blocked layout.
    """
    turned = swap_channels(b, weight, static_shape(weight) or (), group)
    axes = [window.axis for window in windows if window.kernel > 1]
    return b.op(
        "Conv",
        g,
        flip(b, turned, axes) if axes else turned,
        group=group,
        dilations=[window.dilation for window in windows],
        pads=[
            *(window.reach - 1 - begin for window, (begin, _) in zip(windows, pads, strict=True)),
            *(window.reach - 1 - end for window, (_, end) in zip(windows, pads, strict=True)),
        ],
    )


def _transposed_convolution(
    b: Builder, g: ir.Value, weight: ir.Value, group: int, windows: Sequence[Window]
) -> ir.Value:
    """The same for any windows: padding is put back, too, and whatever no window has reached, and then cut off."""
    whole = b.op(
        "ConvTranspose",
        g,
        weight,
        group=group,
        strides=[window.stride for window in windows],
        dilations=[window.dilation for window in windows],
        output_padding=[window.stride - 1 for window in windows],
    )
    return crop(b, whole, windows, [window.begin for window in windows])


def _weight_gradient(
    b: Builder, x: ir.Value, g: ir.Value, weight: ir.Value, group: int, windows: Sequence[Window]
) -> ir.Value:
    """The cotangent of a convolution's weights.

    A weight meets the input at the distances of the windows: a convolution of the input with the cotangent, in which
    batch and channels, strides and dilations have changed places.
    """
    outputs, inputs, *kernel = static_shape(weight) or ()
    spatial = [window.axis for window in windows]
    images, pads = framed(b, x, windows)
    if group > 1:
        extents = [extent(b, images, axis) for axis in spatial]
        apart = b.op("Reshape", images, listed(b, [0, group, inputs, *extents]))
        swapped = b.op("Transpose", apart, perm=[2, 1, 0, *(axis + 1 for axis in spatial)])
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
    # ONNX's inference gives up on filters of unknown extents.
    gradient.shape = ir.Shape([inputs, outputs, *(None for _ in spatial)])
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
