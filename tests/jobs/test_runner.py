import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ortoscope_service.errors import Code, OrtoscopeError, invalid
from ortoscope_service.jobs.database import Database
from ortoscope_service.jobs.operations import NewOperation, Operation, OperationStore, State
from ortoscope_service.jobs.runner import JobContext, JobRunner, Work


class Jobs:
    def __init__(self, folder: Path, database: Database) -> None:
        self.operations = OperationStore(database)
        self.workspace = folder / "work"
        self.runner = JobRunner(self.operations, self.workspace)
        self._count = 0

    def submit(self, work: Work) -> str:
        self._count += 1
        name = f"operation{self._count}"
        self.operations.create(NewOperation(name, "test", "target"))
        self.runner.submit(name, work)
        return name

    def run(self, work: Work) -> Operation:
        return self.operations.wait(self.submit(work), 20)


@pytest.fixture
def jobs(tmp_path: Path, open_database: Callable[[], Database]) -> Iterator[Jobs]:
    started = Jobs(tmp_path, open_database())
    yield started
    started.runner.stop(0)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def endless(context: JobContext) -> Callable[[], str]:
    while True:
        context.cancellation.raise_if_cancelled()
        time.sleep(0.01)


def test_a_job_succeeds_with_the_name_of_its_result(jobs: Jobs) -> None:
    operation = jobs.run(lambda _context: lambda: "results/1")
    assert (operation.state, operation.result) == (State.SUCCEEDED, "results/1")


def test_jobs_run_in_the_order_in_which_they_came(jobs: Jobs) -> None:
    order: list[int] = []

    def job(number: int) -> Work:
        return lambda _context: lambda: order.append(number) or f"results/{number}"  # type: ignore[func-returns-value]

    names = [jobs.submit(job(number)) for number in range(5)]
    for name in names:
        assert jobs.operations.wait(name, 20).state is State.SUCCEEDED
    assert order == [0, 1, 2, 3, 4]


def test_a_job_has_an_empty_folder_of_its_own_that_goes_with_it(jobs: Jobs) -> None:
    seen: list[Path] = []

    def job(context: JobContext) -> Callable[[], str]:
        assert list(context.workspace.iterdir()) == []
        (context.workspace / "spool").write_bytes(b"x")
        seen.append(context.workspace)
        raise invalid("X", "x")

    assert jobs.run(job).state is State.FAILED
    assert not seen[0].exists()


def test_a_typed_error_is_how_the_operation_ends(jobs: Jobs) -> None:
    def job(_context: JobContext) -> Callable[[], str]:
        raise OrtoscopeError(Code.FAILED_PRECONDITION, "ACTIVATION_NOT_FINITE", "unit 3", metadata={"unit": "3"})

    error = jobs.run(job).error
    assert error is not None
    assert (error.code, error.reason, error.metadata) == (
        Code.FAILED_PRECONDITION,
        "ACTIVATION_NOT_FINITE",
        {"unit": "3"},
    )


def test_an_unexpected_error_tells_an_id_and_nothing_else(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    def job(_context: JobContext) -> Callable[[], str]:
        raise RuntimeError("/secret/path")

    error = jobs.run(job).error
    assert error is not None
    assert error.code is Code.INTERNAL
    assert "secret" not in error.message
    assert error.metadata["error_id"] in error.message
    assert error.metadata["error_id"] in caplog.text
    assert "/secret/path" in caplog.text


def test_a_full_disk_is_told_as_such_and_the_runner_goes_on(jobs: Jobs) -> None:
    def job(_context: JobContext) -> Callable[[], str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    error = jobs.run(job).error
    assert error is not None
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "DISK_FULL")
    assert jobs.run(lambda _context: lambda: "results/1").state is State.SUCCEEDED


def test_a_result_that_cannot_be_recorded_fails_the_operation(jobs: Jobs) -> None:
    def publish() -> str:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    error = jobs.run(lambda _context: publish).error
    assert error is not None
    assert error.reason == "DISK_FULL"


def test_progress_is_recorded_at_the_ends_of_a_stage_and_now_and_then_between(jobs: Jobs) -> None:
    seen: list[tuple[str, int]] = []
    began = threading.Event()

    def job(context: JobContext) -> Callable[[], str]:
        began.wait(20)
        for done in range(1001):
            context.progress("activating", done, 1000)
            operation = jobs.operations.get(context.operation_id)
            seen.append((operation.stage, operation.done_items))
        return lambda: "results/1"

    name = jobs.submit(job)
    began.set()
    done = jobs.operations.wait(name, 20)
    assert seen[0] == ("activating", 0)
    assert (done.done_items, done.total_items) == (1000, 1000)
    assert len(set(seen)) < 100


def test_cancelling_stops_a_running_job_and_skips_a_waiting_one(jobs: Jobs) -> None:
    ran: list[str] = []
    running = jobs.submit(endless)
    waiting = jobs.submit(lambda _context: lambda: ran.append("waiting") or "results/1")  # type: ignore[func-returns-value]
    until(lambda: jobs.operations.get(running).state is State.RUNNING)
    jobs.runner.cancel(waiting)
    assert jobs.operations.get(waiting).state is State.CANCELLED
    jobs.runner.cancel(running)
    ended = jobs.operations.wait(running, 20)
    assert ended.state is State.CANCELLED
    assert ended.cancel_requested
    assert ended.error is not None
    assert ended.error.code is Code.CANCELLED
    assert jobs.run(lambda _context: lambda: "results/2").state is State.SUCCEEDED
    assert ran == []


def test_stopping_lets_a_job_end_within_the_grace(jobs: Jobs) -> None:
    began = threading.Event()

    def job(_context: JobContext) -> Callable[[], str]:
        began.set()
        time.sleep(0.3)
        return lambda: "results/1"

    name = jobs.submit(job)
    began.wait(20)
    jobs.runner.stop(20)
    assert jobs.operations.get(name).state is State.SUCCEEDED


def test_stopping_interrupts_a_job_that_does_not_end(jobs: Jobs) -> None:
    name, waiting = jobs.submit(endless), jobs.submit(endless)
    until(lambda: jobs.operations.get(name).state is State.RUNNING)
    jobs.runner.stop(0.1)
    error = jobs.operations.get(name).error
    assert error is not None
    assert (error.code, error.reason) == (Code.ABORTED, "SERVER_RESTARTED")
    assert jobs.operations.get(waiting).state is State.QUEUED
