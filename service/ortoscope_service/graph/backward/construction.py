"""Building backward graphs: ONNX models that compute a tensor of a model and a vector-Jacobian product with it."""

from collections.abc import Callable, Collection, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, RemoveUnusedNodesPass

from ortoscope_service.errors import invalid, not_found
from ortoscope_service.graph.backward import rules as _rules  # noqa: F401 - registers the rules
from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.backward.expansion import expand_functions
from ortoscope_service.graph.backward.opset import modernize
from ortoscope_service.graph.backward.registry import ZERO_DERIVATIVE, Rule, rule_for
from ortoscope_service.graph.backward.relaxations import NO_RELAXATIONS, Relaxations
from ortoscope_service.graph.backward.walker import FLOATING, active_values, differentiate
from ortoscope_service.graph.loading import infer_shapes
from ortoscope_service.graph.slicing import expose, trunk

ACTIVATION = "activation"
COTANGENT = "cotangent"
TANGENT = "tangent"
METADATA = "ortoscope."
"""How the keys of the metadata begin that say what a graph is: kind, tap, with_respect_to, relaxations."""


def gradient_name(tensor: str) -> str:
    """The name of the output that holds the gradient at a tensor."""
    return f"gradient.{tensor}"


def tangent_name(tensor: str) -> str:
    """The name of the output that holds the tangent of a tensor."""
    return f"tangent.{tensor}"


def build_backward(
    model: ir.Model,
    tensor: str,
    *,
    with_respect_to: Sequence[str] = (),
    relaxations: Relaxations = NO_RELAXATIONS,
) -> ir.Model:
    """Builds the backward graph of a tap.

    Args:
        model: A model from `loading.load_model`, its batch free if the graph is to run at any batch size.
        tensor: The tap: name of a floating-point tensor.
        with_respect_to: Names of the tensors at which the gradient is asked for; by default all floating-point inputs
            that the tap is computed from.
        relaxations: Deliberate departures from the true gradient; recorded in the graph's metadata.

    Returns:
        A model in operators of the default domain. Inputs: those that the tap is computed from, and `cotangent`, shaped
        like the tap. Outputs: `activation`, the tap's value, and for each tensor asked for `gradient.<name>`, the
        product of the cotangent with the Jacobian of the tap by that tensor, shaped like the tensor. A tensor on which
        the tap depends through steps alone (Floor, comparisons) has a gradient of zeros.

    Raises:
        OrtoscopeError: `UNKNOWN_TENSOR` (NOT_FOUND); `UNTYPED_TENSOR`, `SHAPELESS_TENSOR`, `NOT_DIFFERENTIABLE`: an
            integer tap or tensor, `NO_FLOAT_INPUT`, `TAP_INDEPENDENT`: the tap is not computed from the tensor
            (INVALID_ARGUMENT); `RESERVED_NAME`: an input is called `activation` or `cotangent`;
            `OPSET_NOT_CONVERTIBLE`; `UNSUPPORTED_GRADIENT` (UNIMPLEMENTED).
    """
    forward = modernize(trunk(model, [tensor]))
    graph = forward.graph
    tap = _checked(graph.outputs[0], tensor)
    sources = _sources(graph, tap, with_respect_to)
    builder = Builder(_names(graph), "backward/", graph.inputs)
    rules = relaxations.rule_for
    equals = expand_functions(graph, builder, lambda node: _is_primitive(node, rules))
    infer_shapes(forward)
    cotangent = _like(tap, COTANGENT)
    gradients = differentiate(
        list(graph), {tap: cotangent}, sources, builder, rules, equals, early_gates=relaxations.early_gates
    )
    results = {ACTIVATION: tap}
    for source in sources:
        gradient = gradients[source]
        results[gradient_name(source.name or "")] = gradient if gradient is not None else builder.zeros_like(source)
    _append(graph, builder)
    _set_interface(forward, list(graph.inputs), {COTANGENT: cotangent}, results, builder)
    forward.metadata_props.update(
        {
            METADATA + "kind": "backward",
            METADATA + "tap": tensor,
            METADATA + "with_respect_to": "\n".join(source.name or "" for source in sources),
            METADATA + "relaxations": ",".join(relaxations.names),
        }
    )
    return forward


