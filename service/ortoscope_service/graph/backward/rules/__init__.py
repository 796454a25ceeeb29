"""One rule per operator, by family. Importing the package registers them all."""

from ortoscope_service.graph.backward.rules import (
    activations,
    convolution,
    elementwise,
    indexing,
    linear,
    pooling,
    reductions,
    shapes,
)

__all__ = ["activations", "convolution", "elementwise", "indexing", "linear", "pooling", "reductions", "shapes"]
