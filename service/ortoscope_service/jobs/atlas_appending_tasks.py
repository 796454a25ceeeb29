"""The tasks of adding samples to an atlas; see `jobs.atlas_appending`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.appending import IconPlan, plan_icons
from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.collection import Samples, duplicates
from ortoscope_service.analysis.atlas.crops import cut_crops, shown_samples
from ortoscope_service.analysis.atlas.grid import cells_of
from ortoscope_service.analysis.atlas.icon_space import IconSpace
from ortoscope_service.analysis.atlas.icons import IconBatch, icons_at_once
from ortoscope_service.analysis.atlas.placement import Frame
from ortoscope_service.analysis.atlas.quality import layout_quality
from ortoscope_service.analysis.atlas.settings import AtlasSettings, atlas_settings_of
from ortoscope_service.analysis.atlas.sheets import SheetLayout, Sheets, pack
from ortoscope_service.analysis.atlas.sites import leading_tokens
from ortoscope_service.analysis.visualization.settings import preset_from_data
from ortoscope_service.jobs import atlas_inputs, atlas_tasks, surveys
from ortoscope_service.jobs.atlas_appending import base_changed, of_base
from ortoscope_service.jobs.atlas_inputs import Lively
from ortoscope_service.jobs.tasks import TaskContext
from ortoscope_service.runtime.threads import available_threads
from ortoscope_service.statistics.second_moments import SecondMoments

_ROWS = 2**14
"""Samples that are summed up at a time."""


def _settings(context: TaskContext) -> AtlasSettings:
    return atlas_settings_of(context.spec["settings"])


def collect_base(context: TaskContext) -> dict[str, Any]:
    """Task: the samples of a shard of the base's images, as the base took them."""
    return atlas_tasks.collect(of_base(context))


def combine(context: TaskContext) -> dict[str, Any]:
    """Task: the samples of the base and the new ones, these placed among them, and the space of the icons of both."""
    base_spec = context.spec["base"]
    published = atlas_inputs.published_arrays(context, base_spec["samples"])
    frame_arrays = atlas_inputs.published_arrays(context, base_spec["frame"])
    threads = available_threads()
    old, new = (atlas_inputs.merge_samples(context, prefix, with_attribution=True) for prefix in ("base-", "new-"))
    chosen = [np.flatnonzero(~samples.zero) for samples in (old, new)]
    for name, array in (("image", old.image), ("site", old.site)):
        if not np.array_equal(array[chosen[0]], published[name]):
            raise base_changed(base_spec["atlas"])
    activation = np.concatenate([samples.activation[rows] for samples, rows in zip((old, new), chosen, strict=True)])
    count = len(chosen[0])
    placed = Frame.from_arrays(frame_arrays).place(
        activation[count:], threads=threads, progress=context.progress, cancellation=Lively(context)
    )
    position = np.concatenate([published["position"], placed.position])
    source = np.repeat(np.array([0, 1], np.uint8), [count, len(activation) - count])
    image = np.concatenate([old.image[chosen[0]], new.image[chosen[1]]])
    first = duplicates(activation, Lively(context))
    first = np.where(first >= 0, first, np.arange(len(activation)))
    samples: dict[str, NDArray[Any]] = {
        "image": image,
        "site": np.concatenate([old.site[chosen[0]], new.site[chosen[1]]]),
        "site_shape": np.array(new.site_shape, np.int64),
        "source": source,
        # Equal samples are at one place, so that each counts in its cell.
        "position": position[first],
        "dataset": np.array([base_spec["dataset"], context.spec["base"]["added_dataset"]], np.str_),
    }
    arrays = {name: samples[name] for name in ("image", "site", "site_shape", "source")}
    arrays |= {"activation": activation}
    attribution = _attribution((old, new), chosen)
    if attribution is not None:
        arrays["attribution"] = attribution
        top = attribution.argmax(axis=1)
        samples["top_class"] = top.astype(np.int32)
        samples["top_attribution"] = np.take_along_axis(attribution, top[:, None], 1)[:, 0].astype(np.float32)
    settings = _settings(context)
    context.put("activations", arrays)
    context.put("samples", samples)
    context.put("frame", frame_arrays)
    context.put("space", _space(context, activation, settings).to_arrays())
    distinct = np.unique(first)
    quality = layout_quality(
        activation[distinct],
        samples["position"][distinct],
        context.spec["seed"],
        metric=settings.layout.metric,
        threads=threads,
        cancellation=Lively(context),
    )
    images = len(np.unique(np.stack([image, source]), axis=1).T)
    return {
        "samples": len(activation),
        "images": images,
        "zero": int(old.zero.sum() + new.zero.sum()),
        "duplicates": len(activation) - len(distinct),
        "units": int(activation.shape[1]),
        "attributed": attribution is not None,
        "quality": [quality.trustworthiness, quality.neighbourhood_recall, quality.queries],
        "remarks": _remarks(len(placed.off_map), int(placed.off_map.sum())),
    }


