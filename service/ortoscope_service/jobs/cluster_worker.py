"""What happens within a worker of a cluster: Dask loads this with `--preload ortoscope_service.jobs.cluster_worker`."""

import json
import logging
import os
from typing import TYPE_CHECKING

from ortoscope_service.jobs.calls import call_function
from ortoscope_service.jobs.worker import die_with_parent, is_retiring

if TYPE_CHECKING:
    from distributed import Worker

PARENT_VARIABLE = "ORTOSCOPE_CLUSTER_PARENT"
"""Environment variable: the number of the process with which the worker shall end."""

_LOOK_SECONDS = 0.02
"""How often a worker that retires looks whether its result was fetched."""


def dask_setup(_worker: object) -> None:
    """Prepares a worker process; Dask calls it when it starts one.

    A worker that `cluster_members.run_cluster_worker` started ends when that ends, in whatever way.
    """
    # ONNX Runtime reads this when it is imported, which the first task does.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        die_with_parent()
        if os.getppid() != int(parent):
            os._exit(0)


def dask_teardown(_worker: object) -> None:
    """Ends a worker process at once; Dask calls it when a worker closes, such as when it lost its scheduler.

    What the worker does has become useless: whoever submitted it hears that it is lost, and submits it again. Without
    this, Dask waits up to 30 seconds for it, while the worker is missing.
    """
    logging.shutdown()
    os._exit(0)


def perform(function: str, arguments: str) -> str:
    """Calls a function, as a task of Dask's.

    If the function asked by `worker.retire` for the end of the process, it ends once the result was fetched, and takes
    no other task before.

    Args:
        function: As `calls.call_function` takes it.
        arguments: As `calls.call_function` takes them.

    Returns:
        JSON: an object with `answer`, what `calls.call_function` returned, and `retired`, whether the worker ends.
    """
    answer = call_function(function, arguments)
    if is_retiring():
        from distributed import get_worker  # noqa: PLC0415 - of the extra `cluster`

        worker = get_worker()
        # The loop sees to this before it learns of the result.
        worker.loop.add_callback(_retire, worker)
    return json.dumps({"answer": answer, "retired": is_retiring()})


def _retire(worker: "Worker") -> None:
    from distributed.core import Status  # noqa: PLC0415 - of the extra `cluster`

    # The scheduler is told so before it is told of the result, and so cannot give this worker another task.
    worker.status = Status.closing_gracefully
    _close_when_fetched(worker)


def _close_when_fetched(worker: "Worker") -> None:
    # A result stays here as long as a client may still fetch it. A task that came too early is not begun any more.
    if any(task.state != "ready" for task in worker.state.tasks.values()):
        worker.loop.call_later(_LOOK_SECONDS, _close_when_fetched, worker)
    else:
        worker.loop.add_callback(worker.close, reason="a task asked for a new process")
