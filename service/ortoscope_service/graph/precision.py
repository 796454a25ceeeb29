"""The same model in a wider floating-point type."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from ortoscope_service.graph.loading import infer_shapes

_NARROWER = {
    ir.DataType.FLOAT: frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16}),
    ir.DataType.DOUBLE: frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT}),
}
_TYPE_ATTRIBUTES = ("to", "dtype")
"""Attributes that name the type of what a node makes: Cast's, and those of operators that draw or make numbers."""


def widen(model: ir.Model, data_type: ir.DataType) -> ir.Model:
    """The model with all floating-point numbers in a wider type.

    1. Inputs, weights and the results of casts take the wider type.
    2. A constant that an operator takes in one type alone (the scales of Resize) keeps its own.

    Args:
        model: A model from `loading.load_model`; it is not changed.
        data_type: FLOAT or DOUBLE.

    Returns:
        A new model with types inferred. An operator that does not take the wider type, or computes in a narrower one
        inside, makes it invalid or less exact: that shows when it is run.
    """
    narrower = _NARROWER[data_type]
    wide = model.clone()  # shares its types with the model: they are replaced, never changed
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(wide)
    for graph in wide.graphs():
        for value in graph.initializers.values():
            if value.dtype in narrower and all(_takes(node, place, data_type) for node, place in value.uses()):
                assert value.const_value is not None
                value.const_value = _cast(value.const_value, data_type)
                value.type = ir.TensorType(data_type)
    for node in ir.traversal.RecursiveGraphIterator(wide.graph):
        _retype(node, data_type)
        for output in node.outputs:
            if output.dtype in narrower:
                kept = output.is_graph_output()
                output.type, output.shape = (ir.TensorType(data_type), output.shape) if kept else (None, None)
    for value in wide.graph.inputs:
        if value.dtype in narrower:
            value.type = ir.TensorType(data_type)
    infer_shapes(wide)
    return wide


def _takes(node: ir.Node, place: int, data_type: ir.DataType) -> bool:
    """Whether an operator may be given the type at a place among its inputs."""
    schema = onnx.defs.get_schema(node.op_type, node.graph.opset_imports[node.domain], node.domain)  # type: ignore[union-attr] # every node has a graph here
    formal = schema.inputs[min(place, len(schema.inputs) - 1)]
    return f"tensor({data_type.name.lower()})" in formal.types


def _retype(node: ir.Node, data_type: ir.DataType) -> None:
    narrower = _NARROWER[data_type]
    for name in _TYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.type == ir.AttributeType.INT and attribute.as_int() in narrower:
            node.attributes[name] = ir.AttrInt64(name, int(data_type))
    if node.op_type == "ConstantOfShape":
        value = node.attributes.get("value")
        tensor = ir.tensor(np.zeros(1, np.float32)) if value is None else value.as_tensor()
        if tensor.dtype in narrower:
            node.attributes["value"] = ir.AttrTensor("value", _cast(tensor, data_type))


def _cast(tensor: ir.TensorProtocol, data_type: ir.DataType) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(data_type.numpy()), dtype=data_type, name=tensor.name)
