"""What icons of an activation atlas cost and reach: `python benchmarks/atlas_icons.py`.

EfficientNet-Lite0's block 10 (112 channels): activations of photographs at every place but the border, laid out and cut
into 20 x 20 cells, and an icon climbed for each of them from noise. Then some cells of the level of 40 x 40, once from
their parents' icons, once from noise with as many steps, and once from noise as on the first level. Times are of the
climbs alone, in one process. A score is the whitened cosine between what the finished picture causes at the tap's
centre and the mean of its cell.

Subject and pictures: those of ORTOSCOPE_REFERENCE_DATA.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ortoscope_service.analysis.atlas.grid import cell_ids
from ortoscope_service.analysis.atlas.icon_space import IconSpace
from ortoscope_service.analysis.atlas.icons import (
    IconBatch,
    Icons,
    IconSettings,
    icon_preset,
    icons_at_once,
    shared_icons,
)
from ortoscope_service.analysis.atlas.layout import LayoutSettings, lay_out
from ortoscope_service.graph.loading import serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.models.onboarding import prepare
from ortoscope_service.models.repository import ModelRepository, ModelVersion
from ortoscope_service.runtime.sessions import Session, SessionConfig
from ortoscope_service.statistics.second_moments import SecondMoments
from PIL import Image

GOAL_MINUTES, GOAL_CHEAPER = 20, 3
TAP, MEAN, STD, SIZE = "add_530", 127.0, 128.0, 224
GRID = 20
FULL = 290
"""Cells of 20 x 20 that the published atlases have."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """The cells of a grid that hold samples."""

    ids: NDArray[np.int64]
    """Row times grid plus column, ascending."""

    grid: int
    """Cells along each side."""

    count: NDArray[np.int64]
    """Samples of each."""

    means: Floats
    """Their mean activations."""

    @property
    def row(self) -> NDArray[np.int32]:
        """From the top."""
        return (self.ids // self.grid).astype(np.int32)

    @property
    def column(self) -> NDArray[np.int32]:
        """From the left."""
        return (self.ids % self.grid).astype(np.int32)


def activations(version: ModelVersion, folder: Path, pictures: int, session: SessionConfig) -> Floats:
    """(N, C): every place of the tap's map but the border, of some pictures."""
    files = sorted((folder / "photos").glob("*.jpg")) + sorted((folder / "minibroden224" / "images").rglob("*.jpg"))
    network = Session(serialize(trunk(version.load(), [TAP])), session)
    rows = []
    for file in files[:pictures]:
        picture = Image.open(file).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        pixels = np.moveaxis((np.asarray(picture, np.float32) - MEAN) / STD, -1, 0)[np.newaxis]
        (found,) = network.run({network.inputs[0].name: pixels})[TAP]
        rows.append(found[:, 1:-1, 1:-1].reshape(len(found), -1).T)
    return np.concatenate(rows)


def level_of(samples: Floats, position: Floats, grid: int) -> Level:
    """The level of a grid."""
    own = cell_ids(position, grid)
    ids, place, count = np.unique(own, return_inverse=True, return_counts=True)
    sums = np.zeros((len(ids), samples.shape[1]))
    np.add.at(sums, place, samples)
    return Level(ids.astype(np.int64), grid, count.astype(np.int64), (sums / count[:, None]).astype(np.float32))


def climb(
    prepared: Callable[[Sequence[int]], IconBatch],
    starts: dict[str, Floats] | None,
    count: int,
    together: int,
) -> tuple[Icons, float]:
    """The icons of some cells, and seconds for each."""
    parts: list[Icons] = []
    began = time.perf_counter()
    for first in range(0, count, together):
        chosen = range(first, min(first + together, count))
        own = None if starts is None else {name: tensor[chosen.start : chosen.stop] for name, tensor in starts.items()}
        parts.append(prepared(chosen).run(own))
    seconds = time.perf_counter() - began
    return Icons.joined(parts), seconds / count


def page(level: Level, icons: Icons, rows: NDArray[np.int64]) -> Image.Image:
    """The icons in their places."""
    side = icons.picture.shape[1]
    canvas = np.full((level.grid * side, level.grid * side, 3), 255, np.uint8)
    for number, icon in zip(rows, icons.picture, strict=True):
        top, left = int(level.row[number]) * side, int(level.column[number]) * side
        canvas[top : top + side, left : left + side] = icon
    return Image.fromarray(canvas)


