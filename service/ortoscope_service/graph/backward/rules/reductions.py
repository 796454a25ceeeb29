"""Reductions over axes."""

from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.constants import int_attribute


@rule("ReduceSum")
def reduce_sum(call: Call) -> Gradients:
    """Every element that was added up gets the sum's cotangent."""
    gradient = call.g
    axes = call.optional_input(1)
    if not int_attribute(call.node, "keepdims", 1) and axes is not None:
        gradient = call.b.op("Unsqueeze", gradient, axes)
    return {0: call.b.op("Expand", gradient, call.b.shape(call.x))}
