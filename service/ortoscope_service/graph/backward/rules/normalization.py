"""Normalization over channels, neighbours, groups and rows.

x̂ is a value after normalization, before scale and bias; d is its deviation from the mean and r the factor that makes
x̂ of it. They are found from the input again, deviations first, so that nothing cancels, and for half precision in
single precision, as the standard has it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank
from ortoscope_service.graph.backward.layout import can_be_blocked, channel_count, is_blocked
from ortoscope_service.graph.backward.placing import in_single
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.elementwise import affine, converted
from ortoscope_service.graph.backward.rules.shapes import normal_axis
from ortoscope_service.graph.backward.sizes import extent, extents, listed, quotient, times
from ortoscope_service.graph.constants import float_attribute, int_attribute, ints_attribute

_TINY = 1e-9
"""The ε of MeanVarianceNormalization."""


@rule("BatchNormalization")
def batch_normalization(call: Call) -> Gradients:
    """With y = s (x - m) / sqrt(v + ε) + t, and m and v given, x gets g s / sqrt(v + ε).

    In training mode m and v are those of the batch, as in InstanceNormalization.
    """
    if int_attribute(call.node, "training_mode", 0):
        if any(cotangent is not None for cotangent in call.cotangents[1:]):
            raise call.refuse("by its running statistics")
        return _per_channel(call, [axis for axis in range(rank(call.x)) if axis != 1])
    b, g, axes = call.b, call.g, rank(call.x)
    scale, mean, variance = call.input(1), call.input(3), call.input(4)
    spread = b.op("Sqrt", affine(b, variance, offset=_epsilon(call)))
    factor = b.op("Div", converted(b, scale, variance), spread)
    gradients: dict[int, ir.Value | None] = {}
    if 0 in call.wanted:
        gradients[0] = _times_channels(call, converted(b, factor, call.x))
    if call.wanted & {2, 3}:
        total = converted(b, _over_channels(b, g, axes), variance)
        gradients[2] = converted(b, total, call.input(2))
        gradients[3] = b.op("Neg", b.op("Mul", total, factor))
    if call.wanted & {1, 4}:
        deviation = b.op("Sub", call.x, _along_channels(b, converted(b, mean, call.x), call.x))
        moment = converted(b, _over_channels(b, b.op("Mul", g, deviation), axes), variance)
        by_scale = b.op("Div", moment, spread)
        gradients[1] = converted(b, by_scale, scale)
        gradients[4] = affine(b, b.op("Div", b.op("Mul", by_scale, factor), spread), -0.5)
    return gradients


def _times_channels(call: Call, factor: ir.Value) -> ir.Value:
    """The cotangent times a factor per channel; by a convolution of one tap where that stays in the blocked layout.

    Such a convolution is merged with that which is the gradient of a convolution before the normalization.
    """
    b, x, g = call.b, call.x, call.g
    if can_be_blocked(x) and (is_blocked(x) or is_blocked(g)):
        channels = channel_count(x)
        weight = b.op("Reshape", factor, b.ints([channels, 1, 1, 1]))
        weight.shape = ir.Shape([channels, 1, 1, 1])
        return b.op("Conv", g, weight, group=channels)
    return b.op("Mul", g, _along_channels(b, factor, x))


@rule("InstanceNormalization")
def instance_normalization(call: Call) -> Gradients:
    """With y = s x̂ + t for each channel of each item, x gets s r (g - mean(g) - x̂ mean(g x̂))."""
    return _per_channel(call, range(2, rank(call.x)))


def _per_channel(call: Call, axes: Sequence[int]) -> Gradients:
    """The same with x̂ taken over any axes but that of the channels."""
    b, scale = call.b, call.input(1)
    x = in_single(b, call.x, call.x)
    g = converted(b, call.g, x)
    d, r = _standard(b, x, axes, _epsilon(call))
    factor = _along_channels(b, converted(b, scale, x), call.x)
    gradients = {0: _through(b, _centered(b, g, axes), d, r, axes, factor)}
    if 1 in call.wanted:
        gradients[1] = _over_channels(b, b.op("Mul", g, b.op("Mul", d, r)), rank(call.x))
    if 2 in call.wanted:
        gradients[2] = _over_channels(b, g, rank(call.x))
    return _as_inputs(call, gradients)


@rule("GroupNormalization")
def group_normalization(call: Call) -> Gradients:
    """With ĝ = s g, x gets r (ĝ - mean(ĝ) - x̂ mean(ĝ x̂)), the means over groups of channels."""
    b, groups = call.b, int_attribute(call.node, "num_groups", 1)
    batch, channels, *space = extents(b, call.x)
    shape = listed(b, [batch, groups, quotient(b, channels, groups), times(b, *space)])
    x, g = (b.op("Reshape", in_single(b, value, call.x), shape, allowzero=1) for value in (call.x, call.g))
    scale = b.op("Reshape", converted(b, call.input(1), x), b.ints([groups, -1, 1]))
    d, r = _standard(b, x, [2, 3], _epsilon(call))
    gradients = {0: _through(b, _centered(b, b.op("Mul", g, scale), [2, 3]), d, r, [2, 3])}
    if 1 in call.wanted:
        gradients[1] = b.sum_to(b.op("Mul", g, b.op("Mul", d, r)), scale)
    if 2 in call.wanted:
        gradients[2] = b.sum_to(g, scale)
    shaped = {position: b.reshape_like(value, call.input(position)) for position, value in gradients.items()}
    return _as_inputs(call, shaped)


@rule("LayerNormalization")
def layer_normalization(call: Call) -> Gradients:
    """With ĝ = s g, x gets r (ĝ - mean(ĝ) - x̂ mean(ĝ x̂)), the means over the last axes.

    The mean's cotangent is spread evenly, that of r along -d r³.
    """
    b = call.b
    x = in_single(b, call.x, call.x)
    g = converted(b, call.g, x)
    axes = range(normal_axis(call, -1), rank(call.x))
    d, r = _standard(b, x, axes, _epsilon(call))
    scaled = b.op("Mul", g, converted(b, call.input(1), x))
    gradients = {0: _through(b, _centered(b, scaled, axes), d, r, axes)}
    _, by_mean, by_factor = (*call.cotangents, None, None)[:3]
    if by_mean is not None:
        part = b.op("Div", converted(b, by_mean, x), _count(call, axes, x))
        gradients[0] = b.op("Add", gradients[0], part)
    if by_factor is not None:
        part = b.op("Div", converted(b, by_factor, x), _count(call, axes, x))
        gradients[0] = b.op("Sub", gradients[0], b.op("Mul", d, _times_cube(b, part, r)))
    if 1 in call.wanted:
        gradients[1] = b.sum_to(b.op("Mul", g, b.op("Mul", d, r)), call.input(1), source=call.y)
    if 2 in call.wanted:
        gradients[2] = b.sum_to(g, call.input(2), source=call.y)
    return _as_inputs(call, gradients)


@rule("RMSNormalization")
def rms_normalization(call: Call) -> Gradients:
    """With y = s x̂, x̂ = x r, r = 1 / sqrt(mean(x²) + ε) and ĝ = s g, x gets r (ĝ - x̂ mean(ĝ x̂))."""
    b = call.b
    x = in_single(b, call.x, call.x)
    g = converted(b, call.g, x)
    axes = range(normal_axis(call, -1), rank(call.x))
    r = _factor(b, x, axes, _epsilon(call))
    gradients = {0: _through(b, b.op("Mul", g, converted(b, call.input(1), x)), x, r, axes)}
    if 1 in call.wanted:
        gradients[1] = b.sum_to(b.op("Mul", g, b.op("Mul", x, r)), call.input(1), source=call.y)
    return _as_inputs(call, gradients)


@rule("MeanVarianceNormalization")
def mean_variance_normalization(call: Call) -> Gradients:
    """With y = d r, r = 1 / (s + ε), s² = mean(d²), x gets r (g - mean(g)) - d r² mean(g d) / s, with 0 for 0 / 0."""
    b = call.b
    x = in_single(b, call.x, call.x)
    g = converted(b, call.g, x)
    axes = [axis % rank(call.x) for axis in ints_attribute(call.node, "axes") or (0, 2, 3)]
    d = _centered(b, x, axes)
    spread = b.op("Sqrt", _mean(b, b.op("Mul", d, d), axes))
    r = b.op("Reciprocal", affine(b, spread, offset=_TINY))
    divisor = b.op("Where", b.op("Equal", spread, b.number(0, x)), b.number(1, x), spread)
    moment = b.op("Mul", b.op("Mul", _mean(b, b.op("Mul", g, d), axes), r), r)
    along = b.op("Mul", d, b.op("Div", moment, divisor))
    return _as_inputs(call, {0: b.op("Sub", b.op("Mul", _centered(b, g, axes), r), along)})


@rule("LpNormalization")
def lp_normalization(call: Call) -> Gradients:
    """With y = x / n, x gets (g - y Σ g y) / n for p = 2, (g - sign(x) Σ g y) / n for p = 1, and 0 where n = 0."""
    b, p = call.b, int_attribute(call.node, "p", 2)
    axis = b.ints([normal_axis(call, -1)])
    norm = b.op(f"ReduceL{p}", call.x, axis, keepdims=1)
    zero = b.number(0, norm)
    inverse = b.op("Where", b.op("Equal", norm, zero), zero, b.op("Reciprocal", norm))
    along = call.y if p == 2 else b.op("Sign", call.x)
    total = b.op("ReduceSum", b.op("Mul", call.g, call.y), axis, keepdims=1)
    return {0: b.op("Mul", b.op("Sub", call.g, b.op("Mul", along, total)), inverse)}


@rule("LRN")
def local_response_normalization(call: Call) -> Gradients:
    """With y = x / cᵝ, c = bias + a Σ x² over a window of channels, x gets g / cᵝ - 2 a β x Σ' g y / c.

    There a is alpha / size, and Σ' is over the channels in whose windows a channel lies. Either sum is a convolution
    with ones around the diagonal: many needless products, but far less time than a sum of slices takes, or the operator
    itself.
    """
    b, node = call.b, call.node
    size, beta = int_attribute(node, "size", 1), _number(call, "beta", 0.75)
    alpha = _number(call, "alpha", 1e-4) / size
    channels = extent(b, call.x, 1)
    if not isinstance(channels, int):
        raise call.refuse("with a free number of channels")
    x, g = in_single(b, call.x, call.x), in_single(b, call.g, call.x)
    if rank(call.x) != 4:
        shape = listed(b, [extent(b, call.x, 0), channels, times(b, *extents(b, call.x)[2:]), 1])
        x, g = (b.op("Reshape", value, shape, allowzero=1) for value in (x, g))
    window = _near(channels, (size - 1) // 2, size // 2)
    base = _mixed(b, b.op("Mul", x, x), alpha * window, _number(call, "bias", 1.0))
    scaled = b.op("Div", g, _power(b, base, beta))
    spread = _mixed(b, b.op("Div", b.op("Mul", scaled, x), base), -2 * alpha * beta * window.T)
    return _as_inputs(call, {0: b.reshape_like(b.op("Add", scaled, b.op("Mul", x, spread)), call.x)})


def _near(channels: int, before: int, after: int) -> npt.NDArray[np.float64]:
    """A matrix with ones where the column is at most so far before or after the row."""
    distance = np.arange(channels) - np.arange(channels)[:, None]
    return ((-before <= distance) & (distance <= after)).astype(np.float64)


def _mixed(b: Builder, value: ir.Value, matrix: npt.NDArray[np.float64], offset: float = 0.0) -> ir.Value:
    """The channels at each place multiplied by a matrix."""
    weight = b.constant(matrix[:, :, None, None], data_type(value))
    bias = b.constant(np.full(len(matrix), offset), data_type(value)) if offset else None
    return b.op("Conv", value, weight, bias)


def _power(b: Builder, base: ir.Value, exponent: float) -> ir.Value:
    """A power; for the exponents in use by roots, which take a tenth of the time."""
    if exponent == 1:
        return base
    if exponent in {0.5, 0.75}:
        root = b.op("Sqrt", base)
        return root if exponent == 0.5 else b.op("Mul", root, b.op("Sqrt", root))
    return b.op("Pow", base, b.number(exponent, base))


def _standard(b: Builder, x: ir.Value, axes: Sequence[int], epsilon: float) -> tuple[ir.Value, ir.Value]:
    """The deviation from the mean, and the factor that makes the mean of its square 1."""
    d = _centered(b, x, axes)
    return d, _factor(b, d, axes, epsilon)


def _factor(b: Builder, d: ir.Value, axes: Sequence[int], epsilon: float) -> ir.Value:
    """The value of 1 / sqrt(mean(d²) + ε)."""
    return b.op("Reciprocal", b.op("Sqrt", affine(b, _mean(b, b.op("Mul", d, d), axes), offset=epsilon)))


def _through(
    b: Builder, g: ir.Value, d: ir.Value, r: ir.Value, axes: Sequence[int], factor: ir.Value | None = None
) -> ir.Value:
    """What d gets where g is the cotangent of d r times a factor: g r - d r³ mean(g d), times the factor."""
    along = _times_cube(b, _mean(b, b.op("Mul", g, d), axes), r)
    if factor is not None:
        r, along = b.op("Mul", r, factor), b.op("Mul", along, factor)
    return b.op("Sub", b.op("Mul", g, r), b.op("Mul", d, along))


def _times_cube(b: Builder, value: ir.Value, r: ir.Value) -> ir.Value:
    """The value times r³, which itself could overflow."""
    return b.op("Mul", b.op("Mul", b.op("Mul", value, r), r), r)


def _mean(b: Builder, value: ir.Value, axes: Sequence[int]) -> ir.Value:
    """The mean over axes, which are kept; the value itself if there are none."""
    return b.op("ReduceMean", value, b.ints(axes), keepdims=1) if axes else value


def _centered(b: Builder, value: ir.Value, axes: Sequence[int]) -> ir.Value:
    """The deviation from the mean over axes."""
    return b.op("Sub", value, _mean(b, value, axes))


def _count(call: Call, axes: Sequence[int], like: ir.Value) -> ir.Value:
    """How many elements of the input are along some axes."""
    count = times(call.b, *(extent(call.b, call.x, axis) for axis in axes))
    return call.b.number(count, like) if isinstance(count, int) else call.b.op("Cast", count, to=data_type(like))


def _along_channels(b: Builder, numbers: ir.Value, like: ir.Value) -> ir.Value:
    """A number for each channel of a value, in a shape that broadcasts to the value's."""
    space = rank(like) - 2
    return numbers if space <= 0 else b.op("Reshape", numbers, b.ints([-1, *[1] * space]))


def _over_channels(b: Builder, value: ir.Value, axes: int) -> ir.Value:
    """The sum for each channel of a tensor with so many axes."""
    return b.op("ReduceSum", value, b.ints([axis for axis in range(axes) if axis != 1]), keepdims=0)


def _as_inputs(call: Call, gradients: dict[int, ir.Value]) -> Gradients:
    """Gradients in the types of their inputs."""
    return {position: converted(call.b, gradient, call.input(position)) for position, gradient in gradients.items()}


def _epsilon(call: Call) -> float:
    return _number(call, "epsilon", 1e-5)


def _number(call: Call, name: str, default: float) -> float:
    given = float_attribute(call.node, name)
    return default if given is None else given
