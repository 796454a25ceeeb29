"""What workers do for an atlas; see `jobs.atlases`."""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.class_atlas import Selection, gradient_positions, select_samples
from ortoscope_service.analysis.atlas.collection import Samples, ShardSamples, collect_shard, merge_samples
from ortoscope_service.analysis.atlas.crops import cut_crops, shown_samples
from ortoscope_service.analysis.atlas.grid import cells_of
from ortoscope_service.analysis.atlas.icon_space import IconSpace
from ortoscope_service.analysis.atlas.icons import IconBatch, Icons, icons_at_once, shared_icons
from ortoscope_service.analysis.atlas.layout import FEWEST_SAMPLES, lay_out
from ortoscope_service.analysis.atlas.quality import layout_quality
from ortoscope_service.analysis.atlas.settings import AtlasSettings, atlas_settings_of
from ortoscope_service.analysis.atlas.sheets import SheetLayout, pack
from ortoscope_service.analysis.atlas.site_attribution import SiteAttribution
from ortoscope_service.analysis.atlas.sites import leading_tokens
from ortoscope_service.analysis.visualization.presets import Preset
from ortoscope_service.analysis.visualization.settings import preset_from_data
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs import surveys
from ortoscope_service.jobs.atlas_inputs import Lively
from ortoscope_service.jobs.tasks import TaskContext
from ortoscope_service.runtime.threads import available_threads
from ortoscope_service.statistics.second_moments import SecondMoments

_ROWS = 2**14
"""Samples that are summed up, or moved, at a time."""

_BEAT_SECONDS = 5.0

_FEW_SAMPLES = 1000
_DOUBTFUL = 0.8
"""Samples, and trustworthiness, below which an atlas carries a remark."""


@contextmanager
def _beating(context: TaskContext) -> Iterator[None]:
    """Gives signs of life for a library that gives none; what ends it is the operation's time limit."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT_SECONDS):
            context.alive()

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _settings(context: TaskContext) -> AtlasSettings:
    return atlas_settings_of(context.spec["settings"])


def _preset(context: TaskContext) -> Preset:
    return preset_from_data(context.spec["icon_preset"])


def collect(context: TaskContext) -> dict[str, Any]:
    """Task: the samples of a shard's images, and what each speaks for."""
    survey, spec = surveys.open_survey(context), context.spec
    attribution = SiteAttribution.of(survey.version, survey.tap, survey.execution) if spec["attribution"] else None
    found = collect_shard(
        survey.version,
        survey.tap,
        survey.dataset,
        survey.shard(context),
        spec["sites_per_image"],
        _settings(context).collection,
        spec["seed"],
        survey.execution,
        attribution=attribution,
        progress=context.progress,
        cancellation=context.cancellation,
        series=survey.series(context),
    )
    context.put("samples", found.to_arrays())
    return {}


def merge(context: TaskContext) -> dict[str, Any]:
    """Task: the samples of all images that the atlas is made of, and the space of their icons."""

    def loader(shard: int) -> Callable[[], ShardSamples]:
        return lambda: ShardSamples.from_arrays(context.arrays(str(shard)))

    shards = len(context.inputs) - 1  # the dataset is an input too
    samples = merge_samples([loader(shard) for shard in range(shards)], cancellation=Lively(context))
    chosen = _chosen(context, samples)
    activation = _moved_up(samples.activation, chosen)
    moments = SecondMoments(activation.shape[1])
    for start in range(0, len(chosen), _ROWS):
        context.alive()
        moments.update(activation[start : start + _ROWS])
    icons = _settings(context).icons
    space = IconSpace.of(moments, whiten=icons.whiten, shrinkage=icons.shrinkage)
    first = np.where(samples.duplicate_of >= 0, samples.duplicate_of, np.arange(len(samples.image)))
    arrays = {
        "activation": activation,
        "image": samples.image[chosen],
        "site": samples.site[chosen],
        "site_shape": np.array(samples.site_shape, np.int64),
        # Equal samples have one position: `alike` numbers those that differ.
        "alike": np.unique(first[chosen], return_inverse=True)[1],
        "zero": np.array(samples.zero.sum(), np.int64),
        "outliers": np.array(samples.outliers, np.int64),
    }
    if samples.attribution is not None:
        arrays["attribution"] = _moved_up(samples.attribution, chosen)
    context.put("activations", arrays)
    context.put("space", space.to_arrays())
    return {}


