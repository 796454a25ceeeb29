"""Small ONNX models for the tests, built with onnx.helper alone: independent of the code under test.

Every builder returns an `onnx.ModelProto` (`.SerializeToString()` for its bytes) with seeded weights, scaled
so that activations neither vanish nor explode for inputs of unit variance.
"""

import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Batch = int | str
"""A fixed batch size, or the name of a free batch dimension."""

LIGHT_MODELS = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
"""The nine architectures of onnx/backend/test/data/light: batch 1, opset 9, one image of (1, 3, 224, 224)."""


LINEAR_OPERATORS = frozenset({"Conv", "Gemm", "BatchNormalization", "Mul", "Add"})


class GraphBuilder:
    """Collects nodes and initializers; `node` returns the name of the first output."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        *,
        name: str = "",
        metadata: dict[str, str] | None = None,
        **attributes: Any,
    ) -> str:
        node = helper.make_node(operator, list(inputs), [output], name=name or f"{output}_node", **attributes)
        if metadata:
            helper.set_model_props(node, metadata)  # type: ignore[arg-type]
        self.nodes.append(node)
        return output

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str, shape: tuple[int, ...], fan_in: int) -> str:
        """He-normal weights."""
        values = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2 / fan_in))
        return self.constant(name, values)

    def bias(self, name: str, size: int) -> str:
        return self.constant(name, self.rng.standard_normal(size, dtype=np.float32) * np.float32(0.1))

    def batch_statistics(self, prefix: str, channels: int) -> list[str]:
        """Scale, bias, mean and (positive) variance of a BatchNormalization."""
        return [
            self.constant(f"{prefix}.weight", self.rng.uniform(0.8, 1.2, channels).astype(np.float32)),
            self.bias(f"{prefix}.bias", channels),
            self.bias(f"{prefix}.running_mean", channels),
            self.constant(f"{prefix}.running_var", self.rng.uniform(0.5, 1.5, channels).astype(np.float32)),
        ]

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        *,
        opset: int,
        ir_version: int = 8,
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "tiny", list(inputs), list(outputs), self.initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=ir_version,
            producer_name="ortoscope-tests",
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def float_value(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """A float32 value of this shape."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def tiny_cnn(batch: Batch = "n", *, seed: int = 0) -> onnx.ModelProto:
    """An NCHW residual network, opset 17.

    `image` (n, 3, 16, 16) → `conv1` (n, 8, 16, 16) → `bn1` → `relu1` → `conv2` (n, 12, 8, 8) → `relu6`
    (Clip 0..6) → `depthwise` → `add` (= relu6 + depthwise) → `pooled` (n, 12, 1, 1) → `flat` (n, 12) →
    `logits` (n, 10).
    """
    g = GraphBuilder(seed)
    g.node(
        "Conv",
        ["image", g.weight("conv1.weight", (8, 3, 3, 3), 27), g.bias("conv1.bias", 8)],
        "conv1",
        pads=[1, 1, 1, 1],
    )
    g.node("BatchNormalization", ["conv1", *g.batch_statistics("bn1_statistics", 8)], "bn1")
    g.node("Relu", ["bn1"], "relu1")
    g.node(
        "Conv",
        ["relu1", g.weight("conv2.weight", (12, 8, 3, 3), 72), g.bias("conv2.bias", 12)],
        "conv2",
        pads=[1, 1, 1, 1],
        strides=[2, 2],
    )
    g.node("Clip", ["conv2", g.constant("zero", np.float32(0)), g.constant("six", np.float32(6))], "relu6")
    g.node(
        "Conv",
        ["relu6", g.weight("depthwise.weight", (12, 1, 3, 3), 9)],
        "depthwise",
        pads=[1, 1, 1, 1],
        group=12,
    )
    g.node("Add", ["relu6", "depthwise"], "add")
    g.node("GlobalAveragePool", ["add"], "pooled")
    g.node("Flatten", ["pooled"], "flat", axis=1)
    g.node("Gemm", ["flat", g.weight("fc.weight", (10, 12), 12), g.bias("fc.bias", 10)], "logits", transB=1)
    return g.model([float_value("image", [batch, 3, 16, 16])], [float_value("logits", [batch, 10])], opset=17)


