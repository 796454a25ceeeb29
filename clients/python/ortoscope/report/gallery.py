"""The gallery: pictures of what units look for, beside the real images that activate them most and least."""

import io
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from ortoscope import resource_names
from ortoscope.examples import Example, UnitExamples
from ortoscope.messages import lasting
from ortoscope.report.page import embedded_pictures, render, significant
from ortoscope.report.pictures import Frame, Thumbnail, size_for
from ortoscope.report.sources import Sources
from ortoscope.unit_sheets import KINDS, UnitPicture
from ortoscope.v1 import activations_pb2, models_pb2, visualization_pb2

_QUALITY = 88
"""JPEG quality of what was found: its fine structure is what people look for."""

SHOWN_EXAMPLES = 4
"""Real images shown of either end; further ones only tell where the picture stands."""

_WHAT = {
    "channel": "the mean of the unit over all sites",
    "neuron": "the unit at the middle site",
}


def render_unit_sheet(
    sheet: visualization_pb2.UnitSheet,
    units: Sequence[UnitPicture],
    tap: models_pb2.Tap,
    *,
    defaults: Mapping[str, object] | None = None,
    example_set: activations_pb2.ExampleSet | None = None,
    examples: Sequence[UnitExamples] = (),
    sources: Sources | None = None,
) -> str:
    """The gallery as one HTML file.

    Args:
        sheet: What was asked, provenance.
        units: The pictures.
        tap: The tap.
        defaults: The settings of the preset as it comes, so that the command names only what was changed.
        example_set: Real examples of the tap, if they are shown too.
        examples: The examples of each unit.
        sources: The examples' pictures and paths.
    """
    spec = sheet.spec
    kind = _kind(spec)
    context: dict[str, Any] = {
        "sheet": sheet,
        "spec": spec,
        "tap": tap,
        "model": resource_names.short_model(resource_names.version_of_tap(spec.tap)),
        "dataset": resource_names.short_dataset(example_set.spec.dataset) if example_set else "",
        "images": example_set.provenance.items if example_set else 0,
        "units": len(units),
        "what": _WHAT[kind],
        "compared": example_set is not None and _comparable(spec, example_set),
        "provenance": lasting(sheet.provenance),
        "command": command(sheet, [unit.unit for unit in units], defaults or {}),
    }
    return render("gallery.html.j2", "gallery.js", gallery_data(sheet, units, example_set, examples, sources), context)


def command(
    sheet: visualization_pb2.UnitSheet, units: Sequence[int], defaults: Mapping[str, object], folder: str = "sheet"
) -> str:
    """The command that makes the sheet again; settings that are the preset's own are left out."""
    spec = sheet.spec
    words = ["ortoscope", "visualize", resource_names.short_model(resource_names.version_of_tap(spec.tap))]
    words += ["--tap", resource_names.short_tap(spec.tap), "--units", ranges(units)]
    words += ["--neuron"] * (_kind(spec) == "neuron") + ["--negative"] * spec.negative
    words += ["--preset", spec.recipe.preset]
    for name, value in sorted(spec.recipe.settings.items()):
        if name not in defaults or defaults[name] != json.loads(value):
            words += ["--set", f"{name}={value}"]
    words += ["--seed", str(spec.recipe.seed), "-o", folder]
    return shlex.join(words)


def ranges(units: Sequence[int]) -> str:
    """Units as the command line takes them: (0, 1, 2, 7) → `0-2,7`."""
    parts: list[list[int]] = []
    for unit in units:
        if parts and unit == parts[-1][1] + 1:
            parts[-1][1] = unit
        else:
            parts.append([unit, unit])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def gallery_data(
    sheet: visualization_pb2.UnitSheet,
    units: Sequence[UnitPicture],
    example_set: activations_pb2.ExampleSet | None,
    examples: Sequence[UnitExamples],
    sources: Sources | None,
) -> dict[str, Any]:
    """What the page's script draws from.

    Unit: `u` number, `o` objective, `e` why it ended, `s` steps, `t` attempt, `r` redirected steps, `x` the largest
    objective on a real image, `p` the share of real images below the picture in percent, `k` among how many of the best
    that was looked for (`x`, `p` and `k` are null without comparable images), `most` and `least` as lists of [image,
    value].
    """
    compared = example_set if example_set is not None and _comparable(sheet.spec, example_set) else None
    by_unit = {entry.unit: entry for entry in examples}
    return {
        "units": [_unit(entry, by_unit.get(entry.unit), sheet.spec, compared) for entry in units],
        "images": 0 if compared is None else compared.provenance.items,
        "paths": {str(index): path for index, path in sources.paths.items()} if sources else {},
        "pictures": {
            **(embedded_pictures(sources.pictures) if sources else {}),
            **_found_pictures(units),
        },
    }


def standing(objective: float, best: Sequence[float], images: int) -> float | None:
    """The share of images, in percent, whose objective is below a picture's; None if that is not known.

    Args:
        objective: The picture's.
        best: The largest objectives on images, as many as are known, descending.
        images: How many images there are.
    """
    reached = sum(value >= objective for value in best)
    if not images or (reached == len(best) and reached < images):
        return None  # it is somewhere below the images that are known
    return 100 * (images - reached) / images


def _unit(
    entry: UnitPicture,
    examples: UnitExamples | None,
    spec: visualization_pb2.UnitSheetSpec,
    compared: activations_pb2.ExampleSet | None,
) -> dict[str, Any]:
    most, least = (examples.most, examples.least) if examples else ((), ())
    best: list[float] = []
    if compared is not None:
        best = [-example.value for example in least] if spec.negative else [example.value for example in most]
    percent = standing(entry.objective, best, compared.provenance.items) if compared is not None and best else None
    return {
        "u": entry.unit,
        "o": significant(entry.objective),
        "e": entry.end,
        "s": entry.steps,
        "t": entry.attempt,
        "r": entry.redirected_steps,
        "x": significant(best[0]) if best else None,
        "p": None if percent is None else significant(percent),
        "k": len(best) if best else None,
        "most": [_packed(example) for example in most[:SHOWN_EXAMPLES]],
        "least": [_packed(example) for example in least[:SHOWN_EXAMPLES]],
    }


def _packed(example: Example) -> list[object]:
    return [example.index, significant(example.value)]


def _found_pictures(units: Sequence[UnitPicture]) -> Mapping[str, object]:
    """What was found, by `u` and the unit's number, small enough for a page that holds all of them."""
    side, _ = size_for(len(units))
    made = {entry.unit: _thumbnail(entry.image(), side) for entry in units}
    return {f"u{unit}": packed for unit, packed in embedded_pictures(made).items()}


def _thumbnail(picture: Image.Image, side: int) -> Thumbnail:
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return Thumbnail(buffer.getvalue(), small.width, small.height, Frame())


def _comparable(spec: visualization_pb2.UnitSheetSpec, example_set: activations_pb2.ExampleSet) -> bool:
    """Whether images were ranked by the number that was climbed."""
    by_mean = example_set.spec.reduction == activations_pb2.ExamplesSpec.REDUCTION_MEAN
    return by_mean and _kind(spec) == "channel"


def _kind(spec: visualization_pb2.UnitSheetSpec) -> str:
    return next((name for name, number in KINDS.items() if number == spec.kind), "channel")
