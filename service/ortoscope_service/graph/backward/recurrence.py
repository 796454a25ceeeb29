"""Recurrent layers (LSTM, GRU, RNN) step by step, in operators that have rules.

A layer stays in the forward graph, where its own kernel is fast; for differentiation it is doubled by what is written
here (`expansion`): the product of all inputs with the weights at once, then one step after the other, unrolled where
the number of steps is known and small, else as a `Scan`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.sizes import extent, listed
from ortoscope_service.graph.backward.subgraphs import own_constants
from ortoscope_service.graph.constants import constant_ints, float_attribute, int_attribute, string_attribute

UNROLLED_STEPS = 8
"""Longer sequences become a Scan, which then is the faster one, and is built and loaded in a fraction of the time."""

_ACTIVATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
)
"""Activation functions by default, in the order of the attribute."""

_WITHOUT_PARAMETERS: Mapping[str, str] = MappingProxyType(
    {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softsign": "Softsign", "softplus": "Softplus"}
)
_PARAMETERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "affine": ("alpha", "beta"),
        "elu": ("alpha",),
        "hardsigmoid": ("alpha", "beta"),
        "leakyrelu": ("alpha",),
        "scaledtanh": ("alpha", "beta"),
        "thresholdedrelu": ("alpha",),
    }
)
_DEFAULTS: Mapping[tuple[str, str], float] = MappingProxyType(
    {("leakyrelu", "alpha"): 0.01, ("hardsigmoid", "alpha"): 0.2, ("hardsigmoid", "beta"): 0.5, ("elu", "alpha"): 1.0}
)
"""Defaults on which the standard and ONNX Runtime agree."""

Activation = Callable[[Builder, ir.Value], ir.Value]
Step = Callable[[Builder, Sequence[ir.Value], Sequence[ir.Value]], Sequence[ir.Value]]
"""From slices of the sequences and states, hidden first, to the next states."""


@dataclass(frozen=True)
class States:
    """A state of a recurrent layer, one entry for each direction, forward before reverse."""

    steps: tuple[ir.Value, ...]
    """The state after each step, (step, batch, unit); zeros where an item's sequence has ended."""

    last: tuple[ir.Value, ...]
    """The state after the last step of each item, (1, batch, unit)."""


@dataclass(frozen=True)
class _Layer:
    """What a node says of its layer."""

    node: ir.Node
    hidden: int
    """The number of units."""

    activations: tuple[tuple[Activation, ...], ...]
    """For each direction."""

    clip: float | None

    @property
    def states(self) -> int:
        return 2 if self.node.op_type == "LSTM" else 1

    @property
    def batch_axis(self) -> int:
        """Of the input, whose steps are along the other of the first two axes."""
        return 0 if int_attribute(self.node, "layout", 0) else 1

    @property
    def reverse(self) -> tuple[bool, ...]:
        """Whether each direction starts from the end."""
        return {"forward": (False,), "reverse": (True,)}.get(_direction(self.node), (False, True))

    @property
    def x(self) -> ir.Value:
        return self._given(0)

    @property
    def weights(self) -> ir.Value:
        return self._given(1)

    @property
    def recurrent(self) -> ir.Value:
        return self._given(2)

    def _given(self, position: int) -> ir.Value:
        value = self.node.inputs[position]
        assert value is not None
        return value

    def optional(self, position: int) -> ir.Value | None:
        """An input that may be absent."""
        return self.node.inputs[position] if position < len(self.node.inputs) else None


@dataclass(frozen=True)
class _Cell:
    """What one direction of a layer computes with."""

    layer: _Layer
    activations: tuple[Activation, ...]

    products: ir.Value
    """Of all inputs with the weights, (step, batch, gate · unit)."""

    recurrent: ir.Value
    """Weights of the state, (unit, gate · unit)."""

    biases: Sequence[ir.Value]
    """Of input and state, (gate · unit) each, or none."""

    peepholes: Sequence[ir.Value]
    """What the gates i, o and f see of the cells, (unit) each, or none."""

    def clipped(self, b: Builder, z: ir.Value) -> ir.Value:
        """What goes into an activation function, within the layer's bounds."""
        bound = self.layer.clip
        return z if bound is None else b.op("Clip", z, b.number(-bound, z), b.number(bound, z))


