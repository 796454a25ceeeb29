"""The service `ortoscope.v1.Gradients`: gradients of objectives, and attribution of class scores."""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from ortoscope.v1 import gradients_pb2, gradients_pb2_grpc
from ortoscope.v1.activations_pb2 import ActivationInput
from ortoscope.v1.provenance_pb2 import Provenance

from ortoscope_service.analysis.activations import run_taps
from ortoscope_service.analysis.attribution import Attributions, Granularity, Parts, attribute_classes, tangent_graph
from ortoscope_service.analysis.classes import Classes, find_classes
from ortoscope_service.analysis.gradients import (
    ChannelMeanObjective,
    CotangentObjective,
    GradientReduction,
    Objective,
    Source,
    Target,
    UnitObjective,
    backward_graph,
    compute_gradients,
    reduce_gradient,
    require_units,
)
from ortoscope_service.api import resources
from ortoscope_service.api.activation_inputs import has_pictures, read_inputs
from ortoscope_service.api.components import Components, blaming, version_name
from ortoscope_service.api.interceptor import response_too_large
from ortoscope_service.api.provenance import provenance_message
from ortoscope_service.api.tensors import byte_size, from_tensor, to_tensor
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.backward import Relaxations, gradient_name
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.graph.taps import Tap, resolve_tap
from ortoscope_service.jobs.provenance import Computation, execution_spec, spec_digest
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import Session

DEFAULT_TOP_CLASSES = 5
"""Classes told for each item if the request leaves it open."""

Array = NDArray[Any]
Feeds = dict[str, Array]

_REDUCTIONS = {
    gradients_pb2.ComputeGradientRequest.REDUCTION_UNSPECIFIED: GradientReduction.NONE,
    gradients_pb2.ComputeGradientRequest.REDUCTION_NONE: GradientReduction.NONE,
    gradients_pb2.ComputeGradientRequest.REDUCTION_TIMES_VALUE: GradientReduction.TIMES_VALUE,
    gradients_pb2.ComputeGradientRequest.REDUCTION_UNIT_SUMS: GradientReduction.UNIT_SUMS,
}
_REDUCTION_NUMBERS = {reduction: number for number, reduction in _REDUCTIONS.items()}

_GRANULARITIES = {
    gradients_pb2.AttributeClassesRequest.GRANULARITY_UNSPECIFIED: Granularity.WHOLE,
    gradients_pb2.AttributeClassesRequest.GRANULARITY_WHOLE: Granularity.WHOLE,
    gradients_pb2.AttributeClassesRequest.GRANULARITY_UNITS: Granularity.UNITS,
    gradients_pb2.AttributeClassesRequest.GRANULARITY_SITES: Granularity.SITES,
}
_GRANULARITY_NUMBERS = {granularity: number for number, granularity in _GRANULARITIES.items()}

_SCORES = {
    gradients_pb2.AttributeClassesRequest.SCORE_UNSPECIFIED: gradients_pb2.AttributeClassesRequest.SCORE_LOGIT,
    gradients_pb2.AttributeClassesRequest.SCORE_LOGIT: gradients_pb2.AttributeClassesRequest.SCORE_LOGIT,
    gradients_pb2.AttributeClassesRequest.SCORE_PROBABILITY: gradients_pb2.AttributeClassesRequest.SCORE_PROBABILITY,
}


class GradientsServicer(gradients_pb2_grpc.GradientsServicer):
    """Computes gradients, and attributes class scores."""

    def __init__(self, components: Components) -> None:
        self._components = components

    def ComputeGradient(
        self, request: gradients_pb2.ComputeGradientRequest, context: grpc.ServicerContext
    ) -> gradients_pb2.ComputeGradientResponse:
        """Computes the gradient of an objective at the model's inputs or at taps."""
        return _Differentiation(self._components, request).respond(self._components.cancellation(context))

    def AttributeClasses(
        self, request: gradients_pb2.AttributeClassesRequest, context: grpc.ServicerContext
    ) -> gradients_pb2.AttributeClassesResponse:
        """Attributes the scores of all classes to a tap or to parts of it."""
        return _ClassAttribution(self._components, request).respond(self._components.cancellation(context))


