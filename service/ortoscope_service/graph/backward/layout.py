"""What is known of the blocked layout of ONNX Runtime's CPU provider, in which convolutions run fastest.

The provider keeps the channels of (batch, channel, row, column) tensors in blocks ("NCHWc") from a convolution or pool
on, as long as it meets nothing but convolutions, pools, additions and products of two such tensors, a few activation
functions, and nearest upsampling. Everything else makes it reorder the tensor, there and back, which costs as much as
the operation itself. Whatever is known of this here changes how fast a graph runs, never what it computes.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, known_extents, static_shape
from ortoscope_service.graph.constants import int_attribute, ints_attribute

_MADE_BLOCKED = frozenset({"AveragePool", "MaxPool"})
_KEPT_BLOCKED = frozenset(
    {
        "Add",
        "BatchNormalization",
        "Clip",
        "Dropout",
        "HardSigmoid",
        "Identity",
        "Mul",
        "Relu",
        "Resize",
        "Sigmoid",
        "Sum",
        "Tanh",
    }
)
_CHANNEL_MULTIPLE = 4
"""The layout takes channels of a multiple of this number, and fills them up to blocks."""

_BLOCK = 16
"""Channels of a block, with AVX-512; 8 with less."""

_KEY = "ortoscope.blocked"


def can_be_blocked(value: ir.Value) -> bool:
    """Whether a value is float32 or float64 and has two spatial axes and a number of channels that the layout takes."""
    extents = known_extents(value)
    return (
        extents is not None
        and len(extents) == 4
        and isinstance(extents[1], int)
        and extents[1] % _CHANNEL_MULTIPLE == 0
        and data_type(value) in {ir.DataType.FLOAT, ir.DataType.DOUBLE}
    )


def channel_count(value: ir.Value) -> int:
    """The number of channels of a value, which must be known."""
    assert value.shape is not None
    size = value.shape[1]
    assert isinstance(size, int)
    return size


def is_blocked(value: ir.Value) -> bool:
    """Whether the provider has a value in the blocked layout, as far as can be told from what made it."""
    known: bool | None = value.meta.get(_KEY)
    if known is None:
        node = value.producer()
        if node is None or node.domain:
            known = False
        elif node.op_type == "Conv":
            known = _convolves_blocked(node)
        elif node.op_type == "Concat":
            known = int_attribute(node, "axis", 0) == 1 and all(
                part is not None and is_blocked(part) and channel_count(part) % _BLOCK == 0 for part in node.inputs
            )
        elif node.op_type in _MADE_BLOCKED:
            known = can_be_blocked(value)
        else:
            operands = node.inputs if node.op_type in {"Add", "Mul", "Sum"} else node.inputs[:1]
            known = node.op_type in _KEPT_BLOCKED and all(value is not None and is_blocked(value) for value in operands)
        value.meta[_KEY] = known
    return known


def _convolves_blocked(node: ir.Node) -> bool:
    """Whether the provider runs a convolution in the layout; groups must be of one channel or of whole blocks."""
    weight = node.inputs[1]
    shape = static_shape(weight) if weight is not None else None
    if shape is None or len(shape) != 4 or data_type(node.outputs[0]) not in {ir.DataType.FLOAT, ir.DataType.DOUBLE}:
        return False
    group = int_attribute(node, "group", 1)
    outputs, inputs = shape[:2]
    if group == 1:
        return inputs < _BLOCK or inputs % _CHANNEL_MULTIPLE == 0
    if inputs == 1 and outputs == group:
        return outputs % _CHANNEL_MULTIPLE == 0
    return inputs % _BLOCK == 0 and (outputs // group) % _BLOCK == 0


def scaled(b: Builder, value: ir.Value, channels: int, factor: float, offset: float = 0.0) -> ir.Value:
    """Factor * value + offset in the blocked layout, by a depthwise convolution of one tap."""
    weight = b.constant(np.full((channels, 1, 1, 1), factor), data_type(value))
    bias = b.constant(np.full(channels, offset), data_type(value)) if offset else None
    return b.op("Conv", value, weight, bias, group=channels)


def blocked(b: Builder, value: ir.Value, channels: int) -> ir.Value:
    """A value in the blocked layout: itself, or a copy by a convolution with ones."""
    if is_blocked(value):
        return value
    copy = scaled(b, value, channels, 1.0)
    copy.shape = value.shape
    return copy


def add(b: Builder, values: Sequence[ir.Value], like: ir.Value) -> ir.Value:
    """The sum of values of the same shape, which is that of `like`."""
    if len(values) > 1 and can_be_blocked(like) and any(map(is_blocked, values)):
        # One operand outside of the layout would take all others out of it.
        values = sorted((blocked(b, value, channel_count(like)) for value in values), key=_is_convolution)
    total = values[0]
    for value in values[1:]:
        # A convolution adds its second operand while it writes.
        total = b.op("Add", value, total)
    return total


def without_scale(b: Builder, value: ir.Value, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Moves a scale per channel from a convolution's operand into its weight.

    Args:
        b: Where to emit.
        value: An operand whose channels go with the weight's first axis.
        weight: The weight, (channel, …) of rank 4.

    Returns:
        Operand and weight that give the same products, the operand without a scale that is constant.
    """
    node = value.producer()
    while node is not None and node.op_type == "Conv" and _is_scale(node):
        inner, scale = node.inputs[0], node.inputs[1]
        assert inner is not None
        assert scale is not None
        if not _is_ones(scale):
            weight = b.op("Mul", weight, scale)
        value, node = inner, inner.producer()
    return value, weight


def _is_scale(node: ir.Node) -> bool:
    weight = node.inputs[1]
    shape = static_shape(weight) if weight is not None else None
    return (
        len([value for value in node.inputs if value is not None]) == 2
        and shape is not None
        and shape == (int_attribute(node, "group", 1), 1, 1, 1)
        and not any(ints_attribute(node, "pads") or ())
        and all(stride == 1 for stride in ints_attribute(node, "strides") or ())
    )


def _is_ones(value: ir.Value) -> bool:
    return value.const_value is not None and bool(np.all(value.const_value.numpy() == 1))


def _is_convolution(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "Conv"