class _UnsupportedError(Exception):
    """Completes "The gradient of <operator> ... is not supported"."""


def expand(node: ir.Node, b: Builder) -> list[ir.Value] | None:
    """Emits a layer step by step.

    Args:
        node: An LSTM, GRU or RNN.
        b: Where to emit.

    Returns:
        Values that equal the layer's outputs Y, Y_h and Y_c, in its own layout; None if the layer has a `problem`.
    """
    return None if problem(node) is not None else outputs_of(node, b, run(node, b, every=1))


def outputs_of(node: ir.Node, b: Builder, states: Sequence[States]) -> list[ir.Value]:
    """Puts states, as `run` gives them, together to the outputs Y, Y_h and Y_c of a layer, in its own layout."""
    outputs = [b.op("Concat", *(b.op("Unsqueeze", part, b.ints([1])) for part in states[0].steps), axis=1)]
    outputs += [b.op("Concat", *state.last, axis=0) for state in states]
    if _read(node).batch_axis == 1:
        return outputs
    orders = [[2, 0, 1, 3], [1, 0, 2], [1, 0, 2]]
    return [b.op("Transpose", output, perm=order) for output, order in zip(outputs, orders, strict=False)]


def problem(node: ir.Node) -> str | None:
    """Why a layer cannot be expanded, as `Call.refuse` takes it; None if it can."""
    try:
        _read(node)
    except _UnsupportedError as error:
        return str(error)
    return None


def run(
    node: ir.Node,
    b: Builder,
    *,
    every: int,
    shifts: Mapping[int, Sequence[ir.Value]] = MappingProxyType({}),
    unroll: bool = True,
) -> list[States]:
    """Emits the steps of a layer that has no `problem`.

    Args:
        node: An LSTM, GRU or RNN.
        b: Where to emit.
        every: How many of the states, hidden first, are wanted after every step; the `steps` of others are empty.
        shifts: By the number of the state, what to add to it after each step, for each direction, (step, batch, unit).
        unroll: Whether short sequences are unrolled.

    Returns:
        The hidden states and, for an LSTM, the cells.
    """
    layer = _read(node)
    keep = _keep(layer, b)
    initial = [_initial(layer, b, state) for state in range(layer.states)]
    steps: list[list[ir.Value]] = [[] for _ in initial]
    last: list[list[ir.Value]] = [[] for _ in initial]
    for index, (cell, reverse) in enumerate(zip(_cells(layer, b), layer.reverse, strict=True)):
        sequences, step = _MAKERS[node.op_type](b, cell)
        for value, gates in zip(sequences, _GATES[node.op_type], strict=True):
            value.shape = ir.Shape([*_time_and_batch(layer), gates * layer.hidden])
        own_shifts = {state: parts[index] for state, parts in shifts.items()}
        for shift in own_shifts.values():
            shift.shape = ir.Shape([*_time_and_batch(layer), layer.hidden])
        loop = _Loop(layer, step, sequences, own_shifts, keep, every, reverse, unroll)
        all_steps, final = loop.run(b, [state[index] for state in initial])
        for state, value in enumerate(all_steps):
            steps[state].append(value)
        for state, value in enumerate(final):
            last[state].append(value)
    return [States(tuple(own), tuple(ends)) for own, ends in zip(steps, last, strict=True)]


def _read(node: ir.Node) -> _Layer:
    x, recurrent = node.inputs[0], node.inputs[2]
    if x is None or x.shape is None or x.dtype is None:
        raise _UnsupportedError("with an input of unknown rank or type")
    units = recurrent.shape[2] if recurrent is not None and recurrent.shape is not None else None
    hidden = int_attribute(node, "hidden_size", units if isinstance(units, int) else 0)
    if hidden < 1:
        raise _UnsupportedError("with a number of units that is not known")
    clip = float_attribute(node, "clip")
    return _Layer(node, hidden, _activations(node), clip if clip is not None and clip > 0 else None)


def direction_count(node: ir.Node) -> int:
    """Two for a bidirectional layer, else one."""
    return 2 if _direction(node) == "bidirectional" else 1


