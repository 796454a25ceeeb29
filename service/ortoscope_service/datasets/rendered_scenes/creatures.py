"""Living things, and a snowman, drawn from parts; see `things`."""

import math

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.brush import Brush
from ortoscope_service.datasets.rendered_scenes.geometry import (
    Region,
    arc,
    box,
    circle,
    difference,
    ellipse,
    intersection,
    line,
    polygon,
    star,
)
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import colour, pick


def fish(b: Brush) -> None:
    """A fish from the side."""
    paint = pick(b.rng, "orange", "orange", "yellow", "blue", "red", "grey", "purple")
    fin = paint if b.rng.random() < 0.6 else pick(b.rng, "yellow", "orange", "white")
    rays = lights.grain(Noise(b.rng, (b.frame.scale, b.frame.scale * 0.05), 1), 0.4)
    tail = polygon([(-0.5, -0.06), (-1, -0.42), (-0.86, 0), (-1, 0.42), (-0.5, 0.06)], 0.02)
    for region, name in (
        (tail, "tail"),
        (polygon([(-0.35, -0.3), (-0.2, -0.62), (0.3, -0.5), (0.35, -0.28)], 0.02), "fin"),
        (polygon([(-0.2, 0.3), (-0.25, 0.58), (0.1, 0.5), (0.2, 0.3)], 0.02), "fin"),
    ):
        b.put(region, fin, rays, part=name)
    body = ellipse(0.06, 0, 0.68, 0.4)
    b.put(body, paint, b.ball(0.06, 0, 0.78, 0.48), b.grain(0.05, 0.15))
    if b.rng.random() < 0.5:
        white = pick(b.rng, "white", "black", "white")
        for u in (-0.3, 0.1):
            band = intersection(body, box(u, -0.5, u + 0.13, 0.5))
            b.put(band, white, b.ball(0.06, 0, 0.78, 0.48))
    side = polygon([(0.14, 0.04), (-0.14, 0.2), (-0.02, 0.0)], 0.03)
    b.put(side, fin, rays, part="fin")
    b.shade(arc(0.1, 0, 0.36, -0.8, 0.8, 0.012), 0.65)
    b.put(circle(0.5, -0.1, 0.085), colour("white", b.rng), part="eye")
    b.put(
        circle(0.515, -0.1, 0.05),
        colour("black", b.rng),
        b.ball(0.515, -0.1, 0.07, gloss=0.9),
        part="eye",
        detail="pupil",
    )
    b.shade(line([(0.72, 0.08), (0.58, 0.1)], 0.014), 0.4)


