from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_models
from onnx import TensorProto, helper, numpy_helper
from ortoscope_service.graph.batch import make_batch_symbolic
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.graph.slicing import expose
from ortoscope_service.graph.taps import find_taps
from ortoscope_service.runtime.sessions import Session, SessionConfig

REFERENCE = SessionConfig(optimization_level="disabled")
RNG = np.random.default_rng(0)


def build(
    nodes: list[onnx.NodeProto],
    shape: list[int],
    *,
    opset: int = 17,
    constants: Mapping[str, object] | None = None,
    inputs: list[onnx.ValueInfoProto] | None = None,
) -> onnx.ModelProto:
    """A model of one input `x` of a fixed shape, and more if given; its output is the last node's."""
    graph = helper.make_graph(
        nodes,
        "fixed",
        [tiny_models.float_value("x", shape), *(inputs or [])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def assert_frees_batch(proto: onnx.ModelProto, fixed_batch: int = 1) -> tuple[str, ...]:
    """Frees the batch and checks that outputs and taps of three batches at once are those of each; returns changes."""
    original = load_model(proto.SerializeToString())
    before = serialize(original)
    rewrite = make_batch_symbolic(original)
    assert serialize(original) == before
    assert rewrite.fixed_batch == fixed_batch
    names = [tap.tensor for tap in find_taps(rewrite.model)]
    assert names == [tap.tensor for tap in find_taps(original)]
    file = serialize(expose(rewrite.model, names))
    onnx.checker.check_model(onnx.load_from_string(file), full_check=True)
    free = Session(file, REFERENCE)
    fixed = Session(serialize(expose(original, names)), REFERENCE)
    feeds = tiny_models.random_feeds(proto, 3 * fixed_batch)
    together = free.run(feeds)
    for start in range(0, 3 * fixed_batch, fixed_batch):
        items = slice(start, start + fixed_batch)
        alone = fixed.run({name: array[items] for name, array in feeds.items()})
        assert alone
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][items], value, rtol=1e-5, atol=1e-5, err_msg=name)
    for info in free.outputs:
        assert info.shape[0] == -1, info
    return rewrite.changed_nodes


