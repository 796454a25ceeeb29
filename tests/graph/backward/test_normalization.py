"""Normalization over channels, neighbours, groups and rows.

Where onnx.reference is wrong, `reference_operators` says what the standard says.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from finite_differences import (
    check_derivatives,
    check_single_precision,
    evaluate,
    gradients_of,
    node_model,
    run_in_onnxruntime,
    single_precision,
)
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Arrays = dict[str, Array]


def normal(shape: Sequence[int], seed: int = 0) -> Array:
    """Normal values, other than those that cotangents are made of."""
    return np.random.default_rng(100 + seed).standard_normal(shape)


def all_free(feeds: Mapping[str, Array]) -> dict[str, list[str]]:
    """Shapes of inputs with a free dimension for every axis."""
    return {name: [f"{name}{axis}" for axis in range(value.ndim)] for name, value in feeds.items()}


def check(node: onnx.NodeProto, feeds: Mapping[str, Array], *, opset: int = 22, free: bool = True) -> None:
    """Static and free shapes, and float32 in ONNX Runtime."""
    check_derivatives(node_model(node, feeds, opset=opset), feeds, directions=2)
    if free:
        check_derivatives(node_model(node, feeds, opset=opset, symbolic=all_free(feeds)), feeds, directions=1)
    check_single_precision(node_model(node, feeds, opset=opset), feeds)


def per_channel(shape: Shape) -> Arrays:
    """An input with scale and bias for its channels."""
    return {"x": normal(shape), "scale": normal(shape[1:2], 1), "bias": normal(shape[1:2], 2)}


def batch_statistics(channels: int) -> Arrays:
    rng = np.random.default_rng(3)
    return {"mean": rng.standard_normal(channels), "var": rng.uniform(0.5, 2, channels)}


CORRECTED: list[tuple[str, int, dict[str, Any]]] = [
    ("LRN", 1, {"size": 3, "alpha": 0.9, "beta": 0.6, "bias": 1.5}),
    ("LRN", 1, {"size": 5}),
    ("LpNormalization", 1, {"p": 1, "axis": 1}),
    ("LpNormalization", 1, {"p": 2}),
    ("GroupNormalization", 3, {"num_groups": 3}),
    ("MeanVarianceNormalization", 1, {"axes": [0, 2]}),
]


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), CORRECTED)
def test_operators_that_replace_those_of_the_reference_do_what_onnxruntime_does(
    op_type: str, inputs: int, attributes: dict[str, Any]
) -> None:
    feeds = dict(list(per_channel((2, 6, 4, 3)).items())[:inputs])
    model = node_model(helper.make_node(op_type, list(feeds), ["y"], **attributes), feeds)
    single = {name: value.astype(np.float32) for name, value in feeds.items()}
    expected = run_in_onnxruntime(single_precision(model), single)["y"]
    np.testing.assert_allclose(evaluate(model, feeds)["y"], expected, rtol=1e-5, atol=1e-6)


IMAGES = [(2, 3), (2, 3, 5), (2, 8, 3, 4), (2, 3, 2, 2, 3)]


@pytest.mark.parametrize("shape", IMAGES)
def test_gradient_of_batch_normalization_by_all_its_inputs(shape: Shape) -> None:
    feeds = {**per_channel(shape), **batch_statistics(shape[1])}
    check(helper.make_node("BatchNormalization", list(feeds), ["y"], epsilon=0.1), feeds)


@pytest.mark.parametrize("opset", [7, 9, 14, 15, 22])
def test_gradient_of_batch_normalization_with_constant_statistics(opset: int) -> None:
    feeds = per_channel((2, 3, 4, 5))
    constants = {**{name: feeds.pop(name) for name in ("scale", "bias")}, **batch_statistics(3)}
    node = helper.make_node("BatchNormalization", ["x", *constants], ["y"])
    model = node_model(node, feeds, constants, opset=opset, symbolic={"x": ["n", 3, "h", "w"]})
    check_derivatives(model, feeds)
    check_single_precision(model, feeds)


def convolution(channels: int, *, normalized: bool = True) -> tuple[onnx.ModelProto, Arrays]:
    """Conv, BatchNormalization, Relu."""
    feeds = {"x": normal((2, channels, 5, 5))}
    constants = {"w": normal((channels, channels, 3, 3), 4)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], name="conv", pads=[1, 1, 1, 1])]
    if normalized:
        own = {"scale": normal((channels,), 1), "bias": normal((channels,), 2), **batch_statistics(channels)}
        nodes.append(helper.make_node("BatchNormalization", ["h", *own], ["z"], name="norm"))
        constants.update(own)
    nodes.append(helper.make_node("Relu", [nodes[-1].output[0]], ["y"], name="relu"))
    return node_model(nodes, feeds, constants, symbolic={"x": ["n", channels, 5, 5]}), feeds


@pytest.mark.parametrize("channels", [3, 8, 16])
def test_gradient_of_batch_normalization_after_a_convolution(channels: int) -> None:
    model, feeds = convolution(channels)
    check_derivatives(model, feeds)
    check_single_precision(model, feeds)


@pytest.mark.parametrize("channels", [8, 16])
def test_batch_normalization_after_a_convolution_costs_no_pass_over_activations(channels: int) -> None:
    """Its factors go into the weights of the convolution that is the gradient of the one before."""
    passes = []
    for normalized in (True, False):
        model, _ = convolution(channels, normalized=normalized)
        graph = build_backward(load_model(single_precision(model).SerializeToString()), "y").graph
        shapes = {node: node.outputs[0].shape for node in graph if node.op_type != "BatchNormalization"}
        passes.append([node.op_type for node, shape in shapes.items() if shape is not None and "n" in shape])
    assert "Conv" in passes[0]
    assert passes[0] == passes[1]


@pytest.mark.parametrize("shape", IMAGES)
def test_gradient_of_batch_normalization_in_training_mode(shape: Shape) -> None:
    # Not in ONNX Runtime, which has no training mode.
    feeds, constants = per_channel(shape), batch_statistics(shape[1])
    node = helper.make_node("BatchNormalization", [*feeds, *constants], ["y", "m", "v"], epsilon=0.1, training_mode=1)
    check_derivatives(node_model(node, feeds, constants, output="y"), feeds)


def test_running_statistics_have_no_gradient() -> None:
    feeds, constants = per_channel((2, 3, 4)), batch_statistics(3)
    node = helper.make_node("BatchNormalization", [*feeds, *constants], ["y", "m", "v"], training_mode=1)
    model = node_model(node, feeds, constants, output="m")
    with pytest.raises(OrtoscopeError, match="running statistics") as caught:
        build_backward(load_model(model.SerializeToString()), "m")
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"


def test_half_precision_goes_with_statistics_in_single_precision() -> None:
    feeds = {"x": normal((2, 3, 4)).astype(np.float16)}
    constants = {name: np.full(3, value, np.float32) for name, value in (("s", 2), ("t", 1), ("m", 0), ("v", 4))}
    node = helper.make_node("BatchNormalization", ["x", *constants], ["y"], epsilon=0.0)
    model = node_model(node, feeds, constants, opset=15, output_type=TensorProto.FLOAT16)
    gradient = gradients_of(model, feeds)["x"]
    np.testing.assert_array_equal(gradient, np.ones((2, 3, 4), np.float16), strict=True)


@pytest.mark.parametrize("shape", IMAGES)
def test_gradient_of_instance_normalization(shape: Shape) -> None:
    feeds = per_channel(shape)
    node = helper.make_node("InstanceNormalization", list(feeds), ["y"], epsilon=0.1)
    if len(shape) > 2:
        check(node, feeds)
    else:
        # Every element is its own mean. ONNX Runtime wants spatial axes.
        check_derivatives(node_model(node, feeds), feeds)


@pytest.mark.parametrize("opset", [8, 21])
def test_gradient_of_instance_normalization_with_constant_scale(opset: int) -> None:
    feeds = per_channel((2, 3, 4, 5))
    constants = {name: feeds.pop(name) for name in ("scale", "bias")}
    node = helper.make_node("InstanceNormalization", ["x", *constants], ["y"])
    check_derivatives(node_model(node, feeds, constants, opset=opset, symbolic={"x": ["n", 3, "h", "w"]}), feeds)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 2, 3)])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_gradient_of_group_normalization(shape: Shape, groups: int) -> None:
    feeds = per_channel(shape)
    check(helper.make_node("GroupNormalization", list(feeds), ["y"], num_groups=groups, epsilon=0.1), feeds)


def uninferred(nodes: Sequence[onnx.NodeProto], shape: Sequence[int | str], opset: int = 22) -> onnx.ModelProto:
    """A model from `x` to `y`, for operators on which ONNX's strict inference fails."""
    values = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "test", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_normalized_groups_may_be_followed_by_what_needs_their_shape() -> None:
    feeds = {"x": normal((2, 4, 2))}
    nodes = [
        helper.make_node("Constant", [], ["s"], value_floats=[1.0, 2.0, 3.0, 4.0]),
        helper.make_node("Cast", ["s"], ["scale"], to=TensorProto.DOUBLE),
        helper.make_node("GroupNormalization", ["x", "scale", "scale"], ["z"], name="norm", num_groups=2, epsilon=0.1),
        helper.make_node("Transpose", ["z"], ["y"], name="turn", perm=[2, 1, 0]),
    ]
    check_derivatives(uninferred(nodes, [2, 4, 2]), feeds, tangent=False)


