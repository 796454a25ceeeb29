"""What people put up and drive about in, drawn from parts; see `things`."""

import math

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.brush import Brush
from ortoscope_service.datasets.rendered_scenes.canvas import Surface
from ortoscope_service.datasets.rendered_scenes.geometry import (
    Array,
    box,
    circle,
    ellipse,
    intersection,
    line,
    polygon,
    single,
    union,
)
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import Colour, colour, pick


def car(b: Brush) -> None:
    """A car from the side."""
    b = Brush(b.canvas, b.frame.inner(0, 0.39), b.rng, b.name)
    paint = pick(b.rng, "red", "blue", "white", "yellow", "green", "grey", "black", "orange")
    black, grey = colour("black", b.rng), colour("grey", b.rng)
    lower = polygon([(-0.95, 0.3), (-0.97, 0.0), (-0.6, -0.06), (0.6, -0.08), (0.93, 0.04), (0.97, 0.3)], 0.05)
    cabin = polygon([(-0.66, -0.06), (-0.42, -0.4), (0.22, -0.4), (0.56, -0.06)], 0.05)
    b.put(box(-0.9, 0.2, 0.9, 0.42), black)
    b.put(cabin, paint, lights.vertical(1.15, 0.8, b.frame.point(0, -0.45)[1], b.frame.point(0, 0)[1]))
    glass = colour("black", b.rng, (52, 62, 74))
    panes = (
        [(-0.56, -0.07), (-0.39, -0.34), (-0.1, -0.34), (-0.1, -0.07)],
        [(-0.02, -0.07), (-0.02, -0.34), (0.19, -0.34), (0.44, -0.07)],
    )
    sky = lights.fade((0.75, 0.85, 0.95), b.frame.point(0, -0.08)[1], b.frame.point(0, -0.4)[1], 0.75)
    for pane in panes:
        b.put(polygon(pane), glass, sky, part="window")
    b.put(lower, paint, b.cushion(lower, 0.2, 0.5))
    b.shade(box(-0.96, 0.14, 0.96, 0.17), 0.75)
    for u in (-0.06, 0.46):
        b.shade(line([(u, -0.04), (u, 0.3)], 0.008), 0.5)
    b.put(box(-0.2, 0.03, -0.1, 0.055), grey)
    b.put(ellipse(0.93, 0.08, 0.06, 0.05), colour("white", b.rng), b.ball(0.93, 0.08, 0.06), part="headlight")
    b.put(box(-1.0, 0.02, -0.93, 0.12, 0.02), colour("red", b.rng), part="headlight")
    for u in (-0.58, 0.58):
        b.put(circle(u, 0.36, 0.27), black, lights.dimmed(0.5))
        b.put(circle(u, 0.38, 0.23), black, b.ball(u, 0.38, 0.3, gloss=0.1), part="wheel")
        b.put(circle(u, 0.38, 0.135), grey, b.ball(u, 0.38, 0.2), part="wheel", detail="hub")
        for i in range(5):
            a = 2 * math.pi * i / 5 + b.frame.x
            b.shade(circle(u + 0.08 * math.cos(a), 0.38 + 0.08 * math.sin(a), 0.03), 0.3)


def house(b: Brush) -> None:
    """A house with a pitched roof."""
    wall, roof = pick(b.rng, "white", "yellow", "pink", "grey", "orange"), pick(b.rng, "red", "brown", "grey", "black")
    if b.rng.random() < 0.5:
        b.put(box(-0.8, -0.25, 0.8, 1), b.cloth("bricks", 0.24), texture="bricks")
    else:
        b.put(box(-0.8, -0.25, 0.8, 1), wall, b.grain(0.05, 0.12))
    b.put(box(0.36, -0.98, 0.56, -0.4), b.cloth("bricks", 0.14), part="chimney", texture="bricks")
    gable = polygon([(-1, -0.2), (-0.62, -0.85), (0.62, -0.85), (1, -0.2)])
    if b.rng.random() < 0.5:
        gable = polygon([(-1, -0.2), (0, -0.95), (1, -0.2)])
    b.put(gable, roof, lights.grain(Noise(b.rng, (b.frame.scale, b.frame.scale * 0.07), 2), 0.45), part="roof")
    b.shade(box(-0.8, -0.2, 0.8, -0.08), 0.6, 0.08)
    glass = colour("blue", b.rng, (95, 130, 170))
    for u in (-0.5, 0.5):
        _window(b, u - 0.17, 0.05, u + 0.17, 0.42, glass)
    door = pick(b.rng, "brown", "red", "green", "blue")
    b.put(box(-0.17, 0.38, 0.17, 1), door, b.cushion(box(-0.17, 0.38, 0.17, 1), 0.06, 0.4), part="door")
    b.shade(box(-0.1, 0.46, 0.1, 0.66), 0.8)
    b.put(circle(0.11, 0.72, 0.025), colour("yellow", b.rng), part="door", detail="knob")


def _window(b: Brush, x0: float, y0: float, x1: float, y1: float, glass: Colour, part: str = "window") -> None:
    """A window with a frame and crossed bars; the panes are parts of it."""
    white, t = colour("white", b.rng), 0.09 * (x1 - x0)
    b.put(box(x0 - t, y0 - t, x1 + t, y1 + t), white, part=part)
    mirror = lights.fade((0.85, 0.92, 1.0), b.frame.point(0, y1)[1], b.frame.point(0, y0)[1], 0.5)
    b.put(box(x0, y0, x1, y1), glass, mirror, part=part, detail="pane" if part else "")
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    b.put(box(middle_x - t / 2, y0, middle_x + t / 2, y1), white, part=part)
    b.put(box(x0, middle_y - t / 2, x1, middle_y + t / 2), white, part=part)


