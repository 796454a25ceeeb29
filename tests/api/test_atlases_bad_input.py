"""Atlases of what hardly makes one: a single site, a single score, images that vanish, libraries that say nothing."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_pb2
from ortoscope.v1.atlases_pb2 import (
    Atlas,
    AtlasSpec,
    BuildAtlasRequest,
    DeleteAtlasRequest,
    GetAtlasRequest,
    GetTileRequest,
    ListCellsRequest,
)
from ortoscope.v1.operations_pb2 import OperationMetadata
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.repository import ModelRepository
from serving import PREPROCESSING, Stubs, add_model, failure_of_status, serving
from small_atlases import write_photos
from tiny_models import GraphBuilder, float_value, tiny_cnn

QUICK = {"layout.n_neighbors": "8", "layout.n_epochs": "20", "icons.size": "16", "icons.steps": "4"}
QUICK |= {"icons.attempts": "1", "icons.warm_steps": "2", "grid.crop_size": "16"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stubs, Path]]:
    folder = tmp_path_factory.mktemp("server")
    models, datasets = ModelRepository(folder / "models"), folder / "datasets"
    add_model(models, "cnn", tiny_cnn(), preprocessing=PREPROCESSING)
    g = GraphBuilder(1)
    g.node("Conv", ["image", g.weight("w", (6, 3, 3, 3), 27)], "convolved", pads=[1] * 4)
    g.node("Relu", ["convolved"], "units")
    g.node("GlobalAveragePool", ["units"], "pooled")
    g.node("Flatten", ["pooled"], "flat")
    g.node("Gemm", ["flat", g.weight("head", (6, 1), 6)], "score")
    single = g.model([float_value("image", ["n", 3, 16, 16])], [float_value("score", ["n", 1])], opset=17)
    add_model(models, "single", single, preprocessing=PREPROCESSING, class_labels=("alone",))
    write_photos(datasets / "photos", 12)
    write_photos(datasets / "passing", 12)
    config = ServerConfig(
        models=folder / "models", datasets=datasets, store=folder / "store", listen="127.0.0.1:0", batch_size=4
    )
    with serving(config) as (_, stubs):
        yield stubs, datasets


@pytest.fixture(scope="module")
def stubs(served: tuple[Stubs, Path]) -> Stubs:
    return served[0]


def request_of(settings: dict[str, str] | None = None, **spec: Any) -> BuildAtlasRequest:
    given = {"tap": "models/cnn/taps/relu1", "dataset": "datasets/photos", "sites_per_image": 2, "grids": [3]}
    return BuildAtlasRequest(spec=AtlasSpec(**{**given, **spec}, settings={**QUICK, **(settings or {})}))


def atlas_of(operation: operations_pb2.Operation) -> Atlas:
    assert not operation.HasField("error"), operation
    atlas = Atlas()
    assert operation.response.Unpack(atlas)
    return atlas


def test_a_layer_of_one_site_has_a_sample_of_each_image_and_no_more(stubs: Stubs, refused: Callable[..., Any]) -> None:
    asked: dict[str, Any] = {"tap": "models/cnn/taps/flat"}
    atlas = atlas_of(stubs.wait(stubs.atlases.BuildAtlas(request_of(**asked, sites_per_image=1))))
    assert (atlas.state, atlas.sample_count + atlas.zero_samples) == (Atlas.STATE_COMPLETE, 12)
    cells = stubs.atlases.ListCells(ListCellsRequest(parent=atlas.name)).cells
    assert sum(cell.count for cell in cells) == atlas.sample_count
    assert all(not sample.site and not sample.position for cell in cells for sample in cell.nearest)
    assert stubs.atlases.GetTile(GetTileRequest(name=atlas.name, grid=3)).png
    failure = refused(stubs.atlases.BuildAtlas, request_of(**asked, sites_per_image=2))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "TOO_MANY_SITES")
    assert failure.metadata == {"sites_per_image": "2", "available": "1"}


def test_a_model_of_one_score_is_no_classifier_and_has_an_atlas_all_the_same(
    stubs: Stubs, refused: Callable[..., Any]
) -> None:
    asked: dict[str, Any] = {"tap": "models/single/taps/units", "without_icons": True}
    atlas = atlas_of(stubs.wait(stubs.atlases.BuildAtlas(request_of(**asked))))
    assert not atlas.class_labels
    cells = stubs.atlases.ListCells(ListCellsRequest(parent=atlas.name)).cells
    assert cells
    assert not any(cell.classes for cell in cells)
    failure = refused(stubs.atlases.BuildAtlas, request_of(**asked, class_filter={"classes": ["0"]}))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "NO_ATTRIBUTION")
    of_class: dict[str, Any] = {"class": "alone"}
    failure = refused(stubs.atlases.ListCells, ListCellsRequest(parent=atlas.name, **of_class))
    assert (failure.code, failure.reason, failure.field) == ("FAILED_PRECONDITION", "NO_CLASSES", "parent")


@pytest.mark.parametrize("settings", [{"layout.engine": '"umap-learn"'}, {"layout.method": '"tsne"'}], ids=str)
def test_libraries_lay_out_too(stubs: Stubs, settings: dict[str, str]) -> None:
    if "layout.method" in settings:
        pytest.importorskip("openTSNE")
    atlas = atlas_of(stubs.wait(stubs.atlases.BuildAtlas(request_of(settings, without_icons=True))))
    assert {name: atlas.settings[name] for name in settings} == settings
    assert atlas.frame


def test_images_that_vanish_meanwhile_fail_the_operation_and_what_was_there_stays(served: tuple[Stubs, Path]) -> None:
    stubs, datasets = served
    operation = stubs.atlases.BuildAtlas(request_of({"icons.steps": "400"}, dataset="datasets/passing"))
    metadata, deadline = OperationMetadata(), time.monotonic() + 60
    while metadata.stage != "drawing icons":
        assert not operation.done
        assert time.monotonic() < deadline
        time.sleep(0.02)
        operation = stubs.operations.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))
        assert operation.metadata.Unpack(metadata)
    name = operation.name.replace("operations", "atlases")
    (datasets / "passing" / "005.png").unlink()
    failure = failure_of_status(stubs.wait(operation).error)
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "DATASET_CHANGED")
    kept = stubs.atlases.GetAtlas(GetAtlasRequest(name=name))
    assert kept.state == Atlas.STATE_PARTIAL
    cells = stubs.atlases.ListCells(ListCellsRequest(parent=name)).cells
    assert sum(cell.count for cell in cells) == kept.sample_count
    stubs.atlases.DeleteAtlas(DeleteAtlasRequest(name=name))


def test_images_that_are_none_fail_the_operation_by_name(served: tuple[Stubs, Path]) -> None:
    stubs, datasets = served
    write_photos(datasets / "damaged", 12)
    file = datasets / "damaged" / "007.png"
    file.write_bytes(file.read_bytes()[:60])
    failure = failure_of_status(
        stubs.wait(stubs.atlases.BuildAtlas(request_of(dataset="datasets/damaged", without_icons=True))).error
    )
    assert failure.reason == "IMAGE_UNREADABLE"
    assert "007.png" in failure.message
