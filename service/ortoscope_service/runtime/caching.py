"""Values that are dear to make and hold memory: made once, and kept while there is room."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ortoscope_service.runtime.cancellation import Cancellation

Value = TypeVar("Value")

_PATIENCE_SECONDS = 0.05
"""How often a thread that waits for another looks whether it was cancelled."""


@dataclass(frozen=True)
class Made(Generic[Value]):
    """A value, and what keeping it costs."""

    value: Value
    """The value."""

    size: int
    """What it counts against the budget of the cache, such as the bytes that it holds."""


class Cache(Generic[Value]):
    """Values by key, the most recently used of which are kept. Safe to use from several threads.

    A value that is dropped lives on for those who use it. One that is larger than all the budget is handed out and
    kept alone, until the next one comes.

    Args:
        budget: The most that the values kept may count together, at least 1.
        on_drop: Called after values were dropped, outside of any lock.
    """

    def __init__(self, budget: int, on_drop: Callable[[], None] | None = None) -> None:
        if budget < 1:
            raise ValueError(f"budget is {budget}, must be at least 1")
        self._budget = budget
        self._on_drop = on_drop
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot[Value]] = OrderedDict()

    @property
    def size(self) -> int:
        """What the values kept count together."""
        with self._lock:
            return self._total()

    def find(self, key: Hashable) -> Value | None:
        """The value of this key if it is there, which counts as a use; None if not, or while it is being made."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is None or slot.made is None:
                return None
            self._slots.move_to_end(key)
            return slot.made.value

    def get(
        self,
        key: Hashable,
        make: Callable[[], Made[Value]],
        *,
        expected: int = 0,
        cancellation: Cancellation | None = None,
    ) -> Value:
        """The value of this key; the first caller makes it while further ones for the same key wait.

        Args:
            key: Everything that the value depends on.
            make: Makes the value. If it raises, nothing is kept and the next caller tries again.
            expected: What the value will count, as far as is known: room is made before it is.
            cancellation: Ends the wait for another caller.

        Raises:
            OrtoscopeError: CANCELLED or DEADLINE_EXCEEDED, raised before anything is made; whatever `make` raises.
        """
        cancellation = cancellation or Cancellation()
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        acquire(slot.lock, cancellation)
        try:
            if slot.made is None:
                self._make(key, slot, make, expected)
            assert slot.made is not None
            return slot.made.value
        finally:
            slot.lock.release()

    def clear(self) -> None:
        """Forgets all values."""
        with self._lock:
            self._slots.clear()
        self._dropped(1)

    def _make(self, key: Hashable, slot: "_Slot[Value]", make: Callable[[], Made[Value]], expected: int) -> None:
        self._drop(self._budget - expected, keep=slot)
        try:
            slot.made = make()
        except BaseException:
            with self._lock:
                if self._slots.get(key) is slot:
                    del self._slots[key]
            raise
        self._drop(self._budget, keep=slot)

    def _drop(self, budget: int, keep: "_Slot[Value]") -> None:
        """Drops the longest unused values until the rest is within `budget`, but not that of `keep`."""
        dropped = 0
        with self._lock:
            for key, slot in list(self._slots.items()):
                if self._total() <= budget:
                    break
                if slot is not keep and slot.made is not None:
                    del self._slots[key]
                    dropped += 1
        self._dropped(dropped)

    def _dropped(self, count: int) -> None:
        if count and self._on_drop is not None:
            self._on_drop()

    def _total(self) -> int:
        return sum(slot.made.size for slot in self._slots.values() if slot.made is not None)


class _Slot(Generic[Value]):
    """A place in a `Cache`; its lock is held while its value is made."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: Made[Value] | None = None


def acquire(lock: "threading.Lock | threading.Semaphore", cancellation: Cancellation) -> None:
    """Acquires a lock or a place, unless the caller is cancelled before.

    Raises:
        OrtoscopeError: CANCELLED or DEADLINE_EXCEEDED; the lock is not held then.
    """
    cancellation.raise_if_cancelled()
    while not lock.acquire(timeout=_PATIENCE_SECONDS):
        cancellation.raise_if_cancelled()
    try:
        cancellation.raise_if_cancelled()
    except BaseException:
        lock.release()
        raise
