"""Normalization over channels, neighbours, groups and rows.

x̂ is the normalized value, before scale and bias, d the deviation from the mean and r the factor between the two. All are
found from the input again, deviations first, so that nothing cancels; for half precision in single precision, as the
standard has it.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank, static_shape
from ortoscope_service.graph.backward.layout import can_be_blocked, channel_count, is_blocked
from ortoscope_service.graph.backward.placing import in_single
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.rules.elementwise import affine, converted
from ortoscope_service.graph.backward.rules.shapes import normal_axis
from ortoscope_service.graph.backward.sizes import extent, extents, listed, quotient, times
from ortoscope_service.graph.constants import float_attribute, int_attribute, ints_attribute


@rule("BatchNormalization")
def batch_normalization(call: Call) -> Gradients:
    """With y = s (x - m) / sqrt(v + ε) + t and given m and v, x gets g s / sqrt(v + ε).

    In training mode, m and v are those of the batch, as in InstanceNormalization.
    """
    if int_attribute(call.node, "training_mode", 0):
        if any(cotangent is not None for cotangent in call.cotangents[1:]):
            raise call.refuse("by its running statistics")
        return _per_channel(call, call.x, call.g, [axis for axis in range(rank(call.x)) if axis != 1])
    b, g = call.b, call.g
    scale, mean, variance = call.input(1), call.input(3), call.input(4)
    spread = b.op("Sqrt", affine(b, variance, offset=_number(call, "epsilon", 1e-5)))
    factor = b.op("Div", converted(b, scale, variance), spread)
    gradients: dict[int, ir.Value | None] = {}
    if 0 in call.wanted:
        gradients[0] = _times_channels(call, converted(b, factor, call.x))
    if call.wanted & {2, 3}:
        total = converted(b, _over_channels(b, g, rank(call.x)), variance)
        gradients[2] = converted(b, total, call.input(2))
        gradients[3] = b.op("Neg", b.op("Mul", total, factor))
    if call.wanted & {1, 4}:
        deviation = b.op("Sub", call.x, _along_channels(b, converted(b, mean, call.x), rank(call.x)))
        moment = converted(b, _over_channels(b, b.op("Mul", g, deviation), rank(call.x)), variance)
        by_scale = b.op("Div", moment, spread)
        gradients[1] = converted(b, by_scale, scale)
        gradients[4] = affine(b, b.op("Div", b.op("Mul", by_scale, factor), spread), -0.5)
    return gradients


def _times_channels(call: Call, factor: ir.Value) -> ir.Value:
    """The cotangent times a factor per channel; by a convolution of one tap where that stays in the blocked layout."""
    b, x, g = call.b, call.x, call.g
    if can_be_blocked(x) and (is_blocked(x) or is_blocked(g)):
        channels = channel_count(x)
        weight = b.op("Reshape", factor, b.ints([channels, 1, 1, 1]))
        weight.shape = ir.Shape([channels, 1, 1, 1])
        return b.op("Conv", g, weight, group=channels)
    return b.op("Mul", g, _along_channels(b, factor, rank(x)))


@rule("InstanceNormalization")
def instance_normalization(call: Call) -> Gradients:
    """With y = s x̂ + t for each channel of each item, x gets s r (g - mean(g) - x̂ mean(g x̂))."""
    return _per_channel(call, call.x, call.g, range(2, rank(call.x)))


@rule("GroupNormalization")
def group_normalization(call: Call) -> Gradients:
    """As InstanceNormalization, over groups of channels; s and t are per channel, before opset 21 per group."""
    b, x, g, scale = call.b, call.x, call.g, call.input(1)
    groups, count = int_attribute(call.node, "num_groups", 1), static_shape(scale)
    if count is None:
        raise call.refuse("with a scale of unknown size")
    shape = listed(b, [extent(b, x, 0), groups, quotient(b, times(b, *extents(b, x)[1:]), groups)])
    grouped = b.op("Reshape", x, shape, allowzero=1)
    grouped.shape = ir.Shape([x.shape[0], groups, None]) if x.shape is not None else None
    if count == (groups,):
        return _per_channel(call, grouped, b.op("Reshape", g, shape, allowzero=1), [2])
    deviation, inverse = _standardized(b, in_single(b, grouped, x), [2], _number(call, "epsilon", 1e-5))
    scaled = b.op("Mul", converted(b, g, deviation), _along_channels(b, converted(b, scale, deviation), rank(x)))
    ...
