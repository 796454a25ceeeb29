"""Plain shapes, lying about on a ground."""

import math
from collections.abc import Callable

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.canvas import EXTENT, Canvas, Surface
from ortoscope_service.datasets.rendered_scenes.geometry import (
    Array,
    Frame,
    Region,
    box,
    circle,
    difference,
    polygon,
    regular,
    ring,
    star,
    union,
)
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import NAMES, Colour, colour
from ortoscope_service.datasets.rendered_scenes.textures import TEXTURES, Cloth


def _heart() -> Region:
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False).tolist()
    return polygon(
        [
            (
                math.sin(a) ** 3,
                -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16 - 0.1,
            )
            for a in angles
        ]
    )


SHAPES: dict[str, Callable[[], Region]] = {
    "circle": lambda: circle(0, 0, 1),
    "square": lambda: box(-0.85, -0.85, 0.85, 0.85),
    "triangle": lambda: regular(0, 0.2, 1.1, 3),
    "star": lambda: star(0, 0, 1.1, 0.45, 5),
    "ring": lambda: ring(0, 0, 0.76, 0.24),
    "cross": lambda: union(box(-1, -0.3, 1, 0.3), box(-0.3, -1, 0.3, 1)),
    "hexagon": lambda: regular(0, 0, 1, 6),
    "heart": _heart,
    "crescent": lambda: difference(circle(0, 0, 1), circle(0.45, -0.2, 0.82)),
    "diamond": lambda: polygon([(0, -1.1), (0.7, 0), (0, 1.1), (-0.7, 0)]),
}
"""By name: the region in a frame of its own, reaching from about -1 to 1."""


def draw_shapes(canvas: Canvas, first: str, rng: np.random.Generator) -> None:
    """Lays one large shape, `first`, and perhaps some smaller ones on a ground."""
    names = list(NAMES)
    ground = colour(names.pop(int(rng.integers(len(names)))), rng)
    canvas.paint(None, Surface(ground, (lights.grain(Noise(rng, (40, 40), 3), 0.12), lights.vertical(1.08, 0.88))))
    placed: list[tuple[float, float, float]] = []
    for k in range(int(rng.choice([1, 2, 3, 4, 6]))):
        name = first if k == 0 else str(rng.choice(list(SHAPES)))
        low, high = (46, 80) if k == 0 else (14, 34)
        for _ in range(20):
            size = rng.uniform(low, high)
            x, y = rng.uniform(size + 4, EXTENT - size - 4, 2).tolist()
            if all(math.hypot(x - px, y - py) > size + ps for px, py, ps in placed):
                placed.append((x, y, size))
                paint = colour(names[int(rng.integers(len(names)))], rng)
                _lay(canvas, rng, name, Frame(x, y, size, _turn(name, rng)), paint)
                break


def _turn(name: str, rng: np.random.Generator) -> float:
    """Hearts and diamonds stand upright, a square that is turned by half a right angle would be a diamond."""
    return rng.uniform(-0.3, 0.3) if name in {"heart", "diamond", "square"} else rng.uniform(-math.pi, math.pi)


def _lay(canvas: Canvas, rng: np.random.Generator, name: str, frame: Frame, paint: Colour) -> None:
    region = frame.place(SHAPES[name]())
    drop = frame.scale * 0.06 + 1.5

    def shifted(x: Array, y: Array) -> Array:
        return region.distance(x - np.float32(drop), y - np.float32(drop))

    x0, y0, x1, y1 = region.bounds
    canvas.shade(Region(shifted, (x0 + drop, y0 + drop, x1 + drop, y1 + drop)), lights.dimmed(0.55), softness=2 * drop)
    kind, labels = rng.random(), {"shape": name}
    surface = Surface(paint, (lights.grain(Noise(rng, 6, 3), 0.08),))
    if kind < 0.35:
        surface = surface.lit(lights.rounded(region, frame.scale * 0.25, 0.5))
    elif kind < 0.5 and name == "circle":
        surface = surface.lit(lights.ball(frame))
    elif kind < 0.65:
        texture = str(rng.choice(["striped", "polka-dotted", "chequered", "zigzagged", "grid", "woven"]))
        cloth = Cloth(rng.uniform(9, 16), rng.uniform(-3, 3), centre=(frame.x, frame.y))
        surface, labels = TEXTURES[texture].draw(rng, cloth), {"shape": name, "texture": texture}
    canvas.paint(region, surface, labels)