class _Subject:
    """What both calls have in common: a model, items, and shapes that may be known only when it runs."""

    def __init__(self, components: Components, model: str, relaxations: Sequence[str]) -> None:
        self.components = components
        self.version = components.model_version(resources.parse_model_version(model, field="model"), field="model")
        self.relaxations = Relaxations.parse(relaxations)
        self.fixed_batch = self.version.manifest.fixed_batch
        self.step = max(components.execution.batch_size, self.fixed_batch)
        self.began = time.time()

    def tap(self, name: str, field: str) -> Tap:
        """The tap of a name.

        Raises:
            OrtoscopeError: UNKNOWN_TAP; NOT_DIFFERENTIABLE for a tensor of another type than floating point.
        """
        try:
            return resolve_tap(self.version.manifest.taps, name, field=field)
        except OrtoscopeError:
            _refuse_integers(self.version, name, field)
            raise

    def tap_name(self, tap: Tap) -> str:
        """The resource name of a tap."""
        return str(resources.TapName(version_name(self.version), tap.tensor))

    def batches(self, feeds: Feeds) -> Iterator[Feeds]:
        """The items, as many at a time as run at once."""
        items = len(next(iter(feeds.values())))
        for start in range(0, items, self.step):
            yield {name: value[start : start + self.step] for name, value in feeds.items()}

    def values(self, taps: Sequence[Tap], feeds: Feeds, cancellation: Cancellation) -> Feeds:
        """The values of taps on as many items as run at once."""
        session = self.components.session(self.version, [tap.tensor for tap in taps])
        needed = {info.name: feeds[info.name] for info in session.inputs}
        return run_taps(session, needed, self.fixed_batch, cancellation)

    def item_shape(self, tap: Tap, feeds: Feeds, cancellation: Cancellation) -> tuple[int, ...]:
        """The shape of a tap for one item: as the model states it, else found by running the first item."""
        if min(tap.shape[1:], default=0) >= 0:
            return tap.shape[1:]
        first = {name: value[:1] for name, value in feeds.items()}
        return tuple(self.values([tap], first, cancellation)[tap.tensor].shape[1:])

    def refuse_large(self, size: int) -> None:
        """Refuses a response above the message limit."""
        limit = self.components.limits.max_message_bytes
        if size > limit:
            raise response_too_large(size, limit)

    def provenance(self, specification: dict[str, object], inputs: Sequence[ActivationInput]) -> Provenance:
        """What a result was computed from, ending now."""
        execution = self.components.execution
        preprocessing = self.version.image_input.preprocessing if has_pictures(inputs) else None
        whole = {
            **specification,
            "model": self.version.manifest.digest,
            "relaxations": list(self.relaxations.names),
            "execution": execution_spec(execution),
        }
        return provenance_message(
            self.version,
            Computation(
                execution=execution,
                spec_digest=spec_digest(whole),
                preprocessing=preprocessing.describe() if preprocessing is not None else "",
                items=len(inputs),
                start_time=self.began,
                end_time=time.time(),
            ),
        )


@dataclass(frozen=True)
class _Chosen:
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


