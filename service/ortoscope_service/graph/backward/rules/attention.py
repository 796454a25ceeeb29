"""What belongs to attention. Attention itself is expanded (`backward.attention`)."""

from ortoscope_service.graph.backward.registry import Call, Gradients, rule


@rule("RotaryEmbedding")
def rotary_embedding(call: Call) -> Gradients:
    """Pairs of units are turned by an angle and stretched; the cotangent is turned back, and stretched likewise."""
    if call.wanted != {0}:
        raise call.refuse("by its tables of cosines and sines")
    b = call.b
    turned_back = b.op("Neg", call.input(2))
    operands = [call.g, call.input(1), turned_back, *call.node.inputs[3:]]
    return {0: b.op("RotaryEmbedding", *operands, **{name: a.value for name, a in call.node.attributes.items()})}
