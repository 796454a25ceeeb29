"""The tensors of a model that can be looked at, and what is known about each."""

import difflib
import enum
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ortoscope_service.errors import not_found
from ortoscope_service.graph.axes import dependent_values, extents
from ortoscope_service.graph.batch_flow import BatchPlace, batch_inputs, batch_places
from ortoscope_service.graph.names import name_tensors
from ortoscope_service.graph.nonlinearities import find_nonlinearities
from ortoscope_service.graph.unit_flow import fallback_unit_axis, unit_axes

_DATA_TYPES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16", ir.DataType.DOUBLE: "float64"}
"""bfloat16 is left out: it has no NumPy type, and the CPU provider computes next to nothing in it."""

BY_PRODUCT = "ortoscope.by_product"
"""Key in the metadata of a tensor that keeps it from being a tap."""

_FIRST_OUTPUT_ONLY = frozenset({"BatchNormalization", "Dropout", "LayerNormalization", "MaxPool"})
"""Operators whose further outputs (masks, statistics) are by-products of training."""


class Layout(enum.Enum):
    """How the axes of a tap are arranged."""

    VECTOR = "vector"
    """(batch, unit)."""

    CHANNELS_FIRST = "channels_first"
    """(batch, unit, site, …)."""

    CHANNELS_LAST = "channels_last"
    """(batch, site, …, unit) with two or more site axes."""

    TOKENS = "tokens"
    """(batch, token, unit)."""


@dataclass(frozen=True)
class Tap:
    """An intermediate tensor (or output) of a model that can be asked for. Its first axis is the batch."""

    tensor: str
    """The tensor's name in the ONNX file; identifies the tap."""

    display_name: str
    """The name to show: the exporter's module path where there is one. Unique in the model."""

    aliases: tuple[str, ...]
    """Further names that `resolve_tap` accepts; none stands for two taps."""

    operator: str
    """Operator that made the tensor: "Conv"."""

    node: str
    """Name of the node that made it; may be empty."""

    data_type: str
    """NumPy name of the element type: "float16", "float32" or "float64"."""

    shape: tuple[int, ...]
    """Extent of every axis; -1 where it is free (the batch) or not known."""

    layout: Layout
    """How the axes are arranged."""

    unit_axis: int
    """The axis along which the units lie, never 0."""

    site_axes: tuple[int, ...]
    """The other axes but the batch, in order: positions or tokens."""

    unit_count: int
    """Number of units; 0 if it is not known before the model runs."""

    pre_activation: str
    """If an activation function made this tensor, the tensor it was applied to, if that is a tap; else empty."""

    post_activation: str
    """If an activation function is applied to this tensor, the result, if that is a tap; else empty."""

    upper_limit: float | None
    """The largest value that the tensor can hold (6 after ReLU6, 1 after Sigmoid), None if there is none. Kept through
    operators that only move or select values (Transpose, Reshape, MaxPool)."""


def find_taps(model: ir.Model) -> tuple[Tap, ...]:
    """Finds every tensor of a model that a user could mean.

    These are the floating-point tensors, outputs among them, that depend on an input's values and whose first axis is
    the batch with a further axis for the units. Left out are weights and what is computed from them alone, integers
    and shape arithmetic, tensors in which items are merged or not along the first axis, by-products (dropout masks),
    and the insides of subgraphs.

    Args:
        model: A model from `loading.load_model`.

    Returns:
        The taps in the order in which the model computes them.
    """
    graph = model.graph
    dependent = dependent_values(graph)
    places = batch_places(graph)
    _, batch = batch_inputs(graph)
    values = [
        output
        for node in graph
        for index, output in enumerate(node.outputs)
        if output in dependent
        and output.name
        and output.dtype in _DATA_TYPES
        and not (index and node.op_type in _FIRST_OUTPUT_ONLY)
        and BY_PRODUCT not in output.metadata_props
        and _has_leading_batch(output, places.get(output), batch)
    ]
    names = name_tensors(values, graph)
    units = unit_axes(graph)
    activations = find_nonlinearities(graph, dependent)
    tensor_of = {value: value.name or "" for value in values}
    taps = []
    for value in values:
        node = value.producer()
        shape = extents(value)
        assert node is not None
        assert shape is not None
        layout, unit_axis = _arrange(units.get(value), len(shape), fallback_unit_axis(shape))
        sizes = tuple(size if isinstance(size, int) else -1 for size in shape)
        pre = activations.pre_activation.get(value)
        post = activations.post_activation.get(value)
        taps.append(
            Tap(
                tensor=tensor_of[value],
                display_name=names[value].display,
                aliases=names[value].aliases,
                operator=node.op_type,
                node=node.name or "",
                data_type=_DATA_TYPES[value.dtype or ir.DataType.FLOAT],
                shape=sizes,
                layout=layout,
                unit_axis=unit_axis,
                site_axes=tuple(axis for axis in range(1, len(shape)) if axis != unit_axis),
                unit_count=max(0, sizes[unit_axis]),
                pre_activation=tensor_of.get(pre, "") if pre is not None else "",
                post_activation=tensor_of.get(post, "") if post is not None else "",
                upper_limit=activations.upper_limit.get(value),
            )
        )
    return tuple(taps)


def resolve_tap(taps: Sequence[Tap], name: str, *, field: str = "tap") -> Tap:
    """Finds a tap by its tensor name, its display name or an alias, in this order.

    Args:
        taps: The taps of a model.
        name: The name to find.
        field: The request field that held the name, for the error.

    Returns:
        The tap.

    Raises:
        OrtoscopeError: `UNKNOWN_TAP` (NOT_FOUND), with the closest names.
    """
    for tap in taps:
        if tap.tensor == name:
            return tap
    for tap in taps:
        if tap.display_name == name:
            return tap
    for tap in taps:
        if name in tap.aliases:
            return tap
    known = dict.fromkeys(known for tap in taps for known in (tap.display_name, tap.tensor, *tap.aliases))
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or [tap.display_name for tap in taps[-5:]]
    listing = ", ".join(map(repr, close))
    raise not_found(
        "UNKNOWN_TAP",
        f"The model has no tap {name!r}. Close names: {listing}.",
        field=field,
        tap=name,
        close_names=listing,
    )


def _has_leading_batch(value: ir.Value, place: BatchPlace | None, batch: int | str | None) -> bool:
    shape = extents(value)
    if shape is None or len(shape) < 2:
        return False
    if place is not None:
        return place.alone and place.axis == 0
    # Where the flow is lost (in a loop, say), a free first axis of the batch's own name is still a sure sign.
    return isinstance(batch, str) and shape[0] == batch


def _arrange(unit_axis: int | None, rank: int, fallback: int) -> tuple[Layout, int]:
    """The layout and the axis of the units; an axis in the middle (a transposed key of attention) has no layout."""
    if unit_axis not in {1, rank - 1}:
        unit_axis = fallback
    assert unit_axis is not None
    if rank == 2:
        return Layout.VECTOR, 1
    if unit_axis == 1:
        return Layout.CHANNELS_FIRST, 1
    return (Layout.TOKENS if rank == 3 else Layout.CHANNELS_LAST), unit_axis
