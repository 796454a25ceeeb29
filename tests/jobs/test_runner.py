"""The runner, with drivers that a test gives it instead of those of dissections."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs import runner as runner_module
from ortoscope_service.jobs.engine import Crew, Interrupted, Job
from ortoscope_service.jobs.kinds import JobKind
from ortoscope_service.jobs.operations import NewOperation, Operation, State
from ortoscope_service.jobs.runner import Finished, JobRunner
from ortoscope_service.jobs.store import Store
from ortoscope_service.jobs.tasks import Environment, Outcome

Drive = Callable[[Job], Outcome]
DONE = Outcome({}, {})
AT_ONCE = 2


class Jobs:
    """A runner whose operations do what a test says, by their verb."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._kinds: dict[str, JobKind] = {}
        monkeypatch.setattr(runner_module, "KINDS", self._kinds)
        self.published: list[str] = []
        self.publish: Callable[[], None] = lambda: None
        self.retention = 1000.0
        self.store = Store(root)
        self.runner = self._make()

    def _make(self) -> JobRunner:
        crew = Crew(ThreadPoolExecutor(2), lambda: 2)
        environment = Environment(str(self._root), "models", None, {})
        publishers = {f"verb{number}": self._publisher for number in range(100)}
        return JobRunner(self.store, crew, environment, publishers, self.retention, AT_ONCE)

    def restart(self) -> None:
        self.runner.stop(0)
        self.store.close()
        self.store = Store(self._root)
        self.runner = self._make()

    def _publisher(self, finished: Finished) -> Callable[[], str]:
        def record() -> str:
            self.publish()
            self.published.append(finished.operation.id)
            return f"results/{finished.operation.id}"

        return record

    def submit(self, drive: Drive, time_limit: float | None = None) -> str:
        name = f"operation{len(self._kinds)}"
        verb = f"verb{len(self._kinds)}"
        self._kinds[verb] = JobKind(drive, {})
        self.store.operations.create(NewOperation(name, verb, "target", time_limit=time_limit))
        self.runner.submit(name)
        return name

    def wait(self, name: str) -> Operation:
        return self.store.operations.wait(name, 20)

    def run(self, drive: Drive) -> Operation:
        return self.wait(self.submit(drive))

    def until(self, name: str, state: State) -> None:
        deadline = time.monotonic() + 20
        while self.store.operations.get(name).state is not state:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    made = Jobs(tmp_path, monkeypatch)
    made.runner.start()
    yield made
    made.runner.stop(0)
    made.store.close()


def endless(job: Job) -> Outcome:
    """Runs until it is cancelled or the server stops, as `Job.map` does."""
    while True:
        job._cancellation.raise_if_cancelled()
        if job._stopping():
            raise Interrupted
        time.sleep(0.01)


def test_an_operation_succeeds_with_the_name_of_its_result(jobs: Jobs) -> None:
    operation = jobs.run(lambda _job: DONE)
    assert (operation.state, operation.result) == (State.SUCCEEDED, f"results/{operation.id}")


def test_a_short_operation_does_not_wait_for_a_long_one(jobs: Jobs) -> None:
    long = jobs.submit(endless)
    jobs.until(long, State.RUNNING)
    assert jobs.run(lambda _job: DONE).state is State.SUCCEEDED
    assert jobs.store.operations.get(long).state is State.RUNNING


def test_operations_begin_in_the_order_in_which_they_came(jobs: Jobs) -> None:
    blockers = [jobs.submit(endless) for _ in range(AT_ONCE)]
    for blocker in blockers:
        jobs.until(blocker, State.RUNNING)
    order: list[int] = []

    def drive(number: int) -> Drive:
        def append(_job: Job) -> Outcome:
            order.append(number)
            return DONE

        return append

    waiting = [jobs.submit(drive(number)) for number in range(5)]
    jobs.runner.cancel(blockers[0])
    for name in waiting:
        assert jobs.wait(name).state is State.SUCCEEDED
    assert order == [0, 1, 2, 3, 4]


def test_a_typed_error_is_how_the_operation_ends(jobs: Jobs) -> None:
    def drive(_job: Job) -> Outcome:
        raise OrtoscopeError(Code.FAILED_PRECONDITION, "ACTIVATION_NOT_FINITE", "unit 3", metadata={"unit": "3"})

    error = jobs.run(drive).error
    assert error is not None
    assert (error.code, error.reason, error.metadata) == (
        Code.FAILED_PRECONDITION,
        "ACTIVATION_NOT_FINITE",
        {"unit": "3"},
    )


def test_an_unexpected_error_tells_an_id_and_nothing_else(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    def drive(_job: Job) -> Outcome:
        raise RuntimeError("/secret/path")

    error = jobs.run(drive).error
    assert error is not None
    assert error.code is Code.INTERNAL
    assert "secret" not in error.message
    assert error.metadata["error_id"] in error.message
    assert error.metadata["error_id"] in caplog.text
    assert "/secret/path" in caplog.text


def test_a_full_disk_is_told_as_such_and_the_runner_goes_on(jobs: Jobs) -> None:
    def drive(_job: Job) -> Outcome:
        raise OSError(errno.ENOSPC, "No space left on device")

    error = jobs.run(drive).error
    assert error is not None
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "DISK_FULL")
    assert jobs.run(lambda _job: DONE).state is State.SUCCEEDED


