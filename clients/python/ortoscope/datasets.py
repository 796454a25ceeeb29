"""Datasets: their images, concepts and condition."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ortoscope import resource_names
from ortoscope.files import write_file
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Column, Table
from ortoscope.v1 import datasets_pb2


@dataclass(frozen=True)
class Concept:
    """Something that pixels or images are labelled with."""

    number: int
    """The number that stands for it in label planes, from 1."""

    name: str
    """Its name as in label.csv."""

    category: str
    """The category in which it covers most."""

    frequency: int
    """Number of images with the label."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a dataset, or worth knowing."""

    severity: str
    """"error" or "warning"."""

    reason: str
    """UPPER_SNAKE_CASE identifier of the kind of damage."""

    path: str
    """The file, relative to the dataset's folder."""

    line: int
    """The line of the file, from 1; 0 where that has no meaning."""

    message: str
    """What is wrong and what to do."""


@dataclass(frozen=True)
class ImageEntry:
    """An image of a dataset, without its picture."""

    name: str
    """Resource name; can be given to `activate`."""

    index: int
    """Index from 0."""

    path: str
    """Path relative to the dataset's folder of images."""

    split: str
    """Split; may be empty."""

    class_name: str
    """Class; empty if there is none."""


@dataclass(frozen=True)
class Picture:
    """The picture of an image of a dataset; shows itself in a notebook."""

    name: str
    """Resource name of the image; a Picture can be given to `activate`, which then takes the whole image."""

    data: bytes
    """The encoded picture."""

    media_type: str
    """One of "image/jpeg", "image/png" and "image/webp"."""

    width: int
    """Width in pixels."""

    height: int
    """Height in pixels."""

    def to_pil(self) -> Image.Image:
        """The picture as a PIL image, RGB."""
        return Image.open(io.BytesIO(self.data)).convert("RGB")

    def to_numpy(self) -> npt.NDArray[np.uint8]:
        """The picture as an array (height, width, 3) uint8."""
        return np.asarray(self.to_pil())

    def save(self, path: str | Path) -> None:
        """Writes the encoded picture to a file."""
        write_file(Path(path), self.data)

    def _repr_png_(self) -> bytes | None:
        if self.media_type == "image/webp":  # which notebooks do not show
            buffer = io.BytesIO()
            self.to_pil().save(buffer, "PNG")
            return buffer.getvalue()
        return self.data if self.media_type == "image/png" else None

    def _repr_jpeg_(self) -> bytes | None:
        return self.data if self.media_type == "image/jpeg" else None

    def __repr__(self) -> str:
        return f"<Picture {self.name}, {self.width}x{self.height} {self.media_type}>"


class ValidationReport(Table[Finding]):
    """What is wrong with a dataset: a table of findings, errors first."""

    def __init__(self, proto: datasets_pb2.ValidateDatasetResponse, dataset: str) -> None:
        self.proto = proto
        self.valid: bool = proto.valid
        """Whether there is no error."""
        self.finding_count: int = proto.finding_count
        """How many findings there are; the table may hold fewer."""
        severity = datasets_pb2.Finding.Severity.Name
        shown = len(proto.findings)
        total = f"{self.finding_count} findings" + (f", the first {shown}" if shown < self.finding_count else "")
        super().__init__(
            (
                Finding(
                    severity(entry.severity).removeprefix("SEVERITY_").lower(),
                    entry.reason,
                    entry.path,
                    entry.line,
                    entry.message,
                )
                for entry in proto.findings
            ),
            (
                Column("severity", lambda finding: finding.severity),
                Column("where", lambda finding: f"{finding.path}:{finding.line}" if finding.line else finding.path),
                Column("reason", lambda finding: finding.reason),
                Column("what", lambda finding: finding.message),
            ),
            title=f"{dataset}: {'valid' if self.valid else 'not valid'}, {total}",
        )


