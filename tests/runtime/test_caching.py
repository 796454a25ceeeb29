import threading
import time
from collections.abc import Callable

import pytest
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.caching import Cache, Made
from ortoscope_service.runtime.cancellation import Cancellation


def made(value: str, size: int = 1) -> Callable[[], Made[str]]:
    return lambda: Made(value, size)


def fail() -> Made[str]:
    raise AssertionError("nothing was to be made")


def test_a_value_is_made_once() -> None:
    cache: Cache[str] = Cache(8)
    assert cache.get("a", made("first")) == "first"
    assert cache.get("a", fail) == "first"
    assert cache.find("a") == "first"
    assert cache.find("b") is None


def test_the_longest_unused_are_dropped_until_the_rest_is_within_the_budget() -> None:
    cache: Cache[str] = Cache(10)
    for key in ("a", "b", "c"):
        cache.get(key, made(key, 3))
    cache.find("a")
    cache.get("d", made("d", 6))
    assert [cache.find(key) for key in "abcd"] == ["a", None, None, "d"]
    assert cache.size == 9


def test_room_is_made_before_a_value_is() -> None:
    cache: Cache[str] = Cache(10)
    cache.get("a", made("a", 6))
    seen: list[int] = []

    def make() -> Made[str]:
        seen.append(cache.size)
        return Made("b", 7)

    cache.get("b", make, expected=7)
    assert seen == [0]


def test_a_value_larger_than_the_budget_is_handed_out_and_kept_alone() -> None:
    cache: Cache[str] = Cache(10)
    cache.get("small", made("small", 5))
    assert cache.get("large", made("large", 50)) == "large"
    assert cache.get("large", fail) == "large"
    assert cache.find("small") is None
    cache.get("next", made("next", 1))
    assert cache.find("large") is None


def test_it_is_told_when_values_were_dropped() -> None:
    told: list[str] = []
    cache: Cache[str] = Cache(1, lambda: told.append("dropped"))
    cache.get("a", made("a"))
    assert told == []
    cache.get("b", made("b"))
    assert told == ["dropped"]


def test_threads_that_want_the_same_value_wait_for_one_creation() -> None:
    cache: Cache[str] = Cache(8)
    count: list[int] = []
    got: list[str] = []

    def make() -> Made[str]:
        count.append(1)
        time.sleep(0.05)
        return Made("value", 1)

    threads = [threading.Thread(target=lambda: got.append(cache.get("a", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(count) == 1
    assert got == ["value"] * 8


def test_making_one_value_does_not_block_another() -> None:
    cache: Cache[str] = Cache(8)
    release = threading.Event()

    def slow() -> Made[str]:
        release.wait(10)
        return Made("slow", 1)

    thread = threading.Thread(target=cache.get, args=("slow", slow))
    thread.start()
    assert cache.get("quick", made("quick")) == "quick"
    assert cache.find("slow") is None
    release.set()
    thread.join()
    assert cache.find("slow") == "slow"


def test_a_failed_creation_is_tried_again() -> None:
    cache: Cache[str] = Cache(8)
    with pytest.raises(AssertionError):
        cache.get("a", fail)
    assert cache.get("a", made("value")) == "value"


def test_who_waits_for_another_stops_waiting_at_the_deadline_and_makes_nothing() -> None:
    cache: Cache[str] = Cache(8)
    begun, release = threading.Event(), threading.Event()

    def slow() -> Made[str]:
        begun.set()
        release.wait(10)
        raise ValueError("cannot be made")

    def first() -> None:
        with pytest.raises(ValueError, match="cannot be made"):
            cache.get("a", slow)

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(10)
    with pytest.raises(OrtoscopeError) as caught:
        cache.get("a", fail, cancellation=Cancellation(time.monotonic() + 0.1))
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    release.set()
    thread.join()


def test_clearing_forgets() -> None:
    cache: Cache[str] = Cache(8)
    cache.get("a", made("old"))
    cache.clear()
    assert cache.get("a", made("new")) == "new"


def test_a_cache_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Cache(0)
