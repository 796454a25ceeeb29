"""Dissections: which labelled concept each unit of a tap detects."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from ortoscope import blobs, resource_names
from ortoscope.arrays import Bool, DissectionArrays, Float64, Int64, TopImages, load_npz
from ortoscope.durations import Duration, time_limit_message
from ortoscope.errors import InvalidArgument
from ortoscope.files import PROVENANCE, check_result_folder, write_result
from ortoscope.labels import tally_csv
from ortoscope.messages import provenance_record
from ortoscope.operations import Operation
from ortoscope.progress import Progress, shown
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Column, Table
from ortoscope.v1 import dissections_pb2, provenance_pb2

FILES = ("tally.csv", "dissection.npz", PROVENANCE, "index.html")
"""The files of a saved dissection."""

KIND = "dissection"
"""What `provenance.json` says of the folder."""


@dataclass(frozen=True)
class UnitLabel:
    """The best label of a unit."""

    unit: int
    """The unit, from 0."""

    concept: str
    """Its best concept; empty if it shares no pixel with any."""

    concept_number: int
    """Number of the concept; 0 if there is none."""

    category: str
    """Category of the concept."""

    iou: float
    """Intersection over union."""

    threshold: float
    """Its threshold."""

    detector: bool
    """Whether it counts as a detector."""

    saturated: bool
    """Whether its threshold is the largest value that it takes."""


class Dissection:
    """The result of dissecting a tap; its arrays are fetched when one is first asked for.

    Attributes:
        proto: The message as the server sent it: the spec, both countings of detectors, the provenance.
    """

    def __init__(self, rpcs: Rpcs, proto: dissections_pb2.Dissection) -> None:
        self._rpcs = rpcs
        self.proto = proto

    @property
    def name(self) -> str:
        """Resource name, `dissections/{dissection}`."""
        return self.proto.name

    @property
    def tap(self) -> str:
        """The tensor name of the tap."""
        return resource_names.short_tap(self.proto.spec.tap)

    @property
    def model(self) -> str:
        """The model version, as `name/version`."""
        return resource_names.short_model(resource_names.version_of_tap(self.proto.spec.tap))

    @property
    def dataset(self) -> str:
        """The name of the dataset."""
        return resource_names.short_dataset(self.proto.spec.dataset)

    @property
    def provenance(self) -> provenance_pb2.Provenance:
        """What it was computed from."""
        return self.proto.provenance

    @property
    def best_label(self) -> dissections_pb2.DetectorCount:
        """The first of two countings: each unit counts once, under its best label of all categories."""
        return self.proto.best_label

    @property
    def per_category(self) -> dissections_pb2.DetectorCount:
        """The second of two countings: each category counts on its own, so that a unit may count in several."""
        return self.proto.per_category

    @property
    def saturated_units(self) -> dissections_pb2.SaturatedUnits:
        """How many units saturate, and the tap to dissect instead."""
        return self.proto.saturated

    @cached_property
    def arrays(self) -> DissectionArrays:
        """All arrays."""
        return load_npz(DissectionArrays, self._arrays_file)

    @cached_property
    def top_images(self) -> TopImages:
        """The images with the largest values of each unit, and the unit's masks in them."""
        return load_npz(TopImages, blobs.download_bytes(self._rpcs, self.proto.examples))

    @property
    def threshold(self) -> Float64:
        """(U,) float64: the threshold of each unit."""
        return self.arrays.threshold

    @property
    def activation_pixels(self) -> Int64:
        """(U, C) int64: pixels of the unit's mask in images that carry a label of the category."""
        return self.arrays.activation_pixels

    @property
    def concept_pixels(self) -> Int64:
        """(K,) int64: pixels with the concept."""
        return self.arrays.concept_pixels

    @property
    def intersection(self) -> Int64:
        """(U, K) int64: pixels with both."""
        return self.arrays.intersection

    @property
    def iou(self) -> Float64:
        """(U, K) float64: intersection over union."""
        return self.arrays.iou

    @property
    def concept_number(self) -> Int64:
        """(K,) int64: the number of each concept in label planes."""
        return self.arrays.concept_number

    @property
    def concept_name(self) -> npt.NDArray[np.str_]:
        """(K,): the name of each concept."""
        return self.arrays.concept_name

    @property
    def concept_category(self) -> Int64:
        """(K,) int64: index into `category_name`."""
        return self.arrays.concept_category

    @property
    def category_name(self) -> npt.NDArray[np.str_]:
        """(C,): the name of each category."""
        return self.arrays.category_name

    @property
    def saturated(self) -> Bool:
        """(U,) bool: the threshold is the largest value that the unit takes, so that it can have no label."""
        return self.arrays.saturated

    @property
    def constant(self) -> Bool:
        """(U,) bool: the unit had one and the same value everywhere."""
        return self.arrays.constant

    def labels(self, order: Literal["unit", "iou"] = "unit") -> Table[UnitLabel]:
        """The best label of every unit.

        Args:
            order: By unit, or by falling IoU.
        """
        orders = {
            "unit": dissections_pb2.ListUnitLabelsRequest.ORDER_UNIT,
            "iou": dissections_pb2.ListUnitLabelsRequest.ORDER_IOU,
        }
        if order not in orders:
            raise InvalidArgument(
                f"{order!r} is no order: choose 'unit' or 'iou'.", reason="ORDER_UNKNOWN", field="order"
            )
        request = dissections_pb2.ListUnitLabelsRequest(parent=self.name, order=orders[order])
        response = all_pages(self._rpcs.list_unit_labels, request)
        return _label_table(
            [
                UnitLabel(
                    entry.unit,
                    entry.concept,
                    entry.concept_number,
                    entry.category,
                    entry.iou,
                    entry.threshold,
                    entry.detector,
                    entry.saturated,
                )
                for entry in response.unit_labels
            ],
            f"{len(response.unit_labels)} units of {self.tap}",
        )

    def detectors(self) -> Table[UnitLabel]:
        """The labels of the units that count as detectors, by falling IoU."""
        detectors = [label for label in self.labels("iou") if label.detector]
        title = f"{len(detectors)} detectors among {self.proto.unit_count} units of {self.tap}"
        return _label_table(detectors, title)

    def save(self, folder: str | Path, *, progress: bool | Progress = False) -> Path:
        """Writes the report folder: `tally.csv`, `dissection.npz`, `provenance.json` and `index.html`.

        `dissection.npz` is the server's file, byte for byte; `index.html` opens from the disk, without a server.

        Args:
            folder: A new or empty folder, or one that holds an older dissection.
            progress: True shows progress on stderr or in the notebook; a function is told of it.

        Returns:
            The path of `index.html`.

        Raises:
            OrtoscopeError: FOLDER_NOT_EMPTY, or as the calls that fetch the result and its images.
            OSError: The disk is full, or the folder cannot be written to.
        """
        with shown(progress, "report") as show:
            return self._save(Path(folder), show)

    def delete(self) -> None:
        """Deletes it on the server."""
        request = dissections_pb2.DeleteDissectionRequest(name=self.name, request_id=str(uuid4()))
        self._rpcs.delete_dissection(request)

    @cached_property
    def _arrays_file(self) -> bytes:
        return blobs.download_bytes(self._rpcs, self.proto.arrays)

    def _save(self, folder: Path, show: Progress) -> Path:
        # Imported here: whoever asks for numbers alone needs no template engine.
        # Only who saves a report waits for what draws it.
        from ortoscope.report.dissection import render_dissection  # noqa: PLC0415
        from ortoscope.report.sources import dissection_sources  # noqa: PLC0415

        check_result_folder(folder, KIND, FILES)
        sources = dissection_sources(self._rpcs, self.proto, self.top_images, show)
        page = render_dissection(self.proto, self.arrays, self.top_images, sources)
        show("writing the report", 0, 0)
        contents = {
            "tally.csv": tally_csv(self.arrays).encode(),
            "dissection.npz": self._arrays_file,
            "index.html": page.encode(),
        }
        write_result(folder, KIND, contents, provenance_record(self.name, self.proto.spec, self.provenance))
        return folder / "index.html"

    def __repr__(self) -> str:
        count = self.best_label
        return (
            f"<Dissection {self.name}: {self.model} {self.tap} on {self.dataset}: {count.detectors} of "
            f"{self.proto.unit_count} units detect {count.unique_detectors} concepts>"
        )

    def _repr_html_(self) -> str:
        return self.detectors()._repr_html_()


