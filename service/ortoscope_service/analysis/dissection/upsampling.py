"""The bilinear rule by which a map is raised to the size of the label planes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LinearAxis:
    """Where each of the output's positions along one axis lies between two of the input's."""

    lower: NDArray[np.int64]
    """(output,) int64: the input position at or below it."""

    upper: NDArray[np.int64]
    """(output,) int64: the next input position; the same at the edge."""

    weight: NDArray[np.float64]
    """(output,) float64: share of the upper one, in [0, 1)."""

    start: NDArray[np.int64]
    """(input + 1,) int64: the output positions whose lower is j are start[j] to start[j + 1]."""

    @classmethod
    def of(cls, size: int, output_size: int) -> "LinearAxis":
        """Half-pixel centres: output i lies at (i + 1/2) size / output_size - 1/2, clamped to 0..size - 1."""
        source = np.clip((np.arange(output_size) + 0.5) * size / output_size - 0.5, 0, size - 1)
        lower = np.floor(source).astype(np.int64)
        return cls(
            lower,
            np.minimum(lower + 1, size - 1),
            source - lower,
            np.searchsorted(lower, np.arange(size + 1)).astype(np.int64),
        )
