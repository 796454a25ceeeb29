"""Arithmetic with extents and offsets: at once where they are known, in the graph where they are not."""

import operator
from collections.abc import Callable, Sequence

import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder, data_type, rank
from ortoscope_service.graph.constants import constant_ints

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
    total: Size = 1
    for factor in factors:
        total = total * factor if isinstance(total, int) and isinstance(factor, int) else total
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
