"""Animations of a climb."""

import io
from collections.abc import Sequence

from PIL import Image

from ortoscope.errors import InvalidArgument

_FRAME_MILLISECONDS = 80
_LAST_FRAME_MILLISECONDS = 1500
"""How long frames of an animation are shown: quick enough to move, and the end long enough to be looked at."""


def animation(pictures: Sequence[bytes]) -> bytes:
    """An animated WebP of PNGs, all brought to the size of the last.

    Raises:
        InvalidArgument: NOT_A_PICTURE.
    """
    if not pictures[-1]:
        raise InvalidArgument("What was found is no picture, so that it has no frames.", reason="NOT_A_PICTURE")
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
    size = opened[-1].size
    resized = [picture.resize(size, Image.Resampling.BICUBIC) for picture in opened]
    buffer = io.BytesIO()
    times = [_FRAME_MILLISECONDS] * (len(resized) - 1) + [_LAST_FRAME_MILLISECONDS]
    resized[0].save(
        buffer, "WEBP", save_all=True, append_images=resized[1:], duration=times, loop=0, quality=85, method=4
    )
    return buffer.getvalue()
