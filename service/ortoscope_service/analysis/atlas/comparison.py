"""Two layers over the same images and sites in one frame: how alike they see, and which cells appear, vanish and move.

After the joint atlases of Lucid's activation_atlas recipe (mode BIDIRECTIONAL): a sample is [a1, a1 carried to space 2]
for the left layer and [a2 carried to space 1, a2] for the right one, and both points of all samples are laid out
together. A layout draws every point at random within its neighbourhood, so that even samples on which both layers agree
would seem to have moved. Therefore each point is then placed among those of the other samples, where those are that it
resembles: that does not depend on what was drawn for the point itself, and equal points come to the same place.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.fuzzy_graph import memberships
from ortoscope_service.analysis.atlas.grid import cell_ids
from ortoscope_service.analysis.atlas.layout import FEWEST_SAMPLES, Layout, LayoutSettings, lay_out
from ortoscope_service.analysis.atlas.neighbours import nearest_among
from ortoscope_service.analysis.atlas.parallel import Progress, Threads, pieces, silent, single_threaded_products
from ortoscope_service.analysis.atlas.space import Float32Array, Metric, Space
from ortoscope_service.analysis.atlas.translation import carry
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation

NEIGHBOURS = 15
"""Nearest neighbours that two layers are compared by."""

MOST_SAMPLES = 50_000
"""Shared samples that are compared, at most; drawn at random."""

FEWEST_OF_A_CELL = 5
"""Samples that a cell must have on one side for their absence from the other to be called so."""

BOTH, VANISHED, APPEARED = 0, 1, 2
"""Kinds of cells: with samples of both sides, or too few to tell; of the left side alone; of the right side alone."""

_QUERIES = 5000
"""Samples whose neighbourhoods are compared, at most."""

_CANDIDATES = 50_000
"""Samples among which their neighbours are looked for, at most."""

_ROWS = 8192
"""Samples that are worked on at a time."""

_NEAREST = 6
"""Points that decide a position: two for each of three samples, where both layers agree."""

_RNG = 0x636F6D70
"""Tells this module's random draws from those of others with the same seed."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two layers in one frame: N samples, M cells that have any."""

    sample: NDArray[np.int64]
    """(N,) int64, ascending: which of the samples given are compared."""

    left: Float32Array
    """(N, 2) float32, where each is as the left layer sees it, in [0, 1]."""

    right: Float32Array
    """(N, 2) float32, as the right layer sees it."""

    row: NDArray[np.int32]
    """(M,) int32, from the top."""

    column: NDArray[np.int32]
    """(M,) int32, from the left."""

    left_count: NDArray[np.int64]
    """(M,) int64, samples of the left layer."""

    right_count: NDArray[np.int64]
    """(M,) int64, of the right layer."""

    explained: NDArray[np.float64]
    """(2,) float64: the share of the right layer's variance that a linear map of the left one predicts in samples that
    it was not fitted to, and the other way round."""

    neighbourhood_agreement: float
    """The share of a sample's 15 nearest neighbours in one layer that are among those in the other: 1 if they agree, 15
    / (N - 1) by chance."""

    procrustes_distance: float
    """What remains of the difference of the two atlases' own layouts after the best similarity transform, 0 to 1."""

    @property
    def shift(self) -> Float32Array:
        """(N,) float32, how far a sample is on the right from where it is on the left."""
        moved: Float32Array = np.linalg.norm(self.right - self.left, axis=1).astype(np.float32)
        return moved

    @property
    def change(self) -> NDArray[np.float32]:
        """(M,) float32: log2 of the right share over the left one, with half a sample added to both counts."""
        ratio: NDArray[np.float32] = np.log2((self.right_count + 0.5) / (self.left_count + 0.5)).astype(np.float32)
        return ratio

    @property
    def kind(self) -> NDArray[np.uint8]:
        """The kind of each cell, (M,) uint8.

        1 for cells that vanish, with at least 5 samples on the left and none on the right; 2 for those that appear; 0
        for all others.
        """
        vanished = (self.left_count >= FEWEST_OF_A_CELL) & (self.right_count == 0)
        appeared = (self.right_count >= FEWEST_OF_A_CELL) & (self.left_count == 0)
        return np.select([vanished, appeared], [VANISHED, APPEARED], BOTH).astype(np.uint8)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """`left`, `right`, `shift`, `row`, `column`, `left_count`, `right_count`, `change`, `kind`, `explained`."""
        names = ("left", "right", "shift", "row", "column", "left_count", "right_count", "change", "kind", "explained")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, eq=False)
