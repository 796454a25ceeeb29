"""What the page of an atlas is made of, and its exports."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from atlas_pages import icons_of, layer_of, level_of
from numpy.typing import NDArray
from ortoscope.errors import FailedPrecondition, InvalidArgument
from ortoscope.report.atlas import exports
from ortoscope.report.atlas import page as pages
from ortoscope.report.atlas.exports import neighbours_on_map, write_dzi, write_parquet
from ortoscope.report.atlas.overlays import comparison_layer, projection_overlays
from ortoscope.report.atlas.packing import Columns, level_text
from ortoscope.report.atlas.page import AtlasLayer, AtlasPage, LayerLevel, Overlay, render_page, write_page
from ortoscope.v1 import atlases_pb2
from PIL import Image

LABELS = [f"class {index}" for index in range(7)]
TYPES = {"u1": "u1", "u2": "<u2", "u4": "<u4", "i4": "<i4", "f4": "<f4"}


def unpacked(packed: dict[str, str]) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(packed["d"]), TYPES[packed["t"]])


@pytest.fixture
def layer() -> AtlasLayer:
    return layer_of("a", [level_of(6, classes=7, size=16, crop_size=8)], LABELS)


def test_the_arrays_of_a_level_come_back_as_they_were(layer: AtlasLayer) -> None:
    level = layer.levels[0]
    packed = json.loads(level_text(layer, level, None))
    for name in ("row", "column", "count", "dispersion", "score", "represents", "shared"):
        np.testing.assert_array_equal(unpacked(packed[name]), level.cells[name])
    np.testing.assert_array_equal(unpacked(packed["crop"]).reshape(-1, 4), level.cells["crop"])
    np.testing.assert_array_equal(unpacked(packed["near"]).reshape(-1, 4), level.cells["nearest"] % 64)


def test_the_named_classes_are_those_of_the_largest_and_smallest_attribution(layer: AtlasLayer) -> None:
    packed = json.loads(level_text(layer, layer.levels[0], None))
    attribution = layer.levels[0].cells["attribution"]
    top, value = unpacked(packed["top"]).reshape(-1, 5), unpacked(packed["topValue"]).reshape(-1, 5)
    np.testing.assert_array_equal(value, np.sort(attribution, 1)[:, ::-1][:, :5])
    np.testing.assert_array_equal(np.take_along_axis(attribution, top.astype(np.int64), 1), value)
    np.testing.assert_array_equal(unpacked(packed["lowValue"]).reshape(-1, 3), np.sort(attribution, 1)[:, :3])


def test_columns_are_within_half_a_step_and_end_at_the_largest_of_their_class() -> None:
    attribution = np.random.default_rng(0).standard_normal((500, 9)).astype(np.float32) * 10.0 ** np.arange(-4, 5)
    attribution[:, 3] = 0
    columns = Columns.of({"attribution": attribution.astype(np.float32)})
    assert columns is not None
    error = np.abs(columns.numbers.T * columns.step - attribution)
    assert (error <= columns.step / 2 * 1.0001).all()
    assert (np.abs(columns.numbers).max(1) == 127).tolist() == [index != 3 for index in range(9)]


def test_blocks_of_columns_hold_every_class_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ortoscope.report.atlas.packing._BLOCK", 100)
    columns = Columns.of({"attribution": np.random.default_rng(0).standard_normal((30, 7))})
    assert columns is not None
    assert (columns.block, columns.blocks) == (3, 3)
    whole = b"".join(base64.b64decode(columns.text(number)) for number in range(columns.blocks))
    np.testing.assert_array_equal(np.frombuffer(whole, np.int8).reshape(7, 30), columns.numbers)


def test_without_attribution_there_are_no_columns() -> None:
    assert Columns.of({"row": np.zeros(3)}) is None


def level_with(**changes: Any) -> LayerLevel:
    cells = {"row": np.array([0, 1]), "column": np.array([1, 1]), "count": np.array([3, 4])}
    return LayerLevel(2, {**cells, **changes})


@pytest.mark.parametrize(
    ("level", "what"),
    [
        (level_with(dispersion=np.zeros(3)), "'dispersion' has 3 entries for 2 cells"),
        (level_with(row=np.array([0, 2])), "outside of 0 to 1"),
        (LayerLevel(2, level_with().cells, overlays=[Overlay("drift", np.zeros((2, 2)))]), "overlay 'drift'"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(level: LayerLevel, what: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(what)) as caught:
        write_page(AtlasPage("t", [layer_of("a", [level])]), tmp_path / "a.html")
    assert caught.value.reason == "CELLS_MALFORMED"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layers", [[], [AtlasLayer("a", atlases_pb2.Atlas(), [])]])
def test_a_page_without_cells_is_refused(layers: list[AtlasLayer], tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        write_page(AtlasPage("t", layers), tmp_path / "a.html")
    assert caught.value.reason == "PAGE_EMPTY"


def test_a_file_that_would_be_too_large_is_refused_and_a_folder_named(
    layer: AtlasLayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LARGEST_FILE", 50_000)
    with pytest.raises(InvalidArgument, match="write it into a folder") as caught:
        write_page(AtlasPage("t", [layer]), tmp_path / "atlas.html")
    assert caught.value.reason == "PAGE_TOO_LARGE"
    assert not list(tmp_path.iterdir())
    assert write_page(AtlasPage("t", [layer]), tmp_path / "atlas").name == "index.html"


def test_a_folder_over_a_file_is_refused(layer: AtlasLayer, tmp_path: Path) -> None:
    (tmp_path / "atlas").write_text("mine")
    with pytest.raises(FailedPrecondition) as caught:
        write_page(AtlasPage("t", [layer]), tmp_path / "atlas")
    assert caught.value.reason == "NOT_A_FOLDER"
    assert (tmp_path / "atlas").read_text() == "mine"


def test_writing_a_smaller_page_into_a_folder_leaves_no_data_of_the_larger_one(tmp_path: Path) -> None:
    levels = [level_of(4, classes=0, size=16, crop_size=8), level_of(8, classes=0, size=16, crop_size=8)]
    write_page(AtlasPage("t", [layer_of("a", levels)]), tmp_path)
    (tmp_path / "data" / "notes.txt").write_text("mine")
    assert any(entry.name.startswith("l0-g8") for entry in (tmp_path / "data").iterdir())
    write_page(AtlasPage("t", [layer_of("a", levels[:1])]), tmp_path)
    assert sorted(entry.name for entry in (tmp_path / "data").iterdir()) == ["l0-g4-c0.js", "notes.txt"]


def test_the_same_page_gives_the_same_bytes(layer: AtlasLayer) -> None:
    assert render_page(AtlasPage("t", [layer])) == render_page(AtlasPage("t", [layer]))


def test_columns_of_all_classes_are_in_a_file_as_far_as_they_fit_coarsest_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = AtlasPage("t", [layer_of("a", [level_of(grid, classes=7, size=16) for grid in (6, 12)], LABELS)])
    monkeypatch.setattr(pages, "FILE_COLUMNS", 600)
    text = render_page(page)
    assert 'id="r-l0-g6-a0"' in text
    assert 'id="r-l0-g12-a0"' not in text
    write_page(page, tmp_path)
    assert (tmp_path / "data" / "l0-g12-a0.js").exists()


def test_a_projection_colours_cells_by_the_logarithm_of_the_ratio_of_densities() -> None:
    arrays = {
        "cells_20_count": np.array([4, 1, 0]), "cells_20_ratio": np.array([2.0, 0.5, 0.0]),
        "cells_20_low": np.array([1.5, 0.2, 0.0]), "cells_20_high": np.array([3.0, 1.2, 0.3]),
    }  # fmt: skip
    change, certain, count = projection_overlays(arrays, 20)
    assert change.diverging
    np.testing.assert_array_equal(change.values, [1, -1, -8])
    np.testing.assert_array_equal(certain.values, [1, 0, -8])
    np.testing.assert_array_equal(count.values, [4, 1, 0])


def test_a_comparison_is_a_layer_of_its_joint_grid(tmp_path: Path) -> None:
    arrays = {
        "row": np.array([0, 1]), "column": np.array([1, 0]), "left_count": np.array([3, 0]),
        "right_count": np.array([1, 2]), "change": np.array([-1.0, 2.0]), "kind": np.array([0, 2], np.uint8),
    }  # fmt: skip
    layer = comparison_layer("before and after", atlases_pb2.AtlasComparison(sample_count=3), arrays, 2)
    np.testing.assert_array_equal(layer.levels[0].cells["count"], [4, 2])
    assert "appeared" in render_page(AtlasPage("t", [layer]))


# Exports


def test_neighbours_on_the_map_are_those_of_brute_force() -> None:
    generator = np.random.default_rng(3)
    crowd = generator.normal(0.3, 0.01, (300, 2))
    position = np.concatenate([crowd, generator.random((200, 2)), [[0.3, 0.3]] * 20]).astype(np.float32)
    ids, distances = neighbours_on_map(position, 12)
    squared = ((position.astype(float)[:, None] - position.astype(float)) ** 2).sum(2)
    np.fill_diagonal(squared, np.inf)
    expected = np.argsort(squared, axis=1, kind="stable")[:, :12]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(distances, np.sqrt(np.take_along_axis(squared, expected, 1)).astype(np.float32))


@pytest.mark.parametrize(("samples", "expected"), [(2, 1), (5, 4), (40, 15)])
def test_neighbours_of_few_or_equal_samples_are_all_the_others(samples: int, expected: int) -> None:
    ids, distances = neighbours_on_map(np.full((samples, 2), 0.5, np.float32), 15)
    assert ids.shape == (samples, expected)
    assert not distances.any()
    assert all(index not in row for index, row in enumerate(ids.tolist()))


def test_parquet_holds_every_sample_with_its_place_image_neighbours_and_crop(layer: AtlasLayer, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(write_parquet(layer, tmp_path / "deep" / "samples.parquet"))
    rows = table.to_pylist()
    assert len(rows) == 400
    position = layer.samples["position"]
    np.testing.assert_allclose([[row["x"], 1 - row["y"]] for row in rows], position, atol=1e-6)
    assert rows[70]["path"] == "photos/006.jpg"
    assert rows[70]["top_class"] == LABELS[0]
    ids, distances = neighbours_on_map(position, 15)
    assert rows[9]["neighbors"]["ids"] == ids[9].tolist()
    np.testing.assert_allclose(rows[9]["neighbors"]["distances"], distances[9])
    cells = layer.levels[0].cells
    shown = set(cells["nearest"].ravel().tolist())
    assert {index for index, row in enumerate(rows) if row["crop"]} == shown
    with Image.open(io.BytesIO(rows[int(cells["nearest"][0, 0])]["crop"]["bytes"])) as crop:
        assert crop.size == (8, 8)


def test_parquet_without_pyarrow_says_what_to_install(
    layer: AtlasLayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(exports, "import_module", missing)
    with pytest.raises(FailedPrecondition, match="pip install pyarrow") as caught:
        write_parquet(layer, tmp_path / "samples.parquet")
    assert caught.value.reason == "PACKAGE_MISSING"


def test_the_tiles_of_a_deep_zoom_picture_are_the_map_in_every_size(tmp_path: Path) -> None:
    level = level_of(11, classes=0, size=40, crop_size=0)
    path = write_dzi(level, tmp_path / "map")
    size = ElementTree.parse(path).getroot()[0].attrib
    assert size == {"Width": "440", "Height": "440"}
    depths = sorted(int(folder.name) for folder in (tmp_path / "map_files").iterdir())
    assert depths == list(range(10))  # 2 ** 9 is the first power of two that holds 440 pixels

    def picture(depth: int) -> NDArray[np.float64]:
        side = -(-440 // 2 ** (9 - depth))
        whole = Image.new("RGBA", (side, side))
        for tile in (tmp_path / "map_files" / str(depth)).iterdir():
            column, row = map(int, tile.stem.split("_"))
            with Image.open(tile) as image:
                whole.paste(image, (column * 256, row * 256))
        return np.asarray(whole, np.float64)

    full = picture(9)
    icons = icons_of(level.cells["row"], level.cells["column"], 11, 40)
    covered = np.zeros((440, 440), bool)
    for row, column, icon in zip(level.cells["row"], level.cells["column"], icons, strict=True):
        place = np.s_[row * 40 : row * 40 + 40, column * 40 : column * 40 + 40]
        covered[place] = True
        assert np.abs(full[place][..., :3] - icon).mean() < 12  # WebP is lossy
    np.testing.assert_array_equal(full[..., 3] == 255, covered)
    half = picture(8)
    inside = covered.reshape(220, 2, 220, 2).all((1, 3))
    mean = full[..., :3].reshape(220, 2, 220, 2, 3).mean((1, 3))
    assert np.abs(half[..., :3] - mean)[inside].max() <= 1


def test_a_level_without_icons_cannot_be_a_deep_zoom_picture(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        write_dzi(level_of(5, with_icons=False), tmp_path / "map.dzi")
    assert caught.value.reason == "ICONS_MISSING"
