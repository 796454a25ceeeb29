"""Control flow: loops are differentiated step by step, from the last to the first; branches within the branches.

The gradient of a loop is a `Scan` that runs the other way. Its body is the vector-Jacobian product of the loop's body,
and what that needs of each step the loop hands out, stacked, as further outputs. So the loop runs once, and the `Scan`
is linear in the cotangents: it is differentiated like any other, for tangent graphs.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ortoscope_service.graph.axes import captured_values, subgraphs
from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.registry import Call, Gradients, rule
from ortoscope_service.graph.backward.subgraphs import live_nodes, own_constants, replace_inputs
from ortoscope_service.graph.backward.walker import FLOATING, active_values
from ortoscope_service.graph.constants import int_attribute, ints_attribute

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


@dataclass(frozen=True)
class _State:
    """What goes from step to step."""

    operand: int
    """Position of its initial value among the node's inputs."""

    before: ir.Value
    """In the body, before a step."""

    after: ir.Value
    """In the body, after a step."""

    result: ir.Value
    """The node's output, after the last step."""


@dataclass(frozen=True)
class _Sequence:
    """A value of which each step reads or writes a slice."""

    whole: ir.Value
    """Outside of the loop."""

    slice: ir.Value
    """In the body."""

    axis: int
    reverse: bool
    """Whether the first step has the last slice."""


@dataclass(frozen=True)
class _Loop:
    """A Scan or a Loop."""

    node: ir.Node
    body: ir.Graph
    states: Sequence[_State]
    reads: Mapping[int, _Sequence]
    """By position among the node's inputs."""

    writes: Sequence[_Sequence]
    """The node's outputs behind the states."""

    counter: ir.Value
    """An input of the body that is another in each step."""

    count: int | ir.SymbolicDim
    """The number of steps."""


@rule("Scan")
def scan(call: Call) -> Gradients:
    """A Scan that runs backwards."""
    node = call.node
    body = node.attributes["body"].as_graph()
    reads = int_attribute(node, "num_scan_inputs", 0)
    count = len(body.inputs) - reads
    states = [
        _State(index, *values)
        for index, values in enumerate(
            zip(body.inputs[:count], body.outputs[:count], node.outputs[:count], strict=True)
        )
    ]
    writes = len(body.outputs) - count
    inputs, outputs = _ways(node, "input", reads), _ways(node, "output", writes)
    read = {
        count + index: _Sequence(call.input(count + index), body.inputs[count + index], *way)
        for index, way in enumerate(inputs)
    }
    written = [
        _Sequence(node.outputs[count + index], body.outputs[count + index], *way) for index, way in enumerate(outputs)
    ]
    first = read[count]
    steps = first.whole.shape[first.axis] if first.whole.shape is not None else ir.SymbolicDim(None)
    return _of_loop(call, _Loop(node, body, states, read, written, first.slice, steps))


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
        _State(2 + index, *values)
        for index, values in enumerate(
            zip(body.inputs[2:], body.outputs[1 : 1 + count], node.outputs[:count], strict=True)
        )
    ]
    written = [
        _Sequence(whole, inner, 0, reverse=False)
        for whole, inner in zip(node.outputs[count:], body.outputs[1 + count :], strict=True)
    ]
    return _of_loop(call, _Loop(node, body, states, {}, written, body.inputs[0], ir.SymbolicDim(None)))


def _of_loop(call: Call, loop: _Loop) -> Gradients:
    """The cotangents of what a loop starts from, reads and captures."""
    b, inner, inputs = call.b, call.b.branch(), len(call.node.inputs)
    operands = enumerate(call.operands)
    captures = {
        position: v for position, v in operands if v is not None and position in call.wanted and position >= inputs
    }
    reads = {position: read for position, read in loop.reads.items() if position in call.wanted}
    starts = {state.before for state in loop.states if state.operand in call.wanted}
    moving = _moving(loop, {*starts, *captures.values(), *(read.slice for read in reads.values())})
    sources = [*(state.before for state in moving), *(read.slice for read in reads.values()), *captures.values()]
    _require_tensors(call, sources)
    _hoist_invariants(b, loop, sources)

    back = _Back(b)
    cotangents = dict(zip(call.node.outputs, call.cotangents, strict=True))
    seeds: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    carried = []
    for state in moving:
        carried.append(back.carry(cotangents[state.result] or b.zeros_like(call.input(state.operand)), state.after))
        seeds[state.after].append(carried[-1])
    for written in loop.writes:
        cotangent = cotangents[written.whole]
        if cotangent is not None:
            seeds[written.slice].append(back.read(cotangent, written.slice, written.axis, not written.reverse))
    summed = {value: _sum(inner, parts) for value, parts in seeds.items()}
    found = call.walk(list(loop.body), summed, sources, inner)

    keys: list[int] = [state.operand for state in moving]
    after = [found[state.before] or inner.zeros_like(own) for state, own in zip(moving, carried, strict=True)]
    for position, value in captures.items():
        part = found[value]
        if part is not None:
            keys.append(position)
            after.append(inner.op("Add", back.carry(b.zeros_like(value), value), part))
    for position, read in reads.items():
        part = found[read.slice]
        if part is not None:
            keys.append(position)
            after.append(part)
            back.write(read)
    if not after:
        return {}
    _distribute(loop, inner.nodes, after, back)
    return dict(zip(keys, back.emit(), strict=True))


