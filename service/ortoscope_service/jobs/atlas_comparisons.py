"""The job of a comparison: takes samples of each shard from both layers, and lays them out in one frame.

Both layers are run over the same images. The job's spec has the left one where every survey has its layer, and the
right one under `right`. The tasks themselves are in `jobs.atlas_comparison_tasks`, which takes a worker seconds to
load: others go without it.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ortoscope_service.analysis.execution import admitted
from ortoscope_service.jobs import surveys
from ortoscope_service.jobs.engine import Job, Stage
from ortoscope_service.jobs.provenance import execution_spec
from ortoscope_service.jobs.tasks import Outcome, Task, TaskContext

_ADMITTING = "comparing execution providers"
_COLLECTING = "taking samples"
_COMPARING = "comparing layers"
_COMPARING_COST = 0.2
"""Time that comparing the samples of an image takes beside running a model on it, as long as nothing was measured."""


def drive(job: Job) -> Outcome:
    """Compares two atlases.

    Returns:
        Artifacts: `arrays`, as `ortoscope.v1.AtlasComparison` has them. Values: those of `surveys.finish`, `samples`,
        `neighbourhood_agreement` and `procrustes_distance`.

    Raises:
        OrtoscopeError: As `surveys.begin` and `surveys.finish` raise; FAILED_PRECONDITION: `TOO_FEW_SHARED_SAMPLES`,
            `ATLAS_LOST`, as `collect_shard` and `lay_out` raise.
    """
    left = surveys.begin(job)
    execution = job.run(_ADMITTING, Task("admit-right"), remember=False).values["execution"]
    right = dataclasses.replace(left, execution=execution)
    job.plan([Stage(_COLLECTING, 2 * left.images, 1.0), Stage(_COMPARING, left.images, _COMPARING_COST)])
    tasks = [
        subject.shard_task(name, shard)
        for name, subject in (("collect-left", left), ("collect-right", right))
        for shard in range(left.shards)
    ]
    found = [outcome.artifacts["samples"] for outcome in job.map(_COLLECTING, tasks)]
    inputs = {f"left-{shard}": digest for shard, digest in enumerate(found[: left.shards])}
    inputs |= {f"right-{shard}": digest for shard, digest in enumerate(found[left.shards :])}
    compared = job.run(_COMPARING, left.task("compare", inputs=inputs, items=left.images))
    names = ("samples", "collection", "metric", "layout", "grid", "seed", "sites_per_image", "sites_seed")
    decisive = {name: job.spec[name] for name in names}
    other = {"model": job.spec["right"]["model_digest"], "tap": job.spec["right"]["tap"], "execution": execution}
    return surveys.finish(job, left, compared, {**decisive, "right": other})


def of_right(context: TaskContext) -> TaskContext:
    """A task's context as a task of a survey on the right layer has it; what it stores is the task's."""
    side = copy.copy(context)
    side.spec = {**context.spec, **context.spec["right"]}
    return side


def _admit_right(context: TaskContext) -> dict[str, Any]:
    """Task: how the right model is run, after the parity gate."""
    survey = surveys.open_survey(of_right(context))
    return {"execution": execution_spec(admitted(survey.version, survey.tap, survey.execution))}


def _collect_left(context: TaskContext) -> dict[str, Any]:
    """Task: the left layer's samples of a shard's images."""
    from ortoscope_service.jobs import atlas_comparison_tasks  # noqa: PLC0415

    return atlas_comparison_tasks.collect(context, "left")


def _collect_right(context: TaskContext) -> dict[str, Any]:
    """Task: the right layer's samples of a shard's images."""
    from ortoscope_service.jobs import atlas_comparison_tasks  # noqa: PLC0415

    return atlas_comparison_tasks.collect(of_right(context), "right")


def _compare(context: TaskContext) -> dict[str, Any]:
    """Task: the comparison."""
    from ortoscope_service.jobs import atlas_comparison_tasks  # noqa: PLC0415

    return atlas_comparison_tasks.compare(context)


TASKS: Mapping[str, Callable[[TaskContext], dict[str, Any]]] = {
    **surveys.TASKS,
    "admit-right": _admit_right,
    "collect-left": _collect_left,
    "collect-right": _collect_right,
    "compare": _compare,
}
"""What workers do for this job."""
