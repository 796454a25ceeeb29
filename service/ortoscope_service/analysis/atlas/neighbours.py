"""The graph of nearest neighbours by principal coordinates, the same for any number of threads.

Up to `EXACT_UP_TO` samples every pair is compared, by products of matrices. Beyond it, a sample is compared with those
of the cells nearest to its own in a k-means partition (an inverted file, as Jegou et al. 2011 name it), and how many of
the neighbours are found so is measured by some samples that are compared with all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.parallel import Piece, Progress, Threads, pieces, silent
from ortoscope_service.analysis.atlas.space import Float32Array, Space

Int32Array = NDArray[np.int32]

EXACT_UP_TO = 30_000
"""Samples up to which every pair is compared; beyond, cells are faster."""

_QUERIES = 512
"""Samples that are compared at a time by one thread."""

_TILE = 1024
"""Samples that they are compared with at a time; what both give fits the second-level cache."""

_STRIP = 64
"""Samples that are passed over together where none of them is near enough."""

_SPARE = 8
"""Candidates beyond those that are asked for: products of matrices round, so the order at the end may be another."""

_MEASURED = 500
"""Samples that the recall is measured with."""

_CELL = 500
"""Mean samples of a cell."""

_PROBES = 32
"""Cells that a sample is compared with."""

_ROUNDS = 8
"""Rounds of k-means."""

_RNG = 0x6E626873
"""Tells this module's random draws from those of others with the same seed."""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest samples of each of N samples, itself first."""

    index: Int32Array
    """(N, k) int32, nearest first, equally near ones by index; column 0 is the sample itself."""

    distance: Float32Array
    """(N, k) float32, in the metric of the space (1 - cos for cosine)."""

    recall: float
    """Share of the nearest by coordinates that are there; 1 if every pair was compared, else measured."""


def nearest_neighbours(
    coordinates: Float32Array,
    space: Space,
    k: int,
    seed: int,
    threads: Threads,
    *,
    exact_up_to: int = EXACT_UP_TO,
    progress: Progress = silent,
) -> Neighbours:
    """The nearest neighbours of every sample among all of them, by principal coordinates.

    Args:
        coordinates: (N, D) float32, `Space.coordinates` of the samples.
        space: The space, for the distances.
        k: Neighbours of each, itself among them: 2 to N.
        seed: Decides which samples the recall is measured with, and the first centres of cells.
        threads: Threads to work in.
        exact_up_to: Samples up to which all pairs are compared.
        progress: Told the samples done.
    """
    count = len(coordinates)
    wanted = min(count, k + _SPARE)
    index = np.empty((count, k), np.int32)
    squared = np.empty((count, k), np.float32)

    def ranked(rows: NDArray[np.int64], candidates: Int32Array) -> int:
        index[rows, 0], squared[rows, 0] = rows, 0
        index[rows, 1:], squared[rows, 1:] = _others(coordinates, rows, candidates, k - 1)
        return len(rows)

    if count <= exact_up_to:
        prepared = _prepared(coordinates)

        def compare(piece: Piece) -> int:
            return ranked(np.arange(*piece), _nearest(coordinates[slice(*piece)], prepared, wanted))

        work = pieces(count, _QUERIES)
    else:
        cells = _Cells(coordinates, seed, threads)

        def compare(piece: Piece) -> int:
            return sum(ranked(*found) for found in _search_cell(cells, piece[0], coordinates, wanted))

        work = pieces(cells.count, 1)
    done = 0
    for compared in threads.map(compare, work):
        done += compared
        progress("nearest neighbours", done, count)
    recall = 1.0 if count <= exact_up_to else _recall(coordinates, index, k, seed, threads)
    return Neighbours(index, space.distances(squared), recall)


def nearest_among(
    queries: Float32Array, candidates: Float32Array, k: int, threads: Threads
) -> tuple[Int32Array, Float32Array]:
    """The nearest of some points for each of others, by comparing all pairs.

    Args:
        queries: (n, D) float32.
        candidates: (m, D) float32.
        k: How many, at most m.
        threads: Threads to work in.

    Returns:
        (n, k) int32 nearest first, equally near ones by index, and (n, k) float32 squared distances.
    """
    prepared = _prepared(candidates)
    index = np.empty((len(queries), k), np.int32)
    squared = np.empty((len(queries), k), np.float32)
    wanted = min(len(candidates), k + _SPARE)

    def compare(piece: Piece) -> None:
        part = slice(*piece)
        found = _nearest(queries[part], prepared, wanted)
        nobody = np.full(len(found), -1, np.int64)
        _rank(queries[part], candidates, found, nobody, index[part], squared[part])

    threads.run(compare, pieces(len(queries), _QUERIES))
    return index, squared


