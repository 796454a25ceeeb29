"""Normalization over channels, neighbours and batches."""

import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, rank
from ortoscope_service.graph.backward.layout import can_be_blocked, channel_count, is_blocked
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.elementwise import affine, converted
from ortoscope_service.graph.constants import float_attribute, int_attribute


@rule("BatchNormalization")
def batch_normalization(call: Call) -> Gradients:
    """With y = s (x - m) / sqrt(v + ε) + t, all of s, t, m and v given, x gets g s / sqrt(v + ε)."""
    b, g = call.b, call.g
    if int_attribute(call.node, "training_mode", 0):
        raise call.refuse("in training mode")
    scale, mean, variance = call.input(1), call.input(3), call.input(4)
    epsilon = float_attribute(call.node, "epsilon")
    spread = b.op("Sqrt", affine(b, variance, offset=1e-5 if epsilon is None else epsilon))
    factor = b.op("Div", converted(b, scale, variance), spread)
    gradients: dict[int, ir.Value | None] = {}
    if 0 in call.wanted:
        gradients[0] = _times_channels(call, converted(b, factor, call.x))
    if call.wanted - {0}:
        total = converted(b, _over_channels(call, g), variance)
        gradients[2] = converted(b, total, call.input(2))
        gradients[3] = b.op("Neg", b.op("Mul", total, factor))
    if call.wanted & {1, 4}:
        deviation = b.op("Sub", call.x, _along_channels(b, converted(b, mean, call.x), rank(call.x)))
        moved = b.op("Div", converted(b, _over_channels(call, b.op("Mul", g, deviation)), variance), spread)
        gradients[1] = converted(b, moved, scale)
        gradients[4] = affine(b, b.op("Div", b.op("Mul", moved, factor), spread), -0.5)
    return gradients


def _times_channels(call: Call, factor: ir.Value) -> ir.Value:
    """The cotangent times a factor per channel; where it stays in the blocked layout, by a convolution of one tap."""
    b, x, g = call.b, call.x, call.g
    if can_be_blocked(x) and (is_blocked(x) or is_blocked(g)):
        channels = channel_count(x)
        weight = b.op("Reshape", factor, b.ints([channels, 1, 1, 1]))
        weight.shape = ir.Shape([channels, 1, 1, 1])
        return b.op("Conv", g, weight, group=channels)
    return b.op("Mul", g, _along_channels(b, factor, rank(x)))


def _along_channels(b: Builder, values: ir.Value, axes: int) -> ir.Value:
    """A list of values for the channels of a tensor with so many axes."""
    return values if axes <= 2 else b.op("Reshape", values, b.ints([-1, *[1] * (axes - 2)]))


def _over_channels(call: Call, value: ir.Value) -> ir.Value:
    """Sums for each channel."""
    others = [axis for axis in range(rank(call.x)) if axis != 1]
    return call.b.op("ReduceSum", value, call.b.ints(others), keepdims=int(rank(call.x) == 1))


@rule("LRN")
def local_response_normalization(call: Call) -> Gradients:
    """With d = bias + α mean(x²) over a window of channels, y = x d⁻ᵝ, x gets g d⁻ᵝ - 2 α β x mean'(g y / d).

    The mean' is over the channels in whose windows a channel lies, that is over the window turned around.
    """
    b, x, node = call.b, call.x, call.node
    size = int_attribute(node, "size", 1)
    alpha, beta, bias = (
        default if (given := float_attribute(node, name)) is None else given
        for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    before, after = (size - 1) // 2, size // 2
    base = affine(b, _window_mean(call, b.op("Mul", x, x), before, after), alpha, bias)
    scaled = b.op("Mul", call.g, b.op("Pow", base, b.number(-beta, x)))
    spread = _window_mean(call, b.op("Div", b.op("Mul", scaled, x), base), after, before)
    return {0: b.op("Sub", scaled, b.op("Mul", affine(b, x, 2 * alpha * beta), spread))}


def _window_mean(call: Call, value: ir.Value, before: int, after: int) -> ir.Value:
    """The mean over neighbouring channels, zeros beyond the first and the last."""
    if before == after == 0:
        return value
    b = call.b
    axes = rank(call.x)
    depth = b.op("Unsqueeze", value, b.ints([1]))
    pooled = b.op(
        "AveragePool",
        depth,
        kernel_shape=[before + after + 1, *[1] * (axes - 2)],
        pads=[before, *[0] * (axes - 2), after, *[0] * (axes - 2)],
        count_include_pad=1,
    )
    return b.op("Squeeze", pooled, b.ints([1]))
