"""Bringing old graphs to an opset whose forms of the operators the rules read and write."""

import logging

import onnx
import onnx_ir as ir
from onnx import version_converter

from ortoscope_service.errors import invalid
from ortoscope_service.graph.loading import infer_shapes

_log = logging.getLogger(__name__)

MINIMUM = 20
"""The oldest opset that rules know: axes of reductions are inputs (18), Pad and Resize have axes (18, 19), GridSample
takes any rank (20)."""


def modernize(model: ir.Model) -> ir.Model:
    """The model in opset `MINIMUM` or newer, names of all tensors kept.

    Args:
        model: A model from `loading.load_model`; it is not changed.

    Returns:
        A new model with shapes inferred.

    Raises:
        OrtoscopeError: `OPSET_NOT_CONVERTIBLE` (INVALID_ARGUMENT): ONNX cannot convert an operator of the model.
    """
    if model.graph.opset_imports[""] >= MINIMUM:
        return model.clone()
    proto = ir.to_proto(model)
    try:
        converted = version_converter.convert_version(proto, MINIMUM)
    except Exception as error:
        _log.warning("a model could not be converted to opset %d: %s", MINIMUM, error)
        raise invalid(
            "OPSET_NOT_CONVERTIBLE",
            f"The model is in opset {model.graph.opset_imports['']}, and ONNX cannot convert it to opset {MINIMUM}, "
            "which gradients need. Export it again with a newer opset.",
            opset=model.graph.opset_imports[""],
        ) from error
    modern = ir.from_proto(converted)
    infer_shapes(modern)
    return modern
