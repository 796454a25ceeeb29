"""The commands `ortoscope text` and `ortoscope optimal-input` against a real server, and their pages in a browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ortoscope
import pytest
from browser import chromium, opened
from command_line import run, run_json
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.onboarding import prepare_zoo
from ortoscope_service.models.repository import ModelRepository
from playwright.sync_api import Browser, Page, expect
from sequence_models import FEATURES, WEIGHTS, depths, linear, quoted, running_sequence_server
from serving import add_model, serving

TEXT = 'he said "a (small) story" and ((left)).\nno more "words" here.\n'
QUOTATION = '"[^"]*"'


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_sequence_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    return path


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    rows = np.random.default_rng(0).normal([40, 3000, 0, 5], [12, 900, 2, 1], (60, 4))
    np.savetxt(path, rows, delimiter=",", header=",".join(FEATURES), comments="")
    return path


@pytest.fixture(scope="module")
def page_file(target: str, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "text.html"
    shown = run(
        "text", "counter", text_file, "--tap", "lstm.cell", "--mark", QUOTATION, "-o", path, "--target", target
    ).stdout
    assert shown.endswith(f"Saved {path}\n")
    return path


def in_quotations() -> np.ndarray:
    """For each character whether it is quoted or a quotation mark."""
    inside = np.zeros(len(TEXT), bool)
    for match in re.finditer(QUOTATION, TEXT):
        inside[match.start() : match.end()] = True
    return inside


def colours(page: Page) -> list[tuple[int, ...]]:
    found = page.eval_on_selector_all("#text > span", "spans => spans.map(span => span.style.backgroundColor)")
    return [tuple(map(int, re.findall(r"\d+", colour))) for colour in found]


def expected_colours(values: np.ndarray) -> np.ndarray:
    """White at 0; towards orange above and blue below by tanh."""
    share = np.tanh(values)[:, None]
    full = np.where(share < 0, [67, 147, 229], [242, 142, 43])
    return np.asarray(255 + (full - 255) * np.abs(share))


def test_the_command_lists_the_units_that_tell_marked_places(target: str, text_file: Path) -> None:
    data = run_json(
        "text", "counter", text_file, "--tap", "lstm.cell", "--mark", QUOTATION, "--json", "--target", target
    )
    assert [entry["unit"] for entry in data["units"]] == [1, 0]
    for entry in data["units"]:
        values = (depths(TEXT), quoted(TEXT))[entry["unit"]]
        assert entry["follows"] == pytest.approx(np.corrcoef(values, in_quotations())[0, 1], abs=1e-6)
        assert (entry["low"], entry["high"]) == pytest.approx((values.min(), values.max()), abs=1e-6)
    lines = run("text", "counter", text_file, "--tap", "lstm.cell", "--target", target).stdout.splitlines()
    assert lines[0].split() == ["unit", "least", "largest", "deviation"]
    assert lines[1].split()[0] == "1"


def test_the_command_tells_the_windows_of_a_unit(target: str, text_file: Path, tmp_path: Path) -> None:
    words = ("text", "counter", text_file, "--tap", "lstm.cell", "--unit", "0", "--target", target)
    lines = run(*words, "--top", "1").stdout.splitlines()
    assert lines[1].split()[:2] == [str(TEXT.index("((") + 1), "2"]
    data = run_json(*words, "--json")
    np.testing.assert_allclose(data["values"], depths(TEXT), atol=1e-6)
    assert data["most"][0]["value"] == 2
    run(*words, "-o", tmp_path / "arrays.npz")
    with np.load(tmp_path / "arrays.npz") as arrays:
        np.testing.assert_allclose(arrays["values"][:, 1], quoted(TEXT), atol=1e-6)
        assert "".join(arrays["pieces"]) == TEXT


def test_wrong_usage_of_text_is_told(target: str, text_file: Path, tmp_path: Path) -> None:
    words = ("text", "counter", text_file, "--tap", "lstm.cell", "--target", target)
    assert "neither in .html nor in .npz" in " ".join(run(*words, "-o", "x.png", code=2).stderr.split())
    assert "no regular expression" in run(*words, "--mark", "(", code=2).stderr
    assert "UNIT_UNKNOWN" in run(*words, "--unit", "2", code=1).stderr
    other = tmp_path / "other.txt"
    other.write_bytes(b"\xff\xfe")
    assert "no UTF-8" in run("text", "counter", other, "--tap", "lstm.cell", "--target", target, code=2).stderr


def test_the_page_colours_the_text_by_the_unit_that_follows_quotations(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        assert page.inner_text("#title-unit") == "1"
        np.testing.assert_allclose(colours(page), expected_colours(quoted(TEXT)), atol=1)
        assert (page.text_content("#text") or "").replace("↵", "") == TEXT
        expect(page.locator("#unit option").first).to_have_text(re.compile(r"^1: -1 … 1\s+r = 0\.\d\d$"))
        expect(page.locator("#status")).to_have_text("2 places marked")
        inside = [bool(re.search("marked", name)) for name in page.eval_on_selector_all(
            "#text > span", "spans => spans.map(span => span.className)")]  # fmt: skip
        assert inside == in_quotations().tolist()


def test_units_change_by_key_fragment_and_list(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file, "#unit-0") as page:
        np.testing.assert_allclose(colours(page), expected_colours(depths(TEXT)), atol=1)
        page.keyboard.press("[")
        assert page.inner_text("#title-unit") == "1"
        assert page.evaluate("location.hash") == "#unit-1"
        page.keyboard.press("]")
        assert page.inner_text("#title-unit") == "0"
        page.select_option("#unit", "1")
        np.testing.assert_allclose(colours(page), expected_colours(quoted(TEXT)), atol=1)
        page.select_option("#unit", "0")
        page.select_option("#colour", "relative")
        full = colours(page)[TEXT.index("((") + 1]
        assert full == (242, 142, 43)


def test_a_character_is_told_by_mouse_and_keys_and_extracts_lead_to_it(browser: Browser, page_file: Path) -> None:
    with opened(browser, page_file, "#unit-0") as page:
        page.focus("#text")
        page.keyboard.press("End")
        expect(page.locator("#now")).to_contain_text(f"at line feed, position {len(TEXT) - 1} of {len(TEXT)}, unit 0")
        page.keyboard.press("ArrowUp")
        at = page.evaluate("Number(document.querySelector('#text > span.at').dataset.at)")
        assert at <= TEXT.index("\n")
        page.locator("#most button").first.click()
        expect(page.locator("#now")).to_contain_text("2at (, position " + str(TEXT.index("((") + 1))
        page.hover(f"#text > span[data-at='{TEXT.index('(small') + 2}']")
        expect(page.locator("#now")).to_contain_text("1at m")
        page.keyboard.press("/")
        page.keyboard.type("[(")
        expect(page.locator("#mark")).to_have_attribute("aria-invalid", "true")
        page.fill("#mark", r"\(")
        expect(page.locator("#status")).to_have_text("3 places marked")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_is_readable_at_any_width(browser: Browser, page_file: Path, scheme: str) -> None:
    with opened(browser, page_file, viewport={"width": 390, "height": 800}, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.eval_on_selector("#text", "text => getComputedStyle(text).color") == "rgb(17, 17, 17)"


def test_the_optimal_input_is_told_and_drawn(browser: Browser, target: str, table_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "optimal.html"
    words = ("optimal-input", "linear", "--class", "bad", "--data", table_file, "--starts", "2", "--target", target)
    shown = run(*words, "-o", path).stdout.splitlines()
    assert shown[0].startswith("the logit of class 1 (bad): ")
    assert re.split("  +", shown[1]) == ["feature", "optimum", "median", "percentile", "at bound", "lost"]
    assert shown[2].split()[0] == "income"
    data = run_json(*words, "--json")
    rows = np.loadtxt(table_file, delimiter=",", skiprows=1)
    best = np.where(WEIGHTS < 0, rows.max(axis=0), rows.min(axis=0))
    values = [feature["value"] for feature in data["features"]]
    np.testing.assert_allclose(values[:3], best[:3], rtol=1e-6)
    with opened(browser, path) as page:
        names = page.eval_on_selector_all("#features th", "cells => cells.map(cell => cell.firstChild.textContent)")
        assert names[0] == "income"
        page.select_option("#sort", "order")
        assert page.inner_text("#features tr:first-child td:nth-of-type(2)") == f"{values[0]:.4g}"
        circles = page.eval_on_selector_all("#features circle", "marks => marks.map(mark => mark.getAttribute('cx'))")
        assert circles[:3] == ["2.0%", "98.0%", "2.0%"]
        assert page.get_by_text("at the upper bound").count() == 1


def test_the_examples_of_the_guide_run(tmp_path: Path, table_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ModelRepository(tmp_path / "models")
    prepare_zoo("character-lstm", models)
    add_model(models, "credit", linear(), class_labels=("good", "default"))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "sample.txt").write_text(TEXT)
    names, *rows = table_file.read_text().splitlines()
    table = [f"{names},label", *(f"{row},1" for row in rows)]
    (tmp_path / "train.csv").write_text("\n".join(table))
    monkeypatch.chdir(tmp_path)
    config = ServerConfig(
        models=tmp_path / "models", datasets=tmp_path / "datasets", store=tmp_path / "store", listen="127.0.0.1:0"
    )
    guide = (Path(__file__).resolve().parents[2] / "docs/text-and-tables.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    with serving(config) as (server, _), ortoscope.connect(server.address) as scope:
        given: dict[str, object] = {"scope": scope}
        for block in blocks:
            exec(compile(block, "text-and-tables.md", "exec"), given)
    assert (tmp_path / "text.html").is_file()
    assert (tmp_path / "optimal.html").is_file()


def test_wrong_usage_of_optimal_input_is_told(target: str, table_file: Path) -> None:
    words = ("optimal-input", "linear", "--data", table_file, "--target", target)
    assert "either --class, or --tap" in " ".join(run(*words, code=2).stderr.split())
    assert "which unit" in run(*words, "--tap", "scores", code=2).stderr
    assert "not two numbers" in run(*words, "--class", "0", "--within", "1", code=2).stderr
    assert "no bound" in run(*words, "--class", "0", "--bound", "age", code=2).stderr
    assert "UNKNOWN_CLASS" in run(*words, "--class", "nobody", code=1).stderr
