"""The reports in a real browser, opened from the disk."""

import io
import re
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, opened, pixel
from ortoscope.arrays import DissectionArrays, TopImages
from ortoscope.examples import Example, UnitExamples
from ortoscope.report.dissection import render_dissection
from ortoscope.report.examples import render_examples
from ortoscope.report.pictures import Frame, Thumbnail
from ortoscope.report.sources import Sources
from ortoscope.v1 import activations_pb2, dissections_pb2, models_pb2
from PIL import Image
from playwright.sync_api import Browser, Page, expect

HOSTILE = "</script><script>window.hacked = 1</script>"
NAMES = ("red-c", "sky_blue-c", HOSTILE, 'a "quoted" & <b>bold</b> name', "wheel", "zebra crossing of unusual length")
CATEGORY = np.array([0, 0, 1, 1, 2, 2])
UNITS, EXAMPLES, ROWS, COLUMNS = 12, 5, 8, 8
VERSION = "models/net/versions/3"
INSIDE, GRAY = (210, 120, 60), 200


def jpeg(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def thumbnails(count: int) -> dict[int, Thumbnail]:
    """Pictures of 64 x 64: the left half orange, the right half gray."""
    array = np.full((64, 64, 3), GRAY)
    array[:, :32] = INSIDE
    return {index: Thumbnail(jpeg(array), 64, 64, Frame()) for index in range(count)}


def arrays_of(units: int) -> DissectionArrays:
    rng = np.random.default_rng(1)
    iou = rng.uniform(0, 0.03, (units, len(NAMES)))
    for unit in range(units):
        iou[unit, unit % len(NAMES)] = 0.3 - 0.02 * (unit % 16)
    iou[2] = 0  # saturated
    iou[5] = 0  # constant
    iou[9] = 0.5 * iou[9].clip(max=0.03)
    return DissectionArrays(
        threshold=np.linspace(0.5, 6, units),
        activation_pixels=rng.integers(100, 200, (units, 3)),
        concept_pixels=rng.integers(100, 200, len(NAMES)),
        intersection=(iou * 300).astype(np.int64),
        iou=iou,
        concept_number=np.arange(1, len(NAMES) + 1),
        concept_name=np.array(NAMES),
        concept_category=CATEGORY,
        category_name=np.array(["color", "<i>thing</i>", "part"]),
        saturated=np.arange(units) == 2,
        constant=np.arange(units) == 5,
    )


def top_images_of(units: int, images: int) -> TopImages:
    """Every unit's mask is the left half of its images, except in its second image: there it is empty."""
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[:, : COLUMNS // 2] = 1
    packed = np.tile(np.packbits(mask), (units, EXAMPLES, 1))
    packed[:, 1] = 0
    index = (np.arange(units)[:, None] * 3 + np.arange(EXAMPLES)) % images
    index[3, 4] = -1
    values = np.tile(np.linspace(9, 7, EXAMPLES, dtype=np.float32), (units, 1))
    return TopImages(index, values, packed, np.array([ROWS, COLUMNS]))


def dissection_of(units: int) -> dissections_pb2.Dissection:
    message = dissections_pb2.Dissection(
        name="dissections/1",
        spec=dissections_pb2.DissectionSpec(
            tap=f"{VERSION}/taps/%2Ffeatures%2F0%2FClip_output_0", dataset="datasets/scenes", top_fraction=0.005,
            iou_threshold=0.04, examples_per_unit=EXAMPLES,
        ),
        unit_count=units, concept_count=len(NAMES), constant_units=1,
    )  # fmt: skip
    message.saturated.count = 1
    message.saturated.use_tap = f"{VERSION}/taps/%2Ffeatures%2F0%2FConv_output_0"
    for count in (message.best_label, message.per_category):
        count.detectors, count.unique_detectors = 9, 6
        for category in ("color", "<i>thing</i>", "part"):
            count.categories.add(category=category, detectors=3, unique_detectors=2)
    provenance = message.provenance
    provenance.model, provenance.dataset, provenance.items = VERSION, "datasets/scenes", 40
    provenance.model_digest = "sha256:" + "ab" * 32
    provenance.preprocessing = HOSTILE
    provenance.start_time.FromSeconds(1_700_000_000)
    return message


TAP = models_pb2.Tap(tensor="/features/0/Clip_output_0", display_name="features.0", upper_limit=6.0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = thumbnails(40)
    del pictures[4]
    paths = {index: f"street/{index:03d} <b>.jpg" for index in range(40)}
    page = render_dissection(
        dissection_of(UNITS), arrays_of(UNITS), top_images_of(UNITS, 40), Sources(TAP, pictures, paths)
    )
    path = tmp_path_factory.mktemp("dissection") / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def examples_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unit u's images have their site in the middle of the upper left quarter of the model's input."""

    def example(index: int, value: float, site: tuple[int, ...]) -> Example:
        position = (0.25, 0.25) if site else ()
        return Example(f"datasets/scenes/images/{index}", f"street/{index}.jpg", value, site, position)

    units = [
        UnitExamples(
            unit,
            tuple(example((unit + i) % 40, 9 - i + unit / 100, (3, 3) if unit else ()) for i in range(6)),
            tuple(example((unit + i + 20) % 40, i - 3 - unit / 100, (3, 3) if unit else ()) for i in range(6)),
        )
        for unit in range(UNITS)
    ]
    pictures = thumbnails(40)
    pictures[1] = Thumbnail(pictures[1].jpeg, 64, 64, Frame(0.5, 0.0, 0.5, 1.0))
    message = activations_pb2.ExampleSet(
        name="exampleSets/1",
        spec=activations_pb2.ExamplesSpec(
            tap=f"{VERSION}/taps/x", dataset="datasets/scenes", count=6,
            reduction=activations_pb2.ExamplesSpec.REDUCTION_MAX,
        ),
        unit_count=UNITS,
    )  # fmt: skip
    page = render_examples(message, units, Sources(TAP, pictures, {i: f"street/{i}.jpg" for i in range(40)}))
    path = tmp_path_factory.mktemp("examples") / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def titles(page: Page) -> list[str]:
    return [str(text) for text in page.locator(".card:not([hidden]) .card-title").all_text_contents()]


def units(page: Page) -> list[int]:
    return [
        int(identity[5:]) for identity in page.eval_on_selector_all(".card:not([hidden])", "all => all.map(c => c.id)")
    ]


def expect_units(page: Page, expected: list[int]) -> None:
    """Waits for these cards: what follows a link or a key, the browser does in its own time."""
    page.wait_for_function(
        """expected => expected ===
            [...document.querySelectorAll(".card:not([hidden])")].map(card => card.id.slice(5)).join()""",
        arg=",".join(map(str, expected)),
    )


def expect_focus(page: Page, identity: str) -> None:
    """Waits for the focus to be on an element, or on a card or within it."""
    page.wait_for_function(
        "expected => (document.activeElement.closest('.card')?.id ?? document.activeElement.id) === expected",
        arg=identity,
    )


def test_text_from_elsewhere_is_shown_as_text(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        assert page.evaluate("window.hacked") is None
        assert HOSTILE in titles(page)
        assert 'a "quoted" & <b>bold</b> name' in titles(page)
        assert page.locator(".card b, .card script, .provenance script").count() == 0
        assert HOSTILE in page.locator(".provenance dl").inner_text()
        assert "<i>thing</i>" in page.locator(".countings").inner_text()
        page.locator("#unit-2 .card-head").click()
        assert "<b>.jpg" in page.locator("#lightbox-details").inner_text()


def test_the_summary_states_what_was_asked_and_both_countings(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        assert page.title() == "features.0 of net/3 on scenes · Network dissection"
        text = page.locator("body").inner_text()
        for part in (
            "What the units of features.0 detect", "/features/0/Clip_output_0", "40 images", "top 0.5 % of activations",
            "9 of 12 units", "IoU > 0.04", "6 different concepts", "Best label", "Per category", "1 unit saturates",
            "(6, the limit of the activation function)",
            "ortoscope dissect net/3 --tap /features/0/Conv_output_0 --dataset scenes",
            "one and the same value everywhere", "sha256:" + "ab" * 32,
        ):  # fmt: skip
            assert part in text, part
    # The page is the same for every run that gives the same result.
    assert "2023-11-14" not in report.read_text()
    assert "dissections/1" not in report.read_text()


def test_the_chart_says_in_words_what_it_draws(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        bars = {bar.get_attribute("aria-label"): bar for bar in page.locator(".bar").all()}
        expected = {"red": 2, "sky blue": 2, HOSTILE: 1, 'a "quoted" & <b>bold</b> name': 1, "wheel": 2}
        for name, count in expected.items():
            assert f"{name}: {count} unit{'' if count == 1 else 's'}. Show them." in bars
        label = page.locator(".profile svg").get_attribute("aria-label")
        assert label is not None
        assert re.search(r"from 0\.300 to 0\.000; 9 of 12 lie above 0\.04", label)
        widths = {name: page.locator(f'.bar[aria-label^="{name}: "] .fill').bounding_box() for name in ("red", "wheel")}
        assert all(widths.values())


def test_units_are_sorted(browser: Browser, report: Path) -> None:
    scores = arrays_of(UNITS).iou.max(axis=1)
    with opened(browser, report) as page:
        assert units(page) == sorted(range(UNITS), key=lambda unit: (-round(scores[unit], 6), unit))
        page.select_option("#sort", "unit")
        assert units(page) == list(range(UNITS))
        page.select_option("#sort", "label")
        shown = titles(page)
        assert shown[-2:] == ["no label", "no label"]
        assert shown[:-2] == page.evaluate("names => names.sort((a, b) => a.localeCompare(b, 'en'))", shown[:-2])


def test_units_are_filtered(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.fill("#search", "WHEEL")
        assert set(titles(page)) == {"wheel"}
        assert page.locator("#status").inner_text() == f"{len(units(page))} of 12 units"
        page.fill("#search", "7")
        assert units(page) == [7]
        page.fill("#search", "nothing like it")
        assert units(page) == []
        page.click("#reset")
        assert len(units(page)) == UNITS
        page.select_option("#category", "0")
        assert set(titles(page)) <= {"red", "sky blue"}
        page.select_option("#show", "detectors")
        assert all(unit % 6 in {0, 1} for unit in units(page))
        page.select_option("#category", "")
        assert sorted(units(page)) == [0, 1, 3, 4, 6, 7, 8, 10, 11]
        page.select_option("#show", "saturated")
        assert units(page) == [2]
        page.select_option("#show", "unlabelled")
        assert units(page) == [2, 5]
        page.click("#show-saturated")
        expect(page.locator("#show")).to_have_value("saturated")


def test_a_bar_shows_the_units_behind_it(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.locator('.bar[aria-label^="red: "]').click()
        expect_units(page, [0, 6])
        expect(page.locator("#clear-concept")).to_have_text(re.compile("^red"))
        page.click("#clear-concept")
        expect(page.locator(".card:not([hidden])")).to_have_count(UNITS)
        page.locator('.bar[aria-label^="wheel: "]').focus()
        page.keyboard.press("Enter")
        expect_units(page, [4, 10])


def test_everything_can_be_done_from_the_keyboard(browser: Browser, report: Path) -> None:
    with opened(browser, report, viewport={"width": 1280, "height": 900}) as page:
        page.select_option("#sort", "unit")
        page.locator("h1").click()
        page.keyboard.press("/")
        expect_focus(page, "search")
        page.keyboard.type("wheel")
        expect_units(page, [4, 10])
        page.keyboard.press("Escape")
        expect(page.locator(".card:not([hidden])")).to_have_count(UNITS)
        expect(page.locator("#search")).to_have_value("")
        page.locator("#sort").focus()
        page.keyboard.press("Tab")
        expect_focus(page, "unit-0")
        page.keyboard.press("ArrowRight")
        expect_focus(page, "unit-1")
        page.keyboard.press("ArrowDown")
        columns = page.evaluate(
            "getComputedStyle(document.getElementById('cards')).gridTemplateColumns.split(' ').length"
        )
        expect_focus(page, f"unit-{1 + columns}")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        expect_focus(page, "unit-0")
        page.keyboard.press("End")
        expect_focus(page, "unit-11")
        page.keyboard.press("Home")
        page.keyboard.press("Enter")
        expect(page.locator("#lightbox")).to_be_visible()
        expect(page.locator("#lightbox-title")).to_have_text("Unit 0: red")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#image-count")).to_have_text("2 / 5")
        page.keyboard.press("ArrowDown")
        expect(page.locator("#lightbox-title")).to_have_text("Unit 1: sky blue")
        expect(page.locator("#image-count")).to_have_text("1 / 5")
        assert page.evaluate("location.hash") == "#unit-1"
        page.keyboard.press("m")
        expect(page.locator("#toggle-mark")).to_have_attribute("aria-pressed", "false")
        page.keyboard.press("Escape")
        expect(page.locator("#lightbox")).to_be_hidden()
        expect_focus(page, "unit-1")


def test_an_address_opens_a_unit(browser: Browser, report: Path) -> None:
    with opened(browser, report, "#unit-7") as page:
        assert page.locator("#lightbox-title").inner_text() == "Unit 7: sky blue"
        details = page.locator("#lightbox-details").inner_text()
        assert "street/021 <b>.jpg" in details
        assert "50.0 % of the image" in details
        assert re.search(r"largest value\s+9", details)
        page.click("#next-image")
        assert "nothing lies above the threshold" in page.locator("#lightbox-details").inner_text()


@pytest.mark.parametrize("scale", [1, 2])
def test_masks_lie_where_they_belong(browser: Browser, report: Path, scale: int) -> None:
    with opened(browser, report, device_scale_factor=scale) as page:
        first = "#unit-0 .shot:nth-child(1) canvas"
        page.locator("#unit-0").scroll_into_view_if_needed()
        assert pixel(page, first, 0.2, 0.5) == pytest.approx(INSIDE, abs=6)
        veil = 158 / 255
        dimmed = [round(GRAY * (1 - veil) + part * veil) for part in (10, 14, 15)]
        assert pixel(page, first, 0.8, 0.5) == pytest.approx(dimmed, abs=6)
        red, green, blue = pixel(page, first, 0.5, 0.5)
        assert red > 200
        assert green > 170
        assert blue < 150  # the outline is yellow
        # The second image has an empty mask: it is left as it is.
        assert pixel(page, "#unit-0 .shot:nth-child(2) canvas", 0.8, 0.5) == pytest.approx((GRAY,) * 3, abs=6)

        page.locator("#unit-0 .card-head").click()
        large = "#lightbox-picture"
        assert pixel(page, large, 0.3, 0.3) == pytest.approx(INSIDE, abs=6)
        assert pixel(page, large, 0.9, 0.1) == pytest.approx(dimmed, abs=6)
        page.click("#toggle-mark")
        deadline = time.monotonic() + 10
        while pixel(page, large, 0.9, 0.1)[0] < 150 and time.monotonic() < deadline:
            page.wait_for_timeout(20)
        assert pixel(page, large, 0.9, 0.1) == pytest.approx((GRAY,) * 3, abs=6)


def test_a_click_on_an_image_enlarges_that_image(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.locator("#unit-6 .shot").nth(2).click()
        assert page.locator("#image-count").inner_text() == "3 / 5"
        page.locator("#lightbox").click(position={"x": 5, "y": 5})
        page.mouse.click(3, 3)
        assert not page.locator("#lightbox").is_visible()


def test_an_image_that_is_gone_is_said(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        assert page.locator(".shot.missing").count() > 0
        assert page.locator("#unit-3 .shot").count() == EXAMPLES - 1


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("name", ["report", "examples_report"])
def test_nothing_sticks_out_of_a_narrow_window(
    browser: Browser, request: pytest.FixtureRequest, name: str, width: int
) -> None:
    path = request.getfixturevalue(name)
    with opened(browser, path, viewport={"width": width, "height": 700}) as page:
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) == 0
        for details in page.locator("details").all():
            details.evaluate("element => element.open = true")
        assert page.evaluate(overflow) == 0
        page.locator("#unit-1 .card-head").click()
        box = page.locator("#lightbox").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert page.evaluate("(d => d.scrollWidth - d.clientWidth)(document.getElementById('lightbox'))") == 0
        close = page.locator("#close-lightbox").bounding_box()
        assert close is not None
        assert 0 <= close["y"] < 700


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_have_enough_contrast_in_both_schemes() -> None:
    style = (files("ortoscope.report") / "templates" / "report.css").read_text()
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w+);", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    )
    for scheme in (light, dark):
        colours = {
            name: "#" + "".join(c * 2 for c in value[1:]) if len(value) == 4 else value
            for name, value in scheme.items()
        }

        def contrast(one: str, other: str, colours: dict[str, str] = colours) -> float:
            low, high = sorted((luminance(colours[one]), luminance(colours[other])))
            return (high + 0.05) / (low + 0.05)

        for ground in ("paper", "card", "notice"):
            for text in ("ink", "soft", "accent"):
                assert contrast(text, ground) >= 4.5, (text, ground)
        for number in range(8):
            assert contrast(f"k{number}", "card") >= 3
            assert contrast(f"k{number}", "paper") >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_follows_the_readers_colour_scheme(browser: Browser, report: Path, scheme: str) -> None:
    with opened(browser, report, color_scheme=scheme) as page:
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(re.findall(r"\d+", ground)[0])
        assert (red > 128) == (scheme == "light")


@pytest.mark.parametrize("name", ["report", "examples_report"])
def test_everything_that_can_be_used_has_a_name(browser: Browser, request: pytest.FixtureRequest, name: str) -> None:
    with opened(browser, request.getfixturevalue(name)) as page:
        page.locator("#unit-1 .card-head").click()
        page.wait_for_selector("#lightbox-picture[data-drawn]")
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, a, input, select, canvas[role=img], svg[role]")]
                .filter((e) => !e.hidden && !e.getAttribute("aria-label"))
                .filter((e) => !e.textContent.trim() && !e.closest("label")?.textContent.trim())
                .map((e) => e.outerHTML.slice(0, 80))"""
        )
        assert nameless == []
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.locator("h1").count() == 1


def test_a_wide_layer_stays_manageable(browser: Browser, tmp_path: Path) -> None:
    """1280 units of five images each, all different: below 25 MB, and only what is near the window is drawn."""
    count = 1280
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    small = Image.fromarray(noise.astype(np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=68)
    pictures = {index: Thumbnail(buffer.getvalue(), 96, 96, Frame()) for index in range(count * EXAMPLES)}
    assert 16_000_000 < len(buffer.getvalue()) * len(pictures) < 17_000_000  # as much as a page ever carries
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (count * EXAMPLES, 7, 7)).astype(np.uint8)
    masks = np.array(
        [np.asarray(Image.fromarray(m).resize((112, 112), Image.Resampling.BILINEAR)) > 200 for m in coarse]
    )
    top = TopImages(
        np.arange(count * EXAMPLES).reshape(count, EXAMPLES),
        np.ones((count, EXAMPLES), np.float32),
        np.packbits(masks.reshape(count, EXAMPLES, -1), axis=-1),
        np.array([112, 112]),
    )
    page_text = render_dissection(dissection_of(count), arrays_of(count), top, Sources(TAP, pictures, {}))
    assert len(page_text) < 25_000_000
    path = tmp_path / "index.html"
    path.write_text(page_text, encoding="utf-8")
    with opened(browser, path) as page:
        assert len(units(page)) == count
        page.wait_for_timeout(300)
        for _ in range(3):
            page.mouse.wheel(0, 8000)
            page.wait_for_timeout(300)
        assert 0 < page.locator(".shot canvas").count() < 600


def test_sites_lie_where_they_belong(browser: Browser, examples_report: Path) -> None:
    with opened(browser, examples_report) as page:
        page.locator("#unit-3 .card-head").click()
        ring = "#lightbox-picture"
        page.wait_for_selector(f"{ring}[data-drawn]")
        side = page.evaluate("document.querySelector('#lightbox-picture').clientWidth")
        radius = max(5, side / 26) / side
        red, green, blue = pixel(page, ring, 0.25 + radius, 0.25)
        assert red > 200
        assert green > 170
        assert blue < 150
        assert pixel(page, ring, 0.25, 0.25) == pytest.approx(INSIDE, abs=6)
        assert pixel(page, ring, 0.75, 0.75) == pytest.approx((GRAY,) * 3, abs=6)


def test_what_the_model_does_not_see_is_dimmed_and_sites_lie_in_what_it_sees(
    browser: Browser, examples_report: Path
) -> None:
    """Image 1, the most activating of unit 1: the model sees its right half alone."""
    with opened(browser, examples_report, "#unit-1") as page:
        side = page.evaluate("document.querySelector('#lightbox-picture').clientWidth")
        radius = max(5, side / 26) / side
        red, green, _ = pixel(page, "#lightbox-picture", 0.5 + 0.125 + radius, 0.25)
        assert min(red, green) > 170
        assert max(pixel(page, "#lightbox-picture", 0.25, 0.75)) < 110
        assert pixel(page, "#lightbox-picture", 0.75, 0.75) == pytest.approx((GRAY,) * 3, abs=6)


def test_examples_are_sorted_searched_and_described(browser: Browser, examples_report: Path) -> None:
    with opened(browser, examples_report) as page:
        assert page.title() == "features.0 of net/3 on scenes · Examples"
        assert units(page) == list(range(UNITS))
        page.select_option("#sort", "largest")
        assert units(page) == list(range(UNITS))[::-1]
        page.select_option("#sort", "smallest")
        assert units(page) == list(range(UNITS))[::-1]
        page.fill("#search", "street/16.jpg")
        assert 11 in units(page)
        assert 0 not in units(page)
        page.fill("#search", "4")
        assert units(page) == [4]
        page.locator("#unit-4 .card-head").click()
        assert page.locator("#image-count").inner_text() == "1 / 12"
        details = page.locator("#lightbox-details").inner_text()
        assert "1 of the most activating" in details
        assert re.search(r"site\s+3, 3", details)
        for _ in range(6):
            page.keyboard.press("ArrowRight")
        assert "1 of the least activating" in page.locator("#lightbox-details").inner_text()


def test_a_unit_without_sites_has_no_mark(browser: Browser, examples_report: Path) -> None:
    with opened(browser, examples_report, "#unit-0") as page:
        assert "site" not in page.locator("#lightbox-details").inner_text()
        assert pixel(page, "#lightbox-picture", 0.1, 0.1) == pytest.approx(INSIDE, abs=6)
