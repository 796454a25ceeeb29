"""Scenes: landscapes, a street, a room, put together from ground, sky and things."""

from collections.abc import Callable

import numpy as np

from ortoscope_service.datasets.rendered_scenes.canvas import Canvas
from ortoscope_service.datasets.rendered_scenes.countryside import beach, desert, field, night, snowfield
from ortoscope_service.datasets.rendered_scenes.room import room
from ortoscope_service.datasets.rendered_scenes.street import street
from ortoscope_service.datasets.rendered_scenes.water import underwater
from ortoscope_service.datasets.rendered_scenes.woods import forest

PLACES: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "beach": beach,
    "street": street,
    "room": room,
    "field": field,
    "underwater": underwater,
    "forest": forest,
    "desert": desert,
    "night": night,
    "snowfield": snowfield,
}
