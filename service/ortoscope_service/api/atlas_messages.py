"""Cells and crops of atlases as messages."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortoscope.v1 import atlases_pb2

from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.class_labels import largest_classes
from ortoscope_service.analysis.atlas.crops import as_shown, in_image, site_box
from ortoscope_service.analysis.atlas.sites import leading_tokens
from ortoscope_service.api import resources
from ortoscope_service.api.subjects import Subject


class CellWriter:
    """Writes the cells of a level as messages.

    Args:
        atlas: The atlas.
        cells: The cells.
        samples: The arrays of the atlas's samples.
        top: Classes that are named for each cell.
        with_means: Whether the mean activation is told.
    """

    def __init__(
        self,
        atlas: atlases_pb2.Atlas,
        cells: Cells,
        samples: Mapping[str, NDArray[Any]],
        top: int,
        *,
        with_means: bool = False,
    ) -> None:
        self._atlas = atlas
        self._labels = atlas.class_labels
        self._cells = cells
        self._samples = samples
        self._top = top
        self._with_means = with_means

    def cell(self, index: int) -> atlases_pb2.Cell:
        """A cell by its place among the cells of its level."""
        cells = self._cells
        message = atlases_pb2.Cell(
            index=index,
            row=cells.row[index],
            column=cells.column[index],
            count=cells.count[index],
            dispersion=cells.dispersion[index],
            nearest=[self._sample(sample) for sample in cells.nearest[index].tolist() if sample >= 0],
            mean=cells.mean[index].tolist() if self._with_means else [],
        )
        if cells.score is not None and cells.represents is not None:
            message.score, message.represents = cells.score[index], cells.represents[index]
        if cells.attribution is not None:
            row = cells.attribution[index]
            for found in largest_classes(row[np.newaxis], self._top)[0].tolist():
                label = self._labels[found] if found < len(self._labels) else ""
                message.classes.add(index=found, label=label, attribution=row[found])
        return message

    def _sample(self, sample: int) -> atlases_pb2.CellSample:
        site, shape = self._samples["site"][sample], self._samples["site_shape"]
        image = int(self._samples["image"][sample])
        dataset = resources.parse_dataset(dataset_of(self._atlas, self._samples, sample), field="")
        message = atlases_pb2.CellSample(image=str(resources.ImageName(dataset, image)), site=site.tolist())
        if len(shape) == 2:
            message.position.extend(((site + 0.5) / shape).tolist())
        return message


def dataset_of(atlas: atlases_pb2.Atlas, samples: Mapping[str, NDArray[Any]], sample: int) -> str:
    """Resource name of the dataset that a sample's image is of: that of the atlas, or of its base."""
    if "dataset" not in samples:
        return atlas.spec.dataset
    return str(samples["dataset"][samples["source"][sample]])


def crop_of(
    subject: Subject, image: int, site: NDArray[np.int32], site_shape: NDArray[np.int64]
) -> tuple[atlases_pb2.Region, bytes]:
    """The part of an image around a site, and that part of what the model was shown as a PNG.

    Raises:
        OrtoscopeError: As `Dataset.read_image` raises.
    """
    original = subject.dataset.read_image(image)
    preprocessing = subject.version.image_input.preprocessing
    assert preprocessing is not None  # image_input raises otherwise
    picture = as_shown(original, preprocessing)
    first = leading_tokens(subject.version, subject.tap)
    box = site_box(site, tuple(site_shape.tolist()), picture.height, picture.width, first=first)
    left, top, right, bottom = in_image(box, original.size, preprocessing)
    file = io.BytesIO()
    picture.crop((box.left, box.top, box.right, box.bottom)).save(file, "PNG")
    return atlases_pb2.Region(left=left, top=top, right=right, bottom=bottom), file.getvalue()
