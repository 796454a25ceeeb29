import io
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ortoscope.v1 import blobs_pb2, dissections_pb2
from ortoscope.v1.dissections_pb2 import CreateDissectionRequest, Dissection, DissectionSpec
from ortoscope_service.config import ServerConfig
from ortoscope_service.datasets.broden import BrodenDataset
from ortoscope_service.models.repository import ModelRepository
from serving import PREPROCESSING, Failure, Stubs, failure_of_status, serving
from small_broden import write_small_broden

Refused = Callable[..., Failure]
TAP = "models/cnn/taps/relu6"


def create(stubs: Stubs, **spec: Any) -> Any:
    fields = {"tap": TAP, "dataset": "datasets/labelled", "top_fraction": 0.1, "iou_threshold": 0.001, **spec}
    return stubs.dissections.CreateDissection(CreateDissectionRequest(spec=DissectionSpec(**fields)))


def dissect(stubs: Stubs, **spec: Any) -> Dissection:
    operation = stubs.wait(create(stubs, **spec))
    assert not operation.HasField("error"), operation
    dissection = Dissection()
    assert operation.response.Unpack(dissection)
    return dissection


def load(stubs: Stubs, name: str) -> dict[str, np.ndarray]:
    data = b"".join(chunk.data for chunk in stubs.blobs.ReadBlob(blobs_pb2.ReadBlobRequest(name=name)))
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def dissection(stubs: Stubs) -> Dissection:
    return dissect(stubs)


def test_a_dissection_tells_what_was_asked_with_all_defaults(stubs: Stubs) -> None:
    spec = dissect(stubs, top_fraction=0, iou_threshold=0).spec
    assert spec.tap == "models/cnn/versions/2/taps/relu6"
    assert spec.dataset == "datasets/labelled"
    assert spec.mode == DissectionSpec.MODE_EXACT
    assert (spec.top_fraction, spec.iou_threshold, spec.examples_per_unit) == (0.005, 0.04, 5)


def test_the_arrays_have_their_names_shapes_and_types(stubs: Stubs, dissection: Dissection, datasets: Path) -> None:
    arrays = load(stubs, dissection.arrays)
    table = BrodenDataset(datasets / "labelled", "labelled").concepts
    units, concepts, categories = 12, 6, 4
    expected = {
        "threshold": ((units,), np.float64),
        "activation_pixels": ((units, categories), np.int64),
        "concept_pixels": ((concepts,), np.int64),
        "intersection": ((units, concepts), np.int64),
        "iou": ((units, concepts), np.float64),
        "concept_number": ((concepts,), np.int64),
        "concept_category": ((concepts,), np.int64),
        "saturated": ((units,), np.bool_),
        "constant": ((units,), np.bool_),
    }
    assert arrays.keys() == {*expected, "concept_name", "category_name"}
    for name, (shape, dtype) in expected.items():
        assert (arrays[name].shape, arrays[name].dtype) == (shape, np.dtype(dtype)), name
    assert arrays["concept_name"].dtype.kind == arrays["category_name"].dtype.kind == "U"
    assert arrays["concept_name"].tolist() == list(table.name)
    assert arrays["category_name"].tolist() == ["color", "object", "part", "scene"]
    assert (dissection.unit_count, dissection.concept_count) == (units, concepts)


def test_the_scores_follow_from_the_counts(stubs: Stubs, dissection: Dissection) -> None:
    arrays = load(stubs, dissection.arrays)
    union = (
        arrays["activation_pixels"][:, arrays["concept_category"]] + arrays["concept_pixels"] - arrays["intersection"]
    )
    np.testing.assert_allclose(arrays["iou"], arrays["intersection"] / np.maximum(union, 1), rtol=1e-12)
    assert arrays["intersection"].sum() > 0
    best = arrays["iou"].argmax(axis=1)
    score = arrays["iou"].max(axis=1)
    detects = score > dissection.spec.iou_threshold
    assert dissection.best_label.detectors == detects.sum() > 0
    assert dissection.best_label.unique_detectors == len(set(best[detects]))
    assert [count.category for count in dissection.best_label.categories] == ["color", "object", "part", "scene"]
    assert sum(count.detectors for count in dissection.best_label.categories) == detects.sum()
    assert dissection.per_category.detectors >= dissection.best_label.detectors
    assert dissection.saturated.count == arrays["saturated"].sum()
    assert dissection.constant_units == arrays["constant"].sum()


