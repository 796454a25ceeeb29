"""The cells of a level: the arrays that the contract of `AtlasLevel.cells` names."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEAREST = 4
"""Real samples that are kept of a cell."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a grid that hold enough samples, row by row: M cells, C units, K classes.

    What may be missing is None: attributions where the samples have none, icons until there are some.
    """

    grid: int
    """Cells along each side."""

    row: NDArray[np.int32]
    """(M,) int32, from the top."""

    column: NDArray[np.int32]
    """(M,) int32, from the left."""

    count: NDArray[np.int64]
    """(M,) int64, samples, each duplicate counted."""

    mean: NDArray[np.float32]
    """(M, C) float32, the mean activation."""

    dispersion: NDArray[np.float32]
    """(M,) float32, 1 - mean cosine of its samples with their mean: 0 where all point the same way."""

    nearest: NDArray[np.int64]
    """(M, 4) int64, the samples with the largest cosine to the mean, descending, as far as possible each of another
    image; -1 for none."""

    crop: NDArray[np.int32]
    """(M, 4) int32, the place of the crop of each of `nearest` among the level's crops; -1 for none."""

    parent: NDArray[np.int32]
    """(M,) int32, the cell of the coarser level that holds its centre, else the closest one; -1 on the first level."""

    attribution: NDArray[np.float32] | None = None
    """(M, K) float32, the mean over its samples."""

    winner_cell: NDArray[np.int32] | None = None
    """(W,) int32, with the two that follow: how many samples of a cell have a class as their largest one. Sorted by
    cell, then by class; what does not occur is left out."""

    winner_class: NDArray[np.int32] | None = None
    """(W,) int32."""

    winner_count: NDArray[np.int32] | None = None
    """(W,) int32, each duplicate counted."""

    score: NDArray[np.float32] | None = None
    """(M,) float32, the cosine that the clean icon reaches."""

    represents: NDArray[np.bool_] | None = None
    """(M,) bool, whether the icon reaches enough to stand for the cell."""

    shared: NDArray[np.int32] | None = None
    """(M,) int32, the cell whose icon it shares; itself otherwise."""

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.row)

    @property
    def centre(self) -> NDArray[np.float64]:
        """(M, 2) float64: x to the right and y down, of each cell's centre in the layout."""
        return (np.stack([self.column, self.row], axis=1) + 0.5) / self.grid

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What there is, as arrays by name; `grid` is one of shape ()."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Cells":
        """What `to_arrays` was called on."""
        there: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls) if field.name in arrays}
        return cls(**{**there, "grid": int(there["grid"])})
