"""The job of a projection: takes samples of each shard, places them all in an atlas, and compares densities.

The tasks themselves are in `jobs.atlas_projection_tasks`, which takes a worker seconds to load: others go without it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ortoscope_service.jobs import surveys
from ortoscope_service.jobs.engine import Job, Stage
from ortoscope_service.jobs.tasks import Outcome, TaskContext

_COLLECTING = "taking samples"
_PLACING = "placing samples"
_PLACING_COST = 0.02
"""Time that placing the samples of an image takes beside running the model on it, as long as nothing was measured."""


def drive(job: Job) -> Outcome:
    """Projects samples into an atlas.

    Returns:
        Artifacts: `arrays`, as `ortoscope.v1.AtlasProjection` has them. Values: those of `surveys.finish`, `samples`,
        `changed_cells`, and `off_map`, a list of the rate and both ends of its interval.

    Raises:
        OrtoscopeError: As `surveys.begin` and `surveys.finish` raise; FAILED_PRECONDITION: `NO_SAMPLES`, `ATLAS_LOST`,
            as `collect_shard` raises.
    """
    subject = surveys.begin(job)
    job.plan([Stage(_COLLECTING, subject.images, 1.0), Stage(_PLACING, subject.images, _PLACING_COST)])
    found = job.map(_COLLECTING, [subject.shard_task("collect", shard) for shard in range(subject.shards)])
    inputs = {str(shard): outcome.artifacts["samples"] for shard, outcome in enumerate(found)}
    placed = job.run(_PLACING, subject.task("place", inputs=inputs, items=subject.images))
    names = ("atlas", "frame", "samples", "levels", "sites_per_image", "collection", "seed")
    return surveys.finish(job, subject, placed, {name: job.spec[name] for name in names})


def _collect(context: TaskContext) -> dict[str, Any]:
    """Task: the samples of a shard's images."""
    from ortoscope_service.jobs import atlas_projection_tasks  # noqa: PLC0415

    return atlas_projection_tasks.collect(context)


def _place(context: TaskContext) -> dict[str, Any]:
    """Task: the samples of all images in the atlas."""
    from ortoscope_service.jobs import atlas_projection_tasks  # noqa: PLC0415

    return atlas_projection_tasks.place(context)


TASKS: Mapping[str, Callable[[TaskContext], dict[str, Any]]] = {
    **surveys.TASKS,
    "collect": _collect,
    "place": _place,
}
"""What workers do for this job."""
