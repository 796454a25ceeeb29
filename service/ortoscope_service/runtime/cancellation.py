"""Cancellation: one flag that a caller, a deadline or a shutdown raises and that running work heeds."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from ortoscope_service.errors import Code, OrtoscopeError

_log = logging.getLogger(__name__)

_MESSAGES = {
    Code.CANCELLED: "The call was cancelled before it was done.",
    Code.DEADLINE_EXCEEDED: "The deadline passed before the work was done; allow more time or ask for less.",
}


class Cancellation:
    """A one-way flag, safe to share between threads.

    Args:
        deadline: The moment, on `time.monotonic()`'s clock, at which the flag raises itself with DEADLINE_EXCEEDED.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline = deadline
        self._lock = threading.Lock()
        self._code: Code | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._registrations = 0

    @property
    def cancelled(self) -> bool:
        """Whether the flag is up."""
        if self._code is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.cancel(Code.DEADLINE_EXCEEDED)
        return self._code is not None

    def cancel(self, code: Code = Code.CANCELLED) -> None:
        """Raises the flag and calls what is registered with `on_cancel`; only the first call has an effect.

        Args:
            code: CANCELLED or DEADLINE_EXCEEDED.

        Raises:
            ValueError: `code` is neither.
        """
        if code not in _MESSAGES:
            raise ValueError(f"{code} is no reason to cancel")
        with self._lock:
            if self._code is not None:
                return
            self._code = code
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            _call(callback)

    def raise_if_cancelled(self) -> None:
        """Does nothing while the flag is down.

        Raises:
            OrtoscopeError: The flag is up; its code is the one given to `cancel`, its reason the code's name.
        """
        if self.cancelled:
            code = self._code
            assert code is not None
            raise OrtoscopeError(code, code.value, _MESSAGES[code])

    @contextlib.contextmanager
    def on_cancel(self, callback: Callable[[], None]) -> Iterator[None]:
        """Calls `callback` once if the flag is raised within the context, or at once if it is up already.

        The callback runs in the thread that cancels (at a deadline: in a thread of its own) and must be quick. It may
        still be running for a moment after the context was left.
        """
        with self._lock:
            up = self._code is not None
            self._registrations += 1
            registration = self._registrations
            if not up:
                self._callbacks[registration] = callback
        if up:
            _call(callback)
        timer = self._start_timer()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._callbacks.pop(registration, None)

    def _start_timer(self) -> threading.Timer | None:
        if self._deadline is None or self._code is not None:
            return None
        timer = threading.Timer(
            max(0.0, self._deadline - time.monotonic()), self.cancel, kwargs={"code": Code.DEADLINE_EXCEEDED}
        )
        timer.daemon = True
        timer.start()
        return timer


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001 - one bad callback must not keep the others from being told
        _log.exception("a cancellation callback failed")
