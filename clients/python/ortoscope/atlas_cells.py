"""The cells of an atlas as the server lists them: by place, class, text or size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from ortoscope.arrays import Float32
from ortoscope.errors import InvalidArgument
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.tables import Column, Table
from ortoscope.v1 import atlases_pb2

CellOrder: TypeAlias = Literal["position", "attribution", "count"]
"""Row by row, by falling attribution to the class, or by falling number of samples."""

ORDERS = {
    "position": atlases_pb2.ListCellsRequest.ORDER_POSITION,
    "attribution": atlases_pb2.ListCellsRequest.ORDER_ATTRIBUTION,
    "count": atlases_pb2.ListCellsRequest.ORDER_COUNT,
}

_CLASSES_SHOWN = 3


@dataclass(frozen=True)
class CellClass:
    """A class and what a cell says of it."""

    index: int
    """The index of the class."""

    label: str
    """Its label."""

    attribution: float
    """The mean attribution of the cell's samples to it."""


@dataclass(frozen=True)
class CellSample:
    """A real sample."""

    image: str
    """Resource name of the image; can be given to `activate`."""

    site: tuple[int, ...]
    """The index along each site axis."""

    position: tuple[float, ...]
    """The centre of that site as fractions of height and width."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell of a level."""

    index: int
    """Its place among the cells of its level, as in `Level.arrays`."""

    row: int
    """From the top."""

    column: int
    """From the left."""

    count: int
    """Samples in it."""

    dispersion: float
    """1 - the mean cosine of its samples with their mean: 0 where all point the same way."""

    classes: tuple[CellClass, ...]
    """The classes with the largest mean attributions, descending."""

    nearest: tuple[CellSample, ...]
    """The real samples closest to its mean."""

    score: float
    """The cosine that the clean icon reaches; 0 while there is none."""

    represents: bool
    """Whether the icon reaches enough of it to stand for the cell."""

    mean: Float32 | None
    """(C,) float32: the mean activation, where it was asked for."""

    @classmethod
    def from_proto(cls, proto: atlases_pb2.Cell) -> "Cell":
        """Reads the server's message."""
        return cls(
            index=proto.index,
            row=proto.row,
            column=proto.column,
            count=proto.count,
            dispersion=proto.dispersion,
            classes=tuple(CellClass(entry.index, entry.label, entry.attribution) for entry in proto.classes),
            nearest=tuple(CellSample(entry.image, tuple(entry.site), tuple(entry.position)) for entry in proto.nearest),
            score=proto.score,
            represents=proto.represents,
            mean=np.asarray(proto.mean, np.float32) if proto.mean else None,
        )


def list_cells(
    rpcs: Rpcs,
    atlas: str,
    *,
    grid: int,
    region: Sequence[float] | None,
    class_: int | str | None,
    text: str,
    order: CellOrder | None,
    top_classes: int,
    with_means: bool,
) -> Table[Cell]:
    """The cells of a level; see `Atlas.cells`.

    Raises:
        OrtoscopeError: As Atlases.ListCells; ORDER_UNKNOWN, REGION_INVALID.
    """
    chosen = order or ("attribution" if class_ is not None else "position")
    if chosen not in ORDERS:
        raise InvalidArgument(
            f"{chosen!r} is no order: choose one of {', '.join(ORDERS)}.",
            reason="ORDER_UNKNOWN",
            field="order",
            metadata={"order": str(chosen)},
        )
    request = atlases_pb2.ListCellsRequest(
        parent=atlas,
        grid=grid,
        text=text,
        order=ORDERS[chosen],
        top_classes=top_classes,
        with_means=with_means,
        region=None if region is None else region_message(region),
    )
    if class_ is not None:
        setattr(request, "class", str(class_))  # a word of Python, which an argument cannot be named by
    return cell_table(all_pages(rpcs.list_cells, request))


def cell_table(response: atlases_pb2.ListCellsResponse) -> Table[Cell]:
    """The cells of a ListCellsResponse."""
    return Table(
        (Cell.from_proto(entry) for entry in response.cells),
        (
            Column("row", lambda cell: cell.row, numeric=True),
            Column("column", lambda cell: cell.column, numeric=True),
            Column("samples", lambda cell: cell.count, numeric=True),
            Column("dispersion", lambda cell: cell.dispersion, numeric=True),
            Column("icon's cosine", lambda cell: cell.score or None, numeric=True),
            Column("represents", lambda cell: cell.represents),
            Column(
                "classes",
                lambda cell: [f"{entry.label or entry.index} {entry.attribution:.3g}" for entry in _shown(cell)],
            ),
        ),
        title=f"{len(response.cells)} cell{'' if len(response.cells) == 1 else 's'}",
        names=lambda cell: [entry.label for entry in cell.classes],
    )


def region_message(region: Sequence[float]) -> atlases_pb2.Region:
    """A rectangle (left, top, right, bottom) as the API takes it.

    Raises:
        InvalidArgument: REGION_INVALID: it is not four numbers.
    """
    if len(region) != _EDGES:
        raise InvalidArgument(
            f"A region is four numbers from 0 to 1, left, top, right and bottom, not {len(region)}.",
            reason="REGION_INVALID",
            field="region",
        )
    left, top, right, bottom = map(float, region)
    return atlases_pb2.Region(left=left, top=top, right=right, bottom=bottom)


_EDGES = 4


def _shown(cell: Cell) -> Sequence[CellClass]:
    return cell.classes[:_CLASSES_SHOWN]
