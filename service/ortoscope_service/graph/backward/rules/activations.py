"""Activation functions.

Masks are taken from the output where that is exact: ONNX Runtime can then fuse the activation into the convolution
before it, and need not keep what lies between.
"""

import math

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import data_type
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.elementwise import affine, masked, scaled, share, unbroadcast
from ortoscope_service.graph.constants import constant_scalar, float_attribute, string_attribute


@rule("Relu")
def relu(call: Call) -> Gradients:
    """The derivative is 1 where the output is positive, else 0, also at the kink, as in PyTorch."""
    return {0: masked(call, call.b.op("Greater", call.y, call.b.number(0, call.y)), call.g)}


@rule("Clip")
def clip(call: Call) -> Gradients:
    """The derivative is 1 between the bounds, 0 beyond.

    At constant bounds it is 0, as in PyTorch's `relu6` and `hardtanh`, for the output cannot tell an input there from
    one beyond; PyTorch's `clamp` by numbers, which has 1 there, looks the same in ONNX. With a computed bound it is
    min(max(x, low), high), where equal operands get half each, as in PyTorch's `clamp` by tensors.
    """
    bounds = [call.optional_input(1), call.optional_input(2)]
    constant = all(bound is None or constant_scalar(bound) is not None for bound in bounds)
    if constant and call.wanted == {0}:
        return {0: _clip_constant(call, *map(constant_scalar, bounds))}
    return unbroadcast(call, _clip_computed(call, *bounds))


def _clip_constant(call: Call, low: float | None, high: float | None) -> ir.Value:
    b, largest = call.b, data_type(call.y).max
    inside = []
    # Exporters write a bound that is left out as the largest number.
    if low is not None and low > -largest:
        inside.append(b.op("Greater", call.y, b.number(low, call.y)))
    if high is not None and high < largest:
        inside.append(b.op("Less", call.y, b.number(high, call.y)))
    if not inside:
        return call.g
    return masked(call, b.op("And", *inside) if len(inside) > 1 else inside[0], call.g)


def _clip_computed(call: Call, low: ir.Value | None, high: ir.Value | None) -> dict[int, ir.Value]:
    b, g = call.b, call.g
    gradients: dict[int, ir.Value] = {}
    if high is not None:
        raised = call.x if low is None else b.op("Max", call.x, low)
        gradients[2] = share(b, "Min", high, raised, g)
        g = share(b, "Min", raised, high, g)
    if low is not None:
        gradients[1] = share(b, "Max", low, call.x, g)
        g = share(b, "Max", call.x, low, g)
    return {0: g, **gradients}


@rule("LeakyRelu")
def leaky_relu(call: Call) -> Gradients:
    """The derivative is 1 where x > 0, else alpha."""
    b, alpha = call.b, _number(call, "alpha", 0.01)
    # With a negative slope outputs are positive on both sides.
    sign = call.y if alpha >= 0 else call.x
    return scaled(call, b.op("Where", _is_positive(call, sign), b.number(1, call.x), b.number(alpha, call.x)))


@rule("PRelu")
def prelu(call: Call) -> Gradients:
    """The derivative is 1 where x > 0, else the slope; by the slope it is x where that is negative."""
    b, x = call.b, call.x
    by_input = b.op("Where", _is_positive(call, x), call.g, b.op("Mul", call.g, call.input(1)))
    return unbroadcast(call, {0: by_input, 1: b.op("Mul", call.g, b.op("Min", x, b.number(0, x)))})


@rule("Elu")
def elu(call: Call) -> Gradients:
    """The derivative is 1 where x > 0, else alpha exp(x) = y + alpha."""
    return _exponential(call, 1, affine(call.b, call.y, offset=_number(call, "alpha", 1)))


@rule("Selu")
def selu(call: Call) -> Gradients:
    """The derivative is gamma where x > 0, else gamma alpha exp(x) = y + gamma alpha."""
    alpha = _number(call, "alpha", 1.67326319217681884765625)
    gamma = _number(call, "gamma", 1.05070102214813232421875)
    return _exponential(call, gamma, affine(call.b, call.y, offset=gamma * alpha))


@rule("Celu")
def celu(call: Call) -> Gradients:
    """The derivative is 1 where x > 0, else exp(x / alpha) = y / alpha + 1."""
    return _exponential(call, 1, affine(call.b, call.y, 1 / _number(call, "alpha", 1), 1))


def _exponential(call: Call, right: float, left: ir.Value) -> Gradients:
    """Gradients with these derivatives where x > 0 and elsewhere."""
    return scaled(call, call.b.op("Where", _is_positive(call, call.x), call.b.number(right, call.x), left))


@rule("Sigmoid")
def sigmoid(call: Call) -> Gradients:
    """The derivative is y (1 - y)."""
    return scaled(call, call.b.op("Mul", call.y, affine(call.b, call.y, -1, 1)))


@rule("Tanh")
def tanh(call: Call) -> Gradients:
    """The derivative is 1 - y²."""
    return scaled(call, _one_minus_square(call, call.y))


