"""Windows: of each crop of a picture, what it shows alone takes part in its products, not the whole picture.

A window is cut out in stretches of neighbouring pixels of a row, its *blocks*, and begins at one: a stretch is copied,
and its gradient added, at once. All windows of a step have one size, that of the largest, which differs from step to
step.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import CheckerPass, RemoveUnusedNodesPass

from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.resampling import Float, Size, Span
from ortoscope_service.graph.backward.builder import Builder
from ortoscope_service.graph.loading import infer_shapes

FIRST, OFFSETS = "transform.windows.first", "transform.windows.offsets"
"""Inputs: (batch, views) int64, the first block of each view's window, and (channels, rows, blocks) int64, where the
others lie after it; blocks of an item count from 0, row by row, channel by channel."""

WINDOW_ROWS, WINDOW_COLUMNS = "window_rows", "window_columns"
"""Names of the extents of a window."""

_LONGEST = 32
"""Pixels of a block, or fewer: of EfficientNet's input, 128 bytes of a row."""

_ROUNDED = 32
"""Windows have a multiple of so many rows: few sizes, so that memory is used again."""


def block_of(width: int) -> int:
    """Pixels of a block in a picture so wide: as many blocks as fill its rows."""
    return math.gcd(width, _LONGEST)


def spans(positions: Float, reach: Float, size: int, *, aligned_to: int = 1) -> Span:
    """Where windows must lie to hold every pixel that an interpolation reads.

    Args:
        positions: (views, outputs): what each view shows, in pixels.
        reach: (views,): of the kernel, at least 1.
        size: Pixels of the picture along the axis.
        aligned_to: Windows begin at a multiple of it, which divides the size, and their extent is one.
    """
    beside = np.ceil(reach).astype(np.int64)
    low = np.clip(np.floor(positions.min(axis=1)).astype(np.int64) + 1 - beside, 0, size - 1) // aligned_to
    high = np.clip(np.floor(positions.max(axis=1)).astype(np.int64) + beside, 0, size - 1) // aligned_to
    units, step = size // aligned_to, max(1, _ROUNDED // aligned_to)
    extent = min(units, -(-int((high - low).max() + 1) // step) * step)
    return Span(np.minimum(low, units - extent) * aligned_to, extent * aligned_to)


def window_feeds(rows: Span, columns: Span, image: Size, channels: int, views: int) -> dict[str, NDArray[Any]]:
    """What the graph is told of windows: `FIRST` and `OFFSETS`."""
    height, width = image
    block = block_of(width)
    across = width // block
    offsets = (
        np.arange(channels)[:, None, None] * (height * across)
        + np.arange(rows.extent)[:, None] * across
        + np.arange(columns.extent // block)
    )
    first = rows.start * across + columns.start // block
    return {FIRST: first.reshape(-1, views), OFFSETS: offsets.astype(np.int64)}


def cut_windows(g: GraphWriter, image: ir.Value, size: Size, channels: int, views: int) -> ir.Value:
    """The windows of all views.

    Args:
        g: The graph.
        image: (batch, channels, height, width).
        size: Its height and width.
        channels: How many.
        views: How many of each item.

    Returns:
        (batch, views, channels, rows, columns), the last two as large as this step's windows.
    """
    block = block_of(size[1])
    blocks = channels * size[0] * size[1] // block
    first = g.input(FIRST, [BATCH, views], np.int64)
    offsets = g.input(OFFSETS, [channels, WINDOW_ROWS, "window_blocks"], np.int64)
    items = g.op("Gather", [g.op("Shape", [first]), g.constant(np.int64(0))])
    item = g.op("Range", [g.constant(np.int64(0)), items, g.constant(np.int64(1))])
    own = g.add(first, g.unsqueeze(g.multiply(item, g.constant(np.int64(blocks))), [1]))
    index = g.add(g.unsqueeze(own, [2, 3, 4]), offsets)
    return g.reshape(g.op("Gather", [g.reshape(image, [-1, block]), index], axis=0), [0, 0, 0, 0, -1])


def add_windows(model: ir.Model, width: int, views: int) -> None:
    """Replaces, in place, the sum element by element that a backward graph has for windows by one block by block.

    Windows of different views overlap, and ONNX Runtime adds what one ScatterND scatters in parallel without a lock. So
    each view has a ScatterND of its own, whose blocks all differ, and they follow one another.

    Args:
        model: From `build_backward`, of a graph with windows.
        width: Of the picture.
        views: How many of each item.
    """
    graph = model.graph
    scattered = [node for node in graph if node.op_type == "ScatterElements" and _comes_from_first(node.inputs[1])]
    index = next(node.inputs[1] for node in graph if node.op_type == "Gather" and _comes_from_first(node.inputs[1]))
    taken = {value.name or "" for value in ir.convenience.create_value_mapping(graph).values()}
    for node in scattered:
        b = Builder(taken, "windows/")
        places = b.op("Reshape", index, b.ints([0, 0, -1, 1]))
        extents = b.op("Slice", b.op("Shape", places), b.ints([0]), b.ints([3]))
        shape = b.op("Concat", extents, b.ints([block_of(width)]), axis=0)
        updates = b.op("Reshape", node.inputs[2], shape)
        total, one = node.inputs[0], b.ints([1])
        for place, update in zip(_split(b, places, views), _split(b, updates, views), strict=True):
            total = b.op("ScatterND", total, b.op("Squeeze", place, one), b.op("Squeeze", update, one), reduction="add")
        assert total is not None  # there is at least one view
        for constant in b.constants:
            graph.register_initializer(constant)
        graph.insert_before(node, list(b.nodes))
        total.shape, total.type = node.outputs[0].shape, node.outputs[0].type
        node.outputs[0].replace_all_uses_with(total)
    RemoveUnusedNodesPass()(model)
    infer_shapes(model)
    CheckerPass()(model)


def _split(b: Builder, value: ir.Value, views: int) -> Sequence[ir.Value]:
    """The parts of a value that belong to each view, its second axis."""
    return [value] if views == 1 else b.ops("Split", value, outputs=views, axis=1, num_outputs=views)


def _comes_from_first(index: ir.Value | None) -> bool:
    """Whether an index is computed from that of windows."""
    if index is None or index.name == FIRST:
        return index is not None
    node = index.producer()
    return node is not None and any(_comes_from_first(value) for value in node.inputs)
