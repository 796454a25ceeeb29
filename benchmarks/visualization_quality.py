"""What visualizations come to on a real network: `python benchmarks/visualization_quality.py --keep FOLDER`.

Subject: EfficientNet-Lite0 of ORTOSCOPE_REFERENCE_DATA. Units are drawn once, not chosen: 20 channels each of an early,
a middle and a late tap (the last before and after it is capped at 6), and 20 classes. Each gets one picture by each
`--preset`. Everything is read off the 8-bit picture by a session of the network alone, with no code of visualizations
between, at two sizes: that of the picture itself, and that of the model (resized, as any picture would be). The bar is
the best of the 64 photographs there, shown to the network at the same size.

Pictures are kept in FOLDER as they are made, so that a run can be broken off and gone on with; `--sheet FILE` then
makes one picture of some of them.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from ortoscope_service.analysis.classes import find_classes
from ortoscope_service.analysis.visualization.loop import Seed, visualize
from ortoscope_service.analysis.visualization.objectives import Channel, ClassLogit, Objective
from ortoscope_service.analysis.visualization.presets import PRESETS, Preset
from ortoscope_service.analysis.visualization.program import Program
from ortoscope_service.graph.loading import serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.models.onboarding import prepare
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.sessions import Session, SessionConfig
from PIL import Image

TAPS = {
    "early": "add_140",
    "middle": "add_530",
    "late": "getitem_144",
    "capped": "hardtanh_32",
    "class": "logits",
}
"""Block 2 (24 channels), block 10 (112), the head before its ReLU6 (1280) and after it, the scores of 1000 classes."""

MODEL_SIZE = 224
MEAN, STD = 127.0, 128.0
FIRST_PICTURES = 4
"""Pictures that are made at once."""

GAP = 4
"""Pixels between the tiles of a sheet."""

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Reference:
    """The network by itself, and what it says of the photographs."""

    session: Session
    """From pixels of any size to all taps."""

    photos: tuple[Path, ...]
    """The photographs."""

    def read(self, pictures: Sequence[Image.Image], size: int) -> dict[str, Floats]:
        """Every unit's mean over sites, (pictures, units), by tap, for pictures squashed to a size."""
        found: dict[str, list[Floats]] = {tensor: [] for tensor in TAPS.values()}
        for picture in pictures:
            fitted = (
                picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BILINEAR)
            )
            pixels = (np.asarray(fitted, np.float32) - MEAN) / STD
            outputs = self.session.run({"image": np.moveaxis(pixels, -1, 0)[np.newaxis]})
            for tensor, rows in found.items():
                rows.append(outputs[tensor].reshape(*outputs[tensor].shape[:2], -1).mean(-1)[0])
        return {tensor: np.stack(rows) for tensor, rows in found.items()}

    def best(self, size: int) -> dict[str, Floats]:
        """The largest of every unit over all photographs, (units,), by tap."""
        read = self.read([Image.open(path).convert("RGB") for path in self.photos], size)
        return {tensor: rows.max(axis=0) for tensor, rows in read.items()}


def crops(picture: Image.Image, count: int = 64) -> list[Image.Image]:
    """Squares of a picture, a tenth to half as wide, about its centre; drawn once, and by no preset."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        side = rng.uniform(0.1, 0.5)
        left, top = np.clip(0.5 + rng.normal(0, 0.15, 2) - side / 2, 0, 1 - side)
        corners = np.array([left, top, left + side, top + side]) * picture.width
        found.append(picture.crop(tuple(np.rint(corners).astype(int).tolist())))
    return found


def squashed(picture: Image.Image, size: int) -> Image.Image:
    """A picture at a size, bilinear with antialiasing, as the model takes pictures; untouched if it has that size."""
    return picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BILINEAR)


def reference(version: ModelVersion, data: Path) -> Reference:
    """The network's session with free sizes."""
    part = trunk(version.load(), list(TAPS.values()))
    for node in part.graph:
        for output in node.outputs:
            output.shape = None
    part.graph.inputs[0].shape = ir.Shape(["n", 3, "height", "width"])
    session = Session(serialize(part), SessionConfig(intra_op_threads=1))
    return Reference(session, tuple(sorted((data / "photos").glob("*.jpg"))))


