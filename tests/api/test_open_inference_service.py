import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from ortoscope_service.api.open_inference import open_inference_pb2 as oip
from ortoscope_service.config import ServerConfig
from ortoscope_service.models.repository import ModelRepository
from serving import Failure, Stubs, add_model, run_directly, serving, two_inputs
from tiny_models import GraphBuilder, float_value, random_feeds, tiny_cnn, tiny_transformer

Refused = Callable[..., Failure]
NAMES = {"float32": "FP32", "int64": "INT64", "float16": "FP16", "bool": "BOOL", "uint8": "UINT8", "float64": "FP64"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


def infer_request(
    model: str, feeds: dict[str, NDArray[Any]], names: tuple[str, ...] = (), **changes: Any
) -> oip.ModelInferRequest:
    """As tritonclient makes it."""
    fields: dict[str, Any] = {
        "model_name": model,
        "inputs": [
            {"name": name, "datatype": NAMES[value.dtype.name], "shape": value.shape} for name, value in feeds.items()
        ],
        "outputs": [{"name": name} for name in names],
        "raw_input_contents": [value.tobytes() for value in feeds.values()],
    }
    return oip.ModelInferRequest(**{**fields, **changes})


def outputs_of(response: oip.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """As tritonclient reads it: from raw_output_contents alone, reshaped to the shape that is told."""
    assert len(response.outputs) == len(response.raw_output_contents)
    return {
        output.name: np.frombuffer(raw, DTYPES[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


@pytest.fixture
def feeds() -> dict[str, NDArray[Any]]:
    return random_feeds(tiny_cnn(), 3)


def test_the_server_is_live_and_ready(stubs: Stubs) -> None:
    assert stubs.inference.ServerLive(oip.ServerLiveRequest()).live
    assert stubs.inference.ServerReady(oip.ServerReadyRequest()).ready
    metadata = stubs.inference.ServerMetadata(oip.ServerMetadataRequest())
    assert metadata.name == "ortoscope"
    assert metadata.version
    assert list(metadata.extensions) == ["binary_tensor_data"]


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("cnn", "", True),
        ("cnn", "1", True),
        ("cnn", "3", False),
        ("cnn", "latest", False),
        ("nothing", "", False),
        ("../cnn", "", False),
        ("", "", False),
    ],
)
def test_a_model_is_ready_if_it_is_there(stubs: Stubs, name: str, version: str, ready: bool) -> None:
    assert stubs.inference.ModelReady(oip.ModelReadyRequest(name=name, version=version)).ready is ready


def test_metadata_lists_the_outputs_and_then_every_tap(stubs: Stubs, models: ModelRepository) -> None:
    metadata = stubs.inference.ModelMetadata(oip.ModelMetadataRequest(name="cnn"))
    assert metadata.name == "cnn"
    assert list(metadata.versions) == ["2", "1"]
    assert metadata.platform == "onnx_onnxv1"
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [("image", "FP32", [-1, 3, 16, 16])]
    names = [output.name for output in metadata.outputs]
    assert names[0] == "logits"
    assert len(names) == len(set(names))
    assert set(names) == {tap.tensor for tap in models.get("cnn").manifest.taps} | {"logits"}
    (relu6,) = [output for output in metadata.outputs if output.name == "relu6"]
    assert (relu6.datatype, list(relu6.shape)) == ("FP32", [-1, 12, 8, 8])


def test_without_outputs_the_models_own_are_returned(stubs: Stubs, feeds: dict[str, NDArray[Any]]) -> None:
    response = stubs.inference.ModelInfer(infer_request("cnn", feeds, id="anything"))
    assert (response.model_name, response.model_version, response.id) == ("cnn", "2", "anything")
    got = outputs_of(response)
    assert got.keys() == {"logits"}
    expected = run_directly(tiny_cnn(seed=2), ["logits"], feeds)
    np.testing.assert_allclose(got["logits"], expected["logits"], rtol=1e-4, atol=1e-5)


def test_any_tap_is_an_output_by_any_of_its_names(stubs: Stubs, models: ModelRepository) -> None:
    taps = models.get("text").manifest.taps
    model = tiny_transformer()
    feeds = random_feeds(model, 2)
    expected = run_directly(model, [tap.tensor for tap in taps], feeds)
    for tap in taps:
        for name in {tap.tensor, tap.display_name, *tap.aliases}:
            got = outputs_of(stubs.inference.ModelInfer(infer_request("text", feeds, (name,))))
            assert got.keys() == {name}
            np.testing.assert_allclose(got[name], expected[tap.tensor], rtol=1e-4, atol=1e-5)


def test_outputs_come_in_the_order_in_which_they_are_asked(stubs: Stubs, feeds: dict[str, NDArray[Any]]) -> None:
    names = ("logits", "conv1", "add")
    response = stubs.inference.ModelInfer(infer_request("cnn", feeds, names, model_version="1"))
    assert tuple(output.name for output in response.outputs) == names
    assert response.model_version == "1"
    expected = run_directly(tiny_cnn(seed=1), names, feeds)
    for name, value in outputs_of(response).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


def test_contents_are_taken_as_well_as_raw_bytes(stubs: Stubs, feeds: dict[str, NDArray[Any]]) -> None:
    raw = stubs.inference.ModelInfer(infer_request("cnn", feeds, ("flat",)))
    request = infer_request("cnn", feeds, ("flat",), raw_input_contents=[])
    request.inputs[0].contents.fp32_contents.extend(feeds["image"].ravel().tolist())
    assert stubs.inference.ModelInfer(request).raw_output_contents == raw.raw_output_contents


def test_inputs_that_the_outputs_do_not_need_are_still_checked(stubs: Stubs, refused: Refused) -> None:
    feeds = random_feeds(two_inputs(), 2)
    got = outputs_of(stubs.inference.ModelInfer(infer_request("two-inputs", feeds, ("half",))))
    np.testing.assert_array_equal(got["half"], np.maximum(feeds["left"], 0))
    failure = refused(stubs.inference.ModelInfer, infer_request("two-inputs", {"left": feeds["left"]}, ("half",)))
    assert failure.reason == "MISSING_INPUT"
    assert "expected 2 inputs but got 1 inputs; missing required input(s) ['right']" in failure.message


def test_compression_is_understood(stubs: Stubs, feeds: dict[str, NDArray[Any]]) -> None:
    import grpc

    request = infer_request("cnn", feeds)
    plain = stubs.inference.ModelInfer(request)
    assert stubs.inference.ModelInfer(request, compression=grpc.Compression.Gzip) == plain


def test_an_unknown_output_is_refused_with_the_valid_names(
    stubs: Stubs, refused: Refused, feeds: dict[str, NDArray[Any]]
) -> None:
    failure = refused(stubs.inference.ModelInfer, infer_request("cnn", feeds, ("logits", "relu7")))
    assert (failure.code, failure.reason, failure.field) == ("INVALID_ARGUMENT", "UNKNOWN_OUTPUT", "outputs[1].name")
    assert "'relu7'" in failure.message
    names = failure.message.partition("valid names are ")[2]
    assert names.startswith("'logits'")  # the model's outputs first
    assert "'relu6'" in names


def test_of_many_valid_names_the_closest_are_shown(stubs: Stubs, refused: Refused, models: ModelRepository) -> None:
    x = np.zeros((1, 1024, 1024), np.float32)
    failure = refused(stubs.inference.ModelInfer, infer_request("slow", {"x": x}, ("product1234",)))
    names = failure.message.partition("valid names are ")[2]
    assert names.startswith("'product399'")
    assert names.count("'product") == 20
    assert "'product123'" in names
    assert "380 more" in names


IMAGE = np.zeros((3, 3, 16, 16), np.float32)
INPUT = {"name": "image", "datatype": "FP32", "shape": [3, 3, 16, 16]}


@pytest.mark.parametrize(
    ("changes", "code", "reason", "text"),
    [
        ({"model_name": "nothing"}, "NOT_FOUND", "UNKNOWN_MODEL", "Request for unknown model: 'nothing' is not found"),
        ({"model_name": "../cnn"}, "NOT_FOUND", "UNKNOWN_MODEL", "Request for unknown model"),
        ({"model_version": "7"}, "NOT_FOUND", "UNKNOWN_VERSION", "version 7 is not at ready state"),
        ({"model_version": "x"}, "NOT_FOUND", "UNKNOWN_VERSION", "version x is not at ready state"),
        ({"inputs": [], "raw_input_contents": []}, "INVALID_ARGUMENT", "MISSING_INPUT", "expected 1 inputs but got 0"),
        (
            {"inputs": [{**INPUT, "name": "img"}]},
            "INVALID_ARGUMENT",
            "UNKNOWN_INPUT",
            "unexpected inference input 'img'",
        ),
        ({"inputs": [INPUT, INPUT]}, "INVALID_ARGUMENT", "DUPLICATE_INPUT", "given twice"),
        (
            {"inputs": [{**INPUT, "datatype": "FP64"}]},
            "INVALID_ARGUMENT",
            "INPUT_DATATYPE",
            "data-type is 'FP64', but model expects 'FP32'",
        ),
        ({"inputs": [{**INPUT, "datatype": "BYTES"}]}, "INVALID_ARGUMENT", "INPUT_DATATYPE", "'BYTES'"),
        (
            {"inputs": [{**INPUT, "shape": [3, 16, 16, 3]}]},
            "INVALID_ARGUMENT",
            "INPUT_SHAPE",
            "unexpected shape for input 'image'. Expected [-1,3,16,16], got [3,16,16,3]",
        ),
        ({"inputs": [{**INPUT, "shape": [-1, 3, 16, 16]}]}, "INVALID_ARGUMENT", "INPUT_SHAPE", "got [-1,3,16,16]"),
        ({"inputs": [{**INPUT, "shape": [3] * 1000}]}, "INVALID_ARGUMENT", "INPUT_SHAPE", "…"),
        (
            {"inputs": [{**INPUT, "shape": [2**62, 3, 16, 16]}]},
            "INVALID_ARGUMENT",
            "INPUT_SIZE",
            f"Expected {2**62 * 3072}, got {IMAGE.nbytes}",
        ),
        (
            {"raw_input_contents": [b"1234"]},
            "INVALID_ARGUMENT",
            "INPUT_SIZE",
            f"input byte size mismatch for input 'image'. Expected {IMAGE.nbytes}, got 4",
        ),
        ({"raw_input_contents": [b"", b""]}, "INVALID_ARGUMENT", "RAW_CONTENTS_COUNT", "but got 2"),
        (
            {"inputs": [{**INPUT, "contents": {"fp32_contents": [1.0]}}]},
            "INVALID_ARGUMENT",
            "CONTENTS_WITH_RAW",
            "contents field must not be specified when using raw_input_contents for input 'image'",
        ),
        ({"raw_input_contents": []}, "INVALID_ARGUMENT", "NO_DATA", "unable to find data for input tensor 'image'"),
        (
            {"raw_input_contents": [], "inputs": [{**INPUT, "contents": {"fp64_contents": [1.0]}}]},
            "INVALID_ARGUMENT",
            "CONTENTS_FIELD",
            "must be sent in fp32_contents, not in fp64_contents",
        ),
        (
            {"raw_input_contents": [], "inputs": [{**INPUT, "contents": {"fp32_contents": [1.0]}}]},
            "INVALID_ARGUMENT",
            "INPUT_SIZE",
            "Expected 2304, got 1",
        ),
        (
            {"outputs": [{"name": "flat"}, {"name": "flat"}]},
            "INVALID_ARGUMENT",
            "DUPLICATE_OUTPUT",
            "requested twice",
        ),
        ({"outputs": [{"name": ""}]}, "INVALID_ARGUMENT", "UNKNOWN_OUTPUT", "valid names are"),
        (
            {"parameters": {"sequence_id": {"int64_param": 1}}},
            "INVALID_ARGUMENT",
            "UNSUPPORTED_PARAMETER",
            "'sequence_id'",
        ),
        ({"parameters": {"priority": {"int64_param": 1}}}, "INVALID_ARGUMENT", "UNSUPPORTED_PARAMETER", "'priority'"),
        (
            {"inputs": [{**INPUT, "parameters": {"shared_memory_region": {"string_param": "x"}}}]},
            "UNIMPLEMENTED",
            "UNSUPPORTED_PARAMETER",
            "'shared_memory_region'",
        ),
        (
            {"outputs": [{"name": "flat", "parameters": {"classification": {"int64_param": 3}}}]},
            "UNIMPLEMENTED",
            "UNSUPPORTED_PARAMETER",
            "'classification'",
        ),
        (
            {"outputs": [{"name": "flat", "parameters": {"binary_data": {"bool_param": True}}}]},
            "INVALID_ARGUMENT",
            "UNSUPPORTED_PARAMETER",
            "'binary_data'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_words_that_users_know(
    stubs: Stubs, refused: Refused, changes: dict[str, Any], code: str, reason: str, text: str
) -> None:
    failure = refused(stubs.inference.ModelInfer, infer_request("cnn", {"image": IMAGE}, **changes))
    assert (failure.code, failure.reason) == (code, reason)
    assert text in failure.message


def test_metadata_of_an_unknown_model_is_not_found(stubs: Stubs, refused: Refused) -> None:
    failure = refused(stubs.inference.ModelMetadata, oip.ModelMetadataRequest(name="nothing"))
    assert (failure.code, failure.reason, failure.field) == ("NOT_FOUND", "UNKNOWN_MODEL", "name")
    failure = refused(stubs.inference.ModelMetadata, oip.ModelMetadataRequest(name="cnn", version="9"))
    assert (failure.code, failure.reason, failure.field) == ("NOT_FOUND", "UNKNOWN_VERSION", "version")


def cast_model(number: int) -> onnx.ModelProto:
    """`x` of a type → `y` of the same → `z` (float32, a tap)."""
    g = GraphBuilder(0)
    g.node("Identity", ["x"], "y")
    g.node("Cast", ["x"], "z", to=TensorProto.FLOAT)
    value = helper.make_tensor_value_info
    return g.model([value("x", number, ["n", 2])], [value("y", number, ["n", 2]), float_value("z", ["n", 2])], opset=17)


@pytest.fixture(scope="module")
def typed(config: ServerConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stubs]:
    """A server with a model for each of some types."""
    from dataclasses import replace

    folder: Path = tmp_path_factory.mktemp("typed")
    repository = ModelRepository(folder / "models")
    for name, number in (
        ("float16", TensorProto.FLOAT16),
        ("float64", TensorProto.DOUBLE),
        ("int64", TensorProto.INT64),
        ("uint8", TensorProto.UINT8),
        ("bool", TensorProto.BOOL),
    ):
        add_model(repository, name, cast_model(number))
    with serving(replace(config, models=folder / "models", store=folder / "store")) as (_, stubs):
        yield stubs


@pytest.mark.parametrize("name", ["float16", "float64", "int64", "uint8", "bool"])
def test_every_type_goes_in_and_out_raw(typed: Stubs, name: str) -> None:
    x = np.array([[0, 1], [1, 0], [1, 1]]).astype(name)
    metadata = typed.inference.ModelMetadata(oip.ModelMetadataRequest(name=name))
    assert metadata.inputs[0].datatype == NAMES[name]
    got = outputs_of(typed.inference.ModelInfer(infer_request(name, {"x": x})))
    np.testing.assert_array_equal(got["y"], x)
    assert got["y"].dtype == x.dtype
    np.testing.assert_array_equal(got["z"], x.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("float64", "fp64_contents", [0.5, -1.5]),
        ("int64", "int64_contents", [2**62, -1]),
        ("uint8", "uint_contents", [255, 0]),
        ("bool", "bool_contents", [True, False]),
    ],
)
def test_every_type_goes_in_by_its_field(typed: Stubs, name: str, field: str, values: list[Any]) -> None:
    request = oip.ModelInferRequest(
        model_name=name,
        inputs=[{"name": "x", "datatype": NAMES[name], "shape": [1, 2], "contents": {field: values}}],
    )
    assert outputs_of(typed.inference.ModelInfer(request))["y"].tolist() == [values]


def test_half_precision_must_be_raw_and_small_integers_must_fit(typed: Stubs, refused: Refused) -> None:
    half = oip.ModelInferRequest(
        model_name="float16",
        inputs=[{"name": "x", "datatype": "FP16", "shape": [1, 2], "contents": {"fp32_contents": [1, 2]}}],
    )
    assert refused(typed.inference.ModelInfer, half).reason == "RAW_ONLY"
    wide = oip.ModelInferRequest(
        model_name="uint8",
        inputs=[{"name": "x", "datatype": "UINT8", "shape": [1, 2], "contents": {"uint_contents": [1, 256]}}],
    )
    assert refused(typed.inference.ModelInfer, wide).reason == "INPUT_RANGE"


def test_no_items_are_an_answer_too(typed: Stubs) -> None:
    got = outputs_of(typed.inference.ModelInfer(infer_request("int64", {"x": np.zeros((0, 2), np.int64)})))
    assert got["y"].shape == got["z"].shape == (0, 2)


def test_nothing_of_this_protocol_is_registered_by_the_client() -> None:
    import subprocess
    import sys

    script = (
        "import ortoscope, ortoscope.v1.activations_pb2\n"
        "from google.protobuf import descriptor_pool\n"
        "try:\n"
        "    descriptor_pool.Default().FindMessageTypeByName('inference.ServerLiveRequest')\n"
        "except KeyError:\n"
        "    print('free')\n"
    )
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert io.StringIO(output).read() == "free\n"
