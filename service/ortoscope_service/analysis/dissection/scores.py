"""From counts to scores: IoU, the label of each unit, and how many detectors there are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]


def intersection_over_union(
    intersection: Int64Array, activation_pixels: Int64Array, concept_pixels: Int64Array, category: Int64Array
) -> Float64Array:
    """IoU of every unit with every concept, (U, K) float64; 0 where the union is empty.

    IoU[u, c] = I[u, c] / (A[u, category of c] + G[c] - I[u, c]) (Bau, Zhou et al. 2017, section 2.3, with the
    union taken over images that carry a label of the category, as their code does).

    Args:
        intersection: (U, K) int64, pixels with both the unit's mask and the concept.
        activation_pixels: (U, C) int64, pixels of the unit's mask in images that carry a label of the category.
        concept_pixels: (K,) int64, pixels with the concept.
        category: (K,) int64, the concept's category.
    """
    union = activation_pixels[:, category] + concept_pixels - intersection
    iou = np.zeros(union.shape, np.float64)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def best_concepts(iou: Float64Array, among: NDArray[np.bool_] | None = None) -> Int64Array:
    """Index of the concept with the largest IoU for each unit, (U,) int64; the first at a tie, -1 if all are 0.

    Args:
        iou: (U, K) float64.
        among: (K,) bool, the concepts to choose from; all if None.
    """
    considered = iou if among is None else np.where(among, iou, 0.0)
    if considered.shape[1] == 0:
        return np.full(len(iou), -1, np.int64)
    best = considered.argmax(axis=1)
    return np.where(considered.max(axis=1) > 0, best, -1)


@dataclass(frozen=True)
class DetectorCount:
    """How many detectors there are."""

    detectors: int
    """Units that detect a concept."""

    unique_detectors: int
    """Distinct concepts that they detect."""

    by_category: tuple[tuple[int, int], ...]
    """Both numbers for each category."""


def count_by_best_label(
    iou: Float64Array, category: Int64Array, categories: int, iou_threshold: float
) -> DetectorCount:
    """Counts each unit once, under its best label of all categories, if its IoU is above the threshold.

    Of the per-category numbers, detectors sum to the whole, and so do unique detectors.
    """
    best = best_concepts(iou)
    detects = (best >= 0) & (iou.max(axis=1, initial=0.0) > iou_threshold)
    labels = best[detects]
    per_category = tuple(
        (int((category[labels] == k).sum()), len(np.unique(labels[category[labels] == k]))) for k in range(categories)
    )
    return DetectorCount(int(detects.sum()), len(np.unique(labels)), per_category)


def count_per_category(iou: Float64Array, category: Int64Array, categories: int, iou_threshold: float) -> DetectorCount:
    """Counts every category on its own, as the tables of the CVPR 2017 paper do; totals are sums over categories.

    A unit may count in several categories, so the total may exceed the number of units.
    """
    per_category = []
    for k in range(categories):
        best = best_concepts(iou, category == k)
        score = np.take_along_axis(iou, np.maximum(best, 0)[:, None], axis=1)[:, 0] if iou.size else np.zeros(len(iou))
        labels = best[(best >= 0) & (score > iou_threshold)]
        per_category.append((len(labels), len(np.unique(labels))))
    return DetectorCount(sum(d for d, _ in per_category), sum(u for _, u in per_category), tuple(per_category))
