"""The adjoint of a turn: pixels are moved back, rather than added up one by one."""

import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass, RemoveUnusedNodesPass

from ortoscope_service.analysis.visualization.transforms import RETURNS, TURNS, Transforms
from ortoscope_service.graph.loading import infer_shapes


def move_back(model: ir.Model, transforms: Transforms | None, channels: int) -> None:
    """Replaces, in place, the scattered sum that a backward graph has for a turn by an equal gather.

    A turn takes no pixel twice (`resampling.turn`), so that the gradient at a pixel of the canvas is the one cotangent
    of the place that it moved to, or 0 if it was cut off. ONNX Runtime adds scattered elements in one thread: the
    gather takes a third of the time.

    Args:
        model: From `build_backward`.
        transforms: The transforms that it holds.
        channels: Of the picture.
    """
    if transforms is None or not transforms.turns:
        return
    graph = model.graph
    scattered = [node for node in graph if node.op_type == "ScatterElements" and _is_turn(node.inputs[1])]
    pixels = transforms.canvas[0] * transforms.canvas[1]
    for node in scattered:
        index = ir.Value(
            name=RETURNS, shape=ir.Shape((transforms.items, pixels)), type=ir.TensorType(ir.DataType.INT32)
        )
        axes = ir.Value(name="returns/axes", const_value=ir.tensor([1], ir.DataType.INT64))
        copies = ir.Value(name="returns/copies", const_value=ir.tensor([1, channels, 1], ir.DataType.INT64))
        one_more = ir.Value(name="returns/one_more", const_value=ir.tensor([0, 0, 0, 0, 0, 1], ir.DataType.INT64))
        for constant in (axes, copies, one_more):
            graph.register_initializer(constant)
        row = ir.node("Unsqueeze", [index, axes], name="returns/row")
        rows = ir.node("Expand", [row.outputs[0], copies], name="returns/rows")
        # The zero after the last pixel is what goes back to where nothing came from.
        longer = ir.node("Pad", [node.inputs[2], one_more], name="returns/longer")
        moved = ir.node("GatherElements", [longer.outputs[0], rows.outputs[0]], {"axis": 2}, name="returns/moved")
        for made in (row, rows, longer, moved):
            made.outputs[0].name = made.name
        graph.insert_before(node, [row, rows, longer, moved])
        result = moved.outputs[0]
        result.shape, result.type = node.outputs[0].shape, node.outputs[0].type
        node.outputs[0].replace_all_uses_with(result)
        graph.inputs.append(index)
    RemoveUnusedNodesPass()(model)
    infer_shapes(model)
    CheckerPass()(model)


def _is_turn(index: ir.Value | None) -> bool:
    """Whether an index is computed from that of a turn."""
    while index is not None and index.name != TURNS:
        node = index.producer()
        index = node.inputs[0] if node is not None else None
    return index is not None