def tell(what: str, icons: Icons, seconds: float) -> None:
    """A line of the table."""
    represent = f"{int(icons.represents.sum())} of {len(icons.score)}"
    spread = " … ".join(f"{value:.2f}" for value in np.quantile(icons.score, [0.1, 0.5, 0.9]))
    print(f"| {what} | {len(icons.score)} | {seconds:.2f} s | {spread} | {represent} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=704)
    parser.add_argument("--cells", type=int, default=0, help="cells of the first level, drawn at random; 0 for all")
    parser.add_argument("--children", type=int, default=64, help="cells of the second level")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=Path, help="where to write the first level as a PNG")
    options = parser.parse_args()
    if "ORTOSCOPE_REFERENCE_DATA" not in os.environ:
        print("left out: ORTOSCOPE_REFERENCE_DATA names no folder of reference data")
        return
    session, settings = SessionConfig(intra_op_threads=options.threads), IconSettings()
    reference, rng = Path(os.environ["ORTOSCOPE_REFERENCE_DATA"]), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        model = reference / "models" / "efficientnet_lite0.onnx"
        version = prepare(model, ModelRepository(Path(temporary)), mean=(MEAN,) * 3, std=(STD,) * 3).version
        samples = activations(version, reference, options.pictures, session)
        moments = SecondMoments(samples.shape[1])
        moments.update(samples)
        space = IconSpace.of(moments, whiten=settings.whiten, shrinkage=settings.shrinkage)
        position = lay_out(samples, LayoutSettings(), 0, threads=options.threads).position
        first, second = level_of(samples, position, GRID), level_of(samples, position, 2 * GRID)
        owner = shared_icons(first.means, first, space=space, settings=settings)
        print(f"{len(samples)} samples; {len(first.ids)} cells of {GRID} x {GRID}, {len(np.unique(owner))} icons.\n")
        print("| icons | how many | each | score, lowest 10 % … median … highest 10 % | represent their cell |")
        print("|---|---|---|---|---|")
        together = icons_at_once(icon_preset(settings))

        def batches(
            level: Level, cells: NDArray[Any], settings: IconSettings = settings
        ) -> Callable[[Sequence[int]], IconBatch]:
            return lambda chosen: IconBatch.prepare(
                version,
                TAP,
                level.means[cells[list(chosen)]],
                level.ids[cells[list(chosen)]].tolist(),
                seed=0,
                settings=settings,
                space=space,
                session=session,
            )

        chosen = np.arange(len(first.ids))
        if options.cells:
            chosen = np.sort(rng.permutation(chosen)[: options.cells])
        icons, seconds = climb(batches(first, chosen), None, len(chosen), together)
        tell(f"{GRID} x {GRID}, from noise", icons, seconds)
        if options.page:
            page(first, icons, chosen).save(options.page)
        # Children whose parent has an icon.
        above = second.row // 2 * GRID + second.column // 2
        places = {int(identity): place for place, identity in enumerate(first.ids[chosen])}
        known = np.array([number for number, parent in enumerate(above) if int(parent) in places])
        cells = np.sort(rng.permutation(known)[: options.children])
        parents = np.array([places[int(parent)] for parent in above[cells]])
        warm, warm_seconds = climb(batches(second, cells), icons.starts(parents), len(cells), together)
        tell(f"{2 * GRID} x {2 * GRID}, from their parents'", warm, warm_seconds)
        short = replace(settings, steps=settings.warm_steps, attempts=1)
        same, same_seconds = climb(batches(second, cells, short), None, len(cells), together)
        tell(f"{2 * GRID} x {2 * GRID}, from noise, {settings.warm_steps} steps", same, same_seconds)
        cold, cold_seconds = climb(batches(second, cells), None, len(cells), together)
        tell(f"{2 * GRID} x {2 * GRID}, from noise", cold, cold_seconds)
    minutes, ratio = FULL * seconds / 60, cold_seconds / warm_seconds
    print(f"\n{FULL} icons of {GRID} x {GRID}: {minutes:.1f} minutes (goal: {GOAL_MINUTES}).")
    print(f"From a parent's icon: {ratio:.1f} x cheaper (goal: {GOAL_CHEAPER}),", end=" ")
    print(f"mean score {warm.score.mean() / cold.score.mean():.3f} x that from noise.")


if __name__ == "__main__":
    main()
