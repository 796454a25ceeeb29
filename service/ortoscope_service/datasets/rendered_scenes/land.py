"""Sky, ground and what stands on it: what scenes have in common."""

import math
from collections.abc import Callable

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.canvas import EXTENT, Canvas, Light, Surface
from ortoscope_service.datasets.rendered_scenes.geometry import (
    Array,
    Frame,
    below,
    box,
    circle,
    ellipse,
    intersection,
    union,
)
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import Colour, colour
from ortoscope_service.datasets.rendered_scenes.things import draw

MIDDLE = EXTENT / 2
"""The picture's middle, in picture units."""


def stand(
    canvas: Canvas,
    name: str,
    rng: np.random.Generator,
    x: float,
    y: float,
    scale: float,
    *,
    shadow: bool = True,
    turned: bool = False,
) -> None:
    """Draws a thing that stands at (x, y)."""
    if shadow:
        lights.cast_shadow(canvas, x + scale * 0.25, y, scale * 0.8, max(scale * 0.09, 1.0))
    angle = rng.uniform(-math.pi, math.pi) if turned else rng.normal(0, 0.02)
    draw(canvas, name, Frame(x, y - scale, scale, angle, bool(rng.random() < 0.5)), rng)


def sky(
    canvas: Canvas,
    rng: np.random.Generator,
    horizon: float,
    haze: tuple[float, float, float] = (0.86, 0.92, 0.96),
    clouds: int = 4,
) -> None:
    """Paints the sky, paler towards the horizon, perhaps with a sun, and with up to `clouds` clouds."""
    blue = colour("blue", rng, (78, 140, 216) if rng.random() < 0.7 else (110, 165, 225))
    canvas.paint(None, Surface(blue, (lights.fade(haze, 0, horizon, 0.85),)), {"object": "sky"})
    if rng.random() < 0.5:
        x, y, r = rng.uniform(30, 194), rng.uniform(18, 50), rng.uniform(8, 15)
        canvas.shade(circle(x, y, r), lights.toward((1.0, 0.97, 0.8), 0.7), softness=30)
        canvas.paint(
            circle(x, y, r), Surface(colour("yellow", rng, (255, 240, 160)), (lights.dimmed(1.1),)), {"object": "sun"}
        )
    for _ in range(rng.integers(0, clouds + 1)):
        _cloud(canvas, rng, rng.uniform(10, 214), rng.uniform(14, horizon * 0.6), rng.uniform(14, 34))


def _cloud(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    puffs = [ellipse(x, y, size, size * 0.3)]
    puffs += [
        circle(x + u * size, y - rng.uniform(0.02, 0.2) * size, rng.uniform(0.22, 0.4) * size)
        for u in (-0.5, -0.15, 0.2, 0.55)
    ]
    soft = lights.vertical(1.02, 0.86, y - size * 0.5, y + size * 0.3)
    shape = intersection(union(*puffs), box(x - 2 * size, y - size, x + 2 * size, y + 0.22 * size, 0.1 * size))
    canvas.paint(
        shape, Surface(colour("white", rng), (soft, lights.grain(Noise(rng, size * 0.3, 3), 0.06))), {"object": "cloud"}
    )


def ridge(noise: Noise, height: float, amplitude: float, tilt: float = 0.0) -> Callable[[Array], Array]:
    """A line y(x) that rises and falls at random."""

    def edge(x: Array) -> Array:
        return (height + amplitude * noise(x, np.zeros_like(x)) + tilt * (x - MIDDLE)).astype(np.float32)

    return edge


def mountains(canvas: Canvas, rng: np.random.Generator, horizon: float, paint: Colour, *, rugged: bool = False) -> None:
    """Paints two ranges of mountains in the distance."""
    for k in range(2):
        edge = ridge(Noise(rng, 60 - 15 * k, 5 if rugged else 3), horizon - 22 + 14 * k, 26 - 9 * k)
        haze = lights.toward((0.8, 0.87, 0.94), 0.5 - 0.2 * k)
        canvas.paint(
            below(edge, 0.7), Surface(paint, (lights.grain(Noise(rng, 12, 4), 0.4), haze)), {"object": "mountain"}
        )


def ground(
    canvas: Canvas,
    rng: np.random.Generator,
    horizon: float,
    paint: Colour,
    name: str,
    tint: tuple[float, float, float],
    fine: float,
    stretch: float = 2.0,
) -> None:
    """Flat ground from the horizon to the viewer, its grain finer the farther away."""
    flat = Noise(rng, (fine * stretch, fine * 1.2), 3)
    patches = _perspective_mottled(Noise(rng, 30, 2), horizon, tint)
    light = (
        perspective(flat, horizon - 4, 0.4),
        patches,
        lights.fade((0.82, 0.88, 0.85), horizon + 28, horizon, 0.45),
    )
    canvas.paint(below(lambda x: np.full_like(x, horizon)), Surface(paint, light), {"object": name})


def _flat(x: Array, y: Array, horizon: float) -> tuple[Array, Array]:
    """Where on flat ground below the horizon one looks: to the side and into the distance."""
    depth = np.maximum(y - np.float32(horizon), 1.0)
    return (x - np.float32(MIDDLE)) * (60 / depth), 60 * 60 / depth


def perspective(noise: Noise, horizon: float, strength: float) -> Light:
    """Grain on flat ground below the horizon, the finer the farther away."""

    def light(x: Array, y: Array, rgb: Array) -> Array:
        calm = np.clip((y - horizon) / 30, 0.25, 1)
        return rgb * (1 + strength * calm * noise(*_flat(x, y, horizon)))[..., None].astype(np.float32)

    return light


def _perspective_mottled(noise: Noise, horizon: float, rgb: tuple[float, float, float]) -> Light:
    target = np.array(rgb, np.float32)

    def light(x: Array, y: Array, colours: Array) -> Array:
        share = np.clip(noise(*_flat(x, y, horizon)), 0, 0.45)[..., None]
        return colours + (target - colours) * share

    return light
