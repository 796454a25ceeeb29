"""Pooling."""

from collections.abc import Mapping
from typing import Any

import numpy as np
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
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from ortoscope_service.errors import OrtoscopeError
from ortoscope_service.graph.backward import build_backward
from ortoscope_service.graph.loading import load_model, serialize
from window_cases import Pool, pools


@settings(max_examples=70, deadline=None)
@given(pool=pools("MaxPool"))
def test_gradient_of_a_max_pool_of_any_geometry(pool: Pool) -> None:
    x = pool.distinct()
    check_derivatives(pool.model(x), {"x": x}, directions=1)


@settings(max_examples=70, deadline=None)
@given(pool=pools("AveragePool", "LpPool"))
def test_gradient_of_an_average_and_a_norm_pool_of_any_geometry(pool: Pool) -> None:
    x = pool.distinct() / 20 * np.where(pool.distinct() % 2 < 1, 1, -1)
    check_derivatives(pool.model(x), {"x": x}, directions=1)


@settings(max_examples=80, deadline=None)
@given(pool=pools("MaxPool"), levels=st.integers(1, 3), lowest=st.sampled_from([-3, 0]), seed=st.integers(0, 99))
def test_gradient_of_a_max_pool_goes_to_the_first_of_ties(pool: Pool, levels: int, lowest: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = lowest + rng.integers(0, levels, pool.shape).astype(float)
    model = pool.model(x)
    cotangent = rng.integers(1, 100, evaluate(model, {"x": x})["y"].shape).astype(float)
    expected = pool.gradient_to_first(x, cotangent)
    np.testing.assert_array_equal(gradients_of(model, {"x": x}, cotangent)["x"], expected)
    single = build_backward(load_model(single_precision(model).SerializeToString()), "y")
    feeds = {"x": x.astype(np.float32), "cotangent": cotangent.astype(np.float32)}
    np.testing.assert_array_equal(run_in_onnxruntime(serialize(single), feeds)["gradient.x"], expected)


@settings(max_examples=50, deadline=None)
@given(pool=pools("MaxPool", "AveragePool", "LpPool"))
def test_onnxruntime_agrees_in_single_precision(pool: Pool) -> None:
    x = pool.distinct() / 20 - 1
    check_single_precision(pool.model(x), {"x": x})


@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["double", "single"])
@pytest.mark.parametrize("lowest", [0.0, -2.0], ids=["zeros", "negative"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [1, 3], "strides": [1, 2]},
    ],
    ids=lambda attributes: "-".join(f"{name}{value}" for name, value in attributes.items()),
)
def test_ties_all_over_blocks_of_channels(
    attributes: Mapping[str, Any], lowest: float, dtype: type, symbolic: bool
) -> None:
    pool = Pool("MaxPool", (3, 20, 11, 8), attributes, symbolic)
    rng = np.random.default_rng(0)
    x = (lowest + np.maximum(rng.integers(-3, 3, pool.shape), 0)).astype(dtype)
    model = pool.model(x)
    cotangent = rng.integers(1, 100, evaluate(model, {"x": x})["y"].shape).astype(dtype)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    run = evaluate if dtype == np.float64 else run_in_onnxruntime
    gradient = run(backward, {"x": x, "cotangent": cotangent})["gradient.x"]
    np.testing.assert_array_equal(gradient, pool.gradient_to_first(x, cotangent))


def test_infinite_maxima_keep_their_gradient_to_themselves() -> None:
    pool = Pool("MaxPool", (1, 1, 7), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]})
    x = np.array([-np.inf, np.inf, np.inf, -np.inf, 2, 1, 0], np.float32).reshape(1, 1, 7)
    cotangent = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4)
    backward = serialize(build_backward(load_model(pool.model(x).SerializeToString()), "y"))
    gradient = run_in_onnxruntime(backward, {"x": x, "cotangent": cotangent})["gradient.x"]
    np.testing.assert_array_equal(gradient, pool.gradient_to_first(x, cotangent))


def test_what_is_not_a_number_stays_within_its_windows() -> None:
    for channels in (1, 4):
        pool = Pool("MaxPool", (1, channels, 1, 9), {"kernel_shape": [1, 3], "strides": [1, 3]})
        x = np.arange(9.0 * channels, dtype=np.float32).reshape(pool.shape)
        x[..., 4] = np.nan
        backward = serialize(build_backward(load_model(pool.model(x).SerializeToString()), "y"))
        ones = np.ones((1, channels, 1, 3), np.float32)
        gradient = run_in_onnxruntime(backward, {"x": x, "cotangent": ones})["gradient.x"]
        assert (gradient[..., [0, 1, 2, 6, 7, 8]] == np.array([0, 0, 1, 0, 0, 1])).all()


