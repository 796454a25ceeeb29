"""Textures that fill a picture or cover a thing, named as in the Describable Textures Dataset where it has them.

Each is drawn on a fabric with coordinates (u, v) in which its repeat is about 1 long. A `Cloth` lays the fabric into
the picture: turned, scaled, in perspective, crumpled.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ortoscope_service.datasets.rendered_scenes.canvas import EXTENT, Surface
from ortoscope_service.datasets.rendered_scenes.geometry import Array, single
from ortoscope_service.datasets.rendered_scenes.light import grain
from ortoscope_service.datasets.rendered_scenes.noise import Noise
from ortoscope_service.datasets.rendered_scenes.palette import Colour, colour, pick

_ROOT3 = math.sqrt(3)
_PLUS, _MINUS = np.float32(1), np.float32(-1)


@dataclass(frozen=True)
class Cloth:
    """How a fabric lies in the picture."""

    repeat: float
    """Picture units per unit of the fabric."""
    angle: float = 0.0
    """By how much it is turned, in radians."""
    tilt: float = 0.0
    """How much farther away its upper end is: 0 flat, 0.6 steep."""
    crumple: Noise | None = None
    """Moves the points of the fabric by up to half a unit."""
    centre: tuple[float, float] = (EXTENT / 2, EXTENT / 2)
    """Where the fabric's origin lies."""

    def lay(self, x: Array, y: Array) -> tuple[Array, Array]:
        """The point of the fabric that is seen at a point of the picture."""
        a, b = (x - self.centre[0]) / EXTENT, (y - self.centre[1]) / EXTENT
        depth = 1 + self.tilt * -b * 1.6
        a, b = a * depth, b * depth
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        factor = EXTENT / self.repeat
        u, v = (cos * a + sin * b) * factor, (cos * b - sin * a) * factor
        if self.crumple is not None:
            bend = self.crumple(x, y) * np.float32(0.5)
            u, v = u + bend, v + self.crumple(y + 91, x + 37) * np.float32(0.5)
        return u.astype(np.float32), v.astype(np.float32)


def random_cloth(rng: np.random.Generator, low: float, high: float, *, turned: bool = True) -> Cloth:
    """A cloth with a repeat between two lengths, turned, tilted and crumpled at random."""
    return Cloth(
        repeat=math.exp(rng.uniform(math.log(low), math.log(high))),
        angle=rng.uniform(-math.pi, math.pi) if turned else rng.normal(0, 0.08),
        tilt=rng.uniform(0.2, 0.55) if rng.random() < 0.33 else 0.0,
        crumple=Noise(rng, 70) if rng.random() < 0.5 else None,
    )


def _tri(t: Array) -> Array:
    """Distance to the nearest integer, 0 to 0.5."""
    return np.abs(t - np.rint(t))


