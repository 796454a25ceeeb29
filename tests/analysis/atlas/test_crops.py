"""What is cut out of a picture for a site, on pictures whose colours tell where each pixel was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortoscope_service.analysis.atlas.crops import (
    Box,
    as_shown,
    cut_crops,
    in_image,
    shown_samples,
    site_box,
    site_centre,
    site_grid,
)
from ortoscope_service.models.manifest import ColorOrder, Preprocessing, SizePolicy
from PIL import Image


def taking(
    height: int,
    width: int,
    *,
    policy: SizePolicy = "squash",
    short_side: int = 0,
    color_order: ColorOrder = "rgb",
) -> Preprocessing:
    return Preprocessing(
        layout="nchw",
        color_order=color_order,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        size_policy=policy,
        height=height,
        width=width,
        resize_short_side=short_side,
        verification="made up",
    )


def places(width: int, height: int) -> Image.Image:
    """A picture whose red tells the column and whose green tells the row, both 0 to 255."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * (x + 0.5) / width, 255 * (y + 0.5) / height
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], axis=-1).round().astype(np.uint8))


@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    height=st.integers(8, 400),
    width=st.integers(8, 400),
    data=st.data(),
)
def test_a_box_is_a_square_in_the_picture_that_holds_the_middle_of_its_site(
    rows: int, columns: int, height: int, width: int, data: st.DataObject
) -> None:
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    box = site_box(np.array([row, column]), (rows, columns), height, width)
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
    side = box.right - box.left
    assert side == box.bottom - box.top
    assert side >= min(height, width, max(1.5 * height / rows, 1.5 * width / columns, min(height, width) / 4))
    y, x = (row + 0.5) / rows * height, (column + 0.5) / columns * width
    # Where strides are not square, the whole of the shorter side may be less than a stride of the longer.
    if side > max(1.4 * height / rows, 1.4 * width / columns):
        assert box.left - 1 <= x <= box.right + 1
        assert box.top - 1 <= y <= box.bottom + 1


def test_known_boxes() -> None:
    assert site_box(np.array([7, 7]), (14, 14), 224, 224) == Box(92, 92, 148, 148)
    assert site_box(np.array([0, 13]), (14, 14), 224, 224) == Box(168, 0, 224, 56)
    assert site_box(np.array([1, 1]), (4, 4), 224, 224) == Box(42, 42, 126, 126)
    assert site_box(np.array([], np.int32), (), 224, 160) == Box(0, 0, 160, 224)
    assert Box(56, 0, 112, 56).fractions(112, 224) == (0.25, 0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("shape", "first", "expected"),
    [
        ((196,), 0, (14, 14)),
        ((197,), 1, (14, 14)),
        ((197,), 0, None),
        ((77,), 0, None),
        ((1,), 1, None),
        ((), 0, None),
        ((2, 3, 4), 0, None),
        ((9, 5), 0, (9, 5)),
    ],
)
def test_tokens_are_patches_where_they_fill_the_picture(shape: tuple[int, ...], first: int, expected: object) -> None:
    assert site_grid(shape, 224, 224, first=first) == expected


def test_tokens_of_a_wide_picture_fill_it_in_its_proportions() -> None:
    assert site_grid((32,), 64, 128) == (4, 8)
    assert site_centre(np.array([9]), (32,), 64, 128) == ((1 + 0.5) / 4, (1 + 0.5) / 8)
    assert site_centre(np.array([0]), (197,), 224, 224, first=1) is None
    assert site_box(np.array([0]), (197,), 224, 224, first=1) == Box(0, 0, 224, 224)
    assert site_box(np.array([1 + 7 * 14 + 7]), (197,), 224, 224, first=1) == Box(92, 92, 148, 148)


@pytest.mark.parametrize(
    ("image_size", "preprocessing"),
    [
        ((300, 200), taking(64, 64)),
        ((300, 200), taking(64, 64, policy="crop", short_side=80)),
        ((150, 400), taking(64, 64, policy="crop", short_side=64)),
        ((300, 200), taking(60, 90, policy="crop", short_side=70)),
        ((64, 64), taking(64, 64, policy="crop", short_side=80)),
    ],
)
def test_a_box_is_found_again_in_the_image_by_its_colours(
    image_size: tuple[int, int], preprocessing: Preprocessing
) -> None:
    image = places(*image_size)
    box = Box(10, 20, 42, 52)
    shown = np.asarray(as_shown(image, preprocessing)).astype(float) / 255
    left, top, right, bottom = in_image(box, image_size, preprocessing)
    inside = shown[box.top : box.bottom, box.left : box.right]
    step = (right - left) / 32, (bottom - top) / 32
    assert inside[:, 0, 0].mean() == pytest.approx(left + step[0] / 2, abs=0.008)
    assert inside[:, -1, 0].mean() == pytest.approx(right - step[0] / 2, abs=0.008)
    assert inside[0, :, 1].mean() == pytest.approx(top + step[1] / 2, abs=0.008)
    assert inside[-1, :, 1].mean() == pytest.approx(bottom - step[1] / 2, abs=0.008)


def test_crops_show_their_sites_and_images_are_read_once_in_a_row() -> None:
    read = []

    def reading(index: int) -> Image.Image:
        read.append(index)
        return places(128, 128)

    image = np.array([3, 3, 8])
    site = np.array([[0, 0], [3, 7], [7, 3]], np.int32)
    crops = list(cut_crops(reading, image, site, (8, 8), taking(128, 128), 32))
    assert read == [3, 8]
    for crop, where in zip(crops, site, strict=True):
        assert (crop.shape, crop.dtype) == ((32, 32, 3), np.uint8)
        box = site_box(where, (8, 8), 128, 128)
        left, top, right, bottom = box.fractions(128, 128)
        assert crop[..., 0].mean() / 255 == pytest.approx((left + right) / 2, abs=0.01)
        assert crop[..., 1].mean() / 255 == pytest.approx((top + bottom) / 2, abs=0.01)


def test_a_model_without_colours_is_shown_with_a_gray_picture() -> None:
    (crop,) = cut_crops(
        lambda _: places(32, 32), np.array([0]), np.array([[1, 1]]), (4, 4), taking(32, 32, color_order="gray"), 16
    )
    assert (crop[..., 0] == crop[..., 1]).all()
    assert (crop[..., 0] == crop[..., 2]).all()


def test_every_cell_gets_a_first_crop_before_any_gets_a_second() -> None:
    nearest = np.array([[40, 7, 3, -1], [9, 40, -1, -1], [7, 2, 1, 0]])
    samples, place = shown_samples(nearest, 3)
    assert samples.tolist() == [7, 9, 40]
    assert place.tolist() == [[2, 0, -1, -1], [1, 2, -1, -1], [0, -1, -1, -1]]
    samples, place = shown_samples(nearest, 100)
    assert samples.tolist() == [0, 1, 2, 3, 7, 9, 40]
    np.testing.assert_array_equal(np.where(place >= 0, samples[place], -1), nearest)
    assert place.dtype == np.int32
    samples, place = shown_samples(nearest, 0)
    assert len(samples) == 0
    assert (place == -1).all()
