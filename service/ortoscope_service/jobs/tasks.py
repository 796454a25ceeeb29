"""What a worker process does: one task at a time, described by JSON, whose results are artifacts in the store.

`run_task` is all that an executor runs, in a local worker or in one of a cluster. Nothing but JSON goes in and comes
out: a worker runs models from outside, and whoever reads its answers must not have to trust it.
"""

import errno
import functools
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.datasets.catalog import DatasetCatalog
from ortoscope_service.errors import Code, OrtoscopeError, error_to_json
from ortoscope_service.jobs.artifacts import ArtifactStore, ArtifactWriter, read_arrays, store_lost
from ortoscope_service.jobs.failures import as_ortoscope_error
from ortoscope_service.jobs.watchdog import Watchdog
from ortoscope_service.jobs.worker import retire
from ortoscope_service.models.repository import ModelRepository
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.hardware import processor
from ortoscope_service.runtime.memory import give_back, limit_data

ARTIFACTS = "shards"
PERMITS = "permits"
"""Folders of the store that workers use."""


_KEEPERS = {"ortoscope_service.analysis.execution", "ortoscope_service.analysis.visualization.program"}
"""Modules that keep sessions, once they were imported."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Environment:
    """Where a worker finds what it works on, and what it may use. Paths are the same on every machine of a cluster."""

    store: str
    """The store's folder."""

    models: str
    """The folder of model packages."""

    datasets: str | None
    """The folder of datasets; None without any."""

    software: Mapping[str, str]
    """Versions that decide the bits of a result, by name. A worker that has others refuses to work."""

    read_ahead: int = 0
    """If there are more cores than workers, so that each reads and decodes beside the model: how many shards on the one
    is that it will likely work on next, which is the number of workers. Otherwise 0."""

    memory_bytes: int = 0
    """Most memory that a worker may hold; 0: no limit."""

    stall_seconds: float = 300.0
    """A task that gives no sign of life for so long is given up."""


@dataclass(frozen=True)
class Task:
    """A piece of a job: a pure function of the job's spec, its arguments and the artifacts that it reads."""

    name: str
    """What is done; one of the tasks of the job's kind."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What tells it from others of that name, as JSON."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    """Digests of what it reads, by role: artifacts, and the dataset."""

    items: int = 0
    """Items of progress that it stands for."""

    @property
    def label(self) -> str:
        """What it is called in messages, such as "survey, shard 3"."""
        shard = self.arguments.get("shard")
        return self.name if shard is None else f"{self.name}, shard {shard}"


@dataclass(frozen=True)
class Outcome:
    """What came of a task."""

    artifacts: Mapping[str, str]
    """Digests of the artifacts that it wrote, by role."""

    values: Mapping[str, Any]
    """What else it found out, as JSON; little."""

    seconds: float = 0.0
    """How long it took."""

    processor: str = ""
    """Architecture and model of the processor that did it."""

    def to_json(self) -> dict[str, Any]:
        """It as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Outcome":
        """What `to_json` was called on."""
        return cls(**values)


