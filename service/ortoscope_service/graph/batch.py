"""Making a batch that an exporter fixed in the file free again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.axes import BROADCASTING, RECURRENT, axis_in_output, extents, normalized
from ortoscope_service.graph.batch_flow import BatchPlace, batch_inputs, batch_places, place_after_reshape
from ortoscope_service.graph.constants import (
    constant_ints,
    int_attribute,
    ints_attribute,
    ints_input_or_attribute,
)
from ortoscope_service.graph.loading import infer_shapes

_TO_THE_END = int(np.iinfo(np.int64).max)
_NOT_BROADCASTING = frozenset({"Concat", *RECURRENT})
"""Operators all of whose inputs must have the batch's extent, where others repeat an extent of 1 by themselves."""


@dataclass(frozen=True)
class BatchRewrite:
    """A model with a free batch."""

    model: ir.Model
    """The rewritten model, or the very model that was given if its batch was free already."""

    fixed_batch: int
    """The batch size that the model was bound to; 0 if it was free."""

    changed_nodes: tuple[str, ...]
    """Names of the nodes in whose shape constants the batch stood, in topological order."""


def make_batch_symbolic(model: ir.Model) -> BatchRewrite:
    """Frees the batch of a model whose inputs state a fixed one.

    The batch is followed from the inputs through the graph (`batch_flow`), and wherever a constant repeats its size,
    the constant is replaced:

    1. Reshape: the batch's position becomes 0 (copy the input's extent) or -1 (whatever is left; then an existing -1
       is replaced by its number).
    2. Expand of a batched tensor: the batch's position becomes 1 (keep).
    3. Slice that takes the whole batch: up to the end.
    4. Squeeze without axes: the axes of extent 1 other than the batch.
    5. Resize to given sizes: the batch's position is computed from the input.
    6. A constant that is concatenated with batched tensors or is a recurrent layer's initial state, such as a class
       token that was expanded to the batch: expanded to the input's batch.

    Shared constants are never changed, only replaced where the batch is meant. The rewrite is structural: a model that
    computes with the batch size in other ways still needs the check that items come out alike at several batch sizes.

    Args:
        model: A model from `loading.load_model`.

    Returns:
        The rewritten model, with shapes inferred anew.
    """
    _, batch = batch_inputs(model.graph)
    if not isinstance(batch, int) or batch < 1:
        return BatchRewrite(model, 0, ())
    rewritten = model.clone()
    changed = _Rewriter(rewritten.graph, batch).rewrite()
    _drop_unused_constants(rewritten.graph)
    _refresh_shapes(rewritten)
    return BatchRewrite(rewritten, batch, tuple(changed))