def _sum(b: Builder, parts: Sequence[ir.Value]) -> ir.Value:
    """The sum of cotangents of the same shape."""
    total = parts[0]
    for part in parts[1:]:
        total = b.op("Add", total, part)
    return total


def _moving(loop: _Loop, sources: Collection[ir.Value]) -> list[_State]:
    """The states that vary with the sources, be it after many steps."""
    varying = set(sources)
    while True:
        active = active_values(list(loop.body), varying)
        more = {state.before for state in loop.states if state.after in active and state.before.dtype in FLOATING}
        if more <= varying:
            return [state for state in loop.states if state.before in varying]
        varying |= more


def _require_tensors(call: Call, values: Iterable[ir.Value]) -> None:
    for value in values:
        if not isinstance(value.type, ir.TensorType) or value.shape is None:
            raise call.refuse(f"with {value.name!r} inside, whose type or rank is not known")


def _hoist_invariants(b: Builder, loop: _Loop, sources: Collection[ir.Value]) -> None:
    """Moves out of the body what is the same in each step, so that no step has to hand it out."""
    body, outer = loop.body, loop.node.graph
    assert outer is not None
    kept = set(body.outputs)
    for name, value in list(body.initializers.items()):
        if value not in kept:
            body.initializers.pop(name)
            value.name = b.unique_name("invariant")
            outer.register_initializer(value)
    varying = {*body.inputs, *active_values(list(body), sources)}
    for node in list(body):
        varies = any(value in varying for value in captured_values(node))
        if varies or kept.intersection(node.outputs) or _is_random(node) or subgraphs(node):
            varying.update(node.outputs)
            continue
        body.remove(node)
        _rename(node, b)
        outer.insert_before(loop.node, node)


def _is_random(node: ir.Node) -> bool:
    """Whether a node may give something else when it runs again."""
    in_training = node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None
    return node.op_type in _RANDOM or in_training


def _rename(node: ir.Node, b: Builder) -> None:
    node.name = b.unique_name(node.op_type)
    for output in node.outputs:
        output.name = b.unique_name(node.op_type)


class _Back:
    """A Scan that is being put together."""

    def __init__(self, b: Builder) -> None:
        self.b = b
        self._initial: list[ir.Value] = []
        self._states: list[ir.Value] = []
        self.reads: list[_Sequence] = []
        self._writes: list[_Sequence] = []
        self.nodes: Sequence[ir.Node] = ()
        """The body."""

        self.outputs: Sequence[ir.Value] = ()
        """Of the body: first for each state what it becomes, then what is written."""

    @property
    def inputs(self) -> list[ir.Value]:
        """Of the body."""
        return [*self._states, *(read.slice for read in self.reads)]

    def carry(self, initial: ir.Value, like: ir.Value) -> ir.Value:
        """Adds a state of a value's shape and type; gives it as the body sees it."""
        self._initial.append(initial)
        self._states.append(self._inside(like))
        return self._states[-1]

    def read(self, whole: ir.Value, like: ir.Value, axis: int, reverse: bool) -> ir.Value:
        """Adds a sequence of slices of a value's shape and type; gives the slice as the body sees it."""
        self.reads.append(_Sequence(whole, self._inside(like), axis, reverse))
        return self.reads[-1].slice

    def write(self, read: _Sequence) -> None:
        """Adds an output: cotangents of what a loop read, in the places where it read them."""
        self._writes.append(read)

    def emit(self) -> Sequence[ir.Value]:
        """Emits the Scan and gives its outputs: the last states, then what was written."""
        reads, writes = self.reads, self._writes
        body = ir.Graph(self.inputs, self.outputs, nodes=self.nodes, name=self.b.unique_name("steps"))
        own_constants(body, self.b.unique_name)
        results = self.b.ops(
            "Scan",
            *self._initial,
            *(read.whole for read in reads),
            outputs=len(self.outputs),
            body=body,
            num_scan_inputs=len(reads),
            scan_input_axes=[read.axis for read in reads],
            scan_input_directions=[int(read.reverse) for read in reads],
            scan_output_axes=[write.axis for write in writes] or None,
            scan_output_directions=[int(not write.reverse) for write in writes] or None,
        )
        for result, like in zip(results, [*self._initial, *(write.whole for write in writes)], strict=True):
            result.type = like.type
            result.shape = like.shape.copy() if like.shape is not None else None
        return results

    def _inside(self, like: ir.Value) -> ir.Value:
        shape = like.shape.copy() if like.shape is not None else None
        return ir.Value(name=self.b.unique_name("inside"), shape=shape, type=like.type)


