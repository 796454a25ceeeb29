"""The tasks of a projection; see `jobs.atlas_projections`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.collection import CollectionSettings
from ortoscope_service.analysis.atlas.placement import Frame
from ortoscope_service.analysis.atlas.projection import LevelCells, project
from ortoscope_service.jobs import atlas_inputs
from ortoscope_service.jobs.atlas_inputs import Lively
from ortoscope_service.jobs.tasks import TaskContext
from ortoscope_service.runtime.threads import available_threads


def collect(context: TaskContext) -> dict[str, Any]:
    """Task: the samples of a shard's images, at sites chosen as the atlas's."""
    spec = context.spec
    settings = CollectionSettings(**spec["collection"])
    atlas_inputs.collect(context, settings, spec["sites_per_image"], spec["seed"])
    return {}


def place(context: TaskContext) -> dict[str, Any]:
    """Task: the samples of all images in the atlas, and how their density differs."""
    samples = atlas_inputs.merge_samples(context)
    frame = Frame.from_arrays(atlas_inputs.published_arrays(context, context.spec["frame"]))
    landmark_image = _landmark_images(frame, atlas_inputs.published_arrays(context, context.spec["samples"]))
    levels = []
    for grid, digest in context.spec["levels"]:
        cells = atlas_inputs.published_arrays(context, digest)
        levels.append(LevelCells(grid, cells["row"], cells["column"]))
    chosen = samples.distinct
    found = project(
        samples.activation[chosen],
        samples.image[chosen],
        frame,
        landmark_image,
        levels,
        context.spec["seed"],
        threads=available_threads(),
        progress=context.progress,
        cancellation=Lively(context),
    )
    context.put("arrays", {"image": samples.image[chosen], "site": samples.site[chosen], **found.to_arrays()})
    rate = found.off_map_rate
    return {
        "samples": len(chosen),
        "changed_cells": found.changed_cells,
        "off_map": [rate.rate, rate.low, rate.high],
    }


def _landmark_images(frame: Frame, samples: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """(L,) int64: a number for the image of each landmark, which is found among an atlas's samples by its position.

    Args:
        frame: The frame, with L landmarks.
        samples: Arrays of the atlas's samples: `image` (N,), `position` (N, 2) and, if it was appended to, `source`.
    """
    source = samples.get("source", np.zeros(len(samples["image"]), np.uint8))
    image: NDArray[np.int64] = samples["image"] * 2 + source
    if np.array_equal(samples["position"], frame.position):
        return image
    _, code = np.unique(np.concatenate([samples["position"], frame.position]), axis=0, return_inverse=True)
    owner = np.full(len(code), -1, np.int64)
    # From the back, so that of several at one place the first one remains: base samples come before added ones.
    owner[code[: len(image)][::-1]] = image[::-1]
    found = owner[code[len(image) :]]
    return np.where(found >= 0, found, -1 - np.arange(len(found)))
