"""Presets with settings changed: every setting goes there and back, and what is of no use is refused by name."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortoscope_service.analysis.visualization.loop import Plateau, Recipe
from ortoscope_service.analysis.visualization.movements import CropBoxes, Flip, Jitter, Pad, Rotate, Scale
from ortoscope_service.analysis.visualization.objectives.arrays import Numbers
from ortoscope_service.analysis.visualization.optimizers import Adam, Lbfgs, Nadam, Schedule, Sgd
from ortoscope_service.analysis.visualization.parameterizations import choices
from ortoscope_service.analysis.visualization.parameterizations.pixel import Bound
from ortoscope_service.analysis.visualization.presets import PRESETS, Preset
from ortoscope_service.analysis.visualization.settings import (
    preset_from_data,
    preset_settings,
    preset_to_data,
    resolve_preset,
)
from ortoscope_service.analysis.visualization.transforms import Chain, ColourJitter, Noise
from ortoscope_service.errors import Code, OrtoscopeError

SHARES = st.floats(0.015625, 1, width=32)
SIZES = st.tuples(st.integers(60, 300), st.integers(60, 300))
SCHEDULES = st.builds(Schedule, st.sampled_from(["constant", "linear", "cosine"]), st.integers(1, 99), SHARES)
OPTIMIZERS = st.one_of(
    st.builds(Adam, SHARES, schedule=SCHEDULES),
    st.builds(Nadam, SHARES, st.just(0.8)),
    st.builds(Sgd, SHARES, st.sampled_from(["mean_abs", "l2", "rms", "none"])),
    st.builds(Lbfgs, st.integers(1, 20)),
)
STEPS = st.one_of(
    st.builds(Pad, st.integers(0, 9)),
    st.builds(Jitter, st.integers(0, 3), st.booleans()),
    st.builds(Scale, st.lists(SHARES, min_size=1, max_size=3).map(tuple)),
    st.builds(Rotate, st.lists(st.floats(-180, 180), min_size=1, max_size=3).map(tuple)),
    st.builds(Flip, SHARES),
    st.builds(CropBoxes, SHARES, uniform=st.booleans()),
)
CHAINS = st.builds(
    Chain,
    st.lists(STEPS, max_size=4).map(tuple),
    st.integers(1, 32),
    st.sampled_from(["constant", "reflect", "wrap"]),
    st.one_of(SHARES, st.just("uniform")),
    st.none() | st.builds(Noise, SHARES),
    st.none() | st.builds(ColourJitter, SHARES, SHARES),
)
NUMBERS = st.none() | st.lists(SHARES, min_size=1, max_size=5).map(Numbers) | SHARES.map(Numbers)
PARAMETERIZATIONS = st.one_of(
    st.builds(choices.Fourier, SHARES, alpha=st.booleans()),
    st.builds(choices.Pixel, SHARES, st.sampled_from(["clip", "sigmoid"])),
    st.builds(choices.Laplacian, st.integers(1, 5)),
    st.builds(choices.Lowres, sets=st.none() | st.integers(1, 5)),
    st.builds(choices.Aligned, SHARES),
    st.builds(choices.Cppn, st.integers(1, 9)),
    st.builds(choices.Maco, SHARES, NUMBERS),
    st.builds(choices.Generator, st.sampled_from(["", "scenes", "scenes/2"]), code_low=NUMBERS),
    st.builds(choices.Vector, low=NUMBERS, scale=NUMBERS),
)
CHANGED = st.builds(
    dataclasses.replace,
    st.sampled_from(list(PRESETS.values())),
    size=SIZES,
    view=st.none() | SIZES,
    chain=CHAINS,
    recipe=st.builds(
        Recipe, st.integers(0, 999), OPTIMIZERS, plateau=st.none() | st.builds(Plateau, st.integers(1, 9))
    ),
    parameterization=PARAMETERIZATIONS,
    needs_start=st.booleans(),
    cosine_power=SHARES,
    total_variation=SHARES,
    octaves=st.integers(1, 4),
    octave_scale=st.floats(1, 1.5),
    bound=st.none() | st.builds(Bound, st.sampled_from(["linf", "l2"]), SHARES),
)


def refusal(*arguments: Any, **options: Any) -> OrtoscopeError:
    with pytest.raises(OrtoscopeError) as caught:
        resolve_preset(*arguments, **options)
    return caught.value


@settings(max_examples=60, deadline=None)
@given(CHANGED, st.sampled_from(list(PRESETS)))
def test_all_settings_of_a_preset_make_an_equal_one_of_any_other(preset: Preset, base: str) -> None:
    made = resolve_preset(base, preset_settings(preset))
    told = {name: getattr(preset, name) for name in ("name", "summary", "source")}
    assert dataclasses.replace(made, **told) == preset


@settings(max_examples=60, deadline=None)
@given(CHANGED)
def test_a_preset_goes_to_json_and_back(preset: Preset) -> None:
    text = json.dumps(preset_to_data(preset), allow_nan=False)
    assert preset_from_data(json.loads(text)) == preset


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"size": "96"}, "size", (96, 96)),
        ({"size": "[64, 96]"}, "size", (64, 96)),
        ({"recipe.steps": "7"}, "recipe.steps", 7),
        ({"recipe.optimizer.learning_rate": "1"}, "recipe.optimizer", Adam(1.0)),
        ({"recipe.optimizer": '"lbfgs"'}, "recipe.optimizer", Lbfgs()),
        ({"recipe.optimizer": '{"sgd": {"norm": "l2"}}'}, "recipe.optimizer", Sgd(norm="l2")),
        (
            {"recipe.optimizer": '"sgd"', "recipe.optimizer.norm": '"rms"'},
            "recipe.optimizer",
            Sgd(norm="rms"),
        ),
        (
            {"recipe.optimizer.schedule.kind": '"cosine"', "recipe.optimizer.schedule.steps": "9"},
            "recipe.optimizer.schedule",
            Schedule("cosine", 9),
        ),
        ({"recipe.plateau.window": "9"}, "recipe.plateau", Plateau(9)),
        ({"chain.steps": "[]", "chain.views": "4"}, "chain", Chain(views=4)),
        ({"chain.steps": '[{"pad": {"pixels": 3}}, "flip"]'}, "chain.steps", (Pad(3), Flip())),
        ({"chain.noise.normal": "0.5"}, "chain.noise", Noise(0.5)),
        ({"chain.fill": '"uniform"'}, "chain.fill", "uniform"),
        ({"parameterization": '"cppn"'}, "parameterization", choices.Cppn()),
        ({"parameterization.sd": "0.5"}, "parameterization", choices.Fourier(0.5)),
        ({"parameterization": '"fourier"', "parameterization.alpha": "true"}, "parameterization.alpha", True),
        ({"bound.radius": "0.5"}, "bound", Bound("linf", 0.5)),
        ({"bound": '{"norm": "l2", "radius": 2}'}, "bound", Bound("l2", 2.0)),
        ({"octaves": "3"}, "octaves", 3),
    ],
)
def test_a_setting_changes_one_field(settings: dict[str, str], field: str, value: object) -> None:
    found: Any = resolve_preset("lucid", settings)
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value


def test_null_takes_away_what_may_be_absent() -> None:
    assert resolve_preset("maco", {"chain.noise": "null"}).chain.noise is None
    assert resolve_preset("adversarial", {"bound": "null"}).bound is None


def test_without_a_name_it_is_lucid_or_vector() -> None:
    assert resolve_preset("", {}).name == "lucid"
    assert resolve_preset("", {}, pictures=False).name == "vector"


@pytest.mark.parametrize(
    ("settings", "reason", "field"),
    [
        ({"sise": "96"}, "UNKNOWN_SETTING", "sise"),
        ({"recipe.step": "9"}, "UNKNOWN_SETTING", "recipe.step"),
        ({"name": '"x"'}, "UNKNOWN_SETTING", "name"),
        ({"size.height": "9"}, "UNKNOWN_SETTING", "size.height"),
        ({"parameterization.squash": '"clip"'}, "UNKNOWN_SETTING", "parameterization.squash"),
        ({"size": "ninety"}, "INVALID_SETTING", "size"),
        ({"size": "true"}, "INVALID_SETTING", "size"),
        ({"size": "[1, 2, 3]"}, "INVALID_SETTING", "size"),
        ({"recipe.steps": "2.5"}, "INVALID_SETTING", "recipe.steps"),
        ({"recipe.steps": "null"}, "INVALID_SETTING", "recipe.steps"),
        ({"recipe": "5", "recipe.steps": "2"}, "INVALID_SETTING", "recipe"),
        ({"recipe.optimizer": "[]", "recipe.optimizer.momentum": "2"}, "INVALID_SETTING", "recipe.optimizer"),
        ({"recipe.optimizer.learning_rate": "NaN"}, "INVALID_SETTING", "recipe.optimizer.learning_rate"),
        ({"recipe.optimizer.learning_rate": "1e999"}, "INVALID_SETTING", "recipe.optimizer.learning_rate"),
        ({"parameterization": '"pixels"'}, "INVALID_SETTING", "parameterization"),
        ({"parameterization": '{"pixel": {}, "maco": {}}'}, "INVALID_SETTING", "parameterization"),
        ({"chain.steps": '[{"pad": {}}]'}, "INVALID_SETTING", "chain.steps"),
        ({"chain.steps": "[" * 2000}, "INVALID_SETTING", "chain.steps"),
        ({"cosine_power": "-1"}, "INVALID_SETTING", "cosine_power"),
        ({"parameterization": '{"cppn": {"hidden": 1000000}}'}, "INVALID_SETTING", "parameterization.hidden"),
        ({"parameterization": '{"lowres": {"sets": 65}}'}, "INVALID_SETTING", "parameterization.sets"),
        ({"recipe.optimizer": '{"lbfgs": {"history": 101}}'}, "INVALID_SETTING", "recipe.optimizer.history"),
        ({"size": "4096"}, "SIZE_OUT_OF_RANGE", "size"),
        ({"view": "0"}, "SIZE_OUT_OF_RANGE", "view"),
        ({"octaves": "17"}, "INVALID_OCTAVES", "octaves"),
        ({"recipe.steps": "20001"}, "INVALID_RECIPE", "recipe.steps"),
        ({"recipe.optimizer.learning_rate": "0"}, "INVALID_OPTIMIZER", "recipe.optimizer.learning_rate"),
        ({"chain.views": "0"}, "INVALID_TRANSFORM", "chain.views"),
        ({"chain.steps": '[{"jitter": {"pixels": 500}}]'}, "INVALID_TRANSFORM", "chain.steps[0]"),
        ({"bound.radius": "-1"}, "INVALID_BOUND", "bound.radius"),
    ],
)
def test_settings_of_no_use_are_refused_by_name(settings: dict[str, str], reason: str, field: str) -> None:
    error = refusal("lucid", settings, field="spec.recipe")
    assert (error.reason, error.field, error.code) == (reason, f"spec.recipe.settings.{field}", Code.INVALID_ARGUMENT)


def test_an_unknown_setting_is_told_the_closest_ones() -> None:
    assert "recipe.optimizer.learning_rate" in refusal("lucid", {"recipe.optimizer.rate": "1"}).message
    assert "recipe.steps" in refusal("lucid", {"recipe.stepz": "1"}).message


def test_an_unknown_preset_is_not_found() -> None:
    error = refusal("lucide", {})
    assert (error.reason, error.field, error.code) == ("UNKNOWN_PRESET", "recipe.preset", Code.NOT_FOUND)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["clip", "adam", "pixel", "cosine", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["adam", "pixel", "pad", "steps", "shape", "float32", "schedule"]), inner)
    ),
    max_leaves=5,
)
NAMES = sorted({name for preset in PRESETS.values() for name in preset_settings(preset)})


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(PRESETS)),
    st.dictionaries(
        st.sampled_from([*NAMES, "chain", "recipe", "recipe.optimizer.adam", "chain.steps.0", "bound.norm", ""]),
        JSON.map(json.dumps) | st.text(max_size=5),
        max_size=3,
    ),
)
def test_garbage_makes_a_preset_or_is_refused(base: str, garbage: dict[str, str]) -> None:
    field = "recipe.settings"
    try:
        made = resolve_preset(base, garbage)
    except OrtoscopeError as error:
        made, field = PRESETS[base], error.field
    assert field.startswith("recipe.settings")
    assert preset_from_data(preset_to_data(made)) == made


@pytest.mark.parametrize("data", [None, {}, {"name": 3}, {"name": "lucid"}, {"name": "lucid", "more": 1}])
def test_data_that_are_no_preset_are_refused(data: object) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        preset_from_data(data)
    assert caught.value.reason == "INVALID_SETTING"


def test_numbers_of_any_number_of_axes_can_be_set() -> None:
    setting = {"parameterization": '"vector"', "parameterization.low": "-1", "parameterization.high": "[1, 2]"}
    made = resolve_preset("vector", setting).parameterization
    assert isinstance(made, choices.Vector)
    assert made.low == Numbers(np.float32(-1))
    assert made.high == Numbers([1, 2])
