"""Gates: activation functions that let a cotangent through, or nothing of it.

A gate is found from the output of the activation function alone, so that ONNX Runtime can fuse the function itself into
the convolution before it. Since a gate only ever zeroes, it may be applied early, where there is less to zero: before a
`Concat` is taken apart, or to the cotangent of a max pool's output instead of its input's. A cotangent that has
passed its gate carries a mark, and the activation function's own rule then leaves it as it is.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, same_shape
from ortoscope_service.graph.backward.layout import blocked, can_be_blocked, channel_count, is_blocked
from ortoscope_service.graph.constants import constant_scalar

SLOPE = 2.0**127
"""Slope of a comparison; its reciprocal, 6e-39, is below the smallest normal number of float32."""

_NEARLY_ZERO = -1e-30
"""The offset at a bound of 0. OpenVINO's provider (1.8.1) takes an offset of 0 for the operator's default of 0.5."""

_KEY = "ortoscope.gate"


@dataclass(frozen=True)
class Gate:
    """Open where low < y < high, for the output y of the activation function, which never leaves [low, high]."""

    low: float | None
    """The lower bound, None if there is none."""

    high: float | None
    """The upper bound, None if there is none."""


def gate_of(value: ir.Value) -> Gate | None:
    """The gate through which every cotangent of a value must pass on its way back; None if there is none.

    A value has a gate if `Relu` made it, or `Clip` with constant bounds, or `Max` or `Min` with a constant number, or
    if it is a `Concat` of nothing but values with that same gate that go nowhere else.
    """
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Relu":
        return Gate(0.0, None)
    if node.op_type == "Clip":
        return _between(value, *(node.inputs[position] if position < len(node.inputs) else None for position in (1, 2)))
    if node.op_type in {"Max", "Min"} and len(node.inputs) == 2:
        return _beside(value, node)
    if node.op_type == "Concat":
        gates = {gate_of(part) if part is not None and has_one_use(part) else None for part in node.inputs}
        return gates.pop() if len(gates) == 1 else None
    return None


def _between(value: ir.Value, low: ir.Value | None, high: ir.Value | None) -> Gate | None:
    """The gate between bounds, if they are constant."""
    numbers = [constant_scalar(bound) for bound in (low, high)]
    if any(bound is not None and number is None for bound, number in zip((low, high), numbers, strict=True)):
        return None
    # Exporters write the largest number where there is no bound.
    lowest, highest = (number if number is None or abs(number) < data_type(value).max else None for number in numbers)
    return Gate(lowest, highest) if (lowest, highest) != (None, None) else None


def _beside(value: ir.Value, node: ir.Node) -> Gate | None:
    """The gate beside the constant number that a `Max` or `Min` compares with."""
    for operand, bound in (node.inputs, node.inputs[::-1]):
        if operand is not None and constant_scalar(operand) is None and same_shape(operand, value):
            return _between(value, bound, None) if node.op_type == "Max" else _between(value, None, bound)
    return None


def has_one_use(value: ir.Value) -> bool:
    """Whether one input of one node of the forward graph is all that a value goes to."""
    # Nodes that are being emitted belong to no graph yet.
    uses = [use for use in value.uses() if use.node.graph is not None]
    return len(uses) == 1 and not value.is_graph_output()


def passed(b: Builder, g: ir.Value, y: ir.Value, gate: Gate) -> ir.Value:
    """A cotangent where a gate is open, zeros elsewhere.

    Args:
        b: Where to emit.
        g: The cotangent of the activation function's output, or of its maxima over windows.
        y: That output, or these maxima.
        gate: The gate.

    Returns:
        The product of the cotangent with 1 or 0, marked as having passed; NaN where a cotangent that is not finite
        meets a closed gate.
    """
    if has_passed(g, y):
        return g
    output, opened = y, g
    if can_be_blocked(y) and (is_blocked(y) or is_blocked(g)):
        opened = blocked(b, g, channel_count(y))
        y = blocked(b, y, channel_count(y))
    for factor in _open(b, y, gate):
        opened = b.op("Mul", opened, factor)
    mark_passed(opened, [output])
    return opened


def mark_passed(g: ir.Value, values: Iterable[ir.Value]) -> None:
    """Marks a cotangent as zero wherever the gates of some values are closed."""
    g.meta[_KEY] = frozenset(values) | g.meta.get(_KEY, frozenset())


def has_passed(g: ir.Value, y: ir.Value) -> bool:
    """Whether a cotangent is zero wherever the gate of a value is closed."""
    return y in g.meta.get(_KEY, frozenset())


def _open(b: Builder, y: ir.Value, gate: Gate) -> list[ir.Value]:
    """Factors of 1 where the gate is open, of which one is 0 where it is closed."""
    factors = []
    if gate.low is not None:
        factors.append(is_above(b, y, gate.low))
    if gate.high is not None:
        factors.append(is_below(b, y, gate.high))
    return factors


def is_above(b: Builder, value: ir.Value, bound: float) -> ir.Value:
    """1 where a value is larger than a bound, else 0, in the value's data type."""
    return _beyond(b, value, bound, 1.0)


def is_below(b: Builder, value: ir.Value, bound: float) -> ir.Value:
    """1 where a value is smaller than a bound, else 0, in the value's data type."""
    return _beyond(b, value, bound, -1.0)


def _beyond(b: Builder, value: ir.Value, bound: float, direction: float) -> ir.Value:
    """A comparison for those who want a number.

    `HardSigmoid` is max(0, min(1, slope * y + offset)). Of the ways to compare, it is the one that the blocked layout
    has, and one pass over memory where a comparison and a `Cast` are two. The slopes are powers of two, so that
    slope * y + offset is exactly 0 at the bound and at least 1 next to it (at a bound of 0: just below 0, and 1 beyond
    subnormal numbers).
    """
    # ONNX Runtime's CPU provider has it in single precision, and nothing of what is blocked in double precision.
    available = data_type(value) == ir.DataType.FLOAT or can_be_blocked(value)
    if available and float(np.float32(bound)) == bound:
        slope = direction * (min(SLOPE, 2.0 ** (64 - math.frexp(bound)[1])) if bound else SLOPE)
        return b.op("HardSigmoid", value, alpha=slope, beta=-slope * bound if bound else _NEARLY_ZERO)
    compared = b.op("Greater" if direction > 0 else "Less", value, b.number(bound, value))
    return b.op("Cast", compared, to=int(data_type(value)))
