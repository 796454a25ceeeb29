"""What a failed call looks like to a user."""

import contextlib
import socket
import time
from typing import Any

import grpc
import ortoscope
import pytest
from google.rpc import code_pb2
from ortoscope.errors import from_status
from scripted_server import fail, scripted, status


def test_an_error_carries_what_the_server_said() -> None:
    def get(request: Any, context: grpc.ServicerContext) -> None:
        details = {"reason": "UNKNOWN_MODEL", "field": "name", "metadata": {"model": "nope"}}
        fail(context, "NOT_FOUND", "There is no model 'nope'.", **details)

    with (
        scripted({"GetModelVersion": get}) as target,
        ortoscope.connect(target) as scope,
        pytest.raises(ortoscope.NotFound, match="There is no model 'nope'") as caught,
    ):
        scope.model("nope")
    assert caught.value.to_dict() == {
        "code": "NOT_FOUND",
        "reason": "UNKNOWN_MODEL",
        "message": "There is no model 'nope'.",
        "field": "name",
        "metadata": {"model": "nope"},
    }
    assert caught.value.__suppress_context__  # a user need not see gRPC's own traceback


@pytest.mark.parametrize("name", sorted(set(code_pb2.Code.keys()) - {"OK", "UNKNOWN"}))
def test_every_code_has_a_class_of_its_name(name: str) -> None:
    error = from_status(status(code_pb2.Code.Value(name), "why"))
    assert (error.code, str(error)) == (name, "why")
    assert type(error).__name__.casefold() == name.replace("_", "").casefold()
    assert getattr(ortoscope, type(error).__name__) is type(error)


def test_a_code_of_the_future_is_an_error_all_the_same() -> None:
    assert type(from_status(status(99, "why"))) is ortoscope.OrtoscopeError


def test_an_unreachable_server_is_named_with_how_to_start_one() -> None:
    with contextlib.closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(ortoscope.Unavailable) as caught:
        ortoscope.connect(target)
    assert time.monotonic() - began < 20
    assert caught.value.reason == "SERVER_UNREACHABLE"
    assert f"answers at {target}" in str(caught.value)
    assert f"ortoscope-server serve --models DIR --datasets DIR --store DIR --listen {target}" in str(caught.value)


def test_a_server_that_does_not_answer_runs_into_the_deadline() -> None:
    def hang(request: Any, context: grpc.ServicerContext) -> None:
        time.sleep(3)

    with (
        scripted({"GetModelVersion": hang}) as target,
        ortoscope.connect(target, timeout=0.5) as scope,
        pytest.raises(ortoscope.DeadlineExceeded, match=r"within 0\.5 s"),
    ):
        scope.model("slow")


def test_a_server_of_another_kind_is_recognised() -> None:
    with (
        scripted({}) as target,
        ortoscope.connect(target) as scope,
        pytest.raises(ortoscope.Unimplemented, match="no Ortoscope server, or one of another version"),
    ):
        scope.models()


def test_tls_towards_a_plain_server_says_so() -> None:
    with scripted({}) as target, pytest.raises(ortoscope.Unavailable, match="do not agree on TLS"):
        ortoscope.connect(f"https://{target}")


def test_a_status_without_details_keeps_its_message() -> None:
    def refuse(request: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)")

    with (
        scripted({"ListModels": refuse}) as target,
        ortoscope.connect(target) as scope,
        pytest.raises(ortoscope.ResourceExhausted, match="larger than max"),
    ):
        scope.models()
