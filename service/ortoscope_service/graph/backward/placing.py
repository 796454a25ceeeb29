"""Cutting parts out of tensors and putting parts back: what gradients of shape and index operators are made of."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type
from ortoscope_service.graph.backward.sizes import Size, extent, listed, minus, plus

BACKWARDS = -(2**63)
"""The end of a slice that runs backwards to the first element of an axis."""

CopyingMode = Literal["edge", "reflect", "wrap"]
"""The modes of Pad that add copies of elements."""

_HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

_BLOCK = 16
"""Blocks of at least so many elements are moved faster one by one, by Gather, than by Transpose. (Channel shuffle in
ONNX Runtime 1.32: 2.3 times on 14 x 14 maps, 3 times on 56 x 56.)"""

_MAX_PERMUTATION = 1024
"""Permutations of more blocks than this are not written out as constants."""


def cut(b: Builder, value: ir.Value, axes: Sequence[int], starts: Sequence[Size], ends: Sequence[Size]) -> ir.Value:
    """The elements of some axes from `starts` to before `ends`, both counted from the front."""
    return b.op("Slice", value, listed(b, starts), listed(b, ends), b.ints(axes))


def flip(b: Builder, value: ir.Value, axes: Sequence[int]) -> ir.Value:
    """The elements of some axes in reverse order."""
    minus_ones = b.ints([-1] * len(axes))
    return b.op("Slice", value, minus_ones, b.ints([BACKWARDS] * len(axes)), b.ints(axes), minus_ones)


def widen(b: Builder, value: ir.Value, axes: Sequence[int], before: Sequence[Size], after: Sequence[Size]) -> ir.Value:
    """The value between zeros along some axes; no amount may be negative."""
    kept = [index for index in range(len(axes)) if before[index] != 0 or after[index] != 0]
    if not kept:
        return value
    amounts = [*(before[index] for index in kept), *(after[index] for index in kept)]
    return b.op("Pad", value, listed(b, amounts), None, b.ints([axes[index] for index in kept]))


def permute(b: Builder, value: ir.Value, shape: Sequence[Size], order: Sequence[int]) -> ir.Value:
    """The axes of a value of the given shape in another order.

    Where the last axes stay, and the others that move have known extents, whole blocks are moved.
    """
    moved = [axis for axis, source in enumerate(order) if axis != source]
    if not moved:
        return value
    first, end = moved[0], moved[-1] + 1
    turned, tail = _known(shape[first:end]), shape[end:]
    block = math.prod(size if isinstance(size, int) else _BLOCK for size in tail)
    count = math.prod(turned or [0])
    if not tail or block < _BLOCK or not 0 < count <= _MAX_PERMUTATION:
        return b.op("Transpose", value, perm=order)
    assert turned is not None
    places = np.arange(count).reshape(turned).transpose([axis - first for axis in order[first:end]])
    # A zero keeps the extent of an axis, which need not be known then.
    merged = b.op("Reshape", value, listed(b, [*[0] * first, count, *tail]))
    gathered = b.op("Gather", merged, b.constant(places.ravel()), axis=first)
    return b.op("Reshape", gathered, listed(b, [*[0] * first, *places.shape, *tail]))


def add_at(
    b: Builder, like: ir.Value, shape: Sequence[Size], axis: int, indices: ir.Value, updates: ir.Value
) -> ir.Value:
    """Zeros of a shape and of a value's type, with updates added along an axis, however often an index occurs.

    ScatterND would do without an index for every element, but ONNX Runtime adds there in parallel without a lock, so
    that updates of the same element get lost.
    """
    single = in_single(b, updates, like)
    zeros = b.op("Expand", single_number(b, 0, like), listed(b, shape))
    return as_type_of(b, b.op("ScatterElements", zeros, indices, single, axis=axis, reduction="add"), like)


def in_single(b: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    """A value of another's type, in single precision if that is half: ONNX Runtime adds up no halves."""
    return b.op("Cast", value, to=ir.DataType.FLOAT) if data_type(like) in _HALF else value


def single_type(like: ir.Value) -> ir.DataType:
    """The data type that `in_single` gives."""
    return ir.DataType.FLOAT if data_type(like) in _HALF else data_type(like)


def single_number(b: Builder, number: float, like: ir.Value) -> ir.Value:
    """A constant scalar of the type that `in_single` gives."""
    return b.constant(np.asarray(number), single_type(like))


