"""What the inputs of a model hold, and numbers to try it with."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ortoscope_service.errors import invalid
from ortoscope_service.graph.axes import extents
from ortoscope_service.graph.batch_flow import batch_inputs
from ortoscope_service.graph.constants import constant_array, int_attribute
from ortoscope_service.models.manifest import OutputSpec, PixelLayout

DEFAULT_SIDE = 224
"""Height and width where the model leaves them free, unless the user says otherwise."""

_MIN_SIDE = 8
"""Below this, a 4-axis input with 1 or 3 channels is some other tensor."""

_FREE_EXTENT = 8
"""Extent tried for axes that are free and neither the batch nor an image's side, such as the length of a text."""

_ARGUMENT_PASSED_ON = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class ImageGeometry:
    """How a picture lies in an input."""

    layout: PixelLayout
    """Axes."""

    channels: int
    """1 or 3."""

    height: int
    """Pixels."""

    width: int
    """Pixels."""


@dataclass(frozen=True)
class InputShape:
    """An input as the graph states it."""

    name: str
    """Name in the ONNX file."""

    data_type: str
    """NumPy name of the element type; "object" for strings."""

    shape: tuple[int, ...]
    """Extent of every axis; -1 where it is free."""

    image: ImageGeometry | None
    """How a picture lies in it; None if it is no image, as far as can be seen."""


def describe_inputs(
    model: ir.Model, *, layout: PixelLayout | None = None, size: tuple[int, int] | None = None
) -> tuple[InputShape, ...]:
    """What each input holds.

    An input is taken for an image if it is float32, has four axes, and the axis after the batch (channels first) or
    the last (channels last) has an extent of 1 or 3; where both have, channels come first. If these axes are free, the
    input channels of the convolution that it feeds decide.

    Args:
        model: A model from `graph.loading.load_model`.
        layout: The layout, where the user gives it.
        size: Height and width, where the user gives them; only for a model that leaves them free, or the same.

    Raises:
        OrtoscopeError: `INVALID_LAYOUT` if no input can have that layout; `INVALID_SIZE` if the model fixes another.
    """
    inputs = []
    for value in model.graph.inputs:
        shape = tuple(extent if isinstance(extent, int) else -1 for extent in extents(value) or ())
        data_type = data_type_of(value)
        geometry = _geometry(value, shape, layout, size) if data_type == "float32" and len(shape) == 4 else None
        inputs.append(InputShape(value.name or "", data_type, shape, geometry))
    if layout is not None and not any(spec.image for spec in inputs):
        described = ", ".join(f"'{spec.name}' {spec.data_type} {list(spec.shape)}" for spec in inputs)
        raise invalid(
            "INVALID_LAYOUT",
            f"No input holds an image in the layout '{layout}'; the inputs are: {described}. An image is float32 with "
            "four axes and 1 or 3 channels.",
            layout=layout,
            inputs=described,
        )
    return tuple(inputs)


def describe_outputs(model: ir.Model) -> tuple[OutputSpec, ...]:
    """The outputs as the graph states them."""
    return describe_values(model.graph.outputs)


def describe_values(values: Iterable[ir.Value]) -> tuple[OutputSpec, ...]:
    """Name, type and shape of each value as the graph states them."""
    return tuple(
        OutputSpec(
            value.name or "",
            data_type_of(value),
            tuple(extent if isinstance(extent, int) else -1 for extent in extents(value) or ()),
        )
        for value in values
    )


def data_type_of(value: ir.Value) -> str:
    """NumPy name of a value's element type; "object" for strings and what NumPy does not have."""
    if value.dtype is None or value.dtype == ir.DataType.STRING:
        return "object"
    return value.dtype.numpy().name