def _distribute(loop: _Loop, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value], back: _Back) -> None:
    """Puts each node of a vector-Jacobian product where it runs least.

    What varies neither with the step nor with the cotangents runs once, before; what the loop knows of each step runs
    in the loop, which hands it out; the rest, linear in the cotangents, is the body of the Scan.
    """
    outer = loop.node.graph
    assert outer is not None
    known = {*loop.body.inputs, *(output for node in loop.body for output in node.outputs)}
    linear = set(back.inputs)
    rest = []
    for node in live_nodes(nodes, outputs):
        used = captured_values(node)
        if any(value in linear for value in used):
            linear.update(node.outputs)
            rest.append(node)
        elif known.isdisjoint(used):
            outer.insert_before(loop.node, node)
        else:
            loop.body.append(node)
            known.update(node.outputs)
    ends = back.b.branch()
    back.outputs = _apart(ends, outputs, rest)
    back.nodes = [*rest, *ends.nodes]
    handed = {
        value: back.read(*_hand_out(back.b, loop, value))
        for value in dict.fromkeys(value for node in back.nodes for value in captured_values(node))
        if value in known
    }
    replace_inputs(back.nodes, handed)
    own_constants(loop.body, back.b.unique_name)
    if not back.reads:
        # A Scan takes as many steps as what it reads has slices.
        back.read(*_hand_out(back.b, loop, loop.counter))


def _apart(b: Builder, values: Iterable[ir.Value], nodes: Iterable[ir.Node]) -> list[ir.Value]:
    """The values as outputs of a subgraph: each made by one of its nodes, and none twice."""
    made = {output for node in nodes for output in node.outputs}
    outputs: list[ir.Value] = []
    for value in values:
        output = value if value in made and value not in outputs else b.op("Identity", value)
        output.shape, output.type = value.shape, value.type
        outputs.append(output)
    return outputs


def _hand_out(b: Builder, loop: _Loop, value: ir.Value) -> tuple[ir.Value, ir.Value, int, bool]:
    """What to read, from the last step to the first, to see a value of the loop's body; as `_Back.read` takes it."""
    for sequence in (*loop.reads.values(), *loop.writes):
        if sequence.slice is value:
            sequence.whole.name = sequence.whole.name or b.unique_name("unnamed")
            return sequence.whole, value, sequence.axis, not sequence.reverse
    body, node = loop.body, loop.node
    output = value
    if value in body.inputs or value in body.outputs:
        copy = ir.Node("", "Identity", [value], name=b.unique_name("Identity"))
        output = copy.outputs[0]
        output.name, output.shape, output.type = copy.name, value.shape, value.type
        body.append(copy)
    body.outputs.append(output)
    node.resize_outputs(len(node.outputs) + 1)
    whole = node.outputs[-1]
    whole.name, whole.type = b.unique_name("steps"), value.type
    whole.shape = ir.Shape([loop.count, *value.shape]) if value.shape is not None else None
    for name in ("scan_output_axes", "scan_output_directions"):
        if name in node.attributes:
            node.attributes[name] = ir.AttrInt64s(name, [*node.attributes[name].as_ints(), 0])
    return whole, value, 0, True


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
        outputs = _apart(inner, parts, inner.nodes)
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
        if _is_random(inner_node):
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
            _rename(inner_node, call.b)
    inner = call.b.branch()
    seeds: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    for output, cotangent in zip(graph.outputs, call.cotangents, strict=True):
        if cotangent is not None:
            seeds[output].append(cotangent)
    summed = {value: _sum(inner, parts) for value, parts in seeds.items()}
    return graph, inner, call.walk(list(graph), summed, sources, inner)