def _two_colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Two paints that differ clearly in brightness."""
    dark = pick(rng, "black", "blue", "brown", "purple", "red", "green", "grey")
    bright = pick(rng, "white", "yellow", "pink", "orange", "white")
    return (dark, bright) if rng.random() < 0.5 else (bright, dark)


def _relief(
    cloth: Cloth, height: Callable[[Array, Array], Array], strength: float
) -> Callable[[Array, Array, Array], Array]:
    """Light on a fabric with hills: bright on the slopes towards the lamp."""

    def light(x: Array, y: Array, rgb: Array) -> Array:
        step = np.float32(0.6)
        here = height(*cloth.lay(x, y))
        slope = (height(*cloth.lay(x + step, y)) - here) * 0.6 + (height(*cloth.lay(x, y + step)) - here) * 0.8
        slope *= np.float32(cloth.repeat / step)
        return single(rgb * np.clip(1 - strength * slope, 0.35, 1.5)[..., None])

    return light


def striped(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """Parallel stripes."""
    first, second = _two_colours(rng)
    duty = rng.uniform(0.35, 0.6)

    def pattern(x: Array, y: Array) -> Array:
        u, _ = cloth.lay(x, y)
        return (_tri(u) - duty / 2) * cloth.repeat

    return Surface(first, (grain(Noise(rng, 6, 3), 0.12),), second, pattern)


def dotted(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """Round dots in staggered rows (polka dots)."""
    first, second = _two_colours(rng)
    radius = rng.uniform(0.24, 0.36)

    def pattern(x: Array, y: Array) -> Array:
        u, v = cloth.lay(x, y)
        v = v / np.float32(0.866)
        row = np.rint(v)
        u = single(u + 0.5 * (row % 2))
        return single((np.hypot(u - np.rint(u), (v - row) * 0.866) - radius) * cloth.repeat)

    return Surface(first, (grain(Noise(rng, 6, 3), 0.12),), second, pattern)


def chequered(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """A chessboard."""
    first, second = _two_colours(rng)

    def pattern(x: Array, y: Array) -> Array:
        u, v = cloth.lay(x, y)
        side = np.where((np.floor(2 * u) + np.floor(2 * v)) % 2 == 0, _MINUS, _PLUS)
        return side * np.minimum(_tri(2 * u), _tri(2 * v)) * np.float32(cloth.repeat / 2)

    return Surface(first, (grain(Noise(rng, 6, 3), 0.1),), second, pattern)


def grid(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """Thin crossing lines with open cells: a lattice, a chain-link fence, tiles."""
    first, second = _two_colours(rng)
    half = rng.uniform(0.05, 0.12)

    def bars(u: Array, v: Array) -> Array:
        return np.minimum(_tri(u), _tri(v))

    def pattern(x: Array, y: Array) -> Array:
        return (bars(*cloth.lay(x, y)) - half) * cloth.repeat

    def height(u: Array, v: Array) -> Array:
        return single(np.maximum(half - bars(u, v), 0))

    return Surface(first, (_relief(cloth, height, 0.5), grain(Noise(rng, 9, 3), 0.2)), second, pattern)


def woven(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """Flat strands that pass over and under each other: wicker, cloth."""
    first = pick(rng, "brown", "yellow", "brown", "grey", "orange")
    second = pick(rng, "brown", "white", "yellow", "blue")

    def warp_on_top(u: Array, v: Array) -> Array:
        return single((np.floor(2 * u) + np.floor(2 * v)) % 2)

    def pattern(x: Array, y: Array) -> Array:
        u, v = cloth.lay(x, y)
        side = np.where(warp_on_top(u, v) == 0, _MINUS, _PLUS)
        return side * np.minimum(_tri(2 * u), _tri(2 * v)) * np.float32(cloth.repeat / 2)

    def light(x: Array, y: Array, rgb: Array) -> Array:
        u, v = cloth.lay(x, y)
        across, along = np.where(warp_on_top(u, v) == 0, (2 * u, 2 * v), (2 * v, 2 * u))
        across, along = across - np.floor(across) - 0.5, along - np.floor(along) - 0.5
        factor = np.cos(across * 2.7) * (1.08 - 0.9 * along * along) - 0.25 * across
        return single(rgb * np.clip(factor, 0.15, 1.3)[..., None])

    return Surface(first, (light, grain(Noise(rng, (2, 2), 2), 0.18)), second, pattern)


def honeycombed(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """Hexagonal cells with thin walls and deep floors."""
    wall = pick(rng, "yellow", "orange", "yellow", "white")
    floor = pick(rng, "brown", "black", "brown")
    half = rng.uniform(0.06, 0.1)

    def to_wall(u: Array, v: Array) -> tuple[Array, Array, Array]:
        """Distance from the nearest cell wall and offset from the cell's centre."""
        row = _ROOT3

        def offset(shift_u: float, shift_v: float) -> tuple[Array, Array]:
            return u - shift_u - np.rint(u - shift_u), v - shift_v - np.rint((v - shift_v) / row) * np.float32(row)

        (au, av), (bu, bv) = offset(0, 0), offset(0.5, row / 2)
        first = au * au + av * av < bu * bu + bv * bv
        du, dv = np.where(first, au, bu), np.where(first, av, bv)
        return single(0.5 - np.maximum(np.abs(du), np.abs(du) * 0.5 + np.abs(dv) * np.float32(_ROOT3 / 2))), du, dv

    def pattern(x: Array, y: Array) -> Array:
        return (half - to_wall(*cloth.lay(x, y))[0]) * np.float32(cloth.repeat)

    def light(x: Array, y: Array, rgb: Array) -> Array:
        distance, du, dv = to_wall(*cloth.lay(x, y))
        depth = np.clip((distance - half) / 0.3, 0, 1)
        factor = np.where(distance > half, 0.55 + 0.5 * depth + 0.7 * (du * 0.5 + dv), 1.15 - distance * 3)
        return rgb * factor[..., None].astype(np.float32)

    return Surface(wall, (light, grain(Noise(rng, 12, 3), 0.2)), floor, pattern)


