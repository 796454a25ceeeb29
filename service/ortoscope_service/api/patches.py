"""The part of the service `ortoscope.v1.Visualization` that pastes patches over pictures."""

from typing import Any

import grpc
from numpy.typing import NDArray
from ortoscope.v1 import gradients_pb2, visualization_pb2, visualization_pb2_grpc
from ortoscope.v1.activations_pb2 import ActivationInput
from PIL import Image

from ortoscope_service.analysis.classes import Classes, find_classes
from ortoscope_service.analysis.patches import (
    CORNERS,
    DEFAULT_CONTROLS,
    DEFAULT_SIZES,
    PatchEffect,
    PatchSpec,
    PatchTrial,
    Place,
    class_probabilities,
    measure_patch,
)
from ortoscope_service.api.activation_inputs import has_pictures, read_inputs, read_picture
from ortoscope_service.api.components import Components, blaming
from ortoscope_service.api.gradient_subject import Subject
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation

_PLACES = {
    visualization_pb2.TestPatchRequest.PLACE_TOP_LEFT: Place.TOP_LEFT,
    visualization_pb2.TestPatchRequest.PLACE_TOP_RIGHT: Place.TOP_RIGHT,
    visualization_pb2.TestPatchRequest.PLACE_BOTTOM_LEFT: Place.BOTTOM_LEFT,
    visualization_pb2.TestPatchRequest.PLACE_BOTTOM_RIGHT: Place.BOTTOM_RIGHT,
    visualization_pb2.TestPatchRequest.PLACE_CENTRE: Place.CENTRE,
}
_PLACE_NUMBERS = {place: number for number, place in _PLACES.items()}


class PatchesServicer(visualization_pb2_grpc.VisualizationServicer):
    """Pastes patches over pictures."""

    def __init__(self, components: Components) -> None:
        self._components = components

    def TestPatch(
        self, request: visualization_pb2.TestPatchRequest, context: grpc.ServicerContext
    ) -> visualization_pb2.TestPatchResponse:
        """Pastes a patch over pictures and counts whose class changes, beside controls of noise."""
        return _PatchTest(self._components, request).respond(self._components.cancellation(context))


class _PatchTest:
    """A call of TestPatch.

    Raises:
        OrtoscopeError: Whatever can be refused without decoding a picture or running the model.
    """

    def __init__(self, components: Components, request: visualization_pb2.TestPatchRequest) -> None:
        self._request = request
        self._subject = Subject(components, request.model, ())
        self._preprocessing = _preprocessing(self._subject.version)
        with blaming("model"):
            self._classes = find_classes(self._subject.version)
        self._spec = PatchSpec(
            sizes=tuple(request.sizes) or DEFAULT_SIZES,
            places=tuple(_place(number, place) for number, place in enumerate(request.places)) or CORNERS,
            target=_target(self._classes, request.target) if request.HasField("target") else None,
            controls=request.controls or DEFAULT_CONTROLS,
            seed=request.seed,
        )

    def respond(self, cancellation: Cancellation) -> visualization_pb2.TestPatchResponse:
        """Computes the response."""
        subject, request = self._subject, self._request
        patch = _patch(subject.components, request.patch)
        (pictures,) = read_inputs(subject.components, subject.version, request.inputs, cancellation).values()
        effect = measure_patch(
            lambda batch: self._classify(batch, cancellation),
            pictures,
            patch,
            self._preprocessing,
            self._spec,
            batch_size=subject.step,
            cancellation=cancellation,
        )
        return self._message(effect)

    def _classify(self, batch: NDArray[Any], cancellation: Cancellation) -> NDArray[Any]:
        tap = self._classes.probabilities or self._classes.logits
        feeds = {self._subject.version.manifest.inputs[0].name: batch}
        return class_probabilities(self._subject.values([tap], feeds, cancellation)[tap.tensor], self._classes)

    def _message(self, effect: PatchEffect) -> visualization_pb2.TestPatchResponse:
        spec, subject, request = self._spec, self._subject, self._request
        target = spec.target
        return visualization_pb2.TestPatchResponse(
            clean=self._scores(effect.clean, effect.clean_probability),
            trials=[self._trial(trial) for trial in effect.trials],
            target=None
            if target is None
            else gradients_pb2.ClassScore(index=target, label=self._classes.label(target)),
            provenance=subject.provenance(
                {
                    "verb": "test-patch",
                    "sizes": list(spec.sizes),
                    "places": [place.value for place in spec.places],
                    "target": target,
                    "controls": spec.controls,
                    "seed": spec.seed,
                },
                request.inputs,
            ),
        )

    def _trial(self, trial: PatchTrial) -> visualization_pb2.PatchTrial:
        return visualization_pb2.PatchTrial(
            size=trial.size,
            place=_PLACE_NUMBERS[trial.place],
            pictures=trial.pictures,
            flips=trial.flips,
            control_flip_rate=trial.control_flip_rate,
            mean_probability=trial.mean_probability,
            control_mean_probability=trial.control_mean_probability,
            top=self._scores(trial.top, trial.top_probability),
        )

    def _scores(self, top: NDArray[Any], probability: NDArray[Any]) -> list[gradients_pb2.ClassScore]:
        return [
            gradients_pb2.ClassScore(index=index, label=self._classes.label(index), score=score)
            for index, score in zip(top.tolist(), probability.tolist(), strict=True)
        ]


