"""What every job over a dataset does around its analysis: identity of the images, times, provenance."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.execution import ExecutionConfig, admitted
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.taps import Tap
from ortoscope_service.jobs.provenance import Computation, execution_spec, spec_digest
from ortoscope_service.jobs.runner import JobContext
from ortoscope_service.models.repository import ModelVersion

Result = TypeVar("Result")


@dataclass(frozen=True)
class Survey:
    """A pass of a model over images of a dataset."""

    version: ModelVersion
    """The model."""

    tap: Tap
    """Where to look."""

    dataset: Dataset
    """The images."""

    dataset_name: str
    """Resource name of the dataset."""

    splits: tuple[str, ...]
    """The splits that the images were chosen by; all if empty."""

    indices: NDArray[np.int64]
    """(images,) int64, which of them."""

    execution: ExecutionConfig
    """How the model shall be run, threads resolved."""

    def run(
        self, verb: str, spec: Mapping[str, object], context: JobContext, analyse: Callable[[ExecutionConfig], Result]
    ) -> tuple[Result, Computation]:
        """Runs an analysis and tells what it was computed from.

        Args:
            verb: What is done, part of the specification.
            spec: Everything that decides the numbers besides model, tap, images and execution.
            context: The job.
            analyse: The analysis, given how the model is run.

        Raises:
            OrtoscopeError: FAILED_PRECONDITION, DATASET_CHANGED: the dataset's files changed meanwhile.
        """
        start_time = time.time()
        context.progress("identifying the dataset", 0, len(self.indices))
        dataset_digest = self.dataset.digest()
        execution = admitted(self.version, self.tap, self.execution)
        result = analyse(execution)
        if self.dataset.digest() != dataset_digest:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "DATASET_CHANGED",
                f"Files of {self.dataset_name} changed while they were read, so the result belongs to no dataset that "
                "exists. Try again when they are at rest.",
                metadata={"dataset": self.dataset_name},
            )
        specification = {
            "verb": verb,
            "model": self.version.manifest.digest,
            "tap": self.tap.tensor,
            "dataset": dataset_digest,
            "splits": list(self.splits),
            "execution": execution_spec(execution),
            **spec,
        }
        preprocessing = self.version.image_input.preprocessing
        computation = Computation(
            execution=execution,
            spec_digest=spec_digest(specification),
            preprocessing=preprocessing.describe() if preprocessing is not None else "",
            items=len(self.indices),
            start_time=start_time,
            end_time=time.time(),
            dataset=self.dataset_name,
            dataset_digest=dataset_digest,
        )
        return result, computation
