"""A whole dissection in one pass of the model over the images."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.dissection.scores import intersection_over_union
from ortoscope_service.analysis.dissection.spool import Spool
from ortoscope_service.analysis.dissection.tally import Tally
from ortoscope_service.analysis.execution import (
    ActivationBatch,
    ExecutionConfig,
    Progress,
    Timings,
    not_finite,
    stream_maps,
)
from ortoscope_service.datasets.dataset import LabelledDataset
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.statistics.order_statistics import LargestValues, NotFiniteError, QuantilePosition
from ortoscope_service.statistics.top_k import TopK

MAX_THRESHOLD_BYTES = 4 * 1024**3
"""Most memory that the exact thresholds may take: 16 times what 2048 units of 7 x 7 sites on all of Broden need."""


@dataclass(frozen=True)
class DissectionSpec:
    """What to compute."""

    top_fraction: float = 0.005
    """Share of a unit's activations that lies above its threshold (the paper's choice)."""

    thresholds: NDArray[np.float64] | None = None
    """(U,) float64, thresholds to use instead."""

    examples_per_unit: int = 5
    """Top images kept for each unit, with their masks."""


@dataclass(frozen=True)
class DissectionResult:
    """The counts and scores of U units, K concepts, C categories, and E examples per unit."""

    threshold: NDArray[np.float64]
    """(U,) float64."""

    activation_pixels: NDArray[np.int64]
    """(U, C) int64: pixels of the unit's mask in images that carry a label of the category."""

    concept_pixels: NDArray[np.int64]
    """(K,) int64: pixels with the concept."""

    intersection: NDArray[np.int64]
    """(U, K) int64: pixels with both."""

    iou: NDArray[np.float64]
    """(U, K) float64."""

    saturated: NDArray[np.bool_]
    """(U,) bool: the threshold is the largest value that the unit takes, so its mask is empty; constant units aside."""

    constant: NDArray[np.bool_]
    """(U,) bool: the unit has one and the same value everywhere."""

    example_image: NDArray[np.int64]
    """(U, E) int64: the images with the unit's largest values, descending; -1 where there are fewer."""

    example_value: NDArray[np.float32]
    """(U, E) float32: those values."""

    example_mask: NDArray[np.uint8]
    """(U, E, bytes) uint8: the unit's mask in them, packed eight pixels to a byte in row-major order."""

    mask_shape: tuple[int, int]
    """Rows and columns of a mask."""

    images: int
    """Number of images."""

    timings: Timings = field(default_factory=Timings, compare=False)
    """Where the time went."""


def dissect(
    version: ModelVersion,
    tap: Tap,
    dataset: LabelledDataset,
    indices: NDArray[np.int64],
    spec: DissectionSpec,
    execution: ExecutionConfig,
    *,
    workspace: Path,
    progress: Progress,
    cancellation: Cancellation,
) -> DissectionResult:
    """Dissects a tap on the images `indices` of a labelled dataset, mode "exact".

    Args:
        version: The model.
        tap: Where to look; a map with two site axes, or a vector, which counts as a map of one site.
        dataset: The labelled images.
        indices: Which of them, (images,) int64; at least one.
        spec: What to compute.
        execution: How the model is run.
        workspace: Folder for the spool.
        progress: Told after every batch.
        cancellation: Stops the work.

    Raises:
        OrtoscopeError: TAP_NOT_A_MAP, IMAGE_CROPPED, THRESHOLD_COUNT, THRESHOLDS_TOO_LARGE, ACTIVATION_NOT_FINITE,
            CANCELLED, a damaged image or label plane.
        OSError: The disk is full.
    """
    check_tap(tap)
    timings = Timings()
    survey: _Survey | None = None
    done = 0
    progress("activating", done, len(indices))
    with Spool(workspace) as spool:
        batches = stream_maps(version, tap, dataset, indices, execution, cancellation, timings, whole_images=True)
        for batch in batches:
            began = time.perf_counter()
            survey = survey or _Survey(batch, len(indices), spec)
            try:
                survey.take(batch, spool)
            except NotFiniteError as error:
                raise not_finite(dataset, int(batch.indices[error.image]), error.unit, tap) from error
            done += len(batch.indices)
            progress("activating", done, len(indices))
            timings.own += time.perf_counter() - began
        assert survey is not None  # there is at least one image

        began = time.perf_counter()
        decoding_images = timings.decode
        threshold = survey.thresholds()
        tally = Tally(threshold, survey.site_shape, dataset.mask_shape, dataset.concepts, survey.top.item)
        for done, (index, (units, maps)) in enumerate(zip(indices, spool.images(survey.site_shape), strict=True)):
            cancellation.raise_if_cancelled()
            progress("counting", done, len(indices))
            decoding = time.perf_counter()
            labels = dataset.read_labels(int(index))
            timings.decode += time.perf_counter() - decoding
            above = maps.max(axis=(1, 2), initial=-np.inf) > threshold[units]
            tally.add(int(index), labels, units[above], maps[above])
        progress("counting", len(indices), len(indices))
        timings.own += time.perf_counter() - began - (timings.decode - decoding_images)

    constant = survey.largest.minimum == survey.largest.maximum
    return DissectionResult(
        threshold=threshold,
        activation_pixels=tally.activation_pixels,
        concept_pixels=tally.concept_pixels,
        intersection=tally.intersection,
        iou=intersection_over_union(
            tally.intersection, tally.activation_pixels, tally.concept_pixels, dataset.concepts.category
        ),
        saturated=(threshold >= survey.largest.maximum) & ~constant,
        constant=constant,
        example_image=survey.top.item,
        example_value=survey.top.value,
        example_mask=tally.example_mask,
        mask_shape=dataset.mask_shape,
        images=len(indices),
        timings=timings,
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


class _Survey:
    """What the pass of the model finds out: thresholds, top images, and which maps the tally will need."""

    def __init__(self, first: ActivationBatch, images: int, spec: DissectionSpec) -> None:
        _, units, sites = first.maps.shape
        rows, columns = first.site_shape or (1, 1)
        self.site_shape = (rows, columns)
        self._given = spec.thresholds
        if self._given is not None:
            check_threshold_count(self._given, units)
        # Given thresholds need no quantile, but the smallest and largest values are wanted all the same.
        self._position = QuantilePosition.of(1 - spec.top_fraction, images * sites)
        depth = self._position.depth if self._given is None else 1
        needed = LargestValues.bytes_needed(units, depth)
        if needed > MAX_THRESHOLD_BYTES:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "THRESHOLDS_TOO_LARGE",
                f"Exact thresholds of {units} units over {images * sites} values each would take {needed} bytes of "
                f"memory, more than {MAX_THRESHOLD_BYTES}; choose fewer images (splits) or give the thresholds.",
                field="spec.top_fraction",
                metadata={"needed": str(needed), "limit": str(MAX_THRESHOLD_BYTES)},
            )
        self.largest = LargestValues(units, depth)
        self.top = TopK(units, spec.examples_per_unit)

    def take(self, batch: ActivationBatch, spool: Spool) -> None:
        """Takes in a batch; maps that no threshold can be below any more are not spooled."""
        peak = self.largest.update(batch.maps)
        self.top.update(peak, batch.indices)
        bar = self.largest.floor if self._given is None else self._given
        for image in range(len(batch.indices)):
            units = np.flatnonzero(peak[image] > bar)
            spool.append(units, batch.maps[image, units])

    def thresholds(self) -> NDArray[np.float64]:
        """The threshold of each unit, (U,) float64."""
        return self.largest.quantile(self._position) if self._given is None else self._given
