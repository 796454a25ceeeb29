"""What a request for an atlas asks for, checked as far as that can be done before any work."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ortoscope.v1 import atlases_pb2

from ortoscope_service.analysis.atlas.class_atlas import DEFAULT_TOP, Selection
from ortoscope_service.analysis.atlas.grid import LARGEST_GRID, SMALLEST_GRID
from ortoscope_service.analysis.atlas.icon_space import IconSpace
from ortoscope_service.analysis.atlas.icons import IconBatch, icon_preset
from ortoscope_service.analysis.atlas.layout import FEWEST_SAMPLES
from ortoscope_service.analysis.atlas.settings import (
    DEFAULT_PRESET,
    AtlasSettings,
    atlas_settings_data,
    resolve_atlas_settings,
)
from ortoscope_service.analysis.atlas.site_attribution import RELAXATIONS
from ortoscope_service.analysis.atlas.sites import leading_tokens, sites_available
from ortoscope_service.analysis.attribution import tangent_graph
from ortoscope_service.analysis.classes import Classes, find_classes
from ortoscope_service.analysis.gradients import Target
from ortoscope_service.analysis.visualization.presets import Preset
from ortoscope_service.analysis.visualization.settings import preset_settings, preset_to_data
from ortoscope_service.analysis.visualization.spec import check_seed
from ortoscope_service.api.components import Components, blaming
from ortoscope_service.api.subjects import Subject, resolve_subject
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.backward import Relaxations
from ortoscope_service.graph.taps import Layout

DEFAULT_GRID = 20
"""Cells along each side where none is given."""

MOST_LEVELS = 8
MOST_SITES = 1024
"""Grids, and sites of each image, of one atlas."""

_MODES: dict[int, Selection] = {
    atlases_pb2.ClassFilter.MODE_UNSPECIFIED: Selection.WINNER,
    atlases_pb2.ClassFilter.MODE_WINNER: Selection.WINNER,
    atlases_pb2.ClassFilter.MODE_TOP: Selection.TOP,
    atlases_pb2.ClassFilter.MODE_BOTH: Selection.BOTH,
}
_NUMBERS = {
    Selection.WINNER: atlases_pb2.ClassFilter.MODE_WINNER,
    Selection.TOP: atlases_pb2.ClassFilter.MODE_TOP,
    Selection.BOTH: atlases_pb2.ClassFilter.MODE_BOTH,
}


@dataclass(frozen=True)
class AskedAtlas:
    """A request that was read and found to be in order."""

    subject: Subject
    """Tap and images."""

    settings: AtlasSettings
    """Everything about the atlas but its grids."""

    icons: Preset | None
    """How icons are climbed; None without."""

    classes: Classes | None
    """Those that are attributed; None without."""

    message: atlases_pb2.AtlasSpec
    """The specification with every default filled in and every name in full."""

    filtered: tuple[int, ...]
    """The classes that samples must speak for; empty for all samples."""

    mode: Selection
    """How."""

    gradient: tuple[int, int] | None
    """The classes at the left and right; None for a layout in both directions."""

    def job_spec(self) -> dict[str, Any]:
        """What the job is told besides tap, images and execution."""
        kept = {"classes": list(self.filtered), "mode": self.mode.value, "top": self.message.class_filter.top}
        return {
            "grids": list(self.message.grids),
            "sites_per_image": self.message.sites_per_image,
            "settings": atlas_settings_data(self.settings),
            "icon_preset": None if self.icons is None else preset_to_data(self.icons),
            "attribution": self.classes is not None,
            "class_filter": kept if self.filtered else None,
            "gradient": None if self.gradient is None else list(self.gradient),
            "seed": self.message.seed,
        }


def read_atlas_request(components: Components, given: atlases_pb2.AtlasSpec) -> AskedAtlas:
    """What is asked for, after all checks that need no run of the model.

    Raises:
        OrtoscopeError: As `resolve_subject`, `resolve_atlas_settings`, `icon_preset` and `IconBatch.prepare` raise;
            INVALID_ARGUMENT: INVALID_GRID, INVALID_SITES, INVALID_TOP, INVALID_MODE, SAME_CLASS, CLASSES_TWICE,
            ICON_NOT_SQUARE, TOO_MANY_STEPS; FAILED_PRECONDITION: TOO_MANY_SITES,
            TOO_FEW_SAMPLES, UNITS_UNKNOWN, NO_CLASSES, NO_ATTRIBUTION; UNIMPLEMENTED, UNSUPPORTED_GRADIENT.
    """
    subject = resolve_subject(components, given.tap, given.dataset, given.splits)
    with blaming("spec.seed"):
        check_seed(given.seed)
    spec = atlases_pb2.AtlasSpec()
    spec.CopyFrom(given)
    spec.tap, spec.dataset = str(subject.tap_name), str(subject.dataset_name)
    spec.preset = given.preset or DEFAULT_PRESET
    spec.grids[:] = _grids(given.grids)
    settings = resolve_atlas_settings(given.preset, given.settings)
    spec.sites_per_image = _sites(subject, settings, given.sites_per_image, alone=not given.base_atlas)
    classes = None if given.without_attribution else _classes(subject)
    filtered, mode, gradient = _class_choices(given, classes)
    if filtered:
        spec.class_filter.mode = _NUMBERS[mode]
        spec.class_filter.top = _top(given.class_filter.top)
        spec.class_filter.classes[:] = [str(index) for index in filtered]
    if gradient is not None:
        spec.class_gradient.left, spec.class_gradient.right = map(str, gradient)
    icons = None
    if not given.without_icons:
        icons = _icons(components, subject, settings, given)
        spec.icons.preset, spec.icons.seed = icons.name, spec.seed
        for name, text in preset_settings(icons).items():
            spec.icons.settings[name] = text
    return AskedAtlas(subject, settings, icons, classes, spec, filtered, mode, gradient)


def _grids(given: Sequence[int]) -> list[int]:
    grids = list(given) or [DEFAULT_GRID]
    ascending = all(before < after for before, after in itertools.pairwise(grids))
    if len(grids) > MOST_LEVELS or not ascending or not SMALLEST_GRID <= min(grids) <= max(grids) <= LARGEST_GRID:
        raise invalid(
            "INVALID_GRID",
            f"The grids are {', '.join(map(str, grids))}; give up to {MOST_LEVELS} numbers from {SMALLEST_GRID} to "
            f"{LARGEST_GRID}, each larger than the one before.",
            field="spec.grids",
            grids=grids,
        )
    return grids


def _sites(subject: Subject, settings: AtlasSettings, given: int, *, alone: bool) -> int:
    """Sites of each image, where the map has as many and the layout gets enough samples, if they make one alone."""
    sites, field = given or 1, "spec.sites_per_image"
    if not 1 <= sites <= MOST_SITES:
        raise invalid(
            "INVALID_SITES",
            f"sites_per_image is {given}; give 1 to {MOST_SITES}, or 0 for 1.",
            field=field,
            sites_per_image=given,
        )
    tap, collection = subject.tap, settings.collection
    shape = tuple(tap.shape[axis] for axis in tap.site_axes)
    known = [size for size in shape if isinstance(size, int) and size > 0]
    if len(known) == len(shape):
        first = 0
        if tap.layout is Layout.TOKENS:
            first = collection.class_tokens if collection.class_tokens >= 0 else leading_tokens(subject.version, tap)
        there = sites_available(tuple(known), edge=collection.edge, first=first)
        if sites > there:
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "TOO_MANY_SITES",
                f"{sites} sites of each image were asked for, but of tap '{tap.display_name}' only {there} can be "
                "chosen, edges and class tokens left out; ask for fewer, or choose a tap with a larger map.",
                field=field,
                metadata={"sites_per_image": str(sites), "available": str(there)},
            )
    samples = len(subject.indices) * sites
    if alone and samples < FEWEST_SAMPLES:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "TOO_FEW_SAMPLES",
            f"{len(subject.indices)} images with {sites} sites each are {samples} samples; a layout needs at least "
            f"{FEWEST_SAMPLES}. Give more images, or take more sites of each.",
            field="spec.dataset",
            metadata={"samples": str(samples), "least": str(FEWEST_SAMPLES)},
        )
    return sites


def _classes(subject: Subject) -> Classes | None:
    """The classes that samples are attributed to; None if the model has none, or they do not depend on the tap."""
    try:
        classes = find_classes(subject.version)
        target = Target.of_classes(classes, probability=False)
        tangent_graph(subject.version, target, subject.tap, Relaxations.parse(RELAXATIONS))
    except OrtoscopeError as error:
        if error.reason in {"NO_CLASSES", "NO_HEAD"}:
            return None
        error.field = "spec.without_attribution"
        error.message += " Or leave attribution out (without_attribution)."
        raise
    return classes


def _class_choices(
    given: atlases_pb2.AtlasSpec, classes: Classes | None
) -> tuple[tuple[int, ...], Selection, tuple[int, int] | None]:
    """The classes that samples must speak for, how, and those of a gradient."""
    chosen, gradient = given.class_filter, given.HasField("class_gradient")
    if chosen.mode not in _MODES:
        raise invalid(
            "INVALID_MODE", f"There is no mode {chosen.mode}.", field="spec.class_filter.mode", mode=chosen.mode
        )
    if not chosen.classes and not gradient:
        return (), Selection.WINNER, None
    if classes is None:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "NO_ATTRIBUTION",
            "Samples can be chosen by class only where they are attributed to classes: the model has none that depend "
            "on this tap, or attribution was left out.",
            field="spec.class_gradient" if gradient else "spec.class_filter",
        )
    if not gradient:
        found = [
            class_index(classes, name, field=f"spec.class_filter.classes[{number}]")
            for number, name in enumerate(chosen.classes)
        ]
        return tuple(dict.fromkeys(found)), _MODES[chosen.mode], None
    if chosen.classes:
        raise invalid(
            "CLASSES_TWICE",
            "A gradient is made of the samples of its own two classes; leave class_filter.classes out.",
            field="spec.class_filter.classes",
        )
    left, right = (
        class_index(classes, name, field=f"spec.class_gradient.{side}")
        for side, name in (("left", given.class_gradient.left), ("right", given.class_gradient.right))
    )
    if left == right:
        raise invalid(
            "SAME_CLASS",
            f"Both ends of the gradient are class {left}; name two.",
            field="spec.class_gradient.right",
            **{"class": left},
        )
    return (left, right), _MODES.get(chosen.mode or atlases_pb2.ClassFilter.MODE_BOTH, Selection.BOTH), (left, right)


def class_index(classes: Classes, name: str, *, field: str) -> int:
    """The index of a class that is given by index or label.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, INVALID_CLASS; as `Classes.find` raises.
    """
    if not name.strip().isdecimal():
        return classes.find(name, field=field)
    index = int(name)
    count = classes.logits.unit_count or len(classes.labels)
    if count and index >= count:
        raise invalid(
            "INVALID_CLASS",
            f"There is no class {index}: the model has {count}, counted from 0.",
            field=field,
            **{"class": index},
        )
    return index


def _top(given: int) -> int:
    if given < 0:
        raise invalid(
            "INVALID_TOP",
            f"top is {given}; give a positive number, or 0 for {DEFAULT_TOP}.",
            field="spec.class_filter.top",
            top=given,
        )
    return given or DEFAULT_TOP


def _icons(components: Components, subject: Subject, settings: AtlasSettings, given: atlases_pb2.AtlasSpec) -> Preset:
    """How icons are climbed, after a trial of everything but the climb itself."""
    units, field = subject.tap.unit_count, "spec.icons"
    if units < 1:
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "UNITS_UNKNOWN",
            f"The number of units of tap '{subject.tap.display_name}' is not known before the model runs, so no icon "
            "can be planned; choose another tap, or leave the icons out (without_icons).",
            field="spec.tap",
            metadata={"tap": subject.tap.tensor},
        )
    preset = icon_preset(settings.icons, given.icons.preset, given.icons.settings, field=field)
    steps, most = preset.recipe.steps * preset.recipe.attempts, components.limits.max_visualization_steps
    if steps > most:
        raise invalid(
            "TOO_MANY_STEPS",
            f"The attempts of an icon are {steps} steps, more than the limit max_visualization_steps, {most}; set "
            "fewer.",
            field=f"{field}.settings.recipe.steps",
            steps=steps,
            max_visualization_steps=most,
        )
    if preset.size[0] != preset.size[1]:
        raise invalid(
            "ICON_NOT_SQUARE",
            f"Icons are squares, not {preset.size[0]} x {preset.size[1]} pixels; give one number.",
            field=f"{field}.settings.size",
        )
    try:
        batch = IconBatch.prepare(
            subject.version,
            subject.tap.tensor,
            np.ones((1, units)),
            [0],
            preset,
            given.seed,
            settings.icons,
            space=IconSpace(None, 1.0),
            session=components.job_execution.session,
            models=components.models,
        )
        batch.prepared.program.backward()  # refuses operators without a gradient
    except OrtoscopeError as error:
        error.field = "spec.tap" if error.field.startswith(("objective", "model")) else field
        error.message += " Or leave the icons out (without_icons)."
        raise
    return preset
