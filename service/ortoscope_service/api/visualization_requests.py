"""From a Visualize request to what is climbed, everything checked that can be without running a model."""

import hashlib
import json
import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortoscope.v1.activations_pb2 import ActivationInput
from ortoscope.v1.visualization_pb2 import Comparison as ComparisonMessage
from ortoscope.v1.visualization_pb2 import VisualizationRecipe, VisualizeRequest

from ortoscope_service.analysis.visualization.objective_json import objective_to_data
from ortoscope_service.analysis.visualization.parameterizations.choices import Generator
from ortoscope_service.analysis.visualization.png import canonical_json
from ortoscope_service.analysis.visualization.presets import Preset
from ortoscope_service.analysis.visualization.settings import preset_settings, resolve_preset
from ortoscope_service.analysis.visualization.spec import (
    Prepared,
    VisualizationSpec,
    digest_of_start,
    prepare,
    takes_pictures,
)
from ortoscope_service.analysis.visualization.verdict import (
    DEFAULT_EXAMPLES,
    DEFAULT_IMAGES,
    check_comparison,
    shown_at,
)
from ortoscope_service.api import resources
from ortoscope_service.api.activation_inputs import read_picture
from ortoscope_service.api.capabilities import ortoscope_version
from ortoscope_service.api.components import Components, blaming, version_name
from ortoscope_service.api.interceptor import response_too_large
from ortoscope_service.api.tensors import from_tensor
from ortoscope_service.api.visualization_objectives import blaming_fields_of, read_objective
from ortoscope_service.api.visualization_results import result_bytes
from ortoscope_service.config import Limits
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.errors import OrtoscopeError, invalid
from ortoscope_service.jobs.provenance import execution_spec
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.remote_sessions import RemoteSession
from ortoscope_service.runtime.sessions import onnxruntime_version

Array = NDArray[Any]

_PICTURE_AXES = 3
_PARTS = {
    "bound": "bound",
    "chain": "chain",
    "octaves": "octaves",
    "optimizer": "recipe.optimizer",
    "parameterization": "parameterization",
    "preset": "",
    "size": "size",
    "transforms": "chain",
    "view": "view",
}
"""Parts of presets as errors of the analysis name them, and the settings that they are."""


@dataclass(frozen=True)
class Start:
    """What a climb starts from."""

    array: NDArray[np.float32]
    """(channels, height, width) in [0, 1] for a picture, else as the model takes it."""

    name: dict[str, str]
    """Where it is to be had again: `blob` or `dataset_image` with a resource name; empty for numbers."""

    content: bytes = b""
    """An encoded picture, to be kept under the name `blob` as long as what came of it."""


@dataclass(frozen=True)
class Compared:
    """What the result is compared with."""

    name: resources.DatasetName
    """The dataset's name."""

    dataset: Dataset
    """The dataset."""

    images: int
    """At most so many images."""

    examples: int
    """So many examples of either end."""

    seeds: int
    """So many climbs from other seeds."""

    def describe(self, cancellation: Cancellation) -> dict[str, Any]:
        """Everything that decides a verdict, as JSON data; may have to read the dataset for its digest."""
        return {
            "dataset": self.dataset.digest(cancellation.raise_if_cancelled),
            "name": str(self.name),
            "images": self.images,
            "examples": self.examples,
            "seeds": self.seeds,
        }


class Sessions:
    """Opens sessions for a call where sessions for calls live, and remembers them.

    Args:
        components: Where they live.
        version: The model that graphs are made from.
        cancellation: Ends the wait for one.
    """

    def __init__(self, components: Components, version: ModelVersion, cancellation: Cancellation) -> None:
        self._components = components
        self._version = version
        self._cancellation = cancellation
        self._opened: dict[Hashable, RemoteSession] = {}

    def __call__(
        self, key: Hashable, make: Callable[[], bytes], cancellation: Cancellation | None = None
    ) -> RemoteSession:
        """A session of a graph that is made from the model; equal keys share one."""
        whole = ("visualization", key)
        session = self._components.derived_session(self._version, whole, make, cancellation or self._cancellation)
        self._opened[whole] = session
        return session

    @property
    def opened(self) -> tuple[RemoteSession, ...]:
        """The sessions that were opened."""
        return tuple(self._opened.values())


@dataclass(frozen=True)
class Asked:
    """A request that was read and found to be in order."""

    version: ModelVersion
    """The model."""

    prepared: Prepared
    """What is climbed."""

    specification: dict[str, Any]
    """Everything that decides the pictures, as JSON data: what their metadata hold."""

    sessions: Sessions
    """The sessions that it is climbed with."""

    start: Start | None
    """What it starts from; None: at random."""

    compared: Compared | None
    """What it is compared with."""

    budget_seconds: float | None
    """Longest time to climb."""

    preview_every: int
    """Every so many steps, previews are told."""

    key: str = field(default="")
    """Digest of everything that decides the result, 64 hexadecimal digits."""


