import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.database import _SCHEMA, Database, UnknownVersionError
from ortoscope_service.jobs.operations import NewOperation, OperationStore, State
from ortoscope_service.jobs.requests import Request
from ortoscope_service.runtime.cancellation import Cancellation

OpenDatabase = Callable[[], Database]


@pytest.fixture
def operations(open_database: OpenDatabase) -> OperationStore:
    return OperationStore(open_database(), max_pending=5)


def new(operation_id: str, request: Request = Request()) -> NewOperation:  # noqa: B008 - frozen
    return NewOperation(operation_id, "dissect", "models/a/versions/1/taps/t", "datasets/d", request)


def test_an_operation_goes_from_queued_through_running_to_succeeded(operations: OperationStore) -> None:
    before = time.time()
    operation, created = operations.create(new("a"))
    assert created
    assert operation.state is State.QUEUED
    assert (operation.verb, operation.target, operation.dataset) == (
        "dissect",
        "models/a/versions/1/taps/t",
        "datasets/d",
    )
    assert operations.start("a")
    operations.progress("a", "counting", 3, 10)
    running = operations.get("a")
    assert (running.state, running.stage, running.done_items, running.total_items) == (State.RUNNING, "counting", 3, 10)
    operations.succeed("a", lambda: "dissections/a")
    done = operations.get("a")
    assert (done.state, done.result, done.error) == (State.SUCCEEDED, "dissections/a", None)
    assert done.start_time is not None
    assert done.end_time is not None
    assert before <= done.create_time <= done.start_time <= done.end_time <= time.time()


def test_a_result_that_cannot_be_recorded_leaves_the_operation_running(operations: OperationStore) -> None:
    def publish() -> str:
        operations.progress("a", "half done", 1, 1)
        raise OSError

    operations.create(new("a"))
    operations.start("a")
    with pytest.raises(OSError):  # noqa: PT011 - any
        operations.succeed("a", publish)
    assert operations.get("a").state is State.RUNNING
    assert operations.get("a").stage == ""


def test_an_error_comes_back_whole(operations: OperationStore) -> None:
    error = OrtoscopeError(Code.DATA_LOSS, "BLOB_DAMAGED", "Größe", field="spec.tap", metadata={"blob": "x"})
    operations.create(new("a"))
    operations.fail("a", error)
    recorded = operations.get("a").error
    assert recorded is not None
    assert (recorded.code, recorded.reason, recorded.message) == (error.code, error.reason, error.message)
    assert (recorded.field, recorded.metadata) == (error.field, error.metadata)


def test_the_same_request_finds_its_operation_and_a_different_one_is_refused(operations: OperationStore) -> None:
    request = Request("123e4567-e89b-42d3-a456-426614174000", "digest")
    first, created = operations.create(new("a", request))
    assert created
    again, created = operations.create(new("b", request))
    assert not created
    assert again == first
    assert operations.find(request) == first
    with pytest.raises(OrtoscopeError) as caught:
        operations.create(new("c", Request(request.id, "another")))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert len(operations.list(count=10)) == 1


def test_requests_without_an_id_are_never_the_same(operations: OperationStore) -> None:
    assert operations.create(new("a"))[1]
    assert operations.create(new("b"))[1]


def test_many_threads_with_one_request_make_one_operation(operations: OperationStore) -> None:
    request = Request("123e4567-e89b-42d3-a456-426614174000", "digest")
    made: list[bool] = []
    threads = [
        threading.Thread(target=lambda i=i: made.append(operations.create(new(str(i), request))[1])) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]


def test_more_pending_operations_than_the_limit_are_refused(operations: OperationStore) -> None:
    for number in range(5):
        operations.create(new(str(number)))
    with pytest.raises(OrtoscopeError) as caught:
        operations.create(new("6"))
    assert caught.value.reason == "TOO_MANY_OPERATIONS"
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    operations.request_cancel("0")
    assert operations.create(new("6"))[1]


def test_lists_are_newest_first_and_can_be_filtered_and_paged(operations: OperationStore) -> None:
    for name in "abcd":
        operations.create(new(name))
    operations.request_cancel("b")
    assert [operation.id for operation in operations.list(count=10)] == ["d", "c", "b", "a"]
    assert [operation.id for operation in operations.list(done=True, count=10)] == ["b"]
    assert [operation.id for operation in operations.list(done=False, count=10)] == ["d", "c", "a"]
    first = operations.list(count=2)
    assert [o.id for o in operations.list(before=first[-1].sequence, count=2)] == ["b", "a"]


def test_cancelling_ends_what_waits_and_only_marks_what_runs(operations: OperationStore) -> None:
    operations.create(new("waits"))
    operations.create(new("runs"))
    operations.start("runs")
    assert operations.request_cancel("waits").state is State.CANCELLED
    assert not operations.start("waits")
    running = operations.request_cancel("runs")
    assert running.state is State.RUNNING
    assert running.cancel_requested
    operations.succeed("runs", lambda: "dissections/x")
    assert operations.request_cancel("runs").state is State.SUCCEEDED
    with pytest.raises(OrtoscopeError) as caught:
        operations.request_cancel("unknown")
    assert caught.value.reason == "UNKNOWN_OPERATION"