def chosen_units(version: ModelVersion, place: str, count: int) -> list[int]:
    """Units of a tap, drawn once for all: fewer are some of more."""
    tap = next(tap for tap in version.manifest.taps if tap.tensor == TAPS[place])
    units = tap.shape[tap.unit_axis]
    return sorted(np.random.default_rng(0).permutation(units)[:count].tolist())


def objective_of(place: str, unit: int) -> Objective:
    return ClassLogit(unit) if place == "class" else Channel(TAPS[place], unit)


def make(version: ModelVersion, preset: Preset, place: str, units: Sequence[int], keep: Path, threads: int) -> None:
    """Makes the pictures that are not there yet."""
    missing = [unit for unit in units if not stored(keep, preset.name, place, unit).with_suffix(".json").exists()]
    classes = find_classes(version) if place == "class" else None
    together = max(1, FIRST_PICTURES // preset.chain.views)
    for start in range(0, len(missing), together):
        some = missing[start : start + together]
        program = Program(
            version,
            preset.picture(),
            tuple(objective_of(place, unit) for unit in some),
            preset.chain,
            classes=classes,
            session=SessionConfig(intra_op_threads=threads),
        )
        began = time.perf_counter()
        result = visualize(program, preset.recipe, [Seed(0, unit) for unit in some])
        seconds = (time.perf_counter() - began) / len(some)
        for unit, picture, outcome in zip(some, result.pictures, result.outcomes, strict=True):
            path = stored(keep, preset.name, place, unit)
            Image.fromarray(np.moveaxis(np.rint(picture * 255).astype(np.uint8), 0, -1)).save(path)
            told = {
                "seconds": seconds,
                "objective": outcome.objective,
                "end": outcome.end.value,
                "steps": outcome.steps,
                "redirected": outcome.redirected,
            }
            path.with_suffix(".json").write_text(json.dumps(told) + "\n")
        print(f"{preset.name} {place} {some}: {seconds:.1f} s a picture", flush=True)


def stored(keep: Path, preset: str, place: str, unit: int) -> Path:
    return keep / f"{preset}-{place}-{unit:04d}.png"


def judge(version: ModelVersion, against: Reference, keep: Path, presets: Sequence[str], count: int) -> Iterator[str]:
    """What the pictures come to, as Markdown."""
    yield (
        "| preset | units | pictures | beat every photo, at their own size | at the model's size "
        "| median of picture / best photo | classified as their class, at the model's size | at their own size "
        "| s a picture |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    bars = {MODEL_SIZE: against.best(MODEL_SIZE)}
    for preset in presets:
        for place, tensor in TAPS.items():
            units = [
                unit
                for unit in chosen_units(version, place, count)
                if stored(keep, preset, place, unit).with_suffix(".json").exists()
            ]
            if not units:
                continue
            pictures = [Image.open(stored(keep, preset, place, unit)) for unit in units]
            own = pictures[0].size[0]
            if own not in bars:
                bars[own] = against.best(own)
            beaten, hits, ratios = {}, {}, np.zeros(0, np.float32)
            for size in (own, MODEL_SIZE):
                rows = against.read(pictures, size)[tensor]
                values = rows[range(len(units)), units]
                best = bars[size][tensor][units]
                beaten[size] = values > best
                if size == MODEL_SIZE:
                    ratios = values / best
                hits[size] = (rows.argmax(axis=1) == units) if place == "class" else None
            told = [json.loads(stored(keep, preset, place, u).with_suffix(".json").read_text()) for u in units]
            cells = [preset, f"{place}, `{tensor}`", str(len(units))]
            cells += [share(beaten[own]), share(beaten[MODEL_SIZE]), f"{np.median(ratios):.2f}"]
            cells += [share(hits[size]) for size in (MODEL_SIZE, own)]
            yield "| " + " | ".join([*cells, f"{np.median([one['seconds'] for one in told]):.1f}"]) + " |"
            if own > MODEL_SIZE:
                yield from judge_crops(against, pictures, units, tensor, bars[MODEL_SIZE], f"{preset} {place}")
            failed = [unit for unit, won in zip(units, beaten[MODEL_SIZE], strict=True) if not won]
            if failed:
                print(f"{preset} {place}: below the best photo at the model's size: {failed}", flush=True)


def judge_crops(
    against: Reference,
    pictures: Sequence[Image.Image],
    units: Sequence[int],
    tensor: str,
    bar: dict[str, Floats],
    what: str,
) -> Iterator[str]:
    """What crops of large pictures, each enlarged to the model's size, come to: a picture that was climbed by crops."""
    means, tops = [], []
    for picture, unit in zip(pictures, units, strict=True):
        rows = against.read(crops(picture), MODEL_SIZE)[tensor]
        means.append(float(rows[:, unit].mean() / bar[tensor][unit]))
        tops.append(float((rows.argmax(axis=1) == unit).mean()))
    yield f"{what}: mean of 64 crops / best photo {np.median(means):.2f}; unit is the largest in {np.median(tops):.0%}"


def share(flags: npt.NDArray[np.bool_] | None) -> str:
    return "" if flags is None else f"{int(flags.sum())} of {len(flags)} = {flags.mean():.0%}"


def sheet(keep: Path, tiles: Sequence[tuple[str, str, int]], columns: int, side: int, target: Path) -> None:
    """Writes some pictures (preset, place, unit) side by side, row by row, on white."""
    rows = -(-len(tiles) // columns)
    whole = Image.new("RGB", (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP), "white")
    for number, (preset, place, unit) in enumerate(tiles):
        row, column = divmod(number, columns)
        picture = Image.open(stored(keep, preset, place, unit))
        whole.paste(squashed(picture, side), (column * (side + GAP), row * (side + GAP)))
    whole.save(target, **({"quality": 88, "method": 6} if target.suffix == ".webp" else {"optimize": True}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["lucid"], choices=tuple(PRESETS), metavar="PRESET")
    parser.add_argument("--at", nargs="+", default=tuple(TAPS), choices=tuple(TAPS), metavar="PLACE")
    parser.add_argument("--units", type=int, default=20, help="units of each place")
    parser.add_argument("--steps", type=int, help="steps, instead of the preset's")
    parser.add_argument("--views", type=int, help="views of each picture, instead of the preset's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--only-judge", action="store_true", help="make no more pictures")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="make a sheet of --tiles")
    parser.add_argument("--tiles", nargs="+", default=(), metavar="PRESET:PLACE:UNIT")
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--side", type=int, default=128, help="pixels of a tile")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    if options.sheet is not None:
        tiles = [(preset, place, int(unit)) for preset, place, unit in (tile.split(":") for tile in options.tiles)]
        sheet(options.keep, tiles, options.columns, options.side, options.sheet)
        return
    data = os.environ.get("ORTOSCOPE_REFERENCE_DATA")
    if not data:
        raise SystemExit("ORTOSCOPE_REFERENCE_DATA is not set: there are no photographs to compare with")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(data) / "models" / "efficientnet_lite0.onnx"
        version = prepare(source, ModelRepository(Path(temporary)), mean=(MEAN,) * 3, std=(STD,) * 3).version
        names = []
        for name in options.preset:
            preset = PRESETS[name]
            if options.steps is not None:
                preset = replace(
                    preset,
                    name=f"{preset.name}-{options.steps}-steps",
                    recipe=replace(preset.recipe, steps=options.steps),
                )
            if options.views is not None:
                preset = replace(
                    preset,
                    name=f"{preset.name}-{options.views}-views",
                    chain=replace(preset.chain, views=options.views),
                )
            names.append(preset.name)
            for place in options.at:
                if not options.only_judge:
                    units = chosen_units(version, place, options.units)
                    make(version, preset, place, units, options.keep, options.threads)
        for line in judge(version, reference(version, Path(data)), options.keep, names, options.units):
            print(line, flush=True)


if __name__ == "__main__":
    main()
