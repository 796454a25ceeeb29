"""`ortoscope-server backward` and `tangent`: gradient graphs as ordinary ONNX files, for any runtime to run."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ortoscope_service.graph.backward import Relaxations, build_backward, build_tangent
from ortoscope_service.graph.constants import weight_bytes
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import expose, trunk
from ortoscope_service.models.manifest import OutputSpec
from ortoscope_service.models.onboarding.exposing import find_tensors, replace_file
from ortoscope_service.models.onboarding.inputs import describe_values
from ortoscope_service.models.onboarding.report import shape_text, table
from ortoscope_service.models.onboarding.serving import free_batch

Progress = Callable[[str], None]
"""Told, in words, what is being done."""


@dataclass(frozen=True)
class GraphSize:
    """How large an ONNX file is."""

    nodes: int
    """Operators."""

    size_bytes: int
    """Bytes of the file."""

    weight_bytes: int
    """How many of them are constants."""

    @classmethod
    def of(cls, model: ir.Model, content: bytes) -> "GraphSize":
        """The size of a model and its file."""
        return cls(len(model.graph), len(content), weight_bytes(model))


@dataclass(frozen=True)
class GradientFile:
    """What was written."""

    kind: str
    """ "backward" or "tangent"."""

    tensor: str
    """The tensor of the tap."""

    inputs: tuple[OutputSpec, ...]
    """The inputs of the file."""

    outputs: tuple[OutputSpec, ...]
    """Its outputs."""

    size: GraphSize
    """How large it is."""

    forward: GraphSize
    """How large the part of the model that it differentiates is by itself."""

    batch: str
    """What was done about the batch and how it was verified, in words."""

    relaxations: tuple[str, ...]
    """Names of the departures from the true gradient."""

    def render(self) -> str:
        """The report as plain text."""
        own, forward = self.size, self.forward
        lines = [
            f"{self.kind} graph of '{self.tensor}'",
            "",
            *table("inputs", [_row(spec) for spec in self.inputs]),
            *table("outputs", [_row(spec) for spec in self.outputs]),
            f"nodes        {own.nodes:,} (forward graph: {forward.nodes:,})",
            f"size         {own.size_bytes:,} bytes (forward graph: {forward.size_bytes:,})",
            f"of that      {own.weight_bytes:,} bytes of weights (forward graph: {forward.weight_bytes:,})",
            f"batch        {self.batch}",
            f"relaxations  {', '.join(self.relaxations) or 'none: the true derivative'}",
            "",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The report as a JSON object, names in snake_case."""
        return dataclasses.asdict(self)


def backward_file(
    source: Path,
    tap: str,
    output: Path,
    *,
    at: Sequence[str] = (),
    relax: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> GradientFile:
    """Writes the backward graph of a tap. A file that is there already is replaced as a whole.

    Args:
        source: The ONNX file.
        tap: Name of a tap, or of any other tensor of the main graph.
        output: Where to write.
        at: Where the gradient is wanted: names of inputs, taps or other tensors; by default all float inputs.
        relax: Names of departures from the true gradient.
        progress: Told what is being done.

    Raises:
        OrtoscopeError: As `load_model`, `resolve_tap`, `Relaxations.parse` and `build_backward` raise;
            `OUTPUT_NOT_WRITABLE` (FAILED_PRECONDITION).
    """
    relaxations = Relaxations.parse(relax)
    progress("reading the model")
    model = load_model(source)
    inputs = [value.name for value in model.graph.inputs if value.name is not None and value.name in at]
    tensor, *others = find_tensors(model, [tap, *(name for name in at if name not in inputs)])
    progress("verifying the batch")
    forward, batch = free_batch(trunk(model, [tensor]))
    progress("building the graph")
    graph = build_backward(forward, tensor, with_respect_to=[*inputs, *others], relaxations=relaxations)
    return _write(output, "backward", tensor, graph, forward, batch, relaxations)


def tangent_file(
    source: Path,
    tap: str,
    output: Path,
    *,
    relax: Sequence[str] = (),
    progress: Progress = lambda _: None,
) -> GradientFile:
    """Writes the tangent graph from a tap to the outputs. A file that is there already is replaced as a whole.

    Args:
        source: The ONNX file.
        tap: Name of a tap, or of any other tensor of the main graph.
        output: Where to write.
        relax: Names of departures from the true derivative.
        progress: Told what is being done.

    Raises:
        OrtoscopeError: As `load_model`, `resolve_tap`, `Relaxations.parse` and `build_tangent` raise;
            `OUTPUT_NOT_WRITABLE` (FAILED_PRECONDITION).
    """
    relaxations = Relaxations.parse(relax)
    progress("reading the model")
    model = load_model(source)
    (tensor,) = find_tensors(model, [tap])
    progress("verifying the batch")
    forward, batch = free_batch(expose(model, [tensor]))
    progress("building the graph")
    graph = build_tangent(forward, tensor, relaxations=relaxations)
    return _write(output, "tangent", tensor, graph, forward, batch, relaxations)


def _write(
    output: Path,
    kind: str,
    tensor: str,
    graph: ir.Model,
    forward: ir.Model,
    batch: str,
    relaxations: Relaxations,
) -> GradientFile:
    content = serialize(graph)
    replace_file(output, content)
    return GradientFile(
        kind,
        tensor,
        describe_values(graph.graph.inputs),
        describe_values(graph.graph.outputs),
        GraphSize.of(graph, content),
        GraphSize.of(forward, serialize(forward)),
        batch,
        relaxations.names,
    )


def _row(spec: OutputSpec) -> tuple[str, str, str]:
    return spec.name, spec.data_type, shape_text(spec.shape)
