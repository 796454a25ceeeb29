"""Reads what is wanted of images while something else is computed from those before them."""

import threading
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Series:
    """Says that a shard is one of several that a process works on, one after another."""

    work: str
    """The work that they belong to. What was read ahead for one serves no other, before which files may change."""

    likely_next: Indices
    """(n,) int64, images of the shard that will likely follow in this process; none if none will."""


class Reader:
    """Reads images batch after batch, in threads of its own.

    A process that works on one shard after another would wait for the first batch of each. So with the last batch of a
    shard on its way, the first one of the shard that is likely to follow is read; it is kept until that shard is asked
    for, or another.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="read-ahead")
        self._lock = threading.Lock()
        self._expected: tuple[Hashable, list[Future[list[Any]]]] | None = None

    def read(
        self,
        what: Hashable,
        indices: Indices,
        batch_size: int,
        load: Callable[[Indices], list[Item]],
        *,
        ahead: bool,
        series: Series | None = None,
    ) -> Generator[tuple[Indices, list[Item]]]:
        """Yields each batch of images with what was loaded of them.

        Args:
            what: What is loaded, and of which dataset.
            indices: (images,) int64, the images.
            batch_size: Images that are yielded together.
            load: Loads what is wanted of some images.
            ahead: Whether the next batch is loaded beside the work on the last one. The first one, for which everything
                waits, is loaded by two threads.
            series: What will likely be read next, in the same batches, if anything is known of that.

        Raises:
            OrtoscopeError: What `load` raises, with the batch in which it does.
        """
        batches = _batches(indices, batch_size)
        if not ahead:
            yield from ((batch, load(batch)) for batch in batches)
            return
        series = series or Series("", indices[:0])
        coming = self._expected_for((series.work, what, batches[0].tobytes())) or self._first(batches[0], load)
        for number, batch in enumerate(batches):
            current = [item for part in coming for item in part.result()]
            coming = [self._threads.submit(load, following) for following in batches[number + 1 : number + 2]]
            if number + 1 == len(batches) and len(series.likely_next):
                first = series.likely_next[:batch_size]
                self._expect((series.work, what, first.tobytes()), self._first(first, load))
            yield batch, current

    def forget(self) -> None:
        """Lets go of what was read and never asked for."""
        self._expected_for(None)

    def _first(self, batch: Indices, load: Callable[[Indices], list[Item]]) -> list[Future[list[Item]]]:
        return [self._threads.submit(load, half) for half in np.array_split(batch, 2)]

    def _expect(self, key: Hashable, coming: list[Future[list[Any]]]) -> None:
        with self._lock:
            self._expected = key, coming

    def _expected_for(self, key: Hashable) -> list[Future[list[Any]]]:
        with self._lock:
            expected, self._expected = self._expected, None
        if expected is None or expected[0] != key:
            return []
        return expected[1]


READER = Reader()
"""The one of this process."""


def _batches(indices: Indices, batch_size: int) -> list[Indices]:
    return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
