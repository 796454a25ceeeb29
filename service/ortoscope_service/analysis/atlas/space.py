"""The space in which samples are neighbours: what the metric does to activations, and their principal coordinates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.parallel import Threads, pieces
from ortoscope_service.analysis.atlas.whitening import principal_axes
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.statistics.second_moments import SecondMoments

Float32Array = NDArray[np.float32]
Metric = Literal["cosine", "euclidean"]

METRICS: tuple[Metric, ...] = ("cosine", "euclidean")

_ROWS = 8192
"""Samples that are worked on at a time."""

_EQUAL = 1e-12
"""Variance, as a share of the mean square, from which down samples count as equal."""


@dataclass(frozen=True)
class Space:
    """A metric, and coordinates along the principal axes of the samples it was made from.

    Vectors are first scaled: to length 1 for cosine, all by the same factor for euclidean. Coordinates are those along
    D axes and, where D < C, one more: the length of what these leave out. Distances between coordinates are never
    longer than between the vectors.
    """

    metric: Metric
    """`cosine` or `euclidean`."""

    scale: float
    """What vectors are divided by: 1 for cosine, for euclidean the root mean square distance from the mean."""

    mean: Float32Array
    """(C,) float32, the mean of the scaled vectors."""

    axes: Float32Array
    """(C, D) float32, orthonormal columns, of the largest variance first."""

    @classmethod
    def of(
        cls, activations: NDArray[Any], samples: NDArray[np.int64], metric: Metric, components: int, threads: Threads
    ) -> "Space":
        """The space of some samples.

        Args:
            activations: (N, C) float16 or float32.
            samples: (L,) int64, the samples whose moments count.
            metric: The metric.
            components: Axes, D; 0 or at least C for all of them, which are then no principal axes but the units'.
            threads: Threads to work in.

        Raises:
            OrtoscopeError: `ACTIVATIONS_NOT_FINITE`, `ACTIVATIONS_EQUAL` (both FAILED_PRECONDITION).
        """

        def moments_of(piece: tuple[int, int]) -> SecondMoments:
            moments = SecondMoments(activations.shape[1])
            moments.update(_scaled(activations[samples[slice(*piece)]], metric))
            return moments

        moments = SecondMoments(activations.shape[1])
        for part in threads.map(moments_of, pieces(len(samples), _ROWS)):
            moments.merge(part)
        axes = principal_axes(moments, components)
        if axes.total <= _EQUAL * np.trace(moments.second):
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "ACTIVATIONS_EQUAL",
                "All activations are equal, so there is nothing to lay out; choose another tap or other images.",
            )
        scale = 1.0 if metric == "cosine" else float(np.sqrt(axes.total))
        units = activations.shape[1]
        vectors = axes.axes if 0 < components < units else np.eye(units)
        return cls(metric, scale, (axes.mean / scale).astype(np.float32), vectors.astype(np.float32))

    @property
    def complete(self) -> bool:
        """Whether the coordinates are all there is."""
        return bool(self.axes.shape[0] == self.axes.shape[1])

    def vectors(self, activations: NDArray[Any]) -> Float32Array:
        """Activations scaled, (n, C) float32: squared distances between these are what the metric ranks by.

        Raises:
            OrtoscopeError: `ACTIVATIONS_NOT_FINITE` (FAILED_PRECONDITION); `SHAPE_MISMATCH`.
        """
        if activations.ndim != 2 or activations.shape[1] != len(self.mean):
            raise invalid(
                "SHAPE_MISMATCH",
                f"The activations have shape {activations.shape}; give rows of {len(self.mean)} units.",
                shape=activations.shape,
                units=len(self.mean),
            )
        scaled = _scaled(activations, self.metric)
        return scaled if self.metric == "cosine" else scaled / np.float32(self.scale)

    def coordinates(self, vectors: Float32Array) -> Float32Array:
        """Principal coordinates of scaled vectors: (n, D) float32 if complete, else (n, D + 1)."""
        centred = vectors - self.mean
        if self.complete:
            return centred
        along = centred @ self.axes
        rest = np.einsum("nc,nc->n", centred, centred) - np.einsum("nd,nd->n", along, along)
        return np.concatenate([along, np.sqrt(np.maximum(rest, 0))[:, None]], axis=1)

    def distances(self, squared: NDArray[np.float32]) -> Float32Array:
        """Distances in the metric, from squared distances between scaled vectors: 1 - cos for cosine."""
        if self.metric == "cosine":
            return squared / np.float32(2)
        return np.sqrt(squared) * np.float32(self.scale)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """`metric` () text, `scale` () float64, `mean` (C,) and `axes` (C, D) float32."""
        return {
            "metric": np.asarray(self.metric),
            "scale": np.asarray(self.scale, np.float64),
            "mean": self.mean,
            "axes": self.axes,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Space":
        """The space that `to_arrays` was asked of."""
        metric: Metric = "cosine" if str(arrays["metric"]) == "cosine" else "euclidean"
        return cls(metric, float(arrays["scale"]), np.asarray(arrays["mean"]), np.asarray(arrays["axes"]))


def _scaled(activations: NDArray[Any], metric: Metric) -> Float32Array:
    """Vectors of length 1 for cosine, where a zero vector stays zero; else as they are; float32."""
    rows: Float32Array = np.ascontiguousarray(activations, np.float32)
    largest = np.abs(rows).max(axis=1, initial=0, keepdims=True)
    if not np.isfinite(largest).all():
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "ACTIVATIONS_NOT_FINITE",
            "Some activations are not finite; find the images that cause it, or choose another tap.",
        )
    if metric == "euclidean":
        return rows
    # By the largest first: squares of large or tiny numbers leave the range of float32.
    rows = (rows / np.where(largest > 0, largest, np.float32(1))).astype(np.float32, copy=False)
    length = np.sqrt(np.einsum("nc,nc->n", rows, rows))[:, None]
    return (rows / np.where(length > 0, length, np.float32(1))).astype(np.float32, copy=False)