def tiny_nhwc(batch: Batch = "n", *, seed: int = 0) -> onnx.ModelProto:
    """A channels-last network as tf2onnx writes it (names, and Transposes around the Convs), opset 15.

    `input_1:0` (n, 16, 16, 3) → `model/block1/conv/Conv2D:0` (n, 8, 16, 16), channels first
    → `model/block1/relu/Relu:0` → Transpose → `model/block1/pool:0` (n, 16, 16, 8), channels last
    → `model/block2/add:0` (channels last, bias of (8,)) → `model/block2/relu6/Relu6:0` (Min, then Max)
    → Transpose → `model/block2/conv/Conv2D:0` (n, 12, 8, 8) → Transpose → `model/block2/out:0` (n, 8, 8, 12)
    → `model/pool/Mean:0` (n, 12) → `model/dense/MatMul:0` → `model/dense/BiasAdd:0` (n, 10)
    → `probabilities` (Softmax).
    """
    g = GraphBuilder(seed)
    g.node("Transpose", ["input_1:0"], "model/block1/conv/Conv2D__6:0", perm=[0, 3, 1, 2])
    g.node(
        "Conv",
        ["model/block1/conv/Conv2D__6:0", g.weight("w1", (8, 3, 3, 3), 27), g.bias("b1", 8)],
        "model/block1/conv/Conv2D:0",
        name="model/block1/conv/Conv2D",
        pads=[1, 1, 1, 1],
    )
    g.node("Relu", ["model/block1/conv/Conv2D:0"], "model/block1/relu/Relu:0", name="model/block1/relu/Relu")
    g.node("Transpose", ["model/block1/relu/Relu:0"], "model/block1/pool:0", perm=[0, 2, 3, 1])
    g.node("Add", ["model/block1/pool:0", g.bias("model/block2/bias:0", 8)], "model/block2/add:0")
    g.node("Min", ["model/block2/add:0", g.constant("six", np.float32(6))], "model/block2/relu6/Minimum:0")
    g.node(
        "Max",
        ["model/block2/relu6/Minimum:0", g.constant("zero", np.float32(0))],
        "model/block2/relu6/Relu6:0",
    )
    g.node("Transpose", ["model/block2/relu6/Relu6:0"], "model/block2/conv/Conv2D__9:0", perm=[0, 3, 1, 2])
    g.node(
        "Conv",
        ["model/block2/conv/Conv2D__9:0", g.weight("w2", (12, 8, 3, 3), 72)],
        "model/block2/conv/Conv2D:0",
        name="model/block2/conv/Conv2D",
        pads=[1, 1, 1, 1],
        strides=[2, 2],
    )
    g.node("Transpose", ["model/block2/conv/Conv2D:0"], "model/block2/out:0", perm=[0, 2, 3, 1])
    g.node("ReduceMean", ["model/block2/out:0"], "model/pool/Mean:0", axes=[1, 2], keepdims=0)
    g.node("MatMul", ["model/pool/Mean:0", g.weight("w3", (12, 10), 12)], "model/dense/MatMul:0")
    g.node("Add", ["model/dense/MatMul:0", g.bias("b3", 10)], "model/dense/BiasAdd:0")
    g.node("Softmax", ["model/dense/BiasAdd:0"], "probabilities", axis=-1)
    return g.model(
        [float_value("input_1:0", [batch, 16, 16, 3])], [float_value("probabilities", [batch, 10])], opset=15
    )


def _encoder_block(g: GraphBuilder, x: str, prefix: str, *, batch: Batch, tokens: int, width: int, heads: int) -> str:
    """A pre-norm transformer block: MatMul attention, Gelu MLP; names of its tensors start with `prefix`."""
    depth = width // heads
    leading = batch if isinstance(batch, int) else 0  # Reshape's 0 copies the input's dimension
    split = g.constant(f"{prefix}split_shape", np.array([leading, tokens, heads, depth], np.int64))
    merge = g.constant(f"{prefix}merge_shape", np.array([leading, tokens, width], np.int64))

    def normalize(value: str, name: str) -> str:
        scale = g.constant(f"{prefix}{name}.weight", g.rng.uniform(0.8, 1.2, width).astype(np.float32))
        bias = g.bias(f"{prefix}{name}.bias", width)
        return g.node("LayerNormalization", [value, scale, bias], prefix + name, axis=-1)

    def linear(value: str, name: str, size_in: int, size_out: int) -> str:
        weight = g.weight(f"{prefix}{name}.weight", (size_in, size_out), size_in)
        product = g.node("MatMul", [value, weight], f"{prefix}{name}_matmul")
        return g.node("Add", [product, g.bias(f"{prefix}{name}.bias", size_out)], prefix + name)

    normalized = normalize(x, "norm1")
    heads_of = {}
    for part, permutation in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        projected = linear(normalized, part, width, width)
        by_head = g.node("Reshape", [projected, split], f"{prefix}{part}_split")
        heads_of[part] = g.node("Transpose", [by_head], f"{prefix}{part}_heads", perm=permutation)
    scores = g.node("MatMul", [heads_of["query"], heads_of["key"]], prefix + "scores")
    scale = g.constant(prefix + "scale", np.float32(1 / math.sqrt(depth)))
    scaled = g.node("Mul", [scores, scale], prefix + "scaled")
    attention = g.node("Softmax", [scaled], prefix + "attention", axis=-1)
    context = g.node("MatMul", [attention, heads_of["value"]], prefix + "context")
    transposed = g.node("Transpose", [context], prefix + "context_tokens", perm=[0, 2, 1, 3])
    merged = g.node("Reshape", [transposed, merge], prefix + "context_merged")
    residual = g.node("Add", [x, linear(merged, "projection", width, width)], prefix + "residual1")
    hidden = linear(normalize(residual, "norm2"), "mlp1", width, 2 * width)
    activated = g.node("Gelu", [hidden], prefix + "gelu")
    return g.node("Add", [residual, linear(activated, "mlp2", 2 * width, width)], prefix + "residual2")


