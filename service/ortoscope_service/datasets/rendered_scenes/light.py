"""Light, shadow, grain and mist: what makes paint look like things."""

import math

import numpy as np

from ortoscope_service.datasets.rendered_scenes.canvas import EXTENT, Canvas, Light
from ortoscope_service.datasets.rendered_scenes.geometry import Array, Frame, Region, ellipse, single
from ortoscope_service.datasets.rendered_scenes.noise import Noise

# Where the light comes from: above, from the left, from the viewer's side.
_DIRECTION = np.array([-0.45, -0.65, 0.62], np.float32)


def dimmed(factor: float) -> Light:
    """Brighter (above 1) or darker everywhere."""
    return lambda _x, _y, colour: colour * np.float32(factor)


def toward(rgb: tuple[float, float, float], share: float) -> Light:
    """Mixed with another colour: mist, a glow, a shadow."""
    target = np.array(rgb, np.float32)
    return lambda _x, _y, colour: colour + (target - colour) * np.float32(share)


def vertical(top: float, bottom: float, y0: float = 0.0, y1: float = EXTENT) -> Light:
    """A factor that runs from `top` at height y0 to `bottom` at height y1."""

    def light(_x: Array, y: Array, colour: Array) -> Array:
        along = np.clip((y - y0) / (y1 - y0), 0, 1)[..., None]
        return single(colour * (top + (bottom - top) * along))

    return light


def fade(rgb: tuple[float, float, float], y0: float, y1: float, strength: float = 1.0) -> Light:
    """Mixed with another colour, not at all at height y0, by `strength` at height y1."""
    target = np.array(rgb, np.float32)

    def light(_x: Array, y: Array, colour: Array) -> Array:
        share = strength * np.clip((y - y0) / (y1 - y0), 0, 1)[..., None]
        return single(colour + (target - colour) * share)

    return light


def grain(noise: Noise, strength: float) -> Light:
    """A factor that varies with noise."""
    return lambda x, y, colour: colour * (1 + np.float32(strength) * noise(x, y))[..., None]


def mottled(noise: Noise, rgb: tuple[float, float, float], low: float = 0.0, high: float = 0.5) -> Light:
    """Mixed with another colour where noise rises from `low` to `high`."""
    target = np.array(rgb, np.float32)

    def light(x: Array, y: Array, colour: Array) -> Array:
        share = np.clip((noise(x, y) - low) / (high - low), 0, 1)[..., None]
        return single(colour + (target - colour) * share)

    return light


def ball(frame: Frame, u: float = 0.0, v: float = 0.0, ru: float = 1.0, rv: float = 1.0, gloss: float = 0.5) -> Light:
    """The light on a sphere, or an egg with semi-axes ru and rv, at (u, v) of a frame."""

    def light(x: Array, y: Array, colour: Array) -> Array:
        # The lamp does not turn with the thing: the normal is taken in the picture's directions.
        a, b = frame.local(x, y)
        a, b = (a - u) / ru, (b - v) / rv
        a = -a if frame.mirrored else a
        cos, sin = math.cos(frame.angle), math.sin(frame.angle)
        nx, ny = cos * a - sin * b, sin * a + cos * b
        nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
        lambert = np.maximum(nx * _DIRECTION[0] + ny * _DIRECTION[1] + nz * _DIRECTION[2], 0)
        shine = gloss * np.maximum(lambert, 0) ** 24
        return single(colour * (0.42 + 0.72 * lambert)[..., None] + shine[..., None])

    return light


def rod(frame: Frame, u: float, half_width: float, gloss: float = 0.2) -> Light:
    """The light on an upright cylinder of a frame with its axis at u."""

    def light(x: Array, y: Array, colour: Array) -> Array:
        a, _ = frame.local(x, y)
        n = np.clip((a - u) / half_width, -1, 1)
        n = -n if frame.mirrored else n
        lambert = np.maximum(-0.55 * n + 0.8 * np.sqrt(1 - n * n), 0)
        shine = gloss * np.exp(-(((n + 0.45) / 0.16) ** 2))
        return single(colour * (0.4 + 0.66 * lambert)[..., None] + shine[..., None])

    return light


def rounded(region: Region, depth: float, strength: float = 0.35) -> Light:
    """Light on a cushion with the outline of a region: bright towards the lamp, flat farther inside than `depth`."""

    def light(x: Array, y: Array, colour: Array) -> Array:
        step = np.float32(0.5)
        inside = region.distance(x, y)
        slope_x = (region.distance(x + step, y) - inside) / step
        slope_y = (region.distance(x, y + step) - inside) / step
        rim = np.clip(1 + inside / np.float32(depth), 0, 1)
        factor = 1 - strength * rim * (slope_x * 0.55 + slope_y * 0.8)
        return single(colour * factor[..., None])

    return light


def cast_shadow(canvas: Canvas, x: float, y: float, rx: float, ry: float, strength: float = 0.45) -> None:
    """The shadow of a thing on the ground below it."""
    canvas.shade(ellipse(x, y, rx, ry), dimmed(1 - strength), softness=max(2 * ry, 2.0))


def finish(canvas: Canvas, rng: np.random.Generator, contrast: float = 1.0) -> None:
    """The camera: a lamp to one side, a darker rim, exposure, and the noise of a sensor."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.12)

    def light(x: Array, y: Array, colour: Array) -> Array:
        a, b = x / (EXTENT / 2) - 1, y / (EXTENT / 2) - 1
        side = strength * (a * math.cos(angle) + b * math.sin(angle))
        rim = 0.07 * (a * a + b * b)
        exposed = colour * (1.02 + side - rim)[..., None]
        return single(0.5 + (exposed - 0.5) * np.float32(contrast))

    canvas.shade(None, light)
    canvas.pixels += np.float32(0.012) * rng.standard_normal((canvas.size, canvas.size, 1), np.float32)
    canvas.pixels += np.float32(0.006) * rng.standard_normal(canvas.pixels.shape, np.float32)
