"""Waiting for operations: what a server rarely does is written down here."""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import ortoscope
import pytest
from google.longrunning import operations_pb2
from operations_server import OperationsServer, dissection, packed
from ortoscope import operations
from ortoscope.messages import to_json
from ortoscope.operations import Operation
from ortoscope.progress import Progress
from ortoscope.v1 import dissections_pb2, models_pb2
from ortoscope.v1 import operations_pb2 as metadata_pb2
from scripted_server import fail, scripted, status

NAME = "operations/1"
TAP = "models/m/versions/1/taps/%2Ffeatures%2F0"


def operation(done_items: int = 0, **fields: Any) -> Any:
    state = metadata_pb2.OperationMetadata.STATE_RUNNING
    metadata = metadata_pb2.OperationMetadata(
        verb="dissect", target=TAP, dataset="datasets/d", state=state, stage="counting", done_items=done_items,
        total_items=3,
    )  # fmt: skip
    return operations_pb2.Operation(name=NAME, metadata=packed(metadata), **fields)


def waiting(*answers: Any) -> Callable[[Any, grpc.ServicerContext], Any]:
    """Answers WaitOperation with one after the other, then with the last for ever."""
    rest = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda request, context: next(rest)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run(handle: Callable[[Operation[Any]], Any], **answers: Any) -> Any:
    """Calls `handle` with an operation of a scripted server."""
    with scripted(answers) as target, ortoscope.connect(target) as scope:
        return handle(Operation(scope.rpcs, operation()))


def test_progress_is_told_while_it_runs() -> None:
    seen: list[tuple[str, int, int]] = []
    end = operation(3, done=True, response=packed(dissections_pb2.Dissection(name="dissections/1")))
    result = run(
        lambda handle: handle.result(progress=lambda *told: seen.append(told)),
        WaitOperation=waiting(operation(1), operation(2), end),
    )
    assert result.name == "dissections/1"
    assert seen == [("counting", done, 3) for done in (0, 1, 2, 3)]


def test_the_server_is_asked_to_wait_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    answers = waiting(*[operation()] * 9, operation(done=True))

    def wait(request: Any, context: grpc.ServicerContext) -> Any:
        asked.append(request.timeout.ToTimedelta().total_seconds())
        return answers(request, context)

    monkeypatch.setattr(operations, "_PAUSE_SECONDS", 0.0)
    run(lambda handle: handle.wait(), WaitOperation=wait)
    assert asked[0] == 0.2
    assert asked == sorted(asked)
    assert asked[-1] == 2.0


def test_a_server_that_cannot_wait_is_not_asked_without_pause() -> None:
    calls = []

    def wait(request: Any, context: grpc.ServicerContext) -> Any:
        calls.append(time.monotonic())
        return operation(done=len(calls) == 4)

    run(lambda handle: handle.wait(), WaitOperation=wait)
    assert all(later - earlier > 0.15 for earlier, later in itertools.pairwise(calls))


def test_a_wait_that_ends_early_leaves_the_operation_running() -> None:
    with pytest.raises(ortoscope.DeadlineExceeded, match=r"operations/1 had not ended after 0\.05 s; it goes on"):
        run(lambda handle: handle.wait(0.05), WaitOperation=waiting(operation()))


def test_why_it_failed_is_raised_as_the_server_said_it() -> None:
    error = status(9, "The label plane is damaged.", reason="LABEL_PLANE", metadata={"image": "a.jpg"})
    with pytest.raises(ortoscope.FailedPrecondition, match="label plane is damaged") as caught:
        run(lambda handle: handle.result(), WaitOperation=waiting(operation(done=True, error=error)))
    assert caught.value.metadata == {"image": "a.jpg"}


def test_an_interrupt_ends_the_waiting_and_nothing_else() -> None:
    cancelled = []

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            lambda handle: handle.wait(progress=interrupt),
            WaitOperation=waiting(operation()),
            CancelOperation=lambda request, context: cancelled.append(request),
        )
    assert not cancelled


def told(stages: list[str]) -> Progress:
    return lambda stage, done, total: stages.append(stage)


def test_a_restart_of_the_server_is_waited_for_and_told() -> None:
    server, stages = OperationsServer(), list[str]()
    name = server.add(1, "running", done_items=1, total_items=3)
    with ExitStack() as first:
        target = first.enter_context(server.serving())
        with ortoscope.connect(target) as scope, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(scope.operation(name).result, 60, progress=told(stages))
            eventually(lambda: stages.count("counting") >= 2)
            first.close()
            eventually(lambda: stages[-1] == f"no answer from {target}, asking again")
            server.add(1, "succeeded", done_items=3, total_items=3, ended_ago=0, result=dissection(1))
            with server.serving(int(target.rpartition(":")[2])):
                assert waiting.result(60).name == dissection(1).name
    assert stages.count(f"no answer from {target}, asking again") == 1


