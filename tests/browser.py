"""The system's Chromium for the tests of pages, and what a page must never do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; skips the test if the system has none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium on this system (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, path: Path, fragment: str = "", *, folder: bool = False, **context: Any) -> Iterator[Page]:
    """A page opened from the disk. At the end it must not have complained, nor asked for anything but itself.

    Args:
        browser: The browser.
        path: The file.
        fragment: What follows it in the address.
        folder: Files beneath the folder of the page may be fetched too.
        context: Of the browser: size of the window, colour scheme.
    """
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_context(**context).new_page()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    try:
        page.goto(path.as_uri() + fragment)
        yield page
    finally:
        page.context.close()
    assert not complaints, complaints
    fetched = [url.partition("#")[0] for url in requests if not url.startswith(("data:", "blob:"))]
    if folder:
        fetched = [url for url in fetched if url == path.as_uri() or not url.startswith(path.parent.as_uri() + "/")]
    assert fetched == [path.as_uri()], fetched


def pixel(page: Page, canvas: str, x: float, y: float) -> tuple[int, int, int]:
    """The colour of a canvas at fractions of its width and height; the canvas must have been drawn."""
    page.wait_for_selector(f"{canvas}[data-drawn]")
    colour = page.evaluate(
        """([selector, x, y]) => {
            const canvas = document.querySelector(selector);
            const at = (fraction, extent) => Math.min(extent - 1, Math.floor(fraction * extent));
            const copy = document.createElement("canvas").getContext("2d");  // reading the original would slow it down
            copy.drawImage(canvas, -at(x, canvas.width), -at(y, canvas.height));
            return [...copy.getImageData(0, 0, 1, 1).data];
        }""",
        [canvas, x, y],
    )
    red, green, blue, alpha = colour
    assert alpha == 255
    return red, green, blue
