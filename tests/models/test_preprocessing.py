"""Preprocessing against independent formulas: loops over pixels and a resampling filter written from its definition."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.preprocessing import fit, normalize, preprocess
from PIL import Image

SQUASH = Preprocessing("nchw", "rgb", (10, 20, 30), (2, 4, 5), "squash", 6, 4, 8, "")
CROP = dataclasses.replace(SQUASH, size_policy="crop", height=8, width=8, resize_short_side=10)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8), "RGB")


def triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(x))


def keys_cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def antialiased(axis: np.ndarray, size: int, kernel, support: float) -> np.ndarray:
    """Resamples the first axis: the kernel, stretched when shrinking, at half-pixel centres, weights summing to 1."""
    old = len(axis)
    scale = old / size
    stretch = max(scale, 1)
    rows = []
    for i in range(size):
        centre = (i + 0.5) * scale
        first = max(0, int(centre - support * stretch + 0.5))
        last = min(old, int(centre + support * stretch + 0.5))
        weights = kernel((np.arange(first, last) + 0.5 - centre) / stretch)
        rows.append(np.tensordot(weights / weights.sum(), axis[first:last], 1))
    return np.array(rows)


def resampled(image: Image.Image, width: int, height: int, kernel, support: float) -> list[np.ndarray]:
    """One axis after the other, rounded to 8 bits after each; which comes first differs between Pillow's versions."""
    results = []
    for axes in ((0, 1), (1, 0)):
        pixels = np.asarray(image, np.float64)
        for axis in axes:
            size = (height, width)[axis]
            if pixels.shape[axis] != size:
                moved = antialiased(np.moveaxis(pixels, axis, 0), size, kernel, support)
                pixels = np.clip(np.round(np.moveaxis(moved, 0, axis)), 0, 255)
        results.append(pixels)
    return results


def assert_close_to_one(actual: np.ndarray, expected: list[np.ndarray]) -> None:
    assert min(np.abs(actual - candidate).max() for candidate in expected) <= 1


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_squash_is_a_bilinear_filter_with_antialiasing(width, height, seed):
    image = picture(width, height, seed)
    assert_close_to_one(np.asarray(fit(image, SQUASH), np.float64), resampled(image, 4, 6, triangle, 1))


@settings(max_examples=40)
@given(st.integers(5, 60), st.integers(5, 60), st.integers(0, 1000))
def test_crop_resizes_the_short_side_with_a_bicubic_filter_and_takes_the_centre(width, height, seed):
    image = picture(width, height, seed)
    size = (10, int(10 * height / width)) if width <= height else (int(10 * width / height), 10)
    left, top = round((size[0] - 8) / 2), round((size[1] - 8) / 2)
    expected = [whole[top : top + 8, left : left + 8] for whole in resampled(image, *size, keys_cubic, 2)]
    if image.size == (8, 8):
        expected = [np.asarray(image, np.float64)]
    assert_close_to_one(np.asarray(fit(image, CROP), np.float64), expected)


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 30), st.integers(1, 30), st.integers(0, 20))
def test_a_crop_never_reaches_beyond_the_picture(width, height, target_width, target_height, margin):
    short = min(target_width, target_height)
    preprocessing = dataclasses.replace(
        CROP, width=target_width, height=target_height, resize_short_side=short + margin
    )
    fitted = fit(Image.new("RGB", (width, height), (255, 255, 255)), preprocessing)
    assert fitted.size == (target_width, target_height)
    assert np.asarray(fitted).min() == 255  # what lies outside a picture would be black


@pytest.mark.parametrize("base", [SQUASH, CROP])
def test_a_picture_of_the_inputs_size_passes_untouched(base):
    image = picture(base.width, base.height)
    plain = dataclasses.replace(base, mean=(0, 0, 0), std=(1, 1, 1), layout="nhwc")
    np.testing.assert_array_equal(preprocess(image, plain), np.asarray(image, np.float32))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_each_value_is_pixel_minus_mean_over_std_of_its_own_colour(layout, order):
    image = picture(4, 6)
    tensor = preprocess(image, dataclasses.replace(SQUASH, layout=layout, color_order=order))
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert tensor.shape == ((3, 6, 4) if layout == "nchw" else (6, 4, 3))
    for y in range(6):
        for x in range(4):
            for channel in range(3):
                colour = channel if order == "rgb" else 2 - channel
                value = tensor[channel, y, x] if layout == "nchw" else tensor[y, x, channel]
                expected = (image.getpixel((x, y))[colour] - SQUASH.mean[colour]) / SQUASH.std[colour]
                assert value == np.float32(expected)


def test_gray_is_the_luma_that_pillow_computes():
    image = picture(64, 48)
    gray = Preprocessing("nchw", "gray", (3, 3, 3), (7, 7, 7), "squash", 48, 64, 64, "")
    expected = (np.asarray(image.convert("L"), np.float32) - 3) / np.float32(7)
    np.testing.assert_array_equal(preprocess(image, gray), expected[None])
    assert preprocess(image, dataclasses.replace(gray, layout="nhwc")).shape == (48, 64, 1)


def test_many_pictures_are_normalized_as_one():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 4, 3), np.uint8)
    together = normalize(pixels, SQUASH)
    assert together.shape == (2, 3, 3, 6, 4)
    np.testing.assert_array_equal(together[1, 2], preprocess(Image.fromarray(pixels[1, 2]), SQUASH))