def test_the_examples_have_their_names_shapes_and_types(stubs: Stubs, dissection: Dissection) -> None:
    arrays = load(stubs, dissection.examples)
    assert arrays.keys() == {"image", "value", "mask", "mask_shape"}
    assert (arrays["image"].shape, arrays["image"].dtype) == ((12, 5), np.dtype(np.int64))
    assert (arrays["value"].shape, arrays["value"].dtype) == ((12, 5), np.dtype(np.float32))
    assert (arrays["mask"].shape, arrays["mask"].dtype) == ((12, 5, 3), np.dtype(np.uint8))
    assert arrays["mask_shape"].tolist() == [4, 6]
    assert (arrays["image"][:, 4] == -1).all()  # there are four images


def test_saturated_units_are_counted_and_the_tap_before_is_named(stubs: Stubs) -> None:
    saturating = dissect(stubs, top_fraction=0.9999, tap="models/cnn/taps/relu6")
    assert saturating.saturated.use_tap == "models/cnn/versions/2/taps/conv2"
    plain = dissect(stubs, tap="models/cnn/taps/conv2")
    assert plain.saturated.use_tap == ""


def test_given_thresholds_are_used_as_they_are(stubs: Stubs) -> None:
    thresholds = np.linspace(0.1, 1.2, 12)
    given = dissect(stubs, thresholds=thresholds.tolist())
    assert given.given_thresholds
    assert not given.spec.thresholds
    np.testing.assert_array_equal(load(stubs, given.arrays)["threshold"], thresholds)
    assert not dissect(stubs).given_thresholds


def test_labels_are_listed_by_unit_or_by_falling_iou(stubs: Stubs, dissection: Dissection) -> None:
    arrays = load(stubs, dissection.arrays)

    def labels(order: Any) -> list[dissections_pb2.UnitLabel]:
        collected: list[dissections_pb2.UnitLabel] = []
        token = ""
        while True:
            page = stubs.dissections.ListUnitLabels(
                dissections_pb2.ListUnitLabelsRequest(
                    parent=dissection.name, page_size=5, page_token=token, order=order
                )
            )
            collected += page.unit_labels
            token = page.next_page_token
            if not token:
                return collected

    by_unit = labels(dissections_pb2.ListUnitLabelsRequest.ORDER_UNIT)
    assert [label.unit for label in by_unit] == list(range(12))
    for label in by_unit:
        scores = arrays["iou"][label.unit]
        assert label.iou == scores.max()
        assert label.threshold == arrays["threshold"][label.unit]
        assert label.saturated == arrays["saturated"][label.unit]
        assert label.detector == (scores.max() > dissection.spec.iou_threshold)
        if scores.max() > 0:
            best = scores.argmax()
            assert label.concept == arrays["concept_name"][best]
            assert label.concept_number == arrays["concept_number"][best]
            assert label.category == arrays["category_name"][arrays["concept_category"][best]]
        else:
            assert (label.concept, label.concept_number, label.category) == ("", 0, "")
    by_iou = labels(dissections_pb2.ListUnitLabelsRequest.ORDER_IOU)
    assert by_iou == sorted(by_unit, key=lambda label: (-label.iou, label.unit))


def test_provenance_is_complete(dissection: Dissection, models: ModelRepository, datasets: Path) -> None:
    provenance = dissection.provenance
    assert provenance.model == "models/cnn/versions/2"
    assert provenance.model_digest == models.get("cnn", 2).manifest.digest
    assert provenance.dataset == "datasets/labelled"
    assert provenance.dataset_digest == BrodenDataset(datasets / "labelled", "labelled").digest()
    for field in provenance.DESCRIPTOR.fields:
        assert getattr(provenance, field.name), field.name
    assert provenance.spec_digest.startswith("sha256:")
    assert (provenance.items, provenance.batch_size) == (4, 4)
    assert provenance.preprocessing == PREPROCESSING.describe()
    assert provenance.start_time.ToNanoseconds() < provenance.end_time.ToNanoseconds()


