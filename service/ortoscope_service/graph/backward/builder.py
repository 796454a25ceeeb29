"""Emitting nodes: what rules write gradients with."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.tape import Tape

from ortoscope_service.errors import invalid

Extents = tuple[int, ...]


class Builder:
    """Collects the nodes and constants of a graph that is being written.

    Args:
        taken: Names that new values must not have. Grows with every value made.
        prefix: How the names of new values begin.
        inputs: The graph's inputs. Extents that carry the name of a free dimension of an input are read off that, not
            off the value that has them: a `Shape` keeps a value in memory and takes it out of a fast layout.
    """

    def __init__(self, taken: set[str], prefix: str, inputs: Sequence[ir.Value] = ()) -> None:
        self._taken = taken
        self._prefix = prefix
        self._tape = Tape()
        self._constants: dict[tuple[ir.DataType, Extents, bytes], ir.Value] = {}
        self._shapes: dict[ir.Value, ir.Value] = {}
        self._extents: dict[str, ir.Value] = {}
        self._free: dict[str, tuple[ir.Value, int]] = {}
        self._outer: Builder | None = None
        for value in inputs:
            for axis, size in enumerate(known_extents(value) or ()):
                if isinstance(size, str):
                    self._free.setdefault(size, (value, axis))

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """The nodes emitted so far, in order."""
        return self._tape.nodes

    @property
    def constants(self) -> Sequence[ir.Value]:
        """The constants made so far, as initializers that belong to no graph yet."""
        return self._tape.initializers

    def branch(self) -> "Builder":
        """A builder for the inside of a subgraph: it sees the constants out here, and makes its own ones here."""
        inner = Builder(self._taken, self._prefix)
        inner._free = self._free
        inner._outer = self
        return inner

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Emits a node with one output and returns that; attributes that are None are left out."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: ir.Value | None, outputs: int | Sequence[bool], **attributes: Any
    ) -> Sequence[ir.Value]:
        """Emits a node with several outputs and returns them; attributes that are None are left out."""
        count = outputs if isinstance(outputs, int) else len(outputs)
        given = {name: value for name, value in attributes.items() if value is not None}
        name = self.unique_name(op_type)
        values = self._tape.op_multi_out(op_type, list(inputs), given, num_outputs=count, name=name)
        for index, value in enumerate(values):
            value.name = name if index == 0 else self.unique_name(op_type)
            if (known := _data_type_of_output(op_type, inputs, given, index)) is not None:
                value.dtype = known
        return values

    def constant(self, array: npt.ArrayLike, data_type: ir.DataType | None = None) -> ir.Value:
        """A constant tensor; equal ones are one. `data_type` defaults to that of the array."""
        if self._outer is not None:
            return self._outer.constant(array, data_type)
        numbers = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        if data_type is not None:
            numbers = numbers.astype(data_type.numpy())
        key = (data_type or ir.DataType.from_numpy(numbers.dtype), tuple(numbers.shape), numbers.tobytes())
        if key not in self._constants:
            name = self.unique_name("constant")
            self._constants[key] = self._tape.initializer(ir.tensor(numbers, dtype=data_type, name=name), name)
        return self._constants[key]

    def ints(self, numbers: Sequence[int]) -> ir.Value:
        """A constant list of integers, as shapes, axes and pads are given."""
        return self.constant(np.asarray(numbers, np.int64))

    def number(self, number: float, like: ir.Value) -> ir.Value:
        """A constant scalar of another value's data type."""
        return self.constant(np.asarray(number), data_type(like))

    def shape(self, value: ir.Value) -> ir.Value:
        """The extents of a value as a list of integers: a constant where all are known, else computed."""
        extents = static_shape(value)
        if extents is not None:
            return self.ints(extents)
        if value not in self._shapes:
            self._shapes[value] = self._computed_shape(value)
        return self._shapes[value]

    def extent(self, value: ir.Value, axis: int) -> ir.Value:
        """The extent of one axis as a list of one integer."""
        size = value.shape[axis] if value.shape is not None else None
        if isinstance(size, int):
            return self.ints([size])
        if size is not None and size.value in self._free:
            return self._extent_of_input(size.value)
        return self.op("Gather", self.shape(value), self.ints([axis]), axis=0)

    def _computed_shape(self, value: ir.Value) -> ir.Value:
        extents = known_extents(value)
        if extents is None or any(isinstance(size, str) and size not in self._free for size in extents):
            return self.op("Shape", value)
        parts: list[ir.Value] = []
        for known, sizes in itertools.groupby(extents, key=lambda size: isinstance(size, int)):
            if known:
                parts.append(self.ints([size for size in sizes if isinstance(size, int)]))
            else:
                parts.extend(self._extent_of_input(size) for size in sizes if isinstance(size, str))
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=0)

    def _extent_of_input(self, dimension: str) -> ir.Value:
        source, axis = self._free[dimension]
        if dimension not in self._extents:
            self._extents[dimension] = self.op("Shape", source, start=axis, end=axis + 1)
        return self._extents[dimension]

    def zeros_like(self, value: ir.Value) -> ir.Value:
        """Zeros of a value's shape and type."""
        return self.op("Expand", self.number(0, value), self.shape(value))

    def reshape_like(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """The same elements in another value's shape."""
        if same_shape(value, like):
            return value
        # Without allowzero an extent of 0 would copy the operand's.
        return self.op("Reshape", value, self.shape(like), allowzero=1)

    def sum_to(self, value: ir.Value, like: ir.Value, *, source: ir.Value | None = None) -> ir.Value:
        """Undoes broadcasting: sums over the axes along which `like` was repeated.

        Args:
            value: Has the shape of an operation's result.
            like: The operand whose shape is wanted.
            source: A value whose known shape is that of `value`, if the latter's is not known itself.
        """
        whole, part = known_extents(source if source is not None else value), known_extents(like)
        if whole is None or part is None:
            return self._sum_to_computed(value, like)
        lead = len(whole) - len(part)
        aligned = [1] * lead + list(part)
        if any(own not in {size, 1} for own, size in zip(aligned, whole, strict=True)):
            return self._sum_to_computed(value, like)
        summed = [axis for axis, (own, size) in enumerate(zip(aligned, whole, strict=True)) if own == 1 and size != 1]
        leading = [axis for axis in range(lead) if axis not in summed]
        if summed:
            inner = [axis for axis in summed if axis >= lead]
            outer = [axis for axis in summed if axis < lead]
            if inner:
                value = self.op("ReduceSum", value, self.ints(inner), keepdims=1)
            if outer:
                value = self.op("ReduceSum", value, self.ints([*outer, *leading]), keepdims=0)
                leading = []
        return self.op("Squeeze", value, self.ints(leading)) if leading else value

    def _sum_to_computed(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """The same where extents are known only when the graph runs."""
        whole, part = self.op("Shape", value), self.shape(like)
        lead = self.op("Sub", self.op("Shape", whole), self.op("Shape", part))
        aligned = self.op("Concat", self.op("Expand", self.ints([1]), lead), part, axis=0)
        differs = self.op("Not", self.op("Equal", aligned, whole))
        axes = self.op("Squeeze", self.op("NonZero", differs), self.ints([0]))
        summed = self.op("ReduceSum", value, axes, keepdims=1, noop_with_empty_axes=1)
        return self.op("Reshape", summed, part, allowzero=1)

    def unique_name(self, stem: str) -> str:
        """A name that nothing has yet; it is taken from now on."""
        number = len(self._taken)
        while (name := f"{self._prefix}{stem.lower()}_{number}") in self._taken:
            number += 1
        self._taken.add(name)
        return name


_GIVING_TRUTH = frozenset(
    {"And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor"}
)
_GIVING_POSITIONS = frozenset({"ArgMax", "ArgMin", "NonZero", "Shape", "Size"})
_TYPED_BY_INPUT = {"Where": 1, "OneHot": 2}
"""Operators whose output has the type of another input than the first."""


def _data_type_of_output(
    op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], index: int
) -> ir.DataType | None:
    """The data type of an emitted node's output; None where it is left to ONNX's inference."""
    if op_type in _GIVING_TRUTH:
        return ir.DataType.BOOL
    if op_type in _GIVING_POSITIONS or (index == 1 and op_type in {"MaxPool", "TopK"}):
        return ir.DataType.INT64
    if op_type == "Cast":
        return ir.DataType(attributes["to"])
    if op_type in {"Constant", "ConstantOfShape", "EyeLike", "If", "Loop", "Scan"}:
        return None
    position = _TYPED_BY_INPUT.get(op_type, 0)
    value = inputs[position] if position < len(inputs) else None
    return value.dtype if value is not None else None


def data_type(value: ir.Value) -> ir.DataType:
    """The data type of a value, which must be known."""
    assert value.dtype is not None, f"{value.name} has no data type"
    return value.dtype


def rank(value: ir.Value) -> int:
    """The number of axes of a value.

    Raises:
        OrtoscopeError: `SHAPELESS_TENSOR` (INVALID_ARGUMENT): it is not known.
    """
    if value.shape is None:
        raise invalid(
            "SHAPELESS_TENSOR",
            f"The rank of the tensor {value.name!r} is not known, but a gradient needs it. Export the model with "
            "shapes, or choose a tap before that tensor.",
            tensor=value.name,
        )
    return len(value.shape)


def static_shape(value: ir.Value) -> Extents | None:
    """The shape of a value whose extents are all numbers, else None."""
    extents = known_extents(value)
    if extents is None or not all(isinstance(size, int) for size in extents):
        return None
    return tuple(size for size in extents if isinstance(size, int))


def known_extents(value: ir.Value) -> tuple[int | str, ...] | None:
    """The shape of a value, each extent a number or the name of a free dimension; None if one is not known at all."""
    if value.shape is None:
        return None
    extents = [size if isinstance(size, int) else size.value for size in value.shape]
    if any(size is None for size in extents):
        return None
    return tuple(size for size in extents if size is not None)


def same_shape(one: ir.Value, other: ir.Value) -> bool:
    """Whether two values are known to have the same shape."""
    extents = known_extents(one)
    return extents is not None and extents == known_extents(other)
