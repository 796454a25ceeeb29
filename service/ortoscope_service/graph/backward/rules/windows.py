"""How the windows of convolutions and pools slide along the spatial axes."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.placing import cut, widen
from ortoscope_service.graph.backward.registry import Call
from ortoscope_service.graph.backward.rules.phases import Axis
from ortoscope_service.graph.backward.sizes import Size, extent, larger, minus, plus, quotient, times
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
    """Positions of padding before the first."""

    end: Size
    """Positions of padding after the last. The last window may end before them or, in `ceil_mode`, after them."""

    extent: Size
    """Positions of what the windows slide over, without padding."""

    count: Size
    """Number of windows."""

    @property
    def reach(self) -> int:
        """Positions from the first to the last that a window covers."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def is_identity(self) -> bool:
        """Whether there is a window of one tap for every position."""
        return self.kernel == self.stride == 1

    @property
    def is_whole(self) -> bool:
        """Whether there is one window, of all positions."""
        return self.kernel == self.reach == self.extent and self.count == 1 and self.begin == 0


def convolution_windows(call: Call, kernel: Sequence[int]) -> list[Window]:
    """The windows of a convolution.

    Raises:
        OrtoscopeError: `UNSUPPORTED_GRADIENT`: dilations together with SAME padding, which ONNX Runtime refuses, too.
    """
    return _windows(call, kernel, shrinks=True)


def pool_windows(call: Call) -> list[Window]:
    """The windows of a pool.

    Raises:
        OrtoscopeError: `UNSUPPORTED_GRADIENT`: SAME padding together with dilations or with gaps between windows, where
            ONNX Runtime does otherwise than the standard says; `ceil_mode` where ONNX before opset 22 infers a window
            in the padding after the last, which is not there.
    """
    windows = _windows(call, ints_attribute(call.node, "kernel_shape") or (), shrinks=False)
    for axis in map(_static_axis, windows):
        if axis is not None and axis.stride * (axis.windows - 1) >= axis.pad + axis.extent:
            raise call.refuse(f"with the {axis.windows} windows that ONNX infers before opset 22, one too many,")
    return windows


def _windows(call: Call, kernel: Sequence[int], *, shrinks: bool) -> list[Window]:
    b, mode = call.b, string_attribute(call.node, "auto_pad", "NOTSET")
    strides, dilations, pads = _attributes(call.node, len(kernel))
    windows = []
    for index, (taps, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        axis = index + 2
        whole, count = extent(b, call.x, axis), extent(b, call.y, axis)
        begin: Size = pads[index]
        end: Size = pads[index + len(kernel)]
        if mode == "VALID":
            begin = end = 0
        elif mode in {"SAME_UPPER", "SAME_LOWER"}:
            if dilation > 1:
                raise call.refuse(f"with the auto_pad {mode!r} and dilations")
            total: Size = taps - 1
            if stride > 1:
                total = minus(b, plus(b, times(b, count, stride), taps - stride), whole)
                if taps < stride and (not isinstance(total, int) or total < 0):
                    if not shrinks:
                        raise call.refuse(f"with the auto_pad {mode!r} and strides that exceed the kernel")
                    total = larger(b, 0, total)
            begin, end = halves(b, total, lower=mode == "SAME_LOWER")
        windows.append(Window(axis, taps, stride, dilation, begin, end, whole, count))
    return windows


def transposed_windows(call: Call, kernel: Sequence[int]) -> list[Window]:
    """The windows of the convolution whose transpose a transposed convolution is: they slide over its output.

    Raises:
        OrtoscopeError: `UNSUPPORTED_GRADIENT`: an output larger than what the windows cover, or with room for another
            window, both of which ONNX Runtime refuses, too.
    """
    b, mode = call.b, string_attribute(call.node, "auto_pad", "NOTSET")
    strides, dilations, pads = _attributes(call.node, len(kernel))
    added = ints_attribute(call.node, "output_padding") or (0,) * len(kernel)
    if any(size >= stride for size, stride in zip(added, strides, strict=True)):
        raise call.refuse(f"with the output_padding {list(added)} and the strides {list(strides)}")
    sizes = ints_attribute(call.node, "output_shape")
    windows = []
    for index, (taps, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        axis, reach = index + 2, dilation * (taps - 1) + 1
        whole, count = extent(b, call.y, axis), extent(b, call.x, axis)
        begin: Size = pads[index]
        end: Size = pads[index + len(kernel)]
        same = mode in {"SAME_UPPER", "SAME_LOWER"}
        if sizes or same:
            total: Size = reach + added[index] - stride
            if sizes:
                total = plus(b, times(b, count, stride), total, -sizes[index - len(kernel)])
            if isinstance(total, int) and total < 0:
                raise call.refuse("with an output larger than what its windows cover")
            begin, end = halves(b, total, lower=mode != "SAME_UPPER")
        elif mode == "VALID":
            begin = end = 0
        windows.append(Window(axis, taps, stride, dilation, begin, end, whole, count))
    return windows


def _attributes(node: ir.Node, spatial: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Strides, dilations and pads."""
    strides = ints_attribute(node, "strides") or (1,) * spatial
    dilations = ints_attribute(node, "dilations") or (1,) * spatial
    return strides, dilations, ints_attribute(node, "pads") or (0,) * (2 * spatial)


def halves(b: Builder, total: Size, *, lower: bool) -> tuple[Size, Size]:
    """Parts a padding, an odd position going before or after."""
    half = quotient(b, total, 2)
    rest = minus(b, total, half)
    return (rest, half) if lower else (half, rest)


def static_axes(windows: Sequence[Window]) -> list[Axis] | None:
    """The windows as axes of known extents; None if an extent is not known."""
    axes = [axis for axis in map(_static_axis, windows) if axis is not None]
    return axes if len(axes) == len(windows) else None


def _static_axis(window: Window) -> Axis | None:
    begin, extent, count = window.begin, window.extent, window.count
    if isinstance(begin, int) and isinstance(extent, int) and isinstance(count, int):
        return Axis(extent, count, window.kernel, window.stride, begin, window.dilation)
    return None


def framed(b: Builder, value: ir.Value, windows: Sequence[Window]) -> tuple[ir.Value, list[int]]:
    """What windows slide over, padded as far as attributes cannot say it, and the pads that are left for attributes."""
    pads = [0] * (2 * len(windows))
    computed = []
    for index, window in enumerate(windows):
        if isinstance(window.begin, int) and isinstance(window.end, int):
            pads[index], pads[index + len(windows)] = window.begin, window.end
        else:
            computed.append(window)
    axes = [window.axis for window in computed]
    return widen(b, value, axes, [window.begin for window in computed], [window.end for window in computed]), pads


def crop(b: Builder, value: ir.Value, windows: Sequence[Window], starts: Sequence[Size]) -> ir.Value:
    """The positions that windows slide over, out of a value in which they begin at `starts`."""
    if not windows:
        return value
    ends = [plus(b, start, window.extent) for start, window in zip(starts, windows, strict=True)]
    return cut(b, value, [window.axis for window in windows], starts, ends)