def as_type_of(b: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    """The inverse of `in_single`."""
    return b.op("Cast", value, to=data_type(like)) if data_type(like) in _HALF else value


def fold(b: Builder, gradient: ir.Value, axis: int, whole: int, before: int, after: int, mode: CopyingMode) -> ir.Value:
    """The transpose of padding an axis with copies: they are added to the elements they are copies of.

    Args:
        b: Emits.
        gradient: Has before + whole + after elements along the axis.
        axis: The axis, counted from the front.
        whole: Extent without the padding, in which the copied elements of the two sides must not meet.
        before: Elements added before the others.
        after: Elements added after them.
        mode: What they are copies of, as Pad has it.
    """
    end = before + whole
    sides = []
    if before:
        head = cut(b, gradient, [axis], [0], [before])
        sides.append((_places(mode, whole, before, first=True), _as_placed(b, head, axis, mode)))
    if after:
        tail = cut(b, gradient, [axis], [end], [end + after])
        sides.append((_places(mode, whole, after, first=False), _as_placed(b, tail, axis, mode)))
    parts, reached = [], 0
    for places, added in sorted(sides, key=lambda side: side[0].start):
        if places.start > reached:
            parts.append(cut(b, gradient, [axis], [before + reached], [before + places.start]))
        kept = cut(b, gradient, [axis], [before + places.start], [before + places.stop])
        parts.append(b.op("Add", kept, added))
        reached = places.stop
    if whole > reached:
        parts.append(cut(b, gradient, [axis], [before + reached], [end]))
    return b.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]


def _places(mode: CopyingMode, whole: int, count: int, *, first: bool) -> range:
    """Where the elements are of which so many copies precede the first one, or follow the last."""
    if mode == "wrap":
        return range(whole - count, whole) if first else range(count)
    if mode == "edge":
        return range(1) if first else range(whole - 1, whole)
    return range(1, count + 1) if first else range(whole - 1 - count, whole - 1)


def _as_placed(b: Builder, copies: ir.Value, axis: int, mode: CopyingMode) -> ir.Value:
    """What the copies of one side add to the elements, in the order of those."""
    if mode == "wrap":
        return copies
    return b.op("ReduceSum", copies, b.ints([axis]), keepdims=1) if mode == "edge" else flip(b, copies, [axis])


def put_back(
    b: Builder, gradient: ir.Value, like: ir.Value, shape: Sequence[Size], axis: int, indices: Sequence[int] | ir.Value
) -> ir.Value:
    """The transpose of picking positions along an axis.

    Args:
        b: Emits.
        gradient: Has an element along the axis for each index.
        like: Has the type of the result.
        shape: The shape of the result, to which copies are added up.
        axis: The axis, counted from the front.
        indices: A list of positions on the axis; negative ones count from its end.
    """
    if not isinstance(indices, ir.Value):
        placed = _put_back_known(b, gradient, shape[axis], axis, indices)
        if placed is not None:
            return placed
        indices = b.ints(indices)
    column = b.op("Reshape", indices, b.ints([-1] + [1] * (len(shape) - axis - 1)))
    every = b.op("Expand", column, listed(b, [*shape[:axis], extent(b, indices, 0), *shape[axis + 1 :]]))
    return add_at(b, like, shape, axis, every, gradient)


def _put_back_known(b: Builder, gradient: ir.Value, whole: Size, axis: int, indices: Sequence[int]) -> ir.Value | None:
    """The same for positions that are known: padding for neighbours, else picking from the gradient."""
    first = indices[0] if indices else 0
    one_sided = all((index < 0) == (first < 0) for index in indices)
    if one_sided and list(indices) == list(range(first, first + len(indices))):
        before = first if first >= 0 else plus(b, whole, first)
        return widen(b, gradient, [axis], [before], [minus(b, whole, plus(b, before, len(indices)))])
    table = _origins(indices, whole) if isinstance(whole, int) else None
    if table is None:
        return None
    if (table == len(indices)).any():
        gradient = widen(b, gradient, [axis], [0], [1])
    if table.shape[1] == 1:
        return b.op("Gather", gradient, b.constant(table[:, 0]), axis=axis)
    return b.op("ReduceSum", b.op("Gather", gradient, b.constant(table), axis=axis), b.ints([axis + 1]), keepdims=0)


def _origins(indices: Sequence[int], whole: int) -> npt.NDArray[np.int64] | None:
    """For every position of an axis the places in a list of indices where it occurs, filled up with the list's length.

    None if a few positions occur so much more often than the others that the table would be too large.
    """
    places: list[list[int]] = [[] for _ in range(whole)]
    for place, index in enumerate(indices):
        places[index].append(place)
    most = max(map(len, places), default=0)
    if not indices or whole * most > 2 * (len(indices) + whole):
        return None
    return np.array([found + [len(indices)] * (most - len(found)) for found in places], np.int64)


def _known(sizes: Sequence[Size]) -> list[int] | None:
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else None