class Dataset:
    """A dataset of the server.

    Attributes:
        proto: The message as the server sent it.
    """

    def __init__(self, rpcs: Rpcs, proto: datasets_pb2.Dataset) -> None:
        self._rpcs = rpcs
        self.proto = proto

    @property
    def name(self) -> str:
        """Resource name, `datasets/{dataset}`."""
        return self.proto.name

    @property
    def id(self) -> str:
        """The name as people write it."""
        return resource_names.short_dataset(self.proto.name)

    @property
    def kind(self) -> str:
        """Either "broden" (with pixel labels) or "folder"."""
        return datasets_pb2.Dataset.Kind.Name(self.proto.kind).removeprefix("KIND_").lower()

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the label categories; empty without pixel labels."""
        return tuple(self.proto.categories)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of a folder dataset."""
        return tuple(self.proto.classes)

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of images in each split."""
        return dict(self.proto.splits)

    @property
    def concept_count(self) -> int:
        """Number of concepts."""
        return self.proto.concept_count

    @property
    def mask_shape(self) -> tuple[int, int]:
        """Rows and columns of the label planes; (0, 0) without pixel labels."""
        return self.proto.mask_height, self.proto.mask_width

    def __len__(self) -> int:
        """Number of images."""
        return self.proto.image_count

    def image(self, index: int, *, max_side: int = 0) -> Picture:
        """Gets the picture of an image.

        Args:
            index: Its index; negative counts from the end.
            max_side: Longest side in pixels; the picture is never made larger. 0: as it is, in the file's own bytes.

        Raises:
            OrtoscopeError: As Datasets.GetImage.
        """
        name = resource_names.image(self.name, index + len(self) if index < 0 else index)
        content = self._rpcs.get_image(datasets_pb2.GetImageRequest(name=name, max_side=max_side))
        return Picture(name, content.data, content.media_type, content.width, content.height)

    def __getitem__(self, index: int) -> Picture:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.id} has {len(self)} images; there is none of index {index}")
        return self.image(index)

    def __iter__(self) -> Iterator[Picture]:
        return (self.image(index) for index in range(len(self)))

    def images(self) -> Table[ImageEntry]:
        """Lists the images, without their pictures."""
        response = all_pages(self._rpcs.list_images, datasets_pb2.ListImagesRequest(parent=self.name))
        return Table(
            (
                ImageEntry(entry.name, entry.index, entry.path, entry.split, entry.class_name)
                for entry in response.images
            ),
            (
                Column("index", lambda entry: entry.index, numeric=True),
                Column("path", lambda entry: entry.path),
                Column("split", lambda entry: entry.split),
                Column("class", lambda entry: entry.class_name),
            ),
            title=f"{len(response.images)} images of {self.id}",
            names=lambda entry: (entry.path, entry.name),
        )

    def concepts(self) -> Table[Concept]:
        """Lists the concepts of a labelled dataset.

        Raises:
            FailedPrecondition: The dataset has no pixel labels.
        """
        response = all_pages(self._rpcs.list_concepts, datasets_pb2.ListConceptsRequest(parent=self.name))
        return Table(
            (Concept(entry.number, entry.name, entry.category, entry.frequency) for entry in response.concepts),
            (
                Column("number", lambda concept: concept.number, numeric=True),
                Column("name", lambda concept: concept.name),
                Column("category", lambda concept: concept.category),
                Column("images", lambda concept: concept.frequency, numeric=True),
            ),
            title=f"{len(response.concepts)} concepts of {self.id}",
            names=lambda concept: (concept.name,),
        )

    def validate(self, *, max_findings: int = 0) -> ValidationReport:
        """Lets the server read every file and tell what is wrong.

        Args:
            max_findings: Most findings to return; 0 leaves it to the server.
        """
        return validate(self._rpcs, self.name, max_findings=max_findings)

    def __repr__(self) -> str:
        labels = f", {self.concept_count} concepts in {', '.join(self.categories)}" if self.categories else ""
        return f"<Dataset {self.id}: {len(self)} images ({self.kind}){labels}>"


def validate(rpcs: Rpcs, name: str, *, max_findings: int = 0) -> ValidationReport:
    """Validates a dataset by its resource name; unlike `Dataset`, it need not be readable."""
    request = datasets_pb2.ValidateDatasetRequest(name=name, max_findings=max_findings)
    return ValidationReport(rpcs.validate_dataset(request), resource_names.short_dataset(name))


class DatasetTable(Table[Dataset]):
    """The datasets of a server.

    Attributes:
        unreadable: Names of folders that cannot be read as datasets; `scope.validate(name)` tells why.
    """

    def __init__(self, rpcs: Rpcs, response: datasets_pb2.ListDatasetsResponse) -> None:
        self.unreadable = tuple(resource_names.short_dataset(name) for name in response.unreadable)
        count = len(response.datasets)
        super().__init__(
            (Dataset(rpcs, entry) for entry in response.datasets),
            (
                Column("dataset", lambda dataset: dataset.id),
                Column("kind", lambda dataset: dataset.kind),
                Column("images", len, numeric=True),
                Column("concepts", lambda dataset: dataset.concept_count or "", numeric=True),
                Column("categories", lambda dataset: dataset.categories),
                Column("classes", lambda dataset: len(dataset.classes) or "", numeric=True),
                Column("splits", lambda dataset: [f"{name} {n}" for name, n in dataset.splits.items()]),
            ),
            title=f"{count} dataset{'' if count == 1 else 's'}"
            + (f"; not readable: {', '.join(self.unreadable)}" if self.unreadable else ""),
            names=lambda dataset: (dataset.id, dataset.name),
        )


def name_of(dataset: str | Dataset) -> str:
    """The resource name of a dataset that is given itself or by name.

    Raises:
        InvalidArgument: DATASET_NAME_INVALID.
    """
    return dataset.name if isinstance(dataset, Dataset) else resource_names.dataset(dataset)
