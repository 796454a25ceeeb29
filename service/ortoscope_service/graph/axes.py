"""Following an axis of a tensor through the operators of a graph."""

from collections.abc import Sequence

import onnx_ir as ir

from ortoscope_service.graph.constants import int_attribute, ints_attribute, ints_input_or_attribute, string_attribute

Extent = int | str | None
"""Size of an axis: a number, the name of a free dimension, or None if nothing is known."""

RECURRENT = frozenset({"RNN", "GRU", "LSTM"})

BROADCASTING = frozenset(
    {
        "Add",
        "And",
        "Div",
        "Equal",
        "Greater",
        "Less",
        "MatMul",
        "Max",
        "Mean",
        "Min",
        "Mod",
        "Mul",
        "Or",
        "PRelu",
        "Pow",
        "Sub",
        "Sum",
        "Where",
        "Xor",
    }
)
"""Operators that align the shapes of all their operands at the last axis."""

_REDUCTIONS = frozenset(
    {
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "ArgMax",
        "ArgMin",
    }
)

_OPAQUE = frozenset({"Shape", "Size", "NonZero", "Unique", "NonMaxSuppression", "If", "Loop", "Scan", "Compress"})
"""Operators whose outputs' axes are not axes of their inputs."""

RESHAPING = frozenset({"Reshape", "Flatten"})
"""Operators that regroup axes in storage order; where an axis goes depends on extents."""


def extents(value: ir.Value) -> tuple[Extent, ...] | None:
    """The shape of a value, or None if not even its rank is known."""
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def dependent_values(graph: ir.Graph) -> set[ir.Value]:
    """All values whose numbers depend on those of an input; what depends on shapes alone does not count."""
    dependent = set(graph.inputs)
    for node in graph:
        if node.op_type in {"Shape", "Size"}:
            continue
        if any(value in dependent for value in captured_values(node)):
            dependent.update(node.outputs)
    return dependent


def axis_in_output(node: ir.Node, position: int, axis: int, output: int = 0) -> int | None:
    """Where an axis of an input of a node is in an output.

    Args:
        node: A node that is not `RESHAPING`.
        position: Which input.
        axis: Which axis of it.
        output: Which output.

    Returns:
        The axis of the output; None if it ends in this node (is reduced, contracted, indexed away) or if ranks
        are not known.
    """
    operator = node.op_type
    value = node.inputs[position]
    if value is None or value.shape is None or operator in _OPAQUE:
        return None
    rank = len(value.shape)
    if operator == "Transpose":
        permutation = ints_attribute(node, "perm") or tuple(reversed(range(rank)))
        return permutation.index(axis) if axis in permutation else None
    if operator in _REDUCTIONS:
        return _after_reduction(node, axis, rank)
    if operator == "Squeeze":
        return _after_squeeze(node, axis, value)
    if operator == "Unsqueeze":
        return _after_unsqueeze(node, axis, rank)
    if operator == "Gather":
        return _after_gather(node, position, axis)
    if operator == "Gemm":
        if position > 1:
            return 1 if axis == rank - 1 else 0
        kept = position ^ int_attribute(node, "transB" if position else "transA", 0)
        return position if axis == kept else None
    if operator in RECURRENT:
        return _after_recurrence(node, position, axis, output)
    if operator == "Einsum":
        return _after_einsum(node, position, axis)
    return _aligned(node, position, axis, rank, output)


def reduced_axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """Axes that a reduction removes, counted from 0; None if they are computed by the model."""
    if node.op_type in {"ArgMax", "ArgMin"}:
        return (int_attribute(node, "axis", 0) % rank,)
    if (len(node.inputs) > 1 and node.inputs[1] is not None) or "axes" in node.attributes:
        axes = ints_input_or_attribute(node, 1, "axes")
        if axes is None:
            return None
        if axes:
            return tuple(axis % rank for axis in axes)
    return () if int_attribute(node, "noop_with_empty_axes", 0) else tuple(range(rank))


