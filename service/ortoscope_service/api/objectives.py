"""From the objective of a request to what is differentiated. Kinds of objectives are known here alone."""

import hashlib
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from ortoscope.v1 import gradients_pb2

from ortoscope_service.analysis.classes import find_classes
from ortoscope_service.analysis.gradients import (
    ChannelMeanObjective,
    CotangentObjective,
    Objective,
    Target,
    UnitObjective,
)
from ortoscope_service.api.components import blaming
from ortoscope_service.api.gradient_subject import Subject
from ortoscope_service.api.tensors import from_tensor
from ortoscope_service.errors import invalid
from ortoscope_service.graph.taps import Tap


@dataclass(frozen=True)
class ChosenObjective:
    """An objective of a request."""

    objective: Objective
    """What is differentiated."""

    kind: str
    """Its field in the request."""

    details: list[object]
    """What decides its numbers, besides its tap."""

    class_index: int | None = None
    """For a class: its index."""

    class_label: str = ""
    """For a class: its name, if known."""


def read_objective(subject: Subject, objective: gradients_pb2.Objective, items: int) -> ChosenObjective:
    """Reads the field `objective` of a request; whether it fits its tensor shows when that one's shape is known.

    Args:
        subject: The model.
        objective: The objective.
        items: How many items the request has.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: NO_OBJECTIVE, NO_CLASS, INVALID_CLASS, AMBIGUOUS_CLASS, NOT_DIFFERENTIABLE,
            what is wrong with a tensor; NOT_FOUND: UNKNOWN_TAP, UNKNOWN_CLASS; FAILED_PRECONDITION: NO_CLASSES.
    """
    kind = objective.WhichOneof("kind")
    field = f"objective.{kind}"
    match kind:
        case "unit":
            tap = subject.tap(objective.unit.tap, f"{field}.tap")
            site = tuple(objective.unit.site)
            unit = UnitObjective(Target(tap), objective.unit.unit, site, field=field)
            return ChosenObjective(unit, kind, [unit.unit, list(site)])
        case "channel_mean":
            tap = subject.tap(objective.channel_mean.tap, f"{field}.tap")
            mean = ChannelMeanObjective(Target(tap), objective.channel_mean.unit, field=field)
            return ChosenObjective(mean, kind, [mean.unit])
        case "class_logit" | "class_probability":
            return _class_objective(subject, getattr(objective, kind), kind)
        case "cotangent":
            tap = subject.tap(objective.cotangent.tap, f"{field}.tap")
            numbers = _cotangent(objective.cotangent, tap, items, field)
            digest = hashlib.sha256(numbers.tobytes()).hexdigest()
            return ChosenObjective(
                CotangentObjective(Target(tap), numbers, field=field), kind, [list(numbers.shape), digest]
            )
    raise invalid(
        "NO_OBJECTIVE",
        "There is no objective that this server knows; give a unit, a channel mean, a class or a cotangent.",
        field="objective",
    )


def _class_objective(subject: Subject, reference: gradients_pb2.ClassReference, kind: str) -> ChosenObjective:
    field = f"objective.{kind}"
    with blaming(field):
        classes = find_classes(subject.version)
    target = Target.of_classes(classes, probability=kind == "class_probability")
    count = classes.logits.unit_count
    match reference.WhichOneof("reference"):
        case "index":
            index = reference.index
        case "label":
            index = classes.find(reference.label, field=f"{field}.label")
        case _:
            raise invalid("NO_CLASS", "The class is not named; give its index or its label.", field=field)
    if index < 0 or (count and index >= count):
        raise invalid(
            "INVALID_CLASS",
            f"The model has no class {index}; its {count} classes are counted from 0.",
            field=f"{field}.index",
            class_index=index,
            classes=count,
        )
    objective = UnitObjective(target, index, (0,) * len(target.tap.site_axes), field=field)
    return ChosenObjective(objective, kind, [index], index, classes.label(index))


def _cotangent(message: gradients_pb2.Objective.Cotangent, tap: Tap, items: int, field: str) -> NDArray[Any]:
    per_item = len(message.tensor.shape) == len(tap.shape)
    expected = (items, *tap.shape[1:]) if per_item else tap.shape[1:]
    return from_tensor(message.tensor, tap.data_type, expected, field=f"{field}.tensor")
