"""A whole dissection in one process: one pass of the model over the images, in one shard or several."""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.dissection.counting import Counts, count_shard, merge_counts
from ortoscope_service.analysis.dissection.scores import intersection_over_union
from ortoscope_service.analysis.dissection.spec import DissectionSpec
from ortoscope_service.analysis.dissection.survey import check_tap, check_threshold_count, survey_shard
from ortoscope_service.analysis.dissection.thresholds import Thresholds, thresholds_from
from ortoscope_service.analysis.execution import ExecutionConfig, Progress, Timings
from ortoscope_service.datasets.dataset import LabelledDataset
from ortoscope_service.graph.taps import Tap
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation

__all__ = ["DissectionResult", "DissectionSpec", "check_tap", "check_threshold_count", "dissect", "finish"]


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
    """Dissects a tap on the images `indices` of a labelled dataset, mode "exact", as one shard.

    Args:
        version: The model.
        tap: Where to look; a map with two site axes, or a vector, which counts as a map of one site.
        dataset: The labelled images.
        indices: Which of them, (images,) int64; at least one.
        spec: What to compute.
        execution: How the model is run.
        workspace: Folder for the maps that are set aside, which are gone when it ends.
        progress: Told after every batch.
        cancellation: Stops the work.

    Raises:
        OrtoscopeError: TAP_NOT_A_MAP, IMAGE_CROPPED, THRESHOLD_COUNT, THRESHOLDS_TOO_LARGE, ACTIVATION_NOT_FINITE,
            CANCELLED, a damaged image or label plane.
        OSError: The disk is full.
    """
    with tempfile.TemporaryFile(dir=workspace) as maps_file:
        survey = survey_shard(
            version, tap, dataset, indices, spec, len(indices), None, execution, maps_file,
            progress=progress, cancellation=cancellation,
        )  # fmt: skip
        began = time.perf_counter()
        # One shard has all values that matter: none of its units can be incomplete.
        thresholds = thresholds_from([lambda: survey], spec, len(indices))
        survey.timings.own += time.perf_counter() - began
        maps_file.seek(0)
        shard = count_shard(
            survey, maps_file, dataset, indices, thresholds,
            progress=progress, cancellation=cancellation, timings=survey.timings, read_ahead=execution.read_ahead,
        )  # fmt: skip
    return finish(thresholds, merge_counts([lambda: shard], thresholds), dataset, len(indices), survey.timings)


def finish(
    thresholds: Thresholds, counts: Counts, dataset: LabelledDataset, images: int, timings: Timings | None = None
) -> DissectionResult:
    """The result of a dissection.

    Args:
        thresholds: The thresholds that the pixels were counted with.
        counts: The counts of all images.
        dataset: The labelled images.
        images: How many of them.
        timings: Where the time went.
    """
    constant = thresholds.minimum == thresholds.maximum
    return DissectionResult(
        threshold=thresholds.value,
        activation_pixels=counts.activation_pixels,
        concept_pixels=counts.concept_pixels,
        intersection=counts.intersection,
        iou=intersection_over_union(
            counts.intersection, counts.activation_pixels, counts.concept_pixels, dataset.concepts.category
        ),
        saturated=(thresholds.value >= thresholds.maximum) & ~constant,
        constant=constant,
        example_image=thresholds.example_image,
        example_value=thresholds.example_value,
        example_mask=counts.example_mask,
        mask_shape=dataset.mask_shape,
        images=images,
        timings=timings or Timings(),
    )
