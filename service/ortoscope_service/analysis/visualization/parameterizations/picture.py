"""What parameterizations of pictures have in common: size, channels, transparency, and the last nodes."""

import abc
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.analysis.visualization.parameterizations import colour
from ortoscope_service.analysis.visualization.parameterizations.base import Array, Parameterization, Parameters
from ortoscope_service.errors import invalid


@dataclass(frozen=True, kw_only=True)
class ImageParameterization(Parameterization):
    """A parameterization whose result is a picture in [0, 1]: a canvas of real numbers, then colours, then a sigmoid.

    The alpha channel, if there is one, is the last, and only goes through the sigmoid.
    """

    height: int
    """Pixels; need not be the model's."""

    width: int
    """Pixels."""

    channels: int = 3
    """Channels without alpha. Three are red, green and blue."""

    alpha: bool = False
    """Whether the picture has one more channel, its opacity."""

    decorrelate: bool = True
    """Whether channels are given their natural correlation: that of ImageNet for three channels, `correlation` if
    that is given. Other numbers of channels have none of their own."""

    correlation: colour.Matrix | None = None
    """The correlation of the channels, from `colour.measure`."""

    prefix: str = "parameter."
    """How the names of the parameters begin; parts of one picture need different ones."""

    def __post_init__(self) -> None:
        for name in ("height", "width", "channels"):
            size = getattr(self, name)
            if size < 1:
                raise invalid(
                    "INVALID_SIZE",
                    f"The picture's {name} is {size}; give a positive number.",
                    field=f"parameterization.{name}",
                    **{name: size},
                )
        if self.correlation is not None and np.shape(self.correlation) != (self.channels, self.channels):
            raise invalid(
                "INVALID_CORRELATION",
                f"The correlation of {self.channels} channels is a square matrix of as many rows; this one has the "
                f"shape {np.shape(self.correlation)}.",
                field="parameterization.correlation",
                channels=self.channels,
                shape=np.shape(self.correlation),
            )

    @property
    def planes(self) -> int:
        """The number of channels with alpha."""
        return self.channels + self.alpha

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels with alpha, height, width)."""
        return self.planes, self.height, self.width

    @property
    def matrix(self) -> colour.Matrix | None:
        """The correlation that is in force."""
        if not self.decorrelate:
            return None
        return self.correlation or (colour.IMAGENET if self.channels == 3 else None)

    @property
    def structure(self) -> Hashable:
        """The kind, the size, and what the last nodes depend on."""
        return type(self).__name__, self.shape, self.alpha, self.matrix, self.prefix, self._own_structure

    @property
    def _own_structure(self) -> Hashable:
        """What else decides the nodes of the canvas."""
        return ()

    @abc.abstractmethod
    def canvas(self, g: GraphWriter) -> ir.Value:
        """Appends the nodes of the canvas, (batch, channels with alpha, height, width) of real numbers."""

    def canvas_inverse(self, canvas: Array) -> Parameters:
        """Parameters whose canvas is this one.

        Raises:
            OrtoscopeError: `NO_INVERSE` (UNIMPLEMENTED).
        """
        return super().inverse(canvas)

    def build(self, g: GraphWriter) -> ir.Value:
        """Appends all nodes; the result is a batch of pictures in [0, 1]."""
        canvas = self.canvas(g)
        if self.matrix is not None:
            colours = g.slice(canvas, 1, 0, self.channels) if self.alpha else canvas
            colours = colour.correlated(g, colours, self.matrix, self.height, self.width)
            opacity = [g.slice(canvas, 1, self.channels, self.planes)] if self.alpha else []
            canvas = g.concat([colours, *opacity], axis=1)
        return g.op("Sigmoid", [canvas])

    def inverse(self, values: Array) -> Parameters:
        """Parameters whose pictures are these, to within 1/512 at black and white.

        Args:
            values: (batch, channels, height, width) in [0, 1]; without an alpha channel where the parameterization has
                one, they are opaque.

        Raises:
            OrtoscopeError: `INVALID_PICTURE` (INVALID_ARGUMENT): another size, or not in [0, 1]; `NO_INVERSE`
                (UNIMPLEMENTED).
        """
        return self.canvas_inverse(self._as_canvas(self._checked(values)))

    def _as_canvas(self, pictures: Array) -> Array:
        canvas = colour.logit(pictures)
        if self.matrix is not None:
            canvas[:, : self.channels] = colour.decorrelate(canvas[:, : self.channels], self.matrix)
        return canvas

    def _checked(self, values: Array) -> Array:
        pictures = np.asarray(values, np.float64)
        if self.alpha and pictures.ndim == 4 and pictures.shape[1] == self.channels:
            pictures = np.concatenate([pictures, np.ones_like(pictures[:, :1])], axis=1)
        if pictures.shape[1:] != self.shape:
            raise invalid(
                "INVALID_PICTURE",
                f"The picture to start from has the shape {pictures.shape[1:]}; this parameterization makes "
                f"{self.shape} (channels, height, width).",
                field="parameterization.start",
                given=pictures.shape[1:],
                expected=self.shape,
            )
        if not (pictures.size and pictures.min() >= 0 and pictures.max() <= 1):
            raise invalid(
                "INVALID_PICTURE",
                "The picture to start from has values outside 0..1; divide pixels of 8 bits by 255.",
                field="parameterization.start",
            )
        return pictures
