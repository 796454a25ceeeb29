"""Activations of a model on given inputs, as arrays."""

import queue
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ortoscope import blobs
from ortoscope.errors import Internal, InvalidArgument
from ortoscope.inputs import Inputs, items_of, to_item
from ortoscope.rpcs import Rpcs
from ortoscope.tensors import to_array, to_tensor
from ortoscope.v1 import activations_pb2, models_pb2, provenance_pb2

Reduce: TypeAlias = Literal["none", "mean", "max", "site", "top"]
"""What is computed from a tap's map: the whole map, the mean or largest value over all sites, the value at one site, or
the units with the largest values."""

_REDUCTIONS: Mapping[str, activations_pb2.TapSelection.Reduction] = {
    "none": activations_pb2.TapSelection.REDUCTION_NONE,
    "mean": activations_pb2.TapSelection.REDUCTION_MEAN,
    "max": activations_pb2.TapSelection.REDUCTION_MAX,
    "site": activations_pb2.TapSelection.REDUCTION_SITE,
    "top": activations_pb2.TapSelection.REDUCTION_TOP_UNITS,
}
_NAMES = {number: name for name, number in _REDUCTIONS.items()}

_MESSAGE_SHARE = 0.9
"""Share of the message limit that items may fill; the rest is for what stands around them."""

_UNLIMITED_BYTES = 4 * 1024 * 1024
"""What to send at once where the server states no limit: gRPC's own default."""


@dataclass(frozen=True)
class Selection:
    """A tap and what is wanted of it."""

    tap: str
    """Any name of the tap."""

    reduce: Reduce = "none"
    """What is computed from its map."""

    site: Sequence[int] = ()
    """For "site": the index along each of the tap's site axes; negative counts from the end."""

    top: int = 10
    """For "top": how many units."""

    def to_proto(self) -> activations_pb2.TapSelection:
        """The selection as the API takes it.

        Raises:
            InvalidArgument: REDUCTION_UNKNOWN, SITE_MISSING.
        """
        if self.reduce not in _REDUCTIONS:
            raise InvalidArgument(
                f"{self.reduce!r} is no reduction: choose one of {', '.join(get_args(Reduce))}.",
                reason="REDUCTION_UNKNOWN",
                field="reduce",
                metadata={"reduce": str(self.reduce)},
            )
        if self.reduce == "site" and not self.site:
            raise InvalidArgument(
                "The reduction 'site' needs a site: its index along each site axis, such as site=(3, 4).",
                reason="SITE_MISSING",
                field="site",
            )
        return activations_pb2.TapSelection(
            tap=self.tap,
            reduction=_REDUCTIONS[self.reduce],
            site=[int(index) for index in self.site] if self.reduce == "site" else [],
            top_units=self.top if self.reduce == "top" else 0,
        )


@dataclass(frozen=True, eq=False)
class TapActivations:
    """The activations of one tap; `numpy.asarray` of it is `values`."""

    tap: str
    """Resource name of the tap."""

    display_name: str
    """The name of the tap to show people."""

    reduce: Reduce
    """The reduction that was applied."""

    values: npt.NDArray[Any]
    """The values; the first axis runs over the inputs. (inputs, units) for "mean", "max" and "site", (inputs, top) for
    "top", descending; the tap's own layout for "none"."""

    units: npt.NDArray[np.int64] | None
    """For "top": the unit of each value, of the shape of `values`."""

    sites: npt.NDArray[np.int64] | None
    """For "max" and "top" on a tap with sites: the site of each value, (inputs, units, site axes)."""

    unit_axis: int
    """The axis of `values` that runs over the units."""

    @classmethod
    def from_proto(cls, proto: activations_pb2.TapActivations) -> "TapActivations":
        """Reads the server's message."""
        return cls(
            tap=proto.tap,
            display_name=proto.display_name,
            reduce=_reduce_name(proto.reduction),
            values=to_array(proto.values),
            units=to_array(proto.units) if proto.HasField("units") else None,
            sites=to_array(proto.sites) if proto.HasField("sites") else None,
            unit_axis=proto.unit_axis,
        )

    def to_proto(self) -> activations_pb2.TapActivations:
        """The activations as the API's message."""
        return activations_pb2.TapActivations(
            tap=self.tap,
            display_name=self.display_name,
            reduction=_REDUCTIONS[self.reduce],
            values=to_tensor(self.values),
            units=None if self.units is None else to_tensor(self.units),
            sites=None if self.sites is None else to_tensor(self.sites),
            unit_axis=self.unit_axis,
        )

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"<TapActivations {self.display_name} ({self.reduce}): {self.values.shape} {self.values.dtype}>"


class Activations(Mapping[str, TapActivations]):
    """The activations of each tap, by the name that it was asked for with.

    Attributes:
        provenance: What they were computed from.
    """

    def __init__(self, taps: Mapping[str, TapActivations], provenance: provenance_pb2.Provenance) -> None:
        self._taps = dict(taps)
        self.provenance = provenance

    def __getitem__(self, tap: str) -> TapActivations:
        return self._taps[tap]

    def __iter__(self) -> Iterator[str]:
        return iter(self._taps)

    def __len__(self) -> int:
        return len(self._taps)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays by name, as `numpy.savez` takes them: `TAP`, and `TAP.units`, `TAP.sites` where there are any."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, tap in self._taps.items():
            arrays[name] = tap.values
            if tap.units is not None:
                arrays[f"{name}.units"] = tap.units
            if tap.sites is not None:
                arrays[f"{name}.sites"] = tap.sites
        return arrays

    def to_proto(self) -> activations_pb2.ActivateResponse:
        """The activations as the response that would hold them all."""
        return activations_pb2.ActivateResponse(
            taps=[tap.to_proto() for tap in self._taps.values()], provenance=self.provenance
        )

    def __repr__(self) -> str:
        return f"<Activations {', '.join(map(repr, self._taps.values()))}>"


