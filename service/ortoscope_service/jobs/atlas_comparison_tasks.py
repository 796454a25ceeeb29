"""The tasks of a comparison; see `jobs.atlas_comparisons`."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas import comparison
from ortoscope_service.analysis.atlas.collection import CollectionSettings, Samples
from ortoscope_service.analysis.atlas.layout import LayoutSettings
from ortoscope_service.jobs import atlas_inputs
from ortoscope_service.jobs.atlas_inputs import Lively
from ortoscope_service.jobs.tasks import TaskContext
from ortoscope_service.runtime.threads import available_threads


def collect(context: TaskContext, side: str) -> dict[str, Any]:
    """Task: the samples of a shard's images of one side, at the sites of its atlas.

    None is left out for its length, so that the samples of both sides stand in the same order.
    """
    spec = context.spec
    settings = replace(CollectionSettings(**spec["collection"][side]), outlier_norm=0.0)
    atlas_inputs.collect(context, settings, spec["sites_per_image"], spec["sites_seed"])
    return {}


def compare(context: TaskContext) -> dict[str, Any]:
    """Task: both layers in one frame, by the samples that both atlases laid out."""
    spec = context.spec
    left, right = (atlas_inputs.merge_samples(context, f"{side}-") for side in ("left", "right"))
    published = [atlas_inputs.published_arrays(context, spec["samples"][side]) for side in ("left", "right")]
    places = [
        _place_in_atlas(samples, arrays["image"], arrays["site"])
        for samples, arrays in zip((left, right), published, strict=True)
    ]
    # Samples that are equal on both sides count once, as in a layout.
    repeated = (left.duplicate_of >= 0) & (right.duplicate_of >= 0)
    shared = np.flatnonzero((places[0] >= 0) & (places[1] >= 0) & ~left.zero & ~right.zero & ~repeated)
    one, other = (
        comparison.Side(samples.activation[shared], arrays["position"][place[shared]], metric)
        for samples, arrays, place, metric in zip((left, right), published, places, spec["metric"], strict=True)
    )
    image, site = left.image[shared], left.site[shared]
    del left, right
    found = comparison.compare(
        one,
        other,
        spec["grid"],
        LayoutSettings(**spec["layout"]),
        spec["seed"],
        threads=available_threads(),
        progress=context.progress,
        cancellation=Lively(context),
    )
    context.put("arrays", {"image": image[found.sample], "site": site[found.sample], **found.to_arrays()})
    return {
        "samples": len(found.sample),
        "neighbourhood_agreement": found.neighbourhood_agreement,
        "procrustes_distance": found.procrustes_distance,
    }


def _place_in_atlas(samples: Samples, image: NDArray[np.int64], site: NDArray[np.int32]) -> NDArray[np.int64]:
    """(N,) int64: for each sample the one of an atlas with the same image and site; -1 if it has none.

    Args:
        samples: The samples, N of them.
        image: (n,) int64, of the atlas's samples.
        site: (n, site axes) int32, likewise.
    """
    wanted, there = (
        np.column_stack([images, sites.reshape(len(images), -1)]).astype(np.int64)
        for images, sites in ((samples.image, samples.site), (image, site))
    )
    _, code = np.unique(np.concatenate([there, wanted]), axis=0, return_inverse=True)
    place = np.full(len(code), -1, np.int64)
    place[code[: len(there)]] = np.arange(len(there))
    return place[code[len(there) :]]
