"""Where a computation became infinite or not a number, by the name of the node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ortoscope_service.analysis.visualization.program import OBJECTIVE, Program
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.backward import build_backward, gradient_name
from ortoscope_service.graph.backward.walker import FLOATING, active_values

Array = NDArray[Any]


@dataclass(frozen=True)
class Culprit:
    """The first node whose result, or the last whose gradient, is not finite."""

    operator: str
    """Its operator."""

    node: str
    """Its name; that in the ONNX file, for a node of the model."""

    of_model: bool
    """Whether it belongs to the model, not to what was put around it."""

    backward: bool
    """Whether all results are finite, and it is the gradient that is not."""


def find_culprit(
    program: Program, batch: int, feeds: Mapping[str, Array], parameters: Mapping[str, Array]
) -> Culprit | None:
    """Finds the node at which a step stopped being finite.

    Args:
        program: What was run.
        batch: Items, of which at least one failed.
        feeds: Their feeds of the step.
        parameters: Their parameters.

    Returns:
        The node; None if everything is finite when it is computed again without optimizations.
    """
    forward = program.forward(program.graph_transforms, picture=False)
    graph = forward.graph
    objective = graph.outputs[0]
    candidates = [(node, output) for node in graph for output in node.outputs if output.dtype in FLOATING]
    graph.outputs[:] = [objective, *(output for _, output in candidates if output is not objective)]
    names = [output.name or "" for _, output in candidates]
    broken = _broken(program, "forward", forward, batch, feeds, parameters, names)
    for node, output in candidates:
        if output.name in broken:
            return _culprit(node, backward=False)
    graph.outputs[:] = [objective]
    sources = [value for value in graph.inputs if value.name in parameters]
    active = active_values(list(graph), sources)
    names = [output.name or "" for _, output in candidates if output in active and output is not objective]
    gradients = build_backward(forward, OBJECTIVE, with_respect_to=[*(s.name or "" for s in sources), *names])
    broken = _broken(program, "backward", gradients, batch, feeds, parameters, [gradient_name(name) for name in names])
    for node, output in reversed(candidates):
        if gradient_name(output.name or "") in broken:
            # Its result's gradient comes from the nodes that use it.
            users = [use.node for use in output.uses()]
            return _culprit(users[0] if users else node, backward=True)
    return None


def not_finite(step: int, item: int, culprit: Culprit | None) -> OrtoscopeError:
    """The error for an objective or a gradient that is infinite or not a number."""
    where = "at a place that a second run did not show"
    if culprit is not None:
        whose = "the model's" if culprit.of_model else "the visualization's own"
        what = "the gradient of" if culprit.backward else "the result of"
        where = f"in {what} {whose} {culprit.operator} node '{culprit.node}'"
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "OBJECTIVE_NOT_FINITE",
        f"At step {step} the objective of item {item} became infinite or not a number, first {where}. Choose another "
        "tap or objective, a smaller learning rate, or check the model's input range.",
        metadata={
            "step": str(step),
            "item": str(item),
            "operator": culprit.operator if culprit is not None else "",
            "node": culprit.node if culprit is not None else "",
        },
    )


def _broken(
    program: Program,
    which: str,
    graph: ir.Model,
    batch: int,
    feeds: Mapping[str, Array],
    parameters: Mapping[str, Array],
    names: Sequence[str],
) -> set[str]:
    """Those outputs of a graph that are infinite or not a number somewhere."""
    # All results are outputs, so that no optimization can leave one out.
    session = program.open_graph(("diagnosis", which), lambda: graph)
    inputs = [info.name for info in session.inputs]
    broken: set[str] = set()
    for _, given in program.step_runs(inputs, batch, feeds, dict(parameters)):
        found = session.run(given)
        broken.update(name for name in names if not np.isfinite(found[name]).all())
    return broken


def _culprit(node: ir.Node, *, backward: bool) -> Culprit:
    name = node.name or ""
    return Culprit(node.op_type, name.removeprefix("model/"), name.startswith("model/"), backward)
