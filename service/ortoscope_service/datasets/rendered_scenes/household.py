"""What people have at home, drawn from parts; see `things`."""

import math

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.brush import Brush
from ortoscope_service.datasets.rendered_scenes.canvas import Surface
from ortoscope_service.datasets.rendered_scenes.geometry import (
    Array,
    arc,
    box,
    circle,
    difference,
    ellipse,
    intersection,
    line,
    polygon,
    ring,
    single,
    union,
)
from ortoscope_service.datasets.rendered_scenes.palette import colour, pick


def ball(b: Brush) -> None:
    """A ball: for the beach, tennis, basketball or football."""
    turn, kind = _rotation(b.rng), int(b.rng.integers(4))

    def on_sphere(x: Array, y: Array) -> Array:
        """Points of the ball that is turned in space, (…, 3)."""
        u, v = b.frame.local(x, y)
        w = np.sqrt(np.maximum(1 - u * u - v * v, 0))
        return np.stack((u, v, w), -1) @ turn

    def seams(x: Array, y: Array) -> Array:
        p = on_sphere(x, y)
        rings = [
            np.abs(p[..., 0]),
            np.abs(p[..., 1]),
            np.abs(np.hypot(p[..., 0] - 1.15, p[..., 2]) - 0.75),
            np.abs(np.hypot(p[..., 0] + 1.15, p[..., 2]) - 0.75),
        ]
        return single((np.min(rings, axis=0) - 0.03) * np.float32(b.frame.scale))

    def curve(x: Array, y: Array) -> Array:
        p = on_sphere(x, y)
        wave = p[..., 2] - 0.55 * np.cos(2 * np.arctan2(p[..., 1], p[..., 0]))
        return single((np.abs(wave) - 0.07) * np.float32(b.frame.scale))

    def wedges(x: Array, y: Array) -> Array:
        p = on_sphere(x, y)
        return single(
            np.sin(3 * np.arctan2(p[..., 1], p[..., 0]))
            * np.hypot(p[..., 0], p[..., 1])
            * np.float32(b.frame.scale / 3)
        )

    golden = (1 + math.sqrt(5)) / 2
    corners = np.array([[0, s, t * golden] for s in (-1, 1) for t in (-1, 1)], np.float32)
    corners = single(np.concatenate([np.roll(corners, k, axis=1) for k in range(3)]) / math.hypot(1, golden))

    def pentagons(x: Array, y: Array) -> Array:
        return single(
            (np.float32(math.cos(0.36)) - (on_sphere(x, y) @ corners.T).max(-1)) * np.float32(b.frame.scale * 2)
        )

    white = colour("white", b.rng)
    surface = (
        Surface(
            pick(b.rng, "white", "yellow", "white"),
            second=pick(b.rng, "red", "blue", "green", "orange", "pink"),
            pattern=wedges,
        ),
        Surface(colour("yellow", b.rng, (205, 225, 60)), (b.grain(0.04, 0.25),), white, curve),
        Surface(colour("orange", b.rng, (206, 104, 42)), (b.grain(0.03, 0.2),), colour("black", b.rng), seams),
        Surface(white, second=colour("black", b.rng), pattern=pentagons),
    )[kind]
    b.put(circle(0, 0, 1), surface, b.ball(0, 0, 1, gloss=0.3 if kind != 1 else 0.05))


