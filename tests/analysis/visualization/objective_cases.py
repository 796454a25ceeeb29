"""A small model with taps in every layout, objectives on it, and their values and gradients by outside means."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from finite_differences import evaluate, run_in_onnxruntime
from onnx import TensorProto, helper, numpy_helper
from ortoscope_service.analysis.classes import Classes
from ortoscope_service.analysis.visualization.graphs import BATCH, GraphWriter
from ortoscope_service.analysis.visualization.objectives import (
    L1,
    L2,
    Alignment,
    Blur,
    BoundaryComplexity,
    Canvas,
    Caricature,
    Channel,
    ChannelInterpolation,
    ClassLogit,
    ClassProbability,
    Constant,
    Difference,
    Direction,
    DirectionNeuron,
    Diversity,
    ForItem,
    Inversion,
    Layer,
    Neuron,
    Norm,
    Numbers,
    Objective,
    Picture,
    Product,
    RandomDirection,
    Scaled,
    Setting,
    Source,
    Sum,
    TensorDirection,
    TotalVariation,
    WeightedChannels,
    check,
    taps,
)
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import trunk
from ortoscope_service.graph.taps import Tap, find_taps

Array = npt.NDArray[Any]

IMAGE = (3, 5, 8)
"""Not square, so that rows and columns cannot be taken for each other."""

LABELS = ("tench", "goldfish, Carassius auratus", "shark", "stingray")


def network(data_type: str = "float64") -> onnx.ModelProto:
    """`first` (batch, 4, 5, 8) → `last` (batch, 5, 8, 4) → `tokens` (batch, 40, 4) → `scores` (batch, 4) → softmax."""
    rng = np.random.default_rng(3)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(data_type))
    weights = {
        "kernel": rng.normal(size=(4, 3, 3, 3)) * 0.6,
        "bias": rng.normal(size=4) * 0.3,
        "matrix": rng.normal(size=(4, 4)),
        "head": rng.normal(size=(4, 4)) * 2,
    }
    constants = [numpy_helper.from_array(array.astype(data_type), name) for name, array in weights.items()]
    constants.append(numpy_helper.from_array(np.array([0, -1, 4]), "flat"))
    constants.append(numpy_helper.from_array(np.array([1]), "sites"))
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["linear"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Tanh", ["linear"], ["first"], name="tanh"),
        helper.make_node("Transpose", ["first"], ["last"], perm=[0, 2, 3, 1], name="to_last"),
        helper.make_node("Reshape", ["last", "flat"], ["rows"], name="to_tokens"),
        helper.make_node("MatMul", ["rows", "matrix"], ["tokens"], name="mix"),
        helper.make_node("ReduceMean", ["tokens", "sites"], ["pooled"], keepdims=0, name="pool"),
        helper.make_node("MatMul", ["pooled", "head"], ["scores"], name="classify"),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1, name="softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, ["batch", *IMAGE])],
        [helper.make_tensor_value_info("probabilities", kind, ["batch", 4])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def pointwise(data_type: str = "float32") -> onnx.ModelProto:
    """Captum's `BasicModel_ConvNet_Optim`: a 1x1 convolution whose both channels give 1.3 on an image of ones."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(data_type))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight", "bias"], ["layer"], name="layer")],
        "pointwise",
        [helper.make_tensor_value_info("x", kind, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("layer", kind, ["batch", 2, "height", "width"])],
        [
            numpy_helper.from_array(np.full((2, 3, 1, 1), 0.1, data_type), "weight"),
            numpy_helper.from_array(np.ones(2, data_type), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def tap_named(found: tuple[Tap, ...], tensor: str) -> Tap:
    return next(tap for tap in found if tap.tensor == tensor)


def setting_of(
    model: onnx.ModelProto, batch: int, *, own_probabilities: bool = True, image: tuple[int, ...] = IMAGE
) -> Setting:
    found = find_taps(load_model(model.SerializeToString()))
    classes = None
    if any(tap.tensor == "scores" for tap in found):
        probabilities = tap_named(found, "probabilities") if own_probabilities else None
        classes = Classes(tap_named(found, "scores"), probabilities, LABELS)
    data_type = {TensorProto.DOUBLE: "float64", TensorProto.FLOAT: "float32"}[
        model.graph.input[0].type.tensor_type.elem_type
    ]
    return Setting(
        taps=found,
        image=image,
        batch=batch,
        classes=classes,
        alpha=True,
        shapes={"layer": (2, *image[1:])},
        data_type=data_type,
    )


class Compiled:
    """An objective on a model as a graph of the inputs `image` and `alpha`, and its backward graph."""

    def __init__(self, model: onnx.ModelProto, objective: Objective, setting: Setting) -> None:
        check(objective, setting)
        dtype = np.dtype(setting.data_type)
        g = GraphWriter()
        image = g.input("image", [BATCH, *setting.image], dtype)
        alpha = g.input("alpha", [BATCH, 1, *setting.image[1:]], dtype)
        values: dict[Source, Any] = {Picture.IMAGE: image, Picture.ALPHA: alpha}
        if wanted := taps(objective, setting):
            values.update(g.inline(trunk(load_model(model.SerializeToString()), wanted), {"x": image}))
        value = objective.build(Canvas(g, setting, values), "objective")
        self.forward = g.model({"objective": value})
        read = objective.sources(setting, "objective")
        by = ["image"] if any(source is not Picture.ALPHA for source in read) else []
        by += ["alpha"] if Picture.ALPHA in read else []
        self.inputs = {name: (value.dtype.numpy(), value.shape) for name, value in _inputs(g) if name not in _PICTURE}
        self.proto = onnx.ModelProto.FromString(serialize(self.forward))
        self.backward = onnx.ModelProto.FromString(
            serialize(build_backward(self.forward, "objective", with_respect_to=by))
        )

    def value(self, feeds: Mapping[str, Array]) -> Array:
        return evaluate(self.proto, feeds)["objective"]

    def gradients(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = evaluate(self.backward, {**feeds, "cotangent": np.ones(len(feeds["image"]), feeds["image"].dtype)})
        return {name.removeprefix("gradient."): value for name, value in found.items() if name != "activation"}

    def in_onnxruntime(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return run_in_onnxruntime(self.backward, {**feeds, "cotangent": np.ones(len(feeds["image"]), np.float32)})


def pictures(batch: int, data_type: str = "float64", *, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.uniform(0.05, 0.95, (batch, *IMAGE)).astype(data_type),
        "alpha": rng.uniform(0.05, 0.95, (batch, 1, *IMAGE[1:])).astype(data_type),
    }


def _inputs(g: GraphWriter) -> list[tuple[str, Any]]:
    return [(value.name or "", value) for value in g.inputs]


_PICTURE = {"image", "alpha"}


def numbers(*shape: int, seed: int = 1) -> Numbers:
    return Numbers(np.random.default_rng(seed).normal(size=shape))


ALONE: dict[str, Objective] = {
    "neuron": Neuron("first", 2),
    "neuron of channels last": Neuron("last", 1, (4, -2)),
    "neuron of tokens": Neuron("tokens", 3, (11,)),
    "neuron of a vector": Neuron("pooled", 1),
    "channel": Channel("first", 1),
    "channel of channels last": Channel("last", 1),
    "channel of tokens": Channel("tokens", 1),
    "channel of a vector": Channel("scores", 1),
    "channel of the picture": Channel(Picture.IMAGE, 2),
    "mean alpha": Channel(Picture.ALPHA, 0),
    "layer": Layer("tokens"),
    "class logit": ClassLogit(2),
    "class by name": ClassLogit("goldfish"),
    "class probability": ClassProbability(3),
    "direction": Direction("first", numbers(4)),
    "direction by angle": Direction("first", numbers(4), 2.0),
    "direction of channels last by angle": Direction("last", numbers(4), 1.5),
    "direction of tokens by angle": Direction("tokens", numbers(4), 2.0),
    "direction of a vector by angle": Direction("pooled", numbers(4), 3.0),
    "weighted channels": WeightedChannels("first", (3, 0), (0.5, -2.0)),
    "random direction": RandomDirection("last", 5),
    "random direction by angle": RandomDirection("last", 5, 2.0),
    "direction neuron": DirectionNeuron("last", numbers(4), (0, 7)),
    "direction neuron by angle": DirectionNeuron("first", numbers(4), None, 2.0),
    "tensor direction": TensorDirection("first", numbers(4, 3, 2)),
    "tensor direction by angle": TensorDirection("last", numbers(2, 3, 4), 2.0),
    "caricature": Caricature("first", numbers(4, 5, 8)),
    "caricature by angle": Caricature("tokens", numbers(40, 4), 2.0),
    "inversion": Inversion("first", numbers(4, 5, 8)),
    "l1": L1(Picture.IMAGE, 0.5),
    "l1 of a tap": L1("first"),
    "l2": L2(Picture.IMAGE, 0.5),
    "l2 of a tap": L2("last", 0.1, 0.01),
    "total variation": TotalVariation(Picture.IMAGE),
    "total variation of channels last": TotalVariation("last"),
    "total variation of tokens": TotalVariation("tokens"),
    "boundary complexity": BoundaryComplexity(Picture.IMAGE, 1),
    "mean absolute difference": Difference("first", numbers(4, 5, 8), Norm.MEAN_L1),
    "root mean square difference": Difference(Picture.IMAGE, numbers(*IMAGE)),
    "euclidean difference": Difference(Picture.IMAGE, numbers(*IMAGE), Norm.L2),
    "largest difference": Difference(Picture.IMAGE, numbers(*IMAGE), Norm.MAX),
    "sum": Channel("first", 1) + 2 * Channel("last", 0) - 3,
    "product": Channel("first", 1) * (1 - Channel(Picture.ALPHA, 0)) * Channel("tokens", 2),
    "negation": -Neuron("first", 0),
}
"""Objectives that treat every item alone, smooth almost everywhere."""

COUPLED: dict[str, Objective] = {
    "channel interpolation": ChannelInterpolation("first", 0, "tokens", 3),
    "diversity": Diversity("first"),
    "diversity of channels last": Diversity("last"),
    "diversity of tokens": Diversity("tokens"),
    "diversity of a vector": Diversity("pooled"),
    "alignment": Alignment("first"),
    "alignment of the picture": Alignment(Picture.IMAGE, 3.0),
    "for items": Sum((*(ForItem(item, Channel("first", item)) for item in range(3)), ForItem(1, L2(Picture.IMAGE)))),
    "for an item, on top of the rest": Channel("first", 0) + ForItem(2, -Diversity("first")),
}
"""Objectives that are defined over a batch, here of three."""

OTHERS: dict[str, Objective] = {
    "blur": Blur(Picture.IMAGE),
    "blur of alpha": Blur(Picture.ALPHA),
    "constant": Sum((Constant(2.0), Scaled(0.5, Product((Channel("first", 0),))))),
}
"""Objectives whose gradient is not that of their value, or that are odd otherwise."""

EVERY = {**ALONE, **COUPLED, **OTHERS}
