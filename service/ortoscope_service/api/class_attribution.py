"""The call `Gradients.AttributeClasses`."""

import math

import numpy as np
from ortoscope.v1 import gradients_pb2

from ortoscope_service.analysis.attribution import (
    Attributions,
    Granularity,
    Parts,
    attribute_classes,
    tangent_graph,
)
from ortoscope_service.analysis.classes import Classes, find_classes
from ortoscope_service.analysis.gradients import Target
from ortoscope_service.api.activation_inputs import read_inputs
from ortoscope_service.api.components import Components, blaming
from ortoscope_service.api.gradient_subject import Array, Subject
from ortoscope_service.api.tensors import byte_size, to_tensor
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.runtime.cancellation import Cancellation

DEFAULT_TOP_CLASSES = 5
"""Classes told for each item if the request leaves it open."""

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


class ClassAttribution:
    """A call of AttributeClasses.

    Raises:
        OrtoscopeError: Whatever can be refused without running the model.
    """

    def __init__(self, components: Components, request: gradients_pb2.AttributeClassesRequest) -> None:
        self._request = request
        self._subject = Subject(components, request.model, request.relaxations)
        with blaming("relaxations"):
            self._subject.relaxations.require_linear()
        if request.granularity not in _GRANULARITIES:
            raise invalid(
                "INVALID_GRANULARITY",
                f"There is no granularity {request.granularity}; choose one of AttributeClassesRequest.Granularity.",
                field="granularity",
                granularity=request.granularity,
            )
        if request.score not in _SCORES:
            raise invalid(
                "INVALID_SCORE",
                f"There is no score {request.score}; choose one of AttributeClassesRequest.Score.",
                field="score",
                score=request.score,
            )
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
            session = subject.session(
                ("tangent", *self._target.key, tap.tensor, subject.relaxations),
                lambda: tangent_graph(subject.version, self._target, tap, subject.relaxations),
                cancellation,
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
