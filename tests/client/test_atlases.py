"""Atlases as the client gives them: arrays, pictures, pages, and the search for patches."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ortoscope
import pytest
import scipy.stats
from atlas_server import LABELS, TAP, AtlasServer, npz, running_atlas_server
from command_line import run, run_json
from ortoscope.atlas_patches import wilson_interval
from ortoscope.atlas_requests import command_of, spec_message
from ortoscope.v1 import atlases_pb2, visualization_pb2
from scripted_server import status


@pytest.fixture
def served() -> Iterator[tuple[str, AtlasServer]]:
    with running_atlas_server() as found:
        yield found


@pytest.fixture
def server(served: tuple[str, AtlasServer]) -> AtlasServer:
    return served[1]


@pytest.fixture
def scope(served: tuple[str, AtlasServer]) -> Iterator[ortoscope.Ortoscope]:
    with ortoscope.connect(served[0]) as connection:
        yield connection


@pytest.fixture
def atlas(scope: ortoscope.Ortoscope) -> ortoscope.Atlas:
    return scope.atlas("1")


def test_an_atlas_tells_its_samples_levels_and_cells(atlas: ortoscope.Atlas, server: AtlasServer) -> None:
    assert (atlas.tap, atlas.model, atlas.dataset, atlas.state) == ("blocks.10", "net/3", "scenes", "complete")
    assert atlas.settings == {"layout.metric": "cosine", "layout.n_neighbors": 50}
    np.testing.assert_array_equal(atlas.samples.position, server.layer.samples["position"])
    assert [level.grid for level in atlas.levels] == [6, 12]
    level = atlas.level(6)
    np.testing.assert_array_equal(level.arrays.count, server.layer.levels[0].cells["count"])
    assert level.arrays.winner_cell is None
    assert atlas.level().grid == 12
    with pytest.raises(ortoscope.NotFound, match="6, 12"):
        atlas.level(7)


def test_what_was_fetched_is_fetched_once(atlas: ortoscope.Atlas) -> None:
    assert atlas.level(6).arrays is atlas.level(6).arrays
    assert atlas.refresh().level(6).arrays is atlas.level(6).arrays


def test_an_icon_is_the_part_of_its_sheet(atlas: ortoscope.Atlas, server: AtlasServer) -> None:
    level = atlas.level(6)
    arrays = level.arrays
    whole = level.image()
    assert whole.size == (6 * 32, 6 * 32)
    for cell in (0, 5, len(arrays.row) - 1):
        row, column = int(arrays.row[cell]), int(arrays.column[cell])
        icon = np.asarray(level.icon(row, column))
        assert icon.shape == (32, 32, 3)
        part = np.asarray(whole)[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
        np.testing.assert_array_equal(part[..., :3], icon)
    empty = np.setdiff1d(np.arange(36), arrays.row * 6 + arrays.column)[0]
    row, column = divmod(int(empty), 6)
    assert not np.asarray(whole)[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32].any()
    with pytest.raises(ortoscope.NotFound, match="Too few samples"):
        level.icon(row, column)


def test_icons_of_few_samples_are_smaller(atlas: ortoscope.Atlas) -> None:
    level = atlas.level(6)
    fullest, rarest = int(level.arrays.count.argmax()), int(level.arrays.count.argmin())
    alpha = np.asarray(level.image(by_count=True))[..., 3] > 0
    sides = []
    for cell in (fullest, rarest):
        row, column = int(level.arrays.row[cell]), int(level.arrays.column[cell])
        sides.append(np.sqrt(alpha[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32].sum()))
    share = np.sqrt(level.arrays.count[rarest] / level.arrays.count.mean())
    assert sides[0] == 32
    assert sides[1] == pytest.approx(32 * (0.5 + 0.5 * share), abs=0.6)


def test_cells_are_asked_for_by_class_text_and_place(atlas: ortoscope.Atlas, server: AtlasServer) -> None:
    found = atlas.cells(6, class_="ball", text="b", region=(0, 0.25, 0.5, 1), top_classes=3)
    request = server.asked[-1]
    assert (request.parent, request.grid, getattr(request, "class")) == ("atlases/1", 6, "ball")
    assert request.order == atlases_pb2.ListCellsRequest.ORDER_ATTRIBUTION
    assert (request.region.top, request.region.right, request.top_classes) == (0.25, 0.5, 3)
    assert found[0].classes[0].label == "ball"
    assert found[0].nearest[0].site == (2, 3)
    assert found["ball"] is found[0]
    with pytest.raises(ortoscope.InvalidArgument, match="four numbers"):
        atlas.cells(region=(0, 1))
    with pytest.raises(ortoscope.InvalidArgument, match="no order"):
        atlas.cells(order="size")  # type: ignore[arg-type]


def test_a_request_says_what_the_arguments_say(scope: ortoscope.Ortoscope, server: AtlasServer) -> None:
    tap = scope.model("net").tap("blocks.10")
    tap.atlas(
        "scenes", grids=(6, 12), sites_per_image=4, settings={"layout.metric": "cosine"}, icon_settings={"size": 64},
        classes=["orca", 2], class_mode="both", class_top=9, attribution=False, base="7", seed=3, time_limit="2h",
    )  # fmt: skip
    request = server.asked[-1]
    spec = request.spec
    assert (spec.tap, spec.dataset, list(spec.grids), spec.sites_per_image) == (TAP, "datasets/scenes", [6, 12], 4)
    assert dict(spec.settings) == {"layout.metric": '"cosine"'}
    assert dict(spec.icons.settings) == {"size": "64"}
    assert list(spec.class_filter.classes) == ["orca", "2"]
    assert spec.class_filter.mode == atlases_pb2.ClassFilter.MODE_BOTH
    assert spec.without_attribution
    assert not spec.without_icons
    assert not spec.HasField("class_gradient")
    assert (spec.base_atlas, spec.seed, request.time_limit.seconds) == ("atlases/7", 3, 7200)
    with pytest.raises(ortoscope.InvalidArgument, match="two classes"):
        tap.atlas("scenes", gradient=["orca"])
    with pytest.raises(ortoscope.InvalidArgument, match="winner, top, both"):
        tap.atlas("scenes", class_mode="most")  # type: ignore[arg-type]


def test_the_command_of_an_atlas_asks_for_the_same(scope: ortoscope.Ortoscope, server: AtlasServer) -> None:
    """What the page tells people to type makes the same request when it is typed."""
    wanted = spec_message(
        TAP, "datasets/scenes", splits=["val"], sites_per_image=4, grids=(6, 12), preset="distill",
        settings={"layout.metric": "cosine", "layout.min_dist": 0.1, "layout.init": "7"}, icons=False,
        gradient=("orca", "shark, white"), seed=3,
    )  # fmt: skip
    words = shlex.split(command_of(wanted))
    assert words[:2] == ["ortoscope", "atlas"]
    run(*words[1:], "--no-wait", "--target", scope.target)
    asked = next(request for request in reversed(server.asked) if hasattr(request, "spec"))
    assert asked.spec == wanted


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 40), (500, 1000)])
@pytest.mark.parametrize("confidence", [0.95, 0.999])
def test_the_interval_is_wilsons(successes: int, trials: int, confidence: float) -> None:
    found = wilson_interval(successes, trials, confidence)
    oracle = scipy.stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert found == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_only_a_patch_that_turns_more_than_noise_is_told_to(atlas: ortoscope.Atlas, server: AtlasServer) -> None:
    found = atlas.search_patches("cat", 4, sizes=(0.2, 0.4))
    tests = [request for request in server.asked if isinstance(request, visualization_pb2.TestPatchRequest)]
    assert len(tests) == 2
    assert {request.target.label or request.target.index for request in tests} == {4}
    # The pictures are those of the class, which is known by the images' folders.
    assert [item.dataset_image for item in tests[0].inputs] == [f"datasets/scenes/images/{2 * n}" for n in range(32)]
    assert found.trials == 4
    assert found.confidence == pytest.approx(1 - 0.05 / 4)
    best, rest = found
    assert best.proposal.push == -1.0
    assert best.beyond_noise
    assert best.best.size == 0.2  # the smaller of two that do the same
    assert not rest.beyond_noise
    assert best.interval == pytest.approx(wilson_interval(32, 32, found.confidence))


def test_pictures_of_a_class_without_a_folder_are_those_that_the_atlas_sees_so(
    atlas: ortoscope.Atlas, server: AtlasServer
) -> None:
    atlas.search_patches("orca", "ball")
    tests = [request for request in server.asked if isinstance(request, visualization_pb2.TestPatchRequest)]
    samples = server.layer.samples
    images = np.unique(samples["image"][samples["top_class"] == 2])[:32]
    assert [item.dataset_image for item in tests[0].inputs] == [f"datasets/scenes/images/{index}" for index in images]
    with pytest.raises(ortoscope.NotFound, match="name the pictures"):
        atlas.search_patches("zebra", "ball")
    with pytest.raises(ortoscope.InvalidArgument, match="at least one control"):
        atlas.search_patches("cat", "ball", controls=0)


def test_a_saved_atlas_has_the_servers_arrays_and_says_what_made_it(
    atlas: ortoscope.Atlas, server: AtlasServer, tmp_path: Path
) -> None:
    folder = tmp_path / "atlas"
    page = atlas.save(folder)
    assert page == folder / "index.html"
    assert {path.name for path in folder.iterdir()} == {"index.html", "data", "arrays", "provenance.json"}
    assert (folder / "arrays" / "samples.npz").read_bytes() == server.blobs[server.atlas.samples]
    assert (folder / "arrays" / "cells-12.npz").read_bytes() == server.blobs[server.atlas.levels[1].cells]
    record = json.loads((folder / "provenance.json").read_bytes())
    assert record["kind"] == "atlas"
    assert record["spec"]["seed"] == "5"
    assert "ortoscope atlas net/3" in page.read_text()
    atlas.save(folder)  # over itself
    (folder / "mine.txt").write_text("x")
    with pytest.raises(ortoscope.FailedPrecondition, match="other files"):
        atlas.save(folder)
    assert atlas.save(folder / "one.html").stat().st_size > 10_000


def test_several_atlases_become_layers_of_a_page(scope: ortoscope.Ortoscope, tmp_path: Path) -> None:
    page = tmp_path / "layers.html"
    done = run("atlas", "save", "1", "1", "-o", page, "--target", scope.target)
    assert str(page) in done.stdout
    assert "2 layers of net/3" in page.read_text(encoding="utf-8")


def test_a_projection_colours_the_atlas(scope: ortoscope.Ortoscope, server: AtlasServer, tmp_path: Path) -> None:
    cells = len(server.layer.levels[0].cells["row"])
    arrays = {
        "position": np.zeros((4, 2), np.float32), "cells_6_count": np.arange(cells), "cells_6_ratio": np.ones(cells),
        "cells_6_low": np.full(cells, 0.5), "cells_6_high": np.full(cells, 2.0), "cells_6_p": np.ones(cells),
    }  # fmt: skip
    projection = atlases_pb2.AtlasProjection(
        name="atlasProjections/2", sample_count=4, off_map_rate=0.25, off_map_low=0.1, off_map_high=0.6,
        arrays=server.keep(npz(arrays)),
        request=atlases_pb2.ProjectSamplesRequest(atlas="atlases/1", dataset="datasets/new"),
    )  # fmt: skip
    server.waits = [server.operation(projection, verb="project-samples")]
    found = scope.atlas("1").project("new").result()
    assert found.off_map_interval == (0.1, 0.6)
    assert found.grids == (6,)
    assert found.cells(6)[3].count == 3
    with pytest.raises(ortoscope.NotFound, match="there are 6"):
        found.cells(12)
    page = found.save(f"{tmp_path}/drift.html")
    manifest = re.search(r'id="manifest">(.*?)</script>', page.read_text(), re.DOTALL)
    assert manifest is not None
    assert json.loads(manifest[1])["colour"] == "Density against the atlas, log2"
    assert (found.save(f"{tmp_path}/drift").parent / "arrays" / "projection.npz").exists()


def test_a_comparison_shows_both_atlases(scope: ortoscope.Ortoscope, server: AtlasServer, tmp_path: Path) -> None:
    arrays = {
        "row": np.array([0, 1], np.int32), "column": np.array([2, 3], np.int32),
        "left_count": np.array([4, 0]), "right_count": np.array([0, 4]),
        "change": np.array([-2, 2], np.float32), "kind": np.array([1, 2], np.uint8),
    }  # fmt: skip
    comparison = atlases_pb2.AtlasComparison(
        name="atlasComparisons/2", sample_count=4, neighbourhood_agreement=0.75, arrays=server.keep(npz(arrays)),
        request=atlases_pb2.CompareAtlasesRequest(left="atlases/1", right="atlases/1"),
    )  # fmt: skip
    server.waits = [server.operation(comparison, verb="compare-atlases")]
    atlas = scope.atlas("1")
    found = atlas.compare(atlas).result()
    assert found.neighbourhood_agreement == 0.75
    text = found.save(f"{tmp_path}/compared.html").read_text()
    assert "Appeared or vanished" in text
    assert "right: net/3 blocks.10" in text


class TestCommand:
    """The commands of `ortoscope atlas`."""

    def test_levels_are_told_as_they_come(self, scope: ortoscope.Ortoscope, server: AtlasServer) -> None:
        coarse = atlases_pb2.Atlas()
        coarse.CopyFrom(server.atlas)
        del coarse.levels[1:]
        without_icons = atlases_pb2.Atlas()
        without_icons.CopyFrom(coarse)
        del without_icons.levels[0].icons[:]
        server.there = [None, without_icons, coarse, server.atlas]
        running = [server.operation(stage=stage) for stage in ("icons 6", "icons 12", "finishing")]
        server.waits = [*running, server.operation(server.atlas)]
        done = run(
            "atlas", "net", "--tap", "blocks.10", "--dataset", "scenes", "--grid", "6,12", "--target", scope.target
        )  # fmt: skip
        cells = [level.cell_count for level in server.atlas.levels]
        lines = [line for line in done.stderr.splitlines() if line.startswith("Level")]
        assert lines == [
            f"Level 6 x 6: {cells[0]} cells are there with real crops.",
            f"Level 6 x 6: {cells[0]} cells are there with its icons.",
            f"Level 12 x 12: {cells[1]} cells are there with its icons.",
        ]
        assert "trustworthiness 0.971" in done.stdout
        assert "Few samples." in done.stdout

    def test_what_is_finished_stays_when_the_rest_fails(self, scope: ortoscope.Ortoscope, server: AtlasServer) -> None:
        server.waits = [server.operation(done=True, error=status(9, "images vanished", reason="IMAGE_MISSING"))]
        done = run(
            "atlas", "net", "--tap", "blocks.10", "--dataset", "scenes", "--target", scope.target, code=1
        )  # fmt: skip
        assert "images vanished" in done.stderr
        assert "levels 6, 12 of atlases/1" in done.stderr
        assert "ortoscope atlas save atlases/1" in done.stderr

    def test_a_command_may_come_before_or_after_the_options(self, scope: ortoscope.Ortoscope) -> None:
        for words in (("atlas", "--target", scope.target, "list"), ("atlas", "list", "--target", scope.target)):
            assert "atlases/1" in run(*words).stdout

    def test_cells_and_patches_are_one_json_object(self, scope: ortoscope.Ortoscope, tmp_path: Path) -> None:
        found = run_json("atlas", "cells", "1", "--class", "ball", "--json", "--target", scope.target)
        assert [cell["classes"][0]["label"] for cell in found["cells"]] == ["ball", "ball"]
        found = run_json(
            "atlas", "patches", "1", "--source", "cat", "--class", LABELS[3], "-o", f"{tmp_path}/patches", "--json",
            "--target", scope.target,
        )  # fmt: skip
        assert [finding["beyond_noise"] for finding in found["findings"]] == [True, False]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--grid", "20;40"], "no list of levels"),
            (["--gradient", "one"], "Name two classes"),
            (["--class-samples", "most"], "none of winner"),
            (["--set", "layout.metric"], "write KEY=VALUE"),
        ],
    )
    def test_wrong_options_are_refused_before_anything_is_asked(
        self, scope: ortoscope.Ortoscope, server: AtlasServer, options: list[str], message: str
    ) -> None:
        done = run(
            "atlas", "net", "--tap", "blocks.10", "--dataset", "scenes", *options, "--target", scope.target, code=2
        )  # fmt: skip
        assert message in " ".join(done.stderr.replace("│", " ").split())
        assert not server.asked
