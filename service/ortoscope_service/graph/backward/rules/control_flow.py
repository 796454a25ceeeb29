"""Control flow: loops are differentiated from the last step to the first (`loops`), branches within the branches."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ortoscope_service.graph.backward import loops
from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.subgraphs import apart, is_random, own_constants, rename, total
from ortoscope_service.graph.constants import int_attribute, ints_attribute


@rule("Scan")
def scan(call: Call) -> Gradients:
    """A Scan that runs backwards."""
    node = call.node
    body = node.attributes["body"].as_graph()
    reads = int_attribute(node, "num_scan_inputs", 0)
    count = len(body.inputs) - reads
    states = [
        loops.State(index, *values)
        for index, values in enumerate(
            zip(body.inputs[:count], body.outputs[:count], node.outputs[:count], strict=True)
        )
    ]
    writes = len(body.outputs) - count
    inputs, outputs = _ways(node, "input", reads), _ways(node, "output", writes)
    read = {
        count + index: loops.Slices(call.input(count + index), body.inputs[count + index], *way)
        for index, way in enumerate(inputs)
    }
    written = [
        loops.Slices(node.outputs[count + index], body.outputs[count + index], *way)
        for index, way in enumerate(outputs)
    ]
    first = read[count]
    steps = first.whole.shape[first.axis] if first.whole.shape is not None else ir.SymbolicDim(None)
    return loops.gradients(call, loops.Loop(node, body, states, read, written, first.slice, steps))


def _ways(node: ir.Node, which: str, count: int) -> list[tuple[int, bool]]:
    """Axis and direction of a Scan's inputs or outputs."""
    axes = ints_attribute(node, f"scan_{which}_axes") or (0,) * count
    directions = ints_attribute(node, f"scan_{which}_directions") or (0,) * count
    return [(axis, bool(direction)) for axis, direction in zip(axes, directions, strict=True)]


@rule("Loop")
def loop(call: Call) -> Gradients:
    """A Scan over the steps that were taken, backwards; their number does not vary with anything."""
    node = call.node
    body = node.attributes["body"].as_graph()
    count = len(body.inputs) - 2
    states = [
        loops.State(2 + index, *values)
        for index, values in enumerate(
            zip(body.inputs[2:], body.outputs[1 : 1 + count], node.outputs[:count], strict=True)
        )
    ]
    written = [
        loops.Slices(whole, inner, 0, reverse=False)
        for whole, inner in zip(node.outputs[count:], body.outputs[1 + count :], strict=True)
    ]
    return loops.gradients(call, loops.Loop(node, body, states, {}, written, body.inputs[0], ir.SymbolicDim(None)))


@rule("If")
def branch(call: Call) -> Gradients:
    """An If between the gradients of the branches, which compute once more what these need of the forward pass."""
    b, operands = call.b, call.operands
    captured = {position: value for position in sorted(call.wanted) if (value := operands[position]) is not None}
    branches = {name: _differentiated(call, name, list(captured.values())) for name in ("then_branch", "else_branch")}
    varying = [
        value for value in captured.values() if any(found[value] is not None for _, _, found in branches.values())
    ]
    if not varying:
        return {}
    for graph, inner, found in branches.values():
        parts = [found[value] or inner.zeros_like(value) for value in varying]
        outputs = apart(inner, parts, inner.nodes)
        graph.extend(inner.nodes)
        graph.outputs[:] = outputs
        own_constants(graph, b.unique_name)
    results = b.ops("If", call.x, outputs=len(varying), **{name: graph for name, (graph, _, _) in branches.items()})
    for result, like in zip(results, varying, strict=True):
        result.shape, result.type = like.shape, like.type
    gradients = dict(zip(varying, results, strict=True))
    return {position: gradients.get(value) for position, value in captured.items()}


def _differentiated(
    call: Call, name: str, sources: Sequence[ir.Value]
) -> tuple[ir.Graph, Builder, Mapping[ir.Value, ir.Value | None]]:
    """A branch, what to emit behind it, and the cotangents there of what it captures."""
    node = call.node
    graph = node.attributes[name].as_graph()
    for inner_node in ir.traversal.RecursiveGraphIterator(graph):
        if is_random(inner_node):
            raise call.refuse(
                f"with {inner_node.op_type} in a branch, which would draw other numbers when it runs again"
            )
    # What the walk knows (`expansion`) it knows of this graph: the forward pass gets the copy.
    node.attributes[name] = ir.AttrGraph(name, graph.clone(allow_outer_scope_values=True))
    for inner_graph in (graph, *graph.subgraphs()):
        for value in list(inner_graph.initializers.values()):
            inner_graph.initializers.pop(value.name or "")
            value.name = call.b.unique_name("inside")
            inner_graph.register_initializer(value)
        for value in inner_graph.inputs:
            value.name = call.b.unique_name("inside")
        for inner_node in inner_graph:
            rename(inner_node, call.b)
    inner = call.b.branch()
    seeds: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    for output, cotangent in zip(graph.outputs, call.cotangents, strict=True):
        if cotangent is not None:
            seeds[output].append(cotangent)
    summed = {value: total(inner, parts) for value, parts in seeds.items()}
    return graph, inner, call.walk(list(graph), summed, sources, inner)