def read_request(components: Components, request: VisualizeRequest, cancellation: Cancellation) -> Asked:
    """Reads a request.

    Args:
        components: Models, datasets, sessions, limits.
        request: The request.
        cancellation: Ends the waits for sessions.

    Raises:
        OrtoscopeError: Whatever can be refused without running a model; each names the field at fault.
    """
    limits = components.limits
    name = resources.parse_model_version(request.model, field="model")
    version = components.model_version(name, field="model")
    objective = read_objective(request.objective)
    items = _within("items", request.items, limits.max_visualization_items) or 1
    _within("preview_every", request.preview_every, limits.max_visualization_steps)
    seed, budget = _seed(request.recipe), _budget(request.recipe)
    recipe, pictures = request.recipe, takes_pictures(version)
    preset = resolve_preset(recipe.preset, dict(recipe.settings), pictures=pictures, field="recipe")
    _refuse_steps(preset, 1, limits)
    start = _start(components, version, request.start, preset) if request.HasField("start") else None
    spec = VisualizationSpec(objective, preset, seed, items, "" if start is None else digest_of_start(start.array))
    sessions = Sessions(components, version, cancellation)
    with blaming_fields_of(request.objective), _blaming_settings():
        prepared = prepare(
            version,
            spec,
            models=components.models,
            start=None if start is None else start.array,
            session=components.execution.session,
            open=sessions,
        )
    compared = _compared(components, request.comparison, prepared) if request.HasField("comparison") else None
    if compared is not None:
        _refuse_steps(preset, 1 + compared.seeds, limits)
    specification = _specification(components, version, prepared.spec, start)
    _refuse_large(prepared, specification, limits)
    comparison = None if compared is None else compared.describe(cancellation)
    whole = {"specification": specification, "comparison": comparison}
    return Asked(
        version=version,
        prepared=prepared,
        specification=specification,
        sessions=sessions,
        start=start,
        compared=compared,
        budget_seconds=budget,
        preview_every=request.preview_every,
        key=hashlib.sha256(canonical_json(whole).encode()).hexdigest(),
    )


def _specification(
    components: Components, version: ModelVersion, spec: VisualizationSpec, start: Start | None
) -> dict[str, Any]:
    """Everything that decides the pictures; with it, the request can be made again."""
    settings = {name: json.loads(text) for name, text in preset_settings(spec.preset).items()}
    execution = execution_spec(components.execution)
    del execution["batch_size"]  # of no influence: the items are the batch
    found: dict[str, Any] = {
        "verb": "visualize",
        "model": str(version_name(version)),
        "model_digest": version.manifest.digest,
        "objective": objective_to_data(spec.objective),
        "preset": spec.preset.name,
        "settings": settings,
        "seed": spec.seed,
        "items": spec.items,
        "software": {"ortoscope": ortoscope_version(), "onnxruntime": onnxruntime_version()},
        "execution": execution,
    }
    if start is not None:
        found["start"] = {"digest": spec.start_digest, **start.name}
    if isinstance(spec.preset.parameterization, Generator):
        generator, _, number = spec.preset.parameterization.model.partition("/")
        found["generator_digest"] = components.models.get(generator, int(number) if number else None).manifest.digest
    return found


def _seed(recipe: VisualizationRecipe) -> int:
    if recipe.seed < 0:
        raise invalid(
            "INVALID_SEED",
            f"The seed {recipe.seed} is negative; give one from 0 on.",
            field="recipe.seed",
            seed=recipe.seed,
        )
    return recipe.seed


def _budget(recipe: VisualizationRecipe) -> float | None:
    if not recipe.HasField("time_budget"):
        return None
    seconds: float = recipe.time_budget.seconds + recipe.time_budget.nanos / 1e9
    if seconds <= 0:
        raise invalid(
            "INVALID_TIME_BUDGET",
            f"time_budget is {seconds:g} seconds; it must be positive, or absent for no limit.",
            field="recipe.time_budget",
            time_budget=seconds,
        )
    return seconds


