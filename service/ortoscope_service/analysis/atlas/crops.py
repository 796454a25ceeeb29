"""What a model saw at a site: the part around it of the picture that the model was shown."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.preprocessing import fit, fitted_frame
from ortoscope_service.runtime.cancellation import Cancellation

STRIDES = 1.5
"""Side of a crop in strides of the sites, at least."""

SHARE = 0.25
"""Side of a crop as a share of the picture's shorter side, at least: less is hard to recognise."""


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels of a picture."""

    left: int
    """First column."""

    top: int
    """First row."""

    right: int
    """One past the last column."""

    bottom: int
    """One past the last row."""

    def fractions(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom as fractions of a picture's width and height."""
        return self.left / width, self.top / height, self.right / width, self.bottom / height


def site_grid(site_shape: tuple[int, ...], height: int, width: int, *, first: int = 0) -> tuple[int, int] | None:
    """Rows and columns of sites over a picture; None where sites have no place in it.

    Args:
        site_shape: Extent of each site axis of the tap: rows and columns of a map, or the tokens of a sequence, which
            are taken for patches row by row if they fill rows and columns in the proportions of the picture.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.
        first: Tokens before the first patch, such as that of the class.
    """
    match site_shape:
        case (rows, columns):
            return rows, columns
        case (tokens,):
            patches = tokens - first
            rows = round(math.sqrt(max(patches, 0) * height / width))
            columns = patches // rows if rows else 0
            fills = rows * columns == patches and round(rows * width / height) == columns
            return (rows, columns) if rows and fills else None
        case _:
            return None


def site_centre(
    site: NDArray[np.int32], site_shape: tuple[int, ...], height: int, width: int, *, first: int = 0
) -> tuple[float, float] | None:
    """The middle of a site as fractions of height and width, or None where it has no place; as `site_box` takes it.

    Sites share the picture equally, as in nets whose maps cover their input; a net without padding sees a little less.
    """
    over = site_grid(site_shape, height, width, first=first)
    if over is None:
        return None
    rows, columns = over
    row, column = divmod(int(site[0]) - first, columns) if len(site_shape) == 1 else (int(site[0]), int(site[1]))
    if row < 0:
        return None
    return (row + 0.5) / rows, (column + 0.5) / columns


def site_box(site: NDArray[np.int32], site_shape: tuple[int, ...], height: int, width: int, *, first: int = 0) -> Box:
    """The part of a picture that shows what is at a site.

    A square around the site's middle of the larger of 1.5 strides and a quarter of the picture's shorter side, moved
    into the picture. The whole picture where sites have no place in it: vectors, tokens of a class, other sequences.

    Args:
        site: (site axes,) int32, the index along each.
        site_shape: Extent of each.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.
        first: Tokens before the first patch.
    """
    over = site_grid(site_shape, height, width, first=first)
    centre = site_centre(site, site_shape, height, width, first=first)
    if over is None or centre is None:
        return Box(0, 0, width, height)
    side = max(STRIDES * height / over[0], STRIDES * width / over[1], SHARE * min(height, width))
    whole = min(math.ceil(side), height, width)
    top = min(max(round(centre[0] * height - whole / 2), 0), height - whole)
    left = min(max(round(centre[1] * width - whole / 2), 0), width - whole)
    return Box(left, top, left + whole, top + whole)


def in_image(box: Box, image_size: tuple[int, int], preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """A rectangle of the picture that a model is shown, as fractions of the image that it was made of.

    Args:
        box: In the model's picture.
        image_size: Width and height of the image, in pixels.
        preprocessing: How the one became the other.

    Returns:
        Left, top, right and bottom in [0, 1].
    """
    (width, height), (left, top) = fitted_frame(image_size, preprocessing)
    return (box.left + left) / width, (box.top + top) / height, (box.right + left) / width, (box.bottom + top) / height


def as_shown(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The picture that a model is shown, RGB: fitted to its input, and gray where it takes no colours."""
    fitted = fit(image, preprocessing)
    return (fitted.convert("L") if preprocessing.color_order == "gray" else fitted).convert("RGB")


def shown_samples(nearest: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Which samples get a crop: of every cell the first of its nearest, then the second, as long as there is room.

    Args:
        nearest: (M, n) int64, -1 for none.
        most: Crops at most; a sample that several cells show counts once.

    Returns:
        (crops,) int64, the samples, ascending, so that images come in the order of their files; and (M, n) int32, the
        place in it of each of `nearest`, -1 for none.
    """
    by_rank = nearest.T.ravel()
    there = by_rank[by_rank >= 0]
    _, first = np.unique(there, return_index=True)
    samples = np.sort(there[np.sort(first)[:most]])
    place = np.searchsorted(samples, nearest)
    found = np.isin(nearest, samples) & (nearest >= 0)
    return samples, np.where(found, place, -1).astype(np.int32)


def cut_crops(
    read: Callable[[int], Image.Image],
    image: NDArray[np.int64],
    site: NDArray[np.int32],
    site_shape: tuple[int, ...],
    preprocessing: Preprocessing,
    size: int,
    *,
    first: int = 0,
    cancellation: Cancellation | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """The crop of each sample, in order; an image is read once for all its samples that follow each other.

    Args:
        read: The image of an index, RGB, as `Dataset.read_image`.
        image: (n,) int64, the image of each sample.
        site: (n, site axes) int32, its site.
        site_shape: Extent of each site axis.
        preprocessing: How the model's picture is made of an image.
        size: Pixels along each side of a crop.
        first: Tokens before the first patch.
        cancellation: Stops the work.

    Yields:
        (size, size, 3) uint8, resized by Lanczos' filter; a whole picture that is no square is squeezed into one.

    Raises:
        OrtoscopeError: As `read` raises; CANCELLED.
    """
    cancellation = cancellation or Cancellation()
    last, picture = -1, Image.new("RGB", (1, 1))
    for index, where in zip(image.tolist(), site, strict=True):
        cancellation.raise_if_cancelled()
        if index != last:
            last, picture = index, as_shown(read(index), preprocessing)
        yield cut_crop(picture, site_box(where, site_shape, picture.height, picture.width, first=first), size)


def cut_crop(picture: Image.Image, box: Box, size: int) -> NDArray[np.uint8]:
    """A part of a picture, (size, size, 3) uint8, resized by Lanczos' filter."""
    part = picture.crop((box.left, box.top, box.right, box.bottom))
    return np.asarray(part.resize((size, size), Image.Resampling.LANCZOS))
