"""Graphs and values that are wrong, or that nobody thinks of: typed errors, or results that are defined."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tiny_models
import whole_models
from onnx import TensorProto, helper, numpy_helper
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.backward import build_backward, build_tangent
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.runtime.sessions import Session

Array = npt.NDArray[Any]
Shape = Sequence[int | str] | None

Inputs = Mapping[str, tuple[int, Shape]]

X: Inputs = {"x": (TensorProto.FLOAT, ["n", 3])}
ONES = np.ones((2, 3), np.float32)


def model(
    *nodes: tuple[str, Sequence[str], str],
    inputs: Inputs = X,
    constants: Mapping[str, Array] | None = None,
    output_type: int = TensorProto.FLOAT,
    output_shape: Shape = None,
    **attributes: Any,
) -> bytes:
    """A model of nodes (operator, inputs, output), the last of which has the attributes and makes the output."""
    made = [
        helper.make_node(
            operator, given, [output], name=f"{output}_node", **(attributes if index == len(nodes) else {})
        )
        for index, (operator, given, output) in enumerate(nodes, 1)
    ]
    graph = helper.make_graph(
        made,
        "bad",
        [helper.make_tensor_value_info(name, *description) for name, description in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1][2], output_type, output_shape)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 22)]
    proto: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return proto


def refusal(data: bytes, tap: str, build: Callable[..., Any] = build_backward, **options: Any) -> OrtoscopeError:
    """The error of loading a model and building a graph from it."""
    with pytest.raises(OrtoscopeError) as caught:
        build(load_model(data), tap, **options)
    assert caught.value.code in {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED}
    return caught.value


def run(data: bytes, tap: str, feeds: Mapping[str, Array], **options: Any) -> dict[str, Array]:
    """The results of a model's backward graph in ONNX Runtime."""
    return Session(serialize(build_backward(load_model(data), tap, **options))).run(feeds)


def test_cycle_is_refused() -> None:
    assert refusal(model(("Add", ["x", "b"], "a"), ("Relu", ["a"], "b")), "b").reason == "CYCLE"


def test_shapes_that_do_not_fit_are_refused() -> None:
    narrow = {"w": np.ones((4, 2), np.float32)}
    assert refusal(model(("MatMul", ["x", "w"], "y"), constants=narrow), "y").reason == "INVALID_MODEL"


def test_types_that_do_not_fit_are_refused_before_anything_runs() -> None:
    data = model(("Add", ["x", "i"], "y"), constants={"i": np.arange(3)})
    with pytest.raises(OrtoscopeError) as caught:
        Session(serialize(build_backward(load_model(data), "y")))
    assert caught.value.reason == "MODEL_NOT_LOADABLE"


def test_wrongly_declared_output_shape_fails_typed() -> None:
    data = model(("Relu", ["x"], "y"), output_shape=["n", 4])
    for extent, reason in ((3, "INVALID_TENSOR"), (4, "MODEL_RUN_FAILED")):
        with pytest.raises(OrtoscopeError) as caught:
            run(data, "y", {"x": ONES, "cotangent": np.ones((2, extent), np.float32)})
        assert caught.value.reason == reason


def test_tap_of_unknown_rank_is_refused() -> None:
    data = model(
        ("Reshape", ["x", "shape"], "reshaped"),
        ("ReduceSum", ["reshaped"], "y"),
        inputs={**X, "shape": (TensorProto.INT64, ["rank"])},
        output_shape=[],
        keepdims=0,
    )
    assert refusal(data, "reshaped").reason == "SHAPELESS_TENSOR"


