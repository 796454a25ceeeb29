"""Messages of what a visualization tells and of what came of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortoscope.v1 import visualization_pb2

from ortoscope_service.analysis.visualization.loop import End, Outcome, Visualization
from ortoscope_service.analysis.visualization.png import CHANNELS, encode_png
from ortoscope_service.analysis.visualization.verdict import ScoredImage, Verdict
from ortoscope_service.api import resources
from ortoscope_service.api.tensors import to_tensor
from ortoscope_service.api.visualization_story import Told

_ENDS = {end: f"END_{end.name}" for end in End}
assert set(_ENDS.values()) < set(visualization_pb2.VisualizedItem.End.keys())
_PICTURE_AXES = 3


def progress_message(told: Told) -> visualization_pb2.VisualizeResponse:
    """What there is to tell after a step; previews as PNG where there are pictures."""
    progress = told.progress
    pictures = progress.picture if progress.picture is not None and is_picture(progress.picture.shape[1:]) else ()
    return visualization_pb2.VisualizeResponse(
        progress=visualization_pb2.VisualizationProgress(
            attempt=told.attempt,
            attempts=told.attempts,
            octave=told.octave,
            octaves=told.octaves,
            step=progress.step,
            steps=progress.steps,
            objective=progress.objective,
            clean_objective=() if progress.clean is None else progress.clean,
            previews=[encode_png(picture) for picture in pictures],
        )
    )


def result_items(
    visualization: Visualization,
    spec: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    dataset: resources.DatasetName | None,
) -> list[visualization_pb2.VisualizedItem]:
    """The items of a result.

    Args:
        visualization: What was found.
        spec: The specification, which goes into the metadata of the pictures with the item and its objective.
        verdicts: One for each item, or none.
        dataset: What the verdicts compare with.
    """
    items = []
    for number, (values, outcome) in enumerate(zip(visualization.pictures, visualization.outcomes, strict=True)):
        item = visualization_pb2.VisualizedItem(
            png=encode_png(values, {**spec, "item": _item_spec(number, outcome)}) if is_picture(values.shape) else b"",
            values=to_tensor(values),
            objective=outcome.objective,
            end=_ENDS[outcome.end],
            steps=outcome.steps,
            attempt=outcome.attempt + 1,
            redirected_steps=outcome.redirected,
            attempts=outcome.attempts,
        )
        if verdicts and dataset is not None:
            item.verdict.CopyFrom(_verdict(verdicts[number], dataset))
        items.append(item)
    return items


def is_picture(shape: Sequence[int]) -> bool:
    """Whether an item of this shape can be shown: (channels, height, width), gray or in colours."""
    return len(shape) == _PICTURE_AXES and shape[0] in CHANNELS


def result_bytes(shape: Sequence[int], items: int, steps: int, spec_bytes: int) -> int:
    """At least as many bytes as the result of a visualization has, for the check before any work.

    Args:
        shape: Of an item.
        items: Items.
        steps: Steps of the history.
        spec_bytes: Size of the specification, which every picture holds.
    """
    numbers = math.prod(shape)
    png = numbers + spec_bytes if is_picture(shape) else 0
    return items * (numbers * np.dtype(np.float32).itemsize + png) + steps * items * 4 + spec_bytes


def history_tensor(history: NDArray[np.float32]) -> Any:
    """The objective at each step as a message."""
    return to_tensor(np.ascontiguousarray(history))


def _item_spec(number: int, outcome: Outcome) -> dict[str, Any]:
    return {
        "index": number,
        "objective": outcome.objective if math.isfinite(outcome.objective) else None,
        "end": outcome.end.value,
        "steps": outcome.steps,
        "attempt": outcome.attempt + 1,
    }


def _verdict(verdict: Verdict, dataset: resources.DatasetName) -> visualization_pb2.Verdict:
    return visualization_pb2.Verdict(
        images=verdict.images,
        percentile=verdict.percentile,
        quantiles=verdict.quantiles,
        most=[_scored(image, dataset) for image in verdict.most],
        least=[_scored(image, dataset) for image in verdict.least],
        seed_objectives=verdict.seed_objectives,
        seed_agreement=verdict.seed_agreement,
    )


def _scored(image: ScoredImage, dataset: resources.DatasetName) -> visualization_pb2.ScoredImage:
    return visualization_pb2.ScoredImage(
        image=str(resources.ImageName(dataset, image.image)), path=image.path, objective=image.objective
    )
