"""The process of a local worker: takes tasks from its server, does one at a time, and sends what came of it.

The server starts it with one end of a connection (see `ortoscope_service.jobs.pool`). On it travel, as JSON:

1. to the server: `{"state": "ready"}`, once;
2. to the worker: `{"function": "MODULE:NAME", "arguments": "JSON"}`, when it has nothing to do;
3. to the server: `{"state": "began"}`, before the function is called, then `{"state": "alive"}` every now and then;
4. to the server: `{"state": "done", "answer": "JSON", "retired": false}`, and on with 2.

The end of the connection is the end of the worker, whatever it does: the server is gone, or does not want it any more.
"""

import argparse
import contextlib
import ctypes
import faulthandler
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ortoscope_service.jobs.calls import call_function
from ortoscope_service.runtime.memory import limit_data

if TYPE_CHECKING:
    from ortoscope_service.runtime.channel import Channel

BEAT_SECONDS = 1.0
"""How often a worker that is busy gives a sign of life: it shows that the process runs and executes Python."""

_OOM_SCORE = 500
"""Added to the badness by which the kernel chooses whom to kill when memory runs out: a worker, not its server."""

_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl."""

_retiring = threading.Event()


def retire() -> None:
    """Lets the process of this worker end when the task that calls this is done; a new one takes its place.

    For tasks that leave the process in a state which the next one should not inherit. The task itself ends as usual.
    Workers of a cluster heed it too.
    """
    _retiring.set()


def is_retiring() -> bool:
    """Whether a task asked for the end of this process."""
    return _retiring.is_set()


def die_with_parent() -> None:
    """Lets the kernel kill this process when the thread ends that started it (Linux)."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Is a worker until its server ends the connection, or a task asks for the end.

    Args:
        arguments: The command line; None for that of this process.
    """
    parser = argparse.ArgumentParser(prog="ortoscope-worker")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the connection with the server")
    parser.add_argument("--niceness", type=int, default=0, help="how much lower than the server's its priority is")
    parser.add_argument("--memory-bytes", type=int, default=0, help="limit of allocated memory; 0: none")
    options = parser.parse_args(arguments)

    _prepare(options.niceness, options.memory_bytes)
    # Brings numpy, whose threads would not get the priority if they were started before it is set.
    from ortoscope_service.runtime.channel import Channel  # noqa: PLC0415

    _serve(Channel(socket.socket(fileno=options.channel)))
    logging.shutdown()
    # Nothing of a worker's needs to be tidied up, and libraries whose threads still run may hang in the attempt.
    os._exit(0)


def _prepare(niceness: int, memory_bytes: int) -> None:
    """Makes this process one that harms neither its server nor the machine."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C means the server, which ends its workers
    os.nice(niceness)
    if memory_bytes:
        limit_data(memory_bytes)
    if sys.platform == "linux":
        # In case that the end of the connection goes unnoticed: the process is stopped, or a library does not let
        # Python run. The server's thread that started this process outlives it.
        die_with_parent()
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # what libraries print belongs to the log
    with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
        faulthandler.enable()
    logging.basicConfig(format=f"%(asctime)s %(levelname)s worker {os.getpid()} %(name)s: %(message)s")
    logging.getLogger("ortoscope_service").setLevel(logging.INFO)


def _serve(channel: "Channel") -> None:
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_receive, args=(channel, tasks), name="receiver", daemon=True).start()
    threading.Thread(target=_beat, args=(channel, busy), name="heart", daemon=True).start()
    with contextlib.suppress(OSError):  # the server is gone
        channel.send({"state": "ready"})
        while not _retiring.is_set():
            task = tasks.get()
            channel.send({"state": "began"})
            busy.set()
            answer = call_function(task["function"], task["arguments"])
            busy.clear()
            channel.send({"state": "done", "answer": answer, "retired": _retiring.is_set()})


def _receive(channel: "Channel", tasks: "queue.SimpleQueue[dict[str, Any]]") -> None:
    while (message := channel.receive()) is not None:
        tasks.put(message.body)
    os._exit(0)


def _beat(channel: "Channel", busy: threading.Event) -> None:
    with contextlib.suppress(OSError):  # the receiver sees that as well, and ends the process
        while busy.wait():
            with contextlib.suppress(MemoryError):  # the task has it all; it is alive nevertheless
                channel.send({"state": "alive"})
            time.sleep(BEAT_SECONDS)


if __name__ == "__main__":
    # Tasks import this module by its name, and must find the one that runs.
    from ortoscope_service.jobs.worker import main as main_of_the_module

    main_of_the_module()
