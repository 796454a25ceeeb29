"""The service `ortoscope.v1.Dissections`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from ortoscope.v1 import dissections_pb2, dissections_pb2_grpc

from ortoscope_service.analysis.dissection.pipeline import check_tap, check_threshold_count
from ortoscope_service.analysis.dissection.scores import best_concepts
from ortoscope_service.api import resources
from ortoscope_service.api.components import Components, blaming, version_name
from ortoscope_service.api.operations import repeated_request
from ortoscope_service.api.pages import page_of
from ortoscope_service.api.result_arrays import ResultArrays
from ortoscope_service.api.subjects import Subject, resolve_subject
from ortoscope_service.api.submissions import find_submitted, publisher, submit, time_limit_of
from ortoscope_service.datasets.dataset import LabelledDataset
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.jobs.runner import Publisher
from ortoscope_service.jobs.store import Store

COLLECTION = "dissections"
DEFAULT_TOP_FRACTION = 0.005
DEFAULT_IOU_THRESHOLD = 0.04
DEFAULT_EXAMPLES_PER_UNIT = 5
MAX_EXAMPLES_PER_UNIT = 100

_MODES = frozenset({dissections_pb2.DissectionSpec.MODE_UNSPECIFIED, dissections_pb2.DissectionSpec.MODE_EXACT})
_Order = dissections_pb2.ListUnitLabelsRequest


def dissection_publisher(store: Store) -> Publisher:
    """What stores finished dissections."""
    return publisher(store, COLLECTION, dissections_pb2.Dissection, _fill)


class DissectionsServicer(dissections_pb2_grpc.DissectionsServicer):
    """Dissects taps, and shows what came of it."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._records = components.store.records
        self._arrays = ResultArrays(components.store.blobs)

    def CreateDissection(
        self, request: dissections_pb2.CreateDissectionRequest, context: grpc.ServicerContext
    ) -> operations_pb2.Operation:
        """Dissects a tap, as an operation."""
        identity = repeated_request(request.request_id, request)
        submitted = find_submitted(self._components, identity)
        if submitted is not None:
            return submitted
        spec = _with_defaults(request.spec)
        limit = time_limit_of(request)
        thresholds = _checked_thresholds(spec.thresholds)
        subject = resolve_subject(self._components, spec.tap, spec.dataset, spec.splits)
        _check_labelled(subject)
        with blaming("spec.tap"):
            check_tap(subject.tap)
        if thresholds is not None and subject.tap.unit_count:
            check_threshold_count(thresholds, subject.tap.unit_count)
        spec.tap, spec.dataset = str(subject.tap_name), str(subject.dataset_name)
        draft = dissections_pb2.Dissection(spec=spec, given_thresholds=thresholds is not None)
        draft.saturated.use_tap = _tap_before(subject)
        del draft.spec.thresholds[:]
        wanted = {
            "top_fraction": spec.top_fraction if thresholds is None else None,
            "thresholds": None if thresholds is None else thresholds.tolist(),
            "iou_threshold": spec.iou_threshold,
            "examples_per_unit": spec.examples_per_unit,
        }
        return submit(self._components, identity, "dissect", subject, spec.splits, wanted, draft, limit)

    def GetDissection(
        self, request: dissections_pb2.GetDissectionRequest, context: grpc.ServicerContext
    ) -> dissections_pb2.Dissection:
        """Gets a dissection."""
        return self._get(request.name, field="name")

    def ListDissections(
        self, request: dissections_pb2.ListDissectionsRequest, context: grpc.ServicerContext
    ) -> dissections_pb2.ListDissectionsResponse:
        """Lists the dissections, newest first."""
        page = self._components.page(request.page_size, request.page_token, "ListDissections")
        found = self._records.list(COLLECTION, before=page.position, count=page.size + 1)
        shown = found[: page.size]
        return dissections_pb2.ListDissectionsResponse(
            dissections=[dissections_pb2.Dissection.FromString(message) for _, message in shown],
            next_page_token=page.token(shown[-1][0]) if len(found) > page.size else "",
        )

    def DeleteDissection(
        self, request: dissections_pb2.DeleteDissectionRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Deletes a dissection."""
        identity = repeated_request(request.request_id, request)
        dissection_id = resources.parse_dissection(request.name, field="name")
        requests = self._components.store.requests
        if requests.find(identity) is None:
            self._records.delete(COLLECTION, dissection_id)
            requests.add(identity, request.name)
        return empty_pb2.Empty()

    def ListUnitLabels(
        self, request: dissections_pb2.ListUnitLabelsRequest, context: grpc.ServicerContext
    ) -> dissections_pb2.ListUnitLabelsResponse:
        """Lists the best label of every unit."""
        if request.order not in _Order.Order.values():
            raise invalid("INVALID_ORDER", f"There is no order {request.order}.", field="order", order=request.order)
        by_iou = request.order == _Order.ORDER_IOU
        page = self._components.page(
            request.page_size, request.page_token, "ListUnitLabels", request.parent, str(by_iou)
        )
        dissection = self._get(request.parent, field="parent")
        labels = self._labels(dissection, by_iou=by_iou)
        shown = page_of(labels, page)
        return dissections_pb2.ListUnitLabelsResponse(unit_labels=shown.items, next_page_token=shown.next_page_token)

    def _get(self, name: str, *, field: str) -> dissections_pb2.Dissection:
        dissection_id = resources.parse_dissection(name, field=field)
        record = self._records.get(COLLECTION, dissection_id, field=field)
        return dissections_pb2.Dissection.FromString(record.message)

    def _labels(self, dissection: dissections_pb2.Dissection, *, by_iou: bool) -> list[dissections_pb2.UnitLabel]:
        arrays = self._arrays.get(resources.parse_blob(dissection.arrays, field=""))
        best = best_concepts(arrays["iou"])
        iou = np.where(best >= 0, arrays["iou"].max(axis=1, initial=0.0), 0.0)
        units = np.argsort(-iou, kind="stable") if by_iou else np.arange(len(best))
        labels = []
        for unit in units.tolist():
            label = dissections_pb2.UnitLabel(
                unit=unit,
                iou=iou[unit],
                threshold=arrays["threshold"][unit],
                detector=bool(iou[unit] > dissection.spec.iou_threshold),
                saturated=bool(arrays["saturated"][unit]),
            )
            concept = int(best[unit])
            if concept >= 0:
                label.concept = str(arrays["concept_name"][concept])
                label.concept_number = int(arrays["concept_number"][concept])
                label.category = str(arrays["category_name"][arrays["concept_category"][concept]])
            labels.append(label)
        return labels


def _with_defaults(given: dissections_pb2.DissectionSpec) -> dissections_pb2.DissectionSpec:
    """The specification with every default filled in.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT: INVALID_MODE, INVALID_FRACTION, INVALID_EXAMPLES_PER_UNIT.
    """
    if given.mode not in _MODES:
        raise invalid("INVALID_MODE", f"There is no mode {given.mode}.", field="spec.mode", mode=given.mode)
    for name in ("top_fraction", "iou_threshold"):
        value: float = getattr(given, name)
        if value != 0 and not 0 < value < 1:
            raise invalid(
                "INVALID_FRACTION",
                f"{name} is {value:g}; it must lie between 0 and 1 (0 itself stands for the default).",
                field=f"spec.{name}",
                value=value,
            )
    if not 0 <= given.examples_per_unit <= MAX_EXAMPLES_PER_UNIT:
        raise invalid(
            "INVALID_EXAMPLES_PER_UNIT",
            f"examples_per_unit is {given.examples_per_unit}; it must be 1 to {MAX_EXAMPLES_PER_UNIT}, or 0 for "
            f"{DEFAULT_EXAMPLES_PER_UNIT}.",
            field="spec.examples_per_unit",
            examples_per_unit=given.examples_per_unit,
        )
    spec = dissections_pb2.DissectionSpec()
    spec.CopyFrom(given)
    spec.mode = dissections_pb2.DissectionSpec.MODE_EXACT
    spec.top_fraction = given.top_fraction or DEFAULT_TOP_FRACTION
    spec.iou_threshold = given.iou_threshold or DEFAULT_IOU_THRESHOLD
    spec.examples_per_unit = given.examples_per_unit or DEFAULT_EXAMPLES_PER_UNIT
    return spec


def _checked_thresholds(thresholds: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    for unit, threshold in enumerate(thresholds):
        if not math.isfinite(threshold):
            raise invalid(
                "INVALID_THRESHOLD",
                f"The threshold of unit {unit} is {threshold}; thresholds must be finite.",
                field=f"spec.thresholds[{unit}]",
                unit=unit,
            )
    return np.array(thresholds, np.float64) if thresholds else None


def _check_labelled(subject: Subject) -> None:
    if isinstance(subject.dataset, LabelledDataset):
        return
    raise OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "DATASET_NOT_LABELLED",
        f"{subject.dataset_name} has no pixel labels; dissection needs a dataset in Broden's layout.",
        field="spec.dataset",
        metadata={"dataset": subject.dataset_name.dataset},
    )


def _fill(message: dissections_pb2.Dissection, values: Mapping[str, Any], blobs: Mapping[str, str]) -> None:
    message.unit_count = values["units"]
    message.concept_count = values["concepts"]
    message.best_label.CopyFrom(_detector_count(values["best_label"], values["category_names"]))
    message.per_category.CopyFrom(_detector_count(values["per_category"], values["category_names"]))
    message.saturated.count = values["saturated"]
    message.constant_units = values["constant"]
    message.arrays = blobs["arrays"]
    message.examples = blobs["examples"]


def _detector_count(count: Mapping[str, Any], category_names: Sequence[str]) -> dissections_pb2.DetectorCount:
    return dissections_pb2.DetectorCount(
        detectors=count["detectors"],
        unique_detectors=count["unique_detectors"],
        categories=[
            dissections_pb2.CategoryDetectorCount(category=name, detectors=detectors, unique_detectors=unique)
            for name, (detectors, unique) in zip(category_names, count["by_category"], strict=True)
        ],
    )


def _tap_before(subject: Subject) -> str:
    """Resource name of the tap before the activation function that made this one; empty if there is none."""
    before = subject.tap.pre_activation
    if all(tap.tensor != before for tap in subject.version.manifest.taps):
        return ""
    return str(resources.TapName(version_name(subject.version), before))
