"""What every parameterization offers: nodes that turn what is optimised into what a model is shown."""

import abc
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.errors import Code, OrtoscopeError

Array = npt.NDArray[Any]
Parameters = dict[str, Array]
"""Tensors by the names of the graph's inputs; the first axis counts items, unless the parameterization says that it
couples them."""

Bounds = tuple[Array, Array]
"""The least and the greatest value of each number of a tensor."""

Random = np.random.Generator | Sequence[np.random.Generator]
"""One generator, of which a child is spawned for every item, or one generator for every item."""


class Parameterization(abc.ABC):
    """A differentiable map from parameters to what a model is shown, one item at a time."""

    @property
    @abc.abstractmethod
    def structure(self) -> Hashable:
        """What decides the nodes: equal structures have equal graphs."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one item of the result."""

    @property
    @abc.abstractmethod
    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The names of the parameters, which are graph inputs, and the shape of one item of each."""

    @property
    def couples_batch(self) -> bool:
        """Whether items have parameters in common, so that each depends on its neighbours."""
        return False

    @abc.abstractmethod
    def build(self, g: GraphWriter) -> ir.Value:
        """Appends the nodes and inputs; the result is (batch, ...) float32."""

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator) -> Parameters:
        """Random parameters to start one item from, without the batch axis."""

    def initial(self, rng: Random, batch: int) -> Parameters:
        """Random parameters to start from.

        Args:
            rng: Where the numbers come from. An item's parameters depend on its own generator alone.
            batch: The number of items.
        """
        items = [self.draw(own) for own in generators(rng, batch)]
        return {name: np.stack([item[name] for item in items]) for name in self.parameter_shapes}

    def feeds(self, batch: int) -> dict[str, Array]:  # noqa: ARG002 - for those that need it
        """What the graph is fed besides the parameters, the same at every step."""
        return {}

    def inverse(self, values: Array) -> Parameters:  # noqa: ARG002 - for those that have one
        """Parameters whose result is close to the values.

        Args:
            values: (batch, *shape).

        Raises:
            OrtoscopeError: `NO_INVERSE` (UNIMPLEMENTED): this kind cannot start from given values.
        """
        kind = type(self).__name__
        raise OrtoscopeError(
            Code.UNIMPLEMENTED,
            "NO_INVERSE",
            f"A {kind} cannot start from a given picture, as not every picture is one of its results. Use the Fourier "
            "parameterization for that.",
            field="parameterization",
            metadata={"parameterization": kind},
        )

    @property
    def bounds(self) -> Mapping[str, Bounds]:
        """The least and the greatest value of those parameters that have bounds, broadcasting to one item."""
        return {}

    def project(self, parameters: Parameters, step: int) -> None:  # noqa: ARG002 - for those that act now and then
        """Brings parameters back, in place, to where they are allowed to be.

        Args:
            parameters: What the optimizer has just changed.
            step: How many steps have been made, from 1.
        """
        for name, (low, high) in self.bounds.items():
            np.clip(parameters[name], low, high, out=parameters[name])

    def _inputs(self, g: GraphWriter) -> dict[str, ir.Value]:
        """The parameters as inputs of the graph."""
        return {name: g.input(name, [BATCH, *shape]) for name, shape in self.parameter_shapes.items()}


def generators(rng: Random, batch: int) -> list[np.random.Generator]:
    """One generator for every item; the n-th child of a generator is the same however many there are."""
    return rng.spawn(batch) if isinstance(rng, np.random.Generator) else list(rng)


def normal(rng: np.random.Generator, shape: Sequence[int], sd: float) -> npt.NDArray[np.float32]:
    """Numbers from N(0, sd²)."""
    return rng.standard_normal(tuple(shape), dtype=np.float32) * np.float32(sd)