def test_tensor_of_unknown_rank_on_the_way_has_its_gradient() -> None:
    data = model(
        ("Reshape", ["x", "shape"], "reshaped"),
        ("Relu", ["reshaped"], "positive"),
        ("ReduceSum", ["positive"], "y"),
        inputs={**X, "shape": (TensorProto.INT64, ["rank"])},
        output_shape=[],
        keepdims=0,
    )
    x = np.array([[1, -2, 3], [4, 5, -6]], np.float32)
    for shape in ([6], [3, 2], [1, 2, 3]):
        results = run(data, "y", {"x": x, "shape": np.array(shape), "cotangent": np.array(2, np.float32)})
        assert results["activation"] == 13
        np.testing.assert_array_equal(results["gradient.x"], [[2, 0, 2], [2, 2, 0]])


def test_gradient_that_needs_an_unknown_rank_is_refused() -> None:
    data = model(
        ("Reshape", ["x", "shape"], "reshaped"),
        ("Reshape", ["reshaped", "shape"], "again"),
        ("Softmax", ["again"], "likely"),
        ("Concat", ["likely", "again"], "both"),
        ("ReduceSum", ["both"], "y"),
        inputs={**X, "shape": (TensorProto.INT64, ["rank"])},
        output_shape=[],
        keepdims=0,
    )
    proto = onnx.ModelProto.FromString(data)
    next(node for node in proto.graph.node if node.op_type == "Concat").attribute.append(
        helper.make_attribute("axis", -1)
    )
    error = refusal(proto.SerializeToString(), "y")
    assert error.reason == "SHAPELESS_TENSOR"
    assert error.metadata["tensor"] in {"both", "likely", "again"}


@pytest.mark.parametrize("operator", ["Relu", "ReduceSum"])
def test_input_of_unknown_rank_is_refused(operator: str) -> None:
    data = model((operator, ["x"], "y"), inputs={"x": (TensorProto.FLOAT, None)})
    assert refusal(data, "y").reason == "INVALID_MODEL"


@pytest.mark.parametrize("operator", ["Floor", "Sign", "Round"])
def test_tap_that_depends_on_the_input_by_steps_alone_is_refused(operator: str) -> None:
    error = refusal(model((operator, ["x"], "y")), "y")
    assert error.reason == "TAP_INDEPENDENT"
    assert "'y'" in error.message
    assert "'x'" in error.message


def test_tap_that_depends_on_the_shape_alone_is_refused() -> None:
    assert refusal(model(("Shape", ["x"], "s"), ("ConstantOfShape", ["s"], "y")), "y").reason == "TAP_INDEPENDENT"


def test_tap_that_is_computed_from_constants_alone_is_refused() -> None:
    data = model(("Relu", ["c"], "k"), ("Add", ["x", "k"], "y"), constants={"c": ONES[0]})
    for tap in ("c", "k"):
        assert refusal(data, tap).reason == "TAP_INDEPENDENT"


def test_input_that_matters_by_steps_beside_one_that_matters_has_a_gradient_of_zeros() -> None:
    inputs: Inputs = {**X, "z": (TensorProto.FLOAT, ["n", 3])}
    data = model(("Floor", ["x"], "steps"), ("Add", ["steps", "z"], "y"), inputs=inputs)
    results = run(data, "y", {"x": ONES, "z": ONES, "cotangent": 5 * ONES})
    np.testing.assert_array_equal(results["gradient.x"], 0 * ONES)
    np.testing.assert_array_equal(results["gradient.z"], 5 * ONES)


@pytest.mark.parametrize(("operator", "output_type"), [("ArgMax", TensorProto.INT64), ("IsNaN", TensorProto.BOOL)])
def test_tap_that_is_no_floating_point_tensor_is_refused(operator: str, output_type: int) -> None:
    error = refusal(model((operator, ["x"], "y"), output_type=output_type), "y")
    assert error.reason == "NOT_DIFFERENTIABLE"
    assert error.metadata["tensor"] == "y"


LOOKUP = model(
    ("Gather", ["table", "i"], "y"),
    inputs={"i": (TensorProto.INT64, ["n"])},
    constants={"table": np.eye(3, dtype="f4")},
)


