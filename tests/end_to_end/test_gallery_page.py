"""The gallery of a unit sheet in a real browser, opened from the disk."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, opened, pixel
from ortoscope.examples import Example, UnitExamples
from ortoscope.report.gallery import ranges, render_unit_sheet, standing
from ortoscope.report.pictures import Frame, Thumbnail
from ortoscope.report.sources import Sources
from ortoscope.unit_sheets import UnitPicture
from ortoscope.v1 import activations_pb2, models_pb2, visualization_pb2
from PIL import Image
from playwright.sync_api import Browser, Page, expect

HOSTILE = "</script><script>window.hacked = 1</script>.jpg"
UNITS = 9
RED, REAL = (200, 40, 40), (40, 90, 200)
TAP = models_pb2.Tap(tensor="/features/0/Clip_output_0", display_name="features.0")
VERSION = "models/net/versions/3"
DEFAULTS = {"size": 64, "recipe.steps": 512}


def picture_of(unit: int) -> UnitPicture:
    """A red picture; unit 4 is dead, unit 6 had redirected steps; the objective falls with the unit's number."""
    pixels = np.full((64, 64, 3), RED, np.uint8)
    return UnitPicture(unit, pixels, 10.0 - unit, "dead" if unit == 4 else "steps", 256, 1, 7 if unit == 6 else 0)


def examples_of(unit: int) -> UnitExamples:
    """The largest real value is 6.5: units 0 to 3 are above it."""

    def example(index: int, value: float) -> Example:
        path = HOSTILE if index == 0 else f"street/{index:03d}.jpg"
        return Example(f"datasets/scenes/images/{index}", path, value, (), ())

    most = tuple(example((unit + rank) % 20, 6.5 - rank) for rank in range(4))
    return UnitExamples(unit, most, tuple(example((unit + rank + 9) % 20, rank - 3.0) for rank in range(4)))


def thumbnail() -> Thumbnail:
    buffer = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), REAL, np.uint8)).save(buffer, "JPEG", quality=95)
    return Thumbnail(buffer.getvalue(), 64, 48, Frame())


def sheet_of() -> visualization_pb2.UnitSheet:
    recipe = visualization_pb2.VisualizationRecipe(
        preset="lucid", seed=5, settings={"size": "64", "recipe.steps": "256", "chain.views": "1"}
    )
    sheet = visualization_pb2.UnitSheet(
        name="unitSheets/1",
        spec=visualization_pb2.UnitSheetSpec(
            tap=f"{VERSION}/taps/%2Ffeatures%2F0%2FClip_output_0", units=range(UNITS), recipe=recipe,
            kind=visualization_pb2.UnitSheetSpec.KIND_CHANNEL,
        ),
        height=64, width=64, dead_units=1,
    )  # fmt: skip
    sheet.provenance.model_digest = "sha256:" + "ab" * 32
    sheet.provenance.start_time.FromSeconds(1_700_000_000)
    return sheet


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine units beside real images; the image with the number 12 is gone."""
    example_set = activations_pb2.ExampleSet(
        spec=activations_pb2.ExamplesSpec(
            dataset="datasets/scenes", reduction=activations_pb2.ExamplesSpec.REDUCTION_MEAN, count=4
        )
    )
    example_set.provenance.items = 20
    examples = [examples_of(unit) for unit in range(UNITS)]
    paths = {example.index: example.path for entry in examples for example in (*entry.most, *entry.least)}
    page = render_unit_sheet(
        sheet_of(),
        [picture_of(unit) for unit in range(UNITS)],
        TAP,
        defaults=DEFAULTS,
        example_set=example_set,
        examples=examples,
        sources=Sources(TAP, {index: thumbnail() for index in range(20) if index != 12}, paths),
    )
    path = tmp_path_factory.mktemp("gallery") / "gallery.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same units without real images."""
    page = render_unit_sheet(sheet_of(), [picture_of(unit) for unit in range(UNITS)], TAP)
    path = tmp_path_factory.mktemp("plain") / "gallery.html"
    path.write_text(page, encoding="utf-8")
    return path


def units(page: Page) -> list[int]:
    shown = page.eval_on_selector_all(".card:not([hidden])", "all => all.map(card => card.id)")
    return [int(identity.removeprefix("unit-")) for identity in shown]


def test_the_page_states_what_was_asked(browser: Browser, gallery: Path) -> None:
    with opened(browser, gallery) as page:
        assert page.title() == "features.0 of net/3 · Feature visualization"
        text = page.locator("body").inner_text()
        for part in (
            "What the units of features.0 look for", "preset lucid, seed 5, 64", "images of scenes, 20 images",
            "1 unit shows nothing", "9 units", "sha256:" + "ab" * 32, "/features/0/Clip_output_0",
        ):  # fmt: skip
            assert part in text, part
        command = page.locator(".provenance pre").inner_text()
    # What the preset says by itself is left out; a setting that it is not known of is not.
    assert command == (
        "ortoscope visualize net/3 --tap /features/0/Clip_output_0 --units 0-8 --preset lucid --set chain.views=1 "
        "--set recipe.steps=256 --seed 5 -o sheet"
    )
    # The page is the same for every run that gives the same result.
    assert "2023-11-14" not in gallery.read_text()
    assert "unitSheets/1" not in gallery.read_text()


def test_text_from_elsewhere_is_shown_as_text(browser: Browser, gallery: Path) -> None:
    with opened(browser, gallery, "#unit-0") as page:
        page.click("#next-image")
        expect(page.locator("#lightbox-details")).to_contain_text(HOSTILE)
        assert page.evaluate("window.hacked") is None


