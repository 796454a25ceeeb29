"""Asking again while a server does not answer, because it restarts, for example."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ortoscope.durations import in_words
from ortoscope.errors import Cancelled, DeadlineExceeded, OrtoscopeError, ResourceExhausted, Unavailable

T = TypeVar("T")

GIVE_UP_AFTER = 600.0
"""Seconds without an answer after which waiting ends: longer than a server takes to be moved to another machine."""

_FIRST_PAUSE_SECONDS = 0.25
_LAST_PAUSE_SECONDS = 5.0
"""Pauses between two attempts: short at first, since most restarts are."""


@dataclass(frozen=True)
class Patience:
    """How long a server that does not answer is asked again. Only for calls that may be made twice."""

    target: str
    """The server as the user named it."""

    give_up_after: float = GIVE_UP_AFTER
    """Seconds without an answer after which the last error is raised; 0: a call is made once."""

    def ask(self, call: Callable[[], T], tell: Callable[[str], None], *, until: float | None = None) -> T:
        """Makes a call until it is answered, by a result or by an error that says something about it.

        Args:
            call: The call.
            tell: Told in words, once, that there is no answer.
            until: The moment on the clock of `time.monotonic` at which to give up in any case.

        Raises:
            OrtoscopeError: What the call raises, if that is an answer.
            Unavailable: SERVER_UNREACHABLE: there was no answer for too long.
        """
        pause, silent_since = _FIRST_PAUSE_SECONDS, 0.0
        while True:
            try:
                return call()
            except OrtoscopeError as error:
                if not _is_silence(error) or not self.give_up_after:
                    raise
                now = time.monotonic()
                if not silent_since:
                    silent_since = now
                    tell(f"no answer from {self.target}, asking again")
                left = silent_since + self.give_up_after - now
                if until is not None:
                    left = min(left, until - now)
                if left <= 0:
                    raise self._given_up(now - silent_since, error) from None
            time.sleep(min(pause, left))
            pause = min(pause * 1.6, _LAST_PAUSE_SECONDS)

    def _given_up(self, seconds: float, error: OrtoscopeError) -> Unavailable:
        return Unavailable(
            f"{self.target} did not answer for {in_words(seconds)}. {error.message}",
            reason="SERVER_UNREACHABLE",
            metadata={**error.metadata, "target": self.target},
        )


def _is_silence(error: OrtoscopeError) -> bool:
    """Whether an error says nothing of the call: the server is away, stops, hangs or is crowded."""
    if isinstance(error, ResourceExhausted):
        return error.reason == "TOO_MANY_CALLS"
    return isinstance(error, (Unavailable, DeadlineExceeded, Cancelled))
