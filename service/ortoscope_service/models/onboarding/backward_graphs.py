"""The backward graphs of a model package: built here or given by the user, and checked alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.graph.taps import Tap, resolve_tap
from ortoscope_service.models.manifest import BackwardGraph
from ortoscope_service.models.onboarding.backward_check import check_gradient
from ortoscope_service.models.onboarding.backward_contract import check_contract
from ortoscope_service.models.onboarding.serving import Served
from ortoscope_service.models.onboarding.wishes import Wishes
from ortoscope_service.models.repository import digest_of


@dataclass(frozen=True)
class WantedGraph:
    """A backward graph that shall be part of the package."""

    tap: Tap
    """The tap that it differentiates."""

    file: Path | None
    """The user's own; None if it is to be built."""


@dataclass(frozen=True)
class CheckedGraph:
    """A backward graph that passed."""

    content: bytes
    """Its ONNX file."""

    entry: BackwardGraph
    """What the manifest says of it."""


def wanted_graphs(served: Served, wishes: Wishes) -> tuple[WantedGraph, ...]:
    """The backward graphs that the user wishes for; an empty name of a tap stands for all outputs that are taps.

    Raises:
        OrtoscopeError: `UNKNOWN_TAP`; `DUPLICATE_BACKWARD_GRAPH`: a tap that is named twice; `NO_OUTPUT_TAP`: no output
            is a tap.
    """
    outputs = {value.name for value in served.model.graph.outputs}
    own = tuple(tap for tap in served.taps if tap.tensor in outputs)
    if "" in wishes.backward and not own:
        raise invalid("NO_OUTPUT_TAP", "No output of the model is a tap; name the taps whose backward graphs to keep.")
    wanted: dict[str, WantedGraph] = {}
    for name in wishes.backward:
        for tap in (resolve_tap(served.taps, name),) if name else own:
            wanted[tap.tensor] = WantedGraph(tap, None)
    for name, file in wishes.backward_graphs:
        tap = resolve_tap(served.taps, name)
        if tap.tensor in wanted:
            raise invalid(
                "DUPLICATE_BACKWARD_GRAPH",
                f"Two backward graphs are asked for tap '{name}'; a package holds one for each tap.",
                tap=name,
            )
        wanted[tap.tensor] = WantedGraph(tap, file)
    return tuple(wanted.values())


def check_graphs(
    served: Served,
    wanted: Sequence[WantedGraph],
    feeds: Mapping[str, npt.NDArray[np.generic]],
    progress: Callable[[str], None],
) -> tuple[CheckedGraph, ...]:
    """Builds or reads backward graphs, and compares them with the model.

    Args:
        served: The model.
        wanted: Which.
        feeds: Inputs of the model, several different items.
        progress: Told what is being done.

    Raises:
        OrtoscopeError: As `build_backward`, `load_model`, `check_contract` and `check_gradient` raise;
            `BACKWARD_GRAPH_UNVERIFIED` (FAILED_PRECONDITION): of a given graph it could not be told.
    """
    return tuple(_checked(served, graph, feeds, progress) for graph in wanted)


def unverified(graphs: Sequence[CheckedGraph]) -> list[str]:
    """Warnings about graphs of which it could not be told."""
    return [
        f"THE BACKWARD GRAPH OF '{graph.entry.tap}' IS NOT VERIFIED: finite differences did not settle at any step."
        for graph in graphs
        if graph.entry.check.outcome == "inconclusive"
    ]


def _checked(
    served: Served,
    wanted: WantedGraph,
    feeds: Mapping[str, npt.NDArray[np.generic]],
    progress: Callable[[str], None],
) -> CheckedGraph:
    tap = wanted.tap
    forward = trunk(served.model, [tap.tensor])
    if wanted.file is None:
        progress(f"building the backward graph of {tap.display_name}")
        graph = build_backward(forward, tap.tensor)
    else:
        progress(f"reading the backward graph of {tap.display_name}")
        graph = load_model(wanted.file)
        check_contract(graph, forward, served.model)
    progress(f"comparing the backward graph of {tap.display_name} with finite differences")
    content = serialize(graph)
    check = check_gradient(content, forward, feeds, fixed_batch=served.fixed_batch)
    if wanted.file is not None and check.outcome == "inconclusive":
        raise _unverified(tap)
    origin: Literal["built", "given"] = "built" if wanted.file is None else "given"
    return CheckedGraph(content, BackwardGraph(tap.tensor, digest_of(content), len(content), (), origin, check))


def _unverified(tap: Tap) -> OrtoscopeError:
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "BACKWARD_GRAPH_UNVERIFIED",
        f"The backward graph of tap '{tap.display_name}' cannot be verified: on the inputs tried, finite differences "
        "of the model do not settle at any step, or the gradient is zero. Give pictures with --images, or let the "
        "graph be built with --backward.",
        metadata={"tap": tap.tensor},
    )