def tiny_transformer(batch: Batch = "n", *, seed: int = 0) -> onnx.ModelProto:
    """A text encoder, opset 20: token ids in, one transformer block of 2 heads, classifier on the mean token.

    `input_ids` int64 (n, 6), values 0..31 → `embedded` (n, 6, 16) → `block0/attention` (n, 2, 6, 6) →
    `block0/residual1` → `block0/mlp1` (n, 6, 32) → `block0/gelu` → `block0/residual2` (n, 6, 16) →
    `mean_token` (n, 16) → `logits` (n, 5).
    """
    g = GraphBuilder(seed)
    g.node("Gather", [g.weight("embedding", (32, 16), 2), "input_ids"], "words", axis=0)
    g.node("Add", ["words", g.weight("positions", (1, 6, 16), 20)], "embedded")
    encoded = _encoder_block(g, "embedded", "block0/", batch=batch, tokens=6, width=16, heads=2)
    g.node("ReduceMean", [encoded, g.constant("token_axis", np.array([1], np.int64))], "mean_token", keepdims=0)
    g.node("Gemm", ["mean_token", g.weight("classifier", (16, 5), 16), g.bias("classifier.bias", 5)], "logits")
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [batch, 6])
    return g.model([ids], [float_value("logits", [batch, 5])], opset=20, ir_version=10)


def tiny_vision_transformer(batch: Batch = "n", *, seed: int = 0) -> onnx.ModelProto:
    """A vision transformer with a class token, opset 20.

    `image` (n, 3, 16, 16) → `patches` (Conv, (n, 24, 4, 4)) → `patch_tokens` (n, 16, 24) → `tokens`
    (n, 17, 24), class token first → `block0/residual2` (n, 17, 24) → `class_token` (n, 24) → `logits`
    (n, 10). A fixed batch stands in Reshape and Expand constants, as exporters leave it; a free one is
    computed by Shape.
    """
    g = GraphBuilder(seed)
    g.node(
        "Conv",
        ["image", g.weight("patches.weight", (24, 3, 4, 4), 48), g.bias("patches.bias", 24)],
        "patches",
        kernel_shape=[4, 4],
        strides=[4, 4],
    )
    leading = batch if isinstance(batch, int) else 0
    g.node(
        "Reshape",
        ["patches", g.constant("flat_shape", np.array([leading, 24, 16], np.int64))],
        "patches_flat",
    )
    g.node("Transpose", ["patches_flat"], "patch_tokens", perm=[0, 2, 1])
    if isinstance(batch, int):
        shape = g.constant("class_shape", np.array([batch, 1, 24], np.int64))
    else:
        g.node("Shape", ["image"], "image_shape", start=0, end=1)
        shape = g.node(
            "Concat",
            ["image_shape", g.constant("one_by_24", np.array([1, 24], np.int64))],
            "class_shape",
            axis=0,
        )
    g.node("Expand", [g.weight("class_embedding", (1, 1, 24), 2), shape], "class_tokens")
    g.node("Concat", ["class_tokens", "patch_tokens"], "tokens_bare", axis=1)
    g.node("Add", ["tokens_bare", g.weight("positions", (1, 17, 24), 20)], "tokens")
    encoded = _encoder_block(g, "tokens", "block0/", batch=batch, tokens=17, width=24, heads=3)
    g.node("Gather", [encoded, g.constant("first", np.int64(0))], "class_token", axis=1)
    g.node("Gemm", ["class_token", g.weight("head", (24, 10), 24), g.bias("head.bias", 10)], "logits")
    return g.model(
        [float_value("image", [batch, 3, 16, 16])],
        [float_value("logits", [batch, 10])],
        opset=20,
        ir_version=10,
    )


