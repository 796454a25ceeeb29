"""Things drawn from parts, each in a frame of its own in which it reaches from about -1 to 1 and stands on v = 1."""

from collections.abc import Callable

import numpy as np

from ortoscope_service.datasets.rendered_scenes.brush import Brush
from ortoscope_service.datasets.rendered_scenes.buildings import balloon, boat, car, fence, house, ladder, traffic_light
from ortoscope_service.datasets.rendered_scenes.canvas import Canvas
from ortoscope_service.datasets.rendered_scenes.creatures import bird, butterfly, face, fish, snowman, starfish
from ortoscope_service.datasets.rendered_scenes.geometry import Frame
from ortoscope_service.datasets.rendered_scenes.household import ball, bottle, clock, cup, lamp, umbrella
from ortoscope_service.datasets.rendered_scenes.plants import cactus, flower, mushroom, tree

THINGS: dict[str, Callable[[Brush], None]] = {
    "car": car,
    "house": house,
    "tree": tree,
    "flower": flower,
    "fish": fish,
    "face": face,
    "ball": ball,
    "bottle": bottle,
    "bird": bird,
    "fence": fence,
    "ladder": ladder,
    "boat": boat,
    "clock": clock,
    "mushroom": mushroom,
    "balloon": balloon,
    "umbrella": umbrella,
    "cup": cup,
    "traffic light": traffic_light,
    "butterfly": butterfly,
    "lamp": lamp,
    "cactus": cactus,
    "starfish": starfish,
    "snowman": snowman,
}


def draw(canvas: Canvas, name: str, frame: Frame, rng: np.random.Generator) -> None:
    """Draws a thing."""
    THINGS[name](Brush(canvas, frame, rng, name))
