"""Arithmetic and functions of single elements, with broadcasting."""

import itertools
import math
from collections.abc import Mapping

import onnx_ir as ir

from ortoscope_service.graph.backward import gates
from ortoscope_service.graph.backward.builder import Builder, data_type
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.constants import constant_scalar, int_attribute


@rule("Add", "Sum")
def add(call: Call) -> Gradients:
    """Every term gets the sum's cotangent."""
    return unbroadcast(call, dict.fromkeys(call.wanted, call.g))


@rule("Sub")
def sub(call: Call) -> Gradients:
    """The subtrahend gets the negative cotangent."""
    return _negated(call, 1, unbroadcast(call, {0: call.g, 1: call.g}))


@rule("Mul")
def mul(call: Call) -> Gradients:
    """Each factor gets the cotangent times the other."""
    return unbroadcast(call, {position: call.b.op("Mul", call.g, call.input(1 - position)) for position in (0, 1)})


@rule("Div")
def div(call: Call) -> Gradients:
    """With the quotient y = a / b, the derivatives are 1 / b and -y / b."""
    by_dividend = call.b.op("Div", call.g, call.input(1))
    return _negated(call, 1, unbroadcast(call, {0: by_dividend, 1: call.b.op("Mul", by_dividend, call.y)}))


@rule("Neg")
def neg(call: Call) -> Gradients:
    """The derivative is -1."""
    return {0: call.b.op("Neg", call.g)}


@rule("Sqrt")
def sqrt(call: Call) -> Gradients:
    """The derivative is 1 / (2 y), infinite at 0."""
    return {0: call.b.op("Div", call.g, call.b.op("Add", call.y, call.y))}


@rule("Reciprocal")
def reciprocal(call: Call) -> Gradients:
    """The derivative is -y²."""
    return scaled(call, call.b.op("Neg", call.b.op("Mul", call.y, call.y)))


@rule("Exp")
def exp(call: Call) -> Gradients:
    """The derivative is y."""
    return scaled(call, call.y)


@rule("Log")
def log(call: Call) -> Gradients:
    """The derivative is 1 / x."""
    return {0: call.b.op("Div", call.g, call.x)}


@rule("Pow")
def power(call: Call) -> Gradients:
    """By the base it is e aᵉ⁻¹, 0 where e = 0; by the exponent y log(a), 0 where a = 0 ≤ e: both as in PyTorch."""
    gradients: dict[int, ir.Value] = {}
    if 0 in call.wanted:
        exponent = constant_scalar(call.input(1))
        derivative = _power_by_base(call) if exponent is None else _power_by_base_constant(call, exponent)
        gradients[0] = call.b.op("Mul", call.g, derivative)
    if 1 in call.wanted:
        by_exponent = call.b.op("Mul", call.g, _power_by_exponent(call))
        gradients[1] = converted(call.b, by_exponent, call.input(1))
    return unbroadcast(call, gradients)


def _power_by_base(call: Call) -> ir.Value:
    b, exponent = call.b, converted(call.b, call.input(1), call.x)
    derivative = b.op("Mul", exponent, b.op("Pow", call.x, affine(b, exponent, offset=-1)))
    zero = b.number(0, exponent)
    return b.op("Where", b.op("Equal", exponent, zero), zero, derivative)


def _power_by_base_constant(call: Call, exponent: float) -> ir.Value:
    b, x = call.b, call.x
    if exponent in {0, 1}:
        return b.number(exponent, x)
    if exponent == 2:
        return b.op("Add", x, x)
    return affine(b, b.op("Pow", x, b.number(exponent - 1, x)), exponent)


def _power_by_exponent(call: Call) -> ir.Value:
    b, base, exponent = call.b, call.x, call.input(1)
    zero = b.number(0, base)
    vanishes = b.op("And", b.op("Equal", base, zero), b.op("GreaterOrEqual", exponent, b.number(0, exponent)))
    return b.op("Where", vanishes, zero, b.op("Mul", call.y, b.op("Log", base)))