def _moved_up(rows: NDArray[Any], chosen: NDArray[np.int64]) -> NDArray[Any]:
    """Rows at ascending places, moved to the front of their own array: there may be no memory for two of it."""
    for start in range(0, len(chosen), _ROWS):
        part = chosen[start : start + _ROWS]
        rows[start : start + len(part)] = rows[part]
    return rows[: len(chosen)]


def _chosen(context: TaskContext, samples: Samples) -> NDArray[np.int64]:
    """The samples that the atlas is made of: those that are not zero, and speak for its classes if it has some.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION: TOO_FEW_SAMPLES.
    """
    there, wanted = np.flatnonzero(~samples.zero), context.spec["class_filter"]
    if wanted is not None:
        if samples.attribution is None:
            raise _too_few(0, "speak for its classes, as the scores of classes do not depend on the tap")
        own = select_samples(samples.attribution, wanted["classes"], Selection(wanted["mode"]), wanted["top"])
        there = np.intersect1d(there, own)
    if len(there) < FEWEST_SAMPLES:
        raise _too_few(len(there), "are not zero" if wanted is None else "speak for the classes asked for")
    return there


def _too_few(count: int, which: str) -> OrtoscopeError:
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "TOO_FEW_SAMPLES",
        f"{count} samples {which}; a layout needs at least {FEWEST_SAMPLES}. Give more images, or more sites of each.",
        metadata={"samples": str(count), "least": str(FEWEST_SAMPLES)},
    )


def _lay_out(context: TaskContext) -> dict[str, Any]:
    """Task: where the samples lie, what places others beside them, and how faithful that is."""
    arrays, spec = context.arrays("activations"), context.spec
    layout, threads = _settings(context).layout, available_threads()
    _, first = np.unique(arrays["alike"], return_index=True)
    distinct = arrays["activation"]
    if len(first) < len(distinct):
        distinct = distinct[first]
    told: dict[str, Any] = {"threads": threads, "progress": context.progress, "cancellation": Lively(context)}
    if spec["gradient"] is None:
        with nullcontext() if layout.method == "umap" and layout.engine == "own" else _beating(context):
            laid_out = lay_out(distinct, layout, spec["seed"], **told)
        position = laid_out.position
        context.put("frame", laid_out.frame.to_arrays())
    else:
        left, right = spec["gradient"]
        position = gradient_positions(distinct, arrays["attribution"][first], left, right, layout, spec["seed"], **told)
    quality = layout_quality(
        distinct,
        position,
        spec["seed"],
        metric=layout.metric,
        threads=threads,
        cancellation=Lively(context),
    )
    published = {
        "image": arrays["image"],
        "site": arrays["site"],
        "site_shape": arrays["site_shape"],
        "source": np.ones(len(arrays["image"]), np.uint8),
        "position": position[arrays["alike"]],
    }
    if "attribution" in arrays:
        top = arrays["attribution"].argmax(axis=1)
        published["top_class"] = top.astype(np.int32)
        published["top_attribution"] = np.take_along_axis(arrays["attribution"], top[:, None], 1)[:, 0].astype(
            np.float32
        )
    context.put("samples", published)
    samples, images = len(arrays["image"]), len(np.unique(arrays["image"]))
    return {
        "samples": samples,
        "images": images,
        "zero": int(arrays["zero"]),
        "duplicates": samples - len(first),
        "units": int(arrays["activation"].shape[1]),
        "attributed": "attribution" in arrays,
        "quality": [quality.trustworthiness, quality.neighbourhood_recall, quality.queries],
        "remarks": [
            *_remarks_on_samples(samples, images, int(arrays["outliers"])),
            *([] if spec["gradient"] is not None else _remarks_on_layout(quality.trustworthiness)),
        ],
    }