def test_the_same_dissection_gives_the_same_bytes(stubs: Stubs, dissection: Dissection) -> None:
    again = dissect(stubs)
    assert (again.arrays, again.examples) == (dissection.arrays, dissection.examples)
    assert again.provenance.spec_digest == dissection.provenance.spec_digest
    other = dissect(stubs, top_fraction=0.2)
    assert other.arrays != dissection.arrays
    assert other.provenance.spec_digest != dissection.provenance.spec_digest


def test_a_dissection_is_found_again_listed_and_deleted(stubs: Stubs, refused: Refused) -> None:
    operation = stubs.wait(create(stubs, examples_per_unit=3))
    made = Dissection()
    operation.response.Unpack(made)
    assert stubs.dissections.GetDissection(dissections_pb2.GetDissectionRequest(name=made.name)) == made
    newest = stubs.dissections.ListDissections(dissections_pb2.ListDissectionsRequest(page_size=1))
    assert list(newest.dissections) == [made]
    assert newest.next_page_token

    request = dissections_pb2.DeleteDissectionRequest(name=made.name, request_id=str(uuid.uuid4()))
    stubs.dissections.DeleteDissection(request)
    stubs.dissections.DeleteDissection(request)  # a repetition succeeds again
    request.request_id = str(uuid.uuid4())
    assert refused(stubs.dissections.DeleteDissection, request).code == "NOT_FOUND"
    get = dissections_pb2.GetDissectionRequest(name=made.name)
    assert refused(stubs.dissections.GetDissection, get).code == "NOT_FOUND"
    assert refused(stubs.blobs.ReadBlob, blobs_pb2.ReadBlobRequest(name=made.examples)).code == "NOT_FOUND"
    from google.longrunning import operations_pb2

    kept = stubs.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))
    assert kept.done
    assert failure_of_status(kept.error).reason == "RESULT_DELETED"


def test_a_request_id_for_a_different_deletion_is_refused(stubs: Stubs, refused: Refused) -> None:
    made = dissect(stubs)
    request_id = str(uuid.uuid4())
    stubs.dissections.DeleteDissection(dissections_pb2.DeleteDissectionRequest(name=made.name, request_id=request_id))
    other = dissections_pb2.DeleteDissectionRequest(name=f"dissections/{uuid.uuid4().hex}", request_id=request_id)
    assert refused(stubs.dissections.DeleteDissection, other).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("spec", "code", "reason", "field"),
    [
        ({"tap": ""}, "INVALID_ARGUMENT", "INVALID_NAME", "spec.tap"),
        ({"tap": "models/nothing/taps/x"}, "NOT_FOUND", "UNKNOWN_MODEL", "spec.tap"),
        ({"tap": "models/cnn/versions/9/taps/x"}, "NOT_FOUND", "UNKNOWN_VERSION", "spec.tap"),
        ({"tap": "models/cnn/taps/x"}, "NOT_FOUND", "UNKNOWN_TAP", "spec.tap"),
        ({"tap": "models/mlp/taps/relu1"}, "FAILED_PRECONDITION", "MODEL_INPUT_NOT_IMAGE", "spec.tap"),
        ({"dataset": "datasets/"}, "INVALID_ARGUMENT", "INVALID_NAME", "spec.dataset"),
        ({"dataset": "datasets/nothing"}, "NOT_FOUND", "UNKNOWN_DATASET", "spec.dataset"),
        ({"dataset": "datasets/broken"}, "FAILED_PRECONDITION", "DATASET_UNREADABLE", "spec.dataset"),
        ({"dataset": "datasets/photos"}, "FAILED_PRECONDITION", "DATASET_NOT_LABELLED", "spec.dataset"),
        ({"splits": ["test"]}, "INVALID_ARGUMENT", "UNKNOWN_SPLIT", "spec.splits"),
        ({"mode": 7}, "INVALID_ARGUMENT", "INVALID_MODE", "spec.mode"),
        ({"top_fraction": 1.0}, "INVALID_ARGUMENT", "INVALID_FRACTION", "spec.top_fraction"),
        ({"top_fraction": -0.1}, "INVALID_ARGUMENT", "INVALID_FRACTION", "spec.top_fraction"),
        ({"top_fraction": float("nan")}, "INVALID_ARGUMENT", "INVALID_FRACTION", "spec.top_fraction"),
        ({"iou_threshold": 1.5}, "INVALID_ARGUMENT", "INVALID_FRACTION", "spec.iou_threshold"),
        ({"thresholds": [1.0] * 11}, "INVALID_ARGUMENT", "THRESHOLD_COUNT", "spec.thresholds"),
        (
            {"thresholds": [1.0] * 11 + [float("inf")]},
            "INVALID_ARGUMENT",
            "INVALID_THRESHOLD",
            "spec.thresholds[11]",
        ),
        (
            {"examples_per_unit": -1},
            "INVALID_ARGUMENT",
            "INVALID_EXAMPLES_PER_UNIT",
            "spec.examples_per_unit",
        ),
        (
            {"examples_per_unit": 101},
            "INVALID_ARGUMENT",
            "INVALID_EXAMPLES_PER_UNIT",
            "spec.examples_per_unit",
        ),
    ],
)
def test_what_cannot_be_dissected_is_refused_at_once(
    stubs: Stubs, refused: Refused, spec: dict[str, Any], code: str, reason: str, field: str
) -> None:
    fields = {"tap": TAP, "dataset": "datasets/labelled", **spec}
    failure = refused(stubs.dissections.CreateDissection, CreateDissectionRequest(spec=DissectionSpec(**fields)))
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)


