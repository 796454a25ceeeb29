"""Operators that are functions of simpler ones: those that the ONNX standard defines so, and recurrent layers.

Such a node stays in the forward graph, where its own kernel is fast and its bits are those of the model; for
differentiation it is doubled by its expansion. What the gradient does not need of the expansion falls away again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import cast

import onnx
import onnx_ir as ir

from ortoscope_service.graph.axes import RECURRENT, subgraphs
from ortoscope_service.graph.backward import recurrence
from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.subgraphs import own_constants

Expansions = Mapping[ir.Value, ir.Value]
"""From an output of a node to the value of its expansion that equals it."""


def expand_functions(graph: ir.Graph, builder: Builder, is_primitive: Callable[[ir.Node], bool]) -> Expansions:
    """Doubles every node that is not primitive by simpler ones, in place, until all are; within subgraphs, too.

    Args:
        graph: The forward graph, with types and shapes.
        builder: Gives names and constants.
        is_primitive: Whether a node needs no expansion; a recurrent layer always does. Nodes that are not functions are
            left alone.

    Returns:
        For every output of an expanded node the value that equals it. It may belong to an expanded node itself.
    """
    equals: dict[ir.Value, ir.Value] = {}
    opset = graph.opset_imports[""]
    pending = [node for node in _all_nodes(graph) if _is_to_expand(node, is_primitive)]
    changed: list[ir.Graph] = []
    while pending:
        node = pending.pop()
        expanded = _steps(node, builder) if node.op_type in RECURRENT else _function(node, opset, builder)
        if expanded is None:
            continue
        nodes, outputs = expanded
        assert node.graph is not None
        node.graph.insert_before(node, nodes)
        changed.append(node.graph)
        for own, expanded_output in zip(node.outputs, outputs, strict=False):
            expanded_output.shape = own.shape.copy() if own.shape is not None else None
            expanded_output.type = own.type
            equals[own] = expanded_output
        pending.extend(inner for inner in _all_nodes(nodes) if _is_to_expand(inner, is_primitive))
    for subgraph in changed:
        if subgraph is not graph:
            own_constants(subgraph, builder)
    for constant in builder.constants:
        graph.register_initializer(constant)
    return equals


def _is_to_expand(node: ir.Node, is_primitive: Callable[[ir.Node], bool]) -> bool:
    return not node.domain and (node.op_type in RECURRENT or not is_primitive(node))


def _all_nodes(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Nodes, and those of their subgraphs."""
    for node in nodes:
        yield node
        for subgraph in subgraphs(node):
            yield from ir.traversal.RecursiveGraphIterator(subgraph)


def _steps(node: ir.Node, builder: Builder) -> tuple[Sequence[ir.Node], Sequence[ir.Value]] | None:
    inner = builder.branch()
    outputs = recurrence.expand(node, inner)
    return None if outputs is None else (inner.nodes, outputs)


def _function(node: ir.Node, opset: int, builder: Builder) -> tuple[Sequence[ir.Node], Sequence[ir.Value]] | None:
    body = _body(node, opset)
    return None if body is None else _inline(node, body, builder)


def _body(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    """The body of the function that the standard says the node's operator is, at the model's opset."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    for version in sorted(schema.all_function_opset_versions, reverse=True):
        if version > opset:
            continue
        if version in schema.function_opset_versions:
            data = schema.get_function_with_opset_version(version)
            body = data if isinstance(data, onnx.FunctionProto) else onnx.FunctionProto.FromString(data)
        else:
            types = [_type_proto(value).SerializeToString() for value in node.inputs]
            data = schema.get_context_dependent_function_with_opset_version(
                version, _standalone(node).SerializeToString(), types
            )
            body = onnx.FunctionProto.FromString(data)
        # Inlining would have to follow captured values into subgraphs, which few bodies have.
        if body.node and not any(attribute.HasField("g") for inner in body.node for attribute in inner.attribute):
            return body
    return None


def _standalone(node: ir.Node) -> onnx.NodeProto:
    return cast("onnx.NodeProto", ir.to_proto(node))


def _type_proto(value: ir.Value | None) -> onnx.TypeProto:
    if value is None or value.type is None:
        return onnx.TypeProto()
    proto = onnx.TypeProto()
    ir.serde.serialize_value_into(onnx.ValueInfoProto(), value)
    info = onnx.ValueInfoProto()
    ir.serde.serialize_value_into(info, value)
    proto.CopyFrom(info.type)
    return proto


def _inline(node: ir.Node, body: onnx.FunctionProto, builder: Builder) -> tuple[list[ir.Node], list[ir.Value]]:
    """Copies of the body's nodes on the node's own inputs, and the values that stand for its outputs."""
    # The standard leaves out of a body what computes outputs that the node lacks, but still lists them.
    del body.output[len(node.outputs) :]
    function = ir.serde.deserialize_function(body)
    values: dict[ir.Value, ir.Value | None] = {}
    for position, formal in enumerate(function.inputs):
        values[formal] = node.inputs[position] if position < len(node.inputs) else None
    nodes = []
    for inner in function:
        attributes = [
            attribute
            for attribute in (_resolved(own, node, function) for own in inner.attributes.values())
            if attribute
        ]
        copy = ir.Node(
            inner.domain,
            inner.op_type,
            [values[value] if value is not None else None for value in inner.inputs],
            attributes=attributes,
            num_outputs=len(inner.outputs),
            name=builder.unique_name(inner.op_type),
        )
        for formal, actual in zip(inner.outputs, copy.outputs, strict=True):
            actual.name = builder.unique_name(inner.op_type)
            values[formal] = actual
        nodes.append(copy)
    outputs = [values[formal] for formal in function.outputs]
    return nodes, [value for value in outputs if value is not None]


def _resolved(attribute: ir.Attr, node: ir.Node, function: ir.Function) -> ir.Attr | None:
    """An attribute of the body, with a reference to one of the node's replaced by its value or default."""
    if not attribute.is_ref():
        return attribute
    name = attribute.ref_attr_name
    assert name is not None
    given = node.attributes.get(name) or function.attributes.get(name)
    if given is None or given.value is None:
        return _default(node, name, attribute.name)
    return ir.Attr(attribute.name, given.type, given.value)


def _default(node: ir.Node, name: str, inner_name: str) -> ir.Attr | None:
    schema = onnx.defs.get_schema(node.op_type)
    declared = schema.attributes.get(name)
    if declared is None or not declared.default_value.name:
        return None
    value = ir.serde.deserialize_attribute(declared.default_value)
    return ir.Attr(inner_name, value.type, value.value)
