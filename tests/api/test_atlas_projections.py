"""Projections into atlases and comparisons of atlases, over the wire and with real workers."""

import io
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from ortoscope.v1 import atlases_pb2, blobs_pb2
from ortoscope.v1.atlases_pb2 import CompareAtlasesRequest, ProjectSamplesRequest
from ortoscope.v1.operations_pb2 import OperationMetadata
from ortoscope_service.analysis.atlas.comparison import Side, compare
from ortoscope_service.analysis.atlas.placement import Frame
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.repository import ModelRepository
from serving import Failure, Stubs, failure_of_status, serving
from small_atlases import LAYOUT, publish_atlas, samples_of, write_photos

Refused = Callable[..., Failure]
_IMAGES, _SITES = 24, 3


class Atlases(NamedTuple):
    """A server with atlases, and what they were made from."""

    stubs: Stubs
    datasets: Path
    early: atlases_pb2.Atlas
    late: atlases_pb2.Atlas
    other_seed: atlases_pb2.Atlas
    of_class: atlases_pb2.Atlas
    unfinished: atlases_pb2.Atlas
    homeless: atlases_pb2.Atlas
    appended: atlases_pb2.Atlas


@pytest.fixture(scope="module")
def atlases(
    models_folder: Path, models: ModelRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Atlases]:
    datasets, store = tmp_path_factory.mktemp("datasets"), tmp_path_factory.mktemp("store")
    write_photos(datasets / "photos", _IMAGES)
    write_photos(datasets / "further", 10, 100)
    write_photos(datasets / "dark", 40, 200, dark=True)
    version = models.get("cnn", 2)

    def publish(number: int, layer: str, /, seed: int = 0, **changes: Any) -> atlases_pb2.Atlas:
        identifier = f"{number:032x}"
        return publish_atlas(
            store, version, layer, datasets, "photos", identifier=identifier, sites=_SITES, seed=seed, changes=changes
        )

    made = [
        publish(1, "relu1"),
        publish(2, "relu6"),
        publish(3, "relu1", seed=1),
        publish(4, "relu1", class_filter={"classes": ["zero"]}),
        publish(5, "relu1", frame=""),
        publish(6, "relu1", tap="models/gone/versions/1/taps/relu"),
        publish(7, "relu1", base_atlas="atlases/" + "0" * 32),
    ]
    config = ServerConfig(models=models_folder, datasets=datasets, store=store, listen="127.0.0.1:0", batch_size=4)
    with serving(config) as (_, stubs):
        yield Atlases(stubs, datasets, *made)


def _finished(stubs: Stubs, operation: Any, verb: str) -> Any:
    operation = stubs.wait(operation)
    assert not operation.HasField("error"), operation
    metadata = OperationMetadata()
    assert operation.metadata.Unpack(metadata)
    assert (metadata.verb, metadata.state) == (verb, OperationMetadata.STATE_SUCCEEDED)
    return operation


def _project(atlases: Atlases, **fields: Any) -> atlases_pb2.AtlasProjection:
    request = ProjectSamplesRequest(**{"atlas": atlases.early.name, "dataset": "datasets/photos", **fields})
    operation = _finished(atlases.stubs, atlases.stubs.atlases.ProjectSamples(request), "project-samples")
    projection = atlases_pb2.AtlasProjection()
    assert operation.response.Unpack(projection)
    return projection


def _compare(atlases: Atlases, left: str, right: str, **fields: Any) -> atlases_pb2.AtlasComparison:
    request = CompareAtlasesRequest(left=left, right=right, **fields)
    operation = _finished(atlases.stubs, atlases.stubs.atlases.CompareAtlases(request), "compare-atlases")
    comparison = atlases_pb2.AtlasComparison()
    assert operation.response.Unpack(comparison)
    return comparison


def _load(stubs: Stubs, name: str) -> dict[str, np.ndarray]:
    data = b"".join(chunk.data for chunk in stubs.blobs.ReadBlob(blobs_pb2.ReadBlobRequest(name=name)))
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_images_of_the_atlas_come_to_their_own_places(atlases: Atlases) -> None:
    projection = _project(atlases)
    stored = _load(atlases.stubs, atlases.early.samples)
    arrays = _load(atlases.stubs, projection.arrays)
    for name in ("image", "site", "position"):
        np.testing.assert_array_equal(arrays[name], stored[name])
    assert not arrays["distance"].any()
    assert projection.sample_count == atlases.early.sample_count
    assert (projection.off_map_rate, projection.off_map_low, projection.changed_cells) == (0, 0, 0)
    for level in atlases.early.levels:
        named = {name: arrays[f"cells_{level.grid}_{name}"] for name in ("count", "reference", "ratio")}
        assert {len(array) for array in named.values()} == {level.cell_count}
        np.testing.assert_array_equal(named["count"], named["reference"])


