"""GridSample, samples of an image at places that a grid gives, and AffineGrid, which makes such a grid."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank
from ortoscope_service.graph.backward.placing import as_type_of, cut, in_single, single_number, single_type
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.sizes import Size, extent, extents, listed, plus, times
from ortoscope_service.graph.constants import int_attribute, string_attribute

_KERNELS: Mapping[str, Mapping[int, tuple[float, ...]]] = MappingProxyType(
    {
        "nearest": {0: (1.0,)},
        "linear": {0: (-1.0, 1.0), 1: (1.0, 0.0)},
        "cubic": {
            -1: (-0.75, 1.5, -0.75, 0.0),
            0: (1.25, -2.25, 0.0, 1.0),
            1: (-1.25, 1.5, 0.75, 0.0),
            2: (0.75, -0.75, 0.0, 0.0),
        },
    }
)
"""Weights of the taps along an axis by their distance from the sample, rounded down: polynomials of what rounding cut
off, highest power first. The cubic ones are Keys' with a = -0.75."""


@rule("AffineGrid")
def affine_grid(call: Call) -> Gradients:
    """A matrix was multiplied with every position, so its gradient is the sum of cotangent times position.

    The positions are what AffineGrid makes of the unit matrix.
    """
    b, axes = call.b, rank(call.y) - 2
    unit = b.constant(np.eye(axes, axes + 1)[None], data_type(call.x))
    count = times(b, *extents(b, call.y)[1:-1])
    one_image = b.op("Concat", b.ints([1]), cut(b, call.input(1), [0], [1], [axes + 2]), axis=0)
    aligned = int_attribute(call.node, "align_corners", 0)
    positions = b.op("AffineGrid", unit, one_image, align_corners=aligned)
    flat = b.op("Reshape", positions, listed(b, [count, axes]), allowzero=1)
    # The matrix's last column is a translation.
    homogeneous = b.op("Pad", flat, b.ints([0, 0, 0, 1]), b.number(1, call.x))
    rows = b.op("Reshape", call.g, listed(b, [extent(b, call.x, 0), count, axes]), allowzero=1)
    return {0: b.op("MatMul", b.op("Transpose", rows, perm=[0, 2, 1]), homogeneous)}


@dataclass(frozen=True)
class _Tap:
    """An element that samples are made of, along one axis; each field has a row per image and a column per sample."""

    place: ir.Value
    weight: ir.Value
    slope: ir.Value
    """By the grid's coordinate."""


@rule("GridSample")
def grid_sample(call: Call) -> Gradients:
    """A sample is a weighted sum of taps: the image gets cotangent times weight, the grid value times slope.

    Where the weights have a kink the slope is that to the right; where padding holds a coordinate at the border, or
    turns it around there, it is 0. Both is as in PyTorch.
    """
    b = call.b
    if single_type(call.x) != single_type(call.input(1)):
        raise call.refuse("with an image and a grid of different precision")
    batch, channels, *spatial = extents(b, call.x)
    samples, pixels = times(b, *extents(b, call.y)[2:]), times(b, *spatial)
    grid = b.op("Reshape", call.input(1), listed(b, [batch, samples, len(spatial)]), allowzero=1)
    grid = in_single(b, grid, call.input(1))
    taps = list(itertools.product(*(_taps(call, grid, axis, size) for axis, size in enumerate(spatial))))
    places = [_place(b, [tap.place for tap in choice], spatial) for choice in taps]
    cotangent = b.op("Reshape", in_single(b, call.g, call.x), listed(b, [batch, channels, samples]), allowzero=1)
    gradients: dict[int, ir.Value | None] = {}
    if 0 in call.wanted:
        total = b.op("Expand", single_number(b, 0, call.x), listed(b, [batch, channels, pixels]))
        for choice, place in zip(taps, places, strict=True):
            weight = _over_channels(b, _product(b, [tap.weight for tap in choice]))
            every = b.op("Expand", _over_channels(b, place), listed(b, [batch, channels, samples]))
            total = b.op("ScatterElements", total, every, b.op("Mul", cotangent, weight), axis=2, reduction="add")
        gradients[0] = b.reshape_like(as_type_of(b, total, call.x), call.x)
    if 1 in call.wanted:
        image = b.op("Reshape", in_single(b, call.x, call.x), listed(b, [batch, channels, pixels]), allowzero=1)
        gradients[1] = _by_grid(call, image, cotangent, taps, places)
    return gradients


