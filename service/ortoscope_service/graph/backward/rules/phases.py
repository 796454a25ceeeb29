"""Strided sampling undone by phases.

Positions j of an axis fall into `stride` phases by j mod stride. What an operator with a stride does is, seen from one
phase of its input, an operation of stride 1. So the gradient is found phase by phase, without a multiplication by an
inserted zero, and the phases are interleaved at the end by `Concat` on a new last axis: on ONNX Runtime's CPU provider
the fastest of the ways that were measured (benchmarks/RESULTS.md).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward import layout
from ortoscope_service.graph.backward.builder import Builder, data_type, static_shape
from ortoscope_service.graph.backward.sizes import Size, listed

_FEW_CHANNELS = 64
"""Up to this many channels all phases are made by one convolution."""


@dataclass(frozen=True)
class Axis:
    """How a window slides along one spatial axis of static extent."""

    extent: int
    """Positions of the input."""

    windows: int
    """Positions of the output."""

    kernel: int
    """Taps of the window."""

    stride: int
    """Distance of neighbouring windows."""

    pad: int
    """Positions before the first that the first window covers."""

    dilation: int = 1
    """Distance of neighbouring taps; 1 where the stride is greater than 1."""

    @property
    def end_pad(self) -> int:
        """Positions after the last that the last window covers."""
        return max(0, self.stride * (self.windows - 1) + self.dilation * (self.kernel - 1) + 1 - self.pad - self.extent)

    @property
    def phase_length(self) -> int:
        """Positions of each phase: enough for the extent and for all windows' taps, cropped after interleaving."""
        lowest = max(min(map(self.shift, taps)) for phase in range(self.stride) if (taps := self.taps(phase)))
        return max(-(-self.extent // self.stride), self.windows + lowest)

    def phase(self, tap: int) -> int:
        """The phase of the input that a tap reads."""
        return (self.dilation * tap - self.pad) % self.stride

    def shift(self, tap: int) -> int:
        """By how much the position within its phase that a tap reads is ahead of the window's position."""
        return (self.dilation * tap - self.pad) // self.stride

    def pads(self, phase: int) -> tuple[int, int]:
        """Before and after the windows' values, so that taps of a phase can be gathered by a convolution of stride 1.

        The convolution's first tap is that of shift `pads[0]`, and further ones have falling shifts.
        """
        shifts = [self.shift(tap) for tap in self.taps(phase)]
        return max(*shifts, 0), self.phase_length - self.windows - min(shifts)

    def taps(self, phase: int) -> list[int]:
        """The taps that read a phase, in order; their shifts rise one by one."""
        return [tap for tap in range(self.kernel) if self.phase(tap) == phase]


def interleave(
    b: Builder,
    phases: Mapping[tuple[int, ...], ir.Value | None],
    axes: Sequence[Axis],
    like: ir.Value,
    channels: int,
) -> ir.Value:
    """Puts phases together to the input's shape.

    Args:
        b: Where to emit.
        phases: For each combination of phases of the spatial axes a tensor (batch, channel, `phase_length`…); None
            where it is zero.
        axes: The spatial axes.
        like: Any value of the same batch and type.
        channels: The number of channels.

    Returns:
        A tensor (batch, channel, `extent`…).
    """
    merged: dict[tuple[int, ...], ir.Value | None] = dict(phases)
    lengths = [axis.phase_length for axis in axes]
    for position in reversed(range(len(axes))):
        outer = list(itertools.product(*(range(other.stride) for other in axes[:position])))
        stride = axes[position].stride
        parts = {phase: [merged[(*phase, own)] for own in range(stride)] for phase in outer}
        if stride > 1:
            absent = any(None in own and any(own) for own in parts.values())
            zeros = _zeros(b, like, [channels, *lengths]) if absent else None
            lengths[position] *= stride
            for phase, own in parts.items():
                given = [part for part in (part or zeros for part in own) if part is not None]
                merged[phase] = interleaved(b, given, position + 2, lengths) if any(own) else None
        else:
            merged = {phase: own[0] for phase, own in parts.items()}
    whole = merged[()]
    assert whole is not None
    return crop(b, whole, lengths, axes)


def _zeros(b: Builder, like: ir.Value, shape: Sequence[int]) -> ir.Value:
    """Zeros of a shape after that of the batch."""
    return b.op("Expand", b.number(0, like), b.op("Concat", b.extent(like, 0), b.ints(shape), axis=0))


def crop(b: Builder, value: ir.Value, lengths: Sequence[int], axes: Sequence[Axis]) -> ir.Value:
    """The first `extent` positions of each spatial axis."""
    long = [index for index, axis in enumerate(axes) if lengths[index] > axis.extent]
    if not long:
        return value
    return b.op(
        "Slice",
        value,
        b.ints([0] * len(long)),
        b.ints([axes[index].extent for index in long]),
        b.ints([index + 2 for index in long]),
    )


def interleaved(b: Builder, parts: Sequence[ir.Value], axis: int, lengths: Sequence[Size]) -> ir.Value:
    """Puts equally long parts of an axis together: the first element of each, the second of each, and so on.

    Args:
        b: Where to emit.
        parts: The parts, (batch, channel, space…).
        axis: The axis.
        lengths: Extents of the result from the third axis on; 0 stands for those of the parts before the axis.
    """
    after = b.ints([axis + 1])
    stacked = b.op("Concat", *(b.op("Unsqueeze", part, after) for part in parts), axis=axis + 1)
    return b.op("Reshape", stacked, listed(b, [0, 0, *lengths]))


def convolution_gradient(b: Builder, g: ir.Value, weight: ir.Value, group: int, axes: Sequence[Axis]) -> ir.Value:
    """The cotangent of a convolution's input: a convolution of stride 1 for every combination of phases.

    Args:
        b: Where to emit.
        g: The cotangent of its output, (batch, output channel, `windows`…).
        weight: Its weight (output channel, input channel / group, `kernel`…), of static shape.
        group: Its number of groups.
        axes: Its spatial axes.
    """
    outputs, inputs, *kernel = static_shape(weight) or ()
    channels = group * inputs
    if len(kernel) == 2:
        g, weight = layout.without_scale(b, g, weight)
    swapped = swap_channels(b, weight, (outputs, inputs, *kernel), group)
    combinations = list(itertools.product(*(range(axis.stride) for axis in axes)))
    if group == 1 and len(combinations) > 1 and channels * len(combinations) <= _FEW_CHANNELS:
        return _all_phases_at_once(b, g, swapped, (channels, outputs), axes, combinations)
    phases: dict[tuple[int, ...], ir.Value | None] = {}
    for combination in combinations:
        taps = [axis.taps(phase) for axis, phase in zip(axes, combination, strict=True)]
        if not all(taps):
            phases[combination] = None
            continue
        pads = [axis.pads(phase) for axis, phase in zip(axes, combination, strict=True)]
        kernel_of_phase = _phase_kernel(b, swapped, (channels, outputs // group), axes, taps, pads)
        phases[combination] = _convolved(b, g, kernel_of_phase, group, axes, pads)
    return interleave(b, phases, axes, g, channels)


def _all_phases_at_once(
    b: Builder,
    g: ir.Value,
    swapped: ir.Value,
    channels: tuple[int, int],
    axes: Sequence[Axis],
    combinations: Sequence[tuple[int, ...]],
) -> ir.Value:
    """One convolution that gives all phases as channels, where each alone would leave most of a block empty."""
    inputs, outputs = channels
    pads = []
    for axis in axes:
        own = [axis.pads(phase) for phase in range(axis.stride) if axis.taps(phase)]
        pads.append((max(begin for begin, _ in own), max(end for _, end in own)))
    lengths = [sum(pad) - axis.phase_length + axis.windows + 1 for axis, pad in zip(axes, pads, strict=True)]
    kernels = []
    for combination in combinations:
        taps = [axis.taps(phase) for axis, phase in zip(axes, combination, strict=True)]
        kernels.append(_phase_kernel(b, swapped, channels, axes, taps, pads))
    kernel = b.op("Concat", *kernels, axis=0)
    kernel.shape = ir.Shape([inputs * len(combinations), outputs, *lengths])
    together = _convolved(b, g, kernel, 1, axes, pads)
    parts = b.ops("Split", together, b.ints([inputs] * len(combinations)), outputs=len(combinations), axis=1)
    return interleave(b, dict(zip(combinations, parts, strict=True)), axes, g, inputs)


def _convolved(
    b: Builder, g: ir.Value, kernel: ir.Value, group: int, axes: Sequence[Axis], pads: Sequence[tuple[int, int]]
) -> ir.Value:
    return b.op(
        "Conv",
        g,
        kernel,
        group=group,
        pads=[*(begin for begin, _ in pads), *(end for _, end in pads)],
        dilations=[axis.dilation for axis in axes] if any(axis.dilation > 1 for axis in axes) else None,
    )


def swap_channels(b: Builder, weight: ir.Value, shape: Sequence[int], group: int) -> ir.Value:
    """A convolution's weight with input and output channels exchanged within each group.

    ONNX Runtime folds this, and whatever else is computed from weights alone, when it loads the graph: the file does
    not hold the weights twice.
    """
    outputs, inputs, *kernel = shape
    per_group = outputs // group
    if per_group == inputs == 1:
        return weight
    if group == 1:
        return b.op("Transpose", weight, perm=[1, 0, *range(2, len(shape))])
    grouped = b.op("Reshape", weight, b.ints([group, per_group, inputs, *kernel]))
    swapped = b.op("Transpose", grouped, perm=[0, 2, 1, *range(3, len(shape) + 1)])
    return b.op("Reshape", swapped, b.ints([group * inputs, per_group, *kernel]))


def _phase_kernel(
    b: Builder,
    swapped: ir.Value,
    channels: tuple[int, int],
    axes: Sequence[Axis],
    taps: Sequence[Sequence[int]],
    pads: Sequence[tuple[int, int]],
) -> ir.Value:
    """The taps that read one phase, in falling order, with zeros so that they go with the pads."""
    if not all(taps):
        shape = [sum(pad) - axis.phase_length + axis.windows + 1 for axis, pad in zip(axes, pads, strict=True)]
        return b.constant(np.zeros([*channels, *shape]), data_type(swapped))
    kernel = swapped
    if any(axis.kernel > 1 for axis in axes):
        kernel = b.op(
            "Slice",
            kernel,
            b.ints([own[-1] for own in taps]),
            b.ints([own[0] - axis.kernel - 1 for own, axis in zip(taps, axes, strict=True)]),
            b.ints([index + 2 for index in range(len(axes))]),
            b.ints([-axis.stride for axis in axes]),
        )
    extents = [*channels, *map(len, taps)]
    for index, (pad, axis, own) in enumerate(zip(pads, axes, taps, strict=True), start=2):
        before = pad[0] - axis.shift(own[-1])
        length = len(own) if axis.dilation > 1 else sum(pad) - axis.phase_length + axis.windows + 1
        missing = [before, length - before - len(own)]
        if any(missing):
            # Not by Pad, which ONNX Runtime would take for padding of the convolution's data.
            parts = [
                b.constant(np.zeros([*extents[:index], n, *extents[index + 1 :]]), data_type(swapped)) for n in missing
            ]
            kernel = b.op(
                "Concat", *([parts[0]] if before else []), kernel, *([parts[1]] if missing[1] else []), axis=index
            )
            extents[index] = length
    if kernel is not swapped or kernel.shape is None:
        kernel.shape = ir.Shape(extents)
    return kernel
