"""Where the pixels of a moved picture come from: interpolation matrices for an axis, and turns of whole pixels."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.runtime.caching import Cache, Made

Float = NDArray[np.float64]
Size = tuple[int, int]
"""Height and width in pixels."""

Edge = Literal["constant", "reflect", "wrap"]
"""What lies beyond the border of a picture: one value; the picture mirrored at the centres of its outermost pixels; the
picture again."""


@dataclass(frozen=True)
class Span:
    """Parts of a signal, all of one length."""

    start: NDArray[np.int64]
    """(signals,): the first sample of each."""

    extent: int
    """Samples of each."""


@dataclass(frozen=True)
class Turn:
    """Where pixels move in a turn."""

    taken: NDArray[np.int32]
    """(pixels of the view,): the pixel of the canvas that each shows; none is shown twice."""

    returned: NDArray[np.int32]
    """(pixels of the canvas,): the pixel of the view that shows each; where none does, one more than the last."""


_TURNS: Cache[Turn] = Cache(64 * 1024**2)


def interpolation_matrices(
    positions: Float,
    size: int,
    *,
    edge: Edge = "constant",
    pad: float = 0,
    reach: Float | float = 1.0,
    of: Span | None = None,
) -> NDArray[np.float32]:
    """The matrices that interpolate a signal of `size` samples linearly at given positions.

    Entry (n, i, j) is the weight of sample j in output i of signal n. With a kernel of reach r the weight is
    max(0, 1 - |p - j| / r), divided by the sum of all weights at p, those of samples beyond the border included; r = 1
    is linear interpolation, and r > 1 also averages, as a reduction by that factor needs.

    Args:
        positions: (signals, outputs): in samples, 0 is the centre of the first one.
        size: Samples of the signal.
        edge: What lies beyond the border. "constant" is 0: such weights are dropped. It begins `pad` samples outside
            the border; beyond half a sample more there is nothing at all, and short of that the outermost value holds,
            as it does when a picture is enlarged.
        pad: For "constant".
        reach: Of the kernel, for all signals or each, (signals,); at least 1.
        of: The part of each signal that the matrix takes, where all samples lie that have a weight; by default all.

    Returns:
        (signals, outputs, samples) float32.
    """
    count, outputs = positions.shape
    reaches = np.maximum(np.broadcast_to(np.asarray(reach, np.float64), (count,)), 1.0)[:, None]
    places = positions
    if edge == "constant":
        inside = (positions >= -pad - 0.5) & (positions <= size - 0.5 + pad)
        places = np.where(inside, np.clip(positions, -pad, size - 1 + pad), -4.0 * size - 4 * reaches)
    start, extent = (0, size) if of is None else (of.start[:, None], of.extent)
    matrices = np.zeros((count, outputs, extent), np.float32)
    rows, columns = np.ogrid[:count, :outputs]
    widest = math.ceil(float(reaches.max(initial=1.0)))
    base = np.floor(places)
    weights = [np.maximum(0.0, 1.0 - np.abs(places - base - tap) / reaches) for tap in range(1 - widest, widest + 1)]
    total = np.sum(weights, axis=0)
    for tap, weight in zip(range(1 - widest, widest + 1), weights, strict=True):
        index = base.astype(np.int64) + tap
        share = weight / total
        if edge == "constant":
            share = np.where((index >= 0) & (index < size), share, 0.0)
            index = np.clip(index, 0, size - 1)
        else:
            index = folded(index, size, edge)
        # Each output has one sample per tap, so that no place is added to twice at once. What lies outside of a part
        # has no weight, and adds nothing wherever that is.
        matrices[rows, columns, np.clip(index - start, 0, extent - 1)] += share.astype(np.float32)
    return matrices


def folded(index: NDArray[np.int64], size: int, edge: Edge) -> NDArray[np.int64]:
    """The sample that stands for each index beyond the border, for "reflect" and "wrap"."""
    period = size if edge == "wrap" or size == 1 else 2 * (size - 1)
    phase: NDArray[np.int64] = np.mod(index, period)
    return phase if period == size else np.minimum(phase, period - phase)


def canvas_for(view: Size, degrees: float) -> Size:
    """The size of a picture that covers a view turned by up to some degrees, its centre that of the view."""
    height, width = view
    if not degrees:
        return view
    angles = np.deg2rad(np.linspace(0.0, min(abs(degrees), 180.0), 181))
    sine, cosine = np.abs(np.sin(angles)), np.abs(np.cos(angles))
    needed = (float(np.max(height * cosine + width * sine)), float(np.max(width * cosine + height * sine)))
    # Each of three shears rounds by up to half a pixel; an even difference keeps centres on centres.
    grown = [size + 2 * math.ceil((reach - size) / 2 + 1.5) for size, reach in zip(view, needed, strict=True)]
    return grown[0], grown[1]


def turn(view: Size, canvas: Size, degrees: float) -> Turn:
    """The pixels of a canvas that a view shows whose picture is turned counterclockwise about the common centre.

    The rotation is made of three shears (Paeth 1986), each rounded to whole pixels: pixels move and none is mixed or
    taken twice, so the adjoint moves them back. What it misplaces them by is about a pixel at most, as any rotation by
    nearest neighbours does; fractions of pixels are the business of the interpolation around it.

    x₁ = x - tan(θ/2) y, y' = y + sin(θ) x₁, x' = x₁ - tan(θ/2) y', for |θ| ≤ 45°; quarter turns are exact.

    Args:
        view: Size of the result.
        canvas: As `canvas_for` gives it.
        degrees: The angle.
    """
    return _TURNS.get((view, canvas, float(degrees)), lambda: _made(_turn(view, canvas, degrees), canvas))


def _made(taken: NDArray[np.int32], canvas: Size) -> Made[Turn]:
    returned = np.full(canvas[0] * canvas[1], len(taken), np.int32)
    returned[taken] = np.arange(len(taken), dtype=np.int32)
    for array in (taken, returned):
        array.flags.writeable = False
    return Made(Turn(taken, returned), taken.nbytes + returned.nbytes)


def _turn(view: Size, canvas: Size, degrees: float) -> NDArray[np.int32]:
    (height, width), (rows, columns) = view, canvas
    quarters = round(degrees / 90)
    rest = math.radians(degrees - 90 * quarters)
    y, x = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    slope = math.tan(rest / 2)
    x = x - np.round(slope * y)
    y = y + np.round(math.sin(rest) * x)
    x = x - np.round(slope * y)
    for _ in range(quarters % 4):
        x, y = -y, x
    row = np.floor(y + (rows - 1) / 2 + 1e-6).astype(np.int64)
    column = np.floor(x + (columns - 1) / 2 + 1e-6).astype(np.int64)
    flat: NDArray[np.int32] = (row * columns + column).reshape(-1).astype(np.int32)
    return flat
