"""The process that holds the sessions for calls, so that a model which ends its process does not end the service.

    python -P -m ortoscope_service.runtime.session_host CONNECTION MEMORY_BYTES SESSION_MEMORY_BYTES OPENER

It answers the messages of a `remote_sessions.SessionHost` until its connection ends, and then ends at once, whatever
runs just then: a service that was killed leaves nothing behind. Each message is one of

* `open`: make a session of the graph that comes along, unless there is one, and describe it;
* `run`: run a session. Without a graph, the answer is that there is no such session if there is none;
* `cancel`: stop what an earlier message asked for.
"""

import contextlib
import ctypes
import faulthandler
import functools
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from ortoscope_service.errors import Code, OrtoscopeError, error_to_json
from ortoscope_service.runtime.caching import Cache, Made
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.channel import Channel, Message
from ortoscope_service.runtime.descriptions import Description, config_from_json
from ortoscope_service.runtime.host_process import TOO_MUCH_MEMORY
from ortoscope_service.runtime.memory import give_back, limit_data, resident_bytes
from ortoscope_service.runtime.parity import open_session
from ortoscope_service.runtime.sessions import Session, SessionConfig

Array = NDArray[Any]
Opener = Callable[[bytes, SessionConfig, Cancellation], Session]

_CALLS_AT_ONCE = 64
"""Beyond what the service admits at once: a call waits for its turn there, not here."""

_CALL_STACK_BYTES = 8 * 1024**2
"""Of threads that run models: graphs within graphs take some."""

_LIBRARY_STACK_BYTES = 1024**2
_ATTRIBUTES_BYTES = 256
"""More than a `pthread_attr_t` takes anywhere."""

_WATCH_SECONDS = 0.2
_IDLE_SECONDS = 0.5
"""How long nothing must have run before memory that is free is given back: it takes milliseconds, and locks."""

_SHARE_OF_RESULT = 2
"""Outputs of a run may take this part of the memory: they are there twice until they were fetched."""

_FILE_FACTOR = 2
"""A session holds its file's weights, and for many operators a packed copy."""

_log = logging.getLogger(__name__)


