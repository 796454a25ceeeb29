"""Places further samples among those of a layout, without moving these.

A sample is put at the mean of the positions of its nearest landmarks, weighted by how strongly it belongs to the
neighbourhood of each, as UMAP starts when it transforms new data. That cannot show what the atlas has no place for, so
how far a sample is from its nearest landmark is told with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.fuzzy_graph import memberships
from ortoscope_service.analysis.atlas.neighbours import Neighbours, nearest_among
from ortoscope_service.analysis.atlas.parallel import Progress, Threads, pieces, silent, single_threaded_products
from ortoscope_service.analysis.atlas.space import Float32Array, Space
from ortoscope_service.runtime.cancellation import Cancellation

OFF_MAP_PERCENTILE = 99.0
"""A sample is off the map if it is farther from the landmarks than this share of them from each other."""

NEAREST = 5
"""Landmarks that decide a position, at most."""

_COMPARED = 15
"""Nearest by the true distance among which the nearest by principal coordinates is looked for."""

_ROWS = 8192
"""Samples that are placed at a time."""


@dataclass(frozen=True)
class Placement:
    """Where samples are in a layout."""

    position: Float32Array
    """(n, 2) float32, in [0, 1]."""

    distance: Float32Array
    """(n,) float32, to the nearest landmark, in the metric; by principal coordinates, so not more than the true one."""

    off_map: NDArray[np.bool_]
    """(n,) bool: farther than `Frame.limit`."""


@dataclass(frozen=True)
class Frame:
    """All it takes to place further samples in a layout."""

    space: Space
    """The metric, and what makes activations coordinates."""

    landmarks: NDArray[np.float16]
    """(L, D) float16, principal coordinates of the samples that were laid out."""

    position: Float32Array
    """(L, 2) float32, their positions, in [0, 1]."""

    nearest: int
    """Landmarks that decide a position."""

    limit: float
    """The 99th percentile of the landmarks' distances from the nearest other one, by the same coordinates."""

    @classmethod
    def of(cls, space: Space, coordinates: Float32Array, neighbours: Neighbours, position: Float32Array) -> "Frame":
        """The frame of a layout.

        Args:
            space: Its space.
            coordinates: (L, D) float32, of the samples that were laid out.
            neighbours: Their nearest neighbours.
            position: (L, 2) float32, their positions.
        """
        landmarks = coordinates.astype(np.float16)
        others = neighbours.index[:, 1 : _COMPARED + 1]
        least = np.zeros(len(landmarks), np.float32)
        for begin, end in pieces(len(landmarks), 1024) if others.shape[1] else []:
            own, near = landmarks[begin:end, None].astype(np.float32), landmarks[others[begin:end]].astype(np.float32)
            least[begin:end] = np.square(own - near).sum(axis=2).min(axis=1)
        limit = float(np.percentile(space.distances(least), OFF_MAP_PERCENTILE))
        return cls(space, landmarks, position, min(NEAREST, neighbours.index.shape[1], len(landmarks)), limit)

    def place(
        self,
        activations: NDArray[Any],
        *,
        threads: int = 1,
        progress: Progress = silent,
        cancellation: Cancellation | None = None,
    ) -> Placement:
        """Places samples; one that is a landmark goes where the landmark is.

        Memory beyond the result is that of the landmarks in float32 and of 8,192 samples.

        Args:
            activations: (n, C) float16 or float32, of the same units.
            threads: Threads to work in; how many does not change the result.
            progress: Told the samples done.
            cancellation: Heeded between blocks of samples.

        Raises:
            OrtoscopeError: `SHAPE_MISMATCH`; `ACTIVATIONS_NOT_FINITE` (FAILED_PRECONDITION); `CANCELLED`.
        """
        landmarks = self.landmarks.astype(np.float32)
        position = np.empty((len(activations), 2), np.float32)
        distance = np.empty(len(activations), np.float32)
        with single_threaded_products(), Threads(threads, cancellation) as pool:
            for begin, end in pieces(len(activations), _ROWS):
                coordinates = self.space.coordinates(self.space.vectors(activations[begin:end]))
                # Rounded as the landmarks are: the same sample is then at distance 0.
                coordinates = coordinates.astype(np.float16).astype(np.float32)
                index, squared = nearest_among(coordinates, landmarks, self.nearest, pool)
                away = self.space.distances(squared)
                position[begin:end] = self._between(index, away, pool)
                distance[begin:end] = away[:, 0]
                progress("placing", end, len(activations))
        return Placement(position, distance, distance > self.limit)

    def _between(self, index: NDArray[np.int32], distance: Float32Array, threads: Threads) -> Float32Array:
        """The weighted means of landmarks' positions, (n, 2) float32."""
        # The first column of `memberships` stands for the sample itself.
        itself = np.zeros((len(distance), 1), np.float32)
        weight = memberships(np.concatenate([itself, distance], axis=1), 1.0, threads)[:, 1:].astype(np.float64)
        there = distance[:, :1] == 0
        weight = np.where(there, distance == 0, weight)
        mean = np.einsum("nk,nkx->nx", weight, self.position[index]) / weight.sum(axis=1, keepdims=True)
        inside: Float32Array = np.clip(mean, 0, 1).astype(np.float32)
        return inside

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What the fields say, as arrays: `landmarks`, `position`, `nearest`, `limit` and those of the space."""
        return {
            "landmarks": self.landmarks,
            "position": self.position,
            "nearest": np.asarray(self.nearest, np.int64),
            "limit": np.asarray(self.limit, np.float64),
            **{f"space_{name}": array for name, array in self.space.to_arrays().items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Frame":
        """The frame that `to_arrays` was asked of."""
        names = ("metric", "scale", "mean", "axes")
        return cls(
            Space.from_arrays({name: arrays[f"space_{name}"] for name in names}),
            np.asarray(arrays["landmarks"]),
            np.asarray(arrays["position"]),
            int(arrays["nearest"]),
            float(arrays["limit"]),
        )
