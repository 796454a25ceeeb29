"""Reductions over axes, and cumulative sums."""

from collections.abc import Sequence
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
    single_precision,
)
from onnx import TensorProto, helper
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize

Array = npt.NDArray[Any]

OPERATORS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]
ALL = pytest.mark.parametrize("op_type", OPERATORS)
SHAPE = (2, 3, 4)


def values(op_type: str, shape: Sequence[int] = SHAPE) -> dict[str, Array]:
    """Numbers of both signs, but for the logarithm of a sum."""
    rng = np.random.default_rng(0)
    sizes = rng.uniform(0.3, 2, shape)
    return {"x": np.asarray(sizes if op_type == "ReduceLogSum" else sizes * rng.choice([-1, 1], shape))}


def reduction(
    op_type: str, feeds: dict[str, Array], axes: Sequence[int] | None, **attributes: int
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of one reduction, and what to feed it with."""
    constants = {} if axes is None else {"axes": np.array(axes, np.int64)}
    return node_model(helper.make_node(op_type, ["x", *constants], ["y"], **attributes), feeds, constants), feeds


@ALL
@pytest.mark.parametrize("axes", [None, [], [-1], [1, 2], [-3, 1], [2, 0, 1]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_gradient_over_any_axes(op_type: str, axes: Sequence[int] | None, keepdims: int) -> None:
    model, feeds = reduction(op_type, values(op_type), axes, keepdims=keepdims)
    check_derivatives(model, feeds, directions=1)


@ALL
@pytest.mark.parametrize("axes", [[], [0, -1]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("noop_with_empty_axes", [0, 1])
def test_axes_may_be_computed(op_type: str, axes: Sequence[int], keepdims: int, noop_with_empty_axes: int) -> None:
    feeds: dict[str, Array] = {**values(op_type), "axes": np.array(axes, np.int64)}
    attributes = {"keepdims": keepdims, "noop_with_empty_axes": noop_with_empty_axes}
    # Not even the rank of the result is known, which the output of a model must have.
    nodes = [
        helper.make_node(op_type, ["x", "axes"], ["reduced"], **attributes),
        helper.make_node("Reshape", ["reduced", "flat"], ["y"]),
    ]
    model = node_model(nodes, feeds, {"flat": np.array([-1])})
    check_derivatives(model, feeds, directions=1)
    check_single_precision(model, feeds)


@ALL
@pytest.mark.parametrize("axes", [None, []])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_without_axes_nothing_is_reduced_if_the_attribute_says_so(
    op_type: str, axes: Sequence[int] | None, keepdims: int
) -> None:
    model, feeds = reduction(op_type, values(op_type), axes, keepdims=keepdims, noop_with_empty_axes=1)
    check_derivatives(model, feeds, directions=1)
    check_single_precision(model, feeds)


@ALL
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [None, [0, -1]])
def test_extents_may_be_free(op_type: str, keepdims: int, axes: Sequence[int] | None) -> None:
    feeds = values(op_type)
    constants = {} if axes is None else {"axes": np.array(axes, np.int64)}
    node = helper.make_node(op_type, ["x", *constants], ["y"], keepdims=keepdims)
    model = node_model(node, feeds, constants, symbolic={"x": ["n", "m", 4]})
    check_derivatives(model, feeds, directions=1)
    check_single_precision(model, feeds)


@ALL
@pytest.mark.parametrize("shape", [(), (1,), (1, 3), (0, 3)])
def test_gradient_of_any_shape(op_type: str, shape: tuple[int, ...]) -> None:
    model, feeds = reduction(op_type, values(op_type, shape), [1] if len(shape) > 1 else None)
    if op_type == "ReduceLogSumExp" and not shape:
        # onnx.reference cannot compute it.
        backward = serialize(build_backward(load_model(single_precision(model).SerializeToString()), "y"))
        single = {"x": feeds["x"].astype(np.float32), "cotangent": np.array(3, np.float32)}
        assert run_in_onnxruntime(backward, single)["gradient.x"] == 3
    else:
        check_derivatives(model, feeds, directions=1)


@ALL
@pytest.mark.parametrize("opset", [11, 13, 18, 22])
def test_axes_of_any_opset(op_type: str, opset: int) -> None:
    as_input = opset >= 18 or (opset == 13 and op_type == "ReduceSum")
    feeds, constants = values(op_type), {"axes": np.array([0, 2], np.int64)} if as_input else {}
    attributes = {} if as_input else {"axes": [0, 2]}
    node = helper.make_node(op_type, ["x", *constants], ["y"], **attributes)
    check_derivatives(node_model(node, feeds, constants, opset=opset), feeds, directions=1)


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin"])
def test_equal_extremes_share_evenly_as_in_pytorchs_amax(op_type: str) -> None:
    feeds = {"x": np.array([[1.0, 1, 1, 1], [2, 0, 2, 0], [3, 1, 2, 4]])}
    model, _ = reduction(op_type, feeds, [1])
    found = gradients_of(model, feeds)["x"]
    largest = [[0.25] * 4, [0.5, 0, 0.5, 0], [0, 0, 0, 1]]
    smallest = [[0.25] * 4, [0, 0.5, 0, 0.5], [0, 1, 0, 0]]
    np.testing.assert_array_equal(found, largest if op_type == "ReduceMax" else smallest)


def test_gradient_of_a_product_with_zeros_is_exact() -> None:
    feeds = {"x": np.array([[0.0, 2, 3], [0, 0, 3], [1, 2, 3], [0, 0, 0]])}
    model, _ = reduction("ReduceProd", feeds, [1])
    np.testing.assert_array_equal(gradients_of(model, feeds)["x"], [[6, 0, 0], [0, 0, 0], [6, 3, 2], [0, 0, 0]])


@pytest.mark.parametrize("op_type", ["ReduceL1", "ReduceL2", "ReduceSumSquare"])
def test_norms_have_no_gradient_at_zero(op_type: str) -> None:
    feeds = {"x": np.array([[0.0, 0], [3, 4]])}
    model, _ = reduction(op_type, feeds, [1])
    found = gradients_of(model, feeds)["x"]
    np.testing.assert_array_equal(found[0], 0)
    expected = {"ReduceL1": [1, 1], "ReduceL2": [0.6, 0.8], "ReduceSumSquare": [6, 8]}
    np.testing.assert_allclose(found[1], expected[op_type], rtol=1e-15)


def test_large_exponents_do_not_overflow() -> None:
    feeds = {"x": np.array([[1e4, 1e4 + 1, -1e4, -np.inf]])}
    model, _ = reduction("ReduceLogSumExp", feeds, [1])
    expected = np.array([[1, np.e, 0, 0]]) / (1 + np.e)
    np.testing.assert_allclose(gradients_of(model, feeds)["x"], expected, rtol=1e-10)


@pytest.mark.parametrize("free", [True, False])
def test_the_mean_of_more_elements_than_float16_can_count(free: bool) -> None:
    feeds = {"x": np.zeros((1, 2**17), np.float16)}
    model = node_model(
        helper.make_node("ReduceMean", ["x"], ["y"]),
        feeds,
        output_type=TensorProto.FLOAT16,
        symbolic={"x": ["n", "m"]} if free else None,
    )
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    found = run_in_onnxruntime(backward, {**feeds, "cotangent": np.full((1, 1), 2048, np.float16)})["gradient.x"]
    np.testing.assert_array_equal(found, np.full((1, 2**17), 2**-6, np.float16))


CUMULATIVE = {"CumSum": 22, "CumProd": 26}
"""Cumulative operators and an opset that has them."""


@pytest.mark.parametrize("op_type", CUMULATIVE)
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_operators(op_type: str, axis: int, exclusive: int, reverse: int) -> None:
    feeds = values(op_type)
    node = helper.make_node(op_type, ["x", "axis"], ["y"], exclusive=exclusive, reverse=reverse)
    model = node_model(node, feeds, {"axis": np.array(axis)}, symbolic={"x": ["n", "m", 4]}, opset=CUMULATIVE[op_type])
    check_derivatives(model, feeds, directions=1)
    check_single_precision(model, feeds)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_gradient_of_cumulative_products_with_zeros_is_exact(exclusive: int, reverse: int) -> None:
    feeds = {"x": np.array([[2.0, 0, 3, 5], [2, 0, 3, 0], [0, 0, 7, 2], [1, 2, 3, 0]])}
    node = helper.make_node("CumProd", ["x", "axis"], ["y"], exclusive=exclusive, reverse=reverse)
    # Products are linear in each factor, so that central differences are exact.
    check_derivatives(node_model(node, feeds, {"axis": np.array(1)}, opset=26), feeds)


def test_the_axis_of_a_cumulative_sum_may_be_computed() -> None:
    feeds: dict[str, Array] = {**values("CumSum"), "axis": np.array(1)}
    check_derivatives(node_model(helper.make_node("CumSum", ["x", "axis"], ["y"]), feeds), feeds)