class _Differentiation:
    """A call of ComputeGradient.

    Raises:
        OrtoscopeError: Whatever can be refused without running the model.
    """

    def __init__(self, components: Components, request: gradients_pb2.ComputeGradientRequest) -> None:
        self._request = request
        self._subject = _Subject(components, request.model, request.relaxations)
        if request.reduction not in _REDUCTIONS:
            raise invalid(
                "INVALID_REDUCTION",
                f"There is no reduction {request.reduction}.",
                field="reduction",
                reduction=request.reduction,
            )
        self._reduction = _REDUCTIONS[request.reduction]
        self._chosen = _objective(self._subject, request)
        self._target = self._chosen.objective.target
        self._sources = self._find_sources(request.with_respect_to)

    def respond(self, cancellation: Cancellation) -> gradients_pb2.ComputeGradientResponse:
        """Computes the response."""
        subject, objective, request = self._subject, self._chosen.objective, self._request
        feeds = read_inputs(subject.components, subject.version, request.inputs, cancellation)
        items = len(request.inputs)
        shape = subject.item_shape(self._target.tap, feeds, cancellation)
        objective.check(shape)
        session = self._session()
        self._refuse_large(session, feeds, items)
        values: list[Array] = []
        gradients: dict[str, list[Array]] = {}
        for start in range(0, items, subject.step):
            part = slice(start, min(start + subject.step, items))
            value, found = compute_gradients(session, objective, feeds, part, shape, subject.fixed_batch, cancellation)
            values.append(value)
            for tensor, gradient in self._reduced(found, feeds, part, cancellation).items():
                gradients.setdefault(tensor, []).append(gradient)
            subject.refuse_large(sum(array.nbytes for arrays in gradients.values() for array in arrays))
        sources = {source.tensor: source for source in self._all_sources()}
        return gradients_pb2.ComputeGradientResponse(
            values=to_tensor(np.concatenate(values)),
            gradients=[self._message(sources[tensor], np.concatenate(arrays)) for tensor, arrays in gradients.items()],
            tap=subject.tap_name(self._target.tap),
            class_index=self._chosen.class_index,
            class_label=self._chosen.class_label,
            relaxations=subject.relaxations.names,
            provenance=subject.provenance(
                {
                    "verb": "compute-gradient",
                    "objective": [self._chosen.kind, *self._target.key, *self._chosen.details],
                    "with_respect_to": sorted(gradients),
                    "reduction": self._reduction.value,
                },
                request.inputs,
            ),
        )

    def _find_sources(self, names: Sequence[str]) -> list[Source]:
        """The tensors at which the gradient is asked for; none: at all inputs."""
        version, sources = self._subject.version, list[Source]()
        inputs = {spec.name: spec for spec in version.manifest.inputs}
        on_the_way = _tensors(version, self._target.tap) if names else frozenset()
        for number, name in enumerate(names):
            field = f"with_respect_to[{number}]"
            if name in inputs:
                _refuse_integers(version, name, field)
                source = Source.of_input(inputs[name])
            else:
                source = Source.of_tap(self._subject.tap(name, field))
            earlier = next((index for index, other in enumerate(sources) if other.tensor == source.tensor), None)
            if earlier is not None:
                raise invalid(
                    "DUPLICATE_TENSOR",
                    f"with_respect_to[{earlier}] and {field} are one tensor, '{source.display_name}'; name it once.",
                    field=field,
                    tensor=source.tensor,
                )
            if source.tensor not in on_the_way:
                raise invalid(
                    "TAP_INDEPENDENT",
                    f"The objective is not computed from '{source.display_name}'; name an input, or a tap before "
                    f"'{self._target.tap.display_name}'.",
                    field=field,
                    tap=self._target.tap.tensor,
                    tensor=source.tensor,
                )
            require_units(source, self._reduction, field=field)
            sources.append(source)
        return sources

    def _all_sources(self) -> list[Source]:
        return self._sources or [Source.of_input(spec) for spec in self._subject.version.manifest.inputs]

    def _session(self) -> Session:
        subject = self._subject
        key = ("backward", *self._target.key, tuple(source.tensor for source in self._sources), subject.relaxations)
        field = "with_respect_to" if self._sources else f"objective.{self._chosen.kind}"
        with blaming(field):
            return subject.components.derived_session(
                subject.version,
                key,
                lambda: backward_graph(subject.version, self._target, self._sources, subject.relaxations),
            )

    def _reduced(self, gradients: Feeds, feeds: Feeds, items: slice, cancellation: Cancellation) -> Feeds:
        if self._reduction is GradientReduction.NONE:
            return gradients
        sources = [source for source in self._all_sources() if source.tensor in gradients]
        taps = [source.tap for source in sources if source.tap is not None]
        own = {name: value[items] for name, value in feeds.items()}
        values = {**own, **(self._subject.values(taps, own, cancellation) if taps else {})}
        reduced = {}
        for source in sources:
            require_units(source, self._reduction, field="reduction")
            gradient = gradients[source.tensor]
            reduced[source.tensor] = reduce_gradient(gradient, values[source.tensor], source, self._reduction)
        return reduced

    def _refuse_large(self, session: Session, feeds: Feeds, items: int) -> None:
        """Refuses what will be too large, as far as shapes are known before anything runs."""
        size = 0
        for source in self._all_sources():
            if gradient_name(source.tensor) not in {info.name for info in session.outputs}:
                continue
            shape = feeds[source.tensor].shape[1:] if source.tap is None else source.shape[1:]
            if self._reduction is GradientReduction.UNIT_SUMS:
                shape = shape[source.unit_axis - 1 : source.unit_axis]
            if min(shape, default=0) >= 0:
                size += byte_size((items, *shape), np.dtype(source.data_type).itemsize)
        self._subject.refuse_large(size)

    def _message(self, source: Source, gradient: Array) -> gradients_pb2.TensorGradient:
        return gradients_pb2.TensorGradient(
            tensor=source.tensor,
            tap="" if source.tap is None else self._subject.tap_name(source.tap),
            display_name=source.display_name,
            reduction=_REDUCTION_NUMBERS[self._reduction],
            gradient=to_tensor(gradient),
            unit_axis=1 if self._reduction is GradientReduction.UNIT_SUMS else source.unit_axis,
        )


