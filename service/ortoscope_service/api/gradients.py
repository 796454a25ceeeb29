"""The service `ortoscope.v1.Gradients`: gradients of objectives, and attribution of class scores."""

from collections.abc import Sequence

import grpc
import numpy as np
from ortoscope.v1 import gradients_pb2, gradients_pb2_grpc

from ortoscope_service.analysis.gradients import (
    GradientReduction,
    Source,
    backward_graph,
    compute_gradients,
    kept_graph,
    reduce_gradient,
    require_units,
)
from ortoscope_service.api.activation_inputs import read_inputs
from ortoscope_service.api.class_attribution import ClassAttribution
from ortoscope_service.api.components import Components, blaming
from ortoscope_service.api.gradient_subject import Array, Feeds, Subject, refuse_integers
from ortoscope_service.api.objectives import read_objective
from ortoscope_service.api.tensors import byte_size, to_tensor
from ortoscope_service.errors import invalid
from ortoscope_service.graph.backward import gradient_name
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.remote_sessions import RemoteSession

_REDUCTIONS = {
    gradients_pb2.ComputeGradientRequest.REDUCTION_UNSPECIFIED: GradientReduction.NONE,
    gradients_pb2.ComputeGradientRequest.REDUCTION_NONE: GradientReduction.NONE,
    gradients_pb2.ComputeGradientRequest.REDUCTION_TIMES_VALUE: GradientReduction.TIMES_VALUE,
    gradients_pb2.ComputeGradientRequest.REDUCTION_UNIT_SUMS: GradientReduction.UNIT_SUMS,
}
_REDUCTION_NUMBERS = {reduction: number for number, reduction in _REDUCTIONS.items()}


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
        return ClassAttribution(self._components, request).respond(self._components.cancellation(context))


class _Differentiation:
    """A call of ComputeGradient.

    Raises:
        OrtoscopeError: Whatever can be refused without running the model.
    """

    def __init__(self, components: Components, request: gradients_pb2.ComputeGradientRequest) -> None:
        self._request = request
        self._subject = Subject(components, request.model, request.relaxations)
        if request.reduction not in _REDUCTIONS:
            raise invalid(
                "INVALID_REDUCTION",
                f"There is no reduction {request.reduction}; choose one of ComputeGradientRequest.Reduction.",
                field="reduction",
                reduction=request.reduction,
            )
        self._reduction = _REDUCTIONS[request.reduction]
        self._chosen = read_objective(self._subject, request.objective, len(request.inputs))
        self._target = self._chosen.objective.target
        self._sources = self._find_sources(request.with_respect_to)

    def respond(self, cancellation: Cancellation) -> gradients_pb2.ComputeGradientResponse:
        """Computes the response."""
        subject, objective, request = self._subject, self._chosen.objective, self._request
        feeds = read_inputs(subject.components, subject.version, request.inputs, cancellation)
        items = len(request.inputs)
        shape = subject.item_shape(self._target.tap, feeds, cancellation)
        objective.check(shape)
        session = self._session(cancellation)
        sources = self._sources_of(session)
        self._refuse_large(sources, feeds, items)
        values: list[Array] = []
        gradients: dict[str, list[Array]] = {}
        for start in range(0, items, subject.step):
            part = slice(start, min(start + subject.step, items))
            value, found = compute_gradients(session, objective, feeds, part, shape, subject.fixed_batch, cancellation)
            values.append(value)
            for tensor, gradient in self._reduced(found, sources, feeds, part, cancellation).items():
                gradients.setdefault(tensor, []).append(gradient)
            subject.refuse_large(sum(array.nbytes for arrays in gradients.values() for array in arrays))
        return gradients_pb2.ComputeGradientResponse(
            values=to_tensor(np.concatenate(values)),
            gradients=[self._message(source, np.concatenate(gradients[source.tensor])) for source in sources],
            tap=subject.tap_name(self._target.tap),
            class_index=self._chosen.class_index,
            class_label=self._chosen.class_label,
            relaxations=subject.relaxations.names,
            provenance=subject.provenance(
                {
                    "verb": "compute-gradient",
                    "objective": [self._chosen.kind, *self._target.key, *self._chosen.details],
                    "with_respect_to": [source.tensor for source in sources],
                    "backward_graph": self._kept_digest,
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
                refuse_integers(version, name, field)
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
            sources.append(source)
        return sources

    @property
    def _kept_digest(self) -> str:
        """Digest of the backward graph that the model package holds for this; empty if one is built."""
        subject = self._subject
        kept = kept_graph(subject.version, self._target, self._sources, subject.relaxations)
        return kept.digest if kept is not None else ""

    def _session(self, cancellation: Cancellation) -> RemoteSession:
        subject = self._subject
        tensors = tuple(source.tensor for source in self._sources)
        key = ("backward", *self._target.key, tensors, subject.relaxations, self._kept_digest)
        field = "with_respect_to" if self._sources else f"objective.{self._chosen.kind}"
        with blaming(field):
            return subject.session(
                key,
                lambda: backward_graph(subject.version, self._target, self._sources, subject.relaxations),
                cancellation,
            )

    def _sources_of(self, session: RemoteSession) -> list[Source]:
        """The tensors at which a session gives gradients, in the order of the request or of the model's inputs."""
        given = {info.name for info in session.outputs}
        inputs = (Source.of_input(spec) for spec in self._subject.version.manifest.inputs)
        sources = [source for source in self._sources or inputs if gradient_name(source.tensor) in given]
        for source in sources:
            require_units(source, self._reduction, field="reduction")
        return sources

    def _refuse_large(self, sources: Sequence[Source], feeds: Feeds, items: int) -> None:
        """Refuses what will be too large, as far as shapes are known before anything runs."""
        size = 0
        for source in sources:
            shape = feeds[source.tensor].shape[1:] if source.tap is None else source.shape[1:]
            if self._reduction is GradientReduction.UNIT_SUMS:
                shape = shape[source.unit_axis - 1 : source.unit_axis]
            if min(shape, default=0) >= 0:
                size += byte_size((items, *shape), np.dtype(source.data_type).itemsize)
        self._subject.refuse_large(size)

    def _reduced(
        self, gradients: Feeds, sources: Sequence[Source], feeds: Feeds, items: slice, cancellation: Cancellation
    ) -> Feeds:
        if self._reduction is GradientReduction.NONE:
            return gradients
        values = {name: value[items] for name, value in feeds.items()}
        taps = [source.tap for source in sources if source.tap is not None]
        if taps:
            values |= self._subject.values(taps, values, cancellation)
        return {
            source.tensor: reduce_gradient(gradients[source.tensor], values[source.tensor], source, self._reduction)
            for source in sources
        }

    def _message(self, source: Source, gradient: Array) -> gradients_pb2.TensorGradient:
        return gradients_pb2.TensorGradient(
            tensor=source.tensor,
            tap="" if source.tap is None else self._subject.tap_name(source.tap),
            display_name=source.display_name,
            reduction=_REDUCTION_NUMBERS[self._reduction],
            gradient=to_tensor(gradient),
            unit_axis=1 if self._reduction is GradientReduction.UNIT_SUMS else source.unit_axis,
        )


def _tensors(version: ModelVersion, tap: Tap) -> frozenset[str]:
    """Names of the inputs of the model and the intermediates that a tap is computed from, with its own."""
    part = trunk(version.load(), [tap.tensor]).graph
    values = (*part.inputs, *(value for node in part for value in node.outputs))
    return frozenset(value.name or "" for value in values)
