"""From pictures in [0, 1] to the input of a model: its range, its order of colours and of axes, and its size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ortoscope_service.analysis.visualization.graphs import GraphWriter
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.graph.backward.walker import active_values
from ortoscope_service.graph.loading import serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.models.manifest import InputSpec, Preprocessing
from ortoscope_service.models.repository import ModelVersion
from ortoscope_service.runtime.caching import Cache, Made

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as `models.preprocessing` has it."""

_KNOWN: Cache[Mapping[str, tuple[int, ...]] | None] = Cache(4096)
"""Shapes of taps by model, tensors and shape of the input."""

_PROBE = 2
"""Items of a batch that shapes are inferred for: a number that is 1 nowhere by itself."""


@dataclass(frozen=True)
class ModelInput:
    """The part of a model that computes some tensors, and its only input."""

    version: ModelVersion
    """The model."""

    tensors: tuple[str, ...]
    """The tensors; may be empty, then there is no model in the graph."""

    spec: InputSpec
    """The input."""

    @classmethod
    def of(cls, version: ModelVersion, tensors: Sequence[str]) -> "ModelInput":
        """The input that some tensors are computed from.

        Raises:
            OrtoscopeError: `TAP_UNREACHABLE` (FAILED_PRECONDITION): none of them changes smoothly with an input;
                `SEVERAL_INPUTS` (FAILED_PRECONDITION): they are computed from more than one.
        """
        names = tuple(dict.fromkeys(tensors))
        specs = version.manifest.inputs
        if names:
            graph = trunk(version.load(), names).graph
            needed = {value.name for value in graph.inputs}
            specs = tuple(spec for spec in specs if spec.name in needed)
            moved = active_values(list(graph), graph.inputs)
            if not any(value in moved for value in graph.outputs):
                raise _unreachable(version, names)
        if len(specs) != 1:
            listing = ", ".join(repr(spec.name) for spec in specs) or "none"
            raise OrtoscopeError(
                Code.FAILED_PRECONDITION,
                "SEVERAL_INPUTS",
                f"The tensors of this objective are computed from {len(specs)} inputs ({listing}); what is optimised "
                "must be the only one. Choose tensors that depend on one input.",
                field="objective",
                metadata={"inputs": listing},
            )
        return cls(version, names, specs[0])

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What pictures are made into; None for an input that is a tensor of any other kind."""
        return self.spec.preprocessing

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the pictures that the model states; None if it states none."""
        if self.preprocessing is not None:
            return self.preprocessing.height, self.preprocessing.width
        sizes = self.spec.shape[2:]
        return (sizes[0], sizes[1]) if len(self.spec.shape) == 4 and min(sizes) > 0 else None

    def require_channels(self, channels: int) -> None:
        """Refuses pictures of other channels than the model takes.

        Raises:
            OrtoscopeError: `CHANNELS_MISMATCH`.
        """
        if self.preprocessing is not None:
            taken = {3} if self.preprocessing.color_order != "gray" else {1, 3}
        else:
            taken = {self.spec.shape[1]} if len(self.spec.shape) > 1 else set()
        if channels not in taken and taken != {-1}:
            wanted = " or ".join(map(str, sorted(taken)))
            raise invalid(
                "CHANNELS_MISMATCH",
                f"The pictures have {channels} channels, but the input '{self.spec.name}' takes {wanted}.",
                field="parameterization.channels",
                channels=channels,
                expected=wanted,
            )

    def shape_of(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """The shape of one item of the input for pictures of a size."""
        if self.preprocessing is None:
            return (self.spec.shape[1], *size)
        channels = 1 if self.preprocessing.color_order == "gray" else 3
        return (channels, *size) if self.preprocessing.layout == "nchw" else (*size, channels)

    def tap_shapes(self, item: Sequence[int]) -> Mapping[str, tuple[int, ...]] | None:
        """The shapes of one item of each tensor for an input of which one item has this shape; found out once.

        None if the model's operators do not go together at that size, or ONNX's inference cannot tell. A model whose
        file states one size often runs at others; but a Reshape to fixed sizes may then take positions for items, which
        shows in the inferred batch.
        """
        shape = tuple(item)
        key = self.version.manifest.digest, self.tensors, shape
        return _KNOWN.get(key, lambda: Made(self._inferred_shapes(shape), 1))

    def _inferred_shapes(self, item: tuple[int, ...]) -> Mapping[str, tuple[int, ...]] | None:
        if not self.tensors:
            return {}
        part = trunk(self.version.load(), self.tensors)
        (given,) = part.graph.inputs
        batch = self.version.manifest.fixed_batch or _PROBE
        given.shape = ir.Shape([batch, *item])
        for node in ir.traversal.RecursiveGraphIterator(part.graph):
            for output in node.outputs:
                output.shape = None
        try:
            inferred = onnx.shape_inference.infer_shapes(
                onnx.ModelProto.FromString(serialize(part)), check_type=True, strict_mode=True, data_prop=True
            )
        except Exception:  # noqa: BLE001 - inference raises whatever an operator's rule raises
            return None
        if not _reshapes_hold(inferred.graph):
            return None
        shapes = {}
        for value in inferred.graph.output:
            whole = [size.dim_value if size.HasField("dim_value") else -1 for size in value.type.tensor_type.shape.dim]
            if not whole or whole[0] != batch or min(whole) < 0:
                return None
            shapes[value.name] = tuple(whole[1:])
        return shapes

    def build(
        self, g: GraphWriter, seen: ir.Value, items: int | str, item: Sequence[int], *, plus: float = 0.0
    ) -> dict[str, ir.Value]:
        """Appends the model.

        Args:
            g: The graph.
            seen: What the model is shown: pictures (items, channels, height, width) in [0, 1], or what the input takes.
            items: Extent of the first axis, or its name.
            item: The other extents.
            plus: What is to be added to what the model is shown.

        Returns:
            The tensors by name.
        """
        if not self.tensors:
            return {}
        shape = tuple(item)
        if self.preprocessing is not None:
            seen = in_range(g, seen, self.preprocessing, item[0], plus=plus)
            shape = self.shape_of((item[1], item[2]))
        elif plus:
            seen = g.add(seen, g.constant(plus))
        if self.spec.data_type != "float32":
            seen = g.op("Cast", [seen], to=ir.DataType.from_numpy(np.dtype(self.spec.data_type)))
        seen.shape = ir.Shape([items, *shape])
        return g.inline(trunk(self.version.load(), self.tensors), {self.spec.name: seen})


def _unreachable(version: ModelVersion, tensors: Sequence[str]) -> OrtoscopeError:
    shown = {tap.tensor: tap.display_name for tap in version.manifest.taps}
    listing = ", ".join(f"'{shown.get(tensor, tensor)}'" for tensor in tensors)
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "TAP_UNREACHABLE",
        f"No input of the model reaches {listing} but by steps: no small change of what is shown to it changes "
        "anything there. Choose other taps.",
        field="objective",
        metadata={"taps": listing},
    )