@rule("Abs")
def absolute(call: Call) -> Gradients:
    """The derivative is sign(x), 0 at 0."""
    return scaled(call, call.b.op("Sign", call.x))


@rule("Erf")
def erf(call: Call) -> Gradients:
    """The derivative is 2 / sqrt(π) exp(-x²)."""
    b = call.b
    bell = b.op("Exp", b.op("Neg", b.op("Mul", call.x, call.x)))
    return scaled(call, affine(b, bell, 2 / math.sqrt(math.pi)))


@rule("Sin")
def sin(call: Call) -> Gradients:
    """The derivative is cos(x)."""
    return scaled(call, call.b.op("Cos", call.x))


@rule("Cos")
def cos(call: Call) -> Gradients:
    """The derivative is -sin(x)."""
    return scaled(call, call.b.op("Neg", call.b.op("Sin", call.x)))


@rule("Tan")
def tan(call: Call) -> Gradients:
    """The derivative is 1 + y²."""
    return scaled(call, _square(call, call.y, 1, 1))


@rule("Asin")
def asin(call: Call) -> Gradients:
    """The derivative is 1 / sqrt(1 - x²)."""
    return {0: call.b.op("Div", call.g, call.b.op("Sqrt", _square(call, call.x, -1, 1)))}


@rule("Acos")
def acos(call: Call) -> Gradients:
    """The derivative is -1 / sqrt(1 - x²)."""
    return {0: call.b.op("Neg", call.b.op("Div", call.g, call.b.op("Sqrt", _square(call, call.x, -1, 1))))}


@rule("Atan")
def atan(call: Call) -> Gradients:
    """The derivative is 1 / (x² + 1)."""
    return {0: call.b.op("Div", call.g, _square(call, call.x, 1, 1))}


@rule("Sinh")
def sinh(call: Call) -> Gradients:
    """The derivative is cosh(x)."""
    return scaled(call, call.b.op("Cosh", call.x))


@rule("Cosh")
def cosh(call: Call) -> Gradients:
    """The derivative is sinh(x)."""
    return scaled(call, call.b.op("Sinh", call.x))


@rule("Asinh")
def asinh(call: Call) -> Gradients:
    """The derivative is 1 / sqrt(x² + 1)."""
    return {0: call.b.op("Div", call.g, call.b.op("Sqrt", _square(call, call.x, 1, 1)))}


@rule("Acosh")
def acosh(call: Call) -> Gradients:
    """The derivative is 1 / sqrt(x² - 1)."""
    return {0: call.b.op("Div", call.g, call.b.op("Sqrt", _square(call, call.x, 1, -1)))}


@rule("Atanh")
def atanh(call: Call) -> Gradients:
    """The derivative is 1 / (1 - x²)."""
    return {0: call.b.op("Div", call.g, _square(call, call.x, -1, 1))}


def _square(call: Call, value: ir.Value, factor: float, offset: float) -> ir.Value:
    """The value of factor * value² + offset."""
    return affine(call.b, call.b.op("Mul", value, value), factor, offset)


@rule("Mod")
def mod(call: Call) -> Gradients:
    """The remainder is a - q d with a whole quotient q, which is constant between the jumps."""
    b = call.b
    # Recomputed, it is whole but for rounding errors.
    quotient = b.op("Round", b.op("Div", b.op("Sub", call.x, call.y), call.input(1)))
    return _negated(call, 1, unbroadcast(call, {0: call.g, 1: b.op("Mul", call.g, quotient)}))


@rule("Max", "Min")
def extremum(call: Call) -> Gradients:
    """All goes to the operand chosen; if two are equal, half to each, as in PyTorch's `maximum`.

    Three and more are a chain from the front, max(max(a, b), c): if all are equal, c gets half, a and b a quarter each.
    A constant number is a bound, as in activation functions: the derivative at it is 0, as at constant bounds of Clip.
    """
    b, op_type = call.b, call.node.op_type
    gate = gates.gate_of(call.y)
    if gate is not None and all(constant_scalar(call.input(position)) is None for position in call.wanted):
        return dict.fromkeys(call.wanted, gates.passed(b, call.g, call.y, gate))
    operands = [call.input(position) for position in range(len(call.node.inputs))]
    chain = list(itertools.accumulate(operands[:-1], lambda one, other: b.op(op_type, one, other)))
    gradients, g = {}, call.g
    for position in range(len(chain), 0, -1):
        before, operand = chain[position - 1], operands[position]
        gradients[position] = share(b, op_type, operand, before, g)
        g = share(b, op_type, before, operand, g)
    return unbroadcast(call, {0: g, **gradients})


