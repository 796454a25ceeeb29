"""Which cells of a level are meant: those of a region, of a class, with a word in their labels, in a given order."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.analysis.atlas.cells import Cells
from ortoscope_service.analysis.atlas.class_labels import largest_classes
from ortoscope_service.errors import invalid

DEFAULT_TOP = 5
"""Classes that are named for each cell."""


class Order(enum.Enum):
    """In which order cells come."""

    POSITION = "position"
    """Row by row."""

    ATTRIBUTION = "attribution"
    """By falling attribution to the class."""

    COUNT = "count"
    """By falling number of samples."""


@dataclass(frozen=True)
class Rectangle:
    """A part of the layout, its edges included; x to the right and y down, in [0, 1].

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, `INVALID_REGION`: an edge is not a number, or they are in the wrong order.
    """

    left: float
    """Left edge."""

    top: float
    """Upper edge."""

    right: float
    """Right edge, not left of `left`."""

    bottom: float
    """Lower edge, not above `top`."""

    def __post_init__(self) -> None:
        for name, low, high in (("right", self.left, self.right), ("bottom", self.top, self.bottom)):
            if not low <= high:
                raise invalid(
                    "INVALID_REGION",
                    f"The region goes from {low:g} to {high:g}; give its edges as left <= right and top <= bottom.",
                    field=f"region.{name}",
                    low=low,
                    high=high,
                )

    def holds(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) bool, which of the points (n, 2) are in it."""
        low, high = np.array([self.left, self.top]), np.array([self.right, self.bottom])
        return np.asarray(((points >= low) & (points <= high)).all(axis=1), np.bool_)


def query_cells(
    cells: Cells,
    labels: Sequence[str],
    region: Rectangle | None,
    class_index: int | None,
    text: str,
    order: Order,
    top: int = DEFAULT_TOP,
) -> NDArray[np.int64]:
    """The cells that every filter lets through.

    Args:
        cells: The cells of a level.
        labels: Name of every class by its index; those beyond have none.
        region: Only cells whose centre is in it; None for all.
        class_index: Only cells whose attribution to this class is above 0; None for all.
        text: Only cells that have it in the label of one of their named classes, whatever its case; empty for all.
        order: In which order; cells that are equal in it come row by row.
        top: Classes that are named for a cell.

    Returns:
        (n,) int64, places among the cells. None if a class or text is asked for and there is no attribution.

    Raises:
        OrtoscopeError: INVALID_ARGUMENT, `ORDER_WITHOUT_CLASS`.
    """
    if order is Order.ATTRIBUTION and class_index is None:
        raise invalid(
            "ORDER_WITHOUT_CLASS",
            "Cells can be ordered by their attribution to a class only if one is named; give `class`.",
            field="class",
        )
    wanted = np.ones(len(cells), bool)
    if region is not None:
        wanted &= region.holds(cells.centre)
    if class_index is not None:
        wanted &= False if cells.attribution is None else cells.attribution[:, class_index] > 0
    if text.strip():
        wanted &= _named(cells, labels, text, top)
    found = np.flatnonzero(wanted).astype(np.int64)
    if order is Order.ATTRIBUTION and cells.attribution is not None:
        found = found[np.argsort(-cells.attribution[found, class_index], kind="stable")]
    elif order is Order.COUNT:
        found = found[np.argsort(-cells.count[found], kind="stable")]
    return found


def _named(cells: Cells, labels: Sequence[str], text: str, top: int) -> NDArray[np.bool_]:
    """(M,) bool: which cells have a text in the label of one of their named classes."""
    if cells.attribution is None:
        return np.zeros(len(cells), bool)
    searched = text.strip().casefold()
    matching = [index for index, label in enumerate(labels) if searched in label.casefold()]
    return np.asarray(np.isin(largest_classes(cells.attribution, top), matching).any(axis=1), np.bool_)
