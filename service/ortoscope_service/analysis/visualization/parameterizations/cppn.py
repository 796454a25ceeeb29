"""A small network from coordinates to colours (compositional pattern-producing network, Stanley 2007)."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.analysis.visualization.parameterizations.base import Parameters
from ortoscope_service.analysis.visualization.parameterizations.picture import ImageParameterization
from ortoscope_service.errors import invalid

EXTENT = 3.0**0.5
"""Coordinates run from -sqrt(3) to sqrt(3), which gives them a variance of 1."""

_RMS = (0.67, 0.6)
"""Root mean squares of atan(x) and atan(x)^2 for x from N(0, 1)."""

_TRUNCATED_SD = 0.87962566103423978
"""Standard deviation of N(0, 1) cut off at 2."""


@dataclass(frozen=True, kw_only=True)
class CppnImage(ImageParameterization):
    """The weights of a network that is asked for the colour at every pixel (Lucid's `cppn`).

    Each layer maps its input x to [atan(W x + b) / 0.67, atan(W x + b)^2 / 0.6]; the last one is linear, starts at zero
    weights, and is followed by the sigmoid. The same parameters make the picture at any size. Every item has weights of
    its own. The longer side of the picture runs from -sqrt(3) to sqrt(3); pixels are square.

    The gradient of a weight is a sum over all pixels. With more than one thread per run ONNX Runtime adds it up in an
    order that depends on the size of the batch, so that the last bits of a picture do, too.
    """

    hidden: int = 24
    """Units of each layer, whose outputs are twice as many."""

    layers: int = 8
    """Layers before the last one."""

    bias_sd: float = 0.1
    """Standard deviation of biases at the start."""

    decorrelate: bool = field(default=False)
    """Lucid's network gives colours as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("hidden", "layers"):
            size = getattr(self, name)
            if size < 1:
                raise invalid(
                    "INVALID_NETWORK",
                    f"{name} is {size}; a pattern-producing network needs at least one.",
                    field=f"parameterization.{name}",
                    **{name: size},
                )

    @property
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """`weight_n` (outputs, inputs) and `bias_n` (outputs, 1) of each layer."""
        shapes: dict[str, tuple[int, ...]] = {}
        inputs = 2
        for layer, outputs in enumerate([*[self.hidden] * self.layers, self.planes]):
            shapes[f"{self.prefix}weight_{layer}"] = outputs, inputs
            shapes[f"{self.prefix}bias_{layer}"] = outputs, 1
            inputs = 2 * outputs
        return shapes

    @property
    def _own_structure(self) -> Hashable:
        return self.hidden, self.layers

    def canvas(self, g: GraphWriter) -> ir.Value:
        """The network, applied to the coordinates of all pixels."""
        tensors = list(self._inputs(g).values())
        value = g.constant(coordinates(self.height, self.width))
        for layer, (weight, bias) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            value = g.add(g.matmul(weight, value), bias)
            if layer < self.layers:
                angle = g.op("Atan", [value])
                parts = [
                    g.multiply(angle, g.constant(1 / _RMS[0])),
                    g.multiply(angle, angle, g.constant(1 / _RMS[1])),
                ]
                value = g.concat(parts, axis=1)
        return g.reshape(value, [0, *self.shape])

    def draw(self, rng: np.random.Generator) -> Parameters:
        """Weights of variance 1 / inputs, cut off at two standard deviations; zero in the last layer."""
        found: Parameters = {}
        last = f"{self.prefix}weight_{self.layers}"
        for name, shape in self.parameter_shapes.items():
            if name == last:
                found[name] = np.zeros(shape, np.float32)
            elif shape[1] == 1:
                found[name] = (rng.standard_normal(shape) * self.bias_sd).astype(np.float32)
            else:
                found[name] = (_truncated_normal(rng, shape) / (_TRUNCATED_SD * shape[1] ** 0.5)).astype(np.float32)
        return found


def coordinates(height: int, width: int) -> npt.NDArray[np.float32]:
    """The coordinates x and y of all pixels, row by row: (2, height * width)."""
    longest = max(height, width)
    across, down = (
        np.linspace(-EXTENT, EXTENT, size) * ((size - 1) / (longest - 1)) if size > 1 else np.zeros(1)
        for size in (width, height)
    )
    y, x = np.meshgrid(down, across, indexing="ij")
    return np.stack([x.ravel(), y.ravel()]).astype(np.float32)


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    numbers = rng.standard_normal(shape)
    while (outside := np.abs(numbers) > 2).any():
        numbers[outside] = rng.standard_normal(int(outside.sum()))
    return numbers
