"""What jobs have in common: all that run a part of a model, and those that do so over the images of a dataset."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.execution import ExecutionConfig, admitted
from ortoscope_service.analysis.reading import Series
from ortoscope_service.analysis.shards import shard_positions, shards_of
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.taps import Tap
from ortoscope_service.jobs.engine import Job
from ortoscope_service.jobs.provenance import execution_from_spec, execution_spec, spec_digest
from ortoscope_service.jobs.tasks import Outcome, Task, TaskContext
from ortoscope_service.models.repository import ModelVersion

_READING = "reading the list of images"
_IDENTIFYING = "identifying the dataset"
_ADMITTING = "comparing execution providers"
_CHECKING = "looking for changes of the dataset"
PARITY = "parity"
"""Folder of the store in which the parity gate keeps its verdicts."""


def tap_spec(version: ModelVersion, tap: Tap, execution: ExecutionConfig) -> dict[str, Any]:
    """The part of a job's spec that says which part of which model is run, and how.

    Args:
        version: The model.
        tap: Where to look.
        execution: How the model shall be run, threads resolved.
    """
    return {
        "model": version.model,
        "version": version.version,
        "model_digest": version.manifest.digest,
        "tap": tap.tensor,
        "execution": execution_spec(execution),
    }


def survey_spec(
    version: ModelVersion, tap: Tap, dataset: str, splits: Sequence[str], execution: ExecutionConfig
) -> dict[str, Any]:
    """The part of a job's spec that says which images go through which part of which model, and how.

    Args:
        version: The model.
        tap: Where to look.
        dataset: Name of the dataset.
        splits: The splits that the images are chosen by; all if empty.
        execution: How the model shall be run, threads resolved.
    """
    return {**tap_spec(version, tap, execution), "dataset": dataset, "splits": list(splits)}


@dataclass(frozen=True)
class Subject:
    """What a job's driver knows of the images after the first tasks: all of it goes into the tasks that follow."""

    images: int
    """Number of images."""

    shards: int
    """Number of shards that they are worked on in."""

    signature: str
    """Changes when a file of the dataset does."""

    dataset_digest: str
    """Digest of the dataset."""

    execution: Mapping[str, Any]
    """How the model is run: by the provider asked for if it passed the parity gate."""

    def task(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        *,
        items: int = 0,
    ) -> Task:
        """A task on the images."""
        return Task(
            name,
            {"images": self.images, "execution": self.execution, **(arguments or {})},
            {"dataset": self.dataset_digest, **(inputs or {})},
            items,
        )

    def shard_task(self, name: str, shard: int, inputs: Mapping[str, str] | None = None) -> Task:
        """A task on the images of one shard."""
        items = len(shard_positions(self.images, self.shards, shard))
        return self.task(name, {"shard": shard, "shards": self.shards}, inputs, items=items)


def begin(job: Job) -> Subject:
    """The first tasks of a job: what is there, and how it is run.

    Raises:
        OrtoscopeError: NOT_FOUND: the model or dataset is gone; FAILED_PRECONDITION: the dataset cannot be read, or has
            no image; as `Job.run` raises.
    """
    scanned = job.run(_READING, Task("scan"), remember=False).values
    digest = _identify(job, scanned["signature"])
    execution = job.run(_ADMITTING, Task("admit"), remember=False).values["execution"]
    images = scanned["images"]
    return Subject(images, shards_of(images, execution["batch_size"]), scanned["signature"], digest, execution)


def finish(job: Job, subject: Subject, merged: Outcome, spec: Mapping[str, Any]) -> Outcome:
    """The last task of a job, and what it was computed from.

    Args:
        job: The job.
        subject: The images.
        merged: The outcome of the job.
        spec: What decides the numbers besides model, tap, images and execution.

    Returns:
        The outcome with the values of `provenance` added.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION, DATASET_CHANGED: the dataset was not the same all the time.
    """
    signature = job.run(_CHECKING, Task("scan"), remember=False).values["signature"]
    if signature != subject.signature and _identify(job, signature) != subject.dataset_digest:
        name = job.spec["dataset"]
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "DATASET_CHANGED",
            f"Files of datasets/{name} changed while they were read, so the result belongs to no dataset that exists. "
            "Try again when they are at rest.",
            metadata={"dataset": name},
        )
    return replace(merged, values={**merged.values, **provenance(job, subject, spec)})


