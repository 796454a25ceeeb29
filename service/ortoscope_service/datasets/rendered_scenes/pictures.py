"""Draws the pictures of the dataset and writes it."""

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ortoscope_service.datasets.broden_writer import BrodenWriter
from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.canvas import EXTENT, Canvas, Surface
from ortoscope_service.datasets.rendered_scenes.geometry import Frame, box
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import pick
from ortoscope_service.datasets.rendered_scenes.places import PLACES
from ortoscope_service.datasets.rendered_scenes.shapes import SHAPES, draw_shapes
from ortoscope_service.datasets.rendered_scenes.textures import TEXTURES, texture
from ortoscope_service.datasets.rendered_scenes.things import THINGS, draw
from ortoscope_service.errors import Code, OrtoscopeError, invalid

CATEGORIES = ("color", "texture", "shape", "part", "object", "scene")

MAX_COUNT = 100_000
MAX_SIZE = 1024

# The order in which kinds of pictures take turns; whatever the count, the mixture is about the same.
_TURNS = ("scenes", "textures", "things", "scenes", "textures", "shapes", "scenes", "textures", "things", "scenes")
_SUBJECTS: dict[str, tuple[str, ...]] = {
    "scenes": tuple(PLACES),
    "textures": tuple(TEXTURES),
    "things": tuple(THINGS),
    "shapes": tuple(SHAPES),
}

