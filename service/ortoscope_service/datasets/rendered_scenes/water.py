"""Below the surface of the sea."""

import math

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.canvas import Canvas, Surface
from ortoscope_service.datasets.rendered_scenes.geometry import Frame, below, circle, ellipse, line, polygon
from ortoscope_service.datasets.rendered_scenes.land import ridge, stand
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import colour
from ortoscope_service.datasets.rendered_scenes.things import draw


def underwater(canvas: Canvas, rng: np.random.Generator) -> None:
    """Below the surface of the sea."""
    water = colour("blue", rng, (28, 110, 165))
    deep = lights.fade((0.03, 0.16, 0.32), 20, 230, 0.85)
    canvas.paint(
        None,
        Surface(
            water, (lights.fade((0.55, 0.9, 0.95), 90, -30, 0.7), deep, lights.grain(Noise(rng, (60, 25), 2), 0.1))
        ),
        {"object": "water"},
    )
    for _ in range(5):
        x, width = rng.uniform(-30, 230), rng.uniform(8, 26)
        shaft = polygon([(x, -20), (x + width, -20), (x + width * 2.4 + 50, 240), (x + 40, 240)])
        canvas.shade(shaft, lights.toward((0.8, 1.0, 1.0), 0.1), softness=14)
    ground = ridge(Noise(rng, 60, 2), rng.uniform(178, 196), 10)
    sand = colour("yellow", rng, (206, 190, 140))
    canvas.paint(
        below(ground),
        Surface(sand, (lights.grain(Noise(rng, (14, 3), 3), 0.3), lights.toward((0.15, 0.4, 0.5), 0.3))),
        {"object": "sand"},
    )
    for _ in range(rng.integers(1, 3)):
        x, y, r = rng.uniform(10, 214), rng.uniform(186, 206), rng.uniform(14, 26)
        stone = ellipse(x, y, r, r * 0.6)
        canvas.paint(
            stone,
            Surface(colour("grey", rng), (lights.rounded(stone, r * 0.5, 0.6), lights.grain(Noise(rng, 7, 3), 0.4))),
            {"object": "rock"},
        )
    for _ in range(rng.integers(3, 8)):
        _seaweed(canvas, rng, rng.uniform(6, 218), rng.uniform(190, 215))
    for scale in np.sort(rng.uniform(12, 40, rng.integers(3, 7))):
        frame = Frame(rng.uniform(25, 199), rng.uniform(35, 165), scale, rng.normal(0, 0.15), bool(rng.random() < 0.5))
        draw(canvas, "fish", frame, rng)
    if rng.random() < 0.6:
        stand(canvas, "starfish", rng, rng.uniform(30, 194), rng.uniform(208, 220), rng.uniform(10, 16), turned=True)
    canvas.shade(None, lights.toward((0.08, 0.4, 0.6), 0.14))
    for _ in range(rng.integers(6, 20)):
        x, y, r = rng.uniform(10, 214), rng.uniform(10, 190), rng.uniform(1.5, 5)
        bubble = circle(x, y, r)
        canvas.shade(bubble, lights.toward((0.85, 0.97, 1.0), 0.35))
        canvas.shade(circle(x - r * 0.3, y - r * 0.35, r * 0.3), lights.toward((1, 1, 1), 0.9))


def _seaweed(canvas: Canvas, rng: np.random.Generator, x: float, y: float) -> None:
    height, phase, bend = rng.uniform(30, 80), rng.uniform(0, 6), rng.uniform(4, 9)
    points = [(x + bend * t * math.sin(phase + 5 * t), y - height * t) for t in np.linspace(0, 1, 9)]
    blade = line(points, rng.uniform(2.5, 4.5), 0.8)
    paint = colour("green", rng)
    canvas.paint(
        blade,
        Surface(paint, (lights.rounded(blade, 3, 0.5), lights.dimmed(rng.uniform(0.6, 1.0)))),
        {"object": "seaweed"},
    )
