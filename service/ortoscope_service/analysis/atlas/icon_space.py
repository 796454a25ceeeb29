"""The space in which icons are climbed and judged: activations as they are, or whitened.

On a rectified tap all activations have much in common, so that the cosine of any two is high and says little: icons of
other cells reach as much as a cell's own. In whitened coordinates x = h F, F Fᵀ = S, the inverse second moment, what is
common has no more length than any other direction, and a cell's own icon stands apart. There

    cos(h, v) = hᵀS v / √(hᵀS h · vᵀS v)

What real samples reach follows from the mean y of a cell's x alone. Their mean product with y / |y| is exactly |y|;
over the root mean square length of a sample, that is a mean of cosines which counts long vectors more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.whitening import whitening_of
from ortoscope_service.statistics.second_moments import Float64Array, SecondMoments


@dataclass(frozen=True, eq=False)
class IconSpace:
    """Coordinates of a tap's activations, and how long a sample is in them."""

    factor: Float64Array | None
    """F (C, C) float64, symmetric; None for the activations as they are."""

    energy: float
    """E |x|² over all samples."""

    @classmethod
    def of(cls, moments: SecondMoments, *, whiten: bool = True, shrinkage: float | None = None) -> "IconSpace":
        """The space that the second moments of the samples call for.

        Args:
            moments: Of the activations, zero vectors left out.
            whiten: Whether to whiten.
            shrinkage: As `whitening_of` takes it.

        Raises:
            OrtoscopeError: As `whitening_of` raises.
        """
        second = moments.second
        if not whiten:
            return cls(None, float(np.trace(second)))
        precision = whitening_of(moments, shrinkage).precision
        values, vectors = np.linalg.eigh(precision)
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        return cls((root + root.T) / 2, float(np.sum(precision * second)))

    def coordinates(self, vectors: NDArray[Any]) -> Float64Array:
        """Vectors x = h F: (M, C) of any floating-point type → (M, C) float64."""
        wide = np.asarray(vectors, np.float64)
        return wide if self.factor is None else wide @ self.factor

    def typical(self, means: NDArray[Any]) -> Float64Array:
        """What samples reach on average of the cosine with the mean of their cell, at most 1.

        Args:
            means: (M, C), the mean activations of cells.

        Returns:
            (M,) float64: |y| / √(E |x|²).
        """
        lengths = np.linalg.norm(self.coordinates(means), axis=1)
        return np.asarray(np.minimum(lengths / np.sqrt(max(self.energy, np.finfo(np.float64).tiny)), 1.0))

    def cosines(self, left: NDArray[Any], right: NDArray[Any]) -> Float64Array:
        """The cosine of each vector with that of the same row: (M, C), (M, C) → (M,) float64; 0 where one is zero."""
        x, y = self.coordinates(left), self.coordinates(right)
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        return np.asarray(np.divide(np.sum(x * y, axis=1), lengths, out=np.zeros(len(x)), where=lengths > 0))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays, for `from_arrays`: `energy` (1,), and `factor` (C, C) if there is one; both float64."""
        arrays: dict[str, NDArray[Any]] = {"energy": np.array([self.energy], np.float64)}
        if self.factor is not None:
            arrays["factor"] = self.factor
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "IconSpace":
        """What `to_arrays` was made of."""
        factor = arrays.get("factor")
        return cls(None if factor is None else np.asarray(factor, np.float64), float(arrays["energy"][0]))