def activate(
    rpcs: Rpcs, model: models_pb2.ModelVersion, inputs: Inputs, selections: Sequence[Selection]
) -> Activations:
    """Computes activations, in as many requests as the server's limits call for.

    Args:
        rpcs: The calls.
        model: The model version.
        inputs: One item or many.
        selections: The taps and what is wanted of each.

    Raises:
        OrtoscopeError: As Activations.Activate, and as `to_item`.
    """
    taps = [selection.to_proto() for selection in selections]
    responses = [
        rpcs.activate(activations_pb2.ActivateRequest(model=model.name, taps=taps, inputs=batch))
        for batch in batches(rpcs, model, inputs, rpcs.limits.max_items_per_request or 1)
    ]
    if not responses:  # the server says best what is wrong with no inputs
        responses = [rpcs.activate(activations_pb2.ActivateRequest(model=model.name, taps=taps))]
    return _joined([_read(response.taps, selections, response.provenance) for response in responses])


def stream(
    rpcs: Rpcs,
    model: models_pb2.ModelVersion,
    inputs: Inputs,
    selections: Sequence[Selection],
    *,
    batch_size: int,
    window: int,
) -> Iterator[Activations]:
    """Computes activations of any number of items, in order, in bounded memory.

    Items are taken from `inputs` only as answers come back: at most `window` batches are on their way.

    Args:
        rpcs: The calls.
        model: The model version.
        inputs: The items.
        selections: The taps and what is wanted of each.
        batch_size: Most items that are computed and answered together.
        window: Most batches sent and not yet answered.

    Yields:
        The activations of each batch.

    Raises:
        OrtoscopeError: As Activations.StreamActivations, and as `to_item`.
    """
    requests: queue.SimpleQueue[activations_pb2.StreamActivationsRequest | None] = queue.SimpleQueue()
    config = activations_pb2.StreamActivationsRequest.Config(
        model=model.name, taps=[selection.to_proto() for selection in selections]
    )
    requests.put(activations_pb2.StreamActivationsRequest(config=config))
    answers = rpcs.stream_activations(iter(requests.get, None))
    provenance = provenance_pb2.Provenance()

    def next_answer() -> Activations:
        nonlocal provenance
        answer = next(answers, None)
        if answer is None:
            raise Internal("The server ended the stream before it had answered everything.", reason="STREAM_CUT_SHORT")
        if answer.HasField("provenance"):
            provenance = answer.provenance
        return _read(answer.taps, selections, provenance)

    limit = rpcs.limits.max_items_per_request or batch_size
    unanswered = 0
    try:
        for number, batch in enumerate(batches(rpcs, model, inputs, min(batch_size, limit))):
            message = activations_pb2.StreamActivationsRequest.Batch(inputs=batch, tag=str(number))
            requests.put(activations_pb2.StreamActivationsRequest(batch=message))
            unanswered += 1
            if unanswered >= window:
                yield next_answer()
                unanswered -= 1
        requests.put(None)
        for _ in range(unanswered):
            yield next_answer()
    finally:
        requests.put(None)
        answers.close()


def batches(
    rpcs: Rpcs,
    model: models_pb2.ModelVersion,
    inputs: Inputs,
    size: int,
    *,
    request_bytes: int = 0,
    item_bytes: int = 0,
) -> Iterator[list[activations_pb2.ActivationInput]]:
    """Yields batches of items that fit into one message; a picture too large for that goes as a blob.

    Args:
        rpcs: The calls.
        model: The model version.
        inputs: One item or many.
        size: Most items of a batch.
        request_bytes: What a request holds besides its items.
        item_bytes: What each item brings along elsewhere in the request.

    Raises:
        OrtoscopeError: As `to_item`, and as Blobs.WriteBlob.
    """
    room = int((rpcs.limits.max_message_bytes or _UNLIMITED_BYTES) * _MESSAGE_SHARE) - request_bytes
    batch: list[activations_pb2.ActivationInput] = []
    held = 0
    for number, value in enumerate(items_of(inputs, model)):
        item = to_item(value, model, field=f"inputs[{number}]")
        if item.ByteSize() > room and item.WhichOneof("content") == "image":
            item = activations_pb2.ActivationInput(blob=blobs.upload(rpcs, item.image))
        needed = item.ByteSize() + item_bytes
        if batch and (len(batch) == size or held + needed > room):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += needed
    if batch:
        yield batch


def _read(
    taps: Iterable[activations_pb2.TapActivations],
    selections: Sequence[Selection],
    provenance: provenance_pb2.Provenance,
) -> Activations:
    read = (TapActivations.from_proto(tap) for tap in taps)
    return Activations({selection.tap: tap for selection, tap in zip(selections, read, strict=True)}, provenance)


def _joined(parts: Sequence[Activations]) -> Activations:
    if len(parts) == 1:
        return parts[0]

    def join(arrays: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
        present = [array for array in arrays if array is not None]
        return np.concatenate(present) if present else None

    taps = {}
    for name, first in parts[0].items():
        values = join([part[name].values for part in parts])
        assert values is not None
        taps[name] = replace(
            first,
            values=values,
            units=join([part[name].units for part in parts]),
            sites=join([part[name].sites for part in parts]),
        )
    return Activations(taps, parts[0].provenance)


def _reduce_name(reduction: activations_pb2.TapSelection.Reduction) -> Reduce:
    name = _NAMES.get(reduction, "none")
    result: Reduce = name  # type: ignore[assignment] # the table's keys are those of Reduce
    return result
