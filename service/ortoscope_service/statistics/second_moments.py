"""The sum of h hᵀ over a stream of activations: all that whitening and principal axes need, in memory of C x C.

Activation Atlas (Carter et al. 2019) whitens by the uncentred second moment E[h hᵀ]; principal axes need the mean too.
Both come from the count, the sum and the sum of products, which add up over the parts of a stream.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.errors import Code, OrtoscopeError, invalid

Float64Array = NDArray[np.float64]

_ROWS = 2048
"""Rows that are raised to float64 at a time; also fixes the order of the sums, whatever the caller's blocks."""


class SecondMoments:
    """The moments of a stream of vectors.

    Args:
        units: Numbers per vector, C.

    Attributes:
        count: Vectors seen.
        total: (C,) float64, their sum.
        products: (C, C) float64, the sum of h hᵀ; symmetric.
    """

    def __init__(self, units: int) -> None:
        self.count = 0
        self.total: Float64Array = np.zeros(units, np.float64)
        self.products: Float64Array = np.zeros((units, units), np.float64)

    @property
    def units(self) -> int:
        """Numbers per vector."""
        return len(self.total)

    @property
    def mean(self) -> Float64Array:
        """(C,) float64, the mean vector; zeros before the first vector."""
        return self.total / max(1, self.count)

    @property
    def second(self) -> Float64Array:
        """(C, C) float64, the uncentred second moment E[h hᵀ]; zeros before the first vector."""
        return self.products / max(1, self.count)

    @property
    def covariance(self) -> Float64Array:
        """(C, C) float64, E[h hᵀ] - E[h] E[h]ᵀ."""
        return self.second - np.outer(self.mean, self.mean)

    def update(self, rows: NDArray[Any]) -> None:
        """Adds vectors.

        Args:
            rows: (n, C) of any floating-point type; summed in float64, 2,048 rows at a time.

        Raises:
            OrtoscopeError: `SHAPE_MISMATCH`; `ACTIVATIONS_NOT_FINITE` (FAILED_PRECONDITION), and nothing of the block
                at fault is added.
        """
        if rows.ndim != 2 or rows.shape[1] != self.units:
            raise invalid(
                "SHAPE_MISMATCH",
                f"The activations have shape {rows.shape}; give rows of {self.units} units.",
                shape=rows.shape,
                units=self.units,
            )
        for start in range(0, len(rows), _ROWS):
            block = rows[start : start + _ROWS].astype(np.float64)
            products = block.T @ block
            if not np.isfinite(np.trace(products)):
                raise OrtoscopeError(
                    Code.FAILED_PRECONDITION,
                    "ACTIVATIONS_NOT_FINITE",
                    "Some activations are not finite; find the images that cause it, or choose another tap.",
                )
            self.count += len(block)
            self.total += block.sum(axis=0)
            self.products += products

    def merge(self, other: "SecondMoments") -> None:
        """Adds the moments of another part of the stream.

        Raises:
            OrtoscopeError: `SHAPE_MISMATCH`: it has another number of units.
        """
        if other.units != self.units:
            raise invalid(
                "SHAPE_MISMATCH",
                f"The moments are of {other.units} units, not of {self.units}; merge moments of the same tap.",
                units=self.units,
                others=other.units,
            )
        self.count += other.count
        self.total += other.total
        self.products += other.products

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """`count` () int64, `total` (C,) float64 and `products` (C, C) float64."""
        return {"count": np.asarray(self.count, np.int64), "total": self.total, "products": self.products}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "SecondMoments":
        """The moments that `to_arrays` was asked of."""
        moments = cls(len(arrays["total"]))
        moments.count = int(arrays["count"])
        moments.total = np.array(arrays["total"], np.float64)
        moments.products = np.array(arrays["products"], np.float64)
        return moments