def normalized(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis


def _aligned(node: ir.Node, position: int, axis: int, rank: int, output: int) -> int | None:
    """Element-wise operators align shapes at the last axis; most others keep the axes of their first input."""
    if position > 0 and node.op_type not in BROADCASTING and node.op_type != "Concat":
        return None
    shape = node.outputs[output].shape
    if shape is None:
        return axis if position == 0 else None
    aligned = axis + len(shape) - rank
    if node.op_type == "MatMul" and axis == rank - (1 if position == 0 else 2):
        return None
    return aligned if 0 <= aligned < len(shape) else None


def _after_reduction(node: ir.Node, axis: int, rank: int) -> int | None:
    axes = reduced_axes(node, rank)
    if axes is None or axis in axes:
        return None
    return axis if int_attribute(node, "keepdims", 1) else axis - sum(removed < axis for removed in axes)


def _after_squeeze(node: ir.Node, axis: int, value: ir.Value) -> int | None:
    shape = extents(value)
    assert shape is not None
    axes = ints_input_or_attribute(node, 1, "axes")
    if axes is None:
        removed = {index for index, size in enumerate(shape) if size == 1}
    else:
        removed = {normalized(index, len(shape)) for index in axes}
    return None if axis in removed else axis - sum(index < axis for index in removed)


def _after_unsqueeze(node: ir.Node, axis: int, rank: int) -> int | None:
    axes = ints_input_or_attribute(node, 1, "axes")
    if axes is None:
        return None
    inserted = {normalized(index, rank + len(axes)) for index in axes}
    kept = [index for index in range(rank + len(axes)) if index not in inserted]
    return kept[axis] if axis < len(kept) else None


def _after_gather(node: ir.Node, position: int, axis: int) -> int | None:
    data, indices = node.inputs[0], node.inputs[1]
    if data is None or indices is None or data.shape is None or indices.shape is None:
        return None
    gathered = normalized(int_attribute(node, "axis", 0), len(data.shape))
    if position == 1:
        return gathered + axis
    if axis == gathered:
        return None
    return axis if axis < gathered else axis + len(indices.shape) - 1


def _after_recurrence(node: ir.Node, position: int, axis: int, output: int) -> int | None:
    """Batch axis of Y (time, directions, batch, unit), Y_h and Y_c (directions, batch, unit); other layout: first."""
    batch_first = int_attribute(node, "layout", 0) == 1
    if position != 0 or axis != (0 if batch_first else 1):
        return None
    if batch_first:
        return 0
    return 2 if output == 0 else 1


def _after_einsum(node: ir.Node, position: int, axis: int) -> int | None:
    terms = einsum_terms(node)
    if terms is None:
        return None
    inputs, result = terms
    letter = inputs[position][axis]
    return result.index(letter) if letter in result else None


def einsum_terms(node: ir.Node) -> tuple[Sequence[str], str] | None:
    """Letters of the inputs and of the output of an Einsum; None where it is written without arrow or with dots."""
    equation = string_attribute(node, "equation", "").replace(" ", "")
    if "->" not in equation or "." in equation:
        return None
    left, result = equation.split("->")
    return left.split(","), result


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The node's subgraphs: branches, or the body of a loop; not those within them."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def captures(node: ir.Node) -> list[ir.Value]:
    """Values from outside that the node's subgraphs use, however deep within, each once."""
    direct = subgraphs(node)
    if not direct:
        return []
    inside = [graph for subgraph in direct for graph in (subgraph, *subgraph.subgraphs())]
    used = (value for graph in inside for inner in graph for value in inner.inputs)
    own = {id(graph) for graph in inside}
    return list(dict.fromkeys(value for value in used if value is not None and id(value.graph) not in own))


def captured_values(node: ir.Node) -> list[ir.Value]:
    """All values that the node uses: its inputs, and what its subgraphs capture."""
    return [*(value for value in node.inputs if value is not None), *captures(node)]