def _attribution(both: tuple[Samples, Samples], chosen: list[NDArray[np.int64]]) -> NDArray[Any] | None:
    parts = [
        samples.attribution[rows] for samples, rows in zip(both, chosen, strict=True) if samples.attribution is not None
    ]
    return np.concatenate(parts) if len(parts) == len(both) else None


def _space(context: TaskContext, activation: NDArray[Any], settings: AtlasSettings) -> IconSpace:
    moments = SecondMoments(activation.shape[1])
    for start in range(0, len(activation), _ROWS):
        context.alive()
        moments.update(activation[start : start + _ROWS])
    return IconSpace.of(moments, whiten=settings.icons.whiten, shrinkage=settings.icons.shrinkage)


def _remarks(added: int, off_map: int) -> list[str]:
    """What a reader must know."""
    remarks = [f"{added} samples were added in the frame of the base, which was laid out without them."]
    if off_map:
        remarks.append(
            f"{off_map} of them are farther from the samples of the base than all but 1 % of these from each other: "
            "the map has no place for what they show."
        )
    return remarks


def grid(context: TaskContext) -> dict[str, Any]:
    """Task: the cells of a level over all samples, crops of real images, and which icons are kept and drawn."""
    arrays, laid_out, settings = context.arrays("activations"), context.arrays("samples"), _settings(context)
    parent = Cells.from_arrays(context.arrays("parent")) if "parent" in context.inputs else None
    survey, base = surveys.open_survey(context), context.datasets.get(context.spec["base"]["survey"]["dataset"])
    # One number for each image of either dataset.
    image = arrays["image"] + np.where(arrays["source"] == 0, 0, len(base))
    cells = cells_of(
        arrays["activation"],
        image,
        laid_out["position"],
        context.arguments["grid"],
        settings.grid,
        attribution=arrays.get("attribution"),
        parent=parent,
        cancellation=Lively(context),
    )
    preprocessing = survey.version.image_input.preprocessing
    assert preprocessing is not None  # an image input has one
    samples, places = shown_samples(cells.nearest, settings.grid.most_crops)
    layout = SheetLayout(settings.grid.crop_size)
    pictures = cut_crops(
        lambda number: base.read_image(number) if number < len(base) else survey.dataset.read_image(number - len(base)),
        image[samples],
        arrays["site"][samples],
        tuple(arrays["site_shape"].tolist()),
        preprocessing,
        layout.size,
        first=leading_tokens(survey.version, survey.tap),
        cancellation=Lively(context),
    )
    sheets = _put_sheets(context, "crops", pack(pictures, layout, settings.grid.quality))
    cells = dataclasses.replace(cells, crop=places)
    parts: list[int] = []
    if context.spec["icon_preset"] is not None:
        level = context.spec["base"]["levels"][context.arguments["level"]]
        before = Cells.from_arrays(atlas_inputs.published_arrays(context, level["cells"])) if level["icons"] else None
        plan = plan_icons(cells, before, IconSpace.from_arrays(context.arrays("space")), settings.icons)
        cells = dataclasses.replace(cells, shared=plan.shared)
        context.put("plan", {"before": plan.before, "shared": plan.shared})
        most = icons_at_once(preset_from_data(context.spec["icon_preset"]))
        parts = [len(plan.drawn[start : start + most]) for start in range(0, len(plan.drawn), most)]
    context.put("cells", cells.to_arrays())
    return {
        "grid": cells.grid,
        "cells": len(cells),
        "largest": int(cells.count.max()),
        "crop_sheets": sheets,
        "crop_size": layout.size,
        "crops_per_row": layout.per_row,
        "crops_per_sheet": layout.per_sheet,
        "parts": parts,
    }