def test_gradient_at_an_integer_tensor_is_refused() -> None:
    assert refusal(LOOKUP, "y").reason == "NO_FLOAT_INPUT"
    assert refusal(LOOKUP, "y", with_respect_to=["i"]).reason == "NOT_DIFFERENTIABLE"


def test_gradient_at_a_constant_adds_up_over_the_batch() -> None:
    feeds = {"i": np.array([1, 1]), "cotangent": ONES}
    results = run(LOOKUP, "y", feeds, with_respect_to=["table"])
    np.testing.assert_array_equal(results["gradient.table"], [[0, 0, 0], [2, 2, 2], [0, 0, 0]])


def test_gradient_of_the_input_at_itself_is_the_cotangent() -> None:
    data = model(("Relu", ["x"], "y"))
    for tap, source in (("x", "x"), ("y", "y")):
        results = run(data, tap, {"x": ONES, "cotangent": 3 * ONES}, with_respect_to=[source])
        np.testing.assert_array_equal(results[f"gradient.{source}"], 3 * ONES)


def test_source_that_is_named_twice_counts_once() -> None:
    backward = build_backward(load_model(model(("Relu", ["x"], "y"))), "y", with_respect_to=["x", "x"])
    assert [value.name for value in backward.graph.outputs] == ["activation", "gradient.x"]


@pytest.mark.parametrize(
    ("tap", "options"),
    [("z", {}), ("", {}), ("k", {"with_respect_to": ["y"]}), ("y", {"with_respect_to": [""]})],
    ids=["unknown tap", "nameless tap", "source after the tap", "nameless source"],
)
def test_tensor_that_is_not_there_is_refused(tap: str, options: dict[str, Any]) -> None:
    error = refusal(model(("Relu", ["x"], "k"), ("Exp", ["k"], "y")), tap, **options)
    assert (error.code, error.reason) == (Code.NOT_FOUND, "UNKNOWN_TENSOR")


def test_operator_without_a_gradient_is_named() -> None:
    square: Inputs = {"x": (TensorProto.FLOAT, ["n", 3, 3])}
    error = refusal(model(("Exp", ["x"], "k"), ("Det", ["k"], "y"), inputs=square), "y")
    assert (error.code, error.reason) == (Code.UNIMPLEMENTED, "UNSUPPORTED_GRADIENT")
    assert error.metadata["operator"] == "Det"
    assert error.metadata["node"] == "y_node"


def test_operator_without_a_gradient_off_the_path_does_no_harm() -> None:
    square: Inputs = {"x": (TensorProto.FLOAT, ["n", 3, 3]), "z": (TensorProto.FLOAT, ["n"])}
    data = model(("Det", ["x"], "k"), ("Mul", ["k", "z"], "y"), inputs=square)
    feeds = {"x": np.stack([2 * np.eye(3, dtype="f4")]), "z": np.ones(1, "f4"), "cotangent": np.ones(1, "f4")}
    assert run(data, "y", feeds, with_respect_to=["z"])["gradient.z"] == 8


@pytest.mark.parametrize("name", ["cotangent", "activation", "gradient.x"])
def test_input_with_a_name_of_the_graph_itself_is_refused(name: str) -> None:
    inputs: Inputs = {**X, name: (TensorProto.FLOAT, ["n", 3])}
    assert refusal(model(("Mul", ["x", name], "y"), inputs=inputs), "y").reason == "RESERVED_NAME"


def test_intermediates_with_names_of_the_graph_itself_give_way() -> None:
    data = model(
        ("Neg", ["x"], "cotangent"),
        ("Neg", ["cotangent"], "activation"),
        ("Neg", ["activation"], "gradient.x"),
        ("Exp", ["gradient.x"], "backward/exp_1"),
    )
    results = run(data, "backward/exp_1", {"x": 0 * ONES, "cotangent": 3 * ONES})
    np.testing.assert_array_equal(results["activation"], ONES)
    np.testing.assert_array_equal(results["gradient.x"], -3 * ONES)


