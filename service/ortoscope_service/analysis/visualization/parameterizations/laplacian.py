"""A pyramid of grids, each half as fine as the one before."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.analysis.visualization.parameterizations.base import Array, Parameters, normal
from ortoscope_service.analysis.visualization.parameterizations.lowres import centre_aligned, interpolated
from ortoscope_service.analysis.visualization.parameterizations.picture import ImageParameterization
from ortoscope_service.errors import invalid


@dataclass(frozen=True, kw_only=True)
class LaplacianImage(ImageParameterization):
    """A sum of grids of h // 2^n x w // 2^n cells, n = 0 .. levels - 1 (Lucid's `laplacian_pyramid_image`).

    Steps of one size change a coarse cell and many pixels at once: low frequencies learn faster.
    """

    levels: int = 4
    """Grids; the coarsest has at least one cell."""

    sd: float = 0.01
    """Standard deviation of each grid at the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = min(self.height, self.width).bit_length()
        if not 1 <= self.levels <= most:
            raise invalid(
                "INVALID_LEVELS",
                f"levels is {self.levels}; a picture of {self.height} x {self.width} can have 1 to {most}.",
                field="parameterization.levels",
                levels=self.levels,
                limit=most,
            )

    @property
    def _cells(self) -> list[tuple[int, int]]:
        return [(self.height >> level, self.width >> level) for level in range(self.levels)]

    @property
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """`level_0`, the finest, and so on."""
        return {f"{self.prefix}level_{level}": (self.planes, *cells) for level, cells in enumerate(self._cells)}

    @property
    def _own_structure(self) -> Hashable:
        return self.levels

    def canvas(self, g: GraphWriter) -> ir.Value:
        """The sum of all grids."""
        size = self.height, self.width
        grids = zip(self._inputs(g).values(), self._cells, strict=True)
        return g.add(*(interpolated(g, grid, cells, size) for grid, cells in grids))

    def draw(self, rng: np.random.Generator) -> Parameters:
        """Noise in each grid."""
        return {name: normal(rng, shape, self.sd) for name, shape in self.parameter_shapes.items()}

    def canvas_inverse(self, canvas: Array) -> Parameters:
        """What each grid can hold of the canvas, from the coarsest on, in the sense of least squares."""
        found: Parameters = {}
        for name, (rows, columns) in reversed(list(zip(self.parameter_shapes, self._cells, strict=True))):
            down, across = (
                centre_aligned(size, cells).astype(np.float64)
                for size, cells in ((self.height, rows), (self.width, columns))
            )
            found[name] = (np.linalg.pinv(down) @ canvas @ np.linalg.pinv(across).T).astype(np.float32)
            canvas = canvas - down @ found[name] @ across.T
        return {name: found[name] for name in self.parameter_shapes}
