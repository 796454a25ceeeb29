"""A real server with small models for the tests of visualizations through the client and the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from gradient_models import LABELS, conv_classifier, dense_classifier
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.manifest import Preprocessing
from ortoscope_service.models.repository import ModelRepository
from pictures import encode, photo
from serving import add_model, serving, write_datasets
from tiny_models import GraphBuilder, float_value, tiny_cnn

PICTURES = Preprocessing("nchw", "rgb", (127.0,) * 3, (128.0,) * 3, "squash", 16, 16, 16, "not verified: a test")
"""What `cnn` is told about its pictures."""

SMALL = {"size": 16, "recipe.steps": 12}
"""Settings with which a climb takes no time."""


@contextmanager
def running_visualization_server(root: Path) -> Iterator[str]:
    """Serves `cnn` (pictures of 16 pixels, ten classes without names), `classes` and `dense`; yields the target."""
    repository = ModelRepository(root / "models")
    add_model(repository, "cnn", tiny_cnn(seed=2), preprocessing=PICTURES, class_labels=())
    small = Preprocessing("nchw", "rgb", (127.0,) * 3, (64.0,) * 3, "squash", 6, 5, 6, "not verified: a test")
    add_model(repository, "classes", conv_classifier(channels=3), preprocessing=small, class_labels=LABELS)
    add_model(repository, "dense", dense_classifier("Softmax"), class_labels=LABELS)
    write_datasets(root / "datasets")
    config = ServerConfig(
        models=root / "models", datasets=root / "datasets", store=root / "store", listen="127.0.0.1:0"
    )
    with serving(config) as (server, _):
        yield server.address


def stand_in(seed: int = 0) -> onnx.ModelProto:
    """What the guides ask of `efficientnet-lite0`, small: `image` (n, 3, 32, 32) → `blocks.4` → `blocks.10` → `logits`.

    `blocks.4` has 10 units, `blocks.10` 8, and there are as many classes as `LABELS`.
    """
    g = GraphBuilder(seed)
    g.node(
        "Conv",
        ["image", g.weight("k1", (10, 3, 5, 5), 75), g.bias("b1", 10)],
        "conv1",
        pads=[2, 2, 2, 2],
        strides=[2, 2],
    )
    g.node("Relu", ["conv1"], "blocks.4")
    g.node("Conv", ["blocks.4", g.weight("k2", (8, 10, 3, 3), 90)], "conv2", pads=[1, 1, 1, 1], strides=[2, 2])
    g.node("Relu", ["conv2"], "blocks.10")
    g.node("GlobalAveragePool", ["blocks.10"], "pooled")
    g.node("Flatten", ["pooled"], "flat", axis=1)
    g.node("Gemm", ["flat", g.weight("w", (8, len(LABELS)), 8)], "logits")
    inputs, outputs = [float_value("image", ["n", 3, 32, 32])], [float_value("logits", ["n", len(LABELS)])]
    return g.model(inputs, outputs, opset=17)


@contextmanager
def running_guides_server(root: Path) -> Iterator[str]:
    """Serves `stand_in` as `efficientnet-lite0`, and a few pictures as `rendered-scenes`; yields the target."""
    repository = ModelRepository(root / "models")
    preprocessing = Preprocessing(
        "nchw", "rgb", (127.0,) * 3, (128.0,) * 3, "squash", 32, 32, 32, "not verified: a test"
    )
    add_model(repository, "efficientnet-lite0", stand_in(), preprocessing=preprocessing, class_labels=LABELS)
    folder = root / "datasets" / "rendered-scenes"
    folder.mkdir(parents=True)
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encode(photo(40, 32, seed=number), "PNG"))
    config = ServerConfig(
        models=root / "models", datasets=root / "datasets", store=root / "store", listen="127.0.0.1:0"
    )
    with serving(config) as (server, _):
        yield server.address
