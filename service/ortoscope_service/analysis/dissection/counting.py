"""With the thresholds known: counts the pixels of each shard, and adds the counts up."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.dissection.spool import MapsSource, read_maps
from ortoscope_service.analysis.dissection.survey import ShardSurvey
from ortoscope_service.analysis.dissection.tally import Tally
from ortoscope_service.analysis.dissection.thresholds import Thresholds
from ortoscope_service.analysis.execution import Progress, Timings
from ortoscope_service.analysis.reading import READER, Series
from ortoscope_service.datasets.dataset import ImageLabels, LabelledDataset
from ortoscope_service.runtime.cancellation import Cancellation

Int64Array = NDArray[np.int64]

_LABELS = 4
"""Images whose labels are read together: few, because the first ones are waited for."""


@dataclass(frozen=True)
class Counts:
    """The counts of all images: U units, K concepts, C categories, E examples per unit."""

    intersection: Int64Array
    """(U, K) int64: pixels with both the unit's mask and the concept."""

    activation_pixels: Int64Array
    """(U, C) int64: pixels of the unit's mask in images that carry a label of the category."""

    concept_pixels: Int64Array
    """(K,) int64: pixels with the concept."""

    example_mask: NDArray[np.uint8]
    """(U, E, bytes) uint8: the unit's mask in its examples, packed eight pixels to a byte in row-major order; zeros
    where there is no example."""


@dataclass(frozen=True)
class ShardCounts:
    """The `Counts` of a shard, without the zeros: most units meet few concepts in so few images."""

    shape: Int64Array
    """(2,) int64: U and K."""

    intersection_place: NDArray[np.unsignedinteger[Any]]
    """(n,), as few bytes as will do: where the intersection is not 0, ascending, in row-major order of (U, K)."""

    intersection: NDArray[np.unsignedinteger[Any]]
    """(n,), as few bytes as will do: the pixels."""

    activation_pixels: Int64Array
    """(U, C) int64: as of `Counts`."""

    concept_pixels: Int64Array
    """(K,) int64: as of `Counts`."""

    example_place: Int64Array
    """(m,) int64: which examples lie in the shard, ascending, in row-major order of (U, E)."""

    example_mask: NDArray[np.uint8]
    """(m, bytes) uint8: their masks."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """It as arrays, for `from_arrays`."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "ShardCounts":
        """What `to_arrays` was called on."""
        return cls(**arrays)

    @classmethod
    def of(cls, tally: Tally, example_image: Int64Array, indices: Int64Array) -> "ShardCounts":
        """What a tally has counted, and the masks of those examples that are among the images `indices`."""
        counted = tally.intersection.ravel()
        place = np.flatnonzero(counted)
        example_place = np.flatnonzero(np.isin(example_image.ravel(), indices))
        return cls(
            np.array(tally.intersection.shape, np.int64),
            _compact(place),
            _compact(counted[place]),
            tally.activation_pixels,
            tally.concept_pixels,
            example_place,
            tally.example_mask.reshape(-1, tally.example_mask.shape[2])[example_place],
        )


def count_shard(
    survey: ShardSurvey,
    maps_file: MapsSource,
    dataset: LabelledDataset,
    indices: Int64Array,
    thresholds: Thresholds,
    *,
    progress: Progress,
    cancellation: Cancellation,
    timings: Timings | None = None,
    read_ahead: bool = True,
    series: Series | None = None,
) -> ShardCounts:
    """Counts the pixels of the images of a shard.

    Args:
        survey: What the pass of the model over the shard found out.
        maps_file: The maps that it set aside.
        dataset: The labelled images.
        indices: The images of the shard, (images,) int64, as the survey was given them.
        thresholds: The thresholds; none may be incomplete.
        progress: Told after every image.
        cancellation: Stops the work.
        timings: Receives where the time went.
        read_ahead: Whether the next labels are read in a thread of its own meanwhile.
        series: What this process will likely be asked for next.

    Raises:
        OrtoscopeError: CANCELLED; a damaged label plane.
    """
    timings = timings or Timings()
    tally = Tally(thresholds.value, survey.site_shape, dataset.mask_shape, dataset.concepts, thresholds.example_image)
    progress("counting", 0, len(indices))

    def load(batch: Int64Array) -> list[ImageLabels]:
        began = time.perf_counter()
        labels = [dataset.read_labels(int(index)) for index in batch]
        timings.decode += time.perf_counter() - began
        return labels

    maps = read_maps(maps_file, survey, thresholds.value)
    reading = READER.read(("labels", dataset), indices, _LABELS, load, ahead=read_ahead, series=series)
    with contextlib.closing(reading):
        labels = itertools.chain.from_iterable(batch for _, batch in reading)
        for done, (index, image_labels, (units, image_maps)) in enumerate(zip(indices, labels, maps, strict=True), 1):
            cancellation.raise_if_cancelled()
            began = time.perf_counter()
            tally.add(int(index), image_labels, units, image_maps)
            timings.own += time.perf_counter() - began
            progress("counting", done, len(indices))
    return ShardCounts.of(tally, thresholds.example_image, indices)


def merge_counts(shards: Iterable[Callable[[], ShardCounts]], thresholds: Thresholds) -> Counts:
    """Adds the counts of all shards up.

    Args:
        shards: Load the counts of the shards; each is called once, and what it returns is let go before the next.
        thresholds: The thresholds that they were counted with.
    """
    total: Counts | None = None
    for load in shards:
        shard = load()
        total = total or _nothing_like(shard, thresholds)
        # Places occur once within a shard, so that indexing adds each count.
        total.intersection.reshape(-1)[shard.intersection_place] += shard.intersection.astype(np.int64)
        total.activation_pixels[:] += shard.activation_pixels
        total.concept_pixels[:] += shard.concept_pixels
        total.example_mask.reshape(-1, total.example_mask.shape[2])[shard.example_place] = shard.example_mask
    assert total is not None  # there is at least one shard
    return total


def _compact(values: Int64Array) -> NDArray[np.unsignedinteger[Any]]:
    """Numbers that are not negative in the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _nothing_like(shard: ShardCounts, thresholds: Thresholds) -> Counts:
    units, concepts = shard.shape.tolist()
    return Counts(
        np.zeros((units, concepts), np.int64),
        np.zeros_like(shard.activation_pixels),
        np.zeros_like(shard.concept_pixels),
        np.zeros((*thresholds.example_image.shape, shard.example_mask.shape[1]), np.uint8),
    )
