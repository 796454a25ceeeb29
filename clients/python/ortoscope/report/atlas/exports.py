"""An atlas for other viewers: its samples as Parquet, and a level as a deep-zoom picture."""

import io
import math
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ortoscope.errors import FailedPrecondition, InvalidArgument
from ortoscope.report.atlas.page import AtlasLayer, LayerLevel

TILE = 256
"""Pixels along each side of a tile of a deep-zoom picture."""

_QUALITY = 85
_CROWD = 8
"""Samples of a square of the map, on average, among which neighbours are looked for first."""


def write_parquet(layer: AtlasLayer, path: str | Path, *, neighbours: int = 15) -> Path:
    """The samples as a Parquet file that embedding-atlas opens (`--x x --y y --neighbors neighbors --image crop`).

    A row is a sample: `x`, `y` float32 in [0, 1], y upwards as such viewers draw it; `image` int64, `path` its file;
    `site` list of int32; `source` uint8; with attribution `top_class` its label, `top_attribution` float32; `crop` the
    part of the image around its site as {bytes, path}, of those samples that some cell shows; `neighbors` the rows that
    are nearest *on the map*, as {ids, distances}, nearest first, itself left out.

    Args:
        layer: The layer; it must have its samples.
        path: The file to write.
        neighbours: Neighbours of a sample; 0 leaves the column out.

    Returns:
        The file.

    Raises:
        FailedPrecondition: PACKAGE_MISSING, pyarrow is not installed.
        InvalidArgument: SAMPLES_MISSING, the layer has no samples.
        OSError: It cannot be written.
    """
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise FailedPrecondition(
            "Writing Parquet needs the package pyarrow; install it with `pip install pyarrow`.",
            reason="PACKAGE_MISSING",
            metadata={"package": "pyarrow"},
        ) from error
    if "position" not in layer.samples:
        raise InvalidArgument(
            f"The layer {layer.name!r} has no samples to export; give it the arrays of `Atlas.samples`.",
            reason="SAMPLES_MISSING",
            field="layer",
            metadata={"layer": layer.name},
        )
    samples = layer.samples
    position = np.asarray(samples["position"], np.float32)
    image = np.asarray(samples["image"], np.int64)
    columns: dict[str, Any] = {
        "x": pa.array(position[:, 0]),
        "y": pa.array(1 - position[:, 1]),
        "image": pa.array(image),
        "path": pa.array([layer.image_paths.get(index, "") for index in image.tolist()], pa.string()),
    }
    if "site" in samples:
        columns["site"] = pa.array(list(np.asarray(samples["site"], np.int32)), pa.list_(pa.int32()))
    if "source" in samples:
        columns["source"] = pa.array(np.asarray(samples["source"], np.uint8))
    if "top_class" in samples:
        labels = layer.labels
        named = (labels[index] if 0 <= index < len(labels) else "" for index in samples["top_class"].tolist())
        columns["top_class"] = pa.array(list(named), pa.string())
        columns["top_attribution"] = pa.array(np.asarray(samples["top_attribution"], np.float32))
    crops = crops_of_samples(layer)
    if crops:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        entries = [
            {"bytes": crops[index], "path": f"{index}.png"} if index in crops else None for index in range(len(image))
        ]
        columns["crop"] = pa.array(entries, kind)
    if neighbours and len(position) > 1:
        ids, distances = neighbours_on_map(position, neighbours)
        each = ids.shape[1]
        offsets = pa.array(np.arange(0, ids.size + 1, each, dtype=np.int32))
        columns["neighbors"] = pa.StructArray.from_arrays(
            [
                pa.ListArray.from_arrays(offsets, pa.array(ids.ravel())),
                pa.ListArray.from_arrays(offsets, pa.array(distances.ravel())),
            ],
            ["ids", "distances"],
        )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), target)
    return target


def crops_of_samples(layer: AtlasLayer) -> dict[int, bytes]:
    """The crops that cells show, as PNG by the index of their sample; of several levels the finest tells."""
    found: dict[int, bytes] = {}
    for level in sorted(layer.levels, key=lambda level: level.grid):
        places, nearest = level.cells.get("crop"), level.cells.get("nearest")
        if not level.crops or places is None or nearest is None:
            continue
        sheets = _Sheets(level.crops, level.crop_size, level.crops_per_row, level.crops_per_sheet)
        shown = (places >= 0) & (nearest >= 0)
        for place, sample in sorted(set(zip(places[shown].tolist(), nearest[shown].tolist(), strict=True))):
            file = io.BytesIO()
            sheets.cut(place).save(file, "PNG")
            found[sample] = file.getvalue()
    return found


