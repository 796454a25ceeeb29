"""Tasks on a Dask cluster: the executor that the server submits to.

What Dask (2026.8) does, and what is made of it here:

* A future never says that it runs, and cancelling a task that runs only forgets it. Here a future runs from when a
  worker is free for it; what runs is stopped by a flag in the store, which it polls.
* A worker that dies takes down every task that was assigned to it, those that only waited for it included. So no more
  tasks are given to Dask than it has workers, and the others wait here. (`Client.get_executor()` assigns at once.)
* Dask tries a task again whose worker died, three times by default. `cluster_members.run_cluster_scheduler` turns that
  off (DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0): whoever submits a task hears of each death, with its cause.
* A scheduler that dies cancels all futures; they fail with `ClusterLostError`. New clients are made until one connects;
  tasks that were still waiting here go to that.
* A worker whose scheduler died does not connect again: it waits up to 30 seconds for its task, then ends with exit code
  0, and its nanny with it. `cluster_worker` ends it at once, and `cluster_members.run_cluster_worker` starts another,
  which waits for a scheduler.
"""

import asyncio
import contextlib
import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ortoscope_service.config import ClusterConfig
from ortoscope_service.jobs.calls import Call, WorkerDiedError, WorkerTaskError
from ortoscope_service.jobs.cluster_reach import TroubleLog, trouble_with
from ortoscope_service.jobs.cluster_security import security_of
from ortoscope_service.jobs.cluster_worker import perform

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 5.0
"""How long one attempt to connect may take."""

SILENCE_SECONDS = 30.0
"""A scheduler that does not answer for so long is taken for dead."""

_COUNT_SECONDS = 0.5
"""How often the workers are counted."""

_LONGEST_PAUSE_SECONDS = 3.0
"""Most time between two attempts to connect: most of what a scheduler's restart costs beside the restart itself."""

_log = logging.getLogger(__name__)


class ClusterLostError(CancelledError):
    """The cluster lost a task through no fault of the task, which is to be submitted again.

    Like every `CancelledError` that a caller did not ask for.
    """


@dataclass(frozen=True)
class ClusterState:
    """How it stands with a cluster at a moment."""

    connected: bool
    """Whether there is a connection with the scheduler."""

    workers: int
    """Workers that the scheduler had when it was last asked; 0 without a connection."""

    running: int
    """Tasks that the cluster has."""

    waiting: int
    """Tasks that wait for a worker, or for a connection."""