def test_a_result_that_cannot_be_recorded_fails_the_operation(jobs: Jobs) -> None:
    def refuse() -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    jobs.publish = refuse
    error = jobs.run(lambda _job: DONE).error
    assert error is not None
    assert error.reason == "DISK_FULL"


def test_what_was_published_on_the_way_stays_however_the_operation_ends(jobs: Jobs) -> None:
    def drive(job: Job) -> Outcome:
        job.publish(DONE)
        return endless(job)

    def fail(job: Job) -> Outcome:
        job.publish(DONE)
        raise OSError(errno.ENOSPC, "No space left on device")

    cancelled = jobs.submit(drive)
    while cancelled not in jobs.published:
        time.sleep(0.01)
    assert jobs.store.operations.get(cancelled).state is State.RUNNING
    jobs.runner.cancel(cancelled)
    ended = jobs.wait(cancelled)
    assert (ended.state, ended.result) == (State.CANCELLED, None)
    failed = jobs.run(fail)
    assert failed.state is State.FAILED
    assert jobs.published == [cancelled, failed.id]


def test_a_result_on_the_way_that_cannot_be_recorded_fails_the_operation(jobs: Jobs) -> None:
    def refuse() -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    def drive(job: Job) -> Outcome:
        job.publish(DONE)
        return DONE

    jobs.publish = refuse
    error = jobs.run(drive).error
    assert error is not None
    assert error.reason == "DISK_FULL"


def test_cancelling_stops_a_running_operation_and_skips_a_waiting_one(jobs: Jobs) -> None:
    blockers = [jobs.submit(endless) for _ in range(AT_ONCE)]
    for blocker in blockers:
        jobs.until(blocker, State.RUNNING)
    ran: list[str] = []
    waiting = jobs.submit(lambda _job: ran.append("waiting") or DONE)  # type: ignore[func-returns-value]
    jobs.runner.cancel(waiting)
    assert jobs.store.operations.get(waiting).state is State.CANCELLED
    jobs.runner.cancel(blockers[0])
    ended = jobs.wait(blockers[0])
    assert ended.state is State.CANCELLED
    assert ended.cancel_requested
    assert ended.error is not None
    assert ended.error.code is Code.CANCELLED
    assert jobs.run(lambda _job: DONE).state is State.SUCCEEDED
    assert ran == []


def test_a_deadline_that_passes_in_the_queue_never_starts_the_work(jobs: Jobs) -> None:
    for blocker in [jobs.submit(endless) for _ in range(AT_ONCE)]:
        jobs.until(blocker, State.RUNNING)
    ran: list[str] = []
    waiting = jobs.submit(lambda _job: ran.append("waiting") or DONE, time_limit=0.1)  # type: ignore[func-returns-value]
    ended = jobs.wait(waiting)
    assert (ended.state, ended.start_time) == (State.FAILED, None)
    assert ended.error is not None
    assert (ended.error.code, ended.error.reason) == (Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert ran == []


def test_a_deadline_ends_what_runs(jobs: Jobs) -> None:
    ended = jobs.wait(jobs.submit(endless, time_limit=0.2))
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert ended.error.reason == "DEADLINE_EXCEEDED"


def test_stopping_lets_an_operation_end_within_the_grace(jobs: Jobs) -> None:
    began = threading.Event()

    def drive(_job: Job) -> Outcome:
        began.set()
        time.sleep(0.3)
        return DONE

    name = jobs.submit(drive)
    began.wait(20)
    jobs.runner.stop(20)
    assert jobs.store.operations.get(name).state is State.SUCCEEDED


def test_the_next_server_goes_on_with_what_ran_and_what_waited(jobs: Jobs) -> None:
    again = threading.Event()

    def drive(job: Job) -> Outcome:
        return DONE if again.is_set() else endless(job)

    names = [jobs.submit(drive) for _ in range(AT_ONCE + 2)]
    jobs.until(names[0], State.RUNNING)
    began = jobs.store.operations.get(names[0]).start_time
    jobs.restart()
    again.set()
    jobs.runner.start()
    for name in names:
        assert jobs.wait(name).state is State.SUCCEEDED
    assert jobs.store.operations.get(names[0]).start_time == began
    assert sorted(jobs.published) == sorted(names)


def test_what_was_cancelled_when_the_server_died_does_not_begin_again(jobs: Jobs) -> None:
    name = jobs.submit(endless)
    jobs.until(name, State.RUNNING)
    jobs.store.operations.request_cancel(name)  # the server dies before the runner is told
    jobs.restart()
    assert jobs.store.operations.get(name).state is State.CANCELLED


def test_old_records_are_forgotten_by_uptime_and_not_by_the_clock(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    old = jobs.run(lambda _job: DONE).id
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 4e9)  # the clock jumps by decades
        assert jobs.store.operations.expire(1000) == []
    jobs.store.operations.add_uptime(1001)
    new = jobs.run(lambda _job: DONE).id
    assert jobs.store.operations.expire(1000) == [old]
    assert jobs.store.operations.get(new).state is State.SUCCEEDED