@rule("HardSigmoid")
def hard_sigmoid(call: Call) -> Gradients:
    """The derivative is alpha where 0 < y < 1, else 0, also at the kinks, as in PyTorch."""
    b = call.b
    inside = b.op("And", _is_positive(call, call.y), b.op("Less", call.y, b.number(1, call.y)))
    return {0: masked(call, inside, affine(b, call.g, _number(call, "alpha", 0.2)))}


@rule("HardSwish")
def hard_swish(call: Call) -> Gradients:
    """The derivative is x / 3 + 1 / 2 where -3 < x < 3; 0 at the left kink, 1 at the right one, as in PyTorch."""
    b, x = call.b, call.x
    one = b.number(1, x)
    below_right = b.op("Less", x, b.number(3, x))
    slope = b.op("Where", below_right, affine(b, x, 1 / 3, 1 / 2), one)
    return scaled(call, masked(call, b.op("Greater", x, b.number(-3, x)), slope))


@rule("Swish")
def swish(call: Call) -> Gradients:
    """With s = sigmoid(alpha x) and y = x s, the derivative is s + alpha y (1 - s)."""
    b, alpha = call.b, _number(call, "alpha", 1)
    s = b.op("Sigmoid", affine(b, call.x, alpha))
    return scaled(call, _product(call, s, affine(b, call.y, alpha)))


@rule("Gelu")
def gelu(call: Call) -> Gradients:
    """The derivative of x Φ(x) is Φ(x) + x φ(x), with Φ of the normal distribution or its approximation by tanh."""
    if string_attribute(call.node, "approximate", "none") == "tanh":
        return scaled(call, _gelu_tanh(call))
    b = call.b
    t = affine(b, call.x, math.sqrt(0.5))
    bell = b.op("Exp", b.op("Neg", b.op("Mul", t, t)))
    # A HardSigmoid that never reaches its bounds is the addition and the multiplication in one.
    below = b.op("HardSigmoid", b.op("Erf", t), alpha=0.5, beta=0.5)
    return scaled(call, b.op("Add", below, affine(b, b.op("Mul", t, bell), 1 / math.sqrt(math.pi))))


def _gelu_tanh(call: Call) -> ir.Value:
    """Since (1 + tanh(u)) / 2 is s = sigmoid(2 u), the function is x s."""
    b, slope = call.b, math.sqrt(8 / math.pi)
    square = b.op("Mul", call.x, call.x)
    s = b.op("Sigmoid", b.op("Mul", call.x, affine(b, square, 0.044715 * slope, slope)))
    return _product(call, s, b.op("Mul", call.y, affine(b, square, 3 * 0.044715 * slope, slope)))


def _product(call: Call, s: ir.Value, y_by_argument: ir.Value) -> ir.Value:
    """The derivative of y = x s where s is the sigmoid of an argument: s + y (1 - s) d argument / dx."""
    b = call.b
    return b.op("Add", s, b.op("Mul", y_by_argument, affine(b, s, -1, 1)))


@rule("Mish")
def mish(call: Call) -> Gradients:
    """With t = tanh(softplus(x)) the derivative of x t is t + x sigmoid(x) (1 - t²)."""
    b = call.b
    t = b.op("Tanh", b.op("Softplus", call.x))
    rise = b.op("Mul", b.op("Sigmoid", call.x), _one_minus_square(call, t))
    return scaled(call, b.op("Add", t, b.op("Mul", call.x, rise)))


@rule("Softplus")
def softplus(call: Call) -> Gradients:
    """The derivative is sigmoid(x)."""
    return scaled(call, call.b.op("Sigmoid", call.x))


@rule("Softsign")
def softsign(call: Call) -> Gradients:
    """The derivative is 1 / (1 + |x|)²."""
    b = call.b
    size = affine(b, b.op("Abs", call.x), offset=1)
    return {0: b.op("Div", call.g, b.op("Mul", size, size))}


@rule("ThresholdedRelu")
def thresholded_relu(call: Call) -> Gradients:
    """The derivative is 1 where x > alpha, else 0, also at the jump, as in PyTorch."""
    b = call.b
    return {0: masked(call, b.op("Greater", call.x, b.number(_number(call, "alpha", 1), call.x)), call.g)}


@rule("Shrink")
def shrink(call: Call) -> Gradients:
    """The derivative is 1 where |x| > lambd, else 0, also at the jumps, as in PyTorch."""
    b = call.b
    beyond = b.op("Greater", b.op("Abs", call.x), b.number(_number(call, "lambd", 0.5), call.x))
    return {0: masked(call, beyond, call.g)}


def _is_positive(call: Call, value: ir.Value) -> ir.Value:
    return call.b.op("Greater", value, call.b.number(0, value))


def _one_minus_square(call: Call, value: ir.Value) -> ir.Value:
    return affine(call.b, call.b.op("Mul", value, value), -1, 1)


def _number(call: Call, name: str, default: float) -> float:
    """An attribute, or its default to the precision that attributes have."""
    given = float_attribute(call.node, name)
    return float(np.float32(default)) if given is None else given
