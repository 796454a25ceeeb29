"""Softmax and its logarithm."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from finite_differences import check_derivatives, check_single_precision, gradients_of, node_model
from onnx import TensorProto, helper

Array = npt.NDArray[Any]

BOTH = pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])


@BOTH
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -2, -3])
def test_gradient_along_any_axis(op_type: str, axis: int | None) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 4))}
    node = helper.make_node(op_type, ["x"], ["y"], **({} if axis is None else {"axis": axis}))
    check_derivatives(node_model(node, feeds), feeds)
    check_derivatives(node_model(node, feeds, symbolic={"x": ["n", 3, "m"]}), feeds, directions=1)
    check_single_precision(node_model(node, feeds), feeds)


@BOTH
@pytest.mark.parametrize("shape", [(5,), (1, 1), (0, 3)])
def test_gradient_of_any_shape(op_type: str, shape: tuple[int, ...]) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal(shape)}
    check_derivatives(node_model(helper.make_node(op_type, ["x"], ["y"]), feeds), feeds, directions=1)


@BOTH
@pytest.mark.parametrize("opset", [7, 11, 12])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_old_opsets_join_all_axes_from_the_given_one_on(op_type: str, opset: int, axis: int | None) -> None:
    # onnx.reference does not know the old meaning, so the truth is the closed form.
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((2, 3, 4))}
    cotangent = rng.standard_normal((2, 3, 4))
    node = helper.make_node(op_type, ["x"], ["y"], **({} if axis is None else {"axis": axis}))
    found = gradients_of(node_model(node, feeds, opset=opset), feeds, cotangent)["x"]
    rows = (int(np.prod((2, 3, 4)[: 1 if axis is None else axis])), -1)
    powers, g = np.exp(feeds["x"].reshape(rows)), cotangent.reshape(rows)
    y = powers / powers.sum(axis=1, keepdims=True)
    if op_type == "Softmax":
        expected = y * (g - (y * g).sum(axis=1, keepdims=True))
    else:
        expected = g - y * g.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected.reshape(2, 3, 4), rtol=1e-12, atol=1e-14)


# onnx.reference takes the logarithm of the softmax, even of 0.
LOGARITHM_OF_ZERO = pytest.mark.filterwarnings("ignore:divide by zero")


@BOTH
@LOGARITHM_OF_ZERO
def test_large_numbers_do_not_overflow(op_type: str) -> None:
    feeds = {"x": np.array([[1e4, 1e4 + 1, -1e4]])}
    g = np.array([[1.0, 2, 3]])
    found = gradients_of(node_model(helper.make_node(op_type, ["x"], ["y"]), feeds), feeds, g)["x"]
    y = np.array([[1, np.e, 0]]) / (1 + np.e)
    expected = y * (g - (y * g).sum()) if op_type == "Softmax" else g - y * g.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@BOTH
@LOGARITHM_OF_ZERO
def test_masked_positions_get_nothing(op_type: str) -> None:
    feeds = {"x": np.array([[0.0, 1, -np.inf]])}
    model = node_model(helper.make_node(op_type, ["x"], ["y"]), feeds)
    g = np.array([[1.0, 2, 0]])
    assert gradients_of(model, feeds, g)["x"][0, 2] == 0


def test_half_precision_stays_half_precision() -> None:
    feeds = {"x": np.array([[0.5, 1, -0.25]], np.float16)}
    model = node_model(helper.make_node("Softmax", ["x"], ["y"]), feeds, output_type=TensorProto.FLOAT16)
    assert gradients_of(model, feeds)["x"].dtype == np.float16
