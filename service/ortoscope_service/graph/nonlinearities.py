"""Which tensors are activation functions of which, and how large their values can get."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ortoscope_service.graph.constants import constant_scalar, float_attribute

_CLAMPS = frozenset({"Clip", "Max", "Min", "Relu"})
"""Activation functions that exporters also write one after the other: ReLU6 as Min and Max."""

_ACTIVATIONS = _CLAMPS | {
    "Celu",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "LeakyRelu",
    "LogSoftmax",
    "Mish",
    "PRelu",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
}

_UPPER_LIMITS = {
    "Erf": 1.0,
    "HardSigmoid": 1.0,
    "Hardmax": 1.0,
    "LogSoftmax": 0.0,
    "Sigmoid": 1.0,
    "Softmax": 1.0,
    "Softsign": 1.0,
    "Tanh": 1.0,
}

_SELECTING = frozenset(
    {
        "Dropout",
        "Flatten",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "ReduceMax",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators whose every output value is one of the values of their first input."""

_GATES = frozenset({"Clip", "Erf", "HardSigmoid", "Sigmoid", "Tanh"})

_ELEMENTWISE = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "Neg", "Pow", "Softplus", "Sub", *_GATES})

_LONGEST_CHAIN = 12
"""Operators in the longest activation function that is recognized (GELU by tanh has 8)."""


@dataclass(frozen=True)
class Nonlinearities:
    """The activation functions of a graph."""

    pre_activation: Mapping[ir.Value, ir.Value]
    """Result of an activation function → what it was applied to."""

    post_activation: Mapping[ir.Value, ir.Value]
    """What an activation function is applied to → its result."""

    upper_limit: Mapping[ir.Value, float]
    """The largest value that a tensor can hold, for those that have one."""


def find_nonlinearities(graph: ir.Graph, dependent: set[ir.Value]) -> Nonlinearities:
    """Finds activation functions, one operator each or composed (SiLU, GELU, Mish, h-swish; ReLU6 as Min and Max).

    Args:
        graph: The graph, in topological order.
        dependent: Its values that depend on an input.

    Returns:
        What was found.
    """
    pre: dict[ir.Value, ir.Value] = {}
    post: dict[ir.Value, ir.Value] = {}
    limits: dict[ir.Value, float] = {}
    chains: dict[ir.Value, Sequence[ir.Value]] = {}
    for node in graph:
        for output in node.outputs:
            if output in dependent:
                chains[output] = _elementwise_chain(node, output, chains, dependent)
                limit = _upper_limit(node, limits, dependent)
                if limit is not None:
                    limits[output] = limit
        argument, result = _activation(node, chains, dependent)
        if argument is None or result is None:
            continue
        post[argument] = result
        producer = argument.producer()
        if producer is not None and _is_clamp(node, dependent) and _is_clamp(producer, dependent) and argument in pre:
            argument = pre[argument]
        pre[result] = argument
        post[argument] = result
    return Nonlinearities(pre, post, limits)


def _activation(
    node: ir.Node, chains: Mapping[ir.Value, Sequence[ir.Value]], dependent: set[ir.Value]
) -> tuple[ir.Value | None, ir.Value | None]:
    """Argument and result of the activation function that this node is, or that it completes."""
    if node.domain:
        return None, None
    if node.op_type == "Mul":
        return _self_gated(node, chains, dependent), node.outputs[0]
    if node.op_type in {"Max", "Min"} and not _is_clamp(node, dependent):
        return None, None
    if node.op_type in _ACTIVATIONS:
        return next((value for value in node.inputs if value in dependent), None), node.outputs[0]
    return None, None


def _is_clamp(node: ir.Node, dependent: set[ir.Value]) -> bool:
    if node.op_type not in _CLAMPS or node.domain:
        return False
    varying = [value for value in node.inputs if value in dependent]
    return len(varying) == 1 and (node.op_type in {"Clip", "Relu"} or _other_scalar(node, dependent) is not None)


def _other_scalar(node: ir.Node, dependent: set[ir.Value]) -> float | None:
    """The constant that is the other operand of a two-operand operator."""
    others = [value for value in node.inputs if value not in dependent]
    return constant_scalar(others[0]) if len(node.inputs) == 2 and len(others) == 1 else None


def _upper_limit(node: ir.Node, limits: Mapping[ir.Value, float], dependent: set[ir.Value]) -> float | None:
    if node.domain:
        return None
    operator = node.op_type
    if operator in _UPPER_LIMITS:
        return _UPPER_LIMITS[operator]
    argument = next((value for value in node.inputs if value in dependent), None)
    given = limits.get(argument) if argument is not None else None
    if operator in _SELECTING:
        return given
    if operator == "Concat":
        all_limits = [limits.get(value) if value is not None else None for value in node.inputs]
        known = [limit for limit in all_limits if limit is not None]
        return max(known) if len(known) == len(all_limits) else None
    if operator == "Relu":
        return None if given is None else max(given, 0.0)
    if operator == "Clip":
        bound = float_attribute(node, "max")
        if bound is None and len(node.inputs) > 2:
            bound = constant_scalar(node.inputs[2])
        return min((limit for limit in (given, bound) if limit is not None), default=None)
    if operator in {"Max", "Min"} and _is_clamp(node, dependent):
        bound = _other_scalar(node, dependent)
        assert bound is not None
        if operator == "Min":
            return bound if given is None else min(bound, given)
        return None if given is None else max(bound, given)
    return None


def _elementwise_chain(
    node: ir.Node, output: ir.Value, chains: Mapping[ir.Value, Sequence[ir.Value]], dependent: set[ir.Value]
) -> Sequence[ir.Value]:
    """The value itself and the values of which it is an element-wise function, given constants; nearest first."""
    varying = list(dict.fromkeys(value for value in node.inputs if value in dependent))
    if node.op_type not in _ELEMENTWISE or node.domain or not varying:
        return (output,)
    if len(node.inputs) == 2 and any(
        value not in dependent and constant_scalar(value) is None for value in node.inputs
    ):
        return (output,)
    first, *others = (chains.get(value, (value,)) for value in varying if value is not None)
    shared = (value for value in first if all(value in other for other in others))
    return (output, *itertools.islice(shared, _LONGEST_CHAIN))


def _self_gated(
    node: ir.Node, chains: Mapping[ir.Value, Sequence[ir.Value]], dependent: set[ir.Value]
) -> ir.Value | None:
    """The x of x · gate(x), where the product is that of two tensors, or that times a constant (GELU's ½)."""
    output = node.outputs[0]
    varying = [value for value in node.inputs if value in dependent and value is not None]
    if len(varying) == 1:
        inner = varying[0].producer()
        single_use = len(varying[0].uses()) == 1 and not varying[0].is_graph_output()
        if inner is None or inner.op_type != "Mul" or not single_use or _other_scalar(node, dependent) is None:
            return None
        return _self_gated(inner, chains, dependent)
    if len(varying) != 2:
        return None
    left, right = (chains.get(value, (value,)) for value in varying)
    argument = next((value for value in chains[output][1:] if value in left and value in right), None)
    if argument is None:
        return None
    return argument if _gate_between(left, argument) != _gate_between(right, argument) else None


def _gate_between(chain: Sequence[ir.Value], argument: ir.Value) -> bool:
    between = itertools.takewhile(lambda value: value is not argument, chain)
    return any(node is not None and node.op_type in _GATES for node in (value.producer() for value in between))
