"""The job of finding examples: runs it and packs its arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.examples import Examples, ExamplesSpec, find_examples
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.jobs.artifacts import pack_arrays
from ortoscope_service.jobs.provenance import Computation
from ortoscope_service.jobs.runner import JobContext
from ortoscope_service.jobs.surveys import Survey


@dataclass(frozen=True)
class FinishedExamples:
    """Examples as they are stored."""

    units: int
    """Number of units."""

    arrays: bytes
    """The examples, .npz."""

    places: bytes
    """What it takes to show them without the dataset, .npz: `site_shape`, and the `path` of every `image` named."""

    computation: Computation
    """What they were computed from."""


def run_examples(survey: Survey, spec: ExamplesSpec, context: JobContext) -> FinishedExamples:
    """Finds the examples of every unit and packs them.

    Args:
        survey: The model, tap and images.
        spec: What to find.
        context: The job.

    Raises:
        OrtoscopeError: As `find_examples` and `Survey.run` raise.
    """
    found, computation = survey.run(
        "find-examples",
        {"count": spec.count, "reduction": spec.reduction},
        context,
        lambda execution: find_examples(
            survey.version,
            survey.tap,
            survey.dataset,
            survey.indices,
            spec,
            execution,
            progress=context.progress,
            cancellation=context.cancellation,
        ),
    )
    return FinishedExamples(
        units=len(found.most_image),
        arrays=_pack_examples(found),
        places=_pack_places(found, survey.dataset),
        computation=computation,
    )


def _pack_examples(found: Examples) -> bytes:
    arrays: dict[str, NDArray[Any] | None] = {
        "most_image": found.most_image,
        "most_value": found.most_value,
        "most_site": found.most_site,
        "least_image": found.least_image,
        "least_value": found.least_value,
        "least_site": found.least_site,
    }
    return pack_arrays({name: array for name, array in arrays.items() if array is not None})


def _pack_places(found: Examples, dataset: Dataset) -> bytes:
    images = np.unique(np.concatenate([found.most_image, found.least_image], axis=None))
    images = images[images >= 0]
    paths = [dataset.path(int(image)) for image in images]
    return pack_arrays(
        {
            "site_shape": np.array(found.site_shape, np.int64),
            "image": images,
            "path": np.array(paths, np.str_),
        }
    )
