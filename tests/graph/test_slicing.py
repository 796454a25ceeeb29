from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny_models
from onnx import TensorProto, helper
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import expose, head, trunk
from ortoscope_service.graph.taps import find_taps
from ortoscope_service.runtime.sessions import Session, SessionConfig

REFERENCE = SessionConfig(optimization_level="disabled")

Builder = Callable[[], onnx.ModelProto]

BUILDERS = [
    tiny_models.tiny_cnn,
    tiny_models.tiny_nhwc,
    tiny_models.tiny_transformer,
    tiny_models.tiny_vision_transformer,
    tiny_models.tiny_mlp,
]


def load(proto: onnx.ModelProto) -> ir.Model:
    return load_model(proto.SerializeToString())


def run(model: ir.Model, feeds: dict[str, np.ndarray], config: SessionConfig = REFERENCE) -> dict[str, np.ndarray]:
    session = Session(serialize(model), config)
    return session.run({info.name: feeds[info.name] for info in session.inputs})


@pytest.mark.parametrize("builder", BUILDERS)
def test_trunk_gives_the_same_values_as_the_whole_model(builder: Builder) -> None:
    proto = builder()
    model = load(proto)
    names = [tap.tensor for tap in find_taps(model)]
    feeds = tiny_models.random_feeds(proto, 3)
    whole = run(expose(model, names), feeds)
    for name in names:
        np.testing.assert_array_equal(run(trunk(model, [name]), feeds)[name], whole[name], err_msg=name)
        optimized = run(trunk(model, [name]), feeds, SessionConfig())[name]
        np.testing.assert_allclose(optimized, whole[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("builder", BUILDERS)
def test_head_continues_where_trunk_ends(builder: Builder) -> None:
    proto = builder()
    model = load(proto)
    feeds = tiny_models.random_feeds(proto, 2)
    whole = run(model, feeds)
    for tap in find_taps(model):
        activation = run(trunk(model, [tap.tensor]), feeds)
        result = run(head(model, tap.tensor), {**feeds, **activation})
        for name, value in whole.items():
            np.testing.assert_array_equal(result[name], value, err_msg=tap.tensor)


@pytest.mark.parametrize("builder", BUILDERS)
def test_cut_models_pass_the_onnx_checker(builder: Builder) -> None:
    model = load(builder())
    for tap in find_taps(model):
        for part in (trunk(model, [tap.tensor]), head(model, tap.tensor), expose(model, [tap.tensor])):
            onnx.checker.check_model(onnx.load_from_string(serialize(part)), full_check=True)


def test_outputs_are_exactly_the_tensors_asked_in_their_order() -> None:
    model = load(tiny_models.tiny_cnn())
    names = ["logits", "relu1", "image", "relu1", "conv1.weight", "add"]
    outputs = [value.name for value in trunk(model, names).graph.outputs]
    assert outputs == ["logits", "relu1", "image", "conv1.weight", "add"]


def test_an_input_and_a_weight_can_be_outputs() -> None:
    proto = tiny_models.tiny_cnn()
    feeds = tiny_models.random_feeds(proto, 2)
    values = run(trunk(load(proto), ["image", "conv1.weight", "conv1"]), feeds)
    np.testing.assert_array_equal(values["image"], feeds["image"])
    assert values["conv1.weight"].shape == (8, 3, 3, 3)


def test_what_a_trunk_does_not_need_is_gone() -> None:
    part = trunk(load(tiny_models.tiny_cnn()), ["relu1"])
    assert [node.op_type for node in part.graph] == ["Conv", "BatchNormalization", "Relu"]
    assert set(part.graph.initializers) == {
        "conv1.weight",
        "conv1.bias",
        "bn1_statistics.weight",
        "bn1_statistics.bias",
        "bn1_statistics.running_mean",
        "bn1_statistics.running_var",
    }
    assert len(serialize(part)) < len(serialize(load(tiny_models.tiny_cnn()))) / 2


def two_inputs() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", ["a"], ["relu"]),
        helper.make_node("Tanh", ["b"], ["tanh"]),
        helper.make_node("Add", ["relu", "tanh"], ["sum"]),
    ]
    values = {name: tiny_models.float_value(name, ["n", 3]) for name in ("a", "b", "sum", "tanh")}
    graph = helper.make_graph(nodes, "two", [values["a"], values["b"]], [values["sum"], values["tanh"]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_inputs_that_a_trunk_does_not_need_are_dropped() -> None:
    assert [value.name for value in trunk(load(two_inputs()), ["tanh"]).graph.inputs] == ["b"]


def test_head_keeps_the_inputs_that_reach_its_outputs_around_the_tensor() -> None:
    part = head(load(two_inputs()), "relu")
    assert [value.name for value in part.graph.inputs] == ["relu", "b"]
    assert [value.name for value in part.graph.outputs] == ["sum"]


def test_head_of_an_output_passes_it_through() -> None:
    part = head(load(tiny_models.tiny_mlp()), "scores")
    scores = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run(part, {"scores": scores})["scores"], scores)


def test_expose_keeps_the_model_and_adds_outputs_once() -> None:
    model = load(tiny_models.tiny_cnn())
    outputs = [value.name for value in expose(model, ["add", "logits", "relu1", "add"]).graph.outputs]
    assert outputs == ["logits", "add", "relu1"]


def test_nothing_changes_its_argument() -> None:
    model = load(tiny_models.tiny_vision_transformer(1))
    before = serialize(model)
    trunk(model, ["block0/gelu"])
    head(model, "block0/gelu")
    expose(model, ["block0/gelu"])
    find_taps(model)
    assert serialize(model) == before


def with_branches() -> onnx.ModelProto:
    """y = captured + 1 or captured - 1, where `captured` = relu(x) is used inside the branches only."""

    def branch(operator: str, output: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["captured", "one"], [output], name=f"{output}_node")
        return helper.make_graph([node], output, [], [tiny_models.float_value(output, ["n", 3])])

    nodes = [
        helper.make_node("Relu", ["x"], ["captured"]),
        helper.make_node(
            "If", ["condition"], ["chosen"], then_branch=branch("Add", "more"), else_branch=branch("Sub", "less")
        ),
        helper.make_node("Neg", ["chosen"], ["y"]),
        helper.make_node("Neg", ["x"], ["unused"]),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [tiny_models.float_value("x", ["n", 3]), helper.make_tensor_value_info("condition", TensorProto.BOOL, [])],
        [tiny_models.float_value("y", ["n", 3])],
        [onnx.numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_a_subgraph_captures_is_kept() -> None:
    part = trunk(load(with_branches()), ["chosen"])
    assert [node.op_type for node in part.graph] == ["Relu", "If"]
    assert list(part.graph.initializers) == ["one"]
    x = np.array([[-1, 0, 2]], np.float32)
    values = run(part, {"x": x, "condition": np.array(True)})
    np.testing.assert_array_equal(values["chosen"], np.maximum(x, 0) + 1)


def test_head_replaces_a_captured_tensor() -> None:
    part = head(load(with_branches()), "captured")
    assert [value.name for value in part.graph.inputs] == ["captured", "condition"]
    values = run(part, {"captured": np.full((1, 3), 5, np.float32), "condition": np.array(False)})
    np.testing.assert_array_equal(values["y"], np.full((1, 3), -4, np.float32))


@pytest.mark.parametrize("cut", [lambda m, n: trunk(m, [n]), head, lambda m, n: expose(m, [n])])
@pytest.mark.parametrize("name", ["nonsense", "", "more"])
def test_unknown_tensors_and_those_inside_subgraphs_are_not_found(
    cut: Callable[[ir.Model, str], ir.Model], name: str
) -> None:
    with pytest.raises(OrtoscopeError) as caught:
        cut(load(with_branches()), name)
    assert (caught.value.code, caught.value.reason) == (Code.NOT_FOUND, "UNKNOWN_TENSOR")


def test_a_misspelt_tensor_is_answered_with_a_suggestion() -> None:
    with pytest.raises(OrtoscopeError, match="'captured'"):
        trunk(load(with_branches()), ["captued"])


def test_a_trunk_to_nowhere_is_refused() -> None:
    with pytest.raises(OrtoscopeError) as caught:
        trunk(load(with_branches()), [])
    assert caught.value.reason == "NO_TENSORS"


def test_a_tensor_that_reaches_no_output_has_no_head() -> None:
    with pytest.raises(OrtoscopeError) as caught:
        head(load(with_branches()), "unused")
    assert caught.value.reason == "NO_HEAD"


def test_types_and_shapes_stay_with_the_values() -> None:
    part = trunk(load(tiny_models.tiny_transformer()), ["block0/attention"])
    (output,) = part.graph.outputs
    assert (output.dtype, str(output.shape)) == (ir.DataType.FLOAT, "[n,2,6,6]")
    assert part.graph.inputs[0].dtype == ir.DataType.INT64
