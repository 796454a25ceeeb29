"""Matrix products."""

from ortoscope_service.graph.backward.registry import Call, Gradients, rule
