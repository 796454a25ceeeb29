"""The registry of rules: how each operator passes a cotangent from its outputs back to its inputs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.axes import captures
from ortoscope_service.graph.backward.builder import Builder

Gradients = Mapping[int, ir.Value | None]
"""Cotangents of a node's operands by position; None, or no entry, where it is zero."""

Walk = Callable[
    [Sequence[ir.Node], Mapping[ir.Value, ir.Value], Collection[ir.Value], Builder],
    Mapping[ir.Value, ir.Value | None],
]
"""`walker.differentiate` with its rules: nodes, seeds, what to differentiate by, where to emit."""


@dataclass(frozen=True)
class Call:
    """What a rule is given: a node, the cotangents of its outputs, and what it should find."""

    node: ir.Node
    """The node to differentiate, of an opset from `opset.MINIMUM` on."""

    cotangents: tuple[ir.Value | None, ...]
    """The cotangent of each output, None where it is zero; at least one is not. Each has its output's shape and
    type."""

    wanted: frozenset[int]
    """Positions of the operands whose cotangents are asked for; others would be thrown away."""

    b: Builder
    """Where to emit nodes."""

    early_gates: bool
    """Whether rules may apply the gates of activation functions before those functions' turn (`gates`)."""

    walk: Walk
    """Differentiates the nodes of a subgraph by the rules that hold around it."""

    @property
    def operands(self) -> tuple[ir.Value | None, ...]:
        """The inputs, followed by what the node's subgraphs capture."""
        return (*self.node.inputs, *captures(self.node))

    @property
    def x(self) -> ir.Value:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    @property
    def g(self) -> ir.Value:
        """The cotangent of the first output, zeros where it is not given."""
        given = self.cotangents[0]
        return given if given is not None else self.b.zeros_like(self.y)

    def input(self, position: int) -> ir.Value:
        """An input that must be there."""
        value = self.node.inputs[position]
        assert value is not None, f"{self.node.op_type} lacks its input {position}"
        return value

    def optional_input(self, position: int) -> ir.Value | None:
        """An input that may be absent."""
        return self.node.inputs[position] if position < len(self.node.inputs) else None

    def refuse(self, what: str) -> OrtoscopeError:
        """The error for a use of the operator that has no gradient here.

        Args:
            what: Completes "The gradient of <operator> ... is not supported", with the attribute and its value: "with
                the computed axes".
        """
        return unsupported(self.node, f" {what}")


Rule = Callable[[Call], Gradients]

_RULES: dict[str, Rule] = {}


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Registers the decorated function as the rule of these operators of the default domain."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            assert op_type not in _RULES, f"{op_type} has two rules"
            _RULES[op_type] = function
        return function

    return register


def rule_for(node: ir.Node) -> Rule | None:
    """The rule of a node's operator, if there is one."""
    return _RULES.get(node.op_type) if not node.domain else None


def operators() -> frozenset[str]:
    """The operators that have a rule."""
    return frozenset(_RULES)


ZERO_DERIVATIVE = frozenset(
    {
        "ArgMax",
        "ArgMin",
        "Bernoulli",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Ceil",
        "ConstantOfShape",
        "Equal",
        "EyeLike",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "Hardmax",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "And",
        "Multinomial",
        "NonZero",
        "NonMaxSuppression",
        "Not",
        "Or",
        "RandomNormalLike",
        "RandomUniformLike",
        "Range",
        "Round",
        "Shape",
        "Sign",
        "Size",
        "Xor",
    }
)
"""Operators whose outputs are constant wherever they are differentiable, or that look at nothing but shapes: the
gradient stops at them."""


def unsupported(node: ir.Node, what: str = "") -> OrtoscopeError:
    """The error for a node without a gradient."""
    return OrtoscopeError(
        Code.UNIMPLEMENTED,
        "UNSUPPORTED_GRADIENT",
        f"The gradient of {node.op_type}{what} is not supported, and the node {node.name!r} lies between the tap and "
        "the input. Choose a tap before it, ask for the gradient at a tensor after it, or bring a backward graph that "
        "your training framework exported.",
        metadata={"node": node.name or "", "operator": node.op_type, "detail": what.strip()},
    )
