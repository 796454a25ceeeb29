"""Activation functions.

Masks are taken from the output where that is exact: ONNX Runtime can then fuse the activation into the convolution
before it, and need not keep what lies between. They are numbers, 1 or 0, to multiply with, as ONNX Runtime takes ten
times as long to choose by truth values: a cotangent that is not finite gives NaN where a function is flat.
"""

import math

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward import gates
from ortoscope_service.graph.backward.gates import Gate
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.elementwise import affine, scaled, share, unbroadcast
from ortoscope_service.graph.constants import constant_scalar, float_attribute, string_attribute


@rule("Relu")
def relu(call: Call) -> Gradients:
    """The derivative is 1 where the output is positive, else 0, also at the kink, as in PyTorch."""
    return {0: gates.passed(call.b, call.g, call.y, Gate(0.0, None))}


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
        gate = gates.gate_of(call.y)
        return {0: call.g if gate is None else gates.passed(call.b, call.g, call.y, gate)}
    return unbroadcast(call, _clip_computed(call, *bounds))


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
    # With a negative slope, outputs are positive on both sides.
    positive = gates.is_above(b, call.y if alpha >= 0 else call.x, 0)
    slope = (
        b.op("Max", positive, b.number(alpha, positive)) if 0 <= alpha <= 1 else affine(b, positive, 1 - alpha, alpha)
    )
    return scaled(call, slope)


@rule("PRelu")
def prelu(call: Call) -> Gradients:
    """The derivative is 1 where x > 0, else the slope; by the slope it is x where that is negative."""
    b = call.b
    right = b.op("Mul", call.g, gates.is_above(b, call.x, 0))
    left = b.op("Sub", call.g, right)
    by_input = b.op("Add", right, b.op("Mul", left, call.input(1)))
    return unbroadcast(call, {0: by_input, 1: b.op("Mul", left, call.x)})


@rule("Elu")
def elu(call: Call) -> Gradients:
    """The derivative is 1 where x > 0, else alpha exp(x) = y + alpha."""
    return _exponential(call, _number(call, "alpha", 1), 1)


@rule("Selu")
def selu(call: Call) -> Gradients:
    """The derivative is gamma where x > 0, else gamma alpha exp(x) = y + gamma alpha."""
    alpha = _number(call, "alpha", 1.67326319217681884765625)
    gamma = _number(call, "gamma", 1.05070102214813232421875)
    return _exponential(call, gamma * alpha, gamma)


@rule("Celu")
def celu(call: Call) -> Gradients:
    """The derivative is 1 where x > 0, else exp(x / alpha) = y / alpha + 1."""
    negative = call.b.op("Min", call.y, call.b.number(0, call.y))
    return scaled(call, affine(call.b, negative, 1 / _number(call, "alpha", 1), 1))


def _exponential(call: Call, left: float, right: float) -> Gradients:
    """The derivative is y + left where x <= 0, else right."""
    b = call.b
    positive = gates.is_above(b, call.x, 0)
    if left >= 0:
        negative = b.op("Min", call.y, b.number(0, call.y))
    else:
        # With a negative factor, outputs are positive on both sides.
        negative = b.op("Mul", call.y, affine(b, positive, -1, 1))
    derivative = affine(b, negative, offset=left)
    return scaled(call, b.op("Add", derivative, affine(b, positive, right - left)) if right != left else derivative)


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
    g = affine(call.b, call.g, _number(call, "alpha", 0.2))
    return {0: gates.passed(call.b, g, call.y, Gate(0.0, 1.0))}


@rule("HardSwish")
def hard_swish(call: Call) -> Gradients:
    """With y = x s, s = max(0, min(1, x / 6 + 1 / 2)), it is s + x / 6 where 0 < s < 1, else s, as in PyTorch."""
    b = call.b
    s = b.op("HardSigmoid", call.x, alpha=1 / 6, beta=0.5)
    rises = b.op("Mul", gates.is_above(b, s, 0), gates.is_below(b, s, 1))
    return scaled(call, b.op("Add", s, b.op("Mul", affine(b, call.x, 1 / 6), rises)))


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
    return scaled(call, gates.is_above(call.b, call.x, _number(call, "alpha", 1)))


@rule("Shrink")
def shrink(call: Call) -> Gradients:
    """The derivative is 1 where |x| > lambd, else 0, also at the jumps, as in PyTorch."""
    return scaled(call, gates.is_above(call.b, call.b.op("Abs", call.x), _number(call, "lambd", 0.5)))


def _one_minus_square(call: Call, value: ir.Value) -> ir.Value:
    return affine(call.b, call.b.op("Mul", value, value), -1, 1)


def _number(call: Call, name: str, default: float) -> float:
    """An attribute, or its default to the precision that attributes have."""
    given = float_attribute(call.node, name)
    return float(np.float32(default)) if given is None else given
