"""Operators that move elements without changing them."""

from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.constants import ints_attribute


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(call: Call) -> Gradients:
    """Whatever regroups axes in storage order is undone by the input's shape."""
    return {0: call.b.reshape_like(call.g, call.x)}


@rule("Transpose")
def transpose(call: Call) -> Gradients:
    permutation = ints_attribute(call.node, "perm")
    if permutation is None:
        return {0: call.b.op("Transpose", call.g)}
    inverse = sorted(range(len(permutation)), key=permutation.__getitem__)
    return {0: call.b.op("Transpose", call.g, perm=inverse)}
