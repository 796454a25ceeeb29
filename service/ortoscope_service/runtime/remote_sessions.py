"""Sessions that run in a process of their own, so that a model which ends its process ends nothing else.

Calls share one host. When it dies, nobody knows which of the calls under way it was, or whether it was one at all: each
is run once more, alone in a fresh process, and whoever kills that one, too, has its error; the others never notice. A
graph that did so once stays alone for a while; one that did so in two calls in a row is refused for a while, because
starting processes for it would keep the others waiting.
"""

import errno
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.caching import Cache, Made, acquire
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.channel import Array, Message
from ortoscope_service.runtime.descriptions import Description, config_to_json
from ortoscope_service.runtime.host_process import (
    TOO_MUCH_MEMORY,
    HostDiedError,
    HostFailedError,
    HostProcess,
    HostSettings,
)
from ortoscope_service.runtime.sessions import SessionConfig, TensorInfo, check_feeds
from ortoscope_service.runtime.verdicts import ParityReport

REFUSED_SECONDS = 60.0
"""How long a graph is refused that ended its process in two calls in a row."""

ALONE_SECONDS = 600.0
"""How long a graph that ended a process runs in processes of its own."""

_CALLS = 2
_ALONE_AT_ONCE = 3
_log = logging.getLogger(__name__)
_DESCRIPTIONS = 4096
"""Graphs of which it is remembered what they take and give; some kilobytes each."""


@dataclass(frozen=True)
class ModelIdentity:
    """Whose graph it is, for messages."""

    name: str
    """The model's name and version, `name/3`."""

    digest: str
    """The digest of its file, `sha256:…`."""


class SessionHost:
    """Sessions in another process, which is started when it is first needed, and again whenever it died.

    Args:
        settings: How the process is started.
    """

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._process: HostProcess | None = None
        self._closed = False
        self._places_alone = threading.Semaphore(_ALONE_AT_ONCE)
        self._fresh: set[HostProcess] = set()
        self._known: Cache[_Known] = Cache(_DESCRIPTIONS)
        self._records = _Records()

    @property
    def pid(self) -> int | None:
        """Process id of the host that calls share; None while there is none."""
        with self._lock:
            return self._process.pid if self._process is not None and self._process.alive else None

    def warm(self) -> None:
        """Starts the process, so that the first call need not wait for it."""
        self._shared()

    def session(
        self,
        key: Hashable,
        make: Callable[[], bytes],
        config: SessionConfig,
        model: ModelIdentity,
        cancellation: Cancellation | None = None,
    ) -> "RemoteSession":
        """A session of a graph; the first one for a key makes it while further callers for the same key wait.

        Args:
            key: Everything that the graph and its configuration depend on.
            make: Makes the graph, as an ONNX file; called again when the host needs it once more.
            config: How to run it.
            model: Whose graph it is.
            cancellation: Ends the wait.

        Raises:
            OrtoscopeError: As `parity.open_session` raises; as `RemoteSession.run` raises; whatever `make` raises.
        """
        cancellation = cancellation or Cancellation()

        def describe() -> Made[_Known]:
            graph = make()
            # The host sees to its memory itself, so that all of it goes back.
            wire = config_to_json(replace(config, arena=False))
            digest = hashlib.sha256(graph)
            digest.update(json.dumps(wire, sort_keys=True).encode())
            task = _Task(digest.hexdigest(), wire, lambda: graph, model)
            answer = self._perform(task, "open", {}, (), cancellation)
            description = Description.from_json(answer.body["description"])
            return Made(_Known(task.session, description), 1)

        known = self._known.get(key, describe, cancellation=cancellation)
        # The provider that it was found to run on, so that it computes what it says also when it is made again.
        found = config_to_json(known.description.config)
        return RemoteSession(self, _Task(known.session, found, make, model), known.description)

    def run(
        self, task: "_Task", feeds: Mapping[str, Array], cancellation: Cancellation, *, keep_memory: bool
    ) -> dict[str, Array]:
        """Runs a session; `RemoteSession.run` says how."""
        body = {"feeds": list(feeds), "keep_memory": keep_memory}
        answer = self._perform(task, "run", body, list(feeds.values()), cancellation)
        return dict(zip(answer.body["outputs"], answer.arrays, strict=True))

    def close(self) -> None:
        """Ends the processes, whatever they do. Idempotent."""
        with self._lock:
            self._closed = True
            processes = [*self._fresh, *([] if self._process is None else [self._process])]
            self._process = None
        for process in processes:
            process.close()

    def _perform(
        self, task: "_Task", verb: str, body: Mapping[str, Any], arrays: Sequence[Array], cancellation: Cancellation
    ) -> Message:
        """Has a host do something with a session; raises what went wrong, in our words."""
        cancellation.raise_if_cancelled()
        record = (task.session, verb)
        whole = {"verb": verb, "session": task.session, "config": task.config, "graph": False, **body}
        self._records.refuse(record, task.model)
        try:
            if not self._records.stays_alone(record):
                try:
                    return self._in_shared(task, whole, arrays, cancellation)
                except HostDiedError as died:
                    self._records.suspect(record, died, task.model)
                    if cancellation.cancelled:
                        raise
            answer = self._alone(task, whole, arrays, cancellation)
        except HostDiedError as died:
            self._records.convict(record, died, task.model)
            cancellation.raise_if_cancelled()
            raise _died_error(died, task.model) from None
        except HostFailedError:
            raise _failed_error(task.model) from None
        except OSError as error:
            raise _untold_error(error, task.model) from error
        except OrtoscopeError as error:
            if error.reason == "OUT_OF_MEMORY":
                raise _memory_error(task.model) from error
            raise
        self._records.acquit(record)
        return answer

    def _in_shared(
        self, task: "_Task", body: Mapping[str, Any], arrays: Sequence[Array], cancellation: Cancellation
    ) -> Message:
        """Has the shared host answer. One that was dead before it could know of the call is replaced."""
        try:
            return _answered(self._shared(), task, body, arrays, cancellation)
        except HostDiedError as died:
            if died.blame is not False:
                raise
        return _answered(self._shared(), task, body, arrays, cancellation)

    def _alone(
        self, task: "_Task", body: Mapping[str, Any], arrays: Sequence[Array], cancellation: Cancellation
    ) -> Message:
        """Has a fresh process answer, which nobody else uses; few at a time, for the sake of memory."""
        acquire(self._places_alone, cancellation)
        try:
            with self._lock:
                self._refuse_closed()
                process = HostProcess(self._settings)
                self._fresh.add(process)
            try:
                return _answered(process, task, body, arrays, cancellation)
            finally:
                process.close()
                with self._lock:
                    self._fresh.discard(process)
        finally:
            self._places_alone.release()

    def _shared(self) -> HostProcess:
        with self._lock:
            self._refuse_closed()
            if self._process is None or not self._process.alive:
                self._process = HostProcess(self._settings)
            return self._process

    def _refuse_closed(self) -> None:
        if self._closed:
            raise OrtoscopeError(
                Code.UNAVAILABLE, "SHUTTING_DOWN", "The server is stopping; call another one, or this one later."
            )


