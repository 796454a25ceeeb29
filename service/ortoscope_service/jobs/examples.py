"""The job of finding examples: ranks the images of each shard, merges the rankings."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.examples import (
    Examples,
    ExamplesSpec,
    ShardRanking,
    merge_rankings,
    rank_shard,
)
from ortoscope_service.datasets.dataset import Dataset
from ortoscope_service.jobs import surveys
from ortoscope_service.jobs.engine import Job, Stage
from ortoscope_service.jobs.tasks import Outcome, TaskContext

_ACTIVATING = "activating"
_MERGING = "merging"


def drive(job: Job) -> Outcome:
    """Finds the examples of every unit.

    Returns:
        Artifacts: `arrays`, the examples, and `places`, what it takes to show them without the dataset: `site_shape`,
        and the `path` of every `image` named. Values: those of `surveys.finish`, and the number of `units`.
    """
    subject = surveys.begin(job)
    job.plan([Stage(_ACTIVATING, subject.images, 1.0)])
    rankings = job.map(_ACTIVATING, [subject.shard_task("rank", shard) for shard in range(subject.shards)])
    inputs = {str(shard): ranking.artifacts["ranking"] for shard, ranking in enumerate(rankings)}
    merged = job.run(_MERGING, subject.task("merge", inputs=inputs))
    return surveys.finish(job, subject, merged, {"count": job.spec["count"], "reduction": job.spec["reduction"]})


def _spec(context: TaskContext) -> ExamplesSpec:
    return ExamplesSpec(context.spec["count"], context.spec["reduction"])


def _rank(context: TaskContext) -> dict[str, Any]:
    """Task: the examples of a shard's images."""
    survey = surveys.open_survey(context)
    ranking = rank_shard(
        survey.version,
        survey.tap,
        survey.dataset,
        survey.shard(context),
        _spec(context),
        survey.execution,
        progress=context.progress,
        cancellation=context.cancellation,
        series=survey.series(context),
    )
    context.put("ranking", ranking.to_arrays())
    return {}


def _merge(context: TaskContext) -> dict[str, Any]:
    """Task: the examples of all images."""
    survey = surveys.open_survey(context)

    def loader(shard: int) -> Callable[[], ShardRanking]:
        return lambda: ShardRanking.from_arrays(context.arrays(str(shard)))

    shards = len(context.inputs) - 1  # the dataset is an input too
    found = merge_rankings([loader(shard) for shard in range(shards)], _spec(context))
    context.put("arrays", _arrays(found))
    context.put("places", _places(found, survey.dataset))
    return {"units": len(found.most_image)}


TASKS: Mapping[str, Callable[[TaskContext], dict[str, Any]]] = {
    **surveys.TASKS,
    "rank": _rank,
    "merge": _merge,
}
"""What workers do for this job."""


def _arrays(found: Examples) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any] | None] = {
        "most_image": found.most_image,
        "most_value": found.most_value,
        "most_site": found.most_site,
        "least_image": found.least_image,
        "least_value": found.least_value,
        "least_site": found.least_site,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def _places(found: Examples, dataset: Dataset) -> dict[str, NDArray[Any]]:
    images = np.unique(np.concatenate([found.most_image, found.least_image], axis=None))
    images = images[images >= 0]
    paths = [dataset.path(int(image)) for image in images]
    return {
        "site_shape": np.array(found.site_shape, np.int64),
        "image": images,
        "path": np.array(paths, np.str_),
    }
