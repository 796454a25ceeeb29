"""A room."""

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.canvas import EXTENT, Canvas, Surface
from ortoscope_service.datasets.rendered_scenes.geometry import (
    Array,
    Frame,
    Region,
    below,
    box,
    circle,
    ellipse,
    intersection,
    polygon,
    single,
)
from ortoscope_service.datasets.rendered_scenes.land import MIDDLE, ridge, stand
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import colour, pick
from ortoscope_service.datasets.rendered_scenes.textures import TEXTURES, Cloth
from ortoscope_service.datasets.rendered_scenes.things import draw


def room(canvas: Canvas, rng: np.random.Generator) -> None:
    """A room with furniture."""
    floor_y = rng.uniform(150, 172)
    wall = pick(rng, "white", "yellow", "pink", "blue", "green", "grey")
    surface, texture = Surface(wall), ""
    if rng.random() < 0.45:
        texture = str(rng.choice(["striped", "polka-dotted", "bricks", "zigzagged"]))
        surface = TEXTURES[texture].draw(rng, Cloth(rng.uniform(16, 26)))
        surface = Surface(
            surface.colour, (*surface.light, lights.toward((0.9, 0.88, 0.85), 0.25)), surface.second, surface.pattern
        )
    canvas.paint(None, surface.lit(lights.vertical(1.05, 0.85)), {"object": "wall", "texture": texture})
    boards = colour("brown", rng, (164, 114, 72))
    planks = Noise(rng, (1, 0.0625), 1)

    def wood(x: Array, y: Array, rgb: Array) -> Array:
        depth = y - np.float32(floor_y - 42)
        across = (x - np.float32(MIDDLE)) / depth * np.float32(9)
        gap = np.clip(np.abs(across - np.rint(across)) * 14 - 0.15, 0, 1)
        board = single(np.rint(across))
        tone = 1 + 0.16 * planks(board * 7.3, board * 3.1) + 0.1 * planks(single(across * 9), single(500 / depth))
        return rgb * (tone * (0.55 + 0.45 * gap))[..., None].astype(np.float32)

    canvas.paint(
        box(-9, floor_y, 233, 233),
        Surface(boards, (wood, lights.vertical(0.85, 1.08, floor_y, EXTENT))),
        {"object": "floor"},
    )
    canvas.paint(
        box(-9, floor_y - 7, 233, floor_y),
        Surface(colour("white", rng), (lights.vertical(1, 0.8, floor_y - 7, floor_y),)),
        {"object": "wall"},
    )
    spots = rng.permutation(np.array([48.0, 112.0, 176.0]))
    for x, kind in zip(
        spots, rng.permutation(["window", "picture", "clock", "picture", "window", "door"])[:3], strict=True
    ):
        _hang(canvas, rng, str(kind), float(x) + rng.uniform(-6, 6), rng.uniform(50, 66), floor_y)
    if rng.random() < 0.6:
        pattern = str(rng.choice(["striped", "chequered", "zigzagged", "polka-dotted", "woven"]))
        rug = ellipse(rng.uniform(70, 154), floor_y + 38, rng.uniform(50, 75), 17)
        cloth = Cloth(rng.uniform(14, 22), rng.uniform(-0.3, 0.3), 0.5)
        canvas.paint(rug, TEXTURES[pattern].draw(rng, cloth), {"object": "rug", "texture": pattern})
    x = rng.uniform(60, 164)
    _table(canvas, rng, x, floor_y + 22)
    for k, name in enumerate(rng.permutation(["cup", "bottle", "lamp", "clock", "flower"])[:3]):
        size = {"cup": 9, "bottle": 18, "lamp": 21, "clock": 11, "flower": 16}[str(name)]
        stand(canvas, str(name), rng, x - 34 + 34 * k, floor_y - 17, size, shadow=False)
    if rng.random() < 0.5:
        stand(canvas, "lamp", rng, rng.choice([18, 206]), floor_y + 14, rng.uniform(52, 64))
    if rng.random() < 0.4:
        stand(canvas, "ball", rng, rng.uniform(30, 194), 216, rng.uniform(10, 15))


