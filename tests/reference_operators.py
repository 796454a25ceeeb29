"""Operators that onnx.reference gets wrong, or right only slowly, written down once more in NumPy.

As of onnx 1.23 its MaxPool of stride 1 reads pads in another order, AveragePool in `ceil_mode` and LpPool misplace the
padding or count it, SAME_LOWER is taken for SAME_UPPER, GlobalMaxPool knows two spatial axes alone, and ConvTranspose
fails with several output channels per group. Its Erf, and with it Gelu, rounds to float32, its Mean does not
broadcast, its BatchNormalization of opset 9 mixes in the batch's own statistics, its LRN normalizes as many channels as
there are items in the batch, its LpNormalization with p = 1 forgets the signs, and GroupNormalization and
MeanVarianceNormalization mix float32 into float64. Its GatherElements knows axes of up to 32 elements, its Pad no
negative amounts, and GridSample and AffineGrid compute in float32. Each operator here says what the standard says;
`test_reference_operators.py` holds them against ONNX Runtime.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Geometry:
    """How windows slide over the spatial axes."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    extents: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of_pool(
        cls,
        extents: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int] | None,
        dilations: Sequence[int] | None,
        pads: Sequence[int] | None,
        auto_pad: str | None,
        ceil_mode: int | None,
    ) -> "Geometry":
        """From the attributes of a pool, None or empty where they are absent."""
        rank = len(kernel)
        strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * (2 * rank)
        begins, ends, counts = [], [], []
        for axis, (size, taps, stride, dilation) in enumerate(zip(extents, kernel, strides, dilations, strict=True)):
            begin, end, reach = pads[axis], pads[axis + rank], dilation * (taps - 1) + 1
            if auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
                count = -(-size // stride)
                total = max(0, stride * (count - 1) + reach - size)
                begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
                end = total - begin
            else:
                if auto_pad == "VALID":
                    begin = end = 0
                steps = (size + begin + end - reach) / stride
                count = 1 + (math.ceil(steps) if ceil_mode else math.floor(steps))
                if ceil_mode and (count - 1) * stride >= size + begin:
                    count -= 1
            begins.append(begin)
            ends.append(end)
            counts.append(count)
        return cls(*map(tuple, (kernel, strides, dilations, begins, ends, extents, counts)))

    def taps(self, x: Array, fill: float, padding: float | None = None) -> Iterator[Array]:
        """What each tap of all windows reads, in row-major order of the taps.

        Args:
            x: (batch, channel, space…).
            fill: What positions read beyond input and padding.
            padding: What the padding reads; as `fill` by default.
        """
        ends = [
            max(0, stride * (count - 1) + dilation * (taps - 1) + 1 - begin - size - end)
            for stride, count, dilation, taps, begin, size, end in zip(
                self.strides,
                self.counts,
                self.dilations,
                self.kernel,
                self.begins,
                self.extents,
                self.ends,
                strict=True,
            )
        ]
        padded = np.pad(
            x,
            [(0, 0), (0, 0), *zip(self.begins, self.ends, strict=True)],
            constant_values=fill if padding is None else padding,
        )
        whole = np.pad(padded, [(0, 0), (0, 0), *((0, end) for end in ends)], constant_values=fill)
        for tap in itertools.product(*map(range, self.kernel)):
            yield whole[(..., *self._slices(tap))]

    def add_taps(self, parts: Iterator[Array] | Sequence[Array], shape: Sequence[int]) -> Array:
        """Adds up parts, one for each tap, where the taps read; `shape` is (batch, channel)."""
        sizes = [
            max(size + begin + max(end, 0), stride * (count - 1) + dilation * (taps - 1) + 1)
            for stride, count, dilation, taps, begin, size, end in zip(
                self.strides,
                self.counts,
                self.dilations,
                self.kernel,
                self.begins,
                self.extents,
                self.ends,
                strict=True,
            )
        ]
        whole = np.zeros((*shape, *sizes))
        for tap, part in zip(itertools.product(*map(range, self.kernel)), parts, strict=True):
            whole[(..., *self._slices(tap))] += part
        return whole[
            (..., *(slice(begin, begin + size) for begin, size in zip(self.begins, self.extents, strict=True)))
        ]

    def _slices(self, tap: Sequence[int]) -> list[slice]:
        return [
            slice(dilation * offset, dilation * offset + stride * (count - 1) + 1, stride)
            for offset, dilation, stride, count in zip(tap, self.dilations, self.strides, self.counts, strict=True)
        ]


class MaxPool(OpRun):
    """The largest element of each window; with the index of the first of equal ones."""

    op_domain: ClassVar[str] = ""

    def _run(
        self,
        x: Array,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        pads: Sequence[int] | None = None,
        storage_order: int | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array, ...]:
        windows = Geometry.of_pool(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
        values = np.stack(list(windows.taps(x, -np.inf)))
        largest = values.max(axis=0)
        if len(self.output) == 1:
            return (largest,)
        assert not storage_order
        indices = np.stack(list(windows.taps(np.arange(x.size).reshape(x.shape).astype(float), -1)))
        first = np.argmax((values == largest) & (indices >= 0), axis=0)
        return largest, np.take_along_axis(indices, first[None], 0)[0].astype(np.int64)


class AveragePool(OpRun):
    """The mean of each window, over elements or over elements and padding."""

    op_domain: ClassVar[str] = ""

    def _run(
        self,
        x: Array,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        count_include_pad: int | None = None,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        windows = Geometry.of_pool(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
        counts = sum(windows.taps(np.ones((1, 1, *x.shape[2:])), 0, 1 if count_include_pad else 0))
        return ((sum(windows.taps(x, 0)) / counts).astype(x.dtype),)


class LpPool(OpRun):
    """The p-norm of each window."""

    op_domain: ClassVar[str] = ""

    def _run(
        self,
        x: Array,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        p: int | None = 2,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        windows = Geometry.of_pool(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
        exponent = 2 if p is None else p
        return ((sum(windows.taps(np.abs(x) ** exponent, 0)) ** (1 / exponent)).astype(x.dtype),)


class GlobalLpPool(OpRun):
    """The p-norm of each channel."""

    op_domain: ClassVar[str] = ""

    def _run(self, x: Array, p: int | None = 2) -> tuple[Array]:
        exponent = 2 if p is None else p
        axes = tuple(range(2, x.ndim))
        return ((np.abs(x) ** exponent).sum(axis=axes, keepdims=True) ** (1 / exponent),)


class GlobalMaxPool(OpRun):
    """The largest element of each channel."""

    op_domain: ClassVar[str] = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class ConvTranspose(OpRun):
    """Every element lays down the weights, scaled by it; where they overlap they add up."""

    op_domain: ClassVar[str] = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        spatial, groups, kernel = x.ndim - 2, group or 1, w.shape[2:]
        strides, dilations = strides or [1] * spatial, dilations or [1] * spatial
        added, pads = output_padding or [0] * spatial, pads or [0] * (2 * spatial)
        begins, sizes, ends = [], [], []
        for axis in range(spatial):
            full = strides[axis] * (x.shape[axis + 2] - 1) + added[axis] + dilations[axis] * (kernel[axis] - 1) + 1
            same = auto_pad in {"SAME_UPPER", "SAME_LOWER"}
            if output_shape or same:
                size = output_shape[axis] if output_shape else strides[axis] * x.shape[axis + 2]
                total = full - size
                begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            else:
                explicit = auto_pad != "VALID"
                begin = pads[axis] if explicit else 0
                size = full - begin - (pads[axis + spatial] if explicit else 0)
            begins.append(begin)
            sizes.append(size)
            ends.append(max(0, full - begin - size))
        windows = Geometry(*map(tuple, (kernel, strides, dilations, begins, ends, sizes, x.shape[2:])))
        grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
        filters = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        parts = (
            np.einsum("ngc...,gcm->ngm...", grouped, filters[(..., *tap)]).reshape(x.shape[0], -1, *x.shape[2:])
            for tap in itertools.product(*map(range, kernel))
        )
        y = windows.add_taps(parts, (x.shape[0], groups * w.shape[1]))
        if b is not None:
            y += b.reshape(-1, *[1] * spatial)
        return (y.astype(x.dtype),)


class Erf(OpRun):
    """The error function, to the precision of the input."""

    op_domain: ClassVar[str] = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x).astype(x.dtype),)


class Gelu(OpRun):
    """x times the probability that a standard normal variable is below it."""

    op_domain: ClassVar[str] = ""

    def _run(self, x: Array, approximate: str | None = None) -> tuple[Array]:
        if approximate == "tanh":
            below = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        else:
            below = 0.5 * (1 + _erf(x / math.sqrt(2)))
        return ((x * below).astype(x.dtype),)


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


class Mean(OpRun):
    """The mean of the operands, with broadcasting."""

    op_domain: ClassVar[str] = ""

    def _run(self, *operands: Array) -> tuple[Array]:
        total = operands[0]
        for operand in operands[1:]:
            total = total + operand
        return (np.asarray(total / len(operands), operands[0].dtype),)


class BatchNormalization(OpRun):
    """Standardized by the statistics that are given; in training mode by the batch's own, which these then follow."""

    op_domain: ClassVar[str] = ""

    def _run(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        mean: Array,
        variance: Array,
        epsilon: float | None = None,
        momentum: float | None = None,
        training_mode: int | None = None,
        spatial: int | None = None,
    ) -> tuple[Array, ...]:
        running: tuple[Array, ...] = ()
        if training_mode:
            axes, keep = (0, *range(2, x.ndim)), 0.9 if momentum is None else momentum
            own = x.mean(axis=axes), x.var(axis=axes)
            running = tuple(keep * old + (1 - keep) * new for old, new in zip((mean, variance), own, strict=True))
            mean, variance = own
        scale, bias, mean, variance = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in (scale, bias, mean, variance))
        y = scale * (x - mean) / np.sqrt(variance + (1e-5 if epsilon is None else epsilon)) + bias
        return tuple(value.astype(x.dtype) for value in (y, *running))


class LRN(OpRun):
    """Division by a power of the mean square over neighbouring channels."""

    op_domain: ClassVar[str] = ""

    def _run(
        self,
        x: Array,
        alpha: float | None = None,
        beta: float | None = None,
        bias: float | None = None,
        size: int | None = None,
    ) -> tuple[Array]:
        width = size or 1
        squares = np.pad(x**2, [(0, 0), ((width - 1) // 2, width // 2), *[(0, 0)] * (x.ndim - 2)])
        total = sum(squares[:, offset : offset + x.shape[1]] for offset in range(width))
        power = 0.75 if beta is None else beta
        base = (1 if bias is None else bias) + (1e-4 if alpha is None else alpha) / width * total
        return ((x / base**power).astype(x.dtype),)


class LpNormalization(OpRun):
    """Division by the 1-norm or 2-norm along an axis."""

    op_domain: ClassVar[str] = ""

    def _run(self, x: Array, axis: int | None = None, p: int | None = None) -> tuple[Array]:
        along = -1 if axis is None else axis
        norm = np.abs(x).sum(along, keepdims=True) if p == 1 else np.sqrt((x**2).sum(along, keepdims=True))
        return (np.divide(x, norm, out=np.zeros_like(x), where=norm != 0),)


class GroupNormalization(OpRun):
    """Zero mean and unit variance over groups of channels, then a scale and a bias per channel or per group."""

    op_domain: ClassVar[str] = ""

    def _run(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        epsilon: float | None = None,
        num_groups: int | None = None,
        stash_type: int | None = None,
    ) -> tuple[Array]:
        assert num_groups is not None
        grouped = x.reshape(len(x), num_groups, x.shape[1] // num_groups, -1)
        spread = np.sqrt(grouped.var((2, 3), keepdims=True) + (1e-5 if epsilon is None else epsilon))
        normalized = (grouped - grouped.mean((2, 3), keepdims=True)) / spread
        y = normalized * scale.reshape(num_groups, -1, 1) + bias.reshape(num_groups, -1, 1)
        return (y.reshape(x.shape).astype(x.dtype),)


class MeanVarianceNormalization(OpRun):
    """Zero mean and unit variance over some axes."""

    op_domain: ClassVar[str] = ""

    def _run(self, x: Array, axes: Sequence[int] | None = None) -> tuple[Array]:
        along = (0, 2, 3) if axes is None else tuple(axes)
        deviation = x - x.mean(along, keepdims=True)
        return (deviation / (x.std(along, keepdims=True) + 1e-9),)


class GatherElements(OpRun):
    """Elements picked along an axis; the indices may be fewer than the data along the other axes."""

    op_domain: ClassVar[str] = ""

    def _run(self, data: Array, indices: Array, axis: int | None = None) -> tuple[Array]:
        places = list(np.indices(indices.shape))
        places[axis or 0] = indices
        return (data[tuple(places)],)


class Pad(OpRun):
    """Padding, where negative amounts cut off; before opset 11 the constant is an attribute."""

    op_domain: ClassVar[str] = ""

    def _run(
        self,
        data: Array,
        pads: Array,
        constant: Array | None = None,
        axes: Array | None = None,
        mode: Literal["constant", "reflect", "edge", "wrap"] | None = None,
        value: float | None = None,
    ) -> tuple[Array]:
        chosen = range(data.ndim) if axes is None else axes.tolist()
        widths = [(0, 0)] * data.ndim
        for axis, before, after in zip(chosen, *np.reshape(pads, (2, -1)).tolist(), strict=True):
            widths[axis] = (before, after)
        left = [slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(widths, data.shape, strict=True)]
        kept = data[tuple(left)]
        added = [(max(a, 0), max(b, 0)) for a, b in widths]
        if mode in {None, "constant"}:
            fill = (value or 0) if constant is None else np.asarray(constant).item()
            return (np.pad(kept, added, constant_values=fill).astype(data.dtype),)
        return (np.pad(kept, added, mode=mode).astype(data.dtype),)


class GridSample(OpRun):
    """Samples at the places that a grid gives, with coordinates in the grid's own precision."""

    op_domain: ClassVar[str] = ""

    def _run(
        self,
        x: Array,
        grid: Array,
        mode: str | None = None,
        padding_mode: str | None = None,
        align_corners: int | None = None,
    ) -> tuple[Array]:
        extents = np.array(x.shape[2:])
        low, high = (0 * extents, extents - 1.0) if align_corners else (0 * extents - 0.5, extents - 0.5)
        along = low + (grid[..., ::-1] + 1) / 2 * (high - low)
        mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode or "linear", mode)
        if mode == "nearest":
            along = np.rint(along)
        if padding_mode == "border" and mode != "cubic":
            along = np.clip(along, 0, extents - 1)
        elif padding_mode == "reflection" and mode != "cubic":
            along = _reflected(along, low, high)
        base = np.floor(along)
        rest = along - base
        weights: dict[int, Array] = {0: 1 - rest, 1: rest}
        if mode == "nearest":
            weights = {0: np.ones_like(rest)}
        elif mode == "cubic":
            weights = {step: _keys(np.abs(rest - step)) for step in range(-1, 3)}
        y = np.zeros(x.shape[:2] + grid.shape[1:-1])
        items = np.arange(len(x)).reshape(-1, *[1] * (grid.ndim - 2))
        for steps in itertools.product(weights, repeat=len(extents)):
            place = base + np.array(steps)
            inside = ((place >= 0) & (place <= extents - 1)).all(-1) if padding_mode == "zeros" else True
            if padding_mode == "reflection":
                place = _reflected(place, low, high)
            index = np.clip(place, 0, extents - 1).astype(np.int64)
            weight = np.prod([weights[step][..., axis] for axis, step in enumerate(steps)], axis=0) * inside
            y += np.moveaxis(x[(items, slice(None), *np.moveaxis(index, -1, 0))], -1, 1) * weight[:, None]
        return (y.astype(x.dtype),)


class AffineGrid(OpRun):
    """The positions of an image's elements, from -1 to 1, times a matrix, in the matrix's own precision."""

    op_domain: ClassVar[str] = ""

    def _run(self, matrix: Array, size: Array, align_corners: int | None = None) -> tuple[Array]:
        axes = [
            np.linspace(-1, 1, count) if align_corners else (2 * np.arange(count) + 1) / count - 1
            for count in size.tolist()[2:]
        ]
        *positions, ones = np.broadcast_arrays(*np.meshgrid(*axes, indexing="ij"), 1.0)
        # The coordinate of the last axis comes first.
        homogeneous = np.stack([*reversed(positions), ones], axis=-1)
        return (np.einsum("...j,nij->n...i", homogeneous, matrix).astype(matrix.dtype),)


def _reflected(along: Array, low: Array, high: Array) -> Array:
    span = np.maximum(high - low, 1)
    way = np.mod(along - low, 2 * span)
    return np.asarray(low + np.minimum(way, 2 * span - way))


def _keys(distance: Array) -> Array:
    """Keys' kernel with a = -0.75."""
    near = 1.25 * distance**3 - 2.25 * distance**2 + 1
    far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, far)


CORRECTED = (
    MaxPool,
    AveragePool,
    LpPool,
    GlobalLpPool,
    GlobalMaxPool,
    ConvTranspose,
    Erf,
    Gelu,
    Mean,
    BatchNormalization,
    LRN,
    LpNormalization,
    GroupNormalization,
    MeanVarianceNormalization,
    GatherElements,
    Pad,
    GridSample,
    AffineGrid,
)
"""What to give a ReferenceEvaluator as `new_ops`."""
