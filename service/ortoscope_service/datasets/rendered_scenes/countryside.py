"""Open country: a meadow, a beach, a desert, snow, and the night."""

import math

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.brush import Brush
from ortoscope_service.datasets.rendered_scenes.canvas import EXTENT, Canvas, Light, Surface
from ortoscope_service.datasets.rendered_scenes.geometry import (
    Array,
    Frame,
    below,
    box,
    circle,
    intersection,
    polygon,
    single,
)
from ortoscope_service.datasets.rendered_scenes.land import ground, mountains, perspective, ridge, sky, stand
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import colour, pick
from ortoscope_service.datasets.rendered_scenes.plants import palm


def field(canvas: Canvas, rng: np.random.Generator) -> None:
    """A meadow under the sky."""
    horizon = rng.uniform(95, 130)
    sky(canvas, rng, horizon)
    if rng.random() < 0.7:
        mountains(canvas, rng, horizon, pick(rng, "green", "blue", "grey", "purple"))
    for _ in range(rng.integers(0, 5)):
        stand(canvas, "tree", rng, rng.uniform(0, EXTENT), horizon + 3, rng.uniform(9, 16))
    ground(canvas, rng, horizon, colour("green", rng), "grass", (0.75, 0.82, 0.3), fine=3)
    if rng.random() < 0.45:
        stand(
            canvas,
            "balloon",
            rng,
            rng.uniform(30, 194),
            horizon - rng.uniform(25, 45),
            rng.uniform(18, 26),
            shadow=False,
        )
    if rng.random() < 0.6:
        stand(canvas, "house", rng, rng.uniform(40, 184), horizon + rng.uniform(15, 35), rng.uniform(26, 40))
    if rng.random() < 0.5:
        y = horizon + rng.uniform(30, 50)
        for k in range(3):
            stand(canvas, "fence", np.random.default_rng([7, int(horizon)]), 30 + 82 * k, y, 22)
    for x in rng.uniform(10, 214, rng.integers(1, 3)):
        stand(canvas, "tree", rng, x, horizon + rng.uniform(25, 60), rng.uniform(30, 55))
    for y in np.sort(rng.uniform(horizon + 40, 226, rng.integers(3, 12))):
        stand(canvas, "flower", rng, rng.uniform(8, 216), y, 6 + (y - horizon) * 0.12)
    if rng.random() < 0.5:
        stand(
            canvas,
            "butterfly" if rng.random() < 0.5 else "bird",
            rng,
            rng.uniform(40, 180),
            rng.uniform(150, 205),
            rng.uniform(14, 22),
            shadow=False,
        )


def beach(canvas: Canvas, rng: np.random.Generator) -> None:
    """Sand, sea and sky."""
    horizon, shore = rng.uniform(75, 100), rng.uniform(130, 155)
    sky(canvas, rng, horizon)
    sea = colour("blue", rng, (40, 120, 170))
    ground(canvas, rng, horizon, sea, "sea", (0.8, 0.93, 0.95), fine=4, stretch=9)
    for x in rng.uniform(30, 194, rng.integers(1, 3)):
        stand(canvas, "boat", rng, x, horizon + rng.uniform(6, 20), rng.uniform(14, 26), shadow=False)
    waves = Noise(rng, 40, 2)
    edge = ridge(waves, shore, 7, tilt=rng.uniform(-0.12, 0.12))
    canvas.paint(
        below(lambda x: edge(x) - np.float32(5)),
        Surface(colour("white", rng), (lights.grain(Noise(rng, (9, 3), 2), 0.12),)),
        {"object": "sea"},
    )
    sand = colour("yellow", rng, (226, 202, 146))
    canvas.paint(
        below(edge),
        Surface(sand, (perspective(Noise(rng, 2, 3), horizon - 30, 0.22), lights.vertical(0.9, 1.05, shore, EXTENT))),
        {"object": "sand"},
    )
    canvas.shade(intersection(below(edge), below(lambda x: -edge(x))), lights.dimmed(1.0))
    if rng.random() < 0.6:
        x = rng.choice([rng.uniform(15, 60), rng.uniform(164, 209)])
        frame = Frame(x, shore + 10, rng.uniform(48, 62))
        lights.cast_shadow(canvas, x + 20, frame.point(0, 1)[1], 30, 4)
        palm(Brush(canvas, frame, rng, "tree"))
    for name, low, high in (("umbrella", 30, 42), ("ball", 11, 18), ("starfish", 9, 15), ("ball", 9, 14)):
        if rng.random() < 0.65:
            stand(
                canvas,
                name,
                rng,
                rng.uniform(30, 194),
                rng.uniform(shore + 38, 216),
                rng.uniform(low, high),
                turned=name == "starfish",
            )


