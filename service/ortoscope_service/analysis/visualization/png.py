"""Pictures as PNG files that tell how they were made: the whole specification is in their metadata."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from ortoscope_service.errors import OrtoscopeError, invalid

KEYWORD = "ortoscope:spec"
"""The keyword of the text in the metadata (PNG specification, iTXt) that holds the specification as JSON."""

CHANNELS = frozenset({1, 3, 4})
"""Channels of pictures that are written: gray, colours, colours with opacity."""

_WHITE = 255


def encode_png(picture: NDArray[np.float32], spec: Mapping[str, Any] | None = None) -> bytes:
    """A picture as PNG of 8 bits per channel, its specification in an iTXt text `ortoscope:spec`.

    Equal pictures with equal specifications give equal bytes.

    Args:
        picture: (channels, height, width) in [0, 1]; 1 channel is gray, 3 are colours, a fourth is opacity. What lies
            outside of the interval is clipped, what is not a number is black.
        spec: The specification, JSON data; None for a picture that says nothing of itself.

    Raises:
        ValueError: There are 2 channels, or more than 4.
    """
    channels = picture.shape[0]
    if channels not in CHANNELS:
        raise ValueError(f"a PNG file has 1, 3 or 4 channels, not {channels}")
    pixels = to_bytes(picture)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    return encode_image(image, spec)


def encode_image(image: Image.Image, spec: Mapping[str, Any] | None = None) -> bytes:
    """An image of 8 bits per channel as PNG, its specification in an iTXt text `ortoscope:spec`."""
    texts = PngImagePlugin.PngInfo()
    if spec is not None:
        # Not compressed: readers refuse to unpack texts above a megabyte, which the arrays of some objectives exceed.
        texts.add_itxt(KEYWORD, canonical_json(spec))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=texts)
    return file.getvalue()


def to_bytes(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(..., channels, height, width) in [0, 1] as (..., height, width, channels) of 0..255, rounded half up."""
    finite = np.nan_to_num(picture, nan=0.0, posinf=1.0, neginf=0.0)
    scaled = np.floor(np.clip(finite, 0, 1) * np.float32(_WHITE) + np.float32(0.5))
    return np.ascontiguousarray(np.moveaxis(scaled.astype(np.uint8), -3, -1))


def read_spec(png: bytes, *, field: str = "png") -> dict[str, Any]:
    """The specification that a PNG file was written with.

    Args:
        png: The file.
        field: The path of the field that holds it, for errors.

    Raises:
        OrtoscopeError: `INVALID_ARGUMENT`, `NO_SPECIFICATION`: it is no PNG file, or one without a specification.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            text = getattr(image, "text", {}).get(KEYWORD)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises of files that are none
        raise _refused("it cannot be read as PNG", field) from error
    if text is None:
        raise _refused(f"its metadata have no text '{KEYWORD}'", field)
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"the text '{KEYWORD}' in its metadata is no JSON", field) from error
    if not isinstance(spec, dict):
        raise _refused(f"the text '{KEYWORD}' in its metadata is no JSON object", field)
    return spec


def canonical_json(data: Mapping[str, Any]) -> str:
    """JSON with sorted keys, no spaces, and the shortest exact numbers: equal data give equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _refused(why: str, field: str) -> OrtoscopeError:
    return invalid(
        "NO_SPECIFICATION",
        f"The picture does not tell how it was made: {why}. Give a PNG file of a visualization as it was written; "
        "programs that save pictures anew may drop the metadata.",
        field=field,
        problem=why,
    )
