"""The pass of the model over the images of a shard: what it finds out, and the maps that it sets aside."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.dissection.spec import DissectionSpec
from ortoscope_service.analysis.execution import (
    ActivationBatch,
    ExecutionConfig,
    Progress,
    Timings,
    not_finite,
    stream_maps,
)
from ortoscope_service.analysis.reading import Series
from ortoscope_service.datasets.dataset import LabelledDataset
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.statistics.order_statistics import KeptValues, LargestValues, NotFiniteError, QuantilePosition
from ortoscope_service.statistics.top_k import TopK

MAX_KEPT_BYTES = 4 * 1024**3
"""Most memory that the largest values of one shard may take. A shard of 128 images with 512 units of 112 x 112 sites,
all of whose values are kept because there is no bound, takes 3.3 GB; what is above a bound takes a fraction of that."""


class MapsSink(Protocol):
    """Where maps are set aside: a file, or the writer of an artifact."""

    def write(self, data: bytes, /) -> int:
        """Appends bytes."""


@dataclass(frozen=True)
class ShardSurvey:
    """What the pass over a shard found out about U units. The maps that it set aside are in a file of their own."""

    kept: KeptValues
    """The largest values of each unit; none where the thresholds are given."""

    minimum: NDArray[np.float32]
    """(U,) float32: smallest value of each unit."""

    maximum: NDArray[np.float32]
    """(U,) float32: largest value of each unit."""

    top: TopK
    """The images with the largest values."""

    site_shape: tuple[int, int]
    """Rows and columns of a map."""

    map_start: NDArray[np.int64]
    """(images + 1,) int64: the maps of image i are map_start[i] to map_start[i + 1]."""

    map_unit: NDArray[np.int32]
    """(maps,) int32: the unit of each map in the file."""

    map_peak: NDArray[np.float32]
    """(maps,) float32: its largest value."""

    timings: Timings = field(default_factory=Timings, compare=False)
    """Where the time went. No part of `to_arrays`: the same survey has the same bytes however long it took."""

    @property
    def images(self) -> int:
        """Images in the shard."""
        return len(self.map_start) - 1

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """It as arrays, for `from_arrays`."""
        return {
            **{f"kept_{name}": array for name, array in self.kept.to_arrays().items()},
            **{f"top_{name}": array for name, array in self.top.to_arrays().items()},
            "minimum": self.minimum,
            "maximum": self.maximum,
            "site_shape": np.array(self.site_shape, np.int64),
            "map_start": self.map_start,
            "map_unit": self.map_unit,
            "map_peak": self.map_peak,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "ShardSurvey":
        """What `to_arrays` was called on, but for the timings."""
        kept = {name: arrays[f"kept_{name}"] for name in ("value", "start", "floor", "equal")}
        top = {name: arrays[f"top_{name}"] for name in ("value", "item", "site")}
        rows, columns = arrays["site_shape"].tolist()
        return cls(
            KeptValues.from_arrays(kept),
            arrays["minimum"],
            arrays["maximum"],
            TopK.from_arrays(top),
            (rows, columns),
            arrays["map_start"],
            arrays["map_unit"],
            arrays["map_peak"],
        )


def survey_shard(
    version: ModelVersion,
    tap: Tap,
    dataset: LabelledDataset,
    indices: NDArray[np.int64],
    spec: DissectionSpec,
    total_images: int,
    bound: NDArray[np.float32] | None,
    execution: ExecutionConfig,
    maps_file: MapsSink,
    *,
    progress: Progress,
    cancellation: Cancellation,
    series: Series | None = None,
) -> ShardSurvey:
    """Runs the trunk over the images of a shard.

    Args:
        version: The model.
        tap: Where to look; a map with two site axes, or a vector, which counts as a map of one site.
        dataset: The labelled images.
        indices: The images of the shard, (images,) int64; at least one.
        spec: What to compute.
        total_images: Images of all shards together.
        bound: (U,) float32, values that the thresholds are expected not to lie below, from `bound_from` or
            `Thresholds.relaxed`: what does not exceed them is not kept. None if nothing is known. Ignored where the
            thresholds are given.
        execution: How the model is run.
        maps_file: Receives, raw and in order, the (rows, columns) float32 maps that may rise above the threshold.
        progress: Told after every batch.
        cancellation: Stops the work.
        series: What this process will likely be asked for next.

    Raises:
        OrtoscopeError: TAP_NOT_A_MAP, IMAGE_CROPPED, THRESHOLD_COUNT, THRESHOLDS_TOO_LARGE, ACTIVATION_NOT_FINITE,
            CANCELLED, a damaged image.
        OSError: The disk is full.
    """
    check_tap(tap)
    timings = Timings()
    surveyor: Surveyor | None = None
    done = 0
    progress("activating", done, len(indices))
    batches = stream_maps(
        version, tap, dataset, indices, execution, cancellation, timings, whole_images=True, series=series
    )
    for batch in batches:
        began = time.perf_counter()
        surveyor = surveyor or Surveyor(batch, len(indices), total_images, spec, bound)
        try:
            surveyor.take(batch, maps_file)
        except NotFiniteError as error:
            raise not_finite(dataset, int(batch.indices[error.image]), error.unit, tap) from error
        done += len(batch.indices)
        progress("activating", done, len(indices))
        timings.own += time.perf_counter() - began
    assert surveyor is not None  # there is at least one image
    began = time.perf_counter()
    survey = surveyor.survey(timings)
    timings.own += time.perf_counter() - began
    return survey


class Surveyor:
    """Makes the survey of a shard from its activations.

    Args:
        first: The first batch: tells units and sites. It is not taken in.
        images: Images in the shard.
        total_images: Images in all shards.
        spec: What to compute.
        bound: As for `survey_shard`.

    Raises:
        OrtoscopeError: THRESHOLD_COUNT, THRESHOLDS_TOO_LARGE.
    """

    def __init__(
        self,
        first: ActivationBatch,
        images: int,
        total_images: int,
        spec: DissectionSpec,
        bound: NDArray[np.float32] | None,
    ) -> None:
        _, units, sites = first.maps.shape
        rows, columns = first.site_shape or (1, 1)
        self._site_shape = (rows, columns)
        self._given = spec.thresholds
        if self._given is not None:
            check_threshold_count(self._given, units)
            # They need no quantile, but the smallest and largest values are wanted all the same.
            bound = np.full(units, np.inf, np.float32)
        depth = QuantilePosition.of(1 - spec.top_fraction, total_images * sites).depth
        needed = LargestValues.bytes_needed(units, depth, images * sites)
        if self._given is None and needed > MAX_KEPT_BYTES:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "THRESHOLDS_TOO_LARGE",
                f"Exact thresholds of {units} units over {sites} sites may take {needed} bytes of memory for the "
                f"{images} images that are worked on at a time, more than {MAX_KEPT_BYTES}; choose a smaller batch "
                "size or give the thresholds.",
                field="spec.top_fraction",
                metadata={"needed": str(needed), "limit": str(MAX_KEPT_BYTES)},
            )
        self._largest = LargestValues(units, depth, bound)
        self._top = TopK(units, spec.examples_per_unit)
        self._map_units: list[NDArray[np.int32]] = []
        self._map_peaks: list[NDArray[np.float32]] = []

    def take(self, batch: ActivationBatch, maps_file: MapsSink) -> None:
        """Takes in a batch, and sets aside the maps that may rise above the threshold.

        Raises:
            NotFiniteError: An activation is not finite.
            OSError: The disk is full.
        """
        peak = self._largest.update(batch.maps)
        self._top.update(peak, batch.indices)
        bar = self._largest.floor if self._given is None else self._given
        for image in range(len(batch.indices)):
            units = np.flatnonzero(peak[image] > bar).astype(np.int32)
            maps_file.write(batch.maps[image, units].tobytes())
            self._map_units.append(units)
            self._map_peaks.append(peak[image, units])

    def survey(self, timings: Timings) -> ShardSurvey:
        """The survey of what was taken in."""
        counts = [len(units) for units in self._map_units]
        return ShardSurvey(
            self._largest.kept(),
            self._largest.minimum,
            self._largest.maximum,
            self._top,
            self._site_shape,
            np.cumsum([0, *counts], dtype=np.int64),
            np.concatenate(self._map_units),
            np.concatenate(self._map_peaks),
            timings,
        )


def check_tap(tap: Tap) -> None:
    """Refuses a tap that is not a map.

    Raises:
        OrtoscopeError: TAP_NOT_A_MAP.
    """
    if len(tap.site_axes) not in {0, 2}:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "TAP_NOT_A_MAP",
            f"Tap '{tap.display_name}' has {len(tap.site_axes)} site axes (layout {tap.layout.value}); dissection "
            "compares pixels and needs a tap with rows and columns, or a vector.",
            field="spec.tap",
            metadata={"tap": tap.tensor, "layout": tap.layout.value, "site_axes": str(len(tap.site_axes))},
        )


def check_threshold_count(thresholds: NDArray[np.float64], units: int) -> None:
    """Refuses given thresholds that are not one per unit.

    Raises:
        OrtoscopeError: THRESHOLD_COUNT.
    """
    if len(thresholds) != units:
        raise invalid(
            "THRESHOLD_COUNT",
            f"{len(thresholds)} thresholds were given for a tap of {units} units; give one per unit, in order.",
            field="spec.thresholds",
            thresholds=len(thresholds),
            units=units,
        )