def desert(canvas: Canvas, rng: np.random.Generator) -> None:
    """Dunes under a hot sky."""
    horizon = rng.uniform(95, 120)
    warm = rng.random() < 0.4
    sky(canvas, rng, horizon, haze=(1.0, 0.82, 0.6) if warm else (0.93, 0.93, 0.88), clouds=0)
    if rng.random() < 0.6:
        mesa = [(rng.uniform(0, 110), horizon + 8)]
        width, top = rng.uniform(50, 80), horizon - rng.uniform(18, 34)
        x = mesa[0][0]
        rock = polygon([(x, horizon + 8), (x + 12, top), (x + width, top), (x + width + 14, horizon + 8)])
        strata = lights.grain(Noise(rng, (60, 4), 2), 0.35)
        canvas.paint(
            rock,
            Surface(colour("orange", rng, (186, 104, 64)), (strata, lights.toward((0.9, 0.8, 0.7), 0.25))),
            {"object": "mountain"},
        )
    sand = colour("yellow", rng, (222, 178, 104)) if rng.random() < 0.6 else colour("orange", rng, (214, 140, 78))
    for k in range(3):
        edge = ridge(Noise(rng, 95, 2), horizon + 3 + 34 * k, 8 + 9 * k)
        ripples = _ripples(rng, 3.0 + 2.5 * k)
        shaded = lights.mottled(Noise(rng, (50, 40), 2), tuple(0.72 * c for c in sand.rgb), -0.1, 0.35)  # type: ignore[arg-type]
        canvas.paint(
            below(edge, 0.3), Surface(sand, (shaded, ripples, lights.dimmed(0.9 + 0.06 * k))), {"object": "sand"}
        )
        for x in rng.uniform(10, 214, rng.integers(0, 3)):
            y = float(edge(np.array([x], np.float32))[0]) + rng.uniform(10, 22)
            stand(canvas, "cactus", rng, x, y, 12 + 13 * k + rng.uniform(0, 5))


def _ripples(rng: np.random.Generator, period: float) -> Light:
    bend = Noise(rng, 40, 2)

    def light(x: Array, y: Array, rgb: Array) -> Array:
        wave = np.sin((y + 0.25 * x + 14 * bend(x, y)) * np.float32(2 * math.pi / period))
        return single(rgb * (1 + 0.09 * wave)[..., None])

    return light


def snowfield(canvas: Canvas, rng: np.random.Generator) -> None:
    """Snow, firs, a snowman."""
    horizon = rng.uniform(100, 130)
    sky(canvas, rng, horizon, haze=(0.92, 0.94, 0.97), clouds=2)
    if rng.random() < 0.7:
        mountains(canvas, rng, horizon, colour("white", rng), rugged=True)
    edge = ridge(Noise(rng, 90, 2), horizon + 6, 7)
    shadow = lights.mottled(Noise(rng, (45, 12), 3), (0.78, 0.85, 0.96), -0.1, 0.6)
    snow = Surface(colour("white", rng), (shadow, lights.vertical(0.93, 1.03, horizon, EXTENT)))
    canvas.paint(below(edge), snow, {"object": "snow"})
    for y in np.sort(rng.uniform(horizon + 6, horizon + 50, rng.integers(2, 6))):
        stand(canvas, "tree", rng, rng.uniform(8, 216), y, 12 + (y - horizon) * 0.55)
    if rng.random() < 0.5:
        stand(canvas, "house", rng, rng.uniform(50, 174), horizon + rng.uniform(28, 45), rng.uniform(28, 40))
    if rng.random() < 0.8:
        stand(canvas, "snowman", rng, rng.uniform(45, 179), rng.uniform(190, 214), rng.uniform(36, 52))
    for _ in range(70):
        flake = circle(rng.uniform(0, EXTENT), rng.uniform(0, EXTENT), rng.uniform(0.6, 1.7))
        canvas.shade(flake, lights.toward((1, 1, 1), rng.uniform(0.5, 0.95)), softness=1.5)


