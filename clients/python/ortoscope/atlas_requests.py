"""What an atlas is to be, as the API takes it, and as a command that asks for it again."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from ortoscope import resource_names
from ortoscope.errors import InvalidArgument
from ortoscope.v1 import atlases_pb2
from ortoscope.visualizing import recipe_message, settings_message

ClassMode: TypeAlias = Literal["winner", "top", "both"]
"""Which samples speak for a class: those whose largest attribution is to it, those with the largest attributions to it,
or both."""

MODES = {
    "winner": atlases_pb2.ClassFilter.MODE_WINNER,
    "top": atlases_pb2.ClassFilter.MODE_TOP,
    "both": atlases_pb2.ClassFilter.MODE_BOTH,
}

_SIDES = 2


def spec_message(
    tap: str,
    dataset: str,
    *,
    splits: Sequence[str] = (),
    sites_per_image: int = 0,
    grids: Sequence[int] = (),
    preset: str = "",
    settings: Mapping[str, object] | None = None,
    icons: bool = True,
    icon_preset: str = "",
    icon_settings: Mapping[str, object] | None = None,
    attribution: bool = True,
    classes: Sequence[int | str] = (),
    class_mode: ClassMode = "winner",
    class_top: int = 0,
    gradient: Sequence[int | str] = (),
    base: str = "",
    seed: int = 0,
) -> atlases_pb2.AtlasSpec:
    """What BuildAtlas is to compute; see `Tap.atlas`.

    Raises:
        InvalidArgument: MODE_UNKNOWN, GRADIENT_INVALID, SETTING_NOT_JSON.
    """
    if class_mode not in MODES:
        raise InvalidArgument(
            f"{class_mode!r} is no way to choose samples of a class: choose one of {', '.join(MODES)}.",
            reason="MODE_UNKNOWN",
            field="class_mode",
            metadata={"mode": str(class_mode)},
        )
    if gradient and (isinstance(gradient, str) or len(gradient) != _SIDES):
        raise InvalidArgument(
            "A gradient is between two classes: give the one at the left and the one at the right.",
            reason="GRADIENT_INVALID",
            field="gradient",
        )
    spec = atlases_pb2.AtlasSpec(
        tap=tap,
        dataset=dataset,
        splits=splits,
        sites_per_image=sites_per_image,
        grids=[int(grid) for grid in grids],
        preset=preset,
        settings=settings_message(settings, "spec.settings"),
        without_icons=not icons,
        without_attribution=not attribution,
        base_atlas=resource_names.atlas(base) if base else "",
        seed=seed,
    )
    if icon_preset or icon_settings:
        spec.icons.CopyFrom(recipe_message(icon_preset, icon_settings, 0, None))
    if classes:
        names = [str(class_) for class_ in ([classes] if isinstance(classes, str) else classes)]
        spec.class_filter.CopyFrom(atlases_pb2.ClassFilter(classes=names, mode=MODES[class_mode], top=class_top))
    if gradient:
        left, right = map(str, gradient)
        spec.class_gradient.CopyFrom(atlases_pb2.ClassGradient(left=left, right=right))
    return spec


def command_of(spec: atlases_pb2.AtlasSpec) -> str:
    """The command that asks for an atlas again.

    Args:
        spec: What was asked; settings that are not given keep the values that their preset has.
    """
    words = ["ortoscope", "atlas", resource_names.short_model(resource_names.version_of_tap(spec.tap))]
    words += ["--tap", resource_names.short_tap(spec.tap), "--dataset", resource_names.short_dataset(spec.dataset)]
    for split in spec.splits:
        words += ["--split", split]
    if spec.sites_per_image > 1:
        words += ["--sites", str(spec.sites_per_image)]
    if spec.grids:
        words += ["--grid", ",".join(map(str, spec.grids))]
    if spec.preset:
        words += ["--preset", spec.preset]
    for name, text in sorted(spec.settings.items()):
        words += ["--set", f"{name}={_word(text)}"]
    for class_ in spec.class_filter.classes:
        words += ["--class", class_]
    modes = {number: name for name, number in MODES.items()}
    if spec.class_filter.classes and modes.get(spec.class_filter.mode, "winner") != "winner":
        words += ["--class-samples", modes[spec.class_filter.mode]]
        words += ["--class-top", str(spec.class_filter.top)] if spec.class_filter.top else []
    if spec.HasField("class_gradient"):
        for side in (spec.class_gradient.left, spec.class_gradient.right):
            words += ["--gradient", side]
    words += ["--no-icons"] if spec.without_icons else []
    words += ["--no-attribution"] if spec.without_attribution else []
    words += ["--base", spec.base_atlas] if spec.base_atlas else []
    if spec.icons.preset and spec.icons.preset != _ICON_PRESET:
        words += ["--icon-preset", spec.icons.preset]
    return shlex.join([*words, "--seed", str(spec.seed)])


_ICON_PRESET = "atlas-icon"


def _word(text: str) -> str:
    """A value in JSON as the option takes it: words that are not read otherwise stand for themselves."""
    value = json.loads(text)
    if not isinstance(value, str):
        return text
    try:
        json.loads(value)
    except ValueError:
        return value
    return text
