"""Reading images beside the work on those before them."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from ortoscope_service.analysis.reading import Reader, Series

Indices = NDArray[np.int64]
Load = Callable[[Indices], list[int]]


class Loads:
    """Loads an image as its index times ten, and remembers which ones it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._lock = threading.Lock()

    def __call__(self, batch: Indices) -> list[int]:
        with self._lock:
            self.asked += batch.tolist()
        if 13 in batch:
            raise ValueError("image 13 is damaged")
        return [10 * int(index) for index in batch]


def shard(start: int, stop: int) -> Indices:
    return np.arange(start, stop, dtype=np.int64)


def read(reader: Reader, load: Load, indices: Indices, series: Series | None = None, what: str = "a") -> list[int]:
    """All that is read, in batches of 4."""
    found = []
    for batch, items in reader.read(what, indices, 4, load, ahead=True, series=series):
        assert items == [10 * index for index in batch.tolist()]
        found += items
    return found


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("images", [1, 4, 11])
def test_every_image_is_read_once_and_in_order(ahead: bool, images: int) -> None:
    load = Loads()
    batches = list(Reader().read("a", shard(0, images), 4, load, ahead=ahead))
    assert [item for _, items in batches for item in items] == list(range(0, 10 * images, 10))
    assert sorted(load.asked) == list(range(images))
    assert all(len(batch) == 4 for batch, _ in batches[:-1])


def test_what_was_read_for_the_next_shard_is_not_read_again() -> None:
    reader, load = Reader(), Loads()
    assert len(read(reader, load, shard(0, 6), Series("job", shard(6, 12)))) == 6
    assert read(reader, load, shard(6, 12), Series("job", shard(12, 12))) == list(range(60, 120, 10))
    assert sorted(load.asked) == list(range(12))


@pytest.mark.parametrize(
    ("work", "what", "start"), [("other job", "a", 6), ("job", "other dataset", 6), ("job", "a", 7)]
)
def test_what_was_read_ahead_serves_nothing_else(work: str, what: str, start: int) -> None:
    """Files may have changed before another job, and another shard has other images."""
    reader, load = Reader(), Loads()
    read(reader, load, shard(0, 6), Series("job", shard(6, 12)))
    wanted = shard(start, start + 6)
    assert read(reader, load, wanted, Series(work, wanted[:0]), what) == (10 * wanted).tolist()
    assert load.asked.count(8) == 2


def test_what_is_forgotten_is_read_again() -> None:
    reader, load = Reader(), Loads()
    read(reader, load, shard(0, 6), Series("job", shard(6, 12)))
    reader.forget()
    read(reader, load, shard(6, 12), Series("job", shard(12, 12)))
    assert load.asked.count(6) == 2


@pytest.mark.parametrize("ahead", [True, False])
def test_an_image_that_cannot_be_read_fails_with_its_batch(ahead: bool) -> None:
    batches = Reader().read("a", shard(8, 16), 4, Loads(), ahead=ahead)
    next(batches)
    with pytest.raises(ValueError, match="image 13"):
        next(batches)


def test_a_shard_is_not_disturbed_by_the_next_one_that_cannot_be_read() -> None:
    reader, load = Reader(), Loads()
    assert len(read(reader, load, shard(0, 6), Series("job", shard(12, 16)))) == 6
    with pytest.raises(ValueError, match="image 13"):
        read(reader, load, shard(12, 16), Series("job", shard(16, 16)))
