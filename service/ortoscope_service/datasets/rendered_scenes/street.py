"""A street."""

import itertools

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.canvas import EXTENT, Canvas, Light, Surface
from ortoscope_service.datasets.rendered_scenes.geometry import Array, Region, below, polygon, single
from ortoscope_service.datasets.rendered_scenes.land import MIDDLE, perspective, sky, stand
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import colour, pick


def street(canvas: Canvas, rng: np.random.Generator) -> None:
    """A street between two rows of buildings, seen along its middle."""
    horizon, middle = rng.uniform(95, 118), MIDDLE + rng.uniform(-22, 22)
    sky(canvas, rng, horizon + 10)
    half = rng.uniform(62, 80)
    for side in (-1, 1):
        _building_row(canvas, rng, horizon, middle, side, rng.uniform(1.9, 2.5))
    pavement = colour("grey", rng, (168, 165, 160))
    slabs = _perspective_grid(horizon, middle, 0.35)
    canvas.paint(
        below(lambda x: np.full_like(x, horizon)),
        Surface(pavement, (slabs, perspective(Noise(rng, 2, 3), horizon, 0.12))),
        {"object": "pavement"},
    )
    near = (EXTENT - horizon) / 100
    road = polygon(
        [(middle, horizon), (middle - half * 1.6 * near, EXTENT + 20), (middle + half * 1.6 * near, EXTENT + 20)]
    )
    canvas.paint(
        road,
        Surface(colour("grey", rng, (88, 88, 92)), (perspective(Noise(rng, 1.5, 3), horizon, 0.2),)),
        {"object": "road"},
    )
    for k in range(9):
        y0, y1 = (horizon + 116 / (0.7 + 0.9 * k + d) for d in (0.0, 0.4))
        w0, w1 = ((y - horizon) * 0.022 for y in (y0, y1))
        dash = polygon([(middle - w0, y0), (middle + w0, y0), (middle + w1, y1), (middle - w1, y1)])
        canvas.paint(dash, Surface(colour("white", rng)), {"object": "road", "part": "marking"})
    if rng.random() < 0.6:
        stand(canvas, "tree", rng, middle + half * rng.choice([-1, 1]) * 1.0, horizon + 45, rng.uniform(30, 38))
    cars = rng.integers(1, 4)
    for y in np.sort(rng.uniform(horizon + 28, 212, cars)):
        stand(
            canvas,
            "car",
            rng,
            middle + rng.uniform(-0.5, 0.5) * (y - horizon),
            y,
            8 + (y - horizon) * rng.uniform(0.36, 0.46),
        )
    if rng.random() < 0.75:
        side = rng.choice([-1, 1])
        stand(canvas, "traffic light", rng, middle + side * half * 1.15, horizon + 62, rng.uniform(34, 44))


def _perspective_grid(horizon: float, middle: float, line_width: float) -> Light:
    """Dark joints between the slabs of a pavement."""

    def light(x: Array, y: Array, rgb: Array) -> Array:
        depth = np.maximum(y - np.float32(horizon), 1.0)
        u, v = (x - np.float32(middle)) / depth * 6, np.float32(420) / depth
        near = np.minimum(np.abs(u - np.rint(u)) * depth / 6, np.abs(v - np.rint(v)) * depth * depth / 420)
        return single(rgb * (1 - 0.22 * np.clip(1.2 - near / (line_width * 2), 0, 1))[..., None])

    return light


def _building_row(
    canvas: Canvas, rng: np.random.Generator, horizon: float, middle: float, side: int, height: float
) -> None:
    """Facades along one side of a street. Distances are measured in widths of that side: depth 1 is the nearest."""
    reach = 150.0
    ends = [1.0, *np.cumsum(rng.uniform(0.7, 1.3, 5)) + 1.0]
    for near, far in reversed(list(itertools.pairwise(ends))):
        tall = height * rng.uniform(0.6, 1.15)
        x0, x1 = (middle + side * reach / depth for depth in (near, far))
        top0, top1 = (horizon - tall * reach * 0.42 / depth for depth in (near, far))
        base0, base1 = (horizon + reach * 0.5 / depth for depth in (near, far))
        facade = polygon([(x0, base0), (x0, top0), (x1, top1), (x1, base1)])
        paint = pick(rng, "red", "brown", "grey", "white", "yellow", "orange", "pink")
        far_away = lights.toward((0.8, 0.86, 0.92), min(0.12 * (near - 1), 0.4))
        dim = lights.dimmed(0.82 if side > 0 else 1.0)
        canvas.paint(
            facade, Surface(paint, (lights.grain(Noise(rng, 5, 3), 0.15), dim, far_away)), {"object": "building"}
        )
        panes = _facade_windows(facade, horizon, middle, side, reach, near)
        glass = Surface(colour("blue", rng, (70, 92, 120)), (lights.vertical(1.4, 0.8, top0, base0), far_away))
        canvas.paint(panes, glass, {"object": "building", "part": "window"})


def _facade_windows(facade: Region, horizon: float, middle: float, side: int, reach: float, start: float) -> Region:
    def distance(x: Array, y: Array) -> Array:
        depth = reach / np.maximum(side * (x - np.float32(middle)), 1.0)
        u, v = (depth - start) * 4, (np.float32(horizon) - y) * depth / np.float32(reach * 0.42) * 4.5
        across, up = np.abs(u - np.floor(u) - 0.5) - 0.27, np.abs(v - np.floor(v) - 0.5) - 0.3
        size_u, size_v = reach / depth**2 / 4, reach * 0.42 / depth / 4.5
        inner = np.maximum(across * size_u, up * size_v)
        return single(np.maximum(inner, np.maximum(facade.distance(x, y) + 1.5, (-0.9 - v) * size_v)))

    return Region(distance, facade.bounds)