def night(canvas: Canvas, rng: np.random.Generator) -> None:
    """A landscape by moonlight; its colours are not labelled, since darkness hides those of the paints."""
    horizon = rng.uniform(135, 165)
    canvas.paint(
        None,
        Surface(colour("black", rng, (12, 16, 44)), (lights.fade((0.16, 0.2, 0.42), 30, 200, 0.8),)),
        {"object": "sky"},
    )
    for _ in range(90):
        x, y = rng.uniform(0, EXTENT), rng.uniform(0, horizon)
        canvas.shade(circle(x, y, rng.uniform(0.35, 1.1)), lights.toward((1, 1, 0.92), rng.uniform(0.5, 1)))
    x, y, r = rng.uniform(35, 190), rng.uniform(30, 65), rng.uniform(15, 25)
    canvas.shade(circle(x, y, r * 1.2), lights.toward((0.75, 0.8, 1.0), 0.35), softness=40)
    moon = circle(x, y, r)
    craters = lights.mottled(Noise(rng, 9, 2), (0.66, 0.66, 0.64), 0.0, 0.5)
    canvas.paint(moon, Surface(colour("white", rng, (240, 236, 214)), (craters,)), {"object": "moon"})
    for k in range(2):
        edge = ridge(Noise(rng, 70, 3), horizon - 12 + 16 * k, 15)
        hill = colour("black", rng, (18 - 6 * k, 24 - 8 * k, 40 - 14 * k))
        canvas.paint(below(edge), Surface(hill, (lights.grain(Noise(rng, 5, 3), 0.4),)), {"object": "mountain"})
    ground(canvas, rng, horizon + 18, colour("black", rng, (20, 28, 26)), "grass", (0.1, 0.14, 0.18), fine=3)
    before = canvas.pixels.copy()
    things = [
        ("house", rng.uniform(30, 194), horizon + rng.uniform(26, 44), rng.uniform(28, 44))
        for _ in range(rng.integers(1, 3))
    ]
    things += [
        ("tree", rng.uniform(10, 214), horizon + rng.uniform(22, 50), rng.uniform(26, 44))
        for _ in range(rng.integers(1, 4))
    ]
    for name, tx, ty, scale in sorted(things, key=lambda thing: thing[2]):
        stand(canvas, name, rng, tx, ty, scale, shadow=False)
    drawn = np.abs(canvas.pixels - before).max(-1, keepdims=True) > 0.004
    dark = canvas.pixels * np.array([0.13, 0.15, 0.24], np.float32)
    canvas.pixels = np.where(drawn, dark, canvas.pixels).astype(np.float32)
    for name, tx, ty, scale in things:
        if name == "house":
            _lit_windows(canvas, rng, Frame(tx, ty - scale, scale))
    canvas.labels["color"][:] = 0


def _lit_windows(canvas: Canvas, rng: np.random.Generator, frame: Frame) -> None:
    for u in (-0.5, 0.5):
        if rng.random() < 0.85:
            pane = frame.place(box(u - 0.17, 0.05, u + 0.17, 0.42))
            canvas.shade(pane, lights.toward((1.0, 0.85, 0.45), 0.9))
            canvas.shade(pane, lights.toward((1.0, 0.8, 0.4), 0.25), softness=frame.scale * 0.4)
            for bar in (box(u - 0.015, 0.05, u + 0.015, 0.42), box(u - 0.17, 0.22, u + 0.17, 0.25)):
                canvas.shade(frame.place(bar), lights.dimmed(0.35))