def test_a_card_shows_the_picture_its_standing_and_real_images(browser: Browser, gallery: Path) -> None:
    with opened(browser, gallery) as page:
        card = page.locator("#unit-1")
        assert card.locator(".card-head").get_attribute("aria-label") == (
            "Unit 1, objective 9, all steps made, above all 20 images"
        )
        assert "above 95 % of images" in page.locator("#unit-4").inner_text()
        assert "below the best 4 images" in page.locator("#unit-7").inner_text()
        assert "no gradient" in page.locator("#unit-4").inner_text()
        assert pixel(page, "#unit-1 .found canvas", 0.5, 0.5) == pytest.approx(RED, abs=6)
        assert pixel(page, "#unit-1 .end .shot:nth-child(2) canvas", 0.5, 0.5) == pytest.approx(REAL, abs=6)
        assert page.locator("#unit-1 .end h4").all_inner_texts()[0].split("\n")[0] == "most"
        assert page.locator(".shot.missing").count() > 0


def test_units_are_sorted_and_filtered(browser: Browser, gallery: Path) -> None:
    with opened(browser, gallery) as page:
        assert units(page) == list(range(UNITS))
        page.select_option("#show", "above")
        assert units(page) == [0, 1, 2, 3]
        assert page.locator("#status").inner_text() == "4 of 9 units"
        page.select_option("#show", "below")
        assert units(page) == [4, 5, 6, 7, 8]
        page.select_option("#show", "dead")
        assert units(page) == [4]
        page.select_option("#show", "redirected")
        assert units(page) == [6]
        page.fill("#search", "nothing like it")
        assert units(page) == []
        page.click("#reset")
        assert len(units(page)) == UNITS
        page.fill("#search", "7")
        assert units(page) == [7]
        page.fill("#search", "street/003")
        assert set(units(page)) == {unit for unit in range(UNITS) if any(
            example.path.endswith("003.jpg") for example in (*examples_of(unit).most, *examples_of(unit).least)
        )}  # fmt: skip
        page.fill("#search", "")
        for order in ("objective", "standing"):
            page.select_option("#sort", order)
            assert units(page) == list(range(UNITS))


def test_everything_can_be_done_from_the_keyboard(browser: Browser, gallery: Path) -> None:
    with opened(browser, gallery, viewport={"width": 1280, "height": 900}) as page:
        page.locator("h1").click()
        page.keyboard.press("/")
        page.keyboard.type("8")
        expect(page.locator(".card:not([hidden])")).to_have_count(1)
        page.keyboard.press("Escape")
        expect(page.locator(".card:not([hidden])")).to_have_count(UNITS)
        page.locator("#show").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(page.locator("#lightbox-title")).to_have_text("Unit 1")
        expect(page.locator("#image-count")).to_have_text("1 / 9")
        expect(page.locator("#lightbox-details")).to_contain_text("what the climb found")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#lightbox-details")).to_contain_text("1 of the most activating")
        page.keyboard.press("ArrowDown")
        expect(page.locator("#lightbox-title")).to_have_text("Unit 2")
        expect(page.locator("#toggle-mark")).to_be_hidden()
        page.keyboard.press("Escape")
        expect(page.locator("#lightbox")).to_be_hidden()


def test_without_real_images_there_is_nothing_about_them(browser: Browser, plain: Path) -> None:
    with opened(browser, plain) as page:
        page.locator("#unit-0 .found canvas").wait_for()
        text = page.locator("main").inner_text()
        assert "real image" not in text.replace("page.", "")
        assert page.locator("#show option").all_inner_texts() == ["all", "without gradient", "with redirected steps"]
        assert page.locator(".end").count() == 0


@pytest.mark.parametrize(("name", "width"), [("gallery", 320), ("gallery", 1280), ("plain", 320)])
def test_nothing_sticks_out_of_a_narrow_window(
    browser: Browser, request: pytest.FixtureRequest, name: str, width: int
) -> None:
    with opened(browser, request.getfixturevalue(name), viewport={"width": width, "height": 700}) as page:
        page.locator("details").first.evaluate("element => element.open = true")
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) == 0
        page.locator("#unit-1 .card-head").click()
        box = page.locator("#lightbox").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_the_data_of_a_page_are_no_larger_than_its_pictures(plain: Path) -> None:
    text = plain.read_text(encoding="utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert len(data["pictures"]) == UNITS
    assert all(len(packed) == 3 for packed in data["pictures"].values())


@pytest.mark.parametrize(("given", "text"), [((0, 1, 2, 7), "0-2,7"), ((5,), "5"), ((3, 1, 2), "3,1-2"), ((), "")])
def test_units_are_written_as_the_command_line_takes_them(given: tuple[int, ...], text: str) -> None:
    assert ranges(given) == text


@pytest.mark.parametrize(
    ("objective", "best", "images", "percent"),
    [
        (5.0, [4.0, 3.0], 100, 100.0),
        (4.0, [4.0, 3.0], 100, 99.0),
        (3.5, [4.0, 3.0], 100, 99.0),
        (2.0, [4.0, 3.0], 100, None),
        (2.0, [4.0, 3.0], 2, 0.0),
        (2.0, [], 0, None),
    ],
)
def test_the_standing_is_the_share_of_images_below(
    objective: float, best: list[float], images: int, percent: float | None
) -> None:
    assert standing(objective, best, images) == percent
