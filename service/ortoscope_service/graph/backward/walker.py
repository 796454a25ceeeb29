"""Reverse mode: one walk over the nodes, from the seeds back to the values that are asked for.

What every operator has in common is handled here, once: several consumers (their cotangents add up), shared weights
and constants (never asked for), integer branches and shape arithmetic (carry no cotangent), unused paths (never
visited). A rule sees one node.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import onnx_ir as ir

from ortoscope_service.graph.axes import captured_values, captures
from ortoscope_service.graph.backward import layout
from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.registry import ZERO_DERIVATIVE, Call, Rule, unsupported

FLOATING = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16})
"""The data types that have gradients."""


NOTHING: Mapping[ir.Value, ir.Value] = MappingProxyType({})


def differentiate(
    nodes: Sequence[ir.Node],
    seeds: Mapping[ir.Value, ir.Value],
    with_respect_to: Collection[ir.Value],
    builder: Builder,
    rules: Callable[[ir.Node], Rule | None],
    equals: Mapping[ir.Value, ir.Value] = NOTHING,
    *,
    early_gates: bool = True,
) -> dict[ir.Value, ir.Value | None]:
    """Emits the nodes that compute a vector-Jacobian product.

    Args:
        nodes: The nodes of the forward graph in topological order.
        seeds: The cotangent of each output, of that output's shape and type.
        with_respect_to: The values whose cotangents are asked for. They may lie on each other's paths.
        builder: Where to emit.
        rules: Finds the rule of a node.
        equals: Outputs of nodes that are differentiated through other values that equal them (`expansion`).
        early_gates: Whether activation functions have their own rules, so that other rules may anticipate them.

    Returns:
        The cotangent of each value asked for; None where it is zero.

    Raises:
        OrtoscopeError: `UNSUPPORTED_GRADIENT` (UNIMPLEMENTED), before anything is emitted where a rule is missing.
    """

    def walk(
        inner: Sequence[ir.Node],
        inner_seeds: Mapping[ir.Value, ir.Value],
        sources: Collection[ir.Value],
        inner_builder: Builder,
    ) -> Mapping[ir.Value, ir.Value | None]:
        return differentiate(inner, inner_seeds, sources, inner_builder, rules, equals, early_gates=early_gates)

    active = active_values(nodes, with_respect_to)
    path = _between(nodes, seeds, active, equals)
    for node in path:
        if rules(node) is None and not any(output in equals for output in node.outputs):
            raise unsupported(node)
    pending: dict[ir.Value, list[ir.Value]] = defaultdict(list)
    for value, seed in seeds.items():
        if value in active:
            pending[value].append(seed)
    found: dict[ir.Value, ir.Value | None] = {}
    for node in reversed(path):
        cotangents = {output: _total(pending.pop(output, []), output, builder) for output in node.outputs}
        found.update(cotangents)
        given = {output: cotangent for output, cotangent in cotangents.items() if cotangent is not None}
        if not given:
            continue
        if any(output in equals for output in node.outputs):
            for output, cotangent in given.items():
                pending[equals[output]].append(cotangent)
            continue
        rule = rules(node)
        assert rule is not None
        operands = (*node.inputs, *captures(node))
        wanted = frozenset(position for position, value in enumerate(operands) if value in active)
        gradients = rule(Call(node, tuple(cotangents.values()), wanted, builder, early_gates, walk))
        for position in sorted(wanted):
            gradient, operand = gradients.get(position), operands[position]
            if gradient is not None and operand is not None:
                _describe(gradient, operand)
                pending[operand].append(gradient)
    return {
        value: found[value] if value in found else _total(pending.pop(value, []), value, builder)
        for value in with_respect_to
    }


def active_values(nodes: Sequence[ir.Node], sources: Collection[ir.Value]) -> set[ir.Value]:
    """The sources and all floating-point values that vary continuously with them."""
    active = set(sources)
    for node in nodes:
        if not node.domain and node.op_type in ZERO_DERIVATIVE:
            continue
        if any(value in active for value in captured_values(node)):
            active.update(output for output in node.outputs if output.dtype in FLOATING or output.dtype is None)
    return active


def _between(
    nodes: Sequence[ir.Node],
    seeds: Collection[ir.Value],
    active: Collection[ir.Value],
    equals: Mapping[ir.Value, ir.Value],
) -> list[ir.Node]:
    """The nodes, in order, through which a cotangent of the seeds can reach an active value."""
    reached = {value for value in seeds if value in active}
    path = []
    for node in reversed(nodes):
        outputs = [output for output in node.outputs if output in reached]
        if not outputs:
            continue
        if any(output in equals for output in outputs):
            path.append(node)
            reached.update(equals[output] for output in outputs)
            continue
        inputs = [value for value in captured_values(node) if value in active]
        if inputs:
            path.append(node)
            reached.update(inputs)
    return path[::-1]


def _total(contributions: Sequence[ir.Value], like: ir.Value, builder: Builder) -> ir.Value | None:
    """The sum of the cotangents that a value's consumers sent."""
    if not contributions:
        return None
    total = layout.add(builder, contributions, like)
    _describe(total, like)
    return total


def _describe(cotangent: ir.Value, like: ir.Value) -> None:
    """A cotangent has the shape and type of its value; ONNX's inference would lose names of free dimensions."""
    if cotangent.shape is None and like.shape is not None and not cotangent.is_initializer():
        cotangent.shape = like.shape.copy()
    if cotangent.type is None and like.type is not None:
        cotangent.type = like.type