class ClusterExecutor(Executor):
    """Calls functions in the workers of a cluster.

    The connection is made in the background, and again when it is lost; what is submitted without one waits for it.
    Futures fail with:

    * `WorkerDiedError` if the worker died that had the task;
    * `WorkerTaskError` if the function raised;
    * `ClusterLostError` if the scheduler was lost while it had the task, or on `shutdown` while there is no
      connection or no worker.

    Args:
        config: The cluster.
        grace_seconds: How long what runs may go on after `shutdown(cancel_futures=True)`.

    Raises:
        OrtoscopeError: INVALID_CLUSTER_ADDRESS; CLUSTER_TLS_INCOMPLETE; INSECURE_CLUSTER for plain text that other
            machines can reach; CLUSTER_NOT_INSTALLED without the extra `cluster`; CLUSTER_TLS_UNREADABLE.
    """

    def __init__(self, config: ClusterConfig, *, grace_seconds: float = 5.0) -> None:
        self._config = config
        self._security = security_of(config)
        self._grace_seconds = grace_seconds
        self._lock = threading.Lock()
        self._waiting: deque[Call] = deque()
        self._closed = False
        self._give_up_at: float | None = None
        self._connected = False
        self._trouble = ""
        self._trouble_log = TroubleLog(config.address)
        self._workers = 0
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        # A daemon: a program that forgot to shut down can end, whatever the cluster does.
        self._thread = threading.Thread(target=self._main, name="cluster", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Calls a function in a worker.

        Args:
            fn: A function at the top level of a module that workers can import.
            *args: Its positional arguments. Like the named ones and the result, they must be JSON values.
            **kwargs: Its named arguments.

        Raises:
            TypeError: No such function, or an argument is no JSON value.
            RuntimeError: The executor was shut down.
        """
        call = Call.of(fn, args, kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(call)
        self._notify()
        return call.future

    def workers(self) -> int:
        """How many tasks the cluster does at once at present: its workers, but at least 1."""
        return max(1, self._workers)

    def obstacle(self) -> str:
        """What all tasks wait for at present, in words; empty if they are done."""
        if not self._connected:
            return "waiting for the scheduler of the cluster" + (self._trouble and f": {self._trouble}")
        return "" if self._workers else "waiting for workers of the cluster"

    def state(self) -> ClusterState:
        """How it stands with the cluster."""
        return ClusterState(self._connected, self._workers, len(self._running), len(self._waiting))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls. Those that were submitted are still done, if the cluster is there and has workers.

        Args:
            wait: Return only when they are.
            cancel_futures: Cancel those that wait. Those that run have `grace_seconds`; then their futures fail with
                `ClusterLostError`, and a worker goes on until it sees the flag that the caller set.
        """
        with self._lock:
            self._closed = True
            cancelled = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
                self._give_up_at = time.monotonic() + self._grace_seconds
        for call in cancelled:
            call.future.cancel()
            call.future.set_running_or_notify_cancel()
        self._notify()
        if wait:
            self._thread.join()

    def _notify(self) -> None:
        # The loop is closed once everything is over.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake.set)

    def _main(self) -> None:
        """What the thread does: everything that has to do with Dask."""
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._connections())
        finally:
            with self._lock:
                self._closed = True
            while call := self._take():
                call.future.set_exception(ClusterLostError("there is no connection with the cluster"))

    async def _connections(self) -> None:
        """Keeps a connection until the executor is shut down and has nothing to do."""
        pause = 0.1
        while not self._closed:
            client = await self._connect()
            if client is None:
                await self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            pause = 0.1
            self._tell("")
            self._connected = True
            _log.info("connected with the cluster at %s, which has %d workers", self._config.address, self._workers)
            try:
                await self._serve(client)
            finally:
                self._connected = False
                self._workers = 0
                await self._abandon(client)

    async def _connect(self) -> "Client | None":
        """A client that is connected; None if that cannot be had now, or is not wanted any more."""
        from distributed import Client  # noqa: PLC0415 - of the extra `cluster`

        if await self._is_out_of_reach():
            return None
        client = Client(
            self._config.address,
            security=self._security,
            timeout=CONNECT_SECONDS,
            asynchronous=True,
            set_as_default=False,
            name="ortoscope",
        )
        connecting = asyncio.ensure_future(client)
        while not connecting.done() and not self._closed:
            await self._changed([connecting], CONNECT_SECONDS)
        try:
            if connecting.done():
                connecting.result()
                self._workers = await asyncio.wait_for(_workers_of(client), CONNECT_SECONDS)
                return client
        except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed
            self._tell(f"it did not let a client in ({type(error).__name__})")
        connecting.cancel()
        await asyncio.wait([connecting])
        await _close(client)
        return None

    async def _is_out_of_reach(self) -> bool:
        """Whether an attempt to connect would be in vain, or is not wanted any more."""
        looking = asyncio.create_task(trouble_with(self._config, self._security))
        while not looking.done() and not self._closed:
            await self._changed([looking], CONNECT_SECONDS)
        if not looking.done():
            looking.cancel()
            await asyncio.wait([looking])
            return True
        self._tell(looking.result())
        return bool(self._trouble)

    def _tell(self, trouble: str) -> None:
        """Takes note of why there is no connection."""
        self._trouble = trouble
        self._trouble_log.tell(trouble)

    async def _serve(self, client: "Client") -> None:
        """Gives tasks to the cluster as long as it is there, and there is something to do."""
        counting = asyncio.create_task(self._count(client))
        try:
            while client.status == "running" and not counting.done() and not self._done():
                while len(self._running) < self._workers and (call := self._take()):
                    self._running.add(asyncio.create_task(self._follow(client, call)))
                await self._changed([counting, *self._running], _COUNT_SECONDS)
                self._running = {task for task in self._running if not task.done()}
        finally:
            counting.cancel()
        if not self._done():
            _log.warning("lost the cluster at %s with %d tasks", self._config.address, len(self._running))

    async def _follow(self, client: "Client", call: Call) -> None:
        """Has a call done by the cluster, and tells its future."""
        from distributed.scheduler import KilledWorker  # noqa: PLC0415 - of the extra `cluster`

        # A key of its own: Dask would take calls of the same key for the same, and answer from what it did before.
        key = f"ortoscope-{uuid.uuid4().hex}"
        task = client.submit(perform, call.function, call.arguments, key=key, pure=False)
        try:
            said = json.loads(await task)
        except KilledWorker:
            self._one_worker_less()
            call.future.set_exception(WorkerDiedError("was lost by the cluster, most likely because its process died"))
        except asyncio.CancelledError:
            call.future.set_exception(ClusterLostError("the connection with the cluster was lost"))
        except Exception as error:  # noqa: BLE001 - any type, of Dask's or of what a worker failed to import
            if task.status == "error":
                _log.error("a worker of the cluster could not call %s", call.function, exc_info=error)
                call.future.set_exception(WorkerTaskError(type(error).__name__))
            else:
                call.future.set_exception(ClusterLostError("the scheduler of the cluster lost the task"))
        else:
            if said["retired"]:
                self._one_worker_less()
            call.settle(json.loads(said["answer"]))
        finally:
            task.release()

    def _one_worker_less(self) -> None:
        """Until they are counted again: another task would be assigned to a worker that has one."""
        self._workers = max(0, self._workers - 1)

    async def _count(self, client: "Client") -> None:
        """Counts the workers every now and then, until the scheduler does not answer."""
        with contextlib.suppress(OSError):
            while True:
                await asyncio.sleep(_COUNT_SECONDS)
                workers = await _workers_of(client)
                if workers != self._workers:
                    _log.info("the cluster has %d workers now", workers)
                    self._workers = workers
                    self._wake.set()

    async def _abandon(self, client: "Client") -> None:
        """Fails what the cluster still has, and leaves it."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        self._running = set()
        await _close(client)

    def _done(self) -> bool:
        """Whether the executor was shut down, and nothing more is to come."""
        if not self._closed:
            return False
        if self._give_up_at is not None and time.monotonic() > self._give_up_at:
            return True
        return not self._running and not (self._waiting and self._workers)

    def _take(self) -> Call | None:
        """The next call that nobody took back; its future runs from now on."""
        while True:
            with self._lock:
                if not self._waiting:
                    return None
                call = self._waiting.popleft()
            if call.future.set_running_or_notify_cancel():
                return call

    async def _changed(self, tasks: Sequence["asyncio.Future[Any]"], seconds: float) -> None:
        """Waits for one of the tasks, for a call, for the shutdown, or for some time."""
        waking = asyncio.ensure_future(self._wake.wait())
        await asyncio.wait([waking, *tasks], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        waking.cancel()
        self._wake.clear()

    async def _sleep(self, seconds: float) -> None:
        """Waits for some time, or for the shutdown."""
        until = time.monotonic() + seconds
        while not self._closed and (left := until - time.monotonic()) > 0:
            await self._changed([], left)


async def _workers_of(client: "Client") -> int:
    """The number of workers that the scheduler has.

    Raises:
        OSError: It does not answer.
    """
    if client.scheduler is None:
        raise ConnectionError("the client is closed")
    identity = await asyncio.wait_for(client.scheduler.identity(n_workers=0), SILENCE_SECONDS)
    return int(identity["n_workers"])


async def _close(client: "Client") -> None:
    """Closes a client, whatever state it is in."""
    try:
        await asyncio.wait_for(client.close(), CONNECT_SECONDS)
    except Exception as error:  # noqa: BLE001 - nothing of the client is used any more
        _log.info("the connection with the cluster did not close in order: %s", type(error).__name__)