def neighbours_on_map(position: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest other samples on the map, exactly; of equally far ones those of smaller index.

    Samples are sorted into squares. Those of a square look for neighbours in ever larger blocks of squares around it,
    until the block reaches farther than the last neighbour found.

    Args:
        position: (N, 2) places, N at least 2.
        count: Neighbours wanted; at most N - 1 are given.

    Returns:
        (N, k) int64 indices and (N, k) float32 distances, nearest first.
    """
    samples = len(position)
    count = min(count, samples - 1)
    places = position.astype(np.float64)
    low = places.min(0)
    span = float((places - low).max()) or 1.0
    squares = max(1, math.isqrt(samples // _CROWD))
    width = span / squares
    square = np.minimum(((places - low) / width).astype(np.int64), squares - 1)
    key = square[:, 1] * squares + square[:, 0]
    order = np.argsort(key, kind="stable")
    starts = np.searchsorted(key[order], np.arange(squares**2 + 1))
    ids = np.empty((samples, count), np.int64)
    distances = np.empty((samples, count), np.float32)
    for cell in np.unique(key).tolist():
        row, column = divmod(cell, squares)
        pending = order[starts[cell] : starts[cell + 1]]
        reach = 1
        while len(pending):
            around = np.sort(np.concatenate(list(_rows(order, starts, squares, row, column, reach))))
            whole = reach >= squares
            if len(around) > count:
                squared = ((places[pending, None] - places[around]) ** 2).sum(2)
                squared[pending[:, None] == around] = np.inf
                nearest = np.argsort(squared, axis=1, kind="stable")[:, :count]
                far = np.sqrt(np.take_along_axis(squared, nearest, 1))
                inside = places[pending] - low - np.array([column, row]) * width
                margin = np.minimum(inside, width - inside).min(1) + reach * width
                done = (far[:, -1] < margin) | whole
                ids[pending[done]] = around[nearest[done]]
                distances[pending[done]] = far[done]
                pending = pending[~done]
            reach *= 2
    return ids, distances


def _rows(
    order: NDArray[np.int64], starts: NDArray[np.int64], squares: int, row: int, column: int, reach: int
) -> Iterator[NDArray[np.int64]]:
    """The samples of a block of squares, row by row."""
    left, right = max(0, column - reach), min(squares - 1, column + reach)
    for line in range(max(0, row - reach), min(squares - 1, row + reach) + 1):
        yield order[starts[line * squares + left] : starts[line * squares + right + 1]]


def write_dzi(level: LayerLevel, path: str | Path) -> Path:
    """A level's icons as a deep-zoom picture (DZI): `NAME.dzi` and tiles of 256 x 256 in `NAME_files`.

    Tiles are PNG, transparent where there is no cell; tiles without a cell are left out, which viewers take for empty.
    The largest picture is made tile by tile from the sheets, each smaller one from four tiles of the one before.

    Args:
        level: The level; it must have icons.
        path: The `.dzi` file to write.

    Returns:
        The file.

    Raises:
        InvalidArgument: ICONS_MISSING, the level has no icons.
        OSError: It cannot be written.
    """
    if not level.icons:
        raise InvalidArgument(
            f"The level with {level.grid} cells along each side has no icons to export.",
            reason="ICONS_MISSING",
            field="level",
            metadata={"grid": str(level.grid)},
        )
    target = Path(path).with_suffix(".dzi")
    side = level.grid * level.icon_size
    depth = max(1, math.ceil(math.log2(side)))
    folder = target.with_name(f"{target.stem}_files")
    _full_tiles(level, folder / str(depth))
    for number in range(depth - 1, -1, -1):
        _smaller_tiles(folder / str(number + 1), folder / str(number), math.ceil(side / 2 ** (depth - number)))
    target.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="png" Overlap="0" TileSize="{TILE}">'
        f'<Size Width="{side}" Height="{side}"/></Image>\n',
        encoding="utf-8",
    )
    return target


def _full_tiles(level: LayerLevel, folder: Path) -> None:
    """The tiles in full size, a band of them at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    sheets = _Sheets(level.icons, level.icon_size, level.icons_per_row, level.icons_per_sheet)
    size, side = level.icon_size, level.grid * level.icon_size
    row, column = np.asarray(level.cells["row"]), np.asarray(level.cells["column"])
    for band in range(math.ceil(side / TILE)):
        top, bottom = band * TILE, min(side, (band + 1) * TILE)
        canvas = Image.new("RGBA", (side, bottom - top))
        for cell in np.flatnonzero((row * size < bottom) & ((row + 1) * size > top)).tolist():
            canvas.paste(sheets.cut(cell), (int(column[cell]) * size, int(row[cell]) * size - top))
        for left in range(0, side, TILE):
            _save(canvas.crop((left, 0, min(side, left + TILE), bottom - top)), folder, left // TILE, band)


def _smaller_tiles(larger: Path, folder: Path, side: int) -> None:
    """The tiles of a picture of half the size, `side` pixels along each side; what is transparent bleeds no colour."""
    folder.mkdir(parents=True, exist_ok=True)
    tiles = math.ceil(side / TILE)
    for row in range(tiles):
        for column in range(tiles):
            canvas = Image.new("RGBA", (2 * TILE, 2 * TILE))
            for down in (0, 1):
                for right in (0, 1):
                    part = larger / f"{2 * column + right}_{2 * row + down}.png"
                    if part.exists():
                        with Image.open(part) as tile:
                            canvas.paste(tile, (right * TILE, down * TILE))
            small = canvas.convert("RGBa").resize((TILE, TILE), Image.Resampling.BOX).convert("RGBA")
            width, height = (min(TILE, side - at * TILE) for at in (column, row))
            _save(small.crop((0, 0, width, height)), folder, column, row)


def _save(tile: Image.Image, folder: Path, column: int, row: int) -> None:
    path = folder / f"{column}_{row}.png"
    if tile.getbbox() is None:
        path.unlink(missing_ok=True)
    else:
        tile.save(path)


class _Sheets:
    """Pictures on sheets; the sheet that was read last is kept decoded."""

    def __init__(self, encoded: Sequence[bytes], size: int, per_row: int, per_sheet: int) -> None:
        self._encoded, self._size, self._per_row, self._per_sheet = encoded, size, per_row, per_sheet
        self._decoded: tuple[int, Image.Image] | None = None

    def cut(self, place: int) -> Image.Image:
        """A picture, RGB."""
        number, on = divmod(place, self._per_sheet)
        if self._decoded is None or self._decoded[0] != number:
            with Image.open(io.BytesIO(self._encoded[number])) as sheet:
                self._decoded = number, sheet.convert("RGB")
        top, left = divmod(on, self._per_row)
        size = self._size
        return self._decoded[1].crop((left * size, top * size, (left + 1) * size, (top + 1) * size))
