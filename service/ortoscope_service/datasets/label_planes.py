"""Label planes: 8-bit RGB PNG files in which red + 256 times green is the number of a pixel's label and blue is 0."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ortoscope_service.datasets.broden_tables import MAX_LABEL_NUMBER
from ortoscope_service.datasets.dataset import decode_inside, displayable, read_inside
from ortoscope_service.datasets.findings import DatasetError, error
from ortoscope_service.datasets.image_headers import BadHeaderError, read_header


def read_plane(
    root: Path, relative: str, mask_shape: tuple[int, int], known: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Reads a label plane.

    Args:
        root: The dataset's folder, resolved.
        relative: Path of the plane relative to `root`.
        mask_shape: Height and width that it must have.
        known: (65536,) whether a number may stand in a plane.

    Returns:
        (sh, sw) int32 label numbers, 0 where there is none.

    Raises:
        DatasetError: PLANE_MISSING, PLANE_UNREADABLE (truncated, damaged), PLANE_MODE (not an 8-bit RGB PNG),
            PLANE_SIZE, PLANE_BLUE (blue is not 0: a picture of the labels rather than their numbers), UNKNOWN_LABEL,
            PATH_OUTSIDE.
    """
    data = read_inside(root, relative, "PLANE")

    def refusal(reason: str, message: str) -> DatasetError:
        return DatasetError(error(reason, displayable(relative), 0, message))

    try:
        header = read_header(data)
    except BadHeaderError as damaged:
        raise refusal("PLANE_UNREADABLE", f"The file is truncated or damaged: {damaged}. Restore it.") from damaged
    if header is None or (header.format, header.bits, header.channels) != ("PNG", 8, "rgb"):
        found = f"{header.bits}-bit {header.channels} {header.format}" if header else "no PNG"
        raise refusal("PLANE_MODE", f"The file is {found}; a label plane is an 8-bit RGB PNG. Write it anew.")
    if (header.height, header.width) != mask_shape:
        message = (
            f"{header.height} rows of {header.width} pixels, where index.csv says {mask_shape[0]} of {mask_shape[1]}."
        )
        raise refusal("PLANE_SIZE", f"{message} Rescale it by nearest neighbour.")
    try:
        rgb = np.asarray(decode_inside(data, relative, orient=False)).astype(np.int32)
    except DatasetError as damaged:
        raise refusal("PLANE_UNREADABLE", "The file is truncated or damaged. Restore it.") from damaged
    if rgb[..., 2].any():
        message = (
            "Blue is not 0 everywhere, so these are no label numbers (red + 256 times green). Write the plane anew."
        )
        raise refusal("PLANE_BLUE", message)
    plane: npt.NDArray[np.int32] = rgb[..., 0] + 256 * rgb[..., 1]
    strange = plane[~known[plane]]
    if strange.size:
        message = (
            f"{strange.size} pixels have label {strange[0]}, which is not in label.csv. Add it there or correct them."
        )
        raise refusal("UNKNOWN_LABEL", message)
    return plane


def known_numbers(numbers: Iterable[int]) -> npt.NDArray[np.bool_]:
    """(65536,) whether a number may stand in a label plane: 0 or a label's."""
    known = np.zeros(MAX_LABEL_NUMBER + 1, np.bool_)
    known[0] = True
    known[list(numbers)] = True
    return known


def encode_plane(plane: npt.NDArray[np.integer]) -> bytes:
    """A label plane as the bytes of a PNG file.

    Args:
        plane: (sh, sw) label numbers, 0 to 65535.
    """
    rgb = np.zeros((*plane.shape, 3), np.uint8)
    rgb[..., 0] = plane & 0xFF
    rgb[..., 1] = plane >> 8
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "PNG", compress_level=9)
    return stream.getvalue()
