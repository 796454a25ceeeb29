"""A layout's plane cut into cells: which cell a sample is in, and what the samples of each cell have in common.

Carter et al. 2019, "Activation Atlas": a cell stands for the mean of its samples' activations. Bins are half open, so
that a sample on a border counts once; every sum is in float64 and in an order that depends on the samples alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.cells import NEAREST, Cells
from ortoscope_service.analysis.atlas.class_labels import largest_classes
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.runtime.cancellation import Cancellation

SMALLEST_GRID, LARGEST_GRID = 2, 320
"""Cells along each side, at least and at most."""

SMALLEST_CROP, LARGEST_CROP = 16, 256
"""Pixels along each side of a crop, at least and at most."""

MOST_CROPS = 100_000
"""Crops of a level at most: 100 MB of WebP at 48 pixels a side."""

_NUMBERS_AT_ONCE = 2**22
"""Numbers of a block, 32 MB in float64."""


@dataclass(frozen=True)
class GridSettings:
    """How cells are made and shown.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, `INVALID_SETTING`.
    """

    min_density: int = 1
    """Fewest samples of a cell, each duplicate counted; what has fewer is left empty."""

    crop_size: int = 48
    """Pixels along each side of a crop. Multiples of 16 keep WebP's blocks from lying across two crops."""

    most_crops: int = 20_000
    """Most crops of a level: first one of every cell, then a second, up to four."""

    quality: int = 80
    """Quality of WebP sheets, of icons and crops, 1 to 100."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("min_density", 1, 2**31 - 1),
            ("crop_size", SMALLEST_CROP, LARGEST_CROP),
            ("most_crops", 0, MOST_CROPS),
            ("quality", 1, 100),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise invalid(
                    "INVALID_SETTING",
                    f"The setting 'grid.{name}' is {value}; it takes {least} to {most:,}.",
                    field=f"settings.grid.{name}",
                    setting=f"grid.{name}",
                    value=value,
                )


def sample_weights(distinct: NDArray[np.int64], duplicate_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each sample that is laid out occurs.

    Args:
        distinct: (n,) int64, those that are laid out, of N.
        duplicate_of: (N,) int64, the first sample with the same activation; -1 if it is that itself.

    Returns:
        (n,) int64: 1 and one more for each sample that equals it.
    """
    weight = np.ones(len(duplicate_of), np.int64)
    np.add.at(weight, duplicate_of[duplicate_of >= 0], 1)
    return weight[distinct]


def cell_ids(position: NDArray[Any], grid: int) -> NDArray[np.int32]:
    """The cell that each position is in: row * grid + column.

    Column k holds k / grid <= x < (k + 1) / grid, the last one also x = 1; rows likewise. The edges are the float64
    closest to these fractions, so that a level of twice the cells halves each cell exactly.

    Args:
        position: (n, 2), x to the right and y down, in [0, 1].
        grid: Cells along each side.

    Returns:
        (n,) int32.

    Raises:
        ValueError: A position lies outside or is not a number.
    """
    exact = np.asarray(position, np.float64).reshape(-1, 2)
    if not ((exact >= 0) & (exact <= 1)).all():
        raise ValueError("positions of a layout lie in [0, 1]")
    bins = np.searchsorted(np.arange(1, grid) / grid, exact, side="right")
    return (bins[:, 1] * grid + bins[:, 0]).astype(np.int32)


