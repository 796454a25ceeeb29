"""Recurrent layers and loops in NumPy, as the ONNX standard describes them, for ONNX's reference evaluator.

Its own LSTM, GRU and RNN (onnx 1.23) ignore sequence lengths, clipping, coupled gates and most activation functions,
its Scan knows neither axes nor directions, and its Loop joins what it should stack. Layers are computed item by item
and step by step here; `test_recurrent.py` holds them against ONNX Runtime.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

Array = npt.NDArray[Any]
Activation = Callable[[Array], Array]


def activation_functions(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Activation]:
    """The activation functions of a layer; each takes the next parameters from the lists if it has any."""
    alpha, beta = iter(alphas), iter(betas)
    return [_activation(name.lower(), alpha, beta) for name in names]


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    match name:
        case "tanh":
            return np.tanh
        case "sigmoid":
            return lambda x: 1 / (1 + np.exp(-x))
        case "relu":
            return lambda x: np.maximum(x, 0)
        case "softsign":
            return lambda x: x / (1 + np.abs(x))
        case "softplus":
            return lambda x: np.log1p(np.exp(x))
        case "leakyrelu":
            alpha = next(alphas, 0.01)
            return lambda x: np.where(x < 0, alpha * x, x)
        case "elu":
            alpha = next(alphas, 1.0)
            return lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)
        case "thresholdedrelu":
            alpha = next(alphas)
            return lambda x: np.where(x > alpha, x, 0)
        case "hardsigmoid":
            alpha, beta = next(alphas, 0.2), next(betas, 0.5)
            return lambda x: np.clip(alpha * x + beta, 0, 1)
        case "affine":
            alpha, beta = next(alphas), next(betas)
            return lambda x: alpha * x + beta
        case "scaledtanh":
            alpha, beta = next(alphas), next(betas)
            return lambda x: alpha * np.tanh(beta * x)
    raise AssertionError(name)


def lstm_step(
    x: Array, states: Sequence[Array], weights: Mapping[str, Array], functions: Sequence[Activation], **options: Any
) -> tuple[Array, ...]:
    """Hidden state and cells of one item after a step; gates in the order i, o, f, c."""
    f, g, h = functions
    clip = options["clip"] or math.inf
    hidden, cell = states
    units = len(hidden)
    z = (weights["W"] @ x + weights["R"] @ hidden + weights["Wb"] + weights["Rb"]).reshape(4, units)
    p = weights["P"].reshape(3, units)
    i = f(np.clip(z[0] + p[0] * cell, -clip, clip))
    forget = 1 - i if options["input_forget"] else f(np.clip(z[2] + p[2] * cell, -clip, clip))
    cell = forget * cell + i * g(np.clip(z[3], -clip, clip))
    o = f(np.clip(z[1] + p[1] * cell, -clip, clip))
    return o * h(cell), cell


def gru_step(
    x: Array, states: Sequence[Array], weights: Mapping[str, Array], functions: Sequence[Activation], **options: Any
) -> tuple[Array, ...]:
    """Hidden state of one item after a step; gates in the order z, r, h."""
    f, g = functions
    clip = options["clip"] or math.inf
    (hidden,) = states
    units = len(hidden)
    w, r = (weights[name].reshape(3, units, -1) for name in ("W", "R"))
    wb, rb = (weights[name].reshape(3, units) for name in ("Wb", "Rb"))
    update = f(np.clip(w[0] @ x + r[0] @ hidden + wb[0] + rb[0], -clip, clip))
    reset = f(np.clip(w[1] @ x + r[1] @ hidden + wb[1] + rb[1], -clip, clip))
    past = reset * (r[2] @ hidden + rb[2]) if options["linear_before_reset"] else r[2] @ (reset * hidden) + rb[2]
    new = g(np.clip(w[2] @ x + past + wb[2], -clip, clip))
    return ((1 - update) * new + update * hidden,)


def rnn_step(
    x: Array, states: Sequence[Array], weights: Mapping[str, Array], functions: Sequence[Activation], **options: Any
) -> tuple[Array, ...]:
    """Hidden state of one item after a step."""
    clip = options["clip"] or math.inf
    z = weights["W"] @ x + weights["R"] @ states[0] + weights["Wb"] + weights["Rb"]
    return (functions[0](np.clip(z, -clip, clip)),)


STEPS: Mapping[str, tuple[Callable[..., tuple[Array, ...]], int, int, tuple[str, ...]]] = {
    "LSTM": (lstm_step, 4, 2, ("Sigmoid", "Tanh", "Tanh")),
    "GRU": (gru_step, 3, 1, ("Sigmoid", "Tanh")),
    "RNN": (rnn_step, 1, 1, ("Tanh",)),
}
"""Step, gates, states and default activation functions of each operator."""


def run_layer(
    operator: str,
    inputs: Sequence[Array | None],
    attributes: Mapping[str, Any],
    shifts: Mapping[int, Array] | None = None,
) -> list[Array]:
    """All states of a layer after each step, zeros behind the end of an item, and after the last step.

    Args:
        operator: LSTM, GRU or RNN.
        inputs: As the operator has them.
        attributes: As the operator has them; those that are None are not set.
        shifts: By the number of the state, what to add to it after each step, (step, direction, batch, unit).

    Returns:
        For each state, hidden first: (step, direction, batch, unit), and (direction, batch, unit) after the last step;
        or with the batch first, if the attribute `layout` says so.
    """
    step, gates, state_count, default = STEPS[operator]
    x, w, r, b, lengths, *initial = [*inputs, *[None] * (8 - len(inputs))]
    assert x is not None
    assert w is not None
    assert r is not None
    peepholes = initial[2] if operator == "LSTM" else None
    if attributes.get("layout"):
        x = x.swapaxes(0, 1)
        initial = [None if state is None else state.swapaxes(0, 1) for state in initial[:state_count]]
    count, batch, _ = x.shape
    directions, units = r.shape[0], r.shape[2]
    names = attributes.get("activations") or default * directions
    parameters = [attributes.get(f"activation_{name}") or () for name in ("alpha", "beta")]
    functions = activation_functions(names, *parameters)
    options = {name: attributes.get(name) for name in ("clip", "input_forget", "linear_before_reset")}
    every = [np.zeros((count, directions, batch, units)) for _ in range(state_count)]
    last = [np.zeros((directions, batch, units)) for _ in range(state_count)]
    for direction in range(directions):
        bias = np.zeros(2 * gates * units) if b is None else b[direction]
        weights = {
            "W": w[direction],
            "R": r[direction],
            "Wb": bias[: gates * units],
            "Rb": bias[gates * units :],
            "P": np.zeros(3 * units) if peepholes is None else peepholes[direction],
        }
        own = functions[direction * len(default) : (direction + 1) * len(default)]
        backwards = attributes.get("direction") == "reverse" or direction == 1
        for item in range(batch):
            length = count if lengths is None else int(lengths[item])
            states = [np.zeros(units) if state is None else state[direction, item] for state in initial[:state_count]]
            for time in reversed(range(length)) if backwards else range(length):
                states = list(step(x[time, item], states, weights, own, **options))
                for number, shift in (shifts or {}).items():
                    states[number] = states[number] + shift[time, direction, item]
                for record, state in zip(every, states, strict=True):
                    record[time, direction, item] = state
            for record, state in zip(last, states, strict=True):
                record[direction, item] = state if length else 0
    if attributes.get("layout"):
        every = [record.transpose(2, 0, 1, 3) for record in every]
        last = [record.transpose(1, 0, 2) for record in last]
    return [record.astype(x.dtype) for record in (*every, *last)]


class _Layer(OpRun):
    op_domain: ClassVar[str] = ""

    def _run(self, *inputs: Array | None, **attributes: Any) -> tuple[Array | None, ...]:
        records = run_layer(type(self).__name__, inputs, attributes)
        states = len(records) // 2
        # The evaluator would take what it is given for an output without a name for inputs without a name.
        return tuple(
            value if name else None
            for name, value in zip(self.onnx_node.output, [records[0], *records[states:]], strict=False)
        )

    def _check_and_fix_outputs(self, res: tuple[Any, ...]) -> tuple[Any, ...]:
        """Lets None pass."""
        return res


class LSTM(_Layer):
    """Long short-term memory."""


class GRU(_Layer):
    """Gated recurrent units."""


class RNN(_Layer):
    """A plain recurrent layer."""


class Scan(OpRun):
    """Runs a body on slices of sequences, with states."""

    op_domain: ClassVar[str] = ""

    def need_context(self) -> bool:
        """The body sees values from outside."""
        return True

    def _run(self, *inputs: Array, context: Mapping[str, Array] | None = None, **attributes: Any) -> tuple[Array, ...]:
        body, reads = attributes["body"], attributes["num_scan_inputs"]
        count = len(inputs) - reads
        states, sequences = list(inputs[:count]), inputs[count:]
        axes = attributes["scan_input_axes"] or [0] * reads
        slices = [np.moveaxis(sequence, axis, 0) for sequence, axis in zip(sequences, axes, strict=True)]
        flags = attributes["scan_input_directions"] or [0] * reads
        slices = [values[::-1] if flag else values for values, flag in zip(slices, flags, strict=True)]
        written: list[list[Array]] = [[] for _ in body.output_names[count:]]
        for step in range(len(slices[0])):
            values = [*states, *(values[step] for values in slices)]
            outputs = body.run(None, {**(context or {}), **dict(zip(body.input_names, values, strict=True))})
            states = list(outputs[:count])
            for record, value in zip(written, outputs[count:], strict=True):
                record.append(value)
        flags = attributes["scan_output_directions"] or [0] * len(written)
        axes = attributes["scan_output_axes"] or [0] * len(written)
        for record, flag, axis in zip(written, flags, axes, strict=True):
            states.append(np.stack(record[::-1] if flag else record, axis) if record else np.zeros(0))
        return tuple(states)


class Loop(OpRun):
    """Runs a body until a condition fails or a number of times, with states."""

    op_domain: ClassVar[str] = ""

    def need_context(self) -> bool:
        """The body sees values from outside."""
        return True

    def _run(
        self,
        most: Array | None,
        condition: Array | None = None,
        *states: Array,
        context: Mapping[str, Array] | None = None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        body, values = attributes["body"], list(states)
        written: list[list[Array]] = [[] for _ in body.output_names[1 + len(states) :]]
        step, goes_on = 0, condition is None or bool(condition)
        while goes_on and (most is None or step < int(most)):
            inputs = [np.array(step, np.int64), np.array(goes_on), *values]
            outputs = body.run(None, {**(context or {}), **dict(zip(body.input_names, inputs, strict=True))})
            goes_on, values = bool(outputs[0]), list(outputs[1 : 1 + len(states)])
            for record, value in zip(written, outputs[1 + len(states) :], strict=True):
                record.append(value)
            step += 1
        return (*values, *(np.stack(record) if record else np.zeros(0) for record in written))


RECURRENT = (LSTM, GRU, RNN, Scan, Loop)
"""What to give a ReferenceEvaluator as `new_ops`."""
