"""Settings of an atlas by dotted names (`layout.n_neighbors`, `icons.steps`), values in JSON, and published sets."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ortoscope_service.analysis.atlas.collection import CollectionSettings
from ortoscope_service.analysis.atlas.grid import GridSettings
from ortoscope_service.analysis.atlas.icons import IconSettings
from ortoscope_service.analysis.atlas.layout import LayoutSettings
from ortoscope_service.analysis.visualization.plain_data import Codec, Unreadable, closest
from ortoscope_service.errors import OrtoscopeError, invalid, not_found

DEFAULT_PRESET = "ortoscope"
"""The set where none is named."""


@dataclass(frozen=True)
class AtlasSettings:
    """Everything about an atlas but its tap, images and grids."""

    collection: CollectionSettings = field(default_factory=CollectionSettings)
    """How samples are taken."""

    layout: LayoutSettings = field(default_factory=LayoutSettings)
    """How they are laid out."""

    grid: GridSettings = field(default_factory=GridSettings)
    """How cells are made."""

    icons: IconSettings = field(default_factory=IconSettings)
    """How icons are made."""


_RELEASED = IconSettings(objective="lucid_compat", shrinkage=0.0, share_above=1.0)
"""What the code released with the article has in common: the inverse as it is, and an icon for every cell."""

PRESETS: Mapping[str, AtlasSettings] = {
    "ortoscope": AtlasSettings(),
    # The names of the article's files: layout=50_0.05_cosine, whiten=true, 80 px, 1024 steps, best of 4. They do not
    # say the power of the angle; it is that of the notebooks.
    "distill": AtlasSettings(
        layout=LayoutSettings(n_neighbors=50, min_dist=0.05, init="spectral", equalize=0.0),
        icons=dataclasses.replace(_RELEASED, size=80, steps=1024, attempts=4, cosine_power=4.0),
    ),
    # lucid/notebooks/activation-atlas: UMAP 20, 0.01; cells of more than 10 samples; 512 steps.
    "notebook": AtlasSettings(
        layout=LayoutSettings(n_neighbors=20, min_dist=0.01, init="spectral", equalize=0.0),
        grid=GridSettings(min_density=11),
        icons=dataclasses.replace(_RELEASED, size=80, steps=512, attempts=1, cosine_power=4.0),
    ),
    # lucid/recipes/activation_atlas: UMAP 50, 0.05; cells of more than 5 samples; 96 px, 128 steps, not whitened.
    "recipe": AtlasSettings(
        layout=LayoutSettings(n_neighbors=50, min_dist=0.05, init="spectral", equalize=0.0),
        grid=GridSettings(min_density=6),
        icons=dataclasses.replace(_RELEASED, size=96, steps=128, attempts=1, cosine_power=2.0, whiten=False),
    ),
}
"""The published sets (reference: Carter et al. 2019 and the code released with it), and our own."""

_CODEC = Codec({})
_PARTS: Mapping[str, type] = {
    "collection": CollectionSettings,
    "layout": LayoutSettings,
    "grid": GridSettings,
    "icons": IconSettings,
}


def resolve_atlas_settings(preset: str, settings: Mapping[str, str], *, at: str = "spec") -> AtlasSettings:
    """A published set with some settings changed.

    Args:
        preset: Its name; `ortoscope` if empty.
        settings: By dotted name, values in JSON.
        at: The path of the field that holds both, for errors.

    Raises:
        OrtoscopeError: `UNKNOWN_PRESET` (NOT_FOUND); `UNKNOWN_SETTING`, `INVALID_SETTING`.
    """
    if preset not in PRESETS and preset:
        raise not_found(
            "UNKNOWN_PRESET",
            f"There is no preset {preset!r} of atlases; give one of {', '.join(PRESETS)}.",
            field=f"{at}.preset",
            preset=preset,
        )
    data = atlas_settings_data(PRESETS[preset or DEFAULT_PRESET])
    for name, text in settings.items():
        part, _, own = name.partition(".")
        if own not in data.get(part, {}):
            names = [f"{part}.{own}" for part, values in data.items() for own in values]
            raise invalid(
                "UNKNOWN_SETTING",
                f"There is no setting {name!r}; {closest(name, names)}.",
                field=f"{at}.settings.{name}",
                setting=name,
            )
        try:
            data[part][own] = json.loads(text)
        except ValueError:
            raise _unreadable(name, f"{text!r} is no JSON; texts need quotes", at) from None
    return atlas_settings_of(data, at=at)


def atlas_settings_data(settings: AtlasSettings) -> dict[str, dict[str, Any]]:
    """Settings as JSON data, by part and name."""
    return {part: _CODEC.write(kind, getattr(settings, part)) for part, kind in _PARTS.items()}


def atlas_settings_of(data: Mapping[str, Any], *, at: str = "spec") -> AtlasSettings:
    """The settings that `atlas_settings_data` was given.

    Raises:
        OrtoscopeError: INVALID_SETTING, with the field `at`.settings.PART.NAME.
    """
    try:
        return AtlasSettings(**{part: _CODEC.read(kind, data[part], part) for part, kind in _PARTS.items()})
    except Unreadable as error:
        raise _unreadable(error.path, error.why, at) from None
    except OrtoscopeError as error:
        error.field = f"{at}.{error.field}"
        raise


def atlas_settings_map(settings: AtlasSettings) -> dict[str, str]:
    """Every setting by dotted name with its value in JSON; `resolve_atlas_settings` with all of them gives the same."""
    data = atlas_settings_data(settings)
    return {f"{part}.{name}": json.dumps(value) for part, values in data.items() for name, value in values.items()}


def _unreadable(name: str, why: str, at: str) -> OrtoscopeError:
    return invalid(
        "INVALID_SETTING",
        f"The setting '{name}' cannot be read: {why}.",
        field=f"{at}.settings.{name}",
        setting=name,
    )
