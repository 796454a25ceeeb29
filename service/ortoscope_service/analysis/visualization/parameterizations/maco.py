"""Phases alone, at a fixed natural spectrum (MACO, Fel et al. 2023, arXiv 2306.06805)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.analysis.visualization.parameterizations import colour, spectra
from ortoscope_service.analysis.visualization.parameterizations.base import Array, Parameters, normal
from ortoscope_service.analysis.visualization.parameterizations.picture import ImageParameterization
from ortoscope_service.errors import invalid

DECAY_POWER = 1.5
"""The fall of amplitudes with frequency where no spectrum was measured: ImageNet's is 1.3 below 0.1 cycles per pixel,
2.6 to 2.9 above, 1.5 on the whole."""

_EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class MacoImage(ImageParameterization):
    """Phases p of Fourier coefficients of fixed magnitude m.

    p' = (p - mean p) / (std p + 1e-5); z = irfft2(m cos p' + i m sin p'); canvas = (z - mean z) / (std z + 1e-5), then
    colours and sigmoid. Means and deviations are those of all channels of an item together. p starts from N(0, 1).
    The optimizer that belongs to it is Nadam at a learning rate of 1.
    """

    magnitude: npt.NDArray[Any] | None = field(default=None, compare=False)
    """(channels, height, width // 2 + 1) in decorrelated colours, from `measure_magnitude` or `fitted_magnitude`; None:
    the power law in every channel. It is fed, so that another one needs no other graph."""

    decay_power: float = field(default=DECAY_POWER, compare=False)
    """How fast the amplitudes of the power law fall with frequency."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha:
            raise invalid(
                "ALPHA_NOT_AVAILABLE",
                "MACO has no alpha channel: its transparency is the summed gradient of the picture. Leave alpha off.",
                field="parameterization.alpha",
            )
        if self.magnitude is None:
            return
        values, wanted = np.asarray(self.magnitude), (self.channels, self.height, self.width // 2 + 1)
        if values.shape != wanted or not np.isfinite(values).all() or (values < 0).any() or not values.any():
            raise invalid(
                "INVALID_MAGNITUDE",
                f"The spectrum's magnitude must be finite, not negative, not all zero, and of the shape {wanted}; this "
                f"one has the shape {values.shape}. `fitted_magnitude` brings it to a size.",
                field="parameterization.magnitude",
                expected=wanted,
                given=values.shape,
            )

    @property
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """`phase`: (channels, height, width // 2 + 1)."""
        return {f"{self.prefix}phase": (self.channels, self.height, self.width // 2 + 1)}

    def canvas(self, g: GraphWriter) -> ir.Value:
        """The inverse transform between two standardizations."""
        ((name, shape),) = self.parameter_shapes.items()
        phase = _standardized(g, self._inputs(g)[name])
        magnitude = g.input(self._magnitude_name, shape)
        parts = [g.unsqueeze(g.multiply(magnitude, part), [2]) for part in (g.op("Cos", [phase]), g.op("Sin", [phase]))]
        spectrum = g.concat(parts, axis=2)
        return _standardized(g, spectra.inverse_transform(g, spectrum, self.channels, self.height, self.width))

    @property
    def _magnitude_name(self) -> str:
        return f"{self.prefix}magnitude"

    def feeds(self, batch: int) -> dict[str, Array]:  # noqa: ARG002 - the same for all
        """The magnitude."""
        if self.magnitude is not None:
            return {self._magnitude_name: np.asarray(self.magnitude, np.float32)}
        law = spectra.scale(self.height, self.width, self.decay_power)
        return {self._magnitude_name: np.repeat(law[None], self.channels, 0).astype(np.float32)}

    def draw(self, rng: np.random.Generator) -> Parameters:
        """Phases from N(0, 1)."""
        return {name: normal(rng, shape, 1) for name, shape in self.parameter_shapes.items()}


def measure_magnitude(pictures: Iterable[Array], matrix: colour.Matrix | None = colour.IMAGENET) -> Array:
    """The mean magnitude of the spectra of pictures in decorrelated colours.

    Args:
        pictures: (channels, height, width) each, all of one shape.
        matrix: The correlation of colours that the parameterization will use (its `matrix`).

    Returns:
        (channels, height, width // 2 + 1).

    Raises:
        OrtoscopeError: `NO_PICTURES`; `MIXED_SIZES`: pictures of different shapes.
    """
    total: Array | None = None
    shape: tuple[int, ...] = ()
    count = 0
    for picture in pictures:
        values = np.asarray(picture, np.float64)
        if total is not None and values.shape != shape:
            raise invalid(
                "MIXED_SIZES",
                f"A spectrum is measured on pictures of one shape; there are {shape} and {values.shape}. Resize them.",
                one=shape,
                other=values.shape,
            )
        shape = values.shape
        magnitude = np.abs(np.fft.rfft2(values if matrix is None else colour.decorrelate(values, matrix)))
        total = magnitude if total is None else total + magnitude
        count += 1
    if total is None:
        raise invalid("NO_PICTURES", "A spectrum needs at least one picture to be measured on.")
    mean: Array = total / count
    return mean


def fitted_magnitude(magnitude: Array, height: int, width: int) -> Array:
    """A magnitude at another size: linear between the two nearest frequencies, in cycles per pixel.

    Args:
        magnitude: (channels, rows, columns) of pictures with an even width, 2 (columns - 1).
        height: Of the pictures that it shall be for.
        width: Of the pictures that it shall be for.
    """
    rows, columns = magnitude.shape[1:]
    down = np.abs(np.fft.fftfreq(height)) * rows
    across = np.fft.rfftfreq(width) * 2 * (columns - 1)
    # The half with positive frequencies, of which the other one is the mirror image on average.
    positive = (magnitude + magnitude[:, -np.arange(rows) % rows])[:, : rows // 2 + 1] / 2
    return _linear(_linear(positive, down, 1), across, 2)


def _linear(values: Array, positions: Array, axis: int) -> Array:
    below = np.clip(np.floor(positions).astype(int), 0, values.shape[axis] - 1)
    above = np.minimum(below + 1, values.shape[axis] - 1)
    weight = np.expand_dims(positions - below, tuple(range(1, values.ndim - axis)))
    found: Array = np.take(values, below, axis) * (1 - weight) + np.take(values, above, axis) * weight
    return found


def _standardized(g: GraphWriter, value: ir.Value) -> ir.Value:
    """Appends (x - mean x) / (std x + 1e-5) over all axes of an item."""
    centred = g.subtract(value, g.mean(value, [1, 2, 3], keepdims=True))
    variance = g.mean(g.multiply(centred, centred), [1, 2, 3], keepdims=True)
    return g.divide(centred, g.add(g.op("Sqrt", [variance]), g.constant(_EPSILON)))
