"""The classes of a classifier: which tensor holds their scores, which their probabilities, and what they are called."""

import difflib
from dataclasses import dataclass

import onnx_ir as ir

from ortoscope_service.errors import Code, OrtoscopeError, invalid, not_found
from ortoscope_service.graph.axes import extents, normalized
from ortoscope_service.graph.constants import int_attribute
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.onboarding.subject import class_output
from ortoscope_service.models.repository import ModelVersion

_ENDS = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
"""Functions that make probabilities of scores, or their logarithms."""

_MOVING = frozenset({"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators that may stand between such a function and the output: they change no number."""

_PER_AXIS = 13
"""The first opset whose Softmax goes over one axis alone."""


@dataclass(frozen=True)
class Classes:
    """The classes of a model."""

    logits: Tap
    """The scores before the function that makes probabilities of them; its units are the classes, at one site."""

    probabilities: Tap | None
    """The probabilities that the model itself computes, shaped like the scores; None if it computes none."""

    labels: tuple[str, ...]
    """Name of every class by its index; empty if they are not known."""

    @property
    def axis(self) -> int:
        """The axis of the scores along which the classes lie."""
        return self.logits.unit_axis

    def label(self, index: int) -> str:
        """The name of a class; empty if it is not known."""
        return self.labels[index] if index < len(self.labels) else ""

    def find(self, label: str, *, field: str) -> int:
        """The index of the class of a name: of a whole label, else of a part of one between commas, in any case.

        Args:
            label: The name.
            field: The request field that held it.

        Raises:
            OrtoscopeError: `UNKNOWN_CLASS` (NOT_FOUND), with the closest names; `AMBIGUOUS_CLASS`: several have it.
        """
        wanted = label.strip().casefold()
        whole = [index for index, name in enumerate(self.labels) if name.strip().casefold() == wanted]
        found = whole or [
            index
            for index, name in enumerate(self.labels)
            if wanted in (part.strip().casefold() for part in name.split(","))
        ]
        if len(found) > 1:
            listing = ", ".join(f"{index} '{self.labels[index]}'" for index in found[:5])
            raise invalid(
                "AMBIGUOUS_CLASS",
                f"{len(found)} classes are called {label!r}: {listing}. Give the index of one.",
                field=field,
                label=label,
                classes=listing,
            )
        if not found:
            raise self._unknown(label, field)
        return found[0]

    def _unknown(self, label: str, field: str) -> OrtoscopeError:
        if not self.labels:
            what = "the names of the model's classes are not known; give the index instead, or prepare it with --labels"
            return not_found("UNKNOWN_CLASS", f"There is no class {label!r}: {what}.", field=field, label=label)
        parts = {part.strip().casefold(): part.strip() for name in self.labels for part in (name, *name.split(","))}
        close = difflib.get_close_matches(label.casefold(), parts, n=5, cutoff=0.5) or list(parts)[:5]
        listing = ", ".join(f"'{parts[name]}'" for name in close)
        return not_found(
            "UNKNOWN_CLASS",
            f"The model has no class {label!r}. Close names: {listing}.",
            field=field,
            label=label,
            close_names=listing,
        )


def find_classes(version: ModelVersion) -> Classes:
    """Finds where a model has its classes: the output (batch, classes), and what was before a Softmax or the like.

    Raises:
        OrtoscopeError: `NO_CLASSES` (FAILED_PRECONDITION).
    """
    manifest = version.manifest
    graph = version.load().graph
    taps = {tap.tensor: tap for tap in manifest.taps}
    labels = manifest.class_labels
    name = class_output(version.load(), len(labels)) or class_output(version.load())
    output = next((value for value in graph.outputs if value.name == name), None)
    if output is None or name not in taps:
        raise _no_classes(version, "it has no output of the shape (items, classes)")
    end = _end(output)
    if end is None:
        return Classes(taps[name], None, labels)
    scores = end.inputs[0]
    logits = taps.get(scores.name or "") if scores is not None else None
    if logits is None or any(logits.shape[axis] != 1 for axis in logits.site_axes):
        raise _no_classes(version, f"the scores before its {end.op_type} are not one number for each class")
    probabilities = None if end.op_type == "LogSoftmax" else taps.get(end.outputs[0].name or "")
    return Classes(logits, probabilities, labels)


def _end(output: ir.Value) -> ir.Node | None:
    """The node that makes probabilities of scores, if the output is what it gave."""
    value: ir.Value | None = output
    while value is not None:
        node = value.producer()
        if node is None or node.domain:
            return None
        if node.op_type in _ENDS:
            return node if node.op_type == "Sigmoid" or _over_all_classes(node) else None
        if node.op_type not in _MOVING:
            return None
        value = node.inputs[0]
    return None


def _over_all_classes(softmax: ir.Node) -> bool:
    """Whether a softmax goes over all that an item has, rather than over some axis of it."""
    value, graph = softmax.inputs[0], softmax.graph
    shape = extents(value) if value is not None else None
    if shape is None or graph is None:
        return False
    flattening = graph.opset_imports.get("", 0) < _PER_AXIS  # over all axes from its own on
    axis = normalized(int_attribute(softmax, "axis", 1 if flattening else -1), len(shape))
    others = shape[1:axis] if flattening else shape[1:axis] + shape[axis + 1 :]
    return axis > 0 and all(size == 1 for size in others)


def _no_classes(version: ModelVersion, why: str) -> OrtoscopeError:
    name = f"{version.model}/{version.version}"
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "NO_CLASSES",
        f"Model '{name}' is no classifier: {why}. Choose a unit of one of its taps instead.",
        metadata={"model": version.model, "version": str(version.version)},
    )
