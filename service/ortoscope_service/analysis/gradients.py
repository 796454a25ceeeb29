"""Gradients of objectives: which numbers of a network are differentiated, and what is wanted of the result."""

import abc
import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ortoscope_service.analysis.activations import checked_site, run_taps, units_first
from ortoscope_service.analysis.classes import Classes
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.backward import ACTIVATION, COTANGENT, Relaxations, build_backward, gradient_name
from ortoscope_service.graph.loading import serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.manifest import BackwardGraph, InputSpec
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import RunnableSession

Array = NDArray[Any]

_PROBABILITIES = "class_probabilities"


@dataclass(frozen=True)
class Target:
    """The tensor that is differentiated."""

    tap: Tap
    """A tap."""

    softmax: bool = False
    """Whether it is not the tap itself but its softmax along the unit axis."""

    @classmethod
    def of_classes(cls, classes: Classes, *, probability: bool) -> "Target":
        """The scores or the probabilities of all classes."""
        if not probability:
            return cls(classes.logits)
        return cls(classes.logits, softmax=True) if classes.probabilities is None else cls(classes.probabilities)

    @property
    def key(self) -> tuple[str, bool]:
        """What distinguishes it from other targets of the same model."""
        return self.tap.tensor, self.softmax

    def model(self, version: ModelVersion) -> tuple[ir.Model, str]:
        """The part of the model that computes it, with it as the only output, and its name there."""
        part = trunk(version.load(), [self.tap.tensor])
        if not self.softmax:
            return part, self.tap.tensor
        return part, _append_softmax(part, self.tap.unit_axis)


@dataclass(frozen=True)
class Objective(abc.ABC):
    """A number that is computed for each item, linear in one tensor: so far it is differentiated by hand."""

    target: Target
    """The tensor."""

    field: str = dataclasses.field(default="", kw_only=True)
    """The request field that holds the objective."""

    @abc.abstractmethod
    def check(self, shape: Sequence[int]) -> None:
        """Refuses an objective that does not fit a tensor of which one item has this shape."""

    @abc.abstractmethod
    def cotangent(self, items: slice, shape: Sequence[int]) -> Array:
        """The derivative of the number by the tensor, (items, ...) in its type; `shape` is that of one item."""

    @abc.abstractmethod
    def value(self, items: slice, activation: Array) -> Array:
        """The number for each item, (items,) in the tensor's type."""


@dataclass(frozen=True)
class UnitObjective(Objective):
    """The activation of a unit at one site, or the score of a class."""

    unit: int
    """The unit, from 0."""

    site: tuple[int, ...]
    """The index along each site axis; negative counts from the end."""

    def check(self, shape: Sequence[int]) -> None:
        """Refuses a unit or site outside the tensor.

        Raises:
            OrtoscopeError: `INVALID_UNIT`, `INVALID_SITE`.
        """
        check_unit(self.unit, shape, self.target.tap, field=f"{self.field}.unit")
        checked_site(self.site, site_shape(shape, self.target.tap), self.target.tap, self.field)

    def cotangent(self, items: slice, shape: Sequence[int]) -> Array:
        """1 at the unit and site, 0 elsewhere."""
        cotangent = _zeros(items, shape, self.target.tap)
        units_first(cotangent, self.target.tap)[self._index] = 1
        return cotangent

    def value(self, items: slice, activation: Array) -> Array:  # noqa: ARG002 - the same for all items
        """The activation there."""
        found: Array = units_first(activation, self.target.tap)[self._index]
        return found

    @property
    def _index(self) -> tuple[slice | int, ...]:
        return (slice(None), self.unit, *self.site)


@dataclass(frozen=True)
class ChannelMeanObjective(Objective):
    """The mean of a unit's activation over all sites."""

    unit: int
    """The unit, from 0."""

    def check(self, shape: Sequence[int]) -> None:
        """Refuses a unit outside the tensor, and a tensor without sites.

        Raises:
            OrtoscopeError: `INVALID_UNIT`, `EMPTY_TAP`.
        """
        tap = self.target.tap
        check_unit(self.unit, shape, tap, field=f"{self.field}.unit")
        if 0 in site_shape(shape, tap):
            raise invalid(
                "EMPTY_TAP",
                f"The map of tap '{tap.display_name}' has no site for these inputs, so there is no mean; its sites are "
                f"{list(site_shape(shape, tap))}. Give larger inputs.",
                field=f"{self.field}.tap",
                tap=tap.tensor,
                sites=list(site_shape(shape, tap)),
            )

    def cotangent(self, items: slice, shape: Sequence[int]) -> Array:
        """One over the number of sites at all sites of the unit, 0 elsewhere."""
        tap = self.target.tap
        cotangent = _zeros(items, shape, tap)
        units_first(cotangent, tap)[:, self.unit] = 1 / int(np.prod(site_shape(shape, tap), dtype=np.int64))
        return cotangent

    def value(self, items: slice, activation: Array) -> Array:  # noqa: ARG002 - the same for all items
        """The mean, accumulated in double precision."""
        maps = units_first(activation, self.target.tap)[:, self.unit]
        with np.errstate(all="ignore"):
            means: Array = maps.reshape(len(maps), -1).mean(axis=1, dtype=np.float64).astype(activation.dtype)
        return means


