"""Relaxations: departures from the true gradient, each against its definition."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from finite_differences import check_derivatives, check_single_precision, evaluate, gradients_of, node_model
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import Relaxations, build_backward, build_tangent
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]

REDIRECTED = Relaxations.parse(["redirected_relu"])
GUIDED = Relaxations.parse(["guided"])
DECONVOLUTION = Relaxations.parse(["deconvolution"])
AVERAGED = Relaxations.parse(["averaged_max_pool"])
L2 = Relaxations.parse(["l2_max_pool"])

CONSTANTS = {"zero": np.array(0.0), "six": np.array(6.0)}
RECTIFIERS = {
    "Relu": [helper.make_node("Relu", ["x"], ["y"])],
    "Clip from 0": [helper.make_node("Clip", ["x", "zero"], ["y"])],
    "Max with 0": [helper.make_node("Max", ["x", "zero"], ["y"])],
}
RECTIFIERS_UP_TO_SIX = {
    "Clip": [helper.make_node("Clip", ["x", "zero", "six"], ["y"])],
    "Min and Max": [helper.make_node("Min", ["x", "six"], ["m"]), helper.make_node("Max", ["zero", "m"], ["y"])],
}
ANY_RECTIFIER = {**RECTIFIERS, **RECTIFIERS_UP_TO_SIX}


def rectified(nodes: Sequence[onnx.NodeProto], feeds: Mapping[str, Array]) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    return node_model(nodes, feeds, {name: value for name, value in CONSTANTS.items() if name in used})


def relaxed(nodes: Sequence[onnx.NodeProto], x: Array, g: Array, relaxations: Relaxations) -> Array:
    feeds = {"x": x}
    return gradients_of(rectified(nodes, feeds), feeds, g, relaxations=relaxations)["x"]


# Lucid's table, whose gradients are those of a loss that falls: (loss's gradient, x, what passes).
TABLE = [(1, -1, 0), (-1, -1, -1), (1, 1, 1), (-1, 1, -1)]
TABLE_UP_TO_SIX = [*TABLE, (1, 7, 1), (-1, 7, 0)]


@pytest.mark.parametrize("name", ANY_RECTIFIER)
def test_redirection_follows_lucids_truth_table(name: str) -> None:
    for falling, x, expected in TABLE if name in RECTIFIERS else TABLE_UP_TO_SIX:
        found = relaxed(ANY_RECTIFIER[name], np.array([[float(x)]]), np.array([[-float(falling)]]), REDIRECTED)
        assert found == -expected, (falling, x)


@pytest.mark.parametrize("name", ANY_RECTIFIER)
@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 2), (3, 4, 1, 1)])
def test_redirection_is_decided_for_each_sample(name: str, shape: tuple[int, ...]) -> None:
    # The first sample has a gradient; the second has none as nothing is on, the third as nothing comes back to what is.
    x = np.array([[-1.0, 1, -2, -3], [-1, -2, -3, -4], [5, 1, -1, -2]]).reshape(shape)
    g = np.array([[1.0, 2, -3, 4], [1, -2, 3, -4], [0, 0, 3, -4]]).reshape(shape)
    expected = np.array([[0.0, 2, 0, 0], [1, 0, 3, 0], [0, 0, 3, 0]]).reshape(shape)
    np.testing.assert_array_equal(relaxed(ANY_RECTIFIER[name], x, g, REDIRECTED), expected)


def test_redirection_leaves_what_is_on_the_bound_free() -> None:
    np.testing.assert_array_equal(
        relaxed(RECTIFIERS["Relu"], np.array([[0.0]]), np.array([[-1.0]]), REDIRECTED), [[-1]]
    )


def test_without_a_batch_of_samples_every_element_is_its_own() -> None:
    found = relaxed(RECTIFIERS["Relu"], np.array([-1.0, 1, -1]), np.array([1.0, 2, -1]), REDIRECTED)
    np.testing.assert_array_equal(found, [1, 2, 0])
    assert relaxed(RECTIFIERS["Relu"], np.array(-1.0), np.array(2.0), REDIRECTED) == 2


def test_a_dead_unit_gets_moving() -> None:
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((2, 3))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"]),
        helper.make_node("Sub", ["hidden", "far"], ["before"]),
        helper.make_node("Relu", ["before"], ["y"]),
    ]
    w = rng.standard_normal((3, 4))
    model = node_model(nodes, feeds, {"w": w, "far": np.array(100.0)})
    np.testing.assert_array_equal(gradients_of(model, feeds)["x"], 0)
    np.testing.assert_allclose(
        gradients_of(model, feeds, relaxations=REDIRECTED)["x"], np.broadcast_to(w.sum(axis=1), (2, 3))
    )


@pytest.mark.parametrize("name", ANY_RECTIFIER)
def test_guided_passes_what_is_positive_where_the_unit_is_on(name: str) -> None:
    x, g = np.array([[-1.0, -1, 2, 2, 0]]), np.array([[3.0, -3, 3, -3, 3]])
    np.testing.assert_array_equal(relaxed(ANY_RECTIFIER[name], x, g, GUIDED), [[0, 0, 3, 0, 0]])


@pytest.mark.parametrize("name", RECTIFIERS)
def test_deconvolution_passes_what_is_positive_wherever(name: str) -> None:
    x, g = np.array([[-1.0, -1, 2, 2, 0]]), np.array([[3.0, -3, 3, -3, 3]])
    np.testing.assert_array_equal(relaxed(RECTIFIERS[name], x, g, DECONVOLUTION), [[3, 0, 3, 0, 3]])


@pytest.mark.parametrize("relaxations", [REDIRECTED, GUIDED, DECONVOLUTION])
def test_what_is_no_rectifier_keeps_its_gradient(relaxations: Relaxations) -> None:
    rng = np.random.default_rng(0)
    feeds = {"a": rng.standard_normal((2, 3)), "b": rng.standard_normal((2, 3))}
    g = rng.standard_normal((2, 3))
    nodes = [
        helper.make_node("Max", ["a", "b"], ["m"]),
        helper.make_node("ReduceMax", ["a", "all"], ["high"], keepdims=0),
        helper.make_node("Clip", ["m", "", "high"], ["y"]),
    ]
    model = node_model(nodes, feeds, {"all": np.array([0, 1])})
    found, ordinary = gradients_of(model, feeds, g, relaxations=relaxations), gradients_of(model, feeds, g)
    for name in feeds:
        np.testing.assert_array_equal(found[name], ordinary[name])


@pytest.mark.parametrize("relaxations", [GUIDED, DECONVOLUTION])
def test_an_interval_that_does_not_begin_at_zero_is_no_rectifier(relaxations: Relaxations) -> None:
    feeds = {"x": np.array([[-2.0, 0, 2]])}
    model = node_model(
        helper.make_node("Clip", ["x", "low", "high"], ["y"]), feeds, {"low": np.array(-1.0), "high": np.array(1.0)}
    )
    found = gradients_of(model, feeds, np.array([[-1.0, -1, -1]]), relaxations=relaxations)["x"]
    np.testing.assert_array_equal(found, [[0, -1, 0]])


@pytest.mark.parametrize("relaxations", [GUIDED, DECONVOLUTION, REDIRECTED])
@pytest.mark.parametrize("after", ["MaxPool", "Concat"])
def test_what_comes_back_to_a_rectifier_was_not_masked_before(relaxations: Relaxations, after: str) -> None:
    x = np.full((1, 4, 2, 2), -1.0)
    nodes = [helper.make_node("Relu", ["x"], ["r"])]
    if after == "MaxPool":
        nodes.append(helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[1, 1], strides=[1, 1]))
    else:
        nodes.append(helper.make_node("Concat", ["r"], ["y"], axis=1))
    found = gradients_of(node_model(nodes, {"x": x}), {"x": x}, relaxations=relaxations)["x"]
    np.testing.assert_array_equal(found, np.zeros_like(x) if relaxations is GUIDED else np.ones_like(x))


@pytest.mark.parametrize("name", ["redirected_relu", "guided", "deconvolution"])
def test_relaxations_that_look_at_the_sign_have_no_tangent(name: str) -> None:
    feeds = {"x": np.ones((1, 2))}
    nodes = [helper.make_node("Identity", ["x"], ["tap"]), helper.make_node("Relu", ["tap"], ["y"])]
    model = load_model(node_model(nodes, feeds).SerializeToString())
    with pytest.raises(OrtoscopeError, match="has no forward direction") as caught:
        build_tangent(model, "tap", relaxations=Relaxations.parse([name]))
    assert caught.value.reason == "RELAXATION_NOT_LINEAR"


@pytest.mark.parametrize("pair", [("redirected_relu", "guided"), ("averaged_max_pool", "l2_max_pool")])
def test_two_relaxations_of_one_operator_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        Relaxations.parse(pair)
    assert caught.value.reason == "CONFLICTING_RELAXATIONS"


POOLS: list[tuple[str, dict[str, Any], tuple[int | str, ...]]] = [
    ("GlobalMaxPool", {}, (2, 4, 5, 6)),
    ("GlobalMaxPool", {}, (2, 3, 7)),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, (2, 4, 6, 8)),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, (2, 4, 7, 8)),
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 0, 1]}, (1, 3, 6, 5)),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, (1, 3, 8, 8)),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, (1, 3, 8, 7)),
    ("MaxPool", {"kernel_shape": [2], "dilations": [2]}, (2, 3, 9)),
    ("MaxPool", {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}, (1, 2, 4, 4, 6)),
]


def pool(op_type: str, attributes: Mapping[str, Any], feeds: Mapping[str, Array]) -> onnx.ModelProto:
    free = ["n", *feeds["x"].shape[1:]]
    return node_model(helper.make_node(op_type, ["x"], ["y"], **attributes), feeds, symbolic={"x": free}, opset=22)


def average(op_type: str, x: str, y: str, attributes: Mapping[str, Any]) -> onnx.NodeProto:
    return helper.make_node(op_type.replace("Max", "Average"), [x], [y], **attributes)


@pytest.mark.parametrize(("op_type", "attributes", "shape"), POOLS)
def test_an_averaged_max_pool_has_the_gradient_of_the_average(
    op_type: str, attributes: Mapping[str, Any], shape: tuple[int, ...]
) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal(shape)}
    model, averaging = pool(op_type, attributes, feeds), node_model(average(op_type, "x", "y", attributes), feeds)
    check_relaxed_pool(model, averaging, feeds, AVERAGED)


@pytest.mark.parametrize(("op_type", "attributes", "shape"), POOLS)
def test_an_l2_max_pool_has_the_gradient_of_its_surrogate(
    op_type: str, attributes: Mapping[str, Any], shape: tuple[int, ...]
) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal(shape)}
    surrogate = node_model(
        [
            helper.make_node("Mul", ["x", "x"], ["square"]),
            helper.make_node("Abs", ["x"], ["size"]),
            average(op_type, "square", "squares", attributes),
            average(op_type, "size", "sizes", attributes),
            helper.make_node("Add", ["sizes", "small"], ["divisor"]),
            helper.make_node("Div", ["squares", "divisor"], ["y"]),
        ],
        feeds,
        {"small": np.array(0.01)},
    )
    check_relaxed_pool(pool(op_type, attributes, feeds), surrogate, feeds, L2)


def check_relaxed_pool(
    model: onnx.ModelProto, surrogate: onnx.ModelProto, feeds: Mapping[str, Array], relaxations: Relaxations
) -> None:
    """The forward pass is the max pool's, the gradient the surrogate's by central differences."""
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y", relaxations=relaxations))
    rng, step = np.random.default_rng(1), 1e-6
    y = evaluate(model, feeds)["y"]
    for _ in range(3):
        along, cotangent = rng.standard_normal(feeds["x"].shape), rng.standard_normal(y.shape)
        up, down = (evaluate(surrogate, {"x": feeds["x"] + sign * step * along})["y"] for sign in (1, -1))
        terms = cotangent * (up - down) / (2 * step)
        found = evaluate(backward, {**feeds, "cotangent": cotangent})
        np.testing.assert_array_equal(found["activation"], y)
        assert abs(np.sum(found["gradient.x"] * along) - terms.sum()) <= 1e-6 * np.abs(terms).sum()
    check_single_precision(model, feeds, relaxations=relaxations)


@pytest.mark.parametrize("relaxations", [AVERAGED, L2])
def test_relaxed_pools_have_a_tangent_that_is_the_transpose(relaxations: Relaxations) -> None:
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((1, 3, 6, 6))}
    nodes = [
        helper.make_node("Identity", ["x"], ["tap"]),
        helper.make_node("MaxPool", ["tap"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    model = node_model(nodes, feeds)
    tangent = serialize(build_tangent(load_model(model.SerializeToString()), "tap", relaxations=relaxations))
    along, cotangent = rng.standard_normal((1, 3, 6, 6)), rng.standard_normal((1, 3, 3, 3))
    forward = evaluate(tangent, {**feeds, "tangent": along})["tangent.y"]
    back = gradients_of(model, feeds, cotangent, relaxations=relaxations)["x"]
    np.testing.assert_allclose(np.sum(forward * cotangent), np.sum(back * along), rtol=1e-12)


def test_relaxed_pools_ignore_the_indices() -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 1, 4, 4))}
    nodes = [
        helper.make_node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Cast", ["indices"], ["places"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["y", "places"], ["z"]),
    ]
    found = gradients_of(node_model(nodes, feeds), feeds, relaxations=AVERAGED)["x"]
    np.testing.assert_allclose(found, 0.25)


def test_the_relaxations_are_recorded_in_the_graph() -> None:
    feeds = {"x": np.ones((1, 2))}
    model = load_model(rectified(RECTIFIERS["Relu"], feeds).SerializeToString())
    names = ["redirected_relu", "averaged_max_pool"]
    built = build_backward(model, "y", relaxations=Relaxations.parse(names))
    assert built.metadata_props["ortoscope.relaxations"] == ",".join(names)


def test_without_relaxations_the_gradient_is_true() -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 4))}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    check_derivatives(node_model(nodes, feeds), feeds)
