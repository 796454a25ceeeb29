"""Operators that are functions of simpler ones: those that the ONNX standard defines so, and recurrent layers.

Such a node stays in the forward graph, where its own kernel is fast and its bits are those of the model; for
differentiation it is doubled by its expansion. What the gradient does not need of the expansion falls away again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ortoscope_service.graph.axes import RECURRENT, subgraphs
from ortoscope_service.graph.backward import attention, recurrence
from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.subgraphs import own_constants, replace_inputs
from ortoscope_service.graph.loading import infer_shapes

Expansions = Mapping[ir.Value, ir.Value]
"""From an output of a node to the value of its expansion that equals it."""

_EXPANSIONS: Mapping[str, Callable[[ir.Node, Builder], Sequence[ir.Value] | None]] = MappingProxyType(
    {"Attention": attention.expand, **dict.fromkeys(RECURRENT, recurrence.expand)}
)
"""Expansions other than the standard's: they emit values that equal a node's outputs, or give None if they cannot."""


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
    while pending:
        node = pending.pop()
        expanded = _own(node, builder) or _function(node, opset, builder)
        if expanded is None:
            continue
        nodes, outputs = expanded
        assert node.graph is not None
        node.graph.insert_before(node, nodes)
        for own, equal in outputs.items():
            equal.type = own.type
            if own.shape is not None:
                equal.shape = own.shape.copy()
        equals.update(outputs)
        if node.graph is not graph:
            own_constants(node.graph, builder.unique_name)
        pending.extend(inner for inner in _all_nodes(nodes) if _is_to_expand(inner, is_primitive))
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


def _own(node: ir.Node, builder: Builder) -> tuple[Sequence[ir.Node], Expansions] | None:
    """An expansion that is written down here, in nodes and what equals the outputs; None if there is none."""
    expand = _EXPANSIONS.get(node.op_type)
    inner = builder.branch()
    outputs = expand(node, inner) if expand is not None else None
    if outputs is None:
        return None
    return inner.nodes, {own: equal for own, equal in zip(node.outputs, outputs, strict=False) if own.name}


def _function(node: ir.Node, opset: int, builder: Builder) -> tuple[Sequence[ir.Node], Expansions] | None:
    """The nodes of the function that an operator is, with types and shapes; None if it is no function."""
    body = _body(node, opset)
    if body is None:
        return None
    asked = [position for position, output in enumerate(node.outputs) if output.name]
    names = [body.output[position] for position in asked]
    body.output[:] = names
    formals = [_formal(value, position) for position, value in enumerate(node.inputs)]
    call = ir.Node("", node.op_type, formals, _attributes(node, opset), num_outputs=len(asked))
    for position, output in zip(asked, call.outputs, strict=True):
        output.name = f"output_{position}"
    function = ir.serde.deserialize_function(body)
    # The body is in the forms of the opset that it was written for, which those of newer ones up to the model's are.
    function.opset_imports[""] = opset
    inputs = [formal for formal in formals if formal is not None]
    graph = ir.Graph(inputs, call.outputs, nodes=[call], opset_imports={"": opset}, name="expansion")
    model = ir.Model(graph, ir_version=onnx.IR_VERSION, functions=[function])
    InlinePass()(model)
    for inner in _all_nodes(graph):
        for subgraph in subgraphs(inner):
            own_constants(subgraph, builder.unique_name)
    # Functions within need the types of their inputs to be found.
    infer_shapes(model)
    nodes, outputs = list(graph), list(graph.outputs)
    graph.outputs.clear()
    graph.remove(nodes)
    actual = zip(formals, node.inputs, strict=True)
    replace_inputs(nodes, {formal: value for formal, value in actual if formal is not None and value is not None})
    _rename(nodes, builder)
    _settle_casts(nodes)
    return nodes, {node.outputs[position]: output for position, output in zip(asked, outputs, strict=True)}


def _body(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    """The body of the function that the standard says the node's operator is, at the model's opset."""
    schema: Any  # its stubs lack what it says about functions
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    version = max((known for known in schema.all_function_opset_versions if known <= opset), default=None)
    # Some functions are made for given types. Nobody inlines those that take a subgraph as a parameter.
    typed = all(value is None or value.type is not None for value in node.inputs)
    if version is None or not typed or subgraphs(node):
        return None
    if version in schema.function_opset_versions:
        data = schema.get_function_with_opset_version(version)
    else:
        types = [_type_of(value).SerializeToString() for value in node.inputs]
        call = ir.serde.serialize_node(node).SerializeToString()
        data = schema.get_context_dependent_function_with_opset_version(version, call, types)
    body = data if isinstance(data, onnx.FunctionProto) else onnx.FunctionProto.FromString(data)
    return body if body.node else None


def _type_of(value: ir.Value | None) -> onnx.TypeProto:
    """The type of an input, with its shape; empty for an input that is absent."""
    return ir.serde.serialize_value(value).type if value is not None else onnx.TypeProto()


def _formal(value: ir.Value | None, position: int) -> ir.Value | None:
    """What stands for an input while the function is taken apart by itself."""
    return None if value is None else ir.Value(name=f"input_{position}", shape=value.shape, type=value.type)


def _attributes(node: ir.Node, opset: int) -> list[ir.Attr]:
    """The node's attributes, and the defaults of those that it leaves out."""
    declared = onnx.defs.get_schema(node.op_type, opset, "").attributes
    defaults = [
        ir.serde.deserialize_attribute(attribute.default_value)
        for name, attribute in declared.items()
        if name not in node.attributes and attribute.default_value.name
    ]
    return [*node.attributes.values(), *defaults]


def _rename(nodes: Iterable[ir.Node], builder: Builder) -> None:
    """Gives nodes and values names that nothing else has, within subgraphs, too."""
    for node in nodes:
        node.name = builder.unique_name(node.op_type)
        for output in node.outputs:
            output.name = builder.unique_name(node.op_type)
        for subgraph in subgraphs(node):
            for value in subgraph.inputs:
                value.name = builder.unique_name(node.op_type)
            _rename(subgraph, builder)


def _settle_casts(nodes: Iterable[ir.Node]) -> None:
    """Turns CastLike into Cast where the type is known: ONNX Runtime, which has no kernel for it, cannot fold it."""
    for node in _all_nodes(nodes):
        if node.op_type == "CastLike" and (like := node.inputs[1]) is not None and like.dtype is not None:
            node.op_type = "Cast"
            node.attributes.add(ir.AttrInt64("to", like.dtype))
            node.resize_inputs(1)