@pytest.mark.parametrize(
    ("data", "tap"),
    [
        (model(("Exp", ["x"], "k"), ("Sin", ["x"], "y")), "k"),
        (model(("Exp", ["x"], "y")), "y"),
        (model(("Floor", ["x"], "k"), ("Exp", ["k"], "y")), "x"),
        (model(("ArgMax", ["x"], "y"), output_type=TensorProto.INT64), "x"),
    ],
    ids=["beside the output", "the output itself", "by steps alone", "integers alone"],
)
def test_tangent_from_a_tap_that_no_output_varies_with_is_refused(data: bytes, tap: str) -> None:
    assert refusal(data, tap, build_tangent).reason in {"NO_HEAD", "UNKNOWN_TENSOR"}


NETWORKS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "CNN": (tiny_models.tiny_cnn, "logits"),
    "channels last": (tiny_models.tiny_nhwc, "probabilities"),
    "MLP": (tiny_models.tiny_mlp, "scores"),
    "vision transformer": (tiny_models.tiny_vision_transformer, "logits"),
    "ConvNeXt": (whole_models.small_convnext, "logits"),
    "U-Net": (whole_models.small_unet, "scores"),
    "DCGAN generator": (whole_models.small_generator, "picture"),
    "tabular": (whole_models.small_tabular, "risk"),
}
RECURRENT: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    name: (functools.partial(whole_models.small_recurrent, name), "scores") for name in ("LSTM", "GRU")
}


def network(name: str) -> tuple[onnx.ModelProto, Session, Callable[[int], Array]]:
    """A network, a session of its backward graph, and what makes cotangents of ones."""
    build, tap = {**NETWORKS, **RECURRENT}[name]
    proto = build()
    session = Session(serialize(build_backward(load_model(proto.SerializeToString()), tap)))
    (shape,) = (info.shape[1:] for info in session.inputs if info.name == "cotangent")
    return proto, session, lambda batch: np.ones((batch, *shape), np.float32)


# Those with recurrent layers are missing: ONNX Runtime's kernels for them end the process if the batch is empty.
@pytest.mark.parametrize("name", NETWORKS)
def test_empty_batch_gives_empty_gradients(name: str) -> None:
    proto, session, cotangent = network(name)
    feeds = tiny_models.random_feeds(proto, 0)
    results = session.run({**feeds, "cotangent": cotangent(0)})
    assert results["activation"].shape == cotangent(0).shape
    for source, value in feeds.items():
        if value.dtype == np.float32:
            assert results[f"gradient.{source}"].shape == value.shape


@pytest.mark.parametrize("name", [*NETWORKS, *RECURRENT])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_number_that_is_none_in_an_item_leaves_the_others_alone(name: str, bad: float) -> None:
    proto, session, cotangent = network(name)
    feeds = tiny_models.random_feeds(proto, 3)
    sound = session.run({**feeds, "cotangent": cotangent(3)})
    source = next(name for name, value in feeds.items() if value.dtype == np.float32)
    feeds[source][1].flat[0] = bad
    spoilt = {**feeds, "cotangent": cotangent(3)}
    spoilt_cotangent = {**tiny_models.random_feeds(proto, 3), "cotangent": cotangent(3)}
    spoilt_cotangent["cotangent"][1] = bad
    for results in (session.run(spoilt), session.run(spoilt_cotangent)):
        for output, value in results.items():
            np.testing.assert_array_equal(value[[0, 2]], sound[output][[0, 2]], err_msg=output)


@pytest.mark.parametrize("operator", ["Relu", "Exp", "Sigmoid", "Abs"])
def test_gradient_where_the_cotangent_is_not_a_number_is_not_a_number(operator: str) -> None:
    cotangent = np.array([[np.nan, 1, 1]], np.float32)
    results = run(model((operator, ["x"], "y")), "y", {"x": ONES[:1], "cotangent": cotangent})
    np.testing.assert_array_equal(np.isnan(results["gradient.x"]), np.isnan(cotangent))
