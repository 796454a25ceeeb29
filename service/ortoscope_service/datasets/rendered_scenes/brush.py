"""What a thing is painted with."""

from dataclasses import dataclass

import numpy as np

from ortoscope_service.datasets.rendered_scenes import light as lights
from ortoscope_service.datasets.rendered_scenes.canvas import Canvas, Light, Surface
from ortoscope_service.datasets.rendered_scenes.geometry import Array, Frame, Region, single
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import Colour
from ortoscope_service.datasets.rendered_scenes.textures import TEXTURES, Cloth


@dataclass(frozen=True)
class Brush:
    """Paints one thing."""

    canvas: Canvas
    frame: Frame
    rng: np.random.Generator
    name: str
    """What it is: the label of everything that is painted."""

    def put(
        self,
        region: Region,
        paint: Colour | Surface,
        *light: Light,
        part: str = "",
        detail: str = "",
        texture: str = "",
    ) -> None:
        """Paints a region of the frame.

        Args:
            region: Where, in the frame's coordinates.
            paint: The paint.
            light: What light makes of it.
            part: Which part of the thing it is.
            detail: Which part of that part it is.
            texture: The texture that it has.
        """
        surface = Surface(paint) if isinstance(paint, Colour) else paint
        labels = {"object": self.name, "part": part, "part of a part": detail, "texture": texture}
        self.canvas.paint(self.frame.place(region), surface.lit(*light), labels)

    def shade(self, region: Region, factor: float, softness: float = 0.0) -> None:
        """Darkens a region of the frame; `softness` is in the frame's units."""
        self.canvas.shade(self.frame.place(region), lights.dimmed(factor), softness * self.frame.scale)

    def ball(self, u: float, v: float, ru: float, rv: float | None = None, gloss: float = 0.35) -> Light:
        """The light on a sphere or an egg of the frame."""
        return lights.ball(self.frame, u, v, ru, ru if rv is None else rv, gloss)

    def rod(self, u: float, half_width: float, gloss: float = 0.15) -> Light:
        """The light on an upright cylinder of the frame."""
        return lights.rod(self.frame, u, half_width, gloss)

    def cushion(self, region: Region, depth: float, strength: float = 0.35) -> Light:
        """The light on a cushion with the outline of a region of the frame."""
        return lights.rounded(self.frame.place(region), depth * self.frame.scale, strength)

    def grain(self, scale: float, strength: float, octaves: int = 3) -> Light:
        """Grain as fine as `scale` units of the frame."""
        return lights.grain(Noise(self.rng, max(scale * self.frame.scale, 0.8), octaves), strength)

    def cloth(self, name: str, repeat: float) -> Surface:
        """A texture that repeats every `repeat` units of the frame."""
        return TEXTURES[name].draw(
            self.rng, Cloth(repeat * self.frame.scale, self.frame.angle, centre=(self.frame.x, self.frame.y))
        )

    def stripes(self, first: Colour, second: Colour, period: float, *, across: bool = False) -> Surface:
        """Stripes of two paints along v, or along u."""

        def pattern(x: Array, y: Array) -> Array:
            u, v = self.frame.local(x, y)
            t = (v if across else u) / np.float32(period)
            return single((np.abs(t - np.rint(t)) - 0.25) * np.float32(period * self.frame.scale))

        return Surface(first, second=second, pattern=pattern)