def _direction(node: ir.Node) -> str:
    return string_attribute(node, "direction", "forward")


def _activations(node: ir.Node) -> tuple[tuple[Activation, ...], ...]:
    """The activation functions of each direction."""
    default = _ACTIVATIONS[node.op_type]
    count = direction_count(node)
    given = node.attributes.get("activations")
    names = [name.lower() for name in (given.as_strings() if given is not None else default * count)]
    if node.op_type == "RNN" and given is not None:
        names = names[:count]
    if len(names) != len(default) * count:
        raise _UnsupportedError(f"with {len(names)} activation functions instead of {len(default) * count}")
    functions = []
    taken = dict.fromkeys(("alpha", "beta"), 0)
    for name in names:
        if name not in _PARAMETERS and name not in _WITHOUT_PARAMETERS:
            raise _UnsupportedError(f"with the activation function {name!r}")
        values = {}
        for parameter in _PARAMETERS.get(name, ()):
            values[parameter] = _parameter(node, name, parameter, taken[parameter])
            taken[parameter] += 1
        functions.append(_activation(name, **values))
    return tuple(tuple(functions[start : start + len(default)]) for start in range(0, len(functions), len(default)))


def _parameter(node: ir.Node, name: str, parameter: str, index: int) -> float:
    """A parameter of an activation function: the next that is given, or the default."""
    attribute = node.attributes.get(f"activation_{parameter}")
    given = () if attribute is None else attribute.as_floats()
    if index < len(given):
        return given[index]
    if (name, parameter) not in _DEFAULTS:
        raise _UnsupportedError(f"with the activation function {name!r} without its {parameter}")
    return _DEFAULTS[name, parameter]


def _activation(name: str, alpha: float = 0.0, beta: float = 0.0) -> Activation:
    """An activation function by its name in small letters."""
    match name:
        case "affine":
            return lambda b, x: b.op("Add", b.op("Mul", x, b.number(alpha, x)), b.number(beta, x))
        case "scaledtanh":
            return lambda b, x: b.op("Mul", b.op("Tanh", b.op("Mul", x, b.number(beta, x))), b.number(alpha, x))
        case "hardsigmoid":
            return lambda b, x: b.op("HardSigmoid", x, alpha=alpha, beta=beta)
        case "elu":
            return lambda b, x: b.op("Elu", x, alpha=alpha)
        case "leakyrelu":
            return lambda b, x: b.op("LeakyRelu", x, alpha=alpha)
        case "thresholdedrelu":
            return lambda b, x: b.op("ThresholdedRelu", x, alpha=alpha)
    operator = _WITHOUT_PARAMETERS[name]
    return lambda b, x: b.op(operator, x)


def _cells(layer: _Layer, b: Builder) -> list[_Cell]:
    """The directions of a layer."""
    x = layer.x if layer.batch_axis else b.op("Transpose", layer.x, perm=[1, 0, 2])
    weights, recurrent = (
        _parts(layer, b, b.op("Transpose", value, perm=[0, 2, 1])) for value in (layer.weights, layer.recurrent)
    )
    biases = _vectors(layer, b, layer.optional(3), 2)
    peepholes = _vectors(layer, b, layer.optional(7) if layer.node.op_type == "LSTM" else None, 3)
    products = [b.op("MatMul", x, own) for own in weights]
    return list(map(_Cell, [layer] * len(products), layer.activations, products, recurrent, biases, peepholes))


def _parts(layer: _Layer, b: Builder, value: ir.Value) -> list[ir.Value]:
    """The directions of a value that has them as its first axis."""
    return [b.op("Squeeze", part, b.ints([0])) for part in _by_direction(layer, b, value)]


def _vectors(layer: _Layer, b: Builder, value: ir.Value | None, count: int) -> list[Sequence[ir.Value]]:
    """So many equal parts of each direction of a value that may be absent."""
    if value is None:
        return [()] * len(layer.reverse)
    return [_split(b, part, count) for part in _parts(layer, b, value)]


def _by_direction(layer: _Layer, b: Builder, value: ir.Value) -> Sequence[ir.Value]:
    """The same with an axis of extent 1 left."""
    count = len(layer.reverse)
    return [value] if count == 1 else b.ops("Split", value, outputs=count, axis=0, num_outputs=count)


