"""Finds everything that is wrong with a dataset's folder, by reading every file of it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ortoscope_service.datasets.broden import read_row_image
from ortoscope_service.datasets.broden_tables import INDEX, LABELS, MAX_LABEL_NUMBER, Row, read_tables
from ortoscope_service.datasets.catalog import is_broden
from ortoscope_service.datasets.dataset import decode_inside, read_inside
from ortoscope_service.datasets.findings import DatasetError, Finding, Report, error
from ortoscope_service.datasets.folders import list_images
from ortoscope_service.datasets.label_planes import known_numbers, read_plane
from ortoscope_service.datasets.label_recount import Recount
from ortoscope_service.datasets.table_consistency import find_contradictions

__all__ = ["Finding", "validate"]

Progress = Callable[[int, int], None]
"""Called with the number of images read and the number of images there are."""


def validate(root: Path, progress: Progress | None = None) -> list[Finding]:
    """Reads every file of a dataset and lists everything that is wrong with it.

    A folder that the catalog takes for Broden is checked as such: the tables one by one and against each other, then
    every image and label plane, then the frequencies and coverages that the tables state against a recount of the
    pixels (unless some of it could not be read). Any other folder is checked for images that cannot be read. An error
    is what `BrodenDataset` or `FolderDataset` refuses, on opening or on reading the image concerned; a warning is
    tolerated. Damage is never raised.

    Args:
        root: The dataset's folder.
        progress: Called after each image.

    Returns:
        The findings, errors first, otherwise in the order in which the dataset is read.
    """
    findings: list[Finding] = []
    try:
        if not root.is_dir():
            message = "This is no folder. Name the folder that holds the dataset."
            findings.append(error("DATASET_MISSING", "", 0, message))
        elif is_broden(root):
            _validate_broden(root.resolve(), findings.append, progress)
        else:
            _validate_folder(root.resolve(), findings.append, progress)
    except OSError:
        message = "A file or folder cannot be read. Check the permissions and the disk."
        findings.append(error("DATASET_UNREADABLE", "", 0, message))
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _validate_folder(root: Path, report: Report, progress: Progress | None) -> None:
    images = list_images(root, report).images
    for done, image in enumerate(images, 1):
        with _reporting(report):
            decode_inside(read_inside(root, image, "IMAGE"), image)
        if progress is not None:
            progress(done, len(images))


def _validate_broden(root: Path, report: Report, progress: Progress | None) -> None:
    tables = read_tables(root, report)
    if not tables.broken - {INDEX}:
        for finding in find_contradictions(tables):
            report(finding)
    known = known_numbers(range(MAX_LABEL_NUMBER + 1) if LABELS in tables.broken else tables.labels)
    countable = not tables.broken
    recount = Recount(tables)
    for done, row in enumerate(tables.rows, 1):
        with _reporting(report):
            read_row_image(root, row)
        planes = _read_planes(root, row, tables.mask_shape, known, report)
        countable &= len(planes) == sum(bool(item.plane) for item in row.items)
        if countable:
            recount.add(row, planes)
        if progress is not None:
            progress(done, len(tables.rows))
    if countable:
        for finding in recount.find_mismatches():
            report(finding)


def _read_planes(
    root: Path, row: Row, mask_shape: tuple[int, int], known: npt.NDArray[np.bool_], report: Report
) -> list[npt.NDArray[np.int32]]:
    """The planes of a row that can be read, in the order of its items."""
    planes = []
    for item in row.items:
        if item.plane:
            with _reporting(report):
                planes.append(read_plane(root, item.plane, mask_shape, known))
    return planes


@contextlib.contextmanager
def _reporting(report: Report) -> Iterator[None]:
    """Turns what a reader refuses into a finding."""
    try:
        yield
    except DatasetError as refused:
        report(refused.finding)