class Host:
    """Answers messages.

    Args:
        channel: Where they come from.
        opener: Makes sessions.
        memory_bytes: Most memory of the process; 0 for no limit.
        session_memory_bytes: Most memory that sessions are kept with.
    """

    def __init__(self, channel: Channel, opener: Opener, memory_bytes: int, session_memory_bytes: int) -> None:
        self._channel = channel
        self._opener = opener
        self._memory_bytes = memory_bytes
        self._sessions: Cache[Session] = Cache(session_memory_bytes)
        self._threads = ThreadPoolExecutor(_CALLS_AT_ONCE, "call")
        self._lock = threading.Lock()
        self._calls: dict[int, Cancellation] = {}
        self._untidy = False
        self._idle_since = time.monotonic()

    def serve(self) -> None:
        """Answers until the connection ends."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        self._channel.send({"ready": True})
        while (message := self._channel.receive()) is not None:
            number = message.body["id"]
            if message.body["verb"] == "cancel":
                with self._lock:
                    cancellation = self._calls.get(number)
                if cancellation is not None:
                    cancellation.cancel()
                continue
            with self._lock:
                self._calls[number] = cancellation = Cancellation()
            self._threads.submit(self._answer, message, cancellation)

    def _answer(self, message: Message, cancellation: Cancellation) -> None:
        number = message.body["id"]
        reply: dict[str, Any]
        arrays: list[Array] = []
        try:
            cancellation.raise_if_cancelled()
            reply, arrays = self._perform(message, cancellation)
        except OrtoscopeError as error:
            reply = {"error": error_to_json(error)}
        except MemoryError:
            reply = {"error": error_to_json(_out_of_memory())}
        except Exception:  # noqa: BLE001 - whatever it is, the caller must not wait for ever
            _log.exception("a call failed")
            reply = {"error": None}
        # The references go before the answer does: whoever has it may count on the memory being free.
        message.arrays.clear()
        try:
            self._channel.send({"id": number, **reply}, arrays)
        except OSError:
            _log.warning("a result could not be sent", exc_info=True)
            self._channel.send({"id": number, "error": error_to_json(_out_of_memory())})
        finally:
            arrays.clear()
            with self._lock:
                del self._calls[number]
                self._untidy = True
                self._idle_since = time.monotonic()

    def _perform(self, message: Message, cancellation: Cancellation) -> tuple[dict[str, Any], list[Array]]:
        body = message.body
        key = body["session"]
        session = self._sessions.find(key)
        if session is None:
            if not body["graph"]:
                return {"unknown": True}, []
            graph = message.arrays.pop().tobytes()
            session = self._open(key, graph, config_from_json(body["config"]), cancellation)
        elif body["graph"]:
            message.arrays.pop()
        if body["verb"] == "open":
            return {"description": Description.of(session).to_json()}, []
        feeds = dict(zip(body["feeds"], message.arrays, strict=True))
        outputs = session.run(feeds, cancellation, keep_memory=body["keep_memory"])
        self._refuse_large(sum(value.nbytes for value in outputs.values()))
        return {"outputs": list(outputs)}, list(outputs.values())

    def _open(self, key: str, graph: bytes, config: SessionConfig, cancellation: Cancellation) -> Session:
        expected = _FILE_FACTOR * len(graph)

        def make() -> Made[Session]:
            before = resident_bytes()
            session = self._opener(graph, config, cancellation)
            # Constants that are computed at loading are in no file; other calls beside it may add to the growth,
            # which drops a session early, and no more.
            return Made(session, max(expected, resident_bytes() - before))

        return self._sessions.get(key, make, expected=expected, cancellation=cancellation)

    def _refuse_large(self, size: int) -> None:
        if self._memory_bytes and size > self._memory_bytes // _SHARE_OF_RESULT:
            raise _out_of_memory()

    def _watch(self) -> None:
        """Ends the process if it holds too much, and gives back memory when it has nothing to do."""
        while True:
            time.sleep(_WATCH_SECONDS)
            if self._memory_bytes and resident_bytes() > self._memory_bytes:
                _log.error("the sessions hold more memory than they may")
                os._exit(TOO_MUCH_MEMORY)
            with self._lock:
                idle = not self._calls and time.monotonic() - self._idle_since > _IDLE_SECONDS
                tidy = idle and self._untidy
                if tidy:
                    self._untidy = False
            if tidy:
                give_back()


def main() -> None:
    """Serves the connection that the arguments name, then ends."""
    descriptor, memory, session_memory, opener = sys.argv[1:]
    # A keyboard interrupt goes to the whole group of processes, and is the service's to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    module, _, name = opener.partition(":")
    function: Opener = getattr(importlib.import_module(module), name) if opener else _open_session
    _use_small_stacks()
    if int(memory):
        limit_data(int(memory))
    channel = Channel(socket.socket(fileno=int(descriptor)), writable=False)
    code = 0
    try:
        Host(channel, function, int(memory), int(session_memory)).serve()
    except ConnectionError:
        pass  # the service ended while it was being told something
    except Exception:  # noqa: BLE001 - nobody else would tell
        _log.exception("the session host cannot go on")
        code = 1
    finally:
        os._exit(code)  # threads may be within an operator, for hours


def _use_small_stacks() -> None:
    """Gives threads of libraries small stacks, where the system's C library (glibc) can be told so.

    Every session has threads of its own, and the whole of each stack counts as memory that was promised: at 8 MB each,
    a few sessions on a machine with many cores would exhaust a limit while they hold next to nothing.
    """
    threading.stack_size(_CALL_STACK_BYTES)
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        set_default = library.pthread_setattr_default_np
        library.pthread_attr_init(attributes)
        library.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_LIBRARY_STACK_BYTES))
        set_default(attributes)
        library.pthread_attr_destroy(attributes)


def _open_session(graph: bytes, config: SessionConfig, cancellation: Cancellation) -> Session:
    return open_session(graph, config, make=functools.partial(Session, cancellation=cancellation))


def _out_of_memory() -> OrtoscopeError:
    return OrtoscopeError(
        Code.RESOURCE_EXHAUSTED,
        "OUT_OF_MEMORY",
        "The server's memory does not suffice for this run; use a smaller batch or fewer taps at once.",
    )


if __name__ == "__main__":
    main()
