"""One rule per operator, by family. Importing the package registers them all."""

from ortoscope_service.graph.backward.rules import (
    activations,
    attention,
    control_flow,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    recurrent,
    reductions,
    resizing,
    sampling,
    shapes,
    softmax,
)

__all__ = [
    "activations",
    "attention",
    "control_flow",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "normalization",
    "pooling",
    "recurrent",
    "reductions",
    "resizing",
    "sampling",
    "shapes",
    "softmax",
]
