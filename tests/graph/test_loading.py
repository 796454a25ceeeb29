import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.graph.loading import load_model, serialize
from ortoscope_service.runtime.sessions import Session

NEWEST_OPSET = onnx.defs.onnx_opset_version()
CNN = tiny_models.tiny_cnn().SerializeToString()


def refusal(source: bytes | Path, **options: int) -> OrtoscopeError:
    with pytest.raises(OrtoscopeError) as caught:
        load_model(source, **options)
    return caught.value


def single_node(operator: str = "Relu", *, opset: int = 17, ir_version: int = 8, domain: str = "") -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], name="the_node", domain=domain)],
        "single",
        [tiny_models.float_value("x", ["n", 3])],
        [tiny_models.float_value("y", ["n", 3])],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


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
def test_a_model_survives_loading_and_serializing(builder: Callable[[], onnx.ModelProto]) -> None:
    original = builder()
    again = serialize(load_model(original.SerializeToString()))
    feeds = tiny_models.random_feeds(original, 2)
    expected = Session(original.SerializeToString()).run(feeds)
    actual = Session(again).run(feeds)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)
    assert serialize(load_model(again)) == again


def test_shapes_and_types_of_all_intermediates_are_inferred() -> None:
    model = load_model(CNN)
    shapes = {output.name: str(output.shape) for node in model.graph for output in node.outputs}
    assert shapes["conv2"] == "[n,12,8,8]"
    assert all(output.dtype is not None for node in model.graph for output in node.outputs)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"", "empty"),
        (b"not a model at all", "damaged"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (CNN[: len(CNN) // 2], "truncated"),
        (CNN[:4], "truncated"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "truncated"),
    ],
)
def test_what_is_no_onnx_file_is_called_so(data: bytes, hint: str) -> None:
    error = refusal(data)
    assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "NOT_ONNX")
    assert hint in error.message


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_garbage_raises_nothing_but_a_typed_error(data: bytes) -> None:
    with pytest.raises(OrtoscopeError):
        load_model(data)


@settings(max_examples=60)
@given(st.integers(0, len(CNN) - 1))
def test_a_truncated_file_raises_nothing_but_a_typed_error(length: int) -> None:
    with pytest.raises(OrtoscopeError):
        load_model(CNN[:length])


SMALL = single_node().SerializeToString()


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_load_or_raise_a_typed_error(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(SMALL)
    for position, byte in changes:
        damaged[position] = byte
    try:
        load_model(bytes(damaged))
    except OrtoscopeError as error:
        assert error.message  # noqa: PT017 - either outcome is right, anything else is not


@pytest.mark.parametrize(
    ("opset", "supported"), [(6, False), (7, True), (NEWEST_OPSET, True), (NEWEST_OPSET + 1, False)]
)
def test_opsets_that_onnxruntime_runs_are_accepted_and_others_refused(opset: int, supported: bool) -> None:
    data = single_node(opset=opset, ir_version=13).SerializeToString()
    if supported:
        Session(serialize(load_model(data)))
    else:
        error = refusal(data)
        assert (error.reason, error.metadata) == ("UNSUPPORTED_OPSET", {"opset": str(opset)})


@pytest.mark.parametrize(
    ("ir_version", "supported"), [(2, False), (3, True), (onnx.IR_VERSION, True), (onnx.IR_VERSION + 1, False)]
)
def test_file_format_versions_that_onnxruntime_reads_are_accepted(ir_version: int, supported: bool) -> None:
    data = single_node(opset=9, ir_version=ir_version).SerializeToString()
    if supported:
        Session(serialize(load_model(data)))
    else:
        assert refusal(data).reason == "UNSUPPORTED_IR_VERSION"


def test_a_custom_operator_is_named_with_domain_and_node() -> None:
    error = refusal(single_node("FancyRelu", domain="com.example").SerializeToString())
    assert error.reason == "CUSTOM_OPERATOR"
    assert error.metadata == {"domain": "com.example", "op": "FancyRelu", "node": "the_node"}


def test_an_unknown_operator_is_named_with_its_opset() -> None:
    error = refusal(single_node("FancyRelu").SerializeToString())
    assert error.reason == "UNKNOWN_OPERATOR"
    assert error.metadata == {"domain": "", "op": "FancyRelu", "node": "the_node", "opset": "17"}


def test_an_operator_newer_than_the_models_opset_is_unknown() -> None:
    assert refusal(single_node("Gelu", opset=19).SerializeToString()).reason == "UNKNOWN_OPERATOR"
    load_model(single_node("Gelu", opset=20).SerializeToString())


def test_a_wrong_attribute_is_reported_with_its_node() -> None:
    model = single_node()
    model.graph.node[0].attribute.append(helper.make_attribute("nonsense", 1))
    error = refusal(model.SerializeToString())
    assert error.reason == "INVALID_MODEL"
    assert "the_node" in error.message


def test_a_local_function_is_inlined() -> None:
    model = single_node("Twice", domain="local")
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    loaded = load_model(model.SerializeToString())
    assert [node.op_type for node in loaded.graph] == ["Add"]
    result = Session(serialize(loaded)).run({"x": np.ones((1, 3), np.float32)})
    np.testing.assert_array_equal(result["y"], np.full((1, 3), 2, np.float32))


def test_recursive_local_functions_are_refused() -> None:
    model = single_node("Twice", domain="local")
    body = [helper.make_node("Twice", ["a"], ["b"], domain="local")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, opsets))
    assert refusal(model.SerializeToString()).reason == "INVALID_MODEL"


