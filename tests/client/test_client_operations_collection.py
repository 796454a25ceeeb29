"""`scope.operations`: listing, finding by a beginning, and cleaning up."""

from collections.abc import Iterator
from datetime import timedelta

import ortoscope
import pytest
from operations_server import OperationsServer, dissection, example_set, unit_sheet
from ortoscope.v1 import models_pb2

DAY = 86_400.0


@pytest.fixture
def server() -> OperationsServer:
    return OperationsServer()


@pytest.fixture
def scope(server: OperationsServer) -> Iterator[ortoscope.Ortoscope]:
    with server.serving() as target, ortoscope.connect(target) as connection:
        yield connection


def test_calling_lists_as_the_method_does(server: OperationsServer, scope: ortoscope.Ortoscope) -> None:
    running = server.add(1, "running", done_items=320, total_items=591, seconds_left=40)
    ended = server.add(2, "succeeded", ended_ago=DAY)
    assert [entry.name for entry in scope.operations()] == [ended, running]
    assert [entry.name for entry in scope.operations(done=False)] == [running]
    assert [entry.name for entry in scope.operations.list(done=True)] == [ended]
    record = scope.operations()[running]
    assert record.estimated_time_left == timedelta(seconds=40)
    assert scope.operations()[ended].estimated_time_left is None
    shown = {row["operation"]: row for row in scope.operations().records()}
    assert [shown[running][title] for title in ("state", "done", "left", "age")] == [
        "running",
        "320/591",
        "40 s",
        "60 min",
    ]
    assert "about 40 s left" in repr(record)
    assert "call it to list them" in repr(scope.operations)


def test_the_beginning_of_an_id_finds_an_operation(server: OperationsServer, scope: ortoscope.Ortoscope) -> None:
    names = [server.add(number, "queued") for number in (0xABCD1111, 0xABCD2222)]
    assert scope.operations.get("abcd1").name == scope.operation("operations/abcd1").name == names[0]
    with pytest.raises(ortoscope.InvalidArgument, match="2 operations begin with 'operations/abcd'") as ambiguous:
        scope.operations.get("abcd")
    assert ambiguous.value.reason == "OPERATION_AMBIGUOUS"
    for unknown in ("abce", "operations/" + "0" * 32):
        with pytest.raises(ortoscope.NotFound) as caught:
            scope.operations.get(unknown)
        assert caught.value.reason == "UNKNOWN_OPERATION"


def test_an_operation_is_awaited_cancelled_and_deleted_by_name(
    server: OperationsServer, scope: ortoscope.Ortoscope
) -> None:
    name = server.add(0xABCD1111, "running")
    scope.operations.cancel("abcd")
    assert server.cancelled == [name]
    server.add(0xABCD1111, "succeeded", ended_ago=0, result=dissection(1))
    assert scope.operations.wait("abcd").result().name == dissection(1).name
    scope.operations.delete("abcd")
    assert not server.operations


def test_clean_deletes_records_of_what_ended_long_ago_and_keeps_results(
    server: OperationsServer, scope: ortoscope.Ortoscope
) -> None:
    old = [
        server.add(1, "succeeded", ended_ago=8 * DAY, result=dissection(1)),
        server.add(2, "failed", ended_ago=8 * DAY),
        server.add(3, "cancelled", ended_ago=7.1 * DAY),
    ]
    kept = [server.add(4, "succeeded", ended_ago=6.9 * DAY), server.add(5, "running"), server.add(6, "queued")]
    told = scope.operations.clean("7d", dry_run=True)
    assert {entry.operation.name for entry in told} == set(old)
    assert len(server.operations) == 6
    told = scope.operations.clean(timedelta(days=7))
    assert {entry.operation.name for entry in told} == set(old)
    assert set(server.operations) == set(kept)
    assert [entry.result for entry in told] == ["", "", dissection(1).name]
    assert not any(entry.result_deleted for entry in told)
    assert server.results == {dissection(1).name}
    assert not scope.operations.clean("7d")


def test_clean_takes_only_the_states_that_were_named(server: OperationsServer, scope: ortoscope.Ortoscope) -> None:
    names = {state: server.add(i, state, ended_ago=DAY) for i, state in enumerate(("succeeded", "failed", "cancelled"))}
    scope.operations.clean("1h", ["failed", "cancelled"])
    assert set(server.operations) == {names["succeeded"]}
    with pytest.raises(ortoscope.InvalidArgument, match="'running' is no state in which operations end") as caught:
        scope.operations.clean("1h", ["running"])  # type: ignore[list-item]
    assert caught.value.field == "states"


def test_results_go_only_if_asked_and_never_those_of_younger_operations(
    server: OperationsServer, scope: ortoscope.Ortoscope
) -> None:
    server.add(1, "succeeded", ended_ago=8 * DAY, result=dissection(1))
    server.add(2, "succeeded", ended_ago=8 * DAY, result=dissection(2))
    server.add(3, "succeeded", ended_ago=8 * DAY, result=example_set(3), verb="find-examples")
    server.add(4, "succeeded", ended_ago=DAY, result=dissection(2))
    server.add(5, "succeeded", ended_ago=8 * DAY, result=unit_sheet(5), verb="visualize-units")
    told = scope.operations.clean("7d", results=True)
    assert {entry.result: entry.result_deleted for entry in told} == {
        dissection(1).name: True, dissection(2).name: False, example_set(3).name: True, unit_sheet(5).name: True,
    }  # fmt: skip
    assert server.results == {dissection(2).name}


def test_a_clock_that_is_behind_makes_nothing_old(server: OperationsServer, scope: ortoscope.Ortoscope) -> None:
    """The server's end times lie in the future of this machine."""
    server.add(1, "succeeded", ended_ago=-DAY)
    assert not scope.operations.clean("0s")
    assert len(server.operations) == 1


def test_what_another_deleted_in_the_meantime_is_no_error(server: OperationsServer, scope: ortoscope.Ortoscope) -> None:
    server.add(1, "succeeded", ended_ago=DAY, result=dissection(1))
    server.results.clear()
    assert len(scope.operations.clean("1h", results=True)) == 1
    assert not server.operations


def test_a_time_limit_is_sent_and_none_is_sent_without_one(
    server: OperationsServer, scope: ortoscope.Ortoscope
) -> None:
    tap = ortoscope.Tap(scope.rpcs, models_pb2.Tap(name="models/m/versions/1/taps/t"), models_pb2.ModelVersion())
    tap.dissect("d", time_limit="2h"), tap.examples("d", time_limit=timedelta(minutes=1)), tap.dissect("d")
    limited, also, free = server.requests
    assert (limited.time_limit.seconds, also.time_limit.seconds) == (7200, 60)
    assert not free.HasField("time_limit")
    with pytest.raises(ortoscope.InvalidArgument, match="time_limit"):
        tap.dissect("d", time_limit="soon")
    assert len(server.requests) == 3
