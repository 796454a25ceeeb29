import threading
import time

import pytest
from ortoscope_service.errors import Code, OrtoscopeError
from ortoscope_service.runtime.cancellation import Cancellation


def test_nothing_happens_until_it_is_cancelled() -> None:
    cancellation = Cancellation()
    assert not cancellation.cancelled
    cancellation.raise_if_cancelled()


@pytest.mark.parametrize("code", [Code.CANCELLED, Code.DEADLINE_EXCEEDED])
def test_cancelled_work_raises_the_code_it_was_cancelled_with(code: Code) -> None:
    cancellation = Cancellation()
    cancellation.cancel(code)
    assert cancellation.cancelled
    with pytest.raises(OrtoscopeError) as caught:
        cancellation.raise_if_cancelled()
    assert (caught.value.code, caught.value.reason) == (code, code.value)


def test_the_first_reason_stays() -> None:
    cancellation = Cancellation()
    cancellation.cancel(Code.DEADLINE_EXCEEDED)
    cancellation.cancel(Code.CANCELLED)
    with pytest.raises(OrtoscopeError) as caught:
        cancellation.raise_if_cancelled()
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_other_codes_are_no_reason() -> None:
    with pytest.raises(ValueError, match="no reason"):
        Cancellation().cancel(Code.INTERNAL)


def test_a_callback_is_called_once_and_only_within_its_context() -> None:
    cancellation = Cancellation()
    calls: list[str] = []
    with cancellation.on_cancel(lambda: calls.append("left")):
        pass
    with cancellation.on_cancel(lambda: calls.append("outer")), cancellation.on_cancel(lambda: calls.append("inner")):
        cancellation.cancel()
        cancellation.cancel()
    assert calls == ["outer", "inner"]


def test_a_callback_registered_too_late_is_called_at_once() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    calls: list[str] = []
    with cancellation.on_cancel(lambda: calls.append("late")):
        assert calls == ["late"]
    assert calls == ["late"]


def test_a_failing_callback_does_not_keep_others_from_being_told(caplog: pytest.LogCaptureFixture) -> None:
    cancellation = Cancellation()
    calls: list[str] = []
    with (
        cancellation.on_cancel(lambda: calls.append(str(1 // 0))),
        cancellation.on_cancel(lambda: calls.append("told")),
    ):
        cancellation.cancel()
    assert calls == ["told"]
    assert "a cancellation callback failed" in caplog.text


def test_a_deadline_is_seen_without_a_thread() -> None:
    threads = threading.active_count()
    cancellation = Cancellation(time.monotonic() + 0.02)
    assert not cancellation.cancelled
    assert threading.active_count() == threads
    time.sleep(0.03)
    with pytest.raises(OrtoscopeError) as caught:
        cancellation.raise_if_cancelled()
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_a_deadline_calls_back_by_itself_and_leaves_no_thread() -> None:
    threads = threading.active_count()
    told = threading.Event()
    with Cancellation(time.monotonic() + 0.02).on_cancel(told.set):
        assert told.wait(5)
    with Cancellation(time.monotonic() + 100).on_cancel(told.set):
        assert threading.active_count() > threads
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() == threads


def test_many_threads_may_cancel_and_register_at_once() -> None:
    cancellation = Cancellation()
    calls: list[int] = []
    barrier = threading.Barrier(16)

    def work(number: int) -> None:
        barrier.wait()
        with cancellation.on_cancel(lambda: calls.append(number)):
            cancellation.cancel()
            while number not in calls:
                time.sleep(0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == list(range(16))