def chain(*edges: tuple[str, str], outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", [before], [after], name=f"{before}_{after}") for before, after in edges]
    graph = helper.make_graph(
        nodes,
        "chain",
        [tiny_models.float_value("x", ["n", 3])],
        [tiny_models.float_value(name, ["n", 3]) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_nodes_out_of_order_are_sorted() -> None:
    model = load_model(chain(("b", "y"), ("x", "a"), ("a", "b")).SerializeToString())
    assert [node.name for node in model.graph] == ["x_a", "a_b", "b_y"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (chain(("x", "a"), ("c", "b"), ("b", "c"), ("a", "y")), "CYCLE"),
        (chain(("x", "y"), outputs=("y", "y")), "DUPLICATE_OUTPUT"),
        (chain(("x", "y"), outputs=("y", "z")), "MISSING_OUTPUT"),
        (chain(("x", "y"), outputs=()), "MISSING_OUTPUT"),
        (chain(("x", "y"), ("x", "y")), "DUPLICATE_TENSOR"),
        (chain(("nowhere", "y")), "UNDEFINED_TENSOR"),
    ],
)
def test_broken_wiring_has_its_own_reason(model: onnx.ModelProto, reason: str) -> None:
    assert refusal(model.SerializeToString()).reason == reason


def test_an_untyped_output_is_repaired_by_inference() -> None:
    model = single_node()
    model.graph.output[0].ClearField("type")
    loaded = load_model(model.SerializeToString())
    assert str(loaded.graph.outputs[0].shape) == "[n,3]"


def test_an_output_whose_type_cannot_be_inferred_is_refused() -> None:
    model = single_node()
    model.graph.input[0].ClearField("type")
    assert refusal(model.SerializeToString()).reason == "UNTYPED_INPUT"


def test_outputs_that_are_no_tensors_are_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["s"])],
        "sequence",
        [tiny_models.float_value("x", ["n", 3])],
        [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert refusal(model.SerializeToString()).reason == "UNSUPPORTED_TYPE"


def test_initializers_listed_as_inputs_are_no_inputs() -> None:
    proto = tiny_models.light_model("squeezenet")
    assert len(proto.graph.input) > 1
    model = load_model(proto.SerializeToString())
    assert [value.name for value in model.graph.inputs] == ["data_0"]


def test_weights_that_do_not_fill_their_shape_are_refused() -> None:
    model = tiny_models.tiny_cnn()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    error = refusal(model.SerializeToString())
    assert (error.reason, error.metadata) == ("INVALID_WEIGHTS", {"tensor": "conv1.weight"})


def test_a_constant_of_absurd_size_without_data_is_refused() -> None:
    model = tiny_models.tiny_cnn()
    model.graph.initializer[0].dims[0] = 10**15
    assert refusal(model.SerializeToString()).reason == "INVALID_WEIGHTS"


@pytest.mark.parametrize(
    "tensor",
    [
        helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("w", TensorProto.FLOAT16, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("w", TensorProto.DOUBLE, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("w", TensorProto.INT4, [3], [1, 2, 3]),
        helper.make_tensor("w", TensorProto.BOOL, [3], [True, False, True]),
        helper.make_tensor("w", TensorProto.COMPLEX64, [3], np.array([1j, 2j, 3j])),
        helper.make_tensor("w", TensorProto.STRING, [3], np.array([b"a", b"b", b"c"])),
        helper.make_tensor("w", TensorProto.INT4, [3], b"\x21\x03", raw=True),
    ],
)
def test_complete_constants_of_every_encoding_are_accepted_and_incomplete_ones_not(tensor: TensorProto) -> None:
    model = single_node()
    model.graph.initializer.append(tensor)
    load_model(model.SerializeToString())
    model.graph.initializer[0].dims[0] = 30
    assert refusal(model.SerializeToString()).reason == "INVALID_WEIGHTS"


def test_a_sparse_initializer_is_refused() -> None:
    model = single_node()
    sparse = model.graph.sparse_initializer.add()
    sparse.dims.append(3)
    assert refusal(model.SerializeToString()).reason == "SPARSE_INITIALIZER"


def test_a_model_beyond_the_limit_is_refused_before_parsing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(CNN)
    for source in (CNN, path):
        error = refusal(source, max_bytes=len(CNN) - 1)
        assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "MODEL_TOO_LARGE")
        load_model(source, max_bytes=len(CNN))


def test_a_missing_file_is_not_found_and_its_folder_is_not_told(tmp_path: Path) -> None:
    error = refusal(tmp_path / "absent.onnx")
    assert (error.code, error.reason) == (Code.NOT_FOUND, "MODEL_FILE_NOT_FOUND")
    assert str(tmp_path) not in error.message


class TestExternalData:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        model = onnx.load_from_string(CNN)
        onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=64)
        return folder

    def redirect(self, folder: Path, key: str, value: str) -> Path:
        path = folder / "model.onnx"
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == key:
                    entry.value = value
        path.write_bytes(model.SerializeToString())
        return path

    def test_a_file_beside_the_model_becomes_part_of_it(self, folder: Path) -> None:
        embedded = serialize(load_model(folder / "model.onnx"))
        (folder / "weights.bin").unlink()
        feeds = tiny_models.random_feeds(tiny_models.tiny_cnn(), 2)
        np.testing.assert_array_equal(Session(embedded).run(feeds)["logits"], Session(CNN).run(feeds)["logits"])

    def test_a_file_in_a_folder_below_is_read_too(self, folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "weights.bin").rename(folder / "sub" / "weights.bin")
        load_model(self.redirect(folder, "location", "sub/weights.bin"))

    def test_bytes_cannot_refer_to_files(self, folder: Path) -> None:
        assert refusal((folder / "model.onnx").read_bytes()).reason == "EXTERNAL_DATA_MISSING"

    def test_a_missing_or_short_data_file_is_reported(self, folder: Path) -> None:
        (folder / "weights.bin").write_bytes(bytes(10))
        assert refusal(folder / "model.onnx").reason == "EXTERNAL_DATA_MISSING"
        (folder / "weights.bin").unlink()
        assert refusal(folder / "model.onnx").reason == "EXTERNAL_DATA_MISSING"

    @pytest.mark.parametrize(
        "location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin", "", "..\\weights.bin"]
    )
    def test_a_location_outside_the_folder_is_unsafe(self, folder: Path, location: str) -> None:
        (folder / "weights.bin").rename(folder.parent / "weights.bin")
        assert refusal(self.redirect(folder, "location", location)).reason == "EXTERNAL_DATA_UNSAFE"

    def test_links_are_unsafe(self, folder: Path) -> None:
        secret = folder.parent / "secret"
        (folder / "weights.bin").rename(secret)
        (folder / "weights.bin").symlink_to(secret)
        assert refusal(folder / "model.onnx").reason == "EXTERNAL_DATA_UNSAFE"
        (folder / "weights.bin").unlink()
        os.link(secret, folder / "weights.bin")
        assert refusal(folder / "model.onnx").reason == "EXTERNAL_DATA_UNSAFE"
        (folder / "weights.bin").unlink()
        (folder / "sub").symlink_to(folder.parent)
        assert refusal(self.redirect(folder, "location", "sub/secret")).reason == "EXTERNAL_DATA_UNSAFE"

    def test_a_pipe_is_unsafe_and_does_not_block(self, folder: Path) -> None:
        (folder / "weights.bin").unlink()
        os.mkfifo(folder / "weights.bin")
        assert refusal(folder / "model.onnx").reason == "EXTERNAL_DATA_UNSAFE"

    @pytest.mark.parametrize(("key", "value"), [("offset", "-1"), ("length", "-5"), ("offset", "many")])
    def test_senseless_positions_are_unsafe(self, folder: Path, key: str, value: str) -> None:
        assert refusal(self.redirect(folder, key, value)).reason == "EXTERNAL_DATA_UNSAFE"

    def test_a_huge_length_is_refused_before_reading(self, folder: Path) -> None:
        assert refusal(self.redirect(folder, "length", str(2**60))).reason == "MODEL_TOO_LARGE"

    def test_the_limit_counts_external_data(self, folder: Path) -> None:
        small = (folder / "model.onnx").stat().st_size
        assert refusal(folder / "model.onnx", max_bytes=small + 100).reason == "MODEL_TOO_LARGE"


def test_subgraphs_are_checked_like_the_main_graph() -> None:
    def branch(name: str, source: str) -> onnx.GraphProto:
        node = helper.make_node("Relu", [source], [name], name=f"{name}_node")
        return helper.make_graph([node], name, [], [tiny_models.float_value(name, ["n", 3])])

    def model(source: str) -> bytes:
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch("t", source), else_branch=branch("e", "x"))
        condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
        graph = helper.make_graph(
            [node], "if", [condition, tiny_models.float_value("x", ["n", 3])], [tiny_models.float_value("y", ["n", 3])]
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()

    load_model(model("x"))
    assert refusal(model("nowhere")).reason == "UNDEFINED_TENSOR"


def test_equal_models_serialize_to_equal_bytes() -> None:
    assert serialize(load_model(CNN)) == serialize(load_model(CNN))


def test_weights_keep_their_bits() -> None:
    loaded = onnx.load_from_string(serialize(load_model(CNN)))
    original = {tensor.name: numpy_helper.to_array(tensor) for tensor in tiny_models.tiny_cnn().graph.initializer}
    assert math.prod(original["conv1.weight"].shape) > 0
    for tensor in loaded.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), original[tensor.name])
