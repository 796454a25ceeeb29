"""What an operation over a dataset works on: a tap and some images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.api import resources
from ortoscope_service.api.components import Components, blaming, version_name
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.taps import Tap, resolve_tap
from ortoscope_service.models.repository import ModelVersion


@dataclass(frozen=True)
class Subject:
    """What an operation over a dataset works on."""

    version: ModelVersion
    """The model."""

    tap: Tap
    """Where to look."""

    dataset: Dataset
    """The images."""

    indices: NDArray[np.int64]
    """Which of them, (images,) int64; at least one."""

    tap_name: resources.TapName
    """The tap's resource name in full, by tensor and with the version."""

    dataset_name: resources.DatasetName
    """The dataset's resource name."""


def resolve_subject(components: Components, tap: str, dataset: str, splits: Sequence[str]) -> Subject:
    """Finds what the fields `spec.tap`, `spec.dataset` and `spec.splits` of a request name.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: INVALID_NAME, UNKNOWN_SPLIT; NOT_FOUND; FAILED_PRECONDITION:
            MODEL_INPUT_NOT_IMAGE, DATASET_UNREADABLE, NO_IMAGES.
    """
    name = resources.parse_tap(tap, field="spec.tap")
    dataset_name = resources.parse_dataset(dataset, field="spec.dataset")
    version = components.model_version(name.model, field="spec.tap")
    resolved = resolve_tap(version.manifest.taps, name.tap, field="spec.tap")
    with blaming("spec.tap"):
        _ = version.image_input
    opened = components.dataset(dataset_name, field="spec.dataset")
    with blaming("spec.splits"):
        indices = opened.select(splits)
    if not len(indices):
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "NO_IMAGES",
            f"No image of {dataset_name} is in the splits {', '.join(splits) or '(all)'}.",
            field="spec.splits",
            metadata={"dataset": dataset_name.dataset},
        )
    tap_name = resources.TapName(version_name(version), resolved.tensor)
    return Subject(version, resolved, opened, indices, tap_name, dataset_name)
