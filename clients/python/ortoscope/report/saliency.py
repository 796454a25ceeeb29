"""Gradients at images and maps as pictures: how much each place matters, beside what the model sees."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ortoscope.errors import InvalidArgument
from ortoscope.report.pictures import frame_of
from ortoscope.v1 import models_pb2

Style: TypeAlias = Literal["magnitude", "signed"]
"""What of a gradient a place is coloured by: its largest absolute value over the units, or their sum with its sign."""

FULL_SCALE_PERCENTILE = 99.0
"""The percentile of the places' absolute values that gets the full colour: single outliers would darken all else."""

_PANEL_SIDE = 448
"""Longest side of a panel, about: twice the usual input, so that single pixels can be made out."""

_GAP = 8
_PAPER = (255, 255, 255)
_NOT_A_NUMBER = (0, 160, 0)
_MAGNITUDE = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
_SIGNED = ((5, 48, 97), (67, 147, 195), (247, 247, 247), (214, 96, 77), (103, 0, 31))


def heat_map(gradient: npt.NDArray[Any], unit_axis: int, style: Style = "magnitude") -> npt.NDArray[np.float64]:
    """How much each place matters, normalised for one input by itself.

    Args:
        gradient: The gradient for one input, without the axis of inputs: two axes of places and one of units.
        unit_axis: The axis of `gradient` along which the units, or the colours of a picture, lie; negative if that is
            not known.
        style: "magnitude": the largest absolute value over the units, from 0 to 1. "signed": the sum over the units,
            from -1 to 1. Either is divided by the 99th percentile of its absolute values over all places (by the
            largest if that is 0) and cut off at 1.

    Returns:
        (rows, columns) float64; not a number where a gradient is not.

    Raises:
        InvalidArgument: GRADIENT_NOT_A_MAP: there are no rows and columns, or it is not known which they are.
    """
    if gradient.ndim != 3 or unit_axis < 0:
        raise InvalidArgument(
            f"A gradient of shape {gradient.shape} for each input has no rows and columns that are known; save it as "
            ".npz, or ask for it at an image or a map.",
            reason="GRADIENT_NOT_A_MAP",
            metadata={"shape": str(gradient.shape)},
        )
    places = np.moveaxis(gradient, unit_axis, 0).astype(np.float64)
    values: npt.NDArray[np.float64] = np.abs(places).max(axis=0) if style == "magnitude" else places.sum(axis=0)
    sizes = np.abs(values[np.isfinite(values)])
    full = float(np.percentile(sizes, FULL_SCALE_PERCENTILE)) if sizes.size else 0.0
    full = full or float(sizes.max(initial=0.0))
    return np.clip(values / full, -1, 1) if full else np.where(np.isfinite(values), 0.0, np.nan)


def saliency_picture(
    heat_maps: Sequence[npt.NDArray[np.float64]],
    style: Style,
    pictures: Sequence[Image.Image | None],
    preprocessing: models_pb2.Preprocessing | None,
) -> Image.Image:
    """Heat maps below each other, each beside what the model sees of its picture.

    "magnitude" goes from black (0) over purple and orange to pale yellow (1); "signed" from blue (-1) over white (0) to
    red (1). Green is what is not a number.

    Args:
        heat_maps: One for each input, all of one shape.
        style: What they show.
        pictures: The picture of each input; None where there is none.
        preprocessing: How the model takes pictures; None if that is not known.
    """
    rows, columns = heat_maps[0].shape
    if preprocessing is not None:
        rows, columns = preprocessing.height, preprocessing.width
    enlargement = max(1, round(_PANEL_SIDE / max(rows, columns)))
    size = (columns * enlargement, rows * enlargement)
    across = 1 if all(picture is None for picture in pictures) else 2
    whole = Image.new("RGB", (across * (size[0] + _GAP) - _GAP, len(heat_maps) * (size[1] + _GAP) - _GAP), _PAPER)
    for row, (values, picture) in enumerate(zip(heat_maps, pictures, strict=True)):
        top = row * (size[1] + _GAP)
        if picture is not None:
            whole.paste(_seen(picture, preprocessing).resize(size, Image.Resampling.BICUBIC), (0, top))
        # Every place stays a rectangle of one colour: what lies between two of them was not computed.
        drawn = colours(values, style).resize(size, Image.Resampling.NEAREST)
        whole.paste(drawn, ((across - 1) * (size[0] + _GAP), top))
    return whole


def colours(values: npt.NDArray[np.float64], style: Style) -> Image.Image:
    """A heat map as a picture, one pixel for each place."""
    ramp = np.array(_MAGNITUDE if style == "magnitude" else _SIGNED, np.float64)
    stops = np.linspace(0 if style == "magnitude" else -1, 1, len(ramp))
    pixels = np.stack([np.interp(values, stops, ramp[:, channel]) for channel in range(3)], axis=-1)
    pixels[np.isnan(values)] = _NOT_A_NUMBER
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _seen(picture: Image.Image, preprocessing: models_pb2.Preprocessing | None) -> Image.Image:
    """The part of a picture that the model sees."""
    frame = frame_of(picture.width, picture.height, preprocessing)
    left, top = frame.left * picture.width, frame.top * picture.height
    right, bottom = left + frame.width * picture.width, top + frame.height * picture.height
    return picture.convert("RGB").crop((round(left), round(top), round(right), round(bottom)))
