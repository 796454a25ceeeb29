"""Models and photographs for the tests of onboarding."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from PIL import Image
from tiny_models import GraphBuilder, float_value


def write_photos(folder: Path, count: int = 10, size: int = 48) -> list[Path]:
    """Writes smooth, coloured pictures that differ from each other, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    paths = []
    for index in range(count):
        coarse = rng.uniform(0, 255, (6, 6, 3)) * rng.uniform(0.3, 1, 3)
        image = Image.fromarray(coarse.astype(np.uint8), "RGB").resize((size, size), Image.Resampling.BICUBIC)
        paths.append(folder / f"photo{index:02}.png")
        image.save(paths[-1])
    return paths


def pixels_of(paths: Sequence[Path]) -> npt.NDArray[np.float64]:
    """(pictures, height, width, 3) float64, 0..255."""
    return np.stack([np.asarray(Image.open(path).convert("RGB"), np.float64) for path in paths])


def batch_norm_network(inputs: npt.NDArray[np.float32], *, classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """Random convolutions with batch normalizations whose statistics were recorded on `inputs`, as training does.

    `image` (n, 3, s, s) → `conv1` → `bn1` → Relu → `conv2` → `bn2` → `relu2` (n, 24, s, s) → `logits` (n, classes);
    with no classes the output is `relu2`.
    """
    g = GraphBuilder(seed)
    size = inputs.shape[2]
    image = float_value("image", ["n", 3, size, size])

    def normalized(value: str, channels: int, name: str) -> str:
        outputs = [float_value(value, ["n", channels, size, size])]
        recorded = ReferenceEvaluator(g.model([image], outputs, opset=17)).run(None, {"image": inputs})[0]
        statistics = [
            g.constant(f"{name}.weight", g.rng.uniform(0.8, 1.2, channels).astype(np.float32)),
            g.bias(f"{name}.bias", channels),
            g.constant(f"{name}.mean", recorded.mean(axis=(0, 2, 3))),
            g.constant(f"{name}.variance", recorded.var(axis=(0, 2, 3))),
        ]
        return g.node("BatchNormalization", [value, *statistics], name)

    g.node("Conv", ["image", g.weight("w1", (16, 3, 3, 3), 27)], "conv1", pads=[1, 1, 1, 1])
    g.node("Relu", [normalized("conv1", 16, "bn1")], "relu1")
    g.node("Conv", ["relu1", g.weight("w2", (24, 16, 3, 3), 144)], "conv2", pads=[1, 1, 1, 1])
    g.node("Relu", [normalized("conv2", 24, "bn2")], "relu2")
    if not classes:
        return g.model([image], [float_value("relu2", ["n", 24, size, size])], opset=17)
    g.node("GlobalAveragePool", ["relu2"], "pooled")
    g.node("Flatten", ["pooled"], "flat")
    g.node("Gemm", ["flat", g.weight("w3", (24, classes), 24)], "logits")
    return g.model([image], [float_value("logits", ["n", classes])], opset=17)


def mixing_model(batch: int | str) -> onnx.ModelProto:
    """Subtracts the mean over the batch: an item's values depend on the other items."""
    g = GraphBuilder(0)
    g.node("Conv", ["image", g.weight("w", (4, 3, 3, 3), 27)], "conv")
    g.node("ReduceMean", ["conv", g.constant("axes", np.array([0], np.int64))], "mean", keepdims=1)
    g.node("Sub", ["conv", "mean"], "centred")
    g.node("GlobalAveragePool", ["centred"], "pooled")
    return g.model([float_value("image", [batch, 3, 16, 16])], [float_value("pooled", [batch, 4, 1, 1])], opset=18)


def two_input_model() -> onnx.ModelProto:
    """A gray image of free size and a vector: `image` (n, 1, h, w) and `condition` (n, 4) → `scores` (n, 6)."""
    g = GraphBuilder(0)
    g.node("Conv", ["image", g.weight("w1", (6, 1, 3, 3), 9)], "conv")
    g.node("Relu", ["conv"], "relu")
    g.node("ReduceMean", ["relu", g.constant("axes", np.array([2, 3], np.int64))], "pooled", keepdims=0)
    g.node("Gemm", ["condition", g.weight("w2", (4, 6), 4)], "embedded")
    g.node("Add", ["pooled", "embedded"], "scores")
    inputs = [float_value("image", ["n", 1, "h", "w"]), float_value("condition", ["n", 4])]
    return g.model(inputs, [float_value("scores", ["n", 6])], opset=18)


def half_precision_model() -> onnx.ModelProto:
    """An image of float16, which is served as a tensor."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float16)
    g = GraphBuilder(0)
    g.node("Conv", ["image", g.constant("w", weight)], "conv")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)
        for name, shape in (("image", ["n", 3, 16, 16]), ("conv", ["n", 4, 14, 14]))
    ]
    return g.model(values[:1], values[1:], opset=17)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    """Writes a model and returns its path."""
    path.write_bytes(model.SerializeToString())
    return path
