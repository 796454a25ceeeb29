"""Where in each tensor of a model the batch lies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ortoscope_service.graph.axes import RESHAPING, Extent, axis_in_output, dependent_values, extents, normalized
from ortoscope_service.graph.constants import int_attribute


@dataclass(frozen=True)
class BatchPlace:
    """The batch's place in the shape of a tensor: an axis of extent `outer` · batch · `inner`, in storage order."""

    axis: int
    """The axis that holds the batch."""

    outer: int = 1
    """How often the batch is repeated along the axis: 7 if (time 7, batch) were merged into it."""

    inner: int = 1
    """Elements per item along the axis: 7 if (batch, token 7) were merged into it."""

    @property
    def alone(self) -> bool:
        """Whether the axis is the batch and nothing else."""
        return self.outer == self.inner == 1


def batch_inputs(graph: ir.Graph) -> tuple[tuple[ir.Value, ...], Extent]:
    """The inputs whose first axis is the batch, and its extent.

    The extent is that of the first input with an axis. Further inputs take part if they agree, or if both are free.
    """
    candidates = [(value, shape[0]) for value in graph.inputs if (shape := extents(value))]
    if not candidates:
        return (), None
    batch = candidates[0][1]
    return tuple(
        v for v, size in candidates if size == batch or not (isinstance(size, int) or isinstance(batch, int))
    ), batch


def batch_places(graph: ir.Graph) -> Mapping[ir.Value, BatchPlace]:
    """The batch's place in every value that depends on an input's numbers, as far as it can be followed."""
    inputs, batch = batch_inputs(graph)
    places = dict.fromkeys(inputs, BatchPlace(0))
    dependent = dependent_values(graph)
    for node in graph:
        for index, output in enumerate(node.outputs):
            if output in dependent:
                place = _place_in_output(node, index, places, batch)
                if place is not None:
                    places[output] = place
    return places


def _place_in_output(
    node: ir.Node, index: int, places: Mapping[ir.Value, BatchPlace], batch: Extent
) -> BatchPlace | None:
    for position, value in enumerate(node.inputs):
        if value is None or value not in places:
            continue
        place = places[value]
        if node.op_type in RESHAPING:
            return place_after_reshape(extents(value), place, _reshaped_extents(node, value), batch)
        axis = axis_in_output(node, position, place.axis, index)
        if axis is not None and not _mixes_items(node, position, axis, batch):
            return BatchPlace(axis, place.outer, place.inner)
    return None


def _reshaped_extents(node: ir.Node, value: ir.Value) -> tuple[Extent, ...] | None:
    shape, given = extents(node.outputs[0]), extents(value)
    if node.op_type != "Flatten" or given is None:
        return shape
    cut = normalized(int_attribute(node, "axis", 1), len(given))
    return shape if shape is not None else (_product(given[:cut]), _product(given[cut:]))


def place_after_reshape(
    before: Sequence[Extent] | None, place: BatchPlace, after: Sequence[Extent] | None, batch: Extent
) -> BatchPlace | None:
    """Where the batch lies once a tensor's elements, in unchanged storage order, are read as another shape.

    In storage order a tensor is (outside, batch, inside) for two products of extents, and a reshape keeps both.

    Args:
        before: Shape before.
        place: The batch's place in it.
        after: Shape after, with the free batch as a name or None, or with the batch fixed.
        batch: Extent of the batch.

    Returns:
        The place in the new shape; None if it cannot be told. With a fixed batch of 1 several may fit; an axis that is
        the batch alone goes first, then one before the last axis, which usually holds features.
    """
    if before is None or after is None:
        return None
    inside = _product([place.inner, *before[place.axis + 1 :]])
    if isinstance(batch, int):
        return _fixed_place_after_reshape(inside, after, batch)
    free = [axis for axis, size in enumerate(after) if not isinstance(size, int)]
    named = [axis for axis in free if after[axis] == batch and batch is not None]
    if place.alone and place.axis in named:
        return place
    if inside is not None:
        for axis in free:
            behind = _product(after[axis + 1 :])
            outside = _product([place.outer, *before[: place.axis]])
            ahead = _product(after[:axis])
            if behind and ahead and outside and inside % behind == 0 and outside % ahead == 0:
                return BatchPlace(axis, outside // ahead, inside // behind)
    return place if place.alone and place.axis in free else None


def _fixed_place_after_reshape(inside: int | None, after: Sequence[Extent], batch: int) -> BatchPlace | None:
    if inside is None:
        return None
    fitting: list[BatchPlace] = []
    for axis, size in enumerate(after):
        behind = _product(after[axis + 1 :])
        if not behind or not isinstance(size, int) or inside % behind:
            continue
        inner = inside // behind
        if batch * inner and size % (batch * inner) == 0:
            fitting.append(BatchPlace(axis, size // (batch * inner), inner))
    alone = [place for place in fitting if place.alone]
    if alone:
        return alone[0]
    before_last = [place for place in fitting if place.axis < len(after) - 1]
    return (before_last or fitting)[-1] if fitting else None


def _mixes_items(node: ir.Node, position: int, axis: int, batch: Extent) -> bool:
    """Whether the operator joins, picks or counts items along the batch axis."""
    operator = node.op_type
    shape = extents(node.outputs[0])
    if shape is None or operator in {"Transpose", "Unsqueeze"}:
        return False
    if operator in {"Concat", "Split"}:
        return normalized(int_attribute(node, "axis", 0), len(shape)) == axis
    if operator in {"Slice", "Pad", "Tile"}:
        value = node.inputs[position]
        given = extents(value) if value is not None else None
        return given is not None and isinstance(batch, int) and shape[axis] != given[axis]
    return False


def _product(sizes: Sequence[Extent]) -> int | None:
    numbers = [size for size in sizes if isinstance(size, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None
