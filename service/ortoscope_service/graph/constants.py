"""Reading constants and attributes off a graph."""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_MAX_ELEMENTS = 1024
"""Larger constants are weights, which nothing here needs to look into."""


def constant_array(value: ir.Value | None) -> npt.NDArray[np.generic] | None:
    """The value of a small constant, or None.

    A constant is an initializer or a Constant node, or made of constants by Identity, Cast, Concat or Unsqueeze, as
    exporters write shapes.
    """
    if value is None:
        return None
    if value.is_initializer():
        return _array(value.const_value)
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Constant":
        return _constant_node_array(node)
    if node.op_type not in {"Cast", "Concat", "Identity", "Unsqueeze"}:
        return None
    arrays = [constant_array(value) for value in node.inputs]
    known = [array for array in arrays if array is not None]
    if not known or len(known) < len(arrays):
        return None
    return _fold(node, known)


def constant_scalar(value: ir.Value | None) -> float | None:
    """The number that a one-element constant holds; None if the value is no such constant."""
    array = constant_array(value)
    if array is None or array.size != 1 or array.dtype.kind not in "biuf":
        return None
    return float(array.reshape(-1)[0])


def constant_ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """The numbers of an integer constant of rank 0 or 1; None if the value is no such constant."""
    array = constant_array(value)
    if array is None or array.dtype.kind not in "iu" or array.ndim > 1:
        return None
    return tuple(int(number) for number in array.reshape(-1))


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all constants of a model, initializers and Constant nodes, those of subgraphs, too."""
    initializers = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    nodes = (node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.op_type == "Constant")
    attributes = (node.attributes.get("value") for node in nodes)
    tensors = (*initializers, *(attribute.as_tensor() for attribute in attributes if attribute is not None))
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute of the node."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def float_attribute(node: ir.Node, name: str) -> float | None:
    """A float attribute of the node; None if it is not set."""
    attribute = node.attributes.get(name)
    return None if attribute is None else attribute.as_float()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """A list of integers among the node's attributes; None if it is not set."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


def string_attribute(node: ir.Node, name: str, default: str) -> str:
    """A string attribute of the node."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def ints_input_or_attribute(node: ir.Node, position: int, name: str) -> tuple[int, ...] | None:
    """Integers that newer opsets take as an input and older ones as an attribute; None if absent or not constant."""
    if len(node.inputs) > position and node.inputs[position] is not None:
        return constant_ints(node.inputs[position])
    return ints_attribute(node, name)


def _fold(node: ir.Node, arrays: list[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic] | None:
    try:
        if node.op_type == "Cast":
            return arrays[0].astype(ir.DataType(int_attribute(node, "to", 0)).numpy())
        if node.op_type == "Concat":
            return np.concatenate(arrays, axis=int_attribute(node, "axis", 0))
        if node.op_type == "Unsqueeze":
            axes = ints_attribute(node, "axes") or tuple(int(axis) for axis in arrays[1].reshape(-1))
            return np.expand_dims(arrays[0], axes)
    except (TypeError, ValueError):
        return None
    return arrays[0]


def _constant_node_array(node: ir.Node) -> npt.NDArray[np.generic] | None:
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if name == "value":
            return _array(attribute.as_tensor())
        if name in {"value_float", "value_floats"}:
            return np.asarray(attribute.value, np.float32)
        if name in {"value_int", "value_ints"}:
            return np.asarray(attribute.value, np.int64)
    return None


def _array(tensor: ir.TensorProtocol | None) -> npt.NDArray[np.generic] | None:
    return None if tensor is None or tensor.size > _MAX_ELEMENTS else tensor.numpy()