def provenance(job: Job, subject: Subject, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a result was computed from: the values `items`, `execution`, `dataset_digest` and `spec_digest`.

    Args:
        job: The job.
        subject: The images.
        spec: What decides the numbers besides model, tap, images and execution.
    """
    decisive = {
        "verb": job.verb,
        "model": job.spec["model_digest"],
        "tap": job.spec["tap"],
        "splits": job.spec["splits"],
        "dataset": subject.dataset_digest,
        "execution": subject.execution,
        **spec,
    }
    return {
        "items": subject.images,
        "execution": subject.execution,
        "dataset_digest": subject.dataset_digest,
        "spec_digest": spec_digest(decisive),
    }


def _identify(job: Job, signature: str) -> str:
    task = Task("identify", {"dataset": job.spec["dataset"], "signature": signature})
    digest: str = job.run(_IDENTIFYING, task, beyond_job=True).values["digest"]
    return digest


@dataclass(frozen=True)
class Survey:
    """A pass of a model over images of a dataset, as a worker sees it."""

    version: ModelVersion
    """The model."""

    tap: Tap
    """Where to look."""

    dataset: Dataset
    """The images."""

    indices: NDArray[np.int64]
    """(images,) int64, which of them."""

    execution: ExecutionConfig
    """How the model is run."""

    def shard(self, context: TaskContext) -> NDArray[np.int64]:
        """(n,) int64, indices of the images of the task's shard."""
        return self._shard(context, context.arguments["shard"])

    def series(self, context: TaskContext) -> Series | None:
        """What the worker is likely to be given next; None if it shall not guess."""
        if not self.execution.read_ahead:
            return None
        following = context.arguments["shard"] + context.environment.read_ahead
        known = following < context.arguments["shards"]
        return Series(context.operation, self._shard(context, following) if known else self.indices[:0])

    def _shard(self, context: TaskContext, shard: int) -> NDArray[np.int64]:
        return self.indices[shard_positions(context.arguments["images"], context.arguments["shards"], shard)]


@dataclass(frozen=True)
class OpenedTap:
    """A part of a model, as a worker sees it."""

    version: ModelVersion
    """The model."""

    tap: Tap
    """Where to look."""

    execution: ExecutionConfig
    """How the model is run."""


def open_tap(context: TaskContext) -> OpenedTap:
    """The part of a model that a task's spec names.

    Raises:
        OrtoscopeError: NOT_FOUND; FAILED_PRECONDITION, MODEL_CHANGED.
    """
    spec = context.spec
    version = context.models.get(spec["model"], spec["version"])
    if version.manifest.digest != spec["model_digest"]:
        raise _changed("MODEL_CHANGED", f"models/{spec['model']}/versions/{spec['version']}")
    tap = next(tap for tap in version.manifest.taps if tap.tensor == spec["tap"])
    environment = context.environment
    execution = execution_from_spec(
        context.arguments.get("execution", spec["execution"]),
        Path(environment.store) / PARITY,
        environment.read_ahead > 0,
    )
    return OpenedTap(version, tap, execution)


def open_survey(context: TaskContext) -> Survey:
    """What a task's spec names.

    Raises:
        OrtoscopeError: As `open_tap` raises; NOT_FOUND; FAILED_PRECONDITION: DATASET_CHANGED, PROVIDERS_DISAGREE,
            DATASET_UNREADABLE.
    """
    spec, opened = context.spec, open_tap(context)
    version, tap, execution = opened.version, opened.tap, opened.execution
    dataset = context.datasets.get(spec["dataset"])
    indices = _selected(dataset, tuple(spec["splits"]))
    if context.arguments.get("images", len(indices)) != len(indices):
        raise _changed("DATASET_CHANGED", f"datasets/{spec['dataset']}")
    if "shard" in context.arguments:
        _check_provider(admitted(version, tap, execution), execution)
    return Survey(version, tap, dataset, indices, execution)


def _scan(context: TaskContext) -> dict[str, Any]:
    """Task: how many images there are, and the signature of the dataset's files."""
    survey = open_survey(context)
    return {"images": len(survey.indices), "signature": survey.dataset.signature(context.alive)}


def _identify_files(context: TaskContext) -> dict[str, Any]:
    """Task: the digest of the dataset."""
    return {"digest": context.datasets.get(context.arguments["dataset"]).digest(context.alive)}


def _admit(context: TaskContext) -> dict[str, Any]:
    """Task: how the model is run, after the parity gate."""
    survey = open_survey(context)
    return {"execution": execution_spec(admitted(survey.version, survey.tap, survey.execution))}


TASKS: Mapping[str, Callable[[TaskContext], dict[str, Any]]] = {
    "scan": _scan,
    "identify": _identify_files,
    "admit": _admit,
}
"""What workers do for every job over the images of a dataset."""


@functools.lru_cache(maxsize=8)
def _selected(dataset: Dataset, splits: tuple[str, ...]) -> NDArray[np.int64]:
    indices = dataset.select(splits)
    indices.setflags(write=False)
    return indices


def _check_provider(found: ExecutionConfig, wanted: ExecutionConfig) -> None:
    """Refuses to compute by another execution provider than the result will name."""
    if found.session.providers != wanted.session.providers:
        names = [", ".join(execution.session.providers) for execution in (wanted, found)]
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "PROVIDERS_DISAGREE",
            f"The operation is computed by {names[0]}, but a worker's machine passes only {names[1]} for it. "
            "Give all workers the same hardware, or choose another execution provider.",
            metadata={"wanted": names[0], "found": names[1]},
        )


def _changed(reason: str, what: str) -> OrtoscopeError:
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        reason,
        f"{what} is no longer what it was when the operation was asked for. Ask again.",
        metadata={"resource": what},
    )
