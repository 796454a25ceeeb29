"""The queue of visualizations: few climb at once, and the others wait in the order in which they came."""

import threading
import time
from collections import deque
from collections.abc import Iterator

from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation

SIGN_OF_LIFE_SECONDS = 5.0
"""How often who waits is told so, though nothing changed."""


class VisualizationQueue:
    """Places for visualizations, given in the order in which they are asked for. Safe to use from several threads.

    Args:
        at_once: Visualizations that have a place at once.
        most_waiting: Most that wait for one.
    """

    def __init__(self, at_once: int, most_waiting: int) -> None:
        self._condition = threading.Condition()
        self._at_once = at_once
        self._most_waiting = most_waiting
        self._working: set[Turn] = set()
        self._waiting: deque[Turn] = deque()

    def enter(self) -> "Turn":
        """Takes a place, or a place in the queue. Whoever does must `leave` again.

        Raises:
            OrtoscopeError: RESOURCE_EXHAUSTED, TOO_MANY_VISUALIZATIONS.
        """
        with self._condition:
            turn = Turn(self)
            if len(self._working) < self._at_once and not self._waiting:
                self._working.add(turn)
            elif len(self._waiting) < self._most_waiting:
                self._waiting.append(turn)
            else:
                raise OrtoscopeError(
                    Code.RESOURCE_EXHAUSTED,
                    "TOO_MANY_VISUALIZATIONS",
                    f"{len(self._waiting)} visualizations are waiting, as many as the limit "
                    "max_waiting_visualizations allows; try again when some are done.",
                    metadata={"max_waiting_visualizations": str(self._most_waiting)},
                )
            return turn

    def _ahead(self, turn: "Turn") -> int:
        """How many are before a turn; 0 for one that has its place."""
        if turn not in self._waiting:
            return 0
        return len(self._working) + self._waiting.index(turn)

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _leave(self, turn: "Turn") -> None:
        with self._condition:
            self._working.discard(turn)
            if turn in self._waiting:
                self._waiting.remove(turn)
            while self._waiting and len(self._working) < self._at_once:
                self._working.add(self._waiting.popleft())
            self._condition.notify_all()


class Turn:
    """A place in the queue; made by `VisualizationQueue.enter`."""

    def __init__(self, queue: VisualizationQueue) -> None:
        self._queue = queue

    def wait(self, cancellation: Cancellation) -> Iterator[int]:
        """Waits until it is this one's turn.

        Yields:
            How many are before it: at once if any are, whenever that changes, and every few seconds.

        Raises:
            OrtoscopeError: CANCELLED or DEADLINE_EXCEEDED.
        """
        queue = self._queue
        told, at = 0, time.monotonic()
        with cancellation.on_cancel(queue._wake):
            while True:
                with queue._condition:
                    while True:
                        cancellation.raise_if_cancelled()
                        ahead = queue._ahead(self)
                        silent = time.monotonic() - at
                        if ahead != told or not ahead or silent >= SIGN_OF_LIFE_SECONDS:
                            break
                        queue._condition.wait(SIGN_OF_LIFE_SECONDS - silent)
                if not ahead:
                    return
                told, at = ahead, time.monotonic()
                yield ahead

    def leave(self) -> None:
        """Gives the place, or the place in the queue, up. Idempotent."""
        self._queue._leave(self)
