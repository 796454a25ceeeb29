from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.rpc import code_pb2, error_details_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from ortoscope.v1 import activations_pb2, datasets_pb2, models_pb2
from ortoscope_service.api.errors import clip, to_status
from ortoscope_service.api.open_inference import open_inference_pb2
from ortoscope_service.api.server import SERVICES
from ortoscope_service.errors import Code, OrtoscopeError, invalid, not_found
from serving import Failure, Stubs

Refused = Callable[..., Failure]


def details(error: OrtoscopeError) -> dict[str, object]:
    unpacked: dict[str, object] = {}
    for detail in to_status(error).details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.ResourceInfo,
            error_details_pb2.RetryInfo,
        ):
            message = kind()
            if detail.Unpack(message):
                assert kind.__name__ not in unpacked
                unpacked[kind.__name__] = message
    return unpacked


@pytest.mark.parametrize("code", Code)
def test_every_error_carries_its_code_and_error_info(code: Code) -> None:
    error = OrtoscopeError(code, "SOME_REASON", "text", metadata={"value": "7"})
    status = to_status(error)
    assert code_pb2.Code.Name(status.code) == code.value
    assert status.message == "text"
    info = details(error)["ErrorInfo"]
    assert info == error_details_pb2.ErrorInfo(reason="SOME_REASON", domain="ortoscope", metadata={"value": "7"})


def test_a_field_at_fault_is_named() -> None:
    bad_request = details(invalid("X", "what is wrong", field="taps[1].tap"))["BadRequest"]
    assert bad_request == error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field="taps[1].tap", description="what is wrong")]
    )
    assert "BadRequest" not in details(invalid("X", "x"))


def test_what_was_not_found_is_named() -> None:
    resource = details(not_found("UNKNOWN_TAP", "x", tap="conv1"))["ResourceInfo"]
    assert resource == error_details_pb2.ResourceInfo(resource_type="ortoscope.v1/Tap", resource_name="conv1")


def test_what_can_succeed_later_says_when() -> None:
    assert "RetryInfo" in details(OrtoscopeError(Code.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", "x"))
    assert "RetryInfo" not in details(OrtoscopeError(Code.RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE", "x"))


@given(st.text(max_size=100), st.integers(3, 60))
def test_a_clipped_text_is_its_beginning_and_fits(text: str, limit: int) -> None:
    clipped = clip(text, limit)
    assert len(clipped.encode()) <= limit
    whole = text.encode("utf-8", "replace").decode()
    assert clipped == whole or (clipped.endswith("…") and whole.startswith(clipped[:-1]))


@given(st.text(min_size=2000, max_size=4000), st.dictionaries(st.text(max_size=30), st.text(max_size=2000), max_size=9))
def test_an_error_of_any_size_fits_into_headers(text: str, metadata: dict[str, str]) -> None:
    status = to_status(OrtoscopeError(Code.NOT_FOUND, "UNKNOWN_TAP", text, field=text, metadata=metadata))
    assert 3 * len(status.message.encode()) + status.ByteSize() * 4 / 3 < 8192


@pytest.mark.parametrize("character", ["a", "%", "漢", "\u0000", "😀"])
def test_absurdly_long_names_are_refused_readably(stubs: Stubs, refused: Refused, character: str) -> None:
    long = character * 100_000
    for rpc, request in (
        (stubs.models.GetModel, models_pb2.GetModelRequest(name=long)),
        (stubs.datasets.GetDataset, datasets_pb2.GetDatasetRequest(name=f"datasets/{'%41' * 100_000}")),
        (
            stubs.activations.Activate,
            activations_pb2.ActivateRequest(model="models/cnn", taps=[activations_pb2.TapSelection(tap=long)]),
        ),
        (stubs.inference.ModelInfer, open_inference_pb2.ModelInferRequest(model_name=long)),
        (
            stubs.inference.ModelInfer,
            open_inference_pb2.ModelInferRequest(
                model_name="cnn", outputs=[open_inference_pb2.ModelInferRequest.InferRequestedOutputTensor(name=long)]
            ),
        ),
    ):
        failure = refused(rpc, request)
        assert failure.code in {"INVALID_ARGUMENT", "NOT_FOUND"}
        assert failure.reason
        assert len(failure.message) > 20


def methods() -> list[str]:
    pool = descriptor_pool.Default()
    return [f"/{service}/{method.name}" for service in SERVICES for method in pool.FindServiceByName(service).methods]


@pytest.mark.parametrize("method", methods())
def test_no_method_is_left_unimplemented(stubs: Stubs, method: str) -> None:
    service, name = method[1:].split("/")
    descriptor = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(name)
    rpc: Any = stubs.channel.stream_stream(method)
    try:
        responses = list(rpc(iter([b""]), timeout=30))
    except grpc.RpcError as error:
        assert error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}  # noqa: PT017
    else:
        assert responses
        assert not descriptor.client_streaming


@pytest.mark.parametrize("method", methods())
@settings(max_examples=20)
@given(garbage=st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_garbage_is_the_callers_fault_and_the_server_goes_on(method: str, garbage: list[bytes], stubs: Stubs) -> None:
    service, name = method[1:].split("/")
    descriptor = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(name)
    messages = garbage if descriptor.client_streaming else garbage[:1]
    rpc: Any = stubs.channel.stream_stream(method)
    try:
        list(rpc(iter(messages), timeout=30))
    except grpc.RpcError as error:
        assert error.code() in {  # noqa: PT017
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.UNIMPLEMENTED,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.OUT_OF_RANGE,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        }, error
    assert stubs.inference.ServerLive(open_inference_pb2.ServerLiveRequest(), timeout=30).live


@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_request_with_flipped_bytes_is_answered_or_refused(flips: list[tuple[int, int]], stubs: Stubs) -> None:
    request = activations_pb2.ActivateRequest(
        model="models/cnn",
        taps=[activations_pb2.TapSelection(tap="conv1", reduction=activations_pb2.TapSelection.REDUCTION_MAX)],
        inputs=[activations_pb2.ActivationInput(dataset_image="datasets/photos/images/0")],
    ).SerializeToString()
    damaged = bytearray(request)
    for position, value in flips:
        damaged[position % len(damaged)] = value
    call: Any = stubs.channel.unary_unary("/ortoscope.v1.Activations/Activate")
    try:
        call(bytes(damaged), timeout=30)
    except grpc.RpcError as error:
        assert error.code() in {  # noqa: PT017
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.FAILED_PRECONDITION,
        }, error


def test_an_unexpected_error_shows_an_id_but_no_text(stubs: Stubs, caplog: pytest.LogCaptureFixture) -> None:
    from ortoscope_service.jobs.failures import as_ortoscope_error

    error = as_ortoscope_error(RuntimeError("/secret"))
    assert "secret" not in str(to_status(error))
    assert error.metadata["error_id"] in caplog.text
    assert "/secret" in caplog.text