def test_other_images_are_placed_as_the_frame_places_them(atlases: Atlases, models: ModelRepository) -> None:
    projection = _project(atlases, dataset="datasets/further", sites_per_image=2, seed=5)
    arrays = _load(atlases.stubs, projection.arrays)
    samples = samples_of(models.get("cnn", 2), "relu1", atlases.datasets, "further", 2, 5)
    placed = Frame.from_arrays(_load(atlases.stubs, atlases.early.frame)).place(samples.activation[samples.distinct])
    np.testing.assert_array_equal(arrays["image"], samples.image[samples.distinct])
    np.testing.assert_array_equal(arrays["position"], placed.position)
    np.testing.assert_array_equal(arrays["distance"], placed.distance)
    np.testing.assert_array_equal(arrays["off_map"], placed.off_map)
    assert projection.off_map_rate == placed.off_map.mean()
    assert projection.off_map_low <= projection.off_map_rate <= projection.off_map_high
    assert projection.request.sites_per_image == 2
    assert projection.provenance.items == 10
    assert projection.provenance.dataset_digest


def test_projections_and_comparisons_are_the_same_to_the_byte_when_asked_for_again(atlases: Atlases) -> None:
    first, second = (_project(atlases, dataset="datasets/further", seed=8) for _ in range(2))
    assert first.name != second.name
    assert first.arrays == second.arrays
    pair = [_compare(atlases, atlases.early.name, atlases.late.name, seed=9) for _ in range(2)]
    assert pair[0].arrays == pair[1].arrays


def test_dark_images_leave_the_map_or_crowd_together(atlases: Atlases) -> None:
    projection = _project(atlases, dataset="datasets/dark")
    usual = _project(atlases, dataset="datasets/further")
    assert projection.off_map_low > usual.off_map_rate or projection.changed_cells > 0


def test_projection_is_kept_and_repeated_requests_return_it(atlases: Atlases) -> None:
    request = ProjectSamplesRequest(
        atlas=atlases.early.name, dataset="datasets/further", request_id=str(uuid.uuid4()), seed=3
    )
    first = atlases.stubs.wait(atlases.stubs.atlases.ProjectSamples(request))
    assert atlases.stubs.atlases.ProjectSamples(request).name == first.name
    projection = atlases_pb2.AtlasProjection()
    assert first.response.Unpack(projection)
    again = atlases.stubs.atlases.GetAtlasProjection(atlases_pb2.GetAtlasProjectionRequest(name=projection.name))
    assert again == projection
    assert again.request.sites_per_image == _SITES
    assert projection.name == f"atlasProjections/{first.name.removeprefix('operations/')}"


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field"),
    [
        ({"atlas": "atlases/x"}, "INVALID_ARGUMENT", "INVALID_NAME", "atlas"),
        ({"atlas": f"atlases/{'f' * 32}"}, "NOT_FOUND", "UNKNOWN_RESULT", "atlas"),
        ({"dataset": "datasets/none"}, "NOT_FOUND", "UNKNOWN_DATASET", "dataset"),
        ({"splits": ["none"]}, "INVALID_ARGUMENT", "UNKNOWN_SPLIT", "splits"),
        ({"sites_per_image": -1}, "INVALID_ARGUMENT", "INVALID_SITES", "sites_per_image"),
        ({"atlas": f"atlases/{4:032x}"}, "FAILED_PRECONDITION", "ATLAS_OF_CLASSES", "atlas"),
        ({"atlas": f"atlases/{5:032x}"}, "FAILED_PRECONDITION", "ATLAS_WITHOUT_FRAME", "atlas"),
        ({"atlas": f"atlases/{6:032x}"}, "FAILED_PRECONDITION", "MODEL_GONE", "atlas"),
    ],
)
def test_projection_that_cannot_be_is_refused(
    atlases: Atlases, refused: Refused, fields: dict[str, Any], code: str, reason: str, field: str
) -> None:
    request = ProjectSamplesRequest(**{"atlas": atlases.early.name, "dataset": "datasets/photos", **fields})
    failure = refused(atlases.stubs.atlases.ProjectSamples, request)
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)