_README = """Rendered scenes: {count} pictures of {size} x {size} pixels with label planes of {half} x {half},
in the folder layout of Broden. Drawn by `ortoscope-server render-scenes` with seed {seed};
no photograph or picture of anyone else's is in them.

Categories: {categories}.
A pixel of a label plane shows what lies on top at its centre, which is the corner that four
pixels of the picture share. Colour labels are those of the paint, before light and shadow; in
pictures of the night colours are not labelled. Scenes, and textures that fill a picture, are
image-level labels.
"""


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows."""

    path: str
    """Path below the folder of images."""
    pixels: npt.NDArray[np.uint8]
    """(size, size, 3)."""
    planes: dict[str, list[npt.NDArray[np.int32]]]
    """By category, planes of indices into `names`, (size / 2, size / 2)."""
    names: Sequence[str]
    """Names of labels; the first stands for none."""
    image_level: dict[str, str]
    """By category, the label of the whole picture."""


def render_scenes(
    output: Path,
    *,
    count: int = 240,
    seed: int = 0,
    size: int = 224,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draws a labelled dataset and writes it in Broden's layout.

    Two fifths of the pictures are scenes (beach, street, room, …) with things in them, three tenths textures, a fifth
    things by themselves, the rest plain shapes. Categories: color (eleven), texture, shape, part (on a second plane the
    parts of parts), object, and scene. Scenes, and textures that fill a picture, are image-level labels. Label planes
    are exact (see `canvas.Canvas` for the rule) and half as wide and high as the pictures, JPEG files of quality 95.

    The same count, seed and size give the same bytes with the same versions of NumPy and Pillow on the same kind of
    processor. Picture i does not depend on the count.

    Args:
        output: The folder to make. It appears when it is complete.
        count: Number of pictures, 1 to 100,000.
        seed: Seed of everything random, at least 0.
        size: Width and height of the pictures in pixels, an even number from 32 to 1024.
        progress: Called after each picture with the number drawn and the number to draw.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, INVALID_COUNT, INVALID_SEED or INVALID_SIZE; ALREADY_EXISTS, DATASET_EXISTS:
            there is something in the folder.
    """
    if not 1 <= count <= MAX_COUNT:
        raise invalid("INVALID_COUNT", f"count is {count}; draw 1 to {MAX_COUNT} pictures.", field="count")
    if seed < 0:
        raise invalid("INVALID_SEED", f"seed is {seed}; use a number of at least 0.", field="seed")
    if not 32 <= size <= MAX_SIZE or size % 2:
        raise invalid("INVALID_SIZE", f"size is {size}; use an even number from 32 to {MAX_SIZE}.", field="size")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        message = f'"{output.name}" exists already and is not an empty folder; choose another name or remove it.'
        raise OrtoscopeError(Code.ALREADY_EXISTS, "DATASET_EXISTS", message)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with BrodenWriter(partial, CATEGORIES, (size // 2, size // 2)) as writer:
            for i in range(count):
                _write(writer, draw_picture(i, seed, size))
                if progress is not None:
                    progress(i + 1, count)
        text = _README.format(count=count, size=size, half=size // 2, seed=seed, categories=", ".join(CATEGORIES))
        (partial / "README.txt").write_text(text, encoding="utf-8")
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def draw_picture(index: int, seed: int, size: int) -> Picture:
    """Draws picture `index` of the dataset."""
    rng = np.random.default_rng([seed, index])
    kind = _TURNS[index % len(_TURNS)]
    turn = index // len(_TURNS) * _TURNS.count(kind) + _TURNS[: index % len(_TURNS)].count(kind)
    subject = _SUBJECTS[kind][turn % len(_SUBJECTS[kind])]
    canvas = Canvas(size)
    image_level: dict[str, str] = {}
    if kind == "scenes":
        PLACES[subject](canvas, rng)
        image_level["scene"] = f"{subject}-s"
    elif kind == "textures":
        canvas.paint(None, texture(subject, rng))
        image_level["texture"] = subject
    elif kind == "things":
        _portray(canvas, subject, rng)
    else:
        draw_shapes(canvas, subject, rng)
    lights.finish(canvas, rng)
    planes = {category: [canvas.labels[category]] for category in ("color", "texture", "shape", "object")}
    planes["part"] = [canvas.labels["part"], canvas.labels["part of a part"]]
    annotated = {category: [plane for plane in found if plane.any()] for category, found in planes.items()}
    path = f"{kind}/{subject.replace(' ', '_')}_{index:05d}.jpg"
    return Picture(
        path,
        canvas.render(),
        {category: found for category, found in annotated.items() if found},
        canvas.names,
        image_level,
    )


def _portray(canvas: Canvas, name: str, rng: np.random.Generator) -> None:
    """One thing by itself, or three of a kind, before a wall."""
    backdrop = Surface(pick(rng, "blue", "grey", "white", "green", "brown", "pink", "black", "yellow"))
    backdrop = backdrop.lit(lights.grain(Noise(rng, (60, 60), 3), 0.25), lights.vertical(1.1, 0.85))
    canvas.paint(None, backdrop)
    floor = rng.uniform(165, 190)
    if rng.random() < 0.6:
        ground = Surface(pick(rng, "grey", "brown", "green", "white", "yellow"))
        rough = lights.grain(Noise(rng, (7, 2), 3), 0.3)
        canvas.paint(box(-9, floor, 233, 233), ground.lit(rough, lights.vertical(0.8, 1.05, floor, EXTENT)))
    places = [(EXTENT / 2, rng.uniform(72, 96))]
    if rng.random() < 0.3:
        places = [(52 + 60 * k, rng.uniform(34, 44)) for k in range(3)]
    for x, scale in places:
        y = min(floor + 18, 214) - scale
        lights.cast_shadow(canvas, x + scale * 0.1, y + scale, scale * 0.85, scale * 0.08)
        draw(canvas, name, Frame(x + rng.uniform(-8, 8), y, scale, rng.normal(0, 0.05), bool(rng.random() < 0.5)), rng)


def _write(writer: BrodenWriter, picture: Picture) -> None:
    numbers = np.array([0, *(writer.label(name) for name in picture.names[1:])])
    labels: dict[str, list[npt.NDArray[np.integer] | str]] = {
        category: [numbers[plane] for plane in planes] for category, planes in picture.planes.items()
    }
    for category, name in picture.image_level.items():
        labels.setdefault(category, []).append(name)
    stream = io.BytesIO()
    Image.fromarray(picture.pixels).save(stream, "JPEG", quality=95, subsampling=0)
    writer.add(picture.path, stream.getvalue(), labels)
