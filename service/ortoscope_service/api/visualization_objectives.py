"""From the objective of a Visualize request to that of the analysis, and errors back to the fields of the request.

The messages have the names of the JSON dialect (`analysis.visualization.objective_json`), so that they are read by
reflection, whatever kinds there are. Where protobuf wants a message of its own, the paths of fields differ:

    JSON                                     request
    objective.sum[1].channel.unit            objective.sum.terms[1].channel.unit
    objective.scaled.channel.tap             objective.scaled.objective.channel.of.tap
    objective.class_logit.label              objective.class_logit.label, or .index
"""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf.message import Message
from ortoscope.v1.gradients_pb2 import ClassReference
from ortoscope.v1.tensors_pb2 import Tensor
from ortoscope.v1.visualization_pb2 import VisualizationObjective

from ortoscope_service.analysis.visualization.objective_json import objective_from_data
from ortoscope_service.analysis.visualization.objectives import (
    MAXIMUM_DEPTH,
    MAXIMUM_SIZE,
    Constant,
    ForItem,
    Objective,
    Product,
    Scaled,
    Sum,
)
from ortoscope_service.api.tensors import from_tensor, little_endian
from ortoscope_service.errors import OrtoscopeError, invalid

_LISTS = {Sum.kind: "terms", Product.kind: "factors"}
"""Kinds that hold several objectives, and the fields that do."""

_WRAPPERS = {Scaled.kind: "weight", ForItem.kind: "item"}
"""Kinds that hold one objective, and what stands beside it."""

_SOURCES = {"of": "", "to": "to_"}
"""Fields that say what is read, and how the keys for them begin in JSON."""

_SEGMENT = re.compile(r"(?P<name>[^\[]*)(?P<index>(?:\[\d+\])*)")


def read_objective(message: VisualizationObjective, *, field: str = "objective") -> Objective:
    """Reads the objective of a request. Whether it fits a model is not checked.

    Args:
        message: The message.
        field: The path of the field that holds it.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: NO_OBJECTIVE: a part of it holds none, or one of a kind that this server does
            not know; NO_SOURCE, NO_CLASS, INVALID_OBJECTIVE, OBJECTIVE_TOO_LARGE; what is wrong with a tensor.
    """
    with blaming_fields_of(message, field):
        return objective_from_data(_Reader().objective(message, field, 1), field=field)


@contextmanager
def blaming_fields_of(message: VisualizationObjective, field: str = "objective") -> Iterator[None]:
    """Errors of the body that name a field of the objective in its JSON form name that of the message instead."""
    try:
        yield
    except OrtoscopeError as error:
        error.field = request_field(error.field, message, field)
        raise


def request_field(path: str, message: VisualizationObjective, field: str = "objective") -> str:
    """The path in a request of a field of an objective that is named as in JSON.

    Args:
        path: The path; one that leads elsewhere, or is that of the request already, stays as it is.
        message: The objective of the request.
        field: The path of the field that holds it.
    """
    if path != field and not path.startswith((f"{field}.", f"{field}[")):
        return path
    # A batch with one objective for each item is not what a request can hold: its first index is none of it.
    rest = re.sub(r"^\[\d+\]", "", path.removeprefix(field)).lstrip(".")
    found = [field]
    current: Any = message
    segments = rest.split(".") if rest else []
    while segments:
        name, index = _split(segments.pop(0))
        if current is None or name not in VisualizationObjective.DESCRIPTOR.fields_by_name:
            return path
        if name in _LISTS and index:
            number = int(index.strip("[]").split("][")[0])
            entries = getattr(getattr(current, name), _LISTS[name])
            found.append(f"{name}.{_LISTS[name]}{index}")
            current = entries[number] if number < len(entries) else None
        elif name in _WRAPPERS and segments and segments[0] not in {_WRAPPERS[name], "objective"}:
            found.append(f"{name}.objective")
            current = getattr(current, name).objective
        else:
            return ".".join([*found, f"{name}{index}", *_leaf_path(current, name, segments)])
    return ".".join(found)


def _leaf_path(message: VisualizationObjective, kind: str, segments: list[str]) -> list[str]:
    """What follows the kind of an objective that holds no others."""
    if not segments:
        return []
    (name, index), rest = _split(segments[0]), segments[1:]
    own = getattr(message, kind)
    if isinstance(own, ClassReference) and name == "label":
        return [own.WhichOneof("reference") or name, *rest]
    for source, prefix in _SOURCES.items():
        if name in {f"{prefix}tap", f"{prefix}picture"}:
            return [source, name.removeprefix(prefix), *rest]
    if name == "site" and index:
        return [f"site.index{index}", *rest]
    return segments


