"""The same model in a wider type: weights, casts and made constants go with it; what must stay narrow stays."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.precision import widen
from tiny_models import GraphBuilder, float_value, random_feeds, tiny_cnn, tiny_mlp, tiny_nhwc, tiny_transformer


def widened(model: onnx.ModelProto, data_type: ir.DataType = ir.DataType.DOUBLE) -> onnx.ModelProto:
    wide = onnx.ModelProto.FromString(serialize(widen(load_model(model.SerializeToString()), data_type)))
    onnx.checker.check_model(wide, full_check=True)
    return wide


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return ReferenceEvaluator(model).run(None, feeds)[0]


@pytest.mark.parametrize("build", [tiny_cnn, tiny_mlp, tiny_nhwc, tiny_transformer])
def test_a_model_in_double_gives_what_it_gives_but_for_rounding(build):
    model = build()
    feeds = random_feeds(model, 2)
    wide = {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in feeds.items()}
    found = run(widened(model), wide)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, run(model, feeds), rtol=1e-3, atol=1e-4)


def test_every_number_is_computed_in_double():
    g = GraphBuilder(0)
    third = helper.make_node("Constant", [], ["third"], value=numpy_helper.from_array(np.float32(1 / 3), "v"))
    g.nodes.append(third)
    g.node("Shape", ["x"], "shape")
    g.node("ConstantOfShape", ["shape"], "zeros")
    g.node("ConstantOfShape", ["shape"], "tenths", value=numpy_helper.from_array(np.array([0.1], np.float32), "v"))
    g.node("Cast", ["n"], "count", to=TensorProto.FLOAT)
    g.node("Mul", ["x", "third"], "scaled")
    g.node("Sum", ["scaled", "zeros", "tenths", "count"], "y")
    inputs = [float_value("x", [2]), helper.make_tensor_value_info("n", TensorProto.INT64, [2])]
    model = g.model(inputs, [float_value("y", [2])], opset=20)
    x, n = np.array([1.0, 1e-12]), np.array([2**40 + 1, 7])
    # float32 constants keep their value; everything else has the digits of float64.
    expected = x * np.float64(np.float32(1 / 3)) + np.float64(np.float32(0.1)) + n
    np.testing.assert_array_equal(run(widened(model), {"x": x, "n": n}), expected)


def test_constants_that_an_operator_takes_in_float_alone_stay():
    g = GraphBuilder(0)
    scales = g.constant("scales", np.array([1, 1, 2, 2], np.float32))
    g.node("Resize", ["x", "", scales], "y", mode="nearest")
    model = g.model([float_value("x", ["n", 1, 2, 2])], [float_value("y", ["n", 1, 4, 4])], opset=20)
    wide = widened(model)
    assert {t.name: t.data_type for t in wide.graph.initializer} == {"scales": TensorProto.FLOAT}
    x = np.arange(4.0).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(run(wide, {"x": x}), x.repeat(2, 2).repeat(2, 3))


def test_half_precision_becomes_single_and_the_model_itself_stays_as_it_is():
    weight = np.array([[0.1], [0.2]], np.float16)
    g = GraphBuilder(0)
    g.node("MatMul", ["x", g.constant("w", weight)], "y")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n", size]) for name, size in (("x", 2), ("y", 1))
    ]
    model = load_model(g.model(values[:1], values[1:], opset=20).SerializeToString())
    before = serialize(model)
    wide = onnx.ModelProto.FromString(serialize(widen(model, ir.DataType.FLOAT)))
    assert serialize(model) == before
    x = np.array([[1, 1e-3]], np.float32)
    np.testing.assert_array_equal(run(wide, {"x": x}), x @ weight.astype(np.float32))