def _split(b: Builder, value: ir.Value, count: int) -> Sequence[ir.Value]:
    """Equal parts of the last axis."""
    return b.ops("Split", value, outputs=count, axis=-1, num_outputs=count)


def _initial(layer: _Layer, b: Builder, state: int) -> Sequence[ir.Value]:
    """A state before the first step, for each direction, (1, batch, unit)."""
    given = layer.optional(5 + state)
    if given is not None:
        return _by_direction(layer, b, given if layer.batch_axis else b.op("Transpose", given, perm=[1, 0, 2]))
    shape = listed(b, [1, extent(b, layer.x, layer.batch_axis), layer.hidden])
    return [b.op("Expand", b.number(0, layer.x), shape)] * len(layer.reverse)


def _keep(layer: _Layer, b: Builder) -> ir.Value | None:
    """Whether each item's sequence goes on at each step, (step, batch, 1); None if all go to the end."""
    lengths = layer.optional(4)
    count = extent(b, layer.x, 1 - layer.batch_axis)
    if lengths is None or set(constant_ints(lengths) or ()) == {count}:
        return None
    if isinstance(count, int):
        steps = b.constant(np.arange(count)[:, None])
    else:
        zero, one = b.constant(np.int64(0)), b.constant(np.int64(1))
        steps = b.op("Unsqueeze", b.op("Range", zero, b.op("Squeeze", count), one), b.ints([1]))
    longer = b.op("Less", steps, b.op("Unsqueeze", b.op("Cast", lengths, to=ir.DataType.INT64), b.ints([0])))
    keep = b.op("Unsqueeze", longer, b.ints([2]))
    keep.shape = ir.Shape([*_time_and_batch(layer), 1])
    return keep


def _lstm(b: Builder, cell: _Cell) -> tuple[list[ir.Value], Step]:
    """The gates i, o, f = F(x W + h R + p c + b), the candidates g = G(x W + h R + b); c ← f c + i g; h ← o H(c).

    The gate o sees the new c.
    """
    of_gates, of_candidates, of_c = cell.activations
    coupled = bool(int_attribute(cell.layer.node, "input_forget", 0))
    sizes = b.ints([3 * cell.layer.hidden, cell.layer.hidden])

    def step(b: Builder, slices: Sequence[ir.Value], states: Sequence[ir.Value]) -> list[ir.Value]:
        hidden, c = states
        z = b.op("Add", slices[0], b.op("MatMul", hidden, cell.recurrent))
        if cell.peepholes:
            return peeping(b, z, c)
        gates, candidates = b.ops("Split", cell.clipped(b, z), sizes, outputs=2, axis=-1)
        i, o, f = _split(b, of_gates(b, gates), 3)
        c = next_c(b, i, f, of_candidates(b, candidates), c)
        return [b.op("Mul", o, of_c(b, c)), c]

    def peeping(b: Builder, z: ir.Value, c: ir.Value) -> list[ir.Value]:
        z_i, z_o, z_f, z_g = _split(b, z, 4)
        p_i, p_o, p_f = cell.peepholes
        i, f = gate(b, z_i, p_i, c), gate(b, z_f, p_f, c)
        c = next_c(b, i, f, of_candidates(b, cell.clipped(b, z_g)), c)
        return [b.op("Mul", gate(b, z_o, p_o, c), of_c(b, c)), c]

    def gate(b: Builder, z: ir.Value, p: ir.Value, c: ir.Value) -> ir.Value:
        return of_gates(b, cell.clipped(b, b.op("Add", z, b.op("Mul", p, c))))

    def next_c(b: Builder, i: ir.Value, f: ir.Value, g: ir.Value, c: ir.Value) -> ir.Value:
        kept = b.op("Sub", b.number(1, i), i) if coupled else f
        return b.op("Add", b.op("Mul", kept, c), b.op("Mul", i, g))

    return [_biased(b, cell)], step


