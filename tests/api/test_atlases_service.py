"""Atlases, over the wire and with real workers."""

import io
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.longrunning import operations_pb2
from ortoscope.v1 import blobs_pb2
from ortoscope.v1.atlases_pb2 import (
    Atlas,
    AtlasSpec,
    BuildAtlasRequest,
    ClassFilter,
    DeleteAtlasRequest,
    GetAtlasRequest,
    GetTileRequest,
    ListAtlasesRequest,
    ListCellsRequest,
    ProposePatchesRequest,
)
from ortoscope.v1.operations_pb2 import OperationMetadata
from ortoscope_service.analysis.atlas.collection import CollectionSettings, ShardSamples, collect_shard
from ortoscope_service.analysis.atlas.site_attribution import SiteAttribution
from ortoscope_service.analysis.execution import ExecutionConfig
from ortoscope_service.config import ServerConfig
from ortoscope_service.datasets.catalog import DatasetCatalog
from ortoscope_service.graph.taps import resolve_tap
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.sessions import SessionConfig
from PIL import Image
from serving import PREPROCESSING, Stubs, add_model, failure_of_status, serving
from small_atlases import write_photos
from tiny_models import GraphBuilder, float_value

IMAGES, SITES = 24, 3
QUICK = {"layout.n_neighbors": "8", "layout.n_epochs": "30", "icons.size": "16", "icons.steps": "4"}
QUICK |= {"icons.attempts": "1", "icons.warm_steps": "2", "grid.crop_size": "16"}


@pytest.fixture(scope="module")
def served(
    models_folder: Path, models: ModelRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stubs, Path]]:
    datasets = tmp_path_factory.mktemp("datasets")
    write_photos(datasets / "photos", IMAGES)
    write_photos(datasets / "few", 3)
    (datasets / "gray").mkdir()
    for number in range(8):
        Image.new("RGB", (20, 20), (90, 90, 90)).save(datasets / "gray" / f"{number}.png")
    store = tmp_path_factory.mktemp("store")
    config = ServerConfig(models=models_folder, datasets=datasets, store=store, listen="127.0.0.1:0", batch_size=4)
    with serving(config) as (_, stubs):
        yield stubs, datasets


@pytest.fixture(scope="module")
def stubs(served: tuple[Stubs, Path]) -> Stubs:
    return served[0]


def request_of(settings: dict[str, str] | None = None, **spec: Any) -> BuildAtlasRequest:
    given = {"tap": "models/cnn/taps/relu1", "dataset": "datasets/photos", "sites_per_image": SITES, "grids": [3, 6]}
    return BuildAtlasRequest(spec=AtlasSpec(**{**given, **spec}, settings={**QUICK, **(settings or {})}))


def finished(stubs: Stubs, request: BuildAtlasRequest) -> operations_pb2.Operation:
    return stubs.wait(stubs.atlases.BuildAtlas(request))


def atlas_of(stubs: Stubs, **spec: Any) -> Atlas:
    operation = finished(stubs, request_of(**spec))
    assert not operation.HasField("error"), operation
    atlas = Atlas()
    assert operation.response.Unpack(atlas)
    metadata = OperationMetadata()
    assert operation.metadata.Unpack(metadata)
    assert (metadata.verb, metadata.target) == ("build-atlas", atlas.spec.tap)
    assert atlas.name.removeprefix("atlases/") == operation.name.removeprefix("operations/")
    return atlas


@pytest.fixture(scope="module")
def atlas(stubs: Stubs) -> Atlas:
    return atlas_of(stubs)


def blob(stubs: Stubs, name: str) -> bytes:
    return b"".join(chunk.data for chunk in stubs.blobs.ReadBlob(blobs_pb2.ReadBlobRequest(name=name)))


