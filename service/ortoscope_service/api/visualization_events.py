"""What a thread that works tells another one that passes it on."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Event = TypeVar("Event")
Result = TypeVar("Result")


class Work(Generic[Event, Result]):
    """Work in a thread of its own, and what it tells on its way.

    Whoever tells never waits: what nobody fetched in time gives way to what is newer, the oldest first.

    Args:
        do: The work; it is given the function that tells something, with its size in bytes.
        most_events: Most events that wait to be fetched.
        most_bytes: Most bytes of events that wait, but one waits however large.
    """

    def __init__(
        self,
        do: Callable[[Callable[[Event, int], None]], Result],
        most_events: int = 256,
        most_bytes: int = 128 * 1024**2,
    ) -> None:
        self._do = do
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._condition = threading.Condition()
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._result: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="visualization", daemon=True)

    def start(self) -> None:
        """Begins the work."""
        self._thread.start()

    def events(self) -> Iterator[Event]:
        """What is told, until the work is done."""
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._events or self.ended)
                if not self._events:
                    return
                event, size = self._events.popleft()
                self._bytes -= size
            yield event

    def result(self) -> Result:
        """What came of the work, when it is done.

        Raises:
            Exception: Whatever the work raised.
        """
        with self._condition:
            self._condition.wait_for(lambda: self.ended)
        if self._error is not None:
            raise self._error
        return self._result[0]

    def join(self) -> None:
        """Waits for the end of the work."""
        self._thread.join()

    @property
    def ended(self) -> bool:
        """Whether the work is done, well or not."""
        return bool(self._result) or self._error is not None

    def _tell(self, event: Event, size: int = 0) -> None:
        with self._condition:
            self._events.append((event, size))
            self._bytes += size
            while len(self._events) > 1 and (len(self._events) > self._most_events or self._bytes > self._most_bytes):
                _, dropped = self._events.popleft()
                self._bytes -= dropped
            self._condition.notify_all()

    def _run(self) -> None:
        try:
            result = self._do(self._tell)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            with self._condition:
                self._error = error
                self._condition.notify_all()
        else:
            with self._condition:
                self._result.append(result)
                self._condition.notify_all()