@dataclass(frozen=True)
class CotangentObjective(Objective):
    """The sum over all elements of the activation times a given number."""

    numbers: Array
    """(items, ...) or (...), in the tensor's type."""

    def check(self, shape: Sequence[int]) -> None:
        """Refuses numbers of another shape, and numbers that are not finite.

        A factor that is not a number would not even be seen in the result wherever a Relu cuts it off.

        Raises:
            OrtoscopeError: `COTANGENT_SHAPE`, `COTANGENT_NOT_FINITE`.
        """
        own = self.numbers.shape[1:] if self._per_item else self.numbers.shape
        if own != tuple(shape):
            raise invalid(
                "COTANGENT_SHAPE",
                f"The cotangent has the shape {list(self.numbers.shape)}, but tap '{self.target.tap.display_name}' has "
                f"{list(shape)} for each of these items; give that shape, or one such array per item.",
                field=f"{self.field}.tensor.shape",
                shape=list(self.numbers.shape),
                expected=list(shape),
            )
        if not np.isfinite(self.numbers).all():
            place = [int(index) for index in np.argwhere(~np.isfinite(self.numbers))[0]]
            raise invalid(
                "COTANGENT_NOT_FINITE",
                f"The cotangent is infinite or not a number at {place}; give finite numbers.",
                field=f"{self.field}.tensor.data",
                place=place,
            )

    def cotangent(self, items: slice, shape: Sequence[int]) -> Array:
        """The numbers."""
        if self._per_item:
            return self.numbers[items]
        return np.broadcast_to(self.numbers, (items.stop - items.start, *shape))

    def value(self, items: slice, activation: Array) -> Array:
        """The sum, accumulated in double precision."""
        numbers = self.cotangent(items, activation.shape[1:])
        with np.errstate(all="ignore"):
            # An infinite activation that does not count must not spoil the sum.
            products = np.where(numbers == 0, 0.0, np.multiply(activation, numbers, dtype=np.float64))
            sums: Array = products.reshape(len(activation), -1).sum(axis=1).astype(activation.dtype)
        return sums

    @property
    def _per_item(self) -> bool:
        return self.numbers.ndim == len(self.target.tap.shape)


class GradientReduction(enum.Enum):
    """What is computed from a gradient."""

    NONE = "none"
    TIMES_VALUE = "times_value"
    UNIT_SUMS = "unit_sums"


@dataclass(frozen=True)
class Source:
    """A tensor at which the gradient is taken: an input of the model or a tap."""

    tensor: str
    """Its name in the ONNX file."""

    tap: Tap | None
    """The tap; None for an input."""

    display_name: str
    """The name to show."""

    unit_axis: int
    """The axis along which the units (or the colours of a picture) lie; 0 if it is not known."""

    shape: tuple[int, ...]
    """Extent of every axis; -1 where it is free or not known."""

    data_type: str
    """NumPy name of the element type."""

    @classmethod
    def of_tap(cls, tap: Tap) -> "Source":
        """A tap."""
        return cls(tap.tensor, tap, tap.display_name, tap.unit_axis, tap.shape, tap.data_type)

    @classmethod
    def of_input(cls, spec: InputSpec) -> "Source":
        """An input: the units of a picture are its colours, those of a vector its features."""
        axis = 1 if len(spec.shape) == 2 else 0
        if spec.preprocessing is not None:
            axis = 1 if spec.preprocessing.layout == "nchw" else len(spec.shape) - 1
        return cls(spec.name, None, spec.name, axis, spec.shape, spec.data_type)


def backward_graph(version: ModelVersion, target: Target, sources: Sequence[Source], relaxations: Relaxations) -> bytes:
    """The backward graph of a target, as an ONNX file. Whoever needs one gets it here.

    One that is kept in the model package (`kept_graph`) is taken from there.

    Args:
        version: The model.
        target: What is differentiated.
        sources: Where.
        relaxations: Departures from the true gradient.

    Raises:
        OrtoscopeError: As `build_backward`, `ModelVersion.load` and `ModelVersion.backward_bytes` raise.
    """
    if kept_graph(version, target, sources, relaxations) is not None:
        kept = version.backward_bytes(target.tap.tensor, relaxations.names)
        assert kept is not None
        return kept
    model, tensor = target.model(version)
    names = [source.tensor for source in sources]
    return serialize(build_backward(model, tensor, with_respect_to=names, relaxations=relaxations))