@pytest.mark.parametrize(
    ("code", "failures"),
    [("UNAVAILABLE", 6), ("CANCELLED", 3), ("DEADLINE_EXCEEDED", 3)],  # gRPC itself repeats what is UNAVAILABLE 3 times
)
def test_every_kind_of_silence_is_outwaited(code: str, failures: int) -> None:
    calls = []

    def wait(request: Any, context: grpc.ServicerContext) -> Any:
        calls.append(request)
        if len(calls) <= failures:
            fail(context, code, "stopping")
        return operation(done=True)

    assert run(lambda handle: handle.wait(), WaitOperation=wait).done


def test_a_crowded_server_is_asked_again_and_another_limit_is_an_answer() -> None:
    reasons = iter(["TOO_MANY_CALLS", "RESPONSE_TOO_LARGE"])

    def wait(request: Any, context: grpc.ServicerContext) -> Any:
        fail(context, "RESOURCE_EXHAUSTED", "no", reason=next(reasons))

    with pytest.raises(ortoscope.ResourceExhausted) as caught:
        run(lambda handle: handle.wait(), WaitOperation=wait)
    assert caught.value.reason == "RESPONSE_TOO_LARGE"


def test_waiting_ends_when_there_is_no_answer_for_too_long() -> None:
    """With an error that says so and for how long; at once if it was asked not to wait."""

    def wait(request: Any, context: grpc.ServicerContext) -> Any:
        fail(context, "UNAVAILABLE", "The store is being moved.")

    with pytest.raises(ortoscope.Unavailable, match=r"did not answer for \d+ s\. The store is being moved") as caught:
        run(lambda handle: handle.wait(give_up_after=0.5), WaitOperation=wait)
    assert caught.value.reason == "SERVER_UNREACHABLE"
    with pytest.raises(ortoscope.Unavailable, match=r"^The store is being moved"):
        run(lambda handle: handle.wait(give_up_after=0), WaitOperation=wait)


def test_a_wait_that_ends_while_the_server_is_away_says_what_it_always_does() -> None:
    def wait(request: Any, context: grpc.ServicerContext) -> Any:
        fail(context, "UNAVAILABLE", "restarting")

    with pytest.raises(ortoscope.DeadlineExceeded, match=r"had not ended after 0\.5 s; it goes on"):
        run(lambda handle: handle.wait(0.5), WaitOperation=wait)


def test_an_operation_that_a_restart_lost_is_an_error_at_once() -> None:
    def wait(request: Any, context: grpc.ServicerContext) -> Any:
        fail(context, "NOT_FOUND", "There is no such operation.", reason="UNKNOWN_OPERATION")

    with pytest.raises(ortoscope.NotFound):
        run(lambda handle: handle.wait(), WaitOperation=wait)


def test_the_servers_estimate_and_deadline_are_told() -> None:
    metadata = metadata_pb2.OperationMetadata(stage="counting", done_items=320, total_items=591)
    metadata.estimated_time_left.FromMilliseconds(39_700)
    metadata.deadline.FromSeconds(1_700_000_000)
    with scripted({}) as target, ortoscope.connect(target) as scope:
        handle = Operation[Any](scope.rpcs, operations_pb2.Operation(name=NAME, metadata=packed(metadata)))
        assert handle.estimated_time_left == timedelta(seconds=39.7)
        assert handle.deadline == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
        lines = handle.describe().splitlines()
    assert lines[1].endswith("counting, 320 of 591 (54 %), about 40 s left")
    assert lines[2] == "must end by 2023-11-14 22:13:20 UTC"


def test_a_call_that_failed_once_is_repeated() -> None:
    calls = []

    def wait(request: Any, context: grpc.ServicerContext) -> Any:
        calls.append(request)
        if len(calls) == 2:
            fail(context, "UNAVAILABLE", "restarting")
        return operation(done=len(calls) > 3)

    assert run(lambda handle: handle.wait(), WaitOperation=wait).done


@pytest.mark.parametrize(
    ("end", "kind", "message"),
    [
        (operation(done=True), ortoscope.FailedPrecondition, "no longer has a result"),
        (
            operation(done=True, response=packed(models_pb2.Model())),
            ortoscope.Unimplemented,
            "made a type.googleapis.com/ortoscope.v1.Model, which this client does not know",
        ),
    ],
)
def test_a_result_that_is_gone_or_unknown_is_said(end: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        run(lambda handle: handle.result(), WaitOperation=waiting(end))


def test_an_operation_describes_itself_with_plain_names() -> None:
    def describe(handle: Operation[Any]) -> list[str]:
        return [repr(handle), handle.describe(), handle._repr_html_()]

    for text in run(describe):
        assert "dissect m/1 /features/0 on d" in text
        assert "running" in text
        assert "counting" in text


def test_an_operation_turns_into_canonical_json() -> None:
    data = to_json(operation(2, done=True, response=packed(dissections_pb2.Dissection(unit_count=3))))
    assert data["name"] == NAME
    assert data["metadata"]["@type"] == "type.googleapis.com/ortoscope.v1.OperationMetadata"
    assert data["metadata"]["done_items"] == "2"
    assert data["response"]["unit_count"] == "3"