class Side:
    """One of the layers: N samples, C units."""

    activations: NDArray[Any]
    """(N, C) float16 or float32, without zero vectors."""

    position: Float32Array
    """(N, 2) float32, in its own atlas."""

    metric: Metric
    """That of its own atlas."""

    def some(self, chosen: NDArray[np.int64]) -> "Side":
        """Some of its samples."""
        return replace(self, activations=self.activations[chosen], position=self.position[chosen])


def compare(
    left: Side,
    right: Side,
    grid: int,
    settings: LayoutSettings,
    seed: int,
    *,
    threads: int = 1,
    progress: Progress = silent,
    cancellation: Cancellation | None = None,
) -> Comparison:
    """Compares two layers.

    Memory beyond the result, for N samples of at most 50,000 and C units of both layers together: 12 N C bytes, and
    that of a layout of 2 N samples.

    Args:
        left: One layer.
        right: The other, of the same samples in the same order.
        grid: Cells along each side.
        settings: Of the joint layout; its metric is euclidean, between vectors scaled as each side's own metric says,
            and all points are landmarks.
        seed: Decides the samples, if there are more than 50,000, and the layout.
        threads: Threads to work in; how many does not change the result.
        progress: Told the stage and how far it is.
        cancellation: Heeded between blocks of samples and turns of an epoch.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION: `TOO_FEW_SHARED_SAMPLES`, and as `lay_out` raises; CANCELLED.
    """
    count = len(left.activations)
    if count < FEWEST_SAMPLES:
        raise too_few_shared(count)
    rng = np.random.default_rng([seed % 2**64, _RNG])
    sample = np.sort(rng.choice(count, min(count, MOST_SAMPLES), replace=False))
    left, right = left.some(sample), right.some(sample)
    with single_threaded_products(), Threads(threads, cancellation) as pool:
        agreement = neighbourhood_agreement(left, right, rng, pool)
        points, explained = _joint(left, right, pool)
    layout = lay_out(
        points,
        replace(settings, metric="euclidean", landmarks=len(points)),
        seed,
        threads=threads,
        progress=progress,
        cancellation=cancellation,
    )
    with single_threaded_products(), Threads(threads, cancellation) as pool:
        left_at, right_at = np.split(_among_others(layout, points, pool), 2)
    same = _equal_rows(left.activations, right.activations)
    right_at[same] = left_at[same]
    cell, counts = _cells(left_at, right_at, grid)
    row, column = np.divmod(cell, grid)
    return Comparison(
        sample,
        left_at,
        right_at,
        row.astype(np.int32),
        column.astype(np.int32),
        counts[0],
        counts[1],
        np.array(explained),
        agreement,
        procrustes_distance(left.position, right.position),
    )


def too_few_shared(count: int) -> OrtoscopeError:
    """The error for two atlases that cannot be compared."""
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "TOO_FEW_SHARED_SAMPLES",
        f"The two atlases have {count} samples of the same images and places in common, and a comparison needs at "
        f"least {FEWEST_SAMPLES}. Build both from the same dataset and splits, with the same seed.",
        metadata={"shared": str(count), "least": str(FEWEST_SAMPLES)},
    )


def neighbourhood_agreement(left: Side, right: Side, rng: np.random.Generator, threads: Threads) -> float:
    """The share of nearest neighbours that two layers have in common, of up to 5,000 samples among up to 50,000.

    Args:
        left: One layer, at least 4 samples.
        right: The other, of the same samples.
        rng: Draws the samples.
        threads: Threads to work in.
    """
    chosen = rng.choice(len(left.activations), min(len(left.activations), _CANDIDATES), replace=False)
    k = min(NEIGHBOURS, len(chosen) - 1)
    queries = np.arange(min(len(chosen), _QUERIES))
    near = []
    for side in (left, right):
        rows = side.activations[chosen]
        space = Space.of(rows, np.arange(len(rows)), side.metric, 0, threads)
        points = np.empty(rows.shape, np.float32)
        for begin, end in pieces(len(rows), _ROWS):
            points[begin:end] = space.coordinates(space.vectors(rows[begin:end]))
        found, _ = nearest_among(points[queries], points, k + 1, threads)
        near.append(found[_without(found, queries, 1)].reshape(len(queries), k))
    shared = (near[0][:, :, None] == near[1][:, None, :]).any(axis=2)
    return float(shared.mean())


