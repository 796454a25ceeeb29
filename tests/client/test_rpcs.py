"""The typed face of the API: nothing is missing, what may be repeated is, and pages come together."""

import inspect
import re
import time
from typing import Any

import grpc
import ortoscope
import pytest
from google.longrunning import operations_pb2
from google.protobuf import message_factory
from ortoscope import channel
from ortoscope.channel import Timeouts, parse_target
from ortoscope.rpcs import Rpcs, all_pages
from ortoscope.v1 import models_pb2
from scripted_server import METHODS, fail, scripted


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize("path", METHODS)
def test_every_rpc_has_a_method_with_the_types_of_the_proto(path: str) -> None:
    method = METHODS[path]
    signature = inspect.signature(getattr(Rpcs, snake(method.name)))
    request, answer = str(signature.parameters[next(iter(set(signature.parameters) - {"self"}))]), str(signature)
    assert method.input_type.name in request
    assert method.output_type.name in answer.rpartition("->")[2]


@pytest.mark.parametrize("path", METHODS)
def test_every_rpc_has_a_deadline(path: str) -> None:
    """The call is made with a time limit: against a server that never answers, it ends by itself."""
    method = METHODS[path]

    def hang(request: Any, context: grpc.ServicerContext) -> Any:
        time.sleep(1)
        yield from ()

    def hang_once(request: Any, context: grpc.ServicerContext) -> None:
        time.sleep(1)

    answer = hang if method.server_streaming else hang_once
    short = Timeouts(call=0.1, compute=0.1, transfer=0.1, stream=0.1)
    with scripted({method.name: answer}) as target, grpc.insecure_channel(target) as open_channel:
        rpcs = Rpcs(open_channel, target, short)
        message = message_factory.GetMessageClass(method.input_type)()
        request = iter([message]) if method.client_streaming else message
        with pytest.raises(ortoscope.DeadlineExceeded):
            list(getattr(rpcs, snake(method.name))(request))


REPEATED = {f"/{service}/{method}" for service, methods in channel._IDEMPOTENT.items() for method in methods}


def test_what_may_be_repeated_is_named_rightly() -> None:
    assert set(METHODS) >= REPEATED
    assert {path.rpartition("/")[2] for path in set(METHODS) - REPEATED} == {
        "DeleteOperation", "ReadBlob", "StreamActivations", "WriteBlob",
    }  # fmt: skip


@pytest.mark.parametrize(("code", "attempts"), [("UNAVAILABLE", 3), ("ABORTED", 1), ("INTERNAL", 1)])
def test_only_an_unavailable_server_is_asked_again(code: str, attempts: int) -> None:
    calls = []

    def get(request: Any, context: grpc.ServicerContext) -> Any:
        calls.append(request)
        if len(calls) < 3:
            fail(context, code, "not now", reason="NOT_NOW")
        return models_pb2.ModelVersion(name="models/m/versions/1")

    with scripted({"GetModelVersion": get}) as target, ortoscope.connect(target) as scope:
        if attempts == 3:
            assert scope.model("m").id == "m/1"
        else:
            with pytest.raises(ortoscope.OrtoscopeError, match="not now"):
                scope.model("m")
    assert len(calls) == attempts


def test_a_mutation_that_is_sent_again_carries_the_same_request_id() -> None:
    seen = []

    def create(request: Any, context: grpc.ServicerContext) -> Any:
        seen.append(request.request_id)
        if len(seen) == 1:
            fail(context, "UNAVAILABLE", "not now")
        return operations_pb2.Operation(name="operations/1")

    tap = models_pb2.Tap(name="models/m/versions/1/taps/t", tensor="t")
    with scripted({"CreateDissection": create}) as target, ortoscope.connect(target) as scope:
        found = ortoscope.Tap(scope.rpcs, tap, models_pb2.ModelVersion())
        assert found.dissect("d").name == "operations/1"
        found.dissect("d")
    assert seen[0] == seen[1] != seen[2]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", seen[0])


def test_pages_are_asked_for_until_the_last_and_merged() -> None:
    pages = {"": (["a", "b"], "1"), "1": ([], "2"), "2": (["c"], "")}

    def page(request: Any, context: grpc.ServicerContext) -> Any:
        names, token = pages[request.page_token]
        return models_pb2.ListModelsResponse(
            models=[models_pb2.Model(name=f"models/{name}") for name in names], next_page_token=token
        )

    with scripted({"ListModels": page}) as target, ortoscope.connect(target) as scope:
        response = all_pages(scope.rpcs.list_models, models_pb2.ListModelsRequest())
        assert [model.name for model in response.models] == ["models/a", "models/b", "models/c"]
        assert response.next_page_token == ""
        assert [model.name for model in scope.models()] == ["a", "b", "c"]


def test_a_local_server_is_called_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with scripted({}) as target, ortoscope.connect(target) as scope:
        assert parse_target(target).local
        assert scope.target == target