def kept_graph(
    version: ModelVersion, target: Target, sources: Sequence[Source], relaxations: Relaxations
) -> BackwardGraph | None:
    """What is said of the backward graph in the model package that serves a target; None if none does."""
    if sources or target.softmax:
        return None
    return version.find_backward(target.tap.tensor, relaxations.names)


def compute_gradients(
    session: RunnableSession,
    objective: Objective,
    feeds: Mapping[str, Array],
    items: slice,
    shape: Sequence[int],
    fixed_batch: int = 0,
    cancellation: Cancellation | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Runs a backward graph on some of the items of a request.

    Args:
        session: The backward graph of the objective's target.
        objective: What is differentiated; checked against `shape`.
        feeds: The inputs of the model with all items along the first axis.
        items: Which of them.
        shape: The shape of one item of the target.
        fixed_batch: The batch size that the model is bound to; 0 if any can be run.
        cancellation: Stops the run.

    Returns:
        The objective of each item, (items,), and by tensor the gradients, items along the first axis.

    Raises:
        OrtoscopeError: As `Session.run` raises.
    """
    given = {info.name: feeds[info.name][items] for info in session.inputs if info.name != COTANGENT}
    outputs = run_taps(session, {**given, COTANGENT: objective.cotangent(items, shape)}, fixed_batch, cancellation)
    prefix = gradient_name("")
    gradients = {name.removeprefix(prefix): value for name, value in outputs.items() if name != ACTIVATION}
    return objective.value(items, outputs[ACTIVATION]), gradients


def reduce_gradient(gradient: Array, value: Array | None, source: Source, reduction: GradientReduction) -> Array:
    """Computes what is wanted of a gradient.

    Args:
        gradient: The gradient at a source, items along the first axis.
        value: The source's own value, of the same shape; not needed for NONE.
        source: The source.
        reduction: What is wanted.

    Returns:
        An array of the gradient's type: of its shape, or (items, units) for UNIT_SUMS.
    """
    if reduction is GradientReduction.NONE:
        return gradient
    assert value is not None
    with np.errstate(all="ignore"):
        if reduction is GradientReduction.TIMES_VALUE:
            product: Array = gradient * value
            return product
        products = np.moveaxis(np.multiply(gradient, value, dtype=np.float64), source.unit_axis, 1)
        sums: Array = products.reshape(*products.shape[:2], -1).sum(axis=2).astype(gradient.dtype)
        return sums


def require_units(source: Source, reduction: GradientReduction, *, field: str) -> None:
    """Refuses sums over the sites of each unit where it is not known which axis the units lie along.

    Raises:
        OrtoscopeError: `UNITS_UNKNOWN` (FAILED_PRECONDITION).
    """
    if reduction is GradientReduction.UNIT_SUMS and not source.unit_axis:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "UNITS_UNKNOWN",
            f"It is not known along which axis of the input '{source.tensor}' its units lie; ask for the gradient "
            "times the input, and sum as its axes mean.",
            field=field,
            metadata={"input": source.tensor},
        )


def site_shape(shape: Sequence[int], tap: Tap) -> tuple[int, ...]:
    """The extents of a tap's site axes, from the shape of one item."""
    return tuple(shape[axis - 1] for axis in tap.site_axes)


def check_unit(unit: int, shape: Sequence[int], tap: Tap, *, field: str) -> None:
    """Refuses a unit that the tap does not have.

    Raises:
        OrtoscopeError: `INVALID_UNIT`.
    """
    units = shape[tap.unit_axis - 1]
    if not 0 <= unit < units:
        raise invalid(
            "INVALID_UNIT",
            f"Tap '{tap.display_name}' has no unit {unit}; its {units} units are counted from 0.",
            field=field,
            unit=unit,
            units=units,
        )


def _zeros(items: slice, shape: Sequence[int], tap: Tap) -> Array:
    return np.zeros((items.stop - items.start, *shape), tap.data_type)


def _append_softmax(model: ir.Model, axis: int) -> str:
    """Makes the softmax of a model's only output its output; returns its name."""
    graph = model.graph
    scores = graph.outputs[0]
    taken = ir.convenience.create_value_mapping(graph)
    name = _PROBABILITIES
    while name in taken:
        name += "_"
    node = ir.Node("", "Softmax", [scores], [ir.AttrInt64("axis", axis)], name=name)
    probabilities = node.outputs[0]
    probabilities.name, probabilities.type = name, scores.type
    probabilities.shape = scores.shape.copy() if scores.shape is not None else None
    graph.append(node)
    graph.outputs[:] = [probabilities]
    return name