def _gru(b: Builder, cell: _Cell) -> tuple[list[ir.Value], Step]:
    """The gates z, r = F(x W + h R + b), the candidates g = G(x W + (r h) R + b); h ← (1 - z) g + z h.

    With `linear_before_reset` g = G(x W + b + r (h R + b')).
    """
    of_gates, of_candidates = cell.activations
    linear = bool(int_attribute(cell.layer.node, "linear_before_reset", 0))

    def apart(b: Builder, value: ir.Value) -> Sequence[ir.Value]:
        """The gates, and the candidates."""
        units = cell.layer.hidden
        return b.ops("Split", value, b.ints([2 * units, units]), outputs=2, axis=-1)

    recurrent_gates, recurrent_candidates = apart(b, cell.recurrent)
    inputs = list(apart(b, cell.products if linear else _biased(b, cell)))
    bias = None
    if linear and cell.biases:
        (input_gates, input_candidates), (state_gates, bias) = (apart(b, value) for value in cell.biases)
        inputs = [
            b.op("Add", inputs[0], b.op("Add", input_gates, state_gates)),
            b.op("Add", inputs[1], input_candidates),
        ]

    def step(b: Builder, slices: Sequence[ir.Value], states: Sequence[ir.Value]) -> list[ir.Value]:
        (hidden,) = states
        if linear:
            gates, past = apart(b, b.op("MatMul", hidden, cell.recurrent))
        else:
            gates = b.op("MatMul", hidden, recurrent_gates)
        z, r = _split(b, of_gates(b, cell.clipped(b, b.op("Add", slices[0], gates))), 2)
        if linear:
            past = b.op("Mul", r, past if bias is None else b.op("Add", past, bias))
        else:
            past = b.op("MatMul", b.op("Mul", r, hidden), recurrent_candidates)
        g = of_candidates(b, cell.clipped(b, b.op("Add", slices[1], past)))
        return [b.op("Add", g, b.op("Mul", z, b.op("Sub", hidden, g)))]

    return inputs, step


def _rnn(b: Builder, cell: _Cell) -> tuple[list[ir.Value], Step]:
    """One state: h ← F(x W + h R + b)."""
    (activation,) = cell.activations

    def step(b: Builder, slices: Sequence[ir.Value], states: Sequence[ir.Value]) -> list[ir.Value]:
        return [activation(b, cell.clipped(b, b.op("Add", slices[0], b.op("MatMul", states[0], cell.recurrent))))]

    return [_biased(b, cell)], step


def _biased(b: Builder, cell: _Cell) -> ir.Value:
    return b.op("Add", cell.products, b.op("Add", *cell.biases)) if cell.biases else cell.products


_MAKERS: Mapping[str, Callable[[Builder, _Cell], tuple[list[ir.Value], Step]]] = MappingProxyType(
    {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}
)
"""The sequences that each operator's steps take slices of, and the step."""

_GATES: Mapping[str, tuple[int, ...]] = MappingProxyType({"LSTM": (4,), "GRU": (2, 1), "RNN": (1,)})
"""How many gates lie along the last axis of these sequences."""


def _time_and_batch(layer: _Layer) -> list[int | ir.SymbolicDim]:
    """The extents of these axes."""
    assert layer.x.shape is not None
    return [layer.x.shape[1 - layer.batch_axis], layer.x.shape[layer.batch_axis]]


