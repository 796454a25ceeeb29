"""What calls that differentiate work on: a model, items, and shapes that may be known only when it runs."""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from numpy.typing import NDArray
from ortoscope.v1.activations_pb2 import ActivationInput
from ortoscope.v1.provenance_pb2 import Provenance

from ortoscope_service.analysis.activations import run_taps
from ortoscope_service.api import resources
from ortoscope_service.api.activation_inputs import has_pictures
from ortoscope_service.api.components import Components, version_name
from ortoscope_service.api.interceptor import response_too_large
from ortoscope_service.api.provenance import provenance_message
from ortoscope_service.errors import OrtoscopeError, invalid
from ortoscope_service.graph.backward import Relaxations
from ortoscope_service.graph.taps import Tap, resolve_tap
from ortoscope_service.jobs.provenance import Computation, execution_spec, spec_digest
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.remote_sessions import RemoteSession

Array = NDArray[Any]
Feeds = dict[str, Array]


class Subject:
    """The model that is differentiated, and how.

    Args:
        components: Models, sessions, limits.
        model: Resource name of the model version.
        relaxations: Names of the departures from the true gradient.

    Attributes:
        components: As given.
        version: The model.
        relaxations: The departures from the true gradient.
        fixed_batch: The batch size that the model is bound to; 0 if any can be run.
        step: How many items run at once.

    Raises:
        OrtoscopeError: INVALID_NAME; NOT_FOUND; UNKNOWN_RELAXATION, CONFLICTING_RELAXATIONS.
    """

    def __init__(self, components: Components, model: str, relaxations: Sequence[str]) -> None:
        self.components = components
        self.version = components.model_version(resources.parse_model_version(model, field="model"), field="model")
        self.relaxations = Relaxations.parse(relaxations)
        self.fixed_batch = self.version.manifest.fixed_batch
        self.step = max(components.execution.batch_size, self.fixed_batch)
        self._began = time.time()
        self._sessions: list[RemoteSession] = []

    def tap(self, name: str, field: str) -> Tap:
        """The tap of a name.

        Raises:
            OrtoscopeError: UNKNOWN_TAP; NOT_DIFFERENTIABLE for a tensor of another type than floating point.
        """
        try:
            return resolve_tap(self.version.manifest.taps, name, field=field)
        except OrtoscopeError:
            refuse_integers(self.version, name, field)
            raise

    def tap_name(self, tap: Tap) -> str:
        """The resource name of a tap."""
        return str(resources.TapName(version_name(self.version), tap.tensor))

    def batches(self, feeds: Feeds) -> Iterator[Feeds]:
        """The items, as many at a time as run at once."""
        items = len(next(iter(feeds.values())))
        for start in range(0, items, self.step):
            yield {name: value[start : start + self.step] for name, value in feeds.items()}

    def session(self, key: Hashable, make: Callable[[], bytes], cancellation: Cancellation) -> RemoteSession:
        """A session of a graph that is made from the model, as `Components.derived_session` gives it."""
        session = self.components.derived_session(self.version, key, make, cancellation)
        self._sessions.append(session)
        return session

    def values(self, taps: Sequence[Tap], feeds: Feeds, cancellation: Cancellation) -> Feeds:
        """The values of taps on as many items as run at once."""
        session = self.components.session(self.version, [tap.tensor for tap in taps], cancellation)
        self._sessions.append(session)
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
        execution = self.components.execution.by(*self._sessions)
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
                start_time=self._began,
                end_time=time.time(),
            ),
        )


def refuse_integers(version: ModelVersion, name: str, field: str) -> None:
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