def face(b: Brush) -> None:
    """A person's face from the front."""
    kinds = (("pink", (240, 196, 168)), ("pink", (226, 172, 140)), ("brown", (150, 98, 66)), ("brown", (104, 66, 46)))
    name, rgb = kinds[b.rng.integers(len(kinds))]
    skin = colour(name, b.rng, rgb)
    hair = pick(b.rng, "black", "brown", "yellow", "orange", "grey")
    strands = lights.grain(Noise(b.rng, (b.frame.scale * 0.05, b.frame.scale * 0.5), 2), 0.5)
    long_hair = b.rng.random() < 0.5
    if long_hair:
        b.put(box(-0.72, -0.5, 0.72, 0.75, 0.3), hair, strands, part="hair")
    shirt = pick(b.rng, "blue", "red", "green", "white", "grey", "purple")
    b.put(ellipse(0, 1.25, 0.95, 0.5), shirt, b.ball(0, 1.25, 1.0, 0.7, gloss=0))
    b.put(box(-0.22, 0.4, 0.22, 0.95, 0.1), skin, lights.dimmed(0.72), part="neck")
    for side in (-1, 1):
        b.put(ellipse(side * 0.6, 0.02, 0.1, 0.16), skin, lights.dimmed(0.85), part="ear")
    b.put(circle(0, -0.3, 0.67), hair, strands, part="hair")
    head = ellipse(0, 0, 0.58, 0.78)
    b.put(head, skin, b.ball(0, 0, 0.85, 1.05, gloss=0.08), b.grain(0.05, 0.05), part="head")
    fringe = difference(ellipse(0, -0.2, 0.62, 0.66), ellipse(0.1, 0.22, 0.62, 0.66))
    b.put(intersection(fringe, box(-0.7, -0.9, 0.7, -0.2)), hair, strands, part="hair")
    iris = pick(b.rng, "brown", "blue", "green", "black")
    for side in (-1, 1):
        b.shade(ellipse(side * 0.24, -0.06, 0.17, 0.11), 0.82, 0.08)
        b.put(ellipse(side * 0.24, -0.05, 0.13, 0.075), colour("white", b.rng), part="eye")
        b.put(circle(side * 0.24, -0.05, 0.066), iris, part="eye", detail="iris")
        b.put(circle(side * 0.24, -0.05, 0.032), colour("black", b.rng), part="eye", detail="pupil")
        b.put(
            line([(side * 0.12, -0.2), (side * 0.27, -0.24), (side * 0.38, -0.19)], 0.025, 0.02), hair, part="eyebrow"
        )
    b.put(polygon([(0, -0.02), (-0.085, 0.24), (0.085, 0.24)], 0.02), skin, lights.dimmed(0.9), part="nose")
    b.shade(line([(-0.09, 0.27), (0.09, 0.27)], 0.014), 0.6, 0.02)
    lips = colour("red", b.rng, (178, 76, 76))
    b.put(ellipse(0, 0.45, 0.19, 0.062), lips, part="mouth")
    b.shade(line([(-0.19, 0.445), (0, 0.455), (0.19, 0.445)], 0.012), 0.45)


def bird(b: Brush) -> None:
    """A bird from the side."""
    paint = pick(b.rng, "red", "blue", "yellow", "brown", "grey", "green", "black", "white")
    wing = colour(paint.name, b.rng) if b.rng.random() < 0.5 else pick(b.rng, "black", "grey", "brown")
    beak, black = pick(b.rng, "orange", "yellow", "black"), colour("black", b.rng)
    feathers = b.grain(0.08, 0.35)
    b.put(polygon([(-0.4, 0.02), (-1, 0.3), (-0.95, 0.45), (-0.3, 0.32)], 0.02), wing, feathers, part="tail")
    for u in (0.0, 0.14):
        b.put(line([(u, 0.4), (u + 0.02, 0.85), (u + 0.14, 0.95)], 0.025), beak, part="leg")
    body = ellipse(0.02, 0.12, 0.52, 0.36, -0.5)
    b.put(body, paint, b.ball(0.02, 0.1, 0.6, 0.5, gloss=0.05), feathers)
    b.put(polygon([(0.58, -0.42), (0.86, -0.3), (0.58, -0.26)], 0.015), beak, b.ball(0.7, -0.36, 0.25), part="beak")
    b.put(circle(0.4, -0.36, 0.25), paint, b.ball(0.4, -0.36, 0.32, gloss=0.05), feathers, part="head")
    feather = ellipse(-0.12, 0.14, 0.44, 0.2, -0.42)
    b.put(
        feather,
        wing,
        b.cushion(feather, 0.15, 0.5),
        lights.grain(Noise(b.rng, (b.frame.scale * 0.5, b.frame.scale * 0.06), 2), 0.5),
        part="wing",
    )
    b.put(circle(0.47, -0.41, 0.055), colour("white", b.rng), part="head", detail="eye")
    b.put(circle(0.475, -0.41, 0.035), black, b.ball(0.475, -0.41, 0.05, gloss=0.9), part="head", detail="eye")


