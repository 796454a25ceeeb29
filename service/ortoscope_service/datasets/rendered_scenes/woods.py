"""A forest."""

import math

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.canvas import Canvas, Surface
from ortoscope_service.datasets.rendered_scenes.geometry import Frame, Region, circle, line, polygon, union
from ortoscope_service.datasets.rendered_scenes.land import ground, stand
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import colour


def forest(canvas: Canvas, rng: np.random.Generator) -> None:
    """Trunks one behind the other, leaves above, moss below."""
    leaf = colour("green", rng, (48, 96, 44))
    canvas.paint(
        None,
        Surface(leaf, (lights.grain(Noise(rng, 14, 4), 0.6), lights.fade((0.75, 0.86, 0.62), 20, 140, 0.65))),
        {"object": "tree", "part": "crown"},
    )
    floor = rng.uniform(150, 172)
    moss = colour("green", rng, (74, 92, 38)) if rng.random() < 0.6 else colour("brown", rng, (104, 76, 44))
    for layer in range(4):
        near = layer / 3
        base = floor - 18 + 34 * near
        if layer:
            canvas.shade(None, lights.toward((0.72, 0.82, 0.62), 0.16))
        if layer == 1:
            ground(canvas, rng, floor - 6, moss, "grass", (0.5, 0.55, 0.3), fine=3)
        for x in rng.uniform(-5, 229, int(7 - 1.4 * layer)):
            _trunk(canvas, rng, x, base + rng.uniform(-5, 8), 2.5 + 8 * near * rng.uniform(0.8, 1.3))
    for _ in range(rng.integers(5, 9)):
        x, y, r = rng.uniform(-10, 234), rng.uniform(-14, 26), rng.uniform(20, 38)
        shape = _leafy(rng, x, y, r)
        paint = Surface(
            colour("green", rng), (lights.grain(Noise(rng, 5, 4), 0.9), lights.dimmed(rng.uniform(0.55, 0.95)))
        )
        canvas.paint(shape, paint, {"object": "tree", "part": "crown"})
    for y in np.sort(rng.uniform(floor + 8, 222, rng.integers(2, 7))):
        _fern(canvas, rng, rng.uniform(5, 219), y, 8 + (y - floor) * 0.35)
    for y in np.sort(rng.uniform(floor + 20, 218, rng.integers(1, 5))):
        stand(canvas, "mushroom", rng, rng.uniform(15, 209), y, 6 + (y - floor) * 0.22)
    if rng.random() < 0.4:
        stand(canvas, "bird", rng, rng.uniform(40, 184), rng.uniform(190, 214), rng.uniform(14, 20))
    for _ in range(3):
        x = rng.uniform(20, 220)
        shaft = polygon([(x, -20), (x + 18, -20), (x - 30, 240), (x - 75, 240)])
        canvas.shade(shaft, lights.toward((1.0, 0.98, 0.75), 0.09), softness=12)


def _trunk(canvas: Canvas, rng: np.random.Generator, x: float, y: float, half: float) -> None:
    lean = rng.normal(0, 5)
    trunk = polygon(
        [
            (x - half * 1.7, y + half),
            (x - half, y - 3 * half),
            (x + lean - half * 0.7, -20),
            (x + lean + half * 0.7, -20),
            (x + half, y - 3 * half),
            (x + half * 1.7, y + half),
        ]
    )
    bark = lights.grain(Noise(rng, (max(half * 0.4, 1.2), half * 5), 3), 0.6)
    frame = Frame(x, y, half)
    paint = colour("brown", rng) if rng.random() < 0.7 else colour("grey", rng)
    lights.cast_shadow(canvas, x + half * 2, y + half, half * 4, half * 0.6, 0.3)
    canvas.paint(
        trunk,
        Surface(paint, (lights.rod(frame, 0, 1.3, 0), bark, lights.dimmed(0.85))),
        {"object": "tree", "part": "trunk"},
    )


def _leafy(rng: np.random.Generator, x: float, y: float, radius: float) -> Region:
    discs = [
        circle(x + rng.normal(0, radius * 0.5), y + rng.normal(0, radius * 0.3), radius * rng.uniform(0.3, 0.6))
        for _ in range(7)
    ]
    return union(*discs)


def _fern(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    paint = colour("green", rng)
    for a in np.linspace(0.35, math.pi - 0.35, 7):
        du, dv = math.cos(a), math.sin(a)
        frond = line(
            [(x, y), (x + du * size * 0.6, y - dv * size * 0.9), (x + du * size * 1.2, y - dv * size * 0.75)],
            size * 0.1,
            0.3,
        )
        canvas.paint(
            frond,
            Surface(paint, (lights.grain(Noise(rng, 1.6, 2), 0.5), lights.dimmed(rng.uniform(0.65, 1.1)))),
            {"object": "fern"},
        )
