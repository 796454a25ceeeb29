"""Gradients as pictures: the stated normalisation, colours, and what stands beside them."""

import numpy as np
import pytest
from ortoscope.errors import InvalidArgument
from ortoscope.report.saliency import colours, heat_map, saliency_picture
from ortoscope.v1 import models_pb2
from PIL import Image

RNG = np.random.default_rng(0)


def test_magnitude_is_the_largest_over_the_units_by_the_99th_percentile_of_the_places() -> None:
    gradient = RNG.standard_normal((3, 20, 30))
    largest = np.abs(gradient).max(0)
    full = np.percentile(largest, 99)
    np.testing.assert_allclose(heat_map(gradient, 0), np.minimum(largest / full, 1))
    last = np.moveaxis(gradient, 0, 2)
    np.testing.assert_allclose(heat_map(last, 2), heat_map(gradient, 0))


def test_signed_is_the_sum_over_the_units_by_the_99th_percentile_of_its_absolute_values() -> None:
    gradient = RNG.standard_normal((3, 20, 30))
    total = gradient.sum(0)
    full = np.percentile(np.abs(total), 99)
    np.testing.assert_allclose(heat_map(gradient, 0, "signed"), np.clip(total / full, -1, 1))


def test_a_gradient_at_few_places_is_shown_by_its_largest_value() -> None:
    gradient = np.zeros((1, 30, 30), np.float32)
    gradient[0, 3, 4], gradient[0, 5, 6] = 2, -4
    expected = np.zeros((30, 30))
    expected[3, 4], expected[5, 6] = 0.5, 1
    np.testing.assert_array_equal(heat_map(gradient, 0), expected)
    np.testing.assert_array_equal(heat_map(gradient, 0, "signed")[5, 6], -1)


def test_no_gradient_is_no_colour_and_what_is_not_a_number_is_green() -> None:
    gradient = np.zeros((1, 2, 2))
    assert not heat_map(gradient, 0).any()
    gradient[0, 1, 1] = np.nan
    shown = np.asarray(colours(heat_map(gradient, 0), "magnitude"))
    assert shown[1, 1].tolist() == [0, 160, 0]
    assert shown[0, 0].tolist() == [0, 0, 4]
    gradient[0, 0, 0] = np.inf
    assert np.isfinite(heat_map(gradient, 0)[0, 1])


@pytest.mark.parametrize(("shape", "axis"), [((5,), 0), ((3, 4, 5, 6), 0), ((3, 4, 5), -1)])
def test_what_has_no_rows_and_columns_is_refused(shape: tuple[int, ...], axis: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        heat_map(np.zeros(shape), axis)
    assert caught.value.reason == "GRADIENT_NOT_A_MAP"


def test_colours_go_from_black_to_yellow_and_from_blue_over_white_to_red() -> None:
    ramp = np.asarray(colours(np.linspace(0, 1, 11)[None], "magnitude"))[0].astype(int)
    assert (np.diff(ramp.sum(1)) > 0).all()
    low, middle, high = np.asarray(colours(np.array([[-1.0, 0.0, 1.0]]), "signed"))[0].astype(int)
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert (middle > 240).all()


def preprocessing(policy: models_pb2.Preprocessing.SizePolicy) -> models_pb2.Preprocessing:
    return models_pb2.Preprocessing(height=16, width=16, resize_short_side=16, size_policy=policy)


def halves(width: int, height: int) -> Image.Image:
    """A picture whose left half is red and whose right half is blue."""
    picture = Image.new("RGB", (width, height), (255, 0, 0))
    picture.paste((0, 0, 255), (width // 2, 0, width, height))
    return picture


def test_the_heat_map_stands_beside_what_the_model_sees() -> None:
    values = np.zeros((16, 16))
    values[4, 12] = 1
    crop = models_pb2.Preprocessing.SIZE_POLICY_CROP
    whole = saliency_picture([values, values], "magnitude", [halves(64, 16), halves(64, 16)], preprocessing(crop))
    side = 448
    assert whole.size == (2 * side + 8, 2 * side + 8)
    drawn = np.asarray(whole).astype(int)
    left, right = drawn[:side, :side], drawn[:side, side + 8 :]
    # The centre of the picture, a quarter of its width: half red, half blue.
    assert (left[:, : side // 2 - 30, 0] > 250).all()
    assert (left[:, side // 2 + 30 :, 2] > 250).all()
    bright = np.argwhere(right.sum(2) > 600)
    assert bright.min(0).tolist() == [4 * 28, 12 * 28]
    assert bright.max(0).tolist() == [5 * 28 - 1, 13 * 28 - 1]
    np.testing.assert_array_equal(drawn[side + 8 :], drawn[:side])


def test_a_map_of_a_tap_is_as_large_as_the_picture() -> None:
    squash = models_pb2.Preprocessing.SIZE_POLICY_SQUASH
    whole = saliency_picture([np.eye(4)], "signed", [halves(64, 16)], preprocessing(squash))
    assert whole.size == (2 * 448 + 8, 448)
    right = np.asarray(whole)[:, 456:]
    assert (right[:112, :112] == right[0, 0]).all()


def test_without_a_picture_the_heat_map_stands_alone() -> None:
    assert saliency_picture([np.eye(4)], "signed", [None], None).size == (448, 448)
    assert saliency_picture([np.eye(900)], "signed", [None], None).size == (900, 900)