def fence(b: Brush) -> None:
    """A picket fence, wider than high."""
    wood = pick(b.rng, "white", "brown", "white", "grey")
    rough = lights.grain(Noise(b.rng, (b.frame.scale * 0.04, b.frame.scale * 0.5), 2), 0.25)
    for v in (0.0, 0.6):
        b.put(box(-2, v - 0.07, 2, v + 0.07), wood, lights.dimmed(0.78), part="rail")
    for u in np.arange(-1.85, 1.9, 0.3):
        board = polygon([(u - 0.09, 1), (u - 0.09, -0.45), (u, -0.62), (u + 0.09, -0.45), (u + 0.09, 1)])
        b.put(board, wood, b.cushion(board, 0.05, 0.25), rough, part="picket")


def ladder(b: Brush) -> None:
    """A ladder that leans."""
    wood, lean = pick(b.rng, "brown", "grey", "yellow"), b.rng.uniform(-0.25, 0.25)
    count = int(b.rng.integers(6, 9))
    for i in range(count):
        v = -0.85 + 1.7 * i / (count - 1)
        half, u = 0.22 + 0.08 * i / count, -lean * v
        b.put(line([(u - half, v), (u + half, v)], 0.04), wood, lights.dimmed(0.9), part="rung")
    for side in (-1, 1):
        rail = line([(lean + side * 0.22, -1), (-lean + side * 0.32, 1)], 0.055)
        b.put(rail, wood, b.cushion(rail, 0.05, 0.4), b.grain(0.06, 0.15), part="rail")


def traffic_light(b: Brush) -> None:
    """A traffic light on a pole."""
    case, grey = colour("black", b.rng), colour("grey", b.rng)
    b.put(box(-0.07, 0.4, 0.07, 1), grey, b.rod(0, 0.07), part="pole")
    b.put(box(-0.34, -1, 0.34, 0.5, 0.1), case, b.rod(0, 0.5, 0.1))
    lit = int(b.rng.integers(3))
    for i, name in enumerate(("red", "yellow", "green")):
        v = -0.72 + 0.47 * i
        b.put(circle(0, v, 0.21), case, lights.dimmed(0.6))
        bright = lights.dimmed(1.25) if i == lit else lights.dimmed(0.4)
        b.put(circle(0, v, 0.18), colour(name, b.rng), b.ball(0, v, 0.3, gloss=0.4), bright, part="lamp")
        b.shade(intersection(circle(0, v, 0.2), box(-0.3, v - 0.3, 0.3, v - 0.1)), 0.4, 0.06)


def boat(b: Brush) -> None:
    """A sailing boat."""
    paint, cloth = pick(b.rng, "white", "red", "blue", "brown", "black"), pick(b.rng, "white", "white", "red", "yellow")
    b.put(line([(0, 0.62), (0, -0.98)], 0.03), colour("brown", b.rng), b.rod(0, 0.03), part="mast")
    curve = lights.rod(b.frame, 0.1, 1.2, 0)
    b.put(polygon([(0.06, -0.9), (0.72, 0.42), (0.06, 0.48)], 0.01), cloth, curve, part="sail")
    b.put(polygon([(-0.06, -0.72), (-0.06, 0.48), (-0.6, 0.44)], 0.01), cloth, lights.dimmed(0.88), part="sail")
    hull = polygon([(-0.85, 0.58), (0.95, 0.52), (0.62, 0.95), (-0.6, 0.95)], 0.02)
    b.put(hull, paint, b.cushion(hull, 0.2, 0.5), part="hull")
    b.put(
        polygon([(-0.83, 0.6), (0.93, 0.54), (0.88, 0.63), (-0.79, 0.68)]),
        pick(b.rng, "red", "yellow", "white"),
        part="hull",
    )
    b.put(polygon([(0.0, -0.98), (0.26, -0.9), (0.0, -0.82)]), pick(b.rng, "red", "orange"), part="flag")


def balloon(b: Brush) -> None:
    """A hot-air balloon."""
    first, second = pick(b.rng, "red", "blue", "purple", "green"), pick(b.rng, "yellow", "white", "orange")

    def panels(x: Array, y: Array) -> Array:
        u, v = b.frame.local(x, y)
        half = np.maximum(
            np.sqrt(np.maximum(0.69**2 - np.maximum(-0.25 - v, 0) ** 2, 1e-3)) - 0.66 * np.maximum(v + 0.05, 0), 0.12
        )
        turn = np.arcsin(np.clip(u / half, -1, 1))
        return single(np.sin(turn * 5) * np.float32(0.1 * b.frame.scale))

    for u in (-0.12, 0.12):
        b.put(line([(u * 1.6, 0.5), (u, 0.82)], 0.012), colour("brown", b.rng), part="rope")
    envelope = union(circle(0, -0.28, 0.7), polygon([(-0.6, 0.08), (-0.18, 0.58), (0.18, 0.58), (0.6, 0.08)]))
    b.put(
        envelope, Surface(first, second=second, pattern=panels), b.ball(0, -0.2, 0.9, 1.0, gloss=0.2), part="envelope"
    )
    basket = box(-0.14, 0.8, 0.14, 1, 0.02)
    b.put(basket, b.cloth("woven", 0.09), b.rod(0, 0.16, 0), part="basket", texture="woven")
