"""Icons of cells on a small network: what they reach, what they depend on, and who shares them."""

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from ortoscope_service.analysis.atlas.icon_space import IconSpace
from ortoscope_service.analysis.atlas.icons import (
    IconBatch,
    Icons,
    IconSettings,
    icon_preset,
    icons_at_once,
    shared_icons,
)
from ortoscope_service.analysis.visualization.loop import End
from ortoscope_service.analysis.visualization.presets import PRESETS
from ortoscope_service.analysis.visualization.transforms import Chain, Jitter, Pad
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.statistics.second_moments import SecondMoments
from serving import PREPROCESSING, add_model
from tiny_models import tiny_cnn, tiny_vision_transformer

TAP, UNITS = "relu6", 12
SETTINGS = IconSettings(size=16, steps=40, attempts=1, warm_steps=8)
IDS = (5, 0, 17)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    return add_model(
        ModelRepository(tmp_path_factory.mktemp("models")), "tiny", tiny_cnn(), preprocessing=PREPROCESSING
    )


@pytest.fixture(scope="module")
def samples(version: ModelVersion) -> NDArray[np.float32]:
    """(600, C): what the tap says of noise."""
    pixels = np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype(np.float32)
    rows = maps(version, pixels)[:, :, 2:6, 2:6].transpose(0, 2, 3, 1).reshape(-1, UNITS)
    return rows[np.abs(rows).sum(axis=1) > 0][:600]


@pytest.fixture(scope="module")
def space(samples: NDArray[np.float32]) -> IconSpace:
    return IconSpace.of(moments(samples))


