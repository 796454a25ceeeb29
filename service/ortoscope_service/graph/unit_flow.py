"""Along which axis of each tensor of a model its units lie."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ortoscope_service.graph.axes import (
    RECURRENT,
    RESHAPING,
    Extent,
    axis_in_output,
    dependent_values,
    einsum_terms,
    extents,
    normalized,
)
from ortoscope_service.graph.constants import int_attribute

_CHANNEL_OPERATORS = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "DeformConv",
        "DepthToSpace",
        "GlobalAveragePool",
        "GlobalLpPool",
        "GlobalMaxPool",
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "LpPool",
        "MaxPool",
        "MaxUnpool",
        "SpaceToDepth",
    }
)
"""Operators that the standard defines on (batch, channel, …)."""

_LAST_AXIS_OPERATORS = frozenset({"Attention", *RECURRENT})

_MAX_COLOURS = 4


def unit_axes(graph: ir.Graph) -> Mapping[ir.Value, int]:
    """The axis of the units of every value that depends on an input, where the flow of data tells.

    A convolution makes units along axis 1, a matrix product along the last; transposes permute, element-wise
    operators keep, reshapes carry an axis where the extents allow.
    """
    dependent = dependent_values(graph)
    axes: dict[ir.Value, int] = {}
    for node in graph:
        for index, output in enumerate(node.outputs):
            if output in dependent and output.shape is not None:
                axis = _unit_axis(node, index, len(output.shape), axes, dependent)
                if axis is not None and 0 < axis < len(output.shape):
                    axes[output] = axis
    return axes


def fallback_unit_axis(shape: Sequence[Extent]) -> int:
    """The likely axis of the units by shape alone.

    (n, unit), (n, token, unit), (n, unit, …); but (n, …, unit) where only the last axis is as short as colours are.
    """
    if len(shape) <= 3:
        return len(shape) - 1
    last, first = shape[-1], shape[1]
    colours_last = (
        isinstance(last, int) and last <= _MAX_COLOURS and not (isinstance(first, int) and first <= _MAX_COLOURS)
    )
    return len(shape) - 1 if colours_last else 1


def _unit_axis(
    node: ir.Node, index: int, rank: int, axes: Mapping[ir.Value, int], dependent: set[ir.Value]
) -> int | None:
    operator = node.op_type
    if operator in _CHANNEL_OPERATORS or operator == "Gemm":
        return 1
    if operator in _LAST_AXIS_OPERATORS:
        return rank - 1
    if operator == "MatMul":
        return _after_matmul(node, rank, axes, dependent)
    if (
        operator in {"LayerNormalization", "RMSNormalization"}
        and normalized(int_attribute(node, "axis", -1), rank) == rank - 1
    ):
        return rank - 1
    if operator == "Gather" and node.inputs[0] not in dependent:
        return rank - 1
    if operator == "Einsum":
        made = _made_by_einsum(node, dependent)
        if made is not None:
            return made
    if operator in RESHAPING:
        value = node.inputs[0]
        before = extents(value) if value is not None else None
        after = extents(node.outputs[index])
        return after_reshape(before, axes[value], after) if value is not None and value in axes else None
    for position, value in enumerate(node.inputs):
        if value is not None and value in axes:
            axis = axis_in_output(node, position, axes[value], index)
            if axis is not None:
                return axis
    return None


def after_reshape(before: Sequence[Extent] | None, axis: int, after: Sequence[Extent] | None) -> int | None:
    """Where the units lie after a reshape.

    Elements behind an axis in storage order stay behind it, so that the axis is found from the right without knowing
    the batch. Of an axis split in several, the last part counts as the units (features within heads).

    Args:
        before: Shape before.
        axis: Axis of the units in it.
        after: Shape after.

    Returns:
        The axis in the new shape, or None if extents that are needed are not known.
    """
    if before is None or after is None:
        return None
    behind = 1
    for size in before[axis + 1 :]:
        if not isinstance(size, int):
            return None
        behind *= size
    units = before[axis]
    passed = 1
    for index in range(len(after) - 1, -1, -1):
        size = after[index]
        if passed == behind and (size != 1 or units == 1):
            return index
        if not isinstance(size, int):
            return None
        if passed < behind < passed * size:
            return index
        passed *= size
    return None


def _after_matmul(node: ir.Node, rank: int, axes: Mapping[ir.Value, int], dependent: set[ir.Value]) -> int | None:
    left, right = node.inputs[0], node.inputs[1]
    if right not in dependent:
        return rank - 1
    if left not in dependent:
        return rank - 2
    # Attention: the context has the features of the values; the scores have none.
    if right is not None and right.shape is not None and axes.get(right) == len(right.shape) - 1:
        return rank - 1
    return None


def _made_by_einsum(node: ir.Node, dependent: set[ir.Value]) -> int | None:
    """The output axis that the weights bring in."""
    terms = einsum_terms(node)
    if terms is None:
        return None
    inputs, result = terms
    given = {
        letter for value, letters in zip(node.inputs, inputs, strict=True) if value in dependent for letter in letters
    }
    made = [axis for axis, letter in enumerate(result) if letter not in given]
    return made[-1] if made else None