@pytest.mark.parametrize(
    "builder",
    [
        tiny_models.tiny_cnn,
        tiny_models.tiny_nhwc,
        tiny_models.tiny_transformer,
        tiny_models.tiny_vision_transformer,
        tiny_models.tiny_mlp,
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_freed_batch_gives_every_item_its_own_values(
    builder: Callable[[tiny_models.Batch], onnx.ModelProto], batch: int
) -> None:
    assert_frees_batch(builder(batch), batch)


@pytest.mark.parametrize("builder", [tiny_models.tiny_cnn, tiny_models.tiny_vision_transformer])
def test_a_free_batch_is_left_alone(builder: Callable[[], onnx.ModelProto]) -> None:
    model = load_model(builder().SerializeToString())
    rewrite = make_batch_symbolic(model)
    assert rewrite.model is model
    assert (rewrite.fixed_batch, rewrite.changed_nodes) == (0, ())


def test_the_nodes_that_held_the_batch_are_named_in_order() -> None:
    assert assert_frees_batch(tiny_models.tiny_vision_transformer(1)) == (
        "patches_flat_node",
        "tokens_bare_node",
        "block0/query_split_node",
        "block0/key_split_node",
        "block0/value_split_node",
        "block0/context_merged_node",
    )


def test_all_shapes_have_a_free_batch_afterwards() -> None:
    model = make_batch_symbolic(load_model(tiny_models.tiny_vision_transformer(1).SerializeToString())).model
    taps = {tap.tensor: tap.shape for tap in find_taps(model)}
    fixed = load_model(tiny_models.tiny_vision_transformer(1).SerializeToString())
    for tap in find_taps(fixed):
        assert taps[tap.tensor] == (-1, *tap.shape[1:])


@pytest.mark.parametrize(
    "target",
    [[1, 12], [1, -1], [-1, 12], [0, 12], [0, -1], [1, 2, 6], [1, -1, 6], [2, 6], [-1, 6], [12], [1, 12, 1, 1]],
)
def test_reshape_targets(target: list[int]) -> None:
    """From (1, 3, 4); targets that merge items into other axes are undone before the output."""
    nodes = [
        helper.make_node("Reshape", ["x", "target"], ["reshaped"], name="reshape"),
        helper.make_node("Relu", ["reshaped"], ["relu"]),
        helper.make_node("Reshape", ["relu", "back"], ["y"], name="back"),
    ]
    changed = assert_frees_batch(build(nodes, [1, 3, 4], constants={"target": target, "back": [1, 4, 3]}))
    assert "back" in changed
    assert ("reshape" in changed) == (target[0] not in {-1, 0})


def test_a_reshape_target_shared_with_something_else_is_not_changed_there() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"], name="reshape"),
        helper.make_node("Expand", ["one", "shape"], ["ones"]),
        helper.make_node("ReduceSum", ["ones", "axes"], ["row"], keepdims=1),
        helper.make_node("Mul", ["a", "row"], ["y"]),
    ]
    constants = {"shape": [1, 12], "one": np.ones((1, 1), np.float32), "axes": [0]}
    assert assert_frees_batch(build(nodes, [1, 3, 4], constants=constants)) == ("reshape",)


def test_shapes_in_constant_nodes_and_concatenated_from_constants() -> None:
    nodes = [
        helper.make_node("Constant", [], ["one"], value_int=1),
        helper.make_node("Unsqueeze", ["one", "axis"], ["batch"]),
        helper.make_node("Constant", [], ["rest"], value_ints=[12]),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape"),
    ]
    assert assert_frees_batch(build(nodes, [1, 3, 4], constants={"axis": [0]})) == ("reshape",)


def test_attention_over_time_first_tensors() -> None:
    """(n, t, d) → (t, n, d) → (t, n·heads, d/heads) → (n·heads, t, d/heads) → scores → and all the way back."""
    time, width, heads, depth = 5, 6, 2, 3
    nodes = [
        helper.make_node("Transpose", ["x"], ["time_first"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["time_first", "rows"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "w"], ["projected"]),
        helper.make_node("Reshape", ["projected", "by_head"], ["split"], name="split"),
        helper.make_node("Transpose", ["split"], ["heads"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["heads"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["heads", "keys"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", "heads"], ["context"]),
        helper.make_node("Transpose", ["context"], ["context_time_first"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["context_time_first", "merged"], ["joined"], name="join"),
        helper.make_node("Transpose", ["joined"], ["y"], perm=[1, 0, 2]),
    ]
    constants = {
        "rows": [time, width],
        "w": RNG.standard_normal((width, width)).astype(np.float32),
        "by_head": [time, heads, depth],
        "merged": [time, 1, width],
    }
    changed = assert_frees_batch(build(nodes, [1, time, width], constants=constants))
    assert changed == ("flatten", "split", "join")


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("batch", [1, 2])
def test_recurrent_layers_with_constant_initial_states(operator: str, batch: int) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    time, size, hidden = 5, 4, 3
    states = ["h0", "c0"] if operator == "LSTM" else ["h0"]
    nodes = [
        helper.make_node("Transpose", ["x"], ["time_first"], perm=[1, 0, 2]),
        helper.make_node(operator, ["time_first", "w", "r", "", "", *states], ["states"], hidden_size=hidden),
        helper.make_node("Squeeze", ["states", "direction"], ["squeezed"]),
        helper.make_node("Transpose", ["squeezed"], ["y"], perm=[1, 0, 2]),
    ]
    state = np.repeat(RNG.standard_normal((1, 1, hidden)).astype(np.float32), batch, axis=1)
    constants = {
        "w": RNG.standard_normal((1, gates * hidden, size)).astype(np.float32),
        "r": RNG.standard_normal((1, gates * hidden, hidden)).astype(np.float32),
        "direction": [1],
        **dict.fromkeys(states, state),
    }
    assert_frees_batch(build(nodes, [batch, time, size], constants=constants), batch)


@pytest.mark.parametrize("batch", [1, 2])
def test_expand_of_a_batched_tensor(batch: int) -> None:
    nodes = [helper.make_node("Expand", ["x", "shape"], ["y"], name="expand")]
    constants = {"shape": [batch, 5, 4]}
    changed = assert_frees_batch(build(nodes, [batch, 1, 4], constants=constants), batch)
    assert changed == (("expand",) if batch > 1 else ())


@pytest.mark.parametrize("opset", [9, 17])
def test_slices_that_take_the_whole_batch(opset: int) -> None:
    if opset == 9:
        node = helper.make_node("Slice", ["x"], ["y"], name="slice", starts=[0, 1], ends=[1, 3], axes=[0, 1])
        proto = build([node], [1, 4], opset=opset)
    else:
        node = helper.make_node("Slice", ["x", "starts", "ends"], ["y"], name="slice")
        proto = build([node], [1, 4], constants={"starts": [0, 1], "ends": [1, 3]})
    assert assert_frees_batch(proto) == ("slice",)


@pytest.mark.parametrize("opset", [9, 17])
def test_squeeze_without_axes_keeps_the_batch(opset: int) -> None:
    nodes = [helper.make_node("Squeeze", ["x"], ["y"], name="squeeze")]
    rewrite = make_batch_symbolic(load_model(build(nodes, [1, 7, 1, 1], opset=opset).SerializeToString()))
    assert rewrite.changed_nodes == ("squeeze",)
    x = RNG.standard_normal((3, 7, 1, 1)).astype(np.float32)
    np.testing.assert_array_equal(Session(serialize(rewrite.model)).run({"x": x})["y"], x[:, :, 0, 0])


@pytest.mark.parametrize(("axes", "sizes"), [(None, [1, 3, 6, 8]), ([2, 3], [6, 8]), ([0, 2, 3], [1, 6, 8])])
def test_resize_to_given_sizes(axes: list[int] | None, sizes: list[int]) -> None:
    attributes: dict[str, Any] = {} if axes is None else {"axes": axes}
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], name="resize", mode="linear", **attributes)
    changed = assert_frees_batch(build([node], [1, 3, 4, 4], opset=18, constants={"sizes": sizes}))
    assert changed == (("resize",) if sizes[0] == 1 else ())


def test_a_constant_tiled_to_a_batch_of_two_is_one_item_again() -> None:
    bias = np.repeat(RNG.standard_normal((1, 4)).astype(np.float32), 2, axis=0)
    assert_frees_batch(build([helper.make_node("Add", ["bias", "x"], ["y"])], [2, 4], constants={"bias": bias}), 2)


def test_several_inputs_share_the_batch() -> None:
    nodes = [
        helper.make_node("Reshape", ["second", "shape"], ["matrix"]),
        helper.make_node("MatMul", ["x", "matrix"], ["y"]),
    ]
    second = tiny_models.float_value("second", [1, 12])
    assert_frees_batch(build(nodes, [1, 2, 3], constants={"shape": [1, 3, 4]}, inputs=[second]))


def test_names_that_are_taken_are_not_taken_again() -> None:
    proto = tiny_models.tiny_vision_transformer(1)
    for node in proto.graph.node:
        for index, name in enumerate(node.output):
            if name == "patch_tokens":
                node.output[index] = "batch_size"
        for index, name in enumerate(node.input):
            if name == "patch_tokens":
                node.input[index] = "batch_size"
    assert_frees_batch(proto)


def test_another_free_axis_may_be_called_batch_already() -> None:
    proto = build([helper.make_node("Neg", ["x"], ["y"])], [1, 3])
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "batch"
    model = make_batch_symbolic(load_model(proto.SerializeToString())).model
    assert str(model.graph.outputs[0].shape) == "[batch_0,batch]"


def test_constants_that_are_no_longer_used_are_gone() -> None:
    model = make_batch_symbolic(load_model(tiny_models.tiny_transformer(1).SerializeToString())).model
    assert "block0/querysplit_shape" not in model.graph.initializers
    assert all(value.uses() for value in model.graph.initializers.values())


def test_a_model_without_batched_inputs_has_no_fixed_batch() -> None:
    scalar = helper.make_tensor_value_info("x", TensorProto.FLOAT, [])
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "scalar",
        [scalar],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert make_batch_symbolic(load_model(model.SerializeToString())).fixed_batch == 0
