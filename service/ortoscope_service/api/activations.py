"""The service `ortoscope.v1.Activations`: activations on given inputs. Examples are in `api.examples`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from ortoscope.v1 import activations_pb2
from ortoscope.v1.provenance_pb2 import Provenance

from ortoscope_service.analysis.activations import Reduced, Reduction, Selection, reduce_activation, run_taps
from ortoscope_service.api import resources
from ortoscope_service.api.activation_inputs import has_pictures, read_inputs
from ortoscope_service.api.calls import read_messages
from ortoscope_service.api.components import Components, version_name
from ortoscope_service.api.examples import ExamplesServicer
from ortoscope_service.api.interceptor import response_too_large
from ortoscope_service.api.provenance import provenance_message
from ortoscope_service.api.tensors import byte_size, to_tensor
from ortoscope_service.errors import invalid
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.jobs.provenance import Computation, execution_spec, spec_digest
from ortoscope_service.runtime.cancellation import Cancellation

DEFAULT_TOP_UNITS = 10
"""Units of REDUCTION_TOP_UNITS if the request leaves it open."""

_INDEX_BYTES = 8
_REDUCTIONS = {
    activations_pb2.TapSelection.REDUCTION_UNSPECIFIED: Reduction.NONE,
    activations_pb2.TapSelection.REDUCTION_NONE: Reduction.NONE,
    activations_pb2.TapSelection.REDUCTION_MEAN: Reduction.MEAN,
    activations_pb2.TapSelection.REDUCTION_MAX: Reduction.MAX,
    activations_pb2.TapSelection.REDUCTION_SITE: Reduction.SITE,
    activations_pb2.TapSelection.REDUCTION_TOP_UNITS: Reduction.TOP_UNITS,
}
_REDUCTION_NUMBERS = {reduction: number for number, reduction in _REDUCTIONS.items()}


class ActivationsServicer(ExamplesServicer):
    """Computes activations, and finds examples."""

    def Activate(
        self, request: activations_pb2.ActivateRequest, context: grpc.ServicerContext
    ) -> activations_pb2.ActivateResponse:
        """Computes the activations of one or more taps on given inputs."""
        began = time.time()
        cancellation = self._components.cancellation(context)
        activator = Activator(self._components, request.model, request.taps)
        taps = activator.compute(request.inputs, cancellation)
        return activations_pb2.ActivateResponse(taps=taps, provenance=activator.provenance(request.inputs, began))

    def StreamActivations(
        self,
        request_iterator: Iterator[activations_pb2.StreamActivationsRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[activations_pb2.StreamActivationsResponse]:
        """Computes activations for any number of inputs, in order, in bounded memory."""
        cancellation = self._components.cancellation(context)
        activator: Activator | None = None
        answered = 0
        for message in read_messages(request_iterator, cancellation):
            expected = "config" if activator is None else "batch"
            if message.WhichOneof("message") != expected:
                raise invalid(
                    "UNEXPECTED_MESSAGE",
                    f"The message holds {message.WhichOneof('message') or 'nothing'} where {expected} is due: the "
                    "first message holds config, every further one batch.",
                    field=expected,
                )
            if activator is None:
                config = message.config
                activator = Activator(self._components, config.model, config.taps, field="config")
                continue
            began = time.time()
            batch = message.batch
            taps = activator.compute(batch.inputs, cancellation, field="batch.inputs")
            provenance = None if answered else activator.provenance(batch.inputs, began)
            answered += 1
            yield activations_pb2.StreamActivationsResponse(tag=batch.tag, taps=taps, provenance=provenance)


@dataclass(frozen=True)
class _Part:
    """What a selection gave on one run of the model."""

    reduced: Reduced
    """The values."""

    size: int
    """Bytes of the arrays."""


class Activator:
    """The taps of a model that a caller wants, and what of them.

    Args:
        components: Models, datasets, sessions, limits.
        model: Resource name of the model version.
        taps: The taps and what is wanted of each.
        field: The field that holds both; empty for the request itself.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: INVALID_NAME, NO_TAPS, DUPLICATE_TAP, INVALID_REDUCTION, INVALID_TOP_UNITS;
            NOT_FOUND: unknown model, version or tap.
    """

    def __init__(
        self,
        components: Components,
        model: str,
        taps: Sequence[activations_pb2.TapSelection],
        *,
        field: str = "",
    ) -> None:
        prefix = f"{field}." if field else ""
        self._components = components
        self._execution = components.execution
        self._field = f"{prefix}taps"
        name = resources.parse_model_version(model, field=f"{prefix}model")
        self._version = components.model_version(name, field=f"{prefix}model")
        if not taps:
            raise invalid("NO_TAPS", "There are no taps; name at least one.", field=self._field)
        self._selections = [self._selection(tap, f"{self._field}[{number}]") for number, tap in enumerate(taps)]
        self._refuse_duplicates()

    def compute(
        self,
        inputs: Sequence[activations_pb2.ActivationInput],
        cancellation: Cancellation,
        *,
        field: str = "inputs",
    ) -> list[activations_pb2.TapActivations]:
        """The activations on these inputs, in the order of the taps.

        Raises:
            OrtoscopeError: As `read_inputs` raises; INVALID_SITE; RESOURCE_EXHAUSTED, RESPONSE_TOO_LARGE.
        """
        self._refuse_large(sum(self._expected_bytes(selection, len(inputs)) for selection in self._selections))
        feeds = read_inputs(self._components, self._version, inputs, cancellation, field=field)
        tensors = [selection.tap.tensor for selection in self._selections]
        session = self._components.session(self._version, tensors, cancellation)
        needed = {info.name: feeds[info.name] for info in session.inputs}
        fixed_batch = self._version.manifest.fixed_batch
        self._execution = self._components.execution.by(session)
        step = max(self._execution.batch_size, fixed_batch)
        parts: list[list[_Part]] = [[] for _ in self._selections]
        for start in range(0, len(inputs), step):
            outputs = run_taps(
                session,
                {name: value[start : start + step] for name, value in needed.items()},
                fixed_batch,
                cancellation,
            )
            for number, selection in enumerate(self._selections):
                parts[number].append(self._reduced(outputs[selection.tap.tensor], selection, number))
            self._refuse_large(sum(part.size for column in parts for part in column))
        return [self._message(selection, column) for selection, column in zip(self._selections, parts, strict=True)]

    def provenance(self, inputs: Sequence[activations_pb2.ActivationInput], start_time: float) -> Provenance:
        """What the activations on `inputs` were computed from, ending now."""
        execution = self._execution
        specification = {
            "verb": "activate",
            "model": self._version.manifest.digest,
            "taps": [
                [
                    s.tap.tensor,
                    s.reduction.value,
                    list(s.site),
                    s.top_units if s.reduction is Reduction.TOP_UNITS else 0,
                ]
                for s in self._selections
            ],
            "execution": execution_spec(execution),
        }
        preprocessing = self._version.image_input.preprocessing if has_pictures(inputs) else None
        return provenance_message(
            self._version,
            Computation(
                execution=execution,
                spec_digest=spec_digest(specification),
                preprocessing=preprocessing.describe() if preprocessing is not None else "",
                items=len(inputs),
                start_time=start_time,
                end_time=time.time(),
            ),
        )

    def _selection(self, tap: activations_pb2.TapSelection, field: str) -> Selection:
        if tap.reduction not in _REDUCTIONS:
            raise invalid(
                "INVALID_REDUCTION",
                f"There is no reduction {tap.reduction}.",
                field=f"{field}.reduction",
                reduction=tap.reduction,
            )
        if tap.top_units < 0:
            raise invalid(
                "INVALID_TOP_UNITS",
                f"{tap.top_units} units were asked for; ask for at least 1, or 0 for {DEFAULT_TOP_UNITS}.",
                field=f"{field}.top_units",
                top_units=tap.top_units,
            )
        resolved = resolve_tap(self._version.manifest.taps, tap.tap, field=f"{field}.tap")
        return Selection(resolved, _REDUCTIONS[tap.reduction], tuple(tap.site), tap.top_units or DEFAULT_TOP_UNITS)

    def _refuse_duplicates(self) -> None:
        seen: dict[str, int] = {}
        for number, selection in enumerate(self._selections):
            earlier = seen.setdefault(selection.tap.tensor, number)
            if earlier != number:
                raise invalid(
                    "DUPLICATE_TAP",
                    f"taps[{earlier}] and taps[{number}] are one tap, '{selection.tap.display_name}'; name it once",
                    field=f"{self._field}[{number}].tap",
                    tap=selection.tap.tensor,
                )

    def _reduced(self, activation: NDArray[Any], selection: Selection, number: int) -> _Part:
        reduced = reduce_activation(activation, selection, field=f"{self._field}[{number}]")
        arrays = (reduced.values, reduced.units, reduced.sites)
        return _Part(reduced, sum(array.nbytes for array in arrays if array is not None))

    def _expected_bytes(self, selection: Selection, items: int) -> int:
        """Bytes of the response for a tap, as far as its shape is known before it is run."""
        tap = selection.tap
        item_size = np.dtype(tap.data_type).itemsize
        site_size = _INDEX_BYTES * len(tap.site_axes)
        match selection.reduction:
            case Reduction.NONE:
                return 0 if min(tap.shape[1:], default=0) < 0 else byte_size((items, *tap.shape[1:]), item_size)
            case Reduction.MAX:
                return items * tap.unit_count * (item_size + site_size)
            case Reduction.TOP_UNITS:
                return items * min(selection.top_units, tap.unit_count) * (item_size + _INDEX_BYTES + site_size)
            case _:
                return items * tap.unit_count * item_size

    def _refuse_large(self, size: int) -> None:
        limit = self._components.limits.max_message_bytes
        if size > limit:
            raise response_too_large(size, limit)

    def _message(self, selection: Selection, parts: Sequence[_Part]) -> activations_pb2.TapActivations:
        reduced = [part.reduced for part in parts]
        units = [part.units for part in reduced if part.units is not None]
        sites = [part.sites for part in reduced if part.sites is not None]
        name = resources.TapName(version_name(self._version), selection.tap.tensor)
        return activations_pb2.TapActivations(
            tap=str(name),
            display_name=selection.tap.display_name,
            reduction=_REDUCTION_NUMBERS[selection.reduction],
            values=to_tensor(np.concatenate([part.values for part in reduced])),
            units=to_tensor(np.concatenate(units)) if units else None,
            sites=to_tensor(np.concatenate(sites)) if sites else None,
            unit_axis=reduced[0].unit_axis,
        )
