"""Samples of other images in an atlas, and where they lie more or less densely than the atlas's own: drift.

Positions are those that `Frame.place` gives. They must not be counted: they are means over landmarks, which draws
everything placed together, so that even images of the very same kind would seem to have drifted. Here a sample is
counted in the cell of its nearest landmark instead, and the atlas's own density is measured in the same way: each
landmark is counted in the cell of the landmark nearest to it, those of its own image left out. A new sample that equals
a landmark is treated as that landmark. So samples of the same kind are counted alike, and the atlas's own samples have
the ratio 1.

What is compared are counts of distinct samples. Those of one image are not independent, and where several are counted
together they tell little more than one: counts are then divided by their design effect (Kish 1965; Korn and Graubard
1998 for the intervals), the mean over samples of how many of the same image are counted with them.

Distances are those of the frame, along axes that were chosen for the landmarks, which are therefore a little farther
from each other than new samples are from them: with fewer landmarks than units, fewer than 1 % of new samples of the
same kind are off the map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.grid import cell_ids
from ortoscope_service.analysis.atlas.neighbours import nearest_among
from ortoscope_service.analysis.atlas.parallel import Progress, Threads, pieces, silent, single_threaded_products
from ortoscope_service.analysis.atlas.placement import OFF_MAP_PERCENTILE, Frame
from ortoscope_service.analysis.atlas.space import Float32Array
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation

CONFIDENCE = 0.95
"""Of all intervals."""

FALSE_DISCOVERIES = 0.05
"""Largest expected share of cells without drift among those that are said to have changed."""

MOST_REFERENCES = 50_000
"""Landmarks that the atlas's density is measured with, at most; drawn at random."""

_MOST_OF_AN_IMAGE = 64
"""Nearest landmarks among which one of another image is looked for, at most."""

_ROWS = 8192
"""Samples that are worked on at a time."""

_RNG = 0x64726966
"""Tells this module's random draws from those of others with the same seed."""


@dataclass(frozen=True)
class Rate:
    """A share of samples, with its interval."""

    rate: float
    """In [0, 1]."""

    low: float
    """Lower end of the 95 % interval."""

    high: float
    """Upper end."""


@dataclass(frozen=True, eq=False)
class DensityRatios:
    """How the densities of two sets of samples differ in each of M cells."""

    ratio: NDArray[np.float64]
    """(M,) float64: the share of the first set that is in the cell over that of the second; infinite where the second
    has none, not a number where neither has any."""

    low: NDArray[np.float64]
    """(M,) float64, lower end of the 95 % interval; 0 where the first set has none."""

    high: NDArray[np.float64]
    """(M,) float64, upper end; infinite where the second has none."""

    p: NDArray[np.float64]
    """(M,) float64, two-sided: below 0.05 exactly where the interval excludes 1."""

    changed: NDArray[np.bool_]
    """(M,) bool: still so after correction for the number of cells (Benjamini and Hochberg 1995)."""


@dataclass(frozen=True, eq=False)
class LevelDrift:
    """How the cells of a level differ, M of them."""

    grid: int
    """Cells along each side."""

    count: NDArray[np.int64]
    """(M,) int64, new samples in each cell."""

    reference: NDArray[np.int64]
    """(M,) int64, the atlas's own, of `Projection.references`."""

    density: DensityRatios
    """The new samples' density over that of the atlas."""