class _ClassAttribution:
    """A call of AttributeClasses.

    Raises:
        OrtoscopeError: Whatever can be refused without running the model.
    """

    def __init__(self, components: Components, request: gradients_pb2.AttributeClassesRequest) -> None:
        self._request = request
        self._subject = _Subject(components, request.model, request.relaxations)
        with blaming("relaxations"):
            self._subject.relaxations.require_linear()
        if request.granularity not in _GRANULARITIES:
            raise invalid(
                "INVALID_GRANULARITY",
                f"There is no granularity {request.granularity}.",
                field="granularity",
                granularity=request.granularity,
            )
        if request.score not in _SCORES:
            raise invalid("INVALID_SCORE", f"There is no score {request.score}.", field="score", score=request.score)
        if request.top_classes < 0:
            raise invalid(
                "INVALID_TOP_CLASSES",
                f"{request.top_classes} classes were asked for; ask for at least 1, or 0 for {DEFAULT_TOP_CLASSES}.",
                field="top_classes",
                top_classes=request.top_classes,
            )
        self._score = _SCORES[request.score]
        self._parts = self._find_parts(request)
        self._classes = self._find_classes()
        probability = self._score == gradients_pb2.AttributeClassesRequest.SCORE_PROBABILITY
        self._target = Target.of_classes(self._classes, probability=probability)

    def respond(self, cancellation: Cancellation) -> gradients_pb2.AttributeClassesResponse:
        """Computes the response."""
        subject, request, tap = self._subject, self._request, self._parts.tap
        items = len(request.inputs)
        feeds = read_inputs(subject.components, subject.version, request.inputs, cancellation)
        shape = subject.item_shape(tap, feeds, cancellation)
        self._refuse_many(items, self._parts.count(shape))
        parts = self._parts.chosen(shape)
        with blaming("tap"):
            session = subject.components.derived_session(
                subject.version,
                ("tangent", *self._target.key, tap.tensor, subject.relaxations),
                lambda: tangent_graph(subject.version, self._target, tap, subject.relaxations),
            )
        found = Attributions.joined(
            [
                attribute_classes(
                    session,
                    parts,
                    self._classes.axis,
                    subject.values([tap], some, cancellation)[tap.tensor],
                    some,
                    subject.step,
                    subject.fixed_batch,
                    cancellation,
                )
                for some in subject.batches(feeds)
            ]
        )
        by_unit = parts.granularity is Granularity.UNITS
        by_site = parts.granularity is Granularity.SITES
        return gradients_pb2.AttributeClassesResponse(
            tap=subject.tap_name(tap),
            display_name=tap.display_name,
            granularity=_GRANULARITY_NUMBERS[parts.granularity],
            attributions=to_tensor(found.attributions),
            units=to_tensor(np.array(parts.units, np.int64)) if by_unit else None,
            sites=to_tensor(np.array(parts.sites, np.int64).reshape(len(parts.sites), -1)) if by_site else None,
            totals=to_tensor(found.totals),
            scores=to_tensor(found.scores),
            score=self._score,
            top_classes=[self._top(scores, totals) for scores, totals in zip(found.scores, found.totals, strict=True)],
            relaxations=subject.relaxations.names,
            provenance=subject.provenance(
                {
                    "verb": "attribute-classes",
                    "tap": tap.tensor,
                    "scores": list(self._target.key),
                    "granularity": parts.granularity.value,
                    "units": list(parts.units),
                    "sites": [list(site) for site in parts.sites],
                },
                request.inputs,
            ),
        )

    def _find_parts(self, request: gradients_pb2.AttributeClassesRequest) -> Parts:
        granularity = _GRANULARITIES[request.granularity]
        for field, own in (("units", Granularity.UNITS), ("sites", Granularity.SITES)):
            if getattr(request, field) and granularity is not own:
                raise invalid(
                    "UNEXPECTED_SELECTION",
                    f"There are {field}, but the granularity is {granularity.value}; leave them out, or ask for "
                    f"GRANULARITY_{own.name}.",
                    field=field,
                    granularity=granularity.value,
                )
        tap = self._subject.tap(request.tap, "tap")
        return Parts(tap, granularity, tuple(request.units), tuple(tuple(site.index) for site in request.sites))

    def _find_classes(self) -> Classes:
        with blaming("model"):
            return find_classes(self._subject.version)

    def _refuse_many(self, items: int, parts: int) -> None:
        subject = self._subject
        limit = subject.components.limits.max_attributions_per_request
        if items * parts > limit:
            raise OrtoscopeError(
                Code.RESOURCE_EXHAUSTED,
                "TOO_MANY_ATTRIBUTIONS",
                f"{items} items times {parts} {self._parts.granularity.value} are more than the limit "
                f"max_attributions_per_request of {limit}; send fewer items, or choose some of the "
                f"{self._parts.granularity.value}.",
                field=self._parts.granularity.value if parts > 1 else "inputs",
                metadata={
                    "items": str(items),
                    "selections": str(parts),
                    "max_attributions_per_request": str(limit),
                },
            )
        scores = self._target.tap
        if min(scores.shape[1:], default=0) >= 0:
            size = np.dtype(scores.data_type).itemsize
            subject.refuse_large(byte_size((items, parts + 2, math.prod(scores.shape[1:])), size))

    def _top(self, scores: Array, totals: Array) -> gradients_pb2.TopClasses:
        order = np.argsort(-scores, kind="stable")[: self._request.top_classes or DEFAULT_TOP_CLASSES]
        return gradients_pb2.TopClasses(
            classes=[
                gradients_pb2.ClassScore(
                    index=index, label=self._classes.label(index), score=scores[index], attribution=totals[index]
                )
                for index in order.tolist()
            ]
        )


