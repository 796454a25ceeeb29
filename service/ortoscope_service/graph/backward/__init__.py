"""Reverse mode on ONNX graphs: backward graphs (vector-Jacobian products) and their transposes, tangent graphs."""

from ortoscope_service.graph.backward.construction import (
    ACTIVATION,
    COTANGENT,
    TANGENT,
    build_backward,
    build_tangent,
    gradient_name,
    tangent_name,
)
from ortoscope_service.graph.backward.relaxations import NO_RELAXATIONS, RELAXATIONS, Relaxations

__all__ = [
    "ACTIVATION",
    "COTANGENT",
    "NO_RELAXATIONS",
    "RELAXATIONS",
    "TANGENT",
    "Relaxations",
    "build_backward",
    "build_tangent",
    "gradient_name",
    "tangent_name",
]