@dataclass(frozen=True, eq=False)
class Projection:
    """New samples in an atlas, n of them."""

    position: Float32Array
    """(n, 2) float32, in [0, 1]."""

    distance: Float32Array
    """(n,) float32, to the nearest landmark."""

    off_map: NDArray[np.bool_]
    """(n,) bool: farther from it than all but 1 % of the landmarks are from the nearest one of another image."""

    off_map_rate: Rate
    """The share of them, about 0.01 without drift."""

    references: int
    """Landmarks that the atlas's density was measured with."""

    levels: Sequence[LevelDrift]
    """In the order asked for."""

    @property
    def changed_cells(self) -> int:
        """Cells that changed, of all levels; each level is corrected for its own number of cells."""
        return sum(int(level.density.changed.sum()) for level in self.levels)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What is published.

        `position`, `off_map`, `distance`, `references` () int64; for each level `cells_{grid}_` and `count`,
        `reference` (M,) int64, `ratio`, `low`, `high`, `p` (M,) float64, `changed` (M,) bool.
        """
        arrays: dict[str, NDArray[Any]] = {
            "position": self.position,
            "off_map": self.off_map,
            "distance": self.distance,
            "references": np.asarray(self.references, np.int64),
        }
        for level in self.levels:
            named = {
                "count": level.count,
                "reference": level.reference,
                "ratio": level.density.ratio,
                "low": level.density.low,
                "high": level.density.high,
                "p": level.density.p,
                "changed": level.density.changed,
            }
            arrays |= {f"cells_{level.grid}_{name}": array for name, array in named.items()}
        return arrays


@dataclass(frozen=True, eq=False)
class LevelCells:
    """Which cells a level has, M of them."""

    grid: int
    """Cells along each side."""

    row: NDArray[np.int32]
    """(M,) int32, from the top."""

    column: NDArray[np.int32]
    """(M,) int32, from the left."""


def project(
    activations: NDArray[Any],
    image: NDArray[np.int64],
    frame: Frame,
    landmark_image: NDArray[np.int64],
    levels: Sequence[LevelCells],
    seed: int,
    *,
    threads: int = 1,
    progress: Progress = silent,
    cancellation: Cancellation | None = None,
) -> Projection:
    """Places samples in an atlas and compares densities.

    Memory beyond the result is that of the landmarks in float32, twice, and of 8,192 samples.

    Args:
        activations: (n, C) float16 or float32, at least one row; distinct and without zero vectors.
        image: (n,) int64, the image of each.
        frame: Of the atlas.
        landmark_image: (L,) int64, the image of each of its landmarks, whatever the numbers.
        levels: Its levels.
        seed: Decides which landmarks stand for the atlas if there are more than 50,000.
        threads: Threads to work in; how many does not change the result.
        progress: Told the stage and the samples done.
        cancellation: Heeded between blocks of samples.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION: `NO_SAMPLES`, `ACTIVATIONS_NOT_FINITE`; INVALID_ARGUMENT, `SHAPE_MISMATCH`;
            CANCELLED.
    """
    if not len(activations):
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "NO_SAMPLES",
            "No sample of the images has a direction: all are zero. Choose other images, or an atlas of another tap.",
        )
    placed = frame.place(activations, threads=threads, progress=progress, cancellation=cancellation)
    with single_threaded_products(), Threads(threads, cancellation) as pool:
        search = _Search.of(frame, landmark_image, pool)
        new = search.of_samples(activations, progress)
        chosen = _references(len(frame.landmarks), seed)
        own, apart = search.of_landmarks(chosen)
    drifts = []
    for level in levels:
        cell = _cell_of_landmarks(frame, level)
        first, second = _Counts.of(cell[new], image, level), _Counts.of(cell[own], landmark_image[chosen], level)
        density = density_ratios(first.count, len(new), second.count, len(own), _design_effect(first, second))
        drifts.append(LevelDrift(level.grid, first.count, second.count, density))
    off_map = placed.distance > np.percentile(apart, OFF_MAP_PERCENTILE)
    per_image = np.bincount(np.unique(image, return_inverse=True)[1], off_map).astype(np.int64)
    hits = int(off_map.sum())
    rate = wilson(hits, len(off_map), float(np.square(per_image).sum() / hits) if hits else 1.0)
    return Projection(placed.position, placed.distance, off_map, rate, len(own), drifts)


def wilson(hits: int, trials: int, design_effect: float = 1.0) -> Rate:
    """A share and its 95 % score interval (Wilson 1927).

    Args:
        hits: How many.
        trials: Of how many, at least 1.
        design_effect: What both are divided by for the interval, at least 1.
    """
    z = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
    share, size = hits / trials, trials / design_effect
    centre = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * np.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    low = 0.0 if hits == 0 else max(0.0, float(centre - half))
    high = 1.0 if hits == trials else min(1.0, float(centre + half))
    return Rate(share, low, high)


def density_ratios(
    count: NDArray[np.int64],
    total: int,
    reference: NDArray[np.int64],
    reference_total: int,
    design_effect: NDArray[np.float64] | None = None,
) -> DensityRatios:
    """Compares the counts of two sets of samples in M cells.

    Given both counts' sum, the first is binomial with the chance q = N1 r / (N1 r + N0) if samples fall into the cell
    as events of a Poisson process do; the exact interval of Clopper and Pearson (1934) for q is turned into one for the
    ratio of densities r (Przyborowski and Wilenski 1940). It holds r in at least 95 % of cases, whatever the counts;
    more often where counts are small, or where a cell has much of all samples. The test is the one that belongs to it:
    twice the smaller tail.

    Args:
        count: (M,) int64, of the first set.
        total: Samples of the first set, N1, at least 1.
        reference: (M,) int64, of the second set.
        reference_total: Samples of the second set, N0, at least 1.
        design_effect: (M,) float64, what counts are divided by for interval and test, at least 1; None for 1.
    """
    share = 1.0 if design_effect is None else 1 / design_effect
    first, second = count * share, reference * share
    has_first, has_second = count > 0, reference > 0
    # Where a count is 0 the beta distributions do not exist, and the ends and tails are known.
    some_first, some_second = np.where(has_first, first, 1.0), np.where(has_second, second, 1.0)
    alpha = 1 - CONFIDENCE
    low = np.where(has_first, scipy.special.betaincinv(some_first, second + 1, alpha / 2), 0.0)
    high = np.where(has_second, scipy.special.betaincinv(first + 1, some_second, 1 - alpha / 2), 1.0)
    scale = reference_total / total
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = count / reference * scale
        ends = [scale * end / (1 - end) for end in (low, high)]
    even = total / (total + reference_total)
    at_most = np.where(has_second, scipy.special.betainc(some_second, first + 1, 1 - even), 1.0)
    at_least = np.where(has_first, scipy.special.betainc(some_first, second + 1, even), 1.0)
    p = np.minimum(1.0, 2 * np.minimum(at_most, at_least))
    changed = scipy.stats.false_discovery_control(p) <= FALSE_DISCOVERIES if len(p) else np.zeros(0, np.bool_)
    return DensityRatios(ratio, ends[0], ends[1], p, changed)


def _references(landmarks: int, seed: int) -> NDArray[np.int64]:
    """The landmarks that stand for the atlas, ascending."""
    if landmarks <= MOST_REFERENCES:
        return np.arange(landmarks)
    return np.sort(np.random.default_rng([seed % 2**64, _RNG]).choice(landmarks, MOST_REFERENCES, replace=False))


@dataclass(frozen=True, eq=False)
class _Search:
    """Looks for the nearest landmark of another image."""

    frame: Frame
    """Of the atlas."""

    landmarks: Float32Array
    """(L, D) float32, its landmarks."""

    image: NDArray[np.int64]
    """(L,) int64, of each."""

    nearest: int
    """Landmarks that are looked at: more than an image has, where that is not too many."""

    threads: Threads
    """Threads to work in."""

    @classmethod
    def of(cls, frame: Frame, image: NDArray[np.int64], threads: Threads) -> "_Search":
        """The search in a frame."""
        most = int(np.unique(image, return_counts=True)[1].max())
        nearest = min(most + 1, _MOST_OF_AN_IMAGE, len(image))
        return cls(frame, frame.landmarks.astype(np.float32), image, nearest, threads)

    def of_samples(self, activations: NDArray[Any], progress: Progress) -> NDArray[np.int64]:
        """(n,) int64, the landmark nearest to each sample; for one that equals a landmark, as for that."""
        space, found = self.frame.space, np.empty(len(activations), np.int64)
        for begin, end in pieces(len(activations), _ROWS):
            coordinates = space.coordinates(space.vectors(activations[begin:end]))
            found[begin:end], _ = self._next(coordinates.astype(np.float16).astype(np.float32))
            progress("counting", end, len(activations))
        return found

    def of_landmarks(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], Float32Array]:
        """For r landmarks the nearest of another image, (r,) int64, and its distance, (r,) float32."""
        parts = [self._next(self.landmarks[chosen[begin:end]]) for begin, end in pieces(len(chosen), _ROWS)]
        index, squared = (np.concatenate([part[which] for part in parts]) for which in (0, 1))
        return index, self.frame.space.distances(squared)

    def _next(self, queries: Float32Array) -> tuple[NDArray[np.int64], Float32Array]:
        index, squared = nearest_among(queries, self.landmarks, self.nearest, self.threads)
        itself = np.where(squared[:, 0] == 0, self.image[index[:, 0]], -1)
        others = (self.image[index] != itself[:, None]) | (itself < 0)[:, None]
        # If all that were looked at are of the same image, the last of them is the farthest.
        place = np.where(others.any(axis=1), others.argmax(axis=1), self.nearest - 1)
        rows = np.arange(len(queries))
        return index[rows, place].astype(np.int64), squared[rows, place]


@dataclass(frozen=True, eq=False)
class _Counts:
    """Samples in each of M cells."""

    count: NDArray[np.int64]
    """(M,) int64, samples."""

    squares: NDArray[np.int64]
    """(M,) int64, the sum over images of the square of how many of its samples are in the cell."""

    @classmethod
    def of(cls, cell: NDArray[np.int64], image: NDArray[np.int64], level: LevelCells) -> "_Counts":
        """Counts samples, each in a cell, or none if that is -1."""
        inside = cell >= 0
        pairs, together = np.unique(np.stack([cell[inside], image[inside]]), axis=1, return_counts=True)
        count, squares = np.zeros((2, len(level.row)), np.int64)
        np.add.at(count, pairs[0], together)
        np.add.at(squares, pairs[0], together**2)
        return cls(count, squares)


def _design_effect(first: _Counts, second: _Counts) -> NDArray[np.float64]:
    """(M,) float64: the mean, over the samples of both sets, of how many of the same image are counted with them."""
    both = first.count + second.count
    effect: NDArray[np.float64] = np.where(both > 0, (first.squares + second.squares) / np.maximum(both, 1), 1.0)
    return effect


def _cell_of_landmarks(frame: Frame, level: LevelCells) -> NDArray[np.int64]:
    """(L,) int64, the place among a level's cells of the one that each landmark is in; -1 if it has too few samples."""
    place = np.full(level.grid**2, -1, np.int64)
    place[level.row.astype(np.int64) * level.grid + level.column] = np.arange(len(level.row))
    return place[cell_ids(frame.position, level.grid)]
