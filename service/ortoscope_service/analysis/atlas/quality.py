"""How far a layout keeps neighbourhoods.

Trustworthiness (Venna and Kaski 2001) asks whether neighbours in the plane are neighbours among the activations:
1 - 2 / (n k (2 N - 3 k - 1)) times the sum, over queries and the k nearest in the plane, of how far the rank among the
activations is beyond k. Neighbourhood recall is the share of the k nearest among the activations that are among the k
nearest in the plane. Both are by up to some thousand queries against all samples, over all units.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.neighbours import nearest_among
from ortoscope_service.analysis.atlas.parallel import Piece, Threads, pieces, single_threaded_products
from ortoscope_service.analysis.atlas.space import Float32Array, Metric, Space
from ortoscope_service.runtime.cancellation import Cancellation

_QUERIES = 128
"""Queries that are compared with a block at a time; their distances fit the cache."""

_ROWS = 4096
"""Samples whose activations are raised to float32 at a time."""

_RNG = 0x7175616C
"""Tells this module's random draws from those of others with the same seed."""


@dataclass(frozen=True)
class LayoutQuality:
    """How far a layout keeps neighbourhoods."""

    trustworthiness: float
    """In [0, 1]: whether neighbours in the plane are neighbours among the activations."""

    neighbourhood_recall: float
    """In [0, 1]: the share of the nearest among the activations that are among the nearest in the plane."""

    queries: int
    """Samples that both were measured with."""

    k: int
    """Neighbours that both are by: what was asked for, or fewer where there are less than twice as many samples."""


def layout_quality(
    activations: NDArray[Any],
    position: Float32Array,
    seed: int,
    *,
    queries: int = 5000,
    k: int = 15,
    metric: Metric = "cosine",
    threads: int = 1,
    cancellation: Cancellation | None = None,
) -> LayoutQuality:
    """Measures a layout.

    Memory beyond the arguments is that of the queries and of a block of 4,096 samples for each thread, in float32.

    Args:
        activations: (N, C) float16 or float32, N at least 4.
        position: (N, 2) float32.
        seed: Decides which samples are the queries.
        queries: At most how many.
        k: Neighbours.
        metric: Between activations.
        threads: Threads to work in; how many does not change the result.
        cancellation: Heeded between blocks.

    Raises:
        OrtoscopeError: `ACTIVATIONS_NOT_FINITE`, `ACTIVATIONS_EQUAL` (FAILED_PRECONDITION); `CANCELLED`.
    """
    count = len(activations)
    k = max(1, min(k, (count - 1) // 2))
    rng = np.random.default_rng([seed, _RNG])
    chosen = np.sort(rng.choice(count, min(count, queries), replace=False))
    with single_threaded_products(), Threads(threads, cancellation) as pool:
        space = Space.of(activations, np.arange(count) if count <= 20_000 else chosen, metric, 0, pool)
        near = _in_the_plane(position, chosen, k, pool)
        queries_at = space.coordinates(space.vectors(activations[chosen]))
        limit = _distances_of_near(space, activations, queries_at, near)
        rank = np.ones((len(chosen), k), np.int64)

        def closer(piece: Piece) -> NDArray[np.int64]:
            block = space.coordinates(space.vectors(activations[slice(*piece)]))
            return _closer(queries_at, block, piece[0], limit, chosen, near)

        for part in pool.map(closer, pieces(count, _ROWS)):
            rank += part
    beyond, hits = int(np.maximum(rank - k, 0).sum()), int((rank <= k).sum())
    pairs = len(chosen) * k
    return LayoutQuality(1 - 2 * beyond / (pairs * (2 * count - 3 * k - 1)), hits / pairs, len(chosen), k)


def _in_the_plane(position: Float32Array, rows: NDArray[np.int64], k: int, threads: Threads) -> NDArray[np.int32]:
    """The k nearest others of some samples in the plane, (n, k) int32."""
    # About the middle: products round least near the origin.
    centred = np.ascontiguousarray(position - position.mean(axis=0), np.float32)
    found, _ = nearest_among(centred[rows], centred, k + 1, threads)
    others = found != rows[:, None]
    # A sample with k others at its very place may be missing from its own list.
    others[others.all(axis=1), -1] = False
    near: NDArray[np.int32] = found[others].reshape(len(rows), k)
    return near


def _distances_of_near(
    space: Space, activations: NDArray[Any], queries: Float32Array, near: NDArray[np.int32]
) -> Float32Array:
    """|x|² - 2 q x between queries and those that are near in the plane, (n, k) float32."""
    distances = np.empty(near.shape, np.float32)
    for begin, end in pieces(len(near), _QUERIES):
        part = near[begin:end]
        others = space.coordinates(space.vectors(activations[part.ravel()])).reshape(*part.shape, -1)
        products = np.einsum("nc,nkc->nk", queries[begin:end], others)
        distances[begin:end] = np.einsum("nkc,nkc->nk", others, others) - 2 * products
    return distances


def _closer(
    queries: Float32Array, block: Float32Array, start: int, limit: Float32Array, rows: NDArray[np.int64], near: Any
) -> NDArray[np.int64]:
    """How many of a block of samples, the first of number `start`, are closer than each limit: (n, k) int64."""
    count = np.zeros(limit.shape, np.int64)
    squares = np.einsum("nc,nc->n", block, block)
    for first, last in pieces(len(queries), _QUERIES):
        part = slice(first, last)
        scores = squares - 2 * (queries[part] @ block.T)
        _count_closer(scores, start, limit[part], rows[part], near[part], count[part])
    return count


@numba.njit(nogil=True, cache=True)
def _count_closer(scores: Any, start: int, limit: Any, rows: Any, near: Any, count: Any) -> None:
    """Counts the samples that are closer to a query than those near it in the plane, but itself and these.

    Args:
        scores: (n, samples) float32.
        start: Number of the first of the samples.
        limit: (n, k) float32, scores of those near in the plane.
        rows: (n,) int64, the queries.
        near: (n, k) int32, those near in the plane.
        count: (n, k) int64, is added to.
    """
    for query in range(len(scores)):
        line = scores[query]
        for place in range(limit.shape[1]):
            most = limit[query, place]
            closer = np.int32(0)
            for sample in range(len(line)):
                closer += np.int32(line[sample] < most)
            # Their scores were computed in another order, so rounding must not make them closer than themselves.
            for excluded in (rows[query] - start, near[query, place] - start):
                if 0 <= excluded < len(line) and line[excluded] < most:
                    closer -= np.int32(1)
            count[query, place] += closer
