"""Softmax and its logarithm."""

import onnx_ir as ir

from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.constants import int_attribute


@rule("Softmax")
def softmax(call: Call) -> Gradients:
    """The cotangent g becomes y (g - Σ g y)."""
    b = call.b
    return {0: b.op("Mul", call.y, b.op("Sub", call.g, _sum(call, b.op("Mul", call.g, call.y))))}


@rule("LogSoftmax")
def log_softmax(call: Call) -> Gradients:
    """The cotangent g becomes g - exp(y) Σ g."""
    b = call.b
    return {0: b.op("Sub", call.g, b.op("Mul", b.op("Exp", call.y), _sum(call, call.g)))}


def _sum(call: Call, value: ir.Value) -> ir.Value:
    """The sum along the axis, which is kept."""
    return call.b.op("ReduceSum", value, call.b.ints([int_attribute(call.node, "axis", -1)]), keepdims=1)