def _within(name: str, value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise invalid(
            f"INVALID_{name.upper()}",
            f"{name} is {value}; give 0 to {most}.",
            field=name,
            **{name: value, "most": most},
        )
    return value


def _refuse_steps(preset: Preset, climbs: int, limits: Limits) -> None:
    steps = preset.recipe.steps * preset.recipe.attempts * preset.octaves * climbs
    if steps > limits.max_visualization_steps:
        raise invalid(
            "TOO_MANY_STEPS",
            f"{preset.recipe.steps} steps in {preset.recipe.attempts} attempts, {preset.octaves} octaves and {climbs} "
            f"climbs are {steps} steps, more than the limit max_visualization_steps of "
            f"{limits.max_visualization_steps}; ask for fewer.",
            field="recipe.settings.recipe.steps" if climbs == 1 else "comparison.seeds",
            steps=steps,
            max_visualization_steps=limits.max_visualization_steps,
        )


def _refuse_large(prepared: Prepared, specification: dict[str, Any], limits: Limits) -> None:
    """Refuses what is more work, or a larger message, than the limits allow."""
    spec, shape = prepared.spec, prepared.program.parameterization.shape
    pixels = spec.items * math.prod(shape[1:] if prepared.program.is_picture else shape)
    if pixels > limits.max_visualization_pixels:
        raise invalid(
            "TOO_MANY_PIXELS",
            f"{spec.items} items of the shape {list(shape)} have {pixels:,} pixels, more than the limit "
            f"max_visualization_pixels of {limits.max_visualization_pixels:,}; ask for fewer items, or a smaller size.",
            field="items" if spec.items > 1 else "recipe.settings.size",
            pixels=pixels,
            max_visualization_pixels=limits.max_visualization_pixels,
        )
    text = len(canonical_json(specification).encode())
    size = result_bytes(shape, spec.items, spec.preset.recipe.steps, text)
    if size > limits.max_message_bytes:
        raise response_too_large(size, limits.max_message_bytes)


@contextmanager
def _blaming_settings() -> Iterator[None]:
    """Errors of the body that name a part of a preset, or the model's classes, name what of the request is at fault."""
    try:
        yield
    except OrtoscopeError as error:
        first, dot, rest = error.field.partition(".")
        if first in _PARTS:
            error.field = f"recipe.settings.{_PARTS[first]}{dot}{rest}".replace("..", ".").rstrip(".")
        elif error.field == "seed":
            error.field = "recipe.seed"
        elif error.reason == "NO_CLASSES" and not error.field:
            error.field = "objective"
        raise


def _compared(components: Components, message: ComparisonMessage, prepared: Prepared) -> Compared:
    name = resources.parse_dataset(message.dataset, field="comparison.dataset")
    found = Compared(
        name=name,
        dataset=components.dataset(name, field="comparison.dataset"),
        images=message.images or DEFAULT_IMAGES,
        examples=message.examples or DEFAULT_EXAMPLES,
        seeds=message.seeds,
    )
    check_comparison(prepared.program, found.dataset, images=found.images, examples=found.examples, seeds=found.seeds)
    return found


def _start(components: Components, version: ModelVersion, item: ActivationInput, preset: Preset) -> Start:
    kind = item.WhichOneof("content")
    match kind:
        case None:
            raise invalid(
                "EMPTY_INPUT", "The start holds neither a picture nor a tensor nor the name of either.", field="start"
            )
        case "tensor":
            return Start(_numbers(version, item.tensor, preset, "start.tensor"), {})
        case "tensors":
            given = item.tensors.tensors
            if len(given) != 1:
                raise invalid(
                    "START_MISMATCH",
                    f"A climb starts from one tensor, but the start holds {len(given)}; give one.",
                    field="start.tensors",
                    tensors=len(given),
                )
            (name,) = given
            return Start(_numbers(version, given[name], preset, f"start.tensors.tensors[{name}]"), {})
    with blaming("start"):
        preprocessing = version.image_input.preprocessing
    assert preprocessing is not None  # image_input raises otherwise
    picture = read_picture(components, item, field=f"start.{kind}")
    array = shown_at(picture, preprocessing, preset.size)
    if kind == "dataset_image":
        return Start(array, {kind: item.dataset_image})
    content = item.image if kind == "image" else components.store.blobs.load(resources.parse_blob(item.blob, field=""))
    return Start(array, {"blob": resources.blob(hashlib.sha256(content).hexdigest())}, content)


def _numbers(version: ModelVersion, tensor: Any, preset: Preset, at: str) -> NDArray[np.float32]:
    """A start that is given as numbers: a picture as a result tells it, or an input of the model."""
    shape = [-1] * _PICTURE_AXES if preset.is_for_pictures else list(version.manifest.inputs[0].shape[1:])
    array: NDArray[np.float32] = from_tensor(tensor, "float32", shape, field=at)
    if not np.isfinite(array).all():
        raise invalid("NOT_FINITE", "The start holds numbers that are not finite; replace them.", field=at)
    if preset.is_for_pictures and (array.size == 0 or array.min() < 0 or array.max() > 1):
        raise invalid(
            "START_NOT_A_PICTURE",
            "A picture to start from is given as (channels, height, width) of numbers from 0 to 1, as results tell it, "
            "or as an encoded picture; this one is empty, or has others.",
            field=at,
        )
    return array
