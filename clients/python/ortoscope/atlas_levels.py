"""The levels of an atlas: grids of cells with their arrays, icons and crops, fetched when they are first asked for."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ortoscope import blobs
from ortoscope.arrays import Bool, Float32, Int64, load_npz
from ortoscope.errors import InvalidArgument, NotFound
from ortoscope.progress import Progress, silent
from ortoscope.rpcs import Rpcs
from ortoscope.v1 import atlases_pb2

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class AtlasSamples:
    """The N activations that an atlas is made of."""

    image: Int64
    """(N,) int64: the index of the image in the dataset."""

    site: Int32
    """(N, site axes) int32: where in the tap's map."""

    source: npt.NDArray[np.uint8]
    """(N,) uint8: 0 of the base atlas (or of this one, if it has none), 1 added to it."""

    position: Float32
    """(N, 2) float32: the place in the layout, x to the right and y down, in [0, 1]."""

    top_class: Int32 | None = None
    """(N,) int32: the class with the largest attribution; None without attribution."""

    top_attribution: Float32 | None = None
    """(N,) float32: that attribution."""


@dataclass(frozen=True, eq=False)
class AtlasCells:
    """The M cells of a level, row by row."""

    row: Int32
    """(M,) int32: from the top."""

    column: Int32
    """(M,) int32: from the left."""

    count: Int64
    """(M,) int64: samples in the cell."""

    mean: Float32
    """(M, C) float32: their mean activation."""

    dispersion: Float32
    """(M,) float32: 1 - the mean cosine of the samples with their mean; 0 where all point the same way."""

    nearest: Int64
    """(M, 4) int64: the samples closest to the mean, as indices of `AtlasSamples`; -1 for none."""

    crop: Int32
    """(M, 4) int32: their crops, as places on the sheets; -1 for none."""

    parent: Int32
    """(M,) int32: the cell of the level before that holds this one's centre or lies closest; -1 on the first level."""

    attribution: Float32 | None = None
    """(M, K) float32: mean attribution of the samples to each class; None without attribution."""

    winner_cell: Int32 | None = None
    """(W,) int32: with the next two, how many samples of a cell have a class as that of largest attribution."""

    winner_class: Int32 | None = None
    """(W,) int32."""

    winner_count: Int32 | None = None
    """(W,) int32."""

    score: Float32 | None = None
    """(M,) float32: the cosine of the clean icon's activation with the mean direction; None without icons."""

    represents: Bool | None = None
    """(M,) bool: whether the icon reaches enough of it to stand for the cell."""

    shared: Int32 | None = None
    """(M,) int32: the cell whose icon this one shows, as near-duplicates share one; itself otherwise."""


class Sheets:
    """Square pictures on sheets; a sheet is fetched when one of its pictures is first asked for.

    Args:
        rpcs: The calls.
        names: The blobs with the sheets.
        size: Height and width of a picture in pixels.
        per_row: Pictures on a row of a sheet.
        per_sheet: Pictures on a full sheet.
    """

    def __init__(self, rpcs: Rpcs, names: Sequence[str], size: int, per_row: int, per_sheet: int) -> None:
        self._rpcs = rpcs
        self.names = tuple(names)
        self.size, self.per_row, self.per_sheet = size, per_row, per_sheet
        self._encoded: dict[int, bytes] = {}
        self._decoded: dict[int, Image.Image] = {}

    def encoded(self, show: Progress = silent) -> list[bytes]:
        """All sheets as WebP."""
        for number in range(len(self.names)):
            show("fetching pictures", number, len(self.names))
            self._fetch(number)
        return [self._encoded[number] for number in range(len(self.names))]

    def cut(self, place: int) -> Image.Image:
        """A picture as a PIL image, RGB.

        Raises:
            NotFound: PICTURE_MISSING: there is no sheet for it.
        """
        number, on = divmod(place, max(self.per_sheet, 1))
        if not 0 <= number < len(self.names):
            raise NotFound(
                f"There is no picture {place} on {len(self.names)} sheets; an atlas under way may get some later.",
                reason="PICTURE_MISSING",
                metadata={"place": str(place)},
            )
        if number not in self._decoded:
            with Image.open(io.BytesIO(self._fetch(number))) as sheet:
                self._decoded[number] = sheet.convert("RGB")
        top, left = divmod(on, self.per_row)
        size = self.size
        return self._decoded[number].crop((left * size, top * size, (left + 1) * size, (top + 1) * size))

    def _fetch(self, number: int) -> bytes:
        if number not in self._encoded:
            self._encoded[number] = blobs.download_bytes(self._rpcs, self.names[number])
        return self._encoded[number]


