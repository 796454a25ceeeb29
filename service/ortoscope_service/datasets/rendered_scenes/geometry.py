"""Regions of the plane as signed distances, after Inigo Quilez's "2D distance functions" (iquilezles.org).

A region knows its distance function (negative inside, zero on the edge) and a box that holds it. Inside and outside are
exact; the distance itself is exact near the edge for circles, boxes, polygons and lines, and a first-order estimate for
the rest, which is what a soft edge of one pixel needs. x runs to the right and y down.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Distance = Callable[[Array, Array], Array]
Bounds = tuple[float, float, float, float]
"""x0, y0, x1, y1."""


def single(values: npt.ArrayLike) -> Array:
    """Numbers in single precision, which is all that a picture needs."""
    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Region:
    """A part of the plane."""

    distance: Distance
    """Signed distance of points (x, y) from the edge, negative inside."""

    bounds: Bounds
    """A box outside which every point is outside the region."""


@dataclass(frozen=True)
class Frame:
    """A system of coordinates of its own for a thing that is drawn: turned, scaled and put somewhere in the picture."""

    x: float
    y: float
    """Where its origin lies in the picture."""
    scale: float
    """Picture units per unit of the frame."""
    angle: float = 0.0
    """By how much it is turned, clockwise on the screen, in radians."""
    mirrored: bool = False
    """Whether its x runs to the left before it is turned."""

    def local(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Coordinates in the frame of points of the picture."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        dx, dy = (x - float(self.x)) / float(self.scale), (y - float(self.y)) / float(self.scale)
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        return (-u if self.mirrored else u), v

    def point(self, u: float, v: float) -> tuple[float, float]:
        """The point of the picture at coordinates of the frame."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        u = -u if self.mirrored else u
        return self.x + self.scale * (cos * u - sin * v), self.y + self.scale * (sin * u + cos * v)

    def place(self, region: Region) -> Region:
        """A region given in the frame's coordinates as a region of the picture."""
        x0, y0, x1, y1 = region.bounds
        corners = [self.point(u, v) for u in (x0, x1) for v in (y0, y1)]
        xs, ys = zip(*corners, strict=True)

        def distance(x: Array, y: Array) -> Array:
            return region.distance(*self.local(x, y)) * np.float32(self.scale)

        return Region(distance, (min(xs), min(ys), max(xs), max(ys)))

    def inner(self, u: float, v: float, scale: float = 1.0, angle: float = 0.0) -> "Frame":
        """A frame inside this one, at its coordinates (u, v)."""
        x, y = self.point(u, v)
        turned = self.angle + (-angle if self.mirrored else angle)
        return Frame(x, y, self.scale * scale, turned, self.mirrored)


def circle(x: float, y: float, radius: float) -> Region:
    """A disc."""
    x, y = float(x), float(y)
    return Region(
        lambda px, py: np.hypot(px - x, py - y) - np.float32(radius), (x - radius, y - radius, x + radius, y + radius)
    )


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Region:
    """An ellipse with semi-axes `rx` and `ry`, turned by `angle`."""
    x, y, rx, ry = float(x), float(y), float(rx), float(ry)
    cos, sin = math.cos(angle), math.sin(angle)
    width, height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)

    def distance(px: Array, py: Array) -> Array:
        dx, dy = px - x, py - y
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        k = np.hypot(u / rx, v / ry)
        gradient = np.hypot(u / rx**2, v / ry**2)
        return np.where(gradient > 0, k * (k - 1) / np.maximum(gradient, 1e-9), -min(rx, ry)).astype(np.float32)

    return Region(distance, (x - width, y - height, x + width, y + height))


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> Region:
    """A rectangle, its corners rounded by `radius`."""
    x, y = float(x0 + x1) / 2, float(y0 + y1) / 2
    half_width, half_height = float(x1 - x0) / 2 - radius, float(y1 - y0) / 2 - radius

    def distance(px: Array, py: Array) -> Array:
        dx, dy = np.abs(px - x) - half_width, np.abs(py - y) - half_height
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        return single(outside + np.minimum(np.maximum(dx, dy), 0) - np.float32(radius))

    return Region(distance, (x0, y0, x1, y1))


