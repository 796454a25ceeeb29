"""Reports as the client saves them from a real server, opened in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import ortoscope
import pytest
from browser import chromium, opened
from client_server import running_server
from ortoscope.messages import RUN_FIELDS
from ortoscope.v1 import provenance_pb2
from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> dict[str, Path]:
    """A dissection of a map of 8 x 12 labelled images, and examples of it on photographs."""
    root = tmp_path_factory.mktemp("server")
    with running_server(root) as target, ortoscope.connect(target) as scope:
        tap = next(tap for tap in scope.model("cnn").taps() if len(tap.site_axes) == 2)
        tap.dissect("labelled", top_fraction=0.2).result(timeout=60).save(root / "dissection")
        tap.examples("photos", count=3).result(timeout=60).save(root / "examples")
        tap.examples("été 100%").result(timeout=60).save(root / "one image")
    return {name: root / name / "index.html" for name in ("dissection", "examples", "one image")}


@pytest.mark.parametrize(("name", "shots"), [("dissection", 4), ("examples", 6), ("one image", 2)])
def test_a_saved_report_draws_every_image(browser: Browser, folders: dict[str, Path], name: str, shots: int) -> None:
    with opened(browser, folders[name]) as page:
        cards = page.locator(".card")
        assert cards.count() >= 4
        cards.first.locator("canvas").nth(shots - 1).wait_for()
        assert cards.first.locator("canvas[data-drawn]").count() == shots
        assert page.locator(".shot.missing").count() == 0


def test_a_saved_report_tells_every_field_of_its_provenance_that_is_not_of_the_run(
    browser: Browser, folders: dict[str, Path]
) -> None:
    for name in ("dissection", "examples"):
        with opened(browser, folders[name]) as page:
            terms = page.locator(".provenance dt").all_text_contents()
            fields = {field.name for field in provenance_pb2.Provenance.DESCRIPTOR.fields} - set(RUN_FIELDS)
            assert {field.replace("_", " ") for field in fields} <= set(terms)
            assert not {field.replace("_", " ") for field in RUN_FIELDS} & set(terms)
            command = page.locator(".provenance pre").inner_text()
            assert command.startswith(f"ortoscope {'dissect' if name == 'dissection' else 'examples'} cnn/2 --tap ")


def test_files_named_in_a_report_lie_beside_it(browser: Browser, folders: dict[str, Path]) -> None:
    for path in folders.values():
        with opened(browser, path) as page:
            links = page.eval_on_selector_all(".provenance a", "links => links.map((a) => a.getAttribute('href'))")
        assert links
        assert all((path.parent / link).is_file() for link in links)
