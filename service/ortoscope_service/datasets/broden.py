"""Reads datasets in the folder layout of Broden, the data set of Network Dissection (Bau, Zhou et al., CVPR 2017)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ortoscope_service.datasets.broden_tables import (
    CATEGORIES,
    INDEX,
    LABELS,
    BrodenTables,
    Row,
    primary_category,
    read_tables,
    table_of,
)
from ortoscope_service.datasets.broden_writer import BrodenWriter
from ortoscope_service.datasets.dataset import (
    ConceptTable,
    ImageLabels,
    LabelledDataset,
    decode_inside,
    read_inside,
)
from ortoscope_service.datasets.file_digests import FileDigests, FileState
from ortoscope_service.datasets.findings import DatasetError, error, stop_at_errors
from ortoscope_service.datasets.label_planes import known_numbers, read_plane

__all__ = ["BrodenDataset", "BrodenWriter"]


class BrodenDataset(LabelledDataset):
    """Images with label planes and image-level labels.

    The rules of the format:

    1. Images are the rows of index.csv in their order; a row without any label is an image like any other.
    2. A category's field of a row is empty (not annotated) or holds items separated by semicolons. An item of digits
       only is an image-level label, which covers every pixel; any other is the path of a label plane.
    3. 0, in a plane or as an image-level label, means unlabelled. A plane of zeros labels nothing.
    4. A label counts once per pixel, however many planes and fields of the image say it.
    5. The primary category of a label is that in whose c_<category>.csv it has the largest coverage, the last at a
       tie. A label in none of them gets the last category (the validator warns).
    6. Labels are aligned with the stored pixels: EXIF orientation is not applied.

    What the validator calls a warning is tolerated; what it calls an error is refused, on opening if it is in a table,
    on reading the image concerned if it is in a picture. Concepts are those of label.csv.

    Args:
        root: The folder.
        name: The dataset's name; the folder's by default.
        file_digests: Digests of files already known.

    Raises:
        DatasetError: FAILED_PRECONDITION, with the reason of the first error in the tables.
    """

    kind: Literal["broden", "folder"] = "broden"

    def __init__(self, root: Path, name: str | None = None, file_digests: FileDigests | None = None) -> None:
        super().__init__(root, root.name if name is None else name, file_digests)
        self._states = {path: FileState.of(path) for path in self._root.glob("*.csv")}
        tables = read_tables(self._root, stop_at_errors)
        self._rows: tuple[Row, ...] = tables.rows
        self._mask_shape = tables.mask_shape
        self._concepts = concept_table(tables)
        self._known = known_numbers(self._concepts.number)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    def is_stale(self) -> bool:
        """Whether any table changed since it was opened."""
        return any(FileState.of(path) != state for path, state in self._states.items())

    @property
    def concepts(self) -> ConceptTable:
        """The labels of label.csv."""
        return self._concepts

    @property
    def mask_shape(self) -> tuple[int, int]:
        """Height and width of all label planes, in pixels."""
        return self._mask_shape

    def path(self, index: int) -> str:
        """Path of an image relative to the folder `images`."""
        self._check(index)
        return self._rows[index].image

    def split(self, index: int) -> str:
        """Split of an image as index.csv has it."""
        self._check(index)
        return self._rows[index].split

    def read_image(self, index: int) -> Image.Image:
        """An image, RGB with 8 bits per channel, as stored (EXIF orientation is not applied).

        Raises:
            DatasetError: FAILED_PRECONDITION, with the reasons of `read_bytes` and of `images.decode_image`; IMAGE_SIZE
                if it has another size than index.csv says.
        """
        self._check(index)
        return read_row_image(self._root, self._rows[index])

    def read_labels(self, index: int) -> ImageLabels:
        """The labels of an image.

        Raises:
            DatasetError: FAILED_PRECONDITION, with the reasons of `label_planes.read_plane`.
        """
        self._check(index)
        row = self._rows[index]
        image_level = np.unique(np.array([item.number for item in row.items if item.number], np.int32))
        planes: list[npt.NDArray[np.int32]] = []
        for item in row.items:
            if item.number:
                continue
            plane = read_plane(self._root, item.plane, self._mask_shape, self._known)
            said_already = np.isin(plane, image_level)
            for other in planes:
                said_already |= plane == other
            plane = np.where(said_already, np.int32(0), plane)
            if plane.any():
                planes.append(plane)
        stacked = np.stack(planes) if planes else np.zeros((0, *self._mask_shape), np.int32)
        return ImageLabels(stacked, image_level)

    def _file(self, index: int) -> str:
        self._check(index)
        return image_file(self._rows[index])

    def _files(self) -> Iterable[str]:
        yield from (INDEX, LABELS, CATEGORIES)
        yield from (table_of(category) for category in self._concepts.category_name)
        for row in self._rows:
            yield image_file(row)
            yield from (item.plane for item in row.items if item.plane)


def image_file(row: Row) -> str:
    """Path of a row's image relative to the dataset's folder."""
    return f"images/{row.image}"


def read_row_image(root: Path, row: Row) -> Image.Image:
    """The image of a row; see `BrodenDataset.read_image`."""
    file = image_file(row)
    image = decode_inside(read_inside(root, file, "IMAGE"), file, orient=False)
    if image.size != (row.width, row.height):
        message = (
            f"{image.height} rows of {image.width} pixels, where index.csv says {row.height} of {row.width} "
            f"(line {row.line}). Correct ih,iw there, or restore the image that the labels belong to."
        )
        raise DatasetError(error("IMAGE_SIZE", file, 0, message))
    return image


def concept_table(tables: BrodenTables) -> ConceptTable:
    """The concepts of tables that were read without an error."""
    labels = tables.labels.values()
    return ConceptTable(
        number=np.array([label.number for label in labels], np.int64),
        name=tuple(label.name for label in labels),
        category=np.array([primary_category(label.number, tables.category_labels) for label in labels], np.int64),
        category_name=tuple(category.name for category in tables.categories),
        frequency=np.array([label.frequency for label in labels], np.int64),
    )