def _geometry(
    value: ir.Value, shape: tuple[int, ...], layout: PixelLayout | None, size: tuple[int, int] | None
) -> ImageGeometry | None:
    axes: dict[PixelLayout, tuple[int, int, int]] = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2)}
    for candidate, (channel_axis, height_axis, width_axis) in axes.items():
        if layout not in {None, candidate}:
            continue
        channels = shape[channel_axis]
        if channels == -1 and (layout is not None or _convolved_channels(value) in {1, 3}):
            channels = _convolved_channels(value) or 3
        if channels not in {1, 3}:
            continue
        stated = (shape[height_axis], shape[width_axis])
        wanted = size or (DEFAULT_SIDE, DEFAULT_SIDE)
        height, width = (given if given > 0 else other for given, other in zip(stated, wanted, strict=True))
        if min(height, width) < _MIN_SIDE:
            continue
        if size is not None and size != (height, width):
            raise invalid(
                "INVALID_SIZE",
                f"The input '{value.name}' is fixed at {height} x {width} pixels; it cannot be "
                f"{size[0]} x {size[1]}. Leave --size out, or export the model with free height and width.",
                input=value.name,
                size=f"{size[0]}x{size[1]}",
                fixed=f"{height}x{width}",
            )
        return ImageGeometry(candidate, channels, height, width)
    return None


def _convolved_channels(value: ir.Value) -> int | None:
    """Input channels of the convolution that a value is handed to as it is."""
    for node, position in value.uses():
        if node.op_type == "Conv" and position == 0:
            weight = extents(node.inputs[1]) if node.inputs[1] is not None else None
            if weight and isinstance(weight[1], int):
                return weight[1] * int_attribute(node, "group", 1)
    return None


def random_feeds(
    model: ir.Model, inputs: tuple[InputShape, ...], batch: int, *, seed: int = 0
) -> dict[str, npt.NDArray[np.generic]]:
    """Numbers for every input, another for each item of the batch.

    Floats are normal with mean 0 and standard deviation 1, booleans true, integers below the size of the table that
    they are looked up in (0 and 1 where there is none). Free axes other than the batch and an image's sides get the
    extent 8.

    Args:
        model: The model.
        inputs: Its inputs.
        batch: Items, for the inputs that have a free first axis.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    batched = batched_inputs(model)
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for value, spec in zip(model.graph.inputs, inputs, strict=True):
        shape = [extent if extent >= 0 else _FREE_EXTENT for extent in concrete_shape(spec)]
        if shape and spec.shape[0] == -1 and spec.name in batched:
            shape[0] = batch
        feeds[spec.name] = _random(value, spec.data_type, tuple(shape), rng)
    return feeds


def concrete_shape(spec: InputShape) -> tuple[int, ...]:
    """The shape with an image's channels and sides filled in where the graph leaves them free."""
    if spec.image is None:
        return spec.shape
    image = spec.image
    if image.layout == "nchw":
        return (spec.shape[0], image.channels, image.height, image.width)
    return (spec.shape[0], image.height, image.width, image.channels)


def batched_inputs(model: ir.Model) -> frozenset[str]:
    """Names of the inputs whose first axis is the batch."""
    return frozenset(value.name or "" for value in batch_inputs(model.graph)[0])


def _random(
    value: ir.Value, data_type: str, shape: tuple[int, ...], rng: np.random.Generator
) -> npt.NDArray[np.generic]:
    if data_type == "object":
        return np.full(shape, "a", dtype=object)
    dtype = np.dtype(data_type)
    if dtype == np.bool_:
        return np.ones(shape, dtype)
    if np.issubdtype(dtype, np.integer):
        limit = min(_table_sizes(value), default=2)
        return rng.integers(0, max(1, min(limit, np.iinfo(dtype).max)), shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _table_sizes(value: ir.Value) -> Iterator[int]:
    """Extents of the constant tables that an input's numbers are indices into."""
    for node, position in value.uses():
        if node.op_type == "Gather" and position == 1:
            table = constant_array(node.inputs[0])
            if table is not None:
                yield table.shape[int_attribute(node, "axis", 0)]
        elif node.op_type in _ARGUMENT_PASSED_ON and position == 0:
            yield from _table_sizes(node.outputs[0])
