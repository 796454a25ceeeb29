"""Sheets of pictures: where each stands, their shape, and the numbers that stand for ends."""

import math

import numpy as np
import pytest
from ortoscope.v1.visualization_pb2 import VisualizedItem
from ortoscope_service.analysis.visualization.loop import End, Outcome, Visualization
from ortoscope_service.analysis.visualization.sheets import (
    END_NUMBERS,
    LARGEST_SIDE,
    MOST_AT_ONCE,
    at_once,
    columns_of,
    sheet_of,
    stacked,
    unit_pictures,
)


def test_ends_have_the_numbers_that_the_contract_gives_them() -> None:
    assert {f"END_{end.name}": number for end, number in END_NUMBERS.items()} == {
        name: number for name, number in VisualizedItem.End.items() if number
    }


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_stand_side_by_side_row_by_row_and_the_rest_is_white(channels: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), np.uint8)
    sheet = np.asarray(sheet_of(pictures, columns=3)).reshape(8, 18, channels)
    for number in range(5):
        row, column = divmod(number, 3)
        np.testing.assert_array_equal(sheet[4 * row : 4 * row + 4, 6 * column : 6 * column + 6], pictures[number])
    assert (sheet[4:, 12:] == 255).all()


@pytest.mark.parametrize(
    ("count", "height", "width", "columns"),
    [
        (1, 128, 128, 1),
        (16, 128, 128, 4),
        (17, 128, 128, 5),
        (32, 50, 100, 4),  # 8 rows of 50, 4 columns of 100
        (4096, 256, 256, 64),
        (4097, 256, 256, 0),
        (64, 2048, 2048, 8),
        (65, 2048, 2048, 0),
        (3, 1, 16384, 1),
        (3, 16384, 1, 3),
        (1, 16385, 1, 0),
    ],
)
def test_a_sheet_is_about_square_and_never_too_large(count: int, height: int, width: int, columns: int) -> None:
    assert columns_of(count, height, width) == columns


def test_every_sheet_that_is_made_has_room_for_all_and_is_not_too_large() -> None:
    rng = np.random.default_rng(1)
    for count, height, width in zip(*(rng.integers(1, high, 2000) for high in (5000, 3000, 3000)), strict=True):
        columns = columns_of(int(count), int(height), int(width))
        if not columns:
            assert (LARGEST_SIDE // height) * (LARGEST_SIDE // width) < count
            continue
        rows = -(-count // columns)
        assert rows * columns >= count
        assert max(rows * height, columns * width) <= LARGEST_SIDE


def test_what_is_kept_of_an_item_is_its_picture_in_bytes_and_how_it_came_about() -> None:
    pictures = np.zeros((3, 1, 2, 2), np.float32)
    pictures[0, 0] = np.array([[0, 1], [0.5, 2]])
    outcomes = (
        Outcome(End.PLATEAU, 7, 1, 3, 1.5, (1.0, 1.5)),
        Outcome(End.NOT_FINITE, 4, 0, 2, -math.inf, (-math.inf,)),
        Outcome(End.DEAD, 16, 0, 0, 0.0, (0.0,)),
    )
    found = Visualization(pictures, outcomes, np.zeros((7, 3), np.float32), {})
    arrays = stacked([5, 6, 7], [kept.to_arrays() for kept in unit_pictures(found)])
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "unit": "int64",
        "picture": "uint8",
        "objective": "float32",
        "end": "uint8",
        "steps": "int64",
        "attempt": "int64",
        "redirected_steps": "int64",
    }
    assert arrays["picture"].shape == (3, 2, 2, 1)
    assert arrays["picture"][0, ..., 0].tolist() == [[0, 255], [128, 255]]
    assert arrays["unit"].tolist() == [5, 6, 7]
    assert arrays["end"].tolist() == [3, 6, 5]
    assert (arrays["steps"][0], arrays["attempt"][0], arrays["redirected_steps"][0]) == (7, 2, 3)
    np.testing.assert_array_equal(arrays["objective"], np.array([1.5, math.nan, 0.0], np.float32))


def test_large_pictures_and_many_views_are_climbed_fewer_at_once() -> None:
    assert at_once(64 * 64, 1) == at_once(8 * 8, 1) == MOST_AT_ONCE
    assert at_once(128 * 128, 1) == 4
    assert at_once(128 * 128, 16) == at_once(224 * 224, 1) == at_once(1280 * 1280, 6) == 1
