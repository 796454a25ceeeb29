"""Small classifiers whose gradients have closed forms, and central differences in float64 for the rest.

The truth comes from ONNX's reference evaluator alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tiny_models import GraphBuilder, float_value

Array = npt.NDArray[Any]

FEATURES, HIDDEN, CLASSES = 4, 3, 5
LABELS = ("tench, Tinca tinca", "tabby, tabby cat", "crane", "crane", "Zebra")


def weights(seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of `dense_classifier`: w1 (4, 3), b1 (3,), w2 (3, 5), b2 (5,)."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (FEATURES, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def dense_classifier(end: str = "", *, seed: int = 0, batch: int | str = "n", opset: int = 20) -> onnx.ModelProto:
    """`x` (n, 4) → `hidden` = x w1 + b1 → `active` = Relu → `logits` = active w2 + b2 (n, 5) → `probabilities` = end.

    Args:
        end: "Softmax", "LogSoftmax" or "Sigmoid"; without one `logits` is the output.
        seed: Of the weights.
        batch: The batch.
        opset: The opset.
    """
    g = GraphBuilder(seed)
    for name, value in weights(seed).items():
        g.constant(name, value)
    g.node("Gemm", ["x", "w1", "b1"], "hidden")
    g.node("Relu", ["hidden"], "active")
    output = g.node("Gemm", ["active", "w2", "b2"], "logits")
    if end:
        output = g.node(end, ["logits"], "probabilities")
    inputs, outputs = [float_value("x", [batch, FEATURES])], [float_value(output, [batch, CLASSES])]
    return g.model(inputs, outputs, opset=opset)


def conv_classifier(
    batch: int | str = "n", *, seed: int = 0, channels: int = 2, free_size: bool = False
) -> onnx.ModelProto:
    """`image` (n, channels, 6, 5) → `conv` (n, 3, 6, 5) → `relu` → `conv2` (n, 4, 3, 3) → `relu2` → `logits` (n, 5).

    Beside the way through `relu2`, the image's own mean reaches the logits: there is a skip past every tap.

    Args:
        batch: The batch.
        seed: Of the weights.
        channels: Colours of the image.
        free_size: Whether height and width are free, so that no tap's sites are known before the model runs.
    """
    g = GraphBuilder(seed)
    sizes: list[int | str] = ["height", "width"] if free_size else [6, 5]
    g.node(
        "Conv", ["image", g.weight("k1", (3, channels, 3, 3), 9 * channels), g.bias("c1", 3)], "conv", pads=[1, 1, 1, 1]
    )
    g.node("Relu", ["conv"], "relu")
    g.node("Conv", ["relu", g.weight("k2", (4, 3, 3, 3), 27)], "conv2", pads=[1, 1, 1, 1], strides=[2, 2])
    g.node("Relu", ["conv2"], "relu2")
    axes = g.constant("axes", np.array([2, 3], np.int64))
    g.node("ReduceMean", ["relu2", axes], "pooled", keepdims=0)
    g.node("ReduceMean", ["image", axes], "colour", keepdims=0)
    g.node("Gemm", ["colour", g.weight("skip", (channels, 5), channels)], "skipped")
    g.node("Gemm", ["pooled", g.weight("w", (4, 5), 4), g.bias("b", 5)], "main")
    g.node("Add", ["main", "skipped"], "logits")
    return g.model(
        [float_value("image", [batch, channels, *sizes])], [float_value("logits", [batch, CLASSES])], opset=20
    )


def in_double(model: onnx.ModelProto, *outputs: str) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A function that computes tensors of a float32 model in float64."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    for tensor in double.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    del double.graph.value_info[:]
    for value in (*double.graph.input, *double.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del double.graph.output[:]
    double.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs)
    evaluator = ReferenceEvaluator(double)

    def compute(feeds: Mapping[str, Array]) -> dict[str, Array]:
        wide = {name: v.astype(np.float64) if v.dtype == np.float32 else v for name, v in feeds.items()}
        return dict(zip(outputs, evaluator.run(None, wide), strict=True))

    return compute


def differences(function: Callable[[Array], Array], point: Array, step: float = 1e-6) -> Array:
    """Central differences of a function of a batch, (items, ...) → (items,), at every element of every item's input.

    All moved inputs of an item are one batch of the function.
    """
    gradient = np.zeros(point.shape)
    for item in range(len(point)):
        size = point[item].size
        moves = np.eye(size).reshape(size, *point.shape[1:]) * step
        up, down = (function(point[item].astype(np.float64) + sign * moves) for sign in (1, -1))
        gradient[item] = ((up - down) / (2 * step)).reshape(point.shape[1:])
    return gradient


def softmax(scores: Array) -> Array:
    """Along the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares
