"""The pixels themselves: the plainest parameterization, and the noisiest."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from scipy import ndimage

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.analysis.visualization.parameterizations.base import Array, Bounds, Parameters, normal
from ortoscope_service.analysis.visualization.parameterizations.picture import ImageParameterization


@dataclass(frozen=True, kw_only=True)
class PixelImage(ImageParameterization):
    """One parameter for each pixel and channel (Lucid's `pixel_image`).

    With `squash` "sigmoid" the parameters are the canvas, from N(0, sd²). With "clip" they are the picture itself, from
    0.5 + N(0, sd²), cut off at 0 and 1 after each step, as in DeepDream and before Lucid; colours stay as they are.
    """

    sd: float = 0.01
    """Standard deviation of the start."""

    squash: Literal["sigmoid", "clip"] = "sigmoid"
    """What keeps the picture in [0, 1]."""

    blur_sigma: float = 0.0
    """Width in pixels of a Gaussian blur of the parameters, for the recipes of Yosinski et al. 2015; 0 is none."""

    blur_every: int = 4
    """After how many steps each blur comes."""

    @property
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """`pixels`."""
        return {f"{self.prefix}pixels": self.shape}

    @property
    def _own_structure(self) -> Hashable:
        return self.squash

    def canvas(self, g: GraphWriter) -> ir.Value:
        """The parameters."""
        (pixels,) = self._inputs(g).values()
        return pixels

    def build(self, g: GraphWriter) -> ir.Value:
        """Appends what follows the canvas, if anything does."""
        return super().build(g) if self.squash == "sigmoid" else self.canvas(g)

    def draw(self, rng: np.random.Generator) -> Parameters:
        """Noise around gray."""
        start = np.float32(0.5 if self.squash == "clip" else 0)
        return {name: start + normal(rng, shape, self.sd) for name, shape in self.parameter_shapes.items()}

    def canvas_inverse(self, canvas: Array) -> Parameters:
        """The canvas."""
        return {name: canvas.astype(np.float32) for name in self.parameter_shapes}

    def _as_canvas(self, pictures: Array) -> Array:
        return super()._as_canvas(pictures) if self.squash == "sigmoid" else pictures

    @property
    def bounds(self) -> Mapping[str, Bounds]:
        """Black and white, where the parameters are the picture."""
        limits = np.zeros((), np.float32), np.ones((), np.float32)
        return dict.fromkeys(self.parameter_shapes, limits) if self.squash == "clip" else {}

    def project(self, parameters: Parameters, step: int) -> None:
        """Blurs when it is time to, and clips."""
        if self.blur_sigma > 0 and step % self.blur_every == 0:
            widths = (0, 0, self.blur_sigma, self.blur_sigma)
            for pixels in (parameters[name] for name in self.parameter_shapes):
                ndimage.gaussian_filter(pixels, widths, output=pixels, mode="nearest")
        super().project(parameters, step)