def arrays(stubs: Stubs, name: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(blob(stubs, name)), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def samples(served: tuple[Stubs, Path], models: ModelRepository) -> ShardSamples:
    """What the atlas is made of, collected without a server, an image at a time."""
    version, dataset = models.get("cnn", 2), DatasetCatalog(served[1]).get("photos")
    tap, execution = resolve_tap(version.manifest.taps, "relu1"), ExecutionConfig(1, SessionConfig(intra_op_threads=1))
    return collect_shard(
        version,
        tap,
        dataset,
        dataset.select(()),
        SITES,
        CollectionSettings(),
        0,
        execution,
        attribution=SiteAttribution.of(version, tap, execution),
        progress=lambda *_: None,
        cancellation=Cancellation(),
    )


class TestAnAtlas:
    def test_tells_what_was_asked_with_every_default_filled_in(self, atlas: Atlas) -> None:
        assert atlas.state == Atlas.STATE_COMPLETE
        assert atlas.spec.tap == "models/cnn/versions/2/taps/relu1"
        assert (atlas.spec.preset, list(atlas.spec.grids), atlas.spec.sites_per_image) == ("ortoscope", [3, 6], SITES)
        assert atlas.settings["layout.n_neighbors"] == "8"
        assert atlas.settings["icons.objective"] == '"direction"'
        assert atlas.spec.icons.preset == "atlas-icon"
        assert atlas.spec.icons.settings["recipe.steps"] == "4"
        assert atlas.provenance.items == IMAGES
        assert atlas.provenance.dataset_digest.startswith("sha256:")
        assert any("not independent" in remark for remark in atlas.remarks)

    def test_holds_every_sample_that_is_not_zero_once(self, stubs: Stubs, atlas: Atlas, samples: ShardSamples) -> None:
        there = (samples.activation != 0).any(axis=1)
        found = arrays(stubs, atlas.samples)
        assert atlas.sample_count == there.sum() == len(found["image"])
        assert atlas.zero_samples == (~there).sum()
        np.testing.assert_array_equal(found["image"], samples.image[there])
        np.testing.assert_array_equal(found["site"], samples.site[there])
        assert samples.attribution is not None
        np.testing.assert_array_equal(found["top_class"], samples.attribution[there].argmax(axis=1))
        assert found["position"].min() >= 0
        assert found["position"].max() <= 1
        assert 0 <= atlas.quality.neighbourhood_recall <= 1 >= atlas.quality.trustworthiness > 0.4

    def test_has_the_mean_and_attribution_of_each_cell(self, stubs: Stubs, atlas: Atlas, samples: ShardSamples) -> None:
        there = (samples.activation != 0).any(axis=1)
        position = arrays(stubs, atlas.samples)["position"].astype(np.float64)
        assert samples.attribution is not None
        for level in atlas.levels:
            cells = arrays(stubs, level.cells)
            column, row = np.minimum((position * level.grid).astype(int), level.grid - 1).T
            assert level.cell_count == len(cells["row"]) == len(set(zip(row, column, strict=True)))
            assert cells["count"].sum() == atlas.sample_count
            for cell in range(level.cell_count):
                own = (row == cells["row"][cell]) & (column == cells["column"][cell])
                for name, rows in (("mean", samples.activation), ("attribution", samples.attribution)):
                    expected = rows[there][own].astype(np.float64).mean(axis=0)
                    np.testing.assert_allclose(cells[name][cell], expected, rtol=2e-3, atol=1e-4)

    def test_has_an_icon_and_real_crops_for_every_cell(self, stubs: Stubs, atlas: Atlas) -> None:
        for level in atlas.levels:
            cells = arrays(stubs, level.cells)
            assert (level.icon_size, level.crop_size) == (16, 16)
            sheets = [np.asarray(Image.open(io.BytesIO(blob(stubs, name)))) for name in level.icons]
            assert len(sheets) == 1
            assert sheets[0].shape[0] * sheets[0].shape[1] >= level.cell_count * 16 * 16
            assert cells["score"].shape == cells["represents"].shape == cells["shared"].shape == (level.cell_count,)
            assert (np.abs(cells["score"]) <= 1).all()
            assert (cells["crop"][:, 0] >= 0).all()
            assert len(level.crops) == 1

    def test_is_the_same_to_the_byte_when_asked_for_again(self, stubs: Stubs, atlas: Atlas) -> None:
        again = atlas_of(stubs)
        assert again.name != atlas.name
        assert (again.samples, again.frame) == (atlas.samples, atlas.frame)
        assert list(again.levels) == list(atlas.levels)
        other = atlas_of(stubs, seed=1, without_icons=True, grids=[3])
        assert other.samples != atlas.samples
        assert not other.levels[0].icons

    def test_is_listed_and_deleted(self, stubs: Stubs) -> None:
        made = atlas_of(stubs, without_icons=True, without_attribution=True, grids=[2, 40])
        assert not made.class_labels
        assert any("40 x 40" in remark and "2 x 2" not in remark for remark in made.remarks)
        assert stubs.atlases.ListAtlases(ListAtlasesRequest(page_size=1)).atlases[0] == made
        request = DeleteAtlasRequest(name=made.name, request_id=str(uuid.uuid4()))
        stubs.atlases.DeleteAtlas(request)
        stubs.atlases.DeleteAtlas(request)
        assert made.name not in {one.name for one in stubs.atlases.ListAtlases(ListAtlasesRequest()).atlases}


class TestCells:
    def test_are_listed_page_by_page_in_any_order(self, stubs: Stubs, atlas: Atlas) -> None:
        cells = arrays(stubs, atlas.levels[1].cells)
        token, found = "", []
        while True:
            answer = stubs.atlases.ListCells(ListCellsRequest(parent=atlas.name, page_size=5, page_token=token))
            found += list(answer.cells)
            token = answer.next_page_token
            if not token:
                break
        assert [(cell.row, cell.column) for cell in found] == list(zip(cells["row"], cells["column"], strict=True))
        assert [cell.count for cell in found] == cells["count"].tolist()
        best = found[0].classes[0]
        assert best.index == cells["attribution"][0].argmax()
        for named in (named for cell in found for named in cell.classes):
            # The model's manifest names fewer classes than it scores.
            assert [named.label] == (list(atlas.class_labels[named.index : named.index + 1]) or [""])
        assert found[0].nearest[0].image.startswith("datasets/photos/images/")
        assert len(found[0].nearest[0].position) == 2
        by_count = stubs.atlases.ListCells(
            ListCellsRequest(parent=atlas.name, grid=3, order=ListCellsRequest.ORDER_COUNT, with_means=True)
        ).cells
        assert [cell.count for cell in by_count] == sorted((cell.count for cell in by_count), reverse=True)
        assert len(by_count[0].mean) == atlas.unit_count

    def test_are_found_by_class_and_label(self, stubs: Stubs, atlas: Atlas) -> None:
        cells = arrays(stubs, atlas.levels[1].cells)
        label = atlas.class_labels[1]
        of_class: dict[str, Any] = {"class": label}
        request = ListCellsRequest(parent=atlas.name, order=ListCellsRequest.ORDER_ATTRIBUTION, **of_class)
        found = stubs.atlases.ListCells(request).cells
        assert {cell.index for cell in found} == set(np.flatnonzero(cells["attribution"][:, 1] > 0).tolist())
        named = stubs.atlases.ListCells(ListCellsRequest(parent=atlas.name, text=label.upper(), top_classes=1)).cells
        assert {cell.index for cell in named} == set(np.flatnonzero(cells["attribution"].argmax(axis=1) == 1).tolist())

    def test_come_as_tiles_that_are_transparent_where_there_is_none(self, stubs: Stubs, atlas: Atlas) -> None:
        cells = arrays(stubs, atlas.levels[1].cells)
        tile = stubs.atlases.GetTile(GetTileRequest(name=atlas.name, grid=6, cells=4, row=1, column=0))
        picture = np.asarray(Image.open(io.BytesIO(tile.png)))
        assert tile.tiles == 2
        assert picture.shape == (2 * 16, 4 * 16, 4)
        filled = {(row, column) for row, column in zip(cells["row"], cells["column"], strict=True)}
        for row in range(2):
            for column in range(4):
                opaque = picture[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16, 3]
                assert (opaque == (255 if (row + 4, column) in filled else 0)).all()

    def test_are_proposed_as_patches_with_real_crops(self, stubs: Stubs, atlas: Atlas) -> None:
        classes = range(len(atlas.class_labels))
        answers = [
            stubs.atlases.ProposePatches(ProposePatchesRequest(atlas=atlas.name, source=str(a), target=str(b)))
            for a in classes
            for b in classes
            if a != b
        ]
        proposals = [proposal for answer in answers for proposal in answer.proposals]
        assert proposals
        assert all(proposal.push > 0 for proposal in proposals)
        first = proposals[0]
        assert 0 <= first.crop.left < first.crop.right <= 1
        assert Image.open(io.BytesIO(first.png)).size[0] > 1


def test_a_class_atlas_holds_the_samples_of_its_classes_alone(
    stubs: Stubs, atlas: Atlas, samples: ShardSamples
) -> None:
    found = arrays(stubs, atlas.samples)
    of_class = int(np.bincount(found["top_class"]).argmax())
    chosen = ClassFilter(classes=[str(of_class)])
    made = atlas_of(stubs, class_filter=chosen, without_icons=True, grids=[3])
    np.testing.assert_array_equal(arrays(stubs, made.samples)["image"], found["image"][found["top_class"] == of_class])
    assert made.spec.class_filter.mode == ClassFilter.MODE_WINNER


def test_a_gradient_leads_from_one_class_to_the_other(stubs: Stubs, atlas: Atlas, samples: ShardSamples) -> None:
    made = atlas_of(stubs, class_gradient={"left": "0", "right": "1"}, without_icons=True, grids=[4])
    found = arrays(stubs, made.samples)
    assert samples.attribution is not None
    lookup = {
        (int(i), *map(int, s)): row for i, s, row in zip(samples.image, samples.site, samples.attribution, strict=True)
    }
    rows = [lookup[(int(i), *map(int, s))] for i, s in zip(found["image"], found["site"], strict=True)]
    difference = np.array([float(row[1]) - float(row[0]) for row in rows])
    np.testing.assert_array_equal(np.sign(found["position"][:, 0] - 0.5), np.sign(difference))
    assert not made.frame


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "reason", "field"),
        [
            ({"tap": "models/cnn/taps/relu9"}, "UNKNOWN_TAP", "spec.tap"),
            ({"dataset": "datasets/none"}, "UNKNOWN_DATASET", "spec.dataset"),
            ({"dataset": "datasets/few", "sites_per_image": 1}, "TOO_FEW_SAMPLES", "spec.dataset"),
            ({"grids": [1]}, "INVALID_GRID", "spec.grids"),
            ({"grids": [8, 4]}, "INVALID_GRID", "spec.grids"),
            ({"sites_per_image": -1}, "INVALID_SITES", "spec.sites_per_image"),
            ({"sites_per_image": 1000}, "TOO_MANY_SITES", "spec.sites_per_image"),
            ({"preset": "best"}, "UNKNOWN_PRESET", "spec.preset"),
            ({"settings": {"layout.neighbors": "3"}}, "UNKNOWN_SETTING", "spec.settings.layout.neighbors"),
            ({"settings": {"layout.min_dist": "-1"}}, "INVALID_SETTING", "spec.settings.layout.min_dist"),
            ({"settings": {"layout.init": "here"}}, "INVALID_SETTING", "spec.settings.layout.init"),
            ({"settings": {"icons.steps": '"many"'}}, "INVALID_SETTING", "spec.settings.icons.steps"),
            ({"icons": {"preset": "best"}}, "UNKNOWN_PRESET", "spec.icons.preset"),
            ({"icons": {"settings": {"size": "[16, 8]"}}}, "ICON_NOT_SQUARE", "spec.icons.settings.size"),
            ({"class_filter": {"classes": ["none"]}}, "UNKNOWN_CLASS", "spec.class_filter.classes[0]"),
            ({"class_filter": {"classes": ["0"], "top": -1}}, "INVALID_TOP", "spec.class_filter.top"),
            ({"class_gradient": {"left": "0", "right": "0"}}, "SAME_CLASS", "spec.class_gradient.right"),
            (
                {"class_filter": {"classes": ["0"]}, "without_attribution": True},
                "NO_ATTRIBUTION",
                "spec.class_filter",
            ),
            ({"seed": -1}, "INVALID_SEED", "spec.seed"),
        ],
    )
    def test_is_refused_before_any_work(
        self, refused: Callable[..., Any], stubs: Stubs, changes: dict[str, Any], reason: str, field: str
    ) -> None:
        failure = refused(stubs.atlases.BuildAtlas, request_of(**changes))
        assert (failure.reason, failure.field) == (reason, field)

    def test_of_images_that_are_all_alike_ends_the_operation_with_the_cause(self, stubs: Stubs) -> None:
        operation = finished(stubs, request_of(dataset="datasets/gray", without_icons=True))
        assert failure_of_status(operation.error).reason in {"ACTIVATIONS_EQUAL", "TOO_FEW_SAMPLES"}

    def test_names_of_nothing_are_not_found(self, refused: Callable[..., Any], stubs: Stubs, atlas: Atlas) -> None:
        nothing = "atlases/" + "0" * 32
        for rpc, request in (
            (stubs.atlases.GetAtlas, GetAtlasRequest(name=nothing)),
            (stubs.atlases.ListCells, ListCellsRequest(parent=nothing)),
            (stubs.atlases.GetTile, GetTileRequest(name=nothing)),
            (stubs.atlases.DeleteAtlas, DeleteAtlasRequest(name=nothing)),
        ):
            assert refused(rpc, request).reason == "UNKNOWN_RESULT"
        assert refused(stubs.atlases.ListCells, ListCellsRequest(parent=atlas.name, grid=7)).reason == "UNKNOWN_LEVEL"
        far = GetTileRequest(name=atlas.name, grid=6, cells=4, row=2)
        assert refused(stubs.atlases.GetTile, far).reason == "UNKNOWN_TILE"


def test_a_model_without_classes_has_an_atlas_without_attribution(
    models_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = tmp_path / "models"
    g = GraphBuilder(0)
    g.node("Relu", ["x"], "features")
    model = g.model([float_value("x", ["n", 3, 16, 16])], [float_value("features", ["n", 3, 16, 16])], opset=17)
    add_model(ModelRepository(models), "plain", model, preprocessing=PREPROCESSING)
    write_photos(tmp_path / "datasets" / "photos", 8)
    config = ServerConfig(
        models=models, datasets=tmp_path / "datasets", store=tmp_path / "store", listen="127.0.0.1:0", batch_size=4
    )
    with serving(config) as (_, stubs):
        made = atlas_of(stubs, tap="models/plain/taps/features", grids=[3], without_icons=True)
        assert not made.class_labels
        assert "attribution" not in arrays(stubs, made.levels[0].cells)