class RemoteSession:
    """A session in another process, used as one in this process is. `run` may be called from several threads at once.

    Args:
        host: Where it is.
        task: What it is there.
        description: What is known of it.

    Attributes:
        config: The configuration, its threads resolved.
        inputs: What `run` must be fed.
        outputs: What `run` returns.
        providers: The execution providers that the session registered, in order of preference.
        parity: How the provider that was asked for compared with the CPU provider; None if that was asked for.
    """

    def __init__(self, host: SessionHost, task: "_Task", description: Description) -> None:
        self._host = host
        self._task = task
        self.config: SessionConfig = description.config
        self.inputs: tuple[TensorInfo, ...] = description.inputs
        self.outputs: tuple[TensorInfo, ...] = description.outputs
        self.providers: tuple[str, ...] = description.providers
        self.parity: ParityReport | None = description.parity

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        cancellation: Cancellation | None = None,
        *,
        keep_memory: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """Computes all outputs, as `sessions.Session.run` does.

        Raises:
            OrtoscopeError: As `sessions.Session.run` raises; UNAVAILABLE: `WORKER_DIED`: the process died, and not for
                lack of memory, which is `OUT_OF_MEMORY`; FAILED_PRECONDITION: `MODEL_KILLS_WORKER`: it did so too
                often to be tried again now.
        """
        checked = check_feeds(feeds, self.inputs)
        return self._host.run(self._task, checked, cancellation or Cancellation(), keep_memory=keep_memory)


@dataclass(frozen=True)
class _Known:
    """A session that was opened once."""

    session: str
    """What it is called in the host: a digest of its graph and configuration."""

    description: Description
    """What it tells."""


@dataclass(frozen=True)
class _Task:
    """A session, and how to make it again."""

    session: str
    """What it is called in the host."""

    config: dict[str, Any]
    """The configuration that is asked for, as JSON."""

    make: Callable[[], bytes]
    """Makes the graph."""

    model: ModelIdentity
    """Whose graph it is."""

    def as_array(self) -> NDArray[np.uint8]:
        """The bytes of the graph."""
        return np.frombuffer(self.make(), np.uint8)


@dataclass
class _Record:
    """How a graph behaved of late."""

    convicted: bool
    """Whether it is certain that it ended a process."""

    calls: int
    """Calls in a row in which it did."""

    at: float
    """When a process last ended with it."""