def cells_of(
    activations: NDArray[Any],
    image: NDArray[np.int64],
    position: NDArray[np.float32],
    grid: int,
    settings: GridSettings,
    *,
    weight: NDArray[np.int64] | None = None,
    attribution: NDArray[Any] | None = None,
    parent: Cells | None = None,
    cancellation: Cancellation | None = None,
) -> Cells:
    """The cells of a level and what their samples have in common.

    Memory is that of the result, some numbers per sample, and 200 MB for blocks: activations and attributions are read
    in blocks, twice each, and may be mapped from a file.

    Args:
        activations: (N, C) float16 or float32, one row for each sample that is laid out.
        image: (N,) int64, the image of each sample.
        position: (N, 2) float32, in [0, 1].
        grid: Cells along each side.
        settings: How cells are made.
        weight: (N,) int64, how often each sample occurs, with its duplicates (`sample_weights`); once each if None. The
            attributions that count are then those of the first of them, though those of equal activations may differ.
        attribution: (N, K), of every class; None if there is none.
        parent: The level before.
        cancellation: Stops the work.

    Raises:
        OrtoscopeError: FAILED_PRECONDITION, `NO_CELLS`: none has enough samples; CANCELLED.
    """
    cancellation = cancellation or Cancellation()
    groups = _Groups.of(cell_ids(position, grid), weight, settings.min_density)
    if not len(groups.cell):
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "NO_CELLS",
            f"No cell of the {grid} x {grid} grid has the {settings.min_density} samples that it takes "
            "(grid.min_density). Lower it, take a coarser grid, or more images.",
            field="spec.grids",
            metadata={"grid": str(grid), "min_density": str(settings.min_density)},
        )
    mean = groups.means(activations, cancellation)
    winners = None if attribution is None else groups.winners(attribution)
    cosine = groups.cosines(activations, mean, cancellation)
    row, column = (part.astype(np.int32) for part in np.divmod(groups.cell, grid))
    return Cells(
        grid=grid,
        row=row,
        column=column,
        count=groups.count,
        mean=mean,
        dispersion=(1 - groups.sums(cosine * groups.weight) / groups.count).astype(np.float32),
        nearest=groups.nearest(cosine, image),
        crop=np.full((len(row), NEAREST), -1, np.int32),
        parent=_parents(row, column, grid, parent),
        attribution=None if attribution is None else groups.means(attribution, cancellation),
        winner_cell=None if winners is None else winners[0],
        winner_class=None if winners is None else winners[1],
        winner_count=None if winners is None else winners[2],
    )


