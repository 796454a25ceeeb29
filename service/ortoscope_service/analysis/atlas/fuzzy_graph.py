"""UMAP's fuzzy graph: how strongly each sample belongs to the neighbourhood of each other (McInnes et al. 2018, §3.1).

The strength of a neighbour at distance d is exp(-(d - rho) / sigma) where rho is the distance of the nearest one and
sigma makes the strengths sum to log2(k). Both directions are joined by the probabilistic sum a + b - a b.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.optimize
import scipy.sparse
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.neighbours import Int32Array
from ortoscope_service.analysis.atlas.parallel import Piece, Threads, pieces
from ortoscope_service.analysis.atlas.space import Float32Array

_ROWS = 4096
"""Samples that one thread does at a time."""


@dataclass(frozen=True)
class FuzzyGraph:
    """A symmetric graph in compressed rows, without loops."""

    start: NDArray[np.int64]
    """(N + 1,) int64: the edges of sample i are those from start[i] to start[i + 1]."""

    neighbour: Int32Array
    """(E,) int32, ascending within a sample."""

    strength: Float32Array
    """(E,) float32, in (0, 1]."""

    def matrix(self) -> Any:
        """The graph as an (N, N) sparse matrix."""
        count = len(self.start) - 1
        return scipy.sparse.csr_matrix((self.strength, self.neighbour, self.start), (count, count))


def memberships(distance: Float32Array, local_connectivity: float, threads: Threads) -> Float32Array:
    """The strengths of neighbours.

    Args:
        distance: (N, k) float32, ascending; column 0 is the sample itself, or as good.
        local_connectivity: How many nearest neighbours have strength 1; between whole numbers rho is interpolated.
        threads: Threads to work in.

    Returns:
        (N, k) float32; column 0 is 0.
    """
    strength = np.empty(distance.shape, np.float32)
    mean = float(distance.mean(dtype=np.float64))

    def measure(piece: Piece) -> None:
        part = slice(*piece)
        _memberships(distance[part], local_connectivity, mean, strength[part])

    threads.run(measure, pieces(len(distance), _ROWS))
    return strength


def fuzzy_union(index: Int32Array, strength: Float32Array, mix: float) -> FuzzyGraph:
    """Joins both directions: mix (a + b - a b) + (1 - mix) a b.

    Args:
        index: (N, k) int32, the neighbours.
        strength: (N, k) float32, those of strength 0 are left out.
        mix: 1 for the union of both directions, 0 for what they share.
    """
    count, k = index.shape
    start = np.arange(0, count * k + 1, k)
    # A copy, because what has no strength is then left out in place.
    one_way = scipy.sparse.csr_matrix((strength.ravel(), index.ravel(), start), (count, count), copy=True)
    one_way.eliminate_zeros()
    other_way = one_way.T.tocsr()
    shared = one_way.multiply(other_way)
    joined = mix * (one_way + other_way - shared) + (1 - mix) * shared
    joined = joined.tocsr()
    joined.eliminate_zeros()
    joined.sort_indices()
    return FuzzyGraph(joined.indptr.astype(np.int64), joined.indices.astype(np.int32), joined.data.astype(np.float32))


def curve_of(min_dist: float, spread: float) -> tuple[float, float]:
    """The a and b of the curve 1 / (1 + a d^2b) that comes closest to the strength wanted at distance d in the plane.

    That is 1 up to min_dist and exp(-(d - min_dist) / spread) beyond; by least squares at 300 distances up to
    3 `spread`, as umap-learn does it.
    """
    distance = np.linspace(0, 3 * spread, 300)
    wanted = np.where(distance < min_dist, 1.0, np.exp(-(distance - min_dist) / spread))

    def curve(x: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
        return 1.0 / (1.0 + a * x ** (2 * b))

    (a, b), _ = scipy.optimize.curve_fit(curve, distance, wanted)
    return float(a), float(b)


@numba.njit(nogil=True, cache=True)
def _memberships(distance: Any, local_connectivity: float, mean: float, strength: Any) -> None:
    """As `memberships`, for some samples.

    Sigma is found by bisection; it is at least a thousandth of the mean distance of the sample's neighbours, or of all
    samples' where the sample's are all 0.
    """
    k = distance.shape[1]
    wanted = np.log2(k)
    for row in range(len(distance)):
        line = distance[row]
        rho = _nearest_distance(line, local_connectivity)
        low, high, sigma = 0.0, np.inf, 1.0
        for _ in range(64):
            total = 0.0
            for place in range(1, k):
                beyond = line[place] - rho
                total += np.exp(-beyond / sigma) if beyond > 0 else 1.0
            if abs(total - wanted) < 1e-5:
                break
            if total > wanted:
                high = sigma
                sigma = (low + high) / 2
            else:
                low = sigma
                sigma = sigma * 2 if np.isinf(high) else (low + high) / 2
        own_mean = 0.0
        for place in range(k):
            own_mean += line[place]
        own_mean /= k
        sigma = max(sigma, 1e-3 * (own_mean if rho > 0 else mean))
        strength[row, 0] = 0
        for place in range(1, k):
            beyond = line[place] - rho
            strength[row, place] = np.exp(-beyond / sigma) if beyond > 0 and sigma > 0 else 1.0


@numba.njit(nogil=True, cache=True)
def _nearest_distance(line: Any, local_connectivity: float) -> float:
    """Rho: the distance of the neighbour of rank `local_connectivity`, of those that are not at distance 0."""
    first = 0
    while first < len(line) and line[first] <= 0:
        first += 1
    positive = len(line) - first
    if positive == 0:
        return 0.0
    if positive < local_connectivity:
        return np.float64(line[len(line) - 1])
    whole = int(np.floor(local_connectivity))
    rest = local_connectivity - whole
    if whole == 0:
        return rest * np.float64(line[first])
    rho = np.float64(line[first + whole - 1])
    if rest > 1e-5 and first + whole < len(line):
        rho += rest * (np.float64(line[first + whole]) - rho)
    return rho
