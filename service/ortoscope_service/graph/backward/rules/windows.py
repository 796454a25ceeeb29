"""How the windows of convolutions and pools slide along the spatial axes."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.rules.shapes import widen
from ortoscope_service.graph.backward.sizes import Size, extent, larger, listed, minus, plus, quotient, times
from ortoscope_service.graph.constants import ints_attribute, string_attribute


@dataclass(frozen=True)
class Window:
    """How a window slides along one spatial axis."""

    axis: int
    """The axis, counted from the front of the whole shape."""

    kernel: int
    """Taps of the window."""

    stride: int
    """Distance of neighbouring windows."""

    dilation: int
    """Distance of neighbouring taps."""

    begin: Size
    """Positions before the first that the first window covers; negative if it does not cover the first."""

    end: Size
    """Positions that are padded after the last. The last window may not reach so far, or farther in `ceil_mode`."""

    extent: Size
    """Positions of what the windows slide over."""

    count: Size
    """Number of windows."""

    @property
    def reach(self) -> int:
        """Positions from the first to the last that a window covers."""
        return self.dilation * (self.kernel - 1) + 1


def sliding_windows(
    b: Builder, node: ir.Node, over: ir.Value, counted: ir.Value, kernel: Sequence[int]
) -> list[Window]:
    """Reads the attributes of a convolution or pool.

    Args:
        b: Where to emit arithmetic with extents that are not known.
        node: The node.
        over: What its windows slide over.
        counted: What has one position per window.
        kernel: Taps of the window by spatial axis.
    """
    ones = (1,) * len(kernel)
    strides = ints_attribute(node, "strides") or ones
    dilations = ints_attribute(node, "dilations") or ones
    pads = ints_attribute(node, "pads") or (0,) * (2 * len(kernel))
    mode = string_attribute(node, "auto_pad", "NOTSET")
    windows = []
    for index, (taps, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        whole, count = extent(b, over, index + 2), extent(b, counted, index + 2)
        begin: Size = pads[index]
        end: Size = pads[index + len(kernel)]
        if mode == "VALID":
            begin = end = 0
        elif mode in {"SAME_UPPER", "SAME_LOWER"}:
            reach = dilation * (taps - 1) + 1
            total: Size = reach - 1
            if stride > 1:
                total = larger(b, 0, minus(b, plus(b, times(b, count, stride), reach - stride), whole))
            half = quotient(b, total, 2)
            begin, end = half, minus(b, total, half)
            if mode == "SAME_LOWER":
                begin, end = end, begin
        windows.append(Window(index + 2, taps, stride, dilation, begin, end, whole, count))
    return windows


def framed(b: Builder, value: ir.Value, windows: Sequence[Window]) -> tuple[ir.Value, list[int]]:
    """Makes what windows slide over ready for a convolution with explicit pads.

    Returns:
        The value, with a frame or without margins where the pads of a convolution cannot express it, and the pads.
    """
    pads = [0] * (2 * len(windows))
    axes: list[int] = []
    before: list[Size] = []
    after: list[Size] = []
    for index, window in enumerate(windows):
        begin, end = window.begin, window.end
        if isinstance(begin, int) and isinstance(end, int) and begin >= 0 and end >= 0:
            pads[index], pads[index + len(windows)] = begin, end
        else:
            axes.append(window.axis)
            before.append(begin)
            after.append(end)
    return widen(b, value, axes, before, after), pads


def crop(b: Builder, value: ir.Value, axes: Sequence[int], starts: Sequence[Size], lengths: Sequence[Size]) -> ir.Value:
    """A part of a value along some axes."""
    if not axes:
        return value
    ends = [plus(b, start, length) for start, length in zip(starts, lengths, strict=True)]
    return b.op("Slice", value, listed(b, starts), listed(b, ends), b.ints(axes))
