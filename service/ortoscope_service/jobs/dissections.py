"""The job of a dissection: surveys the shards, finds the thresholds, counts pixels by shard, merges the counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.dissection.counting import ShardCounts, count_shard, merge_counts
from ortoscope_service.analysis.dissection.pipeline import DissectionResult, finish
from ortoscope_service.analysis.dissection.scores import count_by_best_label, count_per_category
from ortoscope_service.analysis.dissection.spec import DissectionSpec
from ortoscope_service.analysis.dissection.survey import ShardSurvey, survey_shard
from ortoscope_service.analysis.dissection.thresholds import (
    SurveyLoader,
    Thresholds,
    bound_from,
    thresholds_from,
    vanguard_of,
)
from ortoscope_service.datasets.dataset import ConceptTable, LabelledDataset
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs import surveys
from ortoscope_service.jobs.engine import Job, Stage
from ortoscope_service.jobs.tasks import Outcome, TaskContext

MODE = "exact"
"""The convention by which pixels are counted."""

_ACTIVATING = "activating"
_COUNTING = "counting"
_THRESHOLDS = "finding the thresholds"
_MERGING = "merging"
_COUNTING_COST = 0.2
"""Time that counting an image takes beside running the model on it, as long as nothing was measured."""


def drive(job: Job) -> Outcome:
    """Dissects a tap.

    Returns:
        Artifacts: `arrays`, the counts, and `examples`, the top images and their masks. Values: those of
        `surveys.finish`, `units`, `concepts`, `category_names`, `best_label`, `per_category`, `saturated`, `constant`.
    """
    subject = surveys.begin(job)
    job.plan([Stage(_ACTIVATING, subject.images, 1.0), Stage(_COUNTING, subject.images, _COUNTING_COST)])
    vanguard = vanguard_of(subject.images, subject.shards) if job.spec["thresholds"] is None else 0
    first = job.map(_ACTIVATING, [subject.shard_task("survey", shard) for shard in range(vanguard)])
    bound: dict[str, str] = {}
    if first:
        bound["bound"] = job.run(_THRESHOLDS, subject.task("bound", inputs=_surveys(first))).artifacts["bound"]
    while True:
        rest = range(vanguard, subject.shards)
        found = first + job.map(_ACTIVATING, [subject.shard_task("survey", shard, bound) for shard in rest])
        thresholds = job.run(_THRESHOLDS, subject.task("thresholds", inputs=_surveys(found)))
        if not thresholds.values["incomplete"]:
            break
        bound["bound"] = thresholds.artifacts["relaxed"]
    known = {"thresholds": thresholds.artifacts["thresholds"]}
    counts = job.map(
        _COUNTING,
        [subject.shard_task("count", shard, {**survey.artifacts, **known}) for shard, survey in enumerate(found)],
    )
    inputs = {str(shard): outcome.artifacts["counts"] for shard, outcome in enumerate(counts)}
    merged = job.run(_MERGING, subject.task("merge", inputs={**inputs, **known}))
    names = ("top_fraction", "thresholds", "iou_threshold", "examples_per_unit")
    return surveys.finish(job, subject, merged, {"mode": MODE, **{name: job.spec[name] for name in names}})


def _surveys(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {str(shard): outcome.artifacts["survey"] for shard, outcome in enumerate(outcomes)}


def _spec(context: TaskContext) -> DissectionSpec:
    given, examples = context.spec["thresholds"], context.spec["examples_per_unit"]
    if given is not None:
        return DissectionSpec(thresholds=np.array(given), examples_per_unit=examples)
    return DissectionSpec(context.spec["top_fraction"], examples_per_unit=examples)


def _labelled(survey: surveys.Survey) -> LabelledDataset:
    if isinstance(survey.dataset, LabelledDataset):
        return survey.dataset
    raise OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "DATASET_CHANGED",
        f"Dataset '{survey.dataset.name}' has no pixel labels any more. Put them back and ask again.",
        metadata={"dataset": survey.dataset.name},
    )


def _shards(context: TaskContext) -> range:
    """The shards whose artifacts a task reads, under their numbers."""
    return range(sum(role.isdecimal() for role in context.inputs))


def _loaders(context: TaskContext) -> list[SurveyLoader]:
    """Load the surveys that a task reads, in the order of the shards."""

    def loader(shard: int) -> SurveyLoader:
        return lambda: ShardSurvey.from_arrays(context.arrays(str(shard)))

    return [loader(shard) for shard in _shards(context)]


def _survey(context: TaskContext) -> dict[str, Any]:
    """Task: the survey of a shard, and the maps that may be counted."""
    survey = surveys.open_survey(context)
    bound = context.arrays("bound")["bound"] if "bound" in context.inputs else None
    with context.writer("maps") as maps:
        found = survey_shard(
            survey.version,
            survey.tap,
            _labelled(survey),
            survey.shard(context),
            _spec(context),
            len(survey.indices),
            bound,
            survey.execution,
            maps,
            progress=context.progress,
            cancellation=context.cancellation,
            series=survey.series(context),
        )
    context.put("survey", found.to_arrays())
    return {}


def _bound(context: TaskContext) -> dict[str, Any]:
    """Task: the bound for the shards behind the vanguard."""
    context.put("bound", {"bound": bound_from(_loaders(context), _spec(context), context.arguments["images"])})
    return {}


def _thresholds(context: TaskContext) -> dict[str, Any]:
    """Task: the thresholds, and a lower bound for the units of which they cannot be known."""
    thresholds = thresholds_from(_loaders(context), _spec(context), context.arguments["images"])
    context.put("thresholds", thresholds.to_arrays())
    context.put("relaxed", {"bound": thresholds.relaxed})
    return {"incomplete": int(thresholds.incomplete.sum())}


def _count(context: TaskContext) -> dict[str, Any]:
    """Task: the counts of a shard."""
    survey = surveys.open_survey(context)
    with context.open("maps") as maps:
        counts = count_shard(
            ShardSurvey.from_arrays(context.arrays("survey")),
            maps,
            _labelled(survey),
            survey.shard(context),
            Thresholds.from_arrays(context.arrays("thresholds")),
            progress=context.progress,
            cancellation=context.cancellation,
            read_ahead=survey.execution.read_ahead,
            series=survey.series(context),
        )
    context.put("counts", counts.to_arrays())
    return {}


def _merge(context: TaskContext) -> dict[str, Any]:
    """Task: the result of all counts."""

    def loader(shard: int) -> Callable[[], ShardCounts]:
        return lambda: ShardCounts.from_arrays(context.arrays(str(shard)))

    dataset = _labelled(surveys.open_survey(context))
    thresholds = Thresholds.from_arrays(context.arrays("thresholds"))
    counts = merge_counts([loader(shard) for shard in _shards(context)], thresholds)
    result = finish(thresholds, counts, dataset, context.arguments["images"])
    concepts = dataset.concepts
    scored = (result.iou, concepts.category, len(concepts.category_name), context.spec["iou_threshold"])
    context.put("arrays", _arrays(result, concepts))
    context.put("examples", _examples(result))
    return {
        "units": len(result.threshold),
        "concepts": len(concepts.number),
        "category_names": concepts.category_name,
        "best_label": asdict(count_by_best_label(*scored)),
        "per_category": asdict(count_per_category(*scored)),
        "saturated": int(result.saturated.sum()),
        "constant": int(result.constant.sum()),
    }


TASKS: Mapping[str, Callable[[TaskContext], dict[str, Any]]] = {
    **surveys.TASKS,
    "survey": _survey,
    "bound": _bound,
    "thresholds": _thresholds,
    "count": _count,
    "merge": _merge,
}
"""What workers do for this job."""


def _arrays(result: DissectionResult, concepts: ConceptTable) -> dict[str, NDArray[Any]]:
    return {
        "threshold": result.threshold,
        "activation_pixels": result.activation_pixels,
        "concept_pixels": result.concept_pixels,
        "intersection": result.intersection,
        "iou": result.iou,
        "concept_number": concepts.number,
        "concept_name": np.array(concepts.name, np.str_),
        "concept_category": concepts.category,
        "category_name": np.array(concepts.category_name, np.str_),
        "saturated": result.saturated,
        "constant": result.constant,
    }


def _examples(result: DissectionResult) -> dict[str, NDArray[Any]]:
    return {
        "image": result.example_image,
        "value": result.example_value,
        "mask": result.example_mask,
        "mask_shape": np.array(result.mask_shape, np.int64),
    }
