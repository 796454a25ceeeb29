"""Bringing old graphs to an opset whose forms of the operators the rules read and write."""

import itertools
import logging
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx import version_converter

from ortoscope_service.errors import invalid
from ortoscope_service.graph.backward.subgraphs import own_constants
from ortoscope_service.graph.constants import constant_array, string_attribute
from ortoscope_service.graph.loading import infer_shapes

_log = logging.getLogger(__name__)

MINIMUM = 20
"""The oldest opset that rules know: axes of reductions are inputs (18), Pad and Resize have axes (18, 19), GridSample
takes any rank (20)."""

_LARGE = 1024
"""Bytes from which on a constant is a weight: nothing that a conversion reads, such as axes, pads or scales."""

_RESIZE_HAS_MODES = 11
"""The opset in which Resize got attributes for how coordinates are transformed and rounded."""


def modernize(model: ir.Model) -> ir.Model:
    """The model in opset `MINIMUM` or newer, names of all tensors kept.

    Args:
        model: A model from `loading.load_model`; it is not changed.

    Returns:
        A new model with shapes inferred.

    Raises:
        OrtoscopeError: `OPSET_NOT_CONVERTIBLE` (INVALID_ARGUMENT): ONNX cannot convert an operator of the model.
    """
    modern = model.clone() if model.graph.opset_imports[""] >= MINIMUM else _converted(model)
    inside = list(modern.graph.subgraphs())
    if inside:
        names = (f"captured/{number}" for number in itertools.count())
        taken = ir.convenience.create_value_mapping(modern.graph)
        for subgraph in inside:
            own_constants(subgraph, lambda _: next(name for name in names if name not in taken))
        infer_shapes(modern)
    return modern


def _converted(model: ir.Model) -> ir.Model:
    """The model in opset `MINIMUM`."""
    skeleton = model.clone()
    weights = _set_weights_aside(skeleton.graph)
    try:
        converted = version_converter.convert_version(ir.to_proto(skeleton), MINIMUM)
    except Exception as error:  # the converter raises whatever its adapters lead it to
        _log.warning("a model could not be converted to opset %d: %s", MINIMUM, error)
        raise invalid(
            "OPSET_NOT_CONVERTIBLE",
            f"The model is in opset {model.graph.opset_imports['']}, and ONNX cannot convert it to opset {MINIMUM}, "
            "which gradients need. Export it again with a newer opset.",
            opset=model.graph.opset_imports[""],
        ) from error
    modern = ir.from_proto(converted)
    _put_weights_back(modern.graph, weights)
    if model.graph.opset_imports[""] < _RESIZE_HAS_MODES:
        for node in list(ir.traversal.RecursiveGraphIterator(modern.graph)):
            if node.op_type == "Resize" and not node.domain:
                _say_how_to_resize(node)
    infer_shapes(modern)
    return modern


def _set_weights_aside(graph: ir.Graph) -> Mapping[str, ir.TensorProtocol]:
    """Makes inputs of large initializers and returns their values: the converter copies several times what it gets."""
    weights = {}
    for name, value in list(graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes > _LARGE:
            tensor = weights[name] = value.const_value
            value.shape, value.dtype = ir.Shape(tensor.numpy().shape), tensor.dtype
            value.const_value = None
            del graph.initializers[name]
            graph.inputs.append(value)
    return weights


def _put_weights_back(graph: ir.Graph, weights: Mapping[str, ir.TensorProtocol]) -> None:
    for value in [value for value in graph.inputs if value.name in weights]:
        graph.inputs.remove(value)
        value.const_value = weights[value.name or ""]
        graph.register_initializer(value)


def _say_how_to_resize(node: ir.Node) -> None:
    """Gives a Resize of opset 10, or an Upsample, the modes that it had before there were attributes for them.

    ONNX leaves both to the defaults of opset 11, which mean something else. Nearest meant rounding down where an axis
    is enlarged and up where it is reduced, as ONNX Runtime has it; what does both, or may do so, becomes two nodes.
    """
    attributes = {
        "mode": string_attribute(node, "mode", "nearest"),
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    scales = node.inputs[2]
    known = np.asarray(constant_array(scales), np.float64)
    if attributes["mode"] == "nearest" and np.all(known <= 1):
        attributes["nearest_mode"] = "ceil"
    elif attributes["mode"] == "nearest" and not np.all(known >= 1):
        # Unknown scales are not a number, and so on neither side.
        one = ir.node("Constant", [], {"value_float": 1.0})
        up, down = ir.node("Max", [scales, one.outputs[0]]), ir.node("Min", [scales, one.outputs[0]])
        larger = ir.node("Resize", [node.inputs[0], None, up.outputs[0]], attributes)
        assert node.graph is not None
        node.graph.insert_before(node, [one, up, down, larger])
        node.replace_input_with(0, larger.outputs[0])
        node.replace_input_with(2, down.outputs[0])
        attributes["nearest_mode"] = "ceil"
    for name, value in attributes.items():
        node.attributes.add(ir.AttrString(name, value))