def _preprocessing(version: ModelVersion) -> Preprocessing:
    """How pictures become the model's input.

    Raises:
        OrtoscopeError: `MODEL_INPUT_NOT_IMAGE` (FAILED_PRECONDITION).
    """
    inputs = version.manifest.inputs
    preprocessing = inputs[0].preprocessing if len(inputs) == 1 else None
    if preprocessing is None:
        names = ", ".join(f"'{spec.name}'" for spec in inputs)
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "MODEL_INPUT_NOT_IMAGE",
            f"A patch cannot be pasted over what the model takes ({names}), which is not known to be a picture. Choose "
            "a model of pictures, or prepare this one with the range of its pictures.",
            field="model",
            metadata={"inputs": names},
        )
    return preprocessing


def _patch(components: Components, patch: ActivationInput) -> Image.Image:
    """The patch as it is, at its own size.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: `NO_PATCH`, `PATCH_NOT_PICTURE`, what is wrong with the picture; NOT_FOUND.
    """
    kind = patch.WhichOneof("content")
    if kind is None:
        raise invalid("NO_PATCH", "There is no patch; give a picture.", field="patch")
    if not has_pictures([patch]):
        raise invalid(
            "PATCH_NOT_PICTURE",
            "The patch is a tensor; give a picture, which is resized before the model's range is applied.",
            field=f"patch.{kind}",
        )
    return read_picture(components, patch, field=f"patch.{kind}")


def _place(number: int, place: int) -> Place:
    if place not in _PLACES:
        raise invalid(
            "INVALID_PLACE",
            f"There is no place {place}; choose one of TestPatchRequest.Place.",
            field=f"places[{number}]",
            place=place,
        )
    return _PLACES[place]  # type: ignore[index]


def _target(classes: Classes, reference: gradients_pb2.ClassReference) -> int:
    """The class that is aimed at.

    Raises:
        OrtoscopeError: `NO_CLASS`, `INVALID_CLASS`, `AMBIGUOUS_CLASS`; `UNKNOWN_CLASS` (NOT_FOUND).
    """
    match reference.WhichOneof("reference"):
        case "index":
            index = reference.index
        case "label":
            index = classes.find(reference.label, field="target.label")
        case _:
            raise invalid("NO_CLASS", "The class is not named; give its index or its label.", field="target")
    count = classes.logits.unit_count
    if index < 0 or (count and index >= count):
        raise invalid(
            "INVALID_CLASS",
            f"The model has no class {index}; its {count} classes are counted from 0.",
            field="target.index",
            class_index=index,
            classes=count,
        )
    return index
