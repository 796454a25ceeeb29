"""The page of an activation atlas in a real browser, opened from the disk."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atlas_pages import layer_of, level_of
from browser import chromium, opened
from numpy.typing import NDArray
from ortoscope.report.atlas.page import AtlasLayer, AtlasPage, LayerLevel, Overlay, write_page
from PIL import Image
from playwright.sync_api import Browser, Page, expect

HOSTILE = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>\'\u2028'
LABELS = [HOSTILE, *(f"class {index}, also {index}" for index in range(1, 40))]
EAST, WEST, NORTH = (0.83, 0.5), (0.17, 0.5), (0.5, 0.17)
"""Places of the map that are inside of the ring. Class 0 is strongest in the east, class 20 in the west."""

WIDE = {"viewport": {"width": 1100, "height": 760}, "device_scale_factor": 1}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def layers() -> list[AtlasLayer]:
    levels = [level_of(grid) for grid in (10, 20, 40)]
    drift = np.linspace(-2, 3, len(levels[1].cells["row"]))
    drift[5] = np.nan
    overlaid = LayerLevel(**{**vars(levels[1]), "overlays": [Overlay("drift <b>", drift, True, "How dense it is.")]})
    first = layer_of("blocks.10", [levels[0], overlaid, levels[2]], LABELS)
    paths = {**first.image_paths, 0: HOSTILE}
    first = AtlasLayer(**{**vars(first), "image_paths": paths})
    return [first, layer_of(f"late {HOSTILE}", [level_of(16, with_icons=False)], LABELS)]


@pytest.fixture(scope="module")
def atlas(layers: list[AtlasLayer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two layers."""
    page = AtlasPage(f"Atlas {HOSTILE}", layers, {"model": HOSTILE, "items": 64}, "ortoscope atlas 'a & b'")
    return write_page(page, tmp_path_factory.mktemp("atlas") / "atlas.html")