def _put_sheets(context: TaskContext, role: str, sheets: Any) -> int:
    """Stores sheets as artifacts; how many."""
    count = 0
    for sheet in sheets:
        context.alive()
        with context.writer(f"{role}.{count}") as file:
            file.write(sheet)
        count += 1
    return count


def _plan(context: TaskContext) -> IconPlan:
    arrays = context.arrays("plan")
    return IconPlan(arrays["before"], arrays["shared"])


def draw(context: TaskContext) -> dict[str, Any]:
    """Task: the icons of some cells whose direction moved, side by side, from noise."""
    opened, spec = surveys.open_tap(context), context.spec
    cells, preset = Cells.from_arrays(context.arrays("cells")), preset_from_data(spec["icon_preset"])
    most = icons_at_once(preset)
    start = context.arguments["part"] * most
    part = _plan(context).drawn[start : start + most]
    batch = IconBatch.prepare(
        opened.version,
        spec["tap"],
        cells.mean[part],
        [cells.grid * 10**6 + int(cells.row[cell]) * cells.grid + int(cells.column[cell]) for cell in part],
        preset,
        spec["seed"],
        _settings(context).icons,
        space=IconSpace.from_arrays(context.arrays("space")),
        session=opened.execution.session,
        models=context.models,
    )
    drawn = batch.run(progress=lambda _: context.alive(), cancellation=context.cancellation)
    context.put("icons", drawn.to_arrays(parameters=False))
    return {}


def sheet(context: TaskContext) -> dict[str, Any]:
    """Task: the icons of a level on sheets: those that were kept as the base's sheets show them, and those drawn."""
    cells, plan, level = (
        Cells.from_arrays(context.arrays("cells")),
        _plan(context),
        context.spec["base"]["levels"][context.arguments["level"]],
    )
    drawn = [context.arrays(str(part)) for part in range(sum(role.isdecimal() for role in context.inputs))]
    size = preset_from_data(context.spec["icon_preset"]).size[0]
    layout = SheetLayout(size)
    score, represents = np.zeros(len(cells), np.float32), np.zeros(len(cells), np.bool_)
    pictures: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)] * len(cells)
    kept = np.flatnonzero(plan.before >= 0)
    if len(kept):
        before = Cells.from_arrays(atlas_inputs.published_arrays(context, level["cells"]))
        assert before.score is not None  # it has icons
        assert before.represents is not None
        owners = plan.before[kept]
        score[kept], represents[kept] = before.score[owners], before.represents[owners]
        sheets = Sheets(layout, [atlas_inputs.published_bytes(context, digest) for digest in level["icons"]])
        for cell, owner in zip(kept.tolist(), owners.tolist(), strict=True):
            pictures[cell] = sheets.cut(owner)
    if drawn:
        made = {name: np.concatenate([part[name] for part in drawn]) for name in ("picture", "score", "represents")}
        fresh = np.flatnonzero(plan.before < 0)
        place = np.searchsorted(plan.drawn, plan.shared[fresh])
        score[fresh], represents[fresh] = made["score"][place], made["represents"][place]
        for cell, picture in zip(fresh.tolist(), place.tolist(), strict=True):
            pictures[cell] = made["picture"][picture]
    # Without loss: encoded again, kept icons would fade with every sheet.
    count = _put_sheets(context, "icons", pack(pictures, layout, _settings(context).grid.quality, lossless=True))
    context.put("cells", dataclasses.replace(cells, score=score, represents=represents).to_arrays())
    return {
        "icon_sheets": count,
        "icon_size": size,
        "icons_per_row": layout.per_row,
        "icons_per_sheet": layout.per_sheet,
        "kept_icons": len(kept),
    }


TASKS: Mapping[str, Callable[[TaskContext], dict[str, Any]]] = {
    "collect": atlas_tasks.collect,
    "collect-base": collect_base,
    "combine": combine,
    "grid": grid,
    "draw": draw,
    "sheet": sheet,
}
"""By name."""
