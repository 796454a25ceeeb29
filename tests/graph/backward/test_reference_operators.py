"""The operators that replace onnx.reference's as truth do what ONNX Runtime does."""

import numpy as np
import pytest
from finite_differences import evaluate, node_model, run_in_onnxruntime, single_precision
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from window_cases import Convolution, Pool, convolutions, pools


@settings(max_examples=60, deadline=None)
@given(case=st.one_of(convolutions("Conv"), convolutions("ConvTranspose")))
def test_convolutions_are_those_of_onnxruntime(case: Convolution) -> None:
    model, feeds = case.model()
    found = evaluate(model, feeds)["y"]
    expected = run_in_onnxruntime(single_precision(model), {"x": feeds["x"].astype(np.float32)})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(pool=pools("MaxPool", "AveragePool", "LpPool"))
def test_pools_are_those_of_onnxruntime(pool: Pool) -> None:
    x = pool.distinct() / 10 - 2
    model = pool.model(x)
    expected = run_in_onnxruntime(single_precision(model), {"x": x.astype(np.float32)})["y"]
    np.testing.assert_allclose(evaluate(model, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(pool=pools("MaxPool"), seed=st.integers(0, 99))
def test_indices_of_a_max_pool_are_those_of_onnxruntime(pool: Pool, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 3, pool.shape).astype(np.float32)
    model = pool.model(x)
    model.graph.node[0].output.append("i")
    model.graph.output.append(helper.make_tensor_value_info("i", 7, None))
    np.testing.assert_array_equal(evaluate(model, {"x": x})["i"], run_in_onnxruntime(model, {"x": x})["i"])


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("op_type", ["GlobalLpPool", "GlobalMaxPool"])
def test_global_pools_are_those_of_onnxruntime(op_type: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for attributes in [{"p": 1}, {"p": 3}, {}] if op_type == "GlobalLpPool" else [{}]:
        model = Pool(op_type, shape, attributes).model(x)
        found, expected = (run(model, {"x": x})["y"] for run in (evaluate, run_in_onnxruntime))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("opset", [9, 14, 15])
def test_batch_normalization_is_that_of_onnxruntime(opset: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    names = ["scale", "bias", "mean", "variance"]
    constants = {name: rng.uniform(0.5, 1.5, 3).astype(np.float32) for name in names}
    node = helper.make_node("BatchNormalization", ["x", *names], ["y"], epsilon=0.1)
    model = node_model(node, {"x": x}, constants, opset=opset, output_type=TensorProto.FLOAT)
    found, expected = (run(model, {"x": x})["y"] for run in (evaluate, run_in_onnxruntime))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
