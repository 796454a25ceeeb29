"""The job of a dissection: runs it, packs its arrays, counts its detectors."""

from dataclasses import dataclass

import numpy as np

from ortoscope_service.analysis.dissection.pipeline import DissectionResult, DissectionSpec, dissect
from ortoscope_service.analysis.dissection.scores import DetectorCount, count_by_best_label, count_per_category
from ortoscope_service.datasets.dataset import ConceptTable, LabelledDataset
from ortoscope_service.jobs.artifacts import pack_arrays
from ortoscope_service.jobs.provenance import Computation
from ortoscope_service.jobs.runner import JobContext
from ortoscope_service.jobs.surveys import Survey

MODE = "exact"
"""The convention by which pixels are counted."""


@dataclass(frozen=True)
class FinishedDissection:
    """A dissection as it is stored."""

    units: int
    """Number of units."""

    concepts: int
    """Number of concepts."""

    category_names: tuple[str, ...]
    """Names of the categories."""

    best_label: DetectorCount
    """Detectors, each unit counted once."""

    per_category: DetectorCount
    """Detectors, each category counted on its own."""

    saturated: int
    """Units that saturate."""

    constant: int
    """Units of one value."""

    arrays: bytes
    """The counts, .npz."""

    examples: bytes
    """The top images and their masks, .npz."""

    computation: Computation
    """What it was computed from."""


def run_dissection(
    survey: Survey, dataset: LabelledDataset, spec: DissectionSpec, iou_threshold: float, context: JobContext
) -> FinishedDissection:
    """Dissects a tap and packs the result.

    Args:
        survey: The model, tap and images.
        dataset: The images' dataset, labelled.
        spec: What to compute.
        iou_threshold: The IoU above which a unit counts as a detector.
        context: The job.

    Raises:
        OrtoscopeError: As `dissect` and `Survey.run` raise.
        OSError: The disk is full.
    """
    given = None if spec.thresholds is None else spec.thresholds.tolist()
    specification = {
        "mode": MODE,
        "top_fraction": spec.top_fraction if given is None else None,
        "thresholds": given,
        "iou_threshold": iou_threshold,
        "examples_per_unit": spec.examples_per_unit,
    }
    result, computation = survey.run(
        "dissect",
        specification,
        context,
        lambda execution: dissect(
            survey.version,
            survey.tap,
            dataset,
            survey.indices,
            spec,
            execution,
            workspace=context.workspace,
            progress=context.progress,
            cancellation=context.cancellation,
        ),
    )
    concepts = dataset.concepts
    categories = len(concepts.category_name)
    return FinishedDissection(
        units=len(result.threshold),
        concepts=len(concepts.number),
        category_names=concepts.category_name,
        best_label=count_by_best_label(result.iou, concepts.category, categories, iou_threshold),
        per_category=count_per_category(result.iou, concepts.category, categories, iou_threshold),
        saturated=int(result.saturated.sum()),
        constant=int(result.constant.sum()),
        arrays=_pack_counts(result, concepts),
        examples=_pack_examples(result),
        computation=computation,
    )


def _pack_counts(result: DissectionResult, concepts: ConceptTable) -> bytes:
    return pack_arrays(
        {
            "threshold": result.threshold,
            "activation_pixels": result.activation_pixels,
            "concept_pixels": result.concept_pixels,
            "intersection": result.intersection,
            "iou": result.iou,
            "concept_number": concepts.number,
            "concept_name": np.array(concepts.name, np.str_),
            "concept_category": concepts.category,
            "category_name": np.array(concepts.category_name, np.str_),
            "saturated": result.saturated,
            "constant": result.constant,
        }
    )


def _pack_examples(result: DissectionResult) -> bytes:
    return pack_arrays(
        {
            "image": result.example_image,
            "value": result.example_value,
            "mask": result.example_mask,
            "mask_shape": np.array(result.mask_shape, np.int64),
        }
    )
