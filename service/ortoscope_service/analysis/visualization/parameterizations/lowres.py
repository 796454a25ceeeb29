"""Coarse grids, interpolated: smooth pictures, and parts that several pictures share."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.parameterizations.base import (
    Array,
    Parameters,
    Random,
    generators,
    normal,
)
from ortoscope_service.analysis.visualization.parameterizations.fourier import FourierImage
from ortoscope_service.analysis.visualization.parameterizations.picture import ImageParameterization
from ortoscope_service.errors import invalid

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LowresImage(ImageParameterization):
    """A grid of parameters, interpolated to the picture's size (Lucid's `lowres_tensor`).

    Bilinear, with the centres of cells and pixels aligned, so that the grid's edges are the picture's. (Lucid's
    interpolation, TensorFlow 1's, moves the picture by half a cell.)

    With `sets` the batch is interpolated, too: there are that many grids, the first is the first item's, the last the
    last one's, and those between are mixtures. One set is common to all items.
    """

    rows: int
    """Cells of the grid from top to bottom, at most `height`."""

    columns: int
    """Cells of the grid from left to right, at most `width`."""

    sets: int | None = None
    """How many grids the items of a batch share; None: each has its own."""

    sd: float = 0.01
    """Standard deviation of the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, size, limit in (("rows", self.rows, self.height), ("columns", self.columns, self.width)):
            if not 1 <= size <= limit:
                raise invalid(
                    "INVALID_GRID",
                    f"The grid's {name} are {size}; give 1 to {limit}, as many as the picture has pixels there.",
                    field=f"parameterization.{name}",
                    **{name: size, "limit": limit},
                )
        if self.sets is not None and self.sets < 1:
            raise invalid(
                "INVALID_GRID",
                f"sets is {self.sets}; give a positive number of grids to share.",
                field="parameterization.sets",
                sets=self.sets,
            )

    @property
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """`grid`; where grids are shared its first axis counts those."""
        return {f"{self.prefix}grid": (self.planes, self.rows, self.columns)}

    @property
    def couples_batch(self) -> bool:
        """Whether grids are shared."""
        return self.sets is not None

    @property
    def _own_structure(self) -> Hashable:
        return self.rows, self.columns, self.sets

    @property
    def _mixture(self) -> str:
        return f"{self.prefix}mixture"

    def canvas(self, g: GraphWriter) -> ir.Value:
        """Two products with interpolation matrices, and one along the batch."""
        ((name, shape),) = self.parameter_shapes.items()
        first = BATCH if self.sets is None else self.sets
        grid = g.input(name, [first, *shape])
        if self.sets is not None:
            cells = g.reshape(grid, [self.sets, -1])
            mixture = g.input(self._mixture, [BATCH, self.sets])
            grid = g.reshape(g.matmul(mixture, cells), [-1, *shape])
        return interpolated(g, grid, (self.rows, self.columns), (self.height, self.width))

    def feeds(self, batch: int) -> dict[str, Array]:
        """How items mix the shared grids."""
        return {} if self.sets is None else {self._mixture: corner_aligned(batch, self.sets)}

    def draw(self, rng: np.random.Generator) -> Parameters:
        """Noise in the grid."""
        return {name: normal(rng, shape, self.sd) for name, shape in self.parameter_shapes.items()}

    def initial(self, rng: Random, batch: int) -> Parameters:
        """Noise in the grids; shared ones come from the first item's generator."""
        if self.sets is None:
            return super().initial(rng, batch)
        return super().initial(generators(rng, batch)[0], self.sets)

    def canvas_inverse(self, canvas: Array) -> Parameters:
        """The grid whose interpolation is nearest in the sense of least squares: exact for a grid of all pixels."""
        rows = np.linalg.pinv(centre_aligned(self.height, self.rows).astype(np.float64))
        columns = np.linalg.pinv(centre_aligned(self.width, self.columns).astype(np.float64))
        grid = rows @ canvas @ columns.T
        if self.sets is not None:
            mixture = np.linalg.pinv(corner_aligned(len(canvas), self.sets).astype(np.float64))
            grid = np.tensordot(mixture, grid, 1)
        return {name: grid.astype(np.float32) for name in self.parameter_shapes}


@dataclass(frozen=True, kw_only=True)
class SumImage(ImageParameterization):
    """A picture whose canvas is a weighted sum of canvases.

    `aligned` makes the one for pictures that stay alike from one item to the next.
    """

    parts: tuple[ImageParameterization, ...]
    """What is added; all of the picture's size, their prefixes different."""

    weights: tuple[float, ...] = ()
    """The weight of each part, by default 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        prefixes = {part.prefix for part in self.parts}
        fits = all(part.shape == self.shape for part in self.parts)
        if (
            not self.parts
            or len(prefixes) < len(self.parts)
            or not fits
            or len(self.weights) not in {0, len(self.parts)}
        ):
            raise invalid(
                "INVALID_PARTS",
                f"A sum needs parts of its own size {self.shape}, each with another prefix, and a weight for each or "
                f"for none; it was given {len(self.parts)} parts of {[part.shape for part in self.parts]} and "
                f"{len(self.weights)} weights.",
                field="parameterization.parts",
                parts=len(self.parts),
                weights=len(self.weights),
            )

    @property
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Those of all parts."""
        return {name: shape for part in self.parts for name, shape in part.parameter_shapes.items()}

    @property
    def couples_batch(self) -> bool:
        """Whether a part does."""
        return any(part.couples_batch for part in self.parts)

    @property
    def _own_structure(self) -> Hashable:
        return tuple(part.structure for part in self.parts), self.weights

    def canvas(self, g: GraphWriter) -> ir.Value:
        """The sum."""
        canvases = [part.canvas(g) for part in self.parts]
        if self.weights:
            canvases = [
                g.multiply(canvas, g.constant(weight)) for canvas, weight in zip(canvases, self.weights, strict=True)
            ]
        return g.add(*canvases)

    def feeds(self, batch: int) -> dict[str, Array]:
        """Those of all parts."""
        return {name: value for part in self.parts for name, value in part.feeds(batch).items()}

    def draw(self, rng: np.random.Generator) -> Parameters:
        """Each part's start."""
        return {name: value for part in self.parts for name, value in part.draw(rng).items()}

    def initial(self, rng: Random, batch: int) -> Parameters:
        """Each part's start."""
        own = generators(rng, batch)
        return {name: value for part in self.parts for name, value in part.initial(own, batch).items()}

    def canvas_inverse(self, canvas: Array) -> Parameters:
        """All of it in the first part, nothing in the others.

        Raises:
            OrtoscopeError: `NO_INVERSE`, `INVALID_PARTS`: the first part's weight is 0.
        """
        weight = self.weights[0] if self.weights else 1.0
        if not weight:
            raise invalid(
                "INVALID_PARTS",
                "The weight of the first part is 0; it is the one that a start picture goes into.",
                field="parameterization.weights",
            )
        found = self.parts[0].canvas_inverse(canvas / weight)
        for part in self.parts[1:]:
            found.update(part.canvas_inverse(np.zeros_like(canvas)))
        return found


ALIGNED_GRIDS = ((1, 64), (1, 32), (1, 16), (2, 16), (1, 8), (2, 8))
"""Shared grids of Lucid's notebook on aligned interpolation: how many sets, and cells per side."""


def aligned(own: FourierImage, grids: Sequence[tuple[int, int]] = ALIGNED_GRIDS, *, sd: float = 0.01) -> SumImage:
    """Pictures that have their coarse parts in common: each item's Fourier coefficients, and grids that items share.

    Args:
        own: What each item has for itself.
        grids: (sets, cells per side) of every shared part; larger than the picture they are cut to its size.
        sd: Standard deviation of the shared parts at the start.
    """
    common = {
        name: getattr(own, name) for name in ("height", "width", "channels", "alpha", "decorrelate", "correlation")
    }
    shared = [
        LowresImage(
            **common,
            prefix=f"{own.prefix}shared_{number}.",
            rows=min(cells, own.height),
            columns=min(cells, own.width),
            sets=sets,
            sd=sd,
        )
        for number, (sets, cells) in enumerate(grids)
    ]
    return SumImage(**common, prefix=own.prefix, parts=(replace(own, prefix=f"{own.prefix}own."), *shared))


def interpolated(g: GraphWriter, grid: ir.Value, cells: tuple[int, int], size: tuple[int, int]) -> ir.Value:
    """Appends bilinear interpolation of (..., rows, columns) to a size."""
    if cells[0] != size[0]:
        grid = g.matmul(g.constant(centre_aligned(size[0], cells[0])), grid)
    if cells[1] != size[1]:
        grid = g.matmul(grid, g.constant(np.ascontiguousarray(centre_aligned(size[1], cells[1]).T)))
    return grid


def centre_aligned(size: int, cells: int) -> Matrix:
    """(size, cells) weights of linear interpolation: pixel i lies at (i + 1/2) cells / size - 1/2, kept in the grid."""
    return _linear((np.arange(size) + 0.5) * cells / size - 0.5, cells)


def corner_aligned(size: int, cells: int) -> Matrix:
    """(size, cells) weights of linear interpolation from the first cell's centre to the last one's."""
    return _linear(np.linspace(0, cells - 1, size) if size > 1 else np.zeros(1), cells)


def _linear(positions: npt.NDArray[np.float64], cells: int) -> Matrix:
    positions = np.clip(positions, 0, cells - 1)
    distance = np.abs(positions[:, None] - np.arange(cells))
    weights: Matrix = np.maximum(1 - distance, 0).astype(np.float32)
    return weights
