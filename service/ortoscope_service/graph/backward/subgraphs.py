"""The insides of loops and branches."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.graph.axes import captured_values, subgraphs
from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.constants import constant_array

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

_MAX_ELEMENTS = 64
"""Longer constants are no shapes or axes."""


def replace_inputs(nodes: Iterable[ir.Node], values: Mapping[ir.Value, ir.Value]) -> None:
    """Gives nodes, and those of their subgraphs, other inputs."""
    for node in nodes:
        for position, value in enumerate(node.inputs):
            if value is not None and value in values:
                node.replace_input_with(position, values[value])
        for subgraph in subgraphs(node):
            replace_inputs(subgraph, values)


def live_nodes(nodes: Sequence[ir.Node], outputs: Iterable[ir.Value]) -> list[ir.Node]:
    """Those of some nodes, in order, that outputs are computed from. The others no longer count as uses of anything."""
    needed = set(outputs)
    live = []
    for node in reversed(nodes):
        if needed.isdisjoint(node.outputs):
            for position in range(len(node.inputs)):
                node.replace_input_with(position, None)
        else:
            needed.update(captured_values(node))
            live.append(node)
    return live[::-1]


def own_constants(graph: ir.Graph, unique_name: Callable[[str], str]) -> None:
    """Gives a subgraph copies of the lists of integers that it captures: from inside ONNX infers nothing from them.

    Args:
        graph: The subgraph; it is changed.
        unique_name: Makes names, of a stem.
    """
    copies: dict[ir.Value, ir.Value] = {}
    for node in graph:
        for value in node.inputs:
            if value is None or value in copies or value.graph is graph:
                continue
            numbers = _numbers(value)
            if numbers is None or numbers.dtype.kind != "i" or numbers.size > _MAX_ELEMENTS:
                continue
            name = unique_name("constant")
            tensor = ir.tensor(numbers, name=name)
            # The type is not that of the value, which may be a Constant's whose type nobody has inferred yet.
            copies[value] = ir.Value(
                name=name, shape=ir.Shape(numbers.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            graph.register_initializer(copies[value])
    replace_inputs(graph, copies)


def _numbers(value: ir.Value) -> npt.NDArray[np.generic] | None:
    """The value of a small constant, which may belong to no graph yet."""
    if value.graph is None and value.const_value is not None:
        return value.const_value.numpy()
    return constant_array(value)


def is_random(node: ir.Node) -> bool:
    """Whether a node may give something else when it runs again."""
    in_training = node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None
    return node.op_type in _RANDOM or in_training


def rename(node: ir.Node, b: Builder) -> None:
    """Gives a node and its outputs names that nothing else has."""
    node.name = b.unique_name(node.op_type)
    for output in node.outputs:
        output.name = b.unique_name(node.op_type)


def total(b: Builder, parts: Sequence[ir.Value]) -> ir.Value:
    """The sum of values of the same shape."""
    result = parts[0]
    for part in parts[1:]:
        result = b.op("Add", result, part)
    return result


def apart(b: Builder, values: Iterable[ir.Value], nodes: Iterable[ir.Node]) -> list[ir.Value]:
    """The values as outputs of a subgraph: each made by one of its nodes, and none twice."""
    made = {output for node in nodes for output in node.outputs}
    outputs: list[ir.Value] = []
    for value in values:
        output = value if value in made and value not in outputs else b.op("Identity", value)
        output.shape, output.type = value.shape, value.type
        outputs.append(output)
    return outputs
