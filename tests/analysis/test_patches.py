"""Patches on classifiers whose answers are known: by the mean of a picture, or by how its halves differ."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from ortoscope_service.analysis.classes import Classes
from ortoscope_service.analysis.patches import (
    MOST_RUNS,
    PatchSpec,
    Place,
    class_probabilities,
    measure_patch,
    pasted_size,
    shuffled,
)
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.taps import Layout, Tap
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.runtime.cancellation import Cancellation
from PIL import Image

Pixels = NDArray[np.float32]

SIZE = 20
PLAIN = Preprocessing("nchw", "rgb", (0.0,) * 3, (255.0,) * 3, "squash", SIZE, SIZE, SIZE, "not verified: a test")
"""Pictures in [0, 1]."""

RNG = np.random.default_rng(0)


def gray(*levels: float) -> Pixels:
    """A picture of one gray for each level."""
    return np.stack([np.full((3, SIZE, SIZE), level, np.float32) for level in levels])


def plain_patch(level: int, width: int = 5, height: int = 5) -> Image.Image:
    return Image.new("RGB", (width, height), (level,) * 3)


def by_mean(pictures: Pixels) -> NDArray[np.float64]:
    """Class 1 has the mean of the picture for its probability, class 0 the rest."""
    mean = pictures.mean(axis=(1, 2, 3), dtype=np.float64)
    return np.stack([1 - mean, mean], axis=1)


def by_halves(pictures: Pixels) -> NDArray[np.float64]:
    """Class 1 if the left half is brighter by more than a 25th, class 2 if the right one is, else class 0."""
    left, right = (half.mean(axis=(1, 2, 3), dtype=np.float64) for half in np.split(pictures, 2, axis=3))
    chosen = np.where(left - right > 0.04, 1, np.where(right - left > 0.04, 2, 0))
    return np.where(chosen[:, None] == np.arange(3), 0.8, 0.1)


class Seen:
    """Remembers the pictures that it is asked to classify."""

    def __init__(self) -> None:
        self.pictures: list[Pixels] = []

    def __call__(self, pictures: Pixels) -> NDArray[np.float64]:
        self.pictures.extend(pictures.copy())
        return np.tile([0.75, 0.25], (len(pictures), 1))


# Pasting


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [
        (Place.TOP_LEFT, slice(0, 4), slice(0, 6)),
        (Place.TOP_RIGHT, slice(0, 4), slice(14, 20)),
        (Place.BOTTOM_LEFT, slice(16, 20), slice(0, 6)),
        (Place.BOTTOM_RIGHT, slice(16, 20), slice(14, 20)),
        (Place.CENTRE, slice(8, 12), slice(7, 13)),
    ],
)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_patch_is_at_its_place_in_the_models_range_and_the_rest_of_the_picture_is_as_it_was(
    layout, place, rows, columns
):
    preprocessing = dataclasses.replace(
        PLAIN, layout=layout, color_order="bgr", mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0)
    )
    pictures = RNG.standard_normal((3, SIZE, SIZE, 3) if layout == "nhwc" else (3, 3, SIZE, SIZE)).astype(np.float32)
    pixels = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    before, seen = pictures.copy(), Seen()
    measure_patch(
        seen, pictures, Image.fromarray(pixels), preprocessing, PatchSpec((0.3,), (place,), controls=1), batch_size=2
    )
    # As bgr, each colour with its own mean and std.
    inset = ((pixels.astype(np.float64) - [10, 20, 30]) / [2, 4, 8])[..., ::-1]
    pasted = np.moveaxis(before, 1, -1).copy() if layout == "nchw" else before.copy()
    pasted[:, rows, columns] = inset
    clean, with_patch = np.stack(seen.pictures[:3]), np.stack(seen.pictures[3:6])
    np.testing.assert_array_equal(clean, before)
    np.testing.assert_array_equal(pictures, before)
    np.testing.assert_allclose(
        np.moveaxis(with_patch, 1, -1) if layout == "nchw" else with_patch, pasted, rtol=1e-6, atol=1e-6
    )


def test_a_patch_keeps_its_proportions_and_is_a_share_of_the_shorter_side():
    assert pasted_size(0.25, (200, 400), (30, 60)) == (25, 50)
    assert pasted_size(1.0, (200, 400), (10, 10)) == (200, 200)
    assert pasted_size(0.001, (200, 400), (10, 1000)) == (1, 1)


def test_a_patch_that_gets_smaller_is_averaged():
    # Stripes of black and white: without averaging some would win.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    seen = Seen()
    measure_patch(seen, gray(0.0), Image.fromarray(stripes), PLAIN, PatchSpec((0.2,), (Place.TOP_LEFT,), controls=1))
    np.testing.assert_allclose(seen.pictures[1][:, :4, 1:3], 0.5, atol=0.03)


def test_controls_are_the_patchs_own_pixels_in_another_order_the_same_for_all_pictures():
    pixels = RNG.integers(0, 256, (5, 5, 3), np.uint8)
    seen = Seen()
    spec = PatchSpec((0.25,), (Place.TOP_LEFT,), controls=3)
    measure_patch(seen, gray(0.2, 0.9), Image.fromarray(pixels), PLAIN, spec)
    insets = [picture[:, :5, :5].reshape(3, -1).T for picture in seen.pictures[2:]]
    for one, other in zip(insets[::2], insets[1::2], strict=True):
        np.testing.assert_array_equal(one, other)
    patch, *controls = insets[::2]
    for control in controls:
        assert sorted(map(tuple, control)) == sorted(map(tuple, patch))
    assert len({inset.tobytes() for inset in (patch, *controls)}) == 4


def test_a_shuffle_puts_a_pixel_anywhere_alike():
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 0] = 255
    rng = np.random.default_rng(1)
    found = sum(shuffled(pixels, rng)[..., 0].astype(np.float64) / 255 for _ in range(6000))
    np.testing.assert_allclose(found, 1000, atol=120)  # four standard deviations


# Counting


def test_flips_are_those_of_the_closed_form():
    # A white patch of a quarter of the area makes the mean b 3/4 b + 1/4: above 1/2 from b = 1/3 on.
    pictures = gray(0.1, 0.3, 0.34, 0.45, 0.6, 0.9)
    effect = measure_patch(by_mean, pictures, plain_patch(255), PLAIN, PatchSpec((0.5,), (Place.CENTRE,)))
    (trial,) = effect.trials
    np.testing.assert_array_equal(effect.clean, [0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(effect.clean_probability, [0.9, 0.7, 0.66, 0.55, 0.6, 0.9], atol=1e-6)
    np.testing.assert_array_equal(trial.top, [0, 0, 1, 1, 1, 1])
    assert (trial.pictures, trial.flips) == (6, 2)
    after = 0.75 * np.array([0.1, 0.3, 0.34, 0.45, 0.6, 0.9]) + 0.25
    kept = np.where(np.arange(6) < 4, 1 - after, after)
    assert trial.mean_probability == pytest.approx(kept.mean())
    np.testing.assert_allclose(trial.top_probability, np.maximum(after, 1 - after), atol=1e-6)


def test_only_pictures_of_other_classes_count_for_a_target_and_only_changes_to_it():
    pictures = gray(0.1, 0.34, 0.6)
    spec = PatchSpec((0.5,), (Place.CENTRE,), target=1)
    (trial,) = measure_patch(by_mean, pictures, plain_patch(255), PLAIN, spec).trials
    assert (trial.pictures, trial.flips) == (2, 1)
    assert trial.mean_probability == pytest.approx(np.mean([0.325, 0.505]))
    black = measure_patch(by_mean, pictures, plain_patch(0), PLAIN, spec).trials[0]
    assert (black.pictures, black.flips) == (2, 0)
    away = dataclasses.replace(spec, target=None)
    assert measure_patch(by_mean, pictures, plain_patch(0), PLAIN, away).trials[0].flips == 1


def test_what_only_sees_the_mean_cannot_tell_a_patch_from_its_controls():
    pixels = RNG.integers(128, 256, (10, 10, 3), np.uint8)
    spec = PatchSpec((0.5,), (Place.TOP_LEFT, Place.CENTRE), controls=3)
    effect = measure_patch(by_mean, gray(0.1, 0.35, 0.45, 0.48, 0.8), Image.fromarray(pixels), PLAIN, spec)
    for trial in effect.trials:
        assert 0 < trial.flips < trial.pictures
        assert trial.control_flip_rate == pytest.approx(trial.flips / trial.pictures)
        assert trial.control_mean_probability == pytest.approx(trial.mean_probability)


def test_what_sees_the_order_of_pixels_tells_a_patch_from_its_controls():
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :10] = 255
    spec = PatchSpec((1.0,), (Place.CENTRE,), target=1, controls=10)
    (trial,) = measure_patch(by_halves, gray(0.2, 0.5, 0.7), Image.fromarray(pixels), PLAIN, spec).trials
    assert (trial.pictures, trial.flips) == (3, 3)
    assert trial.mean_probability == pytest.approx(0.8)
    assert trial.control_flip_rate < 0.5


def test_the_control_rate_is_over_pairs_of_pictures_and_draws():
    # Alternately to be flipped and not: the clean pictures, the patch, then each control.
    calls = iter([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0], [1, 0]])

    def classify(pictures: Pixels) -> NDArray[np.float64]:
        return np.array([[1.0 - top, top] for top in next(calls)])

    spec = PatchSpec((0.5,), (Place.CENTRE,), controls=4)
    (trial,) = measure_patch(classify, gray(0, 1), plain_patch(9), PLAIN, spec, batch_size=2).trials
    assert (trial.flips, trial.control_flip_rate) == (1, 4 / 8)
    assert (trial.mean_probability, trial.control_mean_probability) == (0.5, 0.5)


def test_a_target_that_all_pictures_are_of_leaves_nothing_to_count():
    (trial,) = measure_patch(
        by_mean, gray(0.9), plain_patch(255), PLAIN, PatchSpec((0.5,), (Place.CENTRE,), target=1)
    ).trials
    assert (trial.pictures, trial.flips, trial.control_flip_rate, trial.mean_probability) == (0, 0, 0.0, 0.0)


def test_a_trial_does_not_depend_on_what_else_is_tried_nor_on_the_batch():
    pixels = Image.fromarray(RNG.integers(0, 256, (10, 20, 3), np.uint8))
    pictures = RNG.random((5, 3, SIZE, SIZE)).astype(np.float32)
    many = PatchSpec((0.2, 0.5, 0.9), tuple(Place), controls=5, seed=3)
    alone = PatchSpec((0.5,), (Place.BOTTOM_LEFT,), controls=5, seed=3)
    (one,) = measure_patch(by_halves, pictures, pixels, PLAIN, alone, batch_size=1).trials
    effect = measure_patch(by_halves, pictures, pixels, PLAIN, many, batch_size=7)
    (same,) = (t for t in effect.trials if t.size == 0.5 and t.place is Place.BOTTOM_LEFT)
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(same, field.name))
    assert [(t.size, t.place) for t in effect.trials] == [(size, place) for size in many.sizes for place in Place]


def test_a_seed_decides_the_controls():
    pixels = Image.fromarray(RNG.integers(0, 256, (10, 20, 3), np.uint8))
    spec = PatchSpec((1.0,), (Place.CENTRE,))

    def controls(seed: int) -> bytes:
        seen = Seen()
        measure_patch(seen, gray(0), pixels, PLAIN, dataclasses.replace(spec, seed=seed))
        return np.stack(seen.pictures[2:]).tobytes()

    assert controls(5) == controls(5) != controls(6)


# Probabilities


def classes_of(*, probabilities: bool) -> Classes:
    logits = Tap(
        tensor="logits", display_name="logits", aliases=(), operator="Gemm", node="", data_type="float32",
        shape=(-1, 1, 3), layout=Layout.TOKENS, unit_axis=2, site_axes=(1,), unit_count=3, pre_activation="",
        post_activation="", upper_limit=None,
    )  # fmt: skip
    return Classes(logits, dataclasses.replace(logits, tensor="p") if probabilities else None, ())


def test_probabilities_are_the_models_own_or_the_softmax_of_its_scores():
    scores = np.array([[[0.0, np.log(2.0), np.log(5.0)]], [[1000.0, 1000.0, -1000.0]]], np.float32)
    np.testing.assert_allclose(
        class_probabilities(scores, classes_of(probabilities=False)), [[0.125, 0.25, 0.625], [0.5, 0.5, 0]], atol=1e-7
    )
    np.testing.assert_array_equal(class_probabilities(scores, classes_of(probabilities=True)), scores[:, 0])


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(number):
    with pytest.raises(OrtoscopeError) as caught:
        class_probabilities(np.array([[[0, number, 1]]], np.float32), classes_of(probabilities=True))
    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, "SCORES_NOT_FINITE")
    assert caught.value.metadata["class"] == "1"


# Refusals


@pytest.mark.parametrize(
    ("changed", "reason", "field"),
    [
        ({"sizes": (0.5, 0.0)}, "INVALID_SIZE", "sizes[1]"),
        ({"sizes": (1.01,)}, "INVALID_SIZE", "sizes[0]"),
        ({"sizes": (float("nan"),)}, "INVALID_SIZE", "sizes[0]"),
        ({"sizes": ()}, "NO_TRIALS", "sizes"),
        ({"places": ()}, "NO_TRIALS", "sizes"),
        ({"controls": 0}, "INVALID_CONTROLS", "controls"),
        ({"controls": 65}, "INVALID_CONTROLS", "controls"),
        ({"seed": -1}, "INVALID_SEED", "seed"),
    ],
)
def test_numbers_of_no_use_are_refused(changed, reason, field):
    with pytest.raises(OrtoscopeError) as caught:
        PatchSpec(**changed)
    assert (caught.value.code, caught.value.reason) == (Code.INVALID_ARGUMENT, reason)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("spec", "patch", "reason", "field"),
    [
        (PatchSpec((0.1, 0.9)), plain_patch(0, 10, 30), "PATCH_TOO_TALL", "sizes[1]"),
        (PatchSpec(tuple(np.linspace(0.1, 1, 40)), controls=64), plain_patch(0), "TOO_MANY_TRIALS", "sizes"),
        (PatchSpec((0.5,), target=2), plain_patch(0), "INVALID_CLASS", "target"),
    ],
)
def test_what_cannot_be_tried_is_refused(spec, patch, reason, field):
    with pytest.raises(OrtoscopeError) as caught:
        measure_patch(by_mean, gray(0, 1), patch, PLAIN, spec)
    assert (caught.value.code, caught.value.reason) == (Code.INVALID_ARGUMENT, reason)
    assert caught.value.field == field
    if reason == "TOO_MANY_TRIALS":
        assert caught.value.metadata == {"runs": str(2 * 40 * 4 * 65), "max_runs": str(MOST_RUNS)}


def test_it_stops_between_batches():
    cancellation = Cancellation()
    calls = 0

    def classify(pictures: Pixels) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        if calls == 3:
            cancellation.cancel()
        return by_mean(pictures)

    with pytest.raises(OrtoscopeError) as caught:
        measure_patch(classify, gray(0, 1), plain_patch(9), PLAIN, PatchSpec(), batch_size=1, cancellation=cancellation)
    assert (caught.value.code, calls) == (Code.CANCELLED, 3)
