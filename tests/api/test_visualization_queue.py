"""The queue of visualizations: order, places, and what those who wait are told."""

import threading
import time
from collections.abc import Callable

import pytest
from ortoscope_service.api.visualization_events import Work
from ortoscope_service.api.visualization_queue import VisualizationQueue
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation


def test_who_comes_first_is_first_and_hears_how_many_are_before() -> None:
    queue = VisualizationQueue(1, 10)
    turns = [queue.enter() for _ in range(4)]
    assert list(turns[0].wait(Cancellation())) == []
    waiting = [turn.wait(Cancellation()) for turn in turns[1:]]
    assert [next(told) for told in waiting] == [1, 2, 3]
    turns[0].leave()
    assert next(waiting[0], None) is None
    assert [next(told) for told in waiting[1:]] == [1, 2]
    turns[2].leave()  # gave up
    assert next(waiting[2]) == 1
    turns[1].leave()
    assert next(waiting[2], None) is None


def test_as_many_as_allowed_work_at_once() -> None:
    queue = VisualizationQueue(2, 10)
    turns = [queue.enter() for _ in range(3)]
    assert [list(turn.wait(Cancellation())) for turn in turns[:2]] == [[], []]
    waiting = turns[2].wait(Cancellation())
    assert next(waiting) == 2
    turns[1].leave()
    turns[1].leave()  # twice does no harm
    assert next(waiting, None) is None
    assert next(queue.enter().wait(Cancellation())) == 2


def test_too_many_are_refused_until_one_has_gone() -> None:
    queue = VisualizationQueue(1, 1)
    working, waiting = queue.enter(), queue.enter()
    with pytest.raises(OrtoscopeError, match="max_waiting_visualizations") as caught:
        queue.enter()
    assert (caught.value.code, caught.value.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_MANY_VISUALIZATIONS")
    waiting.leave()
    queue.enter()
    working.leave()


def test_who_is_cancelled_stops_waiting_at_once() -> None:
    queue, cancellation = VisualizationQueue(1, 10), Cancellation()
    queue.enter()
    waiting = queue.enter().wait(cancellation)
    next(waiting)
    threading.Timer(0.05, cancellation.cancel).start()
    began = time.monotonic()
    with pytest.raises(OrtoscopeError) as caught:
        next(waiting)
    assert caught.value.code is Code.CANCELLED
    assert time.monotonic() - began < 1


def test_work_tells_in_order_and_then_gives_its_result() -> None:
    def do(tell: Callable[[int, int], None]) -> str:
        for number in range(100):
            tell(number, 1)
        return "done"

    work: Work[int, str] = Work(do)
    work.start()
    assert list(work.events()) == list(range(100))
    assert work.result() == "done"


def test_what_nobody_fetched_gives_way_to_what_is_newer() -> None:
    def do(tell: Callable[[int, int], None]) -> str:
        for number in range(50):
            tell(number, 10)
        return "done"

    few: Work[int, str] = Work(do, most_events=4)
    small: Work[int, str] = Work(do, most_bytes=25)
    tiny: Work[int, str] = Work(do, most_bytes=5)
    for work, expected in ((few, [46, 47, 48, 49]), (small, [48, 49]), (tiny, [49])):
        work.start()
        work.join()
        assert list(work.events()) == expected


def test_an_error_of_the_work_is_raised_where_its_result_is_asked_for() -> None:
    def do(tell: Callable[[int, int], None]) -> str:
        tell(1, 0)
        raise ValueError("broken")

    work: Work[int, str] = Work(do)
    work.start()
    assert list(work.events()) == [1]
    with pytest.raises(ValueError, match="broken"):
        work.result()
