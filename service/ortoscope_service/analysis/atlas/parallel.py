"""Work in threads whose result does not depend on how many there are.

Work is cut into pieces of fixed size, each piece is computed by one thread, and results are taken in order. Matrix
products inside a piece run on one thread of their own: a library that splits them by itself may add up in another
order when it has more threads.
"""

import contextlib
import importlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ortoscope_service.runtime.cancellation import Cancellation

Progress = Callable[[str, int, int], None]
"""Called with the stage in words, the items done and the items in all."""

Piece = tuple[int, int]
"""First item and the one after the last."""

T = TypeVar("T")


def silent(_stage: str, _done: int, _total: int) -> None:
    """Tells nobody."""


@contextlib.contextmanager
def single_threaded_products() -> Iterator[None]:
    """Keeps matrix products on the thread that asks for them, in the whole process, where threadpoolctl is there."""
    try:
        limits = importlib.import_module("threadpoolctl").threadpool_limits
    except ImportError:
        yield
        return
    with limits(limits=1, user_api="blas"):
        yield


def pieces(count: int, size: int) -> list[Piece]:
    """The numbers from 0 to `count` in pieces of `size`, the last one shorter."""
    return [(start, min(count, start + size)) for start in range(0, count, size)]


class Threads:
    """A few threads; a context, left when they are done.

    Args:
        threads: How many; 1 for the caller's alone.
        cancellation: Heeded between pieces.
    """

    def __init__(self, threads: int, cancellation: Cancellation | None = None) -> None:
        self.count = max(1, threads)
        self._cancellation = cancellation
        self._pool = ThreadPoolExecutor(self.count) if self.count > 1 else None

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, task: Callable[[Piece], T], work: Sequence[Piece]) -> Iterator[T]:
        """The results of pieces of work, in order; no more than two pieces for each thread are under way.

        Raises:
            OrtoscopeError: `CANCELLED` or `DEADLINE_EXCEEDED`.
        """
        if self._pool is None or len(work) < 2:
            for piece in work:
                self._check()
                yield task(piece)
            return
        ahead = 2 * self.count
        futures = deque(self._pool.submit(task, piece) for piece in work[:ahead])
        for index in range(len(work)):
            self._check()
            result = futures.popleft().result()
            if index + ahead < len(work):
                futures.append(self._pool.submit(task, work[index + ahead]))
            yield result

    def run(self, task: Callable[[Piece], None], work: Sequence[Piece]) -> None:
        """Does all the pieces.

        Raises:
            OrtoscopeError: As `map` raises.
        """
        for _ in self.map(task, work):
            pass

    def _check(self) -> None:
        if self._cancellation is not None:
            self._cancellation.raise_if_cancelled()
