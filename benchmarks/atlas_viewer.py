"""How smoothly the page of an atlas moves: `python benchmarks/atlas_viewer.py [--frames N] [--icons SIZE]`.

A page with levels of 20, 40, 80 and 160 cells along each side, drawn by formula, in a folder opened from the disk by a
headless Chromium that draws with the processor alone, in a window of 1400 x 900. The map is moved by 8 pixels a frame
around a circle; the time between two frames is what the browser tells its animations. With 60 frames a second or fewer
there is nothing to gain: Chromium draws no more. Prints frames per second (over the whole turn) and percentiles of the
time between frames, moved as the page does it (what came into view is drawn) and with everything drawn anew in each
frame; and the time from opening the page to the first whole map, all its sheets decoded.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "clients" / "python")]

from atlas_pages import layer_of, level_of  # noqa: E402 - the path is set above
from browser import chromium  # noqa: E402 - the path is set above
from ortoscope.report.atlas.page import AtlasPage, write_page  # noqa: E402 - the path is set above

WINDOW = {"width": 1400, "height": 900}
VIEWS = (
    ("160 x 160, icons of 32 pixels", "grid=160&zoom=6.3", False),
    ("160 x 160, icons of 32 pixels, drawn anew", "grid=160&zoom=6.3", True),
    ("160 x 160, icons of 64 pixels", "grid=160&zoom=12.6", False),
    ("160 x 160, icons of 64 pixels, drawn anew", "grid=160&zoom=12.6", True),
    ("160 x 160, icons of 10 pixels", "grid=160&zoom=2&density=7", False),
    ("160 x 160, icons of 10 pixels, drawn anew", "grid=160&zoom=2&density=7", True),
    ("160 x 160, icons of 32 pixels, a class", "grid=160&zoom=6.3&class=7", False),
    ("grid by the zoom (20 x 20), all in view", "zoom=1", False),
    ("grid by the zoom, all in view, one file", "zoom=1", False),
)

MOVE = """([frames, anew]) => new Promise((resolve) => {
    const { state, set } = Atlas.State;
    const [x, y] = [0.3, 0.5];
    const side = Atlas.Main.pane().side();
    const radius = Math.min(0.15, (8 * frames) / (2 * Math.PI) / side);
    const times = [];
    let frame = 0;
    const step = (now) => {
        times.push(now);
        if (frame++ === frames) return resolve(times);
        const angle = (frame * 8) / (radius * side);
        if (anew) Atlas.Main.pane().stale = true;
        set({ x: x + radius * Math.cos(angle), y: y + radius * Math.sin(angle) });
        requestAnimationFrame(step);
    };
    set({ x: x + radius, y });
    setTimeout(() => requestAnimationFrame(step), 1500);
})"""


def measured(page: Page, frames: int, anew: bool) -> str:
    """Frames per second, and the time between frames in milliseconds."""
    intervals = np.diff(page.evaluate(MOVE, [frames, anew]))
    median, high = np.percentile(intervals, [50, 95])
    return f"{1000 * len(intervals) / intervals.sum():5.1f} frames/s | median {median:5.1f} ms | 95 % {high:5.1f} ms"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--icons", type=int, default=80, help="pixels along each side of an icon")
    arguments = parser.parse_args()
    labels = [f"class {index}" for index in range(40)]
    layer = layer_of("blocks.10", [level_of(grid, size=arguments.icons) for grid in (20, 40, 80, 160)], labels)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        began = time.perf_counter()
        path = write_page(AtlasPage("Atlas", [layer]), Path(folder) / "atlas")
        size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
        print(f"{len(layer.levels[-1].cells['row'])} icons on the finest level; {size / 1e6:.1f} MB, "
              f"written in {time.perf_counter() - began:.1f} s")  # fmt: skip
        file = write_page(AtlasPage("Atlas", [layer]), Path(folder) / "atlas.html")
        for name, fragment, anew in VIEWS:
            page = browser.new_context(viewport=WINDOW, device_scale_factor=1).new_page()
            began = time.perf_counter()
            shown = file if name.endswith("one file") else path
            page.goto(f"{shown.as_uri()}#{fragment}", wait_until="commit")
            page.wait_for_selector("body[data-still]")
            opened = time.perf_counter() - began
            print(f"{name:45} | {measured(page, arguments.frames, anew)} | open after {opened:.2f} s", flush=True)
            page.context.close()


if __name__ == "__main__":
    main()
