"""Models that harm the process which runs them: they crash it, exhaust its memory, or keep it busy for ever.

Each takes `x` (n, 4) float32. Its tap `safe` = Relu(x) does no harm; its output `y` (n, 4) does.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper
from tiny_models import GraphBuilder, float_value

HUNGER = 12 * 1024**3
"""Bytes that `hungry` asks for."""


def _model(g: GraphBuilder, harm: str) -> onnx.ModelProto:
    """`y` = `safe` + `harm`, which is a scalar."""
    g.node("Add", ["safe", harm], "y")
    return g.model([float_value("x", ["n", 4])], [float_value("y", ["n", 4])], opset=17)


def _start() -> GraphBuilder:
    g = GraphBuilder(0)
    g.node("Relu", ["x"], "safe")
    return g


def crashing() -> onnx.ModelProto:
    """An LSTM gets a batch of nothing, on which ONNX Runtime ends the process with a signal."""
    g = _start()
    g.constant("zero", np.array([0]))
    g.constant("batch_axis", np.array([0]))
    g.node("Slice", ["safe", "zero", "zero", "batch_axis"], "nothing")
    g.node("Unsqueeze", ["nothing", "zero"], "sequence")
    g.node("LSTM", ["sequence", g.weight("w", (1, 12, 4), 4), g.weight("r", (1, 12, 3), 3)], "states", hidden_size=3)
    g.node("ReduceSum", ["states"], "harm", keepdims=0)
    return _model(g, "harm")


def hungry(size: int = HUNGER) -> onnx.ModelProto:
    """As many zeros as make `size` bytes, times what is known only when it runs."""
    g = _start()
    g.node("ReduceMax", ["safe"], "largest", keepdims=0)
    g.node("Cast", ["largest"], "whole", to=TensorProto.INT64)
    g.node("Clip", ["whole", g.constant("one", np.int64(1)), "one"], "factor")
    g.node("Mul", ["factor", g.constant("count", np.array([size // 4]))], "shape")
    g.node("ConstantOfShape", ["shape"], "zeros")
    g.node("ReduceSum", ["zeros"], "harm", keepdims=0)
    return _model(g, "harm")


def hungry_at_loading(size: int = HUNGER) -> onnx.ModelProto:
    """As many zeros as make `size` bytes: constants, which ONNX Runtime computes when it loads the model."""
    g = _start()
    g.node("ConstantOfShape", [g.constant("count", np.array([size // 4]))], "zeros")
    g.node("ReduceSum", ["zeros"], "harm", keepdims=0)
    return _model(g, "harm")


def endless() -> onnx.ModelProto:
    """A loop of 2^40 turns, each of which is short."""
    g = _start()
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["still"]), helper.make_node("Add", ["state", "step"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            float_value("state", []),
        ],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), float_value("next", [])],
    )
    g.constant("turns", np.int64(2**40))
    g.constant("yes", np.bool_(True))
    g.constant("step", np.float32(1))
    g.node("ReduceMax", ["safe"], "largest", keepdims=0)
    g.node("Loop", ["turns", "yes", "largest"], "harm", body=body)
    return _model(g, "harm")


def unstoppable(size: int = 4000) -> onnx.ModelProto:
    """One product of matrices of integers, for which there is a slow kernel only: half a minute, not to be stopped."""
    g = _start()
    g.node("ReduceMax", ["safe"], "largest", keepdims=0)
    g.node("Cast", ["largest"], "whole", to=TensorProto.INT64)
    g.node("Expand", ["whole", g.constant("extents", np.array([size, size]))], "matrix")
    g.node("MatMul", ["matrix", "matrix"], "product")
    g.node("ReduceMax", ["product"], "highest", keepdims=0)
    g.node("Cast", ["highest"], "harm", to=TensorProto.FLOAT)
    return _model(g, "harm")
