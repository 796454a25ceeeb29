"""The insides of loops and branches."""

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from ortoscope_service.graph.axes import captured_values, subgraphs
from ortoscope_service.graph.backward.builder import Builder

_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32})
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


def own_constants(graph: ir.Graph, b: Builder) -> None:
    """Gives a subgraph copies of the lists of integers that it captures: from inside ONNX infers nothing from them."""
    copies: dict[ir.Value, ir.Value] = {}
    for node in graph:
        for value in node.inputs:
            if value is None or value in copies or value.graph is graph or not _is_list(value):
                continue
            copy = ir.Value(
                name=b.unique_name("constant"), shape=value.shape, type=value.type, const_value=value.const_value
            )
            graph.register_initializer(copy)
            copies[value] = copy
    replace_inputs(graph, copies)


def _is_list(value: ir.Value) -> bool:
    tensor = value.const_value
    return (
        value.producer() is None and tensor is not None and tensor.dtype in _INTEGERS and tensor.size <= _MAX_ELEMENTS
    )
