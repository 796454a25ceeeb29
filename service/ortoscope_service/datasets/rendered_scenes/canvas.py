"""A picture that remembers what every point of it shows."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ortoscope_service.datasets.rendered_scenes.geometry import Array, Region, single
from ortoscope_service.datasets.rendered_scenes.palette import Colour

EXTENT = 224.0
"""Width and height of every picture in picture units, whatever its size in pixels."""

PLANES = ("color", "texture", "shape", "object", "part", "part of a part")
"""What is remembered of a point."""

Light = Callable[[Array, Array, Array], Array]
"""(x, y, colour (…, 3)) → colour (…, 3): what light, grain and weather make of a paint."""

Pattern = Callable[[Array, Array], Array]
"""(x, y) → signed distance, in picture units, from where the second paint begins; negative where it covers."""


@dataclass(frozen=True)
class Surface:
    """How a region is painted."""

    colour: Colour
    light: tuple[Light, ...] = ()
    """Applied to the paint one after the other."""
    second: Colour | None = None
    """The paint that covers where `pattern` is negative."""
    pattern: Pattern | None = None

    def lit(self, *light: Light) -> "Surface":
        """The same with further light."""
        return replace(self, light=self.light + light)


@dataclass
class Canvas:
    """A square picture, painted from back to front.

    The rule of the labels: pixel (i, j) of a label plane shows what lies on top at its centre, which is the corner that
    the four picture pixels (2i, 2j) to (2i+1, 2j+1) share. Light, shadow and mist change colours, never labels. The
    colour label is that of the paint, before light.

    Args:
        size: Width and height in pixels, an even number.
    """

    size: int
    pixels: Array = field(init=False)
    """(size, size, 3) sRGB from 0 to 1."""
    labels: dict[str, npt.NDArray[np.int32]] = field(init=False)
    """By plane, (size / 2, size / 2) indices into `names`, 0 for none."""
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 2:
            raise ValueError(f"size must be an even number of at least 16 pixels, not {self.size}")
        self.pixels = np.zeros((self.size, self.size, 3), np.float32)
        self.labels = {plane: np.zeros((self.size // 2, self.size // 2), np.int32) for plane in PLANES}
        self.names = [""]

    def paint(self, region: Region | None, surface: Surface, labels: Mapping[str, str] | None = None) -> None:
        """Covers a region with a surface.

        Args:
            region: Where; None for everywhere.
            surface: The paint. Its colours become the labels of the plane "color".
            labels: What it is, by plane; in the planes not named the points of the region show nothing.
        """
        self._paint_pixels(region, surface)
        self._paint_labels(region, surface, labels or {})

    def shade(self, region: Region | None, light: Light, softness: float = 0.0) -> None:
        """Changes the colours of a region and leaves its labels; the edge fades over `softness` picture units."""
        rows, columns, x, y = self._grid(self.size, region, softness)
        if not x.size:
            return
        under = self.pixels[rows, columns]
        cover = self._cover(region, x, y, softness)
        self.pixels[rows, columns] = under + (light(x, y, under) - under) * cover

    def render(self) -> npt.NDArray[np.uint8]:
        """The picture as (size, size, 3) bytes."""
        return np.rint(np.clip(self.pixels, 0, 1) * 255).astype(np.uint8)

    def _paint_pixels(self, region: Region | None, surface: Surface) -> None:
        rows, columns, x, y = self._grid(self.size, region)
        if not x.size:
            return
        colour = np.empty((*x.shape, 3), np.float32)
        colour[:] = surface.colour.rgb
        if surface.pattern is not None and surface.second is not None:
            share = np.clip(0.5 - surface.pattern(x, y) * (self.size / EXTENT), 0, 1)[..., None]
            colour += (np.array(surface.second.rgb, np.float32) - colour) * share
        for light in surface.light:
            colour = light(x, y, colour)
        under = self.pixels[rows, columns]
        self.pixels[rows, columns] = under + (colour - under) * self._cover(region, x, y)

    def _cover(self, region: Region | None, x: Array, y: Array, softness: float = 0.0) -> Array:
        """The share of each pixel that the region covers, (…, 1)."""
        if region is None:
            return np.ones((*x.shape, 1), np.float32)
        width = max(softness, EXTENT / self.size)
        return single(np.clip(0.5 - region.distance(x, y) / np.float32(width), 0, 1)[..., None])

    def _paint_labels(self, region: Region | None, surface: Surface, labels: Mapping[str, str]) -> None:
        rows, columns, x, y = self._grid(self.size // 2, region)
        if not x.size:
            return
        inside = np.ones(x.shape, np.bool_) if region is None else region.distance(x, y) < 0
        for plane, numbers in self.labels.items():
            numbers[rows, columns][inside] = self._number(labels.get(plane, ""))
        colours = np.full(x.shape, self._number(f"{surface.colour.name}-c"), np.int32)
        if surface.pattern is not None and surface.second is not None:
            colours[surface.pattern(x, y) < 0] = self._number(f"{surface.second.name}-c")
        self.labels["color"][rows, columns][inside] = colours[inside]

    def _number(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def _grid(self, size: int, region: Region | None, margin: float = 0.0) -> tuple[slice, slice, Array, Array]:
        """The pixels, of a picture of `size` pixels, that a region may touch, and the coordinates of their centres."""
        step = EXTENT / size
        x0, y0, x1, y1 = (0.0, 0.0, EXTENT, EXTENT) if region is None else region.bounds
        margin += 2 * step

        def span(low: float, high: float) -> slice:
            first = math.floor(min(max((low - margin) / step, 0), size))
            last = math.ceil(min(max((high + margin) / step, first), size))
            return slice(first, last)

        rows, columns = span(y0, y1), span(x0, x1)
        x, y = _centres(size)
        return rows, columns, x[rows, columns], y[rows, columns]


@functools.lru_cache(maxsize=4)
def _centres(size: int) -> tuple[Array, Array]:
    """Coordinates x and y, each (size, size), of the centres of a picture's pixels."""
    along = ((np.arange(size) + 0.5) * (EXTENT / size)).astype(np.float32)
    x, y = np.meshgrid(along, along)
    x.flags.writeable = y.flags.writeable = False
    return x, y