def procrustes_distance(left: NDArray[Any], right: NDArray[Any]) -> float:
    """What remains of the difference of two layouts after the best translation, scaling, turn and reflection.

    With both centred and scaled to a sum of squares of 1 it is 1 - (sum of the singular values of leftᵀ right)²
    (Gower 1975).

    Args:
        left: (N, 2).
        right: (N, 2), of the same samples.

    Returns:
        0 to 1; 1 if one of them is a single point, 0 if both are.
    """
    scaled = []
    for position in (left, right):
        centred = position.astype(np.float64) - position.mean(axis=0, dtype=np.float64)
        scaled.append((centred, float(np.linalg.norm(centred))))
    (one, one_size), (other, other_size) = scaled
    if not one_size or not other_size:
        return float(one_size != other_size)
    values = np.linalg.svd((one / one_size).T @ (other / other_size), compute_uv=False)
    return float(np.clip(1 - values.sum() ** 2, 0, 1))


def _joint(left: Side, right: Side, threads: Threads) -> tuple[NDArray[np.float16], tuple[float, float]]:
    """All points of the joint space, (2 N, C1 + C2) float16, the left ones first, and what either side explains."""
    ends = []
    for side in (left, right):
        space = Space.of(side.activations, np.arange(len(side.activations)), side.metric, 0, threads)
        ends.append(space.vectors(side.activations))
    onward, backward = carry(ends[0], ends[1]), carry(ends[1], ends[0])
    points = np.empty((2 * len(ends[0]), ends[0].shape[1] + ends[1].shape[1]), np.float16)
    np.concatenate([ends[0], onward.carried], axis=1, out=points[: len(ends[0])], casting="same_kind")
    np.concatenate([backward.carried, ends[1]], axis=1, out=points[len(ends[0]) :], casting="same_kind")
    return points, (onward.explained, backward.explained)


def _among_others(layout: Layout, points: NDArray[np.float16], threads: Threads) -> Float32Array:
    """(2 N, 2) float32: each point at the weighted mean of the nearest points of other samples.

    Weights are those of `Frame.place`.
    """
    frame, samples = layout.frame, len(points) // 2
    landmarks = frame.landmarks.astype(np.float32)
    k = min(_NEAREST, len(points) - 2)
    position = np.empty((len(points), 2), np.float32)
    for begin, end in pieces(len(points), _ROWS):
        index, squared = nearest_among(landmarks[begin:end], landmarks, k + 2, threads)
        others = _without(index % samples, np.arange(begin, end) % samples, 2)
        near, distance = index[others].reshape(-1, k), frame.space.distances(squared[others].reshape(-1, k))
        first = np.zeros((end - begin, 1), np.float32)  # stands for the point itself
        weight = memberships(np.concatenate([first, distance], axis=1), 1.0, threads)[:, 1:].astype(np.float64)
        mean = np.einsum("nk,nkx->nx", weight, frame.position[near]) / weight.sum(axis=1, keepdims=True)
        position[begin:end] = np.clip(mean, 0, 1)
    return position


def _without(found: NDArray[Any], itself: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """The k nearest that are not the sample itself, (n, k + most) bool; itself is found up to `most` times."""
    others = found != itself[:, None]
    kept: NDArray[np.bool_] = others & (np.cumsum(others, axis=1) <= found.shape[1] - most)
    return kept


def _equal_rows(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) bool: whether both layers hold the very same."""
    if left.shape != right.shape:
        return np.zeros(len(left), np.bool_)
    return np.concatenate(
        [(left[begin:end] == right[begin:end]).all(axis=1) for begin, end in pieces(len(left), _ROWS)]
    )


def _cells(
    left: Float32Array, right: Float32Array, grid: int
) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The cells that have samples of either side, ascending, and how many of each."""
    counts = [np.bincount(cell_ids(position, grid), minlength=grid**2).astype(np.int64) for position in (left, right)]
    cell = np.flatnonzero(counts[0] + counts[1])
    return cell, (counts[0][cell], counts[1][cell])
