"""Arithmetic with extents and offsets: at once where they are known, in the graph where they are not."""

import math
import operator
from collections.abc import Callable, Sequence

import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank, static_shape
from ortoscope_service.graph.constants import constant_array, constant_ints, int_attribute

Size = int | ir.Value
"""A number, or a list of one integer that the graph computes."""


def extent(b: Builder, value: ir.Value, axis: int) -> Size:
    """The extent of an axis."""
    known = value.shape[axis] if value.shape is not None else None
    return known if isinstance(known, int) else b.extent(value, axis)


def extents(b: Builder, value: ir.Value) -> list[Size]:
    """The extents of all axes."""
    return [extent(b, value, axis) for axis in range(rank(value))]


def elements(b: Builder, numbers: ir.Value, count: int) -> list[Size]:
    """The elements of a list of `count` integers, as inputs hold them: starts, pads, repeats."""
    known = constant_ints(numbers)
    if known is not None:
        return list(known)
    if data_type(numbers) != ir.DataType.INT64:
        numbers = b.op("Cast", numbers, to=ir.DataType.INT64)
    return [b.op("Gather", numbers, b.ints([position]), axis=0) for position in range(count)]


def traced(numbers: ir.Value | None, position: int) -> float | tuple[ir.Value, int] | None:
    """Where an element of a list comes from that a graph puts together of extents and constants.

    Returns:
        The number it is; or a value and the axis whose extent it is; or None if it is computed in another way.
    """
    if numbers is None:
        return None
    known = constant_array(numbers)
    if known is not None:
        return float(known.flat[position]) if position < known.size else None
    node = numbers.producer()
    source = node.inputs[0] if node is not None and not node.domain and node.inputs else None
    if node is None or source is None:
        return None
    match node.op_type:
        case "Cast" | "Identity" | "Squeeze" | "Unsqueeze":
            return traced(source, position)
        case "Shape":
            start = int_attribute(node, "start", 0)
            return source, position + (start if start >= 0 else start + rank(source))
        case "Gather":
            picked = constant_array(node.inputs[1])
            return None if picked is None else _traced_at(source, int(picked.flat[position]))
        case "Slice" if len(node.inputs) < 5:
            starts = constant_ints(node.inputs[1])
            return None if starts is None else _traced_at(source, starts[0], position)
        case "Concat":
            for part in node.inputs:
                count = _length(part)
                if count is None or position < count:
                    return None if count is None else traced(part, position)
                position -= count
    return None


def _traced_at(source: ir.Value, start: int, position: int = 0) -> float | tuple[ir.Value, int] | None:
    """The same for an element of the source of which the first positions may be counted from the end."""
    count = _length(source)
    if start < 0 and count is None:
        return None
    return traced(source, start + position if start >= 0 else max(start + (count or 0), 0) + position)


def _length(numbers: ir.Value | None) -> int | None:
    """How many numbers a list of rank 0 or 1 has, if that is known."""
    shape = static_shape(numbers) if numbers is not None else None
    return None if shape is None else math.prod(shape)


def listed(b: Builder, sizes: Sequence[Size]) -> ir.Value:
    """A list of sizes; a constant if all of them are known."""
    numbers = [size for size in sizes if isinstance(size, int)]
    if len(numbers) == len(sizes):
        return b.ints(numbers)
    parts = [b.ints([size]) if isinstance(size, int) else size for size in sizes]
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=0)


def plus(b: Builder, *terms: Size) -> Size:
    """The sum of sizes; numbers are added up first."""
    total: Size = sum(term for term in terms if isinstance(term, int))
    for term in terms:
        if not isinstance(term, int):
            total = term if isinstance(total, int) and total == 0 else _binary(b, "Add", operator.add, total, term)
    return total


def minus(b: Builder, one: Size, other: Size) -> Size:
    """The difference of two sizes."""
    if one is other:
        return 0
    return one if isinstance(other, int) and other == 0 else _binary(b, "Sub", operator.sub, one, other)


def times(b: Builder, *factors: Size) -> Size:
    """The product of sizes; numbers are multiplied first."""
    total: Size = math.prod(factor for factor in factors if isinstance(factor, int))
    for factor in factors:
        if not isinstance(factor, int):
            total = factor if isinstance(total, int) and total == 1 else _binary(b, "Mul", operator.mul, total, factor)
    return total


def quotient(b: Builder, size: Size, divisor: int) -> Size:
    """How often a positive divisor goes into a size that is not negative."""
    return size if divisor == 1 else _binary(b, "Div", operator.floordiv, size, divisor)


def remainder(b: Builder, size: Size, divisor: int) -> Size:
    """What a positive divisor leaves of a size that is not negative."""
    return 0 if divisor == 1 else _binary(b, "Mod", operator.mod, size, divisor)


def smaller(b: Builder, one: Size, other: Size) -> Size:
    """The smaller of two sizes."""
    return _binary(b, "Min", min, one, other)


def larger(b: Builder, one: Size, other: Size) -> Size:
    """The larger of two sizes."""
    return _binary(b, "Max", max, one, other)


def _binary(b: Builder, op_type: str, compute: Callable[[int, int], int], one: Size, other: Size) -> Size:
    if isinstance(one, int) and isinstance(other, int):
        return compute(one, other)
    return b.op(op_type, listed(b, [one]), listed(b, [other]))