class _Rewriter:
    """Frees the batch in one graph, in place."""

    def __init__(self, graph: ir.Graph, batch: int) -> None:
        self._graph = graph
        self._batch = batch
        self._places: Mapping[ir.Value, BatchPlace] = batch_places(graph)
        self._inputs, _ = batch_inputs(graph)
        self._names = set(ir.convenience.create_value_mapping(graph))
        self._batch_size: ir.Value | None = None

    def rewrite(self) -> list[str]:
        rules = {
            "Reshape": self._free_reshape,
            "Expand": self._free_expand,
            "Slice": self._free_slice,
            "Squeeze": self._free_squeeze,
            "Resize": self._free_resize,
        }
        changed = []
        for node in list(self._graph):
            rule = rules.get(node.op_type, self._free_constant_operands)
            if not node.domain and rule(node):
                changed.append(node.name or "")
        return changed

    def _free_reshape(self, node: ir.Node) -> bool:
        value = node.inputs[0]
        target = constant_ints(node.inputs[1])
        if value is None or value not in self._places or target is None:
            return False
        before, after = extents(value), extents(node.outputs[0])
        place = place_after_reshape(before, self._places[value], after, self._batch)
        if place is None or before is None or after is None or target[place.axis] == -1:
            return False
        copies = int_attribute(node, "allowzero", 0) == 0
        freed = list(target)
        given = self._places[value]
        if copies and place.alone and given.alone and given.axis == place.axis:
            if target[place.axis] == 0:
                return False
            freed[place.axis] = 0
        else:
            numbers = [size for size in after if isinstance(size, int)]
            if len(numbers) != len(after):
                return False
            freed = numbers
            freed[place.axis] = -1
        self._replace_constant(node, 1, freed)
        return True

    def _free_expand(self, node: ir.Node) -> bool:
        value = node.inputs[0]
        target = constant_ints(node.inputs[1])
        if value is None or value not in self._places or target is None:
            return False
        axis = axis_in_output(node, 0, self._places[value].axis)
        shape = extents(node.outputs[0])
        if axis is None or shape is None:
            return False
        position = axis - (len(shape) - len(target))
        if position < 0 or target[position] == 1:
            return False
        self._replace_constant(node, 1, [*target[:position], 1, *target[position + 1 :]])
        return True

    def _free_slice(self, node: ir.Node) -> bool:
        value = node.inputs[0]
        shape = extents(value) if value is not None else None
        if value is None or value not in self._places or shape is None:
            return False
        starts, ends = (ints_input_or_attribute(node, index, name) for index, name in ((1, "starts"), (2, "ends")))
        axes = ints_input_or_attribute(node, 3, "axes") or tuple(range(len(starts or ())))
        steps = ints_input_or_attribute(node, 4, "steps") or (1,) * len(axes)
        if starts is None or ends is None:
            return False
        axis = self._places[value].axis
        for index, sliced in enumerate(axes):
            whole = starts[index] == 0 and steps[index] == 1 and ends[index] == shape[axis]
            if normalized(sliced, len(shape)) == axis and whole:
                freed = [*ends[:index], _TO_THE_END, *ends[index + 1 :]]
                if "ends" in node.attributes:
                    node.attributes["ends"] = ir.AttrInt64s("ends", freed)
                else:
                    self._replace_constant(node, 2, freed)
                return True
        return False

    def _free_squeeze(self, node: ir.Node) -> bool:
        value = node.inputs[0]
        shape = extents(value) if value is not None else None
        has_axes = (len(node.inputs) > 1 and node.inputs[1] is not None) or "axes" in node.attributes
        if value is None or value not in self._places or shape is None or has_axes or self._batch != 1:
            return False
        axes = [axis for axis, size in enumerate(shape) if size == 1 and axis != self._places[value].axis]
        if self._graph.opset_imports[""] < 13:
            node.attributes["axes"] = ir.AttrInt64s("axes", axes)
        else:
            node.resize_inputs(2)
            self._replace_constant(node, 1, axes)
        return True

    def _free_resize(self, node: ir.Node) -> bool:
        value = node.inputs[0]
        sizes = constant_ints(node.inputs[3]) if len(node.inputs) > 3 else None
        if value is None or value not in self._places or not sizes:
            return False
        place = self._places[value]
        resized = ints_attribute(node, "axes") or tuple(range(len(sizes)))
        if not place.alone or place.axis not in resized:
            return False
        position = resized.index(place.axis)
        parts = [
            self._constant(f"{node.name}_sizes_before", sizes[:position]),
            self._input_batch(),
            self._constant(f"{node.name}_sizes_behind", sizes[position + 1 :]),
        ]
        parts = [part for part in parts if part.const_value is None or part.const_value.size]
        node.replace_input_with(3, self._insert(node, "Concat", parts, f"{node.name}_sizes", axis=0))
        return True

    def _free_constant_operands(self, node: ir.Node) -> bool:
        """Rule 6, and tiled constants of a batch larger than 1 wherever shapes are broadcast."""
        wanted = self._wanted_axes(node)
        changed = False
        for position, axis in wanted.items():
            value = node.inputs[position]
            shape = extents(value) if value is not None else None
            if value is None or value in self._places or shape is None or not 0 <= axis < len(shape):
                continue
            must_match = node.op_type in _NOT_BROADCASTING
            if shape[axis] != self._batch or (self._batch == 1 and not must_match):
                continue
            single = value if self._batch == 1 else self._first_item(node, value, axis, position)
            node.replace_input_with(
                position, self._expand(node, single, axis, len(shape), position) if must_match else single
            )
            changed = True
        return changed

    def _wanted_axes(self, node: ir.Node) -> dict[int, int]:
        """For each input of a node, which axis of it meets the batch of the others."""
        batched = [(i, value) for i, value in enumerate(node.inputs) if value is not None and value in self._places]
        if not batched:
            return {}
        position, value = batched[0]
        place = self._places[value]
        if node.op_type in RECURRENT:
            first = int_attribute(node, "layout", 0)
            return {index: axis for index, axis in ((4, 0), (5, 1 - first), (6, 1 - first)) if index < len(node.inputs)}
        rank = len(value.shape) if value.shape is not None else 0
        if node.op_type == "Concat":
            if normalized(int_attribute(node, "axis", 0), rank) == place.axis:
                return {}
            return dict.fromkeys(range(len(node.inputs)), place.axis)
        if not place.alone or node.op_type not in BROADCASTING:
            return {}
        return {
            index: place.axis - rank + len(other.shape)
            for index, other in enumerate(node.inputs)
            if index != position and other is not None and other.shape is not None
        }

    def _first_item(self, node: ir.Node, value: ir.Value, axis: int, position: int) -> ir.Value:
        index = self._constant(f"{node.name}_first_item", (0,))
        return self._insert(node, "Gather", [value, index], f"{value.name}_item_{position}", axis=axis)

    def _expand(self, node: ir.Node, value: ir.Value, axis: int, rank: int, position: int) -> ir.Value:
        parts = [self._input_batch()]
        if axis:
            parts.insert(0, self._constant(f"{node.name}_ones_before", (1,) * axis))
        if axis < rank - 1:
            parts.append(self._constant(f"{node.name}_ones_behind", (1,) * (rank - 1 - axis)))
        shape = self._insert(node, "Concat", parts, f"{node.name}_batch_shape_{position}", axis=0)
        return self._insert(node, "Expand", [value, shape], f"{value.name}_batch_{position}")

    def _input_batch(self) -> ir.Value:
        """The batch size of the first input, as an int64 vector of one element, computed at the graph's start."""
        if self._batch_size is None:
            shape = ir.node("Shape", [self._inputs[0]])
            zero = self._constant("batch_axis", (0,))
            size = ir.node("Gather", [shape.outputs[0], zero], attributes={"axis": 0})
            self._adopt(shape, "input_shape")
            self._adopt(size, "batch_size")
            self._graph.insert_before(self._graph[0], [shape, size])
            self._batch_size = size.outputs[0]
        return self._batch_size

    def _insert(
        self, before: ir.Node, operator: str, inputs: Sequence[ir.Value], name: str, **attributes: int
    ) -> ir.Value:
        node = ir.node(operator, list(inputs), attributes=attributes)
        self._adopt(node, name)
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _adopt(self, node: ir.Node, name: str) -> None:
        node.outputs[0].name = self._new_name(name)
        node.name = f"{node.outputs[0].name}_node"

    def _replace_constant(self, node: ir.Node, position: int, numbers: Sequence[int]) -> None:
        node.replace_input_with(position, self._constant(f"{node.name}_free_batch", numbers))

    def _constant(self, name: str, numbers: Sequence[int]) -> ir.Value:
        unique = self._new_name(name)
        tensor = ir.tensor(np.asarray(numbers, np.int64), name=unique)
        shape = ir.Shape([len(numbers)])
        value = ir.Value(name=unique, shape=shape, type=ir.TensorType(ir.DataType.INT64), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _new_name(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._names:
            unique, count = f"{name}_{count}", count + 1
        self._names.add(unique)
        return unique


def _drop_unused_constants(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _refresh_shapes(model: ir.Model) -> None:
    """Frees the inputs' batch and infers shapes anew; what inference cannot tell keeps its extents but the batch."""
    graph = model.graph
    places = batch_places(graph)
    inputs, _ = batch_inputs(graph)
    known = {value: extents(value) for node in graph for value in node.outputs}
    name = _free_name(graph)
    for value in inputs:
        value.shape = ir.Shape([name, *(extents(value) or ())[1:]])
    for value in known:
        value.shape = None
    infer_shapes(model)
    for value, before in known.items():
        place = places.get(value)
        if before is None or place is None:
            continue
        after = extents(value)
        if after is None or len(after) != len(before):
            after = (None,) * len(before)
        merged = [new if isinstance(new, int) or new else old for new, old in zip(after, before, strict=True)]
        if name not in after:
            merged[place.axis] = name if place.alone else None
        value.shape = ir.Shape(merged)


def _free_name(graph: ir.Graph) -> str:
    """A name for the batch that no other free dimension of the inputs has."""
    taken = {size for value in graph.inputs for size in extents(value) or ()}
    return next(name for name in ("batch", *(f"batch_{i}" for i in range(len(taken) + 1))) if name not in taken)
