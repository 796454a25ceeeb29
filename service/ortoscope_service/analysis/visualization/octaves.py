"""Octaves: a picture is climbed small first; what was added to it is carried over to larger ones (DeepDream, 2015)."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.visualization.loop import Progress, Recipe, Seed, Visualization, visualize
from ortoscope_service.analysis.visualization.program import Program
from ortoscope_service.analysis.visualization.resampling import Size, interpolation_matrices
from ortoscope_service.errors import invalid
from ortoscope_service.runtime.cancellation import Cancellation

Array = NDArray[Any]

_MOST = 16


def octave_sizes(size: Size, octaves: int, scale: float) -> list[Size]:
    """The sizes of all octaves, the smallest first: the last is `size`, each before it smaller by `scale`, rounded.

    Raises:
        OrtoscopeError: `INVALID_OCTAVES`: numbers of no use, or nothing is left of the smallest picture.
    """
    smallest = min(size) / scale ** (octaves - 1) if 1 <= octaves <= _MOST and 1 <= scale <= _MOST else 0.0
    if smallest < 1:
        raise invalid(
            "INVALID_OCTAVES",
            f"{octaves} octaves of scale {scale:g} cannot be made of a picture of {size[0]} x {size[1]}; give 1 to "
            f"{_MOST} octaves and a scale from 1 that leaves the smallest one a pixel.",
            field="octaves",
            octaves=octaves,
            scale=scale,
        )
    factors = [scale**number for number in reversed(range(octaves))]
    return [(round(size[0] / factor), round(size[1] / factor)) for factor in factors]


def resized(pictures: Array, size: Size) -> NDArray[np.float32]:
    """Pictures (..., height, width) at another size: linear, averaging where they get smaller, edges held."""
    result = own = np.asarray(pictures, np.float32)
    for axis, length in zip((-2, -1), size, strict=True):
        given = result.shape[axis]
        if given == length:
            continue
        step = given / length
        positions = np.clip((np.arange(length) + 0.5) * step - 0.5, 0, given - 1)[None]
        matrix = interpolation_matrices(positions, given, edge="reflect", reach=max(1.0, step))[0]
        result = np.moveaxis(np.moveaxis(result, axis, -1) @ matrix.T, -1, axis)
    # Weights add up to one but for a rounding error, which must not make white whiter.
    low, high = (limit(own, axis=(-2, -1), keepdims=True) for limit in (np.min, np.max))
    return np.ascontiguousarray(np.clip(result, low, high))


def visualize_octaves(
    program_of: Callable[[Size], Program],
    recipe: Recipe,
    seeds: Sequence[Seed],
    start: Array | None,
    *,
    octaves: int,
    scale: float,
    size: Size | None = None,
    budget_seconds: float | None = None,
    progress: Callable[[int, Progress], None] | None = None,
    picture_every: int = 0,
    cancellation: Cancellation | None = None,
) -> Visualization:
    """Makes the whole climb once for each octave.

    An octave starts from the given picture at its size plus what the one before it added to its own. Without a picture
    the first one starts at random, and each other from the result of the one before it.

    Args:
        program_of: The program for pictures of a size; its parameterization can start from a picture.
        recipe: The climb of each octave.
        seeds: One for each item.
        start: The pictures to start from, (items, channels, height, width) in [0, 1].
        octaves: How many.
        scale: How much larger each is than the one before it.
        size: The size wanted in the end; by default that of the start.
        budget_seconds: When to stop, over all octaves.
        progress: Called after every step with the octave, from 0.
        picture_every: As `visualize` has it.
        cancellation: Stops the loop, within a step.

    Returns:
        The last octave's.

    Raises:
        OrtoscopeError: As `octave_sizes`, `visualize` and the parameterization's `inverse` raise.
    """
    began = time.monotonic()
    whole = size or (0, 0) if start is None else size or (start.shape[-2], start.shape[-1])
    added: Array | None = None
    result: Visualization | None = None
    for octave, own in enumerate(octave_sizes(whole, octaves, scale)):
        program = program_of(own)
        base = np.zeros(1, np.float32) if start is None else resized(start, own)
        if added is not None:
            picture: Array | None = np.clip(base + resized(added, own), 0, 1)
        else:
            picture = None if start is None else base
        result = visualize(
            program,
            recipe,
            seeds,
            start=None if picture is None else program.parameterization.inverse(picture),
            budget_seconds=None if budget_seconds is None else max(0.0, began + budget_seconds - time.monotonic()),
            progress=None if progress is None else _at(octave, progress),
            picture_every=picture_every,
            cancellation=cancellation,
        )
        added = _without_opacity(result.pictures, base) - base
    assert result is not None
    return result


def _without_opacity(pictures: Array, base: Array) -> Array:
    return pictures if base.ndim == 1 else pictures[:, : base.shape[1]]


def _at(octave: int, progress: Callable[[int, Progress], None]) -> Callable[[Progress], None]:
    return lambda told: progress(octave, told)
