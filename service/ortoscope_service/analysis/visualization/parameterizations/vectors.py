"""Inputs that are not pictures: rows of a table, and sequences of token embeddings."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.analysis.visualization.parameterizations.base import (
    Array,
    Bounds,
    Parameterization,
    Parameters,
    normal,
)
from ortoscope_service.errors import invalid


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorParameterization(Parameterization):
    """Numbers within bounds of their own: value = centre + scale p, brought back between low and high after each step.

    Steps are measured in `scale`, so that features of different units learn alike; and a bound can be reached, which it
    could not through a sigmoid.

    The four arrays have the shape of one item, or one that broadcasts to it: (features,) for tokens of one vocabulary.
    They are fed, so that others need no other graph.
    """

    shape_of_item: tuple[int, ...]
    """(features,) or (tokens, features)."""

    low: npt.NDArray[Any] | float = -np.inf
    """The least value of each feature."""

    high: npt.NDArray[Any] | float = np.inf
    """The greatest value of each feature."""

    centre: npt.NDArray[Any] | float = 0.0
    """Where features start from, such as their mean."""

    scale: npt.NDArray[Any] | float = 1.0
    """The unit of each feature, such as its standard deviation; 0 holds it at its centre."""

    sd: float = 0.01
    """Standard deviation of the start, in units of `scale`."""

    prefix: str = field(default="parameter.")
    """How the names of parameters and feeds begin."""

    def __post_init__(self) -> None:
        if not self.shape_of_item or min(self.shape_of_item) < 1:
            raise invalid(
                "INVALID_SIZE",
                f"An item of shape {self.shape_of_item} has no features; give (features,) or (tokens, features).",
                field="parameterization.shape",
                shape=self.shape_of_item,
            )
        for name in ("low", "high", "centre", "scale"):
            try:
                values = self._full(name)
            except ValueError:
                raise invalid(
                    "INVALID_BOUNDS",
                    f"{name} has the shape {np.shape(getattr(self, name))}, which does not fit items of "
                    f"{self.shape_of_item}.",
                    field=f"parameterization.{name}",
                    given=np.shape(getattr(self, name)),
                    expected=self.shape_of_item,
                ) from None
            if np.isnan(values).any() or (name in {"centre", "scale"} and not np.isfinite(values).all()):
                raise invalid(
                    "INVALID_BOUNDS", f"{name} has values that are not finite.", field=f"parameterization.{name}"
                )
        self._check_order()

    def _check_order(self) -> None:
        low, high, centre = self._full("low"), self._full("high"), self._full("centre")
        wrong = np.argwhere(~((low <= centre) & (centre <= high)))
        if wrong.size:
            index = tuple(int(number) for number in wrong[0])
            raise invalid(
                "INVALID_BOUNDS",
                f"Feature {index} runs from {low[index]:g} to {high[index]:g} around {centre[index]:g}; the centre "
                "must lie between the bounds.",
                field="parameterization.low",
                feature=index,
            )
        if (self._full("scale") < 0).any():
            raise invalid("INVALID_BOUNDS", "A scale is negative.", field="parameterization.scale")

    @classmethod
    def within(cls, low: Array, high: Array, *, shape: tuple[int, ...] | None = None) -> "VectorParameterization":
        """Starts in the middle between finite bounds, with half their distance as the unit."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        own = shape or np.broadcast_shapes(low.shape, high.shape)
        return cls(shape_of_item=own, low=low, high=high, centre=(low + high) / 2, scale=(high - low) / 2)

    @classmethod
    def of_samples(cls, samples: Array, *, shape: tuple[int, ...] | None = None) -> "VectorParameterization":
        """Starts at the mean of data, with its standard deviation as the unit and its extremes as bounds.

        Args:
            samples: (samples, features): rows of a table, or the vectors of an embedding table.
            shape: The shape of an item, by default (features,).
        """
        values = np.asarray(samples, np.float64)
        low, high = values.min(axis=0), values.max(axis=0)
        return cls(
            shape_of_item=shape or values.shape[1:],
            low=low,
            high=high,
            centre=np.clip(values.mean(axis=0), low, high),
            scale=values.std(axis=0),
        )

    @property
    def structure(self) -> Hashable:
        """The shape of an item."""
        return "VectorParameterization", self.shape_of_item, self.prefix

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an item."""
        return self.shape_of_item

    @property
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """`vector`."""
        return {f"{self.prefix}vector": self.shape_of_item}

    def build(self, g: GraphWriter) -> ir.Value:
        """A product and a sum."""
        (vector,) = self._inputs(g).values()
        centre, scale = (g.input(f"{self.prefix}{name}", self.shape_of_item) for name in ("centre", "scale"))
        return g.add(g.multiply(vector, scale), centre)

    def feeds(self, batch: int) -> dict[str, Array]:  # noqa: ARG002 - the same for all
        """Centre and scale."""
        return {f"{self.prefix}{name}": self._full(name).astype(np.float32) for name in ("centre", "scale")}

    def draw(self, rng: np.random.Generator) -> Parameters:
        """Close to the centre, within the bounds."""
        found = {name: normal(rng, shape, self.sd) for name, shape in self.parameter_shapes.items()}
        self.project(found, 0)
        return found

    def inverse(self, values: Array) -> Parameters:
        """(values - centre) / scale, of values that are first brought between the bounds."""
        found = {name: self._in_units(np.asarray(values, np.float64)) for name in self.parameter_shapes}
        self.project(found, 0)
        return found

    @property
    def bounds(self) -> Mapping[str, Bounds]:
        """Low and high, in units of `scale`."""
        limits = self._in_units(self._full("low")), self._in_units(self._full("high"))
        return dict.fromkeys(self.parameter_shapes, limits)

    def _full(self, name: str) -> npt.NDArray[np.float64]:
        return np.broadcast_to(np.asarray(getattr(self, name), np.float64), self.shape_of_item)

    def _in_units(self, values: Array) -> npt.NDArray[np.float32]:
        scale = self._full("scale")
        distance = values - self._full("centre")
        return np.divide(distance, scale, out=np.zeros_like(distance), where=scale > 0).astype(np.float32)
