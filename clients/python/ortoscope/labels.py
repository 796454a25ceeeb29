"""The label of each unit from the counts, and the table that NetDissect calls tally.csv."""

import csv
import io

import numpy as np

from ortoscope.arrays import DissectionArrays, Float64, Int64


def best_concepts(arrays: DissectionArrays, category: int | None = None) -> Int64:
    """The concept with the largest IoU for each unit, (U,) int64: the first at a tie, -1 if every IoU is 0.

    Args:
        arrays: The counts.
        category: Only concepts of this category; None: all.
    """
    concepts = np.arange(len(arrays.concept_category))
    if category is not None:
        concepts = concepts[arrays.concept_category == category]
    if concepts.size == 0:
        return np.full(len(arrays.iou), -1, np.int64)
    iou = arrays.iou[:, concepts]
    return np.where(iou.max(axis=1) > 0, concepts[iou.argmax(axis=1)], -1).astype(np.int64)


def scores_of(arrays: DissectionArrays, concepts: Int64) -> Float64:
    """The IoU of each unit with its concept in `concepts`, (U,) float64; 0 where that is -1."""
    scores = np.zeros(len(concepts))
    has = np.flatnonzero(concepts >= 0)
    scores[has] = arrays.iou[has, concepts[has]]
    return scores


def tally_csv(arrays: DissectionArrays) -> str:
    """The best label of every unit, over all categories and in each, as NetDissect writes it.

    Columns: `unit` (from 1), `category`, `label`, `score` of the best label, then for each category `CAT-label`,
    `CAT-truth` (pixels with the concept), `CAT-activation` (pixels of the unit's mask in images that carry a label of
    the category), `CAT-intersect` and `CAT-iou`. Rows by falling score, the lower unit first at a tie. Where a unit
    shares no pixel with any concept, the label is empty.

    Args:
        arrays: The counts.
    """
    categories = [str(name) for name in arrays.category_name]
    per_category = [best_concepts(arrays, k) for k in range(len(categories))]
    best = best_concepts(arrays)
    score = scores_of(arrays, best)

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    details = ("label", "truth", "activation", "intersect", "iou")
    writer.writerow(
        ["unit", "category", "label", "score", *(f"{name}-{detail}" for name in categories for detail in details)]
    )
    for unit in np.argsort(-score, kind="stable"):
        row: list[object] = [unit + 1, *_named(arrays, int(best[unit])), _number(score[unit])]
        for k, concepts in enumerate(per_category):
            concept = int(concepts[unit])
            found = concept >= 0
            row += [
                arrays.concept_name[concept] if found else "",
                arrays.concept_pixels[concept] if found else 0,
                arrays.activation_pixels[unit, k],
                arrays.intersection[unit, concept] if found else 0,
                _number(arrays.iou[unit, concept] if found else 0.0),
            ]
        writer.writerow(row)
    return buffer.getvalue()


def shown_name(name: str) -> str:
    """A concept's name as people read it: without Broden's suffix for colours and scenes, underscores as blanks."""
    plain = name.removesuffix("-c").removesuffix("-s").replace("_", " ").strip()
    return plain or name


def _named(arrays: DissectionArrays, concept: int) -> tuple[str, str]:
    if concept < 0:
        return "", ""
    return str(arrays.category_name[arrays.concept_category[concept]]), str(arrays.concept_name[concept])


def _number(value: float) -> str:
    """All digits that distinguish the number, and no exponent: some readers of such tables do not know any."""
    return np.format_float_positional(value, unique=True, trim="0")
