"""What is worth telling of dissections and photographs."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ortoscope
from numpy.typing import NDArray
from PIL import Image, ImageFilter

SIDE = 224
"""Pixels to which photographs are squashed: the input of the network."""

CLEAR_IOU = 0.15
"""Only detectors with at least this IoU are shown on photographs: at the common 0.04 a label is often accidental."""


@dataclass(frozen=True)
class Finding:
    """Something worth telling."""

    text: str
    """One sentence."""

    folder: str
    """The report that shows it, relative to the output."""


@dataclass(frozen=True)
class UnitOnPhotograph:
    """How a unit answers to a photograph."""

    unit: int
    """The unit."""

    concept: str
    """The concept it detects."""

    iou: float
    """How well it does."""

    strength: float
    """Its largest activation, over its largest on any scene."""

    picture: str
    """Data URI of the photograph, dimmed where the unit is below its threshold."""


@dataclass(frozen=True)
class Photograph:
    """A photograph and the detectors that answer to it most."""

    name: str
    """Its name."""

    picture: str
    """Its data URI."""

    units: tuple[UnitOnPhotograph, ...]
    """The detectors, by falling strength."""


def look_at(paths: Sequence[Path], maps: NDArray[np.float32], dissection: ortoscope.Dissection) -> list[Photograph]:
    """Finds for each photograph the clear detectors that answer most, relative to their strongest answer to any scene.

    Args:
        paths: The photographs.
        maps: (photographs, units, rows, columns): the tap's activations on them.
        dissection: What the units detect.
    """
    strongest = dissection.top_images.value[:, 0]
    detectors = [label for label in dissection.labels("iou") if label.iou >= CLEAR_IOU and label.threshold > 0]
    shown = []
    for path, unit_maps in zip(paths, maps, strict=True):
        picture = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        strength = {label.unit: float(unit_maps[label.unit].max() / strongest[label.unit]) for label in detectors}
        best = sorted(detectors, key=lambda label: -strength[label.unit])[:3]
        units = tuple(
            UnitOnPhotograph(
                label.unit,
                label.concept,
                label.iou,
                strength[label.unit],
                data_uri(masked(picture, unit_maps[label.unit], label.threshold)),
            )
            for label in best
        )
        shown.append(Photograph(path.stem.replace("_", " "), data_uri(picture), units))
    return shown


def masked(picture: Image.Image, unit_map: NDArray[np.float32], threshold: float) -> Image.Image:
    """The picture, dimmed where the map, raised to its size, is at or below the threshold."""
    raised = Image.fromarray(unit_map.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    mask = Image.fromarray((np.asarray(raised) > threshold).astype(np.uint8) * 255)
    dimmed = picture.convert("L").convert("RGB").point(lambda value: value * 0.35)
    result = Image.composite(picture, dimmed, mask)
    outline = mask.filter(ImageFilter.FIND_EDGES)
    result.paste((255, 196, 0), mask=outline)
    return result


def data_uri(picture: Image.Image) -> str:
    """The picture as a JPEG data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def find(dissections: Sequence[tuple[str, ortoscope.Dissection]], photographs: Sequence[Photograph]) -> list[Finding]:
    """The five most interesting findings.

    Args:
        dissections: Name and dissection of each tap, in the order of the network.
        photographs: What the photographs showed.
    """
    first_name, first = dissections[0]
    last_name, last = dissections[-1]
    findings = [best_detector(name, dissection) for name, dissection in dissections]
    findings.append(
        Finding(
            f"From {first_name} to {last_name} the categories shift: {by_category(first)} at the first, "
            f"{by_category(last)} at the second.",
            last_name,
        )
    )
    concepts = Counter(label.concept for label in last.detectors())
    concept, units = concepts.most_common(1)[0] if concepts else ("no concept", 0)
    findings.append(
        Finding(f"At {last_name}, {units} units detect '{plain(concept)}', more than any other concept.", last_name)
    )
    strongest = max(
        ((photograph, unit) for photograph in photographs for unit in photograph.units),
        key=lambda pair: pair[1].strength,
        default=None,
    )
    if strongest is not None:
        photograph, unit = strongest
        findings.append(
            Finding(
                f"On the photograph '{photograph.name}', unit {unit.unit} of {last_name} (detects "
                f"'{plain(unit.concept)}') answers {unit.strength:.1f} times as strongly as to any scene.",
                last_name,
            )
        )
    return findings


def best_detector(name: str, dissection: ortoscope.Dissection) -> Finding:
    """The unit of a tap with the largest IoU, and how many detectors there are."""
    best = next(iter(dissection.labels("iou")))
    count = dissection.best_label
    return Finding(
        f"At {name}, {count.detectors} of {dissection.proto.unit_count} units detect {count.unique_detectors} "
        f"different concepts; the best is unit {best.unit}: '{plain(best.concept)}' ({best.category}), "
        f"IoU {best.iou:.2f}.",
        name,
    )


def by_category(dissection: ortoscope.Dissection) -> str:
    """How many detectors each category has, in words."""
    counted = [(c.detectors, c.category) for c in dissection.best_label.categories if c.detectors]
    return ", ".join(f"{number} {category}" for number, category in sorted(counted, reverse=True)) or "none"


def plain(concept: str) -> str:
    """A concept's name without Broden's suffixes."""
    return concept.removesuffix("-c").removesuffix("-s").replace("_", " ")