class TaskContext:
    """What a task is given, and where it leaves what it makes.

    Attributes:
        operation: The operation whose job it is.
        spec: The spec of the job.
        arguments: The arguments of the task.
        inputs: Digests of the artifacts that it reads, by role.
        models: The model packages.
        datasets: The datasets.
        environment: Where everything is.
        cancellation: Raised when the task shall stop.
        alive: Gives a sign of life; to be called every now and then.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        environment: Environment,
        cancellation: Cancellation,
        alive: Callable[[], None],
    ) -> None:
        self.operation: str = request["operation"]
        self.spec: Mapping[str, Any] = request["spec"]
        self.arguments: Mapping[str, Any] = request["task"]["arguments"]
        self.inputs: Mapping[str, str] = request["task"]["inputs"]
        self.environment = environment
        self.models, self.datasets = _libraries(environment.models, environment.datasets)
        self.cancellation = cancellation
        self.alive = alive
        self.artifacts: dict[str, str] = {}
        self._store = ArtifactStore(Path(environment.store) / ARTIFACTS)

    def progress(self, _stage: str, _done_items: int, _total_items: int) -> None:
        """Takes the progress of an analysis for a sign of life."""
        self.alive()

    def arrays(self, role: str) -> dict[str, NDArray[Any]]:
        """The arrays of an artifact that the task reads.

        Raises:
            OrtoscopeError: As `ArtifactStore.open` raises.
        """
        self.alive()
        with self._store.open(self.inputs[role]) as file:
            return read_arrays(file)

    @contextmanager
    def open(self, role: str) -> Iterator[BinaryIO]:
        """A file that the task reads.

        Raises:
            OrtoscopeError: As `ArtifactStore.open` raises.
        """
        with self._store.open(self.inputs[role]) as file:
            yield file

    def put(self, role: str, arrays: Mapping[str, NDArray[Any] | np.generic]) -> None:
        """Stores arrays as an artifact.

        Raises:
            OSError: The disk is full.
        """
        self.artifacts[role] = self._store.put_arrays({name: np.asarray(value) for name, value in arrays.items()})

    @contextmanager
    def writer(self, role: str) -> Iterator[ArtifactWriter]:
        """Writes an artifact piece by piece.

        Raises:
            OSError: The disk is full.
        """
        with self._store.writer() as writer:
            yield writer
        self.artifacts[role] = writer.digest


def request_of(
    environment: Environment, operation: str, verb: str, spec: Mapping[str, Any], task: Task, key: str
) -> str:
    """What `run_task` takes."""
    return json.dumps(
        {
            "environment": asdict(environment),
            "operation": operation,
            "verb": verb,
            "spec": spec,
            "task": {"name": task.name, "arguments": task.arguments, "inputs": task.inputs},
            "key": key,
        }
    )


def permit_file(store: Path, operation: str) -> Path:
    """The file whose existence lets the workers go on with an operation."""
    return store / PERMITS / operation


def cause_file(store: Path, operation: str, key: str) -> Path:
    """Where a worker that ends itself says why."""
    return store / PERMITS / f"{operation}.{key.removeprefix('sha256:')[:16]}"


def run_task(request: str) -> str:
    """Does a task.

    Args:
        request: As `request_of` makes it.

    Returns:
        JSON: an `Outcome`, or an object with `error`, an error as `error_to_json` makes it, and `worker`, the process
        and the machine that it came to.
    """
    try:
        parsed = json.loads(request)
        environment = Environment(**parsed["environment"])
        return json.dumps(_run(parsed, environment).to_json(), allow_nan=False)
    except Exception as error:  # noqa: BLE001 - whatever a task raises is how it ended
        failure = _denied(error) if _is_denied(error) else as_ortoscope_error(error)
        if failure.reason == "OUT_OF_MEMORY":
            # What the failed run took may stay with the process, and would be missing from the next one's share.
            retire()
        return json.dumps({"error": error_to_json(failure), "worker": _myself()})


def _run(request: Mapping[str, Any], environment: Environment) -> Outcome:
    # The kinds of jobs import this module, and with the science behind them take a second.
    from ortoscope_service.jobs.kinds import KINDS, software  # noqa: PLC0415

    began = time.perf_counter()
    if environment.software != software():
        raise _other_software(environment.software, software())
    store = Path(environment.store)
    if not (store / PERMITS).is_dir():
        raise store_lost()
    if environment.memory_bytes:
        limit_data(environment.memory_bytes)
    cancellation = Cancellation()
    watchdog = Watchdog(
        permit_file(store, request["operation"]),
        cause_file(store, request["operation"], request["key"]),
        cancellation,
        memory_bytes=environment.memory_bytes,
        stall_seconds=environment.stall_seconds,
    )
    with _REST.interrupted(), watchdog:
        context = TaskContext(request, environment, cancellation, watchdog.alive)
        cancellation.raise_if_cancelled()
        values = KINDS[request["verb"]].tasks[request["task"]["name"]](context)
    return Outcome(context.artifacts, values, time.perf_counter() - began, processor())


class _Rest:
    """Gives back the memory that tasks left behind, such as that of sessions, once none has run for a while.

    Not after every task: most are followed by one that needs the same.
    """

    def __init__(self, after_seconds: float) -> None:
        self._after_seconds = after_seconds
        self._lock = threading.Lock()
        self._tasks = 0
        self._running = 0

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Lets a task run."""
        with self._lock:
            self._tasks += 1
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                tasks = self._tasks
            timer = threading.Timer(self._after_seconds, self._rest, (tasks,))
            timer.daemon = True
            timer.start()

    def _rest(self, tasks: int) -> None:
        with self._lock:
            if not self._running and tasks == self._tasks:
                for name in _KEEPERS & sys.modules.keys():
                    sys.modules[name].release_sessions()
                give_back()


_REST = _Rest(after_seconds=5.0)


@functools.cache
def _libraries(models: str, datasets: str | None) -> tuple[ModelRepository, DatasetCatalog]:
    """What is loaded or opened once stays for the next task."""
    return ModelRepository(Path(models)), DatasetCatalog(None if datasets is None else Path(datasets))


def _myself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _is_denied(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}


def _denied(error: BaseException) -> OrtoscopeError:
    _log.error("a task was denied a file", exc_info=error)
    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "WORKER_DENIED",
        f"A worker ({_myself()}) was denied a file. Workers write the store, and read models and datasets: run them as "
        "the user of the server, with folders that they may use so.",
        metadata={"worker": _myself()},
    )


def _other_software(wanted: Mapping[str, str], found: Mapping[str, str]) -> OrtoscopeError:
    def text(versions: Mapping[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))

    return OrtoscopeError(
        Code.FAILED_PRECONDITION,
        "WORKER_DIFFERS",
        f"The server has {text(wanted)}, but a worker ({_myself()}) has {text(found)}, which may give other bits. "
        "Install the same versions on both.",
        metadata={"server": text(wanted), "worker": text(found)},
    )
