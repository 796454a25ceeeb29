"""Tests of patches: what pasting a picture over others does to their classes, beside controls of noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ortoscope.activations import batches
from ortoscope.errors import InvalidArgument
from ortoscope.inputs import Input, Inputs
from ortoscope.objectives import class_reference
from ortoscope.rpcs import Rpcs
from ortoscope.tables import Column, Table
from ortoscope.v1 import gradients_pb2, models_pb2, provenance_pb2, visualization_pb2

Place: TypeAlias = Literal["top_left", "top_right", "bottom_left", "bottom_right", "centre"]
"""Where a patch is pasted."""

PLACES: Mapping[str, int] = {
    name.removeprefix("PLACE_").lower(): number
    for name, number in visualization_pb2.TestPatchRequest.Place.items()
    if number
}
"""The places by name."""


@dataclass(frozen=True)
class PatchTrial:
    """What a patch of one size at one place does."""

    size: float
    """Its width as a share of the picture's shorter side."""

    place: str
    """Where it is."""

    pictures: int
    """Pictures that were of another class (for a target: not of the target) without it."""

    flips: int
    """Of these, those whose class it changed: for a target to the target, else to any other."""

    control_flip_rate: float
    """Of all pairs of these pictures and a control of noise, the share whose class the control changed likewise."""

    mean_probability: float
    """The mean probability of the target with the patch; without a target, of the class that the picture had."""

    control_mean_probability: float
    """The same with the controls."""

    top: tuple[gradients_pb2.ClassScore, ...]
    """For each input, the class with the patch."""

    @property
    def flip_rate(self) -> float:
        """Share of the pictures whose class it changed; 0 if there is none."""
        return self.flips / self.pictures if self.pictures else 0.0


class PatchTest(Table[PatchTrial]):
    """What a patch does, a row for each size and place.

    Attributes:
        proto: The message as the server sent it.
    """

    def __init__(self, proto: visualization_pb2.TestPatchResponse) -> None:
        self.proto = proto
        towards = f" to {_named(proto.target)}" if proto.HasField("target") else ""
        super().__init__(
            (_trial(entry) for entry in proto.trials),
            (
                Column("size", lambda trial: trial.size, numeric=True),
                Column("place", lambda trial: trial.place.replace("_", " ")),
                Column("pictures", lambda trial: trial.pictures, numeric=True),
                Column("flips", lambda trial: trial.flips, numeric=True),
                Column("flip rate", lambda trial: trial.flip_rate, numeric=True),
                Column("with noise", lambda trial: trial.control_flip_rate, numeric=True),
                Column("probability", lambda trial: trial.mean_probability, numeric=True),
                Column("noise's", lambda trial: trial.control_mean_probability, numeric=True),
            ),
            title=f"{len(proto.clean)} pictures, and how many a patch changes{towards}",
        )

    @property
    def clean(self) -> tuple[gradients_pb2.ClassScore, ...]:
        """The class of each input without any patch."""
        return tuple(self.proto.clean)

    @property
    def target(self) -> gradients_pb2.ClassScore | None:
        """The class that was aimed at, if any."""
        return self.proto.target if self.proto.HasField("target") else None

    @property
    def provenance(self) -> provenance_pb2.Provenance:
        """What it was computed from."""
        return self.proto.provenance


def run_patch_test(
    rpcs: Rpcs,
    model: models_pb2.ModelVersion,
    patch: Input,
    inputs: Inputs,
    *,
    sizes: Sequence[float] = (),
    places: Sequence[str] = (),
    target: int | str | None = None,
    controls: int = 0,
    seed: int = 0,
) -> PatchTest:
    """Pastes a patch over pictures and counts whose class changes; see `Model.test_patch`.

    Raises:
        OrtoscopeError: As Visualization.TestPatch, and as `to_item`; PLACE_UNKNOWN, TOO_MANY_PICTURES.
        OSError: A file cannot be read.
    """
    if unknown := [place for place in places if place not in PLACES]:
        raise InvalidArgument(
            f"{unknown[0]!r} is no place: choose from {', '.join(PLACES)}.",
            reason="PLACE_UNKNOWN",
            field="places",
            metadata={"place": str(unknown[0])},
        )
    request = visualization_pb2.TestPatchRequest(
        model=model.name,
        sizes=sizes,
        places=[PLACES[place] for place in places],  # type: ignore[misc] # numbers stand for enums
        target=None if target is None else class_reference(target),
        controls=controls,
        seed=seed,
    )
    ((pasted,),) = batches(rpcs, model, [patch], 1)
    request.patch.CopyFrom(pasted)
    # All pictures are one request, since flips are counted over all of them.
    parts = list(batches(rpcs, model, inputs, _MOST_PICTURES, request_bytes=request.ByteSize()))
    if len(parts) > 1:
        raise InvalidArgument(
            f"{sum(map(len, parts))} pictures do not fit into one request; upload them first, or name images of a "
            "dataset (datasets/D/images/3).",
            reason="TOO_MANY_PICTURES",
            field="inputs",
        )
    for part in parts:
        request.inputs.extend(part)
    return PatchTest(rpcs.test_patch(request))


_MOST_PICTURES = 100_000
"""More than a server takes: it says best what its limit is."""


def _trial(proto: visualization_pb2.PatchTrial) -> PatchTrial:
    names = {number: name for name, number in PLACES.items()}
    return PatchTrial(
        size=proto.size,
        place=names.get(proto.place, str(proto.place)),
        pictures=proto.pictures,
        flips=proto.flips,
        control_flip_rate=proto.control_flip_rate,
        mean_probability=proto.mean_probability,
        control_mean_probability=proto.control_mean_probability,
        top=tuple(proto.top),
    )


def _named(score: gradients_pb2.ClassScore) -> str:
    return f"{score.index} ({score.label})" if score.label else str(score.index)
