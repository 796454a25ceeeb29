"""The gradient of a loop: a `Scan` that runs the other way.

Its body is the vector-Jacobian product of the loop's body, and what that needs of each step the loop hands out,
stacked, as further outputs. So the loop runs once, and the `Scan` is linear in the cotangents: it is differentiated
like any other, for tangent graphs.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ortoscope_service.graph.axes import captured_values, subgraphs
from ortoscope_service.graph.backward.builder import Builder, same_shape
from ortoscope_service.graph.backward.registry import Call, Gradients
from ortoscope_service.graph.backward.subgraphs import (
    apart,
    is_random,
    live_nodes,
    own_constants,
    rename,
    replace_inputs,
    total,
)
from ortoscope_service.graph.backward.walker import FLOATING, active_values

_ELEMENTWISE = frozenset(
    {
        "Abs",
        "Add",
        "And",
        "Cast",
        "Clip",
        "Cos",
        "Cosh",
        "Div",
        "Equal",
        "Erf",
        "Exp",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Log",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Pow",
        "Reciprocal",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Sqrt",
        "Sub",
        "Tanh",
        "Where",
    }
)
"""Operators that are the same on all steps at once as on each, if their operands have the same shape or none."""


@dataclass(frozen=True)
class State:
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
class Slices:
    """A value of which each step reads or writes a slice."""

    whole: ir.Value
    """Outside of the loop."""

    slice: ir.Value
    """In the body."""

    axis: int
    reverse: bool
    """Whether the first step has the last slice."""


@dataclass(frozen=True)
class Loop:
    """A Scan or a Loop."""

    node: ir.Node
    body: ir.Graph
    states: Sequence[State]
    reads: Mapping[int, Slices]
    """By position among the node's inputs."""

    writes: Sequence[Slices]
    """The node's outputs behind the states."""

    counter: ir.Value
    """An input of the body that is another in each step."""

    count: int | ir.SymbolicDim
    """The number of steps."""


@dataclass(frozen=True)
class Stack:
    """A tensor outside of a loop that has a value of the body for every step."""

    whole: ir.Value
    axis: int
    reverse: bool
    """Whether a Scan that runs from the last step to the first must read it from its end."""


def gradients(call: Call, loop: Loop) -> Gradients:
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
            stack = Stack(cotangent, written.axis, not written.reverse)
            seeds[written.slice].append(back.read(stack, written.slice))
    summed = {value: total(inner, parts) for value, parts in seeds.items()}
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


def _moving(loop: Loop, sources: Collection[ir.Value]) -> list[State]:
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


def _hoist_invariants(b: Builder, loop: Loop, sources: Collection[ir.Value]) -> None:
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
        if varies or kept.intersection(node.outputs) or is_random(node) or subgraphs(node):
            varying.update(node.outputs)
            continue
        body.remove(node)
        rename(node, b)
        outer.insert_before(loop.node, node)


class _Back:
    """A Scan that is being put together."""

    def __init__(self, b: Builder) -> None:
        self.b = b
        self._initial: list[ir.Value] = []
        self._states: list[ir.Value] = []
        self.reads: list[Slices] = []
        self._writes: list[Slices] = []
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

    def read(self, stack: Stack, like: ir.Value) -> ir.Value:
        """Adds a sequence of slices of a value's shape and type; gives the slice as the body sees it."""
        self.reads.append(Slices(stack.whole, self._inside(like), stack.axis, stack.reverse))
        return self.reads[-1].slice

    def write(self, read: Slices) -> None:
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


def _distribute(loop: Loop, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value], back: _Back) -> None:
    """Puts each node of a vector-Jacobian product where it runs least.

    What varies neither with the step nor with the cotangents runs once, before. What does not vary with the cotangents
    runs behind the loop, on all steps at once, as far as it is elementwise; else in the loop, which hands it out. The
    rest, linear in the cotangents, is the body of the Scan.
    """
    outer = loop.node.graph
    assert outer is not None
    stacks = _Stacks(back.b, loop)
    linear = set(back.inputs)
    rest = []
    for node in live_nodes(nodes, outputs):
        used = captured_values(node)
        if any(value in linear for value in used):
            linear.update(node.outputs)
            rest.append(node)
        elif stacks.known.isdisjoint(used):
            outer.insert_before(loop.node, node)
        else:
            stacks.add(node)
    _merge_factors(rest, outputs, stacks)
    ends = back.b.branch()
    back.outputs = apart(ends, outputs, rest)
    back.nodes = live_nodes([*rest, *ends.nodes], back.outputs)
    used = [value for node in back.nodes for value in captured_values(node) if value in stacks.known]
    replace_inputs(back.nodes, {value: back.read(stacks.of(value), value) for value in dict.fromkeys(used)})
    if not back.reads:
        # A Scan takes as many steps as what it reads has slices.
        back.read(stacks.of(loop.counter), loop.counter)
    stacks.close()


