"""The kinds of jobs: for each verb, the tasks that workers do, and the driver that orders them."""

import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ortoscope_service.jobs import (
    atlas_appending,
    atlas_comparisons,
    atlas_projections,
    atlases,
    dissections,
    examples,
    unit_sheets,
)
from ortoscope_service.jobs.engine import Job
from ortoscope_service.jobs.tasks import Outcome, TaskContext
from ortoscope_service.runtime.sessions import onnxruntime_version


@dataclass(frozen=True)
class JobKind:
    """A kind of job."""

    drive: Callable[[Job], Outcome]
    """Runs in the server: orders tasks, and looks at nothing but their answers. Called again after a restart, or when
    an artifact was damaged; it must then order the same tasks."""

    tasks: Mapping[str, Callable[[TaskContext], Mapping[str, Any]]]
    """Run in workers, by name; each returns what it found out, as JSON, beside the artifacts that it writes."""


KINDS: Mapping[str, JobKind] = {
    "dissect": JobKind(dissections.drive, dissections.TASKS),
    "find-examples": JobKind(examples.drive, examples.TASKS),
    "visualize-units": JobKind(unit_sheets.drive, unit_sheets.TASKS),
    "build-atlas": JobKind(atlases.drive, atlases.TASKS),
    "append-atlas": JobKind(atlas_appending.drive, atlas_appending.TASKS),
    "project-samples": JobKind(atlas_projections.drive, atlas_projections.TASKS),
    "compare-atlases": JobKind(atlas_comparisons.drive, atlas_comparisons.TASKS),
}
"""The kinds of jobs, by verb."""


@functools.cache
def software() -> Mapping[str, str]:
    """Versions of what decides the bits of a result."""
    return {
        "ortoscope": importlib.metadata.version("ortoscope"),
        "onnxruntime": onnxruntime_version(),
        "numpy": importlib.metadata.version("numpy"),
        "pillow": importlib.metadata.version("pillow"),
    }
