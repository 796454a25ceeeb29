"""The job of a unit sheet: climbs unit after unit, many side by side, and puts their pictures together.

What a unit's picture depends on is in the key of its task, and its bytes do not depend on who shares its batch. So
units are kept one by one beyond the job: another sheet with the same unit, or the same sheet after a crash, finds them.

The tasks themselves are in `jobs.unit_climbs`, which takes a worker most of a second to load: others go without it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ortoscope_service.errors import OrtoscopeError, error_from_json
from ortoscope_service.jobs.engine import Job, Stage, Together
from ortoscope_service.jobs.provenance import spec_digest
from ortoscope_service.jobs.tasks import Outcome, Task, TaskContext

_CLIMBING = "visualizing"
_MERGING = "merging"

_DECISIVE = ("model_digest", "inputs", "tap", "kind", "negative", "preset", "generator_digest", "seed", "execution")
"""Parts of the spec that decide a unit's picture."""


def drive(job: Job) -> Outcome:
    """Climbs every unit of the spec, and makes the sheet.

    Returns:
        Artifacts: `arrays`, as `ortoscope.v1.UnitSheet` has them, and `sheet`, a PNG, unless it would be too large.
        Values: `items` (the units), `execution`, `spec_digest`, `dataset_digest` (empty: it reads none), `height`,
        `width`, `columns` and `dead`.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION, OBJECTIVE_NOT_FINITE: no unit has a finite objective; as `prepare_units`
            and `Job.map` raise.
    """
    units: list[int] = job.spec["units"]
    job.plan([Stage(_CLIMBING, len(units), 1.0)])
    decisive = {"verb": job.verb, **{name: job.spec[name] for name in _DECISIVE}}
    climb = spec_digest({**decisive, "software": dict(job.software)})
    tasks = [Task("climb", {"climb": climb, "units": [unit]}, items=1) for unit in units]
    together = Together(job.spec["at_once"], _packed, _split)
    found = job.map(_CLIMBING, tasks, beyond_job=True, together=together)
    errors = [outcome.values["error"] for outcome in found]
    if all(errors):
        raise _none_finite(units[0], error_from_json(errors[0]))
    inputs = {str(number): outcome.artifacts["unit"] for number, outcome in enumerate(found)}
    merged = job.run(_MERGING, Task("merge", inputs=inputs))
    providers = list(dict.fromkeys(name for outcome in found for name in outcome.values["providers"]))
    execution = {**job.spec["execution"], "providers": providers}
    common = {
        "items": len(units),
        "execution": execution,
        "dataset_digest": "",
        "spec_digest": spec_digest({**decisive, "execution": execution, "units": units}),
    }
    return dataclasses.replace(merged, values={**merged.values, **common})


def _packed(tasks: Sequence[Task]) -> Task:
    """The task that climbs the units of several tasks."""
    units = [unit for task in tasks for unit in task.arguments["units"]]
    return Task("climb", {**tasks[0].arguments, "units": units}, items=len(tasks))


def _split(whole: Outcome, tasks: Sequence[Task]) -> list[Outcome]:
    """The outcome of each of several tasks with one unit."""
    outcomes = []
    for task in tasks:
        (unit,) = map(str, task.arguments["units"])
        values = {**whole.values["units"][unit], "providers": whole.values["providers"]}
        seconds = whole.seconds / len(tasks)
        outcomes.append(Outcome({"unit": whole.artifacts[unit]}, values, seconds, whole.processor))
    return outcomes


def _climb(context: TaskContext) -> dict[str, Any]:
    """Task: the pictures of some units, side by side in one batch."""
    from ortoscope_service.jobs import unit_climbs  # noqa: PLC0415

    return unit_climbs.climb(context)


def _merge(context: TaskContext) -> dict[str, Any]:
    """Task: the arrays of all units, and the sheet."""
    from ortoscope_service.jobs import unit_climbs  # noqa: PLC0415

    return unit_climbs.merge(context)


TASKS: Mapping[str, Callable[[TaskContext], dict[str, Any]]] = {"climb": _climb, "merge": _merge}
"""What workers do for this job."""


def _none_finite(unit: int, first: OrtoscopeError) -> OrtoscopeError:
    return OrtoscopeError(
        first.code,
        first.reason,
        f"The objective of every unit became infinite or not a number. Of unit {unit}: {first.message}",
        metadata={**first.metadata, "unit": str(unit)},
    )
