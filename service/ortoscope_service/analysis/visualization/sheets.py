"""The pictures of many units: what is kept of each, all of them as arrays, and side by side in one picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ortoscope_service.analysis.visualization.loop import End, Outcome, Visualization
from ortoscope_service.analysis.visualization.png import to_bytes

Array = NDArray[Any]

LARGEST_SIDE = 16_384
"""Longest side of a sheet in pixels: what viewers and browsers show."""

MOST_UNITS = 4096
"""Most units of a sheet."""

MOST_PIXELS = 2**26
"""Most pixels of all pictures together: 4096 of 128 x 128. They are 200 MB of colours."""

MOST_AT_ONCE = 16
"""Most units that are climbed side by side, of small pictures."""

END_NUMBERS: Mapping[End, int] = MappingProxyType(
    {End.STEPS: 1, End.CONVERGED: 2, End.PLATEAU: 3, End.BUDGET: 4, End.DEAD: 5, End.NOT_FINITE: 6}
)
"""The numbers of `ortoscope.v1.VisualizedItem.End`, which arrays hold."""

_PIXELS_AT_ONCE = 4 * 128 * 128
"""Pixels that the model is shown in a step of units side by side. Of EfficientNet-Lite0 at 128 x 128, a unit's step
costs as much of a processor for 4 as for 8 (a seventh less than for one, a fifth less than for 16), and what a worker
that dies loses is half a minute."""

_WHITE = 255


@dataclass(frozen=True)
class UnitPicture:
    """What a unit's climb came to."""

    picture: NDArray[np.uint8]
    """(height, width, channels); black if the climb ended with a number that is none."""

    objective: float
    """On the clean picture, before it was rounded to 8 bits; not a number if it was not finite."""

    end: End
    """Why the climb ended."""

    steps: int
    """Steps made in the attempt that was kept; 0 if it ended with a number that is none."""

    attempt: int
    """The attempt that was kept, from 1; likewise 0."""

    redirected: int
    """Steps in which the gradient was redirected; likewise 0."""

    def to_arrays(self) -> dict[str, Array]:
        """It as arrays."""
        return {
            "picture": self.picture,
            "objective": np.array(self.objective, np.float32),
            "end": np.array(END_NUMBERS[self.end], np.uint8),
            "steps": np.array(self.steps, np.int64),
            "attempt": np.array(self.attempt, np.int64),
            "redirected_steps": np.array(self.redirected, np.int64),
        }


def unit_pictures(found: Visualization) -> list[UnitPicture]:
    """What is kept of each item, whose pictures are (channels, height, width) in [0, 1]."""
    return [_kept(picture, outcome) for picture, outcome in zip(found.pictures, found.outcomes, strict=True)]


def broken_picture(height: int, width: int, channels: int) -> UnitPicture:
    """What is kept of a unit whose objective became infinite or not a number.

    All of it is the same whatever the other units of the batch came to: where the climb was is not worth showing.
    """
    black = np.zeros((height, width, channels), np.uint8)
    return UnitPicture(black, math.nan, End.NOT_FINITE, 0, 0, 0)


def stacked(units: Sequence[int], pictures: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays of all units, each of which `UnitPicture.to_arrays` made, along a new first axis; and `unit` (U,)."""
    return {
        "unit": np.array(units, np.int64),
        **{name: np.stack([arrays[name] for arrays in pictures]) for name in pictures[0]},
    }


def at_once(pixels: int, views: int) -> int:
    """How many units are climbed side by side.

    Args:
        pixels: Pixels of a picture.
        views: How many views of each are shown to the model in a step.
    """
    return max(1, min(MOST_AT_ONCE, _PIXELS_AT_ONCE // (pixels * views)))


def columns_of(count: int, height: int, width: int) -> int:
    """How many pictures stand in a row of a sheet; 0 if it cannot be made without getting larger than `LARGEST_SIDE`.

    The sheet is about square, unless only another shape has room for all.

    Args:
        count: Number of pictures.
        height: Height of each in pixels.
        width: Width of each.
    """
    most_columns, most_rows = LARGEST_SIDE // width, LARGEST_SIDE // height
    if count > most_columns * most_rows:
        return 0
    fewest = -(-count // most_rows)
    return max(fewest, min(count, most_columns, math.ceil(math.sqrt(count * height / width))))


def sheet_of(pictures: NDArray[np.uint8], columns: int) -> Image.Image:
    """Pictures side by side, row by row, without gaps; places that are left over are white.

    Args:
        pictures: (pictures, height, width, channels) with 1 channel, or 3 or 4.
        columns: Pictures in a row.
    """
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows, height, columns, width, channels), _WHITE, np.uint8)
    for number, picture in enumerate(pictures):
        sheet[number // columns, :, number % columns] = picture
    whole = sheet.reshape(rows * height, columns * width, channels)
    return Image.fromarray(whole[..., 0] if channels == 1 else whole)


def _kept(picture: NDArray[np.float32], outcome: Outcome) -> UnitPicture:
    if outcome.end is End.NOT_FINITE or not math.isfinite(outcome.objective):
        channels, height, width = picture.shape
        return broken_picture(height, width, channels)
    return UnitPicture(
        to_bytes(picture), outcome.objective, outcome.end, outcome.steps, outcome.attempt + 1, outcome.redirected
    )