def test_dissections_that_there_are_not_are_not_found(stubs: Stubs, refused: Refused, dissection: Dissection) -> None:
    cases: tuple[tuple[Any, Any, str], ...] = (
        (stubs.dissections.GetDissection, dissections_pb2.GetDissectionRequest, "name"),
        (stubs.dissections.DeleteDissection, dissections_pb2.DeleteDissectionRequest, "name"),
        (stubs.dissections.ListUnitLabels, dissections_pb2.ListUnitLabelsRequest, "parent"),
    )
    for rpc, request, field in cases:
        unknown = refused(rpc, request(**{field: f"dissections/{uuid.uuid4().hex}"}))
        assert (unknown.code, unknown.field) == ("NOT_FOUND", field)
        bad = refused(rpc, request(**{field: "dissections/../x"}))
        assert (bad.code, bad.field) == ("INVALID_ARGUMENT", field)
    labels = dissections_pb2.ListUnitLabelsRequest
    assert refused(stubs.dissections.ListUnitLabels, labels(parent=dissection.name, page_size=-1)).code == (
        "INVALID_ARGUMENT"
    )
    bad_order = labels(parent=dissection.name, order=9)  # type: ignore[arg-type]
    assert refused(stubs.dissections.ListUnitLabels, bad_order).field == "order"
    assert refused(stubs.dissections.ListDissections, dissections_pb2.ListDissectionsRequest(page_token="x")).field == (
        "page_token"
    )


@pytest.mark.parametrize("damaged", ["images/s/b.jpg", "images/s/a_color.png"])
def test_a_damaged_file_fails_the_operation_and_is_named(config: ServerConfig, tmp_path: Path, damaged: str) -> None:
    root = write_small_broden(tmp_path / "datasets" / "labelled")
    (root / damaged).write_bytes(b"torn")
    with serving(replace(config, datasets=tmp_path / "datasets", store=tmp_path / "store")) as (_, stubs):
        operation = stubs.wait(create(stubs))
        failure = failure_of_status(operation.error)
        assert failure.code == "FAILED_PRECONDITION"
        assert Path(damaged).name in failure.message
        assert str(tmp_path) not in failure.message
        shutil.copytree(write_small_broden(tmp_path / "sound"), root, dirs_exist_ok=True)
        assert dissect(stubs).unit_count == 12