def _by_grid(
    call: Call, image: ir.Value, cotangent: ir.Value, taps: Sequence[tuple[_Tap, ...]], places: Sequence[ir.Value]
) -> ir.Value:
    b = call.b
    pixels, cotangents = (b.op("Transpose", value, perm=[0, 2, 1]) for value in (image, cotangent))
    sums: list[list[ir.Value]] = [[] for _ in taps[0]]
    for choice, place in zip(taps, places, strict=True):
        values = b.op("GatherND", pixels, b.op("Unsqueeze", place, b.ints([-1])), batch_dims=1)
        pull = b.op("ReduceSum", b.op("Mul", cotangents, values), b.ints([-1]), keepdims=0)
        for axis, terms in enumerate(sums):
            factors = [tap.slope if other == axis else tap.weight for other, tap in enumerate(choice)]
            terms.append(b.op("Mul", pull, _product(b, factors)))
    # The grid gives the coordinate of the last axis first.
    columns = [b.op("Unsqueeze", b.op("Sum", *terms), b.ints([-1])) for terms in reversed(sums)]
    joined = b.op("Concat", *columns, axis=-1)
    return b.reshape_like(as_type_of(b, joined, call.input(1)), call.input(1))


def _taps(call: Call, grid: ir.Value, axis: int, size: Size) -> list[_Tap]:
    """The taps of all samples along an axis."""
    b, mode = call.b, string_attribute(call.node, "mode", "linear")
    lane = _lane(call, size)
    coordinate, rate = _coordinate(lane, b.op("Gather", grid, b.constant(-1 - axis), axis=-1))
    if mode == "nearest":
        coordinate = b.op("Round", coordinate)
    # The cubic kernel reads beyond the border, where padding then gives every tap its value.
    coordinate, sign = _padded(lane, coordinate) if mode != "cubic" else (coordinate, None)
    base = b.op("Floor", coordinate)
    offset = b.op("Sub", coordinate, base)
    taps = []
    for distance, kernel in _KERNELS[mode].items():
        place = b.op("Add", base, lane.number(distance)) if distance else base
        weight = _polynomial(lane, kernel, offset)
        slope = _polynomial(lane, [float(power) for power in np.polyder(kernel)], offset)
        slope = b.op("Mul", slope, b.op("Mul", rate, sign) if sign is not None else rate)
        if lane.padding == "zeros":
            inside = b.op("And", b.op("GreaterOrEqual", place, lane.number(0)), b.op("LessOrEqual", place, lane.last))
            weight, slope = (b.op("Where", inside, factor, lane.number(0)) for factor in (weight, slope))
        elif lane.padding == "reflection":
            place, _ = _reflected(lane, place)
        # Also keeps what is not a number, or beyond all integers, inside.
        index = b.op("Cast", place, to=ir.DataType.INT64)
        index = b.op("Clip", index, b.constant(0), b.op("Squeeze", listed(b, [plus(b, size, -1)])))
        taps.append(_Tap(index, weight, slope))
    return taps


@dataclass(frozen=True)
class _Lane:
    """An axis of the image."""

    b: Builder
    like: ir.Value
    length: ir.Value
    last: ir.Value
    """The coordinate of the last element."""

    aligned: bool
    padding: str

    def number(self, number: float) -> ir.Value:
        return single_number(self.b, number, self.like)


