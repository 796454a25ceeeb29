"""Many small pictures of one size, on WebP sheets that every browser decodes, and single ones or tiles of them cut out.

Sheets have at most 2048 pixels a side: a phone's browser caps a canvas at 16 million pixels, and a viewer that shows a
part of a level decodes the sheets of that part alone.
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ortoscope_service.errors import invalid, not_found

LONGEST_SIDE = 2048
"""Pixels of a sheet's longer side, at most."""

LONGEST_TILE_SIDE = 4096
"""Pixels along each side of a tile, at most."""

_METHOD = 4
"""Effort of the WebP encoder, 0 to 6. At 6 a sheet is a few per cent smaller and takes twice as long."""

Pixels = NDArray[np.uint8]
Cut = tuple[int, int, int, int]


@dataclass(frozen=True)
class SheetLayout:
    """Where pictures lie on sheets: row by row, sheet after sheet."""

    size: int
    """Pixels along each side of a picture, at most 2048."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= LONGEST_SIDE:
            raise ValueError(f"pictures on sheets have 1 to {LONGEST_SIDE} pixels a side, not {self.size}")

    @property
    def per_row(self) -> int:
        """Pictures on a row."""
        return LONGEST_SIDE // self.size

    @property
    def per_sheet(self) -> int:
        """Pictures on a full sheet."""
        return self.per_row**2

    def place(self, index: int) -> tuple[int, Cut]:
        """The sheet of a picture, and its left, upper, right and lower edge there in pixels."""
        sheet, on_sheet = divmod(index, self.per_sheet)
        row, column = divmod(on_sheet, self.per_row)
        left, top = column * self.size, row * self.size
        return sheet, (left, top, left + self.size, top + self.size)


def pack(pictures: Iterable[Pixels], layout: SheetLayout, quality: int, *, lossless: bool = False) -> Iterator[bytes]:
    """Sheets of pictures. Equal pictures give equal bytes; one sheet is held at a time.

    Args:
        pictures: Each (size, size, 3) uint8.
        layout: Where they lie. The last sheet ends with its last row, and with its last picture if it has one row.
        quality: Of WebP's lossy encoding, 1 to 100.
        lossless: Keep every pixel instead, in several times the bytes.

    Yields:
        The sheets, encoded.
    """
    waiting: list[Pixels] = []
    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == layout.per_sheet:
            yield _encoded(waiting, layout, quality, lossless=lossless)
            waiting = []
    if waiting:
        yield _encoded(waiting, layout, quality, lossless=lossless)


def _encoded(pictures: Sequence[Pixels], layout: SheetLayout, quality: int, *, lossless: bool) -> bytes:
    rows = math.ceil(len(pictures) / layout.per_row)
    columns = min(len(pictures), layout.per_row)
    # What is left over repeats the last picture: an edge there would cost bytes and blur what lies beside it.
    canvas = np.empty((rows * layout.size, columns * layout.size, 3), np.uint8)
    for index in range(rows * columns):
        _, (left, top, right, bottom) = layout.place(index)
        canvas[top:bottom, left:right] = pictures[min(index, len(pictures) - 1)]
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "WEBP", quality=quality, method=_METHOD, lossless=lossless)
    return file.getvalue()


@dataclass
class Sheets:
    """Pictures on sheets, for reading; the sheet that was read last is kept decoded."""

    layout: SheetLayout
    """Where they lie."""

    encoded: Sequence[bytes]
    """The sheets."""

    _decoded: tuple[int, Pixels] | None = field(default=None, init=False, repr=False)

    def cut(self, index: int) -> Pixels:
        """A picture, (size, size, 3) uint8.

        Raises:
            IndexError: There is no such sheet.
        """
        sheet, (left, top, right, bottom) = self.layout.place(index)
        if self._decoded is None or self._decoded[0] != sheet:
            with Image.open(io.BytesIO(self.encoded[sheet]), formats=("WEBP",)) as image:
                self._decoded = sheet, np.asarray(image.convert("RGB"))
        return self._decoded[1][top:bottom, left:right]


def tile_count(grid: int, cells: int) -> int:
    """Tiles along each side of a level."""
    return math.ceil(grid / cells)


def tile_of(
    sheets: Sheets, row: NDArray[np.int32], column: NDArray[np.int32], grid: int, cells: int, at: tuple[int, int]
) -> bytes:
    """The icons of a square of cells as a PNG, transparent where there is no cell.

    Args:
        sheets: The icons of the level in the order of its cells.
        row: (M,) int32, the row of each cell.
        column: (M,) int32, its column.
        grid: Cells along each side of the level.
        cells: Cells along each side of the tile; tiles at the right and lower edges may have fewer.
        at: Which tile, from the top and from the left.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, `INVALID_TILE`: `cells` is out of range; NOT_FOUND, `UNKNOWN_TILE`.
    """
    size = sheets.layout.size
    most = min(grid, LONGEST_TILE_SIDE // size)
    if not 1 <= cells <= most:
        raise invalid(
            "INVALID_TILE",
            f"A tile of this level has 1 to {most} cells along each side, not {cells}.",
            field="cells",
            cells=cells,
            max_cells=most,
        )
    tiles = tile_count(grid, cells)
    for name, place in zip(("row", "column"), at, strict=True):
        if not 0 <= place < tiles:
            raise not_found(
                "UNKNOWN_TILE",
                f"There are {tiles} x {tiles} tiles of {cells} cells; give a {name} of 0 to {tiles - 1}, not {place}.",
                field=name,
                tiles=tiles,
                **{name: place},
            )
    top, left = at[0] * cells, at[1] * cells
    height, width = min(cells, grid - top), min(cells, grid - left)
    canvas = np.zeros((height * size, width * size, 4), np.uint8)
    inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    for cell in np.flatnonzero(inside):
        y, x = (int(row[cell]) - top) * size, (int(column[cell]) - left) * size
        canvas[y : y + size, x : x + size, :3] = sheets.cut(int(cell))
        canvas[y : y + size, x : x + size, 3] = 255
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG")
    return file.getvalue()
