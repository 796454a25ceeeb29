"""Plants, drawn from parts; see `things`."""

import math

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.brush import Brush
from ortoscope_service.datasets.rendered_scenes.geometry import (
    blob,
    box,
    circle,
    difference,
    ellipse,
    intersection,
    line,
    polygon,
    union,
)
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import colour, pick


def tree(b: Brush) -> None:
    """A tree: leafy or a conifer."""
    bark, leaf = colour("brown", b.rng), colour("green", b.rng)
    if b.rng.random() < 0.3:
        b.put(line([(0, 1), (0, 0.3)], 0.09), bark, b.rod(0, 0.09), part="trunk")
        needles = b.grain(0.07, 0.8, 4)
        for i in range(4):
            top, width = -0.98 + 0.36 * i, 0.3 + 0.15 * i
            teeth = [(width * (1 - k / 5), top + 0.72 + (0.06 if k % 2 else 0)) for k in range(11)]
            b.put(polygon([(0, top), *teeth]), leaf, lights.dimmed(1.08 - 0.06 * i), needles, part="crown")
            b.shade(box(-width, top + 0.66, width, top + 0.72), 0.8, 0.1)
        return
    bend = b.rng.uniform(-0.08, 0.08)
    trunk = [(0, 1), (bend, 0.5), (0, -0.1)]
    b.put(polygon([(-0.2, 1), (-0.1, 0.8), (0.1, 0.8), (0.2, 1)]), bark, b.rod(0, 0.2), part="trunk")
    rough = lights.grain(Noise(b.rng, (b.frame.scale * 0.05, b.frame.scale * 0.3), 2), 0.5)
    for path, width in ((trunk, 0.11), ([(0, 0.35), (0.3, -0.1)], 0.05), ([(0, 0.45), (-0.3, 0)], 0.05)):
        b.put(line(path, width, width * 0.6), bark, b.rod(0, 0.14), rough, part="trunk")
    leaves = b.grain(0.09, 0.9, 4)
    clumps = [(0.52 * math.cos(a), -0.38 + 0.36 * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 8)[:-1]]
    for u, v in sorted([*clumps, (0, -0.38), (0, -0.62)], key=lambda p: -p[1]):
        radius = b.rng.uniform(0.3, 0.4)
        outline = blob(u, v, radius, b.rng.uniform(0.02, 0.05, 7).tolist(), b.rng.uniform(0, 6, 7).tolist())
        b.put(outline, leaf, b.ball(u, v, radius * 1.3, gloss=0), lights.dimmed(1.1), leaves, part="crown")


def palm(b: Brush) -> None:
    """A palm tree."""
    bark, leaf, lean = colour("brown", b.rng), colour("green", b.rng), b.rng.uniform(-0.3, 0.3)
    path = [(-lean, 1.0), (-lean * 0.6, 0.5), (-lean * 0.1, 0.0), (lean * 0.3, -0.5)]
    rings = lights.grain(Noise(b.rng, (b.frame.scale, b.frame.scale * 0.07), 1), 0.45)
    b.put(line(path, 0.09, 0.05), bark, rings, part="trunk")
    u0, v0 = path[-1]
    for a in np.linspace(-0.35, math.pi + 0.35, 8):
        du, dv = -math.cos(a), -0.6 * math.sin(a)
        tip, knee = (u0 + 0.85 * du, v0 + 0.6 * dv + 0.38), (u0 + 0.5 * du, v0 + 0.7 * dv)
        b.put(
            line([(u0, v0), knee, tip], 0.1, 0.01),
            leaf,
            b.grain(0.05, 0.6),
            lights.dimmed(b.rng.uniform(0.7, 1.15)),
            part="crown",
        )


