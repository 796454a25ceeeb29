"""Cutting a model at its tensors: trunk (inputs → taps), head (tap → outputs), or all of it with more outputs."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from ortoscope_service.errors import invalid, not_found
from ortoscope_service.graph.axes import captured_values


def trunk(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """The part of a model that computes some of its tensors.

    Args:
        model: A model from `loading.load_model`.
        tensors: Names of tensors of the main graph: intermediates, outputs, inputs or initializers. A name given
            twice counts once.

    Returns:
        A new model, sharing the weights, whose outputs are these tensors in this order. Nodes, initializers and
        inputs that they do not depend on are gone.

    Raises:
        OrtoscopeError: `NO_TENSORS`; `UNKNOWN_TENSOR` (NOT_FOUND), also for a tensor inside a subgraph;
            `UNTYPED_TENSOR` for one whose data type is not known.
    """
    if not tensors:
        raise invalid("NO_TENSORS", "No tensor was asked for; name at least one.")
    values = _values(model)
    outputs = [_find(values, name) for name in dict.fromkeys(tensors)]
    return _cut(model, (), outputs)


def head(model: ir.Model, tensor: str) -> ir.Model:
    """The part of a model from one of its tensors on.

    Args:
        model: A model from `loading.load_model`.
        tensor: Name of a tensor of the main graph.

    Returns:
        A new model, sharing the weights, whose first input is the tensor. Its outputs are those of the model that
        depend on the tensor; where they also depend on inputs past the tensor (skip connections around it), these
        inputs follow as further inputs.

    Raises:
        OrtoscopeError: `UNKNOWN_TENSOR` (NOT_FOUND), `UNTYPED_TENSOR`; `NO_HEAD`: no output depends on the tensor.
    """
    start = _find(_values(model), tensor)
    reached = {start}
    for node in model.graph:
        if any(value in reached for value in captured_values(node)):
            reached.update(node.outputs)
    outputs = [value for value in model.graph.outputs if value in reached]
    if not outputs:
        raise invalid("NO_HEAD", f"No output of the model depends on the tensor {tensor!r}.", tensor=tensor)
    return _cut(model, (start,), outputs)


def expose(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """The whole model with some of its tensors as further outputs.

    Args:
        model: A model from `loading.load_model`.
        tensors: Names of tensors of the main graph; those that are outputs already, or repeated, change nothing.

    Returns:
        A new model, sharing the weights; the new outputs follow the old ones in the order given.

    Raises:
        OrtoscopeError: `UNKNOWN_TENSOR` (NOT_FOUND), `UNTYPED_TENSOR`.
    """
    names = {value.name for value in model.graph.outputs}
    added = [name for name in dict.fromkeys(tensors) if name not in names]
    exposed = model.clone()
    values = _values(exposed)
    exposed.graph.outputs.extend([_find(values, name) for name in added])
    return exposed


def _values(model: ir.Model) -> Mapping[str, ir.Value]:
    return ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)


def _find(values: Mapping[str, ir.Value], name: str) -> ir.Value:
    value = values.get(name) if name else None
    if value is None:
        close = difflib.get_close_matches(name, values, n=3)
        hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
        raise not_found("UNKNOWN_TENSOR", f"The model has no tensor {name!r}.{hint}", tensor=name)
    if value.dtype is None:
        raise invalid(
            "UNTYPED_TENSOR",
            f"The data type of the tensor {name!r} is not known, so it cannot be an output.",
            tensor=name,
        )
    return value


def _cut(model: ir.Model, starts: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    graph = model.graph
    nodes, used = _needed(graph, starts, outputs)
    view = ir.GraphView(
        [*starts, *(value for value in graph.inputs if value in used and value not in starts)],
        list(outputs),
        nodes=nodes,
        initializers=[value for value in graph.initializers.values() if value in used and value not in starts],
        doc_string=graph.doc_string,
        opset_imports=dict(graph.opset_imports),
        name=graph.name,
        metadata_props=dict(graph.metadata_props),
    )
    return ir.Model(
        view.clone(),
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        metadata_props=dict(model.metadata_props),
    )


def _needed(
    graph: ir.Graph, starts: Iterable[ir.Value], outputs: Iterable[ir.Value]
) -> tuple[list[ir.Node], set[ir.Value]]:
    """The nodes, in order, and the values from which the outputs are computed, going no further back than `starts`."""
    given = set(starts)
    used = set(outputs)
    nodes: set[ir.Node] = set()
    pending = [value for value in used if value not in given]
    while pending:
        node = pending.pop().producer()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        for value in captured_values(node):
            if value not in used:
                used.add(value)
                if value not in given:
                    pending.append(value)
    return [node for node in graph if node in nodes], used
