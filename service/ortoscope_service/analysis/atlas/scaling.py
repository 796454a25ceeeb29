"""A layout scaled into the unit square, with the same scale both ways and without cutting anything off.

The published atlases clip at the 1st and 99th percentile, which puts outliers on the border, among samples they have
nothing to do with. Here what lies within the percentiles and a tenth more is scaled, and what lies beyond keeps its
order and direction in a narrow rim.
"""

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.space import Float32Array

_PERCENTILES = (1.0, 99.0)
"""What is taken to be the body of the layout, along each axis."""

_MARGIN = 0.1
"""What belongs to it on either side, of its width."""

_RIM = 0.025
"""Width of the rim on a side that has outliers, of the square's."""


def into_unit_square(position: Float32Array) -> Float32Array:
    """Scales positions into [0, 1].

    The body reaches from the 1st to the 99th percentile along each axis, and a tenth of that further, or to the last
    sample. It is scaled by one factor, the longer axis filling the square and the shorter in the middle. If any sample
    is beyond the body, all keep a rim of 0.025 free for such: one at the distance d beyond the body of width w is put
    at 0.025 d / (d + w / 10) of the rim, so none is cut off and their order along the axis stays.

    Args:
        position: (N, 2), finite.

    Returns:
        (N, 2) float32; 0.5 where all samples share a coordinate.
    """
    given = position.astype(np.float64)
    low, high = _body(given)
    width = float((high - low).max())
    if width <= 0:
        low, high = given.min(axis=0), given.max(axis=0)
        width = float((high - low).max())
    if width <= 0:
        return np.full(position.shape, 0.5, np.float32)
    beyond = np.maximum(low - given, 0) - np.maximum(given - high, 0)
    rim = _RIM if np.any(beyond) else 0.0
    scaled = (np.clip(given, low, high) - (low + high) / 2) / width * (1 - 2 * rim) + 0.5
    outside = np.abs(beyond)
    scaled -= np.sign(beyond) * rim * outside / (outside + _MARGIN * width)
    return np.clip(scaled, 0, 1).astype(np.float32)


def _body(position: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = np.percentile(position, _PERCENTILES, axis=0)
    margin = _MARGIN * (high - low)
    return np.maximum(low - margin, position.min(axis=0)), np.minimum(high + margin, position.max(axis=0))