def start_dissection(
    rpcs: Rpcs,
    tap: str,
    dataset: str,
    *,
    top_fraction: float,
    thresholds: Sequence[float] | npt.NDArray[np.floating] | None,
    iou_threshold: float,
    splits: Sequence[str],
    examples_per_unit: int,
    time_limit: Duration | None,
) -> Operation[Dissection]:
    """Starts a dissection.

    Args:
        rpcs: The calls.
        tap: Resource name of the tap.
        dataset: Resource name of the dataset.
        top_fraction: The share of a unit's activations that lies above its threshold; 0: the server's default.
        thresholds: (U,) thresholds to use instead.
        iou_threshold: The IoU above which a unit counts as a detector; 0: the server's default.
        splits: Only images of these splits; all if empty.
        examples_per_unit: Top images kept for each unit; 0: the server's default.
        time_limit: Longest time from now to the end, waiting included; None: as long as it takes.

    Raises:
        OrtoscopeError: As Dissections.CreateDissection; DURATION_INVALID.
    """
    spec = dissections_pb2.DissectionSpec(
        tap=tap,
        dataset=dataset,
        top_fraction=top_fraction,
        thresholds=[] if thresholds is None else np.asarray(thresholds, np.float64).ravel().tolist(),
        iou_threshold=iou_threshold,
        splits=splits,
        examples_per_unit=examples_per_unit,
    )
    request = dissections_pb2.CreateDissectionRequest(
        spec=spec, request_id=str(uuid4()), time_limit=time_limit_message(time_limit)
    )
    return Operation(rpcs, rpcs.create_dissection(request))


def _label_table(labels: Sequence[UnitLabel], title: str) -> Table[UnitLabel]:
    return Table(
        labels,
        (
            Column("unit", lambda label: label.unit, numeric=True),
            Column("label", lambda label: label.concept),
            Column("category", lambda label: label.category),
            Column("IoU", lambda label: f"{label.iou:.4f}", numeric=True),
            Column("threshold", lambda label: label.threshold, numeric=True),
            Column("detector", lambda label: label.detector),
            Column("saturated", lambda label: label.saturated),
        ),
        title=title,
        names=lambda label: (label.concept, label.category),
    )
