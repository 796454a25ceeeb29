"""Activation functions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from finite_differences import (
    check_derivatives,
    check_single_precision,
    gradients_of,
    node_model,
    run_in_onnxruntime,
)
from onnx import TensorProto, helper
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]
Attributes = Mapping[str, Any]

FUNCTIONS: list[tuple[str, Attributes]] = [
    ("Relu", {}),
    ("LeakyRelu", {}),
    ("LeakyRelu", {"alpha": 0.3}),
    ("LeakyRelu", {"alpha": -0.3}),
    ("LeakyRelu", {"alpha": 1.5}),
    ("Elu", {}),
    ("Elu", {"alpha": 0.5}),
    ("Elu", {"alpha": -1.5}),
    ("Selu", {}),
    ("Selu", {"alpha": 1.2, "gamma": 2.0}),
    ("Celu", {}),
    ("Celu", {"alpha": 0.6}),
    ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("Mish", {}),
    ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 0.4, "beta": 0.3}),
    ("HardSigmoid", {"alpha": -0.4, "beta": 0.6}),
    ("HardSwish", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Swish", {}),
    ("Swish", {"alpha": 1.7}),
    ("Swish", {"alpha": -0.4}),
    ("ThresholdedRelu", {}),
    ("ThresholdedRelu", {"alpha": 0.3}),
    ("ThresholdedRelu", {"alpha": -0.3}),
    ("Shrink", {}),
    ("Shrink", {"lambd": 0.7, "bias": 0.3}),
    ("Clip", {}),
]
WITH_KINKS = frozenset(
    {"Celu", "Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Selu", "Shrink", "ThresholdedRelu"}
)
SMOOTH = [(op_type, attributes) for op_type, attributes in FUNCTIONS if op_type not in WITH_KINKS]


def opset(op_type: str) -> int:
    return 24 if op_type == "Swish" else 22


def function(op_type: str, feeds: Mapping[str, Array], attributes: Attributes, **options: Any) -> onnx.ModelProto:
    node = helper.make_node(op_type, ["x"], ["y"], **attributes)
    return node_model(node, feeds, opset=opset(op_type), **options)


@pytest.mark.parametrize(("op_type", "attributes"), FUNCTIONS)
def test_activation_functions_have_their_derivative(op_type: str, attributes: Attributes) -> None:
    # From -4 to 4, past all kinks but upon none.
    feeds = {"x": np.random.default_rng(0).permutation(np.linspace(-4.03, 4.02, 30)).reshape(5, 3, 2)}
    check_derivatives(function(op_type, feeds, attributes), feeds)
    check_derivatives(function(op_type, feeds, attributes, symbolic={"x": ["n", "m", 2]}), feeds, directions=1)
    check_single_precision(function(op_type, feeds, attributes), feeds)


@pytest.mark.parametrize(("op_type", "attributes"), SMOOTH)
def test_smooth_functions_are_smooth_at_zero_and_flat_far_away(op_type: str, attributes: Attributes) -> None:
    near = {"x": np.array([0.0])}
    check_derivatives(function(op_type, near, attributes), near, directions=1)
    far = {"x": np.array([-1e4, 1e4])}
    # The reference evaluator's Sigmoid computes both of its branches everywhere.
    with np.errstate(over="ignore", invalid="ignore"):
        left, right = gradients_of(function(op_type, far, attributes), far)["x"]
    slopes = {
        "Gelu": (0, 1),
        "Mish": (0, 1),
        "Swish": (1, 0) if attributes.get("alpha", 1) < 0 else (0, 1),
        "Softplus": (0, 1),
    }
    np.testing.assert_allclose((left, right), slopes.get(op_type, (0, 0)), atol=2e-8)


AT_KINKS = [
    ("Relu", {}, {0.0: 0}),
    ("LeakyRelu", {"alpha": 0.25}, {0.0: 0.25}),
    ("LeakyRelu", {"alpha": -0.25}, {0.0: -0.25}),
    ("Elu", {"alpha": 0.5}, {0.0: 0.5}),
    ("Selu", {"alpha": 1.5, "gamma": 2.0}, {0.0: 3}),
    ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}, {-2.0: 0, 2.0: 0}),
    ("HardSwish", {}, {-3.0: 0, 3.0: 1}),
    ("ThresholdedRelu", {"alpha": 0.5}, {0.5: 0}),
    ("Shrink", {"lambd": 0.5}, {-0.5: 0, 0.5: 0}),
]


@pytest.mark.parametrize(("op_type", "attributes", "expected"), AT_KINKS)
def test_derivatives_at_kinks_are_as_in_pytorch(
    op_type: str, attributes: Attributes, expected: Mapping[float, float]
) -> None:
    feeds = {"x": np.array([*expected])}
    found = gradients_of(function(op_type, feeds, attributes), feeds)["x"]
    np.testing.assert_array_equal(found, [*expected.values()])


@pytest.mark.parametrize("slope", [(), (1,), (3, 1, 1), (3, 4, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("constant", [True, False])
def test_prelu_and_its_slope(slope: tuple[int, ...], constant: bool) -> None:
    rng = np.random.default_rng(0)
    feeds, slopes = {"x": rng.standard_normal((2, 3, 4, 5))}, {"slope": rng.standard_normal(slope)}
    node = helper.make_node("PRelu", ["x", "slope"], ["y"])
    if constant:
        model = node_model(node, feeds, slopes, symbolic={"x": ["n", 3, "h", "w"]})
    else:
        feeds = {**feeds, **slopes}
        model = node_model(node, feeds)
    check_derivatives(model, feeds)
    check_single_precision(model, feeds)


def test_prelu_at_its_kink_is_as_in_pytorch() -> None:
    feeds = {"x": np.array([0.0, -2, 3]), "slope": np.array([0.25])}
    found = gradients_of(node_model(helper.make_node("PRelu", ["x", "slope"], ["y"]), feeds), feeds)
    np.testing.assert_array_equal(found["x"], [0.25, 0.25, 1])
    assert found["slope"] == -2


def clip(feeds: Mapping[str, Array], low: float | None, high: float | None, **options: Any) -> onnx.ModelProto:
    bounds = {"low": low, "high": high}
    constants = {name: np.array(bound) for name, bound in bounds.items() if bound is not None}
    inputs = ["x", *(name if bound is not None else "" for name, bound in bounds.items())]
    return node_model(helper.make_node("Clip", inputs, ["y"]), feeds, constants, **options)


LARGEST = float(np.finfo(np.float64).max)


@pytest.mark.parametrize(
    ("low", "high"), [(-0.5, 0.7), (0.0, 6.0), (0.0, None), (None, 0.3), (0.4, -0.2), (-LARGEST, 0.3), (0.0, LARGEST)]
)
def test_clip_passes_what_is_between_constant_bounds(low: float | None, high: float | None) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 5)) * 3}
    check_derivatives(clip(feeds, low, high), feeds)
    check_derivatives(clip(feeds, low, high, symbolic={"x": ["n", 5]}), feeds, directions=1)


def test_a_bound_that_is_the_largest_number_costs_nothing() -> None:
    feeds = {"x": np.ones(3)}
    model = build_backward(load_model(clip(feeds, -LARGEST, LARGEST).SerializeToString()), "y")
    assert {node.op_type for node in model.graph} <= {"Clip", "Identity"}


def test_clip_passes_nothing_at_constant_bounds_as_pytorchs_relu6() -> None:
    feeds = {"x": np.array([-1.0, 0, 1, 6, 7])}
    np.testing.assert_array_equal(gradients_of(clip(feeds, 0, 6), feeds)["x"], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(gradients_of(clip(feeds, 2, 2), feeds)["x"], 0)


@pytest.mark.parametrize("opset", [7, 10, 11, 12, 13])
def test_clip_of_any_opset(opset: int) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32) * 3}
    if opset < 11:
        node, constants = helper.make_node("Clip", ["x"], ["y"], min=-1.0, max=2.0), {}
    else:
        node = helper.make_node("Clip", ["x", "low", "high"], ["y"])
        constants = {"low": np.float32(-1), "high": np.float32(2)}
    model = node_model(node, feeds, constants, opset=opset, output_type=TensorProto.FLOAT)
    expected = (feeds["x"] > -1) & (feeds["x"] < 2)
    np.testing.assert_array_equal(gradients_of(model, feeds)["x"], expected)


@pytest.mark.parametrize("names", [["low", "high"], ["low"], ["high"]])
def test_computed_bounds_have_gradients(names: list[str]) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 5)), "low": np.array(-0.4), "high": np.array(0.6)}
    feeds = {name: value for name, value in feeds.items() if name in {"x", *names}}
    inputs = ["x", *(name if name in names else "" for name in ("low", "high"))]
    model = node_model(helper.make_node("Clip", inputs, ["y"]), feeds)
    check_derivatives(model, feeds)
    check_single_precision(model, feeds)


def test_of_computed_bounds_below_each_other_the_upper_one_gets_all() -> None:
    feeds = {"x": np.array([-1.0, 0, 1]), "low": np.array(0.5), "high": np.array(-0.5)}
    check_derivatives(node_model(helper.make_node("Clip", ["x", "low", "high"], ["y"]), feeds), feeds)


def test_a_value_at_a_computed_bound_shares_with_it_as_in_pytorchs_clamp() -> None:
    feeds = {"x": np.array([-2.0, -1, 0, 1, 2]), "low": np.array(-1.0), "high": np.array(1.0)}
    found = gradients_of(node_model(helper.make_node("Clip", ["x", "low", "high"], ["y"]), feeds), feeds)
    np.testing.assert_array_equal(found["x"], [0, 0.5, 1, 0.5, 0])
    assert found["low"] == found["high"] == 1.5


# Celu is defined for float32 alone.
@pytest.mark.parametrize(("op_type", "attributes"), [case for case in FUNCTIONS if case[0] != "Celu"])
def test_half_precision_stays_half_precision(op_type: str, attributes: Attributes) -> None:
    feeds = {"x": np.linspace(-3.6, 3.55, 20)}
    half = {"x": feeds["x"].astype(np.float16)}
    model = function(op_type, half, attributes, output_type=TensorProto.FLOAT16)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    found = run_in_onnxruntime(backward, {**half, "cotangent": np.ones(20, np.float16)})["gradient.x"]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, gradients_of(function(op_type, feeds, attributes), feeds)["x"], atol=1e-2)


@pytest.mark.parametrize("op_type", ["Relu", "Clip", "Max", "Sigmoid", "Tanh"])
def test_double_precision_runs_in_onnxruntime(op_type: str) -> None:
    feeds = {"x": np.linspace(-3.6, 3.55, 24).reshape(2, 3, 4)}
    constants = {"Clip": [-1.5, 1.5], "Max": [0.1]}.get(op_type, [])
    named = {f"constant{position}": np.array(value) for position, value in enumerate(constants)}
    model = node_model(helper.make_node(op_type, ["x", *named], ["y"]), feeds, named)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    found = run_in_onnxruntime(backward, {**feeds, "cotangent": np.ones((2, 3, 4))})["gradient.x"]
    np.testing.assert_allclose(found, gradients_of(model, feeds)["x"], rtol=1e-12)
