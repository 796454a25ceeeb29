"""The job of an atlas: samples, layout, cells, and level after level of icons, each published as soon as it is there.

The tasks themselves are in `jobs.atlas_tasks`, which takes a worker seconds to load: others go without it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ortoscope_service.jobs import surveys
from ortoscope_service.jobs.engine import Job, Stage
from ortoscope_service.jobs.tasks import Outcome, Task, TaskContext

_COLLECTING = "taking samples"
_LAYING_OUT = "laying out samples"
_GRIDDING = "averaging over cells"
_DRAWING = "drawing icons"

_LAYOUT_COST = 0.2
"""Time that laying out the samples of an image takes beside running the model on it, until it is measured."""

_ICON_COST = 20.0
"""Time that an icon takes beside running the model on an image, likewise."""

_FILLED = 0.7
"""Share of a grid's cells that are taken to be filled before they are counted (Distill's: 72 %)."""

_FEW_OF_A_CELL = 3
"""Samples of a cell, on average, below which a level has a remark."""

_DECISIVE = ("grids", "sites_per_image", "settings", "icon_preset", "attribution", "class_filter", "gradient", "seed")
"""Parts of the spec that decide an atlas besides model, tap, images and execution."""


def drive(job: Job) -> Outcome:
    """Builds an atlas.

    Returns:
        Artifacts: `samples` and `frame` (none of a gradient atlas), `cells.N` of each level N from 0, and the sheets
        `crops.N.K` and `icons.N.K`, as `ortoscope.v1.Atlas` has them. Values: those of `surveys.finish`, what
        the task `lay-out` told, `complete`, and `levels`: what `atlas_tasks.grid` and `atlas_tasks.sheet` told of
        each.

    Raises:
        OrtoscopeError: As `surveys.begin` and `surveys.finish` raise; as the functions of `analysis.atlas` do.
    """
    spec, subject = job.spec, surveys.begin(job)
    with_icons = spec["icon_preset"] is not None
    icons = sum(_FILLED * grid**2 for grid in spec["grids"]) if with_icons else 0
    job.plan(
        [
            Stage(_COLLECTING, subject.images, 1.0),
            Stage(_LAYING_OUT, subject.images, _LAYOUT_COST),
            Stage(_DRAWING, round(icons), _ICON_COST),
        ]
    )
    decisive = {name: spec[name] for name in _DECISIVE}
    found = job.map(_COLLECTING, [subject.shard_task("collect", shard) for shard in range(subject.shards)])
    shards = {str(number): outcome.artifacts["samples"] for number, outcome in enumerate(found)}
    merged = job.run("putting samples together", subject.task("merge", inputs=shards)).artifacts
    layout = job.run(_LAYING_OUT, subject.task("lay-out", inputs=merged, items=subject.images))
    common = surveys.provenance(job, subject, decisive)
    artifacts, levels = _gridded(job, subject, merged, layout)
    values = {**layout.values, **common, "remarks": [*layout.values["remarks"], *_remarks(layout, levels)]}

    def state(*, complete: bool) -> Outcome:
        return Outcome(dict(artifacts), {**values, "levels": levels, "complete": complete})

    if with_icons:
        job.plan([Stage(_DRAWING, sum(sum(level["parts"]) for level in levels), _ICON_COST)])
        job.publish(state(complete=False))
        drawn: list[str] = []
        for number, level in enumerate(levels):
            drawn = _drawn(job, subject, number, level, artifacts, merged["space"], drawn)
            inputs = {str(part): digest for part, digest in enumerate(drawn)} | {"cells": artifacts[f"cells.{number}"]}
            sheet = job.run("packing icons", subject.task("sheet", {"level": number}, inputs))
            artifacts |= {_role(role, number): digest for role, digest in sheet.artifacts.items()}
            levels[number] = {**level, **sheet.values}
            if number + 1 < len(levels):
                job.publish(state(complete=False))
    return surveys.finish(job, subject, state(complete=True), decisive)


def _remarks(layout: Outcome, levels: list[dict[str, Any]]) -> list[str]:
    """What a reader must know of the levels."""
    thin = [level["grid"] for level in levels if layout.values["samples"] < _FEW_OF_A_CELL * level["cells"]]
    if not thin:
        return []
    grids = ", ".join(f"{grid} x {grid}" for grid in thin)
    return [f"Cells of the grid {grids} have fewer than {_FEW_OF_A_CELL} samples on average: their means say little."]


def _gridded(
    job: Job, subject: surveys.Subject, merged: Mapping[str, str], layout: Outcome
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The artifacts and values of all levels without icons, coarse to fine."""
    artifacts = {role: layout.artifacts[role] for role in ("samples", "frame") if role in layout.artifacts}
    levels: list[dict[str, Any]] = []
    for number, grid in enumerate(job.spec["grids"]):
        inputs = {
            "activations": merged["activations"],
            "samples": layout.artifacts["samples"],
            "space": merged["space"],
        }
        if number:
            inputs["parent"] = artifacts[f"cells.{number - 1}"]
        cells = job.run(_GRIDDING, subject.task("grid", {"grid": grid}, inputs))
        artifacts |= {_role(role, number): digest for role, digest in cells.artifacts.items()}
        levels.append(dict(cells.values))
    return artifacts, levels


def _drawn(
    job: Job,
    subject: surveys.Subject,
    number: int,
    level: Mapping[str, Any],
    artifacts: Mapping[str, str],
    space: str,
    parents: list[str],
) -> list[str]:
    """The icons of a level: the artifact of each of its parts, some icons that are climbed side by side."""
    tasks = []
    for part, (size, needed) in enumerate(zip(level["parts"], level["parents"], strict=True)):
        inputs = {"cells": artifacts[f"cells.{number}"], "space": space}
        if number:
            inputs |= {"parent": artifacts[f"cells.{number - 1}"]} | {str(other): parents[other] for other in needed}
        arguments = {"level": number, "part": part}
        tasks.append(Task("draw", {"execution": subject.execution, **arguments}, inputs, items=size))
    return [outcome.artifacts["icons"] for outcome in job.map(_DRAWING, tasks)]


def _role(role: str, number: int) -> str:
    """What an artifact of a level is called among those of all levels: `cells.0`, `icons.0.3`."""
    first, dot, rest = role.partition(".")
    return f"{first}.{number}{dot}{rest}"


def _task(name: str) -> Callable[[TaskContext], dict[str, Any]]:
    """A task of `jobs.atlas_tasks`."""

    def run(context: TaskContext) -> dict[str, Any]:
        from ortoscope_service.jobs import atlas_tasks  # noqa: PLC0415

        return atlas_tasks.TASKS[name](context)

    return run


TASKS: Mapping[str, Callable[[TaskContext], dict[str, Any]]] = {
    **surveys.TASKS,
    **{name: _task(name) for name in ("collect", "merge", "lay-out", "grid", "draw", "sheet")},
}
"""What workers do for this job."""