def share(b: Builder, op_type: str, own: ir.Value, other: ir.Value, g: ir.Value) -> ir.Value:
    """What an operand of a `Max` or `Min` of two gets: all if it is chosen, half if both are equal.

    Args:
        b: Where to emit.
        op_type: `Max` or `Min`.
        own: The operand.
        other: The other one.
        g: The cotangent of the result.
    """
    better = "Greater" if op_type == "Max" else "Less"
    # ONNX Runtime takes ten times as long for a `Where`.
    votes = [b.op("Cast", b.op(compare, own, other), to=data_type(g)) for compare in (better, better + "OrEqual")]
    return b.op("Mul", g, affine(b, b.op("Add", *votes), 0.5))


@rule("Mean")
def mean(call: Call) -> Gradients:
    """Every term gets the same part."""
    return unbroadcast(call, dict.fromkeys(call.wanted, affine(call.b, call.g, 1 / len(call.node.inputs))))


@rule("Where")
def where(call: Call) -> Gradients:
    """The cotangent goes to the operand chosen."""
    b, condition, zero = call.b, call.x, call.b.number(0, call.g)
    return unbroadcast(call, {1: b.op("Where", condition, call.g, zero), 2: b.op("Where", condition, zero, call.g)})


@rule("Identity")
def identity(call: Call) -> Gradients:
    """The cotangent itself."""
    return {0: call.g}


@rule("Cast", "CastLike")
def cast(call: Call) -> Gradients:
    """The cotangent in the input's type."""
    return {0: converted(call.b, call.g, call.x)}


@rule("Dropout")
def dropout(call: Call) -> Gradients:
    """Nothing is dropped outside of training."""
    training = call.optional_input(2)
    if training is not None and constant_scalar(training) != 0:
        raise call.refuse("with a training_mode that is not a constant false")
    return {0: call.g}


@rule("Trilu")
def trilu(call: Call) -> Gradients:
    """The same triangle of the cotangent."""
    upper = int_attribute(call.node, "upper", 1)
    return {0: call.b.op("Trilu", call.g, call.optional_input(1), upper=upper)}


def scaled(call: Call, derivative: ir.Value) -> Gradients:
    """The cotangent times the derivative at each element."""
    return {0: call.b.op("Mul", call.g, derivative)}


def unbroadcast(call: Call, gradients: Mapping[int, ir.Value]) -> dict[int, ir.Value]:
    """Gradients of the result's shape, summed to the shapes of the inputs; those that nobody asks for are left out.

    What was emitted for these alone is no part of the graph in the end.
    """
    return {
        position: call.b.sum_to(gradient, call.input(position), source=call.y)
        for position, gradient in gradients.items()
        if position in call.wanted
    }


def _negated(call: Call, position: int, gradients: dict[int, ir.Value]) -> Gradients:
    """Turns the sign of one gradient, if it is there; after the summing, when there is less of it."""
    if position in gradients:
        gradients[position] = call.b.op("Neg", gradients[position])
    return gradients


def affine(b: Builder, value: ir.Value, factor: float = 1.0, offset: float = 0.0) -> ir.Value:
    """The value of factor * value + offset."""
    if factor == -1 and offset:
        return b.op("Sub", b.number(offset, value), value)
    if factor != 1:
        value = b.op("Mul", value, b.number(factor, value))
    return b.op("Add", value, b.number(offset, value)) if offset else value


def converted(b: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    """A value in another's data type."""
    return value if value.dtype == like.dtype else b.op("Cast", value, to=data_type(like))