def test_only_what_ended_can_be_deleted_and_its_request_is_forgotten(operations: OperationStore) -> None:
    request = Request("123e4567-e89b-42d3-a456-426614174000", "digest")
    operations.create(new("a", request))
    with pytest.raises(OrtoscopeError) as caught:
        operations.delete("a")
    assert caught.value.code is Code.FAILED_PRECONDITION
    operations.request_cancel("a")
    operations.delete("a")
    with pytest.raises(OrtoscopeError):
        operations.get("a")
    assert operations.create(new("b", request))[1]


def test_waiting_ends_when_the_operation_does(operations: OperationStore) -> None:
    operations.create(new("a"))
    threading.Timer(0.1, operations.fail, ("a", OrtoscopeError(Code.INTERNAL, "X", "x"))).start()
    began = time.monotonic()
    assert operations.wait("a", 30).state is State.FAILED
    assert time.monotonic() - began < 10


def test_waiting_ends_at_the_timeout_and_when_it_is_cancelled(operations: OperationStore) -> None:
    operations.create(new("a"))
    assert operations.wait("a", 0).state is State.QUEUED
    assert operations.wait("a", 0.05).state is State.QUEUED
    cancellation = Cancellation()
    threading.Timer(0.1, cancellation.cancel).start()
    began = time.monotonic()
    assert operations.wait("a", 30, cancellation).state is State.QUEUED
    assert time.monotonic() - began < 10


def test_what_ended_survives_a_restart_and_what_did_not_waits_again(open_database: OpenDatabase) -> None:
    before = OperationStore(open_database())
    for name in ("done", "runs", "waits"):
        before.create(new(name))
    before.start("done")
    before.succeed("done", lambda: "dissections/done")
    before.start("runs")
    before.progress("runs", "counting", 3, 10, 7.0)
    began = before.get("runs").start_time
    after = OperationStore(open_database())
    assert after.get("done").result == "dissections/done"
    assert [operation.id for operation in after.pending()] == ["runs", "waits"]
    runs = after.get("runs")
    assert (runs.state, runs.start_time, runs.done_items, runs.estimate) == (State.QUEUED, began, 3, None)
    assert after.start("runs")
    assert after.get("runs").start_time == began


def test_what_was_asked_comes_back_whole(operations: OperationStore) -> None:
    spec = {"thresholds": [0.1, 1e-300], "splits": ["été"], "top_fraction": None}
    operations.create(NewOperation("a", "dissect", "t", spec=spec, draft=b"\0\xff", time_limit=60.0))
    operations.create(NewOperation("b", "dissect", "t", spec=dict(spec)))
    operations.create(NewOperation("c", "find-examples", "t", spec=spec))
    a, b, c = (operations.get(name) for name in "abc")
    assert (a.spec, a.draft, a.time_limit, b.time_limit) == (spec, b"\0\xff", 60.0, None)
    assert a.deadline == pytest.approx(a.create_time + 60)
    assert a.job == b.job != c.job


def test_no_jump_of_the_clock_leaves_more_time_than_was_asked_for(
    open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    OperationStore(open_database()).create(NewOperation("a", "dissect", "t", time_limit=60.0))
    for jump, most, least in ((-1e9, 60, 50), (30.0, 31, 0), (1e9, 0, -2e9)):
        now = time.time() + jump
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now: now)
            deadline = OperationStore(open_database()).deadline("a")
        assert deadline is not None
        assert least <= deadline - time.monotonic() <= most


def test_an_accepted_operation_survives_a_killed_process(tmp_path: Path, open_database: OpenDatabase) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from ortoscope_service.jobs.database import Database\n"
        "from ortoscope_service.jobs.operations import NewOperation, OperationStore\n"
        "operations = OperationStore(Database(Path(sys.argv[1])))\n"
        "operations.create(NewOperation('a', 'dissect', 't'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "operations.db"
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    assert OperationStore(open_database()).get("a").state is State.QUEUED


def test_a_database_of_another_version_is_refused(open_database: OpenDatabase) -> None:
    with open_database().transaction() as sql:
        sql.execute("PRAGMA user_version = 99")
    with pytest.raises(UnknownVersionError, match="99"):
        open_database()


def test_a_database_of_the_first_version_is_brought_up_to_date(tmp_path: Path, open_database: OpenDatabase) -> None:
    first = sqlite3.connect(tmp_path / "operations.db")
    first.executescript(_SCHEMA + "PRAGMA user_version = 1;")
    for name, state in (("done", "succeeded"), ("runs", "running")):
        first.execute(
            "INSERT INTO operations (id, verb, target, dataset, state, create_time) VALUES (?, 'v', 't', 'd', ?, 1)",
            (name, state),
        )
    first.commit()
    first.close()
    operations = OperationStore(open_database())
    assert operations.get("done").state is State.SUCCEEDED
    error = operations.get("runs").error
    assert error is not None
    assert (error.code, error.reason) == (Code.ABORTED, "SERVER_UPGRADED")
    assert operations.create(new("a"))[1]


def test_a_database_that_was_deleted_or_replaced_is_not_written_to(tmp_path: Path, open_database: OpenDatabase) -> None:
    operations = OperationStore(open_database())
    (tmp_path / "operations.db").rename(tmp_path / "elsewhere.db")
    for content in (None, b""):
        if content is not None:
            (tmp_path / "operations.db").write_bytes(content)
        with pytest.raises(OrtoscopeError) as caught:
            operations.create(new("a"))
        assert (caught.value.code, caught.value.reason) == (Code.DATA_LOSS, "STORE_LOST")