def build_tangent(model: ir.Model, tensor: str, *, relaxations: Relaxations = NO_RELAXATIONS) -> ir.Model:
    """Builds the tangent graph from a tap to the model's outputs.

    It is the transpose of the backward graph from the outputs to the tap: a vector-Jacobian product is linear in its
    cotangent, and differentiating it by the cotangent, with the tangent as seed, gives the Jacobian-vector product. So
    the same rules serve both, and a test of one is a test of the other.

    Args:
        model: A model from `loading.load_model`.
        tensor: The tap: name of a floating-point tensor.
        relaxations: Deliberate departures from the true derivative. Those of activation functions that look at the
            cotangent's sign have no transpose and are refused.

    Returns:
        A model in operators of the default domain. Inputs: those of the model, and `tangent`, shaped like the tap.
        Outputs: every floating-point output that depends on the tap under its own name, and for each `tangent.<name>`:
        how fast it changes when the tap moves along the tangent.

    Raises:
        OrtoscopeError: As `build_backward`; `NO_HEAD`: no floating-point output depends on the tap;
            `RELAXATION_NOT_LINEAR` (INVALID_ARGUMENT).
    """
    relaxations.require_linear()
    forward = modernize(expose(model, [tensor]))
    graph = forward.graph
    tap = _checked(_find(graph, tensor), tensor)
    ends = [value for value in graph.outputs if value in active_values(list(graph), [tap]) and value is not tap]
    if not ends:
        raise invalid("NO_HEAD", f"No output of the model depends on the tensor {tensor!r}.", tensor=tensor)
    names = {end: end.name or "" for end in ends}
    builder = Builder(_names(graph), "backward/", graph.inputs)
    rules = relaxations.rule_for
    equals = expand_functions(graph, builder, lambda node: _is_primitive(node, rules))
    infer_shapes(forward)
    placeholders = {end: _like(end, builder.unique_name("cotangent")) for end in ends}
    gradient = differentiate(
        list(graph), placeholders, [tap], builder, rules, equals, early_gates=relaxations.early_gates
    )[tap] or builder.zeros_like(tap)
    _append(graph, builder)
    tangent = _like(tap, builder.unique_name(TANGENT))
    inputs = list(graph.inputs)
    graph.inputs.extend([tangent, *placeholders.values()])
    graph.outputs[:] = [*ends, gradient]
    RemoveUnusedNodesPass()(forward)
    infer_shapes(forward)
    emitted = set(builder.nodes)
    linear = [node for node in graph if node in emitted]
    transposer = Builder(_names(graph), "tangent/", inputs)
    tangents = differentiate(linear, {gradient: tangent}, list(placeholders.values()), transposer, rule_for)
    graph.outputs[:] = ends
    results = {}
    for end in ends:
        results[names[end]] = end
        results[tangent_name(names[end])] = tangents[placeholders[end]] or transposer.zeros_like(end)
    _append(graph, transposer)
    for end in ends:
        # What is left of the cotangent is its shape, which is the output's: the transpose does not depend on its value.
        placeholders[end].replace_all_uses_with(end)
    _set_interface(forward, inputs, {TANGENT: tangent}, results, transposer)
    forward.metadata_props.update(
        {METADATA + "kind": "tangent", METADATA + "tap": tensor, METADATA + "relaxations": ",".join(relaxations.names)}
    )
    return forward


def _is_primitive(node: ir.Node, rules: Callable[[ir.Node], Rule | None]) -> bool:
    return rules(node) is not None or node.op_type in ZERO_DERIVATIVE


