"""Whitening of directions, and principal axes, both from the second moments of the activations.

Carter et al. (2019) replace a direction v by v' = v S with S the inverse of the *uncentred* second moment E[h hᵀ], so
that what most activations share does not drown what sets these apart. The inverse of a plain estimate explodes where
units are dead, collinear or more than the samples; here it is taken of a shrunken one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.statistics.second_moments import Float64Array, SecondMoments

LEAST_SHRINKAGE = 1e-4
"""The least shrinkage that is chosen: no eigenvalue is then below a ten-thousandth of the mean one."""

_DEAD = 1e-12
"""Second moment of a unit, of the largest one's, from which down it counts as dead."""


@dataclass(frozen=True)
class Whitening:
    """A linear map of directions by the inverse second moment."""

    precision: Float64Array
    """(C, C) float64, the inverse of the shrunken second moment; symmetric; rows and columns of dead units are 0."""

    shrinkage: float
    """Share of the unit-diagonal target in the estimate, in [0, 1]."""

    dead: NDArray[np.bool_]
    """(C,) bool: units that are 0 in every sample, or as good as."""

    def directions(self, vectors: NDArray[Any]) -> NDArray[np.float32]:
        """Directions after whitening.

        Args:
            vectors: (M, C), of any floating-point type.

        Returns:
            (M, C) float32: v S, computed in float64.
        """
        whitened: NDArray[np.float32] = (vectors.astype(np.float64) @ self.precision).astype(np.float32)
        return whitened


@dataclass(frozen=True)
class PrincipalAxes:
    """The directions along which activations vary most."""

    mean: Float64Array
    """(C,) float64, the origin."""

    axes: Float64Array
    """(C, D) float64: orthonormal columns, the one of the largest variance first. The largest component of each is
    positive, which makes them unique."""

    variance: Float64Array
    """(D,) float64, the variance along each."""

    total: float
    """The variance along all C axes."""


def whitening_of(moments: SecondMoments, shrinkage: float | None = None) -> Whitening:
    """The whitening that second moments call for.

    The second moment is scaled to a unit diagonal, R; the estimate is (1 - s) R + s I, scaled back. So the result does
    not depend on the units' scales. Where s is not given it is the oracle-approximating shrinkage of Chen et al. (2010,
    "Shrinkage algorithms for MMSE covariance estimation", eq. 23) for R, but at least `LEAST_SHRINKAGE`. With s = 0 it
    is the inverse that the Activation Atlas takes, or the pseudo-inverse where there is none.

    Args:
        moments: Of the activations, zero vectors left out.
        shrinkage: s in [0, 1].

    Raises:
        OrtoscopeError: `INVALID_SETTING`; `ACTIVATIONS_EQUAL` (FAILED_PRECONDITION): no unit is ever active.
    """
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise invalid(
            "INVALID_SETTING", f"The shrinkage is {shrinkage}; give a number from 0 to 1.", shrinkage=shrinkage
        )
    second = moments.second
    power = np.diagonal(second)
    dead = power <= _DEAD * power.max(initial=0)
    if dead.all():
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "ACTIVATIONS_EQUAL",
            "All activations are zero, so there is nothing to whiten; choose another tap or other images.",
        )
    live = ~dead
    scale = 1 / np.sqrt(power[live])
    correlation = second[np.ix_(live, live)] * np.outer(scale, scale)
    chosen = _oracle_shrinkage(correlation, moments.count) if shrinkage is None else float(shrinkage)
    precision = np.zeros_like(second)
    inverse = _inverse((1 - chosen) * correlation + chosen * np.eye(len(scale)))
    precision[np.ix_(live, live)] = inverse * np.outer(scale, scale)
    return Whitening(precision, chosen, dead)


def principal_axes(moments: SecondMoments, components: int = 0) -> PrincipalAxes:
    """The principal axes of the activations about their mean: the eigenvectors of the covariance, in float64.

    Args:
        moments: Of the activations.
        components: How many, D; 0 or more than there are units for all of them.
    """
    wanted = min(components, moments.units) or moments.units
    values, vectors = np.linalg.eigh(moments.covariance)
    variance = np.maximum(values[::-1], 0)
    axes = np.ascontiguousarray(vectors[:, ::-1][:, :wanted])
    largest = np.abs(axes).argmax(axis=0)
    axes *= np.where(axes[largest, np.arange(wanted)] < 0, -1.0, 1.0)
    return PrincipalAxes(moments.mean, axes, variance[:wanted], float(variance.sum()))


def _oracle_shrinkage(correlation: Float64Array, count: int) -> float:
    """The shrinkage of least expected squared error for normal samples, of a matrix with unit diagonal."""
    units = len(correlation)
    squares, trace = float(np.sum(correlation**2)), float(units)
    spread = squares - trace**2 / units
    if spread <= 0:
        return 1.0
    numerator = (1 - 2 / units) * squares + trace**2
    return float(np.clip(numerator / ((count + 1 - 2 / units) * spread), LEAST_SHRINKAGE, 1))


def _inverse(matrix: Float64Array) -> Float64Array:
    """The inverse of a symmetric matrix, eigenvalues that are but rounding left out; symmetric to the last bit."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    scaled = vectors[:, kept] / np.sqrt(values[kept])
    inverse: Float64Array = scaled @ scaled.T
    return (inverse + inverse.T) / 2
