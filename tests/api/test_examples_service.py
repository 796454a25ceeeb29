import io
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.longrunning import operations_pb2
from ortoscope.v1 import activations_pb2, blobs_pb2
from ortoscope.v1.activations_pb2 import ExamplesSpec, FindExamplesRequest
from ortoscope.v1.operations_pb2 import OperationMetadata
from PIL import Image
from serving import PREPROCESSING, Failure, Stubs, failure_of_status, run_directly
from tiny_models import tiny_cnn

Refused = Callable[..., Failure]


def find(stubs: Stubs, **spec: Any) -> activations_pb2.ExampleSet:
    fields = {"tap": "models/cnn/taps/relu6", "dataset": "datasets/photos", "count": 2, **spec}
    operation = stubs.wait(stubs.activations.FindExamples(FindExamplesRequest(spec=ExamplesSpec(**fields))))
    assert not operation.HasField("error"), operation
    example_set = activations_pb2.ExampleSet()
    assert operation.response.Unpack(example_set)
    metadata = OperationMetadata()
    assert operation.metadata.Unpack(metadata)
    assert (metadata.verb, metadata.state) == ("find-examples", OperationMetadata.STATE_SUCCEEDED)
    assert (metadata.target, metadata.dataset) == (example_set.spec.tap, example_set.spec.dataset)
    assert (metadata.done_items, metadata.total_items) == (example_set.provenance.items,) * 2
    assert example_set.name.removeprefix("exampleSets/") == operation.name.removeprefix("operations/")
    return example_set


def maps(datasets: Path, tap: str) -> np.ndarray:
    paths = sorted((datasets / "photos").rglob("*.png"))
    assert PREPROCESSING.size_policy == "squash"
    pixels = [
        (np.asarray(Image.open(path).resize((16, 16), Image.Resampling.BILINEAR), np.float32) - 127) / 128
        for path in paths
    ]
    batch = np.stack(pixels).transpose(0, 3, 1, 2)
    return run_directly(tiny_cnn(seed=2), [tap], {"image": batch})[tap]


def load(stubs: Stubs, name: str) -> dict[str, np.ndarray]:
    data = b"".join(chunk.data for chunk in stubs.blobs.ReadBlob(blobs_pb2.ReadBlobRequest(name=name)))
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_examples_are_those_of_a_search_by_hand(stubs: Stubs, datasets: Path) -> None:
    example_set = find(stubs)
    assert example_set.spec.tap == "models/cnn/versions/2/taps/relu6"
    assert example_set.spec.reduction == ExamplesSpec.REDUCTION_MAX
    assert example_set.unit_count == 12
    whole = maps(datasets, "relu6")
    peaks = whole.reshape(5, 12, -1).max(axis=2)
    arrays = load(stubs, example_set.arrays)
    assert arrays.keys() == {f"{end}_{what}" for end in ("most", "least") for what in ("image", "value", "site")}
    most = np.argsort(-peaks, axis=0, kind="stable")[:2].T
    least = np.argsort(peaks, axis=0, kind="stable")[:2].T
    np.testing.assert_array_equal(arrays["most_image"], most)
    np.testing.assert_array_equal(arrays["least_image"], least)
    units = np.arange(12)[:, None]
    np.testing.assert_allclose(arrays["most_value"], peaks[most, units], rtol=1e-5)
    site = arrays["most_site"]
    np.testing.assert_allclose(whole[most, units, site[..., 0], site[..., 1]], peaks[most, units], rtol=1e-5)


def test_examples_are_listed_by_unit_with_paths_and_places(stubs: Stubs) -> None:
    example_set = find(stubs)
    arrays = load(stubs, example_set.arrays)
    units: list[activations_pb2.UnitExamples] = []
    token = ""
    while True:
        page = stubs.activations.ListUnitExamples(
            activations_pb2.ListUnitExamplesRequest(parent=example_set.name, page_size=5, page_token=token)
        )
        units += page.unit_examples
        token = page.next_page_token
        if not token:
            break
    assert [unit.unit for unit in units] == list(range(12))
    for unit in units:
        for end, examples in (("most", unit.most), ("least", unit.least)):
            assert len(examples) == 2
            for rank, example in enumerate(examples):
                image = arrays[f"{end}_image"][unit.unit, rank]
                site = arrays[f"{end}_site"][unit.unit, rank]
                assert example.image == f"datasets/photos/images/{image}"
                assert example.path == f"{'a' if image < 3 else 'b'}/{image}.png"
                assert example.value == arrays[f"{end}_value"][unit.unit, rank]
                assert list(example.site) == list(site)
                assert list(example.position) == [(site[0] + 0.5) / 8, (site[1] + 0.5) / 8]


@pytest.mark.parametrize(
    ("spec", "has_sites"),
    [
        ({"reduction": ExamplesSpec.REDUCTION_MEAN}, False),
        ({"reduction": ExamplesSpec.REDUCTION_MIN}, True),
        ({"tap": "models/cnn/taps/flat"}, False),
    ],
)
def test_sites_are_given_where_there_are_any(stubs: Stubs, spec: dict[str, Any], has_sites: bool) -> None:
    example_set = find(stubs, **spec)
    assert ("most_site" in load(stubs, example_set.arrays)) is has_sites
    response = stubs.activations.ListUnitExamples(activations_pb2.ListUnitExamplesRequest(parent=example_set.name))
    example = response.unit_examples[0].most[0]
    assert bool(example.site) is bool(example.position) is has_sites


def test_more_examples_than_images_leave_places_empty(stubs: Stubs) -> None:
    example_set = find(stubs, count=0)
    assert example_set.spec.count == 10
    assert (load(stubs, example_set.arrays)["most_image"] == -1).sum() == 12 * 5
    response = stubs.activations.ListUnitExamples(activations_pb2.ListUnitExamplesRequest(parent=example_set.name))
    assert all(len(unit.most) == len(unit.least) == 5 for unit in response.unit_examples)