class _Cells:
    """A partition of the samples by their nearest of some centres, and for each cell those to compare with.

    Args:
        coordinates: (N, D) float32.
        seed: Decides the first centres.
        threads: Threads to work in.
    """

    def __init__(self, coordinates: Float32Array, seed: int, threads: Threads) -> None:
        rng = np.random.default_rng([seed, _RNG, 1])
        self.count = max(2, len(coordinates) // _CELL)
        drawn = np.sort(rng.choice(len(coordinates), min(len(coordinates), 50 * self.count), replace=False))
        points = coordinates[drawn]
        centres = points[np.sort(rng.choice(len(points), self.count, replace=False))]
        for _ in range(_ROUNDS):
            owner = nearest_among(points, centres, 1, threads)[0][:, 0]
            centres = _means(points, owner, centres)
        owner = nearest_among(coordinates, centres, 1, threads)[0][:, 0]
        self._order = np.argsort(owner, kind="stable")
        self._start = np.searchsorted(owner[self._order], np.arange(self.count + 1))
        self._near = nearest_among(centres, centres, min(self.count, _PROBES), threads)[0]

    def members(self, cell: int) -> NDArray[np.int64]:
        """The samples of a cell, ascending."""
        return self._order[self._start[cell] : self._start[cell + 1]]

    def around(self, cell: int, least: int) -> NDArray[np.int64]:
        """The samples of the cells nearest to it, ascending; of all cells if those have fewer than `least`."""
        found = np.sort(np.concatenate([self.members(int(near)) for near in self._near[cell]]))
        return found if len(found) >= least else np.sort(self._order)


def _search_cell(
    cells: _Cells, number: int, coordinates: Float32Array, wanted: int
) -> Iterator[tuple[NDArray[np.int64], Int32Array]]:
    """The samples of a cell, some at a time, with the candidates for their neighbours, (n, wanted) int32."""
    rows = cells.members(number)
    if len(rows) == 0:
        return
    around = cells.around(number, wanted)
    prepared = _prepared(coordinates[around])
    for begin, end in pieces(len(rows), _QUERIES):
        part = rows[begin:end]
        yield part, around[_nearest(coordinates[part], prepared, wanted)].astype(np.int32)


def _means(points: Float32Array, owner: Int32Array, before: Float32Array) -> Float32Array:
    """The mean of the points of each centre, added in their order; the centre itself where it has none."""
    total = np.zeros(before.shape, np.float64)
    count = np.bincount(owner, minlength=len(before))
    _add_rows(points, owner, total)
    means = (total / np.maximum(count, 1)[:, None]).astype(np.float32)
    return np.where(count[:, None] > 0, means, before)


def _prepared(points: Float32Array) -> Float32Array:
    """-2 x over |x|², so that one product with (q, 1) gives |q - x|² - |q|²: (D + 1, m) float32.

    Columns of infinite length fill it up to a multiple of `_STRIP`.
    """
    count, width = points.shape
    prepared = np.zeros((width + 1, -(-count // _STRIP) * _STRIP), np.float32)
    prepared[:-1, :count] = -2 * points.T
    prepared[-1, :count] = np.einsum("nd,nd->n", points, points)
    prepared[-1, count:] = np.inf
    return prepared


def _nearest(queries: Float32Array, prepared: Float32Array, k: int) -> Int32Array:
    """The k nearest by rounded squared distances, in no order: (n, k) int32."""
    extended = np.ones((len(queries), queries.shape[1] + 1), np.float32)
    extended[:, :-1] = queries
    index = np.zeros((len(queries), k), np.int32)
    value = np.full((len(queries), k), np.inf, np.float32)
    for begin, end in pieces(prepared.shape[1], _TILE):
        _select(extended @ prepared[:, begin:end], begin, index, value)
    return index


def _recall(coordinates: Float32Array, index: Int32Array, k: int, seed: int, threads: Threads) -> float:
    """Share of the nearest by comparing all pairs, other than the sample itself, that are in the graph."""
    rng = np.random.default_rng([seed, _RNG, 2])
    rows = np.sort(rng.choice(len(coordinates), min(len(coordinates), _MEASURED), replace=False))
    prepared = _prepared(coordinates)

    def hits(piece: Piece) -> int:
        part = rows[slice(*piece)]
        found = _nearest(coordinates[part], prepared, min(len(coordinates), k + _SPARE))
        true, _ = _others(coordinates, part, found, k - 1)
        return int((index[part][:, 1:, None] == true[:, None, :]).sum())

    return sum(threads.map(hits, pieces(len(rows), 64))) / (len(rows) * (k - 1))


def _others(
    points: Float32Array, rows: NDArray[np.int64], candidates: Int32Array, k: int
) -> tuple[Int32Array, Float32Array]:
    """The k nearest of each sample's candidates but itself: (n, k) int32 and (n, k) float32 squared distances."""
    index = np.empty((len(rows), k), np.int32)
    squared = np.empty((len(rows), k), np.float32)
    if k > 0:
        _rank(points[rows], points, candidates, rows, index, squared)
    return index, squared


@numba.njit(nogil=True, cache=True)
def _select(scores: Any, start: int, index: Any, value: Any) -> None:
    """Puts those of a tile among the smallest so far.

    Args:
        scores: (n, tile) float32, the tile a multiple of `_STRIP`.
        start: Index of the tile's first column.
        index: (n, k) int32, is updated.
        value: (n, k) float32, each row a heap whose first is its largest, is updated; infinity where there is none.
    """
    columns = scores.shape[1]
    for query in range(len(scores)):
        row = scores[query]
        kept = value[query]
        kept_index = index[query]
        worst = kept[0]
        for begin in range(0, columns, _STRIP):
            strip = row[begin : begin + _STRIP]
            # A count over a fixed number of columns is what the compiler makes vector instructions of.
            smaller = np.int32(0)
            for column in range(_STRIP):
                smaller += np.int32(strip[column] < worst)
            if smaller == 0:
                continue
            for column in range(_STRIP):
                if strip[column] < worst:
                    _replace_largest(strip[column], start + begin + column, kept, kept_index)
                    worst = kept[0]


@numba.njit(nogil=True, cache=True)
def _replace_largest(score: Any, item: int, kept: Any, kept_index: Any) -> None:
    """Puts a score in the place of the largest of a heap, (k,) float32 with (k,) int32 items, the largest first."""
    k = len(kept)
    place = 0
    while True:
        child = 2 * place + 1
        if child >= k:
            break
        if child + 1 < k and kept[child + 1] > kept[child]:
            child += 1
        if kept[child] <= score:
            break
        kept[place] = kept[child]
        kept_index[place] = kept_index[child]
        place = child
    kept[place] = score
    kept_index[place] = item


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _squared_distance(left: Any, right: Any) -> Any:
    """The squared distance of two vectors, float32."""
    total = np.float32(0)
    for unit in range(len(left)):
        difference = left[unit] - right[unit]
        total += difference * difference
    return total


@numba.njit(nogil=True, cache=True)
def _insert(distance: Any, candidate: int, filled: int, index: Any, squared: Any) -> int:
    """Puts a candidate in a list sorted by distance and index; returns how many it holds then."""
    k = len(index)
    place = filled
    if filled == k:
        last = squared[k - 1]
        if distance > last or (distance == last and candidate > index[k - 1]):
            return k
        place = k - 1
    while place > 0:
        before = squared[place - 1]
        if before < distance or (before == distance and index[place - 1] < candidate):
            break
        squared[place] = before
        index[place] = index[place - 1]
        place -= 1
    squared[place] = distance
    index[place] = candidate
    return min(k, filled + 1)


@numba.njit(nogil=True, cache=True)
def _rank(queries: Any, points: Any, candidates: Any, own: Any, index: Any, squared: Any) -> None:
    """Ranks candidates by their true distance.

    Args:
        queries: (n, D) float32.
        points: (m, D) float32.
        candidates: (n, c) int32, no one twice.
        own: (n,) int64, a candidate of each query to leave out: itself; -1 for none.
        index: (n, k) int32, receives the nearest; at least k candidates must remain.
        squared: (n, k) float32, receives their squared distances.
    """
    for query in range(len(queries)):
        filled = 0
        for candidate in candidates[query]:
            if candidate != own[query]:
                distance = _squared_distance(queries[query], points[candidate])
                filled = _insert(distance, candidate, filled, index[query], squared[query])


@numba.njit(nogil=True, cache=True)
def _add_rows(points: Any, owner: Any, total: Any) -> None:
    """Adds each point, (n, D), to the row of (m, D) float64 that owns it."""
    for row in range(len(points)):
        for column in range(points.shape[1]):
            total[owner[row], column] += points[row, column]