def tiny_mlp(batch: Batch = "n", *, seed: int = 0) -> onnx.ModelProto:
    """A multi-layer perceptron, opset 13.

    `features` (n, 10) → `fc1` (n, 16) → `relu1` → `fc2` (n, 12) → `tanh` → `scores` (n, 4).
    """
    g = GraphBuilder(seed)
    g.node("Gemm", ["features", g.weight("w1", (10, 16), 10), g.bias("b1", 16)], "fc1")
    g.node("Relu", ["fc1"], "relu1")
    g.node("Gemm", ["relu1", g.weight("w2", (12, 16), 16), g.bias("b2", 12)], "fc2", transB=1)
    g.node("Tanh", ["fc2"], "tanh")
    g.node("Gemm", ["tanh", g.weight("w3", (12, 4), 12)], "scores")
    return g.model([float_value("features", [batch, 10])], [float_value("scores", [batch, 4])], opset=13)


def random_feeds(model: onnx.ModelProto, batch: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Feeds for every input that is no initializer: float32 of unit variance, or int64 ids 0..31.

    A fixed batch in the model is overridden by `batch`; no other dimension may be free.
    """
    rng = np.random.default_rng(seed)
    initializers = {tensor.name for tensor in model.graph.initializer}
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        if value.name in initializers:
            continue
        shape = (batch, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]))
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            feeds[value.name] = rng.integers(0, 32, shape)
        else:
            feeds[value.name] = rng.standard_normal(shape, dtype=np.float32)
    return feeds


def light_model_path(name: str) -> Path:
    """Where the installed onnx package keeps `light_<name>.onnx` (weights: ConstantOfShape nodes of 0.02)."""
    specification = importlib.util.find_spec("onnx")
    assert specification is not None
    assert specification.origin is not None
    return Path(specification.origin).parent / f"backend/test/data/light/light_{name}.onnx"


def light_model(name: str, *, seed: int = 0) -> onnx.ModelProto:
    """One of `LIGHT_MODELS` with random weights as initializers, at the file's fixed batch of 1.

    Convolution and Gemm weights are He-normal (smaller before a Softmax, which would saturate); batch norm
    variances are positive, its scales halved where it closes a residual branch, so that the sums of a deep
    residual network stay bounded. As in the file (IR version 3), initializers are listed among the inputs too.
    VGG-19 takes 575 MB, AlexNet and ZFNet-512 250 to 340 MB.
    """
    model = onnx.load(light_model_path(name))
    graph = model.graph
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for position, value in enumerate(node.input):
            consumers.setdefault(value, []).append((node, position))

    kept_nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    used = {value for node in kept_nodes for value in node.input}
    kept_initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    kept_inputs = [v for v in graph.input if v.name not in shapes or v.name in used]
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            continue
        (output,) = node.output
        shape = tuple(int(size) for size in shapes[node.input[0]])
        values = _light_weight(output, shape, consumers, producers, rng)
        kept_initializers.append(numpy_helper.from_array(values, output))
        kept_inputs.append(float_value(output, shape))
    rebuilt = helper.make_graph(kept_nodes, graph.name, kept_inputs, list(graph.output), kept_initializers)
    model.graph.CopyFrom(rebuilt)
    return model


def _light_weight(
    name: str,
    shape: tuple[int, ...],
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]],
    producers: dict[str, onnx.NodeProto],
    rng: np.random.Generator,
) -> np.ndarray:
    """Random values for one weight of a light model, by the role it plays where it is used."""

    def uses(value: str) -> Iterator[tuple[onnx.NodeProto, int]]:
        for node, position in consumers[value]:
            if node.op_type == "Unsqueeze":
                yield from uses(node.output[0])
            else:
                yield node, position

    node, position = next(uses(name))
    role = (node.op_type, position)
    if role in {("Conv", 1), ("Gemm", 1)}:
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        fan_in = shape[0] if node.op_type == "Gemm" and not transposed else math.prod(shape[1:])
        follower = node
        while follower.op_type in LINEAR_OPERATORS and follower.output[0] in consumers:
            follower = consumers[follower.output[0]][0][0]
        gain = {"Relu": 2.0, "Softmax": 0.01}.get(follower.op_type, 1.0)
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(gain / fan_in))
    if role == ("BatchNormalization", 4):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if node.op_type == "Mul" or role == ("BatchNormalization", 1):
        closes_branch = any(
            consumer.op_type in {"Add", "Sum"}
            and all(value in producers and producers[value].op_type != "Unsqueeze" for value in consumer.input)
            for consumer, _ in consumers[node.output[0]]
        )
        return (rng.uniform(0.8, 1.2, shape) * (0.5 if closes_branch else 1)).astype(np.float32)
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)
