"""Writing ONNX graphs node by node, and putting the nodes of a whole model among them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.opset import MINIMUM, modernize
from ortoscope_service.graph.loading import infer_shapes

BATCH = "batch"
"""The name of the first axis of every input and value that holds one thing per item."""

_IR_VERSION = 10


class GraphWriter:
    """Appends nodes to a graph under construction.

    Values are `onnx_ir` values of the graph. Their `shape` is known for inputs, for constants and for the outputs of
    `inline`; of other values only the data type is, until `model` infers all of them.

    Attributes:
        inputs: The graph's inputs so far, in order.
    """

    def __init__(self) -> None:
        self.inputs: list[ir.Value] = []
        self._taken: set[str] = set()
        self._builder = Builder(self._taken, "")
        self._nodes: list[ir.Node] = []
        self._emitted = 0
        self._initializers: list[ir.Value] = []
        self._opset = MINIMUM
        self._batch = BATCH

    @contextlib.contextmanager
    def batch_named(self, name: str) -> Iterator[None]:
        """Within it, inputs whose first axis is `BATCH` have a first axis of this name: there may be more of them."""
        before, self._batch = self._batch, name
        try:
            yield
        finally:
            self._batch = before

    def op(self, kind: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """Appends a node of the default domain with one output and returns that; attributes that are None are left out.

        Args:
            kind: The operator, in its form of opset 20.
            inputs: Its inputs; None for an optional one that is left out.
            **attributes: Its attributes.
        """
        return self._builder.op(kind, *inputs, **attributes)

    def ops(self, kind: str, inputs: Sequence[ir.Value | None], outputs: int, **attributes: Any) -> Sequence[ir.Value]:
        """The same for a node with several outputs."""
        return self._builder.ops(kind, *inputs, outputs=outputs, **attributes)

    def constant(self, value: npt.ArrayLike) -> ir.Value:
        """A constant, kept as an initializer; equal ones are one.

        An array keeps its type. Of Python's numbers, and lists of them, floating-point ones become float32 and integers
        int64.
        """
        array = np.asarray(value)
        if not isinstance(value, np.ndarray | np.generic) and array.dtype == np.float64:
            array = array.astype(np.float32)
        return self._builder.constant(array)

    def input(self, name: str, shape: Sequence[int | str], dtype: npt.DTypeLike = np.float32) -> ir.Value:
        """Adds an input to the graph.

        Args:
            name: Its name, which no other value may have.
            shape: Extent of every axis, or its name where it is free: `BATCH`.
            dtype: The type of its elements.
        """
        if name in self._taken:
            raise ValueError(f"the graph has a value {name!r} already")
        self._taken.add(name)
        data_type = ir.DataType.from_numpy(np.dtype(dtype))
        named = [self._batch if size == BATCH else size for size in shape]
        value = ir.Value(name=name, shape=ir.Shape(named), type=ir.TensorType(data_type))
        self.inputs.append(value)
        return value

    def add(self, *terms: ir.Value) -> ir.Value:
        """The sum of one or more values."""
        total = terms[0]
        for term in terms[1:]:
            total = self.op("Add", [total, term])
        return total

    def subtract(self, one: ir.Value, other: ir.Value) -> ir.Value:
        """The difference of two values."""
        return self.op("Sub", [one, other])

    def multiply(self, *factors: ir.Value) -> ir.Value:
        """The product of one or more values, element by element."""
        product = factors[0]
        for factor in factors[1:]:
            product = self.op("Mul", [product, factor])
        return product

    def divide(self, one: ir.Value, other: ir.Value) -> ir.Value:
        """The quotient of two values."""
        return self.op("Div", [one, other])

    def matmul(self, one: ir.Value, other: ir.Value) -> ir.Value:
        """The product of matrices along the last two axes; axes before them broadcast."""
        return self.op("MatMul", [one, other])

    def mean(self, value: ir.Value, axes: Sequence[int], *, keepdims: bool = False) -> ir.Value:
        """The mean over axes."""
        return self.op("ReduceMean", [value, self.constant(list(axes))], keepdims=int(keepdims))

    def total(self, value: ir.Value, axes: Sequence[int], *, keepdims: bool = False) -> ir.Value:
        """The sum over axes."""
        return self.op("ReduceSum", [value, self.constant(list(axes))], keepdims=int(keepdims))

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """The same elements in another shape; 0 keeps the extent of an axis, -1 is whatever is left."""
        return self.op("Reshape", [value, self.constant(list(shape))])

    def transpose(self, value: ir.Value, permutation: Sequence[int]) -> ir.Value:
        """The same elements with their axes in another order."""
        return self.op("Transpose", [value], perm=list(permutation))

    def unsqueeze(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """The same elements with axes of extent 1 put in, at these positions of the result."""
        return self.op("Unsqueeze", [value, self.constant(list(axes))])

    def squeeze(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """The same elements without these axes, which have extent 1."""
        return self.op("Squeeze", [value, self.constant(list(axes))])

    def slice(self, value: ir.Value, axis: int, start: int, stop: int, step: int = 1) -> ir.Value:
        """A part of a value along one axis."""
        bounds = [self.constant([number]) for number in (start, stop, axis, step)]
        return self.op("Slice", [value, *bounds])

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Values one after the other along an axis."""
        return values[0] if len(values) == 1 else self.op("Concat", list(values), axis=axis)

    def inline(self, model: ir.Model, feeds: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        """Appends all nodes of a model, with values of this graph in the place of its inputs.

        Shapes of the model's outputs are inferred anew where a value's shape is more definite than, or differs from,
        what the model says of its input; so a network takes pictures of a size that its file does not mention, if its
        operators do. Names of tensors and nodes get `model/` before them, and a number after them where that is taken.

        Args:
            model: Any model from `loading.load_model`; it is not changed.
            feeds: A value for each of the model's inputs, by the input's name; each with a known type.

        Returns:
            The values of the model's outputs, by name.

        Raises:
            OrtoscopeError: As `modernize` raises.
        """
        part = modernize(model)
        graph = part.graph
        missing = sorted({value.name or "" for value in graph.inputs} - set(feeds))
        if missing:
            raise ValueError(f"nothing is fed for the input {missing[0]!r}")
        if self._adapt_inputs(part, feeds):
            infer_shapes(part)
        self._opset = max(self._opset, graph.opset_imports[""])
        results = {value.name or "": value for value in graph.outputs}
        given = {value: feeds[value.name or ""] for value in graph.inputs}
        nodes, initializers = list(graph), list(graph.initializers.values())
        self._rename(part)
        graph.outputs.clear()
        graph.initializers.clear()
        graph.remove(nodes)
        self._flush()
        for own, value in given.items():
            for node, index in list(own.uses()):
                node.replace_input_with(index, value)
        self._nodes.extend(nodes)
        self._initializers.extend(initializers)
        return {name: given.get(value, value) for name, value in results.items()}

    def model(self, outputs: Mapping[str, ir.Value]) -> ir.Model:
        """The finished graph as a model, with all shapes inferred as far as they are known.

        The writer must not be used after it.

        Args:
            outputs: Values by the names that they get as the graph's outputs.
        """
        named = {name: self._output(name, value) for name, value in outputs.items()}
        self._flush()
        graph = ir.Graph(
            list(self.inputs),
            list(named.values()),
            nodes=self._nodes,
            initializers=[*self._initializers, *self._builder.constants],
            opset_imports={"": self._opset},
            name="visualization",
        )
        finished = ir.Model(graph, ir_version=_IR_VERSION)
        infer_shapes(finished)
        return finished

    def _output(self, name: str, value: ir.Value) -> ir.Value:
        copied = self.op("Identity", [value])
        copied.shape, copied.type = value.shape, value.type
        if name in self._taken and copied.name != name:
            raise ValueError(f"the graph has a value {name!r} already")
        copied.name = name
        self._taken.add(name)
        return copied

    def _flush(self) -> None:
        """Takes over the nodes that the builder has emitted since the last time."""
        emitted = list(self._builder.nodes)
        self._nodes.extend(emitted[self._emitted :])
        self._emitted = len(emitted)

    @staticmethod
    def _adapt_inputs(part: ir.Model, feeds: Mapping[str, ir.Value]) -> bool:
        """Gives a model's inputs the shapes of what is fed, and forgets what was inferred if that changes any."""
        changed = False
        for value in part.graph.inputs:
            shape = feeds[value.name or ""].shape
            if shape is not None and shape != value.shape:
                value.shape, changed = shape.copy(), True
        if changed:
            for node in ir.traversal.RecursiveGraphIterator(part.graph):
                for output in node.outputs:
                    output.shape = None
        return changed

    def _rename(self, part: ir.Model) -> None:
        """Gives all values and nodes of a model names that this graph does not have: `model/` and their own."""
        for value in ir.convenience.create_value_mapping(part.graph).values():
            name = value.name = self._own_name(value.name)
            if value.const_value is not None:
                value.const_value.name = name
        for node in ir.traversal.RecursiveGraphIterator(part.graph):
            node.name = self._own_name(node.name or node.op_type)

    def _own_name(self, name: str | None) -> str:
        own = f"model/{name}"
        if own in self._taken:
            return self._builder.unique_name(own)
        self._taken.add(own)
        return own