def _split(segment: str) -> tuple[str, str]:
    match = _SEGMENT.match(segment)
    assert match is not None  # it matches anything
    return match["name"], match["index"]


class _Reader:
    """Makes JSON data of messages, and counts their parts, so that no more is unpacked than will be taken."""

    def __init__(self) -> None:
        self._parts = 0

    def objective(self, message: VisualizationObjective, at: str, depth: int) -> dict[str, Any]:
        self._parts += 1
        if self._parts > MAXIMUM_SIZE or depth > MAXIMUM_DEPTH:
            raise invalid(
                "OBJECTIVE_TOO_LARGE",
                f"The objective has more than {MAXIMUM_SIZE} parts or more than {MAXIMUM_DEPTH} levels; write it with "
                "fewer.",
                field=at,
                largest_size=MAXIMUM_SIZE,
                largest_depth=MAXIMUM_DEPTH,
            )
        kind = message.WhichOneof("kind")
        if kind is None:
            raise invalid(
                "NO_OBJECTIVE",
                "There is no objective that this server knows; give one of the kinds of VisualizationObjective, such "
                "as a channel.",
                field=at,
            )
        value, here = getattr(message, kind), f"{at}.{kind}"
        if kind == Constant.kind:
            return {kind: value}
        if kind in _LISTS:
            name = _LISTS[kind]
            parts = enumerate(getattr(value, name))
            return {kind: [self.objective(part, f"{here}.{name}[{index}]", depth + 1) for index, part in parts]}
        if kind in _WRAPPERS:
            beside = _WRAPPERS[kind]
            inner = self.objective(value.objective, f"{here}.objective", depth + 1)
            return {kind: {beside: getattr(value, beside), **inner}}
        if isinstance(value, ClassReference):
            return {kind: {"label": _class(value, here)}}
        return {kind: _fields(value, here)}


def _fields(message: Message, at: str) -> dict[str, Any]:
    """The fields of a leaf: those that are absent, though they can be, are left out and so take their defaults."""
    found: dict[str, Any] = {}
    for own in message.DESCRIPTOR.fields:
        name, value, here = own.name, getattr(message, own.name), f"{at}.{own.name}"
        if name in _SOURCES:
            key, what = _source(value, here)
            found[_SOURCES[name] + key] = what
        elif own.enum_type is not None:
            if value:
                found[name] = _word(own.enum_type, value, here)
        elif own.is_repeated:
            found[name] = list(value)
        elif own.has_presence and not message.HasField(name):
            if isinstance(value, Tensor):
                raise invalid("NO_TENSOR", "The tensor is missing; give one of FLOAT32.", field=here)
        else:
            found[name] = _single(value, here)
    return found


def _single(value: Any, at: str) -> Any:
    if isinstance(value, Tensor):
        array = from_tensor(value, "float32", [-1] * len(value.shape), field=at)
        text = base64.b64encode(little_endian(array)).decode("ascii")
        return {"shape": list(array.shape), "float32": text}
    return list(value.index) if isinstance(value, VisualizationObjective.SiteIndex) else value


def _source(message: VisualizationObjective.Source, at: str) -> tuple[str, str]:
    kind = message.WhichOneof("source")
    if kind == "tap":
        return kind, message.tap
    if kind == "picture" and message.picture:
        return kind, _word(VisualizationObjective.Source.Picture.DESCRIPTOR, message.picture, f"{at}.picture")
    raise invalid(
        "NO_SOURCE",
        "It does not say what is read; give the name of a tap, or a part of the picture.",
        field=f"{at}.{kind or 'tap'}",
    )


def _class(message: ClassReference, at: str) -> int | str:
    match message.WhichOneof("reference"):
        case "index":
            return message.index
        case "label":
            return message.label
    raise invalid("NO_CLASS", "The class is not named; give its index or its label.", field=at)


def _word(enum: Any, number: int, at: str) -> str:
    """The word of JSON for a value of an enumeration (its descriptor): its name in lower case, without that of that."""
    value = enum.values_by_number.get(number)
    if value is None:
        raise invalid(
            "INVALID_OBJECTIVE", f"There is no {enum.name} {number}; choose another one.", field=at, value=number
        )
    name: str = value.name.lower()
    return name.removeprefix(f"{enum.name.lower()}_")