class _Stacks:
    """What is known of every step of a loop, as tensors outside."""

    def __init__(self, b: Builder, loop: Loop) -> None:
        self._b = b
        self._loop = loop
        self.known = {*loop.body.inputs, *(output for node in loop.body for output in node.outputs)}
        """Values of the body, and all that is computed from them."""

        self._nodes: list[ir.Node] = []
        self._found = {
            sequence.slice: Stack(sequence.whole, sequence.axis, not sequence.reverse)
            for sequence in (*loop.writes, *loop.reads.values())
        }

    def add(self, node: ir.Node) -> bool:
        """Adds a node that computes something from known values; says whether that runs on all steps at once."""
        self._nodes.append(node)
        self.known.update(node.outputs)
        varying = [value for value in node.inputs if value is not None and value in self.known]
        others = [value for value in node.inputs if value is not None and value not in self.known]
        if (
            node.op_type not in _ELEMENTWISE
            or not all(same_shape(value, varying[0]) for value in varying)
            or not all(value.shape is not None and len(value.shape) == 0 for value in others)
            or not all(self._is_in_order(value) for value in varying)
        ):
            return False
        wholes = {value: self.of(value).whole for value in varying}
        operands = [None if value is None else wholes.get(value, value) for value in node.inputs]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        result, like = self._b.op(node.op_type, *operands, **attributes), wholes[varying[0]]
        result.shape = like.shape.copy() if like.shape is not None else None
        node.outputs[0].shape = varying[0].shape
        self._found[node.outputs[0]] = Stack(result, 0, reverse=True)
        return True

    def product(self, one: ir.Value, other: ir.Value) -> ir.Value | None:
        """The product of two known values, if it can be computed for all steps at once."""
        node = ir.Node("", "Mul", [one, other], name=self._b.unique_name("Mul"))
        node.outputs[0].name, node.outputs[0].type = node.name, one.type
        return node.outputs[0] if self.add(node) else None

    def _is_in_order(self, value: ir.Value) -> bool:
        """Whether the slices of a value lie along the first axis, from the first step to the last, or can."""
        stack = self._found.get(value)
        return stack is None or (stack.axis == 0 and stack.reverse)

    def of(self, value: ir.Value) -> Stack:
        """The stack of a known value, which the loop hands out if there is none yet."""
        if value not in self._found:
            self._found[value] = Stack(self._hand_out(value), 0, reverse=True)
        stack = self._found[value]
        stack.whole.name = stack.whole.name or self._b.unique_name("unnamed")
        return stack

    def _hand_out(self, value: ir.Value) -> ir.Value:
        body, node = self._loop.body, self._loop.node
        output = value
        if value in body.inputs or value in body.outputs:
            copy = ir.Node("", "Identity", [value], name=self._b.unique_name("Identity"))
            output = copy.outputs[0]
            output.name, output.shape, output.type = copy.name, value.shape, value.type
            body.append(copy)
        body.outputs.append(output)
        node.resize_outputs(len(node.outputs) + 1)
        whole = node.outputs[-1]
        whole.name, whole.type = self._b.unique_name("steps"), value.type
        whole.shape = ir.Shape([self._loop.count, *value.shape]) if value.shape is not None else None
        for name in ("scan_output_axes", "scan_output_directions"):
            if name in node.attributes:
                node.attributes[name] = ir.AttrInt64s(name, [*node.attributes[name].as_ints(), 0])
        return whole

    def close(self) -> None:
        """Gives the loop the nodes that are left to run in it."""
        body = self._loop.body
        body.extend(live_nodes(self._nodes, body.outputs))
        own_constants(body, self._b.unique_name)


def _merge_factors(nodes: Iterable[ir.Node], outputs: Collection[ir.Value], stacks: _Stacks) -> None:
    """Makes two known factors, one after the other, one, where that is computed for all steps at once."""
    for node in nodes:
        value, factor = _factors(node, stacks)
        before = value.producer() if value is not None and len(value.uses()) == 1 and value not in outputs else None
        if before is None or factor is None:
            continue
        first, other = _factors(before, stacks)
        if first is None or other is None:
            continue
        product = stacks.product(factor, other)
        if product is not None:
            node.replace_input_with(0, first)
            node.replace_input_with(1, product)


def _factors(node: ir.Node, stacks: _Stacks) -> tuple[ir.Value | None, ir.Value | None]:
    """What is not known and what is, of a product of two such values."""
    if node.op_type != "Mul":
        return None, None
    one, other = node.inputs
    if one in stacks.known:
        one, other = other, one
    return (one, other) if other in stacks.known and one not in stacks.known else (None, None)
