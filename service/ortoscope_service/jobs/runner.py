"""Runs operations, one after another, in threads of the server's own."""

import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.jobs.failures import as_ortoscope_error, is_disk_full
from ortoscope_service.jobs.operations import Operation, OperationStore, server_restarted
from ortoscope_service.runtime.cancellation import Cancellation

PROGRESS_INTERVAL = 0.5
"""Least seconds between two records of an operation's progress."""

_RETRY_INTERVAL = 1.0
_LOG = logging.getLogger(__name__)


class JobContext:
    """What a job is given besides its input.

    Args:
        operation_id: The operation that it is.
        operations: Where its progress is recorded.
        workspace: An empty folder of its own, deleted when it ends.
    """

    def __init__(self, operation_id: str, operations: OperationStore, workspace: Path) -> None:
        self.operation_id = operation_id
        self.workspace = workspace
        self.cancellation = Cancellation()
        self._operations = operations
        self._recorded = ("", 0.0)

    def progress(self, stage: str, done_items: int, total_items: int) -> None:
        """Records how far the job is: the beginning and end of a stage always, in between now and then."""
        recorded_stage, recorded_at = self._recorded
        now = time.monotonic()
        if stage == recorded_stage and done_items < total_items and now - recorded_at < PROGRESS_INTERVAL:
            return
        self._recorded = (stage, now)
        self._operations.progress(self.operation_id, stage, done_items, total_items)


Work = Callable[[JobContext], Callable[[], str]]
"""Does the job; returns what records its result and tells the result's resource name."""


@dataclass(frozen=True)
class _Job:
    operation_id: str
    work: Work


class JobRunner:
    """A queue of jobs and the threads that work on it.

    Args:
        operations: Where operations are recorded.
        workspace: Folder for the folders of jobs; whatever is in it is deleted.
        workers: Jobs that run at once.
    """

    def __init__(self, operations: OperationStore, workspace: Path, workers: int = 1) -> None:
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir(parents=True)
        self._operations = operations
        self._workspace = workspace
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: dict[str, JobContext] = {}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"operations-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, operation_id: str, work: Work) -> None:
        """Puts the work of a recorded operation at the end of the queue."""
        self._queue.put(_Job(operation_id, work))

    def cancel(self, operation_id: str) -> Operation:
        """Cancels an operation: at once if it waits, soon if it runs, not at all if it ended.

        Raises:
            OrtoscopeError: NOT_FOUND, UNKNOWN_OPERATION.
        """
        operation = self._operations.request_cancel(operation_id)
        with self._lock:
            context = self._running.get(operation_id)
        if context is not None:
            context.cancellation.cancel()
        return operation

    def stop(self, grace_seconds: float) -> None:
        """Stops: nothing new begins; what runs may go on for `grace_seconds`, then it is interrupted.

        What is interrupted ends with ABORTED, SERVER_RESTARTED; so does what waits, when the store is opened again.
        """
        self._stopping.set()
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + grace_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            interrupted = list(self._running.values())
        for context in interrupted:
            context.cancellation.cancel()
        for thread in self._threads:
            thread.join(5.0)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None and not self._stopping.is_set():
            self._run(job)

    def _run(self, job: _Job) -> None:
        context = JobContext(job.operation_id, self._operations, self._workspace / job.operation_id)
        with self._lock:
            self._running[job.operation_id] = context
        try:
            if self._operations.start(job.operation_id):
                self._record(job.operation_id, self._outcome(job, context))
        except Exception:  # noqa: BLE001 - the thread must live for the next operation
            _LOG.exception("the outcome of operation %s could not be recorded", job.operation_id)
        finally:
            with self._lock:
                del self._running[job.operation_id]

    def _outcome(self, job: _Job, context: JobContext) -> Callable[[], None]:
        """Does the work; returns what records how it ended."""
        try:
            context.workspace.mkdir()
            publish = job.work(context)
        except Exception as error:  # noqa: BLE001 - whatever a job raises is how its operation ended
            failure = self._failure(error)
            return lambda: self._operations.fail(job.operation_id, failure)
        finally:
            shutil.rmtree(context.workspace, ignore_errors=True)
        return lambda: self._operations.succeed(job.operation_id, publish)

    def _failure(self, error: Exception) -> OrtoscopeError:
        failure = as_ortoscope_error(error)
        if failure.code is Code.CANCELLED and self._stopping.is_set():
            return server_restarted()
        return failure

    def _record(self, operation_id: str, record: Callable[[], None]) -> None:
        """Records an outcome. A full disk makes it fail; that it failed is recorded as soon as there is room."""
        try:
            record()
        except Exception as error:  # noqa: BLE001 - recording a result can fail as the work itself
            failure = self._failure(error)
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