def _lane(call: Call, size: Size) -> _Lane:
    b, grid = call.b, call.input(1)
    aligned = bool(int_attribute(call.node, "align_corners", 0))
    padding = string_attribute(call.node, "padding_mode", "zeros")
    if isinstance(size, int):
        length, last = (single_number(b, number, grid) for number in (size, size - 1))
    else:
        length = b.op("Cast", b.op("Squeeze", size), to=single_type(grid))
        last = b.op("Sub", length, single_number(b, 1, grid))
    return _Lane(b, grid, length, last, aligned, padding)


def _coordinate(lane: _Lane, number: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The position that a number of the grid between -1 and 1 means, and its slope by that number."""
    b, half = lane.b, lane.number(0.5)
    shifted = b.op("Add", number, lane.number(1))
    if lane.aligned:
        return b.op("Mul", b.op("Mul", shifted, half), lane.last), b.op("Mul", lane.last, half)
    from_corner = b.op("Mul", shifted, lane.length)
    return b.op("Mul", b.op("Sub", from_corner, lane.number(1)), half), b.op("Mul", lane.length, half)


def _padded(lane: _Lane, coordinate: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """The coordinate that padding puts in the place of another, and its slope by that if it is not always 1."""
    b, zero = lane.b, lane.number(0)
    if lane.padding == "zeros":
        return coordinate, None
    slope = lane.number(1)
    if lane.padding == "reflection":
        coordinate, slope = _reflected(lane, coordinate)
    moves = b.op("And", b.op("Greater", coordinate, zero), b.op("Less", coordinate, lane.last))
    return b.op("Clip", coordinate, zero, lane.last), b.op("Where", moves, slope, zero)


def _reflected(lane: _Lane, coordinate: ir.Value) -> tuple[ir.Value, ir.Value]:
    """A coordinate reflected at the borders until it lies between them, and the slope of that."""
    b = lane.b
    if lane.aligned:
        # The borders of a single element coincide; any other distance does, since all places are that element then.
        low, high, span = lane.number(0), lane.last, b.op("Max", lane.last, lane.number(1))
    else:
        low, high, span = lane.number(-0.5), b.op("Sub", lane.length, lane.number(0.5)), lane.length
    way = b.op("Sub", coordinate, low)
    distance = b.op("Abs", way)
    turns = b.op("Floor", b.op("Div", distance, span))
    rest = b.op("Sub", distance, b.op("Mul", turns, span))
    returning = b.op("Equal", b.op("Mod", turns, lane.number(2), fmod=1), lane.number(1))
    reflected = b.op("Where", returning, b.op("Sub", high, rest), b.op("Add", low, rest))
    turned = b.op("Xor", returning, b.op("Less", way, lane.number(0)))
    return reflected, b.op("Where", turned, lane.number(-1), lane.number(1))


def _polynomial(lane: _Lane, powers: Sequence[float], variable: ir.Value) -> ir.Value:
    """The value of a polynomial, the highest power given first, in the shape of its variable."""
    b = lane.b
    if len(powers) <= 1:
        return b.op("Expand", lane.number(powers[0] if powers else 0), b.op("Shape", variable))
    value = lane.number(powers[0])
    for power in powers[1:]:
        value = b.op("Mul", value, variable)
        value = b.op("Add", value, lane.number(power)) if power else value
    return value


def _place(b: Builder, indices: Sequence[ir.Value], spatial: Sequence[Size]) -> ir.Value:
    """The places, among all elements of a channel, of elements given by their indices along the axes."""
    place = indices[0]
    for index, size in zip(indices[1:], spatial[1:], strict=True):
        place = b.op("Add", b.op("Mul", place, listed(b, [size])), index)
    return place


def _product(b: Builder, factors: Sequence[ir.Value]) -> ir.Value:
    product = factors[0]
    for factor in factors[1:]:
        product = b.op("Mul", product, factor)
    return product


def _over_channels(b: Builder, value: ir.Value) -> ir.Value:
    """A row per image made a matrix of one row, to meet all channels."""
    return b.op("Unsqueeze", value, b.ints([1]))
