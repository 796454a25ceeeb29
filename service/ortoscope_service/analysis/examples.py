"""The images of a dataset that activate each unit of a tap most and least: one pass, all units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.execution import ExecutionConfig, Progress, not_finite, stream_maps
from ortoscope_service.analysis.reading import Series
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


@dataclass(frozen=True)
class ShardRanking:
    """The examples of every unit among the images of a shard; mergeable."""

    most: TopK
    """Those that activate it most."""

    least: TopK
    """Those that activate it least, with negated values."""

    site_shape: tuple[int, ...]
    """Extent of each site axis."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """It as arrays, for `from_arrays`."""
        ends = {"most": self.most, "least": self.least}
        arrays = {f"{end}_{name}": array for end, top in ends.items() for name, array in top.to_arrays().items()}
        return {**arrays, "site_shape": np.array(self.site_shape, np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "ShardRanking":
        """What `to_arrays` was called on."""
        most, least = (
            TopK.from_arrays({name: arrays[f"{end}_{name}"] for name in ("value", "item", "site")})
            for end in ("most", "least")
        )
        return cls(most, least, tuple(arrays["site_shape"].tolist()))


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
    """Finds the images that activate each unit most and least, as one shard; as `rank_shard` takes its arguments."""
    ranking = rank_shard(version, tap, dataset, indices, spec, execution, progress=progress, cancellation=cancellation)
    return merge_rankings([lambda: ranking], spec)


def rank_shard(
    version: ModelVersion,
    tap: Tap,
    dataset: Dataset,
    indices: NDArray[np.int64],
    spec: ExamplesSpec,
    execution: ExecutionConfig,
    *,
    progress: Progress,
    cancellation: Cancellation,
    series: Series | None = None,
) -> ShardRanking:
    """Ranks the images of a shard for every unit.

    Args:
        version: The model.
        tap: Where to look.
        dataset: The images.
        indices: Which of them, (images,) int64; at least one.
        spec: What to find.
        execution: How the model is run.
        progress: Told after every batch.
        cancellation: Stops the pass.
        series: What this process will likely be asked for next.

    Raises:
        OrtoscopeError: ACTIVATION_NOT_FINITE, CANCELLED, and as `stream_maps` raises.
    """
    ranking: ShardRanking | None = None
    done = 0
    progress("activating", 0, len(indices))
    for batch in stream_maps(version, tap, dataset, indices, execution, cancellation, series=series):
        value, site = _rank(batch.maps, spec.reduction)
        if not np.isfinite(value).all():
            image, unit = np.argwhere(~np.isfinite(value))[0]
            raise not_finite(dataset, int(batch.indices[image]), int(unit), tap)
        if ranking is None:
            units = value.shape[1]
            ranking = ShardRanking(TopK(units, spec.count), TopK(units, spec.count), batch.site_shape)
        ranking.most.update(value, batch.indices, site)
        ranking.least.update(-value, batch.indices, site)
        done += len(batch.indices)
        progress("activating", done, len(indices))
    assert ranking is not None  # there is at least one image
    return ranking


def merge_rankings(rankings: Sequence[Callable[[], ShardRanking]], spec: ExamplesSpec) -> Examples:
    """The examples among the images of all shards.

    Args:
        rankings: Load the rankings of the shards; each is called once, and let go before the next.
        spec: What to find.
    """
    first = rankings[0]()
    site_shape = first.site_shape
    most, least = TopK.from_arrays(first.most.to_arrays()), TopK.from_arrays(first.least.to_arrays())
    for load in rankings[1:]:
        ranking = load()
        most.merge(ranking.most)
        least.merge(ranking.least)
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
