"""The job that adds samples to an atlas, in its frame: the map stays where people know it.

The samples of the base are taken again, from its own images, and must be those that it has; the new ones are placed
among them. Cells are averaged over both, and icons drawn for those cells whose direction moved. The job's spec is that
of an atlas of the new images (`jobs.atlases`), with the base under `base`.

The tasks themselves are in `jobs.atlas_appending_tasks`, which takes a worker seconds to load: others go without it.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from ortoscope_service.analysis.shards import shards_of
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs import surveys
from ortoscope_service.jobs.engine import Job, Stage
from ortoscope_service.jobs.tasks import Outcome, Task, TaskContext

_READING = "reading the list of images"
_IDENTIFYING = "identifying the dataset"
_COLLECTING = "taking samples"
_PLACING = "placing samples"
_GRIDDING = "averaging over cells"
_DRAWING = "drawing icons"
_PACKING = "packing icons"

_PLACING_COST = 0.1
"""Time that placing the samples of an image takes beside running the model on it, as long as nothing was measured."""

_DECISIVE = ("grids", "sites_per_image", "settings", "icon_preset", "attribution", "seed", "base")


def drive(job: Job) -> Outcome:
    """Adds samples to an atlas.

    Returns:
        As `atlases.drive`, of both kinds of samples together.

    Raises:
        OrtoscopeError: As `atlases.drive` raises; FAILED_PRECONDITION: BASE_CHANGED, ATLAS_LOST.
    """
    subject = surveys.begin(job)
    base = _begin_base(job, subject)
    job.plan(
        [
            Stage(_COLLECTING, base.images + subject.images, 1.0),
            Stage(_PLACING, base.images + subject.images, _PLACING_COST),
        ]
    )
    tasks = [base.shard_task("collect-base", shard) for shard in range(base.shards)]
    tasks += [subject.shard_task("collect", shard) for shard in range(subject.shards)]
    found = [outcome.artifacts["samples"] for outcome in job.map(_COLLECTING, tasks)]
    shards = {f"base-{number}": digest for number, digest in enumerate(found[: base.shards])}
    shards |= {f"new-{number}": digest for number, digest in enumerate(found[base.shards :])}
    placed = job.run(_PLACING, subject.task("combine", inputs=shards, items=base.images + subject.images))
    decisive = {name: job.spec[name] for name in _DECISIVE}
    values = {**placed.values, **surveys.provenance(job, subject, decisive)}
    artifacts = {role: placed.artifacts[role] for role in ("samples", "frame")}
    levels: list[dict[str, Any]] = []
    for number, grid in enumerate(job.spec["grids"]):
        inputs = {role: placed.artifacts[role] for role in ("activations", "samples", "space")}
        if number:
            inputs["parent"] = artifacts[f"cells.{number - 1}"]
        inputs["base"] = base.dataset_digest
        gridded = job.run(_GRIDDING, subject.task("grid", {"level": number, "grid": grid}, inputs))
        artifacts |= {_role(role, number): digest for role, digest in gridded.artifacts.items()}
        levels.append(dict(gridded.values))

    def state(*, complete: bool) -> Outcome:
        published = {role: digest for role, digest in artifacts.items() if not role.startswith("plan.")}
        return Outcome(published, {**values, "levels": levels, "complete": complete})

    if job.spec["icon_preset"] is not None:
        job.publish(state(complete=False))
        for number, level in enumerate(levels):
            inputs = {name: artifacts[f"{name}.{number}"] for name in ("cells", "plan")}
            inputs["space"] = placed.artifacts["space"]
            drawn = job.map(
                _DRAWING,
                [
                    Task("draw", {"execution": subject.execution, "level": number, "part": part}, inputs, items=size)
                    for part, size in enumerate(level["parts"])
                ],
            )
            parts = {str(part): outcome.artifacts["icons"] for part, outcome in enumerate(drawn)}
            sheet = job.run(_PACKING, subject.task("sheet", {"level": number}, {**inputs, **parts}))
            artifacts |= {_role(role, number): digest for role, digest in sheet.artifacts.items()}
            levels[number] = {**level, **sheet.values}
    return surveys.finish(job, subject, state(complete=True), decisive)


def _role(role: str, number: int) -> str:
    """What an artifact of a level is called among those of all levels: `cells.0`, `icons.0.3`."""
    first, dot, rest = role.partition(".")
    return f"{first}.{number}{dot}{rest}"


def of_base(context: TaskContext) -> TaskContext:
    """A task's context as a task of the base's survey has it; what it stores is the task's."""
    base = copy.copy(context)
    base.spec = {**context.spec, **context.spec["base"]["survey"]}
    return base


def _begin_base(job: Job, subject: surveys.Subject) -> surveys.Subject:
    """The images of the base, which must be those that it was built from."""
    spec = job.spec["base"]
    scanned = job.run(_READING, Task("scan-base"), remember=False).values
    identify = Task("identify", {"dataset": spec["survey"]["dataset"], "signature": scanned["signature"]})
    digest: str = job.run(_IDENTIFYING, identify, beyond_job=True).values["digest"]
    if digest != spec["dataset_digest"]:
        raise base_changed(spec["atlas"])
    shards = shards_of(scanned["images"], subject.execution["batch_size"])
    return surveys.Subject(scanned["images"], shards, scanned["signature"], digest, subject.execution)


def base_changed(atlas: str) -> OrtoscopeError:
    """The error for a base whose samples cannot be had again."""
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "BASE_CHANGED",
        f"The images that {atlas} was built from are no longer what they were, so its samples cannot be joined with "
        "others. Put them back, or build an atlas of all images anew.",
        field="spec.base_atlas",
        metadata={"atlas": atlas},
    )


def _scan_base(context: TaskContext) -> dict[str, Any]:
    """Task: how many images the base has, and the signature of its files."""
    return surveys.TASKS["scan"](of_base(context))


def _task(name: str) -> Callable[[TaskContext], dict[str, Any]]:
    """A task of `jobs.atlas_appending_tasks`."""

    def run(context: TaskContext) -> dict[str, Any]:
        from ortoscope_service.jobs import atlas_appending_tasks  # noqa: PLC0415

        return atlas_appending_tasks.TASKS[name](context)

    return run


TASKS: Mapping[str, Callable[[TaskContext], dict[str, Any]]] = {
    **surveys.TASKS,
    "scan-base": _scan_base,
    **{name: _task(name) for name in ("collect", "collect-base", "combine", "grid", "draw", "sheet")},
}
"""What workers do for this job."""