@pytest.fixture(scope="module")
def folder(layers: list[AtlasLayer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one layer."""
    return write_page(AtlasPage("Atlas", layers[:1]), tmp_path_factory.mktemp("folder") / "atlas")


def ready(page: Page) -> Page:
    """Waits until all that belongs on the map is drawn."""
    page.wait_for_selector("body[data-still]")
    return page


def drawn(page: Page, pane: int = 0) -> NDArray[np.int64]:
    """(height, width, 3) the pixels of a map, without labels and outlines."""
    ready(page)
    text = page.evaluate("pane => document.querySelectorAll('.pane canvas:first-child')[pane].toDataURL()", pane)
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB")).astype(np.int64)


def place(page: Page, x: float, y: float, pane: int = 0) -> tuple[float, float]:
    """Where a place of the map is in the window, as the page says it."""
    spot = page.evaluate(
        """([x, y, pane]) => {
            const box = document.querySelectorAll(".pane")[pane].getBoundingClientRect();
            const { state } = Atlas.State;
            const side = Math.min(box.width, box.height) * 0.97 * state.zoom;
            return [box.left + box.width / 2 + (x - state.x) * side, box.top + box.height / 2 + (y - state.y) * side];
        }""",
        [x, y, pane],
    )
    return spot[0], spot[1]


def around(page: Page, x: float, y: float, pane: int = 0) -> NDArray[np.float64]:
    """The mean colour of the map around a place of it."""
    pixels = drawn(page, pane)
    left, top = place(page, x, y, pane)
    box = page.locator(".pane").nth(pane).bounding_box()
    assert box is not None
    column, row = int(left - box["x"]), int(top - box["y"])
    return pixels[row - 12 : row + 12, column - 12 : column + 12].mean((0, 1))


def background(page: Page) -> NDArray[np.int64]:
    """The colour of the map where there is no cell."""
    text = page.evaluate("getComputedStyle(document.querySelector('.pane')).backgroundColor")
    return np.array([int(part) for part in re.findall(r"\d+", text)[:3]])


def grid_of(page: Page) -> int:
    ready(page)
    return int(page.locator(".pane canvas").first.get_attribute("data-grid") or 0)


def state(page: Page, name: str) -> Any:
    return page.evaluate("name => Atlas.State.state[name]", name)


def test_the_first_screen_shows_the_atlas_without_any_input(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, **WIDE) as page:
        assert page.title().startswith("Atlas <img src=x")
        for x, y in (EAST, WEST, NORTH):
            assert np.ptp(around(page, x, y)) > 30  # colourful, where the background is grey
        assert np.abs(around(page, 0.5, 0.5) - background(page)).max() < 1
        expect(page.locator("#facts")).to_contain_text("64 images (scenes) · trustworthiness 0.971")


def test_icons_are_where_their_cells_are(browser: Browser, atlas: Path, layers: list[AtlasLayer]) -> None:
    with opened(browser, atlas, "#grid=10&density=7", **WIDE) as page:
        level = layers[0].levels[0]
        with Image.open(io.BytesIO(level.icons[0])) as image:
            sheet = np.asarray(image.convert("RGB")).astype(np.float64)
        for cell in (0, 17, 40, len(level.cells["row"]) - 1):
            top, left = (part * 80 for part in divmod(cell, level.icons_per_row))
            middle = sheet[top + 20 : top + 60, left + 20 : left + 60].mean((0, 1))
            x, y = ((int(level.cells[name][cell]) + 0.5) / 10 for name in ("column", "row"))
            assert np.abs(around(page, x, y) - middle).max() < 25


def test_the_level_becomes_finer_as_one_zooms_in_and_can_be_chosen(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, **WIDE) as page:
        found = [grid_of(page)]
        page.mouse.move(*place(page, *EAST))
        for _ in range(6):
            page.mouse.wheel(0, -200)
            page.wait_for_timeout(40)
            found.append(grid_of(page))
        assert found == sorted(found)
        assert found[0] == 20
        assert found[-1] == 40
        page.locator("#level").select_option("10")
        assert grid_of(page) == 10
        page.locator("#stage .over").first.focus()
        page.keyboard.press("]")
        assert grid_of(page) == 20


def test_the_place_under_the_pointer_stays_when_one_zooms(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, **WIDE) as page:
        ready(page)
        before = place(page, *EAST)
        page.mouse.move(*before)
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(100)
        assert state(page, "zoom") == pytest.approx(2)
        np.testing.assert_allclose(place(page, *EAST), before, atol=1.5)  # pointers are at whole pixels
        for _ in range(20):
            page.mouse.wheel(0, -900)
        page.wait_for_timeout(100)
        assert state(page, "zoom") == 48


def test_what_is_moved_is_what_would_be_drawn_there(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, "#zoom=4&x=0.7&y=0.5", **WIDE) as page:
        ready(page)
        page.mouse.move(500, 400)
        page.mouse.down()
        for step in range(1, 12):
            page.mouse.move(500 - 17 * step, 400 + (9 * step if step % 2 else 5 * step))
        page.mouse.up()
        moved = drawn(page)
        page.evaluate("Atlas.Main.pane().arrived()")
        page.wait_for_timeout(100)
        assert np.abs(moved - drawn(page)).max() <= 2  # the rounding at the edge of a strip
        assert state(page, "x") > 0.75


def test_every_class_can_be_searched_and_lights_up_its_cells(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, **WIDE) as page:
        ready(page)
        page.keyboard.press("/")
        page.keyboard.type("also 20")
        assert page.locator(".option").all_inner_texts()[0].startswith("class 20")
        page.keyboard.press("Enter")
        expect(page.locator("#class-name")).to_have_text("class 20, also 20")
        page.wait_for_timeout(150)
        east, west, ground = around(page, *EAST), around(page, *WEST), background(page)
        assert np.abs(west - ground).max() > 60
        assert np.abs(east - ground).max() < 20
        page.locator("#sign label").nth(1).click()
        page.wait_for_timeout(100)
        assert np.abs(around(page, *EAST) - ground).max() > 60
        assert np.abs(around(page, *WEST) - ground).max() < 20
        page.wait_for_timeout(250)
        assert "class=20" in page.url
        assert "sign=-" in page.url
        page.locator("#class-clear").click()
        page.wait_for_timeout(100)
        assert np.abs(around(page, *WEST) - ground).max() > 60


def test_each_class_is_scaled_by_its_own_largest_attribution(browser: Browser, atlas: Path) -> None:
    """Class 1's attributions are a fifth of those of class 39, as attributions grow with the class."""
    with opened(browser, atlas, "#class=1&grid=20&density=7", **WIDE) as page:
        own = np.abs(around(page, *EAST) - background(page)).max()
        page.locator("#norm").select_option("all")
        page.wait_for_timeout(100)
        assert np.abs(around(page, *EAST) - background(page)).max() < 0.45 * own


CONTROLS = (
    "#layer=0&x=0.6&y=0.4&zoom=2.5&grid=20&class=3&sign=-&norm=all&gain=1&show=photos&colour=dispersion&density=4"
    "&detail=40&labels=0&cell=0.20.3.9&card=1"
)


def test_a_link_holds_every_control(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, CONTROLS, **WIDE) as page:
        ready(page)
        values = {
            name: page.locator(f"#{name}").input_value()
            for name in ("level", "norm", "gain", "colour", "density", "detail")
        }
        assert values == {
            "level": "20", "norm": "all", "gain": "1", "colour": "dispersion", "density": "4", "detail": "40",
        }  # fmt: skip
        assert page.locator("input[name=sign]:checked").input_value() == "-"
        assert page.locator("input[name=show]:checked").input_value() == "photos"
        assert not page.locator("#labels").is_checked()
        expect(page.locator("#class-name")).to_have_text("class 3, also 3")
        expect(page.locator("#card")).to_contain_text("Row 4, column 10 of 20")
        picture = drawn(page)
        page.locator("#detail").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(300)
        fragment = "#" + page.url.partition("#")[2]
    with opened(browser, atlas, fragment, **WIDE) as page:
        np.testing.assert_array_equal(drawn(page), picture)


@pytest.mark.parametrize(
    "fragment",
    [
        "#zoom=1e999&x=-4&y=NaN&grid=abc&class=9999&cell=9.9.9.9&layer=7",
        "#cell=0.20.0.0&card=1",
        "#%E0%A4%A",
        "#=&&colour=%3Cb",
    ],
)
def test_a_link_that_means_nothing_shows_the_atlas(browser: Browser, atlas: Path, fragment: str) -> None:
    with opened(browser, atlas, fragment, **WIDE) as page:
        assert np.ptp(around(page, *WEST)) > 30


def test_the_map_is_used_with_the_keyboard_alone(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, **WIDE) as page:
        ready(page)
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.classList.contains('over')"):
                break
        assert page.evaluate("document.activeElement.classList.contains('over')")
        page.keyboard.press("ArrowRight")
        first = state(page, "cell")
        page.keyboard.press("ArrowRight")
        second = state(page, "cell")
        assert second["column"] > first["column"]
        page.keyboard.press("ArrowUp")
        assert state(page, "cell")["row"] < second["row"]
        expect(page.locator("#status")).to_contain_text(
            re.compile(r"Row \d+, column \d+ of 20, \d+ samples, top class")
        )
        page.keyboard.press("Enter")
        expect(page.locator("#card")).to_be_visible()
        expect(page.locator("#card .bars .label")).to_have_count(5)
        page.keyboard.press("Escape")
        expect(page.locator("#card")).to_be_hidden()
        page.keyboard.press("+")
        page.keyboard.press("+")
        page.wait_for_timeout(300)
        assert state(page, "zoom") > 1.4
        page.keyboard.press("0")
        page.wait_for_timeout(300)
        assert state(page, "zoom") == 1
        page.keyboard.press("t")
        expect(page.locator("#table-dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#table-dialog")).to_be_hidden()


def test_a_cell_can_be_left_in_every_direction_until_the_rim(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, "#grid=10", **WIDE) as page:
        ready(page)
        page.locator(".over").first.focus()
        page.keyboard.press("ArrowLeft")
        for key, name, rim in (("ArrowLeft", "column", min), ("ArrowDown", "row", max)):
            for _ in range(12):
                page.keyboard.press(key)
            cell = state(page, "cell")
            assert cell[name] in {0, 9}
            assert rim(cell[name], 5) != 5


def test_the_card_tells_what_is_known_of_a_cell(browser: Browser, atlas: Path, layers: list[AtlasLayer]) -> None:
    level = layers[0].levels[1]
    flagged = int(np.flatnonzero(~level.cells["represents"])[0])
    row, column = (int(level.cells[name][flagged]) for name in ("row", "column"))
    with opened(browser, atlas, f"#cell=0.20.{row}.{column}&card=1&grid=20", **WIDE) as page:
        ready(page)
        card = page.locator("#card")
        expect(card).to_contain_text("does not represent its cell")
        expect(card).to_contain_text(f"{level.cells['count'][flagged]} samples")
        expect(card.locator("canvas[data-drawn]")).to_have_count(5)
        attribution = np.sort(level.cells["attribution"][flagged])[::-1][:5]
        shown = [float(text) for text in card.locator(".value").all_inner_texts()]
        np.testing.assert_allclose(shown, attribution, rtol=6e-3)
        paths = [layers[0].image_paths[image] for image in (level.cells["nearest"][flagged] % 64).tolist()]
        assert [figure.get_attribute("title") for figure in card.locator("figure").all()] == paths


def test_pointing_shows_a_card_and_clicking_keeps_it(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, **WIDE) as page:
        ready(page)
        page.mouse.move(*place(page, *EAST))
        expect(page.locator("#card")).to_be_visible()
        page.mouse.move(*place(page, 0.5, 0.5))
        expect(page.locator("#card")).to_be_hidden()
        page.mouse.click(*place(page, *WEST))
        expect(page.locator("#card.pinned")).to_be_visible()
        page.mouse.move(*place(page, 0.5, 0.5))
        expect(page.locator("#card.pinned")).to_be_visible()
        page.locator("#card .close").click()
        expect(page.locator("#card")).to_be_hidden()


def test_text_that_looks_like_markup_is_shown_as_text(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, "#layer=1.0&class=0&colour=o:drift+<b>&cell=0.20.9.16&card=1&grid=20", **WIDE) as page:
        ready(page)
        expect(page.locator("#class-name")).to_contain_text("<img src=x onerror=")
        page.keyboard.press("t")
        expect(page.locator("#table-body tr").first).to_be_visible()
        page.keyboard.press("Escape")
        page.locator("#open-about").click()
        expect(page.locator("#about-dialog")).to_contain_text("<img src=x onerror=")
        page.wait_for_timeout(100)
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0


def test_values_of_other_results_colour_the_cells(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, "#grid=20", **WIDE) as page:
        ready(page)
        page.locator("#colour").select_option("o:drift <b>")
        expect(page.locator("#legend")).to_contain_text("How dense it is.")
        assert page.locator("#legend .ends span").all_inner_texts() == ["-3", "3"]
        page.wait_for_timeout(100)
        north, south = around(page, 0.5, 0.13), around(page, 0.5, 0.87)
        assert north[2] > north[0]  # blue below 0
        assert south[0] > south[2]  # orange above
        page.locator("#colour").select_option("top")
        expect(page.locator("#legend .kind")).to_have_count(8)


def test_layers_beside_each_other_move_together(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, "#colour=count", **WIDE) as page:
        ready(page)
        page.locator(".beside").nth(1).click()
        expect(page.locator(".pane")).to_have_count(2)
        ready(page)
        page.mouse.move(*place(page, *EAST, pane=0))
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(200)
        assert state(page, "zoom") > 1.5
        for pane in (0, 1):
            assert np.abs(around(page, *EAST, pane=pane) - background(page)).max() > 40
        page.locator(".beside").nth(0).click()
        expect(page.locator(".pane")).to_have_count(1)
        expect(page.locator(".pane-name")).to_contain_text("late")
        assert page.locator("input[name=show]:checked").input_value() == "photos"  # it has no icons


def test_the_overview_moves_the_map(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, "#zoom=4&x=0.8", **WIDE) as page:
        ready(page)
        box = page.locator("#minimap").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"])
        page.mouse.up()
        assert state(page, "x") == pytest.approx(0.25, abs=0.02)
        assert state(page, "y") == pytest.approx(0.75, abs=0.02)


def test_the_table_tells_every_cell_to_who_cannot_see_the_map(
    browser: Browser, atlas: Path, layers: list[AtlasLayer]
) -> None:
    with opened(browser, atlas, "#grid=20", **WIDE) as page:
        ready(page)
        page.locator("#open-table").click()
        expect(page.locator("#table-range")).to_have_text(f"1-50 of {len(layers[0].levels[1].cells['row'])}")
        page.locator("#table-order").select_option("count")
        counts = [int(text) for text in page.locator("#table-body td:nth-child(2)").all_inner_texts()]
        assert counts == np.sort(layers[0].levels[1].cells["count"])[::-1][:50].tolist()
        page.locator("#table-next").click()
        button = page.locator("#table-body button").first
        row, column = (int(part) - 1 for part in button.inner_text().split(","))
        button.click()
        expect(page.locator("#card.pinned")).to_contain_text(f"Row {row + 1}, column {column + 1} of 20")
        assert (state(page, "cell")["row"], state(page, "cell")["column"]) == (row, column)


def test_a_narrow_screen_is_used_by_touch(browser: Browser, atlas: Path) -> None:
    narrow = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    with opened(browser, atlas, **narrow) as page:
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.touchscreen.tap(*place(page, *EAST))
        expect(page.locator("#card.pinned")).to_be_visible()
        box = page.locator("#card").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert place(page, *EAST)[1] < box["y"]  # the cell is above the card
        page.locator("#card .close").tap()
        page.touchscreen.tap(*place(page, 0.5, 0.88))
        expect(page.locator("#card.pinned")).to_be_visible()
        box = page.locator("#card").bounding_box()
        assert box is not None
        assert place(page, 0.5, 0.88)[1] < box["y"]
        page.locator("#card .close").tap()
        page.locator("#zoom-home").tap()
        page.wait_for_timeout(300)
        session = page.context.new_cdp_session(page)
        x, y = place(page, *EAST)
        for kind, spread in (("touchStart", 20), ("touchMove", 30), ("touchMove", 60), ("touchEnd", None)):
            points = [] if spread is None else [{"x": x - spread, "y": y, "id": 0}, {"x": x + spread, "y": y, "id": 1}]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(150)
        assert state(page, "zoom") == pytest.approx(3, rel=0.05)
        np.testing.assert_allclose(place(page, *EAST), (x, y), atol=3)


def test_the_dark_scheme_is_dark(browser: Browser, atlas: Path) -> None:
    with opened(browser, atlas, color_scheme="dark", **WIDE) as page:
        assert background(page).max() < 40
        assert np.abs(around(page, 0.5, 0.5) - background(page)).max() < 1
        page.emulate_media(color_scheme="light")
        page.wait_for_timeout(150)
        assert background(page).min() > 200
        assert np.abs(around(page, 0.5, 0.5) - background(page)).max() < 1


def test_a_folder_loads_finer_levels_when_they_are_looked_at(browser: Browser, folder: Path) -> None:
    with opened(browser, folder, folder=True, **WIDE) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
        assert np.ptp(around(page, *EAST)) > 30
        assert not any("g40" in name for name in asked)
        page.mouse.move(*place(page, *EAST))
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(150)
        assert grid_of(page) == 40
        assert {"l0-g40.js", "l0-g40-i0.js"} <= set(asked)
        page.keyboard.press("/")
        page.keyboard.type("class 7,")
        page.keyboard.press("Enter")
        page.wait_for_timeout(200)
        assert "l0-g40-a0.js" in asked


@pytest.mark.parametrize("kind", ["atlas", "folder"])
def test_the_level_is_saved_as_a_picture_for_print(browser: Browser, kind: str, request: pytest.FixtureRequest) -> None:
    """From the disk too, where a browser does not let a page read pictures that lie beside it."""
    path: Path = request.getfixturevalue(kind)
    with opened(browser, path, "#grid=20&density=7", folder=kind == "folder", **WIDE) as page:
        ready(page)
        with page.expect_download() as download:
            page.locator("#save-png").click()
        with Image.open(download.value.path()) as image:
            assert image.width == 20 * 80
            east = np.asarray(image.convert("RGB").crop((1300, 780, 1340, 820)), np.float64).mean((0, 1))
        assert np.ptp(east) > 30
        assert np.abs(east - around(page, 1320 / 1600, 0.5)).max() < 30


def test_without_attribution_there_is_no_class_filter(browser: Browser, tmp_path: Path) -> None:
    path = write_page(AtlasPage("t", [layer_of("a", [level_of(8, classes=0, crop_size=0)])]), tmp_path / "a.html")
    with opened(browser, path, "#class=3&colour=top", **WIDE) as page:
        assert np.ptp(around(page, *EAST)) > 30
        expect(page.locator("#class-part")).to_be_hidden()
        page.mouse.click(*place(page, *EAST))
        expect(page.locator("#card")).to_contain_text("samples")


def test_cells_alone_are_a_page(browser: Browser, tmp_path: Path) -> None:
    cells = {"row": np.array([0, 1]), "column": np.array([0, 1]), "count": np.array([1, 9])}
    path = write_page(AtlasPage("t", [layer_of("a", [LayerLevel(2, cells)])]), tmp_path / "a.html")
    with opened(browser, path, "#colour=count&density=7", **WIDE) as page:
        assert np.abs(around(page, 0.25, 0.25) - around(page, 0.75, 0.75)).max() > 100
        assert np.abs(around(page, 0.75, 0.25) - background(page)).max() < 1


def test_where_only_the_strongest_classes_of_a_cell_are_known_the_page_says_so(
    browser: Browser, tmp_path: Path, layers: list[AtlasLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ortoscope.report.atlas.page.FILE_COLUMNS", 0)
    path = write_page(AtlasPage("t", layers[:1]), tmp_path / "a.html")
    with opened(browser, path, "#class=39&grid=20&density=7", **WIDE) as page:
        assert np.abs(around(page, *EAST) - background(page)).max() > 60  # class 39 is strongest there
        assert np.abs(around(page, *WEST) - background(page)).max() < 20
        expect(page.locator("#class-note")).to_contain_text("among their 5 strongest")