@dataclass(frozen=True)
class _Loop:
    """One direction of a layer, run step by step."""

    layer: _Layer
    step: Step

    sequences: Sequence[ir.Value]
    """What the step takes slices of, (step, batch, …)."""

    shifts: Mapping[int, ir.Value]
    """By the number of the state, what is added to it after each step, (step, batch, unit)."""

    keep: ir.Value | None
    """Whether an item's sequence goes on, (step, batch, 1)."""

    every: int
    """How many of the states are wanted after each step."""

    reverse: bool
    unroll: bool

    def run(self, b: Builder, initial: Sequence[ir.Value]) -> tuple[list[ir.Value], list[ir.Value]]:
        """The wanted states after every step, and all states after the last one.

        Args:
            b: Where to emit.
            initial: The states before the first step, (1, batch, unit).
        """
        steps, batch = _time_and_batch(self.layer)
        first = [b.op("Squeeze", state, b.ints([0])) for state in initial]
        state_shape = [batch, self.layer.hidden]
        if self.unroll and isinstance(steps, int) and 0 < steps <= UNROLLED_STEPS:
            every, after = self._unrolled(b, first, steps)
        else:
            every, after = self._scanned(b, first, state_shape)
        for value in every:
            value.shape = ir.Shape([steps, *state_shape])
        last = [b.op("Unsqueeze", state, b.ints([0])) for state in after]
        lengths = self.layer.optional(4)
        if self.keep is not None and lengths is not None:
            # Where nothing is kept, ONNX Runtime gives zeros, not the initial state.
            some = b.op("Unsqueeze", b.op("Greater", lengths, b.number(0, lengths)), b.ints([0, 2]))
            last = [b.op("Where", some, state, b.number(0, state)) for state in last]
        return every, last

    def _slices(self) -> list[ir.Value]:
        return [*self.sequences, *self.shifts.values(), *([] if self.keep is None else [self.keep])]

    def _full_step(
        self, b: Builder, slices: Sequence[ir.Value], states: Sequence[ir.Value]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        """The states wanted after a step, and all states to go on with."""
        own = len(self.sequences)
        after = list(self.step(b, slices[:own], states))
        for state, shift in zip(self.shifts, slices[own:], strict=False):
            after[state] = b.op("Add", after[state], shift)
        if self.keep is None:
            return after[: self.every], after
        shown = [b.op("Where", slices[-1], state, b.number(0, state)) for state in after[: self.every]]
        return shown, [b.op("Where", slices[-1], new, old) for new, old in zip(after, states, strict=True)]

    def _unrolled(self, b: Builder, states: list[ir.Value], steps: int) -> tuple[list[ir.Value], list[ir.Value]]:
        parts = [_cut(b, value, steps) for value in self._slices()]
        shown: list[list[ir.Value]] = [[] for _ in range(self.every)]
        for position in reversed(range(steps)) if self.reverse else range(steps):
            outputs, states = self._full_step(b, [part[position] for part in parts], states)
            for taken, output in zip(shown, outputs, strict=True):
                taken.append(output)
        shape = b.ints([steps, -1, self.layer.hidden])
        joined = [b.op("Concat", *(taken[::-1] if self.reverse else taken), axis=0) for taken in shown]
        return [b.op("Reshape", value, shape) for value in joined], states

    def _scanned(
        self, b: Builder, first: Sequence[ir.Value], state_shape: Sequence[int | ir.SymbolicDim]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        inner = b.branch()
        states = [
            ir.Value(name=b.unique_name("state"), shape=ir.Shape(state_shape), type=self.layer.x.type) for _ in first
        ]
        slices = [
            ir.Value(name=b.unique_name("slice"), shape=ir.Shape(list(value.shape or ())[1:]), type=value.type)
            for value in self._slices()
        ]
        outputs, after = self._full_step(inner, slices, states)
        shown = [inner.op("Identity", output) for output in outputs]
        for value in (*after, *shown):
            value.shape = ir.Shape(state_shape)
        body = ir.Graph([*states, *slices], [*after, *shown], nodes=inner.nodes, name=b.unique_name("steps"))
        own_constants(body, b.unique_name)
        results = b.ops(
            "Scan",
            *first,
            *self._slices(),
            outputs=len(body.outputs),
            body=body,
            num_scan_inputs=len(slices),
            scan_input_directions=[1] * len(slices) if self.reverse else None,
            scan_output_directions=[1] * len(shown) if self.reverse else None,
        )
        for value in results:
            value.type = self.layer.x.type
        return list(results[len(after) :]), list(results[: len(after)])


def _cut(b: Builder, value: ir.Value, steps: int) -> Sequence[ir.Value]:
    """The slices (batch, …) of a value (step, batch, …)."""
    assert value.shape is not None
    _, batch, width = value.shape
    assert isinstance(width, int)
    joined = b.op("Reshape", value, b.ints([-1, width]))
    parts = [joined] if steps == 1 else b.ops("Split", joined, outputs=steps, axis=0, num_outputs=steps)
    for part in parts:
        part.shape = ir.Shape([batch, width])
    return parts