def polygon(points: Sequence[tuple[float, float]], radius: float = 0.0) -> Region:
    """A polygon, by the even-odd rule; `radius` swells it and rounds its corners."""
    points = [(float(x), float(y)) for x, y in points]
    edges = list(zip(points, [*points[1:], points[0]], strict=True))

    def distance(px: Array, py: Array) -> Array:
        squared = np.full(px.shape, np.inf, np.float32)
        inside = np.zeros(px.shape, np.bool_)
        for (ax, ay), (bx, by) in edges:
            ex, ey = bx - ax, by - ay
            wx, wy = px - ax, py - ay
            along = np.clip((wx * ex + wy * ey) / max(ex * ex + ey * ey, 1e-12), 0, 1)
            squared = np.minimum(squared, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
            if ay != by:
                left = (wx * ey < ex * wy) == (ey > 0)
                inside ^= ((py >= ay) != (py >= by)) & left
        return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(squared) - np.float32(radius)

    xs, ys = zip(*points, strict=True)
    return Region(distance, (min(xs) - radius, min(ys) - radius, max(xs) + radius, max(ys) + radius))


def line(points: Sequence[tuple[float, float]], start: float, end: float | None = None) -> Region:
    """A line through points with round ends and joints, its half width running from `start` to `end`."""
    points = [(float(x), float(y)) for x, y in points]
    last = start if end is None else end
    widths = np.linspace(start, last, len(points)).tolist()

    def distance(px: Array, py: Array) -> Array:
        best = np.full(px.shape, np.inf, np.float32)
        for i in range(len(points) - 1):
            (ax, ay), (bx, by) = points[i], points[i + 1]
            ex, ey = bx - ax, by - ay
            wx, wy = px - ax, py - ay
            along = np.clip((wx * ex + wy * ey) / max(ex * ex + ey * ey, 1e-12), 0, 1)
            width = widths[i] + (widths[i + 1] - widths[i]) * along
            best = np.minimum(best, np.hypot(wx - ex * along, wy - ey * along) - width)
        return best.astype(np.float32)

    xs, ys = zip(*points, strict=True)
    widest = max(start, last)
    return Region(distance, (min(xs) - widest, min(ys) - widest, max(xs) + widest, max(ys) + widest))


def arc(x: float, y: float, radius: float, start: float, end: float, width: float, steps: int = 12) -> Region:
    """A piece of a circle's line from angle `start` to `end` (clockwise on the screen), of half width `width`."""
    angles = [start + (end - start) * i / steps for i in range(steps + 1)]
    return line([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], width)


def star(x: float, y: float, outer: float, inner: float, tips: int, angle: float = -math.pi / 2) -> Region:
    """A star with the first tip at `angle`."""
    radii = [outer, inner] * tips
    turns = [angle + math.pi * i / tips for i in range(2 * tips)]
    return polygon([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, turns, strict=True)])


def regular(x: float, y: float, radius: float, corners: int, angle: float = -math.pi / 2) -> Region:
    """A regular polygon with the first corner at `angle`."""
    turns = [angle + 2 * math.pi * i / corners for i in range(corners)]
    return polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in turns])


def blob(x: float, y: float, radius: float, amplitudes: Sequence[float], phases: Sequence[float]) -> Region:
    """A disc whose radius swings with the angle: amplitude i (as a share of the radius) i + 2 times around."""
    x, y = float(x), float(y)

    def distance(px: Array, py: Array) -> Array:
        dx, dy = px - x, py - y
        angle = np.arctan2(dy, dx)
        edge = np.ones(px.shape, np.float32)
        for i, (amplitude, phase) in enumerate(zip(amplitudes, phases, strict=True)):
            edge += amplitude * np.sin((i + 2) * angle + phase)
        return single(np.hypot(dx, dy) - radius * edge)

    reach = radius * (1 + sum(abs(amplitude) for amplitude in amplitudes))
    return Region(distance, (x - reach, y - reach, x + reach, y + reach))


def below(edge: Callable[[Array], Array], slope: float = 1.0) -> Region:
    """Everything below a line y = edge(x), whose steepness is about `slope`."""
    factor = np.float32(1 / math.hypot(1, slope))
    return Region(lambda px, py: (edge(px) - py) * factor, (-math.inf, -math.inf, math.inf, math.inf))


def union(*regions: Region) -> Region:
    """What lies in any of the regions."""
    xs0, ys0, xs1, ys1 = zip(*(region.bounds for region in regions), strict=True)
    return Region(
        lambda px, py: functools.reduce(np.minimum, [region.distance(px, py) for region in regions]),
        (min(xs0), min(ys0), max(xs1), max(ys1)),
    )


def difference(region: Region, *others: Region) -> Region:
    """What lies in the region and in none of the others."""
    return Region(
        lambda px, py: functools.reduce(
            np.maximum, [region.distance(px, py), *(-other.distance(px, py) for other in others)]
        ),
        region.bounds,
    )


def intersection(*regions: Region) -> Region:
    """What lies in all of the regions."""
    xs0, ys0, xs1, ys1 = zip(*(region.bounds for region in regions), strict=True)
    return Region(
        lambda px, py: functools.reduce(np.maximum, [region.distance(px, py) for region in regions]),
        (max(xs0), max(ys0), min(xs1), min(ys1)),
    )


def ring(x: float, y: float, radius: float, half_width: float) -> Region:
    """The points that lie at most `half_width` from a circle."""
    reach = radius + half_width
    return Region(
        lambda px, py: np.abs(np.hypot(px - x, py - y) - np.float32(radius)) - np.float32(half_width),
        (x - reach, y - reach, x + reach, y + reach),
    )
