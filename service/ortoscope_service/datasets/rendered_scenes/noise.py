"""Random functions of the plane: smooth noise and its sums over octaves."""

import functools

import numpy as np

from ortoscope_service.datasets.rendered_scenes.geometry import Array, single

_CELLS = 32
_SAMPLES = 32
_SIDE = _CELLS * _SAMPLES

# From this many picture units between samples of the tile they would show as steps.
_COARSE = 1.0


class Noise:
    """Value noise: random numbers at the points of a square lattice, smoothly interpolated.

    All noise of a number of octaves is cut from one tile, at a place, on a side and with a sign that are drawn.

    Args:
        rng: Draws the place.
        scale: Distance of lattice points, in picture units; a pair gives x and y their own.
        octaves: How many are summed, each twice as fine and half as strong as the one before.
    """

    def __init__(self, rng: np.random.Generator, scale: float | tuple[float, float], octaves: int = 1) -> None:
        scale_x, scale_y = scale if isinstance(scale, tuple) else (scale, scale)
        self._x0, self._y0 = rng.uniform(0, _SIDE), rng.uniform(0, _SIDE)
        self._per_x, self._per_y = _SAMPLES / float(scale_x), _SAMPLES / float(scale_y)
        kind = int(rng.integers(4))
        self._sign = 1.0 if kind % 2 else -1.0
        self._tile = _turned_tile(octaves, kind < 2)
        self._smooth = max(scale_x, scale_y) / _SAMPLES > _COARSE

    def __call__(self, x: Array, y: Array) -> Array:
        """Values within -1 and 1 at points of the plane."""
        u, v = single(x * self._per_x + self._x0), single(y * self._per_y + self._y0)
        if not self._smooth:
            column, row = u.astype(np.int32) & (_SIDE - 1), v.astype(np.int32) & (_SIDE - 1)
            return single(self._sign * self._tile[row * _SIDE + column])
        j, i = np.floor(u), np.floor(v)
        fx, fy = u - j, v - i
        j0, i0 = j.astype(np.int32) & (_SIDE - 1), i.astype(np.int32) & (_SIDE - 1)
        j1, i1 = (j0 + 1) & (_SIDE - 1), ((i0 + 1) & (_SIDE - 1)) * _SIDE
        i0 *= _SIDE
        top = self._tile[i0 + j0] * (1 - fx) + self._tile[i0 + j1] * fx
        bottom = self._tile[i1 + j0] * (1 - fx) + self._tile[i1 + j1] * fx
        return single(self._sign * (top * (1 - fy) + bottom * fy))


@functools.cache
def _turned_tile(octaves: int, upright: bool) -> Array:
    """The tile or its mirror image, row after row."""
    tile = _tile(octaves)
    return (tile if upright else tile.T).ravel()


@functools.cache
def _tile(octaves: int) -> Array:
    """A square of noise that continues itself at its edges, (_SIDE, _SIDE)."""
    rng = np.random.default_rng([20, octaves])
    total = np.zeros((_SIDE, _SIDE), np.float32)
    weight = 0.0
    for octave in range(octaves):
        cells = _CELLS * 2**octave
        lattice = rng.random((cells, cells), np.float32) * 2 - 1
        steps = _SIDE // cells
        along = ((np.arange(steps) + 0.5) / steps).astype(np.float32)
        smooth = along * along * (3 - 2 * along)
        rows = _between(lattice, smooth)
        total += _between(np.ascontiguousarray(rows.T), smooth).T / np.float32(2**octave)
        weight += 0.5**octave
    return total / np.float32(weight)


def _between(values: Array, smooth: Array) -> Array:
    """Rows with `len(smooth)` steps from each value to the next, around the edge."""
    following = np.roll(values, -1, axis=1)
    return single((values[..., None] + (following - values)[..., None] * smooth).reshape(len(values), -1))
