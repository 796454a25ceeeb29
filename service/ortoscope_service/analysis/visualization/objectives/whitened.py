"""Objectives for icons of an activation atlas: one site's activation against a direction, in coordinates of its own.

With a matrix F of the tap's units, an activation a and a direction v are met as x = a F and y = v F. With F Fᵀ = S, the
inverse of the second moment of the activations, x·y = a S v is the whitened product of Carter et al. (2019), and

    cos = x·y / (ε + |x|) / (ε + |y|) = aᵀS v / √(aᵀS a · vᵀS v)

the cosine that belongs to it, which is 1 where a is along v. Their own code weighs a·v', v' = v S, by something else,
which `LucidDirectionNeuron` repeats for comparison.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from ortoscope_service.analysis.visualization.objectives.arrays import Numbers
from ortoscope_service.analysis.visualization.objectives.directions import (
    DirectionNeuron,
    angle_floor,
    weighted_by_angle,
)
from ortoscope_service.analysis.visualization.objectives.reading import check_numbers, require_nonzero
from ortoscope_service.analysis.visualization.objectives.setting import Array, Canvas, Setting
from ortoscope_service.graph.taps import Tap

_EPSILON = 1e-4


@dataclass(frozen=True)
class WhitenedDirectionNeuron(DirectionNeuron):
    """x·y · max(0.1, cos)ᵖ at one site, with x = a[:, site] F and y = v F."""

    kind = "whitened_direction_neuron"

    factor: Numbers | None = None
    """F, (unit, unit); None for the units themselves."""

    @property
    def structure(self) -> Hashable:
        """What is read, whether angles count, and F, which is a constant of the graph."""
        return (self.kind, self.of, self.power != 0, self._digest)

    def fit(self, tap: Tap, shape: Sequence[int], setting: Setting, at: str) -> None:
        """Refuses what does not fit, and a direction that F sends to zero."""
        super().fit(tap, shape, setting, at)
        if self.factor is not None:
            units = shape[tap.unit_axis - 1]
            check_numbers(self.factor, (units, units), tap, f"{at}.factor")
            require_nonzero(Numbers(self._mapped), f"{at}.vector")

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """Maps the site's activation, and weighs the product."""
        x, y = self._pair(canvas, name)
        if not self.power:
            return canvas.g.total(canvas.g.multiply(x, y), [1])
        return weighted_by_angle(canvas, x, y, 1, canvas.feed(f"{name}.{self.kind}.power"))

    def feeds(self, setting: Setting, name: str) -> dict[str, Array]:
        """As its parent, with y for the vector."""
        return {**super().feeds(setting, name), f"{name}.{self.kind}.vector": setting.repeated(self._mapped)}

    def _pair(self, canvas: Canvas, name: str) -> tuple[ir.Value, ir.Value]:
        """The pair x and y, (batch, unit) each."""
        here, vector = self._met(canvas, name)
        if self.factor is None:
            return here, vector
        return canvas.g.matmul(here, canvas.constant(self.factor.array)), vector

    @property
    def _mapped(self) -> Array:
        if self.factor is None:
            return self.vector.array
        return np.asarray(self.vector.array.astype(np.float64) @ self.factor.array.astype(np.float64))

    @cached_property
    def _digest(self) -> str:
        """Stands for F, which may be large, in comparisons of structures at every step."""
        if self.factor is None:
            return ""
        return f"{self.factor.shape}:{hashlib.sha256(self.factor.array.tobytes()).hexdigest()}"


@dataclass(frozen=True)
class DirectionCosine(WhitenedDirectionNeuron):
    """x·y / (ε + |x|) / (ε + |y|) at one site, in [-1, 1]: how far an icon came. The power is of no meaning."""

    kind = "direction_cosine"

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """The product over both lengths."""
        g = canvas.g
        x, y = self._pair(canvas, name)
        small = canvas.constant(_EPSILON)
        dot = g.total(g.multiply(x, y), [1])
        return g.divide(g.divide(dot, g.add(canvas.norm(x, 1), small)), g.add(canvas.norm(y, 1), small))


@dataclass(frozen=True)
class LucidDirectionNeuron(DirectionNeuron):
    """d · max(0.1, d / (ε + |a|))ᵖ with d the *mean* over units of a[:, site] v': the atlas's released code.

    `direction_neuron_cossim_S` of tensorflow/lucid recipes/activation_atlas/render.py, v' given. What stands for the
    cosine lacks the division by |v'| and is a mean instead of a sum, so that it hardly ever exceeds the floor: on most
    taps this is d times a constant. It is here to reproduce icons of others.
    """

    kind = "lucid_direction_neuron"

    def build(self, canvas: Canvas, name: str) -> ir.Value:
        """The mean product, weighted."""
        g = canvas.g
        here, vector = self._met(canvas, name)
        product = g.mean(g.multiply(here, vector), [1])
        if not self.power:
            return product
        ratio = g.divide(product, g.add(canvas.norm(here, 1), canvas.constant(_EPSILON)))
        return g.multiply(product, angle_floor(canvas, ratio, canvas.feed(f"{name}.{self.kind}.power")))