def _objective(subject: _Subject, request: gradients_pb2.ComputeGradientRequest) -> _Chosen:
    """Reads the objective of a request; whether it fits into its tensor shows when that one's shape is known."""
    objective = request.objective
    kind = objective.WhichOneof("kind")
    field = f"objective.{kind}"
    match kind:
        case "unit":
            tap = subject.tap(objective.unit.tap, f"{field}.tap")
            site = tuple(objective.unit.site)
            unit = UnitObjective(Target(tap), objective.unit.unit, site, field)
            return _Chosen(unit, kind, [unit.unit, list(site)])
        case "channel_mean":
            tap = subject.tap(objective.channel_mean.tap, f"{field}.tap")
            mean = ChannelMeanObjective(Target(tap), objective.channel_mean.unit, field)
            return _Chosen(mean, kind, [mean.unit])
        case "class_logit" | "class_probability":
            return _class_objective(subject, getattr(objective, kind), kind)
        case "cotangent":
            tap = subject.tap(objective.cotangent.tap, f"{field}.tap")
            numbers = _cotangent(objective.cotangent, tap, len(request.inputs), field)
            digest = hashlib.sha256(numbers.tobytes()).hexdigest()
            return _Chosen(CotangentObjective(Target(tap), numbers, field), kind, [list(numbers.shape), digest])
    raise invalid(
        "NO_OBJECTIVE",
        "There is no objective that this server knows; give a unit, a channel mean, a class or a cotangent.",
        field="objective",
    )


def _class_objective(subject: _Subject, reference: gradients_pb2.ClassReference, kind: str) -> _Chosen:
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
    objective = UnitObjective(target, index, (0,) * len(target.tap.site_axes), field)
    return _Chosen(objective, kind, [index], index, classes.label(index))


def _cotangent(message: gradients_pb2.Objective.Cotangent, tap: Tap, items: int, field: str) -> Array:
    per_item = len(message.tensor.shape) == len(tap.shape)
    expected = (items, *tap.shape[1:]) if per_item else tap.shape[1:]
    return from_tensor(message.tensor, tap.data_type, expected, field=f"{field}.tensor")


def _tensors(version: ModelVersion, tap: Tap) -> frozenset[str]:
    """Names of the inputs of the model and the intermediates that a tap is computed from, with its own."""
    part = trunk(version.load(), [tap.tensor]).graph
    values = (*part.inputs, *(value for node in part for value in node.outputs))
    return frozenset(value.name or "" for value in values)


def _refuse_integers(version: ModelVersion, name: str, field: str) -> None:
    """Refuses a tensor of the model that is not of a floating-point type; says nothing of one that does not exist."""
    graph = version.load().graph
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        if value.name == name and value.dtype is not None and not value.dtype.is_floating_point():
            raise invalid(
                "NOT_DIFFERENTIABLE",
                f"The tensor {name!r} is of type {value.dtype}, which has no gradient; choose a floating-point one.",
                field=field,
                tensor=name,
                type=value.dtype,
            )