def in_range(
    g: GraphWriter, picture: ir.Value, preprocessing: Preprocessing, channels: int, *, plus: float = 0.0
) -> ir.Value:
    """Appends (255 (x + plus) - mean) / std of pictures in [0, 1], in the model's order of colours and axes."""
    gain = 255 / np.array(preprocessing.std)
    offset = (255 * plus - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    if preprocessing.color_order == "gray":
        gain, offset = gain[:1], offset[:1]
        if channels == 3:
            luma = g.constant(np.array(_LUMA, np.float32).reshape(1, 3, 1, 1))
            picture = g.total(g.multiply(picture, luma), [1], keepdims=True)
    value = g.multiply(picture, _per_channel(g, gain))
    if np.any(offset):
        value = g.add(value, _per_channel(g, offset))
    if preprocessing.color_order == "bgr":
        value = g.op("Gather", [value, g.constant([2, 1, 0])], axis=1)
    return value if preprocessing.layout == "nchw" else g.transpose(value, [0, 2, 3, 1])


def _per_channel(g: GraphWriter, numbers: NDArray[np.float64]) -> ir.Value:
    if len(set(numbers.tolist())) == 1:
        return g.constant(np.float32(numbers[0]))
    return g.constant(numbers.astype(np.float32).reshape(1, -1, 1, 1))


def _reshapes_hold(graph: onnx.GraphProto) -> bool:
    """Whether every Reshape keeps the number of elements, as far as it is known: inference believes constant shapes."""
    counts: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        sizes = kind.shape.dim
        if kind.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            counts[value.name] = math.prod(size.dim_value for size in sizes)
    return all(
        counts[node.input[0]] == counts[node.output[0]]
        for node in graph.node
        if node.op_type == "Reshape" and not node.domain and {node.input[0], node.output[0]} <= counts.keys()
    )
