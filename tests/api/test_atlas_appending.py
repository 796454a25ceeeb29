"""Adding samples to an atlas in its frame, over the wire and with real workers."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ortoscope.v1 import blobs_pb2
from ortoscope.v1.atlases_pb2 import (
    Atlas,
    AtlasLevel,
    AtlasSpec,
    BuildAtlasRequest,
    GetTileRequest,
    ListCellsRequest,
    ProjectSamplesRequest,
)
from ortoscope_service.analysis.atlas.placement import Frame
from ortoscope_service.analysis.atlas.sheets import SheetLayout, Sheets
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.repository import ModelRepository
from serving import Failure, Stubs, failure_of_status, serving
from small_atlases import samples_of, write_photos

Refused = Callable[..., Failure]
_QUICK = {"layout.n_neighbors": "8", "layout.n_epochs": "30", "icons.size": "16", "icons.steps": "2"}
_QUICK |= {"icons.attempts": "1", "icons.warm_steps": "2", "grid.crop_size": "16"}


@pytest.fixture(scope="module")
def served(
    models_folder: Path, models: ModelRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stubs, Path]]:
    datasets = tmp_path_factory.mktemp("datasets")
    write_photos(datasets / "photos", 20)
    write_photos(datasets / "further", 3, 100)
    store = tmp_path_factory.mktemp("store")
    config = ServerConfig(models=models_folder, datasets=datasets, store=store, listen="127.0.0.1:0", batch_size=4)
    with serving(config) as (_, stubs):
        yield stubs, datasets


@pytest.fixture(scope="module")
def stubs(served: tuple[Stubs, Path]) -> Stubs:
    return served[0]


def _built(stubs: Stubs, **spec: Any) -> Atlas:
    operation = stubs.wait(stubs.atlases.BuildAtlas(BuildAtlasRequest(spec=AtlasSpec(**spec))))
    assert not operation.HasField("error"), operation
    atlas = Atlas()
    assert operation.response.Unpack(atlas)
    return atlas


@pytest.fixture(scope="module")
def base(stubs: Stubs) -> Atlas:
    spec: dict[str, Any] = {"tap": "models/cnn/taps/relu1", "dataset": "datasets/photos", "sites_per_image": 3}
    return _built(stubs, **spec, grids=[3, 6], settings=_QUICK)


@pytest.fixture(scope="module")
def appended(stubs: Stubs, base: Atlas) -> Atlas:
    return _built(stubs, base_atlas=base.name, dataset="datasets/further", seed=7)


def _blob(stubs: Stubs, name: str) -> bytes:
    return b"".join(chunk.data for chunk in stubs.blobs.ReadBlob(blobs_pb2.ReadBlobRequest(name=name)))


def _arrays(stubs: Stubs, name: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(_blob(stubs, name)), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _icons(stubs: Stubs, level: AtlasLevel) -> list[np.ndarray]:
    sheets = Sheets(SheetLayout(level.icon_size), [_blob(stubs, name) for name in level.icons])
    return [sheets.cut(index) for index in range(level.cell_count)]


def test_samples_of_the_base_stay_and_new_ones_are_placed_among_them(
    stubs: Stubs, base: Atlas, appended: Atlas, served: tuple[Stubs, Path], models: ModelRepository
) -> None:
    before, after = _arrays(stubs, base.samples), _arrays(stubs, appended.samples)
    count = len(before["image"])
    for name in ("image", "site", "position", "top_class", "top_attribution"):
        np.testing.assert_array_equal(after[name][:count], before[name], err_msg=name)
    np.testing.assert_array_equal(after["source"], np.arange(len(after["source"])) >= count)
    added = samples_of(models.get("cnn", 2), "relu1", served[1], "further", 3, 7)
    rows = added.activation[~added.zero]
    placed = Frame.from_arrays(_arrays(stubs, base.frame)).place(rows)
    np.testing.assert_array_equal(after["position"][count:], placed.position)
    np.testing.assert_array_equal(after["image"][count:], added.image[~added.zero])
    assert appended.sample_count == base.sample_count + len(rows)
    assert appended.image_count == base.image_count + 3
    assert appended.frame == base.frame
    assert appended.settings == base.settings
    assert list(appended.spec.grids) == [3, 6]
    assert appended.state == Atlas.STATE_COMPLETE
    assert "added in the frame" in appended.remarks[0]


def test_cells_are_means_over_both(stubs: Stubs, base: Atlas, appended: Atlas) -> None:
    added = _arrays(stubs, appended.samples)["source"].sum()
    for old, new in zip(base.levels, appended.levels, strict=True):
        before, after = _arrays(stubs, old.cells), _arrays(stubs, new.cells)
        assert after["count"].sum() == before["count"].sum() + added
        at = {place: index for index, place in enumerate(zip(after["row"], after["column"], strict=True))}
        kept = [at[place] for place in zip(before["row"], before["column"], strict=True)]
        more = after["count"][kept] - before["count"]
        assert (more >= 0).all()
        np.testing.assert_allclose(after["mean"][kept][more == 0], before["mean"][more == 0], rtol=1e-6)
    assert (more == 0).any()


def test_icons_of_cells_whose_direction_stayed_are_kept_to_the_pixel(
    stubs: Stubs, base: Atlas, appended: Atlas
) -> None:
    old, new = base.levels[1], appended.levels[1]
    before, after = _arrays(stubs, old.cells), _arrays(stubs, new.cells)
    shown, now = _icons(stubs, old), _icons(stubs, new)
    at = {place: index for index, place in enumerate(zip(after["row"], after["column"], strict=True))}
    same = 0
    for index, place in enumerate(zip(before["row"], before["column"], strict=True)):
        other = at[place]
        if after["count"][other] == before["count"][index] and before["shared"][index] == index:
            np.testing.assert_array_equal(now[other], shown[index])
            assert after["score"][other] == before["score"][index]
            same += 1
    assert same
    for index, owner in enumerate(after["shared"].tolist()):
        np.testing.assert_array_equal(now[index], now[owner])


def test_cells_name_images_of_either_dataset(stubs: Stubs, appended: Atlas) -> None:
    cells = stubs.atlases.ListCells(ListCellsRequest(parent=appended.name, grid=6, page_size=100)).cells
    datasets = {sample.image.split("/images/")[0] for cell in cells for sample in cell.nearest}
    assert datasets == {"datasets/photos", "datasets/further"}
    assert stubs.atlases.GetTile(GetTileRequest(name=appended.name, grid=6, cells=6)).png.startswith(b"\x89PNG")


def test_appended_atlas_can_be_projected_into(stubs: Stubs, appended: Atlas) -> None:
    request = ProjectSamplesRequest(atlas=appended.name, dataset="datasets/further")
    operation = stubs.wait(stubs.atlases.ProjectSamples(request))
    assert not operation.HasField("error"), operation


def test_what_the_base_decides_cannot_be_set(stubs: Stubs, base: Atlas, appended: Atlas, refused: Refused) -> None:
    given: dict[str, Any] = {"base_atlas": base.name, "dataset": "datasets/further"}
    cases: tuple[tuple[dict[str, Any], str, str, str], ...] = (
        ({"grids": [4]}, "INVALID_ARGUMENT", "SET_BY_BASE", "spec.grids"),
        ({"settings": {"icons.size": "8"}}, "INVALID_ARGUMENT", "SET_BY_BASE", "spec.settings.icons.size"),
        ({"icons": {"preset": "channel"}}, "INVALID_ARGUMENT", "SET_BY_BASE", "spec.icons.preset"),
        ({"class_filter": {"classes": ["zero"]}}, "INVALID_ARGUMENT", "SET_BY_BASE", "spec.class_filter"),
        ({"without_icons": True}, "INVALID_ARGUMENT", "SET_BY_BASE", "spec.without_icons"),
        ({"tap": "models/cnn/taps/relu6"}, "INVALID_ARGUMENT", "OTHER_TAP", "spec.tap"),
        ({"base_atlas": appended.name}, "FAILED_PRECONDITION", "ATLAS_APPENDED", "spec.base_atlas"),
        ({"base_atlas": f"atlases/{'f' * 32}"}, "NOT_FOUND", "UNKNOWN_RESULT", "spec.base_atlas"),
        ({"base_atlas": "x"}, "INVALID_ARGUMENT", "INVALID_NAME", "spec.base_atlas"),
    )
    for fields, code, reason, field in cases:
        failure = refused(stubs.atlases.BuildAtlas, BuildAtlasRequest(spec=AtlasSpec(**{**given, **fields})))
        assert (failure.code, failure.reason, failure.field) == (code, reason, field)


def test_what_was_told_of_an_appended_atlas_may_be_asked_for_again(stubs: Stubs, appended: Atlas) -> None:
    spec = AtlasSpec()
    spec.CopyFrom(appended.spec)
    again = Atlas()
    assert stubs.wait(stubs.atlases.BuildAtlas(BuildAtlasRequest(spec=spec))).response.Unpack(again)
    assert again.spec == appended.spec
    assert again.samples == appended.samples
    for one, other in zip(appended.levels, again.levels, strict=True):
        assert one == other


def test_base_whose_images_changed_fails(stubs: Stubs, served: tuple[Stubs, Path]) -> None:
    write_photos(served[1] / "passing", 20, 300)
    spec: dict[str, Any] = {"tap": "models/cnn/taps/relu1", "dataset": "datasets/passing", "grids": [2]}
    base = _built(stubs, **spec, settings=_QUICK, without_icons=True)
    assert not _built(stubs, base_atlas=base.name, dataset="datasets/further").levels[0].icons
    (served[1] / "passing" / "003.png").unlink()
    given = AtlasSpec(base_atlas=base.name, dataset="datasets/further")
    operation = stubs.wait(stubs.atlases.BuildAtlas(BuildAtlasRequest(spec=given)))
    assert failure_of_status(operation.error).reason == "BASE_CHANGED"
