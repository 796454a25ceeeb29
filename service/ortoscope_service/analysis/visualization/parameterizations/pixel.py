"""The pixels themselves: the plainest parameterization, and the noisiest."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.analysis.visualization.parameterizations.base import Array, Bounds, Parameters, normal
from ortoscope_service.analysis.visualization.parameterizations.picture import ImageParameterization
from ortoscope_service.errors import invalid


@dataclass(frozen=True)
class Bound:
    """How far a picture may go from the one that it started from."""

    norm: Literal["linf", "l2"] = "linf"
    """Largest change of a pixel's channel, or root of the sum of squared changes of all of them."""

    radius: float = 8 / 255
    """The distance, pixels in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.radius < np.inf:
            raise invalid(
                "INVALID_BOUND",
                f"The radius of the bound is {self.radius:g}; give a finite number from 0 on.",
                field="bound.radius",
                radius=self.radius,
            )


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

    bound: Bound | None = None
    """How far from `origin` the picture may go; with "clip" alone, whose parameters are the picture."""

    origin: npt.NDArray[Any] | None = field(default=None, compare=False)
    """(channels with alpha, height, width) in [0, 1], for `bound`."""

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
        """Black and white, and what `bound` allows, where the parameters are the picture."""
        return dict.fromkeys(self.parameter_shapes, self._limits) if self.squash == "clip" else {}

    def project(self, parameters: Parameters, step: int) -> None:
        """Blurs when it is time to, brings the picture back into the ball around `origin`, and clips."""
        if self.blur_sigma > 0 and step % self.blur_every == 0:
            from scipy import ndimage  # noqa: PLC0415 - a quarter of a second, for what few climbs do

            widths = (0, 0, self.blur_sigma, self.blur_sigma)
            for pixels in (parameters[name] for name in self.parameter_shapes):
                ndimage.gaussian_filter(pixels, widths, output=pixels, mode="nearest")
        if self.bound is not None and self.bound.norm == "l2" and self.origin is not None:
            for pixels in (parameters[name] for name in self.parameter_shapes):
                _into_ball(pixels, self.origin, self.bound.radius)
        # Towards [0, 1] every pixel only comes closer to the origin, which lies within.
        super().project(parameters, step)

    @cached_property
    def _limits(self) -> Bounds:
        low, high = np.zeros((), np.float32), np.ones((), np.float32)
        if self.bound is None or self.bound.norm != "linf" or self.origin is None:
            return low, high
        origin = np.asarray(self.origin, np.float64)
        return (
            np.maximum(_rounded_inwards(origin - self.bound.radius, origin), low),
            np.minimum(_rounded_inwards(origin + self.bound.radius, origin), high),
        )


def _rounded_inwards(values: npt.NDArray[np.float64], centre: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The nearest numbers in single precision that are not farther from a centre."""
    rounded = values.astype(np.float32)
    outside = np.abs(rounded.astype(np.float64) - centre) > np.abs(values - centre)
    return np.where(outside, np.nextafter(rounded, centre.astype(np.float32)), rounded)


def _into_ball(pixels: Array, origin: Array, radius: float) -> None:
    """Moves each of (items, ...) in place towards the origin, to no more than the radius from it."""
    for item in pixels:
        change = item.astype(np.float64) - origin
        length = float(np.sqrt(np.square(change).sum()))
        if length > radius:
            # A hair less than the radius, so that rounding does not lead out of it.
            item[...] = origin + change * (radius * (1 - 1e-6) / length)
