"""The arrays of results, as the server keeps them in .npz files."""

import io
import zipfile
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ortoscope.errors import DataLoss

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class DissectionArrays:
    """The counts and scores of U units, K concepts and C categories."""

    threshold: Float64
    """(U,) float64: a pixel is in a unit's mask where its activation, upsampled, is greater."""

    activation_pixels: Int64
    """(U, C) int64: pixels of the unit's mask in images that carry a label of the category."""

    concept_pixels: Int64
    """(K,) int64: pixels with the concept."""

    intersection: Int64
    """(U, K) int64: pixels with both."""

    iou: Float64
    """(U, K) float64: intersection over union."""

    concept_number: Int64
    """(K,) int64: the number that stands for the concept in label planes."""

    concept_name: npt.NDArray[np.str_]
    """(K,): names as in label.csv."""

    concept_category: Int64
    """(K,) int64: index into `category_name`."""

    category_name: npt.NDArray[np.str_]
    """(C,): names of the categories, in the dataset's order."""

    saturated: Bool
    """(U,) bool: the threshold is the largest value that the unit takes, so that its mask is empty."""

    constant: Bool
    """(U,) bool: the unit had one and the same value everywhere."""


@dataclass(frozen=True, eq=False)
class TopImages:
    """The E images with the largest values of each unit, and the unit's masks in them."""

    image: Int64
    """(U, E) int64: indices of images, by falling value; -1 where there are fewer."""

    value: Float32
    """(U, E) float32: the unit's largest value in the image."""

    mask: npt.NDArray[np.uint8]
    """(U, E, bytes) uint8: pixels above the threshold, eight to a byte, row-major, highest bit first."""

    mask_shape: Int64
    """(2,) int64: rows and columns of a mask."""

    def masks(self, unit: int) -> Bool:
        """The masks of a unit, (E, rows, columns) bool."""
        rows, columns = (int(extent) for extent in self.mask_shape)
        bits = np.unpackbits(self.mask[unit], axis=-1, count=rows * columns)
        return bits.reshape(-1, rows, columns).astype(np.bool_)


@dataclass(frozen=True, eq=False)
class ExampleArrays:
    """The images that activate each of U units most and least, `count` at either end."""

    most_image: Int64
    """(U, count) int64: indices of images, by falling value; -1 where there are fewer."""

    most_value: Float32
    """(U, count) float32: the numbers that they were ranked by."""

    least_image: Int64
    """(U, count) int64: indices of images, by rising value; -1 where there are fewer."""

    least_value: Float32
    """(U, count) float32."""

    most_site: Int64 | None = None
    """(U, count, site axes) int64: where in the map; None where the reduction has no site."""

    least_site: Int64 | None = None
    """(U, count, site axes) int64."""


def load_npz(kind: type[T], data: bytes) -> T:
    """Reads a result's arrays from the bytes of its .npz file; arrays that `kind` does not know are left out.

    Args:
        kind: One of the classes of this module.
        data: The file.

    Raises:
        DataLoss: ARRAYS_DAMAGED: it is no .npz file, or an array is missing.
    """
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type] # every kind is a dataclass
    try:
        return kind(**{name: array for name, array in all_arrays(data, kind.__name__).items() if name in names})
    except TypeError as error:
        raise _damaged(kind.__name__, error) from None


def all_arrays(data: bytes, what: str = "arrays") -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name.

    Args:
        data: The file.
        what: What it holds, for errors.

    Raises:
        DataLoss: ARRAYS_DAMAGED: it is no .npz file.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise _damaged(what, error) from None


def _damaged(kind: str, error: Exception) -> DataLoss:
    return DataLoss(f"The server's arrays cannot be read as {kind}: {error}.", reason="ARRAYS_DAMAGED")
