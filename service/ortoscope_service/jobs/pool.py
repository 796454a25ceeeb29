"""Worker processes on this machine, as an executor.

Unlike `concurrent.futures.ProcessPoolExecutor`, a process that dies takes down nothing but the task that it had, and
nothing is unpickled: a worker runs models from outside, and its server must not have to trust what it answers.

Each worker has a thread here, which starts its process when there is something to do (spawned, never forked), gives it
one task at a time, and ends it. The processes end with this one, even if that is killed.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from ortoscope_service.jobs.calls import Call, WorkerDiedError, WorkerTaskError
from ortoscope_service.jobs.worker_process import NotBegunError, WorkerLimits, WorkerProcess
from ortoscope_service.runtime.control_groups import MemoryGroups

__all__ = ["WorkerDiedError", "WorkerPool", "WorkerTaskError"]

_LONGEST_PAUSE_SECONDS = 10.0
"""Most time between two attempts to start a process, if the first one failed."""

_log = logging.getLogger(__name__)


class WorkerPool(Executor):
    """Runs functions in worker processes of this machine, first come, first served.

    A process is started when there is something to do that no other has time for. Of the idle ones, the one that
    worked last is the next to work: what it has loaded is most likely to be there. Futures fail with:

    * `WorkerDiedError` if the process died that had the task, did not answer, or could not be started. Other tasks
      notice nothing; the next one gets a new process.
    * `WorkerTaskError` if the function raised.

    Args:
        workers: How many processes there may be.
        memory_bytes: Most memory that each of them may allocate; beyond it allocations fail. 0: no limit. Where the
            control group of this process is delegated to it, the limit holds for shared memory and for what the system
            keeps of files, too.
        niceness: How much lower than this process's their priority is.
        silence_seconds: A worker that gives no sign of life for so long while it has a task is killed. It gives one
            every second unless it is stopped, or a library keeps Python from running.
        idle_seconds: A worker that had nothing to do for so long ends, so that what it holds becomes free.
        grace_seconds: How long tasks that run may go on after `shutdown(cancel_futures=True)`.
    """

    def __init__(
        self,
        workers: int,
        *,
        memory_bytes: int = 0,
        niceness: int = 10,
        silence_seconds: float = 30.0,
        idle_seconds: float = 300.0,
        grace_seconds: float = 5.0,
    ) -> None:
        limits = WorkerLimits(memory_bytes, niceness, silence_seconds, _memory_groups() if memory_bytes else None)
        self._grace_seconds = grace_seconds
        self._lock = threading.Lock()
        self._queue: deque[Call] = deque()
        self._closed = False
        self._expired = threading.Event()
        self._workers = [
            _Worker(number, limits, idle_seconds, self._next_call, self._expired) for number in range(workers)
        ]
        self._free = list(self._workers)
        for worker in self._workers:
            worker.thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls a function in a worker.

        Args:
            fn: A function at the top level of a module that a worker can import.
            args: Its positional arguments: JSON values.
            kwargs: Its named arguments: JSON values.

        Returns:
            Its future. The result is a JSON value too.

        Raises:
            TypeError: No such function, or an argument is no JSON value.
            RuntimeError: The pool was shut down.
        """
        call = Call.of(fn, args, kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._free:
                # The one that worked last comes last.
                worker = next((worker for worker in reversed(self._free) if worker.pid is not None), self._free[-1])
                self._free.remove(worker)
                worker.inbox.put(call)
            else:
                self._queue.append(call)
        return call.future

    def warm(self) -> None:
        """Starts the processes of all workers that have nothing to do; does not wait for them."""
        with self._lock:
            for worker in self._free:
                worker.inbox.put(_WARM)
            self._free.clear()

    def pids(self) -> list[int]:
        """The process numbers of the workers that have a process at the moment."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the workers when they have done what was submitted.

        Args:
            wait: Return when all processes have ended.
            cancel_futures: Cancel the tasks that wait. Those that run have `grace_seconds`; then their processes are
                killed, and their futures fail with `WorkerDiedError`.
        """
        with self._lock:
            self._closed = True
            cancelled = list(self._queue) if cancel_futures else []
            if cancel_futures:
                self._queue.clear()
            # As long as something waits, nobody is free.
            for worker in self._free:
                worker.inbox.put(None)
            self._free.clear()
        for call in cancelled:
            call.future.cancel()
            call.future.set_running_or_notify_cancel()
        timer = threading.Timer(self._grace_seconds, self._expire)
        timer.daemon = True
        if cancel_futures:
            timer.start()
        if wait:
            for worker in self._workers:
                worker.thread.join()
            timer.cancel()

    def _expire(self) -> None:
        self._expired.set()
        for worker in self._workers:
            worker.kill()

    def _next_call(self, worker: "_Worker") -> None:
        """Gives a worker that is done something to do, or lets it wait or end."""
        with self._lock:
            if self._queue:
                worker.inbox.put(self._queue.popleft())
            elif self._closed:
                worker.inbox.put(None)
            else:
                self._free.append(worker)


def _memory_groups() -> MemoryGroups | None:
    """Where to make control groups for workers, if they can be made; the log tells whether."""
    groups = MemoryGroups.take_over()
    if groups is None:
        _log.info("workers have no control groups: none is delegated to this process that could be used")
    else:
        _log.info("each worker has a control group that limits its memory")
    return groups


_WARM = Call("", "")
"""Stands for no call, but that one may come."""


class _Worker:
    """A worker: a thread here, and a process while there is something to do.

    Attributes:
        inbox: What it has to do: calls, one at a time, and in the end None.
        thread: Its thread.
        pid: The number of its process; None without one.
    """

    def __init__(
        self,
        number: int,
        limits: WorkerLimits,
        idle_seconds: float,
        done: Callable[["_Worker"], None],
        expired: threading.Event,
    ) -> None:
        self.inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._main, name=f"worker-{number}", daemon=True)
        self._limits = limits
        self._idle_seconds = idle_seconds
        self._done = done
        self._expired = expired
        self._process: WorkerProcess | None = None
        self._pause_seconds = 0.0

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def kill(self) -> None:
        """Kills the process; any thread may call this."""
        process = self._process
        if process is not None:
            process.kill()

    def _main(self) -> None:
        while True:
            try:
                call = self.inbox.get(timeout=None if self._process is None else self._idle_seconds)
            except queue.Empty:
                self._end_process()
                continue
            if call is None:
                self._end_process()
                return
            try:
                if call is _WARM:
                    self._ready_process()
                else:
                    self._perform(call)
            except Exception as error:  # noqa: BLE001 - neither this thread nor the future may be lost, whatever it is
                self._give_up(call, error)
            self._done(self)

    def _perform(self, call: Call) -> None:
        """Has a call done, and tells its future.

        Raises:
            WorkerDiedError: That did not work out.
        """
        if call.future.cancelled():
            call.future.set_running_or_notify_cancel()
            return
        process = self._ready_process()
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            answer = process.ask(call)
        except NotBegunError:
            # It died while it was idle. The task was not touched, so that another process may have it.
            self._end_process()
            process = self._ready_process()
            answer = process.ask(call)
        call.settle(answer)
        if process.retired:
            self._end_process()

    def _give_up(self, call: Call, error: Exception) -> None:
        """Ends the process that failed a call, and tells the call's future."""
        self._end_process()
        if isinstance(error, WorkerDiedError):
            _log.warning("%s", error)
        else:
            _log.error("a worker gave an answer that cannot be handled", exc_info=error)
            error = WorkerDiedError("gave an answer that cannot be handled and was ended")
        future = call.future
        has_ended = future.done() and not future.cancelled()
        if call is not _WARM and not has_ended and (future.running() or future.set_running_or_notify_cancel()):
            future.set_exception(error)

    def _ready_process(self) -> WorkerProcess:
        """The process, started if there is none that lives.

        Raises:
            WorkerDiedError: It died before it was ready, twice.
        """
        if self._process is not None:
            if self._process.lives():
                return self._process
            self._end_process()
        try:
            return self._start()
        except WorkerDiedError as death:
            # No task had to do with it: someone may have killed the process, and a task should not pay for that.
            _log.warning("%s", death)
            return self._start()

    def _start(self) -> WorkerProcess:
        self._expired.wait(self._pause_seconds)
        self._pause_seconds = min(max(0.1, 2 * self._pause_seconds), _LONGEST_PAUSE_SECONDS)
        self._process = process = WorkerProcess(self._limits)
        # Whoever kills all after the time is up cannot have seen a process that was not there yet.
        if self._expired.is_set():
            process.kill()
        try:
            process.wait_until_ready()
        except WorkerDiedError as death:
            self._end_process()
            how = f"{death.how} before it was ready"
            raise WorkerDiedError(how, death.exit_code, out_of_memory=death.out_of_memory) from None
        self._pause_seconds = 0.0
        return process

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()