def flower(b: Brush) -> None:
    """A flower with petals around a disc, on a stem."""
    green = colour("green", b.rng)
    petal, heart = pick(b.rng, "white", "yellow", "pink", "red", "purple", "orange"), pick(b.rng, "yellow", "brown")
    heart = colour("brown", b.rng) if petal.name == "yellow" else heart
    sway = b.rng.uniform(-0.15, 0.15)
    b.put(line([(0, -0.25), (sway, 0.35), (0, 1)], 0.035), green, b.rod(0, 0.1), part="stem")
    for side in (-1, 1):
        leaf = ellipse(side * 0.24 + sway * 0.6, 0.6, 0.25, 0.085, side * -0.6)
        b.put(leaf, green, b.cushion(leaf, 0.1), part="leaf")
    count, turn = int(b.rng.integers(7, 15)), b.rng.uniform(0, 1)
    for i in [*range(0, count, 2), *range(1, count, 2)]:
        a = 2 * math.pi * (i + turn) / count
        one = ellipse(0.42 * math.cos(a), -0.3 + 0.42 * math.sin(a), 0.32, min(1.3 / count, 0.16), a)
        b.put(one, petal, b.cushion(one, 0.12, 0.4), lights.dimmed(b.rng.uniform(0.85, 1.03)), part="petal")
    b.put(circle(0, -0.3, 0.2), heart, b.ball(0, -0.3, 0.24, gloss=0), b.grain(0.04, 0.6), part="disc")


def mushroom(b: Brush) -> None:
    """A mushroom with a cap, mostly a fly agaric."""
    white, cap = colour("white", b.rng), pick(b.rng, "red", "red", "brown", "orange")
    stalk = polygon([(-0.2, 1), (-0.14, 0), (0.14, 0), (0.2, 1)], 0.04)
    b.put(stalk, white, b.rod(0, 0.24, 0), b.grain(0.06, 0.15), part="stalk")
    gills = ellipse(0, 0.06, 0.62, 0.13)
    b.put(
        gills,
        white,
        lights.grain(Noise(b.rng, (b.frame.scale * 0.04, b.frame.scale), 1), 0.5),
        lights.dimmed(0.7),
        part="gills",
    )
    top = intersection(ellipse(0, 0.05, 0.82, 0.85), union(box(-1, -1, 1, 0.02), ellipse(0, 0.02, 0.82, 0.1)))
    top = difference(top, ellipse(0, 0.12, 0.6, 0.1))
    glow = b.ball(0, 0.05, 0.9, 0.95, gloss=0.3)
    b.put(top, cap, glow, part="cap")
    if cap.name == "red":
        for u, v, r in (
            (-0.35, -0.35, 0.12),
            (0.12, -0.55, 0.13),
            (0.42, -0.22, 0.11),
            (-0.1, -0.14, 0.1),
            (-0.6, -0.06, 0.07),
            (0.68, 0.0, 0.05),
        ):
            b.put(intersection(top, ellipse(u, v, r, r * 0.8)), white, glow, part="cap", detail="spot")


def cactus(b: Brush) -> None:
    """A saguaro with arms."""
    green = colour("green", b.rng)
    ribs = lights.grain(Noise(b.rng, (b.frame.scale * 0.06, b.frame.scale * 3), 1), 0.5)
    for side, v, top in ((-1, b.rng.uniform(0.0, 0.3), -0.45), (1, b.rng.uniform(-0.15, 0.15), -0.6)):
        arm = line([(0, v), (side * 0.42, v), (side * 0.46, v - 0.08), (side * 0.46, v + top)], 0.11)
        b.put(arm, green, b.cushion(arm, 0.11, 0.5), ribs, part="arm")
    trunk = line([(0, 1.05), (0, -0.8)], 0.17)
    b.put(trunk, green, b.rod(0, 0.18, 0.05), ribs, part="trunk")
    for _ in range(3):
        b.put(
            circle(b.rng.uniform(-0.12, 0.12), -0.92 + b.rng.uniform(0, 0.1), 0.05),
            colour("pink", b.rng),
            part="blossom",
        )
