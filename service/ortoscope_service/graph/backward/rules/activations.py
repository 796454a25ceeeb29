"""Activation functions."""

from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.elementwise import masked


@rule("Relu")
def relu(call: Call) -> Gradients:
    """1 where the output is positive; 0 at the kink, as in PyTorch."""
    return {0: masked(call, call.b.op("Greater", call.y, call.b.number(0, call.y)), call.g)}
