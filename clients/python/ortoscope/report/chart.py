"""The figures of a dissection's report as numbers: the detectors of each concept, and every unit's best IoU."""

from dataclasses import dataclass

import numpy as np

from ortoscope.arrays import DissectionArrays
from ortoscope.labels import best_concepts, scores_of, shown_name


@dataclass(frozen=True)
class Bar:
    """How many units detect a concept."""

    concept: int
    """Index of the concept."""

    name: str
    """Its name as people read it."""

    units: int
    """Number of units."""


@dataclass(frozen=True)
class BarGroup:
    """The detectors of a category."""

    category: str
    """Name of the category."""

    number: int
    """Index of the category; decides its colour."""

    detectors: int
    """Number of units."""

    bars: tuple[Bar, ...]
    """Its concepts, by falling number of units, then by name."""


@dataclass(frozen=True)
class ProfileStep:
    """A unit in the profile of all best IoU values."""

    iou: float
    """Its best IoU."""

    number: int
    """Index of the category of its best concept; -1 if it has none."""


def detectors_by_concept(arrays: DissectionArrays, iou_threshold: float) -> list[BarGroup]:
    """The detectors of each concept, each unit counted once under its best label; categories without any are left out.

    Args:
        arrays: The counts.
        iou_threshold: The IoU above which a unit counts.
    """
    best = best_concepts(arrays)
    detecting = best[scores_of(arrays, best) > iou_threshold]
    concepts, counts = np.unique(detecting, return_counts=True)
    groups = []
    for number, category in enumerate(arrays.category_name):
        of_category = arrays.concept_category[concepts] == number
        bars = sorted(
            (
                Bar(int(concept), shown_name(str(arrays.concept_name[concept])), int(count))
                for concept, count in zip(concepts[of_category], counts[of_category], strict=True)
            ),
            key=lambda bar: (-bar.units, bar.name),
        )
        if bars:
            groups.append(BarGroup(str(category), number, sum(bar.units for bar in bars), tuple(bars)))
    return groups


def profile(arrays: DissectionArrays) -> list[ProfileStep]:
    """The best IoU of every unit, falling."""
    best = best_concepts(arrays)
    scores = scores_of(arrays, best)
    return [
        ProfileStep(float(scores[unit]), int(arrays.concept_category[best[unit]]) if best[unit] >= 0 else -1)
        for unit in np.argsort(-scores, kind="stable")
    ]