def butterfly(b: Brush) -> None:
    """A butterfly from above."""
    paint, black = pick(b.rng, "orange", "blue", "yellow", "red", "purple", "white"), colour("black", b.rng)
    spot = pick(b.rng, "white", "yellow", "black")
    for side in (-1, 1):
        upper = polygon(
            [(side * 0.05, -0.1), (side * 0.5, -0.75), (side * 0.95, -0.7), (side * 0.8, -0.05), (side * 0.1, 0.1)],
            0.05,
        )
        lower = polygon(
            [(side * 0.05, 0.05), (side * 0.7, 0.05), (side * 0.75, 0.5), (side * 0.4, 0.75), (side * 0.1, 0.3)], 0.06
        )
        for wing, inner in ((lower, 0.86), (upper, 0.86)):
            b.put(wing, black, part="wing")
            cu, cv = (side * 0.45, -0.33) if wing is upper else (side * 0.42, 0.32)
            shrunk = _shrunk(wing, cu, cv, inner)
            veins = lights.grain(Noise(b.rng, (b.frame.scale * 0.15, b.frame.scale * 0.15), 2), 0.35)
            b.put(shrunk, paint, b.cushion(wing, 0.3, 0.3), veins, part="wing")
        for u, v, r in ((0.68, -0.52, 0.08), (0.5, -0.25, 0.06), (0.45, 0.42, 0.08)):
            b.put(circle(side * u, v, r * 1.5), black, part="wing", detail="spot")
            b.put(circle(side * u, v, r), spot, part="wing", detail="spot")
        b.put(line([(side * 0.02, -0.35), (side * 0.12, -0.65), (side * 0.22, -0.78)], 0.015), black, part="antenna")
    b.put(line([(0, -0.36), (0, 0.45)], 0.065, 0.035), black, b.rod(0, 0.07, 0.3), part="body")


def _shrunk(region: Region, u: float, v: float, factor: float) -> Region:
    """A region drawn smaller towards a point."""
    return Region(
        lambda x, y: (
            region.distance((x - u) / np.float32(factor) + u, (y - v) / np.float32(factor) + v) * np.float32(factor)
        ),
        region.bounds,
    )


def starfish(b: Brush) -> None:
    """A starfish."""
    body = star(0, 0, 0.9, 0.3, 5)
    soft = Region(lambda x, y: body.distance(x, y) - np.float32(0.09), (-1, -1, 1, 1))
    b.put(soft, pick(b.rng, "orange", "red", "pink", "purple"), b.cushion(soft, 0.22, 0.6), b.grain(0.04, 0.35))
    pale = colour("white", b.rng)
    for i in range(5):
        a = -math.pi / 2 + 2 * math.pi * i / 5
        for r in (0.2, 0.36, 0.52, 0.68):
            b.put(circle(r * math.cos(a), r * math.sin(a), 0.03), pale)


def snowman(b: Brush) -> None:
    """A snowman with a hat and a carrot."""
    white, black = colour("white", b.rng), colour("black", b.rng)
    for side in (-1, 1):
        twig = line([(side * 0.25, 0.0), (side * 0.8, -0.25), (side * 0.95, -0.2)], 0.02)
        b.put(twig, colour("brown", b.rng), part="arm")
    for v, r in ((0.6, 0.44), (0.0, 0.33)):
        b.put(circle(0, v, r), white, b.ball(0, v, r * 1.15, gloss=0), b.grain(0.08, 0.06), part="body")
    b.put(circle(0, -0.45, 0.25), white, b.ball(0, -0.45, 0.29, gloss=0), part="head")
    for u in (-0.09, 0.09):
        b.put(circle(u, -0.52, 0.032), black, part="head", detail="eye")
    b.put(polygon([(0, -0.47), (0.24, -0.42), (0, -0.4)], 0.01), colour("orange", b.rng), part="head", detail="nose")
    for v in (-0.1, 0.05, 0.2):
        b.put(circle(0, v, 0.035), black, part="body", detail="button")
    b.put(line([(-0.24, -0.24), (0.0, -0.2), (0.24, -0.24)], 0.05), pick(b.rng, "red", "blue", "green"), part="scarf")
    b.put(box(-0.3, -0.68, 0.3, -0.62, 0.01), black, part="hat")
    b.put(box(-0.19, -0.98, 0.19, -0.64, 0.02), black, b.rod(0, 0.2), part="hat")
