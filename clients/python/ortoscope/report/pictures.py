"""The images of a dataset as thumbnails that a page can carry: each once, and all together of bounded size."""

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from ortoscope import resource_names
from ortoscope.errors import DataLoss, FailedPrecondition, NotFound
from ortoscope.progress import Progress
from ortoscope.rpcs import Rpcs
from ortoscope.v1 import datasets_pb2, models_pb2

_TOTAL_BYTES = 15_000_000
"""What the pictures of a page are meant to take before base64 adds a third: small enough to send to somebody."""

_MOST_BYTES = 17_000_000
"""What they take at the very most: images that are all noise are larger than photographs."""

_TYPICAL_BYTES = {
    320: 17_000,
    256: 11_800,
    224: 9_200,
    160: 5_300,
    128: 3_700,
    112: 3_050,
    96: 2_400,
    80: 1_840,
    64: 1_330,
}
"""Size of a photograph as JPEG by its longest side, measured on photographs and textures."""

_QUALITY = 72
"""JPEG quality: at these sizes the eye finds no fault with it."""

_PARALLEL = 4
"""Calls at a time: the server decodes one image while another is on its way."""


@dataclass(frozen=True)
class Frame:
    """The part of a picture that the model sees, in fractions of its width and height."""

    left: float = 0.0
    """Its left edge."""

    top: float = 0.0
    """Its upper edge."""

    width: float = 1.0
    """Its width."""

    height: float = 1.0
    """Its height."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture."""

    jpeg: bytes
    """The encoded picture."""

    width: int
    """Width in pixels."""

    height: int
    """Height in pixels."""

    frame: Frame
    """The part that the model sees."""


def fetch_thumbnails(
    rpcs: Rpcs,
    dataset: str,
    indices: Iterable[int],
    preprocessing: models_pb2.Preprocessing | None,
    show: Progress,
) -> dict[int, Thumbnail]:
    """Gets the pictures of images and makes them small.

    Args:
        rpcs: The calls.
        dataset: Resource name of the dataset.
        indices: The images, the most important first; repetitions and negative numbers are passed over.
        preprocessing: How the model takes pictures; None if that is not known.
        show: Is told how many are done.

    Returns:
        The thumbnails by index. An image that the server cannot give any more is left out, and so are the last ones
        if there are more than a page can carry.
    """
    side, most = size_for(len({index for index in indices if index >= 0}))
    wanted = [index for index in dict.fromkeys(indices) if index >= 0][:most]
    # One pixel more than the model's input shows whether an image has that very size: it then passes uncropped.
    request_side = max(side, preprocessing.height + 1, preprocessing.width + 1) if preprocessing else side

    def fetch(index: int) -> Thumbnail | None:
        request = datasets_pb2.GetImageRequest(name=resource_names.image(dataset, index), max_side=request_side)
        try:
            return make_thumbnail(rpcs.get_image(request), side, preprocessing)
        except (NotFound, FailedPrecondition, DataLoss):
            return None

    thumbnails: dict[int, Thumbnail] = {}
    room = _MOST_BYTES
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="thumbnails") as pool:
        for done, (index, thumbnail) in enumerate(zip(wanted, pool.map(fetch, wanted), strict=True)):
            show("fetching images", done + 1, len(wanted))
            if thumbnail is not None and len(thumbnail.jpeg) <= room:
                thumbnails[index] = thumbnail
                room -= len(thumbnail.jpeg)
    return thumbnails


def size_for(count: int) -> tuple[int, int]:
    """The longest side for `count` thumbnails of one page, and how many of that side fit at most."""
    for side, size in _TYPICAL_BYTES.items():
        if count * size <= _TOTAL_BYTES:
            return side, count
    smallest = min(_TYPICAL_BYTES)
    return smallest, _TOTAL_BYTES // _TYPICAL_BYTES[smallest]


def make_thumbnail(
    content: datasets_pb2.ImageContent, side: int, preprocessing: models_pb2.Preprocessing | None
) -> Thumbnail:
    """A picture made small enough that its longest side is at most `side` pixels."""
    with Image.open(io.BytesIO(content.data)) as opened:
        picture = opened.convert("RGB")
    frame = frame_of(picture.width, picture.height, preprocessing)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return Thumbnail(buffer.getvalue(), picture.width, picture.height, frame)


def frame_of(width: int, height: int, preprocessing: models_pb2.Preprocessing | None) -> Frame:
    """The part of a picture that the model sees: all of it, unless it is of another size and its centre is taken.

    Args:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        preprocessing: How the model takes pictures; None if that is not known.
    """
    if (
        preprocessing is None
        or preprocessing.size_policy != models_pb2.Preprocessing.SIZE_POLICY_CROP
        or (width, height) == (preprocessing.width, preprocessing.height)
    ):
        return Frame()
    enlargement = preprocessing.resize_short_side / min(preprocessing.height, preprocessing.width)
    scale = max(preprocessing.width * enlargement / width, preprocessing.height * enlargement / height)
    across = min(1.0, preprocessing.width / (width * scale))
    down = min(1.0, preprocessing.height / (height * scale))
    return Frame((1 - across) / 2, (1 - down) / 2, across, down)
