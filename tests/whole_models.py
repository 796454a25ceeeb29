"""Small networks of the kinds that people differentiate, built with onnx.helper alone.

As in `tiny_models`: seeded weights, scaled so that activations neither vanish nor explode for inputs of unit variance.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from tiny_models import Batch, GraphBuilder, float_value


def small_convnext(batch: Batch = "n", *, seed: int = 0) -> onnx.ModelProto:
    """Depthwise 7x7 convolutions and channels-last normalization, opset 20.

    `image` (n, 3, 32, 32) → stem 4x4 (n, 16, 8, 8) → two blocks → 2x2 downsampling (n, 24, 4, 4) → a block → mean →
    `logits` (n, 10). A block: depthwise 7x7, LayerNorm over the channels, two MatMuls around a Gelu (first written out
    with Erf, then as the operator), layer scale, residual Add.
    """
    g = GraphBuilder(seed)

    def normalize(value: str, name: str, width: int) -> str:
        scale = g.constant(f"{name}.weight", g.rng.uniform(0.8, 1.2, width).astype(np.float32))
        return g.node("LayerNormalization", [value, scale, g.bias(f"{name}.bias", width)], name, axis=-1, epsilon=1e-6)

    def linear(value: str, name: str, size_in: int, size_out: int) -> str:
        product = g.node("MatMul", [value, g.weight(f"{name}.weight", (size_in, size_out), size_in)], f"{name}_matmul")
        return g.node("Add", [product, g.bias(f"{name}.bias", size_out)], name)

    def gelu(value: str, name: str, *, written_out: bool) -> str:
        if not written_out:
            return g.node("Gelu", [value], name)
        scaled = g.node("Div", [value, g.constant(f"{name}_root", np.float32(np.sqrt(2)))], f"{name}_scaled")
        shifted = g.node(
            "Add", [g.node("Erf", [scaled], f"{name}_erf"), g.constant(f"{name}_one", np.float32(1))], f"{name}_shifted"
        )
        product = g.node("Mul", [value, shifted], f"{name}_product")
        return g.node("Mul", [product, g.constant(f"{name}_half", np.float32(0.5))], name)

    def block(value: str, name: str, width: int, *, written_out: bool) -> str:
        kernel = g.weight(f"{name}/depthwise.weight", (width, 1, 7, 7), 49)
        mixed = g.node(
            "Conv",
            [value, kernel, g.bias(f"{name}/depthwise.bias", width)],
            f"{name}/depthwise",
            group=width,
            pads=[3] * 4,
        )
        last = g.node("Transpose", [mixed], f"{name}/channels_last", perm=[0, 2, 3, 1])
        hidden = linear(normalize(last, f"{name}/norm", width), f"{name}/expand", width, 4 * width)
        reduced = linear(gelu(hidden, f"{name}/gelu", written_out=written_out), f"{name}/reduce", 4 * width, width)
        scale = g.constant(f"{name}/gamma", g.rng.uniform(0.3, 0.6, width).astype(np.float32))
        scaled = g.node("Mul", [scale, reduced], f"{name}/scaled")
        first = g.node("Transpose", [scaled], f"{name}/channels_first", perm=[0, 3, 1, 2])
        return g.node("Add", [value, first], name)

    stem = g.node(
        "Conv", ["image", g.weight("stem.weight", (16, 3, 4, 4), 48), g.bias("stem.bias", 16)], "stem", strides=[4, 4]
    )
    deep = block(block(stem, "block1", 16, written_out=True), "block2", 16, written_out=False)
    last = g.node("Transpose", [deep], "down_last", perm=[0, 2, 3, 1])
    first = g.node("Transpose", [normalize(last, "down_norm", 16)], "down_first", perm=[0, 3, 1, 2])
    down = g.node(
        "Conv", [first, g.weight("down.weight", (24, 16, 2, 2), 64), g.bias("down.bias", 24)], "down", strides=[2, 2]
    )
    deepest = block(down, "block3", 24, written_out=False)
    axes = g.constant("spatial", np.array([-2, -1], np.int64))
    mean = normalize(g.node("ReduceMean", [deepest, axes], "mean", keepdims=0), "head_norm", 24)
    g.node("Gemm", [mean, g.weight("head", (10, 24), 24), g.bias("head.bias", 10)], "logits", transB=1)
    return g.model(
        [float_value("image", [batch, 3, 32, 32])], [float_value("logits", [batch, 10])], opset=20, ir_version=10
    )


def small_unet(batch: Batch = "n", *, seed: int = 0) -> onnx.ModelProto:
    """An encoder and a decoder with skip connections, opset 17.

    `image` (n, 3, 32, 32) → two levels of (two Convs, MaxPool) → `bottom` (n, 24, 8, 8) → up by a linear Resize, Concat
    with the skip → up by ConvTranspose, Concat with the skip → `scores` (n, 4, 32, 32), one for each class and pixel.
    """
    g = GraphBuilder(seed)

    def convolutions(value: str, name: str, size_in: int, size_out: int) -> str:
        for index, channels in ((1, size_in), (2, size_out)):
            weight = g.weight(f"{name}.{index}.weight", (size_out, channels, 3, 3), 9 * channels)
            value = g.node(
                "Conv", [value, weight, g.bias(f"{name}.{index}.bias", size_out)], f"{name}/conv{index}", pads=[1] * 4
            )
            value = g.node("Relu", [value], f"{name}/relu{index}")
        return value

    def halved(value: str, name: str) -> str:
        return g.node("MaxPool", [value], name, kernel_shape=[2, 2], strides=[2, 2])

    top = convolutions("image", "down1", 3, 12)
    middle = convolutions(halved(top, "pool1"), "down2", 12, 16)
    bottom = convolutions(halved(middle, "pool2"), "bottom", 16, 24)
    scales = g.constant("scales", np.array([1, 1, 2, 2], np.float32))
    g.node("Resize", [bottom, "", scales], "resized", mode="linear", coordinate_transformation_mode="half_pixel")
    g.node("Concat", ["resized", middle], "joined2", axis=1)
    lower = convolutions("joined2", "up2", 40, 16)
    g.node(
        "ConvTranspose",
        [lower, g.weight("up.weight", (16, 12, 2, 2), 16), g.bias("up.bias", 12)],
        "raised",
        strides=[2, 2],
    )
    g.node("Concat", ["raised", top], "joined1", axis=1)
    upper = convolutions("joined1", "up1", 24, 12)
    g.node("Conv", [upper, g.weight("head.weight", (4, 12, 1, 1), 12), g.bias("head.bias", 4)], "scores")
    return g.model([float_value("image", [batch, 3, 32, 32])], [float_value("scores", [batch, 4, 32, 32])], opset=17)


def small_generator(batch: Batch = "n", *, seed: int = 0) -> onnx.ModelProto:
    """The generator of a DCGAN, opset 14: ConvTranspose, BatchNormalization, Relu from a point to a picture.

    `z` (n, 24, 1, 1) → (n, 32, 4, 4) → (n, 16, 8, 8) → (n, 8, 16, 16) → `picture` (n, 3, 32, 32), Tanh.
    """
    g = GraphBuilder(seed)
    value, channels = "z", 24
    for index, size in enumerate((32, 16, 8)):
        # Of a kernel of 4 at a stride of 2 each pixel sees 2x2.
        weight = g.weight(f"up{index}.weight", (channels, size, 4, 4), channels if index == 0 else 4 * channels)
        geometry: dict[str, Any] = (
            {"strides": [1, 1], "pads": [0] * 4} if index == 0 else {"strides": [2, 2], "pads": [1] * 4}
        )
        g.node("ConvTranspose", [value, weight], f"up{index}", kernel_shape=[4, 4], **geometry)
        g.node(
            "BatchNormalization", [f"up{index}", *g.batch_statistics(f"norm{index}_statistics", size)], f"norm{index}"
        )
        value, channels = g.node("Relu", [f"norm{index}"], f"relu{index}"), size
    weight = g.weight("last.weight", (channels, 3, 4, 4), 8 * channels)
    g.node("ConvTranspose", [value, weight], "last", kernel_shape=[4, 4], strides=[2, 2], pads=[1] * 4)
    g.node("Tanh", ["last"], "picture")
    return g.model([float_value("z", [batch, 24, 1, 1])], [float_value("picture", [batch, 3, 32, 32])], opset=14)


def small_recurrent(operator: str, batch: Batch = "n", steps: int | str = 7, *, seed: int = 0) -> onnx.ModelProto:
    """Two recurrent layers, batch first, as PyTorch exports them, opset 17.

    `sequence` (n, steps, 5) → `steps_first` → layer 1 (8 wide) → layer 2 (6 wide) → `last_state` (n, 6) →
    `scores` (n, 3). The initial states are zeros (absent).

    Args:
        operator: "LSTM" or "GRU".
        batch: The batch.
        steps: The length of the sequence, or its name if it is free.
        seed: Of the weights.
    """
    g = GraphBuilder(seed)
    gates = {"LSTM": 4, "GRU": 3}[operator]
    variant: dict[str, Any] = {"linear_before_reset": 1} if operator == "GRU" else {}
    value = g.node("Transpose", ["sequence"], "steps_first", perm=[1, 0, 2])
    axis = g.constant("direction", np.array([1], np.int64))
    width = 5
    for layer, hidden in ((1, 8), (2, 6)):
        name = f"layer{layer}"
        inputs = [
            value,
            g.weight(f"{name}.w", (1, gates * hidden, width), width),
            g.weight(f"{name}.r", (1, gates * hidden, hidden), hidden),
            g.constant(f"{name}.b", g.rng.standard_normal((1, 2 * gates * hidden), dtype=np.float32) * np.float32(0.1)),
        ]
        g.nodes.append(
            helper.make_node(
                operator, inputs, [f"{name}/y", f"{name}/h"], name=f"{name}_node", hidden_size=hidden, **variant
            )
        )
        value, width = g.node("Squeeze", [f"{name}/y", axis], f"{name}/output"), hidden
    g.node("Squeeze", ["layer2/h", g.constant("zeroth", np.array([0], np.int64))], "last_state")
    g.node("Gemm", ["last_state", g.weight("head", (3, 6), 6), g.bias("head.bias", 3)], "scores", transB=1)
    return g.model([float_value("sequence", [batch, steps, 5])], [float_value("scores", [batch, 3])], opset=17)


def small_tabular(batch: Batch = "n", *, seed: int = 0) -> onnx.ModelProto:
    """Numbers and categories in, opset 15: embeddings, batch normalization, Gemm, Relu, Dropout, Sigmoid.

    `numbers` (n, 6) and `categories` int64 (n, 2), values 0..31 → `features` (n, 6 + 4 + 3) → two hidden layers →
    `scores` (n, 2) → `risk`.
    """
    g = GraphBuilder(seed)
    g.node("BatchNormalization", ["numbers", *g.batch_statistics("numbers_statistics", 6)], "normalized")
    parts = ["normalized"]
    for column, width in ((0, 4), (1, 3)):
        index = g.constant(f"column{column}", np.int64(column))
        chosen = g.node("Gather", ["categories", index], f"category{column}", axis=1)
        parts.append(g.node("Gather", [g.weight(f"embedding{column}", (32, width), 2), chosen], f"embedded{column}"))
    value, size = g.node("Concat", parts, "features", axis=1), 13
    for layer, width in ((1, 24), (2, 16)):
        name = f"hidden{layer}"
        g.node("Gemm", [value, g.weight(f"{name}.w", (width, size), size), g.bias(f"{name}.b", width)], name, transB=1)
        value, size = g.node("Dropout", [g.node("Relu", [name], f"{name}/relu")], f"{name}/dropout"), width
    g.node("Gemm", [value, g.weight("head", (16, 2), 16), g.bias("head.bias", 2)], "scores")
    g.node("Sigmoid", ["scores"], "risk")
    categories = helper.make_tensor_value_info("categories", TensorProto.INT64, [batch, 2])
    return g.model([float_value("numbers", [batch, 6]), categories], [float_value("risk", [batch, 2])], opset=15)
