"""A session host as the service sees it: started, spoken to by several threads at once, and ended if it must be."""

import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ortoscope_service.errors import error_from_json
from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.channel import Array, Channel, ChannelError, Message

STUCK_SECONDS = 5.0
"""How long a run may go on after it was told to stop. ONNX Runtime heeds that between two operators, not within one."""

STUCK_LOADING_SECONDS = 60.0
"""The same while a session is made: that stops at few places, and a large model's is no reason to end the rest."""

TOO_MUCH_MEMORY = 82
"""Exit code of a host that holds more memory than it may."""

_END_SECONDS = 5.0
_PATIENCE_SECONDS = 0.05
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HostSettings:
    """How a host is started."""

    memory_bytes: int
    """Most memory that it may use; 0 for no limit."""

    session_memory_bytes: int
    """Most memory that sessions are kept with."""

    opener: str = ""
    """What makes sessions there, as module:function; empty for `parity.open_session`."""


class HostDiedError(Exception):
    """The host ended before it answered.

    Args:
        how: In words, to follow "the process": "was killed by SIGSEGV".
        exit_code: Its exit code, negative for a signal; None if it never ran.
        blame: Whether this call ended it: True if it was the only one, or did not stop; None if it is one of several
            that may have; False if it is known that another one did, or that none did.
    """

    def __init__(self, how: str, exit_code: int | None, blame: bool | None) -> None:
        super().__init__(how)
        self.how = how
        self.exit_code = exit_code
        self.blame = blame


class HostFailedError(Exception):
    """The host met a failure that it has no word for; its log tells more."""


class _Call:
    """A message that waits for its answer."""

    def __init__(self) -> None:
        self.told = threading.Event()
        """Set when there is an answer, when there will be none, and when the caller is cancelled."""

        self.over = threading.Event()
        self.answer: Message | None = None
        self.died: HostDiedError | None = None
        self.stuck = False

    def end(self) -> None:
        self.over.set()
        self.told.set()


class HostProcess:
    """A session host. Safe to use from several threads.

    Args:
        settings: How to start it.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, settings: HostSettings) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "ortoscope_service.runtime.session_host", str(theirs.fileno())]
        command += [str(settings.memory_bytes), str(settings.session_memory_bytes), settings.opener]
        try:
            # What it prints goes to the log: the standard output of the service may be a command's result.
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=[theirs.fileno()], env=_environment()
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(ours)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._calls: dict[int, _Call] = {}
        self._ended = False
        self._closing = False
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, name="session host", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it takes calls."""
        return not self._ended

    def call(self, body: Mapping[str, Any], arrays: Sequence[Array], cancellation: Cancellation) -> Message:
        """Sends a message and waits for the answer.

        A call that was cancelled waits for the host to stop working on it; a host that does not is ended.

        Raises:
            OrtoscopeError: What the host answered; CANCELLED or DEADLINE_EXCEEDED.
            HostDiedError: The host ended before it answered.
            HostFailedError: The host failed in a way that it does not expect.
        """
        call = _Call()
        with cancellation.on_cancel(call.told.set):
            self._await_start(cancellation)
            number = self._send(call, body, arrays)
            call.told.wait()
            if not call.over.is_set():
                patience = STUCK_LOADING_SECONDS if body["verb"] == "open" else STUCK_SECONDS
                self._stop(number, call, patience)
        if call.died is not None:
            raise call.died
        assert call.answer is not None
        answer = call.answer.body
        if "error" in answer:
            cancellation.raise_if_cancelled()
            if answer["error"] is None:
                raise HostFailedError
            raise error_from_json(answer["error"])
        return call.answer

    def close(self) -> None:
        """Ends the process, whatever it does; calls that wait for it end with `HostDiedError`."""
        with self._lock:
            self._closing = True
        self._channel.close()
        self._reader.join()

    def _await_start(self, cancellation: Cancellation) -> None:
        """Waits until the host can work, so that it need not be told of what is cancelled by then."""
        while not self._ready.wait(_PATIENCE_SECONDS):
            cancellation.raise_if_cancelled()
        cancellation.raise_if_cancelled()

    def _send(self, call: _Call, body: Mapping[str, Any], arrays: Sequence[Array]) -> int:
        with self._lock:
            if self._ended:
                raise HostDiedError("ended", None, blame=False)
            number = next(self._numbers)
            self._calls[number] = call
        try:
            self._channel.send({"id": number, **body}, arrays)
        except BaseException as error:
            with self._lock:
                self._calls.pop(number, None)
                ended = self._ended or isinstance(error, ConnectionError)
            if ended:
                raise HostDiedError("ended", None, blame=False) from None
            raise
        return number

    def _stop(self, number: int, call: _Call, patience: float) -> None:
        with contextlib.suppress(OSError):  # it ended, and the reader notices
            self._channel.send({"id": number, "verb": "cancel"})
        if call.over.wait(patience):
            return
        with self._lock:
            call.stuck = number in self._calls
        if call.stuck:
            _log.error("a run did not stop within %g s after it was told to; its process is killed", patience)
            self._process.kill()
        call.over.wait()

    def _read(self) -> None:
        """Hands out answers until the host ends."""
        try:
            while self._hear():
                pass
        except (ChannelError, KeyError, TypeError, AttributeError):
            _log.exception("the session host sent what is no answer; it is ended")
            self._process.kill()
        self._finish()

    def _hear(self) -> bool:
        """Hands out an answer, of which nothing is kept here: it may be large. False when the host ended."""
        message = self._channel.receive()
        if message is None:
            return False
        if message.body.get("ready"):
            self._ready.set()
            return True
        with self._lock:
            call = self._calls.pop(message.body["id"], None)
        if call is not None:
            call.answer = message
            call.end()
        return True

    def _finish(self) -> None:
        """Ends the process, if it does not itself, and tells all who wait."""
        with self._lock:
            self._ended = True
            closing = self._closing
        if closing:
            self._process.kill()
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        started = self._ready.is_set()
        with self._lock:
            waiting = list(self._calls.values())
            self._calls.clear()
            stuck = any(call.stuck for call in waiting)
        how = "did not stop when it was told to, and was killed" if stuck else _how(code)
        self._channel.close()
        self._ready.set()
        if not closing:
            _log.error("the session host %s, with %d calls under way", how, len(waiting))
        for call in waiting:
            blame: bool | None = None
            if closing or not started or (stuck and not call.stuck):
                blame = False
            elif call.stuck or len(waiting) == 1:
                blame = True
            call.died = HostDiedError(how, code, blame)
            call.end()


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code == TOO_MUCH_MEMORY:
        return "used more memory than it may"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (", which is what a system short of memory does" if name == "SIGKILL" else "")


_MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""glibc keeps what was freed, for the next run, in one place; the host gives it back when it has nothing to do."""


def _environment() -> dict[str, str]:
    """That of this process, with the same modules to be found."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, **_MALLOC, "ORT_DISABLE_TELEMETRY": "1", "PYTHONPATH": paths}
