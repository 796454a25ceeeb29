"""The cells of a level as text that a page's script reads: arrays in base64, classes ranked, attributions in 8 bits."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ortoscope.errors import InvalidArgument
from ortoscope.report.page import embedded_json

if TYPE_CHECKING:
    from ortoscope.report.atlas.page import AtlasLayer, LayerLevel

TOP = 5
"""Classes that are named for a cell."""

LOW = 3
"""Classes of the most negative attributions that are known of a cell."""

_BLOCK = 1 << 18
"""Bytes of attribution, at most, that are loaded together."""

_ROWS = 1024
"""Cells whose classes are sorted together."""

_TYPES = {"u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "i1": np.int8, "i4": np.int32, "f4": np.float32}


@dataclass(frozen=True, eq=False)
class Columns:
    """Attributions of every cell to every class in 8 bits, each class on a scale of its own: value = step * number."""

    numbers: NDArray[np.int8]
    """(K, M) int8, -127 to 127."""

    step: NDArray[np.float32]
    """(K,) float32, the largest size of a class's attribution over 127; the error is at most half of it."""

    @classmethod
    def of(cls, cells: Mapping[str, NDArray[Any]]) -> "Columns | None":
        """The columns of a level; None if it has no attribution."""
        attribution = cells.get("attribution")
        if attribution is None or not attribution.size:
            return None
        finite = np.nan_to_num(np.asarray(attribution, np.float32), posinf=0.0, neginf=0.0)
        largest = np.abs(finite).max(0)
        step = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        return cls(np.ascontiguousarray(np.rint(finite / step).astype(np.int8).T), step)

    @property
    def size(self) -> int:
        """Bytes that they take in a page."""
        return len(self.numbers) * int(self.numbers.shape[1]) * 4 // 3

    @property
    def block(self) -> int:
        """Classes of which the columns are loaded together."""
        return min(len(self.numbers), max(1, _BLOCK // int(self.numbers.shape[1])))

    @property
    def blocks(self) -> int:
        """Blocks of classes."""
        return -(-len(self.numbers) // self.block)

    def text(self, number: int) -> str:
        """A block in base64: its classes one after the other, for each class every cell."""
        return _base64(self.numbers[number * self.block : (number + 1) * self.block])


def level_text(layer: "AtlasLayer", level: "LayerLevel", columns: Columns | None) -> str:
    """The cells of a level as JSON.

    Arrays are `{"t": type, "d": base64, little-endian}`, row by row: `row`, `column` u2, `count` u4, `dispersion`,
    `score` f4, `represents` u1, `shared` i4; `top`, `low` u4 (M, k) the classes of the largest and smallest attribution
    with `topValue`, `lowValue` f4; `step` f4 (K,) of the columns; `near` i4 (M, n) the images of the nearest samples
    and `crop` i4 (M, n) the places of their crops, -1 for none; `paths` files of those images by index; `overlays` f4.

    Raises:
        InvalidArgument: CELLS_MALFORMED.
    """
    cells = level.cells
    count = len(cells["row"])
    _check(level, count)
    packed: dict[str, Any] = {"row": _packed(cells["row"], "u2"), "column": _packed(cells["column"], "u2")}
    packed["count"] = _packed(np.minimum(cells["count"], np.iinfo(np.uint32).max), "u4")
    for name, kind in (("dispersion", "f4"), ("score", "f4"), ("represents", "u1"), ("shared", "i4"), ("crop", "i4")):
        if name in cells and cells[name].size and (level.icons or name not in {"score", "represents", "shared"}):
            packed[name] = _packed(cells[name], kind)
    attribution = cells.get("attribution")
    if attribution is not None and attribution.size:
        for name, sign, most in (("top", 1, TOP), ("low", -1, LOW)):
            ranked = _ranked(attribution, sign, most)
            packed[name] = _packed(ranked, "u4")
            packed[f"{name}Value"] = _packed(np.take_along_axis(attribution, ranked, 1), "f4")
        packed["perCell"] = [min(TOP, attribution.shape[1]), min(LOW, attribution.shape[1])]
    if columns is not None:
        packed["step"] = _packed(columns.step, "f4")
    image = layer.samples.get("image")
    nearest = cells.get("nearest")
    if image is not None and nearest is not None and nearest.size and len(image):
        near = np.where(nearest >= 0, np.asarray(image)[np.maximum(nearest, 0)], -1)
        packed["near"] = _packed(near, "i4")
        shown = np.unique(near[near >= 0]).tolist()
        packed["paths"] = {str(index): layer.image_paths[index] for index in shown if index in layer.image_paths}
    packed["overlays"] = [_packed(overlay.values, "f4") for overlay in level.overlays]
    return embedded_json(packed)


def sheet_text(sheet: bytes) -> str:
    """A sheet of pictures in base64."""
    return base64.b64encode(sheet).decode()


def _ranked(attribution: NDArray[Any], sign: int, most: int) -> NDArray[np.int64]:
    """(M, k) the classes of the largest attributions (`sign` 1) or smallest (-1) of each cell; of equals the first."""
    ranked = np.empty((len(attribution), min(most, attribution.shape[1])), np.int64)
    for first in range(0, len(ranked), _ROWS):
        part = -sign * np.asarray(attribution[first : first + _ROWS], np.float32)
        ranked[first : first + _ROWS] = np.argsort(part, axis=1, kind="stable")[:, :most]
    return ranked


def _check(level: "LayerLevel", count: int) -> None:
    for name, array in level.cells.items():
        if len(array) not in {0, count} and not name.startswith("winner"):
            raise _malformed(level, f"{name!r} has {len(array)} entries for {count} cells")
    for overlay in level.overlays:
        if np.shape(overlay.values) != (count,):
            raise _malformed(
                level, f"the overlay {overlay.name!r} has the shape {np.shape(overlay.values)}, not ({count},)"
            )
    for name in ("row", "column"):
        places = level.cells[name]
        if places.size and not (places.min() >= 0 and places.max() < level.grid):
            raise _malformed(level, f"{name!r} has places outside of 0 to {level.grid - 1}")


def _malformed(level: "LayerLevel", what: str) -> InvalidArgument:
    return InvalidArgument(
        f"The level with {level.grid} cells along each side is malformed: {what}.",
        reason="CELLS_MALFORMED",
        field="levels",
        metadata={"grid": str(level.grid)},
    )


def _packed(array: NDArray[Any], kind: str) -> dict[str, str]:
    return {"t": kind, "d": _base64(np.asarray(array).astype(np.dtype(_TYPES[kind]).newbyteorder("<"), order="C"))}


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