@pytest.fixture(scope="module")
def means(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, C), of samples in which another unit each is the strongest."""
    strongest = samples.argmax(axis=1)
    units = np.argsort(-np.bincount(strongest, minlength=UNITS), kind="stable")[:3]
    return np.stack([samples[strongest == unit].mean(axis=0) for unit in units])


@pytest.fixture(scope="module")
def icons(version: ModelVersion, means: NDArray[np.float32], space: IconSpace) -> Icons:
    return batch(version, means, space).run()


def batch(
    version: ModelVersion,
    means: NDArray[np.float32],
    space: IconSpace,
    settings: IconSettings = SETTINGS,
    cells: Sequence[int] = IDS,
    seed: int = 3,
) -> IconBatch:
    """Icons with transforms that suit 16 pixels."""
    preset = dataclasses.replace(icon_preset(settings), chain=Chain((Pad(2), Jitter(3))))
    return IconBatch.prepare(version, TAP, means, cells, preset, seed, settings, space=space)


def maps(version: ModelVersion, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    model = onnx.load_from_string(version.trunk_bytes((TAP,)))
    (found,) = ReferenceEvaluator(model).run(None, {"image": pixels})
    return np.asarray(found)


def moments(rows: NDArray[np.float32]) -> SecondMoments:
    found = SecondMoments(rows.shape[1])
    found.update(rows)
    return found


def refusal(version: ModelVersion, means: NDArray[np.float32], space: IconSpace, **changes: object) -> str:
    arguments = {"cells": [0] * len(means), "seed": 0, **changes}
    with pytest.raises(OrtoscopeError) as caught:
        IconBatch.prepare(version, TAP, means, space=space, settings=SETTINGS, **arguments)  # type: ignore[arg-type]
    return caught.value.reason


# The space


def test_the_cosine_in_the_space_is_that_of_the_precision(samples: NDArray[np.float32]) -> None:
    space = IconSpace.of(moments(samples), shrinkage=0.0)
    wide = samples.astype(np.float64)
    live = np.abs(wide).max(axis=0) > 0
    precision = np.zeros((UNITS, UNITS))
    precision[np.ix_(live, live)] = np.linalg.inv((wide.T @ wide / len(wide))[np.ix_(live, live)])
    h, v = wide[:50], wide[50:100]
    truth = np.sum(h @ precision * v, axis=1) / np.sqrt(
        np.sum(h @ precision * h, axis=1) * np.sum(v @ precision * v, axis=1)
    )
    np.testing.assert_allclose(space.cosines(h, v), truth, rtol=1e-7)
    assert space.energy == pytest.approx(live.sum())


@pytest.mark.parametrize("whiten", [True, False])
def test_typical_cosine_is_the_mean_over_samples_weighted_by_length(
    samples: NDArray[np.float32], *, whiten: bool
) -> None:
    space = IconSpace.of(moments(samples), whiten=whiten, shrinkage=0.1)
    mean = samples.mean(axis=0, keepdims=True)
    lengths = np.linalg.norm(space.coordinates(samples), axis=1)
    cosines = space.cosines(samples, np.repeat(mean, len(samples), axis=0))
    truth = np.mean(cosines * lengths) / np.sqrt(np.mean(lengths**2))
    assert space.typical(mean)[0] == pytest.approx(truth)


def test_the_space_survives_as_arrays(samples: NDArray[np.float32]) -> None:
    for whiten in (True, False):
        space = IconSpace.of(moments(samples), whiten=whiten)
        again = IconSpace.from_arrays(space.to_arrays())
        assert np.array_equal(space.coordinates(samples), again.coordinates(samples))
        assert space.energy == again.energy


# What an icon comes to


def test_the_score_is_the_cosine_of_what_another_runtime_sees_in_the_picture(
    version: ModelVersion, means: NDArray[np.float32], space: IconSpace, icons: Icons
) -> None:
    pixels = (np.moveaxis(icons.picture, 3, 1).astype(np.float32) - 127) / 128
    centre = maps(version, pixels)[:, :, 4, 4]
    np.testing.assert_allclose(icons.score, space.cosines(centre, means), atol=2e-3)


@pytest.mark.parametrize("objective", ["direction", "lucid_compat"])
@pytest.mark.parametrize("whiten", [True, False])
def test_climbing_brings_the_icon_closer_to_the_mean(
    version: ModelVersion, means: NDArray[np.float32], samples: NDArray[np.float32], objective: str, *, whiten: bool
) -> None:
    settings = dataclasses.replace(SETTINGS, objective=objective, whiten=whiten)
    space = IconSpace.of(moments(samples), whiten=whiten)
    made = batch(version, means, space, settings)
    assert made.run().score.mean() > made.run(steps=1).score.mean() + 0.05


def test_the_true_form_gets_closer_than_the_released_one(
    version: ModelVersion, means: NDArray[np.float32], space: IconSpace, icons: Icons
) -> None:
    released = batch(version, means, space, dataclasses.replace(SETTINGS, objective="lucid_compat")).run()
    assert icons.score.mean() > released.score.mean()


def test_an_icon_represents_its_cell_if_it_gets_as_close_as_the_settings_say(
    version: ModelVersion, means: NDArray[np.float32], space: IconSpace, icons: Icons
) -> None:
    ratio = icons.score / space.typical(means)
    between = float(np.sort(ratio)[:2].mean())
    strict = batch(version, means, space, dataclasses.replace(SETTINGS, represents_above=between)).run()
    assert strict.represents.sum() == 2
    assert np.array_equal(strict.represents, ratio >= between)


def test_of_tokens_the_one_in_the_middle_of_the_picture_is_climbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    models = ModelRepository(tmp_path_factory.mktemp("tokens"))
    version = add_model(models, "tokens", tiny_vision_transformer(), preprocessing=PREPROCESSING)
    mean = np.random.default_rng(1).normal(size=(1, 24)).astype(np.float32)
    # Jitter takes two pixels off, with which the model, bound to sixteen patches, would not run.
    preset = dataclasses.replace(icon_preset(SETTINGS), chain=Chain((Jitter(1),)))
    tap = "block0/residual2"
    space = IconSpace(None, 1.0)
    made = IconBatch.prepare(version, tap, mean, [0], preset, 0, SETTINGS, space=space).run()
    pixels = (np.moveaxis(made.picture, 3, 1).astype(np.float32) - 127) / 128
    (tokens,) = ReferenceEvaluator(onnx.load_from_string(version.trunk_bytes((tap,)))).run(None, {"image": pixels})
    cosines = [float(space.cosines(token[None], mean)[0]) for token in np.asarray(tokens)[0]]
    # The class token, then four rows of four: row 2, column 2.
    assert np.argmax(cosines) == 1 + 2 * 4 + 2
    assert made.score[0] == pytest.approx(max(cosines), abs=2e-3)


# What an icon depends on


def test_bytes_do_not_depend_on_the_batch(
    version: ModelVersion, means: NDArray[np.float32], space: IconSpace, icons: Icons
) -> None:
    for item in range(3):
        alone = batch(version, means[item : item + 1], space, cells=[IDS[item]]).run()
        assert alone.picture[0].tobytes() == icons.picture[item].tobytes()
        assert alone.score[0] == icons.score[item]
        for name, tensor in alone.parameters.items():
            assert tensor[0].tobytes() == icons.parameters[name][item].tobytes()


def test_another_cell_number_or_seed_is_another_icon(
    version: ModelVersion, means: NDArray[np.float32], space: IconSpace, icons: Icons
) -> None:
    for cell, seed in ((6, 3), (5, 4)):
        other = batch(version, means[:1], space, cells=[cell], seed=seed).run()
        assert not np.array_equal(other.picture[0], icons.picture[0])


def test_a_start_from_the_parent_keeps_most_of_it_and_noise_is_drawn_where_there_is_none(
    version: ModelVersion, means: NDArray[np.float32], space: IconSpace, icons: Icons
) -> None:
    sure = dataclasses.replace(icons, represents=np.array([True, True, False]))
    start = sure.starts(np.array([0, -1, 2]))
    made = batch(version, means, space)
    warm, cold = made.run(start), made.run(steps=SETTINGS.warm_steps)
    assert warm.steps.tolist() == [SETTINGS.warm_steps] * 3
    assert warm.score[0] > cold.score[0]
    assert not np.array_equal(warm.picture[0], cold.picture[0])
    assert np.array_equal(warm.picture[1:], cold.picture[1:])


def test_starts_are_copied(version: ModelVersion, means: NDArray[np.float32], space: IconSpace, icons: Icons) -> None:
    start = {name: tensor.copy() for name, tensor in icons.parameters.items()}
    batch(version, means, space).run(start, 2)
    assert all(np.array_equal(start[name], tensor) for name, tensor in icons.parameters.items())


def test_icons_survive_as_arrays_with_parameters_of_half_precision(icons: Icons) -> None:
    arrays = icons.to_arrays()
    assert {array.dtype.kind for array in arrays.values()} <= set("uifb")
    again = Icons.from_arrays(arrays)
    assert np.array_equal(again.picture, icons.picture)
    assert again.end == icons.end
    for name, tensor in icons.parameters.items():
        np.testing.assert_allclose(again.parameters[name], tensor, rtol=1e-3, atol=1e-5)
    assert not any(name.startswith("parameter") for name in icons.to_arrays(parameters=False))


def test_batches_are_joined_in_order(icons: Icons) -> None:
    def part(rows: slice) -> Icons:
        arrays = {name: array[rows] for name, array in icons.to_arrays().items()}
        return Icons.from_arrays(arrays)

    whole = Icons.from_arrays(icons.to_arrays()).to_arrays()
    joined = Icons.joined([part(slice(0, 1)), part(slice(1, 3))]).to_arrays()
    assert whole.keys() == joined.keys()
    assert all(np.array_equal(whole[name], joined[name]) for name in whole)


def test_size_of_kept_parameters_is_what_the_documentation_says() -> None:
    shapes = icon_preset(IconSettings()).picture().parameter_shapes
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 19_680


# What goes wrong


def test_an_icon_without_a_finite_objective_is_black_and_represents_nothing(
    version: ModelVersion, means: NDArray[np.float32], space: IconSpace
) -> None:
    made = batch(version, means, space)
    huge = {
        name: np.full((3, *shape), 3e38, np.float32)
        for name, shape in made.prepared.program.parameterization.parameter_shapes.items()
    }
    some = {name: np.concatenate([tensor[:1], np.full_like(tensor[1:], np.nan)]) for name, tensor in huge.items()}
    for start, count in ((some, 1), (huge, 3)):
        found = made.run(start, 2)
        assert [end is End.NOT_FINITE for end in found.end] == [number < count for number in range(3)]
        assert not found.picture[:count].any()
        assert not found.represents[:count].any()
        assert np.isfinite(found.score).all()


def test_what_does_not_fit_is_refused(version: ModelVersion, means: NDArray[np.float32], space: IconSpace) -> None:
    assert refusal(version, means[:, :5], IconSpace(None, 1.0)) == "INVALID_SHAPE"
    assert refusal(version, means * 0, IconSpace(None, 1.0)) == "ZERO_DIRECTION"
    assert refusal(version, means, space, cells=[1, 2]) == "ITEMS_OUT_OF_RANGE"
    assert refusal(version, means, space, seed=-1) == "INVALID_SEED"
    assert refusal(version, means, space, preset=PRESETS["vector"]) == "PRESET_NEEDS_VECTORS"
    with pytest.raises(OrtoscopeError) as caught:
        batch(version, means, space).run({"spectrum": np.zeros((3, 3, 2, 8, 5), np.float32)})
    assert caught.value.reason == "INVALID_START"


def test_a_cancelled_batch_stops(version: ModelVersion, means: NDArray[np.float32], space: IconSpace) -> None:
    cancellation = Cancellation()
    told: list[int] = []

    def stop(progress: object) -> None:
        told.append(progress.step)  # type: ignore[attr-defined]
        cancellation.cancel()

    with pytest.raises(OrtoscopeError) as caught:
        batch(version, means, space).run(progress=stop, cancellation=cancellation)
    assert caught.value.reason == "CANCELLED"
    assert told == [1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("steps", 0),
        ("warm_steps", -1),
        ("cosine_power", -1.0),
        ("share_above", 1.5),
        ("represents_above", float("nan")),
        ("shrinkage", 2.0),
        ("objective", "angle"),
    ],
)
def test_settings_of_no_use_are_refused(name: str, value: object) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        IconSettings(**{name: value})  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.field) == ("INVALID_SETTING", f"settings.icons.{name}")


def test_the_preset_has_what_the_settings_say_unless_it_is_changed() -> None:
    settings = IconSettings(size=64, steps=100, attempts=3, cosine_power=4)
    preset = icon_preset(settings, changes={"recipe.steps": "7"})
    assert (preset.name, preset.size, preset.cosine_power) == ("atlas-icon", (64, 64), 4.0)
    assert (preset.recipe.steps, preset.recipe.attempts) == (7, 3)
    assert icon_preset(settings, "lucid").name == "lucid"
    assert icons_at_once(icon_preset(IconSettings())) == 8
    assert icons_at_once(icon_preset(IconSettings(size=512))) == 1


# Shared icons


def grid_cells(side: int, count: NDArray[np.int64]) -> SimpleNamespace:
    row, column = np.divmod(np.arange(side * side, dtype=np.int32), side)
    return SimpleNamespace(row=row, column=column, count=count)


def test_icons_are_shared_among_alike_neighbours_only() -> None:
    angles = np.deg2rad([0, 1, 90, 2, 0, 91, 90, 45, 0])
    means = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cells = grid_cells(3, np.array([5, 9, 1, 1, 1, 1, 7, 1, 8]))
    found = shared_icons(means, cells, space=IconSpace(None, 1.0), settings=IconSettings(share_above=0.999))
    # Cell 1, the fullest, lends to 0, 3 and 4 around it; 8 is along it, too, but not beside it. 2 lends to 5.
    assert found.tolist() == [1, 1, 2, 1, 1, 2, 6, 7, 8]


def test_every_shared_icon_is_close_in_place_and_direction_and_owned_by_its_cell() -> None:
    rng = np.random.default_rng(0)
    means = np.cumsum(rng.normal(size=(144, 6)), axis=0) + 3
    cells = grid_cells(12, rng.integers(1, 5, 144))
    space, settings = IconSpace(None, 1.0), IconSettings(share_above=0.97)
    owner = shared_icons(means, cells, space=space, settings=settings)
    assert np.array_equal(owner, shared_icons(means, cells, space=space, settings=settings))
    assert np.array_equal(owner[owner], owner)
    borrowed = np.flatnonzero(owner != np.arange(144))
    assert 0 < len(borrowed) < 144
    assert (space.cosines(means[borrowed], means[owner[borrowed]]) > 0.97).all()
    assert (np.abs(cells.row[borrowed] - cells.row[owner[borrowed]]) <= 1).all()
    assert (np.abs(cells.column[borrowed] - cells.column[owner[borrowed]]) <= 1).all()
    never = shared_icons(means, cells, space=space, settings=IconSettings(share_above=1.0))
    assert np.array_equal(never, np.arange(144))