@dataclass(frozen=True, eq=False)
class _Groups:
    """Samples put in order of their cells: S of them in M cells."""

    cell: NDArray[np.int64]
    """(M,), ascending: row * grid + column."""

    sample: NDArray[np.int64]
    """(S,), samples, by cell and within a cell ascending."""

    start: NDArray[np.int64]
    """(M + 1,), where the samples of each cell begin in `sample`; last where they end."""

    member: NDArray[np.int64]
    """(S,), the place in `cell` of each of `sample`."""

    weight: NDArray[np.int64]
    """(S,), how often each of `sample` occurs."""

    count: NDArray[np.int64]
    """(M,), the sum of weights."""

    @classmethod
    def of(cls, ids: NDArray[np.int32], weight: NDArray[np.int64] | None, least: int) -> "_Groups":
        """Of the cells whose samples weigh at least `least`."""
        weights = np.ones(len(ids), np.int64) if weight is None else np.asarray(weight, np.int64)
        order = np.argsort(ids, kind="stable")
        cell, member = np.unique(ids[order], return_inverse=True)
        total = np.zeros(len(cell), np.int64)
        np.add.at(total, member, weights[order])
        kept = total >= least
        sample = order[kept[member]]
        renumbered = (np.cumsum(kept) - 1)[member[kept[member]]]
        start = np.searchsorted(renumbered, np.arange(kept.sum() + 1))
        return cls(cell[kept].astype(np.int64), sample, start, renumbered, weights[sample], total[kept])

    def means(self, rows: NDArray[Any], cancellation: Cancellation) -> NDArray[np.float32]:
        """(M, C) float32, the weighted mean of the rows of each cell's samples."""
        means = np.empty((len(self.cell), rows.shape[1]), np.float32)
        most = max(1, _NUMBERS_AT_ONCE // rows.shape[1])
        for first, last in self._whole_cells(most):
            sums = np.zeros((last - first, rows.shape[1]))
            for begin, end in _parts(int(self.start[first]), int(self.start[last]), most):
                cancellation.raise_if_cancelled()
                block = rows[self.sample[begin:end]].astype(np.float64)
                block *= self.weight[begin:end, np.newaxis]
                there, at = np.unique(self.member[begin:end], return_index=True)
                sums[there - first] += np.add.reduceat(block, at, axis=0)
            means[first:last] = sums / self.count[first:last, np.newaxis]
        return means

    def cosines(self, rows: NDArray[Any], mean: NDArray[np.float32], cancellation: Cancellation) -> NDArray[np.float64]:
        """(S,) float64, the cosine of each sample with its cell's mean; 0 where either is zero."""
        cosine = np.zeros(len(self.sample))
        lengths = np.sqrt(np.einsum("mc,mc->m", mean, mean, dtype=np.float64))
        for begin, end in _parts(0, len(self.sample), max(1, _NUMBERS_AT_ONCE // rows.shape[1])):
            cancellation.raise_if_cancelled()
            member = self.member[begin:end]
            block = rows[self.sample[begin:end]].astype(np.float64)
            length = np.sqrt(np.einsum("nc,nc->n", block, block)) * lengths[member]
            dot = np.einsum("nc,nc->n", block, mean[member].astype(np.float64))
            np.divide(dot, length, out=cosine[begin:end], where=length > 0)
        return cosine

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(M,) float64, the sum of the values of each cell's samples."""
        return np.add.reduceat(values, self.start[:-1])

    def nearest(self, cosine: NDArray[np.float64], image: NDArray[np.int64]) -> NDArray[np.int64]:
        """(M, 4) int64: by falling cosine, the lower sample first at a tie; other images first, then what is left."""
        order = np.lexsort((self.sample, -cosine, self.member))
        found = np.full((len(self.cell), NEAREST), -1, np.int64)
        for number, (begin, end) in enumerate(zip(self.start[:-1], self.start[1:], strict=True)):
            chosen = _distinct(self.sample[order[begin:end]], image)
            found[number, : len(chosen)] = chosen
        return found

    def winners(self, attribution: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """How often each class is the largest of a sample, by cell: `winner_cell`, `_class`, `_count` of `Cells`."""
        classes = attribution.shape[1]
        winner = largest_classes(attribution, 1)[self.sample, 0]
        pair, place = np.unique(self.member * classes + winner, return_inverse=True)
        count = np.zeros(len(pair), np.int64)
        np.add.at(count, place, self.weight)
        cell, winning = np.divmod(pair, classes)
        return cell.astype(np.int32), winning.astype(np.int32), count.astype(np.int32)

    def _whole_cells(self, most: int) -> Iterator[tuple[int, int]]:
        """Ranges of cells of at most so many samples together, or of a single cell of more."""
        first = 0
        while first < len(self.cell):
            last = int(np.searchsorted(self.start, self.start[first] + most, side="right")) - 1
            yield first, max(last, first + 1)
            first = max(last, first + 1)


def _parts(begin: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + most, end)) for start in range(begin, end, most))


def _distinct(samples: NDArray[np.int64], image: NDArray[np.int64]) -> list[int]:
    """Up to `NEAREST` of the samples, in their order: the first of each image; further ones if these are too few."""
    seen: set[int] = set()
    chosen: list[int] = []
    for place, of in enumerate(image[samples].tolist()):
        if of not in seen:
            seen.add(of)
            chosen.append(place)
            if len(chosen) == NEAREST:
                break
    others = (place for place in range(len(samples)) if place not in chosen)
    chosen += [place for place, _ in zip(others, range(NEAREST - len(chosen)), strict=False)]
    return [int(samples[place]) for place in sorted(chosen)]


def _parents(row: NDArray[np.int32], column: NDArray[np.int32], grid: int, parent: Cells | None) -> NDArray[np.int32]:
    """(M,) int32: the cell of the coarser level that holds each centre, else the closest; the lower index at a tie.

    Distances are of centres, as whole numbers in steps of 1 / (2 grid parent.grid), so that ties are ties.
    """
    found = np.full(len(row), -1, np.int32)
    if parent is None:
        return found
    place = np.full(parent.grid**2, -1, np.int32)
    place[parent.row * parent.grid + parent.column] = np.arange(len(parent), dtype=np.int32)
    centre = [(2 * axis.astype(np.int64) + 1) * parent.grid for axis in (row, column)]
    holder = [axis // (2 * grid) for axis in centre]
    found[:] = place[holder[0] * parent.grid + holder[1]]
    others = [(2 * axis.astype(np.int64) + 1) * grid for axis in (parent.row, parent.column)]
    for cell in np.flatnonzero(found < 0):
        distance = (others[0] - centre[0][cell]) ** 2 + (others[1] - centre[1][cell]) ** 2
        found[cell] = distance.argmin()
    return found
