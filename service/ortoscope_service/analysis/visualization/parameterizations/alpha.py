"""Transparency: what lies behind a picture with an alpha channel."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.parameterizations import colour, spectra
from ortoscope_service.analysis.visualization.parameterizations.base import Array
from ortoscope_service.analysis.visualization.parameterizations.fourier import CONTRAST
from ortoscope_service.errors import invalid

BACKGROUND = "background"
"""The graph input that holds the pictures behind."""


@dataclass(frozen=True, kw_only=True)
class AlphaBlend:
    """Lays pictures with an alpha channel over another random picture at every step (Lucid's `collapse_alpha_random`).

    a picture + (1 - a) background. What does not help the objective on any background becomes transparent, if the
    objective rewards that: objective (1 - mean a).
    """

    height: int
    """Of the picture."""

    width: int
    """Of the picture."""

    channels: int = 3
    """Without alpha."""

    sd: float = 0.5
    """Standard deviation of the background's Fourier coefficients. Lucid's notebook on transparency has 0.2."""

    decay_power: float = 1.0
    """How fast the background's amplitudes fall with frequency. Lucid's notebook on transparency has 1.5."""

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.channels) < 1:
            raise invalid(
                "INVALID_SIZE",
                f"Pictures of {self.channels} channels and {self.height} x {self.width} pixels are empty; give "
                "positive numbers.",
                field="parameterization",
            )

    @property
    def structure(self) -> Hashable:
        """The size."""
        return "AlphaBlend", self.channels, self.height, self.width

    def build(self, g: GraphWriter, picture: ir.Value) -> ir.Value:
        """Appends the blend.

        Args:
            g: The graph.
            picture: (batch, channels + 1, height, width) in [0, 1].

        Returns:
            (batch, channels, height, width) in [0, 1].
        """
        background = g.input(BACKGROUND, [BATCH, self.channels, self.height, self.width])
        colours = g.slice(picture, 1, 0, self.channels)
        opacity = g.slice(picture, 1, self.channels, self.channels + 1)
        return g.add(background, g.multiply(opacity, g.subtract(colours, background)))

    def feeds(self, rngs: Sequence[np.random.Generator]) -> dict[str, Array]:
        """Backgrounds for one step, each from its item's generator."""
        size = self.channels, self.height, self.width
        drawn = [random_picture(rng, *size, sd=self.sd, decay_power=self.decay_power) for rng in rngs]
        return {BACKGROUND: np.stack(drawn)}


def random_picture(
    rng: np.random.Generator, channels: int, height: int, width: int, *, sd: float = 0.01, decay_power: float = 1.0
) -> Array:
    """A picture of natural noise (Lucid's `image_sample`): what a Fourier parameterization starts with.

    Returns:
        (channels, height, width) in [0, 1], float32.
    """
    parts = rng.standard_normal((2, channels, height, width // 2 + 1)) * sd
    spectrum = (parts[0] + 1j * parts[1]) * spectra.scale(height, width, decay_power) / CONTRAST
    canvas = np.fft.irfft2(spectrum, s=(height, width))
    if channels == 3:
        canvas = colour.recorrelate(canvas, colour.IMAGENET)
    picture: Array = (1 / (1 + np.exp(-canvas))).astype(np.float32)
    return picture