class Level:
    """A grid of cells over an atlas.

    Attributes:
        proto: The message as the server sent it.
    """

    def __init__(self, rpcs: Rpcs, proto: atlases_pb2.AtlasLevel) -> None:
        self._rpcs = rpcs
        self.proto = proto

    @property
    def grid(self) -> int:
        """Cells along each side."""
        return self.proto.grid

    @property
    def cell_count(self) -> int:
        """Cells with enough samples."""
        return self.proto.cell_count

    @property
    def has_icons(self) -> bool:
        """Whether its icons are there."""
        return bool(self.proto.icons)

    @cached_property
    def arrays(self) -> AtlasCells:
        """All cells."""
        return load_npz(AtlasCells, self.file)

    @cached_property
    def file(self) -> bytes:
        """The .npz file with the cells, as the server keeps it."""
        return blobs.download_bytes(self._rpcs, self.proto.cells)

    @property
    def arrays_by_name(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that there are, by name."""
        return {name: array for name, array in vars(self.arrays).items() if array is not None}

    @cached_property
    def icons(self) -> Sheets:
        """The icons, in the order of the cells."""
        proto = self.proto
        return Sheets(self._rpcs, proto.icons, proto.icon_size, proto.icons_per_row, proto.icons_per_sheet)

    @cached_property
    def crops(self) -> Sheets:
        """Crops of real images, to which `AtlasCells.crop` points."""
        proto = self.proto
        return Sheets(self._rpcs, proto.crops, proto.crop_size, proto.crops_per_row, proto.crops_per_sheet)

    def icon(self, row: int, column: int) -> Image.Image:
        """The icon of a cell as a PIL image.

        Raises:
            NotFound: CELL_EMPTY: there is no cell; PICTURE_MISSING: the level has no icons (yet).
        """
        return self.icons.cut(self.index(row, column))

    def index(self, row: int, column: int) -> int:
        """A cell's place in the arrays.

        Raises:
            NotFound: CELL_EMPTY: too few samples lie there.
        """
        (found,) = np.nonzero((self.arrays.row == row) & (self.arrays.column == column))
        if not len(found):
            raise NotFound(
                f"Too few samples lie at row {row}, column {column} of {self.grid} x {self.grid} for a cell.",
                reason="CELL_EMPTY",
                metadata={"row": str(row), "column": str(column)},
            )
        return int(found[0])

    def image(self, *, size: int = 0, crops: bool = False, by_count: bool = False) -> Image.Image:
        """The whole level as one PIL image, RGBA; transparent where there is no cell.

        Args:
            size: Pixels along each side of a cell; 0: as the icons are, and at most what makes 4096 pixels a side.
            crops: Whether cells show the real crop closest to their mean instead of the icon.
            by_count: Whether icons of cells with few samples are smaller: the side grows with the root of the count,
                from half a cell up to the whole of it at the cells' average.

        Raises:
            InvalidArgument: SIZE_INVALID.
            NotFound: PICTURE_MISSING: the level has no icons (yet).
        """
        sheets = self.crops if crops else self.icons
        side = size or min(sheets.size or 32, max(1, 4096 // self.grid))
        if side < 1 or side * self.grid > _LARGEST_SIDE:
            raise InvalidArgument(
                f"A level of {self.grid} x {self.grid} cells of {side} pixels is no picture of 1 to {_LARGEST_SIDE} "
                "pixels a side.",
                reason="SIZE_INVALID",
                field="size",
            )
        arrays = self.arrays
        canvas = Image.new("RGBA", (side * self.grid, side * self.grid))
        average = float(arrays.count.mean()) if len(arrays.count) else 1.0
        for cell, (row, column, count) in enumerate(zip(arrays.row, arrays.column, arrays.count, strict=True)):
            place = int(arrays.crop[cell, 0]) if crops else cell
            if place < 0:
                continue
            share = min(1.0, 0.5 + 0.5 * float(np.sqrt(count / average))) if by_count else 1.0
            drawn = max(1, round(side * share))
            picture = sheets.cut(place).resize((drawn, drawn), Image.Resampling.LANCZOS)
            edge = (side - drawn) // 2
            canvas.paste(picture, (int(column) * side + edge, int(row) * side + edge))
        return canvas

    def __repr__(self) -> str:
        icons = f"icons of {self.proto.icon_size} pixels" if self.has_icons else "no icons"
        return f"<Level {self.grid} x {self.grid}: {self.cell_count} cells, {icons}>"

    def _repr_png_(self) -> bytes | None:
        if not self.has_icons:
            return None
        buffer = io.BytesIO()
        self.image(size=min(self.proto.icon_size, max(1, 1200 // self.grid))).save(buffer, "PNG")
        return buffer.getvalue()


_LARGEST_SIDE = 16_384
"""Pixels along each side of a picture of a level, at most: what viewers open."""
