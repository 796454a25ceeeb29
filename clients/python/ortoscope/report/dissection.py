"""The report of a dissection."""

import shlex
from typing import Any

import numpy as np

from ortoscope import resource_names
from ortoscope.arrays import DissectionArrays, TopImages
from ortoscope.labels import best_concepts, scores_of, shown_name
from ortoscope.messages import lasting
from ortoscope.report.chart import detectors_by_concept, profile
from ortoscope.report.masks import encode_runs
from ortoscope.report.page import embedded_pictures, render, significant
from ortoscope.report.sources import Sources
from ortoscope.v1 import dissections_pb2

_RUNNERS_UP = 6
"""Concepts listed for a unit when it is enlarged: the best, and those that it might be taken for."""


def render_dissection(
    dissection: dissections_pb2.Dissection, arrays: DissectionArrays, top_images: TopImages, sources: Sources
) -> str:
    """The report as one HTML file.

    Args:
        dissection: What was asked, both countings, provenance.
        arrays: The counts and scores.
        top_images: The top images of each unit, with its masks.
        sources: The images' pictures and paths, and the tap's names.
    """
    spec = dissection.spec
    steps = profile(arrays)
    groups = detectors_by_concept(arrays, spec.iou_threshold)
    with_detectors = {group.number for group in groups}
    context: dict[str, Any] = {
        "dissection": dissection,
        "spec": spec,
        "tap": sources.tap,
        "model": resource_names.short_model(resource_names.version_of_tap(spec.tap)),
        "dataset": resource_names.short_dataset(spec.dataset),
        "units": len(arrays.threshold),
        "use_tap": resource_names.short_tap(dissection.saturated.use_tap),
        "countings": (
            ("Best label", "each unit counts once, under its best label of all categories", dissection.best_label),
            ("Per category", "each category on its own: a unit may count in several", dissection.per_category),
        ),
        "categories": [str(name) for name in arrays.category_name],
        "groups": groups,
        "absent": [number for number in range(len(arrays.category_name)) if number not in with_detectors],
        "profile": steps,
        "profile_top": max([spec.iou_threshold * 1.5, *(step.iou for step in steps[:1])]),
        "provenance": lasting(dissection.provenance),
        "command": command(dissection),
        "saturated_command": command(dissection, resource_names.short_tap(dissection.saturated.use_tap)),
        "without_picture": bool((top_images.image >= 0).any()) and not sources.pictures,
    }
    data = dissection_data(dissection, arrays, top_images, sources)
    return render("dissection.html.j2", "dissection.js", data, context)


def command(dissection: dissections_pb2.Dissection, tap: str = "", folder: str = "report") -> str:
    """The command that computes a dissection again, or that of another tap of the model.

    Args:
        dissection: The dissection.
        tap: Another tap; its own if empty.
        folder: Where the report goes.
    """
    spec = dissection.spec
    words = ["ortoscope", "dissect", resource_names.short_model(resource_names.version_of_tap(spec.tap))]
    words += ["--tap", tap or resource_names.short_tap(spec.tap)]
    words += ["--dataset", resource_names.short_dataset(spec.dataset)]
    for split in spec.splits:
        words += ["--split", split]
    if dissection.given_thresholds and not tap:
        words += ["--thresholds", "dissection.npz"]
    else:
        words += ["--top-fraction", f"{spec.top_fraction or 0.005:g}"]
    words += ["--iou-threshold", f"{spec.iou_threshold:g}"]
    if spec.examples_per_unit:
        words += ["--images-per-unit", str(spec.examples_per_unit)]
    words += ["-o", folder]
    return shlex.join(words)


def dissection_data(
    dissection: dissections_pb2.Dissection, arrays: DissectionArrays, top_images: TopImages, sources: Sources
) -> dict[str, Any]:
    """What the report's script draws from.

    Unit: `u` number, `c` index of the best concept or -1, `s` IoU, `t` threshold, `d` detector, `x` saturated, `k`
    constant; `b` the best concepts as [concept, IoU, intersection, unit's pixels]; `i` images, `v` values, `m` masks.
    """
    rows, columns = (int(extent) for extent in top_images.mask_shape)
    best = best_concepts(arrays)
    scores = scores_of(arrays, best)
    units = []
    for unit in range(len(arrays.threshold)):
        shown = [e for e in range(top_images.image.shape[1]) if top_images.image[unit, e] >= 0]
        units.append(
            {
                "u": unit,
                "c": int(best[unit]),
                "s": significant(scores[unit]),
                "t": significant(arrays.threshold[unit]),
                "d": int(scores[unit] > dissection.spec.iou_threshold),
                "x": int(arrays.saturated[unit]),
                "k": int(arrays.constant[unit]),
                "b": _closest(arrays, unit),
                "i": [int(top_images.image[unit, e]) for e in shown],
                "v": [significant(top_images.value[unit, e]) for e in shown],
                "m": [encode_runs(top_images.mask[unit, e], rows * columns) for e in shown],
            }
        )
    return {
        "rows": rows,
        "columns": columns,
        "threshold": dissection.spec.iou_threshold,
        "categories": [str(name) for name in arrays.category_name],
        "concepts": [
            [shown_name(str(name)), int(category), int(pixels)]
            for name, category, pixels in zip(
                arrays.concept_name, arrays.concept_category, arrays.concept_pixels, strict=True
            )
        ],
        "units": units,
        "paths": {str(index): path for index, path in sources.paths.items()},
        "pictures": embedded_pictures(sources.pictures),
    }


def _closest(arrays: DissectionArrays, unit: int) -> list[list[float]]:
    """The concepts with the largest IoU: index, IoU, shared pixels, the unit's pixels in the category."""
    iou = arrays.iou[unit]
    return [
        [
            int(concept),
            significant(iou[concept]),
            int(arrays.intersection[unit, concept]),
            int(arrays.activation_pixels[unit, arrays.concept_category[concept]]),
        ]
        for concept in np.argsort(-iou, kind="stable")[:_RUNNERS_UP]
        if iou[concept] > 0
    ]