def test_only_the_images_of_the_splits_are_looked_at(stubs: Stubs) -> None:
    example_set = find(stubs, dataset="datasets/labelled", splits=["val"])
    assert list(example_set.spec.splits) == ["val"]
    assert example_set.provenance.items == 2
    assert set(load(stubs, example_set.arrays)["most_image"].ravel()) == {2, 3}


def test_example_sets_are_found_again_newest_first(stubs: Stubs) -> None:
    older, newer = find(stubs), find(stubs, count=3)
    assert stubs.activations.GetExampleSet(activations_pb2.GetExampleSetRequest(name=older.name)) == older
    first = stubs.activations.ListExampleSets(activations_pb2.ListExampleSetsRequest(page_size=1))
    assert list(first.example_sets) == [newer]
    second = stubs.activations.ListExampleSets(
        activations_pb2.ListExampleSetsRequest(page_size=1, page_token=first.next_page_token)
    )
    assert list(second.example_sets) == [older]


def test_equal_searches_share_the_bytes_of_their_arrays_and_the_digest_of_their_specification(stubs: Stubs) -> None:
    one, two, other = find(stubs), find(stubs), find(stubs, count=3)
    assert one.arrays == two.arrays != other.arrays
    assert one.provenance.spec_digest == two.provenance.spec_digest != other.provenance.spec_digest
    assert one.name != two.name


@pytest.mark.parametrize(
    ("spec", "code", "reason", "field"),
    [
        ({"tap": "models/cnn"}, "INVALID_ARGUMENT", "INVALID_NAME", "spec.tap"),
        ({"tap": "models/nothing/taps/x"}, "NOT_FOUND", "UNKNOWN_MODEL", "spec.tap"),
        ({"tap": "models/cnn/versions/9/taps/flat"}, "NOT_FOUND", "UNKNOWN_VERSION", "spec.tap"),
        ({"tap": "models/cnn/taps/x"}, "NOT_FOUND", "UNKNOWN_TAP", "spec.tap"),
        ({"tap": "models/text/taps/block0%2Fgelu"}, "FAILED_PRECONDITION", "MODEL_INPUT_NOT_IMAGE", "spec.tap"),
        ({"dataset": "photos"}, "INVALID_ARGUMENT", "INVALID_NAME", "spec.dataset"),
        ({"dataset": "datasets/x"}, "NOT_FOUND", "UNKNOWN_DATASET", "spec.dataset"),
        ({"dataset": "datasets/broken"}, "FAILED_PRECONDITION", "DATASET_UNREADABLE", "spec.dataset"),
        ({"splits": ["test"]}, "INVALID_ARGUMENT", "UNKNOWN_SPLIT", "spec.splits"),
        ({"count": -1}, "INVALID_ARGUMENT", "INVALID_COUNT", "spec.count"),
        ({"count": 1001}, "INVALID_ARGUMENT", "INVALID_COUNT", "spec.count"),
        ({"reduction": 9}, "INVALID_ARGUMENT", "INVALID_REDUCTION", "spec.reduction"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_once(
    stubs: Stubs, refused: Refused, spec: dict[str, Any], code: str, reason: str, field: str
) -> None:
    fields = {"tap": "models/cnn/taps/flat", "dataset": "datasets/photos", **spec}
    failure = refused(stubs.activations.FindExamples, FindExamplesRequest(spec=ExamplesSpec(**fields)))
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)


def test_example_sets_that_there_are_not_are_not_found(stubs: Stubs, refused: Refused) -> None:
    cases: tuple[tuple[Any, Any, str], ...] = (
        (stubs.activations.GetExampleSet, activations_pb2.GetExampleSetRequest, "name"),
        (stubs.activations.DeleteExampleSet, activations_pb2.DeleteExampleSetRequest, "name"),
        (stubs.activations.ListUnitExamples, activations_pb2.ListUnitExamplesRequest, "parent"),
    )
    for rpc, request, field in cases:
        unknown = refused(rpc, request(**{field: f"exampleSets/{uuid.uuid4().hex}"}))
        assert (unknown.code, unknown.field) == ("NOT_FOUND", field)
        bad = refused(rpc, request(**{field: "exampleSets/x"}))
        assert (bad.code, bad.field) == ("INVALID_ARGUMENT", field)
    failure = refused(stubs.activations.ListExampleSets, activations_pb2.ListExampleSetsRequest(page_token="x"))
    assert failure.field == "page_token"


def test_a_deleted_example_set_is_gone_and_its_operation_says_so(stubs: Stubs, refused: Refused) -> None:
    fields = {"tap": "models/cnn/taps/relu6", "dataset": "datasets/photos", "count": 2}
    operation = stubs.wait(stubs.activations.FindExamples(FindExamplesRequest(spec=ExamplesSpec(**fields))))
    example_set = activations_pb2.ExampleSet()
    assert operation.response.Unpack(example_set)
    request = activations_pb2.DeleteExampleSetRequest(name=example_set.name, request_id=str(uuid.uuid4()))
    stubs.activations.DeleteExampleSet(request)
    stubs.activations.DeleteExampleSet(request)  # a repetition succeeds again
    request.request_id = str(uuid.uuid4())
    assert refused(stubs.activations.DeleteExampleSet, request).code == "NOT_FOUND"
    get = activations_pb2.GetExampleSetRequest(name=example_set.name)
    assert refused(stubs.activations.GetExampleSet, get).code == "NOT_FOUND"
    latest = stubs.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))
    assert failure_of_status(latest.error).reason == "RESULT_DELETED"