@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
def test_max_pool_whose_indices_are_used_has_the_same_gradient(symbolic: bool) -> None:
    x = np.random.default_rng(0).permutation(2 * 4 * 6 * 6).reshape(2, 4, 6, 6) / 10.0
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p", "i"], **attributes),
        helper.make_node("MaxUnpool", ["p", "i"], ["u"], **attributes),
        helper.make_node("Cast", ["i"], ["c"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceMean", ["c"], ["m"]),
        helper.make_node("Mul", ["u", "m"], ["y"]),
    ]
    free = {"x": ["n", 4, "rows", "columns"]} if symbolic else {}
    model = node_model(nodes, {"x": x}, symbolic=free)
    check_derivatives(model, {"x": x})


def test_unpooling_to_another_shape_is_refused() -> None:
    feeds = {"x": np.ones((1, 1, 2)), "i": np.array([[[0, 2]]])}
    node = helper.make_node("MaxUnpool", ["x", "i", "shape"], ["y"], kernel_shape=[2], strides=[2])
    shaped = helper.make_node("Reshape", ["y", "shape"], ["z"])
    model = node_model([node, shaped], feeds, {"shape": np.array([1, 1, 6])})
    with pytest.raises(OrtoscopeError, match="output_shape"):
        build_backward(load_model(model.SerializeToString()), "z")


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"])
def test_gradient_of_global_pools(op_type: str, shape: tuple[int, ...], symbolic: bool) -> None:
    exponents = [{"p": 1}, {"p": 2}, {"p": 3}] if op_type == "GlobalLpPool" else [{}]
    for attributes in exponents:
        pool = Pool(op_type, shape, attributes, symbolic)
        x = pool.distinct() / 10 - 3.3
        check_derivatives(pool.model(x), {"x": x}, directions=1)
        check_single_precision(pool.model(x), {"x": x})


def test_gradient_of_a_global_max_pool_goes_to_the_first_of_ties() -> None:
    x = np.array([[0, 3, 1, 3], [2, 2, 2, 2]], np.float32).reshape(1, 2, 2, 2)
    backward = serialize(
        build_backward(load_model(Pool("GlobalMaxPool", x.shape, {}).model(x).SerializeToString()), "y")
    )
    cotangent = np.array([5, 7], np.float32).reshape(1, 2, 1, 1)
    gradient = run_in_onnxruntime(backward, {"x": x, "cotangent": cotangent})["gradient.x"]
    assert gradient.reshape(2, 4).tolist() == [[0, 5, 0, 0], [7, 0, 0, 0]]


@pytest.mark.parametrize("p", [1, 2, 3])
def test_gradient_of_a_norm_pool_is_zero_where_a_window_is_all_zeros(p: int) -> None:
    x = np.array([0.0, 0.0, 3.0, -4.0]).reshape(1, 1, 4)
    for op_type, attributes in (("LpPool", {"kernel_shape": [2], "strides": [2]}), ("GlobalLpPool", {})):
        for values in (x, np.zeros_like(x)):
            gradient = gradients_of(Pool(op_type, x.shape, {**attributes, "p": p}).model(values), {"x": values})["x"]
            assert (gradient[values == 0] == 0).all()
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize("op_type", ["AveragePool", "LpPool", "MaxPool"])
def test_half_precision(op_type: str) -> None:
    pool = Pool(op_type, (1, 4, 6, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})
    x = (pool.distinct() / 16).astype(np.float16)
    cotangent = np.ones((1, 4, 3, 3), np.float16)
    model = pool.model(x)
    backward = serialize(build_backward(load_model(model.SerializeToString()), "y"))
    gradient = run_in_onnxruntime(backward, {"x": x, "cotangent": cotangent})["gradient.x"]
    assert gradient.dtype == np.float16
    exact = gradients_of(pool.model(x.astype(float)), {"x": x.astype(float)}, cotangent.astype(float))["x"]
    np.testing.assert_allclose(gradient, exact, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("op_type", ["AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool"])
def test_gradient_of_no_images_is_none(op_type: str) -> None:
    attributes = {} if op_type.startswith("Global") else {"kernel_shape": [2, 2], "strides": [2, 2]}
    x = np.zeros((0, 4, 4, 4), np.float32)
    backward = build_backward(load_model(Pool(op_type, x.shape, attributes).model(x).SerializeToString()), "y")
    side = 1 if op_type.startswith("Global") else 2
    feeds = {"x": x, "cotangent": np.zeros((0, 4, side, side), np.float32)}
    assert run_in_onnxruntime(serialize(backward), feeds)["gradient.x"].shape == x.shape


@pytest.mark.parametrize("op_type", ["AveragePool", "LpPool", "MaxPool"])
@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"kernel_shape": [3], "dilations": [2], "auto_pad": "SAME_UPPER"}, "dilations"),
        ({"kernel_shape": [1], "strides": [3], "auto_pad": "SAME_LOWER"}, "strides"),
    ],
    ids=["dilated", "gaps"],
)
def test_same_padding_that_onnxruntime_does_otherwise_is_refused(
    op_type: str, attributes: Mapping[str, Any], named: str
) -> None:
    x = np.ones((1, 1, 6))
    with pytest.raises(OrtoscopeError, match=named) as caught:
        build_backward(load_model(Pool(op_type, x.shape, attributes).model(x).SerializeToString()), "y")
    assert caught.value.reason == "UNSUPPORTED_GRADIENT"


def test_average_over_an_unknown_number_of_channels_is_refused() -> None:
    x = np.ones((1, 2, 6))
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2])
    model = node_model(node, {"x": x}, symbolic={"x": ["n", "c", 6]})
    with pytest.raises(OrtoscopeError, match="number of channels"):
        build_backward(load_model(model.SerializeToString()), "y")


@pytest.mark.parametrize("op_type", ["AveragePool", "LpPool", "MaxPool"])
def test_window_that_old_opsets_wrongly_infer_is_refused(op_type: str) -> None:
    x = np.ones((1, 1, 5))
    node = helper.make_node(op_type, ["x"], ["y"], kernel_shape=[2], strides=[2], pads=[1, 1], ceil_mode=1)
    for opset, length in ((21, 4), (22, 3)):
        model = load_model(node_model(node, {"x": x}, opset=opset).SerializeToString())
        assert model.graph.outputs[0].shape == [1, 1, length]
        if opset == 22:
            build_backward(model, "y")
        else:
            with pytest.raises(OrtoscopeError, match="opset 22"):
                build_backward(model, "y")