def zigzagged(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """Stripes that run up and down (chevrons)."""
    first, second = _two_colours(rng)
    height, duty = rng.uniform(0.7, 1.2), rng.uniform(0.4, 0.55)

    def pattern(x: Array, y: Array) -> Array:
        u, v = cloth.lay(x, y)
        t = v + height * 2 * _tri(u * np.float32(0.5))
        return (_tri(t) - duty / 2) * np.float32(cloth.repeat / math.hypot(1, height))

    return Surface(first, (grain(Noise(rng, 6, 3), 0.12),), second, pattern)


def swirly(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """Spirals side by side."""
    first, second = _two_colours(rng)
    arms, twist = int(rng.integers(2, 4)), rng.uniform(5.0, 8.0)
    jitter = rng.uniform(-0.12, 0.12, (8, 8, 2)).astype(np.float32)

    def pattern(x: Array, y: Array) -> Array:
        u, v = cloth.lay(x, y)
        u, v = u * np.float32(0.34), v * np.float32(0.34)
        best = np.full(u.shape, np.inf, np.float32)
        field = np.zeros(u.shape, np.float32)
        row, column = np.rint(v), np.rint(u)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                i, j = row + di, column + dj
                shift = jitter[i.astype(int) % 8, j.astype(int) % 8]
                du, dv = u - j - shift[..., 0], v - i - shift[..., 1]
                radius = np.hypot(du, dv)
                sense = np.where((i + j) % 2 == 0, _PLUS, _MINUS)
                wave = np.sin(sense * arms * np.arctan2(dv, du) + twist * 2 * math.pi * radius)
                near = radius < best
                field = np.where(near, wave, field)
                best = np.where(near, radius, best)
        return field * np.float32(cloth.repeat / 0.34 / (twist * 2 * math.pi))

    return Surface(first, (grain(Noise(rng, 6, 3), 0.12),), second, pattern)


def cracked(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """Dry ground, old paint: plates with dark cracks between them."""
    plate = pick(rng, "brown", "grey", "white", "brown", "grey")
    crack = colour("black", rng)
    points = rng.uniform(0.1, 0.9, (32, 32, 2)).astype(np.float32)
    tone = rng.uniform(0.85, 1.12, (32, 32)).astype(np.float32)
    rough, half = Noise(rng, 9, 3), rng.uniform(0.025, 0.05)

    def cells(x: Array, y: Array) -> tuple[Array, Array]:
        """Distance from the nearest border between two plates, and the plate's tone."""
        u, v = cloth.lay(x, y)
        bend = rough(x, y) * np.float32(0.22)
        u, v = u + bend, v - bend
        row, column = np.floor(v), np.floor(u)
        nearest = np.full(u.shape, np.inf, np.float32)
        second = np.full(u.shape, np.inf, np.float32)
        shade = np.ones(u.shape, np.float32)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                i, j = (row + di).astype(int), (column + dj).astype(int)
                point = points[i % 32, j % 32]
                distance = np.hypot(u - j - point[..., 0], v - i - point[..., 1])
                closer = distance < nearest
                second = np.where(closer, nearest, np.minimum(second, distance))
                shade = np.where(closer, tone[i % 32, j % 32], shade)
                nearest = np.minimum(nearest, distance)
        return single((second - nearest) / 2), single(shade)

    def pattern(x: Array, y: Array) -> Array:
        return (cells(x, y)[0] - half) * np.float32(cloth.repeat)

    def light(x: Array, y: Array, rgb: Array) -> Array:
        border, shade = cells(x, y)
        factor = shade * (0.78 + 0.25 * np.clip((border - half) / 0.12, 0, 1))
        return single(rgb * factor[..., None])

    return Surface(plate, (light, grain(Noise(rng, 4, 4), 0.25)), crack, pattern)


def cobwebbed(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """A spider's web: threads from a hub, and sagging threads around it."""
    dark = pick(rng, "black", "green", "blue", "black", "brown")
    thread = colour("white", rng)
    spokes, rings = int(rng.integers(13, 19)), rng.uniform(0.8, 1.1)
    wobble = rng.uniform(-0.3, 0.3, spokes).astype(np.float32)
    hub = (float(rng.uniform(-1.5, 1.5)), float(rng.uniform(-1.5, 1.5)))

    def pattern(x: Array, y: Array) -> Array:
        u, v = cloth.lay(x, y)
        u, v = u - hub[0], v - hub[1]
        radius, turn = np.hypot(u, v), np.arctan2(v, u) * np.float32(spokes / (2 * math.pi))
        turn = turn + np.interp(turn % spokes, np.arange(spokes + 1), [*wobble, wobble[0]]).astype(np.float32)
        across = _tri(turn)
        spoke = across * radius * np.float32(2 * math.pi / spokes)
        sagged = radius * (1 + (0.25 - across**2) * np.float32(0.35))
        ring = _tri(sagged * np.float32(rings)) / np.float32(rings)
        ring = np.where(sagged * rings < 0.6, np.inf, ring)
        return single(np.minimum(spoke, ring) * cloth.repeat - 0.75)

    blur = Noise(rng, 45, 3)
    return Surface(dark, (grain(blur, 0.55),), thread, pattern)


def scaly(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """Overlapping round scales: fish, roof tiles, reptiles."""
    first = pick(rng, "green", "grey", "blue", "orange", "red", "yellow")
    rim = pick(rng, "black", "brown", "black")
    row_height, radius = 0.42, 0.66

    def scales(u: Array, v: Array) -> tuple[Array, Array]:
        """Distance from the upper point of the scale on top, and from the rim of the one that lies over it."""
        row = np.floor(v / row_height)

        def distance(i: Array) -> Array:
            du = u - np.float32(0.5) * (i % 2)
            return single(np.hypot(du - np.rint(du), v - i * row_height))

        own, upper = distance(single(row)), distance(single(row - 1))
        covered = upper < radius
        above = np.where(covered, distance(single(row - 2)), upper)
        return single(np.where(covered, upper, own)), single(above - radius)

    def pattern(x: Array, y: Array) -> Array:
        return single((radius - 0.075 - scales(*cloth.lay(x, y))[0]) * cloth.repeat)

    def light(x: Array, y: Array, rgb: Array) -> Array:
        depth, gap = scales(*cloth.lay(x, y))
        shadow = 1 - 0.55 * np.exp(-np.maximum(gap, 0) / 0.12)
        return single(rgb * ((0.6 + 0.8 * depth) * shadow)[..., None])

    return Surface(first, (light, grain(Noise(rng, 5, 3), 0.15)), rim, pattern)


def bubbly(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """Bubbles of many sizes with bright rims and a glint."""
    water = pick(rng, "blue", "blue", "green", "grey", "purple")
    foam = colour("white", rng)
    points = rng.uniform(0.25, 0.75, (16, 16, 2)).astype(np.float32)
    radii = rng.uniform(0.2, 0.6, (16, 16)).astype(np.float32)

    def bubbles(x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
        """Signed distance from the nearest rim, offset from that bubble's centre in radii, and its radius."""
        u, v = cloth.lay(x, y)
        row, column = np.floor(v), np.floor(u)
        best = np.full(u.shape, np.inf, np.float32)
        du, dv, size = np.zeros_like(u), np.zeros_like(u), np.ones_like(u)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                i, j = (row + di).astype(int), (column + dj).astype(int)
                point, radius = points[i % 16, j % 16], radii[i % 16, j % 16]
                a, b = u - j - point[..., 0], v - i - point[..., 1]
                distance = np.hypot(a, b) - radius
                closer = distance < best
                best = np.where(closer, distance, best)
                du, dv = np.where(closer, a / radius, du), np.where(closer, b / radius, dv)
                size = np.where(closer, radius, size)
        return best, du, dv, size

    def pattern(x: Array, y: Array) -> Array:
        distance, du, dv, _ = bubbles(x, y)
        rim = np.abs(distance + 0.03) - 0.03
        glint = np.hypot(du + 0.35, dv + 0.4) - 0.16
        return single(np.where(distance < 0, np.minimum(rim, glint), rim) * np.float32(cloth.repeat))

    def light(x: Array, y: Array, rgb: Array) -> Array:
        distance, du, dv, _ = bubbles(x, y)
        inside = 0.75 + 0.35 * np.hypot(du, dv) ** 3 + 0.18 * (du + dv)
        return rgb * np.where(distance < 0, inside, 0.7)[..., None].astype(np.float32)

    return Surface(water, (light, grain(Noise(rng, 50, 2), 0.3)), foam, pattern)


def bricks(rng: np.random.Generator, cloth: Cloth) -> Surface:
    """A wall of bricks in running bond with mortar between them."""
    brick = pick(rng, "red", "brown", "red", "orange")
    mortar = pick(rng, "grey", "white", "white")
    tone = rng.uniform(0.72, 1.15, (64, 64)).astype(np.float32)
    chipped = Noise(rng, 7, 2)

    def joints(x: Array, y: Array) -> tuple[Array, Array]:
        """Distance from the nearest joint, and the brick's tone."""
        u, v = cloth.lay(x, y)
        row = np.floor(2.6 * v)
        u = u + np.float32(0.5) * (row % 2)
        column = np.floor(u)
        a, b = u - column - 0.5, (2.6 * v - row - 0.5) / np.float32(2.6)
        edge = np.minimum(0.5 - np.abs(a), 0.5 / 2.6 - np.abs(b)) + chipped(x, y) * np.float32(0.012)
        return edge, tone[row.astype(int) % 64, column.astype(int) % 64]

    def pattern(x: Array, y: Array) -> Array:
        return (joints(x, y)[0] - 0.028) * np.float32(cloth.repeat)

    def light(x: Array, y: Array, rgb: Array) -> Array:
        edge, shade = joints(x, y)
        return rgb * np.where(edge > 0.028, shade * (0.85 + 0.2 * np.clip(edge * 12, 0, 1)), 0.95)[..., None]

    return Surface(brick, (light, grain(Noise(rng, 3, 3), 0.22)), mortar, pattern)


@dataclass(frozen=True)
class Texture:
    """A kind of texture."""

    draw: Callable[[np.random.Generator, Cloth], Surface]
    """Draws one of the kind on a cloth, different each time."""
    least: float
    """Shortest repeat where it fills a picture, in picture units."""
    greatest: float
    """Longest repeat where it fills a picture."""
    turned: bool = True
    """Whether it is seen at any angle."""


TEXTURES: dict[str, Texture] = {
    "striped": Texture(striped, 11, 36),
    "polka-dotted": Texture(dotted, 16, 40),
    "chequered": Texture(chequered, 22, 60),
    "grid": Texture(grid, 13, 34),
    "woven": Texture(woven, 16, 36),
    "honeycombed": Texture(honeycombed, 14, 32),
    "zigzagged": Texture(zigzagged, 14, 30),
    "swirly": Texture(swirly, 24, 40),
    "cracked": Texture(cracked, 22, 50),
    "cobwebbed": Texture(cobwebbed, 13, 20),
    "scaly": Texture(scaly, 14, 34, turned=False),
    "bubbly": Texture(bubbly, 22, 44),
    "bricks": Texture(bricks, 26, 52, turned=False),
}


def texture(name: str, rng: np.random.Generator) -> Surface:
    """A surface with a texture that fills a picture, different each time."""
    kind = TEXTURES[name]
    return kind.draw(rng, random_cloth(rng, kind.least, kind.greatest, turned=kind.turned))