def _sources(graph: ir.Graph, tap: ir.Value, names: Sequence[str]) -> list[ir.Value]:
    """The tensors at which the gradient is asked for."""
    if names:
        sources = [_checked(_find(graph, name), name) for name in dict.fromkeys(names)]
    else:
        if not graph.inputs:
            raise invalid(
                "TAP_INDEPENDENT", f"The tap {tap.name!r} is a constant: it is computed from no input.", tap=tap.name
            )
        sources = [value for value in graph.inputs if value.dtype in FLOATING]
        if not sources:
            raise invalid(
                "NO_FLOAT_INPUT",
                f"The tap {tap.name!r} is computed from inputs of integers alone, which have no gradient. Name a "
                "tensor to take it at, such as the output of the embedding.",
                tap=tap.name,
            )
    dependent = active_values(list(graph), sources)
    if tap not in dependent:
        raise invalid(
            "TAP_INDEPENDENT",
            f"The tap {tap.name!r} does not vary with {', '.join(repr(source.name) for source in sources)}: no path "
            "of differentiable operators leads from one to the other.",
            tap=tap.name,
        )
    return sources


def _find(graph: ir.Graph, name: str) -> ir.Value:
    value = ir.convenience.create_value_mapping(graph, include_subgraphs=False).get(name)
    if value is None:
        raise not_found(
            "UNKNOWN_TENSOR", f"The tap is not computed from a tensor {name!r}; name one on the way to it.", tensor=name
        )
    return value


def _checked(value: ir.Value, name: str) -> ir.Value:
    if value.dtype not in FLOATING:
        raise invalid(
            "NOT_DIFFERENTIABLE",
            f"The tensor {name!r} is of type {value.dtype}, which has no gradient; choose a floating-point one.",
            tensor=name,
            type=value.dtype,
        )
    if value.shape is None:
        raise invalid(
            "SHAPELESS_TENSOR",
            f"The rank of the tensor {name!r} is not known, so nothing can be shaped like it; choose another tensor.",
            tensor=name,
        )
    return value


def _names(graph: ir.Graph) -> set[str]:
    """Names of all values and nodes, in subgraphs, too."""
    names = set(ir.convenience.create_value_mapping(graph))
    names.update(node.name for node in ir.traversal.RecursiveGraphIterator(graph) if node.name)
    return names


def _like(value: ir.Value, name: str) -> ir.Value:
    """An input of a value's shape and type."""
    assert value.shape is not None
    return ir.Value(name=name, shape=value.shape.copy(), type=value.type)


def _append(graph: ir.Graph, builder: Builder) -> None:
    graph.extend(builder.nodes)
    for constant in builder.constants:
        graph.register_initializer(constant)


def _set_interface(
    model: ir.Model,
    own: Sequence[ir.Value],
    added: Mapping[str, ir.Value],
    results: Mapping[str, ir.Value],
    builder: Builder,
) -> None:
    """Gives the graph its inputs and its outputs under their names, and removes whatever they do not need."""
    graph = model.graph
    _refuse_reserved(own, {*added, *results})
    inputs = [*own, *added.values()]
    names = {*results, *added, *(value.name or "" for value in own)}
    outputs: list[ir.Value] = []
    for value in results.values():
        outputs.append(_copy(graph, value) if value.producer() is None or value in outputs else value)
    for value in list(ir.convenience.create_value_mapping(graph).values()):
        if value.name in names and value not in inputs and value not in outputs:
            _rename(graph, value, builder.unique_name("renamed"))
    for name, value in (*added.items(), *zip(results, outputs, strict=True)):
        value.name = name
    graph.inputs[:] = inputs
    graph.outputs[:] = outputs
    RemoveUnusedNodesPass()(model)
    infer_shapes(model)
    CheckerPass()(model)


def _refuse_reserved(inputs: Sequence[ir.Value], names: Collection[str]) -> None:
    """Other tensors can be renamed, but inputs are known by their names."""
    for value in inputs:
        if value.name in names:
            raise invalid(
                "RESERVED_NAME",
                f"An input is called {value.name!r}, but that is the name of an input or output which backward and "
                "tangent graphs have of their own. Rename it in the model.",
                tensor=value.name,
            )


def _copy(graph: ir.Graph, value: ir.Value) -> ir.Value:
    node = ir.Node("", "Identity", [value])
    graph.append(node)
    copy = node.outputs[0]
    copy.shape, copy.type = value.shape, value.type
    return copy


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    if value.is_initializer():
        graph.initializers.pop(value.name or "")
        value.name = name
        graph.register_initializer(value)
    else:
        value.name = name
