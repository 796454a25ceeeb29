"""Asking for visualizations: what a request says, and how its answer is followed."""

import json
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration as DurationMessage

from ortoscope.activations import batches
from ortoscope.climbing import Climb, climb_display
from ortoscope.durations import Duration, seconds_of
from ortoscope.errors import Internal, InvalidArgument
from ortoscope.inputs import Input
from ortoscope.objectives import VisualizationObjective
from ortoscope.rpcs import Rpcs
from ortoscope.v1 import models_pb2, visualization_pb2
from ortoscope.visualization import Comparison, Visualization

OnProgress: TypeAlias = Callable[[Climb], None]
"""Is told of every step that the server tells of."""

_PREVIEWS_BY_DEFAULT = 60
"""About how many previews a whole climb gives where frames are wanted."""


@dataclass(frozen=True)
class Request:
    """A visualization before it is asked for: everything but the model's messages."""

    objective: VisualizationObjective
    """What is climbed."""

    preset: str = ""
    """Name of a preset; empty: the server's choice for the model."""

    settings: Mapping[str, object] | None = None
    """Settings of the preset that are changed, by the names that `presets()` lists."""

    seed: int = 0
    """Where randomness comes from."""

    items: int = 1
    """Pictures made at once, each from a start of its own."""

    start: Input | None = None
    """The input that the climb starts from; None: at random."""

    comparison: str | Comparison | None = None
    """What it is compared with: a dataset, by its name or with details."""

    time_budget: Duration | None = None
    """Longest time to climb."""

    preview_every: int = 0
    """Every so many steps the server sends previews; 0: never."""


def recipe_message(
    preset: str, settings: Mapping[str, object] | None, seed: int, time_budget: Duration | None
) -> visualization_pb2.VisualizationRecipe:
    """How an objective is climbed, as the API takes it: the values of settings become JSON.

    Raises:
        InvalidArgument: SETTING_NOT_JSON, DURATION_INVALID.
    """
    budget = None
    if time_budget is not None:
        budget = DurationMessage()
        budget.FromMilliseconds(round(seconds_of(time_budget, "time_budget") * 1000))
    given = settings_message(settings, "recipe.settings")
    return visualization_pb2.VisualizationRecipe(preset=preset, settings=given, seed=seed, time_budget=budget)


def settings_message(settings: Mapping[str, object] | None, field: str) -> dict[str, str]:
    """The values of settings in JSON, as the API takes them.

    Args:
        settings: The values by name.
        field: The field of the request, for errors.

    Raises:
        InvalidArgument: SETTING_NOT_JSON.
    """
    return {name: _json_text(name, value, field) for name, value in (settings or {}).items()}


def to_message(rpcs: Rpcs, model: models_pb2.ModelVersion, wanted: Request) -> visualization_pb2.VisualizeRequest:
    """A request as the API takes it; a start too large for a message goes as a blob.

    Raises:
        OrtoscopeError: As `to_item`, and as Blobs.WriteBlob; SETTING_NOT_JSON, DURATION_INVALID.
        OSError: A file cannot be read.
    """
    comparison = wanted.comparison
    if isinstance(comparison, str):
        comparison = Comparison(comparison)
    start = None
    if wanted.start is not None:
        ((start,),) = batches(rpcs, model, [wanted.start], 1)
    return visualization_pb2.VisualizeRequest(
        model=model.name,
        objective=wanted.objective.proto,
        recipe=recipe_message(wanted.preset, wanted.settings, wanted.seed, wanted.time_budget),
        items=wanted.items,
        start=start,
        preview_every=wanted.preview_every,
        comparison=None if comparison is None else comparison.to_proto(),
    )


def stream(rpcs: Rpcs, request: visualization_pb2.VisualizeRequest) -> Generator[Climb | Visualization]:
    """Climbs, and tells how it goes; closing the iterator, or an interrupt, ends the work on the server within a step.

    Yields:
        How far it is, any number of times, and the visualization at the end.

    Raises:
        OrtoscopeError: As Visualization.Visualize.
    """
    answers = rpcs.visualize(request)
    finished = False
    try:
        for answer in answers:
            match answer.WhichOneof("event"):
                case "queued":
                    yield Climb.waiting(answer.queued)
                case "progress":
                    yield Climb.from_proto(answer.progress)
                case "result":
                    finished = True
                    yield Visualization(answer.result)
    finally:
        answers.close()
    if not finished:
        raise Internal("The server ended a visualization without a result.", reason="ANSWER_MISSING")


def visualize(
    rpcs: Rpcs,
    request: visualization_pb2.VisualizeRequest,
    *,
    progress: bool = False,
    on_progress: OnProgress | None = None,
) -> Visualization:
    """Climbs to the end.

    Args:
        rpcs: The calls.
        request: What to climb.
        progress: Whether progress is shown on stderr or in the notebook.
        on_progress: Is told how far it is.

    Raises:
        OrtoscopeError: As Visualization.Visualize.
    """
    with climb_display(shown=progress) as show:
        for event in stream(rpcs, request):
            if isinstance(event, Visualization):
                return event
            show(event)
            if on_progress is not None:
                on_progress(event)
    raise AssertionError("a stream ends with a result or raises")


def frame_interval(steps: int) -> int:
    """Every how many steps a preview makes a smooth animation of a whole climb."""
    return max(1, math.ceil(steps / _PREVIEWS_BY_DEFAULT))


def _json_text(name: str, value: object, field: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise InvalidArgument(
            f"The value of the setting {name!r} cannot be written as JSON: {value!r:.60}.",
            reason="SETTING_NOT_JSON",
            field=f"{field}.{name}",
        ) from None
