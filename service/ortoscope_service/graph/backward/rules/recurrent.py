"""Recurrent layers, which `recurrence` expands. What has a gradient never comes here."""

from ortoscope_service.graph.backward.recurrence import problem
from ortoscope_service.graph.backward.registry import Call, Gradients, rule


@rule("GRU", "LSTM", "RNN")
def recurrent(call: Call) -> Gradients:
    """Says why a layer could not be expanded."""
    raise call.refuse(problem(call.node) or "here")
