"""The README's picture: an activation atlas of EfficientNet-Lite0.

    python benchmarks/atlas_picture.py --images photos/ --images more/ --work scratch/ --page atlas.html

It serves the zoo's model and the images of the folders, builds an atlas through the client, and draws its icons,
smaller where a cell has few samples; with `--crops FILE` also the real crop closest to each cell's mean, to compare.
`make demo` must have prepared the model before. The layout is t-SNE's (openTSNE, in the extra `atlas`), which with some
thousand samples of a few hundred images keeps more neighbours than UMAP's.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ortoscope
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / ".cache" / "demo" / "models"
PICTURE = ROOT / "docs" / "images" / "activation-atlas.webp"
ENDINGS = {".jpg", ".jpeg"}


def main() -> None:
    """Builds the atlas and writes the picture, and the page if one is named."""
    options = _options()
    data = options.work / "datasets" / "pictures"
    _gather(options.images, data)
    with _server(options.models, options.work) as target, ortoscope.connect(target) as scope:
        atlas = scope.atlas(options.atlas) if options.atlas else _build(scope, options)
        print(atlas)
        quality = atlas.quality
        print(f"trustworthiness {quality.trustworthiness:.3f}, recall {quality.neighbourhood_recall:.3f}")
        print(*atlas.remarks, sep="\n")
        level = atlas.level()
        represented = level.arrays.represents
        if represented is not None:
            print(f"{int(represented.sum())} of {level.cell_count} icons represent their cells")
        if options.page is not None:
            print(atlas.save(options.page))
        side = options.side // level.grid
        maps = {options.output: level.image(size=side, by_count=True)}
        if options.crops is not None:
            maps[options.crops] = level.image(size=side, crops=True)
    for file, drawn in maps.items():
        canvas = Image.new("RGB", drawn.size, "white")
        canvas.paste(drawn, (0, 0), drawn)
        file.parent.mkdir(parents=True, exist_ok=True)
        canvas.save(file, "WEBP", quality=options.quality, method=6)
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def _build(scope: ortoscope.Ortoscope, options: argparse.Namespace) -> ortoscope.Atlas:
    started = time.monotonic()
    operation = (
        scope.model("efficientnet-lite0")
        .tap(options.tap)
        .atlas(
            "pictures",
            grids=options.grid,
            sites_per_image=options.sites,
            seed=options.seed,
            settings={"layout.method": "tsne"},
        )
    )
    print(operation.name, flush=True)
    atlas = operation.result(progress=True)
    print(f"{time.monotonic() - started:.0f} s")
    return atlas


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, action="append", required=True, help="a folder of JPEGs; several times")
    parser.add_argument("--models", type=Path, default=MODELS, help="the folder of model packages")
    parser.add_argument("--work", type=Path, required=True, help="a folder for images and results; kept")
    parser.add_argument("--atlas", default="", help="the name of an atlas that an earlier run built: only draw it")
    parser.add_argument("--page", type=Path, help="where the page goes")
    parser.add_argument("--output", type=Path, default=PICTURE)
    parser.add_argument("--crops", type=Path, help="where the map of real crops goes")
    parser.add_argument("--tap", default="blocks.10")
    parser.add_argument("--grid", type=int, nargs="+", default=[7, 14])
    parser.add_argument("--sites", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=896, help="pixels along each side of a map")
    parser.add_argument("--quality", type=int, default=80)
    return parser.parse_args()


def _gather(folders: list[Path], data: Path) -> None:
    """Copies the images of all folders into one, each under a number, unless it is there already."""
    if data.exists():
        return
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix.lower() in ENDINGS]
    data.mkdir(parents=True)
    for number, path in enumerate(files):
        shutil.copyfile(path, data / f"{number:04d}{path.suffix.lower()}")


@contextlib.contextmanager
def _server(models: Path, work: Path) -> Iterator[str]:
    """A server on a free port; yields its target and stops it cleanly."""
    log = work / "server.log"
    folders = [f"--models={models}", f"--datasets={work / 'datasets'}", f"--store={work / 'store'}"]
    command = [sys.executable, "-m", "ortoscope_service", "serve", *folders, "--listen", "127.0.0.1:0"]
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=sink, env=os.environ)
    try:
        while not (found := re.search(r"^listening on (\S+)\n", log.read_text(encoding="utf-8"), re.MULTILINE)):
            if process.poll() is not None:
                raise SystemExit(f"The server ended: {log}")
            time.sleep(0.1)
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


if __name__ == "__main__":
    main()
