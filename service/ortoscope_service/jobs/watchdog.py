"""Watches a task from within its own process: for the wish to cancel, for memory, and for signs of life."""

import json
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from ortoscope_service.runtime.cancellation import Cancellation
from ortoscope_service.runtime.memory import resident_bytes

POLL_SECONDS = 0.1
"""How often the watchdog looks: a task is told to stop within this time."""

STUCK_SECONDS = 5.0
"""How long a task may go on after it was told to stop: an operator of a model cannot be interrupted. Then the process
ends."""

ENDED_BY_WATCHDOG = 81
"""Exit code of a process that its watchdog ended."""

OUT_OF_MEMORY, STALLED, STUCK = "OUT_OF_MEMORY", "STALLED", "STUCK"
"""Causes for which it does."""


class Watchdog:
    """A thread that watches the task which runs in its context.

    Args:
        permit: The file whose existence lets the task go on. It is taken away rather than put there to stop the task,
            because that works on a full disk too, and with a store that was deleted.
        cause: Where to say why the process ended, if it must.
        cancellation: What is raised when the permit is gone.
        memory_bytes: Most resident memory of the process; 0 for no limit. The limit on allocations comes first; this
            one is for memory that was promised as other than data, such as mapped files.
        stall_seconds: Longest time between two signs of life.
    """

    def __init__(
        self, permit: Path, cause: Path, cancellation: Cancellation, *, memory_bytes: int, stall_seconds: float
    ) -> None:
        self._permit = permit
        self._cause = cause
        self._cancellation = cancellation
        self._memory_bytes = memory_bytes
        self._stall_seconds = stall_seconds
        self._alive_at = time.monotonic()
        self._told_at: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def alive(self) -> None:
        """Takes note of a sign of life."""
        self._alive_at = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        now = time.monotonic()
        if self._told_at is None:
            if _is_gone(self._permit):
                self._told_at = now
                self._cancellation.cancel()
        elif now - self._told_at > STUCK_SECONDS:
            self._end(STUCK)
        if self._memory_bytes and resident_bytes() > self._memory_bytes:
            self._end(OUT_OF_MEMORY)
        if now - self._alive_at > self._stall_seconds:
            self._end(STALLED)

    def _end(self, cause: str) -> None:
        """Ends the process, whatever its other threads do."""
        try:
            self._cause.write_text(json.dumps({"cause": cause}), encoding="utf-8")
        finally:
            os._exit(ENDED_BY_WATCHDOG)


def _is_gone(permit: Path) -> bool:
    try:
        permit.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # a file system that fails for a moment must not stop days of work
    return False