def _remarks_on_samples(samples: int, images: int, outliers: int) -> list[str]:
    """What a reader must know of the samples."""
    remarks = []
    if samples < _FEW_SAMPLES:
        remarks.append(f"Only {samples} samples: cells hold few, and the map may look otherwise with other images.")
    if samples > images:
        remarks.append(f"{samples} samples of {images} images: those of one image are not independent.")
    if outliers:
        remarks.append(f"{outliers} samples were left out because they are far longer than others of their image.")
    return remarks


def _remarks_on_layout(trustworthiness: float) -> list[str]:
    """What a reader must know of the layout."""
    if trustworthiness >= _DOUBTFUL:
        return []
    return [f"Trustworthiness {trustworthiness:.2f}: many samples that lie together are not alike to the model."]


def grid(context: TaskContext) -> dict[str, Any]:
    """Task: the cells of a level, crops of real images, and which icons are drawn together."""
    arrays, laid_out, settings = context.arrays("activations"), context.arrays("samples"), _settings(context)
    parent = Cells.from_arrays(context.arrays("parent")) if "parent" in context.inputs else None
    cells = cells_of(
        arrays["activation"],
        arrays["image"],
        laid_out["position"],
        context.arguments["grid"],
        settings.grid,
        attribution=arrays.get("attribution"),
        parent=parent,
        cancellation=Lively(context),
    )
    crop_sheets, crop = _put_crops(context, settings, arrays, cells)
    cells = dataclasses.replace(cells, crop=crop)
    parts: list[int] = []
    parents: list[list[int]] = []
    if context.spec["icon_preset"] is not None:
        space = IconSpace.from_arrays(context.arrays("space"))
        cells = dataclasses.replace(cells, shared=shared_icons(cells.mean, cells, space=space, settings=settings.icons))
        for part in _parts(context, cells):
            parts.append(len(part))
            wanted = [] if parent is None else _parent_places(cells, parent, part)
            parents.append(sorted({place // icons_at_once(_preset(context)) for place in wanted}))
    context.put("cells", cells.to_arrays())
    crops = SheetLayout(settings.grid.crop_size)
    return {
        "grid": cells.grid,
        "cells": len(cells),
        "largest": int(cells.count.max()),
        "crop_sheets": crop_sheets,
        "crop_size": crops.size,
        "crops_per_row": crops.per_row,
        "crops_per_sheet": crops.per_sheet,
        "parts": parts,
        "parents": parents,
    }


def _put_crops(
    context: TaskContext, settings: AtlasSettings, arrays: Mapping[str, NDArray[Any]], cells: Cells
) -> tuple[int, NDArray[np.int32]]:
    """Stores the crops of the cells' nearest samples; how many sheets, and where the crops of each cell are."""
    survey, chosen = surveys.open_survey(context), settings.grid
    preprocessing = survey.version.image_input.preprocessing
    assert preprocessing is not None  # an image input has one
    samples, places = shown_samples(cells.nearest, chosen.most_crops)
    pictures = cut_crops(
        survey.dataset.read_image,
        arrays["image"][samples],
        arrays["site"][samples],
        tuple(arrays["site_shape"].tolist()),
        preprocessing,
        chosen.crop_size,
        first=leading_tokens(survey.version, survey.tap),
        cancellation=Lively(context),
    )
    sheets = 0
    for sheet in pack(pictures, SheetLayout(chosen.crop_size), chosen.quality):
        context.alive()
        with context.writer(f"crops.{sheets}") as file:
            file.write(sheet)
        sheets += 1
    return sheets, places


def _owners(cells: Cells) -> NDArray[np.int64]:
    """The cells that have an icon of their own, ascending."""
    assert cells.shared is not None  # the atlas has icons
    return np.flatnonzero(cells.shared == np.arange(len(cells)))


def _parts(context: TaskContext, cells: Cells) -> list[NDArray[np.int64]]:
    """The cells whose icons are drawn side by side."""
    owners, most = _owners(cells), icons_at_once(_preset(context))
    return [owners[start : start + most] for start in range(0, len(owners), most)]


def _parent_places(cells: Cells, parent: Cells, part: NDArray[np.int64]) -> list[int]:
    """For each of some cells, which of the icons of the level before it starts from; they are in the owners' order."""
    assert parent.shared is not None  # the atlas has icons
    places: list[int] = np.searchsorted(_owners(parent), parent.shared[cells.parent[part]]).tolist()
    return places


def draw(context: TaskContext) -> dict[str, Any]:
    """Task: the icons of some cells, side by side; from noise on the first level, else from those of their parents."""
    opened, spec, settings = surveys.open_tap(context), context.spec, _settings(context)
    cells, preset = Cells.from_arrays(context.arrays("cells")), _preset(context)
    part = _parts(context, cells)[context.arguments["part"]]
    batch = IconBatch.prepare(
        opened.version,
        spec["tap"],
        cells.mean[part],
        # Cells of different levels at the same place of their grids have noise of their own.
        [cells.grid * 10**6 + int(cells.row[cell]) * cells.grid + int(cells.column[cell]) for cell in part],
        preset,
        spec["seed"],
        settings.icons,
        space=IconSpace.from_arrays(context.arrays("space")),
        session=opened.execution.session,
        models=context.models,
    )
    start = None
    if "parent" in context.inputs:
        places = _parent_places(cells, Cells.from_arrays(context.arrays("parent")), part)
        start = _starts(context, places, icons_at_once(preset))
    drawn = batch.run(start, progress=lambda _: context.alive(), cancellation=context.cancellation)
    context.put("icons", drawn.to_arrays())
    return {}


def _starts(context: TaskContext, places: Sequence[int], most: int) -> dict[str, NDArray[Any]]:
    """What the icons of children start from."""
    numbers = sorted({place // most for place in places})
    joined = Icons.joined([Icons.from_arrays(context.arrays(str(number))) for number in numbers])
    rows = [numbers.index(place // most) * most + place % most for place in places]
    return joined.starts(np.array(rows, np.int64))


def sheet(context: TaskContext) -> dict[str, Any]:
    """Task: the icons of a level on sheets, one for each cell, and its cells with what they reach."""
    cells, settings = Cells.from_arrays(context.arrays("cells")), _settings(context)
    parts = [context.arrays(str(number)) for number in range(len(context.inputs) - 2)]  # the dataset and the cells
    kept = {name: np.concatenate([part[name] for part in parts]) for name in ("picture", "score", "represents")}
    assert cells.shared is not None  # the atlas has icons
    place = np.searchsorted(_owners(cells), cells.shared)
    size = kept["picture"].shape[1]
    layout, sheets = SheetLayout(size), 0
    for packed in pack((kept["picture"][index] for index in place), layout, settings.grid.quality):
        context.alive()
        with context.writer(f"icons.{sheets}") as file:
            file.write(packed)
        sheets += 1
    drawn = dataclasses.replace(cells, score=kept["score"][place], represents=kept["represents"][place])
    context.put("cells", drawn.to_arrays())
    return {
        "icon_sheets": sheets,
        "icon_size": size,
        "icons_per_row": layout.per_row,
        "icons_per_sheet": layout.per_sheet,
    }


TASKS: Mapping[str, Callable[[TaskContext], dict[str, Any]]] = {
    "collect": collect,
    "merge": merge,
    "lay-out": _lay_out,
    "grid": grid,
    "draw": draw,
    "sheet": sheet,
}
"""By name."""