def test_more_sites_than_the_layer_has_fail(atlases: Atlases) -> None:
    request = ProjectSamplesRequest(atlas=atlases.early.name, dataset="datasets/photos", sites_per_image=10_000)
    operation = atlases.stubs.wait(atlases.stubs.atlases.ProjectSamples(request))
    assert failure_of_status(operation.error).reason == "TOO_MANY_SITES"


def test_atlas_equals_itself(atlases: Atlases) -> None:
    comparison = _compare(atlases, atlases.early.name, atlases.early.name)
    assert comparison.sample_count == atlases.early.sample_count
    assert comparison.neighbourhood_agreement == 1
    assert comparison.procrustes_distance == pytest.approx(0, abs=1e-9)
    arrays = _load(atlases.stubs, comparison.arrays)
    assert not arrays["shift"].any()
    assert not arrays["kind"].any()
    assert comparison.request.grid == 20


def test_layers_are_compared_by_samples_of_the_same_place(atlases: Atlases, models: ModelRepository) -> None:
    comparison = _compare(atlases, atlases.early.name, atlases.late.name, grid=6, seed=4)
    arrays = _load(atlases.stubs, comparison.arrays)
    version = models.get("cnn", 2)
    early, late = (samples_of(version, tap, atlases.datasets, "photos", _SITES, 0) for tap in ("relu1", "relu6"))
    np.testing.assert_array_equal(early.image, late.image)
    shared = np.intersect1d(early.distinct, late.distinct)
    sides = []
    for samples, atlas in ((early, atlases.early), (late, atlases.late)):
        stored = _load(atlases.stubs, atlas.samples)
        place = np.searchsorted(samples.distinct, shared)
        np.testing.assert_array_equal(stored["site"][place], samples.site[shared])
        sides.append(Side(samples.activation[shared], stored["position"][place], "cosine"))
    expected = compare(sides[0], sides[1], 6, LAYOUT, 4)
    np.testing.assert_array_equal(arrays["image"], early.image[shared])
    np.testing.assert_array_equal(arrays["site"], early.site[shared])
    for name, array in expected.to_arrays().items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    assert comparison.neighbourhood_agreement == expected.neighbourhood_agreement
    assert comparison.procrustes_distance == expected.procrustes_distance
    again = atlases.stubs.atlases.GetAtlasComparison(atlases_pb2.GetAtlasComparisonRequest(name=comparison.name))
    assert again == comparison


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field"),
    [
        ({"left": "x"}, "INVALID_ARGUMENT", "INVALID_NAME", "left"),
        ({"right": f"atlases/{'f' * 32}"}, "NOT_FOUND", "UNKNOWN_RESULT", "right"),
        ({"grid": 321}, "INVALID_ARGUMENT", "INVALID_GRID", "grid"),
        ({"grid": 1}, "INVALID_ARGUMENT", "INVALID_GRID", "grid"),
        ({"right": f"atlases/{3:032x}"}, "FAILED_PRECONDITION", "ATLASES_DIFFER", "right"),
        ({"right": f"atlases/{6:032x}"}, "FAILED_PRECONDITION", "MODEL_GONE", "right"),
        ({"left": f"atlases/{7:032x}"}, "FAILED_PRECONDITION", "ATLAS_APPENDED", "left"),
    ],
)
def test_comparison_that_cannot_be_is_refused(
    atlases: Atlases, refused: Refused, fields: dict[str, Any], code: str, reason: str, field: str
) -> None:
    request = CompareAtlasesRequest(**{"left": atlases.early.name, "right": atlases.late.name, **fields})
    failure = refused(atlases.stubs.atlases.CompareAtlases, request)
    assert (failure.code, failure.reason, failure.field) == (code, reason, field)


def test_what_is_not_there_is_not_found(atlases: Atlases, refused: Refused) -> None:
    for rpc, request in (
        (atlases.stubs.atlases.GetAtlasProjection, atlases_pb2.GetAtlasProjectionRequest),
        (atlases.stubs.atlases.GetAtlasComparison, atlases_pb2.GetAtlasComparisonRequest),
    ):
        assert refused(rpc, request(name="atlases/1")).reason == "INVALID_NAME"
        collection = "atlasProjections" if rpc is atlases.stubs.atlases.GetAtlasProjection else "atlasComparisons"
        assert refused(rpc, request(name=f"{collection}/{'0' * 32}")).code == "NOT_FOUND"
