"""A process of a local worker, as its server sees it: started, given calls, watched and ended.

`ortoscope_service.jobs.worker` is the other side, and tells what travels between them.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from ortoscope_service.jobs.calls import Call, WorkerDiedError
from ortoscope_service.runtime.channel import Channel, ChannelError
from ortoscope_service.runtime.control_groups import MemoryGroups

_START_SECONDS = 60.0
"""How long a process may take to start; much longer than it does on a machine that has other things to do."""

_END_SECONDS = 3.0
"""How long a process may take to end when its connection has ended."""

_log = logging.getLogger(__name__)


class NotBegunError(WorkerDiedError):
    """The process ended before it began with the task."""


@dataclass(frozen=True)
class WorkerLimits:
    """What a worker process may do."""

    memory_bytes: int
    """Most memory that it may allocate; 0: no limit."""

    niceness: int
    """How much lower than this process's its priority is."""

    silence_seconds: float
    """How long it may give no sign of life while it has a task."""

    groups: MemoryGroups | None
    """Where to make a control group for it that has the same limit of memory; None for none."""


class WorkerProcess:
    """A worker process that runs. All methods but `kill` belong to one thread, which must outlive the process.

    Attributes:
        pid: Its number.
        retired: Whether it ends by itself now.

    Raises:
        WorkerDiedError: It cannot be started.
    """

    def __init__(self, limits: WorkerLimits) -> None:
        self.retired = False
        self._out_of_memory = False
        self._silence_seconds = limits.silence_seconds
        try:
            self._socket, other = socket.socketpair()
        except OSError as error:
            raise _not_started() from error
        self._channel = Channel(self._socket)
        command = [
            *(sys.executable, "-P", "-m", "ortoscope_service.jobs.worker", "--channel", str(other.fileno())),
            *("--niceness", str(limits.niceness), "--memory-bytes", str(limits.memory_bytes)),
        ]
        try:
            # A process group of its own: the terminal's signals are for the server.
            self._popen = subprocess.Popen(  # noqa: S603 - the program is this one
                command, stdin=subprocess.DEVNULL, env=_environment(), pass_fds=[other.fileno()], process_group=0
            )
        except OSError as error:
            self._channel.close()
            raise _not_started() from error
        finally:
            other.close()
        self.pid = self._popen.pid
        # The process has loaded little by now, and gets no task before this is done.
        self._group = limits.groups.make(limits.memory_bytes) if limits.groups is not None else None
        if self._group is not None:
            self._group.join(self.pid)

    def wait_until_ready(self) -> None:
        """Waits for it to say that it is ready.

        Raises:
            WorkerDiedError: It ended instead, or said something else.
        """
        if self._receive(_START_SECONDS).get("state") != "ready":
            raise self._nonsense()

    def ask(self, call: Call) -> dict[str, Any]:
        """Has a call done.

        Returns:
            An object that has one of the keys `result` and `raised`.

        Raises:
            NotBegunError: It ended, or was silent for too long, and has not begun with the call.
            WorkerDiedError: The same, but it has begun; or it said what makes no sense.
        """
        began = False
        self._socket.settimeout(self._silence_seconds)
        # If it does not arrive, what is received next says so.
        with contextlib.suppress(OSError):
            self._channel.send({"function": call.function, "arguments": call.arguments})
        while True:
            try:
                said = self._receive(self._silence_seconds)
            except WorkerDiedError as death:
                if began:
                    raise
                raise NotBegunError(death.how, death.exit_code, out_of_memory=death.out_of_memory) from None
            match said.get("state"):
                case "began":
                    began = True
                case "alive":
                    pass
                case "done" if began:
                    self.retired = said.get("retired") is True
                    return self._answer(said.get("answer"))
                case _:
                    raise self._nonsense()

    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def kill(self) -> None:
        """Kills it; any thread may call this."""
        self._popen.kill()

    def end(self) -> int:
        """Ends it: politely, or else by force.

        Returns:
            Its exit code; the number of the signal that ended it as a negative number.
        """
        self._channel.close()
        try:
            exit_code = self._popen.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            exit_code = self._popen.wait()
        if self._group is not None:
            self._out_of_memory = self._group.killed()
            self._group.remove()
            self._group = None
        return exit_code

    def _receive(self, silence_seconds: float) -> dict[str, Any]:
        """What it says next, within so many seconds."""
        self._socket.settimeout(silence_seconds)
        try:
            message = self._channel.receive()
        except (ChannelError, RecursionError):
            raise self._nonsense() from None
        if message is not None:
            if not isinstance(message.body, dict):
                raise self._nonsense()
            return message.body
        if self._is_connected():
            self._popen.kill()
            raise WorkerDiedError(f"did not answer for {silence_seconds:g} seconds and was killed", self.end())
        raise self._death(self.end())

    def _death(self, exit_code: int) -> WorkerDiedError:
        """How it ended by itself, or by others."""
        if exit_code >= 0:
            return WorkerDiedError(f"ended with exit code {exit_code}", exit_code)
        if self._out_of_memory and exit_code == -signal.SIGKILL:
            return WorkerDiedError("was killed because it exceeded its memory", exit_code, out_of_memory=True)
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        return WorkerDiedError(f"was killed by {name}", exit_code)

    def _is_connected(self) -> bool:
        """Whether the other end of the connection is still there."""
        self._socket.settimeout(0)
        try:
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _answer(self, text: object) -> dict[str, Any]:
        try:
            answer = json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not answer.keys() & {"result", "raised"}:
            raise self._nonsense()
        return answer

    def _nonsense(self) -> WorkerDiedError:
        self._popen.kill()
        return WorkerDiedError("gave an answer that makes no sense and was killed", self.end())


def _not_started() -> WorkerDiedError:
    """To be called while the exception is handled that says why; the log gets that."""
    _log.exception("no worker process")
    return WorkerDiedError("could not be started")


def _environment() -> dict[str, str]:
    """The environment in which a process finds the same modules as this one."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100 - "" means this folder
    return {**os.environ, "PYTHONPATH": path, "ORT_DISABLE_TELEMETRY": "1"}
