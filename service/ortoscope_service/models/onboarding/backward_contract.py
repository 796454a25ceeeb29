"""What a backward graph must look like to be taken for one: names, types, shapes, operators."""

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from ortoscope_service.errors import OrtoscopeError, invalid
from ortoscope_service.graph.axes import extents
from ortoscope_service.graph.backward import ACTIVATION, COTANGENT, gradient_name
from ortoscope_service.graph.backward.walker import FLOATING


def check_contract(graph: ir.Model, forward: ir.Model, model: ir.Model) -> None:
    """Refuses a graph that cannot be the backward graph of a tap.

    Args:
        graph: The graph.
        forward: The part of the model that computes the tap, which is its only output.
        model: The model.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: `BACKWARD_GRAPH_DOMAIN`: an operator of another domain than the default;
            `BACKWARD_GRAPH_INPUTS`, `BACKWARD_GRAPH_OUTPUTS`: one is missing or has no meaning;
            `BACKWARD_GRAPH_TYPE`, `BACKWARD_GRAPH_SHAPE`: one is not of the type or shape of what it belongs to;
            `BACKWARD_GRAPH_BATCH`: it is bound to a batch size, and the model is not.
    """
    (tap,) = forward.graph.outputs
    name = tap.name or ""
    _check_domain(graph, name)
    inputs, outputs = _by_name(graph.graph.inputs), _by_name(graph.graph.outputs)
    needed = _by_name(forward.graph.inputs)
    wanted = {ACTIVATION, *(gradient_name(key) for key, value in needed.items() if value.dtype in FLOATING)}
    _check_names("INPUTS", name, inputs, {COTANGENT, *needed}, {COTANGENT, *_by_name(model.graph.inputs)})
    _check_names("OUTPUTS", name, outputs, wanted, wanted)
    owners = {COTANGENT: tap, **_by_name(model.graph.inputs)}
    for key, value in inputs.items():
        _check_value(value, owners[key], name)
    for key, value in outputs.items():
        _check_value(value, tap if key == ACTIVATION else needed[key.removeprefix(gradient_name(""))], name)


def _by_name(values: Iterable[ir.Value]) -> dict[str, ir.Value]:
    return {value.name or "": value for value in values}


def _check_domain(graph: ir.Model, tap: str) -> None:
    for node in ir.traversal.RecursiveGraphIterator(graph.graph):
        if node.domain:
            raise _refused(
                "DOMAIN",
                tap,
                f"has the node '{node.name}' of the domain '{node.domain}'; only operators of the default domain run "
                "anywhere",
                node=node.name,
                domain=node.domain,
            )


def _check_names(
    which: str, tap: str, found: Mapping[str, ir.Value], needed: Iterable[str], allowed: Iterable[str]
) -> None:
    missing = sorted(set(needed) - found.keys())
    surplus = sorted(found.keys() - set(allowed))
    if missing or surplus:
        lacks = f"lacks the {which.lower()} {', '.join(map(repr, missing))}" if missing else ""
        has = f"has the {which.lower()} {', '.join(map(repr, surplus))}, which mean nothing here" if surplus else ""
        raise _refused(
            which,
            tap,
            f"{' and '.join(filter(None, (lacks, has)))}; its {which.lower()} must be "
            f"{', '.join(map(repr, sorted(needed)))}",
            missing=", ".join(missing),
            surplus=", ".join(surplus),
        )


def _check_value(value: ir.Value, owner: ir.Value, tap: str) -> None:
    """Compares an input or output with what it belongs to: a cotangent with the tap, a gradient with its input."""
    if value.dtype != owner.dtype:
        raise _refused(
            "TYPE",
            tap,
            f"has '{value.name}' of type {value.dtype}, but '{owner.name}' is of type {owner.dtype}",
            tensor=value.name,
            type=value.dtype,
            expected=owner.dtype,
        )
    found, expected = extents(value), extents(owner)
    if found is None or expected is None:
        return
    shown = {"tensor": value.name, "shape": _shape(found), "expected": _shape(expected)}
    if found and expected and isinstance(found[0], int) and not isinstance(expected[0], int):
        raise _refused(
            "BATCH",
            tap,
            f"is bound to a batch of {found[0]} at '{value.name}', while the model takes any; export it with the first "
            "axis dynamic",
            **shown,
        )
    agree = len(found) == len(expected) and all(
        own == other or not isinstance(own, int) for own, other in zip(found, expected, strict=True)
    )
    if not agree:
        raise _refused(
            "SHAPE",
            tap,
            f"has '{value.name}' of shape {_shape(found)}, but '{owner.name}' has {_shape(expected)}",
            **shown,
        )


def _shape(shape: Iterable[int | str | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _refused(reason: str, tap: str, what: str, **details: object) -> OrtoscopeError:
    metadata = {name: str(value) for name, value in details.items()}
    return invalid(
        f"BACKWARD_GRAPH_{reason}", f"The backward graph of tap '{tap}' {what}.", field="", tap=tap, **metadata
    )