def _hang(canvas: Canvas, rng: np.random.Generator, kind: str, x: float, y: float, floor_y: float) -> None:
    """Puts something on the wall of a room."""
    if kind == "clock":
        draw(canvas, "clock", Frame(x, y, rng.uniform(15, 21)), rng)
    elif kind == "door":
        paint = pick(rng, "brown", "white", "brown")
        leaf = box(x - 24, floor_y - 118, x + 24, floor_y)
        canvas.paint(
            leaf,
            Surface(paint, (lights.rounded(leaf, 4, 0.4), lights.grain(Noise(rng, (3, 40), 2), 0.15))),
            {"object": "door"},
        )
        for y0, y1 in ((floor_y - 108, floor_y - 66), (floor_y - 54, floor_y - 12)):
            panel = box(x - 16, y0, x + 16, y1)
            canvas.shade(panel, lights.rounded(panel, 4, -0.4))
        canvas.paint(
            circle(x + 18, floor_y - 58, 2.6), Surface(colour("yellow", rng)), {"object": "door", "part": "knob"}
        )
    else:
        half_width, half_height = (25.0, 30.0) if kind == "window" else (rng.uniform(17, 25), rng.uniform(14, 20))
        frame_paint = colour("white", rng) if kind == "window" else pick(rng, "brown", "black", "yellow")
        outer = box(x - half_width - 4, y - half_height - 4, x + half_width + 4, y + half_height + 4)
        canvas.shade(
            box(x - half_width - 2, y - half_height, x + half_width + 8, y + half_height + 9),
            lights.dimmed(0.7),
            softness=6,
        )
        canvas.paint(outer, Surface(frame_paint, (lights.rounded(outer, 3, 0.5),)), {"object": kind, "part": "frame"})
        pane = box(x - half_width, y - half_height, x + half_width, y + half_height)
        labels = {"object": kind, "part": "pane"} if kind == "window" else {"object": kind}
        sky = Surface(
            colour("blue", rng, (130, 180, 230)), (lights.fade((1, 1, 1), y - half_height, y + half_height, 0.7),)
        )
        canvas.paint(pane, sky, labels)
        hills = below(ridge(Noise(rng, 22, 2), y + half_height * 0.35, 7))
        canvas.paint(
            intersection(pane, Region(hills.distance, pane.bounds)),
            Surface(colour("green", rng), (lights.grain(Noise(rng, 4, 3), 0.4),)),
            labels,
        )
        if kind == "window":
            for bar in (
                box(x - 1.6, y - half_height, x + 1.6, y + half_height),
                box(x - half_width, y - 1.6, x + half_width, y + 1.6),
            ):
                canvas.paint(bar, Surface(frame_paint), {"object": kind, "part": "frame"})


def _table(canvas: Canvas, rng: np.random.Generator, x: float, foot: float) -> None:
    wood = pick(rng, "brown", "brown", "white", "black")
    rough = lights.grain(Noise(rng, (30, 2), 2), 0.25)
    lights.cast_shadow(canvas, x, foot + 1, 58, 5)
    for side in (-1, 1):
        leg = box(x + side * 48 - 3.5, foot - 40, x + side * 48 + 3.5, foot)
        canvas.paint(leg, Surface(wood, (lights.rounded(leg, 3, 0.5),)), {"object": "table", "part": "leg"})
    top = polygon([(x - 50, foot - 46), (x + 50, foot - 46), (x + 60, foot - 36), (x - 60, foot - 36)])
    canvas.paint(
        box(x - 60, foot - 36, x + 60, foot - 31),
        Surface(wood, (lights.dimmed(0.7),)),
        {"object": "table", "part": "top"},
    )
    canvas.paint(top, Surface(wood, (rough, lights.dimmed(1.1))), {"object": "table", "part": "top"})