def _rotation(rng: np.random.Generator) -> Array:
    """A random rotation of space."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q.astype(np.float32)


def bottle(b: Brush) -> None:
    """A bottle with a neck, a cap and a label."""
    glass = pick(b.rng, "green", "brown", "blue", "white", "green")
    outline = union(
        box(-0.3, -0.1, 0.3, 1, 0.08),
        polygon([(-0.3, 0.02), (-0.1, -0.42), (0.1, -0.42), (0.3, 0.02)]),
        box(-0.1, -0.85, 0.1, -0.38),
    )
    b.put(outline, glass, b.rod(0, 0.32, 0.45))
    b.put(box(-0.1, -0.8, 0.1, -0.4), glass, b.rod(0, 0.11, 0.45), part="neck")
    b.put(
        box(-0.125, -0.96, 0.125, -0.78, 0.02),
        pick(b.rng, "red", "white", "black", "yellow"),
        b.rod(0, 0.13),
        part="cap",
    )
    paper = pick(b.rng, "white", "yellow", "red")
    b.put(box(-0.3, 0.2, 0.3, 0.68), paper, b.rod(0, 0.34, 0.1), part="label")
    ink = pick(b.rng, "black", "blue", "green")
    for v, half in ((0.33, 0.2), (0.44, 0.14), (0.54, 0.17)):
        b.put(box(-half, v - 0.025, half, v + 0.025), ink, b.rod(0, 0.34, 0.1), part="label")


def clock(b: Brush) -> None:
    """A round clock with hands."""
    rim = pick(b.rng, "black", "red", "brown", "blue", "grey")
    black = colour("black", b.rng)
    b.put(circle(0, 0, 1), rim, b.cushion(circle(0, 0, 1), 0.18, 0.6), part="rim")
    b.put(circle(0, 0, 0.84), colour("white", b.rng), b.ball(0, 0, 2.2, gloss=0), lights.dimmed(1.1), part="dial")
    b.shade(difference(circle(0, 0, 0.86), circle(0.03, 0.05, 0.84)), 0.6, 0.05)
    for i in range(12):
        a, inner, width = 2 * math.pi * i / 12, (0.6 if i % 3 == 0 else 0.68), (0.045 if i % 3 == 0 else 0.02)
        cos, sin = math.cos(a), math.sin(a)
        tick = line([(inner * cos, inner * sin), (0.76 * cos, 0.76 * sin)], width)
        b.put(tick, black, part="dial", detail="tick")
    for length, width in ((0.42, 0.05), (0.64, 0.032)):
        a = b.rng.uniform(0, 2 * math.pi)
        cos, sin = math.cos(a), math.sin(a)
        b.put(line([(-0.1 * cos, -0.1 * sin), (length * cos, length * sin)], width, width * 0.6), black, part="hand")
    b.put(circle(0, 0, 0.07), black, b.ball(0, 0, 0.08), part="hand")


def umbrella(b: Brush) -> None:
    """An open umbrella."""
    first, second = (
        pick(b.rng, "red", "blue", "yellow", "green", "purple"),
        pick(b.rng, "white", "yellow", "white", "orange"),
    )

    def panels(x: Array, y: Array) -> Array:
        u, v = b.frame.local(x, y)
        spread = u / np.maximum(np.sqrt(np.maximum(1 - ((0.12 - v) / 1.0) ** 2, 0.02)), 0.1)
        return single(np.sin(np.arcsin(np.clip(spread, -1, 1)) * 4) * np.float32(0.15 * b.frame.scale))

    b.put(line([(0, -0.8), (0, 0.85)], 0.03), colour("brown", b.rng), b.rod(0, 0.03), part="shaft")
    b.put(arc(0.13, 0.85, 0.13, 0, math.pi, 0.035), colour("brown", b.rng), part="handle")
    dome = intersection(circle(0, 0.12, 1), box(-1, -1, 1, 0.12))
    dome = difference(dome, *(ellipse(u, 0.14, 0.24, 0.13) for u in (-0.75, -0.25, 0.25, 0.75)))
    b.put(dome, Surface(first, second=second, pattern=panels), b.ball(0, 0.12, 1.1, 1.1, gloss=0.1), part="canopy")
    b.put(line([(0, -0.86), (0, -1)], 0.02), colour("brown", b.rng), part="shaft")


def cup(b: Brush) -> None:
    """A cup with a handle."""
    paint = pick(b.rng, "white", "red", "blue", "yellow", "green", "orange", "pink")
    b.put(ring(0.66, 0.1, 0.3, 0.075), paint, b.ball(0.66, 0.1, 0.5), part="handle")
    body = union(polygon([(-0.68, -0.5), (0.68, -0.5), (0.5, 0.75), (-0.5, 0.75)], 0.06), ellipse(0, 0.76, 0.5, 0.14))
    surface = Surface(paint)
    if b.rng.random() < 0.4:
        surface = b.stripes(paint, pick(b.rng, "white", "black", "blue"), 0.4, across=True)
    b.put(body, surface, b.rod(0, 0.76, 0.3))
    b.put(ellipse(0, -0.5, 0.74, 0.2), paint, lights.dimmed(1.1))
    b.put(
        ellipse(0, -0.48, 0.66, 0.155),
        colour("brown", b.rng, (70, 42, 26)),
        lights.vertical(0.7, 1.3, *(b.frame.point(0, v)[1] for v in (-0.6, -0.3))),
    )


def lamp(b: Brush) -> None:
    """A lamp with a shade on a stand."""
    shade, metal = pick(b.rng, "yellow", "white", "red", "orange", "green"), pick(b.rng, "black", "grey", "brown")
    b.put(line([(0, -0.2), (0, 0.92)], 0.035), metal, b.rod(0, 0.04, 0.4), part="stand")
    b.put(ellipse(0, 0.93, 0.34, 0.08), metal, b.ball(0, 0.93, 0.5, 0.2), part="stand")
    cone = polygon([(-0.28, -0.95), (0.28, -0.95), (0.58, -0.18), (-0.58, -0.18)], 0.02)
    glow = lights.fade((1.0, 0.95, 0.75), b.frame.point(0, -1)[1], b.frame.point(0, -0.15)[1], 0.55)
    b.put(cone, shade, b.rod(0, 0.75, 0), glow, part="shade")
