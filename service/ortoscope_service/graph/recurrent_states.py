"""States of recurrent layers after every step, as tensors: what a cell remembered when."""

import itertools
from collections import Counter
from collections.abc import Collection, Sequence

import onnx_ir as ir

from ortoscope_service.errors import not_found
from ortoscope_service.graph.axes import RECURRENT
from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.opset import modernize
from ortoscope_service.graph.backward.recurrence import direction_count, outputs_of, problem, run
from ortoscope_service.graph.constants import int_attribute
from ortoscope_service.graph.loading import infer_shapes
from ortoscope_service.graph.taps import BY_PRODUCT

STATES = ("hidden", "cell")
"""How the names of the tensors end, behind the layer's name and a full stop."""


def expose_states(model: ir.Model, *, connected: Collection[str] = ()) -> ir.Model:
    """Adds the states of the recurrent layers (LSTM, GRU, RNN) of the main graph as tensors.

    A layer gets `<layer>.hidden`, and an LSTM `<layer>.cell`, each (batch, step, unit): the state after every step,
    zeros behind the end of an item's sequence; both directions of a bidirectional layer side by side along the units.
    `<layer>` is the node's name or, if it has none, its operator and how many of the kind come before: `lstm_0`. They
    are computed beside the model, and only where they are asked for; cells are computed once more, by a Scan.

    What lies behind a layer does not depend on these tensors. If the gradient *at* a state is wanted, or a tangent from
    it, the state must be `connected`. Then the layer is replaced by a Scan that adds to the state after each step
    whatever the tensor differs by from that state, and carries it on. So the gradient at a connected state counts all
    ways to the outputs, those through later steps among them, and the outputs differ from the model's by rounding.

    Args:
        model: A model from `loading.load_model`.
        connected: Names of states that the outputs are to depend on.

    Returns:
        A new model, in opset 20 or newer, sharing the weights.

    Raises:
        OrtoscopeError: `UNKNOWN_STATE` (NOT_FOUND): there is no such state to connect; `OPSET_NOT_CONVERTIBLE`.
    """
    exposed = modernize(model)
    graph = exposed.graph
    names = set(ir.convenience.create_value_mapping(graph))
    builder = Builder(names, "states/", graph.inputs)
    counts: Counter[str] = Counter()
    known: list[str] = []
    for node in [node for node in graph if not node.domain and node.op_type in RECURRENT]:
        layer = node.name or f"{node.op_type.lower()}_{counts[node.op_type]}"
        counts[node.op_type] += 1
        if problem(node) is None:
            known += _expose(node, layer, builder, names, connected)
    for name in connected:
        if name not in known:
            raise not_found(
                "UNKNOWN_STATE",
                f"The model has no state {name!r}. It has {', '.join(map(repr, known)) or 'none'}.",
                state=name,
            )
    for constant in builder.constants:
        graph.register_initializer(constant)
    infer_shapes(exposed)
    return exposed


def _expose(node: ir.Node, layer: str, builder: Builder, taken: set[str], connected: Collection[str]) -> list[str]:
    """Adds a layer's states; gives their names."""
    b = builder.branch()
    states = [_hidden_steps(node, b)]
    if node.op_type == "LSTM":
        states.append(list(run(node, b, every=2, unroll=False)[1].steps))
    tensors = [_batch_first(b, steps) for steps in states]
    names = [_free_name(f"{layer}.{state}", taken) for state in STATES[: len(tensors)]]
    shifts = {}
    for index, (name, tensor, steps) in enumerate(zip(names, tensors, states, strict=True)):
        tensor.name = name
        if name in connected:
            shifts[index] = _differences(b, tensor, steps)
    graph = node.graph
    assert graph is not None
    kept = list(tensors)
    if shifts:
        outputs = outputs_of(node, b, run(node, b, every=1, shifts=shifts, unroll=False))
        own = set(b.nodes)
        for old, new in zip(node.outputs, outputs, strict=False):
            _take_over(graph, old, new, own, b)
        kept += outputs
    graph.insert_after(node, b.nodes)
    for made in b.nodes:
        for output in made.outputs:
            if output not in kept:
                output.metadata_props[BY_PRODUCT] = "yes"
    return names


def _free_name(name: str, taken: set[str]) -> str:
    """A name that nothing has yet, from now on taken: the wanted one, or that with a number."""
    numbered = (f"{name}_{number}" for number in itertools.count(1))
    free = next(candidate for candidate in itertools.chain([name], numbered) if candidate not in taken)
    taken.add(free)
    return free


def _hidden_steps(node: ir.Node, b: Builder) -> list[ir.Value]:
    """The hidden states of each direction after every step, (step, batch, unit)."""
    every = node.outputs[0]
    every.name = every.name or b.unique_name("hidden")
    every.type = every.type or (node.inputs[0].type if node.inputs[0] is not None else None)
    if int_attribute(node, "layout", 0):
        every = b.op("Transpose", every, perm=[1, 2, 0, 3])
    return [b.op("Squeeze", part, b.ints([1])) for part in _split(b, every, direction_count(node), axis=1)]


def _split(b: Builder, value: ir.Value, count: int, axis: int) -> Sequence[ir.Value]:
    return [value] if count == 1 else b.ops("Split", value, outputs=count, axis=axis, num_outputs=count)


def _batch_first(b: Builder, steps: Sequence[ir.Value]) -> ir.Value:
    """All directions as one tensor (batch, step, unit)."""
    joined = steps[0] if len(steps) == 1 else b.op("Concat", *steps, axis=2)
    return b.op("Transpose", joined, perm=[1, 0, 2])


def _differences(b: Builder, tensor: ir.Value, steps: Sequence[ir.Value]) -> list[ir.Value]:
    """What a tensor has that the states it was made of have not: zeros, as long as nobody changes the tensor."""
    parts = _split(b, b.op("Transpose", tensor, perm=[1, 0, 2]), len(steps), axis=2)
    return [b.op("Sub", part, own) for part, own in zip(parts, steps, strict=True)]


def _take_over(graph: ir.Graph, old: ir.Value, new: ir.Value, own: Collection[ir.Node], b: Builder) -> None:
    """Puts a value in the place of another for all but some nodes; the other's name goes with it."""
    if not old.name:
        return
    new.shape, new.type = old.shape, old.type
    for use in list(old.uses()):
        if use.node not in own:
            use.node.replace_input_with(use.idx, new)
    for position, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[position] = new
    new.name, old.name = old.name, b.unique_name("replaced")
    old.metadata_props[BY_PRODUCT] = "yes"
