"""Fourier coefficients: the parameterization that made feature visualization work (Olah et al. 2017)."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.analysis.visualization.parameterizations import spectra
from ortoscope_service.analysis.visualization.parameterizations.base import Array, Parameters, normal
from ortoscope_service.analysis.visualization.parameterizations.picture import ImageParameterization

CONTRAST = 4.0
"""What Lucid divides the canvas by ("is that a magic constant?")."""


@dataclass(frozen=True, kw_only=True)
class FourierImage(ImageParameterization):
    """Scaled Fourier coefficients (Lucid's `fft_image`).

    canvas = irfft2(s c) / 4 with s = sqrt(w h) / max(f, 1 / max(w, h))^decay, c from N(0, sd²). The gradient with
    respect to c is that of the pixels with the spectrum of a photograph, which keeps high frequencies down. An odd
    width has the transform of an odd width; Lucid makes the picture one column wider and cuts that off.
    """

    sd: float = 0.01
    """Standard deviation of real and imaginary parts at the start."""

    decay_power: float = 1.0
    """How fast amplitudes fall with frequency."""

    @property
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """`spectrum`: (channels, real and imaginary part, height, width // 2 + 1)."""
        return {f"{self.prefix}spectrum": (self.planes, 2, self.height, self.width // 2 + 1)}

    @property
    def _own_structure(self) -> Hashable:
        return self.decay_power

    @property
    def _scale(self) -> Array:
        return spectra.scale(self.height, self.width, self.decay_power) / CONTRAST

    def canvas(self, g: GraphWriter) -> ir.Value:
        """The inverse transform."""
        (spectrum,) = self._inputs(g).values()
        scaled = g.multiply(spectrum, g.constant(self._scale.astype(np.float32)))
        return spectra.inverse_transform(g, scaled, self.planes, self.height, self.width)

    def draw(self, rng: np.random.Generator) -> Parameters:
        """Noise with the spectrum of a photograph."""
        return {name: normal(rng, shape, self.sd) for name, shape in self.parameter_shapes.items()}

    def canvas_inverse(self, canvas: Array) -> Parameters:
        """The transform, divided by the scale."""
        spectrum = np.fft.rfft2(canvas) / self._scale
        return {name: np.stack([spectrum.real, spectrum.imag], 2).astype(np.float32) for name in self.parameter_shapes}
