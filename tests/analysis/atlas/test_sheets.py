"""Pictures on sheets and back, within what WebP loses."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from ortoscope_service.analysis.atlas.sheets import LONGEST_SIDE, SheetLayout, Sheets, pack, tile_of
from ortoscope_service.errors import Code, OrtoscopeError
from PIL import Image


def soft_picture(number: int, size: int) -> NDArray[np.uint8]:
    """Slow waves in colours of its own, as icons are."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(2 * np.pi * (x * (number % 3) + y * (channel + 1) / 2) + number) for channel in range(3)]
    return np.round(127.5 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


@given(size=st.integers(1, LONGEST_SIDE), index=st.integers(0, 10**6))
def test_pictures_lie_inside_of_their_sheets_and_never_on_each_other(size: int, index: int) -> None:
    layout = SheetLayout(size)
    sheet, (left, top, right, bottom) = layout.place(index)
    assert 0 <= left < right <= LONGEST_SIDE
    assert 0 <= top < bottom <= LONGEST_SIDE
    number = sheet * layout.per_sheet + top // size * layout.per_row + left // size
    assert (number, left % size, top % size) == (index, 0, 0)


@pytest.mark.parametrize(("size", "count"), [(512, 17), (80, 40), (48, 5)])
def test_what_is_packed_comes_back_within_the_loss_of_compression(size: int, count: int) -> None:
    layout = SheetLayout(size)
    pictures = np.stack([soft_picture(number, size) for number in range(count)])
    encoded = list(pack(pictures, layout, 90))
    assert len(encoded) == -(-count // layout.per_sheet)
    for data in encoded:
        with Image.open(io.BytesIO(data)) as sheet:
            assert sheet.format == "WEBP"
            assert max(sheet.size) <= LONGEST_SIDE
            assert sheet.width % size == sheet.height % size == 0
    sheets = Sheets(layout, encoded)
    for number in range(count):
        error = np.abs(pictures.astype(np.float32) - sheets.cut(number)).mean(axis=(1, 2, 3))
        assert error.argmin() == number
        assert error[number] < 4


def test_equal_pictures_give_equal_bytes() -> None:
    pictures = [soft_picture(number, 48) for number in range(9)]
    assert list(pack(pictures, SheetLayout(48), 80)) == list(pack(iter(pictures), SheetLayout(48), 80))
    assert list(pack([], SheetLayout(48), 80)) == []


def test_a_tile_shows_the_icons_of_its_cells_and_nothing_where_there_is_none() -> None:
    row, column = np.array([0, 0, 1, 2, 4], np.int32), np.array([0, 3, 1, 2, 4], np.int32)
    pictures = [np.full((16, 16, 3), 40 * (number + 1), np.uint8) for number in range(5)]
    sheets = Sheets(SheetLayout(16), list(pack(pictures, SheetLayout(16), 100)))

    def tile(*at: int) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(tile_of(sheets, row, column, 5, 2, at))) as image:
            assert (image.format, image.mode) == ("PNG", "RGBA")
            return np.asarray(image)

    first = tile(0, 0)
    assert first.shape == (32, 32, 4)
    assert np.abs(first[:16, :16, :3].astype(int) - 40).max() <= 3
    assert np.abs(first[16:, 16:, :3].astype(int) - 120).max() <= 3
    assert first[:16, :16, 3].min() == first[16:, 16:, 3].min() == 255
    assert not first[:16, 16:].any()
    assert not first[16:, :16].any()
    corner = tile(2, 2)
    assert corner.shape == (16, 16, 4)
    assert np.abs(corner[..., :3].astype(int) - 200).max() <= 3
    assert not tile(2, 0).any()


@pytest.mark.parametrize(
    ("cells", "at", "code", "field"),
    [
        (0, (0, 0), Code.INVALID_ARGUMENT, "cells"),
        (6, (0, 0), Code.INVALID_ARGUMENT, "cells"),
        (2, (3, 0), Code.NOT_FOUND, "row"),
        (2, (0, -1), Code.NOT_FOUND, "column"),
    ],
)
def test_tiles_that_there_are_not_are_refused(cells: int, at: tuple[int, int], code: Code, field: str) -> None:
    nothing = np.array([], np.int32)
    with pytest.raises(OrtoscopeError) as caught:
        tile_of(Sheets(SheetLayout(16), []), nothing, nothing, 5, cells, at)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_a_tile_is_no_larger_than_what_can_be_sent() -> None:
    nothing = np.array([], np.int32)
    with pytest.raises(OrtoscopeError) as caught:
        tile_of(Sheets(SheetLayout(80), []), nothing, nothing, 320, 52, (0, 0))
    assert caught.value.metadata["max_cells"] == "51"


@pytest.mark.parametrize("size", [0, 2049])
def test_pictures_that_fit_no_sheet_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="2048"):
        SheetLayout(size)