LAYERS = [
    ((2, 3, 4), {}, (4,), (4,)),
    ((2, 3, 4), {"axis": -1}, (4,), None),
    ((2, 3, 4), {"axis": 1}, (3, 4), (1, 4)),
    ((2, 3, 4), {"axis": -2}, (1,), (3, 1)),
    ((2, 3, 4), {"axis": 0}, (2, 3, 4), (4,)),
    ((5,), {"axis": 0}, (5,), (5,)),
]


@pytest.mark.parametrize(("shape", "attributes", "scale", "bias"), LAYERS)
def test_gradient_of_layer_normalization(
    shape: Shape, attributes: dict[str, int], scale: Shape, bias: Shape | None
) -> None:
    feeds = {"x": normal(shape), "scale": normal(scale, 1), **({} if bias is None else {"bias": normal(bias, 2)})}
    node = helper.make_node("LayerNormalization", list(feeds), ["y"], epsilon=0.1, **attributes)
    check_derivatives(node_model(node, feeds), feeds, directions=2)
    check_derivatives(node_model(node, feeds, symbolic=all_free(feeds)), feeds, directions=1)
    if scale == shape[attributes.get("axis", -1) :]:
        check_single_precision(node_model(node, feeds), feeds)


@pytest.mark.parametrize("tap", ["mean", "factor"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_gradient_of_the_statistics_of_layer_normalization(tap: str, axis: int) -> None:
    feeds = {"x": normal((2, 3, 4)), "scale": normal((4,), 1)}
    node = helper.make_node("LayerNormalization", list(feeds), ["y", "mean", "factor"], axis=axis, epsilon=0.1)
    # The statistics are of float32 by their type, whatever the input's.
    for symbolic in (None, all_free(feeds)):
        model = node_model(node, feeds, output=tap, output_type=TensorProto.FLOAT, symbolic=symbolic)
        check_derivatives(model, feeds, tangent=False)


def test_gradient_of_all_outputs_of_layer_normalization_together() -> None:
    feeds = {"x": normal((2, 3, 4)).astype(np.float32), "scale": normal((4,), 1).astype(np.float32)}
    nodes = [
        helper.make_node("LayerNormalization", list(feeds), ["z", "mean", "factor"], epsilon=0.1),
        helper.make_node("Mul", ["z", "mean"], ["product"]),
        helper.make_node("Add", ["product", "factor"], ["y"]),
    ]
    model = node_model(nodes, feeds, output_type=TensorProto.FLOAT)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    found = run_in_onnxruntime(backward, {**feeds, "cotangent": np.ones((2, 3, 4), np.float32)})["gradient.x"]
    x, s = feeds["x"].astype(np.float64), feeds["scale"].astype(np.float64)
    expected = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        moved = [x.copy(), x.copy()]
        moved[0][index] += 1e-5
        moved[1][index] -= 1e-5
        sums = []
        for values in moved:
            mean, factor = values.mean(-1, keepdims=True), 1 / np.sqrt(values.var(-1, keepdims=True) + 0.1)
            sums.append(float(((values - mean) * factor * s * mean + factor).sum()))
        expected[index] = (sums[0] - sums[1]) / 2e-5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("op_type", "opset"), [("LayerNormalization", 17), ("LayerNormalization", 22), ("RMSNormalization", 23)]
)
def test_statistics_of_half_precision_are_taken_in_single_precision(op_type: str, opset: int) -> None:
    # In half precision the squares of the deviations would overflow.
    feeds = {"x": np.array([[300.0, -300, 300, -300]], np.float16), "s": np.array([1, 2, 3, 4], np.float16)}
    node = helper.make_node(op_type, ["x", "s"], ["y"])
    model = node_model(node, feeds, opset=opset, output_type=TensorProto.FLOAT16)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    results = run_in_onnxruntime(backward, {**feeds, "cotangent": np.ones((1, 4), np.float16)})
    gradients = {name: results[f"gradient.{name}"] for name in feeds}
    s, signs = feeds["s"].astype(np.float64), np.array([1, -1, 1, -1.0])
    centered = s - s.mean() * (op_type == "LayerNormalization")
    np.testing.assert_allclose(gradients["x"][0], (centered - signs * (s * signs).mean()) / 300, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(gradients["s"], signs, rtol=1e-3)
    assert {value.dtype for value in gradients.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_large_mean_cancels_nothing(offset: float) -> None:
    rng = np.random.default_rng(0)
    x = (offset + rng.integers(-8, 8, (2, 16)) / 8).astype(np.float32)
    feeds = {"x": x, "s": np.ones(16, np.float32)}
    model = node_model(helper.make_node("LayerNormalization", ["x", "s"], ["y"]), feeds, output_type=TensorProto.FLOAT)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    g = rng.standard_normal(x.shape).astype(np.float32)
    found = run_in_onnxruntime(backward, {**feeds, "cotangent": g})["gradient.x"]
    deviation = x.astype(float) - x.astype(float).mean(1, keepdims=True)
    spread = np.sqrt((deviation**2).mean(1, keepdims=True) + 1e-5)
    normalized = deviation / spread
    expected = (g - g.mean(1, keepdims=True) - normalized * (g * normalized).mean(1, keepdims=True)) / spread
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 if offset else 2e-6)


@pytest.mark.parametrize(("axis", "scale"), [(None, (4,)), (-1, (1,)), (1, (3, 4)), (-2, (4,)), (0, (2, 3, 4))])
def test_gradient_of_root_mean_square_normalization(axis: int | None, scale: Shape) -> None:
    feeds = {"x": normal((2, 3, 4)), "scale": normal(scale, 1)}
    attributes = {} if axis is None else {"axis": axis}
    node = helper.make_node("RMSNormalization", list(feeds), ["y"], epsilon=0.1, **attributes)
    check_derivatives(node_model(node, feeds, opset=23), feeds, directions=2)
    check_derivatives(node_model(node, feeds, opset=23, symbolic=all_free(feeds)), feeds, directions=1)
    if scale == (2, 3, 4)[axis or -1 :]:
        check_single_precision(node_model(node, feeds, opset=23), feeds)


@pytest.mark.parametrize(("shape", "axes"), [((2, 3, 4, 2), [0, 2, 3]), ((2, 3, 4), [0, -1]), ((3, 4), [1])])
def test_gradient_of_mean_variance_normalization(shape: Shape, axes: list[int]) -> None:
    feeds = {"x": normal(shape)}
    check(helper.make_node("MeanVarianceNormalization", ["x"], ["y"], axes=axes), feeds)


@pytest.mark.parametrize("opset", [9, 13, 22])
def test_mean_variance_normalization_is_over_all_axes_but_the_channels_by_default(opset: int) -> None:
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"], name="norm")
    check_derivatives(uninferred([node], ["n", 3, 4, 2], opset), {"x": normal((2, 3, 4, 2))}, tangent=False)


def test_gradient_of_mean_variance_normalization_is_zero_where_all_is_equal_and_the_cotangent_even() -> None:
    feeds = {"x": np.ones((2, 3))}
    model = node_model(helper.make_node("MeanVarianceNormalization", ["x"], ["y"], axes=[1]), feeds)
    assert np.all(gradients_of(model, feeds)["x"] == 0)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_gradient_of_the_p_norm(p: int, axis: int | None) -> None:
    feeds = {"x": normal((2, 3, 4))}
    node = helper.make_node("LpNormalization", ["x"], ["y"], p=p, **({} if axis is None else {"axis": axis}))
    check(node, feeds)


@pytest.mark.parametrize("p", [1, 2])
def test_gradient_of_a_norm_of_zero_is_zero(p: int) -> None:
    feeds = {"x": np.array([[0.0, 0], [3, 4]])}
    model = node_model(helper.make_node("LpNormalization", ["x"], ["y"], p=p), feeds)
    gradient = gradients_of(model, feeds, np.array([[1.0, 2], [1, 2]]))["x"]
    assert np.all(gradient[0] == 0)
    assert np.all(gradient[1] != 0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6])
def test_gradient_of_local_response_normalization(size: int, beta: float) -> None:
    feeds = {"x": normal((2, 6, 3, 2))}
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.9, beta=beta, bias=1.5)
    check_derivatives(node_model(node, feeds), feeds, directions=2)
    check_derivatives(node_model(node, feeds, symbolic={"x": ["n", 6, "h", "w"]}), feeds, directions=1)
    if size % 2:
        # ONNX Runtime has no even windows.
        check_single_precision(node_model(node, feeds), feeds)


@pytest.mark.parametrize("shape", [(2, 7), (2, 6, 3), (2, 4, 1, 2, 3)])
def test_gradient_of_local_response_normalization_with_any_spatial_axes(shape: Shape) -> None:
    # Not in ONNX Runtime, which has two.
    feeds = {"x": normal(shape)}
    node = helper.make_node("LRN", ["x"], ["y"], size=3, alpha=0.9)
    check_derivatives(node_model(node, feeds), feeds)
    symbolic = {"x": ["n", shape[1], *(f"s{axis}" for axis in range(len(shape) - 2))]}
    check_derivatives(node_model(node, feeds, symbolic=symbolic), feeds, directions=1)


def test_local_response_normalization_over_a_free_number_of_channels_is_refused() -> None:
    feeds = {"x": normal((2, 6, 3, 2))}
    model = node_model(helper.make_node("LRN", ["x"], ["y"], size=3), feeds, symbolic={"x": ["n", "c", 3, 2]})
    with pytest.raises(OrtoscopeError, match="free number of channels") as caught:
        build_backward(load_model(model.SerializeToString()), "y")
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"
