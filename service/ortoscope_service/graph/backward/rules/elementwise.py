"""Arithmetic and functions of single elements, with broadcasting."""

import onnx_ir as ir

from ortoscope_service.graph.backward.registry import Call, Gradients, rule


def unbroadcast(call: Call, gradients: Gradients) -> Gradients:
    """Gradients of the result's shape, summed to the shapes of the inputs."""
    return {
        position: None if gradient is None else call.b.sum_to(gradient, call.input(position), source=call.y)
        for position, gradient in gradients.items()
    }


@rule("Add", "Sum")
def add(call: Call) -> Gradients:
    return unbroadcast(call, dict.fromkeys(call.wanted, call.g))


@rule("Mul")
def mul(call: Call) -> Gradients:
    return unbroadcast(
        call, {position: call.b.op("Mul", call.g, call.input(1 - position)) for position in call.wanted}
    )


@rule("Exp")
def exp(call: Call) -> Gradients:
    """d exp(x) = exp(x)."""
    return {0: call.b.op("Mul", call.g, call.y)}


@rule("Identity")
def identity(call: Call) -> Gradients:
    return {0: call.g}


def masked(call: Call, mask: ir.Value, gradient: ir.Value) -> ir.Value:
    """The gradient where a mask of truth values holds, else 0 (also where the gradient is not a number)."""
    return call.b.op("Where", mask, gradient, call.b.number(0, gradient))
