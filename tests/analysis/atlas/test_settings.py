"""Settings of atlases: their names, their values, and the sets that were published."""

import json
from typing import Any

import pytest
from ortoscope_service.analysis.atlas.settings import (
    PRESETS,
    AtlasSettings,
    atlas_settings_data,
    atlas_settings_map,
    atlas_settings_of,
    resolve_atlas_settings,
)
from ortoscope_service.errors import OrtoscopeError

PUBLISHED: dict[str, dict[str, Any]] = {
    "distill": {
        "layout.n_neighbors": 50,
        "layout.min_dist": 0.05,
        "layout.metric": "cosine",
        "icons.size": 80,
        "icons.steps": 1024,
        "icons.attempts": 4,
        "icons.whiten": True,
    },
    "notebook": {
        "layout.n_neighbors": 20,
        "layout.min_dist": 0.01,
        "layout.metric": "cosine",
        "grid.min_density": 11,
        "icons.size": 80,
        "icons.steps": 512,
        "icons.attempts": 1,
        "icons.cosine_power": 4,
        "icons.whiten": True,
    },
    "recipe": {
        "layout.n_neighbors": 50,
        "layout.min_dist": 0.05,
        "layout.metric": "cosine",
        "grid.min_density": 6,
        "icons.size": 96,
        "icons.steps": 128,
        "icons.attempts": 1,
        "icons.cosine_power": 2,
        "icons.whiten": False,
    },
}
"""What the article, its notebooks and its recipe state; "more than 10 samples" is at least 11."""


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_sets_have_the_published_values_and_the_objective_as_it_was_released(preset: str) -> None:
    settings = atlas_settings_map(resolve_atlas_settings(preset, {}))
    assert {name: json.loads(settings[name]) for name in PUBLISHED[preset]} == PUBLISHED[preset]
    assert json.loads(settings["icons.objective"]) == "lucid_compat"


@pytest.mark.parametrize("preset", PRESETS)
def test_all_settings_of_a_set_make_it_again(preset: str) -> None:
    settings = PRESETS[preset]
    assert resolve_atlas_settings("", atlas_settings_map(settings)) == settings
    assert atlas_settings_of(json.loads(json.dumps(atlas_settings_data(settings)))) == settings


def test_one_setting_changes_nothing_else() -> None:
    before, after = AtlasSettings(), resolve_atlas_settings("", {"layout.n_neighbors": "7"})
    assert after.layout.n_neighbors == 7
    changed = {name for name, text in atlas_settings_map(after).items() if atlas_settings_map(before)[name] != text}
    assert changed == {"layout.n_neighbors"}


@pytest.mark.parametrize(
    ("name", "text", "reason", "told"),
    [
        ("layout.n_neighbours", "7", "UNKNOWN_SETTING", "layout.n_neighbors"),
        ("n_neighbors", "7", "UNKNOWN_SETTING", "n_neighbors"),
        ("layout", "{}", "UNKNOWN_SETTING", "layout"),
        ("layout.metric", "cosine", "INVALID_SETTING", "quotes"),
        ("layout.n_neighbors", "1", "INVALID_SETTING", "2"),
        ("layout.n_neighbors", "7.5", "INVALID_SETTING", "layout.n_neighbors"),
        ("layout.min_dist", "NaN", "INVALID_SETTING", "layout.min_dist"),
        ("grid.min_density", "0", "INVALID_SETTING", "min_density"),
        ("collection.edge", "-1", "INVALID_SETTING", "edge"),
        ("icons.steps", "null", "INVALID_SETTING", "steps"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path_and_the_remedy(name: str, text: str, reason: str, told: str) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        resolve_atlas_settings("", {name: text}, at="request")
    assert (caught.value.reason, caught.value.field) == (reason, f"request.settings.{name}")
    assert told in caught.value.message
