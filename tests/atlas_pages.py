"""Atlases drawn by formula, for the tests and the measurement of their page."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from ortoscope.report.atlas.page import AtlasLayer, LayerLevel
from ortoscope.v1 import atlases_pb2
from PIL import Image

SIDE = 2048


def hue(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3) colours in [0, 1] around a circle."""
    return 0.5 + 0.42 * np.cos(angle[..., None] + np.array([0.0, 2.1, 4.2]))


def icons_of(row: NDArray[np.int32], column: NDArray[np.int32], grid: int, size: int) -> NDArray[np.uint8]:
    """(M, size, size, 3) pictures whose colour, direction and wavelength change slowly over the map."""
    if len(row) > 500:
        parts = [slice(first, first + 500) for first in range(0, len(row), 500)]
        return np.concatenate([icons_of(row[part], column[part], grid, size) for part in parts])
    y, x = (row + 0.5) / grid - 0.5, (column + 0.5) / grid - 0.5
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    v, u = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    across = u * np.cos(2 * angle)[:, None, None] + v * np.sin(2 * angle)[:, None, None]
    wave = np.sin(across * (3 + 16 * radius)[:, None, None] + 9 * radius[:, None, None])
    soft = np.exp(-(u**2 + v**2))
    colour, other = hue(angle), hue(angle + 2.4)
    mix = (0.5 + 0.5 * wave * soft)[..., None]
    pixels = mix * colour[:, None, None] + (1 - mix) * (0.35 + 0.45 * other[:, None, None])
    return np.clip(pixels * 255, 0, 255).astype(np.uint8)


def sheets_of(pictures: NDArray[np.uint8], quality: int = 60) -> list[bytes]:
    """WebP sheets as the service packs them: row by row, at most 2048 pixels a side."""
    size = pictures.shape[1]
    per_row = SIDE // size
    sheets = []
    for first in range(0, len(pictures), per_row**2):
        part = pictures[first : first + per_row**2]
        rows, columns = -(-len(part) // per_row), min(len(part), per_row)
        canvas = np.zeros((rows * size, columns * size, 3), np.uint8)
        for index, picture in enumerate(part):
            top, left = divmod(index, per_row)
            canvas[top * size : (top + 1) * size, left * size : (left + 1) * size] = picture
        file = io.BytesIO()
        Image.fromarray(canvas).save(file, "WEBP", quality=quality, method=0)
        sheets.append(file.getvalue())
    return sheets


def level_of(
    grid: int, *, classes: int = 40, size: int = 80, with_icons: bool = True, crop_size: int = 48, images: int = 64
) -> LayerLevel:
    """A level: a ring, with fewer samples at its rims; class c is strongest at the angle 2 pi c / classes."""
    row, column = (part.ravel().astype(np.int32) for part in np.mgrid[:grid, :grid])
    y, x = (row + 0.5) / grid - 0.5, (column + 0.5) / grid - 0.5
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    inside = (radius < 0.47 + 0.02 * np.sin(5 * angle)) & (radius > 0.1 + 0.02 * np.cos(3 * angle))
    row, column, angle, radius = row[inside], column[inside], angle[inside], radius[inside]
    count = np.rint(1 + 40 * np.exp(-((radius - 0.3) ** 2) / 0.012) * (1.3 + np.sin(4 * angle))).astype(np.int64)
    own = 2 * np.pi * np.arange(classes) / max(classes, 1)
    attribution = np.cos(angle[:, None] - own) * (0.5 + radius[:, None]) * (1 + 0.1 * np.arange(classes))
    cells = {
        "row": row, "column": column, "count": count,
        "dispersion": (0.1 + radius + 0.1 * np.sin(9 * angle)).clip(0, 1).astype(np.float32),
        "score": (0.95 - 0.8 * radius).astype(np.float32),
        "represents": radius < 0.4,
        "shared": np.arange(len(row), dtype=np.int32),
        "nearest": np.arange(len(row) * 4).reshape(-1, 4) % 400,
        "parent": np.full(len(row), -1, np.int32),
    }  # fmt: skip
    if classes:
        cells["attribution"] = attribution.astype(np.float32)
    crops: Sequence[bytes] = ()
    if crop_size:
        shown = np.arange(images)
        cells["crop"] = (cells["nearest"] % images).astype(np.int32)
        gray = icons_of((shown // 8).astype(np.int32), (shown % 8).astype(np.int32), 8, crop_size).mean(
            3, keepdims=True
        )
        crops = sheets_of(np.repeat(gray.astype(np.uint8), 3, 3))
    return LayerLevel(
        grid=grid, cells=cells, icon_size=size if with_icons else 0,
        icons=sheets_of(icons_of(row, column, grid, size)) if with_icons else (),
        icons_per_row=SIDE // size, icons_per_sheet=(SIDE // size) ** 2,
        crop_size=crop_size, crops=crops, crops_per_row=SIDE // max(crop_size, 1),
        crops_per_sheet=(SIDE // max(crop_size, 1)) ** 2,
    )  # fmt: skip


def layer_of(name: str, levels: Sequence[LayerLevel], labels: Sequence[str] = ()) -> AtlasLayer:
    """A layer with 400 samples of 64 images and these levels."""
    position = np.random.default_rng(1).random((400, 2)).astype(np.float32)
    atlas = atlases_pb2.Atlas(
        name="atlases/1",
        spec=atlases_pb2.AtlasSpec(
            tap="models/net/versions/3/taps/blocks.10", dataset="datasets/scenes",
            grids=[level.grid for level in levels],
        ),
        state=atlases_pb2.Atlas.STATE_COMPLETE,
        sample_count=int(levels[0].cells["count"].sum()),
        image_count=64, zero_samples=3, duplicate_samples=2, unit_count=112, class_labels=labels,
        settings={"layout.n_neighbors": "50", "layout.metric": '"cosine"'},
        quality=atlases_pb2.LayoutQuality(trustworthiness=0.971, neighbourhood_recall=0.412, queries=400),
        remarks=["Few samples."],
    )  # fmt: skip
    samples = {
        "image": np.arange(400, dtype=np.int64) % 64,
        "site": np.stack([np.arange(400) % 7, np.arange(400) % 5], 1).astype(np.int32),
        "source": np.zeros(400, np.uint8),
        "position": position,
        "top_class": (np.arange(400) % max(len(labels), 1)).astype(np.int32),
        "top_attribution": np.linspace(0, 1, 400, dtype=np.float32),
    }
    paths = {index: f"photos/{index:03d}.jpg" for index in range(64)}
    return AtlasLayer(name, atlas, levels, samples=samples, image_paths=paths)
