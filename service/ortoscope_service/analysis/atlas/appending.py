"""Samples added to an atlas in its frame: where they come, and which icons still stand for their cells."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.icon_space import IconSpace
from ortoscope_service.analysis.atlas.icons import IconSettings, shared_icons

SAME_DIRECTION = 1 - 1e-6
"""Cosine of two means that differ by rounding alone."""


@dataclass(frozen=True, eq=False)
class IconPlan:
    """Where the icons of M cells come from, of which some were there before."""

    before: NDArray[np.int64]
    """(M,) int64: the cell of the level before samples were added whose icon is kept; -1 for one that is drawn."""

    shared: NDArray[np.int32]
    """(M,) int32: the cell whose icon it shares; itself otherwise."""

    @property
    def drawn(self) -> NDArray[np.int64]:
        """(m,) int64, ascending: the cells whose icons are drawn."""
        return np.flatnonzero((self.before < 0) & (self.shared == np.arange(len(self.shared))))


def plan_icons(cells: Cells, before: Cells | None, space: IconSpace, settings: IconSettings) -> IconPlan:
    """Decides which icons are kept.

    The icon of a cell is kept if the cell's mean is still along the mean that the icon was drawn for: their cosine is
    above that above which two cells share an icon, or, where none do, the two differ by rounding alone. So an icon is
    never farther from the direction of its cell than in the atlas before.

    Args:
        cells: The level with the samples added.
        before: The level as it was, of the same grid; None if it had no icons.
        space: In which cosines are taken.
        settings: `share_above`.
    """
    kept = np.full(len(cells), -1, np.int64)
    if before is not None and before.shared is not None:
        place = np.full(cells.grid**2, -1, np.int64)
        place[before.row.astype(np.int64) * cells.grid + before.column] = np.arange(len(before))
        there = place[cells.row.astype(np.int64) * cells.grid + cells.column]
        known = np.flatnonzero(there >= 0)
        owner = before.shared[there[known]].astype(np.int64)
        cosine = space.cosines(cells.mean[known], before.mean[owner])
        still = cosine > min(settings.share_above, SAME_DIRECTION)
        kept[known[still]] = owner[still]
    shared = np.arange(len(cells), dtype=np.int32)
    rest = np.flatnonzero(kept < 0)
    if len(rest):
        shared[rest] = rest[shared_icons(cells.mean[rest], _Some.of(cells, rest), space=space, settings=settings)]
    # Cells that show the same icon as before share it with the first of them.
    _, first, group = np.unique(kept, return_index=True, return_inverse=True)
    old = kept >= 0
    shared[old] = first[group][old]
    return IconPlan(kept, shared)


@dataclass(frozen=True, eq=False)
class _Some:
    """Where some cells are, for `shared_icons`."""

    row: NDArray[np.int32]
    column: NDArray[np.int32]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, cells: Cells, chosen: NDArray[np.int64]) -> "_Some":
        return cls(cells.row[chosen], cells.column[chosen], cells.count[chosen])
