"""Runs the operations of a store: those that come, and those that an earlier server left."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.engine import Crew, Interrupted, Job, run_job
from ortoscope_service.jobs.failures import as_ortoscope_error, is_disk_full
from ortoscope_service.jobs.kinds import KINDS
from ortoscope_service.jobs.operations import Operation, deadline_exceeded
from ortoscope_service.jobs.store import Store
from ortoscope_service.jobs.tasks import Environment, Outcome
from ortoscope_service.runtime.cancellation import Cancellation

PROGRESS_INTERVAL = 0.5
"""Least seconds between two records of an operation's progress within a stage."""

_RETRY_INTERVAL = 1.0
_HOUSEKEEPING_SECONDS = 1.0
_UPTIME_SECONDS = 30.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A job that is done."""

    operation: Operation
    """The operation that it was."""

    outcome: Outcome
    """The outcome of its last task."""

    processors: str
    """Kinds of processors that worked on it, separated by commas."""

    load: Callable[[str], bytes]
    """The contents of an artifact by its digest."""


Publisher = Callable[[Finished], Callable[[], str]]
"""Stores the result of a job; returns what records it, and then tells its resource name."""


class JobRunner:
    """A queue of operations and the threads that see to them; the work itself is done by a crew of other processes.

    Args:
        store: Where operations are recorded.
        crew: Does the work.
        environment: Where the crew finds everything.
        publishers: Store the results, by the operation's verb.
        retention_seconds: How long the record of an operation that ended is kept, in seconds of uptime.
        at_once: Operations that run at once.
        on_store_lost: Called once if the store was deleted or replaced.
    """

    def __init__(
        self,
        store: Store,
        crew: Crew,
        environment: Environment,
        publishers: Mapping[str, Publisher],
        retention_seconds: float,
        at_once: int,
        on_store_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._operations = store.operations
        self._crew = crew
        self._environment = environment
        self._publishers = publishers
        self._retention_seconds = retention_seconds
        self._on_store_lost = on_store_lost
        self._condition = threading.Condition()
        self._queue = deque(operation.id for operation in self._operations.pending())
        self._running: dict[str, Cancellation] = {}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"operations-{number}", daemon=True) for number in range(at_once)
        ]
        self._housekeeper = threading.Thread(target=self._keep_house, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        for thread in (*self._threads, self._housekeeper):
            thread.start()

    def submit(self, operation_id: str) -> None:
        """Puts a recorded operation at the end of the queue."""
        with self._condition:
            self._queue.append(operation_id)
            self._condition.notify()

    def cancel(self, operation_id: str) -> Operation:
        """Cancels an operation: at once if it waits, soon if it runs, not at all if it ended.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_OPERATION.
        """
        operation = self._operations.request_cancel(operation_id)
        with self._condition:
            cancellation = self._running.get(operation_id)
        if cancellation is not None:
            cancellation.cancel()
        return operation

    def stop(self, grace_seconds: float) -> None:
        """Stops: no shard begins any more; those that are worked on may be finished within `grace_seconds`.

        What is not done is done by the next server that opens the store.
        """
        self._stopping.set()
        with self._condition:
            self._condition.notify_all()
        deadline = time.monotonic() + grace_seconds
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        self._crew.executor.shutdown(wait=True, cancel_futures=True)
        for thread in (*self._threads, self._housekeeper):
            if thread.is_alive():
                thread.join()

    def _work(self) -> None:
        while (operation_id := self._next()) is not None:
            try:
                self._run(operation_id)
                self._tidy()
            except Exception:  # noqa: BLE001 - the thread must live for the next operation
                _LOG.exception("the outcome of operation %s could not be recorded", operation_id)

    def _next(self) -> str | None:
        """The operation whose turn it is; None when the server stops."""
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._stopping.is_set())
            return None if self._stopping.is_set() else self._queue.popleft()

    def _run(self, operation_id: str) -> None:
        cancellation = Cancellation(self._operations.deadline(operation_id))
        with self._condition:
            self._running[operation_id] = cancellation
        try:
            if not cancellation.cancelled and self._operations.start(operation_id):
                self._record(operation_id, self._outcome(self._operations.get(operation_id), cancellation))
                self._store.shards.collect()
        except Interrupted:
            _LOG.info("operation %s will go on when the server is started again", operation_id)
        finally:
            with self._condition:
                del self._running[operation_id]

    def _tidy(self) -> None:
        """Deletes what workers left that died, if nothing is being done."""
        with self._condition:  # so that no operation begins meanwhile
            if not self._running:
                self._store.shards.sweep()

    def _outcome(self, operation: Operation, cancellation: Cancellation) -> Callable[[], None]:
        """Does the work; returns what records how it ended."""
        job = Job(
            operation,
            self._crew,
            self._store.shards,
            self._store.artifacts,
            self._environment,
            _Reporter(self._store, operation.id),
            cancellation,
            self._stopping.is_set,
            lambda job, outcome: self._operations.publish(recording(job, outcome)),
        )

        def recording(job: Job, outcome: Outcome) -> Callable[[], str]:
            processors = ", ".join(sorted(job.processors))
            return self._publishers[operation.verb](Finished(operation, outcome, processors, job.load))

        def drive(job: Job) -> Callable[[], str]:
            return recording(job, KINDS[operation.verb].drive(job))

        try:
            publish = run_job(job, drive)
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a job raises is how its operation ended
            failure = _failure(error)
            return lambda: self._operations.fail(operation.id, failure)
        return lambda: self._operations.succeed(operation.id, publish)

    def _record(self, operation_id: str, record: Callable[[], None]) -> None:
        """Records an outcome. A full disk makes it fail; that it failed is recorded as soon as there is room."""
        try:
            record()
        except Exception as error:  # noqa: BLE001 - recording a result can fail as the work itself
            failure = _failure(error)
        else:
            return
        while True:
            try:
                self._operations.fail(operation_id, failure)
            except Exception as error:
                if not is_disk_full(error):
                    raise
                _LOG.warning("the disk is too full to record the end of operation %s; trying again", operation_id)
                if self._stopping.wait(_RETRY_INTERVAL):
                    raise
            else:
                return

    def _keep_house(self) -> None:
        """Ends what waited beyond its deadline, counts the uptime, forgets what is old, and looks after the store."""
        counted = time.monotonic()
        while not self._stopping.wait(_HOUSEKEEPING_SECONDS):
            try:
                self._store.check()
                self._end_overdue()
                now = time.monotonic()
                if now - counted >= _UPTIME_SECONDS:
                    self._operations.add_uptime(now - counted)
                    counted = now
                    if self._operations.expire(self._retention_seconds):
                        self._store.shards.collect()
                    self._store.visualizations.expire(self._retention_seconds)
            except Exception as error:  # noqa: BLE001 - a full disk today must not keep the house untidy tomorrow
                if isinstance(error, OrtoscopeError) and error.reason == "STORE_LOST":
                    _LOG.error("the store is gone")
                    self._on_store_lost()
                    return
                if not is_disk_full(error):
                    _LOG.warning("housekeeping failed: %s", type(error).__name__)

    def _end_overdue(self) -> None:
        """Ends the operations whose deadline passed while they waited. Those that run end themselves."""
        now = time.monotonic()
        with self._condition:
            waiting = list(self._queue)
        for operation_id in waiting:
            deadline = self._operations.deadline(operation_id)
            if deadline is not None and deadline <= now:
                self._operations.end_waiting(operation_id, deadline_exceeded())


class _Reporter:
    """Records the progress of an operation: the beginning and end of a stage always, in between now and then."""

    def __init__(self, store: Store, operation_id: str) -> None:
        self._operations = store.operations
        self._operation_id = operation_id
        self._recorded = ("", 0.0)

    def __call__(self, stage: str, done_items: int, total_items: int, estimate: float | None) -> None:
        recorded_stage, recorded_at = self._recorded
        now = time.monotonic()
        if stage == recorded_stage and done_items < total_items and now - recorded_at < PROGRESS_INTERVAL:
            return
        self._recorded = (stage, now)
        self._operations.progress(self._operation_id, stage, done_items, total_items, estimate)


def _failure(error: Exception) -> OrtoscopeError:
    failure = as_ortoscope_error(error)
    return deadline_exceeded() if failure.code is Code.DEADLINE_EXCEEDED else failure
