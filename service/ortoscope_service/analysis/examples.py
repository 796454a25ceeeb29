"""The images of a dataset that activate each unit of a tap most and least: one pass, all units."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.execution import ExecutionConfig, Progress, not_finite, stream_maps
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.statistics.top_k import TopK

ExamplesReduction = Literal["max", "mean", "min"]


@dataclass(frozen=True)
class ExamplesSpec:
    """What to find."""

    count: int = 10
    """Examples per unit at either end."""

    reduction: ExamplesReduction = "max"
    """The number that images are ranked by: the unit's largest value, mean or smallest value over all sites."""


@dataclass(frozen=True)
class Examples:
    """The examples of every unit; where the dataset has fewer images, the image is -1 and the value infinite."""

    most_image: NDArray[np.int64]
    """(units, count) int64: the images that activate it most, descending; the lower index first at a tie."""

    most_value: NDArray[np.float32]
    """(units, count) float32: the numbers that they were ranked by."""

    most_site: NDArray[np.int64] | None
    """(units, count, site axes) int64: where in the map; None for the mean and for vectors."""

    least_image: NDArray[np.int64]
    """(units, count) int64: the images that activate it least, ascending; the lower index first at a tie."""

    least_value: NDArray[np.float32]
    """(units, count) float32."""

    least_site: NDArray[np.int64] | None
    """(units, count, site axes) int64."""

    site_shape: tuple[int, ...]
    """Extent of each site axis."""


def find_examples(
    version: ModelVersion,
    tap: Tap,
    dataset: Dataset,
    indices: NDArray[np.int64],
    spec: ExamplesSpec,
    execution: ExecutionConfig,
    *,
    progress: Progress,
    cancellation: Cancellation,
) -> Examples:
    """Finds the images that activate each unit most and least.

    Args:
        version: The model.
        tap: Where to look.
        dataset: The images.
        indices: Which of them, (images,) int64; at least one.
        spec: What to find.
        execution: How the model is run.
        progress: Told after every batch.
        cancellation: Stops the pass.

    Raises:
        OrtoscopeError: ACTIVATION_NOT_FINITE, CANCELLED, and as `stream_maps` raises.
    """
    most: TopK | None = None
    least: TopK | None = None
    site_shape: tuple[int, ...] = ()
    done = 0
    progress("activating", 0, len(indices))
    for batch in stream_maps(version, tap, dataset, indices, execution, cancellation):
        value, site = _rank(batch.maps, spec.reduction)
        if not np.isfinite(value).all():
            image, unit = np.argwhere(~np.isfinite(value))[0]
            raise not_finite(dataset, int(batch.indices[image]), int(unit), tap)
        if most is None or least is None:
            site_shape = batch.site_shape
            most, least = TopK(value.shape[1], spec.count), TopK(value.shape[1], spec.count)
        most.update(value, batch.indices, site)
        least.update(-value, batch.indices, site)
        done += len(batch.indices)
        progress("activating", done, len(indices))
    assert most is not None  # there is at least one image
    assert least is not None
    located = spec.reduction != "mean" and bool(site_shape)
    return Examples(
        most.item,
        most.value,
        _unravel(most, site_shape) if located else None,
        least.item,
        -least.value,
        _unravel(least, site_shape) if located else None,
        site_shape,
    )


def _rank(
    maps: NDArray[np.float32], reduction: ExamplesReduction
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """The number that each map is ranked by, (images, units), and the site where it was found."""
    if reduction == "mean":
        return maps.mean(axis=2, dtype=np.float64).astype(np.float32), None
    site = maps.argmax(axis=2) if reduction == "max" else maps.argmin(axis=2)
    return np.take_along_axis(maps, site[..., None], axis=2)[..., 0], site


def _unravel(top: TopK, site_shape: tuple[int, ...]) -> NDArray[np.int64]:
    sites = np.stack(np.unravel_index(np.maximum(top.site, 0), site_shape), axis=-1).astype(np.int64)
    sites[top.item < 0] = -1
    return sites