class _Records:
    """What is held against graphs. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[Hashable, _Record] = {}

    def refuse(self, key: Hashable, model: ModelIdentity) -> None:
        """Refuses a graph that ended its process too often, too lately."""
        with self._lock:
            for old in [key for key, record in self._records.items() if _since(record) > ALONE_SECONDS]:
                del self._records[old]
            record = self._records.get(key)
            if record is None or record.calls < _CALLS or _since(record) > REFUSED_SECONDS:
                return
            seconds = max(1, round(REFUSED_SECONDS - _since(record)))
            calls = record.calls
        raise OrtoscopeError(
            Code.FAILED_PRECONDITION,
            "MODEL_KILLS_WORKER",
            f"Model '{model.name}' ({model.digest}) ended the process that ran it in {calls} calls in a row, and is "
            f"not run like that for another {seconds} s. Look at its inputs, or ask for other taps; the server's log "
            "says how the process ended.",
            metadata={"model": model.name, "digest": model.digest, "calls": str(calls), "retry_seconds": str(seconds)},
        )

    def stays_alone(self, key: Hashable) -> bool:
        """Whether a graph must not run where others do."""
        with self._lock:
            return key in self._records

    def suspect(self, key: Hashable, died: HostDiedError, model: ModelIdentity) -> None:
        """Takes note that a process ended which a graph shared with others."""
        _log.warning("model %s was under way when its process %s", model.name, died.how)
        if died.blame is not False:
            with self._lock:
                record = self._records.setdefault(key, _Record(convicted=False, calls=0, at=0.0))
                record.at = time.monotonic()

    def convict(self, key: Hashable, died: HostDiedError, model: ModelIdentity) -> None:
        """Takes note that a call came to nothing because its process ended."""
        _log.warning("a call of model %s came to nothing: its process %s", model.name, died.how)
        if died.blame is True:
            with self._lock:
                record = self._records.setdefault(key, _Record(convicted=True, calls=0, at=0.0))
                record.convicted = True
                record.calls += 1
                record.at = time.monotonic()

    def acquit(self, key: Hashable) -> None:
        """Takes note that a graph ran alone and ended nothing, which clears it of a mere suspicion."""
        with self._lock:
            record = self._records.get(key)
            if record is None:
                return
            record.calls = 0
            if not record.convicted:
                del self._records[key]


def _since(record: _Record) -> float:
    return time.monotonic() - record.at


def _answered(
    process: HostProcess, task: _Task, body: Mapping[str, Any], arrays: Sequence[Array], cancellation: Cancellation
) -> Message:
    """What a host answers; it is given the graph if it needs it."""
    opening = {**body, "verb": "open", "graph": True}
    if body["verb"] == "open":
        return process.call(opening, [task.as_array()], cancellation)
    answer = process.call(body, arrays, cancellation)
    if not answer.body.get("unknown"):
        return answer
    graph = task.as_array()
    process.call(opening, [graph], cancellation)
    # With the graph, because others may have taken the place of the session since.
    return process.call({**body, "graph": True}, [*arrays, graph], cancellation)


def _died_error(died: HostDiedError, model: ModelIdentity) -> OrtoscopeError:
    metadata = {"model": model.name, "digest": model.digest, "how": died.how}
    if died.exit_code == TOO_MUCH_MEMORY:
        return _memory_error(model)
    return OrtoscopeError(
        Code.UNAVAILABLE,
        "WORKER_DIED",
        f"The process that ran model '{model.name}' {died.how}. Everything else goes on, and a new process is there; "
        "if it happens again, the model cannot be run on this input.",
        metadata=metadata,
    )


def _memory_error(model: ModelIdentity) -> OrtoscopeError:
    return OrtoscopeError(
        Code.RESOURCE_EXHAUSTED,
        "OUT_OF_MEMORY",
        f"Model '{model.name}' needs more memory for this than the server has for it; use a smaller batch or fewer "
        "taps at once.",
        metadata={"model": model.name, "digest": model.digest},
    )


def _failed_error(model: ModelIdentity) -> OrtoscopeError:
    return OrtoscopeError(
        Code.INTERNAL,
        "WORKER_FAILED",
        f"Running model '{model.name}' failed in a way that the server does not expect; its log tells more.",
        metadata={"model": model.name},
    )


def _untold_error(error: OSError, model: ModelIdentity) -> OrtoscopeError:
    """The error for arrays that could not be handed over, or a process that could not be started."""
    if error.errno in {errno.ENOSPC, errno.ENOMEM}:
        return _memory_error(model)
    return OrtoscopeError(
        Code.UNAVAILABLE,
        "WORKER_UNREACHABLE",
        f"The process that runs model '{model.name}' cannot be started or told what to do; try again soon. The "
        "server's limits on processes and open files may be too low.",
        metadata={"model": model.name},
    )
