"""What one layer says about another: activations of the first, carried to the space of the second.

The joint atlases of Lucid's activation_atlas recipe carry a1 to the space of a2 by least squares over shared images and
places, Σ11⁻¹ a1 Σ12. Fitted and applied to the same samples that follows anything once there are few samples per
unit, and two layers that have nothing in common would look alike. So here the squares are regularised, and every sample
is carried by the map that is fitted to all others, which has a closed form.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.parallel import pieces

_ROWS = 4096
"""Samples that are worked on at a time."""

_JUDGES = 4096
"""Samples that the strength of the regularisation is chosen by, at most: evenly spread over all."""

_STRENGTHS = tuple(10.0**exponent for exponent in range(-6, 2))
"""Strengths that are tried, in mean squares along an axis."""


@dataclass(frozen=True, eq=False)
class Translation:
    """Samples of one space in another, N of them."""

    carried: NDArray[np.float32]
    """(N, C2) float32, each by the map that is fitted to the others."""

    explained: float
    """Share of the variance in the second space that it explains: 1 for all; 0 or less if the mean is as good."""


def carry(source: NDArray[np.float32], target: NDArray[np.float32]) -> Translation:
    """Carries samples from one space to another.

    Ridge regression with intercept. With centred rows x of the source, G = sum x xᵀ = U S Uᵀ, the weight of a sample
    in its own prediction is h = 1/N + sum_j (xᵀ u_j)² / (S_j + λ), and its prediction by all others is
    (ŷ - h y) / (1 - h). λ is the one of eight whose errors of such predictions are least.

    Memory beyond the result: C1² + C1 C2 numbers in float64, and those of 4,096 samples.

    Args:
        source: (N, C1) float32, N at least 2.
        target: (N, C2) float32, of the same samples.
    """
    count = len(source)
    source_mean, target_mean = (rows.mean(axis=0, dtype=np.float64) for rows in (source, target))
    gram = np.zeros((source.shape[1], source.shape[1]))
    cross = np.zeros((source.shape[1], target.shape[1]))
    variance = 0.0
    for begin, end in pieces(count, _ROWS):
        x, y = source[begin:end] - source_mean, target[begin:end] - target_mean
        gram += x.T @ x
        cross += x.T @ y
        variance += float(np.square(y).sum())
    squares, axes = np.linalg.eigh(gram)
    squares = np.maximum(squares, 0)
    turned = axes.T @ cross

    def predicted(x: NDArray[np.float64], y: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
        """(n, C2) float64: centred rows predicted by the map that is fitted to the other samples."""
        along = x @ axes
        weight = 1 / count + (along * along / (squares + ridge)).sum(axis=1, keepdims=True)
        weight = np.minimum(weight, 1 - 1e-9)
        others: NDArray[np.float64] = ((along / (squares + ridge)) @ turned - weight * y) / (1 - weight)
        return others

    scale = max(float(squares.mean()), np.finfo(np.float64).tiny)
    judge = np.unique(np.linspace(0, count - 1, min(count, _JUDGES)).astype(np.int64))
    x, y = source[judge] - source_mean, target[judge] - target_mean
    ridge = min(
        (scale * strength for strength in _STRENGTHS), key=lambda tried: np.square(predicted(x, y, tried) - y).sum()
    )
    carried = np.empty(target.shape, np.float32)
    error = 0.0
    for begin, end in pieces(count, _ROWS):
        x, y = source[begin:end] - source_mean, target[begin:end] - target_mean
        found = predicted(x, y, ridge)
        error += float(np.square(found - y).sum())
        carried[begin:end] = found + target_mean
    return Translation(carried, 1 - error / variance if variance else 0.0)
